//! The stream behind the bucket `facts`, made as it must be or compared with that.

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::link::{Answer, Session};
use super::store::ApiError;
use super::{KEYS, STREAM, api};

/// The bucket is not there as it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BucketError {
    /// A bucket is there whose settings differ. It was not touched.
    #[error("the bucket facts exists with other settings: {}", .0.join(", "))]
    Differs(
        /// What differs, a setting each: `allow_atomic is false and should be true`.
        Vec<String>,
    ),
    /// The store does not answer.
    #[error("the store is away: {0}")]
    Unavailable(String),
    /// The store refuses.
    #[error("the store refused it: {0}")]
    Refused(String),
}

/// What the stream must be.
///
/// Batches and lives of keys are what everything rests on. A rollup, a purge or a deletion by a client would take facts away
/// from under their readers, and a marker for an expired key would keep "must not exist" from being true again.
fn settings() -> Value {
    json!({
        "name": STREAM,
        "subjects": [format!("{KEYS}>")],
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        "max_msgs_per_subject": 1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_consumers": -1,
        "allow_atomic": true,
        "allow_msg_ttl": true,
        "allow_direct": true,
        "allow_rollup_hdrs": false,
        "deny_delete": true,
        "deny_purge": true,
        "subject_delete_marker_ttl": 0,
        "sealed": false,
    })
}

const NOT_FOUND: u16 = 10059;
const NAME_IN_USE: u16 = 10058;

#[derive(Deserialize)]
struct Reply {
    error: Option<ApiError>,
    config: Option<Value>,
}

pub(super) async fn ensure(session: &Session, deadline: Instant) -> Result<(), BucketError> {
    let mut reply = call(session, "STREAM.INFO", &json!({}), deadline).await?;
    if reply.error.as_ref().is_some_and(|error| error.err_code == NOT_FOUND) {
        let mut config = settings();
        config["num_replicas"] = json!(1);
        reply = call(session, "STREAM.CREATE", &config, deadline).await?;
        // Somebody was faster, or it was us and the answer was lost.
        if reply.error.as_ref().is_some_and(|error| error.err_code == NAME_IN_USE) {
            reply = call(session, "STREAM.INFO", &json!({}), deadline).await?;
        }
    }
    if let Some(error) = reply.error {
        return Err(match error.code {
            503 => BucketError::Unavailable(error.to_string()),
            _ => BucketError::Refused(error.to_string()),
        });
    }
    let config = reply
        .config
        .ok_or_else(|| BucketError::Refused("an answer without a configuration".to_owned()))?;
    match differences(&settings(), &config) {
        differences if differences.is_empty() => Ok(()),
        differences => Err(BucketError::Differs(differences)),
    }
}

async fn call(
    session: &Session,
    call: &str,
    body: &Value,
    deadline: Instant,
) -> Result<Reply, BucketError> {
    let subject = api(&format!("{call}.{STREAM}"));
    let body = Bytes::from(body.to_string());
    match session.request(&subject, HeaderMap::new(), body, deadline).await {
        Answer::Message(message) => serde_json::from_slice(&message.payload).map_err(|error| {
            BucketError::Refused(format!("an answer that can't be read: {error}"))
        }),
        Answer::Nobody => Err(BucketError::Unavailable("nobody answers for the store".to_owned())),
        Answer::NotSent(reason) | Answer::Lost(reason) => Err(BucketError::Unavailable(reason)),
        Answer::Refused(reason) => Err(BucketError::Refused(reason)),
    }
}

/// The server leaves settings out that have their zero value.
fn differences(wanted: &Value, actual: &Value) -> Vec<String> {
    let absent = |value: &Value| *value == json!(false) || *value == json!(0);
    wanted
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, wanted)| match actual.get(name) {
            Some(actual) => actual != *wanted,
            None => !absent(wanted),
        })
        .map(|(name, wanted)| match actual.get(name) {
            Some(actual) => format!("{name} is {actual} and should be {wanted}"),
            None => format!("{name} is not set and should be {wanted}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_that_differs_is_named() {
        let mut actual = settings();
        let map = actual.as_object_mut().unwrap();
        map.remove("allow_rollup_hdrs");
        map.insert("first_seq".to_owned(), json!(7));
        assert_eq!(differences(&settings(), &actual), Vec::<String>::new());

        let map = actual.as_object_mut().unwrap();
        map.remove("allow_atomic");
        map.insert("deny_purge".to_owned(), json!(false));
        assert_eq!(
            differences(&settings(), &actual),
            [
                "allow_atomic is not set and should be true",
                "deny_purge is false and should be true"
            ]
        );
    }
}
