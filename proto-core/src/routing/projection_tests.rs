use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::digest::Digest;
use crate::id::{OperationId, ServiceName};
use crate::store::facts::{CommittedInstance, CommittedService};
use crate::store::{Entry, FollowEvent};

/// A service with an instance at each address, whose port is called `http`.
pub(in crate::routing) fn service(addresses: &[&str]) -> CommittedService {
    let digest = Digest::of_bytes(b"x");
    let slots = addresses.iter().enumerate().map(|(slot, address)| {
        let address: std::net::SocketAddr = address.parse().unwrap();
        let instance = CommittedInstance {
            machine: "m1".parse().unwrap(),
            instance: format!("i-{slot}").parse().unwrap(),
            operation: OperationId::from_digest(&digest),
            config_hash: digest,
            workload: digest,
            address: address.ip(),
            ports: [("http".to_owned(), address.port())].into(),
        };
        (slot as u32, instance)
    });
    CommittedService {
        revision: digest,
        stopped: false,
        slots: slots.collect(),
        routes: Vec::new(),
    }
}

pub(in crate::routing) fn commit(
    namespace: &str,
    number: u64,
    services: Vec<(&str, CommittedService)>,
) -> Commit {
    let digest = Digest::of_bytes(b"x");
    let services = services.into_iter().map(|(name, service)| (name.parse().unwrap(), service));
    Commit {
        v: VERSION,
        namespace: namespace.parse().unwrap(),
        number,
        operation: OperationId::from_digest(&digest),
        request: digest,
        summary: "deploy".to_owned(),
        at: UnixTime::from_millis(0),
        services: services.collect::<BTreeMap<ServiceName, _>>(),
    }
}

pub(in crate::routing) fn commits(all: impl IntoIterator<Item = Commit>) -> Commits {
    all.into_iter()
        .map(|commit| {
            let served = Served { head: Revision(1), commit: Arc::new(commit) };
            (served.commit.namespace.clone(), served)
        })
        .collect()
}

fn entry(key: &str, revision: u64, value: Value) -> FollowEvent {
    let key = Key::new(key).unwrap();
    FollowEvent::Entry(Entry { key, revision: Revision(revision), value: value.into() })
}

fn a_commit(ns: &str, number: u64, revision: u64) -> FollowEvent {
    let value = serde_json::to_value(commit(ns, number, Vec::new())).unwrap();
    entry(&format!("ns.{ns}.commit.{number}"), revision, value)
}

fn a_head(ns: &str, number: u64, revision: u64) -> FollowEvent {
    entry(&format!("ns.{ns}.head"), revision, json!({"v": 1, "commit": number}))
}

fn removed(ns: &str, revision: u64) -> FollowEvent {
    entry(&format!("ns.{ns}.head"), revision, json!({"v": 1, "commit": 9, "removed": true}))
}

fn caught_up(position: u64) -> FollowEvent {
    FollowEvent::CaughtUp { position: Revision(position) }
}

fn uncertain() -> FollowEvent {
    FollowEvent::Uncertain { reason: "gap".to_owned() }
}

fn feed(projection: &mut Projection, events: impl IntoIterator<Item = FollowEvent>) {
    for event in events {
        projection.handle_input(UnixTime::from_millis(7), event);
    }
}

/// What was published last, as `ns:commit`; `None`: nothing was published.
fn published(projection: &mut Projection) -> Option<String> {
    let mut last = None;
    while let Some(effect) = projection.poll_effect() {
        if let Effect::Publish(commits) = effect {
            let parts = commits.iter().map(|(ns, served)| format!("{ns}:{}", served.commit.number));
            last = Some(parts.collect::<Vec<_>>().join(" "));
        }
    }
    last
}

fn loaded() -> Projection {
    let mut projection = Projection::new();
    feed(&mut projection, [a_commit("a", 1, 1), a_head("a", 1, 2), caught_up(5)]);
    assert_eq!(published(&mut projection).as_deref(), Some("a:1"));
    projection
}

#[test]
fn nothing_is_published_before_the_first_load_is_complete() {
    let mut projection = Projection::new();
    feed(&mut projection, [a_commit("a", 1, 1), a_head("a", 1, 2)]);
    assert_eq!(published(&mut projection), None);
    assert!(!projection.status().loaded);
    feed(&mut projection, [caught_up(2)]);
    assert_eq!(published(&mut projection).as_deref(), Some("a:1"));
    assert!(projection.status().loaded);
}

#[test]
fn an_empty_cluster_is_published_too() {
    let mut projection = Projection::new();
    feed(&mut projection, [caught_up(0)]);
    assert_eq!(published(&mut projection).as_deref(), Some(""));
    assert!(projection.status().loaded);
}

#[test]
fn a_commit_serves_when_both_it_and_the_head_are_there_in_either_order() {
    for head_first in [false, true] {
        let mut projection = loaded();
        let (first, second) = if head_first {
            (a_head("a", 2, 6), a_commit("a", 2, 7))
        } else {
            (a_commit("a", 2, 6), a_head("a", 2, 7))
        };
        feed(&mut projection, [first]);
        assert_eq!(published(&mut projection), None);
        // The head at 6 is not in before its commit is.
        assert_eq!(projection.status().applied, Revision(if head_first { 5 } else { 6 }));
        feed(&mut projection, [second]);
        assert_eq!(published(&mut projection).as_deref(), Some("a:2"));
        assert_eq!(projection.status().applied, Revision(7));
        assert_eq!(projection.status().problems, Vec::<String>::new());
    }
}

#[test]
fn a_waiting_head_holds_back_the_whole_and_its_own_namespace_only() {
    let mut projection = loaded();
    let other = "b".parse().unwrap();
    feed(&mut projection, [a_head("a", 2, 6), a_commit("b", 1, 7), a_head("b", 1, 8)]);
    let status = projection.status();
    assert_eq!(status.applied(None), Revision(5));
    assert_eq!(status.applied(Some(&"a".parse().unwrap())), Revision(5));
    assert_eq!(status.applied(Some(&other)), Revision(8));
    assert_eq!(status.applied(Some(&"unknown".parse().unwrap())), Revision(8));
    assert_eq!(published(&mut projection).as_deref(), Some("a:1 b:1"));
}

#[test]
fn a_reload_is_built_aside_and_swapped_when_complete() {
    let mut projection = loaded();
    feed(&mut projection, [uncertain(), a_commit("b", 1, 8), a_head("b", 1, 9)]);
    assert_eq!(published(&mut projection), None);
    let status = projection.status();
    assert_eq!(status.applied, Revision(5), "what is served is still the old state");
    assert_eq!(status.stale.unwrap().reason, "gap");
    feed(&mut projection, [caught_up(9)]);
    assert_eq!(published(&mut projection).as_deref(), Some("b:1"), "what was not brought is gone");
    assert_eq!(projection.status().stale, None);
    assert_eq!(projection.status().applied, Revision(9));
}

#[test]
fn a_reload_that_brings_nothing_at_all_does_not_empty_the_table() {
    let mut projection = loaded();
    feed(&mut projection, [uncertain(), caught_up(0)]);
    assert_eq!(published(&mut projection), None);
    feed(&mut projection, [FollowEvent::Back]);
    assert!(projection.status().stale.is_some());
    feed(&mut projection, [a_commit("a", 2, 3), a_head("a", 2, 4)]);
    assert_eq!(published(&mut projection).as_deref(), Some("a:2"));
    assert_eq!(projection.status().stale, None);
}

#[test]
fn a_removed_namespace_serves_no_more() {
    let mut projection = loaded();
    feed(&mut projection, [removed("a", 6)]);
    assert_eq!(published(&mut projection).as_deref(), Some(""));
    feed(&mut projection, [a_commit("a", 1, 7), a_head("a", 1, 8)]);
    assert_eq!(published(&mut projection).as_deref(), Some("a:1"), "numbers begin anew");

    feed(&mut projection, [uncertain(), removed("a", 9), caught_up(9)]);
    assert_eq!(published(&mut projection).as_deref(), Some(""), "a load that says so is believed");
}

#[test]
fn what_cannot_be_read_is_reported_and_changes_nothing() {
    let bad = [
        entry("ns.a.head", 6, json!("text")),
        entry("ns.a.head", 6, json!({"v": 99, "commit": 2})),
        entry("ns.a.head", 6, json!({"v": 1})),
        FollowEvent::Unreadable {
            key: Key::new("ns.a.head").unwrap(),
            revision: Revision(6),
            reason: "no JSON".to_owned(),
        },
    ];
    for bad in bad {
        for reload in [false, true] {
            let mut projection = loaded();
            if reload {
                feed(
                    &mut projection,
                    [uncertain(), a_commit("a", 1, 1), bad.clone(), caught_up(6)],
                );
            } else {
                feed(&mut projection, [bad.clone()]);
            }
            assert_eq!(projection.served()[&"a".parse().unwrap()].commit.number, 1);
            let status = projection.status();
            assert!(status.problems[0].starts_with("ns.a.head at 6: "), "{:?}", status.problems);
            assert_eq!(status.applied, Revision(5), "a head that can't be read is not applied");
            feed(&mut projection, [a_commit("a", 3, 7), a_head("a", 3, 8)]);
            assert_eq!(published(&mut projection).as_deref(), Some("a:3"));
            assert_eq!(projection.status().problems, Vec::<String>::new());
            assert_eq!(projection.status().applied, Revision(8));
        }
    }
}

#[test]
fn a_commit_under_another_key_than_its_own_is_refused() {
    let mut projection = loaded();
    let value = serde_json::to_value(commit("other", 2, Vec::new())).unwrap();
    feed(&mut projection, [entry("ns.a.commit.2", 6, value), a_head("a", 2, 7)]);
    assert_eq!(published(&mut projection), None);
    let problem = &projection.status().problems[0];
    assert!(problem.contains("it says that it is commit 2 of other"), "{problem}");
}

#[test]
fn commits_that_the_head_left_behind_may_be_rewritten_to_expire() {
    let mut projection = loaded();
    feed(&mut projection, [a_commit("a", 2, 6), a_head("a", 2, 7)]);
    feed(&mut projection, [entry("ns.a.commit.1", 8, json!({"expired": true}))]);
    assert_eq!(projection.status().problems, Vec::<String>::new());
    assert_eq!(projection.status().applied, Revision(8));
}

#[test]
fn a_store_that_is_away_leaves_the_state_and_marks_it_stale_since_the_first_word() {
    let mut projection = loaded();
    projection.handle_input(
        UnixTime::from_millis(100),
        FollowEvent::Away { reason: "no responders".to_owned() },
    );
    projection.handle_input(UnixTime::from_millis(200), uncertain());
    assert_eq!(published(&mut projection), None);
    assert_eq!(projection.status().stale.unwrap().since, UnixTime::from_millis(100));
    feed(&mut projection, [a_commit("a", 1, 1), a_head("a", 1, 2), caught_up(5)]);
    assert_eq!(projection.status().stale, None);

    feed(&mut projection, [FollowEvent::Away { reason: "x".to_owned() }, FollowEvent::Back]);
    assert_eq!(projection.status().stale, None, "nothing was missed");
}

#[test]
fn a_snapshot_restores_what_served_marked_stale_since_it_was_made() {
    let mut projection = loaded();
    feed(&mut projection, [a_commit("a", 2, 6), a_head("a", 2, 7)]);
    let mut snapshot = None;
    while let Some(effect) = projection.poll_effect() {
        if let Effect::Persist(latest) = effect {
            snapshot = Some(serde_json::to_string(&latest).unwrap());
        }
    }
    let snapshot: Snapshot = serde_json::from_str(&snapshot.unwrap()).unwrap();
    let mut restored = Projection::restore(snapshot.clone()).unwrap();
    assert_eq!(published(&mut restored).as_deref(), Some("a:2"));
    assert_eq!(restored.status().applied, Revision(7));
    assert_eq!(restored.status().stale.unwrap().since, UnixTime::from_millis(7));
    feed(&mut restored, [a_commit("a", 2, 6), a_head("a", 2, 7), caught_up(7)]);
    assert_eq!(restored.status().stale, None);

    assert!(Projection::restore(Snapshot { v: VERSION + 1, ..snapshot }).is_err());
}

#[test]
fn commits_that_no_head_names_are_bounded() {
    let mut projection = loaded();
    feed(&mut projection, (2..1000).map(|n| a_commit("a", n, n + 10)));
    assert!(
        projection.live.namespaces.values().all(|tracked| tracked.pending.len() <= MAX_PENDING)
    );
    feed(&mut projection, [a_head("a", 999, 2000)]);
    assert_eq!(published(&mut projection).as_deref(), Some("a:999"));
}

fn any_event() -> impl Strategy<Value = FollowEvent> {
    let ns = prop_oneof![Just("a"), Just("b")];
    prop_oneof![
        (ns.clone(), 1..4u64, 1..50u64).prop_map(|(ns, n, r)| a_commit(ns, n, r)),
        (ns.clone(), 1..4u64, 1..50u64).prop_map(|(ns, n, r)| a_head(ns, n, r)),
        (ns.clone(), 1..50u64).prop_map(|(ns, r)| removed(ns, r)),
        (ns, 1..50u64).prop_map(|(ns, r)| entry(&format!("ns.{ns}.head"), r, json!([1]))),
        (1..50u64).prop_map(caught_up),
        (1..50u64).prop_map(|r| FollowEvent::Position(Revision(r))),
        Just(uncertain()),
        Just(FollowEvent::Away { reason: String::new() }),
        Just(FollowEvent::Back),
        (1..50u64).prop_map(|r| entry("lease.ns.a", r, json!(null))),
    ]
}

proptest! {
    #[test]
    fn any_sequence_leaves_a_sound_state(events in proptest::collection::vec(any_event(), 0..60)) {
        let mut projection = Projection::new();
        let mut last = Commits::new();
        for event in events {
            projection.handle_input(UnixTime::from_millis(1), event);
            let mut persisted = None;
            while let Some(effect) = projection.poll_effect() {
                match effect {
                    Effect::Publish(commits) => last = commits,
                    Effect::Persist(snapshot) => persisted = Some(snapshot.commits),
                }
            }
            prop_assert_eq!(projection.served(), &last);
            prop_assert!(persisted.is_none_or(|commits| commits == last));
            let status = projection.status();
            prop_assert!(status.applied <= status.position);
            prop_assert!(status.loaded || last.is_empty());
            for (ns, served) in &last {
                prop_assert_eq!(&served.commit.namespace, ns);
            }
        }
    }
}
