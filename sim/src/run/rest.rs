//! The questions at rest.

use proto_core::store::Revision;

use super::course::{Course, Next};
use super::{REST, name};
use crate::invariants::rest::{self, Snapshot};

impl Course<'_> {
    pub(super) fn at_rest(&mut self) {
        self.ask_at_rest();
        self.content = rest::content(&self.cluster.world);
        if !self.first && self.content != *self.prepared.head_of(self.ended) {
            // A daemon that stood still went on with what its operator had given up.
            let results = &self.cluster.results;
            let mut later = self.given_up.iter().filter_map(|handle| results.get(handle).map(name));
            match later.find(|later| self.content == *self.prepared.head_of(later)) {
                Some(later) => self.ended = later,
                None => {
                    let ended = self.ended;
                    let what =
                        format!("it ended as {ended}, and the head is not that of such a run");
                    self.violate("L4 a result that a crash-free run could give", what);
                }
            }
        }
        if !self.cluster.has_stragglers() {
            return self.again();
        }
        // What was under way all the time changes nothing, whenever it lands.
        let label = || "what is still under way lands: now, after the same command".to_owned();
        let now = self.choices.borrow_mut().choose(2, label) == 0;
        if now { self.land() } else { self.again() }
    }

    fn land(&mut self) {
        let before = Snapshot::of(&self.cluster.world);
        self.cluster.land_the_rest();
        self.rest(REST, Next::Landed(before));
    }

    pub(super) fn landed(&mut self, before: &Snapshot) {
        if Snapshot::of(&self.cluster.world) != *before {
            let what =
                "something that was under way landed when all was done, and mattered".to_owned();
            self.violate("L6 late stragglers change nothing", what);
        }
        self.ask_at_rest();
        if !self.asked_again {
            self.again();
        }
    }

    /// The same command once more.
    fn again(&mut self) {
        self.asked_again = true;
        let snapshot = Snapshot::of(&self.cluster.world);
        // What lands meanwhile may write once more what is there.
        let last = (!self.cluster.has_stragglers()).then(|| self.cluster.world.kv.last());
        let Some(handle) = self.cluster.submit(0, self.prepared.apply()) else {
            return self.violate(rest::FINISHED, "the daemon does not run at rest".to_owned());
        };
        self.wait_for_answer(handle, Next::Answered(handle, snapshot, last));
    }

    pub(super) fn rests_again(
        &mut self,
        result: &'static str,
        snapshot: &Snapshot,
        last: Option<Revision>,
    ) {
        self.judge_again(result, snapshot, last);
        if self.cluster.has_stragglers() {
            self.land();
        }
    }

    fn judge_again(&mut self, result: &'static str, snapshot: &Snapshot, last: Option<Revision>) {
        let done = matches!(self.ended, "committed" | "already done");
        let world = &self.cluster.world;
        if done && !self.prepared.scenario.repeats {
            let writes = last.is_some_and(|last| last != world.kv.last());
            let same = Snapshot::of(world) == *snapshot && !writes;
            if result != "already done" || !same {
                let what = format!("it is {result}, and changes: {}", !same);
                self.violate("L5 the same operation again has no effects", what);
            }
            return;
        }
        let scenario = &self.prepared.scenario;
        let wanted = if scenario.fails { "aborted" } else { "committed" };
        // The addresses of a prepared plan are spent with the first try.
        let spent = scenario.prepared && result == "refused";
        if result != wanted && !spent {
            let what = format!("the same command at rest: {result} instead of {wanted}");
            self.violate("L1 the same command again completes it", what);
        }
        self.ask_at_rest();
        let head = if spent { &self.prepared.before } else { &self.prepared.after };
        if !self.first && rest::content(&self.cluster.world) != *head {
            let what = "the head after the same command again".to_owned();
            self.violate("L4 a result that a crash-free run could give", what);
        }
    }

    fn ask_at_rest(&mut self) {
        for (invariant, what) in rest::check(&self.cluster.world) {
            self.violate(invariant, what);
        }
    }
}
