//! The operators' host: asks the machines over HTTP, as `ployzctl` does, and hears the events of each operation.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use proto_core::api::{OperationEvent, OperationResult, Submission};
use proto_core::daemon::{NodeEvent, OperationHandle};
use sim::invariants::Seen;
use tokio::sync::mpsc;

use crate::machine;
use crate::net::Stream;
use crate::shared::Shared;

/// The host's name.
pub(crate) const HOST: &str = "operators";

/// Something that an operator asks for.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) number: u64,
    /// The name of the machine's host.
    pub(crate) machine: String,
    pub(crate) submission: Submission,
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
            let number = question.number;
            let answer = ask(&shared, question).await;
            shared.lock().answers.insert(number, answer);
        });
    }
    Ok(())
}

async fn ask(shared: &Shared, question: Question) -> Answer {
    let Ok(stream) = shared.net.connect(&question.machine, machine::API).await else {
        return Answer::Away;
    };
    let submission = &question.submission;
    let head = match submission {
        Submission::Apply { request } | Submission::ApplyPrepared { request, .. } => {
            Some(shared.lock().world.head(request.namespace()))
        }
        _ => None,
    };
    let events = follow(stream, submission, |event| {
        let event = NodeEvent { handle: OperationHandle(question.number), event };
        shared.lock().see(&Seen::Told { submission, head, event: &event });
        event.result().cloned()
    });
    match events.await {
        Ok(Some(result)) => Answer::Ended(Box::new(result)),
        Ok(None) | Err(_) => Answer::Lost,
    }
}

/// Submits, and hands on each event until one is the last.
async fn follow(
    stream: Stream,
    submission: &Submission,
    hear: impl Fn(OperationEvent) -> Option<OperationResult>,
) -> turmoil::Result<Option<OperationResult>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::post("/v1/operations")
        .header("host", "ployz")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(serde_json::to_vec(submission)?)))?;
    let mut body = sender.send_request(request).await?.into_body();
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
