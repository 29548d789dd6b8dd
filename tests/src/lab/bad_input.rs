//! What an operator does wrong or cannot know, through the real `ployzctl`: a stable code, the next command, and nothing changed.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, ensure};
use io_adapters::process::ProcessIdentity;
use proto_core::api::OperationSummary;
use proto_core::deploy::HostName;
use proto_core::deploy::manifest::render;
use proto_core::deploy::spec::{ServiceSpec, Strategy};
use proto_core::id::Namespace;
use proto_core::runtime::Network;
use proto_core::span::Span;
use rustix::process::Signal;

use super::cluster::{Cluster, HOST, manifest};
use super::ctl::{Call, Said};
use super::survival::signal;
use super::{Lab, get_through};
use crate::ports;

/// The user `nobody`.
const NOBODY: u32 = 65_534;

/// Each in turn; the first version serves all the while.
pub(super) async fn all(mut lab: Lab<'_>) -> anyhow::Result<()> {
    let good = lab.cluster.service("good", 1);
    write(lab.cluster, "good.toml", "lab", good)?;
    let said = lab.cluster.ctl().run("deploy -f good.toml").await?;
    ensure!(said.code == Some(0), "the first deploy: {}", said.in_short());
    manifests(&mut lab).await?;
    ports(&mut lab).await?;
    routes(&mut lab).await?;
    processes(&mut lab).await?;
    sockets(&mut lab).await?;
    two_at_once(&mut lab).await?;
    pressed_twice(&mut lab).await?;
    after_the_commit(&mut lab).await
}

/// A manifest that is no TOML, has an unknown key, or a value of another type.
async fn manifests(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    let before = lab.cluster.operations().await?;
    let good = std::fs::read_to_string(lab.cluster.directory.join("good.toml"))?;
    let line = |start: &str| -> anyhow::Result<usize> {
        let at = good.lines().position(|line| line.starts_with(start));
        Ok(at.with_context(|| format!("no {start} in {good}"))? + 1)
    };
    let (placement, name) = (line("placement")?, line("name =")?);
    let cases = [
        (
            "an array that does not end",
            format!("{good}oops = [\n"),
            "MANIFEST_SYNTAX",
            good.lines().count() + 1,
            0,
        ),
        ("an unknown key", good.replace("placement", "placment"), "UNKNOWN_KEY", placement, 1),
        ("a wrong type", good.replace("name = \"web\"", "name = 7"), "WRONG_TYPE", name, 8),
    ];
    for (what, text, code, line, column) in cases {
        std::fs::write(lab.cluster.directory.join("bad.toml"), text)?;
        let said = lab.cluster.ctl().run("deploy -f bad.toml").await?;
        let place = match column {
            0 => format!("bad.toml:{line}:"),
            column => format!("bad.toml:{line}:{column}: "),
        };
        let told = said.told(2, code, &[&place, "validate -f bad.toml"]);
        lab.report.check(&format!("bad-input: a manifest with {what}"), told, said.in_short());
    }
    let said = lab.cluster.ctl().run("deploy -f bad.toml --json").await?;
    let document: serde_json::Value = serde_json::from_str(&said.out)?;
    let problem = &document["problems"][0];
    let told = said.code == Some(2)
        && problem["code"] == "WRONG_TYPE"
        && problem["line"] == name
        && problem["column"] == 8
        && document["next"].is_string();
    lab.report.check("bad-input: a manifest's problem, as JSON", told, document);
    unchanged(lab, "manifests", &before).await
}

/// A port of the machine that a stranger listens on, then one that another namespace has.
async fn ports(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    let [port] = ports::free()?;
    let stranger = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    let before = lab.cluster.operations().await?;
    write(lab.cluster, "port.toml", "lab", on_port(lab.cluster, "port", port))?;
    let said = lab.cluster.ctl().run("deploy -f port.toml").await?;
    let told = said.told(3, "PORT_IN_USE", &[&format!("port {port} ")]);
    lab.report.check("bad-input: a port that a stranger listens on", told, said.in_short());
    unchanged(lab, "a port that a stranger listens on", &before).await?;
    drop(stranger);

    let mut other = on_port(lab.cluster, "other", port);
    other.routes.clear();
    write(lab.cluster, "other.toml", "other", other)?;
    let said = lab.cluster.ctl().run("deploy -f other.toml").await?;
    let seen = said.in_short();
    lab.report.check("bad-input: the stranger gone, the port is given", said.code == Some(0), seen);
    let before = lab.cluster.operations().await?;
    let said = lab.cluster.ctl().run("deploy -f port.toml").await?;
    let told = said.told(3, "PORT_CONFLICT", &[&format!("port {port} "), "other/web"]);
    lab.report.check("bad-input: a port of another namespace", told, said.in_short());
    unchanged(lab, "a port of another namespace", &before).await
}

/// The service on a port of the machine itself.
fn on_port(cluster: &Cluster, version: &str, port: u16) -> ServiceSpec {
    let mut service = cluster.service(version, 1);
    service.rollout.strategy = Strategy::Recreate;
    if cluster.uses_images() {
        service.workload.publish = [(port, "http".to_owned())].into();
    } else {
        service.workload.network = Network::Host;
        service.ports = [("http".to_owned(), port)].into();
    }
    service
}

/// A host name that another namespace has.
async fn routes(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    let before = lab.cluster.operations().await?;
    let mut third = lab.cluster.service("third", 1);
    third.routes[0].hostnames.push(HostName::new("third.lab.test").context("a host name")?);
    write(lab.cluster, "third.toml", "third", third)?;
    let said = lab.cluster.ctl().run("deploy -f third.toml").await?;
    let told = said.told(3, "ROUTE_CONFLICT", &[HOST, "lab/web"]);
    lab.report.check("bad-input: a host name of another namespace", told, said.in_short());
    unchanged(lab, "a host name of another namespace", &before).await?;
    let said = lab.cluster.ctl().run("namespace rm other --yes").await?;
    ensure!(said.code == Some(0), "the other namespace: {}", said.in_short());
    Ok(())
}

/// What only a container can have, on a machine that runs plain processes: refused before anything changes, in a preview too.
async fn processes(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    if lab.cluster.uses_images() {
        return Ok(());
    }
    let before = lab.cluster.operations().await?;
    let mut service = lab.cluster.service("contained", 1);
    service.rollout.strategy = Strategy::Recreate;
    service.workload.publish = [(8080, "http".to_owned())].into();
    service.workload.memory_limit_bytes = Some(64 << 20);
    write(lab.cluster, "contained.toml", "lab", service)?;
    for command in ["deploy -f contained.toml", "deploy preview -f contained.toml"] {
        let said = lab.cluster.ctl().run(command).await?;
        let told =
            said.told(3, "UNSUPPORTED", &["service web ", "`publish`", "`resources.memory`"]);
        let what = format!("bad-input: what a process cannot have: {command}");
        lab.report.check(&what, told, said.in_short());
    }
    unchanged(lab, "what a process cannot have", &before).await
}

/// No daemon, and one that this user may not ask.
async fn sockets(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    let before = lab.cluster.operations().await?;
    lab.cluster.kill()?;
    for (what, remove) in [("nobody listens on", false), ("is not there", true)] {
        let socket = lab.cluster.api().socket;
        if remove {
            std::fs::remove_file(&socket)?;
        }
        let said = lab.cluster.ctl().run("deploy -f good.toml").await?;
        let told = said.told(1, "DAEMON_AWAY", &[&socket.display().to_string()]);
        lab.report.check(&format!("bad-input: a socket that {what}"), told, said.in_short());
    }
    lab.cluster.run(&[]).await?;
    forbidden(lab).await?;
    unchanged(lab, "a socket that cannot be used", &before).await
}

async fn forbidden(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        lab.report
            .skip("bad-input: a socket that is not permitted", "only root can be another user");
        return Ok(());
    }
    // Nobody may come as far as the socket, and no further.
    let directory = lab.cluster.directory.clone();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755))?;
    let mut ctl = lab.cluster.ctl();
    // Where it is built may be closed to others.
    let program = directory.join("ployzctl");
    // By another process: this one may be starting others meanwhile, which would hold the file open for writing.
    let copied = std::process::Command::new("cp").arg(&ctl.program).arg(&program).status()?;
    ensure!(copied.success(), "cp: {copied}");
    ctl.program = program;
    ctl.user = Some(NOBODY);
    for command in ["status", "deploy -f good.toml"] {
        if command.starts_with("deploy") {
            let manifest = directory.join("good.toml");
            std::fs::set_permissions(manifest, std::fs::Permissions::from_mode(0o644))?;
        }
        let said = ctl.run(command).await?;
        let told = said.told(1, "SOCKET_FORBIDDEN", &["ployzd.sock: it belongs to ", "sudo "]);
        let what = format!("bad-input: a socket that is not permitted: {command}");
        lab.report.check(&what, told, said.in_short());
    }
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700))?;
    Ok(())
}

/// A version that never becomes ready and takes two seconds to go.
fn stuck(cluster: &Cluster) -> ServiceSpec {
    let mut service = cluster.service("stuck", 1);
    service.workload.env.insert("NEVER_READY".to_owned(), "1".to_owned());
    service.workload.stop_grace_period = Span::from_secs(2);
    service
}

/// A second deploy meets the first one's lease; then Ctrl-C undoes the first.
async fn two_at_once(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    write(lab.cluster, "stuck.toml", "lab", stuck(lab.cluster))?;
    write(lab.cluster, "second.toml", "lab", lab.cluster.service("second", 1))?;
    let ctl = lab.cluster.ctl();
    let mut first = ctl.begin("deploy -f stuck.toml")?;
    let operation = waiting(&mut first).await?;
    let second = ctl.run("deploy -f second.toml").await?;
    let told = second.told(8, "LEASE_HELD", &[&operation, "since 20", "on machine "]);
    lab.report.check("bad-input: of two deploys the second is refused", told, second.in_short());

    first.interrupt()?;
    let said = first.end().await?;
    let told = said.told(4, "CANCELLED", &["cancelling", &format!("op show {operation}")])
        && said.out.contains(&format!("aborted operation {operation}: everything was undone"));
    lab.report.check("bad-input: Ctrl-C undoes a deploy and says so", told, said.in_short());
    ended(lab, "Ctrl-C", &operation).await
}

/// Ctrl-C twice: nobody watches, and the operation is undone all the same.
async fn pressed_twice(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    let ctl = lab.cluster.ctl();
    let mut call = ctl.begin("deploy -f stuck.toml")?;
    let operation = waiting(&mut call).await?;
    let rows = lab.cluster.instances().await?.rows;
    let pid = rows.iter().find(|row| !row.committed).and_then(|row| row.instance.pid);
    let candidate = ProcessIdentity::of(pid.context("there is no candidate")?)?;
    let candidate = candidate.context("the candidate is gone")?;
    // It takes its whole grace period to go, so that there is something left to leave.
    signal(&candidate, Signal::STOP)?;
    call.interrupt()?;
    call.err_has("cancelling").await?;
    call.interrupt()?;
    let said = call.end().await?;
    let told = said.told(5, "DETACHED", &[&format!("op show {operation}")]);
    lab.report.check("bad-input: Ctrl-C twice stops watching", told, said.in_short());
    ended(lab, "Ctrl-C twice", &operation).await
}

/// The operation as `op show` names it.
async fn recorded(call: &mut Call) -> anyhow::Result<String> {
    let out = call.out_has("\noperation ").await?;
    let line = out.lines().find_map(|line| line.strip_prefix("operation "));
    Ok(line.context("it was there")?.to_owned())
}

/// The same, once its candidate runs.
async fn waiting(call: &mut Call) -> anyhow::Result<String> {
    call.out_has(" is ready …").await?;
    recorded(call).await
}

/// The operation ended as aborted, soon, with nothing left.
async fn ended(lab: &mut Lab<'_>, what: &str, operation: &str) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    while lab.cluster.operations().await?.iter().any(|operation| !operation.record.phase.is_final())
    {
        ensure!(begun.elapsed().as_secs() < 20, "{operation} does not end");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let shown = lab.cluster.ctl().run(&format!("op show {operation}")).await?;
    let told = shown.out.contains(", aborted, ") && shown.out.contains("error[CANCELLED]");
    lab.report.check(&format!("bad-input: {what}: op show tells it"), told, one_line(&shown));
    unchanged(lab, what, &lab.cluster.operations().await?).await
}

/// Ctrl-C while the old instance drains: the commit stands.
async fn after_the_commit(lab: &mut Lab<'_>) -> anyhow::Result<()> {
    write(lab.cluster, "good.toml", "lab", lab.cluster.service("better", 1))?;
    let gateway = lab.cluster.gateway;
    let slow = tokio::spawn(async move { get_through(gateway, HOST, "/slow?ms=1500").await });
    let mut call = lab.cluster.ctl().begin("deploy -f good.toml")?;
    let operation = recorded(&mut call).await?;
    call.out_has("phase cleanup_pending").await?;
    call.interrupt()?;
    let said = call.end().await?;
    let kept = said.code == Some(0)
        && said.out.contains(&format!("by operation {operation}"))
        && said.out.contains("the commit stands");
    lab.report.check("bad-input: Ctrl-C after the commit: it stands", kept, one_line(&said));
    let (status, body) = slow.await??;
    let seen = format!("{status} {body}");
    lab.report.check("bad-input: what was under way is answered", body == "good", seen);
    let left = lab.cluster.leftovers().await?;
    let (status, body) = get_through(gateway, HOST, "/").await?;
    lab.report.check(
        "bad-input: Ctrl-C after the commit: nothing is left, the new version serves",
        left.is_empty() && body == "better",
        format!("leftovers {left:?}, the gateway answers {status} {body}"),
    );
    Ok(())
}

fn one_line(said: &Said) -> String {
    let lines: Vec<_> = said.out.lines().chain(said.err.lines()).map(str::trim).collect();
    lines.join(" | ")
}

/// No operation was recorded, nothing is left, and the first version serves.
async fn unchanged(
    lab: &mut Lab<'_>,
    what: &str,
    before: &[OperationSummary],
) -> anyhow::Result<()> {
    let same = lab.cluster.operations().await? == before;
    let left = lab.cluster.leftovers().await?;
    let (status, body) = get_through(lab.cluster.gateway, HOST, "/").await?;
    lab.report.check(
        &format!("bad-input: {what}: nothing changed, nothing is left, the old version serves"),
        same && left.is_empty() && status == 200 && body == "good",
        format!("same operations: {same}, leftovers {left:?}, the gateway answers {status} {body}"),
    );
    Ok(())
}

/// Writes a manifest with this one service.
fn write(cluster: &Cluster, name: &str, namespace: &str, spec: ServiceSpec) -> anyhow::Result<()> {
    let mut manifest = manifest(spec);
    manifest.namespace = Namespace::new(namespace).context("a name")?;
    Ok(std::fs::write(cluster.directory.join(name), render(&manifest))?)
}
