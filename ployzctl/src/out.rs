//! Standard output: lines for people or JSON for programs, and a quiet end when nobody reads any more.

use std::io::{IsTerminal as _, Write as _};

use comfy_table::Table;
use proto_core::api::ErrorBody;
use serde::Serialize;

use crate::args::Global;
use crate::failure::{Failure, USAGE};
use crate::next;

/// How to write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    /// JSON.
    pub(crate) json: bool,
    /// No progress.
    pub(crate) quiet: bool,
    /// A person looks at it: moving progress is welcome.
    pub(crate) moving: bool,
    /// Do not ask.
    yes: bool,
}

impl Out {
    pub(crate) fn new(global: &Global) -> Self {
        let terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        Self {
            json: global.json,
            quiet: global.quiet,
            moving: terminal && !global.plain && !global.json && !global.quiet,
            yes: global.yes,
        }
    }

    /// The same without any progress on standard output, which is wanted for something else.
    pub(crate) fn silent(self) -> Self {
        Self { json: false, quiet: true, moving: false, ..self }
    }

    /// Writes text that ends in a line end.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::Closed),
            Err(error) => {
                let message = format!("cannot write to standard output: {error}");
                Err(Failure::new(USAGE, ErrorBody::new("OUTPUT_FAILED", message)))
            }
        }
    }

    /// Writes a line.
    pub(crate) fn line(&self, line: impl std::fmt::Display) -> Result<(), Failure> {
        self.text(&format!("{line}\n"))
    }

    /// Writes the one JSON value of a line.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let plain = "answers are plain JSON";
        if !next::names_more() {
            return self.line(serde_json::to_string(value).expect(plain));
        }
        let mut document = serde_json::to_value(value).expect(plain);
        next::tell(&mut document);
        self.line(document)
    }

    /// Writes an answer: as JSON if that is wanted, as text otherwise.
    pub(crate) fn document<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        if self.json { self.json(value) } else { self.text(&text(value)) }
    }

    /// Something worth knowing that is no part of the answer.
    pub(crate) fn remark(&self, remark: impl std::fmt::Display) {
        if !self.quiet {
            // There is nowhere left to say that standard error is closed.
            _ = writeln!(std::io::stderr(), "{remark}");
        }
    }

    /// Asks before something is destroyed. Nobody to ask is a mistake of whoever typed the command.
    pub(crate) fn confirm(&self, question: &str, command: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            let message = format!("{question} There is no terminal to ask at");
            let error = ErrorBody::new("CONFIRMATION_NEEDED", message);
            return Err(Failure::new(USAGE, error.next(format!("{command} --yes"))));
        }
        // A prompt that nobody sees gets no "yes".
        _ = write!(std::io::stderr(), "{question} Type \"yes\": ");
        let mut answer = String::new();
        match std::io::stdin().read_line(&mut answer) {
            Ok(_) if answer.trim() == "yes" => Ok(()),
            _ => {
                let error = ErrorBody::new("NOT_CONFIRMED", "not confirmed; nothing was changed");
                Err(Failure::new(USAGE, error.next(format!("{command} --yes"))))
            }
        }
    }
}

/// A table without lines, its columns two blanks apart.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_and_has_no_blanks_at_the_end() {
        let rows = vec![["a".to_owned(), "1".to_owned()], ["longer".to_owned(), String::new()]];
        assert_eq!(table(["NAME", "N"], rows), "NAME    N\na       1\nlonger\n");
    }
}
