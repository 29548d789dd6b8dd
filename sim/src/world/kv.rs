//! The `facts` bucket: one sequence of revisions, conditional writes, atomic batches, keys that expire.
//!
//! The same rules as a JetStream KV bucket with atomic publishing; the conformance test runs both on the same requests.
//! What the model leaves to its caller is *when* a request is applied and whether its answer arrives, and which of the writes that may come
//! back after a kill of a lone server do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proto_core::store::{Entry, Key, Revision, StoreError, StoreReply, StoreRequest, Write};
use proto_core::time::Time;
use serde_json::Value;

use super::clock::to_round;

/// As many writes as an atomic batch may have: what the adapter lets through, below the server's own limit of 1,000.
pub const MAX_BATCH: usize = 900;

#[derive(Debug, Clone)]
struct Stored {
    revision: Revision,
    value: Arc<Value>,
    expires: Option<Time>,
}

/// The bucket.
#[derive(Debug, Clone, Default)]
pub struct Kv {
    last: u64,
    keys: BTreeMap<Key, Stored>,
    /// Keys that an undecided proposal holds: others' writes of them are answered with [`StoreError::InFlight`].
    undecided: Vec<Key>,
    /// Nothing expires before this.
    soonest: Option<Time>,
    /// Lives end when the clock shows a multiple of this, if it is set.
    round: Option<Duration>,
    /// What keys without a life held before they were written again, if that is kept: on a disk it still is.
    replaced: Option<BTreeMap<Key, Vec<Entry>>>,
    /// Keys that were brought back, and not written since.
    brought_back: BTreeSet<Key>,
    /// Planted by the conformance test to see that it can fail.
    wrong: Option<Wrong>,
}

/// Ways for the model to be wrong, for the test that shows that conformance tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// A batch with a stale expectation is stored up to that write.
    TornBatches,
    /// Every write of a batch has the same revision.
    OneRevisionABatch,
    /// Keys never expire.
    NoExpiry,
    /// An expectation of absence is not looked at.
    NoCreateCheck,
    /// An expectation of an older revision is not looked at.
    StaleAccepted,
}

impl Kv {
    /// It is wrong in this way from now on.
    pub fn go_wrong(&mut self, how: Wrong) {
        self.wrong = Some(how);
    }

    /// A bucket that is wrong on purpose.
    #[must_use]
    pub fn wrong(how: Wrong) -> Self {
        Self { wrong: Some(how), ..Self::default() }
    }

    /// Lives end when the clock shows a multiple of this from now on, so that when a key was written within it makes no difference.
    pub fn end_lives_at(&mut self, round: Duration) {
        self.round = Some(round);
    }

    /// Applies a request at this time.
    ///
    /// # Errors
    ///
    /// As the real store: see [`StoreError`]. Nothing was written then.
    pub fn apply(&mut self, now: Time, request: &StoreRequest) -> Result<StoreReply, StoreError> {
        self.expire(now);
        match request {
            StoreRequest::Read { prefixes } => Ok(StoreReply::Entries(self.read(prefixes))),
            StoreRequest::Commit { writes } => self.commit(now, writes).map(StoreReply::Committed),
        }
    }

    fn read(&self, prefixes: &[Key]) -> Vec<Entry> {
        let mut found: Vec<_> = prefixes.iter().flat_map(|prefix| self.below(prefix)).collect();
        found.sort_by_key(|(key, _)| *key);
        found.dedup_by_key(|(key, _)| *key);
        let entry = |(key, stored): (&Key, &Stored)| Entry {
            key: key.clone(),
            revision: stored.revision,
            value: stored.value.clone(),
        };
        found.into_iter().map(entry).collect()
    }

    fn below<'a>(&'a self, prefix: &'a Key) -> impl Iterator<Item = (&'a Key, &'a Stored)> {
        let from = self.keys.range(prefix..);
        let near = from.take_while(move |(key, _)| key.as_str().starts_with(prefix.as_str()));
        near.filter(move |(key, _)| key.is_under(prefix))
    }

    fn commit(&mut self, now: Time, writes: &[Write]) -> Result<Revision, StoreError> {
        if writes.is_empty() || writes.len() > MAX_BATCH {
            return Err(StoreError::Refused(format!("a batch of {} writes", writes.len())));
        }
        if self.is_held(writes) {
            return Err(StoreError::InFlight);
        }
        // Expectations are of the bucket as it was before the batch: a key may be in it once.
        for (at, write) in writes.iter().enumerate() {
            if writes[..at].iter().any(|other| other.key == write.key) {
                return Err(StoreError::Refused(format!("{} twice in a batch", write.key)));
            }
            if let Some(ttl) = write.ttl
                && (ttl.as_millis() < 1000 || ttl.as_millis() % 1000 != 0)
            {
                return Err(StoreError::Refused(format!("{} is to live for {ttl}", write.key)));
            }
        }
        let torn = self.wrong == Some(Wrong::TornBatches);
        if !torn && !self.holds(writes) {
            return Err(StoreError::Conflict);
        }
        if self.wrong == Some(Wrong::OneRevisionABatch) {
            self.last += 1;
        }
        for write in writes {
            if torn && !self.holds(std::slice::from_ref(write)) {
                return Err(StoreError::Conflict);
            }
            if self.wrong != Some(Wrong::OneRevisionABatch) {
                self.last += 1;
            }
            let ttl = write.ttl.filter(|_| self.wrong != Some(Wrong::NoExpiry));
            let expires = ttl.map(|ttl| to_round(now + ttl.duration(), self.round));
            self.soonest = self.soonest.into_iter().chain(expires).min();
            let stored = Stored {
                revision: Revision(self.last),
                value: Arc::new(write.value.clone()),
                expires,
            };
            let before = self.keys.insert(write.key.clone(), stored);
            self.brought_back.remove(&write.key);
            if let (Some(replaced), Some(Stored { revision, value, expires: None })) =
                (&mut self.replaced, before)
            {
                let key = write.key.clone();
                replaced.entry(key.clone()).or_default().push(Entry { key, revision, value });
            }
        }
        Ok(Revision(self.last))
    }

    /// A lone server that was killed brings back an earlier write of a key that has ended, as one without a life.
    ///
    /// nats-server 2.15 takes neither what a rewrite replaces nor what has ended off its disk at once, it only knows that it is gone; when it was
    /// killed and reads its disk again it finds, of some keys that have ended, a write that it had replaced or ended before.
    pub fn bring_back(&mut self, entry: Entry) {
        let Entry { key, revision, value } = entry;
        self.brought_back.insert(key.clone());
        self.keys.entry(key).or_insert(Stored { revision, value, expires: None });
    }

    /// Keeps from now on what a kill may bring back; it is asked for by [`Kv::may_come_back`].
    pub fn keep_replaced(&mut self) {
        self.replaced.get_or_insert_default();
    }

    /// What was written without a life, then replaced, and whose key has ended since: by key, each with its writes in their order.
    pub fn may_come_back(&self) -> impl Iterator<Item = &[Entry]> {
        let ended = |(key, _): &(&Key, &Vec<Entry>)| !self.keys.contains_key(*key);
        self.replaced.iter().flatten().filter(ended).map(|(_, entries)| entries.as_slice())
    }

    /// Whether the key was brought back by a kill, and not written since.
    #[must_use]
    pub fn is_brought_back(&self, key: &Key) -> bool {
        self.brought_back.contains(key)
    }

    /// Whether every expectation of these writes is as the bucket is now.
    #[must_use]
    pub fn holds(&self, writes: &[Write]) -> bool {
        writes.iter().all(|write| match write.expect {
            Some(Revision::ABSENT) if self.wrong == Some(Wrong::NoCreateCheck) => true,
            Some(expected)
                if self.wrong == Some(Wrong::StaleAccepted)
                    && expected != Revision::ABSENT
                    && expected < self.revision(&write.key) =>
            {
                true
            }
            Some(expected) => self.revision(&write.key) == expected,
            None => true,
        })
    }

    /// Whether an undecided proposal holds a key of these writes.
    #[must_use]
    pub fn is_held(&self, writes: &[Write]) -> bool {
        !self.undecided.is_empty() && writes.iter().any(|write| self.undecided.contains(&write.key))
    }

    /// Forgets what has expired.
    pub fn expire(&mut self, now: Time) {
        if self.soonest.is_some_and(|at| at <= now) {
            self.keys.retain(|_, stored| stored.expires.is_none_or(|at| at > now));
            self.soonest = self.keys.values().filter_map(|stored| stored.expires).min();
        }
    }

    /// Where a key was last written; [`Revision::ABSENT`] if it is not there.
    #[must_use]
    pub fn revision(&self, key: &Key) -> Revision {
        self.keys.get(key).map_or(Revision::ABSENT, |stored| stored.revision)
    }

    /// The last revision that was given.
    #[must_use]
    pub fn last(&self) -> Revision {
        Revision(self.last)
    }

    /// A key's value, if it is there and can be read as that.
    #[must_use]
    pub fn get<T: serde::de::DeserializeOwned>(&self, key: &Key) -> Option<T> {
        self.keys.get(key).and_then(|stored| T::deserialize(&*stored.value).ok())
    }

    /// All keys that do not end by themselves, and were not brought back.
    pub fn lasting(&self) -> impl Iterator<Item = &Key> {
        let lasting = self.keys.iter().filter(|(_, stored)| stored.expires.is_none());
        lasting.map(|(key, _)| key).filter(|key| !self.is_brought_back(key))
    }

    /// All keys below a prefix with their values.
    pub fn under<'a>(&'a self, prefix: &'a Key) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        self.below(prefix).map(|(key, stored)| (key, &stored.value))
    }

    /// A proposal for these keys is in flight and undecided from now on.
    pub fn hold(&mut self, writes: &[Write]) {
        self.undecided.extend(writes.iter().map(|write| write.key.clone()));
    }

    /// The proposal for these keys is decided.
    pub fn release(&mut self, writes: &[Write]) {
        self.undecided.retain(|key| !writes.iter().any(|write| write.key == *key));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto_core::span::Span;

    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn write(text: &str, expect: Option<u64>) -> Write {
        Write { key: key(text), value: Value::from(1), expect: expect.map(Revision), ttl: None }
    }

    fn commit(kv: &mut Kv, now: Time, writes: Vec<Write>) -> Result<StoreReply, StoreError> {
        kv.apply(now, &StoreRequest::Commit { writes })
    }

    #[test]
    fn one_stale_expectation_refuses_the_whole_batch() {
        let mut kv = Kv::default();
        let at = Time::ZERO;
        assert_eq!(
            commit(&mut kv, at, vec![write("a", Some(0))]),
            Ok(StoreReply::Committed(Revision(1)))
        );
        let batch = vec![write("b", Some(0)), write("a", Some(0))];
        assert_eq!(commit(&mut kv, at, batch), Err(StoreError::Conflict));
        assert_eq!(kv.revision(&key("b")), Revision::ABSENT);
        let batch = vec![write("b", Some(0)), write("a", Some(1))];
        assert_eq!(commit(&mut kv, at, batch), Ok(StoreReply::Committed(Revision(3))));
        assert_eq!((kv.revision(&key("b")), kv.revision(&key("a"))), (Revision(2), Revision(3)));
    }

    #[test]
    fn an_expired_key_is_absent_and_a_rewrite_renews_it() {
        let mut kv = Kv::default();
        let lease =
            |expect| Write { ttl: Some(Span::from_secs(2)), ..write("lease", Some(expect)) };
        commit(&mut kv, Time::ZERO, vec![lease(0)]).unwrap();
        let at = |secs| Time::ZERO + Duration::from_secs(secs);
        commit(&mut kv, at(1), vec![lease(1)]).unwrap();
        assert_eq!(commit(&mut kv, at(2), vec![lease(0)]), Err(StoreError::Conflict));
        assert_eq!(commit(&mut kv, at(3), vec![lease(2)]), Err(StoreError::Conflict));
        assert!(commit(&mut kv, at(3), vec![lease(0)]).is_ok());
    }

    #[test]
    fn of_what_has_ended_an_earlier_write_without_a_life_may_come_back() {
        let mut kv = Kv::default();
        kv.keep_replaced();
        let at = |secs| Time::ZERO + Duration::from_secs(secs);
        let mortal = |expect| Write { ttl: Some(Span::from_secs(1)), ..write("a", Some(expect)) };
        commit(&mut kv, at(0), vec![write("a", Some(0))]).unwrap();
        commit(&mut kv, at(0), vec![mortal(1)]).unwrap();
        kv.expire(at(0));
        assert_eq!(kv.may_come_back().count(), 0, "it is still there");
        kv.expire(at(2));
        let entry = kv.may_come_back().next().unwrap()[0].clone();
        assert_eq!((&entry.key, entry.revision), (&key("a"), Revision(1)));
        kv.bring_back(entry);
        assert!(kv.is_brought_back(&key("a")));
        commit(&mut kv, at(9), vec![mortal(1)]).unwrap();
        assert!(!kv.is_brought_back(&key("a")));
        commit(&mut kv, at(11), vec![mortal(0)]).unwrap();
        kv.expire(at(20));
        let revisions: Vec<_> = kv.may_come_back().flatten().map(|entry| entry.revision).collect();
        assert_eq!(revisions, [Revision(1), Revision(1)], "what had a life does not");
    }

    #[test]
    fn an_undecided_proposal_holds_its_keys_until_it_is_decided() {
        let mut kv = Kv::default();
        let held = vec![write("a", Some(0))];
        kv.hold(&held);
        assert_eq!(commit(&mut kv, Time::ZERO, vec![write("a", None)]), Err(StoreError::InFlight));
        kv.release(&held);
        assert!(commit(&mut kv, Time::ZERO, held).is_ok());
    }
}
