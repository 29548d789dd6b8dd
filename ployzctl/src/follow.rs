//! `logs -f`: follows the service, not the instances that it happens to have when the command is typed.
//!
//! A task for each instance hands on its lines, one more looks every now and then which instances there are. What a deploy, a restart or
//! another scale puts in the place of an instance is followed from its first line on. It ends when the head has none left.

use std::collections::BTreeSet;
use std::time::Duration;

use proto_core::api::views::{InstanceRow, InstancesView, LogLine};
use proto_core::id::InstanceName;
use proto_core::runtime::InstanceState;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::args::InstanceRef;
use crate::client::{Client, Lines};
use crate::deploy;
use crate::failure::{Failure, OK};
use crate::out::Out;
use crate::workload::{self, select};

/// Between two looks at which instances there are.
const LOOK: Duration = Duration::from_millis(500);

/// What a task has to say.
enum Said {
    /// An instance wrote something.
    Line(LogLine),
    /// Nothing more comes from it for now.
    Ended(InstanceName),
    /// These are there.
    Seen(Vec<InstanceRow>),
    /// It cannot go on.
    Failed(Failure),
}

/// Follows until the service, or the slot, is not wanted any more; the last `tail` lines of each instance that is there come first.
pub(crate) async fn follow(
    client: &Client,
    out: Out,
    target: &InstanceRef,
    tail: u32,
) -> Result<u8, Failure> {
    let rows = workload::find(client, out, target).await?;
    let (sender, mut said) = mpsc::channel(64);
    let mut following = Following {
        client,
        tasks: JoinSet::new(),
        sender,
        open: BTreeSet::new(),
        known: BTreeSet::new(),
        prefix: false,
    };
    for row in &rows {
        following.open(row, Some(tail)).await?;
    }
    following.tasks.spawn(look(client.clone(), target.clone(), following.sender.clone()));
    while let Some(said) = said.recv().await {
        match said {
            Said::Line(line) => workload::write(out, &line, following.prefix)?,
            Said::Ended(instance) => {
                out.remark(format_args!("{instance} has ended"));
                following.open.remove(&instance);
            }
            Said::Seen(rows) => {
                for row in &rows {
                    let name = &row.instance.spec.name;
                    let again = following.known.contains(name);
                    // One that is back has its earlier lines shown already.
                    if following.open(row, again.then_some(0)).await? {
                        let word = if again { "again" } else { "too" };
                        out.remark(format_args!("{name} is followed {word}"));
                    }
                }
                let gone = following.open.is_empty() && rows.is_empty();
                if gone && !is_wanted(client, target).await? {
                    out.remark(format_args!("{target} has no instances any more"));
                    return Ok(OK);
                }
            }
            Said::Failed(failure) => return Err(failure),
        }
    }
    Ok(OK)
}

/// The instances that are followed.
struct Following<'a> {
    client: &'a Client,
    tasks: JoinSet<()>,
    sender: mpsc::Sender<Said>,
    /// Their lines come.
    open: BTreeSet<InstanceName>,
    /// Their lines came once.
    known: BTreeSet<InstanceName>,
    /// Lines say whose they are: there was more than one at once.
    prefix: bool,
}

impl Following<'_> {
    /// Follows an instance, unless it is followed, or has ended and does not run again; whether it is new.
    async fn open(&mut self, row: &InstanceRow, tail: Option<u32>) -> Result<bool, Failure> {
        let name = row.instance.spec.name.clone();
        let over = self.known.contains(&name) && row.instance.state != InstanceState::Running;
        if over || self.open.contains(&name) {
            return Ok(false);
        }
        let tail = tail.map_or_else(String::new, |lines| format!("&tail={lines}"));
        let path = format!("/v1/logs?instance={name}{tail}&follow=true");
        let lines = match self.client.get_lines(&path).await {
            Ok(lines) => lines,
            // It went while it was asked for.
            Err(Failure::Error { error, .. }) if error.code == "NO_SUCH_INSTANCE" => {
                return Ok(false);
            }
            Err(failure) => return Err(failure),
        };
        self.tasks.spawn(forward(name.clone(), lines, self.sender.clone()));
        self.known.insert(name.clone());
        self.open.insert(name);
        self.prefix |= self.open.len() > 1;
        Ok(true)
    }
}

/// Hands on an instance's lines. Once nobody listens there is nobody to tell.
async fn forward(instance: InstanceName, mut lines: Lines, to: mpsc::Sender<Said>) {
    let end = loop {
        let said = match lines.next().await {
            Ok(Some(line)) => Said::Line(line),
            Ok(None) => break Said::Ended(instance),
            Err(failure) => break Said::Failed(failure),
        };
        if to.send(said).await.is_err() {
            return;
        }
    };
    _ = to.send(end).await;
}

/// Says which instances there are, again and again.
async fn look(client: Client, target: InstanceRef, to: mpsc::Sender<Said>) {
    let path = format!("/v1/instances?namespace={}", target.service.namespace);
    loop {
        tokio::time::sleep(LOOK).await;
        let said = match client.get::<InstancesView>(&path).await {
            // What a machine that did not answer has is not known: nothing has ended for that.
            Ok(view) if !view.silent.is_empty() && view.rows.is_empty() => continue,
            Ok(view) => Said::Seen(select(view.rows, &target)),
            Err(failure) => Said::Failed(failure),
        };
        if to.send(said).await.is_err() {
            return;
        }
    }
}

/// Whether the head has such an instance: then one follows.
async fn is_wanted(client: &Client, target: &InstanceRef) -> Result<bool, Failure> {
    let head = match deploy::commit(client, &target.service.namespace, None).await {
        Ok(view) => view.commit,
        Err(Failure::Error { error, .. }) if error.code == "NO_SUCH_NAMESPACE" => return Ok(false),
        Err(failure) => return Err(failure),
    };
    let service = head.services.get(&target.service.service);
    Ok(service.is_some_and(|service| {
        let slot = |slot| service.slots.contains_key(&slot);
        target.slot.map_or(!service.slots.is_empty(), slot)
    }))
}
