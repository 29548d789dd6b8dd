//! What is asked: body, query and path of a request. A mistake in them is answered as every other error is, with a code of its own.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{self, ConnectInfo, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{Extensions, Method, StatusCode, Uri};
use proto_core::api::requests::MAX_BYTES;
use serde::de::DeserializeOwned;

use super::Failure;
use super::asker::Asker;

/// Says whether daemon and asker are of one version, which is what makes requests that are not understood.
const VERSIONS: &str = "ployzctl version";

/// A body of JSON, declared as such, of somebody who waits for the answer still.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

/// No body; somebody waits for the answer still.
#[derive(Debug)]
pub(super) struct WaitedFor;

/// The query.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

/// The variable parts of the path.
#[derive(Debug)]
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let extensions = request.extensions().clone();
        let read = Json::from_request(request, state).await;
        let Json(body) = read.map_err(|error| body_failure(&error))?;
        // Behind all the reading: this daemon may have been stopped in the middle of it.
        waited_for(&extensions)?;
        Ok(Self(body))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for WaitedFor {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        waited_for(&parts.extensions).map(|()| Self)
    }
}

/// Refuses what nobody waits for any more.
fn waited_for(extensions: &Extensions) -> Result<(), Failure> {
    let asker = extensions.get::<ConnectInfo<Asker>>();
    if asker.is_some_and(|ConnectInfo(asker)| asker.has_gone()) {
        let message = "whoever asked has gone; nothing was changed";
        let status = StatusCode::REQUEST_TIMEOUT;
        return Err(Failure::new(status, "REQUEST_GIVEN_UP", message, "ployzctl events"));
    }
    Ok(())
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let read = extract::Query::from_request_parts(parts, state).await;
        read.map(|extract::Query(query)| Self(query)).map_err(|error: QueryRejection| {
            let message = format!("the query is not understood: {}", innermost(&error));
            Failure::new(StatusCode::BAD_REQUEST, "QUERY_INVALID", message, VERSIONS)
        })
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let read = extract::Path::from_request_parts(parts, state).await;
        read.map(|extract::Path(path)| Self(path)).map_err(|error| {
            let message = format!("the path is not understood: {}", innermost(&error));
            Failure::new(StatusCode::BAD_REQUEST, "PATH_INVALID", message, VERSIONS)
        })
    }
}

fn body_failure(error: &JsonRejection) -> Failure {
    let status = error.status();
    let (code, message, next) = match (error, status) {
        (JsonRejection::MissingJsonContentType(_), _) => {
            let message = "the body is not declared as `content-type: application/json`";
            ("CONTENT_TYPE_WRONG", message.to_owned(), VERSIONS)
        }
        (JsonRejection::JsonSyntaxError(_), _) => {
            ("BODY_NO_JSON", format!("the body is no JSON: {}", innermost(error)), VERSIONS)
        }
        (_, StatusCode::PAYLOAD_TOO_LARGE) => {
            let message = format!("the body has more than {MAX_BYTES} bytes");
            ("BODY_TOO_LARGE", message, "ployzctl deploy --help")
        }
        // Another kind is what comes with a later version of the library; it is no less wrong.
        _ => {
            let message = format!("the body is not what is asked for here: {}", innermost(error));
            ("BODY_INVALID", message, VERSIONS)
        }
    };
    Failure::new(status, code, message, next)
}

/// What the reader of a format says, with its place; without what each layer above it says in its own words.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let said = error.to_string();
    // As serde_json ends what it says.
    let placed = said.rsplit_once(" at line ");
    match placed.and_then(|(what, place)| Some((what, place.split_once(" column ")?))) {
        Some((what, (line, column))) => format!("line {line}, column {column}: {what}"),
        None => said,
    }
}

/// The answer to a path that is none.
pub(super) async fn no_such_endpoint(uri: Uri) -> Failure {
    let message = format!("there is no endpoint {}", uri.path());
    Failure::new(StatusCode::NOT_FOUND, "NO_SUCH_ENDPOINT", message, VERSIONS)
}

/// The answer to a path that is there and is asked otherwise; which methods it takes is in the header `allow`.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Failure {
    let message = format!("{} is not asked with {method}", uri.path());
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message, VERSIONS)
}
