//! Operators: they ask for operations on any machine, at the same time, and when something does not come to an end they say it again,
//! resume it, abort it, leave it to others, or go home.

use std::time::Duration;

use proto_core::api::{OperationResult, Submission};
use proto_core::daemon::OperationHandle;

use super::habits::{self, Again, MAX_TRIES};
use super::{Play, Todo};
use crate::cluster::operation_of;
use crate::story::{Action, Then};

/// How long an operator waits for an answer before they leave it to itself.
const PATIENCE: Duration = Duration::from_secs(240);

/// What an operator is at.
#[derive(Debug, Default)]
pub(super) struct Task {
    /// What was asked last, where, and of which run of its daemon.
    open: Option<(OperationHandle, usize, u32)>,
    tries: u32,
    /// How it ended, as far as the operator knows.
    pub(super) ended: Option<&'static str>,
    /// It is being applied as it was prepared.
    applying: bool,
    /// What was asked last is the end of somebody else's operation that is in the way.
    clearing: bool,
}

impl Play<'_> {
    pub(super) fn ask(&mut self, task: usize) {
        let asked = &self.story.operations[task];
        let request = asked.action.request();
        let submission = match asked.action {
            Action::Preview { .. } | Action::Prepared { .. } => Submission::Preview { request },
            _ => Submission::Apply { request },
        };
        let (machine, cancel_after) = (asked.machine, asked.cancel_after);
        self.submit(task, machine, submission);
        if let Some(after) = cancel_after {
            self.plan(Duration::from_millis(after), Todo::Cancel(task));
        }
    }

    fn submit(&mut self, task: usize, machine: usize, submission: Submission) {
        self.tasks[task].tries += 1;
        let tries = self.tasks[task].tries;
        // Before it is asked: it may die of it.
        let boot = self.cluster.boot(machine);
        let Some(handle) = self.cluster.submit(machine, submission) else {
            // Nobody listens on the socket.
            self.report.marks.hit("a daemon was away when it was asked");
            self.tasks[task].ended.get_or_insert("daemon_away");
            return self.try_again(task, habits::LATER);
        };
        self.tasks[task].open = Some((handle, machine, boot));
        self.waiting.insert(handle, task);
        self.plan(PATIENCE, Todo::Patience(task, tries));
    }

    fn try_again(&mut self, task: usize, after: Duration) {
        let going_home = self.story.operations[task].then == Then::GiveUp;
        if self.tasks[task].tries < MAX_TRIES && !going_home {
            self.plan(after, Todo::Again(task));
        }
    }

    pub(super) fn cancel(&mut self, task: usize) {
        if let Some((handle, machine, boot)) = self.tasks[task].open
            && self.cluster.boot(machine) == boot
        {
            self.report.marks.hit("an operator asked for a cancel");
            self.cluster.cancel(machine, handle);
        }
    }

    pub(super) fn lose_patience(&mut self, task: usize, tries: u32) {
        if self.tasks[task].tries == tries
            && let Some((handle, _, _)) = self.tasks[task].open.take()
        {
            // The client goes away; the operation goes on.
            self.waiting.remove(&handle);
            self.report.marks.hit("a client went away and its operation went on");
        }
    }

    /// An operator comes back to what did not come to an end.
    pub(super) fn again(&mut self, task: usize) {
        let asked = &self.story.operations[task];
        let machine = asked.then_on;
        let (submission, clearing) =
            habits::come_back(asked, self.tasks[task].applying, &self.cluster.world);
        self.tasks[task].clearing = clearing;
        self.submit(task, machine, submission);
    }

    /// Looks at what the daemons said, and which of them died.
    pub(super) fn attend(&mut self) {
        self.count_hits();
        for handle in std::mem::take(&mut self.cluster.told) {
            if self.cluster.results.get(&handle).is_some_and(is_history) {
                self.report.marks.hit("an operation had committed when its record came back");
            }
            if let Some(task) = self.waiting.remove(&handle)
                && let Some(result) = self.cluster.results.remove(&handle)
            {
                self.answered(task, &result);
            }
        }
        if self.crashes_seen != self.cluster.crashes {
            self.crashes_seen = self.cluster.crashes;
            for task in 0..self.tasks.len() {
                let Some((handle, machine, boot)) = self.tasks[task].open else { continue };
                if self.cluster.boot(machine) != boot {
                    self.tasks[task].open = None;
                    self.waiting.remove(&handle);
                    self.tasks[task].ended = Some("connection_lost");
                    let after = Duration::from_millis(1500 + self.random.below(6000));
                    self.try_again(task, after);
                }
            }
        }
    }

    fn answered(&mut self, task: usize, result: &OperationResult) {
        let action = &self.story.operations[task].action;
        if std::mem::take(&mut self.tasks[task].clearing) {
            self.report.marks.of_result(result);
            self.report.marks.hit("an operator ended what somebody else had left");
            self.tasks[task].open = None;
            return self.try_again(task, Duration::from_secs(2));
        }
        let outcome = super::report::outcome(result);
        self.tasks[task].ended = Some(outcome);
        self.report.answers.add(action.kind(), outcome);
        self.report.marks.of_result(result);
        if operation_of(result).is_some() && self.tasks[task].tries > 1 {
            self.report.marks.hit("an operator's second try came to an end");
        }
        self.tasks[task].open = None;
        if let OperationResult::Previewed { plan, .. } = result
            && let Action::Prepared { of, after } = action
            && !std::mem::replace(&mut self.tasks[task].applying, true)
        {
            let request = of.request();
            let plan = plan.clone();
            self.tasks[task].tries -= 1;
            self.prepared.push((task, Submission::ApplyPrepared { request, plan }));
            let number = self.prepared.len() - 1;
            self.plan(Duration::from_millis(*after), Todo::ApplyPrepared(number));
        }
        match habits::about(result, self.story.operations[task].then) {
            Some(Again::Later) => self.try_again(task, habits::LATER),
            Some(Again::Soon) => {
                let after = Duration::from_millis(1000 + self.random.below(10_000));
                self.try_again(task, after);
            }
            None => {}
        }
    }

    pub(super) fn apply_prepared(&mut self, number: usize) {
        let (task, submission) = self.prepared[number].clone();
        let machine = self.story.operations[task].machine;
        self.submit(task, machine, submission);
    }

    /// Whether somebody waits for an answer.
    pub(super) fn is_busy(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether every operator has got what they will get: nobody waits, and nobody is about to come back.
    pub(super) fn is_over(&self) -> bool {
        !self.is_busy() && self.to_come == 0
    }
}

/// Whether the operation had committed long ago: only its record had come back.
fn is_history(result: &OperationResult) -> bool {
    let OperationResult::Committed { notes, .. } = result else { return false };
    notes.iter().any(|note| note.contains("its record had come back"))
}
