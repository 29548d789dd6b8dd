//! What goes wrong in a story.

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::fate::EffectClass;

/// Something that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When, in milliseconds from the beginning.
    pub at: u64,
    /// For how long, in milliseconds, where that means something.
    #[serde(default, rename = "for", skip_serializing_if = "is_default")]
    pub lasts: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// Classes of faults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs, reason = "the variants say what their fields are")]
pub enum What {
    /// The daemon dies and is started again.
    DaemonCrash { machine: usize },
    /// The daemon is frozen.
    DaemonPause { machine: usize },
    /// The machine sleeps: its monotonic clock does not count.
    Sleep { machine: usize },
    /// The machine loses power.
    Reboot { machine: usize },
    /// Machines of different groups don't hear each other.
    Partition { groups: Vec<u8> },
    /// One machine is not heard by another.
    OneWay { from: usize, to: usize },
    /// Messages are lost.
    Loss { per_mille: u64 },
    /// Messages arrive twice.
    Duplication { per_mille: u64 },
    /// Messages are late, so that others overtake them.
    Delay { most: u64 },
    /// The store's server on this machine dies and is started again.
    ServerCrash { machine: usize },
    /// The lone server is killed and started again, and so many keys that had ended are back. Before, the cluster was left alone for so many
    /// days: whatever the story plans from twenty seconds before the kill on comes that much later.
    EndedKeysBack {
        keys: usize,
        #[serde(default, skip_serializing_if = "is_default")]
        days: u64,
    },
    /// All servers but the leader's die.
    QuorumLoss,
    /// The store's leader gives up its office.
    Election,
    /// The lone server dies in the middle of the next batch (the next that moves a head), after so many of its writes, and the daemon
    /// that asked with it.
    TornBatch {
        writes: usize,
        #[serde(default)]
        commit: bool,
        #[serde(default)]
        kills: bool,
    },
    /// The gateway's follower misses a write.
    FollowerGap { machine: usize },
    /// The gateway's follower hears everything so many milliseconds late.
    SlowFollower { machine: usize, millis: u64 },
    /// The machine's runtime is so many times slower.
    SlowRuntime { machine: usize, times: u32 },
    /// The machine's runtime refuses every change.
    FailingRuntime { machine: usize },
    /// The machine's disk takes no fence file.
    DiskFull { machine: usize },
    /// The machine's wall clock jumps by so many milliseconds.
    ClockStep { machine: usize, millis: i64 },
    /// An instance exits by itself: the one with this number of those on the machine.
    InstanceExit { machine: usize, nth: usize },
    /// An effect of a node is struck, after so many of its class went well.
    Effect { machine: usize, class: EffectClass, skip: u32, fate: EffectFate },
}

/// What becomes of an effect that is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectFate {
    /// The daemon dies before it.
    CrashBefore,
    /// It happens, and the daemon dies before the answer.
    CrashAfter,
    /// The daemon dies; it lands when the fault is over.
    CrashLate,
    /// It happens; the answer is lost.
    LostAnswer,
    /// It never happens, and nobody says so.
    LostRequest,
    /// There is no answer, and it lands when the fault is over.
    Late,
    /// The same, and until then others' writes of the same keys are undecided.
    Undecided,
    /// It happens now, and again when the fault is over.
    Twice,
    /// It fails and says so.
    Fails,
}

impl EffectFate {
    /// What it happens to; what is there more often is drawn more often.
    pub(super) fn strikes(self) -> &'static [EffectClass] {
        use EffectClass::{Command, Commit, Persist, Read, Reply, Runtime, Write};
        match self {
            Self::CrashBefore => &EffectClass::ALL,
            Self::CrashAfter => &[Write, Commit, Command, Runtime, Persist, Reply],
            // A command that comes behind the barrier of the next coordinator is what epochs are for.
            Self::CrashLate => &[Write, Commit, Command, Command, Command, Runtime],
            Self::Late => &[Write, Commit, Command, Runtime],
            Self::LostAnswer => &[Read, Write, Commit, Command, Runtime],
            Self::LostRequest => &[Write, Commit, Command, Runtime, Reply],
            Self::Undecided => &[Write, Commit, Commit],
            Self::Twice => &[Command],
            Self::Fails => &[Read, Write, Commit, Command, Runtime, Persist],
        }
    }

    /// Whether its daemon lives on and is not told what became of the effect.
    pub(super) fn is_silent(self) -> bool {
        matches!(self, Self::LostAnswer | Self::LostRequest | Self::Late | Self::Undecided)
    }
}

impl What {
    /// The name of its class.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::DaemonCrash { .. } => "daemon_crash",
            Self::DaemonPause { .. } => "daemon_pause",
            Self::Sleep { .. } => "sleep",
            Self::Reboot { .. } => "reboot",
            Self::Partition { .. } => "partition",
            Self::OneWay { .. } => "one_way",
            Self::Loss { .. } => "loss",
            Self::Duplication { .. } => "duplication",
            Self::Delay { .. } => "delay",
            Self::ServerCrash { .. } => "server_crash",
            Self::EndedKeysBack { .. } => "ended_keys_back",
            Self::QuorumLoss => "quorum_loss",
            Self::Election => "election",
            Self::TornBatch { .. } => "torn_batch",
            Self::FollowerGap { .. } => "follower_gap",
            Self::SlowFollower { .. } => "slow_follower",
            Self::SlowRuntime { .. } => "slow_runtime",
            Self::FailingRuntime { .. } => "failing_runtime",
            Self::DiskFull { .. } => "disk_full",
            Self::ClockStep { .. } => "clock_step",
            Self::InstanceExit { .. } => "instance_exit",
            Self::Effect { fate, .. } => match fate {
                EffectFate::CrashBefore => "crash_before",
                EffectFate::CrashAfter => "crash_after",
                EffectFate::CrashLate => "crash_late",
                EffectFate::LostAnswer => "lost_answer",
                EffectFate::LostRequest => "lost_request",
                EffectFate::Late => "late",
                EffectFate::Undecided => "undecided",
                EffectFate::Twice => "twice",
                EffectFate::Fails => "fails",
            },
        }
    }

    /// Whether it goes on until somebody ends it. What does not is over at once, or comes to its end by itself.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        !matches!(
            self,
            Self::DaemonCrash { .. }
                | Self::DaemonPause { .. }
                | Self::Sleep { .. }
                | Self::Reboot { .. }
                | Self::Election
                | Self::TornBatch { .. }
                | Self::FollowerGap { .. }
                | Self::ClockStep { .. }
                | Self::InstanceExit { .. }
                | Self::Effect { .. }
        )
    }

    /// Whether machines stop hearing each other.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        matches!(self, Self::Partition { .. } | Self::OneWay { .. })
    }

    /// The machines that it names.
    #[must_use]
    pub fn machines(&self) -> Vec<usize> {
        match self {
            Self::DaemonCrash { machine }
            | Self::DaemonPause { machine }
            | Self::Sleep { machine }
            | Self::Reboot { machine }
            | Self::ServerCrash { machine }
            | Self::FollowerGap { machine }
            | Self::SlowFollower { machine, .. }
            | Self::SlowRuntime { machine, .. }
            | Self::FailingRuntime { machine }
            | Self::DiskFull { machine }
            | Self::ClockStep { machine, .. }
            | Self::InstanceExit { machine, .. }
            | Self::Effect { machine, .. } => vec![*machine],
            Self::OneWay { from, to } => vec![*from, *to],
            _ => Vec::new(),
        }
    }
}

/// Every class of faults.
pub const CLASSES: [&str; 30] = [
    "daemon_crash",
    "daemon_pause",
    "sleep",
    "reboot",
    "partition",
    "one_way",
    "loss",
    "duplication",
    "delay",
    "server_crash",
    "ended_keys_back",
    "quorum_loss",
    "election",
    "torn_batch",
    "follower_gap",
    "slow_follower",
    "slow_runtime",
    "failing_runtime",
    "disk_full",
    "clock_step",
    "instance_exit",
    "crash_before",
    "crash_after",
    "crash_late",
    "lost_answer",
    "lost_request",
    "late",
    "undecided",
    "twice",
    "fails",
];
