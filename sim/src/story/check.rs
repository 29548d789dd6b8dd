//! What a story that was written by hand may get wrong beside its syntax.

use std::collections::BTreeSet;

use proto_core::deploy::HostName;

use super::past::ADDRESSES;
use super::{Action, Fault, Service, Story, VERSION, What};
use crate::fate::EffectClass;

/// As many milliseconds may be between a plan and its application.
const LONGEST_PREPARED: u64 = 600_000;

impl Story {
    /// Reads a story.
    ///
    /// # Errors
    ///
    /// What is wrong with it, for people.
    pub fn read(text: &str) -> Result<Self, String> {
        let story: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        story.check()?;
        Ok(story)
    }

    /// What is wrong with it, as an error for people.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.v != VERSION {
            return Err(format!("it is of version {}, this build reads {VERSION}", self.v));
        }
        if !(1..=200).contains(&self.nodes) {
            return Err(format!("{} machines; 1 to 200 can be simulated", self.nodes));
        }
        if ![1, 3, 5].contains(&self.servers) || self.servers > self.nodes {
            let (servers, nodes) = (self.servers, self.nodes);
            return Err(format!("{servers} servers of the store on {nodes} machines"));
        }
        if self.used > ADDRESSES {
            return Err(format!("{} addresses were used, of {ADDRESSES}", self.used));
        }
        let late = self.operations.iter().map(|asked| asked.at).find(|at| *at > self.length);
        if let Some(at) = late {
            let length = self.length;
            return Err(format!(
                "something is asked for at {at} ms, and the story ends at {length} ms"
            ));
        }
        self.operations.iter().try_for_each(|asked| check_action(&asked.action))?;
        let asked = self.operations.iter().flat_map(|asked| [asked.machine, asked.then_on]);
        let asked = asked.chain(self.away);
        let struck = self.faults.iter().flat_map(|fault| fault.what.machines());
        if let Some(machine) = asked.chain(struck).find(|machine| *machine >= self.nodes) {
            return Err(format!("there is no machine {machine}: they count from 0"));
        }
        if let Some(away) = self.away.filter(|away| *away < self.servers) {
            return Err(format!("machine {away} cannot be away: it has a server of the store"));
        }
        self.faults.iter().try_for_each(|fault| self.check_fault(fault))?;
        let services = self.operations.iter().flat_map(|asked| services(&asked.action));
        for service in services {
            for name in &service.names {
                name.parse::<HostName>().map_err(|error| error.to_string())?;
            }
            if service.memory > 1 << 20 {
                return Err(format!("{} GiB are reserved for an instance", service.memory));
            }
        }
        Ok(())
    }

    fn check_fault(&self, fault: &Fault) -> Result<(), String> {
        match &fault.what {
            What::Partition { groups } if groups.len() != self.nodes => {
                let (groups, nodes) = (groups.len(), self.nodes);
                Err(format!("a partition has groups for {groups} machines, and there are {nodes}"))
            }
            What::ServerCrash { machine } if *machine >= self.servers => {
                Err(format!("machine {machine} has no server of the store that could crash"))
            }
            What::Loss { per_mille } | What::Duplication { per_mille } if *per_mille > 1000 => {
                Err(format!("{per_mille} of 1000 messages are struck"))
            }
            What::EndedKeysBack { days, .. } if *days > 366 => {
                Err(format!("{days} quiet days; a year is enough"))
            }
            What::Effect { class: EffectClass::Persist, fate, .. } if fate.is_silent() => {
                Err("a fence file is written or refused: its daemon waits for that".to_owned())
            }
            What::OneWay { from, to } if from == to => {
                Err(format!("machine {from} always hears itself"))
            }
            _ => Ok(()),
        }
    }
}

/// A deploy has each service once, and only those that clients ask; a plan is not kept for longer than anybody is waited for.
fn check_action(action: &Action) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for service in services(action) {
        if service.s > 1 {
            return Err(format!("there is no service {}: a namespace has 0 and 1", service.s));
        }
        if !seen.insert(service.s) {
            return Err(format!("service {} is twice in one deploy", service.s));
        }
    }
    match action {
        Action::Prepared { after, .. } if *after > LONGEST_PREPARED => {
            Err(format!("a plan is applied after {after} ms; {LONGEST_PREPARED} at most"))
        }
        _ => Ok(()),
    }
}

/// The services that are deployed.
fn services(action: &Action) -> &[Service] {
    match action {
        Action::Deploy { services, .. } => services,
        Action::DeployService { service, .. } => std::slice::from_ref(service),
        Action::Preview { of } | Action::Prepared { of, .. } => services(of),
        Action::Scale { .. }
        | Action::Restart { .. }
        | Action::Stop { .. }
        | Action::Rollback { .. }
        | Action::Remove { .. } => &[],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A whole story, changed.
    fn read(change: impl Fn(&mut Value)) -> Result<Story, String> {
        let text = include_str!("../../stories/an-undo-of-what-is-gone.json");
        let mut story: Value = serde_json::from_str(text).unwrap();
        change(&mut story);
        Story::read(&story.to_string())
    }

    fn with_fault(fault: Value) -> String {
        read(|story| story["faults"] = json!([fault])).unwrap_err()
    }

    #[test]
    fn a_story_as_it_was_saved_is_right() {
        assert!(read(|_| {}).is_ok());
    }

    #[test]
    fn a_story_of_another_version_is_refused() {
        for v in [0, VERSION + 1] {
            let wrong = read(|story| story["v"] = json!(v)).unwrap_err();
            assert_eq!(wrong, format!("it is of version {v}, this build reads {VERSION}"));
        }
    }

    #[test]
    fn what_is_not_there_cannot_be_struck() {
        let wrong = with_fault(json!({"at": 5, "fault": "daemon_crash", "machine": 99}));
        assert_eq!(wrong, "there is no machine 99: they count from 0");
        let wrong = with_fault(json!({"at": 5, "fault": "partition", "groups": [1]}));
        assert_eq!(wrong, "a partition has groups for 1 machines, and there are 6");
        let wrong = with_fault(
            json!({"at": 5, "fault": "ended_keys_back", "keys": 1, "days": 4_000_000_000_u64}),
        );
        assert_eq!(wrong, "4000000000 quiet days; a year is enough");
        let wrong = with_fault(json!({"at": 5, "fault": "server_crash", "machine": 3}));
        assert_eq!(wrong, "machine 3 has no server of the store that could crash");
        let wrong = with_fault(json!({"at": 5, "for": 1, "fault": "loss", "per_mille": 5000}));
        assert_eq!(wrong, "5000 of 1000 messages are struck");
        let effect = |fate| json!({"at": 5, "for": 1, "fault": "effect", "machine": 1, "class": "persist", "skip": 0, "fate": fate});
        let wrong = with_fault(effect("lost_answer"));
        assert_eq!(wrong, "a fence file is written or refused: its daemon waits for that");
        assert!(read(|story| story["faults"] = json!([effect("fails")])).is_ok());
    }

    #[test]
    fn a_deploy_that_nobody_could_see_through_is_refused() {
        let with_services = |numbers: [u32; 2]| {
            let service = |s: u32| json!({"s": s, "image": "ready-300-v1", "replicas": 1, "strategy": "rolling", "names": []});
            let services = numbers.map(service);
            let deploy = json!({"do": "deploy", "ns": 0, "services": services});
            read(|story| story["operations"][0]["action"] = deploy.clone()).map(|_| ())
        };
        assert_eq!(with_services([0, 1]), Ok(()));
        assert_eq!(with_services([1, 1]).unwrap_err(), "service 1 is twice in one deploy");
        let wrong = with_services([0, 2]).unwrap_err();
        assert_eq!(wrong, "there is no service 2: a namespace has 0 and 1");
        let late = |story: &mut Value| {
            let of = story["operations"][0]["action"].clone();
            story["operations"][0]["action"] =
                json!({"do": "prepared", "of": of, "after": u64::MAX});
        };
        assert!(read(late).unwrap_err().ends_with("ms; 600000 at most"));
    }

    #[test]
    fn a_name_that_is_no_host_name_and_fields_that_nobody_knows_are_refused() {
        let named = |story: &mut Value| {
            story["operations"][0]["action"]["services"][0]["names"] = json!(["BAD NAME"]);
        };
        assert!(read(named).unwrap_err().contains("BAD NAME"));
        let unknown = |story: &mut Value| story["operations"][0]["action"]["colour"] = json!(1);
        assert!(read(unknown).unwrap_err().contains("colour"));
        let wrong = with_fault(json!({"at": 5, "fault": "daemon_crash", "machine": 1, "x": 1}));
        assert!(wrong.contains('x'), "{wrong}");
    }
}
