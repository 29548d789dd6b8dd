use bollard::errors::Error;
use proto_core::runtime::{InstanceSpec, RuntimeError};

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It did not happen, and never will.
    Failed(RuntimeError),
    /// The answer was lost.
    Unknown,
}

pub(super) type Answer<T> = Result<T, Trouble>;

pub(super) fn other(text: &str) -> RuntimeError {
    RuntimeError::Other { detail: text.to_owned() }
}

pub(super) fn unavailable(text: &str) -> Trouble {
    Trouble::Failed(RuntimeError::Unavailable { detail: text.to_owned() })
}

/// The status that the engine answered with, if it answered.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// The trouble behind an error of a request that changes nothing.
#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
pub(super) fn looking(error: Error) -> Trouble {
    match &error {
        Error::DockerResponseServerError { message, .. } => Trouble::Failed(other(message)),
        error => unavailable(&chain(error)),
    }
}

/// The trouble behind an error of a request that changes something; `reason` reads status and text of the engine's own error.
#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
pub(super) fn mutating(error: Error, reason: impl FnOnce(u16, &str) -> RuntimeError) -> Trouble {
    match &error {
        Error::DockerResponseServerError { status_code, message } => {
            Trouble::Failed(reason(*status_code, message))
        }
        Error::SocketNotFoundError(_) => unavailable(&chain(&error)),
        Error::HyperLegacyError { err } if err.is_connect() => unavailable(&chain(&error)),
        _ => Trouble::Unknown,
    }
}

/// Why a container could not be made.
pub(super) fn of_create(spec: &InstanceSpec, status: u16, text: &str) -> RuntimeError {
    match status {
        404 if text.contains("image") => {
            RuntimeError::ImageMissing { image: spec.workload.image.clone() }
        }
        409 => RuntimeError::NameTaken { instance: spec.name.clone() },
        400 => RuntimeError::CannotRun { detail: text.to_owned() },
        _ => of_start(text),
    }
}

/// Why a container could not be started. The engine has no codes for it, only texts.
pub(super) fn of_start(text: &str) -> RuntimeError {
    const PORT: [&str; 2] = ["port is already allocated", "bind: address already in use"];
    const DISK: [&str; 2] = ["no space left on device", "disk quota exceeded"];
    const RUN: [&str; 8] = [
        "executable file not found",
        "exec format error",
        "permission denied",
        "no such file or directory",
        "is a directory",
        "unable to find user",
        "no matching entries in",
        "unknown capability",
    ];
    let says = |texts: &[&str]| texts.iter().any(|part| text.contains(part));
    let detail = text.to_owned();
    if says(&PORT) {
        RuntimeError::PortInUse { detail }
    } else if says(&DISK) {
        RuntimeError::DiskFull { detail }
    } else if says(&RUN) {
        RuntimeError::CannotRun { detail }
    } else {
        RuntimeError::Other { detail }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_texts_are_told_apart() {
        let port = "driver failed programming external connectivity on endpoint x: Bind for 0.0.0.0:80 failed: port is already allocated";
        assert!(matches!(of_start(port), RuntimeError::PortInUse { .. }));
        let disk = "error creating overlay mount: no space left on device";
        assert!(matches!(of_start(disk), RuntimeError::DiskFull { .. }));
        let run = "OCI runtime create failed: exec: \"nope\": executable file not found in $PATH: unknown";
        assert!(matches!(of_start(run), RuntimeError::CannotRun { .. }));
        // The command is not what is wrong here.
        for text in ["unknown capability", "unable to find user nobody2"] {
            let said = of_start(text).to_string();
            assert!(!said.contains("command") && said.ends_with(text), "{said}");
        }
        // The address of another container, not a port.
        assert!(matches!(of_start("Address already in use"), RuntimeError::Other { .. }));
    }

    #[test]
    fn a_lost_answer_is_unknown_only_for_what_changes_something() {
        let lost = || Error::RequestTimeoutError;
        assert_eq!(mutating(lost(), |_, text| other(text)), Trouble::Unknown);
        assert!(matches!(looking(lost()), Trouble::Failed(RuntimeError::Unavailable { .. })));
    }

    #[test]
    fn an_engine_that_is_not_there_was_sent_nothing() {
        let gone = Error::SocketNotFoundError("/run/docker.sock".to_owned());
        let trouble = mutating(gone, |_, text| other(text));
        assert!(matches!(trouble, Trouble::Failed(RuntimeError::Unavailable { .. })));
    }
}
