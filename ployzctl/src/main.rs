//! `ployzctl`, the command line for operators and their agents.
//!
//! It asks `ployzd` over a unix socket and shows what is answered; it decides nothing and stores nothing.
//!
//! ```text
//! args ──▶ main ──▶ deploy, workload, dev, … ──▶ client (HTTP over the socket)
//!                        │  operation: events, Ctrl-C, exit code
//!                        └─▶ render (values to text) ──▶ out (plain, JSON)
//! failure: error, exit code; next: the command to type
//! ```

mod args;
mod client;
mod deploy;
mod dev;
mod diff;
mod failure;
mod file;
mod follow;
mod home;
mod next;
mod operation;
mod out;
mod paths;
mod recorded;
mod render;
mod usage;
mod workload;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use proto_core::api::views::{DaemonEvent, DoctorCheck, InstancesView, LeaseView, StatusView};
use proto_core::api::{OperationRequest, OperationSummary, Submission};
use serde_json::json;

use args::{Cli, Command, LockCommand, MeshCommand, OpCommand, ServiceRef};
use client::Client;
use failure::{DAEMON, Failure, OK};
use out::Out;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(usage::refuse(&error, &args)),
    };
    let json = cli.global.json;
    match run(cli).await {
        Ok(code) => ExitCode::from(code),
        Err(failure) => ExitCode::from(failure.report(json)),
    }
}

async fn run(cli: Cli) -> Result<u8, Failure> {
    let out = Out::new(&cli.global);
    let named = cli.global.socket.filter(|socket| !socket.as_os_str().is_empty());
    let typed = named.is_some() && named != paths::socket_of_environment();
    let socket = named.unwrap_or_else(paths::socket);
    // A daemon that is told about it does not run where this program was called.
    let socket = std::path::absolute(&socket).unwrap_or(socket);
    if typed {
        next::name_socket(&socket);
    }
    let client = &Client::new(socket, Duration::from_secs(cli.global.timeout));
    match cli.command {
        Command::Mesh(MeshCommand::Init { name, found }) => {
            dev::init(client, out, &name, &found).await
        }
        Command::Dev { command, found } => dev::dev(client, out, command, found).await,
        Command::Status => status(client, out).await,
        Command::Ps { namespace } => {
            let path = match &namespace {
                Some(namespace) => format!("/v1/instances?namespace={namespace}"),
                None => "/v1/instances".to_owned(),
            };
            let view: InstancesView = client.get(&path).await?;
            if let Some(namespace) = namespace.filter(|_| view.rows.is_empty()) {
                // Nothing runs in a namespace that is not there either; that is said as `namespace inspect` says it.
                deploy::commit(client, &namespace, None).await?;
            }
            out.document(&view, render::status::instances)?;
            Ok(OK)
        }
        Command::Deploy { manifest, command } => {
            deploy::deploy(client, out, manifest, command).await
        }
        Command::Validate { manifest } => deploy::validate(out, &manifest),
        Command::Diff { manifest } => diff::diff(client, out, &manifest).await,
        Command::Rollback { namespace, to, render, change } => {
            deploy::rollback(client, out, namespace, to, render, change).await
        }
        Command::Scale { targets, change } => {
            deploy::change(client, out, deploy::scale(targets)?, change).await
        }
        Command::Restart { service: ServiceRef { namespace, service }, change } => {
            let request = OperationRequest::Restart { namespace, service };
            deploy::change(client, out, request, change).await
        }
        Command::Stop { service: ServiceRef { namespace, service }, change } => {
            let request = OperationRequest::Stop { namespace, service };
            deploy::change(client, out, request, change).await
        }
        Command::Namespace(command) => deploy::namespace(client, out, command).await,
        Command::Logs { target, follow, tail } => {
            workload::logs(client, out, &target, follow, tail).await
        }
        Command::Exec { target, command } => workload::exec(client, out, &target, command).await,
        Command::Op(command) => op(client, out, command).await,
        Command::Lock(LockCommand::Ls) => {
            let mut leases: Vec<LeaseView> = client.get("/v1/leases").await?;
            leases.retain(|view| !view.lease.released);
            out.document(&leases, |leases| render::operation::leases(leases))?;
            Ok(OK)
        }
        Command::Doctor => {
            let checks: Vec<DoctorCheck> = client.get("/v1/doctor").await?;
            out.document(&checks, |checks| render::status::doctor(checks))?;
            Ok(if checks.iter().all(|check| check.ok) { OK } else { DAEMON })
        }
        Command::Events { follow } => events(client, out, follow).await,
        Command::Completions { shell } => completions(out, shell),
        Command::Man { dir } => man(&dir),
        Command::Version => version(client, out).await,
    }
}

async fn status(client: &Client, out: Out) -> Result<u8, Failure> {
    let view: StatusView = client.get("/v1/status").await?;
    out.document(&view, render::status::status)?;
    Ok(OK)
}

async fn op(client: &Client, out: Out, command: OpCommand) -> Result<u8, Failure> {
    match command {
        OpCommand::Ls => {
            let operations: Vec<OperationSummary> = client.get("/v1/operations").await?;
            out.document(&operations, |operations| render::operation::list(operations))?;
            Ok(OK)
        }
        OpCommand::Show { operation } => {
            let view: OperationSummary = client.get(&format!("/v1/operations/{operation}")).await?;
            out.document(&view, render::operation::show)?;
            Ok(OK)
        }
        OpCommand::Resume { operation } => {
            operation::run(client, out, &Submission::Resume { operation }).await
        }
        OpCommand::Abort { operation } => {
            operation::run(client, out, &Submission::Abort { operation }).await
        }
    }
}

async fn events(client: &Client, out: Out, follow: bool) -> Result<u8, Failure> {
    let mut lines = client.get_lines(&format!("/v1/events?follow={follow}")).await?;
    while let Some(event) = lines.next::<DaemonEvent>().await? {
        if out.json {
            out.json(&event)?;
        } else {
            let DaemonEvent { at, code, component, message, result: _ } = event;
            out.line(format_args!("{at}  {component:9}  {code:16}  {message}"))?;
        }
    }
    Ok(OK)
}

fn completions(out: Out, shell: clap_complete::Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ployzctl", &mut script);
    out.text(&String::from_utf8_lossy(&script))?;
    Ok(OK)
}

/// A page for the program and for each command: `ployzctl.1`, `ployzctl-deploy.1`, `ployzctl-deploy-preview.1`.
fn man(dir: &Path) -> Result<u8, Failure> {
    let failed = |error: &std::io::Error| Failure::file("write", dir, error);
    std::fs::create_dir_all(dir).map_err(|error| failed(&error))?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(|error| failed(&error))?;
    Ok(OK)
}

async fn version(client: &Client, out: Out) -> Result<u8, Failure> {
    let own = env!("CARGO_PKG_VERSION");
    // This program has a version whether or not the daemon answers; why it does not is part of the answer.
    let (daemon, why) = match client.get::<StatusView>("/v1/status").await {
        Ok(view) => (Some(view.version), None),
        Err(Failure::Error { error, .. }) => (None, Some(error)),
        Err(other) => return Err(other),
    };
    let document = json!({ "ployzctl": own, "ployzd": daemon, "error": why });
    out.document(&document, |_| match (&daemon, &why) {
        (Some(daemon), _) => format!("ployzctl {own}\nployzd {daemon}\n"),
        (None, Some(why)) => format!("ployzctl {own}\nployzd unknown: {}\n", why.message),
        (None, None) => format!("ployzctl {own}\n"),
    })?;
    Ok(OK)
}
