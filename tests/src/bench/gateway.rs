//! What passes through the gateway, next to nginx and haproxy in front of the same backend.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::apart::directory;
use super::peers::{Load, Peer, load};
use super::programs::Programs;
use super::section::{Section, Table};
use super::stats::Samples;
use crate::lab::{Cluster, HOST, get_through};

const ROUNDS: usize = 5;
/// One competitor in one round.
const TURN: Duration = Duration::from_secs(4);
const NGINX: u16 = 9100;
const HAPROXY: u16 = 9200;

const TEXT: &str = "\
`wrk -t1 -c64 --latency`, connections kept alive, 4 s each, five rounds in which the competitors take turns, after one round that does not\n\
count. The backend is an nginx with one worker that answers 6 bytes without a file; it is deployed by Ployz as a process, so its route is an\n\
ordinary one. Each proxy has one worker, keeps connections to the backend and sets the same `X-Forwarded-*` headers. wrk, proxy and backend\n\
share the machine's cores. `direct` is wrk at the backend itself.";

/// The backend, as a workload: PORT is where the daemon wants it.
const BACKEND: &str = "\
printf 'daemon off;\\nuser root;\\nworker_processes 1;\\npid nginx.pid;\\nerror_log stderr;\\nevents { worker_connections 4096; }\\n\
http { access_log off; keepalive_requests 100000000; server { listen 127.0.0.1:%s; location / { return 200 \"hello\\\\n\"; } } }\\n' \
\"$PORT\" >nginx.conf && exec nginx -p \"$PWD\" -e stderr -c \"$PWD/nginx.conf\"";

pub(super) async fn run(programs: &Programs) -> anyhow::Result<Section> {
    let cluster = Cluster::start(&programs.parts).await?;
    let measured = measure(&cluster).await;
    let log = cluster.log_tail();
    cluster.destroy().await?;
    measured.with_context(|| format!("the daemon's log:\n{log}"))
}

async fn measure(cluster: &Cluster) -> anyhow::Result<Section> {
    let mut service = cluster.service("v1", 1);
    service.workload.command = ["sh", "-c", BACKEND].map(str::to_owned).into();
    cluster.deployed(service).await?;
    let instances = cluster.instances().await?;
    let instance = instances.rows.first().context("the backend runs")?;
    let backend = *instance.instance.spec.ports.get("http").context("it has a port")?;

    let directory = directory("gateway")?;
    let _nginx = Peer::nginx(&directory, NGINX, backend)?;
    let _haproxy = Peer::haproxy(&directory, HAPROXY, backend)?;
    let competitors = [
        ("direct", backend),
        ("nginx", NGINX),
        ("haproxy", HAPROXY),
        ("Ployz gateway", cluster.gateway),
    ];
    for (name, port) in competitors {
        answers(port).await.with_context(|| name)?;
        load(port, Duration::from_secs(1)).await.with_context(|| name)?;
    }
    let mut samples = [(); 4].map(|()| [(); 3].map(|()| Samples::default()));
    for _ in 0..ROUNDS {
        for ((name, port), samples) in competitors.iter().zip(&mut samples) {
            let Load { rate, median, p99 } = load(*port, TURN).await.with_context(|| *name)?;
            for (samples, value) in samples.iter_mut().zip([rate / 1000.0, median, p99]) {
                samples.push(value);
            }
        }
    }
    let of_nginx = samples[1][0].median();
    let mut table = Table::new(&["", "thousand requests/s", "× nginx", "p50, ms", "p99, ms"]);
    for ((name, _), [rate, median, p99]) in competitors.iter().zip(&samples) {
        table.row([
            (*name).to_owned(),
            rate.show(1),
            format!("{:.2}", rate.median() / of_nginx),
            median.show(2),
            p99.show(2),
        ]);
    }
    Ok(Section { title: "Through the gateway", text: TEXT.to_owned(), table, bounds: Vec::new() })
}

/// Waits until a competitor serves.
async fn answers(port: u16) -> anyhow::Result<()> {
    let mut last = String::new();
    for _ in 0..100 {
        match get_through(port, HOST, "/").await {
            Ok((200, body)) if body == "hello\n" => return Ok(()),
            other => last = format!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ensure!(false, "it does not answer: {last}");
    Ok(())
}
