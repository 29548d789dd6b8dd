//! The lease of the scope: taken with the record, renewed on its own, part of every batch.

use super::{LEASE_RENEW, LEASE_TTL, Operation, RETRY, State, StoreOutcome, Tag};
use crate::Outcome;
use crate::daemon::EffectKind;
use crate::id::Epoch;
use crate::mutant::{self, Mutant};
use crate::span::Span;
use crate::store::facts::{Lease, VERSION};
use crate::store::{Key, Revision, StoreReply, StoreRequest, Write};
use crate::time::{Time, UnixTime};

/// A lease that is held, as far as this operation knows.
#[derive(Debug, Clone)]
pub(super) struct HeldLease {
    /// What the key holds.
    pub(super) value: Lease,
    /// Where it was last written.
    pub(super) revision: Revision,
    /// The epoch of the commands that it covers.
    pub(super) epoch: Epoch,
}

impl Operation {
    pub(super) fn nonce(&mut self) -> String {
        format!("{:016x}", self.random.next_u64())
    }

    pub(super) fn lease_write(&self, value: &Lease, expect: Revision) -> Write {
        Write {
            key: Key::lease(self.scope()),
            value: serde_json::to_value(value).expect("facts are plain JSON"),
            expect: Some(expect),
            ttl: Some(Span::from_secs(LEASE_TTL.as_secs())),
        }
    }

    /// A lease of this operation under an epoch of its own: the revision of this very write.
    pub(super) fn fresh_lease(&mut self, wall: UnixTime) -> Lease {
        Lease {
            v: VERSION,
            operation: self.record().id.clone(),
            holder: self.me.clone(),
            nonce: self.nonce(),
            epoch: None,
            since: wall,
            released: false,
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.lease.as_ref().expect("commands are sent under a lease").epoch
    }

    /// Only while no batch is under way: a batch holds the lease at its expected revision.
    pub(super) fn may_renew(&self) -> bool {
        self.lease.is_some()
            && !self.renewing
            && matches!(self.state, State::Asking(_) | State::Running(_) | State::Reading(_))
    }

    pub(super) fn renew(&mut self, _wall: UnixTime) {
        self.renew_at = None;
        if mutant::on(Mutant::RenewDoesNotExtend) {
            return;
        }
        let Some(held) = &self.lease else { return };
        let mut value = held.value.clone();
        value.epoch = Some(held.epoch);
        let write = self.lease_write(&value, held.revision);
        self.renewing = true;
        let request = StoreRequest::Commit { writes: vec![write] };
        self.effects.push_back((Tag::Renew, EffectKind::Store(request)));
    }

    pub(super) fn renew_done(&mut self, now: Time, outcome: StoreOutcome) {
        self.renewing = false;
        self.renew_at = Some(match outcome {
            Outcome::Ok(StoreReply::Committed(revision)) => {
                if let Some(held) = &mut self.lease {
                    held.revision = revision;
                }
                now + LEASE_RENEW
            }
            // Lost or uncertain: the batch that needs it finds out, and looks again. Until then it is tried again, as the store
            // may only have been away for a moment.
            _ => now + RETRY * 4,
        });
        if let State::WriteAgain { at, .. } = &mut self.state {
            // A batch waited for this.
            *at = now;
        }
    }
}
