//! After the faults: everything is mended, operators come back to what is unfinished, and then nothing may be left.

use std::time::Duration;

use proto_core::api::{OperationResult, Submission};
use proto_core::coordination::Phase;

use super::idle::UNASKED;
use super::{Play, crash_free, habits};
use crate::invariants::rest::{self, FINISHED, NOTHING_LEFT, Snapshot};
use crate::story::{ADDRESSES, machine_name};

/// L5.
pub(super) const AGAIN: &str = "L5 the same operation again has no effects";
/// How long it may take until everything has come to an end.
const CONVERGES_WITHIN: Duration = Duration::from_secs(1200);
/// Until every lease has expired, every pause is over, every record of a try is gone.
const REST: Duration = Duration::from_secs(100);

impl Play<'_> {
    /// Mends everything and lets it come to an end; whether it did.
    pub(super) fn liveness(&mut self) -> bool {
        self.cluster.fates.end();
        self.links.clear();
        self.cluster.heal();
        self.mended = true;
        if let Some(away) = self.story.away {
            self.without(away);
        }
        let end = self.cluster.world.now + CONVERGES_WITHIN;
        // What operators are still at, and what they will do about it.
        self.run_for(REST);
        let mut round = 0;
        while self.cluster.world.now < end && self.is_fine() {
            let unfinished = rest::unfinished(&self.cluster.world);
            if unfinished.is_empty() && self.is_over() && self.all_idle() {
                return true;
            }
            for record in unfinished {
                let machine = self.below(self.story.nodes);
                let operation = record.id.clone();
                let abort = record.phase == Phase::Executing && self.below(3) == 0;
                let submission = if abort {
                    Submission::Abort { operation }
                } else {
                    Submission::Resume { operation }
                };
                self.cluster.submit(machine, submission);
                round += 1;
            }
            if round > 0 {
                self.report.marks.hit("an operation was resumed or aborted after the faults");
            }
            self.run_for(Duration::from_secs(45));
        }
        self.is_fine() && rest::unfinished(&self.cluster.world).is_empty() && self.is_over()
    }

    fn all_idle(&self) -> bool {
        (0..self.story.nodes)
            .all(|machine| self.cluster.is_up(machine) && self.cluster.running(machine) == 0)
    }

    pub(super) fn is_fine(&self) -> bool {
        self.cluster.invariants.violations().is_empty()
    }

    /// Whether each machine has addresses for a few new instances beside what it has, also if all of that is made anew.
    pub(super) fn has_addresses(&self) -> bool {
        let runtimes = &self.cluster.world.runtimes;
        runtimes.iter().all(|runtime| runtime.instances().len() <= usize::from(ADDRESSES / 2 - 6))
    }

    pub(super) fn run_for(&mut self, how_long: Duration) {
        let end = self.cluster.world.now + how_long;
        self.run_until(end, |_| false);
    }

    /// The questions at rest.
    pub(super) fn at_rest(&mut self, converged: bool) {
        if !self.is_fine() {
            return;
        }
        if !converged {
            let unfinished = rest::unfinished(&self.cluster.world);
            let names: Vec<_> =
                unfinished.iter().map(|r| format!("{} {} {}", r.id, r.summary, r.phase)).collect();
            let what = format!(
                "not within {CONVERGES_WITHIN:?} after everything was mended: {} asked and not answered; {}",
                self.waiting.len(),
                names.join(", ")
            );
            return self.violate(FINISHED, what);
        }
        self.run_for(REST);
        for (invariant, states) in rest::premises(&self.cluster.world) {
            *self.report.premises.entry(invariant).or_default() += states;
        }
        for (invariant, what) in rest::check(&self.cluster.world) {
            self.violate(invariant, what);
        }
        self.nothing_is_remembered();
        self.nothing_happens();
        self.again_is_nothing();
        self.new_is_placed();
    }

    /// L3: machines have settled what they changed.
    fn nothing_is_remembered(&mut self) {
        for machine in 0..self.story.nodes {
            for entry in self.cluster.journal(machine) {
                let what = format!("{} has {entry:?} in its journal", machine_name(machine));
                self.violate(NOTHING_LEFT, what);
            }
        }
    }

    /// L4: the same commits, where nothing goes wrong.
    pub(super) fn without_faults(&mut self) {
        if !self.is_fine() {
            return;
        }
        let moved = std::mem::take(&mut self.cluster.heads_moved);
        let content = rest::content(&self.cluster.world);
        match crash_free::compare(self.story.nodes, &moved, &content) {
            Ok(compared) => {
                *self.report.premises.entry(crash_free::SAME).or_default() += compared;
            }
            Err(what) => self.violate(crash_free::SAME, what),
        }
    }

    /// S10, at rest: nobody asks for anything, so nothing is written and nothing is changed.
    fn nothing_happens(&mut self) {
        if !self.is_fine() {
            return;
        }
        *self.report.premises.entry(UNASKED).or_default() += self.story.nodes as u64;
        let (before, last) = (Snapshot::of(&self.cluster.world), self.cluster.world.kv.last());
        let effects = self.cluster.effects;
        self.run_for(Duration::from_secs(600));
        let world = &self.cluster.world;
        if Snapshot::of(world) != before || world.kv.last() != last {
            self.violate(UNASKED, "the idle cluster changed".to_owned());
        } else if self.cluster.effects != effects {
            let what = format!("{} effects of an idle cluster", self.cluster.effects - effects);
            self.violate(UNASKED, what);
        }
    }

    /// L5: what every namespace's head was made for is asked for once more. A restart and a rollback are something new each time.
    fn again_is_nothing(&mut self) {
        let requests = habits::done_already(self.story, &self.cluster.world);
        for request in requests {
            if !self.is_fine() {
                return;
            }
            let last = self.cluster.world.kv.last();
            let before = Snapshot::of(&self.cluster.world);
            let machine = self.below(self.story.nodes);
            let submission = Submission::Apply { request: request.clone() };
            let Some(handle) = self.cluster.submit(machine, submission) else { continue };
            let end = self.cluster.world.now + Duration::from_secs(60);
            self.run_until(end, |play| play.cluster.results.contains_key(&handle));
            let result = self.cluster.results.get(&handle);
            let done = matches!(result, Some(OperationResult::AlreadyDone { .. }));
            let same = Snapshot::of(&self.cluster.world) == before;
            if !done || !same || self.cluster.world.kv.last() != last {
                let what = format!("{} once more: {result:?}", request.summary());
                self.violate(AGAIN, what);
            }
            self.report.repeated += 1;
        }
    }
}
