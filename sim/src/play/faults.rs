//! How each fault begins and ends.

use std::time::Duration;

use proto_core::store::Entry;

use super::{Play, Todo};
use crate::fate::{Fate, Fates, Later, Strike};
use crate::story::{EffectFate, What};
use crate::trace::Kind;
use crate::world::network::LinkFault;
use crate::world::servers::Tear;

/// Whether a fault struck anything when it began.
enum Struck {
    /// It did.
    Now,
    /// There was nothing to strike.
    InVain,
    /// It will where it comes to matter.
    MayYet,
}

impl Play<'_> {
    pub(super) fn begin(&mut self, number: usize) {
        let fault = &self.story.faults[number];
        let (lasts, class) = (Duration::from_millis(fault.lasts), fault.what.class());
        if fault.what.machines().iter().any(|machine| *machine >= self.story.nodes) {
            return;
        }
        let what = fault.what.clone();
        if let What::Effect { machine, class: effects, skip, fate } = what {
            if let Fates::Told(told) = &mut self.cluster.fates {
                let fate = self::told(fate, lasts);
                told.strikes.push(Strike { machine, class: effects, skip, fate, name: class });
            }
            return;
        }
        self.cluster.note(what.machines().first().copied(), Kind::Fault, None, || {
            // What happens at once has no length.
            if fault.until(self.story.length) == fault.at {
                return what.to_string();
            }
            format!("{what}, for {:.1} s", lasts.as_secs_f64())
        });
        match self.inflict(number, what, lasts) {
            Struck::Now => self.strike(class),
            Struck::InVain => {}
            Struck::MayYet => self.lurking.push(number),
        }
        // The others are over at once, or come to their end by themselves.
        if fault.what.is_ended() {
            self.plan(lasts, Todo::End(number));
        }
    }

    fn inflict(&mut self, number: usize, what: What, lasts: Duration) -> Struck {
        let cluster = &mut self.cluster;
        let struck = |there: bool| if there { Struck::Now } else { Struck::InVain };
        match what {
            What::DaemonCrash { machine } => {
                let up = cluster.is_up(machine);
                if up {
                    cluster.crash(machine);
                }
                struck(up)
            }
            What::DaemonPause { machine } => {
                let up = cluster.is_up(machine);
                cluster.pause(machine, lasts);
                struck(up)
            }
            What::Sleep { machine } => {
                let up = cluster.is_up(machine);
                cluster.sleep(machine, lasts);
                struck(up)
            }
            What::Reboot { machine } => {
                self.clients.excuse(machine, cluster.world.now + lasts);
                struck(cluster.reboot(machine, lasts))
            }
            What::Partition { groups } => self.link(number, LinkFault::Partition { groups }),
            What::OneWay { from, to } => self.link(number, LinkFault::OneWay { from, to }),
            What::Loss { per_mille } => self.link(number, LinkFault::Loss { per_mille }),
            What::Duplication { per_mille } => {
                self.link(number, LinkFault::Duplication { per_mille })
            }
            What::Delay { most } => {
                let most = Duration::from_millis(most.max(1));
                self.link(number, LinkFault::Delay { most })
            }
            What::ServerCrash { machine } => struck(cluster.set_server(machine, false)),
            What::EndedKeysBack { keys, .. } => struck(self.bring_back(keys)),
            What::QuorumLoss => {
                let leader = cluster.world.servers.leads();
                let mut stopped = false;
                for machine in cluster.world.servers.machines().to_vec() {
                    if Some(machine) != leader {
                        stopped |= cluster.set_server(machine, false);
                    }
                }
                struck(stopped)
            }
            What::Election => {
                let led = cluster.world.servers.leads().is_some();
                cluster.depose();
                struck(led)
            }
            What::TornBatch { writes, commit, kills } => {
                cluster.world.servers.tear_next(Tear { writes, commit, kills });
                Struck::MayYet
            }
            What::FollowerGap { machine } => {
                cluster.world.gateways[machine].gaps += 1;
                Struck::MayYet
            }
            What::SlowFollower { machine, millis } => {
                cluster.world.gateways[machine].lag = Duration::from_millis(millis);
                Struck::MayYet
            }
            What::SlowRuntime { machine, times } => {
                cluster.set_slow(machine, times);
                Struck::MayYet
            }
            What::FailingRuntime { machine } => {
                cluster.set_failing(machine, true);
                Struck::MayYet
            }
            What::DiskFull { machine } => {
                cluster.set_disk_full(machine, true);
                Struck::MayYet
            }
            What::ClockStep { machine, millis } => {
                cluster.world.clocks[machine].step(millis);
                Struck::Now
            }
            What::InstanceExit { machine, nth } => {
                let there = &cluster.world.runtimes[machine];
                let name = there.instances().keys().nth(nth).cloned();
                let (now, wall) = (cluster.world.now, cluster.world.wall(machine));
                let Some(name) = name else { return Struck::InVain };
                cluster.world.runtimes[machine].exit(now, wall, &name);
                self.clients.excuse(machine, now);
                Struck::Now
            }
            What::Effect { .. } => unreachable!("it waits for its effect"),
        }
    }

    /// The lone server is killed; what it will have again when it is back is decided now. Whether there is anything.
    fn bring_back(&mut self, keys: usize) -> bool {
        let &[machine] = self.cluster.world.servers.machines() else { return false };
        self.cluster.set_server(machine, false);
        let now = self.cluster.world.now;
        self.cluster.world.kv.expire(now);
        let mut may: Vec<_> =
            self.cluster.world.kv.may_come_back().map(<[Entry]>::to_vec).collect();
        let back = keys.min(may.len());
        for _ in 0..back {
            let at = self.below(may.len());
            let mut entries = may.swap_remove(at);
            let entry = entries.swap_remove(self.below(entries.len()));
            self.report.marks.hit(match entry.key.as_str().split('.').next() {
                Some("op") => "a record that had ended came back",
                Some("host") => "a host name that was given up came back",
                _ => "another key that had ended came back",
            });
            self.cluster.bring_back(entry);
        }
        back > 0
    }

    fn link(&mut self, number: usize, fault: LinkFault) -> Struck {
        let id = self.cluster.world.network.begin(fault);
        self.links.insert(number, id);
        self.cluster.links_changed();
        Struck::MayYet
    }

    pub(super) fn end(&mut self, number: usize) {
        self.lurking.retain(|lurking| *lurking != number);
        let what = self.story.faults[number].what.clone();
        self.cluster.note(what.machines().first().copied(), Kind::Mended, None, || {
            format!("{} is over", what.class())
        });
        let cluster = &mut self.cluster;
        match what {
            What::Partition { .. }
            | What::OneWay { .. }
            | What::Loss { .. }
            | What::Duplication { .. }
            | What::Delay { .. } => {
                if let Some(id) = self.links.remove(&number) {
                    cluster.world.network.end(id);
                    cluster.links_changed();
                }
            }
            What::ServerCrash { machine } => {
                cluster.set_server(machine, true);
            }
            What::EndedKeysBack { .. } | What::QuorumLoss => {
                for machine in cluster.world.servers.machines().to_vec() {
                    cluster.set_server(machine, true);
                }
            }
            What::SlowFollower { machine, .. } => {
                cluster.world.gateways[machine].lag = Duration::ZERO;
            }
            What::SlowRuntime { machine, .. } => cluster.set_slow(machine, 1),
            What::FailingRuntime { machine } => cluster.set_failing(machine, false),
            What::DiskFull { machine } => cluster.set_disk_full(machine, false),
            _ => {}
        }
    }

    /// Counts a fault that came, and whether an operation was open then.
    fn strike(&mut self, class: &'static str) {
        let open = self.is_busy();
        self.report.struck(class, open);
    }

    /// Counts the faults that came to matter with the last event, each once.
    pub(super) fn count_hits(&mut self) {
        while let Some(id) = self.cluster.world.network.take_hit() {
            let of = |number: &&usize| self.links.get(*number) == Some(&id);
            let number = self.lurking.iter().find(of).copied();
            number.into_iter().for_each(|number| self.hit(number));
        }
        if let Fates::Told(told) = &mut self.cluster.fates {
            for class in std::mem::take(&mut told.struck) {
                self.strike(class);
            }
        }
        for (class, machine) in std::mem::take(&mut self.cluster.hits) {
            let faults = &self.story.faults;
            let is = |number: &&usize| {
                let what = &faults[**number].what;
                what.class() == class && what.machines().first().is_none_or(|at| *at == machine)
            };
            let number = self.lurking.iter().find(is).copied();
            number.into_iter().for_each(|number| self.hit(number));
        }
    }

    fn hit(&mut self, number: usize) {
        self.lurking.retain(|lurking| *lurking != number);
        self.strike(self.story.faults[number].what.class());
    }
}

/// What lands late does so when the fault is over.
fn told(fate: EffectFate, lasts: Duration) -> Fate {
    let later = Later::After(lasts);
    match fate {
        EffectFate::CrashBefore => Fate::CrashBefore,
        EffectFate::CrashAfter => Fate::CrashAfter,
        EffectFate::CrashLate => Fate::CrashLate(later),
        EffectFate::LostAnswer => Fate::LostAnswer,
        EffectFate::LostRequest => Fate::LostRequest,
        EffectFate::Late => Fate::Late(later),
        EffectFate::Undecided => Fate::Undecided(later),
        EffectFate::Twice => Fate::Twice(later),
        EffectFate::Fails => Fate::Fails,
    }
}
