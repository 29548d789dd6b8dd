//! Where the crash tests kill the daemon: right before and right after its n-th effect, by a real SIGKILL.
//!
//! Only with the feature `failpoints`. `PLOYZ_FAILPOINT=before:N` or `after:N` names the effect, counted from 1 since the start;
//! `PLOYZ_FAILPOINT_LOG` names a file that gets a line of JSON for each. `PLOYZ_FAILPOINT_NATS=HOST:PORT` is where the daemon, and no sidecar,
//! reaches nats-server: a proxy that loses messages.
//! `PLOYZ_FAILPOINT_STOP=PID:before:TEXT` (or `after`) sends SIGSTOP to another process at the first effect whose kind
//! contains the text: so the store stands still exactly at the commit.

use proto_core::daemon::EffectKind;
use proto_core::id::OperationId;

/// One effect's place among all.
#[derive(Debug)]
pub(crate) struct Failpoint {
    #[cfg(feature = "failpoints")]
    number: u64,
    #[cfg(feature = "failpoints")]
    kind: String,
}

#[cfg(not(feature = "failpoints"))]
pub(crate) fn count(_: &EffectKind, _: Option<&OperationId>) -> Failpoint {
    Failpoint {}
}

#[cfg(not(feature = "failpoints"))]
impl Failpoint {
    pub(crate) fn before(&self) {}
    pub(crate) fn after(&self) {}
}

#[cfg(not(feature = "failpoints"))]
pub(crate) fn nats_address(configured: String) -> String {
    configured
}

#[cfg(feature = "failpoints")]
pub(crate) use on::{count, nats_address};

#[cfg(feature = "failpoints")]
mod on {
    use std::io::Write as _;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::{EffectKind, Failpoint, OperationId};

    static COUNT: AtomicU64 = AtomicU64::new(0);
    /// It is stopped once: who continues it wants it to go on.
    static STOPPED: AtomicBool = AtomicBool::new(false);

    pub(crate) fn count(kind: &EffectKind, operation: Option<&OperationId>) -> Failpoint {
        let number = COUNT.fetch_add(1, Ordering::SeqCst) + 1;
        let kind = name(kind);
        if let Ok(path) = std::env::var("PLOYZ_FAILPOINT_LOG") {
            let line = serde_json::json!({
                "effect": number,
                "operation": operation,
                "kind": kind,
            });
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
                tracing::error!(%error, "the failpoint log cannot be written");
            }
        }
        Failpoint { number, kind }
    }

    pub(crate) fn nats_address(configured: String) -> String {
        std::env::var("PLOYZ_FAILPOINT_NATS").unwrap_or(configured)
    }

    fn name(kind: &EffectKind) -> String {
        let text = match kind {
            EffectKind::Store(request) => format!("{request:?}"),
            EffectKind::Send { command, .. } => format!("{:?}", command.body),
            EffectKind::Runtime(request) => format!("{request:?}"),
            EffectKind::Persist(_) => "Persist".to_owned(),
            EffectKind::Routes(request) => format!("{request:?}"),
            EffectKind::Reply { .. } => "Reply".to_owned(),
        };
        let class = match kind {
            EffectKind::Store(_) => "store",
            EffectKind::Send { .. } => "send",
            EffectKind::Runtime(_) => "runtime",
            EffectKind::Persist(_) => "persist",
            EffectKind::Routes(_) => "routes",
            EffectKind::Reply { .. } => "reply",
        };
        format!("{class}: {}", text.chars().take(80).collect::<String>())
    }

    impl Failpoint {
        pub(crate) fn before(&self) {
            self.stop_other_if("before");
            self.die_if("before");
        }

        pub(crate) fn after(&self) {
            self.stop_other_if("after");
            self.die_if("after");
        }

        fn stop_other_if(&self, when: &str) {
            let Ok(wanted) = std::env::var("PLOYZ_FAILPOINT_STOP") else { return };
            let mut parts = wanted.splitn(3, ':');
            let pid = parts.next().and_then(|pid| pid.parse().ok());
            let pid = pid.and_then(rustix::process::Pid::from_raw);
            let here =
                parts.next() == Some(when) && parts.next().is_some_and(|t| self.kind.contains(t));
            if let Some(pid) = pid
                && here
                && !STOPPED.swap(true, Ordering::SeqCst)
                && let Err(error) =
                    rustix::process::kill_process(pid, rustix::process::Signal::STOP)
            {
                tracing::error!(%error, "the failpoint cannot stop the other process");
            }
        }

        fn die_if(&self, when: &str) {
            let wanted = std::env::var("PLOYZ_FAILPOINT").unwrap_or_default();
            if wanted == format!("{when}:{}", self.number) {
                let own = rustix::process::getpid();
                // Nothing is cleaned up: that is the point.
                let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
                std::thread::park();
            }
        }
    }
}
