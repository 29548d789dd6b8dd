//! The reference: what a namespace is after each commit follows from what it was and from the request, one after the other, as if
//! nobody else had been there. Heads move by compare-and-set, so the commits of a namespace are that order; an operation whose outcome
//! was unknown is in it or not, and both are right. Whoever is told that everything is as asked for already has asked for what would change
//! nothing of the commit that is named, and that was the head when they asked, or became it since; unless a leader that was deposed answered.

use std::collections::BTreeMap;

use proto_core::api::{OperationRequest, OperationResult, Submission};
use proto_core::coordination::OperationRecord;
use proto_core::deploy::spec::{Replicas, ServiceSpec};
use proto_core::id::{InstanceName, Namespace, ServiceName};
use proto_core::store::Key;
use proto_core::store::facts::{Commit, CommittedService, Head, ServiceRevision};

use super::{Invariant, Seen};
use crate::world::World;

/// What a service is, as far as requests say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Service {
    spec: ServiceSpec,
    stopped: bool,
}

type State = BTreeMap<ServiceName, Service>;

/// See the file's page.
#[derive(Debug, Clone, Default)]
pub(super) struct FollowsFromTheRequest {
    commits: BTreeMap<Namespace, BTreeMap<u64, State>>,
    seen: u64,
}

impl Invariant for FollowsFromTheRequest {
    fn name(&self) -> &'static str {
        "S9 a commit is what its request makes of the one before"
    }

    fn premises(&self) -> u64 {
        self.seen
    }

    fn see(&mut self, seen: &Seen<'_>, world: &World) -> Result<(), String> {
        let writes = match seen {
            Seen::Stored { writes, .. } => writes,
            Seen::Told { submission, head, event } => match (submission, event.result()) {
                (
                    Submission::Apply { request } | Submission::ApplyPrepared { request, .. },
                    Some(OperationResult::AlreadyDone { commit }),
                ) => return self.is_done(request, *commit, *head, world),
                _ => return Ok(()),
            },
            _ => return Ok(()),
        };
        for namespace in super::serving::heads_written(writes) {
            let Some(head) = world.kv.get::<Head>(&Key::head(&namespace)) else { continue };
            let Some(commit) = world.kv.get::<Commit>(&Key::commit(&namespace, head.commit)) else {
                return Err(format!("the head of {namespace} names a commit that is not there"));
            };
            let record: Option<OperationRecord> = world.kv.get(&Key::operation(&commit.operation));
            let Some(request) = record.and_then(|record| record.request) else {
                return Err(format!("{} commits without a request", commit.operation));
            };
            self.seen += 1;
            let commits = self
                .commits
                .entry(namespace.clone())
                .or_insert_with(|| earlier(world, &namespace, commit.number));
            let expected_number = commits.last_key_value().map_or(1, |(number, _)| number + 1);
            if commit.number != expected_number {
                return Err(format!(
                    "commit {} of {namespace} comes where {expected_number} is next",
                    commit.number
                ));
            }
            let state = follow(commits, &request)
                .map_err(|why| format!("{} committed, and {why}", request.summary()))?;
            compare(&state, &commit)
                .and_then(|()| renewed(&request, &commit, world))
                .map_err(|why| format!("commit {} of {namespace}: {why}", commit.number))?;
            commits.insert(commit.number, state);
        }
        Ok(())
    }
}

impl FollowsFromTheRequest {
    /// Somebody was told that this commit is what they ask for; when they asked, the head was this.
    fn is_done(
        &mut self,
        request: &OperationRequest,
        n: u64,
        asked_at: Option<u64>,
        world: &World,
    ) -> Result<(), String> {
        let namespace = request.namespace();
        let said = || format!("{} is said to be done by commit {n}", request.summary());
        let commit: Option<Commit> = world.kv.get(&Key::commit(namespace, n));
        let head: Option<Head> = world.kv.get(&Key::head(namespace));
        self.seen += 1;
        let (Some(commit), Some(head)) = (commit, head) else {
            return Err(format!("{}, which is not there", said()));
        };
        if let Some(asked_at) = asked_at.filter(|asked_at| n < *asked_at) {
            return Err(format!("{}, and it was asked for when the head was {asked_at}", said()));
        }
        if n > head.commit {
            return Err(format!("{}, and the head is {}", said(), head.commit));
        }
        let commits = self
            .commits
            .entry(namespace.clone())
            .or_insert_with(|| earlier(world, namespace, n + 1));
        let up_to: BTreeMap<_, _> = commits.range(..=n).map(|(n, s)| (*n, s.clone())).collect();
        let same = follow(&up_to, request).is_ok_and(|state| up_to.get(&n) == Some(&state));
        let renews = matches!(request, OperationRequest::Restart { .. });
        if !same || renews {
            return Err(format!("{}, which is of {}", said(), commit.summary));
        }
        Ok(())
    }
}

/// The commits that were there before anybody looked.
fn earlier(world: &World, namespace: &Namespace, before: u64) -> BTreeMap<u64, State> {
    let commit = |number: u64| -> Option<(u64, State)> {
        let commit: Commit = world.kv.get(&Key::commit(namespace, number))?;
        let service = |(name, service): (ServiceName, CommittedService)| {
            let key = Key::revision(namespace, &service.revision);
            let revision: ServiceRevision = world.kv.get(&key)?;
            Some((name, Service { spec: revision.spec, stopped: service.stopped }))
        };
        Some((number, commit.services.into_iter().filter_map(service).collect()))
    };
    (1..before).filter_map(commit).collect()
}

/// What the request makes of it.
fn follow(commits: &BTreeMap<u64, State>, request: &OperationRequest) -> Result<State, String> {
    let last = commits.last_key_value();
    let mut state = last.map(|(_, state)| state.clone()).unwrap_or_default();
    let missing = |name: &ServiceName| format!("there is no service {name}");
    match request {
        OperationRequest::Deploy { manifest } => {
            let services = manifest.services.iter();
            let running = |spec: &ServiceSpec| Service { spec: spec.clone(), stopped: false };
            state = services.map(|(name, spec)| (name.clone(), running(spec))).collect();
        }
        OperationRequest::DeployService { service, spec, .. } => {
            let spec = (**spec).clone();
            state.insert(service.clone(), Service { spec, stopped: false });
        }
        OperationRequest::Scale { replicas, .. } => {
            for (name, count) in replicas {
                let service = state.get_mut(name).ok_or_else(|| missing(name))?;
                service.spec.placement.replicas = Replicas::Count(*count);
                service.stopped = false;
            }
        }
        OperationRequest::Restart { service, .. } => {
            state.get_mut(service).ok_or_else(|| missing(service))?.stopped = false;
        }
        OperationRequest::Stop { service, .. } => {
            state.get_mut(service).ok_or_else(|| missing(service))?.stopped = true;
        }
        OperationRequest::Rollback { to, .. } => {
            let number = last.map_or(0, |(number, _)| *number);
            let to = to.unwrap_or(number.saturating_sub(1));
            let earlier = commits.get(&to).ok_or_else(|| format!("there is no commit {to}"))?;
            state = earlier.clone();
        }
        OperationRequest::RemoveNamespace { .. } => state.clear(),
    }
    Ok(state)
}

/// After a restart every slot of the service has another instance.
fn renewed(request: &OperationRequest, commit: &Commit, world: &World) -> Result<(), String> {
    let OperationRequest::Restart { namespace, service } = request else { return Ok(()) };
    let before = Key::commit(namespace, commit.number.saturating_sub(1));
    let before: Option<Commit> = world.kv.get(&before);
    let Some(before) = before.and_then(|mut before| before.services.remove(service)) else {
        return Ok(());
    };
    let now = commit.services.get(service).into_iter().flat_map(|service| service.slots.values());
    let old = |name: &InstanceName| before.slots.values().any(|old| old.instance == *name);
    match now.map(|slot| &slot.instance).find(|name| old(name)) {
        Some(name) => Err(format!("{name} was to be restarted, and is the same")),
        None => Ok(()),
    }
}

fn compare(state: &State, commit: &Commit) -> Result<(), String> {
    if !state.keys().eq(commit.services.keys()) {
        let names: Vec<_> = commit.services.keys().map(ToString::to_string).collect();
        return Err(format!("its services are {}", names.join(" ")));
    }
    for (name, service) in state {
        let there = &commit.services[name];
        if there.revision != service.spec.revision() || there.stopped != service.stopped {
            return Err(format!("{name} is another revision, or stopped: {}", there.stopped));
        }
        let wanted = match service.spec.placement.replicas {
            _ if service.stopped => Some(0),
            Replicas::Count(count) => Some(count as usize),
            Replicas::Global => None,
        };
        if wanted.is_some_and(|wanted| wanted != there.slots.len()) {
            return Err(format!("{name} has {} slots", there.slots.len()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Duration;

    use super::*;
    use crate::choice::Choices;
    use crate::cluster::Cluster;
    use crate::fate::{Budget, Fates};
    use crate::invariants::Invariants;
    use crate::scenario::{self, founded};

    #[test]
    fn what_was_done_by_an_earlier_commit_is_not_done() {
        // v1 over v2 over v1.
        let back = scenario::by_name("back").unwrap();
        let choices = RefCell::new(Choices::recorded(Vec::new()));
        let fates = Fates::Chosen(&choices, Budget::none());
        let mut cluster = Cluster::new(founded(1), fates, Invariants::new(true));
        for request in back.before {
            cluster.submit(0, Submission::Apply { request }).unwrap();
            cluster.run(Duration::from_secs(90), 60_000, |_| false);
        }
        let done = |commit, asked_at| {
            let mut rule = FollowsFromTheRequest::default();
            rule.is_done(&back.request, commit, asked_at, &cluster.world)
        };
        let older = done(1, Some(2)).unwrap_err();
        assert!(older.contains("asked for when the head was 2"), "{older}");
        assert_eq!(done(1, Some(1)), Ok(()), "the head moved after it was asked for");
        assert_eq!(done(1, None), Ok(()), "a deposed leader had answered");
        assert!(done(2, Some(2)).unwrap_err().contains("which is of"), "that is v2");
    }
}
