//! What a machine pays while nothing happens: memory and processor time of the daemon and of the processes that outlive it.

use std::time::Duration;

use anyhow::{Context as _, anyhow};

use super::procfs::{Memory, cpu, memory, switches, threads};
use super::programs::Programs;
use super::section::{Bound, Section, Table};
use crate::docker::TestDocker;
use crate::lab::{Cluster, LabImage, RuntimeParts};

/// After the deploy, before anything is measured.
const REST: Duration = Duration::from_secs(30);
/// How long processor time is watched.
const WATCH: Duration = Duration::from_secs(60);

const TEXT: &str = "\
A cluster of one with a service of one replica in Docker, deployed 30 s before. PSS counts a page that several processes share in parts, RSS\n\
counts it in each. Processor time is what the kernel accounts over the next 60 s, in steps of 10 ms (0.017 % of a core); wake-ups are the\n\
times that a thread went to sleep in them.";

pub(super) async fn run(programs: &Programs) -> anyhow::Result<Section> {
    let docker = TestDocker::start_with_network().map_err(|why| anyhow!(why))?;
    let image = LabImage::build(&docker, &programs.parts.app)?;
    let mut parts = programs.parts.clone();
    parts.runtime =
        RuntimeParts::Docker { socket: docker.socket().to_owned(), image: image.name.clone() };
    let cluster = Cluster::start(&parts).await?;
    let measured = measure(&cluster).await;
    cluster.destroy().await?;
    measured
}

async fn measure(cluster: &Cluster) -> anyhow::Result<Section> {
    cluster.deployed(cluster.service("v1", 1)).await?;
    let mut pids = vec![("ployzd".to_owned(), cluster.status().await?.pid)];
    for (name, process) in cluster.sidecars().await? {
        pids.push((name, process.pid));
    }
    tokio::time::sleep(REST).await;
    let mut before = Vec::new();
    for (_, pid) in &pids {
        before.push((memory(*pid)?, cpu(*pid)?, switches(*pid)?));
    }
    tokio::time::sleep(WATCH).await;
    let mut table = Table::new(&[
        "process",
        "PSS, MiB",
        "RSS, MiB",
        "threads",
        "CPU, % of a core",
        "wake-ups a second",
    ]);
    let mut sum = Memory::default();
    let (mut cpu_sum, mut daemon) = (0.0, None);
    for ((name, pid), (memory, cpu_before, switches_before)) in pids.iter().zip(before) {
        let percent = (cpu(*pid)? - cpu_before).as_secs_f64() / WATCH.as_secs_f64() * 100.0;
        // At most some thousands.
        let wakes = (switches(*pid)? - switches_before) as f64 / WATCH.as_secs_f64();
        table.row([
            name.clone(),
            format!("{:.1}", memory.pss),
            format!("{:.1}", memory.rss),
            threads(*pid)?.to_string(),
            format!("{percent:.3}"),
            format!("{wakes:.1}"),
        ]);
        sum = Memory { rss: sum.rss + memory.rss, pss: sum.pss + memory.pss };
        cpu_sum += percent;
        daemon = daemon.or(Some((memory, percent)));
    }
    table.row([
        "all".to_owned(),
        format!("{:.1}", sum.pss),
        format!("{:.1}", sum.rss),
        String::new(),
        format!("{cpu_sum:.3}"),
        String::new(),
    ]);
    let (memory, percent) = daemon.context("the daemon was measured")?;
    let bound = |what: &str, seen, limit, unit| Bound { what: what.to_owned(), seen, limit, unit };
    Ok(Section {
        title: "At rest",
        text: TEXT.to_owned(),
        table,
        bounds: vec![
            // The larger of the two: then it holds whichever is meant.
            bound("memory of ployzd (RSS)", memory.rss, 30.0, "MiB"),
            bound("memory of all four (RSS)", sum.rss, 120.0, "MiB"),
            bound("processor time of ployzd", percent, 0.2, "% of a core"),
        ],
    })
}
