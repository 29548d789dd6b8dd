//! Why instances found no machine, in a sentence that an operator can act on.

use serde::{Deserialize, Serialize};

use super::{Job, RegionRole, World, holds};
use crate::deploy::spec::Replicas;
use crate::id::{MachineId, ServiceName};
use crate::machine::{Addressing, MachineLifecycle};

/// A service of which not every instance found a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct Refusal {
    /// The service.
    pub service: ServiceName,
    /// How many instances it shall have; for a global service, one for each machine that is allowed.
    pub wanted: u32,
    /// How many of them found a machine.
    pub placed: u32,
    /// How many machines there are.
    pub machines: u32,
    /// Why each machine takes no more of them, most frequent first; every machine is counted once.
    pub excluded: Vec<Exclusion>,
}

/// A reason, and the machines that it keeps out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exclusion {
    /// The reason, as it follows on "2 of them …", for example `outside region == eu`.
    pub reason: String,
    /// By id.
    pub machines: Vec<MachineId>,
}

/// How many machines a reason names before it only counts them.
const NAMED: usize = 3;

impl Refusal {
    fn sentence(&self) -> String {
        let missing = self.wanted.saturating_sub(self.placed);
        let mut text = match (self.machines, self.wanted) {
            (0, _) => return format!("service {}: there is no machine", self.service),
            (_, 0) => format!("service {}: no machine is allowed", self.service),
            _ => format!(
                "service {}: {missing} of {} {} no machine",
                self.service,
                count(self.wanted, "instance"),
                if missing == 1 { "finds" } else { "find" }
            ),
        };
        text += &format!("; of {}", count(self.machines, "machine"));
        for (nth, exclusion) in self.excluded.iter().enumerate() {
            let machines = &exclusion.machines;
            let names: Vec<&str> = machines.iter().take(NAMED).map(MachineId::as_str).collect();
            let more = if machines.len() > NAMED { ", …" } else { "" };
            let comma = if nth == 0 { ":" } else { "," };
            text += &format!(
                "{comma} {} {} ({}{more})",
                machines.len(),
                exclusion.reason,
                names.join(", ")
            );
        }
        text
    }
}

fn count(n: u32, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

impl World<'_> {
    pub(super) fn refusal(&self, job: &Job<'_>) -> Refusal {
        let mut excluded: Vec<Exclusion> = Vec::new();
        for at in 0..self.hosts.len() {
            let reason = self.reason(job, at);
            let id = self.hosts[at].id().clone();
            match excluded.iter_mut().find(|e| e.reason == reason) {
                Some(exclusion) => exclusion.machines.push(id),
                None => excluded.push(Exclusion { reason, machines: vec![id] }),
            }
        }
        excluded.sort_by(|a, b| {
            b.machines.len().cmp(&a.machines.len()).then_with(|| a.reason.cmp(&b.reason))
        });
        // Counts come from a manifest's limits (1000 slots) and from the number of machines.
        let placed = job.slots.len() as u32;
        let wanted = match job.spec.placement.replicas {
            Replicas::Count(count) => count,
            Replicas::Global => placed + job.missing.len() as u32,
        };
        Refusal {
            service: job.name.clone(),
            wanted,
            placed,
            machines: self.hosts.len() as u32,
            excluded,
        }
    }

    /// Why a machine takes no (further) instance: the first rule that it fails.
    fn reason(&self, job: &Job<'_>, at: usize) -> String {
        let host = &self.hosts[at];
        let machine = &host.candidate.record;
        match machine.lifecycle {
            MachineLifecycle::Standby => {
                return "standby".to_owned();
            }
            MachineLifecycle::Draining => return "draining".to_owned(),
            MachineLifecycle::Removed => return "removed".to_owned(),
            MachineLifecycle::Active => {}
        }
        match host.candidate.region_role {
            RegionRole::Draining => return format!("in region {}, which drains", machine.region),
            RegionRole::Disabled => {
                return format!("in region {}, which is disabled", machine.region);
            }
            RegionRole::Compute | RegionRole::HomeData => {}
        }
        let failing: Vec<String> = (job.spec.placement.constraints.iter())
            .filter(|c| !holds(c, machine))
            .map(|c| format!("`{c}`"))
            .collect();
        if !failing.is_empty() {
            return format!("ruled out by {}", failing.join(" and "));
        }
        let wanted = job.spec.reservation;
        if host.memory_left < wanted.memory_bytes {
            let wanted = super::super::units::memory(wanted.memory_bytes);
            return format!("without {wanted} of memory left to reserve");
        }
        if host.cpu_left < wanted.cpu_millis {
            return format!("without {}m of CPU left to reserve", wanted.cpu_millis);
        }
        if let Some(port) = super::machine_ports(job.spec).find(|port| host.ports.contains(port)) {
            return format!("with its port {port} taken by an instance already");
        }
        let mut wanted = super::machine_ports(job.spec);
        let held = wanted.find_map(|port| Some((port, host.held_by_another(port, job)?)));
        if let Some((port, holder)) = held {
            let holder = holder.map_or("an instance of no commit", ServiceName::as_str);
            return format!("with its port {port} held by {holder} until the commit");
        }
        let wanted = host.addresses_for(job.spec);
        if host.addresses_left < wanted {
            return match machine.addressing {
                Addressing::Subnet(_) => "without an address left for a new instance".to_owned(),
                Addressing::Loopback { first, last } => {
                    format!(
                        "without {wanted} of its ports {first} to {last} left for a new instance"
                    )
                }
            };
        }
        "with an instance".to_owned()
    }
}
