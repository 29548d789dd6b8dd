use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use proto_core::api::requests::CancelRequest;
use proto_core::api::{OperationSummary, Submission};
use proto_core::coordination::OperationRecord;
use proto_core::daemon::OperationHandle;
use proto_core::id::OperationId;
use proto_core::store::{Key, Versioned};
use serde::Serialize;

use super::asked::{self, Path};
use super::{Answer, Api, Failure};

/// `POST /v1/operations`: a line of JSON for each event, the last one says how it ended.
pub(super) async fn submit(
    State(api): State<Arc<Api>>,
    asked::Body(submission): asked::Body<Submission>,
) -> Result<Response, Failure> {
    let Some((handle, events)) = api.driver.submit(submission).await else {
        return Err(Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "DAEMON_STOPPED",
            "the daemon is about to end",
            "ployzctl dev up",
        ));
    };
    let lines = futures::stream::unfold(events, |mut events| async {
        let event = events.recv().await?;
        Some((line(&event), events))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson".to_owned()),
        (header::HeaderName::from_static("ployz-handle"), handle.0.to_string()),
    ];
    Ok((headers, Body::from_stream(lines.map(Ok::<_, std::convert::Infallible>))).into_response())
}

/// A value as a line of JSON.
pub(super) fn line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("what the API says is plain JSON");
    line.push(b'\n');
    line
}

/// `POST /v1/operations/cancel`.
pub(super) async fn cancel(
    State(api): State<Arc<Api>>,
    asked::Body(cancel): asked::Body<CancelRequest>,
) -> Answer<serde_json::Value> {
    api.driver.cancel(OperationHandle(cancel.handle));
    Ok(Json(serde_json::json!({})))
}

/// `GET /v1/operations`: newest first.
pub(super) async fn list(State(api): State<Arc<Api>>) -> Answer<Vec<OperationSummary>> {
    let mut all = summaries(&api, Key::operations()).await?;
    for summary in &mut all {
        (summary.record.request, summary.record.plan) = (None, None);
        summary.record.done.iter_mut().for_each(|done| done.steps.clear());
    }
    all.sort_by_key(|summary| std::cmp::Reverse(summary.record.started));
    Ok(Json(all))
}

/// `GET /v1/operations/{id}`.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Answer<OperationSummary> {
    let id: OperationId = id.parse().map_err(|error: proto_core::id::OperationIdError| {
        Failure::invalid_name(&error, "ployzctl op ls")
    })?;
    let found = summaries(&api, Key::operation(&id)).await?.pop();
    found.map(Json).ok_or_else(|| {
        let message = format!("there is no operation {id}");
        Failure::not_found("NO_SUCH_OPERATION", message, "ployzctl op ls")
    })
}

async fn summaries(api: &Api, prefix: Key) -> Result<Vec<OperationSummary>, Failure> {
    let entries = api.read(vec![prefix]).await?;
    let records = entries.iter().map(Versioned::<OperationRecord>::read);
    let records: Vec<_> =
        records.collect::<Result<_, _>>().map_err(|error| Failure::unreadable(&error))?;
    let running = api.driver.running().await;
    let summary = |op: Versioned<OperationRecord>| {
        let running_here = running.contains(&op.value.id);
        OperationSummary { record: op.value, revision: op.revision, running_here }
    };
    Ok(records.into_iter().map(summary).collect())
}
