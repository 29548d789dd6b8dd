use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::header::{
    NATS_BATCH_COMMIT, NATS_BATCH_ID, NATS_BATCH_SEQUENCE, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
    NATS_MESSAGE_TTL,
};
use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use proto_core::Outcome;
use proto_core::store::{Revision, StoreError, StoreReply, StoreRequest, Write};
use serde::Deserialize;
use tokio::time::Instant;

use super::link::{Answer, Session};
use super::{KEYS, Link, api, bucket, is_refusal_of, read};

/// How many writes a batch may hold (the server takes 1,000).
pub const MAX_BATCH: usize = 900;

/// The bucket `facts`: reads, and batches of conditional writes that land whole or not at all.
///
/// What an [`Outcome`] says here is exact: `Failed` means that nothing was written and nothing will be, also when the
/// server comes back; whatever may still land is `Unknown`.
///
/// A batch is atomic against everything but the death of a lone server in the microseconds between its writes: nats-server
/// 2.15 keeps what was on disk by then, a prefix of the batch, when it starts again. Nobody had an acknowledgement, so the
/// outcome was `Unknown`. So the write that decides goes last, and a lost acknowledgement is resolved on that key.
///
/// The stages of a batch cost a lone server 8 to 30 ms of small files on an ordinary disk, a single write half a
/// millisecond.
#[derive(Debug, Clone)]
pub struct Store {
    link: Link,
}

impl Store {
    /// The bucket on the server of `link`, which must be a coordinator's.
    #[must_use]
    pub fn new(link: Link) -> Self {
        Self { link }
    }

    /// Creates the bucket, or compares the one that is there with what it should be. Safe to repeat.
    ///
    /// The number of replicas is not compared: it changes as the cluster grows.
    ///
    /// # Errors
    ///
    /// If a setting differs (each is named), or the server does not answer or refuses.
    pub async fn ensure_bucket(&self, timeout: Duration) -> Result<(), bucket::BucketError> {
        let session = self.link.current().map_err(bucket::BucketError::Unavailable)?;
        bucket::ensure(&session, Instant::now() + timeout).await
    }

    /// Does what is asked, within `timeout`.
    ///
    /// A store that is away is told at once, not after the timeout, and a request is never kept to be sent later. A
    /// read that gets no answer is `Failed`, since asking again is harmless; a commit is `Unknown` from the moment at
    /// which its last message was handed to the connection, and `Failed` before.
    pub async fn execute(
        &self,
        request: StoreRequest,
        timeout: Duration,
    ) -> Outcome<StoreReply, StoreError> {
        let deadline = Instant::now() + timeout;
        let session = match self.link.current() {
            Ok(session) => session,
            Err(reason) => return Outcome::Failed(StoreError::Unavailable(reason)),
        };
        match request {
            StoreRequest::Read { prefixes } => {
                match read::read(&session, &prefixes, deadline).await {
                    Ok(entries) => Outcome::Ok(StoreReply::Entries(entries)),
                    Err(error) => Outcome::Failed(error),
                }
            }
            StoreRequest::Commit { writes } => commit(&session, &writes, deadline).await,
        }
    }
}

/// A write as it goes to the server.
struct Prepared {
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
}

async fn commit(
    session: &Session,
    writes: &[Write],
    deadline: Instant,
) -> Outcome<StoreReply, StoreError> {
    let prepared = match prepare(writes) {
        Ok(prepared) => prepared,
        Err(error) => return Outcome::Failed(error),
    };
    let (last, first) = match prepared.split_last() {
        Some(split) => split,
        None => return refused("a batch without writes"),
    };
    let mut last_headers = last.headers.clone();
    // Refusals of the messages that carry no reply are heard while the last one is waited for.
    let mut refusals = session.refusals();
    if !first.is_empty() {
        match begin(session, first, deadline).await {
            Ok(id) => {
                last_headers.insert(NATS_BATCH_ID, id);
                last_headers.insert(NATS_BATCH_SEQUENCE, prepared.len().to_string());
                last_headers.insert(NATS_BATCH_COMMIT, "1");
            }
            Err(error) => return Outcome::Failed(error),
        }
    }
    let answer = tokio::select! {
        biased;
        answer = session.request(&last.subject, last_headers, last.payload.clone(), deadline) => answer,
        refusal = refusals.of(|subject| prepared.iter().any(|write| is_refusal_of(subject, &write.subject))) => Answer::Refused(refusal),
    };
    match answer {
        Answer::Message(message) => outcome(&message, prepared.len()),
        Answer::Nobody => unavailable("nobody answers for the store"),
        Answer::NotSent(reason) => unavailable(reason),
        Answer::Refused(reason) => refused(reason),
        Answer::Lost(reason) => {
            tracing::warn!(key = last.subject, reason, "the answer to a commit was lost");
            Outcome::Unknown
        }
    }
}

fn prepare(writes: &[Write]) -> Result<Vec<Prepared>, StoreError> {
    if writes.len() > MAX_BATCH {
        return Err(StoreError::Refused(format!(
            "a batch of {} writes; {MAX_BATCH} are the most",
            writes.len()
        )));
    }
    let mut keys = BTreeSet::new();
    writes
        .iter()
        .map(|write| {
            if !keys.insert(&write.key) {
                return Err(StoreError::Refused(format!(
                    "{} is written twice in one batch",
                    write.key
                )));
            }
            let mut headers = HeaderMap::new();
            if let Some(expect) = write.expect {
                headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expect.0.to_string());
            }
            if let Some(ttl) = write.ttl {
                let millis = ttl.as_millis();
                if millis < 1000 || millis % 1000 != 0 {
                    return Err(StoreError::Refused(format!(
                        "{} is to live for {ttl}: whole seconds are wanted",
                        write.key
                    )));
                }
                headers.insert(NATS_MESSAGE_TTL, format!("{}s", millis / 1000));
            }
            Ok(Prepared {
                subject: api(&format!("{KEYS}{}", write.key)),
                headers,
                payload: Bytes::from(write.value.to_string()),
            })
        })
        .collect()
}

/// Sends all messages of a batch but the last. Until that one is sent nothing is stored, whatever becomes of these: a
/// server drops a batch whose end does not come.
///
/// The first is a request, so that a store that is away or a refusal is known before the end is sent; what becomes of the
/// others is part of the answer to the last.
async fn begin(
    session: &Session,
    writes: &[Prepared],
    deadline: Instant,
) -> Result<String, StoreError> {
    let inbox = session.client().new_inbox();
    // The last token of an inbox is drawn at random by the client library.
    let id = inbox.rsplit('.').next().unwrap_or(&inbox).to_owned();
    for (n, write) in writes.iter().enumerate() {
        let mut headers = write.headers.clone();
        headers.insert(NATS_BATCH_ID, id.as_str());
        headers.insert(NATS_BATCH_SEQUENCE, (n + 1).to_string());
        if n == 0 {
            match session.request(&write.subject, headers, write.payload.clone(), deadline).await {
                Answer::Message(message) if message.payload.is_empty() => {}
                Answer::Message(message) => {
                    return Err(match parse(&message) {
                        Ok(_) => StoreError::Refused("the bucket takes no batches: the first message of one was stored alone".to_owned()),
                        Err(error) => store_error(error),
                    });
                }
                Answer::Nobody => {
                    return Err(StoreError::Unavailable("nobody answers for the store".to_owned()));
                }
                Answer::Refused(reason) => return Err(StoreError::Refused(reason)),
                Answer::NotSent(reason) | Answer::Lost(reason) => {
                    return Err(StoreError::Unavailable(reason));
                }
            }
        } else {
            let publish = session.client().publish_with_headers(
                write.subject.clone(),
                headers,
                write.payload.clone(),
            );
            match tokio::time::timeout_at(deadline, publish).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    return Err(match error.kind() {
                        async_nats::PublishErrorKind::Send => {
                            StoreError::Unavailable(error.to_string())
                        }
                        _ => StoreError::Refused(error.to_string()),
                    });
                }
                Err(_) => {
                    return Err(StoreError::Unavailable(
                        "the connection takes nothing in time".to_owned(),
                    ));
                }
            }
        }
    }
    Ok(id)
}

/// A publish acknowledgement: a sequence or an error.
#[derive(Deserialize)]
struct Ack {
    error: Option<ApiError>,
    #[serde(default)]
    seq: u64,
}

/// An error of the JetStream API.
#[derive(Debug, Deserialize)]
pub(super) struct ApiError {
    #[serde(default)]
    pub(super) code: u16,
    #[serde(default)]
    pub(super) err_code: u16,
    #[serde(default)]
    pub(super) description: String,
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.description, self.err_code)
    }
}

fn parse(message: &Message) -> Result<u64, ApiError> {
    match serde_json::from_slice(&message.payload) {
        Ok(Ack { error: Some(error), .. }) => Err(error),
        Ok(Ack { error: None, seq }) if seq > 0 => Ok(seq),
        _ => Err(ApiError {
            code: 500,
            err_code: 0,
            description: format!(
                "an answer that is no acknowledgement: {:?}",
                String::from_utf8_lossy(&message.payload)
            ),
        }),
    }
}

/// JetStream's numbers.
mod code {
    pub(super) const WRONG_LAST_SEQUENCE: u16 = 10071;
    pub(super) const UNDECIDED_WRITE: u16 = 10164;
    pub(super) const STORE_FAILED: u16 = 10077;
    pub(super) const CLUSTER_NOT_AVAILABLE: u16 = 10008;
    pub(super) const TOO_MANY_BATCHES: u16 = 10210;
    pub(super) const NOT_AN_ACK: u16 = 0;
}

fn outcome(message: &Message, writes: usize) -> Outcome<StoreReply, StoreError> {
    match parse(message) {
        Ok(sequence) => Outcome::Ok(StoreReply::Committed(Revision(sequence))),
        Err(error) if error.err_code == code::NOT_AN_ACK => {
            tracing::error!(%error, "the answer to a commit can't be read");
            Outcome::Unknown
        }
        // The disk failed under it; a batch may have been stored in part, which only the store itself can tell.
        Err(error) if error.err_code == code::STORE_FAILED && writes > 1 => {
            tracing::error!(%error, "the store failed in the middle of a batch");
            Outcome::Unknown
        }
        Err(error) => Outcome::Failed(store_error(error)),
    }
}

fn store_error(error: ApiError) -> StoreError {
    match error.err_code {
        code::WRONG_LAST_SEQUENCE => StoreError::Conflict,
        code::UNDECIDED_WRITE => StoreError::InFlight,
        code::CLUSTER_NOT_AVAILABLE | code::TOO_MANY_BATCHES => {
            StoreError::Unavailable(error.to_string())
        }
        code::STORE_FAILED => StoreError::Refused(error.to_string()),
        _ if error.code == 503 => StoreError::Unavailable(error.to_string()),
        _ => StoreError::Refused(error.to_string()),
    }
}

fn refused(reason: impl Into<String>) -> Outcome<StoreReply, StoreError> {
    Outcome::Failed(StoreError::Refused(reason.into()))
}

fn unavailable(reason: impl Into<String>) -> Outcome<StoreReply, StoreError> {
    Outcome::Failed(StoreError::Unavailable(reason.into()))
}

#[cfg(test)]
mod tests {
    use proto_core::span::Span;
    use proto_core::store::Key;

    use super::*;

    fn write(key: &str, ttl: Option<Span>) -> Write {
        Write { key: Key::new(key).unwrap(), value: serde_json::json!({}), expect: None, ttl }
    }

    fn error(code: u16, err_code: u16) -> StoreError {
        store_error(ApiError { code, err_code, description: "why".to_owned() })
    }

    #[test]
    fn the_servers_numbers_have_their_meanings() {
        assert_eq!(error(400, 10071), StoreError::Conflict);
        assert_eq!(error(400, 10164), StoreError::InFlight);
        assert_eq!(error(400, 10176), StoreError::Refused("why (10176)".to_owned()));
        assert_eq!(error(503, 10008), StoreError::Unavailable("why (10008)".to_owned()));
        assert_eq!(error(503, 1), StoreError::Unavailable("why (1)".to_owned()));
        assert_eq!(error(503, 10077), StoreError::Refused("why (10077)".to_owned()));
    }

    #[test]
    fn what_the_server_would_misread_is_refused_before_it_is_sent() {
        let broken = [
            vec![write("a", None), write("a", None)],
            vec![write("a", Some(Span::from_millis(1500)))],
            vec![write("a", Some(Span::from_millis(0)))],
            (0..=MAX_BATCH).map(|n| write(&format!("a.{n}"), None)).collect(),
        ];
        for writes in broken {
            assert!(matches!(prepare(&writes), Err(StoreError::Refused(_))));
        }
        assert!(prepare(&[write("a", Some(Span::from_secs(1)))]).is_ok());
    }
}
