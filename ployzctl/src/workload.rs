//! Logs and commands of instances.

use std::io::Write as _;

use proto_core::api::ErrorBody;
use proto_core::api::views::{ExecEvent, ExecRequest, InstanceRow, InstancesView, LogLine};
use proto_core::id::InstanceName;
use proto_core::runtime::InstanceState;

use crate::args::InstanceRef;
use crate::client::Client;
use crate::deploy;
use crate::failure::{DAEMON, Failure, OK, REFUSED};
use crate::follow;
use crate::out::Out;

/// `logs`.
pub(crate) async fn logs(
    client: &Client,
    out: Out,
    target: &InstanceRef,
    follow: bool,
    tail: u32,
) -> Result<u8, Failure> {
    if follow {
        return follow::follow(client, out, target, tail).await;
    }
    let rows = find(client, out, target).await?;
    let mut streams = Vec::new();
    for row in &rows {
        let name = &row.instance.spec.name;
        let path = format!("/v1/logs?instance={name}&tail={tail}&follow=false");
        streams.push(client.get_lines(&path).await?);
    }
    // One instance after the other, oldest line first.
    for mut stream in streams {
        while let Some(line) = stream.next::<LogLine>().await? {
            write(out, &line, rows.len() > 1)?;
        }
    }
    Ok(OK)
}

/// A line of a log, behind its instance's name if lines of several come.
pub(crate) fn write(out: Out, line: &LogLine, prefix: bool) -> Result<(), Failure> {
    if out.json {
        return out.json(line);
    }
    let text = &line.text;
    if prefix { out.line(format_args!("{} | {text}", line.instance)) } else { out.line(text) }
}

/// `exec`: the exit code is the command's.
pub(crate) async fn exec(
    client: &Client,
    out: Out,
    target: &InstanceRef,
    command: Vec<String>,
) -> Result<u8, Failure> {
    let rows = find(client, out, target).await?;
    let running = rows.iter().find(|row| row.instance.state == InstanceState::Running);
    let Some(row) = running else {
        let message = format!("no instance of {target} runs");
        let error = ErrorBody::new("INSTANCE_NOT_RUNNING", message);
        let next = format!("ployzctl ps {}", target.service.namespace);
        return Err(Failure::new(REFUSED, error.next(next)));
    };
    let instance: InstanceName = row.instance.spec.name.clone();
    let mut lines = client.post_lines("/v1/exec", &ExecRequest { instance, command }).await?;
    while let Some(event) = lines.next::<ExecEvent>().await? {
        if out.json {
            out.json(&event)?;
        }
        match event {
            ExecEvent::Output { .. } if out.json => {}
            ExecEvent::Output { stream, text } if stream == "stderr" => {
                // There is nowhere left to say that standard error is closed.
                _ = std::io::stderr().write_all(text.as_bytes());
            }
            ExecEvent::Output { text, .. } => out.text(&text)?,
            ExecEvent::Exited { code } => return Ok(exit_code(code)),
        }
    }
    let message = "the daemon's answer ended before the command did";
    Err(Failure::new(DAEMON, ErrorBody::new("CONNECTION_LOST", message).next("ployzctl status")))
}

/// What does not fit is 255: a failure must not look like success.
fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// The instances that are meant: those of the head if there are any, otherwise all of the service.
pub(crate) async fn find(
    client: &Client,
    out: Out,
    target: &InstanceRef,
) -> Result<Vec<InstanceRow>, Failure> {
    let namespace = &target.service.namespace;
    let view: InstancesView = client.get(&format!("/v1/instances?namespace={namespace}")).await?;
    for silent in &view.silent {
        out.remark(format_args!(
            "machine {} did not answer ({}): its instances are left out",
            silent.machine, silent.reason
        ));
    }
    let rows = select(view.rows, target);
    if rows.is_empty() {
        let head = deploy::commit(client, namespace, None).await?;
        deploy::find(&head, &target.service.service)?;
        let message = format!("no instance of {target} was seen");
        let error = ErrorBody::new("INSTANCE_UNKNOWN", message);
        return Err(Failure::new(REFUSED, error.next(format!("ployzctl ps {namespace}"))));
    }
    Ok(rows)
}

/// Of these the ones that are meant.
pub(crate) fn select(mut rows: Vec<InstanceRow>, target: &InstanceRef) -> Vec<InstanceRow> {
    rows.retain(|row| {
        let spec = &row.instance.spec;
        spec.namespace == target.service.namespace
            && spec.service == target.service.service
            && target.slot.is_none_or(|slot| slot == spec.slot)
    });
    if rows.iter().any(|row| row.committed) {
        rows.retain(|row| row.committed);
    }
    rows.sort_by_key(|row| row.instance.spec.slot);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_that_does_not_fit_is_no_success() {
        assert_eq!([0, 7, 137, 256, -1].map(exit_code), [0, 7, 137, 255, 255]);
    }
}
