//! Founding a cluster on this machine, and taking it down.

use proto_core::api::ErrorBody;
use proto_core::api::views::{ShutdownRequest, StartedView, StatusView, Workloads};
use proto_core::id::Namespace;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::args::{DevCommand, FoundArgs};
use crate::client::Client;
use crate::failure::{DAEMON, Failure, OK, REFUSED, USAGE};
use crate::home::Home;
use crate::out::Out;
use crate::paths;
use crate::recorded::{self, Daemon, Turn};
use crate::render;

/// `dev …`.
pub(crate) async fn dev(
    client: &Client,
    out: Out,
    command: Option<DevCommand>,
    found: FoundArgs,
) -> Result<u8, Failure> {
    let Some(command) = command else { return up(client, out, &found).await };
    // Each subcommand has its own: one in front of it would be of no effect.
    if let Some(flag) = found.typed(paths::data_dir_of_environment().as_deref()).first() {
        let message = format!("{flag} belongs behind the subcommand of `dev`");
        let error = ErrorBody::new("USAGE", message).next("ployzctl dev --help");
        return Err(Failure::new(USAGE, error));
    }
    match command {
        DevCommand::Up { found } => up(client, out, &found).await,
        DevCommand::Status => crate::status(client, out).await,
        DevCommand::Down { dir } => {
            let home = Home::of(&dir);
            if down(client, out, &home, Workloads::Stop).await? {
                out.remark("everything is stopped; what is on disk stays. `ployzctl dev up` starts it again");
            }
            Ok(OK)
        }
        DevCommand::Destroy { dir, force } => destroy(client, out, &Home::of(&dir), force).await,
    }
}

/// `mesh init`.
pub(crate) async fn init(
    client: &Client,
    out: Out,
    name: &Namespace,
    found: &FoundArgs,
) -> Result<u8, Failure> {
    client.fits()?;
    let home = Home::of(&found.dir);
    let turn = home.turn(out).await?;
    let made = mesh(client, out, &home, name, found).await;
    leave_nothing(client, out, &home, &turn, made).await
}

async fn mesh(
    client: &Client,
    out: Out,
    home: &Home,
    name: &Namespace,
    found: &FoundArgs,
) -> Result<u8, Failure> {
    if home.is_founded()? {
        let message = format!("there is a cluster in {} already", home.dir.display());
        let error = ErrorBody::new("CLUSTER_EXISTS", message).next("ployzctl dev up");
        return Err(Failure::new(REFUSED, error));
    }
    // A daemon that answers here belongs to another directory; a second one cannot have its socket.
    if client.answers("/v1/status").await.is_ok() {
        let message = format!("another daemon listens at {}", client.socket().display());
        let error = ErrorBody::new("SOCKET_TAKEN", message).next("ployzctl status");
        return Err(Failure::new(REFUSED, error));
    }
    home.found(client, out, name, found).await?;
    let status = home.start(client, out).await?;
    out.document(&status, render::status::status)?;
    Ok(OK)
}

async fn up(client: &Client, out: Out, found: &FoundArgs) -> Result<u8, Failure> {
    let home = Home::of(&found.dir);
    let ignored = found.flags();
    if home.is_founded()? && !ignored.is_empty() {
        let (flags, dir) = (ignored.join(", "), home.dir.display());
        out.remark(format_args!("{flags}: of no effect; the cluster was founded before, with what {dir}/ployzd.toml says"));
    }
    if home.answers(client).await? {
        out.remark("the daemon runs already");
        start_instances(client, out).await?;
        return crate::status(client, out).await;
    }
    // Two at once: the second finds what the first has started.
    let turn = home.turn(out).await?;
    if home.answers(client).await? {
        out.remark("the daemon runs already");
        start_instances(client, out).await?;
        return crate::status(client, out).await;
    }
    if !home.is_founded()? {
        let name = Namespace::new("dev").expect("a name");
        let made = mesh(client, out, &home, &name, found).await;
        return leave_nothing(client, out, &home, &turn, made).await;
    }
    if !home.daemon_listens(client).await? {
        home.check()?;
    }
    home.start(client, out).await?;
    start_instances(client, out).await?;
    crate::status(client, out).await
}

/// Starts the instances that `dev down` stopped, and says which.
async fn start_instances(client: &Client, out: Out) -> Result<(), Failure> {
    let view: StartedView = client.post("/v1/instances/start", &serde_json::json!({})).await?;
    for at in view.started {
        let (namespace, service, slot) = (at.namespace, at.service, at.slot);
        out.remark(format_args!("{namespace}/{service}/{slot} is started ({})", at.instance));
    }
    let Some(first) = view.failed.first() else { return Ok(()) };
    let told = view.failed.iter().map(|failed| {
        let at = &failed.instance;
        format!("{}/{}/{}: {}", at.namespace, at.service, at.slot, failed.reason)
    });
    let message =
        format!("not every instance starts again: {}", told.collect::<Vec<_>>().join("; "));
    let next = format!("ployzctl restart {}/{}", first.instance.namespace, first.instance.service);
    Err(Failure::new(DAEMON, ErrorBody::new("INSTANCES_NOT_STARTED", message).next(next)))
}

/// Stops everything, and removes the instances if that is wanted; false if there is nothing.
async fn down(
    client: &Client,
    out: Out,
    home: &Home,
    workloads: Workloads,
) -> Result<bool, Failure> {
    // The directory says whose cluster this is, and where its daemon listens.
    let there = Daemon::of(&home.dir).map(|daemon| client.at(daemon.socket));
    let client = there.as_ref().unwrap_or(client);
    let status = match client.get::<StatusView>("/v1/status").await {
        Ok(status) => status,
        Err(Failure::Error { error, .. }) if error.code == "DAEMON_AWAY" => {
            if !home.is_founded()? {
                out.remark(format_args!("there is no cluster in {}", home.dir.display()));
                return Ok(false);
            }
            if let Err(lost) = home.daemon_listens(client).await {
                let daemon = Daemon::of(&home.dir).ok_or(lost)?;
                let pid = daemon.process.pid;
                out.remark(format_args!("the daemon, process {pid}, is out of reach; it is ended"));
                home.end(&daemon, Signal::TERM).await?;
            }
            // What it started may run on without it, and only a daemon knows what that is.
            out.remark("the daemon is away; it is started to take down what may run without it");
            home.start(client, out).await?
        }
        Err(silent) => return Err(home.silent(silent, "down")),
    };
    // Opened while it runs: its number cannot have gone to another process.
    let pid = i32::try_from(status.pid).ok().and_then(Pid::from_raw);
    let process = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty()));
    let Some(Ok(process)) = process else {
        let message =
            format!("the daemon says that it is process {}, which is not there", status.pid);
        let error = ErrorBody::new("DAEMON_ELSEWHERE", message).next("ployzctl status");
        return Err(Failure::new(DAEMON, error));
    };
    let request = ShutdownRequest { data_plane: true, workloads };
    let _: serde_json::Value = client.post("/v1/shutdown", &request).await?;
    home.wait_for_end(process).await?;
    // The last thing that a daemon does which has taken everything down.
    if client.socket().exists() {
        let message = "the daemon ended before everything was taken down".to_owned();
        return Err(home.failed("DOWN_INCOMPLETE", message, 0));
    }
    Ok(true)
}

async fn destroy(client: &Client, out: Out, home: &Home, force: bool) -> Result<u8, Failure> {
    if !home.is_founded()? {
        out.remark(format_args!("there is no cluster in {}", home.dir.display()));
        return Ok(OK);
    }
    let dir = home.dir.display();
    out.confirm(
        &format!("Stop everything and remove {dir} with all that is in it?"),
        &format!("ployzctl dev destroy --data-dir {dir}"),
    )?;
    let _turn = home.turn(out).await?;
    let mut taken_down = down(client, out, home, Workloads::Remove).await.map(|_| ());
    if let (true, Err(Failure::Error { error, .. }), Some(daemon)) =
        (force, &taken_down, Daemon::of(&home.dir))
    {
        // It can no longer be asked; another one can.
        let pid = daemon.process.pid;
        out.remark(format_args!("{}; the daemon, process {pid}, is killed", error.message));
        taken_down = match home.end(&daemon, Signal::KILL).await {
            Ok(()) => down(client, out, home, Workloads::Remove).await.map(|_| ()),
            Err(failure) => Err(failure),
        };
    }
    match taken_down {
        Ok(()) => {}
        Err(Failure::Error { error, .. }) if force => {
            out.remark(format_args!("what runs may run on: {}", error.message));
        }
        Err(Failure::Error { error, exit }) => {
            let next = format!("ployzctl dev destroy --force --data-dir {dir}");
            return Err(Failure::new(exit, error.next(next)));
        }
        Err(other) => return Err(other),
    }
    // Without its records nobody could find what runs.
    let running = recorded::running(&home.dir);
    if !running.is_empty() {
        let pids = running.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        let message = format!("processes of this cluster still run: {pids}; nothing is removed");
        let next = format!("kill {pids}; ployzctl dev destroy --force --data-dir {dir}");
        return Err(Failure::new(REFUSED, ErrorBody::new("STILL_RUNNING", message).next(next)));
    }
    std::fs::remove_dir_all(&home.dir)
        .map_err(|error| Failure::file("remove", &home.dir, &error))?;
    out.remark(format_args!("{dir} is removed"));
    Ok(OK)
}

/// What failed to be founded is taken down again, as far as it came.
async fn leave_nothing(
    client: &Client,
    out: Out,
    home: &Home,
    turn: &Turn,
    made: Result<u8, Failure>,
) -> Result<u8, Failure> {
    let Err(Failure::Error { mut error, exit }) = made else { return made };
    if turn.fresh {
        if !recorded::running(&home.dir).is_empty() {
            // Whatever it says is less than why it did not start.
            _ = down(client, out, home, Workloads::Remove).await;
        }
        if recorded::running(&home.dir).is_empty()
            && std::fs::remove_dir_all(&home.dir).is_ok()
            && error.next.as_ref().is_some_and(|next| next.starts_with("less "))
        {
            out.remark("what was founded is removed again");
            error.next = Some("ployzctl dev up".to_owned());
        }
    }
    Err(Failure::new(exit, error))
}
