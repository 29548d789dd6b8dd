//! What strikes a whole machine: its daemon dies or stands still, it sleeps, it loses power, its parts are slow or fail.

use std::time::Duration;

use proto_core::daemon::Input;

use super::Cluster;
use super::queue::{Event, Flight};
use crate::trace::Kind;
use crate::world::clock::to_round;

/// How long after a crash a daemon is started again.
pub const RESTART_AFTER: Duration = Duration::from_secs(1);
/// How long a daemon that stands still does so where fates are chosen: longer than a lease.
pub const PAUSE: Duration = Duration::from_secs(45);

/// Where fates are chosen, daemons start and go on, and operators come back, when the clock shows a multiple of this.
pub(crate) const ROUND: Duration = Duration::from_secs(5);

/// How a machine's parts are slow or failing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ails {
    /// Its runtime takes so many times longer; 0 and 1 are as usual.
    pub(crate) slow: u32,
    /// Its runtime refuses whatever changes something.
    pub(crate) failing: bool,
    /// Its disk takes no fence file.
    pub(crate) disk_full: bool,
}

const CRASHES: &str = "the daemon CRASHES";
const LOSES_POWER: &str = "the machine LOSES POWER";
const STANDS_STILL: &str = "the daemon STANDS STILL";
const GOES_ON: &str = "the daemon goes on";
pub(super) const STARTS: &str = "the daemon starts";

/// What lines say of a machine whose daemon works no longer.
pub const GONE: [&str; 3] = [CRASHES, LOSES_POWER, STANDS_STILL];
/// What lines say of a machine whose daemon works again.
pub const BACK: [&str; 2] = [STARTS, GOES_ON];

impl Cluster<'_> {
    /// The daemon of a machine dies: what it has issued is on its way, what it knew is gone. It is started again.
    pub fn crash(&mut self, machine: usize) {
        self.stop(machine, CRASHES);
        let after = self.to_round(RESTART_AFTER);
        self.schedule(after, Event::Restart { machine });
    }

    /// At least so long. Where fates are chosen, until the clock shows a multiple of [`ROUND`]: runs that differ only in when something
    /// happened that changed nothing are the same from then on.
    pub(crate) fn to_round(&self, at_least: Duration) -> Duration {
        if !self.fates.are_chosen() {
            return at_least;
        }
        let now = self.world.now;
        to_round(now + at_least, Some(ROUND)).since(now)
    }

    fn stop(&mut self, machine: usize, how: &'static str) {
        self.crashes += 1;
        self.note(Some(machine), Kind::Fault, None, || how.to_owned());
        self.trace.died(self.world.now, machine);
        let there = &mut self.machines[machine];
        there.node = None;
        there.boot += 1;
        there.asked.clear();
        there.pending.clear();
        there.timer = None;
        there.paused_until = None;
        there.held.clear();
        self.bus.forget(machine);
        self.cancellable = self.cancellable.filter(|(asked, _)| *asked != machine);
    }

    /// The daemon of a machine stands still for a while.
    pub fn pause(&mut self, machine: usize, how_long: Duration) {
        if !self.is_up(machine) {
            return;
        }
        self.crashes += 1;
        self.note(Some(machine), Kind::Fault, None, || STANDS_STILL.to_owned());
        self.machines[machine].paused_until = Some(self.world.now + how_long);
        self.schedule(how_long, Event::Wake { machine });
    }

    /// The whole machine sleeps: nothing of it does anything, and its monotonic clock does not count.
    pub fn sleep(&mut self, machine: usize, how_long: Duration) {
        if self.is_up(machine) {
            self.pause(machine, how_long);
            self.world.clocks[machine].sleep(how_long);
        }
    }

    pub(super) fn wake(&mut self, machine: usize) {
        let there = &mut self.machines[machine];
        if there.paused_until.is_none_or(|until| until > self.world.now) {
            return;
        }
        there.paused_until = None;
        self.began_anew = true;
        self.note(Some(machine), Kind::Mended, None, || GOES_ON.to_owned());
        // Everything that came meanwhile is there at once, in the order in which it came.
        for input in std::mem::take(&mut self.machines[machine].held) {
            self.input(machine, input);
        }
        self.input(machine, Input::Timeout);
    }

    /// The machine loses power and comes back after this time: daemon, gateway, store server and instances with it. Whether it was on.
    pub fn reboot(&mut self, machine: usize, off_for: Duration) -> bool {
        if self.machines[machine].off {
            return false;
        }
        self.stop(machine, LOSES_POWER);
        self.machines[machine].off = true;
        self.world.runtimes[machine].power_off();
        self.world.gateways[machine].up = false;
        // What was under way on the machine itself is gone with it.
        self.under_way.retain(|_, there| match &there.flight {
            Flight::Runtime { machine: at, .. } | Flight::Routes { machine: at, .. } => {
                *at != machine
            }
            _ => true,
        });
        self.set_server(machine, false);
        self.schedule(off_for, Event::PowerOn { machine });
        true
    }

    pub(super) fn power_on(&mut self, machine: usize) {
        if !std::mem::take(&mut self.machines[machine].off) {
            return;
        }
        self.note(Some(machine), Kind::Mended, None, || "the machine is on again".to_owned());
        let (now, wall) = (self.world.now, self.world.wall(machine));
        self.world.runtimes[machine].power_on(now, wall);
        self.world.gateways[machine].up = true;
        self.world.gateways[machine].restart();
        self.set_server(machine, true);
        self.follow_anew(machine);
        self.schedule(RESTART_AFTER, Event::Restart { machine });
    }

    /// The store's server on this machine stops or starts; whether it was otherwise before.
    pub fn set_server(&mut self, machine: usize, up: bool) -> bool {
        let changed = self.world.servers.set_up(machine, up && !self.machines[machine].off);
        self.look_at_servers();
        changed
    }

    /// Its runtime is so many times slower from now on; 1 is as usual.
    pub fn set_slow(&mut self, machine: usize, times: u32) {
        self.machines[machine].ails.slow = times;
    }

    /// Its runtime refuses every change from now on, or no longer.
    pub fn set_failing(&mut self, machine: usize, failing: bool) {
        self.machines[machine].ails.failing = failing;
    }

    /// Its disk takes no fence file from now on, or does again.
    pub fn set_disk_full(&mut self, machine: usize, full: bool) {
        self.machines[machine].ails.disk_full = full;
    }

    /// Links, servers, disks, runtimes and clocks are well again. What is off or stands still comes back by itself.
    pub fn heal(&mut self) {
        self.note(None, Kind::Mended, None, || "everything is mended".to_owned());
        self.world.network.heal();
        self.world.servers.tear_no_more();
        for machine in 0..self.machines.len() {
            self.machines[machine].ails = Ails::default();
            (self.world.gateways[machine].gaps, self.world.gateways[machine].lag) =
                (0, Duration::ZERO);
            self.world.clocks[machine].set_right();
            let up = !self.machines[machine].off;
            self.world.servers.set_up(machine, up);
        }
        self.links_changed();
    }
}
