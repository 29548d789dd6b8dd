//! The commands of `ployz-sim`, a file each.

/// A line on standard output. A reader that has seen enough, as `head` does, ends nothing: what breaks is still saved.
macro_rules! say {
    ($($what:tt)*) => { $crate::cli::line(format_args!($($what)*)) };
}
pub(crate) use say;

pub(crate) mod enumerate;
pub(crate) mod explain;
pub(crate) mod idle;
pub(crate) mod json;
pub(crate) mod mutants;
pub(crate) mod plant;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod saved;
pub(crate) mod shrink;
pub(crate) mod sweep;

use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use sim::figures::write_between;
pub(crate) use sim::figures::{around, cpu_seconds, peak_memory};

pub(crate) fn line(what: std::fmt::Arguments<'_>) {
    if let Err(error) = writeln!(std::io::stdout().lock(), "{what}")
        && error.kind() != ErrorKind::BrokenPipe
        && !UNWRITTEN.swap(true, Ordering::Relaxed)
    {
        eprintln!("ployz-sim: the output cannot be written: {error}");
    }
}

/// Something of the output could not be written, which was said once.
static UNWRITTEN: AtomicBool = AtomicBool::new(false);

/// Whether all of the output could be written, or its reader had seen enough.
pub(crate) fn is_written() -> bool {
    !UNWRITTEN.load(Ordering::Relaxed)
}

/// Puts what was measured between the marks of a page. Where something was wrong the page stays as it is: what it says held once.
pub(crate) fn write_if(
    good: bool,
    page: &Path,
    mark: &str,
    lines: &[String],
) -> Result<(), String> {
    if good {
        return write_between(page, mark, lines);
    }
    eprintln!(
        "ployz-sim: {} is left as it was: figures go there only when all went well, and nothing was planted",
        page.display()
    );
    Ok(())
}

/// Something beside the result: on standard error where the result is JSON.
pub(crate) fn aside(json: bool, text: &str) {
    if json {
        eprintln!("{text}");
    } else {
        say!("{text}");
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
    again(&format!("replay {}{}", word(&saved.display().to_string()), plant.words()))
}

/// This program with these arguments, to be typed where it was.
pub(crate) fn again(arguments: &str) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "ployz-sim".to_owned());
    format!("{} {arguments}", word(&program))
}

/// A word as a shell takes it.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_a_space_in_its_name_is_one_word() {
        let again = replay_of(Path::new("a b/it's.json"), &plant::Plant::default());
        assert!(again.ends_with(r" replay 'a b/it'\''s.json'"), "{again}");
        assert_eq!(word("sim-failures/s6-seed-3.json"), "sim-failures/s6-seed-3.json");
    }
}
