//! How each fault begins and ends.

use std::time::Duration;

use proto_core::store::Entry;

use super::{Play, Todo};
use crate::fate::{Fate, Fates, Later, Strike};
use crate::story::{EffectFate, What};
use crate::trace::Kind;
use crate::world::network::LinkFault;
use crate::world::servers::Tear;

impl Play<'_> {
    pub(super) fn begin(&mut self, number: usize) {
        let fault = &self.story.faults[number];
        let (lasts, class) = (Duration::from_millis(fault.lasts), fault.what.class());
        if fault.what.machines().iter().any(|machine| *machine >= self.story.nodes) {
            return;
        }
        let what = fault.what.clone();
        if !matches!(what, What::Effect { .. }) {
            self.strike(class);
            self.cluster.note(what.machines().first().copied(), Kind::Fault, None, || {
                // What happens at once has no length.
                if fault.until(self.story.length) == fault.at {
                    return what.to_string();
                }
                format!("{what}, for {:.1} s", lasts.as_secs_f64())
            });
        }
        let cluster = &mut self.cluster;
        let mut ends = true;
        match what {
            What::DaemonCrash { machine } => {
                if cluster.is_up(machine) {
                    cluster.crash(machine);
                }
                ends = false;
            }
            What::DaemonPause { machine } => {
                cluster.pause(machine, lasts);
                ends = false;
            }
            What::Sleep { machine } => {
                cluster.sleep(machine, lasts);
                ends = false;
            }
            What::Reboot { machine } => {
                self.clients.excuse(machine, cluster.world.now + lasts);
                cluster.reboot(machine, lasts);
                ends = false;
            }
            What::Partition { groups } => self.link(number, LinkFault::Partition { groups }),
            What::OneWay { from, to } => self.link(number, LinkFault::OneWay { from, to }),
            What::Loss { per_mille } => self.link(number, LinkFault::Loss { per_mille }),
            What::Duplication { per_mille } => {
                self.link(number, LinkFault::Duplication { per_mille });
            }
            What::Delay { most } => {
                let most = Duration::from_millis(most.max(1));
                self.link(number, LinkFault::Delay { most });
            }
            What::ServerCrash { machine } => cluster.set_server(machine, false),
            What::EndedKeysBack { keys, .. } => self.bring_back(keys),
            What::QuorumLoss => {
                let leader = cluster.world.servers.leads();
                for machine in cluster.world.servers.machines().to_vec() {
                    if Some(machine) != leader {
                        cluster.set_server(machine, false);
                    }
                }
            }
            What::Election => {
                cluster.depose();
                ends = false;
            }
            What::TornBatch { writes, commit, kills } => {
                cluster.world.servers.tear_next(Tear { writes, commit, kills });
                ends = false;
            }
            What::FollowerGap { machine } => {
                cluster.world.gateways[machine].gaps += 1;
                ends = false;
            }
            What::SlowFollower { machine, millis } => {
                cluster.world.gateways[machine].lag = Duration::from_millis(millis);
            }
            What::SlowRuntime { machine, times } => cluster.set_slow(machine, times),
            What::FailingRuntime { machine } => cluster.set_failing(machine, true),
            What::DiskFull { machine } => cluster.set_disk_full(machine, true),
            What::ClockStep { machine, millis } => {
                cluster.world.clocks[machine].step(millis);
                ends = false;
            }
            What::InstanceExit { machine, nth } => {
                let there = &cluster.world.runtimes[machine];
                let name = there.instances().keys().nth(nth).cloned();
                let (now, wall) = (cluster.world.now, cluster.world.wall(machine));
                if let Some(name) = name {
                    cluster.world.runtimes[machine].exit(now, wall, &name);
                    self.clients.excuse(machine, now);
                }
                ends = false;
            }
            What::Effect { machine, class: effects, skip, fate } => {
                let fate = told(fate, lasts);
                if let Fates::Told(told) = &mut self.cluster.fates {
                    let strike = Strike { machine, class: effects, skip, fate, name: class };
                    told.strikes.push(strike);
                }
                ends = false;
            }
        }
        if ends {
            self.plan(lasts, Todo::End(number));
        }
    }

    /// The lone server is killed; what it will have again when it is back is decided now.
    fn bring_back(&mut self, keys: usize) {
        let &[machine] = self.cluster.world.servers.machines() else { return };
        self.cluster.set_server(machine, false);
        let now = self.cluster.world.now;
        self.cluster.world.kv.expire(now);
        let mut may: Vec<_> =
            self.cluster.world.kv.may_come_back().map(<[Entry]>::to_vec).collect();
        for _ in 0..keys.min(may.len()) {
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
    }

    fn link(&mut self, number: usize, fault: LinkFault) {
        let id = self.cluster.world.network.begin(fault);
        self.links.insert(number, id);
        self.cluster.links_changed();
    }

    pub(super) fn end(&mut self, number: usize) {
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
            What::ServerCrash { machine } => cluster.set_server(machine, true),
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

    /// Counts the effects that were struck.
    pub(super) fn count_strikes(&mut self) {
        if let Fates::Told(told) = &mut self.cluster.fates {
            // An effect is struck only in the middle of an operation.
            for class in std::mem::take(&mut told.struck) {
                self.report.struck(class, true);
            }
        }
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
