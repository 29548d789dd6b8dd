//! How a command ends when it does not end well.

use std::io::{ErrorKind, Write as _};
use std::path::Path;

use proto_core::api::ErrorBody;

use crate::next;

/// Nothing wrong.
pub(crate) const OK: u8 = 0;
/// The daemon cannot be reached, or failed.
pub(crate) const DAEMON: u8 = 1;
/// The command line, the manifest or another file of the operator is wrong.
pub(crate) const USAGE: u8 = 2;
/// Refused; nothing was changed.
pub(crate) const REFUSED: u8 = 3;
/// Interrupted; it can be resumed.
pub(crate) const INTERRUPTED: u8 = 5;
/// Nobody said how it ended.
pub(crate) const UNKNOWN: u8 = 6;

/// Why a command did not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// To be printed.
    Error {
        /// What.
        error: ErrorBody,
        /// With this exit code.
        exit: u8,
    },
    /// Printed already.
    Printed {
        /// The exit code.
        exit: u8,
    },
    /// Whoever reads standard output has had enough.
    Closed,
}

impl Failure {
    pub(crate) fn new(exit: u8, error: ErrorBody) -> Self {
        Self::Error { error, exit }
    }

    /// The file is not there or cannot be read or written.
    pub(crate) fn file(verb: &str, path: &Path, error: &std::io::Error) -> Self {
        let message = format!("cannot {verb} {}: {error}", path.display());
        let next = match error.kind() {
            ErrorKind::StorageFull => format!("df -h {}", path.display()),
            // What there is instead.
            _ => format!("ls -la {}", next::quoted(&nearest(path, error).to_string_lossy())),
        };
        Self::new(USAGE, ErrorBody::new("FILE_UNREADABLE", message).next(next))
    }

    /// Prints what is to be printed; the exit code.
    pub(crate) fn report(&self, json: bool) -> u8 {
        match self {
            Self::Error { error, exit } => {
                if json {
                    let mut document = serde_json::json!({ "error": error });
                    next::tell(&mut document);
                    // Nobody may be left to read it; the exit code says it too.
                    _ = writeln!(std::io::stdout(), "{document}");
                }
                print(error);
                *exit
            }
            Self::Printed { exit } => *exit,
            Self::Closed => OK,
        }
    }
}

/// What to look at where a path leads nowhere: itself if it is there, otherwise the directory above it that is.
fn nearest<'a>(path: &'a Path, error: &std::io::Error) -> &'a Path {
    let mut there = path;
    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) {
        while !there.is_dir() {
            match there.parent() {
                Some(above) if above != Path::new("") => there = above,
                _ => return Path::new("."),
            }
        }
    }
    there
}

/// Prints an error for people, to standard error.
pub(crate) fn print(error: &ErrorBody) {
    // There is nowhere left to say that standard error is closed.
    _ = write!(std::io::stderr(), "{}", text(error));
}

/// An error for people: code, sentence, the instance's last words, the next command.
pub(crate) fn text(error: &ErrorBody) -> String {
    let mut out = format!("error[{}]: {}\n", error.code, error.message);
    for line in &error.logs {
        out += &format!("    {line}\n");
    }
    if let Some(command) = &error.next {
        out += &next::line(command);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_its_code_the_last_log_lines_and_the_next_command() {
        let mut error =
            ErrorBody::new("NOT_READY", "web-0 did not become ready").next("ployzctl logs a/web");
        error.logs = vec!["boom".to_owned()];
        assert_eq!(
            text(&error),
            "error[NOT_READY]: web-0 did not become ready\n    boom\nnext: ployzctl logs a/web\n"
        );
    }
}
