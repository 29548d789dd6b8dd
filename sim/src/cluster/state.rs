//! Everything that the future of a cluster depends on, written down. Two clusters of which the same is written go on in the same way.
//!
//! Not written: what nobody reads again (the trace, what was told to whom), and counters that only name things (numbers of effects, handles,
//! what is under way). A bound on all effects or events of a run reads two of these; it is far above what any run has.

use std::fmt::{self, Write};

use super::Cluster;
use super::daemon::Machine;
use super::queue::{Event, Scheduled, UnderWay};
use crate::fate::Later;
use crate::world::World;

impl Cluster<'_> {
    pub(crate) fn write_state(&self, to: &mut impl Write) -> fmt::Result {
        let Self {
            world,
            invariants,
            fates,
            effects,
            events: _,
            results: _,
            told: _,
            heads_moved: _,
            trace: _,
            hits: _,
            crashes,
            cancellable,
            rivals,
            began_anew: _,
            machines,
            bus,
            under_way,
            feed: _,
            waiting_for_routes,
            servers_wake,
            heap,
            seq: _,
            handles: _,
        } = self;
        let World { now, machines: _, fences, clocks, network, servers, kv, runtimes, gateways } =
            world;
        write!(to, "{now:?} {fences:?} {clocks:?} {network:?} {servers:?} {kv:?}")?;
        runtimes.iter().try_for_each(|runtime| runtime.write_state(*now, to))?;
        gateways.iter().try_for_each(|gateway| gateway.write_state(*now, to))?;
        write!(
            to,
            "{invariants:?} {:?} {} {cancellable:?} {rivals:?}",
            fates.budget(),
            *crashes > 0
        )?;
        write!(to, "{:?} {waiting_for_routes:?} {servers_wake:?}", bus.open())?;
        for machine in machines {
            let Machine { node, boot, asked, pending, timer, paused_until, held, off, ails } =
                machine;
            // The rest of what was asked of a node is in it.
            let heads = asked.iter().map(|(handle, asking)| (handle, asking.head));
            let heads = heads.collect::<Vec<_>>();
            write!(to, "{heads:?} {node:?} {boot} {pending:?} {timer:?}")?;
            write!(to, "{paused_until:?} {held:?} {off} {ails:?}")?;
        }
        let mut queue: Vec<_> = heap.iter().map(|scheduled| &scheduled.0).collect();
        queue.sort();
        for Scheduled { at, seq: _, event } in queue {
            match event {
                event if self.is_stale(event) => {}
                Event::Land(number) => write!(to, "{at:?} {:?}", under_way.get(number))?,
                event => write!(to, "{at:?} {event:?}")?,
            }
        }
        for UnderWay { lands, flight, origin } in under_way.values() {
            match lands {
                None => {}
                Some(Later::Effects(n)) => {
                    write!(to, "after {} {flight:?} {origin:?}", n.saturating_sub(*effects))?;
                }
                Some(lands) => write!(to, "{lands:?} {flight:?} {origin:?}")?,
            }
        }
        Ok(())
    }

    /// Whether nothing will happen when it is due, whatever happens until then: it is for a daemon that is no more, an effect that was
    /// answered, a load that was given up.
    fn is_stale(&self, event: &Event) -> bool {
        match event {
            Event::Answer { origin, .. } => {
                let machine = &self.machines[origin.machine];
                machine.boot != origin.boot || !machine.pending.contains_key(&origin.effect)
            }
            Event::Timer { machine, boot, .. } => self.machines[*machine].boot != *boot,
            Event::Hear { machine, load, .. } | Event::Follower { machine, load } => {
                self.world.gateways[*machine].load != *load
            }
            Event::RoutesDue { machine } => !self.waits_for_routes(*machine),
            Event::Land(number) => !self.under_way.contains_key(number),
            _ => false,
        }
    }
}
