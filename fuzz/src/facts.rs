//! What the store holds and what its follower says, a line each:
//!
//! ```text
//! ns.shop.head {"v":1,"commit":1}      a key and its value; what is no JSON is a key that cannot be read
//! ! caught-up 12                       what the follower says beside: caught-up N, position N, uncertain, away, back
//! ? {"mode":"apply","request":…}       what is asked of a machine that reads these facts
//! @ shop.test /path                    a request at the gateway
//! # web.shop.ployz.internal            a name asked for
//! ```

use std::net::{IpAddr, Ipv4Addr};

use proto_core::api::Submission;
use proto_core::coordination::OperationRecord;
use proto_core::deploy::spec::{Manifest, ServiceSpec};
use proto_core::machine::MachineRecord;
use proto_core::routing::{Commits, DnsZone, Effect, Projection, RouteTable, Snapshot};
use proto_core::store::facts::{
    Allocation, Claim, Cluster, Commit, Head, InstanceFact, Lease, ServiceRevision,
};
use proto_core::store::{Entry, Facts, FollowEvent, Key, Revision};
use proto_core::time::UnixTime;
use serde_json::Value;
use sim::invariants::Invariants;

use crate::{asked, reference, stable};

/// How many lines are read, and how many operations are asked for.
const MOST_LINES: usize = 64;
const MOST_ASKED: usize = 3;

/// Reads the lines and lets a gateway, a DNS server and a machine live with them.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut input = Input::default();
    for (line, at) in text.lines().take(MOST_LINES).zip(1..) {
        input.read(line, Revision(at));
    }
    // Half of the facts decide nothing, and all of them are read without harm.
    let _ = Facts::parse(&input.entries);
    let commits = follow(&input.events);
    serve(&commits, &input.requests, &input.names);

    if !input.submissions.is_empty() {
        let mut world = asked::founded();
        for entry in input.entries {
            asked::put(&mut world, entry.key, Value::clone(&entry.value));
        }
        asked::ask(world, input.submissions, Invariants::none());
    }
}

#[derive(Default)]
struct Input {
    entries: Vec<Entry>,
    events: Vec<FollowEvent>,
    submissions: Vec<Submission>,
    requests: Vec<(String, String)>,
    names: Vec<String>,
}

impl Input {
    fn read(&mut self, line: &str, at: Revision) {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        match first {
            "!" => self.events.extend(follower(rest)),
            "?" => {
                let submission = stable::read::<Submission>(rest.as_bytes());
                self.submissions.extend(submission.filter(|_| self.submissions.len() < MOST_ASKED));
            }
            "@" => {
                let (host, path) = rest.split_once(' ').unwrap_or((rest, "/"));
                self.requests.push((host.to_owned(), path.to_owned()));
            }
            "#" => self.names.push(rest.to_owned()),
            _ => {
                let Ok(key) = Key::new(first) else { return };
                every_type(rest.as_bytes());
                let event = match serde_json::from_str::<Value>(rest) {
                    Ok(value) => {
                        let entry = Entry { key, revision: at, value: value.into() };
                        self.entries.push(entry.clone());
                        FollowEvent::Entry(entry)
                    }
                    Err(error) => {
                        FollowEvent::Unreadable { key, revision: at, reason: error.to_string() }
                    }
                };
                self.events.push(event);
            }
        }
    }
}

/// Whatever key it is under: a value is read as every fact that there is.
fn every_type(value: &[u8]) {
    stable::read_as!(
        value;
        Cluster, MachineRecord, Head, Commit, ServiceRevision, InstanceFact, Allocation, Claim, Lease,
        OperationRecord, Snapshot, Manifest, ServiceSpec,
    );
}

fn follower(said: &str) -> Option<FollowEvent> {
    let (what, number) = said.split_once(' ').unwrap_or((said, "0"));
    let position = Revision(number.parse().ok()?);
    let reason = "the input says so".to_owned();
    Some(match what {
        "caught-up" => FollowEvent::CaughtUp { position },
        "position" => FollowEvent::Position(position),
        "uncertain" => FollowEvent::Uncertain { reason },
        "away" => FollowEvent::Away { reason },
        "back" => FollowEvent::Back,
        _ => return None,
    })
}

/// What a gateway serves in the end, having checked after each event that it says the truth about it.
fn follow(events: &[FollowEvent]) -> Commits {
    let mut projection = Projection::new();
    let mut published = Commits::new();
    for (event, at) in events.iter().zip(1..) {
        projection.handle_input(UnixTime::from_millis(at), event.clone());
        let mut kept = None;
        while let Some(effect) = projection.poll_effect() {
            match effect {
                Effect::Publish(commits) => published = commits,
                Effect::Persist(snapshot) => kept = Some(snapshot),
            }
        }
        assert_eq!(projection.served(), &published);
        let status = projection.status();
        assert!(status.applied <= status.position, "{status:?}");
        assert!(status.loaded || published.is_empty(), "{status:?}");
        for (namespace, served) in &published {
            assert_eq!(&served.commit.namespace, namespace);
        }
        if let Some(snapshot) = kept {
            assert_eq!(snapshot.commits, published);
            let text = serde_json::to_vec(&snapshot).expect("snapshots are plain JSON");
            let read = stable::read::<Snapshot>(&text).expect("our own writing");
            let restored = Projection::restore(read).expect("of this build");
            assert_eq!(restored.served(), &published);
        }
    }
    published
}

fn serve(commits: &Commits, requests: &[(String, String)], names: &[String]) {
    let (table, zone) = (RouteTable::new(commits), DnsZone::new(commits));
    for (host, path) in requests {
        reference::compare_route(commits, &table, host, path);
    }
    let nobody = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let services = commits.values().flat_map(|served| served.commit.services.values());
    let first = services.flat_map(|service| service.slots.values()).next();
    let caller = first.map_or(nobody, |instance| instance.address);
    for name in names.iter().map(String::as_str).chain(["ployz.internal"]) {
        reference::compare_names(commits, &zone, name, caller);
        reference::compare_names(commits, &zone, name, nobody);
    }
}
