//! S10 over hours: a cluster that nobody asks for anything does nothing, while its daemons and machines die and its links are cut.
//!
//! Neither presence nor certificates are in the engine tier, and a lease is held only by an operation. So here nothing at all is
//! excused: every write and every change counts.

use std::time::Duration;

use proto_core::time::Time;
use serde::Serialize;

use super::{Play, Report};
use crate::invariants::ASKED;
use crate::panics::survive;
use crate::story::Story;

/// The name of the violation.
pub(super) const UNASKED: &str = "S10 nothing happens unasked";

/// What the nodes did in the time in which nobody asked for anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Quiet {
    /// How long it was, in simulated seconds.
    pub seconds: u64,
    /// Keys that were written in the store.
    pub writes: u64,
    /// Batches, commands to machines and changes of runtimes that nodes put out, whether they came to anything or not.
    pub commands: u64,
    /// Changes that a runtime was asked for and made. What it starts again by itself is none.
    pub changes: u64,
    /// All effects, also reads and looks.
    pub effects: u64,
}

impl Quiet {
    /// Whether nothing was written, sent or changed.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.writes == 0 && self.commands == 0 && self.changes == 0
    }
}

/// Plays a story whose operations, in the order of time, are over before `begins`, and counts what the nodes do from then on until its
/// end. That one of them has not committed by then, or that the nodes did anything after, is a violation. The mending and the questions at rest
/// follow as in every story. Where something panics, that is what broke.
#[must_use]
pub fn idle(story: &Story, begins: Duration) -> (Report, Quiet) {
    let mut play = Play::new(story, false);
    let started = std::time::Instant::now();
    let mut quiet = Quiet::default();
    let mut story_took = Duration::ZERO;
    let through = survive(|| {
        quiet = play.quiet(begins);
        story_took = started.elapsed();
        let converged = play.liveness();
        play.at_rest(converged);
    });
    (play.told(through.err(), story_took), quiet)
}

impl Play<'_> {
    /// Deploys everything, leaves it alone, and counts.
    fn quiet(&mut self, begins: Duration) -> Quiet {
        self.plan_everything();
        self.run_until(Time::ZERO + begins, |_| false);
        let asked = self.story.operations.iter();
        let asked = asked.filter(|asked| Duration::from_millis(asked.at) < begins).count();
        let ended: Vec<_> = self.tasks.iter().take(asked).map(|task| task.ended).collect();
        if self.is_busy() || ended.iter().any(|ended| *ended != Some("committed")) {
            self.violate(
                UNASKED,
                format!("not everything is deployed when the quiet begins: {ended:?}"),
            );
        }
        let before = self.counted();
        self.run_until(Time::ZERO + Duration::from_millis(self.story.length), |_| false);
        let after = self.counted();
        let quiet = Quiet {
            seconds: after.seconds - before.seconds,
            writes: after.writes - before.writes,
            commands: after.commands - before.commands,
            changes: after.changes - before.changes,
            effects: after.effects - before.effects,
        };
        if !quiet.is_quiet() {
            self.violate(UNASKED, format!("{quiet:?}"));
        }
        quiet
    }

    /// Everything since the beginning.
    fn counted(&self) -> Quiet {
        let world = &self.cluster.world;
        Quiet {
            seconds: world.now.as_nanos() / 1_000_000_000,
            writes: world.kv.last().0,
            commands: self.cluster.invariants.premises()[ASKED],
            changes: world.runtimes.iter().map(|runtime| runtime.changes).sum(),
            effects: self.cluster.effects,
        }
    }
}
