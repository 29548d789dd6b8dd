//! The next command to type, as it is shown: to the daemon that this call asked and of the manifest that it read, not of those that are usual.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

/// The socket of the command line. Set once, before anything is shown.
static SOCKET: OnceLock<PathBuf> = OnceLock::new();

/// The manifest that was named. Set once, when it is read.
static MANIFEST: OnceLock<String> = OnceLock::new();

/// Commands that read a manifest.
const READERS: [&str; 5] = [
    "ployzctl deploy",
    "ployzctl deploy preview",
    "ployzctl deploy prepare",
    "ployzctl diff",
    "ployzctl validate",
];

/// Commands that ask no daemon.
const ALONE: [&str; 2] = ["validate", "completions"];

/// From here on every next command names this socket.
pub(crate) fn name_socket(socket: &Path) {
    // Whoever set it first was the command line too.
    _ = SOCKET.set(socket.to_owned());
}

/// From here on every next command that reads a manifest reads this one.
pub(crate) fn name_manifest(file: &Path) {
    if file != Path::new(crate::args::MANIFEST) {
        // One call reads one manifest.
        _ = MANIFEST.set(quoted(&file.to_string_lossy()));
    }
}

/// The line that shows what to type, without its end.
pub(crate) fn line(command: &str) -> String {
    format!("next: {}", told(command))
}

/// The command as it is to be typed.
pub(crate) fn told(command: &str) -> String {
    let command = match MANIFEST.get() {
        // The daemon does not know how the file is called.
        Some(file) if READERS.contains(&command) => format!("{command} -f {file}"),
        _ => command.to_owned(),
    };
    match SOCKET.get() {
        Some(socket) => with_socket(&command, socket),
        None => command,
    }
}

/// The same for every next command of a document: those stand beside what they mend.
pub(crate) fn tell(document: &mut Value) {
    match document {
        Value::Array(values) => values.iter_mut().for_each(tell),
        Value::Object(map) => {
            if ["message", "detail", "problems"].iter().any(|key| map.contains_key(*key))
                && let Some(Value::String(next)) = map.get_mut("next")
            {
                *next = told(next);
            }
            map.values_mut().for_each(tell);
        }
        _ => {}
    }
}

/// Whether [`tell`] would change anything.
pub(crate) fn names_more() -> bool {
    SOCKET.get().is_some() || MANIFEST.get().is_some()
}

fn with_socket(command: &str, socket: &Path) -> String {
    const PROGRAM: &str = "ployzctl ";
    let option = format!("{PROGRAM}--socket {} ", quoted(&socket.to_string_lossy()));
    let named = format!("{PROGRAM}--socket ");
    let mut out = String::new();
    let mut rest = command;
    while let Some(at) = rest.find(PROGRAM) {
        let starts = rest[..at].chars().next_back().is_none_or(char::is_whitespace);
        let then = rest[at + PROGRAM.len()..].split_whitespace().next();
        let asks = !then.is_some_and(|command| ALONE.contains(&command));
        let found =
            if starts && asks && !rest[at..].starts_with(&named) { &option } else { PROGRAM };
        out += &rest[..at];
        out += found;
        rest = &rest[at + PROGRAM.len()..];
    }
    out + rest
}

/// As a shell takes it for one word.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_program_gets_the_socket_and_no_other_word_does() {
        let told = |command| with_socket(command, Path::new("/s/a"));
        assert_eq!(
            told("ployzctl op resume 1, or ployzctl op abort 1"),
            "ployzctl --socket /s/a op resume 1, or ployzctl --socket /s/a op abort 1"
        );
        for as_it_is in [
            "df -h, on machine m",
            "ployzctl validate -f a",
            "sudo ployzctl --socket /s/b status",
            "xployzctl a",
        ] {
            assert_eq!(told(as_it_is), as_it_is);
        }
        assert_eq!(
            with_socket("ployzctl ps", Path::new("/a b/it's")),
            r"ployzctl --socket '/a b/it'\''s' ps"
        );
    }
}
