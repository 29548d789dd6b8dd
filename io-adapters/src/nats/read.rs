//! Reading the bucket: the latest entry of each key below some prefixes, as of one instant.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_nats::Message;
use async_nats::header::{NATS_LAST_SEQUENCE, NATS_SEQUENCE, NATS_SUBJECT};
use bytes::Bytes;
use futures::StreamExt as _;
use proto_core::store::{Entry, Key, Revision, StoreError};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::link::Session;
use super::{KEYS, STREAM, api, is_refusal_of};

/// How many entries are asked for at once in a scan.
const PAGE: usize = 1000;

/// How many bytes the server may send in one page: below what makes it take a client for a slow one.
const PAGE_BYTES: usize = 16 * 1024 * 1024;

/// The header with the number of entries that a page left out.
const NUM_PENDING: &str = "Nats-Num-Pending";

/// Reads from the only replica that there is, which therefore is the leader: a *direct* get is answered by any replica, so
/// with several this has to become a read through the stream's leader.
///
/// Up to 1,024 keys come with one request, which the server answers as of one instant. If there are more it says so,
/// and the whole bucket is scanned in the order of revisions. That is a state of the bucket as of one instant too: a
/// key that is rewritten behind the scan's back comes again further on, so at the end every key has its latest
/// revision below the last.
///
/// Either may end in the middle of a batch that is being written. Whoever acts on what it read does so by a batch of its own that
/// expects those revisions, and loses.
pub(super) async fn read(
    session: &Session,
    prefixes: &[Key],
    deadline: Instant,
) -> Result<Vec<Entry>, StoreError> {
    if prefixes.is_empty() {
        return Ok(Vec::new());
    }
    let filters: Vec<String> = prefixes
        .iter()
        .flat_map(|prefix| [format!("{KEYS}{prefix}"), format!("{KEYS}{prefix}.>")])
        .collect();
    let at_once =
        page(session, &json!({ "multi_last": filters, "max_bytes": PAGE_BYTES }), deadline).await?;
    let entries = match at_once {
        Page::Entries { entries, pending: 0 } => {
            entries.into_iter().map(|raw| (raw.key.clone(), raw)).collect()
        }
        // A second page of this request would not bring what was rewritten meanwhile.
        Page::Entries { .. } | Page::TooMany => scan(session, prefixes, deadline).await?,
    };
    entries.into_values().map(Raw::entry).collect()
}

async fn scan(
    session: &Session,
    prefixes: &[Key],
    deadline: Instant,
) -> Result<BTreeMap<Key, Raw>, StoreError> {
    let mut entries = BTreeMap::new();
    let mut next = 1;
    loop {
        let request = json!({
            "seq": next,
            "next_by_subj": format!("{KEYS}>"),
            "batch": PAGE,
            "max_bytes": PAGE_BYTES,
        });
        match page(session, &request, deadline).await? {
            Page::Entries { entries: page, .. } if page.is_empty() => return Ok(entries),
            Page::Entries { entries: page, .. } => {
                for raw in page {
                    next = raw.revision.0 + 1;
                    if prefixes.iter().any(|prefix| raw.key.is_under(prefix)) {
                        entries.insert(raw.key.clone(), raw);
                    }
                }
            }
            Page::TooMany => {
                return Err(StoreError::Refused("the store sends no page of a scan".to_owned()));
            }
        }
    }
}

/// An entry before its value is looked at: what is not asked for need not be readable.
pub(super) struct Raw {
    pub(super) key: Key,
    pub(super) revision: Revision,
    pub(super) payload: Bytes,
}

impl Raw {
    fn entry(self) -> Result<Entry, StoreError> {
        match serde_json::from_slice(&self.payload) {
            Ok(value) => {
                let value = Arc::new(value);
                Ok(Entry { key: self.key, revision: self.revision, value })
            }
            Err(error) => Err(StoreError::Refused(format!(
                "{} at revision {} holds no JSON: {error}",
                self.key, self.revision
            ))),
        }
    }
}

/// What one request brings.
enum Page {
    Entries {
        entries: Vec<Raw>,
        /// How many more there are.
        pending: u64,
    },
    TooMany,
}

/// Asks for a page and takes its messages: entries, then one that ends it.
async fn page(
    session: &Session,
    request: &serde_json::Value,
    deadline: Instant,
) -> Result<Page, StoreError> {
    let subject = api(&format!("DIRECT.GET.{STREAM}"));
    let unavailable = |error: &dyn std::fmt::Display| StoreError::Unavailable(error.to_string());
    let inbox = session.client().new_inbox();
    let mut refusals = session.refusals();
    let send = async {
        let answers =
            session.client().subscribe(inbox.clone()).await.map_err(|error| unavailable(&error))?;
        let payload = Bytes::from(request.to_string());
        session
            .client()
            .publish_with_reply(subject.clone(), inbox.clone(), payload)
            .await
            .map_err(|error| match error.kind() {
                async_nats::PublishErrorKind::Send => unavailable(&error),
                _ => StoreError::Refused(error.to_string()),
            })?;
        Ok(answers)
    };
    let mut answers = tokio::time::timeout_at(deadline, send)
        .await
        .map_err(|_| unavailable(&"the connection takes nothing in time"))??;

    let mut entries = Vec::new();
    let mut before = 0;
    loop {
        let message = tokio::select! {
            biased;
            message = answers.next() => message.ok_or_else(|| unavailable(&"the connection to the server broke"))?,
            refusal = refusals.of(|refused| is_refusal_of(refused, &subject)) => return Err(StoreError::Refused(refusal)),
            () = session.gone() => return Err(unavailable(&"the connection to the server broke")),
            () = sleep_until(deadline) => return Err(unavailable(&"no answer in time")),
        };
        match message.status.map(|status| status.as_u16()) {
            None | Some(200) => {
                let raw = entry(&message)?;
                // Each names the one before it, so that one lost on the way shows.
                if number(&message, NATS_LAST_SEQUENCE.as_ref()).is_some_and(|last| last != before)
                {
                    return Err(unavailable(&"an entry was lost on the way"));
                }
                before = raw.revision.0;
                entries.push(raw);
            }
            Some(204) => {
                let pending = number(&message, NUM_PENDING).unwrap_or(0);
                if number(&message, NATS_LAST_SEQUENCE.as_ref()).is_some_and(|last| last != before)
                {
                    return Err(unavailable(&"an entry was lost on the way"));
                }
                return Ok(Page::Entries { entries, pending });
            }
            Some(404) => return Ok(Page::Entries { entries, pending: 0 }),
            Some(413) => return Ok(Page::TooMany),
            Some(503) => return Err(unavailable(&"nobody answers for the store")),
            Some(status) => {
                let description = message.description.as_deref().unwrap_or("no reason given");
                return Err(StoreError::Refused(format!("{status} {description}")));
            }
        }
    }
}

fn entry(message: &Message) -> Result<Raw, StoreError> {
    let subject = message.headers.as_ref().and_then(|headers| headers.get(NATS_SUBJECT));
    let key = subject
        .and_then(|subject| subject.as_str().strip_prefix(KEYS))
        .and_then(|key| Key::new(key).ok());
    match (key, number(message, NATS_SEQUENCE.as_ref())) {
        (Some(key), Some(revision)) => {
            Ok(Raw { key, revision: Revision(revision), payload: message.payload.clone() })
        }
        _ => Err(StoreError::Refused(format!("an entry without a key: {subject:?}"))),
    }
}

/// A number in a header.
pub(super) fn number(message: &Message, name: &str) -> Option<u64> {
    message.headers.as_ref()?.get(name)?.as_str().parse().ok()
}
