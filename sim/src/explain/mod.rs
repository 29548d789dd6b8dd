//! A run told to people: [`text()`] for a terminal, [`page()`] for a browser, [`json()`] for programs.

mod named;
mod page;
mod select;
mod text;

use serde::Serialize;
use serde_json::Value;

use crate::invariants::Violation;
use crate::story::{Story, What};
use crate::trace::{Happened, Kind, Line, Span};

pub use page::{MOST_LINES, page};
pub use select::{Nodes, Selection};
pub use text::{Layout, text};

/// A fault that somebody planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// When it begins, in microseconds of the simulation.
    pub from: u64,
    /// When it ends; the same as `from` where it has no length of its own.
    pub to: u64,
    /// The machines that it names; none: all of them, or the store.
    pub machines: Vec<usize>,
    /// What it is.
    pub text: String,
}

/// A run, and what it was told to be.
#[derive(Debug, Clone)]
pub struct Told {
    /// What was played: `seed 7`, or the name of a scenario.
    pub title: String,
    /// How many machines there are.
    pub nodes: usize,
    /// How many of them have a server of the store.
    pub servers: usize,
    /// When the last thing happened, in microseconds of the simulation.
    pub end: u64,
    /// Faults by the clock. Those that strike effects are lines.
    pub faults: Vec<Planned>,
    /// Everything that happened, in its order.
    pub lines: Vec<Line>,
    /// What was asked of daemons.
    pub spans: Vec<Span>,
    /// What was broken.
    pub violations: Vec<Violation>,
}

impl Told {
    /// A story that was played, with its lines kept.
    #[must_use]
    pub fn of_story(story: &Story, happened: Happened, violations: Vec<Violation>) -> Self {
        let title = format!("seed {}", story.seed);
        let mut told = Self::new(title, story.nodes, story.servers, happened, violations);
        let end = told.end;
        let by_the_clock = |what: &What| !matches!(what, What::Effect { .. });
        let faults = story.faults.iter().filter(|fault| by_the_clock(&fault.what));
        // A run that broke something ended there: what was planned for later did not come.
        told.faults = faults
            .filter(|fault| story.on_the_clock(fault.at) * 1000 <= end)
            .map(|fault| Planned {
                from: story.on_the_clock(fault.at) * 1000,
                to: (story.on_the_clock(fault.until(story.length)) * 1000).min(end),
                machines: fault.what.machines(),
                text: fault.what.to_string(),
            })
            .collect();
        told.faults.sort_by_key(|fault| fault.from);
        told
    }

    /// Any run.
    #[must_use]
    pub fn new(
        title: String,
        nodes: usize,
        servers: usize,
        happened: Happened,
        violations: Vec<Violation>,
    ) -> Self {
        let Happened { mut lines, spans } = happened;
        if !lines.iter().any(|line| line.kind == Kind::Violation) {
            lines.extend(violations.iter().map(|violation| Line {
                at: violation.at.as_nanos() / 1000,
                node: None,
                peer: None,
                arrives: None,
                kind: Kind::Violation,
                operation: None,
                text: format!("{}: {}", violation.invariant, violation.what),
            }));
            // One that was found at rest may be older than the last line.
            lines.sort_by_key(|line| line.at);
        }
        let end = lines.last().map_or(0, |line| line.at);
        Self { title, nodes, servers, end, faults: Vec::new(), lines, spans, violations }
    }

    /// Leaves out the lines that are not selected. Faults, operations and what was broken stay.
    pub fn select(&mut self, selection: &Selection) {
        let named = selection.operations(&self.spans);
        self.lines.retain(|line| selection.holds(line, &named));
    }
}

/// One object: what `run` says of the run, and beside it `title`, `end`, `planned_faults`, `spans`, `lines`. Times are microseconds of the
/// simulation, machines count from 0.
///
/// # Errors
/// `out` cannot be written.
pub fn json(told: &Told, run: &Value, out: &mut impl std::io::Write) -> std::io::Result<()> {
    #[derive(Serialize)]
    struct Object<'a> {
        #[serde(flatten)]
        run: &'a Value,
        title: &'a str,
        end: u64,
        planned_faults: &'a [Planned],
        spans: &'a [Span],
        lines: &'a [Line],
    }
    let object = Object {
        run,
        title: &told.title,
        end: told.end,
        planned_faults: &told.faults,
        spans: &told.spans,
        lines: &told.lines,
    };
    serde_json::to_writer(&mut *out, &object)?;
    writeln!(out)
}
