//! The disk that holds the cluster's directory is full: before a deploy, and in the middle of one.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use proto_core::deploy::manifest::render;

use super::cluster::{Cluster, HOST, manifest};
use super::{Lab, get_through};

/// How large the disk is, in MiB.
const SIZE: u32 = 96;
/// What the filling leaves.
const FILLER: &str = "filler";

/// A disk of its own, in memory. It is gone when this is dropped, or when this process is killed: then its keeper reads the end of its input.
#[derive(Debug)]
struct Disk {
    directory: PathBuf,
    keeper: Child,
}

impl Disk {
    fn mount() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("ployz-disk-").tempdir()?.keep();
        let keeper = Command::new("sh")
            .arg("-c")
            .arg("mount -t tmpfs -o size=$1m,mode=700 tmpfs \"$0\" || exit; echo; read _; umount -l \"$0\"; rmdir \"$0\"")
            .arg(&directory)
            .arg(SIZE.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut disk = Self { directory, keeper };
        let mut said = String::new();
        let out = disk.keeper.stdout.take().context("piped")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut said)?;
        ensure!(said == "\n", "the disk cannot be mounted");
        Ok(disk)
    }

    /// Takes all the room that is left.
    fn fill(&self) -> anyhow::Result<u64> {
        let mut file = File::create(self.directory.join(FILLER))?;
        let (mut written, mut piece) = (0, vec![1; 1 << 20]);
        loop {
            match file.write(&piece) {
                Ok(count) => written += count as u64,
                Err(error) if error.kind() == ErrorKind::StorageFull => {
                    if piece.len() == 1 {
                        return Ok(written);
                    }
                    piece.truncate(piece.len() / 16);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn make_room(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.directory.join(FILLER))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It waits for the end of its input.
        drop(self.keeper.stdin.take());
        drop(self.keeper.wait());
    }
}

/// Each in turn.
pub(super) async fn all(lab: Lab<'_>) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        lab.report.skip("full-disk", "only root can mount a disk of its own");
        return Ok(());
    }
    let disk = Disk::mount()?;
    let mut cluster =
        Cluster::start_in(lab.cluster.parts(), disk.directory.join("cluster")).await?;
    let lab = Lab { cluster: &mut cluster, report: lab.report, extent: lab.extent };
    let result = on(lab, &disk).await;
    let log = cluster.log_tail();
    let ended = cluster.destroy().await;
    if result.is_err() || ended.is_err() {
        super::say(&log);
    }
    result.and(ended.map(drop))
}

async fn on(mut lab: Lab<'_>, disk: &Disk) -> anyhow::Result<()> {
    // In the full form the lease has to be renewed on the full disk.
    let ready_after = lab.choose("1500", "15000");
    for version in ["good", "better", "best"] {
        let mut service = lab.cluster.service(version, 1);
        if version == "best" {
            service.workload.env.insert("READY_AFTER_MS".to_owned(), ready_after.to_owned());
        }
        let text = render(&manifest(service));
        std::fs::write(lab.cluster.directory.join(format!("{version}.toml")), text)?;
    }
    let said = lab.cluster.ctl().run("deploy -f good.toml").await?;
    ensure!(said.code == Some(0), "the first deploy: {}", said.in_short());
    let before = lab.cluster.processes().await?;

    let kib = disk.fill()? >> 10;
    let said = lab.cluster.ctl().run("deploy -f better.toml").await?;
    let told = said.told(3, "DISK_FULL", &["0 KiB left", "df -h"]);
    let seen = format!("{kib} KiB were taken; {}", said.in_short());
    lab.report.check("full-disk: a deploy is refused and says why", told, seen);
    let doctor = lab.cluster.ctl().run("doctor").await?;
    let line = doctor.out.lines().find(|line| line.starts_with("WRONG  disk: "));
    let seen = line.unwrap_or(&doctor.out);
    lab.report.check("full-disk: the doctor says so", line.is_some(), seen);
    serves(&mut lab, "full before a deploy", "good", true).await?;

    with_room(&mut lab, disk, "better.toml", 1).await?;
    serves(&mut lab, "with room", "better", true).await?;

    let mut call = lab.cluster.ctl().begin("deploy -f best.toml")?;
    call.out_has(" is ready …").await?;
    disk.fill()?;
    let said = call.end().await?;
    let told = said.told(5, "STORE_REFUSED", &["full disk", "op resume", "op abort"]);
    lab.report.check("full-disk: in the middle: interrupted, and says why", told, said.in_short());
    serves(&mut lab, "full in the middle of a deploy", "better", false).await?;

    with_room(&mut lab, disk, "best.toml", 2).await?;
    serves(&mut lab, "with room again", "best", true).await?;
    let after = lab.cluster.processes().await?;
    let same = ["gateway", "dns"].iter().all(|name| before[*name] == after[*name]);
    let pids: Vec<_> = after.iter().map(|(name, there)| format!("{name} {}", there.pid)).collect();
    let same = same && before["nats"] != after["nats"];
    lab.report.check("full-disk: only nats-server was started anew", same, pids.join(", "));
    Ok(())
}

/// Makes room, and asks for the same until it is done: nobody else helps.
async fn with_room(
    lab: &mut Lab<'_>,
    disk: &Disk,
    manifest: &str,
    time: usize,
) -> anyhow::Result<()> {
    let full = told(lab.cluster, "STORE_DISK_FULL", time).await?;
    disk.make_room()?;
    let freed = told(lab.cluster, "STORE_DISK_FREED", time).await?;
    lab.report.check("full-disk: the events tell it", true, format!("{full} | {freed}"));
    let begun = Instant::now();
    let mut tries = 1;
    // The store is away for a moment, and an interrupted operation may keep its lease until that expires.
    let said = loop {
        let said = lab.cluster.ctl().run(&format!("deploy -f {manifest}")).await?;
        if said.code == Some(0) || begun.elapsed() > Duration::from_secs(40) {
            break said;
        }
        tries += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let ms = begun.elapsed().as_millis();
    let seen = format!("try {tries}, after {ms} ms: {}", said.in_short());
    let what = format!("full-disk: with room {manifest} is deployed");
    lab.report.check(&what, said.code == Some(0), seen);
    Ok(())
}

/// Waits until this was told for the `time`-th time.
async fn told(cluster: &Cluster, code: &str, time: usize) -> anyhow::Result<String> {
    let begun = Instant::now();
    loop {
        let events = cluster.events().await?;
        if let Some(event) = events.iter().filter(|event| event.code == code).nth(time - 1) {
            return Ok(event.message.clone());
        }
        ensure!(begun.elapsed() < Duration::from_secs(30), "no {code} number {time}: {events:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// This version serves; and nothing is left of another, unless an operation stands still.
async fn serves(lab: &mut Lab<'_>, when: &str, version: &str, clean: bool) -> anyhow::Result<()> {
    let left = lab.cluster.leftovers().await?;
    let (status, body) = get_through(lab.cluster.gateway, HOST, "/").await?;
    lab.report.check(
        &format!("full-disk: {when}: {version} serves"),
        (left.is_empty() || !clean) && status == 200 && body == version,
        format!("leftovers {left:?}, the gateway answers {status} {body}"),
    );
    Ok(())
}
