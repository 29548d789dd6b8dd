//! Scenes: what only happens when several things fall together, each in a namespace that nobody else works on. In a few stories one of them is
//! played while others work on theirs, and nothing else goes wrong meanwhile.

use proto_core::deploy::spec::Strategy;

use super::{Action, Asked, EffectFate, Fault, Pinned, Service, Then, What};
use crate::fate::EffectClass;

/// The shortest story that has room for one.
pub(super) const SHORTEST: u64 = 120_000;

/// One of them, with what is left to chance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene {
    pub(super) kind: Kind,
    pub(super) ns: u32,
    /// When what was there is to be replaced.
    pub(super) at: u64,
    /// Where it runs, where its successor is asked for, and where somebody comes to it later.
    pub(super) machines: [usize; 3],
    /// How many effects go well before one is struck.
    pub(super) skip: u32,
    /// Milliseconds, up to two seconds.
    pub(super) delay: u64,
    /// Of what is left unfinished the second is what somebody comes to.
    pub(super) second: bool,
    /// How many instances there are, version by version.
    pub(super) replicas: [u32; 3],
    /// A port of the machines that they are published on; then no two are on one machine.
    pub(super) publish: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A record lands so late that another operation was recorded meanwhile, and left in the middle.
    LateRecord,
    /// The same, but the other one has committed, and what it replaced is stopped and not removed yet.
    LateRecordAndACommit,
    /// A machine dies in the middle of a change, and its fence file had been refused.
    FileRefused,
    /// A machine dies in the middle of a change, and its runtime says no when it is to be settled.
    SettlingRefused,
}

impl Kind {
    pub(super) const ALL: [Self; 4] =
        [Self::LateRecord, Self::LateRecordAndACommit, Self::FileRefused, Self::SettlingRefused];
}

impl Scene {
    /// What is asked for, and what goes wrong.
    pub(super) fn play(&self, length: u64) -> (Vec<Asked>, Vec<Fault>) {
        let [runs_on, first, later] = self.machines;
        let at = self.at;
        let strategy = |version| match self.kind {
            Kind::LateRecordAndACommit if version != 1 => Strategy::Rolling,
            _ => Strategy::Recreate,
        };
        let asked = |at: u64, machine: usize, action: Action, then: Then| Asked {
            at: at.min(length),
            machine,
            action,
            cancel_after: None,
            then,
            then_on: machine,
        };
        let deploy = |version| self.deploy(version, strategy(version));
        let fault = |at: u64, lasts: u64, what: What| Fault { at, lasts, what };
        let strike = |machine, class, skip| {
            let fate = EffectFate::CrashLate;
            What::Effect { machine, class, skip, fate }
        };
        let mut operations = vec![
            asked(at - 19_000, runs_on, deploy(0), Then::Retry),
            asked(at - 11_000, runs_on, Action::Restart { ns: self.ns, s: 0 }, Then::Retry),
        ];
        let faults = match self.kind {
            Kind::LateRecord | Kind::LateRecordAndACommit => {
                operations.push(asked(at, first, deploy(1), Then::GiveUp));
                operations.push(asked(at + 5_000, later, deploy(2), Then::GiveUp));
                let commits = self.kind == Kind::LateRecordAndACommit;
                let version = if self.second && !commits { 2 } else { 1 };
                // The lease of the second has run out when that of the first is taken, and that one too when somebody comes to them.
                let comes_at = at + 72_000 + 10 * self.delay;
                operations.push(asked(comes_at, runs_on, deploy(version), Then::Retry));
                // What the second one wanted is still wanted.
                operations.push(asked(comes_at + 30_000, runs_on, deploy(2), Then::Retry));
                // Before it has committed, which what it starts is ready for after a second.
                let paused_at =
                    at + if commits { 8_000 + self.delay } else { 5_400 + self.delay / 2 };
                let mut faults = vec![
                    fault(at - 1, 40_000, strike(first, EffectClass::Write, 0)),
                    fault(paused_at, 105_000, What::DaemonPause { machine: later }),
                ];
                if commits {
                    // Each new instance is made and started before an old one stops.
                    let stop = strike(runs_on, EffectClass::Runtime, 2 * self.replicas[2]);
                    faults.push(fault(at + 5_000, 40_000, stop));
                }
                faults
            }
            Kind::FileRefused => {
                operations.push(asked(at, runs_on, deploy(1), Then::Resume));
                vec![
                    fault(at, 5_000 + 5 * self.delay, What::DiskFull { machine: runs_on }),
                    fault(at, 40_000, strike(runs_on, EffectClass::Runtime, self.skip)),
                ]
            }
            Kind::SettlingRefused => {
                operations.push(asked(at, runs_on, deploy(1), Then::Resume));
                vec![
                    fault(at, 40_000, strike(runs_on, EffectClass::Runtime, self.skip)),
                    fault(at + self.delay, 30_000, What::FailingRuntime { machine: runs_on }),
                ]
            }
        };
        (operations, faults)
    }

    /// Whether this happens, or goes on, while it is played: what it waits for would not come together then.
    pub(super) fn is_disturbed_by(&self, fault: &Fault) -> bool {
        fault.at < self.at + 125_000 && fault.at + fault.lasts > self.at - 20_000
    }

    fn deploy(&self, version: u32, strategy: Strategy) -> Action {
        let image = format!("ready-300-v{version}");
        let replicas = self.replicas[version as usize];
        let mut service = Service::new(0, image, replicas, strategy);
        service.publish = self.publish;
        if self.publish.is_none() || replicas == 1 {
            service.pinned = Some(Pinned::To(self.machines[0]));
        }
        Action::Deploy { ns: self.ns, services: vec![service] }
    }
}
