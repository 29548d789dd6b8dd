//! Which instances of the heads run, asked of their machines.

use std::collections::{BTreeMap, BTreeSet};

use proto_core::id::{InstanceName, MachineId};
use proto_core::runtime::{InstanceState, ObservedInstance, exit_in_words};
use proto_core::span::Span;
use proto_core::store::facts::Commit;

use super::Api;
use super::views::ask;

/// How many instances a check names before it only counts.
const NAMED: usize = 5;

type Seen = Result<BTreeMap<InstanceName, ObservedInstance>, String>;

/// What the machines that heads name said.
pub(super) struct Running(BTreeMap<MachineId, Seen>);

impl Running {
    /// Asks each machine that these commits name.
    pub(super) async fn ask(api: &Api, commits: &[Commit], within: Span) -> Self {
        let machines: BTreeSet<_> = commits
            .iter()
            .flat_map(|commit| commit.services.values())
            .flat_map(|service| service.slots.values())
            .map(|slot| slot.machine.clone())
            .collect();
        let said = machines.iter().map(|machine| ask(api, machine, None, within));
        let said = futures::future::join_all(said).await.into_iter().map(|said| {
            let rows = said?.instances.into_iter();
            Ok(rows.map(|instance| (instance.spec.name.clone(), instance)).collect())
        });
        Self(machines.iter().cloned().zip(said).collect())
    }

    /// How many instances of the commit run; `None` if a machine did not say.
    pub(super) fn count(&self, commit: &Commit) -> Option<usize> {
        let slots = commit.services.values().flat_map(|service| service.slots.values());
        slots.map(|slot| self.lacks(&slot.machine, &slot.instance)).try_fold(0, |sum, lacks| {
            match lacks {
                Lacks::Nothing => Some(sum + 1),
                Lacks::Runs(_) => Some(sum),
                Lacks::Answer(_) => None,
            }
        })
    }

    /// The line of the doctor: what the heads name and does not run, and what mends the first of it.
    pub(super) fn check(&self, commits: &[Commit]) -> Result<String, (String, String)> {
        let (mut wanted, mut lacking, mut next) = (0, Vec::new(), None);
        for commit in commits {
            for (name, service) in &commit.services {
                for (slot, at) in &service.slots {
                    wanted += 1;
                    let place = format!("{}/{name}", commit.namespace);
                    let (told, command) = match self.lacks(&at.machine, &at.instance) {
                        Lacks::Nothing => continue,
                        Lacks::Runs(Some(seen)) if seen.state == InstanceState::Restarting => {
                            (in_words(Some(seen)), format!("ployzctl logs {place}"))
                        }
                        Lacks::Runs(seen) => (in_words(seen), format!("ployzctl restart {place}")),
                        Lacks::Answer(why) => {
                            (format!("not known: {why}"), "ployzctl events".to_owned())
                        }
                    };
                    lacking.push(format!("{place}/{slot} ({}) {told}", at.instance));
                    next.get_or_insert(command);
                }
            }
        }
        let Some(next) = next else { return Ok(format!("all {wanted} of the heads run")) };
        let more = match lacking.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let runs = wanted - lacking.len();
        lacking.truncate(NAMED);
        Err((format!("{runs} of {wanted} run: {}{more}", lacking.join(", ")), next))
    }

    fn lacks(&self, machine: &MachineId, instance: &InstanceName) -> Lacks<'_> {
        match self.0.get(machine) {
            Some(Ok(seen)) => match seen.get(instance) {
                Some(seen) if seen.state == InstanceState::Running => Lacks::Nothing,
                other => Lacks::Runs(other),
            },
            Some(Err(why)) => Lacks::Answer(why),
            None => Lacks::Answer("its machine was not asked"),
        }
    }
}

/// What is wrong with an instance.
enum Lacks<'a> {
    Nothing,
    /// It does not run; `None`: there is none.
    Runs(Option<&'a ObservedInstance>),
    /// Its machine did not say.
    Answer(&'a str),
}

fn in_words(seen: Option<&ObservedInstance>) -> String {
    let Some(seen) = seen else { return "is not there".to_owned() };
    match seen.state {
        InstanceState::Exited { code } => format!("exited {}", exit_in_words(code)),
        InstanceState::Created => "was never started".to_owned(),
        InstanceState::Restarting => match seen.last_exit {
            Some(code) => format!("restarting, exited {}", exit_in_words(code)),
            None => "restarting".to_owned(),
        },
        InstanceState::Running => "running".to_owned(),
    }
}
