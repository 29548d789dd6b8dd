//! `--plant`: the bugs that a story is played with.

use clap::Args;
use proto_core::mutant::Mutant;
use sim::measure::{name, with_planted};

/// Bugs that are planted while something is played.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Plant {
    /// Plants these bugs, as `mutants` names them, with commas between them. Only in a build with `--features mutants`.
    #[arg(long, value_delimiter = ',', value_parser = parse, value_name = "BUG")]
    plant: Vec<Mutant>,
}

impl Plant {
    pub(crate) fn these(planted: &[Mutant]) -> Self {
        Self { plant: planted.to_vec() }
    }

    pub(crate) fn bugs(&self) -> Vec<Mutant> {
        self.plant.clone()
    }

    /// Nothing is planted.
    pub(crate) fn is_empty(&self) -> bool {
        self.plant.is_empty()
    }

    /// Does it with the bugs planted.
    pub(crate) fn around<T>(&self, body: impl FnOnce() -> T) -> T {
        with_planted(&self.plant, body)
    }

    /// What has to be typed for the same bugs, behind a command.
    pub(crate) fn words(&self) -> String {
        let names: Vec<_> = self.plant.iter().map(|mutant| name(&[*mutant])).collect();
        if names.is_empty() { String::new() } else { format!(" --plant {}", names.join(",")) }
    }
}

fn parse(text: &str) -> Result<Mutant, String> {
    if !cfg!(feature = "mutants") {
        return Err(super::NO_BUGS.to_owned());
    }
    let found = Mutant::ALL.into_iter().find(|(_, name)| *name == text);
    let all = || Mutant::ALL.map(|(_, name)| name).join(", ");
    found
        .map(|(mutant, _)| mutant)
        .ok_or_else(|| format!("there is no such bug; there are {}", all()))
}
