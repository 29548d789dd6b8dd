//! Faults in words for people.

use std::collections::BTreeSet;
use std::fmt;

use super::{Fault, What};

/// What people call a machine: numbers count from 0, names from `m1`.
#[must_use]
pub fn machine_name(machine: usize) -> String {
    format!("m{}", machine + 1)
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.class())?;
        match self {
            Self::Partition { groups } => {
                let numbers: BTreeSet<_> = groups.iter().collect();
                let group = |number: &u8| {
                    let members = groups.iter().enumerate().filter(|(_, group)| *group == number);
                    members.map(|(machine, _)| machine_name(machine)).collect::<Vec<_>>().join(" ")
                };
                let groups: Vec<_> = numbers.into_iter().map(group).collect();
                write!(f, ": {}", groups.join(" | "))
            }
            Self::OneWay { from, to } => {
                write!(f, ": {} is not heard by {}", machine_name(*from), machine_name(*to))
            }
            Self::Loss { per_mille } | Self::Duplication { per_mille } => {
                write!(f, " of {per_mille} in 1000 messages")
            }
            Self::Delay { most } => write!(f, " of up to {most} ms"),
            Self::SlowRuntime { times, .. } => write!(f, ": {times} times"),
            Self::SlowFollower { millis, .. } => write!(f, " by {millis} ms"),
            Self::ClockStep { millis, .. } => write!(f, " by {millis} ms"),
            Self::EndedKeysBack { keys, days } => {
                let after =
                    if *days > 0 { format!(", after {days} quiet days") } else { String::new() };
                write!(f, ": up to {keys}{after}")
            }
            Self::TornBatch { writes, commit, kills } => {
                let which = if *commit { " of a commit" } else { "" };
                let too = if *kills { ", and the daemon dies too" } else { "" };
                write!(f, "{which} after {writes} writes{too}")
            }
            _ => Ok(()),
        }
    }
}

impl Fault {
    /// When it is over, in milliseconds from the beginning, in a story that mends everything at `length`; [`Fault::at`] where
    /// what follows from it has no planned length.
    #[must_use]
    pub fn until(&self, length: u64) -> u64 {
        match self.what {
            // These come back by themselves, also when everything else is mended.
            What::DaemonPause { .. } | What::Sleep { .. } | What::Reboot { .. } => {
                self.at + self.lasts
            }
            _ if self.what.is_ended() => (self.at + self.lasts).min(length.max(self.at)),
            // It happens; how long what follows from it takes is not planned.
            _ => self.at,
        }
    }
}
