//! L3, while a run goes on: when an operation has come to its end and no other of its namespace is under way, the namespace has claimed the
//! host names that its head routes, and no others. What an abort leaves behind would be a host name that nobody can have. A claim that
//! the store brought back is excepted: the next commit of its namespace gives it up.

use std::collections::BTreeSet;

use proto_core::coordination::Phase;
use proto_core::id::Namespace;
use proto_core::store::facts::{Claim, Commit, Head};
use proto_core::store::{Key, Scope};
use serde::Deserialize;

use super::{Invariant, Seen};
use crate::world::World;

/// See the file's page.
#[derive(Debug, Clone, Default)]
pub(super) struct ClaimsAreOfTheHead {
    seen: u64,
}

impl Invariant for ClaimsAreOfTheHead {
    fn name(&self) -> &'static str {
        "L3 host names are claimed by what is committed"
    }

    fn premises(&self) -> u64 {
        self.seen
    }

    fn see(&mut self, seen: &Seen<'_>, world: &World) -> Result<(), String> {
        let Seen::Stored { records, .. } = seen else { return Ok(()) };
        for record in records.iter().filter(|record| record.phase.is_final()) {
            let Scope::Namespace(namespace) = &record.scope;
            if is_under_way(world, &record.scope) {
                continue;
            }
            self.seen += 1;
            compare(world, namespace).map_err(|why| format!("{} ends, and {why}", record.id))?;
        }
        Ok(())
    }
}

/// What matters here of an operation's record.
#[derive(Deserialize)]
struct Progress {
    scope: Scope,
    phase: Phase,
}

fn is_under_way(world: &World, scope: &Scope) -> bool {
    let operations = Key::operations();
    let mut records = world.kv.under(&operations);
    records.any(|(_, value)| {
        let record = Progress::deserialize(&**value);
        record.is_ok_and(|record| record.scope == *scope && !record.phase.is_final())
    })
}

fn compare(world: &World, namespace: &Namespace) -> Result<(), String> {
    let head: Option<Head> = world.kv.get(&Key::head(namespace));
    let head = head.filter(|head| !head.removed);
    let commit: Option<Commit> =
        head.and_then(|head| world.kv.get(&Key::commit(namespace, head.commit)));
    let routed = commit.as_ref().map(routed).unwrap_or_default();
    let hosts = Key::hosts();
    let claimed = world.kv.under(&hosts).filter(|(_, value)| {
        let claim: Result<Claim, _> = Claim::deserialize(&***value);
        claim.is_ok_and(|claim| claim.namespace == *namespace && !claim.released)
    });
    let claimed: BTreeSet<_> = claimed.map(|(key, _)| key.clone()).collect();
    let mut more = claimed.difference(&routed);
    if let Some(key) = more.find(|key| !world.kv.is_brought_back(key)) {
        return Err(format!("{namespace} still has {key}, which its head does not route"));
    }
    if let Some(key) = routed.difference(&claimed).next() {
        return Err(format!("the head of {namespace} routes {key}, which it has not claimed"));
    }
    Ok(())
}

/// The claims of every host name that is routed to this commit.
pub(super) fn routed(commit: &Commit) -> BTreeSet<Key> {
    let routes = commit.services.values().flat_map(|service| &service.routes);
    routes.flat_map(|route| &route.hostnames).map(Key::host).collect()
}
