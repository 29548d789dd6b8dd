//! What is asked: body, query and path of a request. A mistake in them is answered as every other error is, with a code of its own.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::http::{Method, Uri};
use serde::de::DeserializeOwned;

use super::Failure;

/// Says whether daemon and asker are of one version, which is what makes requests that are not understood.
const VERSIONS: &str = "ployzctl version";

/// A body of JSON, declared as such.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

/// The query.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

/// The variable parts of the path.
#[derive(Debug)]
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let read = Json::from_request(request, state).await;
        read.map(|Json(body)| Self(body)).map_err(|error| body_failure(&error))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let read = extract::Query::from_request_parts(parts, state).await;
        read.map(|extract::Query(query)| Self(query)).map_err(|error: QueryRejection| {
            Failure::new(StatusCode::BAD_REQUEST, "QUERY_INVALID", error.body_text(), VERSIONS)
        })
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let read = extract::Path::from_request_parts(parts, state).await;
        read.map(|extract::Path(path)| Self(path)).map_err(|error| {
            Failure::new(StatusCode::BAD_REQUEST, "PATH_INVALID", error.body_text(), VERSIONS)
        })
    }
}

fn body_failure(error: &JsonRejection) -> Failure {
    let status = error.status();
    let (code, next) = match (error, status) {
        (JsonRejection::MissingJsonContentType(_), _) => ("CONTENT_TYPE_WRONG", VERSIONS),
        (JsonRejection::JsonSyntaxError(_), _) => ("BODY_NO_JSON", VERSIONS),
        (_, StatusCode::PAYLOAD_TOO_LARGE) => ("BODY_TOO_LARGE", "ployzctl deploy --help"),
        // Another kind is what comes with a later version of the library; it is no less wrong.
        _ => ("BODY_INVALID", VERSIONS),
    };
    Failure::new(status, code, error.body_text(), next)
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
