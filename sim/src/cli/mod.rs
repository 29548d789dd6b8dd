//! The commands of `ployz-sim`, a file each.

/// A line on standard output. A reader that has seen enough, as `head` does, ends nothing: what breaks is still saved.
macro_rules! say {
    ($($what:tt)*) => { $crate::cli::line(format_args!($($what)*)) };
}
pub(crate) use say;

pub(crate) mod enumerate;
pub(crate) mod explain;
pub(crate) mod idle;
pub(crate) mod mutants;
pub(crate) mod plant;
pub(crate) mod run;
pub(crate) mod saved;
pub(crate) mod sweep;

use std::io::{ErrorKind, Write as _};
use std::path::Path;

pub(crate) use sim::figures::{around, cpu_seconds, peak_memory, write_between};

pub(crate) fn line(what: std::fmt::Arguments<'_>) {
    if let Err(error) = writeln!(std::io::stdout().lock(), "{what}")
        && error.kind() != ErrorKind::BrokenPipe
    {
        eprintln!("ployz-sim: the output cannot be written: {error}");
    }
}

/// How many threads, as an argument.
pub(crate) fn parse_threads(text: &str) -> Result<usize, String> {
    let threads = text.parse().ok().filter(|threads| (1..=256).contains(threads));
    threads.ok_or_else(|| format!("{text:?} is no number of threads: 1 to 256"))
}

/// Why a build without the feature plants nothing.
pub(crate) const NO_BUGS: &str =
    "this build has no bugs to plant: build it with `--features mutants`";

/// The command that shows a saved run again, to be typed where this one was.
pub(crate) fn replay_of(saved: &Path, plant: &plant::Plant) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "ployz-sim".to_owned());
    format!("{program} replay {}{}", saved.display(), plant.words())
}
