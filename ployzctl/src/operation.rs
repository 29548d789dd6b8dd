//! Runs an operation: sends what is asked for, shows its events, ends with its exit code.
//!
//! The daemon runs the operation, this program watches. One Ctrl-C asks the daemon to cancel and goes on watching;
//! a second one stops watching. A reader of standard output that goes away changes nothing: the exit code still tells.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use proto_core::api::{ErrorBody, OperationEvent, OperationResult, StepStatus, Submission};
use proto_core::id::OperationId;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::client::{Client, Lines};
use crate::failure::{self, DAEMON, Failure, INTERRUPTED, UNKNOWN};
use crate::out::Out;
use crate::render;

/// Sends it, shows it, and gives the exit code.
pub(crate) async fn run(client: &Client, out: Out, submission: &Submission) -> Result<u8, Failure> {
    let result = watch(client, out, submission).await?;
    tell(out, submission, &result)
}

/// The same for a plan that was prepared; `again` prepares one like it, and is what to type if this one cannot be applied any more.
pub(crate) async fn run_prepared(
    client: &Client,
    out: Out,
    submission: &Submission,
    again: String,
) -> Result<u8, Failure> {
    let mut watch = Watch::new(client, out, submission)?;
    watch.again = Some(again);
    let result = watch.run(submission).await?;
    tell(out, submission, &result)
}

fn tell(out: Out, submission: &Submission, result: &OperationResult) -> Result<u8, Failure> {
    // In JSON the last event has said it.
    if !out.json {
        tolerate_closed(out.text(&render::operation::result(result)))?;
    }
    if let Some(error) = submission.error(result) {
        failure::print(error);
    }
    Ok(submission.exit_code(result))
}

/// Shows how it ended where no event has said it; the exit code.
pub(crate) fn conclude(out: Out, result: &OperationResult) -> Result<u8, Failure> {
    tolerate_closed(out.document(result, render::operation::result))?;
    if let Some(error) = result.error() {
        failure::print(error);
    }
    Ok(result.exit_code())
}

/// Sends it and shows its progress; how it ended.
pub(crate) async fn watch(
    client: &Client,
    out: Out,
    submission: &Submission,
) -> Result<OperationResult, Failure> {
    Watch::new(client, out, submission)?.run(submission).await
}

/// What is known of an operation that is being watched.
struct Watch<'a> {
    client: &'a Client,
    interrupts: Signal,
    /// How often Ctrl-C was pressed.
    presses: u32,
    /// Since it is recorded.
    operation: Option<OperationId>,
    /// It cannot change anything.
    harmless: bool,
    /// Prepares the plan anew, if it was prepared.
    again: Option<String>,
    progress: Progress,
}

impl<'a> Watch<'a> {
    fn new(client: &'a Client, out: Out, submission: &Submission) -> Result<Self, Failure> {
        let interrupts = signal(SignalKind::interrupt()).map_err(|error| {
            let message = format!("cannot listen for Ctrl-C: {error}");
            Failure::new(DAEMON, ErrorBody::new("SIGNAL_FAILED", message))
        })?;
        let operation = match submission {
            Submission::Resume { operation } | Submission::Abort { operation } => {
                Some(operation.clone())
            }
            Submission::ApplyPrepared { plan, .. } => Some(plan.operation.clone()),
            Submission::Apply { .. } | Submission::Preview { .. } => None,
        };
        let harmless = matches!(submission, Submission::Preview { .. });
        let progress = Progress::new(out);
        let again = None;
        Ok(Self { client, interrupts, presses: 0, operation, harmless, again, progress })
    }

    async fn run(mut self, submission: &Submission) -> Result<OperationResult, Failure> {
        let client = self.client;
        let opened = {
            let open = client.post_lines("/v1/operations", submission);
            tokio::pin!(open);
            loop {
                tokio::select! {
                    opened = &mut open => break opened,
                    _ = self.interrupts.recv() => self.interrupted(None).await?,
                }
            }
        };
        let mut lines = opened.map_err(|failure| self.lost(failure))?;
        if self.presses > 0 {
            self.cancel(lines.handle).await;
        }
        let result = self.follow(&mut lines).await;
        self.progress.clear();
        result
    }

    async fn follow(&mut self, lines: &mut Lines) -> Result<OperationResult, Failure> {
        loop {
            let event = tokio::select! {
                event = lines.next::<OperationEvent>() => event.map_err(|failure| self.lost(failure))?,
                _ = self.interrupts.recv() => {
                    self.interrupted(lines.handle).await?;
                    continue;
                }
            };
            let Some(mut event) = event else {
                let message = "the daemon's answer ended before the operation did";
                let error = ErrorBody::new("CONNECTION_LOST", message);
                return Err(self.lost(Failure::new(DAEMON, error)));
            };
            if let OperationEvent::Recorded { operation, .. } = &event {
                self.operation = Some(operation.clone());
            }
            // The daemon does not know which files were named.
            if let OperationEvent::Finished { result: OperationResult::Refused { error } } =
                &mut event
                && matches!(error.code.as_str(), "PLAN_DRIFTED" | "PLAN_INVALID")
            {
                error.next = self.again.clone().or(error.next.take());
            }
            tolerate_closed(self.progress.show(&event))?;
            if let OperationEvent::Finished { result } = event {
                return Ok(result);
            }
        }
    }

    /// Ctrl-C: cancel, then leave.
    async fn interrupted(&mut self, handle: Option<u64>) -> Result<(), Failure> {
        self.presses += 1;
        if self.presses == 1 {
            self.progress.remark(match handle {
                Some(_) => "cancelling; press Ctrl-C again to leave it to itself",
                None => "the daemon has not answered yet; it is cancelled when it does; press Ctrl-C again to give it up",
            });
            self.cancel(handle).await;
            return Ok(());
        }
        self.progress.clear();
        let error = match handle {
            Some(_) => {
                ErrorBody::new("DETACHED", "no longer watched; the operation runs on in the daemon")
            }
            // It may have been taken a moment ago, with the answer under way.
            None => {
                let message = "given up before the daemon answered; it is run only if the daemon has read it already";
                ErrorBody::new("GIVEN_UP", message)
            }
        };
        Err(Failure::new(INTERRUPTED, error.next(self.look())))
    }

    async fn cancel(&self, handle: Option<u64>) {
        // Without a handle the daemon has not answered yet: it is cancelled as soon as it has.
        let Some(handle) = handle else { return };
        let body = json!({ "handle": handle });
        let asked = self.client.post::<serde_json::Value>("/v1/operations/cancel", &body).await;
        if let Err(Failure::Error { error, .. }) = asked {
            self.progress.remark(&format!("cannot cancel: {}", error.message));
        }
    }

    /// The connection broke off: whether and how the operation ended is not known, unless it never began.
    fn lost(&self, failure: Failure) -> Failure {
        self.progress.clear();
        let Failure::Error { mut error, exit: DAEMON } = failure else { return failure };
        if error.code == "DAEMON_SILENT" && !self.harmless {
            error.message += "; what it has not read by now it does not run";
        }
        let never_began =
            matches!(error.code.as_str(), "DAEMON_AWAY" | "DAEMON_SILENT" | "SOCKET_FORBIDDEN");
        if self.harmless
            || never_began
            || self.operation.is_none() && error.code != "CONNECTION_LOST"
        {
            return Failure::new(DAEMON, error);
        }
        let message = match &self.operation {
            Some(operation) => format!(
                "{}; operation {operation} is recorded, how far it came is not known here",
                error.message
            ),
            None => format!("{}; whether the operation was recorded is not known", error.message),
        };
        Failure::new(UNKNOWN, ErrorBody::new(&error.code, message).next(self.look()))
    }

    fn look(&self) -> String {
        match &self.operation {
            Some(operation) => format!("ployzctl op show {operation}"),
            None => "ployzctl op ls".to_owned(),
        }
    }
}

/// Whoever read the progress has gone; the operation and its exit code matter still.
fn tolerate_closed(written: Result<(), Failure>) -> Result<(), Failure> {
    match written {
        Err(Failure::Closed) => Ok(()),
        other => other,
    }
}

/// Events as they come: JSON lines, plain lines, or lines above a bar.
struct Progress {
    out: Out,
    bar: Option<ProgressBar>,
}

impl Progress {
    fn new(out: Out) -> Self {
        let bar = out.moving.then(|| {
            let bar = ProgressBar::new(0);
            bar.set_style(
                ProgressStyle::with_template("{spinner} {wide_msg}").expect("a template"),
            );
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { out, bar }
    }

    fn show(&self, event: &OperationEvent) -> Result<(), Failure> {
        if self.out.json {
            return self.out.json(event);
        }
        let Some(line) = render::operation::event(event).filter(|_| !self.out.quiet) else {
            return Ok(());
        };
        let Some(bar) = &self.bar else { return self.out.line(line) };
        match event {
            OperationEvent::Planned { plan, .. } => {
                bar.set_length((plan.steps.len() + plan.cleanup.len()) as u64);
                let template = "{spinner} {pos}/{len} {bar:24} {wide_msg}";
                bar.set_style(ProgressStyle::with_template(template).expect("a template"));
                bar.println(line);
            }
            // What begins is the bar's text; what ended stays above it.
            OperationEvent::Observing
            | OperationEvent::Step { status: StepStatus::Started, .. } => bar.set_message(line),
            OperationEvent::Step { status, .. } => {
                if *status == StepStatus::Done {
                    bar.inc(1);
                }
                bar.println(line);
            }
            _ => bar.println(line),
        }
        Ok(())
    }

    fn remark(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => self.out.remark(text),
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
