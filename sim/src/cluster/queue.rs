//! What is to happen, in order, and what is on its way.

use std::cmp::Reverse;
use std::rc::Rc;
use std::time::Duration;

use proto_core::Outcome;
use proto_core::daemon::{Completion, RoutesRequest};
use proto_core::id::{Epoch, OperationId};
use proto_core::routing::Heard;
use proto_core::runtime::RuntimeRequest;
use proto_core::store::{Scope, StoreRequest};
use proto_core::time::Time;

use super::Cluster;
use crate::fate::{Later, Rival};
use crate::world::bus::Origin;

/// An effect that is on its way to its part of the world.
#[derive(Debug, Clone)]
pub(crate) enum Flight {
    Store { from: usize, request: StoreRequest, operation: Option<OperationId>, undecided: bool },
    Command { from: usize, to: usize, command: Box<proto_core::coordination::Command> },
    Runtime { machine: usize, boot: u32, request: RuntimeRequest, by: Option<(Scope, Epoch)> },
    Routes { machine: usize, request: RoutesRequest, until: Time },
}

#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// What is under way under this number lands.
    Land(u64),
    Answer {
        origin: Origin,
        completion: Completion,
    },
    /// A gateway hears something of this load, if it still listens to that.
    Hear {
        machine: usize,
        load: u32,
        said: Rc<Vec<Heard>>,
    },
    /// A gateway looks whether its follower is still silent, or begins a load.
    Follower {
        machine: usize,
        load: u32,
    },
    /// Those who wait for this gateway are told that it is late.
    RoutesDue {
        machine: usize,
    },
    Servers,
    Timer {
        machine: usize,
        boot: u32,
        at: Time,
    },
    Restart {
        machine: usize,
    },
    Wake {
        machine: usize,
    },
    PowerOn {
        machine: usize,
    },
    /// The operator cancels what can be cancelled.
    Cancel,
    /// A second operator asks, on another machine than the first.
    Rival(Rival),
    /// Whoever drives the cluster asked for this.
    Driver(u64),
}

#[derive(Debug, Clone)]
pub(super) struct Scheduled {
    pub(super) at: Time,
    pub(super) seq: u64,
    pub(super) event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// Something on its way.
#[derive(Debug, Clone)]
pub(crate) struct UnderWay {
    /// `None`: it is in the queue.
    pub(crate) lands: Option<Later>,
    pub(crate) flight: Flight,
    pub(crate) origin: Option<Origin>,
}

impl Cluster<'_> {
    pub(crate) fn schedule(&mut self, after: Duration, event: Event) {
        self.seq += 1;
        let at = self.world.now + after;
        self.heap.push(Reverse(Scheduled { at, seq: self.seq, event }));
    }

    /// An answer on its way back, that arrives.
    pub(crate) fn answer(
        &mut self,
        origin: Option<Origin>,
        after: Duration,
        completion: Completion,
    ) {
        if let Some(origin) = origin {
            self.schedule(after, Event::Answer { origin, completion });
        }
    }

    /// An answer on its way back over a link, where it may be lost.
    pub(crate) fn answer_over(
        &mut self,
        from: usize,
        origin: Option<Origin>,
        completion: Completion,
    ) {
        let Some(origin) = origin else { return };
        let arrives = self.world.network.carry(from, origin.machine).first();
        if let Completion::Send(Outcome::Ok(_)) = completion {
            self.trace.sent(Some(origin.machine), arrives);
        }
        if let Some(after) = arrives {
            self.schedule(after, Event::Answer { origin, completion });
        } else if let Completion::Store(_) = completion {
            // Nobody else ends the waiting for the store; that for a command has its deadline already.
            self.silence(Some(origin), Completion::Store(Outcome::Unknown));
        }
    }

    /// An answer that never comes: the adapter's own deadline ends it.
    pub(crate) fn silence(&mut self, origin: Option<Origin>, completion: Completion) {
        self.answer(origin, Duration::from_secs(5), completion);
    }

    /// Puts something on its way, that lands after this time.
    pub(crate) fn set_under_way(
        &mut self,
        flight: Flight,
        origin: Option<Origin>,
        after: Duration,
    ) {
        self.seq += 1;
        let number = self.seq;
        self.under_way.insert(number, UnderWay { lands: None, flight, origin });
        self.schedule(after, Event::Land(number));
    }

    /// Puts something on its way that lands when other things have happened.
    pub(crate) fn set_under_way_until(&mut self, flight: Flight, lands: Later) {
        let lands = match lands {
            Later::Effects(n) => Later::Effects(self.effects + n),
            Later::After(after) => return self.set_under_way(flight, None, after),
            Later::AtRest => Later::AtRest,
        };
        self.seq += 1;
        let there = UnderWay { lands: Some(lands), flight, origin: None };
        self.under_way.insert(self.seq, there);
    }

    /// Whether something is under way that lands when other things have happened.
    pub fn has_stragglers(&self) -> bool {
        self.under_way.values().any(|there| there.lands.is_some())
    }

    /// Lands all of that.
    pub fn land_the_rest(&mut self) {
        let stragglers = self.under_way.iter().filter(|(_, there)| there.lands.is_some());
        for number in stragglers.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.schedule(Duration::ZERO, Event::Land(number));
        }
    }
}
