//! What the tests of the gateway and of the DNS server share: facts, and a store's follower that the test plays.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use io_adapters::control;
use proto_core::deploy::spec::Route;
use proto_core::digest::Digest;
use proto_core::id::OperationId;
use proto_core::store::facts::{Commit, CommittedInstance, CommittedService, Head, VERSION};
use proto_core::store::{Entry, FollowEvent, Key, Revision};
use proto_core::time::UnixTime;
use tokio::sync::mpsc;

/// The store, as far as a follower hears of it.
pub(crate) struct Store {
    events: mpsc::Sender<FollowEvent>,
    revision: u64,
    commits: BTreeMap<String, u64>,
}

impl Store {
    pub(crate) fn new() -> (Self, mpsc::Receiver<FollowEvent>) {
        let (events, follow) = mpsc::channel(64);
        (Self { events, revision: 0, commits: BTreeMap::new() }, follow)
    }

    pub(crate) async fn say(&self, event: FollowEvent) {
        self.events.send(event).await.expect("the sidecar follows");
    }

    pub(crate) async fn caught_up(&self) {
        self.say(FollowEvent::CaughtUp { position: Revision(self.revision) }).await;
    }

    /// Commits a namespace; answers with the revision of its head.
    pub(crate) async fn commit(
        &mut self,
        ns: &str,
        services: Vec<(&str, CommittedService)>,
    ) -> Revision {
        let number = self.commits.entry(ns.to_owned()).or_default();
        *number += 1;
        let digest = Digest::of_bytes(b"request");
        let namespace = ns.parse().unwrap();
        let services = services.into_iter().map(|(name, s)| (name.parse().unwrap(), s)).collect();
        let commit = Commit {
            v: VERSION,
            namespace,
            number: *number,
            operation: OperationId::from_digest(&digest),
            request: digest,
            summary: "deploy".to_owned(),
            at: UnixTime::from_millis(0),
            services,
        };
        let head = Head { v: VERSION, commit: *number, removed: false };
        let key = Key::commit(&commit.namespace, *number);
        self.write(key, serde_json::to_value(&commit).unwrap()).await;
        self.write(Key::head(&commit.namespace), serde_json::to_value(&head).unwrap()).await
    }

    async fn write(&mut self, key: Key, value: serde_json::Value) -> Revision {
        self.revision += 1;
        let revision = Revision(self.revision);
        self.say(FollowEvent::Entry(Entry { key, revision, value: value.into() })).await;
        revision
    }
}

/// A service with an instance at each address; `version` is part of the instances' names.
pub(crate) fn service(
    version: u32,
    route: Option<(&str, &str)>,
    addresses: &[SocketAddr],
) -> CommittedService {
    let digest = Digest::of_bytes(b"spec");
    let instance = |(slot, address): (usize, &SocketAddr)| {
        let instance = CommittedInstance {
            machine: "m1".parse().unwrap(),
            instance: format!("web-{slot}-v{version}").parse().unwrap(),
            operation: OperationId::from_digest(&digest),
            config_hash: digest,
            workload: digest,
            address: address.ip(),
            ports: [("http".to_owned(), address.port())].into(),
        };
        (u32::try_from(slot).unwrap(), instance)
    };
    let routes = route.map(|(host, prefix)| Route {
        hostnames: vec![host.parse().unwrap()],
        path_prefix: prefix.to_owned(),
        port: "http".to_owned(),
    });
    CommittedService {
        revision: digest,
        stopped: false,
        slots: addresses.iter().enumerate().map(instance).collect(),
        routes: routes.into_iter().collect(),
    }
}

/// Waits until the sidecar serves a revision.
pub(crate) async fn applied(control: &Path, revision: Revision) {
    control::applied(control, None, revision, Duration::from_secs(10)).await.expect("applied");
}
