//! The operators' host: asks the machines over HTTP, as `ployzctl` does, and hears the events of each operation.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use proto_core::api::requests::CancelRequest;
use proto_core::api::{OperationEvent, OperationResult, Submission};
use proto_core::daemon::{NodeEvent, OperationHandle};
use serde::Serialize;
use sim::invariants::Seen;
use tokio::sync::mpsc;

use crate::machine;
use crate::net::Stream;
use crate::shared::Shared;

/// The host's name.
pub(crate) const HOST: &str = "operators";

/// Something that an operator does.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) number: u64,
    /// The name of the machine's host.
    pub(crate) machine: String,
    /// What is asked for; `None`: that what was asked for under this number is cancelled.
    pub(crate) submission: Option<Submission>,
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nobody listens.
    Away,
    /// The connection broke before the operation ended: its daemon died.
    Lost,
    /// It ended.
    Ended(Box<OperationResult>),
}

/// The host.
pub(crate) async fn run(
    shared: Shared,
    mut questions: mpsc::UnboundedReceiver<Question>,
) -> turmoil::Result {
    while let Some(question) = questions.recv().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            let Question { number, machine, submission } = question;
            match submission {
                Some(submission) => {
                    let answer = ask(&shared, number, &machine, &submission).await;
                    shared.lock().answers.insert(number, answer);
                }
                None => cancel(&shared, number, &machine).await,
            }
        });
    }
    Ok(())
}

async fn ask(shared: &Shared, number: u64, machine: &str, submission: &Submission) -> Answer {
    let Ok(stream) = shared.net.connect(machine, machine::API).await else {
        return Answer::Away;
    };
    let head = match submission {
        Submission::Apply { request } | Submission::ApplyPrepared { request, .. } => {
            Some(shared.lock().world.head(request.namespace()))
        }
        _ => None,
    };
    let taken = |handle| {
        shared.lock().handles.insert(number, handle);
    };
    let events = follow(stream, submission, taken, |event| {
        let event = NodeEvent { handle: OperationHandle(number), event };
        shared.lock().see(&Seen::Told { submission, head, event: &event });
        event.result().cloned()
    });
    match events.await {
        Ok(Some(result)) => Answer::Ended(Box::new(result)),
        Ok(None) | Err(_) => Answer::Lost,
    }
}

/// Asks that it is cancelled, if it was taken by then. What becomes of that its own end says.
async fn cancel(shared: &Shared, number: u64, machine: &str) {
    let Some(handle) = shared.lock().handles.get(&number).copied() else { return };
    let Ok(stream) = shared.net.connect(machine, machine::API).await else { return };
    let answer = post(stream, "/v1/operations/cancel", &CancelRequest { handle }).await;
    // Without an answer its daemon has died.
    if let Ok(answer) = answer
        && !answer.status().is_success()
    {
        let mut state = shared.lock();
        let now = state.world.now;
        let what = format!("{machine} says {}", answer.status());
        state.invariants.violate("a cancel is taken", what, now);
    }
}

/// Submits, says under which handle it was taken, and hands on each event until one is the last.
async fn follow(
    stream: Stream,
    submission: &Submission,
    taken: impl FnOnce(u64),
    hear: impl Fn(OperationEvent) -> Option<OperationResult>,
) -> turmoil::Result<Option<OperationResult>> {
    let answer = post(stream, "/v1/operations", submission).await?;
    if let Some(handle) = answer.headers().get("ployz-handle") {
        taken(handle.to_str()?.parse()?);
    }
    let mut body = answer.into_body();
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        text.extend_from_slice(frame?.data_ref().unwrap_or(&Bytes::new()));
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            if let Some(result) = hear(serde_json::from_slice(&line)?) {
                return Ok(Some(result));
            }
        }
    }
    Ok(None)
}

async fn post(
    stream: Stream,
    path: &str,
    body: &impl Serialize,
) -> turmoil::Result<Response<Incoming>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::post(path)
        .header("host", "ployz")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(serde_json::to_vec(body)?)))?;
    Ok(sender.send_request(request).await?)
}
