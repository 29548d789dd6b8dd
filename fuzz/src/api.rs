//! A request to the daemon: `POST /v1/operations` in the first line, its body below. Paths, queries and bodies are read as `ployzd`
//! reads them; what is asked for then runs in a small cluster.

use proto_core::api::Submission;
use proto_core::api::requests::{CancelRequest, EventsQuery, InstancesQuery, LogsQuery};
use proto_core::api::views::{ExecRequest, ShutdownRequest};
use proto_core::id::{InstanceName, Namespace, OperationId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sim::invariants::Invariants;

use crate::asked;
use crate::stable;

/// Reads the request and does what it asks for.
pub fn run(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (line, body) = (&data[..end], data.get(end + 1..).unwrap_or(&[]));
    let Ok(line) = std::str::from_utf8(line) else { return };
    let (method, target) = line.split_once(' ').unwrap_or(("GET", line));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let segments: Vec<_> = path.split('/').skip(1).collect();
    match (method, &segments[..]) {
        ("POST", ["v1", "operations"]) => {
            if let Some(submission) = stable::read::<Submission>(body) {
                submit(submission);
            }
        }
        ("POST", ["v1", "operations", "cancel"]) => drop(stable::read::<CancelRequest>(body)),
        ("POST", ["v1", "exec"]) => drop(stable::read::<ExecRequest>(body)),
        ("POST", ["v1", "shutdown"]) => drop(stable::read::<ShutdownRequest>(body)),
        ("GET", ["v1", "operations", id]) => same(id, id.parse::<OperationId>()),
        ("GET", ["v1", "namespaces", ns, "commits", ..]) => same(ns, Namespace::new(*ns)),
        ("GET", ["v1", "instances"]) => {
            if let Some(InstancesQuery { namespace: Some(ns) }) = parse_query(query) {
                same(&ns, Namespace::new(ns.as_str()));
            }
        }
        ("GET", ["v1", "logs"]) => {
            if let Some(LogsQuery { instance, .. }) = parse_query(query) {
                same(&instance, InstanceName::new(instance.as_str()));
            }
        }
        ("GET", ["v1", "events"]) => drop(parse_query::<EventsQuery>(query)),
        _ => {}
    }
}

/// A name that is taken is written as it came.
fn same<T: std::fmt::Display, E>(text: &str, parsed: Result<T, E>) {
    if let Ok(name) = parsed {
        assert_eq!(name.to_string(), text);
    }
}

fn parse_query<T>(query: &str) -> Option<T>
where
    T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug,
{
    let read: T = serde_urlencoded::from_str(query).ok()?;
    let written = serde_urlencoded::to_string(&read).expect("a query is flat");
    assert_eq!(serde_urlencoded::from_str::<T>(&written).as_ref(), Ok(&read), "{written:?}");
    Some(read)
}

fn submit(submission: Submission) {
    let _ = submission.summary();
    // Twice: the second finds what the first left. A plan that somebody made up may break what only a planner promises.
    let invariants = match &submission {
        Submission::ApplyPrepared { .. } => Invariants::none(),
        _ => Invariants::of_a_story(),
    };
    let again = submission.clone();
    asked::ask(asked::founded(), [submission, again], invariants);
}
