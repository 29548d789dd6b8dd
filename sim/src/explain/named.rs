//! What a violation names: its operations and machines.

use std::collections::BTreeSet;

use proto_core::id::OperationId;

use super::Told;
use crate::story::machine_name;
use crate::trace::Line;

/// The operations and machines that a sentence names.
pub(super) struct Named {
    pub(super) operations: BTreeSet<OperationId>,
    pub(super) machines: BTreeSet<usize>,
}

impl Named {
    pub(super) fn by(what: &str, told: &Told) -> Self {
        let operations = told.spans.iter().filter_map(|span| span.operation.clone());
        let operations = operations.filter(|id| what.contains(&id.to_string())).collect();
        let words = || what.split(|c: char| !c.is_alphanumeric());
        let machines =
            (0..told.nodes).filter(|machine| words().any(|word| word == machine_name(*machine)));
        Self { operations, machines: machines.collect() }
    }

    /// Whether a line is about what is named; every line is if nothing is.
    pub(super) fn holds(&self, line: &Line) -> bool {
        if self.operations.is_empty() && self.machines.is_empty() {
            return true;
        }
        let mut place = [line.node, line.peer].into_iter().flatten();
        place.any(|machine| self.machines.contains(&machine))
            || line.operation.as_ref().is_some_and(|id| self.operations.contains(id))
    }

    pub(super) fn in_words(&self) -> String {
        let operations = self.operations.iter().map(ToString::to_string);
        let machines = self.machines.iter().map(|machine| machine_name(*machine));
        let names: Vec<_> = operations.chain(machines).collect();
        if names.is_empty() { String::new() } else { format!(" about {}", names.join(", ")) }
    }
}
