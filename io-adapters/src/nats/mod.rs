//! NATS: the store of facts, the commands between machines, and the stream that gateways and DNS servers follow.
//!
//! | part | holds |
//! |---|---|
//! | [`server`] | the configuration of a nats-server, and who may do what on it |
//! | [`Credentials`] | an nkey seed and what follows from it |
//! | [`Link`] | a connection that comes back by itself and never sends late what was given to it before it broke |
//! | [`Store`] | reads and atomic conditional batches on the bucket `facts` |
//! | [`Bus`] | requests to a machine's subject and their answers |
//! | [`follow`] | every write below a prefix, in stream order, with every doubt spoken out |
//!
//! Every server has the JetStream domain `ployz` from the first day, and all of JetStream is spoken through the
//! prefix `$JS.ployz.API`, KV writes and batches included: bare `$JS.API` and `$KV` subjects go dead behind a leaf
//! node. The client library's own JetStream and KV layers publish to bare `$KV` in places and follow a bucket
//! without noticing losses, so only its core is used here.

pub mod server;

mod bucket;
mod bus;
mod credentials;
mod follow;
mod link;
mod read;
mod store;

pub use bucket::BucketError;
pub use bus::{Bus, BusError, Incoming, Incomings, MAX_PAYLOAD, Replier, ReplyError};
pub use credentials::{Credentials, CredentialsError};
pub use follow::follow;
pub use link::{Link, LinkState};
pub use store::{MAX_BATCH, Store};

/// The JetStream domain of every server.
pub const DOMAIN: &str = "ployz";

/// The bucket's stream.
const STREAM: &str = "KV_facts";

/// What precedes a key in the stream.
const KEYS: &str = "$KV.facts.";

/// The subject of a JetStream API call, by the domain's prefix.
fn api(call: &str) -> String {
    format!("$JS.{DOMAIN}.API.{call}")
}

/// What a server that holds the streams itself makes of a subject before it looks at permissions: the prefix goes.
///
/// A leaf passes the subject on as it is. So permissions name both, and a refusal may name either.
fn mapped(subject: &str) -> Option<String> {
    let call = subject.strip_prefix(&api(""))?;
    Some(if call.starts_with("$KV.") { call.to_owned() } else { format!("$JS.API.{call}") })
}

/// Whether the subject that a server refused is what was asked for as `subject`.
fn is_refusal_of(refused: &str, subject: &str) -> bool {
    refused == subject || mapped(subject).is_some_and(|mapped| refused == mapped)
}

/// The subject on which a machine takes commands.
fn command_subject(machine: &str) -> String {
    format!("{DOMAIN}.cmd.{machine}")
}
