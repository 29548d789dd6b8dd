//! What the followers of the store are told. Everybody is told the same, so a fact is read once and shared.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto_core::routing::Heard;
use proto_core::store::{Entry, FollowEvent, Key, Revision, Write};
use proto_core::time::Time;

use super::kv::Kv;

/// Heads and commits as they were read last, for loads.
#[derive(Debug, Clone, Default)]
pub struct Feed(Arc<BTreeMap<Key, (Revision, Heard)>>);

impl Feed {
    /// Heads and commits, and that this is all.
    pub fn load(&mut self, kv: &mut Kv, now: Time) -> Vec<Heard> {
        kv.expire(now);
        let prefix = Key::namespaces();
        let stored = kv.under(&prefix).filter(|(key, _)| is_followed(key));
        let mut read = BTreeMap::new();
        for (key, value) in stored {
            let revision = kv.revision(key);
            let known = self.0.get(key).filter(|(at, _)| *at == revision);
            let heard = known.map_or_else(
                || {
                    let (key, value) = (key.clone(), value.clone());
                    FollowEvent::Entry(Entry { key, revision, value }).into()
                },
                |(_, heard)| heard.clone(),
            );
            read.insert(key.clone(), (revision, heard));
        }
        let mut said: Vec<_> = read.values().map(|(_, heard)| heard.clone()).collect();
        said.push(FollowEvent::CaughtUp { position: kv.last() }.into());
        self.0 = Arc::new(read);
        said
    }
}

/// What is said of a batch whose last write has this revision.
#[must_use]
pub fn of_writes(writes: &[Write], last: Revision) -> Vec<Heard> {
    let first = last.0 + 1 - writes.len() as u64;
    let entries = (first..).zip(writes).filter(|(_, write)| is_followed(&write.key));
    let heard = entries.map(|(revision, write)| {
        let (key, value) = (write.key.clone(), Arc::new(write.value.clone()));
        FollowEvent::Entry(Entry { key, revision: Revision(revision), value }).into()
    });
    heard.collect()
}

/// What is said to somebody who was not heard for a while, before a load.
#[must_use]
pub fn heard_again() -> Vec<Heard> {
    let reason = "it was not heard all the time".to_owned();
    vec![FollowEvent::Back.into(), FollowEvent::Uncertain { reason }.into()]
}

/// What is said when the store is silent for too long.
#[must_use]
pub fn silence() -> Heard {
    FollowEvent::Away { reason: "no heartbeat".to_owned() }.into()
}

fn is_followed(key: &Key) -> bool {
    let mut tokens = key.as_str().split('.').skip(2);
    matches!(tokens.next(), Some("head" | "commit"))
}
