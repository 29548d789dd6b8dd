//! One machine's gateway: the real projection and route table of `proto-core`, fed by a modelled follower of the store. It
//! outlives the daemon, and keeps its last good state on the machine's disk.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use proto_core::id::{InstanceName, MachineId, Namespace};
use proto_core::routing::{Commits, Effect, Heard, Projection, RouteTable, Snapshot};
use proto_core::store::Revision;
use proto_core::time::{Time, UnixTime};

/// How its follower stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// It hears every write, since then.
    Following(Time),
    /// It hears nothing, since then.
    Silent(Time),
}

/// A gateway.
#[derive(Debug, Clone)]
pub struct Gateway {
    projection: Projection,
    /// What is on its disk.
    snapshot: Option<Snapshot>,
    /// Of what is served now, once somebody asked for it.
    table: OnceLock<RouteTable>,
    /// How its follower stands.
    pub link: Link,
    /// Counts loads: what was sent for an earlier one is not heard any more.
    pub load: u32,
    /// Messages of a follower arrive in order: none before this.
    pub last_arrival: Time,
    /// Its follower hears everything so much later.
    pub lag: Duration,
    /// Messages that will be missed: a gap in the sequence of its consumer.
    pub gaps: u32,
    /// It has missed one, and will find out.
    pub misses: bool,
    /// When it missed one last.
    pub missed: Option<Time>,
    /// Its machine runs.
    pub up: bool,
    /// How often it began to say that it may be behind.
    pub was_stale: u64,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            projection: Projection::new(),
            snapshot: None,
            table: OnceLock::new(),
            link: Link::Following(Time::ZERO),
            load: 0,
            last_arrival: Time::ZERO,
            lag: Duration::ZERO,
            gaps: 0,
            misses: false,
            missed: None,
            up: true,
            was_stale: 0,
        }
    }
}

impl Gateway {
    /// The follower says something; whether it changed what is served.
    pub fn hear(&mut self, wall: UnixTime, heard: &Heard) -> bool {
        self.was_stale += u64::from(heard.is_doubt());
        self.projection.handle_input(wall, heard.clone());
        self.drain()
    }

    /// It starts anew, from what is on its disk.
    pub fn restart(&mut self) {
        self.projection = match self.snapshot.clone() {
            Some(snapshot) => Projection::restore(snapshot).expect("this build wrote it"),
            None => Projection::new(),
        };
        self.load += 1;
        self.drain();
    }

    /// Everything that what it does later depends on.
    pub(crate) fn write_state(&self, now: Time, to: &mut impl std::fmt::Write) -> std::fmt::Result {
        let Self {
            projection,
            snapshot,
            table: _,
            link,
            load,
            last_arrival,
            lag,
            gaps,
            misses,
            missed,
            up,
            was_stale: _,
        } = self;
        write!(to, "{projection:?} {snapshot:?} {link:?} {load}")?;
        // One that has passed holds nothing up.
        let last_arrival = last_arrival.max(&now);
        write!(to, "{last_arrival:?} {lag:?} {gaps} {misses} {missed:?} {up}")
    }

    fn drain(&mut self) -> bool {
        let mut published = false;
        while let Some(effect) = self.projection.poll_effect() {
            match effect {
                Effect::Publish(_) => published = true,
                Effect::Persist(snapshot) => self.snapshot = Some(snapshot),
            }
        }
        if published {
            self.table.take();
        }
        published
    }

    /// What it serves.
    #[must_use]
    pub fn served(&self) -> &Commits {
        self.projection.served()
    }

    /// The instances that it sends requests to.
    pub fn backends(&self) -> impl Iterator<Item = (&MachineId, &InstanceName)> {
        let services = self.served().values().flat_map(|served| served.commit.services.values());
        let slots = services.flat_map(|service| service.slots.values());
        slots.map(|slot| (&slot.machine, &slot.instance))
    }

    /// Up to where it serves what the store says of one namespace.
    #[must_use]
    pub fn applied(&self, namespace: Option<&Namespace>) -> Revision {
        self.projection.applied(namespace)
    }

    /// Whether it says itself that it may be behind.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.projection.is_stale()
    }

    /// Where a request may go: every address that stands for this host and path, and whose instance it takes it to be.
    #[must_use]
    pub fn route(&self, host: &str, path: &str) -> Option<Vec<(InstanceName, SocketAddr)>> {
        let table = self.table.get_or_init(|| RouteTable::new(self.served()));
        let target = table.resolve(host, path).ok()?;
        let backends = target.backends.iter();
        Some(backends.map(|backend| (backend.instance.clone(), backend.address)).collect())
    }
}
