//! What a run asks. Revisions are named by what they are to the key, so that a sequence means the same with parts of it left out.

use proto_core::span::Span;
use proto_core::store::{Key, Revision, StoreRequest, Write};
use serde_json::json;
use sim::world::kv::MAX_BATCH;
use tests::conformance::Simpler;

pub(crate) const PREFIXES: [&str; 7] = ["ns", "ns.a", "ns.ab", "ns.a.head", "op", "lease", "host"];

/// How many keys there are.
pub(crate) const KEYS: u8 = 24;

/// Key number so and so; some are below others, some only look like it.
pub(crate) fn key(number: u8) -> Key {
    let text = match number {
        0 => "ns.a".to_owned(),
        1 => "ns.a.head".to_owned(),
        2 => "ns.a.commit.1".to_owned(),
        3 => "ns.ab.head".to_owned(),
        4 => "ns.ab".to_owned(),
        5 => "host.h".to_owned(),
        n if n % 2 == 0 => format!("op.x{n}"),
        n => format!("lease.ns.a{n}"),
    };
    Key::new(text).expect("a key")
}

/// One thing that is done to both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A read of these prefixes, by number.
    Read(Vec<u8>),
    /// A batch.
    Commit(Vec<Put>),
    /// A batch of so many writes, of keys that nothing else writes.
    Many(usize),
    /// So long that of the lives that were given the short ones are over, and the long ones the next time.
    Pause,
    /// The server goes away: `kill -9`, or a clean stop.
    Down {
        /// Whether it is killed.
        kill: bool,
    },
    /// The server comes back.
    Up,
}

/// One write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Put {
    pub(crate) key: u8,
    pub(crate) expect: Expect,
    pub(crate) life: Life,
    pub(crate) value: u16,
}

/// What is expected of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    Any,
    Absent,
    /// The revision that it has, or had last.
    Last,
    /// One below that.
    Older,
    /// One that was not given yet.
    Newer,
}

/// How long a key is to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Endless,
    /// Over after the next pause.
    Short,
    /// Over after the next pause but one.
    Long,
    /// No whole seconds.
    Broken,
}

impl Life {
    pub(crate) fn ttl(self) -> Option<Span> {
        match self {
            Self::Endless => None,
            Self::Short => Some(Span::from_secs(2)),
            Self::Long => Some(Span::from_secs(7)),
            Self::Broken => Some(Span::from_millis(1500)),
        }
    }
}

impl Ask {
    /// The request, if it is one. `last` says where a key was written last, [`Revision::ABSENT`] for never; `next` is a revision that was
    /// not given yet.
    pub(crate) fn request(
        &self,
        last: impl Fn(&Key) -> Revision,
        next: u64,
    ) -> Option<StoreRequest> {
        match self {
            Self::Read(prefixes) => {
                let prefix = |at: &u8| Key::new(PREFIXES[usize::from(*at)]).expect("a literal");
                Some(StoreRequest::Read { prefixes: prefixes.iter().map(prefix).collect() })
            }
            Self::Commit(puts) => {
                let write = |put: &Put| {
                    let key = key(put.key);
                    let last = last(&key);
                    let expect = match put.expect {
                        Expect::Any => None,
                        Expect::Absent => Some(Revision::ABSENT),
                        Expect::Last => Some(last),
                        Expect::Older => Some(Revision(last.0.saturating_sub(1))),
                        Expect::Newer => Some(Revision(next)),
                    };
                    Write { key, value: json!({"n": put.value}), expect, ttl: put.life.ttl() }
                };
                Some(StoreRequest::Commit { writes: puts.iter().map(write).collect() })
            }
            Self::Many(count) => {
                let write = |n: usize| Write {
                    key: Key::new(format!("many.{n}")).expect("a key"),
                    value: json!(n),
                    expect: None,
                    ttl: None,
                };
                Some(StoreRequest::Commit { writes: (0..*count).map(write).collect() })
            }
            Self::Pause | Self::Down { .. } | Self::Up => None,
        }
    }
}

impl Simpler for Ask {
    fn simpler(&self) -> Vec<Self> {
        let without = |at: usize, count: usize| (0..count).filter(move |other| *other != at);
        match self {
            Self::Read(prefixes) if prefixes.len() > 1 => {
                prefixes.iter().map(|prefix| Self::Read(vec![*prefix])).collect()
            }
            Self::Commit(puts) => {
                let count = puts.len();
                let less = (0..count)
                    .filter(|_| count > 1)
                    .map(|at| Self::Commit(without(at, count).map(|other| puts[other]).collect()));
                let mut simpler: Vec<_> = less.collect();
                for (at, put) in puts.iter().enumerate() {
                    let mut plain = puts.clone();
                    plain[at] = Put { life: Life::Endless, value: 0, ..*put };
                    if plain != *puts {
                        simpler.push(Self::Commit(plain));
                    }
                }
                simpler
            }
            Self::Many(count) if *count == MAX_BATCH => vec![Self::Many(1)],
            _ => Vec::new(),
        }
    }
}
