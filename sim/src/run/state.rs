//! A run's whole state as a number: two runs that come to the same go on in the same way, whatever was chosen before.
//!
//! The number is a hash of what `Debug` says of everything, so that nothing can be forgotten: it is derived. Numbers that only name
//! something (an effect, a command's token, a handle) are replaced by their order of appearance, and what only counts is left out.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hasher as _};

use super::course::Course;

impl Course<'_> {
    /// The number of the state. 64 bits: the chance that two of a million states have the same by accident is below one in ten million.
    pub(crate) fn state(&self) -> u64 {
        let mut to = Canonical::default();
        self.write_state(&mut to).expect("nothing refuses to be written down");
        to.number()
    }
}

/// What `Debug` says, in which names are replaced by their order of appearance and counts are left out.
#[derive(Debug, Default)]
struct Canonical {
    text: String,
    names: BTreeMap<(Name, u64), usize>,
    expects: Expects,
}

/// Types whose number is only a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Effect,
    Reply,
    Operation,
}

/// What comes next, by what was written last.
#[derive(Debug, Default, Clone, Copy)]
enum Expects {
    #[default]
    Anything,
    Open(Name),
    Number(Name),
    Colon,
    Count,
}

impl Canonical {
    fn number(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(self.text.as_bytes());
        hasher.finish()
    }
}

impl Write for Canonical {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.expects = match (self.expects, text) {
            (Expects::Open(kind), "(") => Expects::Number(kind),
            (Expects::Colon, ": ") => Expects::Count,
            (Expects::Number(kind), text) if let Ok(number) = text.parse() => {
                self.expects = Expects::Anything;
                let next = self.names.len();
                let order = *self.names.entry((kind, number)).or_insert(next);
                return write!(self, "{order}");
            }
            (Expects::Count, text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.expects = Expects::Anything;
                return Ok(());
            }
            (_, "EffectId") => Expects::Open(Name::Effect),
            (_, "ReplyToken") => Expects::Open(Name::Reply),
            (_, "OperationHandle") => Expects::Open(Name::Operation),
            (_, "next_effect" | "seen") => Expects::Colon,
            _ => Expects::Anything,
        };
        self.text.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proto_core::daemon::{EffectId, ReplyToken};

    use super::*;

    #[derive(Debug)]
    #[expect(dead_code, reason = "read by Debug")]
    struct Thing {
        next_effect: u64,
        other: u64,
        ids: Vec<EffectId>,
        token: ReplyToken,
    }

    fn hash(next_effect: u64, other: u64, ids: &[u64]) -> u64 {
        let ids = ids.iter().map(|id| EffectId(*id)).collect();
        let mut to = Canonical::default();
        write!(to, "{:?}", Thing { next_effect, other, ids, token: ReplyToken(7) }).unwrap();
        to.number()
    }

    #[test]
    fn names_count_by_their_order_and_counters_not_at_all() {
        assert_eq!(hash(1, 5, &[3, 4, 3]), hash(2, 5, &[7, 9, 7]));
        assert_ne!(hash(1, 5, &[3, 4, 3]), hash(1, 5, &[3, 4, 4]));
        assert_ne!(hash(1, 5, &[3, 4]), hash(1, 6, &[3, 4]));
    }
}
