//! What happened, for people, and a hash of it for machines.

use proto_core::id::OperationId;
use proto_core::time::Time;
use serde::{Deserialize, Serialize};

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Somebody asks a daemon for something.
    Asked,
    /// An operation says how it goes.
    Says,
    /// A node puts out an effect.
    Effect,
    /// A message between machines arrived, or a command did.
    Message,
    /// The store took a batch.
    Stored,
    /// Something changed on a machine: an instance, a gateway.
    Changed,
    /// A fault begins.
    Fault,
    /// A fault ends.
    Mended,
    /// A request of a client failed.
    Failed,
    /// An invariant is broken.
    Violation,
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When, in microseconds of the simulation.
    pub at: u64,
    /// On which machine; `None`: the store, or everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<usize>,
    /// The machine at the other end of a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<usize>,
    /// What it is about.
    pub kind: Kind,
    /// The operation that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// What happened.
    pub text: String,
}

/// What happened.
#[derive(Debug, Clone)]
pub struct Trace {
    hash: u64,
    lines: Option<Vec<Line>>,
}

impl Trace {
    /// Keeps the hash, and the lines too if somebody reads them.
    #[must_use]
    pub fn new(lines: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: lines.then(Vec::new) }
    }

    /// Something happened. The text is made only if somebody reads it, so it is no part of the hash.
    pub fn add(&mut self, at: Time, node: Option<usize>, kind: Kind, line: impl FnOnce() -> Line) {
        self.mix(at.as_nanos());
        self.mix(node.map_or(u64::MAX, |node| node as u64) ^ ((kind as u64) << 32));
        if let Some(lines) = &mut self.lines {
            lines.push(line());
        }
    }

    /// Adds a number to the hash.
    pub fn mix(&mut self, number: u64) {
        // The multiplication of FxHash: fast, and the same everywhere.
        self.hash = (self.hash.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// The hash of everything so far: two runs with the same are the same run.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether somebody reads the lines.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.lines.is_some()
    }

    /// The lines, if somebody reads them.
    #[must_use]
    pub fn into_lines(self) -> Vec<Line> {
        self.lines.unwrap_or_default()
    }
}

impl Line {
    /// The line with a column for each machine, up to eight of them; beyond that the machine's number.
    #[must_use]
    pub fn in_columns(&self, machines: usize) -> String {
        let (secs, micros) = (self.at / 1_000_000, self.at % 1_000_000);
        let time = format!("{secs:>6}.{:03}", micros / 1000);
        let place = if machines <= 8 {
            let column = |machine| match (Some(machine) == self.node, Some(machine) == self.peer) {
                (true, _) => self.kind.sign(),
                (_, true) => '·',
                _ => ' ',
            };
            let columns: String = (0..machines).map(|n| format!("{} ", column(n))).collect();
            format!("|{columns}|")
        } else {
            let name = |node: usize| format!("{} {node:<4}", self.kind.sign());
            self.node.map_or_else(|| format!("{}     ", self.kind.sign()), name)
        };
        format!("{time} {place} {}", self.text)
    }
}

impl Kind {
    /// One character for a column.
    #[must_use]
    pub fn sign(self) -> char {
        match self {
            Self::Asked => '?',
            Self::Says => '"',
            Self::Effect => '>',
            Self::Message => 'm',
            Self::Stored => 'S',
            Self::Changed => '*',
            Self::Fault => 'X',
            Self::Mended => 'o',
            Self::Failed => '-',
            Self::Violation => '!',
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        let text = text.to_owned();
        Line { at: 1_250_000, node: Some(1), peer: None, kind: Kind::Fault, operation: None, text }
    }

    #[test]
    fn the_hash_tells_runs_apart_and_does_not_depend_on_readers() {
        let run = |read: bool, at: u64| {
            let mut trace = Trace::new(read);
            trace.add(Time::from_nanos(at), Some(1), Kind::Fault, || line("dies"));
            trace.hash()
        };
        assert_eq!(run(false, 5), run(true, 5));
        assert_ne!(run(false, 5), run(false, 6));
    }

    #[test]
    fn a_line_has_a_column_for_each_machine() {
        assert_eq!(line("dies").in_columns(3), "     1.250 |  X   | dies");
        assert_eq!(line("dies").in_columns(20), "     1.250 X 1    dies");
    }
}
