//! Which lines are told.

use std::collections::BTreeSet;
use std::str::FromStr;

use proto_core::id::OperationId;

use crate::trace::{Kind, Line, Span};

/// Which lines are told; by default all.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Not what happened before this, in microseconds of the simulation.
    pub from: Option<u64>,
    /// Not what happened after this, in microseconds of the simulation.
    pub until: Option<u64>,
    /// Only what is on or between these machines, or on none.
    pub nodes: Option<Nodes>,
    /// Only what belongs to operations whose id, request, outcome or error code holds this, or says it itself.
    pub operation: Option<String>,
}

/// Machines: `m1,m4-m6`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nodes(BTreeSet<usize>);

impl Nodes {
    /// The number of the last one, counted from 1.
    #[must_use]
    pub fn last(&self) -> Option<usize> {
        self.0.last().map(|machine| machine + 1)
    }
}

impl FromStr for Nodes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |name: &str| {
            let number = name.trim().trim_start_matches('m').parse::<usize>().ok();
            let number = number.filter(|number| (1..=200).contains(number));
            number.ok_or_else(|| format!("{name:?} is no machine: m1, m2, …, or m4-m6"))
        };
        let mut nodes = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("{part:?} is no range: the lower number comes first"));
            }
            nodes.extend(first - 1..last);
        }
        Ok(Self(nodes))
    }
}

impl Selection {
    /// The operations that are selected by their spans.
    pub(super) fn operations(&self, spans: &[Span]) -> BTreeSet<OperationId> {
        let Some(wanted) = &self.operation else { return BTreeSet::new() };
        let holds = |span: &&Span| {
            span.text.contains(wanted)
                || span.outcome.contains(wanted.as_str())
                || span.code.as_ref().is_some_and(|code| code.contains(wanted))
                || span.operation.as_ref().is_some_and(|id| id.to_string().contains(wanted))
        };
        spans.iter().filter(holds).filter_map(|span| span.operation.clone()).collect()
    }

    pub(super) fn holds(&self, line: &Line, operations: &BTreeSet<OperationId>) -> bool {
        if line.kind == Kind::Violation {
            return true;
        }
        let when = self.from.is_none_or(|from| line.at >= from)
            && self.until.is_none_or(|until| line.at <= until);
        let place = [line.node, line.peer];
        let here = self.nodes.as_ref().is_none_or(|Nodes(nodes)| {
            place == [None, None] || place.iter().flatten().any(|machine| nodes.contains(machine))
        });
        let about = self.operation.as_ref().is_none_or(|wanted| {
            line.operation.as_ref().is_some_and(|id| operations.contains(id))
                || line.text.contains(wanted)
        });
        when && here && about
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_named_one_by_one_and_from_to() {
        let nodes: Nodes = "m1,m4-m6".parse().expect("machines");
        assert_eq!(nodes.0, BTreeSet::from([0, 3, 4, 5]));
        assert!("m0".parse::<Nodes>().is_err());
        assert!("x".parse::<Nodes>().is_err());
    }
}
