//! What happened, for people, and a hash of it for machines.

use std::collections::BTreeMap;
use std::time::Duration;

use proto_core::api::{OperationEvent, OperationResult};
use proto_core::daemon::{NodeEvent, OperationHandle};
use proto_core::id::OperationId;
use proto_core::time::Time;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cluster::operation_of;
use crate::play::outcome;

/// What is said of a message that does not arrive.
const LOST: &str = " LOST on the way";

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
    /// When a message arrives there, in microseconds of the simulation; `None`: never, or it is no message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrives: Option<u64>,
    /// What it is about.
    pub kind: Kind,
    /// The operation that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// What happened.
    pub text: String,
}

/// From a question to a daemon until its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The machine whose daemon was asked.
    pub node: usize,
    /// When, in microseconds of the simulation.
    pub from: u64,
    /// When it was answered, or could be no longer; `None`: that was after the end.
    pub to: Option<u64>,
    /// What was asked for.
    pub text: String,
    /// The operation, once it is recorded.
    pub operation: Option<OperationId>,
    /// How it ended: an outcome of [`crate::play::Outcomes`], `connection_lost`, or `open`.
    pub outcome: &'static str,
    /// The code of the error, if it ended with one.
    pub code: Option<String>,
}

/// What is kept for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Happened {
    /// Everything, in the order in which it happened.
    pub lines: Vec<Line>,
    /// What was asked of daemons, in the order in which it was.
    pub spans: Vec<Span>,
}

/// What happened.
#[derive(Debug, Clone)]
pub struct Trace {
    hash: u64,
    kept: Option<Happened>,
    /// The questions that have no answer yet.
    open: BTreeMap<OperationHandle, Open>,
}

/// A question that has no answer yet.
#[derive(Debug, Clone)]
struct Open {
    /// The number of its span.
    span: usize,
    /// The lines that are about it and do not name its operation, as it has none yet.
    unnamed: Vec<usize>,
}

impl Trace {
    /// Keeps the hash, and the lines too if somebody reads them.
    #[must_use]
    pub fn new(lines: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            kept: lines.then(Happened::default),
            open: BTreeMap::new(),
        }
    }

    /// Something happened. The text is made only if somebody reads it, so it is no part of the hash.
    pub fn add(&mut self, at: Time, node: Option<usize>, kind: Kind, line: impl FnOnce() -> Line) {
        self.mix(at.as_nanos());
        self.mix(node.map_or(u64::MAX, |node| node as u64) ^ ((kind as u64) << 32));
        if let Some(kept) = &mut self.kept {
            kept.lines.push(line());
        }
    }

    /// The effect before this is a message: to whom, and after how long it arrives (`None`: it is lost). No part of the hash.
    pub fn sent(&mut self, to: Option<usize>, after: Option<Duration>) {
        let Some(kept) = &mut self.kept else { return };
        // What struck it may have been said since.
        let Some(line) = kept.lines.iter_mut().rev().find(|line| line.kind == Kind::Effect) else {
            return;
        };
        line.peer = to;
        line.arrives = after.map(|after| line.at + u64::try_from(after.as_micros()).unwrap_or(0));
        if after.is_none() {
            line.text.push_str(LOST);
        }
    }

    /// Says more about the line before, for people only: no part of the hash.
    pub fn remark(&mut self, line: impl FnOnce() -> Line) {
        if let Some(kept) = &mut self.kept {
            kept.lines.push(line());
        }
    }

    /// Adds a number to the hash.
    pub fn mix(&mut self, number: u64) {
        // The multiplication of FxHash: fast, and the same everywhere.
        self.hash = (self.hash.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// Adds a text to the hash.
    pub fn mix_text(&mut self, text: &str) {
        self.mix(text.len() as u64);
        for part in text.as_bytes().chunks(8) {
            let mut bytes = [0; 8];
            bytes[..part.len()].copy_from_slice(part);
            self.mix(u64::from_le_bytes(bytes));
        }
    }

    /// Adds a value of the store to the hash.
    pub fn mix_value(&mut self, value: &Value) {
        match value {
            Value::Null => self.mix(1),
            Value::Bool(truth) => self.mix(2 + u64::from(*truth)),
            Value::Number(number) => self.mix(number.as_u64().unwrap_or(u64::MAX)),
            Value::String(text) => self.mix_text(text),
            Value::Array(all) => {
                self.mix(all.len() as u64);
                all.iter().for_each(|one| self.mix_value(one));
            }
            Value::Object(fields) => {
                self.mix(fields.len() as u64);
                for (name, one) in fields {
                    self.mix_text(name);
                    self.mix_value(one);
                }
            }
        }
    }

    /// The hash of everything so far: when what kind of line was where, the numbers of effects, all that the store took, and every answer to an
    /// operator.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// A daemon is asked for something, as the last line says. Spans are no part of the hash: they say what lines say.
    pub fn asked(
        &mut self,
        at: Time,
        node: usize,
        handle: OperationHandle,
        text: impl FnOnce() -> String,
    ) {
        let Some(kept) = &mut self.kept else { return };
        let unnamed = vec![kept.lines.len().saturating_sub(1)];
        self.open.insert(handle, Open { span: kept.spans.len(), unnamed });
        kept.spans.push(Span {
            node,
            from: micros(at),
            to: None,
            text: text(),
            operation: None,
            outcome: "open",
            code: None,
        });
    }

    /// A daemon says something about what it was asked for; the next line will say what. The operation, if it has one.
    pub fn says(&mut self, at: Time, event: &NodeEvent) -> Option<OperationId> {
        let kept = self.kept.as_mut()?;
        let open = self.open.get_mut(&event.handle)?;
        let span = &mut kept.spans[open.span];
        if let OperationEvent::Recorded { operation, .. } = &event.event {
            span.operation = Some(operation.clone());
        }
        if let Some(result) = event.result() {
            span.to = Some(micros(at));
            span.outcome = outcome(result);
            span.code = code(result);
            if let Some(operation) = operation_of(result) {
                span.operation = Some(operation.clone());
            }
        }
        let operation = span.operation.clone();
        if operation.is_none() {
            open.unnamed.push(kept.lines.len());
        } else {
            for number in open.unnamed.drain(..) {
                kept.lines[number].operation.clone_from(&operation);
            }
        }
        if event.result().is_some() {
            self.open.remove(&event.handle);
        }
        operation
    }

    /// A daemon died: whoever waits for its answers has none.
    pub fn died(&mut self, at: Time, node: usize) {
        let Some(kept) = &mut self.kept else { return };
        self.open.retain(|_, open| {
            let span = &mut kept.spans[open.span];
            if span.node == node {
                span.to = Some(micros(at));
                span.outcome = "connection_lost";
            }
            span.node != node
        });
    }

    /// What was kept, if somebody reads it.
    #[must_use]
    pub fn into_happened(self) -> Happened {
        self.kept.unwrap_or_default()
    }
}

impl Line {
    /// Whether it is a message that does not arrive.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.kind == Kind::Effect && self.text.ends_with(LOST)
    }

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

fn micros(at: Time) -> u64 {
    at.as_nanos() / 1000
}

fn code(result: &OperationResult) -> Option<String> {
    match result {
        OperationResult::Refused { error }
        | OperationResult::Aborted { error, .. }
        | OperationResult::Interrupted { error, .. }
        | OperationResult::Unknown { error, .. }
        | OperationResult::CleanupPending { error, .. } => Some(error.code.as_str().to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        let text = text.to_owned();
        Line {
            at: 1_250_000,
            node: Some(1),
            peer: None,
            arrives: None,
            kind: Kind::Fault,
            operation: None,
            text,
        }
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
