//! The lab: scenarios on real parts. `ployzd` is a real process that is killed by real signals, in front of real workloads under load.
//!
//! | file | holds |
//! |---|---|
//! | `cluster` | a cluster of one in a directory of its own, and what is asked of it |
//! | `client` | HTTP to the daemon's socket and through the gateway |
//! | `ctl` | `ployzctl`, called as an operator calls it |
//! | `load` | 200 requests a second, each one counted |
//! | `report` | a line for each check |
//! | `wire` | a proxy in front of nats-server that loses a message |
//! | the others | the scenarios |

mod adoption;
mod bad_input;
mod client;
mod cluster;
mod crashes;
mod ctl;
mod faults;
mod full_disk;
mod image;
mod load;
mod lost_commit;
mod report;
mod store_at_commit;
mod survival;
mod updates;
mod wire;

use std::path::PathBuf;
use std::pin::Pin;
use std::process::Command;

use anyhow::{Context as _, ensure};

pub use client::{Api, Running, get_once, get_through};
pub use cluster::{Cluster, HOST, beside, manifest};
pub use ctl::{Call, Ctl, Said};
pub use image::LabImage;
pub use load::{Load, Tally};
pub use report::{Report, say};

/// What the scenarios run on.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The daemon's program, built with `failpoints`.
    pub ployzd: PathBuf,
    /// The operator's program.
    pub ployzctl: PathBuf,
    /// The workload's program.
    pub app: PathBuf,
    /// What runs the workloads.
    pub runtime: RuntimeParts,
    /// The store's server, as it names itself.
    pub nats: String,
}

/// What runs the workloads.
#[derive(Debug, Clone)]
pub enum RuntimeParts {
    /// Processes of the host.
    Process,
    /// A Docker engine.
    Docker {
        /// Its socket.
        socket: PathBuf,
        /// An image with the workload's program.
        image: String,
    },
}

impl Parts {
    /// Finds the programs: `PLOYZD` or `ployzd` beside this program, `ployzctl` and `lab-app` beside it, nats-server in `PATH`.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub fn find() -> anyhow::Result<Self> {
        let ployzd = match cluster::from_env("PLOYZD") {
            Some(path) => path,
            None => beside("ployzd").context(
                "build it with `cargo build -p ployzd --features failpoints`, or name it in PLOYZD",
            )?,
        };
        Self::with(ployzd)
    }

    /// This daemon, `ployzctl` and `lab-app` beside this program, nats-server in `PATH`, processes of the host.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub fn with(ployzd: PathBuf) -> anyhow::Result<Self> {
        let output = Command::new("nats-server")
            .arg("--version")
            .output()
            .context("there is no nats-server in the PATH")?;
        ensure!(output.status.success(), "nats-server --version: {}", output.status);
        Ok(Self {
            ployzd,
            ployzctl: beside("ployzctl").context("build it with `cargo build -p ployzctl`")?,
            app: beside("lab-app")?,
            runtime: RuntimeParts::Process,
            nats: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        })
    }
}

impl std::fmt::Display for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let runtime = match &self.runtime {
            RuntimeParts::Process => "process".to_owned(),
            RuntimeParts::Docker { socket, .. } => format!("docker ({})", socket.display()),
        };
        write!(f, "parts: ployzd {}, runtime {runtime}, {}", self.ployzd.display(), self.nats)
    }
}

/// How much of a scenario is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// A sample, for `cargo test`.
    Short,
    /// All of it.
    Full,
}

/// What a scenario is given.
#[derive(Debug)]
pub struct Lab<'a> {
    /// The cluster, with nothing deployed.
    pub cluster: &'a mut Cluster,
    /// Where the checks go.
    pub report: &'a mut Report,
    /// How much is to be done.
    pub extent: Extent,
}

impl Lab<'_> {
    /// The first in a short run, the second in a full one.
    fn choose<T>(&self, short: T, full: T) -> T {
        match self.extent {
            Extent::Short => short,
            Extent::Full => full,
        }
    }
}

type Run = for<'a> fn(Lab<'a>) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;

/// Something that is shown.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it shows.
    pub shows: &'static str,
    run: Run,
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Every scenario.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "kill-under-load",
        shows: "kill -9 of ployzd under load: no failed request, every other process goes on, the next ployzd adopts them",
        run: |lab| Box::pin(survival::kill_under_load(lab)),
    },
    Scenario {
        name: "updates",
        shows: "a rolling and a blue-green update of two replicas under load: no failed request",
        run: |lab| Box::pin(updates::under_load(lab)),
    },
    Scenario {
        name: "a-b-a",
        shows: "v1, v2, v1: three commits; the last one again changes nothing",
        run: |lab| Box::pin(updates::there_and_back(lab)),
    },
    Scenario {
        name: "kill-at-every-effect",
        shows: "kill -9 of ployzd before and after each effect of a deploy, under load: the same deploy again completes it",
        run: |lab| Box::pin(crashes::at_every_effect(lab, crashes::SINGLE)),
    },
    Scenario {
        name: "kill-in-rolling",
        shows: "the same of a rolling update of two replicas, under load: no failed request",
        run: |lab| Box::pin(crashes::at_every_effect(lab, crashes::ROLLING)),
    },
    Scenario {
        name: "kill-in-blue-green",
        shows: "the same of a blue-green update of two replicas, under load: no failed request",
        run: |lab| Box::pin(crashes::at_every_effect(lab, crashes::BLUE_GREEN)),
    },
    Scenario {
        name: "kill-at-random",
        shows: "kill -9 of ployzd at random instants of a deploy",
        run: |lab| Box::pin(crashes::at_random_instants(lab)),
    },
    Scenario {
        name: "store-away",
        shows: "nats-server stopped, and killed, under load: no failed request, a deploy is refused, then it works",
        run: |lab| Box::pin(survival::store_away(lab)),
    },
    Scenario {
        name: "lost-commit",
        shows: "a commit's batch or its answer is lost, or lands after its timeout: the abort mark decides, nothing is left",
        run: |lab| Box::pin(lost_commit::all(lab)),
    },
    Scenario {
        name: "store-at-commit",
        shows: "nats-server stands still before, during and after the commit; the write lands after its timeout, or never",
        run: |lab| Box::pin(store_at_commit::all(lab)),
    },
    Scenario {
        name: "adoption",
        shows: "each part of a sidecar's identity changed alone makes exactly that one new; strangers and a reused pid are left alone",
        run: |lab| Box::pin(adoption::all(lab)),
    },
    Scenario {
        name: "faults",
        shows: "deploys that cannot work are undone and say why; two at once; cancel",
        run: |lab| Box::pin(faults::all(lab)),
    },
    Scenario {
        name: "bad-input",
        shows: "wrong manifests, taken ports and host names, sockets, Ctrl-C, as ployzctl tells them: code, next command, nothing changed",
        run: |lab| Box::pin(bad_input::all(lab)),
    },
    Scenario {
        name: "full-disk",
        shows: "the cluster's disk full, before a deploy and in the middle of one: told, the old version serves, room is all the help it needs",
        run: |lab| Box::pin(full_disk::all(lab)),
    },
    Scenario {
        name: "configuration",
        shows: "a malformed configuration: exit 2, with the line",
        run: |lab| Box::pin(faults::malformed_configuration(lab)),
    },
];

/// Runs a scenario in a cluster of its own. What it left, and an error, are failed checks.
pub async fn run(scenario: &Scenario, parts: &Parts, extent: Extent, report: &mut Report) {
    let failed_before = report.failures().len();
    let name = scenario.name;
    say(&format!("scenario {name}: {}; {parts}", scenario.shows));
    let mut cluster = match Cluster::start(parts).await {
        Ok(cluster) => cluster,
        Err(error) => return report.check(name, false, format!("no cluster: {error:#}")),
    };
    let lab = Lab { cluster: &mut cluster, report, extent };
    if let Err(error) = (scenario.run)(lab).await {
        report.check(name, false, format!("{error:#}"));
    }
    let directory = cluster.directory.clone();
    let log = cluster.log_tail();
    match cluster.destroy().await {
        Ok(_) => report.check(&format!("{name}: ends clean"), true, "no process was left"),
        Err(error) => report.check(&format!("{name}: ends clean"), false, format!("{error:#}")),
    }
    if report.failures().len() > failed_before {
        say(&format!("kept: {}\n{log}", directory.display()));
    } else if let Err(error) = std::fs::remove_dir_all(&directory) {
        say(&format!("cannot be removed: {}: {error}", directory.display()));
    }
}
