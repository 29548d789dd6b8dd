//! What store and bus would refuse half-way is refused here, before anything changes.

use super::{Planner, Slots};
use crate::api::{ErrorBody, OperationRequest};
use crate::coordination::plan::Plan;
use crate::deploy::manifest::Code;
use crate::deploy::spec::{Manifest, Replicas};
use crate::deploy::validate::{MAX_COMMIT_BYTES, Violation, validate};
use crate::id::ServiceName;

/// The most instances of a counted service.
pub(super) const MAX_REPLICAS: u32 = 1000;
/// The most writes of a batch: the store takes 900.
pub(super) const MAX_WRITES: usize = 900;
/// Writes of the commit's batch besides claims: commit, head, allocation, lease, record. The batch that ends an operation has lease and
/// record besides its lifecycle facts, one for each slot that was filled or emptied.
pub(super) const OTHER_WRITES: usize = 5;
/// The largest plan and request together, in bytes of JSON. Their record must fit into one message of the store, 2 MiB, also
/// when notes and an error with its log lines are added. A command to a machine holds one spec, which is below
/// [`MAX_COMMIT_BYTES`], so it is within the bus's 1 MiB.
pub(super) const MAX_RECORD_BYTES: usize = 1664 * 1024;

/// How long the JSON of a value is; it is not kept.
fn bytes(value: &impl serde::Serialize) -> usize {
    let mut length = Length(0);
    serde_json::to_writer(&mut length, value).map_or(usize::MAX, |()| length.0)
}

struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, piece: &[u8]) -> std::io::Result<usize> {
        self.0 += piece.len();
        Ok(piece.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Planner<'_> {
    /// What shows before anything is placed. A request that came without a manifest's text is held to the same rules.
    pub(super) fn check_target(&self) -> Result<(), ErrorBody> {
        let running = self.target.services.iter().filter(|(_, target)| !target.stopped);
        for (name, target) in running {
            if let Replicas::Count(count) = target.spec.placement.replicas
                && count > MAX_REPLICAS
            {
                let message = format!(
                    "service {name} shall have {count} instances; {MAX_REPLICAS} are the most"
                );
                return Err(self.refused("OUT_OF_RANGE", message));
            }
        }
        let services = self.target.services.iter().map(|(name, t)| (name.clone(), t.spec.clone()));
        let manifest = Manifest { namespace: self.namespace.clone(), services: services.collect() };
        let refused = |violation: &Violation| match self.request {
            OperationRequest::Deploy { .. } => true,
            // Of two services with one route the gateway would serve one, and the other may be the one that is named.
            OperationRequest::DeployService { service, .. } => {
                violation.code == Code::RouteConflict
                    || violation.service.as_ref().is_none_or(|of| of == service)
            }
            // Who brings no service can do nothing about how one was written.
            _ => matches!(violation.code, Code::TooMany | Code::TooLarge),
        };
        match validate(&manifest).into_iter().find(refused) {
            None => Ok(()),
            Some(violation) => {
                let hint = violation.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
                let message = format!("{}{hint}", violation.message);
                Err(self.refused(violation.code.as_str(), message))
            }
        }
    }

    /// What there is now shows what can be left out.
    fn refused(&self, code: &str, message: String) -> ErrorBody {
        let next = match self.facts.head {
            Some(_) => format!("ployzctl namespace inspect {}", self.namespace),
            None => "ployzctl validate".to_owned(),
        };
        ErrorBody::new(code, message).next(next)
    }

    /// What only the finished plan shows.
    pub(super) fn check_plan(&self, plan: &Plan, slots: &Slots) -> Result<(), ErrorBody> {
        let split = "split the namespace, or change fewer services at once";
        let size = bytes(&plan.commit.commit);
        if size > MAX_COMMIT_BYTES {
            let message = format!(
                "the commit would take {size} bytes; {MAX_COMMIT_BYTES} are the limit: {split}"
            );
            return Err(self.refused("COMMIT_TOO_LARGE", message));
        }
        for (what, count) in
            [("claims", self.changed_claims(plan)), ("slots", self.changed_slots(plan, slots))]
        {
            if count + OTHER_WRITES > MAX_WRITES {
                let most = MAX_WRITES - OTHER_WRITES;
                let message = format!(
                    "the operation changes {count} {what}; {most} can be written at once: {split}"
                );
                return Err(self.refused("TOO_MANY_WRITES", message));
            }
        }
        let size = bytes(plan).saturating_add(bytes(self.request));
        if size > MAX_RECORD_BYTES {
            let message = format!(
                "request and plan take {size} bytes; {MAX_RECORD_BYTES} can be recorded: {split}"
            );
            return Err(self.refused("OPERATION_TOO_LARGE", message));
        }
        Ok(())
    }

    /// What the namespace has already is not written again.
    fn changed_claims(&self, plan: &Plan) -> usize {
        let there = |key| self.facts.claims.get(key).map(|there| &there.value);
        let written = plan.commit.claims.iter().filter(|(key, claim)| there(key) != Some(*claim));
        written.count() + plan.commit.releases.len()
    }

    /// A slot whose instance is replaced is written once.
    fn changed_slots(&self, plan: &Plan, slots: &Slots) -> usize {
        let stays = |service: &ServiceName, slot: &u32| {
            let committed = plan.commit.commit.services.get(service);
            committed.is_some_and(|committed| committed.slots.contains_key(slot))
        };
        let now = self.facts.head_commit().into_iter().flat_map(|head| &head.services);
        let emptied = now
            .flat_map(|(service, now)| now.slots.keys().filter(move |slot| !stays(service, slot)));
        slots.new.len() + emptied.count()
    }
}
