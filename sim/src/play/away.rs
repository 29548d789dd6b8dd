//! L1 where not everything is mended: one machine stays without power, and for as long *cannot go on, and says so* is told apart from
//! *stuck*. Whatever is asked for is answered; what is not about that machine comes to its end; what cannot do without it names it.

use std::time::Duration;

use proto_core::api::{OperationRequest, OperationResult, Submission};
use proto_core::coordination::Phase;
use proto_core::daemon::OperationHandle;
use proto_core::id::{MachineId, Namespace};
use proto_core::store::facts::Commit;

use super::Play;
use crate::cluster::operation_of;
use crate::invariants::rest;

/// A part of L1.
pub(super) const SAYS_SO: &str = "L1 what cannot go on without a machine says so";
/// A part of L1.
pub(super) const GOES_ON: &str = "L1 what can do without a machine comes to its end";
/// A part of L1.
pub(super) const ANSWERED: &str = "L1 whatever is asked for is answered";

/// The mark that it is worth.
const SAID: &str = "an operation could not go on without a machine, and said so";

/// How long the machine is without power.
const AWAY: Duration = Duration::from_secs(1000);
/// Until every lease has expired, every pause is over, and operators have done what they would.
const BEFORE: Duration = Duration::from_secs(100);
/// How long it may take until what was asked is answered: a service with an instance on each of 24 machines is restarted one by one.
const WITHIN: Duration = Duration::from_secs(400);

/// Something that is asked for while a machine is away.
struct Question {
    what: String,
    submission: Submission,
    /// It can do without the machine.
    free: bool,
}

impl Play<'_> {
    /// While that machine is away.
    pub(super) fn without(&mut self, away: usize) {
        let back = self.cluster.world.now + AWAY;
        if !self.cluster.reboot(away, AWAY) {
            // It lost its power a moment ago, and comes back by itself.
            return;
        }
        self.clients.excuse(away, back);
        self.run_for(BEFORE);
        let unfinished = self.unfinished_ones(away);
        self.ask_all(unfinished, away);
        let new = self.new_ones(away);
        self.ask_all(new, away);
        self.run_until(back, |_| false);
    }

    /// To resume or abort each operation that is not finished.
    fn unfinished_ones(&mut self, away: usize) -> Vec<Question> {
        let unfinished = rest::unfinished(&self.cluster.world);
        let away = self.cluster.world.machines[away].clone();
        let mut questions = Vec::new();
        for record in &unfinished {
            let operation = record.id.clone();
            let abort = record.phase == Phase::Executing && self.below(3) == 0;
            // The barrier is put up at the machines of every unfinished operation of the namespace.
            let others = unfinished.iter().filter(|other| other.scope == record.scope);
            let mut plans = others.filter_map(|other| other.plan.as_ref());
            let free = !plans.any(|plan| plan.machines().contains(&away));
            let what = format!("{} ({})", record.id, record.summary);
            let submission = if abort {
                Submission::Abort { operation }
            } else {
                Submission::Resume { operation }
            };
            questions.push(Question { what, submission, free });
        }
        questions
    }

    /// To restart a service of each namespace in which nothing is unfinished. Where that machine is needed for it also to stop it, and to remove
    /// the namespace, which it cannot.
    fn new_ones(&self, away: usize) -> Vec<Question> {
        if !self.has_addresses() {
            return Vec::new();
        }
        let world = &self.cluster.world;
        let unfinished = rest::unfinished(world);
        let away = &world.machines[away];
        let of = |(namespace, commit): (Namespace, Commit)| -> Vec<Question> {
            let scope = proto_core::store::Scope::Namespace(namespace.clone());
            let busy = unfinished.iter().any(|record| record.scope == scope);
            // What takes most of a minute to be ready takes too long one by one.
            let slow = world.runtimes.iter().flat_map(|runtime| runtime.instances().values()).any(
                |there| {
                    there.spec.namespace == namespace
                        && there.spec.workload.image.starts_with("ready-45")
                },
            );
            let first = commit.services.iter().next().filter(|(_, there)| !there.slots.is_empty());
            let Some((service, _)) = first.filter(|_| !busy && !slow) else {
                return Vec::new();
            };
            // Whoever plans wants to hear every machine that has something of the namespace.
            let mut slots = commit.services.values().flat_map(|service| service.slots.values());
            let free = slots.all(|slot| slot.machine != *away);
            let of = (namespace.clone(), service.clone());
            let (namespace, service) = of.clone();
            let mut asked = vec![("restart", OperationRequest::Restart { namespace, service })];
            if !free {
                let (namespace, service) = of.clone();
                asked.push(("stop", OperationRequest::Stop { namespace, service }));
                asked.push(("remove", OperationRequest::RemoveNamespace { namespace: of.0 }));
            }
            let asked = asked.into_iter();
            asked.map(|(what, request)| question(what, request, free)).collect()
        };
        rest::heads(world).into_iter().flat_map(of).collect()
    }

    /// Asks for all of it at the same time, on machines that are there, and judges what is said.
    fn ask_all(&mut self, questions: Vec<Question>, away: usize) {
        let mut open: Vec<(OperationHandle, Question)> = Vec::new();
        for question in questions {
            let machine = (away + 1 + self.below(self.story.nodes - 1)) % self.story.nodes;
            match self.cluster.submit(machine, question.submission.clone()) {
                Some(handle) => open.push((handle, question)),
                None => self.violate(ANSWERED, format!("{}: nobody listens", question.what)),
            }
        }
        let end = self.cluster.world.now + WITHIN;
        self.run_until(end, |play| {
            open.iter().all(|(handle, _)| play.cluster.results.contains_key(handle))
        });
        if !self.is_fine() {
            return;
        }
        let machine = self.cluster.world.machines[away].clone();
        for (handle, question) in open {
            *self.report.premises.entry(ANSWERED).or_default() += 1;
            let what = &question.what;
            match self.cluster.results.remove(&handle) {
                None => {
                    let what = format!("{what}: no answer within {WITHIN:?}, {machine} is away");
                    self.violate(ANSWERED, what);
                }
                Some(result) => {
                    let Some((rule, judged)) = judge(&question, &result, &machine) else {
                        continue;
                    };
                    *self.report.premises.entry(rule).or_default() += 1;
                    match judged {
                        Ok(()) if rule == SAYS_SO => self.report.marks.hit(SAID),
                        Ok(()) => {}
                        Err(why) => self.violate(rule, format!("{what}: {why}: {result:?}")),
                    }
                }
            }
        }
    }
}

fn question(what: &str, request: OperationRequest, free: bool) -> Question {
    let what = format!("{what} in {}", request.namespace());
    Question { what, submission: Submission::Apply { request }, free }
}

/// Which rule an answer falls under while this machine is away, and whether it is right. `None`: somebody else was quicker, or is at it, or it was
/// done without the machine after all.
fn judge(
    question: &Question,
    result: &OperationResult,
    away: &MachineId,
) -> Option<(&'static str, Result<(), &'static str>)> {
    let error = match result {
        OperationResult::Committed { .. }
        | OperationResult::Aborted { .. }
        | OperationResult::AlreadyDone { .. }
        | OperationResult::Previewed { .. } => return question.free.then_some((GOES_ON, Ok(()))),
        result => result.error(),
    };
    let others = ["LEASE_HELD", "OPERATION_FINISHED", "OPERATION_UNFINISHED", "ADOPTED_ELSEWHERE"];
    if error.is_some_and(|error| others.contains(&&*error.code)) {
        return None;
    }
    if question.free {
        return Some((GOES_ON, Err("it can do without the machine that is away")));
    }
    let words = |text: &str| -> bool {
        text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == away.as_str())
    };
    let says = match error {
        None => Err("it is not at its end, and there is no error"),
        Some(error) if !words(&error.message) => Err("it does not say which machine it waits for"),
        Some(error) if error.next.is_none() && operation_of(result).is_none() => {
            Err("it does not say what to do next")
        }
        Some(_) => Ok(()),
    };
    Some((SAYS_SO, says))
}
