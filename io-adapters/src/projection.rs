//! Runs a [`Projection`] for the gateway and the DNS server: events in, states out, the last good one kept on disk.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proto_core::routing::{Commits, Effect, Projection, Snapshot};
use proto_core::store::FollowEvent;
use proto_core::time::UnixTime;
use tokio::sync::{mpsc, watch};

use crate::control::Status;

/// How long a change waits for others before it is written to disk.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// How long after a failed write the next try comes.
const RETRY: Duration = Duration::from_secs(5);
/// How many events are taken before what they lead to is published.
const BATCH: usize = 256;

/// The wall clock.
pub(crate) fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Until `shutdown` turns true, or nobody can turn it true any more.
pub(crate) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // Either way it is over.
    let _ = shutdown.wait_for(|down| *down).await;
}

/// The last good state that `path` holds. A file that can't be used is reported and not a reason to stay down: the store
/// has the same and newer.
pub(crate) fn restore(path: &Path) -> Projection {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Projection::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the snapshot can't be read");
            return Projection::new();
        }
    };
    let snapshot = serde_json::from_slice::<Snapshot>(&text).map_err(|error| error.to_string());
    let restored = snapshot.and_then(|s| Projection::restore(s).map_err(|error| error.to_string()));
    restored.unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), error, "the snapshot can't be used");
        Projection::new()
    })
}

/// Feeds `follow` to `projection` until `shutdown` turns true, and hands each new state to `publish` *before* `status` says
/// that it is applied. When the follower ends, the last state goes on.
pub(crate) async fn run(
    mut projection: Projection,
    snapshot: PathBuf,
    mut follow: mpsc::Receiver<FollowEvent>,
    status: watch::Sender<Status>,
    mut shutdown: watch::Receiver<bool>,
    mut publish: impl FnMut(Commits),
) {
    let (persist, latest) = watch::channel(None);
    let writer = tokio::spawn(write_snapshots(snapshot, latest, status.clone()));
    let mut events = Vec::with_capacity(BATCH);
    let mut ended = false;
    loop {
        drain(&mut projection, &persist, &mut publish);
        status.send_if_modified(|status| {
            let next = projection.status();
            let changed = status.projection != next;
            status.projection = next;
            changed
        });
        tokio::select! {
            () = stopped(&mut shutdown) => break,
            count = follow.recv_many(&mut events, BATCH), if !ended => {
                if count == 0 {
                    ended = true;
                    let reason = "the follower has ended".to_owned();
                    events.push(FollowEvent::Away { reason });
                }
            }
        }
        for event in events.drain(..) {
            projection.handle_input(now(), event);
        }
    }
    drop(persist);
    if let Err(error) = writer.await {
        tracing::error!(%error, "the last snapshot was not written");
    }
}

/// Of several states in one batch only the last is built and kept.
fn drain(
    projection: &mut Projection,
    persist: &watch::Sender<Option<Snapshot>>,
    publish: &mut impl FnMut(Commits),
) {
    let mut state = None;
    while let Some(effect) = projection.poll_effect() {
        match effect {
            Effect::Publish(commits) => state = Some(commits),
            Effect::Persist(snapshot) => {
                persist.send_replace(Some(snapshot));
            }
        }
    }
    if let Some(commits) = state {
        publish(commits);
    }
}

async fn write_snapshots(
    path: PathBuf,
    mut latest: watch::Receiver<Option<Snapshot>>,
    status: watch::Sender<Status>,
) {
    while latest.changed().await.is_ok() {
        // Further changes don't prolong the wait; the end of the sender ends it.
        tokio::select! {
            () = tokio::time::sleep(DEBOUNCE) => {}
            () = ended(latest.clone()) => {}
        }
        let mut attempt_again = true;
        while attempt_again {
            let Some(snapshot) = latest.borrow_and_update().clone() else { break };
            let target = path.clone();
            let written = tokio::task::spawn_blocking(move || write_snapshot(&target, &snapshot));
            let error = match written.await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            attempt_again = false;
            if let Some(error) = &error {
                tracing::warn!(path = %path.display(), error, "the snapshot was not written");
                tokio::select! {
                    () = tokio::time::sleep(RETRY) => attempt_again = true,
                    () = ended(latest.clone()) => {}
                }
            }
            status.send_if_modified(|status| {
                let changed = status.snapshot_error != error;
                status.snapshot_error = error;
                changed
            });
        }
    }
}

/// Until the sender is gone.
async fn ended<T>(mut receiver: watch::Receiver<T>) {
    while receiver.changed().await.is_ok() {}
}

/// Replaces the file in one step, so that a crash leaves the old or the new one.
fn write_snapshot(path: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let directory = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(directory)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(snapshot)?)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}
