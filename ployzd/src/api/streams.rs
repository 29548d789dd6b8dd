use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::{Stream, StreamExt as _};
use io_adapters::runtime::OutputStream;
use proto_core::api::ErrorBody;
use proto_core::api::requests::{EventsQuery, LogsQuery};
use proto_core::api::views::{DaemonEvent, ExecEvent, ExecRequest, LogLine};
use proto_core::runtime::RuntimeError;
use tokio::sync::broadcast::error::RecvError;

use super::asked::{Body, Query};
use super::operations::line;
use super::{Api, Failure, instance};

fn ndjson(lines: impl Stream<Item = Vec<u8>> + Send + 'static) -> Response {
    let body = axum::body::Body::from_stream(lines.map(Ok::<_, std::convert::Infallible>));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

fn runtime_failure(error: &RuntimeError) -> Failure {
    match error {
        RuntimeError::NoSuchInstance { .. } => {
            Failure::not_found(error.code(), error.to_string(), "ployzctl ps")
        }
        _ => Failure(StatusCode::BAD_GATEWAY, broken(error)),
    }
}

/// What the runtime says, before an answer or in the middle of one.
fn broken(error: &RuntimeError) -> ErrorBody {
    let next = match error {
        RuntimeError::CannotRun { .. } => "ployzctl ps",
        _ => "ployzctl doctor",
    };
    ErrorBody::new(error.code(), error.to_string()).next(next)
}

fn name(stream: OutputStream) -> String {
    match stream {
        OutputStream::Stdout => "stdout".to_owned(),
        OutputStream::Stderr => "stderr".to_owned(),
    }
}

/// `GET /v1/logs?instance=&tail=&follow=`. An error in the middle is a line with `error`.
pub(super) async fn logs(
    State(api): State<Arc<Api>>,
    Query(query): Query<LogsQuery>,
) -> Result<Response, Failure> {
    let instance = instance(&query.instance)?;
    let lines = api.ports.logs(&instance, query.tail, query.follow).await;
    let lines = lines.map_err(|error| runtime_failure(&error))?;
    Ok(ndjson(lines.map(move |read| match read {
        Ok(read) => line(&LogLine {
            instance: instance.clone(),
            stream: name(read.stream),
            text: read.text,
        }),
        Err(error) => line(&broken(&error)),
    })))
}

/// `POST /v1/exec`.
pub(super) async fn exec(
    State(api): State<Arc<Api>>,
    Body(request): Body<ExecRequest>,
) -> Result<Response, Failure> {
    let exec = api.ports.exec(&request.instance, &request.command).await;
    let exec = exec.map_err(|error| runtime_failure(&error))?;
    // No input is passed on: what reads it sees its end.
    drop(exec.input);
    let output = exec.output.map(|read| match read {
        Ok((stream, bytes)) => line(&ExecEvent::Output {
            stream: name(stream),
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }),
        Err(error) => line(&broken(&error)),
    });
    let exit = exec.exit;
    let exited = futures::stream::once(async move {
        match exit.await {
            Ok(code) => line(&ExecEvent::Exited { code }),
            Err(error) => line(&broken(&error)),
        }
    });
    Ok(ndjson(output.chain(exited)))
}

/// `GET /v1/events?follow=`.
pub(super) async fn events(
    State(api): State<Arc<Api>>,
    Query(query): Query<EventsQuery>,
) -> Response {
    let (kept, live) = api.events.follow();
    let kept = futures::stream::iter(kept).map(|event: DaemonEvent| line(&event));
    if !query.follow {
        return ndjson(kept);
    }
    let live = futures::stream::unfold(live, |mut live| async {
        loop {
            match live.recv().await {
                Ok(event) => return Some((line(&event), live)),
                // Whoever reads too slowly misses the oldest; they are still in the kept ones.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    ndjson(kept.chain(live))
}
