//! From the command to the first answer: `ployzctl deploy`, `docker run`, `docker service create`, on one engine with one image.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use proto_core::deploy::manifest::render;
use tokio::process::Command;

use super::apart::{self, directory};
use super::programs::Programs;
use super::section::{Bound, Section, Table};
use super::stats::Samples;
use crate::docker::TestDocker;
use crate::lab::{Cluster, HOST, LabImage, RuntimeParts, get_once, manifest};

/// How often each competitor starts the workload; the first round counts for nobody.
const ROUNDS: usize = 16;
/// How often Swarm's command is waited for, which takes seconds.
const WAITED: usize = 3;
/// Between two looks whether the workload answers.
const LOOK: Duration = Duration::from_millis(2);
/// How long an answer may take. A connection that is begun before the port is published hangs for a second in the kernel's retransmission.
const ANSWER: Duration = Duration::from_millis(50);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where the workload answers if its port is published.
const PUBLISHED: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9000);

const TEXT: &str = "\
Time from starting the command line until the first HTTP 200, the image being present, one replica: through the gateway for Ployz, at the\n\
published port for the others. All use one Docker engine, one image and one workload (`lab-app`, which listens within a few milliseconds),\n\
take turns, and begin with nothing of it running. Somebody asks every 2 ms from the start, and gives up an attempt after 50 ms; the kernel\n\
looks for neighbours every 5 ms instead of every second, which else would be all that is measured of the peers. Ployz and Swarm know when the\n\
service is ready or running, `docker run` does not: Ployz probes `/healthz` before it commits and routes. Swarm publishes in host mode.";

/// When the command had led to something, in milliseconds from its start.
struct Timing {
    first: f64,
    returned: f64,
}

pub(super) async fn run(programs: &Programs) -> anyhow::Result<Section> {
    let docker = TestDocker::start_with_network().map_err(|why| anyhow!(why))?;
    let image = LabImage::build(&docker, &programs.parts.app)?;
    let mut parts = programs.parts.clone();
    parts.runtime =
        RuntimeParts::Docker { socket: docker.socket().to_owned(), image: image.name.clone() };
    let swarm = ["swarm", "init", "--advertise-addr", "127.0.0.1"];
    docker.cli(&swarm).map_err(anyhow::Error::msg)?;
    let cluster = Cluster::start(&parts).await?;
    apart::look_for_neighbours_often()?;
    let race = Race { docker: &docker, image: &image.name, cluster: &cluster, programs };
    let measured = race.all().await;
    cluster.destroy().await?;
    docker.cli(&["swarm", "leave", "--force"]).map_err(anyhow::Error::msg)?;
    measured
}

struct Race<'a> {
    docker: &'a TestDocker,
    image: &'a str,
    cluster: &'a Cluster,
    programs: &'a Programs,
}

impl Race<'_> {
    async fn all(&self) -> anyhow::Result<Section> {
        let service = self.cluster.service("v1", 1);
        let interval = service.readiness.as_ref().context("the service has a probe")?.interval;
        let manifest = manifest(service);
        let file = directory("deploy")?.join("manifest.toml");
        std::fs::write(&file, render(&manifest))?;

        let names = ["docker run", "ployzctl deploy", "docker service create --detach"];
        let mut first = [(); 3].map(|()| Samples::default());
        let mut returned = [(); 3].map(|()| Samples::default());
        for round in 0..ROUNDS {
            let timings = [
                self.docker_run().await.context(names[0])?,
                self.ployz(&file).await.context(names[1])?,
                self.swarm(true).await.context(names[2])?,
            ];
            for (at, timing) in timings.into_iter().enumerate().filter(|_| round > 0) {
                first[at].push(timing.first);
                returned[at].push(timing.returned);
            }
        }
        let (mut waited_first, mut waited) = (Samples::default(), Samples::default());
        for _ in 0..WAITED {
            let timing = self.swarm(false).await.context("docker service create")?;
            waited_first.push(timing.first);
            waited.push(timing.returned);
        }

        let floor = first[0].median();
        let mut table =
            Table::new(&["", "first 200, ms", "× docker run", "command returns, ms", "rounds"]);
        let mut row = |name: &str, first: &Samples, returned: &Samples| {
            let times = format!("{:.2}", first.median() / floor);
            let count = first.count().to_string();
            table.row([format!("`{name}`"), first.show(0), times, returned.show(0), count]);
        };
        for (at, name) in names.iter().enumerate() {
            row(name, &first[at], &returned[at]);
        }
        row("docker service create", &waited_first, &waited);
        // At most some thousands.
        let interval = interval.as_millis() as f64;
        Ok(Section {
            title: "From the command to the first answer",
            text: format!("{TEXT} The readiness interval is {interval} ms."),
            table,
            bounds: vec![Bound {
                what: "ployzctl deploy: 1.5 × docker run + the readiness interval".to_owned(),
                seen: first[1].median(),
                limit: 1.5 * floor + interval,
                unit: "ms",
            }],
        })
    }

    async fn docker_run(&self) -> anyhow::Result<Timing> {
        let mut command = self.docker_command(&["run", "--detach", "--name", "bench", "--env"]);
        command.args(["LISTEN=0.0.0.0", "--publish", &format!("{PUBLISHED}:8080")]);
        command.args([self.image, "/bin/lab-app"]);
        let timing = time(command, PUBLISHED).await?;
        self.cli(&["rm", "--force", "bench"])?;
        Ok(timing)
    }

    async fn swarm(&self, detach: bool) -> anyhow::Result<Timing> {
        let mut command = self.docker_command(&["service", "create", "--name", "bench"]);
        command.arg(format!("--detach={detach}"));
        // There is no registry to ask, as with the others.
        command.args(["--no-resolve-image", "--env", "LISTEN=0.0.0.0", "--publish"]);
        command.arg(format!("mode=host,target=8080,published={}", PUBLISHED.port()));
        command.args([self.image, "/bin/lab-app"]);
        let timing = time(command, PUBLISHED).await?;
        self.cli(&["service", "rm", "bench"])?;
        let label = "label=com.docker.swarm.service.name=bench";
        until("the service's containers are gone", async || {
            Ok(self.cli(&["ps", "--all", "--quiet", "--filter", label])?.is_empty())
        })
        .await?;
        Ok(timing)
    }

    async fn ployz(&self, manifest: &std::path::Path) -> anyhow::Result<Timing> {
        let gateway = SocketAddr::from((Ipv4Addr::LOCALHOST, self.cluster.gateway));
        let mut command = self.ployzctl(&["deploy", "--file"]);
        command.arg(manifest);
        let timing = time(command, gateway).await?;
        let removed = self.ployzctl(&["--yes", "namespace", "rm", "lab"]).output().await?;
        ensure!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
        until("the gateway has no route any more", async || Ok(status(gateway).await == Some(404)))
            .await?;
        Ok(timing)
    }

    fn ployzctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.ployzctl);
        command.arg("--quiet").arg("--socket").arg(self.cluster.api().socket).args(arguments);
        command
    }

    fn docker_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("--host").arg(format!("unix://{}", self.docker.socket().display()));
        command.args(arguments);
        command
    }

    fn cli(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.docker.cli(arguments).map_err(anyhow::Error::msg)
    }
}

/// Runs a command, which must succeed, and asks meanwhile.
async fn time(mut command: Command, address: SocketAddr) -> anyhow::Result<Timing> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let begun = Instant::now();
    let ended = async {
        let output = command.output().await?;
        let millis = millis(begun);
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(millis)
    };
    let answered = async {
        until("it answers", async || Ok(status(address).await == Some(200))).await?;
        anyhow::Ok(millis(begun))
    };
    let (first, returned) = tokio::try_join!(answered, ended)?;
    Ok(Timing { first, returned })
}

async fn status(address: SocketAddr) -> Option<u16> {
    let answer = tokio::time::timeout(ANSWER, get_once(address, HOST, "/")).await;
    answer.ok()?.ok().map(|(status, _)| status)
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// Asks every 2 ms until it is so.
async fn until(
    what: &str,
    mut ask: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !ask().await? {
        ensure!(begun.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
