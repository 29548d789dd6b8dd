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
        self.write_state(&mut to).expect("nothing refuses to be hashed");
        to.hash.finish()
    }
}

/// Types whose number is only a name.
const NAMES: [&str; 3] = ["EffectId", "ReplyToken", "OperationHandle"];
/// Fields that only count.
const COUNTS: [&str; 2] = ["next_effect", "seen"];

#[derive(Debug, Default)]
struct Canonical {
    hash: DefaultHasher,
    /// Names by their order of appearance.
    names: BTreeMap<(usize, String), usize>,
    expects: Expects,
}

/// What was written last.
#[derive(Debug, Default, Clone, Copy)]
enum Expects {
    #[default]
    Nothing,
    Open(usize),
    Name(usize),
    Colon,
    Count,
}

impl Write for Canonical {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let is_number = || text.bytes().all(|byte| byte.is_ascii_digit());
        match std::mem::take(&mut self.expects) {
            Expects::Open(kind) if text == "(" => self.expects = Expects::Name(kind),
            Expects::Name(kind) if is_number() => {
                let next = self.names.len();
                let order = *self.names.entry((kind, text.to_owned())).or_insert(next);
                self.hash.write_usize(order);
                return Ok(());
            }
            Expects::Colon if text == ": " => self.expects = Expects::Count,
            Expects::Count if is_number() => return Ok(()),
            _ => {
                if let Some(kind) = NAMES.iter().position(|name| *name == text) {
                    self.expects = Expects::Open(kind);
                } else if COUNTS.contains(&text) {
                    self.expects = Expects::Colon;
                }
            }
        }
        self.hash.write(text.as_bytes());
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
        to.hash.finish()
    }

    #[test]
    fn names_count_by_their_order_and_counters_not_at_all() {
        assert_eq!(hash(1, 5, &[3, 4, 3]), hash(2, 5, &[7, 9, 7]));
        assert_ne!(hash(1, 5, &[3, 4, 3]), hash(1, 5, &[3, 4, 4]));
        assert_ne!(hash(1, 5, &[3, 4]), hash(1, 6, &[3, 4]));
    }
}
