//! Names inside containers: ployzd's DNS server is the one that they ask.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;

use proto_core::api::{OperationRequest, OperationResult, Submission};
use proto_core::deploy::manifest::{Format, parse};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tests::docker::TestDocker;
use tests::lab::{Cluster, LabImage, Parts, RuntimeParts};

/// A web server, and a neighbour that asks it.
const MANIFEST: &str = r#"
namespace = "names"

[[services]]
name = "web"
image = "IMAGE"
ports = { http = 8080 }
readiness = { http = { path = "/", port = "http" }, interval = "100ms" }

[[services]]
name = "neighbour"
image = "SHELL"
# Waits for nothing, with builtins: there is no other program in the image.
command = ["/bin/lab-app", "-c", "trap exit TERM; coproc { read; }; wait"]
stop_grace_period = "1s"
"#;

#[test]
fn a_container_reaches_its_neighbour_by_name() {
    // An engine that leaves the firewall alone does not open it for containers either, so one with a firewall of its own, which is empty.
    let _namespace = match NetworkNamespace::enter() {
        Ok(namespace) => namespace,
        Err(why) => {
            eprintln!("skipped: {why}");
            return;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(reaches());
}

async fn reaches() {
    let Some(docker) = TestDocker::start_private() else { return };
    let parts = match Parts::find() {
        Ok(parts) => parts,
        Err(error) => {
            eprintln!("skipped: {error:#}");
            return;
        }
    };
    // Not busybox: linked statically, its resolver is not the C library's.
    let shell = LabImage::build(&docker, Path::new("/bin/bash")).expect("an image");
    let runtime =
        RuntimeParts::Docker { socket: docker.socket().into(), image: docker.image().to_owned() };
    let cluster = Cluster::start(&Parts { runtime, ..parts }).await.expect("a cluster");
    let seen = ask(&cluster, &docker, &shell.name).await;
    let directory = cluster.destroy().await.expect("it ends");
    std::fs::remove_dir_all(directory).expect("it is ours");
    for (name, answer) in seen.expect("the instances run") {
        let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}"));
        let served = answer.starts_with("HTTP/1.1 200 OK") && answer.trim().ends_with("hello");
        assert!(served, "{name}: {answer}");
    }
}

/// What the neighbour gets at each of the server's names.
async fn ask(
    cluster: &Cluster,
    docker: &TestDocker,
    shell: &str,
) -> anyhow::Result<Vec<(String, Result<String, String>)>> {
    let manifest = MANIFEST.replace("IMAGE", docker.image()).replace("SHELL", shell);
    let manifest = parse(&manifest, Format::Toml, "test").expect("a manifest");
    let submission = Submission::Apply { request: OperationRequest::Deploy { manifest } };
    let ended = cluster.api().submit(&submission).await?.end().await?;
    anyhow::ensure!(matches!(ended, Some(OperationResult::Committed { .. })), "{ended:?}");
    let rows = cluster.instances().await?.rows;
    let neighbour = rows.iter().find(|row| row.instance.spec.service.as_str() == "neighbour");
    let neighbour = &neighbour.expect("it was committed").instance.spec.name;
    let label = format!("label=ployz.instance={neighbour}");
    let container = docker.cli(&["ps", "--quiet", "--filter", &label]).expect("the engine answers");
    // The deploy waits until gateway and DNS serve the commit; nothing else is waited for.
    let names = ["web.names.ployz.internal", "web"];
    Ok(names
        .map(|name| {
            let get = format!(
                "exec 3<>/dev/tcp/{name}/8080 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && while read -r line; do echo $line; done <&3"
            );
            let answer = docker.cli(&["exec", container.trim(), "/bin/lab-app", "-c", &get]);
            (name.to_owned(), answer)
        })
        .into())
}

/// A network namespace of its own for this thread and what it starts; removed when dropped.
struct NetworkNamespace {
    name: String,
}

impl NetworkNamespace {
    fn enter() -> Result<Self, String> {
        let name = format!("ployz-dns-{}", std::process::id());
        ip(&["netns", "add", &name])?;
        let this = Self { name };
        ip(&["-n", &this.name, "link", "set", "lo", "up"])?;
        let file = std::fs::File::open(format!("/run/netns/{}", this.name));
        let file = file.map_err(|error| error.to_string())?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| error.to_string())?;
        Ok(this)
    }
}

impl Drop for NetworkNamespace {
    fn drop(&mut self) {
        if let Err(why) = ip(&["netns", "del", &self.name]) {
            eprintln!("network namespace left behind: {why}");
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|e| format!("ip: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip: {}", said.trim())) }
}
