//! L1 where not everything is mended: one machine stays without power, and for as long *cannot go on, and says so* is told apart from
//! *stuck*. Whatever is asked for is answered; what is not about that machine comes to its end; what cannot do without it names it.

use std::time::Duration;

use proto_core::api::{OperationRequest, OperationResult, Submission};
use proto_core::coordination::Phase;
use proto_core::daemon::OperationHandle;
use proto_core::id::{MachineId, Namespace, ServiceName};
use proto_core::store::facts::Commit;

use super::Play;
use crate::cluster::operation_of;
use crate::invariants::rest;

/// A part of L1.
pub(super) const SAYS_SO: &str =
    "L1 what needs a machine that is away says so, the rest comes to its end";
/// A part of L1.
pub(super) const ANSWERED: &str = "L1 whatever is asked for is answered";

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
        let restarts = self.restarts(away);
        self.ask_all(restarts, away);
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

    /// To restart a service of each namespace in which nothing is unfinished.
    fn restarts(&self, away: usize) -> Vec<Question> {
        let world = &self.cluster.world;
        let unfinished = rest::unfinished(world);
        let away = &world.machines[away];
        let of = |(namespace, commit): (Namespace, Commit)| {
            let scope = proto_core::store::Scope::Namespace(namespace.clone());
            let busy = unfinished.iter().any(|record| record.scope == scope);
            // What takes most of a minute to be ready takes too long one by one.
            let slow = world.runtimes.iter().flat_map(|runtime| runtime.instances().values()).any(
                |there| {
                    there.spec.namespace == namespace
                        && there.spec.workload.image.starts_with("ready-45")
                },
            );
            let (service, there) = commit.services.iter().next()?;
            if busy || slow || there.slots.is_empty() {
                return None;
            }
            // Whoever plans wants to hear every machine that has something of the namespace.
            let mut slots = commit.services.values().flat_map(|service| service.slots.values());
            let free = slots.all(|slot| slot.machine != *away);
            Some(restart(namespace, service.clone(), free))
        };
        rest::heads(world).into_iter().filter_map(of).collect()
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
            *self.report.premises.entry(SAYS_SO).or_default() += 1;
            let what = &question.what;
            match self.cluster.results.remove(&handle) {
                None => {
                    let what = format!("{what}: no answer within {WITHIN:?}, {machine} is away");
                    self.violate(ANSWERED, what);
                }
                Some(result) => {
                    let judged = judge(&question, &result, &machine);
                    match judged {
                        Ok(Some(mark)) => self.report.marks.hit(mark),
                        Ok(None) => {}
                        Err(why) => self.violate(SAYS_SO, format!("{what}: {why}: {result:?}")),
                    }
                }
            }
        }
    }
}

fn restart(namespace: Namespace, service: ServiceName, free: bool) -> Question {
    let what = format!("restart of {namespace}/{service}");
    let request = OperationRequest::Restart { namespace, service };
    Question { what, submission: Submission::Apply { request }, free }
}

/// Whether the answer is right while this machine is away, and the mark that it is worth.
fn judge(
    question: &Question,
    result: &OperationResult,
    away: &MachineId,
) -> Result<Option<&'static str>, &'static str> {
    let error = match result {
        OperationResult::Committed { .. }
        | OperationResult::Aborted { .. }
        | OperationResult::AlreadyDone { .. }
        | OperationResult::Previewed { .. } => return Ok(None),
        result => result.error().ok_or("it is not at its end, and there is no error")?,
    };
    // Somebody else was quicker, or is at it.
    let others = ["LEASE_HELD", "OPERATION_FINISHED", "OPERATION_UNFINISHED", "ADOPTED_ELSEWHERE"];
    if others.contains(&&*error.code) {
        return Ok(None);
    }
    if question.free {
        return Err("it can do without the machine that is away");
    }
    let words = |text: &str| -> bool {
        text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == away.as_str())
    };
    if !words(&error.message) {
        return Err("it does not say which machine it waits for");
    }
    if error.next.is_none() && operation_of(result).is_none() {
        return Err("it does not say what to do next");
    }
    Ok(Some("an operation could not go on without a machine, and said so"))
}
