//! What a story that was written by hand may get wrong beside its syntax.
//!
//! What is refused here is what no drawn story has and what would break a rule by itself, or strike nothing: an invariant that
//! breaks is to speak of the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto_core::deploy::HostName;
use proto_core::deploy::spec::Strategy;
use serde::Deserialize;

use super::past::ADDRESSES;
use super::{Action, Fault, Service, Story, VERSION, What, host};
use crate::fate::EffectClass;
use crate::world::runtime::Behaviour;

/// As many milliseconds may be between a plan and its application.
const LONGEST_PREPARED: u64 = 600_000;
/// As many milliseconds a story may last: 31 days.
const LONGEST: u64 = 31 * 86_400_000;
/// As many milliseconds after the end of a story what went wrong in it may go on: then operators come back to what is unfinished.
const LONGEST_AFTER: u64 = 100_000;
/// What is ready within so many milliseconds is ready at the first probe that counts. Of what takes longer it hangs on who probes
/// it, and when, whether it is taken for one that never is.
const READY_IN_TIME: u64 = 2000;
/// What is given more time: see [`crate::specs::service`].
const SLOW: u64 = 45_000;

/// A story of another version may have fields that this build does not know.
#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

impl Story {
    /// Reads a story.
    ///
    /// # Errors
    ///
    /// What is wrong with it, for people.
    pub fn read(text: &str) -> Result<Self, String> {
        if let Ok(Versioned { v }) = serde_json::from_str(text) {
            of_this_build(v)?;
        }
        let story: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        story.check()?;
        Ok(story)
    }

    /// What is wrong with it, as an error for people.
    pub(crate) fn check(&self) -> Result<(), String> {
        of_this_build(self.v)?;
        let Self { nodes, servers, length, used, .. } = *self;
        if !(1..=200).contains(&nodes) {
            return Err(format!("nodes: {nodes} machines; 1 to 200 can be simulated"));
        }
        if ![1, 3, 5].contains(&servers) || servers > nodes {
            return Err(format!("servers: {servers} servers of the store on {nodes} machines"));
        }
        if length > LONGEST {
            return Err(format!("length: {length} ms; {LONGEST} at most, which are 31 days"));
        }
        if used > ADDRESSES {
            return Err(format!("used: {used} addresses were used, of {ADDRESSES}"));
        }
        if let Some(away) = self.away {
            self.is_machine(away).map_err(|why| format!("away: {why}"))?;
            if away < servers {
                return Err(format!("away: machine {away} has a server of the store"));
            }
        }
        for (n, asked) in self.operations.iter().enumerate() {
            let wrong = |why| format!("operations[{n}]: {why}");
            if asked.at > length {
                let at = asked.at;
                return Err(wrong(format!("asked at {at} ms, and the story ends at {length} ms")));
            }
            self.is_machine(asked.machine).map_err(wrong)?;
            self.is_machine(asked.then_on).map_err(wrong)?;
            self.check_action(&asked.action).map_err(wrong)?;
        }
        for (n, fault) in self.faults.iter().enumerate() {
            self.check_fault(fault).map_err(|why| format!("faults[{n}]: {why}"))?;
        }
        self.check_names()
    }

    fn is_machine(&self, machine: usize) -> Result<(), String> {
        if machine < self.nodes {
            return Ok(());
        }
        Err(format!("there is no machine {machine}: they count from 0"))
    }

    fn check_fault(&self, fault: &Fault) -> Result<(), String> {
        let (at, length) = (fault.at, self.length);
        if at > length {
            return Err(format!("it comes at {at} ms, and the story ends at {length} ms"));
        }
        // The others are mended at the end.
        let goes_on = match &fault.what {
            What::DaemonPause { .. } | What::Sleep { .. } | What::Reboot { .. } => {
                at.saturating_add(fault.lasts).saturating_sub(length)
            }
            What::Effect { .. } => fault.lasts,
            _ => 0,
        };
        if goes_on > LONGEST_AFTER {
            return Err(format!(
                "it may go on for {goes_on} ms after the end of the story; {LONGEST_AFTER} at most"
            ));
        }
        fault.what.machines().into_iter().try_for_each(|machine| self.is_machine(machine))?;
        let class = fault.what.class();
        match &fault.what {
            What::Partition { groups } if groups.len() != self.nodes => {
                let (groups, nodes) = (groups.len(), self.nodes);
                Err(format!("a partition has groups for {groups} machines, and there are {nodes}"))
            }
            What::ServerCrash { machine } if *machine >= self.servers => {
                Err(format!("machine {machine} has no server of the store that could crash"))
            }
            What::TornBatch { .. } | What::EndedKeysBack { .. } if self.servers > 1 => {
                Err(format!("{class} is of a lone server, and the store has {}", self.servers))
            }
            What::QuorumLoss if self.servers == 1 => {
                Err("a lone server has no quorum to lose: server_crash is what it can do"
                    .to_owned())
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
            What::Effect { class: effects, fate, .. } if !fate.strikes().contains(effects) => {
                let can: BTreeSet<_> = fate.strikes().iter().map(|class| class.name()).collect();
                let can = Vec::from_iter(can).join(", ");
                Err(format!("{class} does not happen to {}, only to: {can}", effects.name()))
            }
            What::OneWay { from, to } if from == to => {
                Err(format!("machine {from} always hears itself"))
            }
            _ => Ok(()),
        }
    }

    /// A deploy has each service once, and only those that clients ask; a plan is not kept for longer than anybody is waited for.
    fn check_action(&self, action: &Action) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for service in services(action) {
            if service.s > 1 {
                return Err(format!("there is no service {}: a namespace has 0 and 1", service.s));
            }
            if !seen.insert(service.s) {
                return Err(format!("service {} is twice in one deploy", service.s));
            }
            self.check_service(action.ns(), service)?;
        }
        match action {
            Action::Prepared { after, .. } if *after > LONGEST_PREPARED => {
                Err(format!("a plan is applied after {after} ms; {LONGEST_PREPARED} at most"))
            }
            _ => Ok(()),
        }
    }

    fn check_service(&self, ns: u32, service: &Service) -> Result<(), String> {
        let image = &service.image;
        let known = |c: char| c.is_ascii_alphanumeric() || "-._/:@".contains(c);
        if image.is_empty() || image.len() > 255 || !image.chars().all(known) {
            return Err("an image is 1 to 255 letters, digits and -._/:@".to_owned());
        }
        if let Behaviour::ReadyAfter(after) = Behaviour::of(image)
            && after > Duration::from_millis(READY_IN_TIME)
            && after != Duration::from_millis(SLOW)
        {
            return Err(format!(
                "{image} is ready after {} ms; {READY_IN_TIME} at most, or {SLOW}, for which probes wait",
                after.as_millis()
            ));
        }
        // See the clients of a story.
        if self.request_every > 0 && ns.is_multiple_of(2) && service.strategy == Strategy::Recreate
        {
            return Err(format!(
                "clients count on namespaces with an even number, as {ns} is, and `recreate` stops one: take an odd one"
            ));
        }
        for name in &service.names {
            name.parse::<HostName>().map_err(|error| error.to_string())?;
        }
        if service.memory > 1 << 20 {
            return Err(format!("{} GiB are reserved for an instance", service.memory));
        }
        // One that is pinned to a machine that is not there is refused by its daemon.
        Ok(())
    }

    /// What two services want is called so: clients tell strangers by it.
    fn check_names(&self) -> Result<(), String> {
        let mut owners: BTreeMap<String, (u32, u32)> = BTreeMap::new();
        let all = self.operations.iter().map(|asked| &asked.action);
        let all = all.flat_map(|action| services(action).iter().map(|s| (action.ns(), s)));
        for (ns, service) in all {
            let names = service.names.iter().filter(|name| !name.starts_with("shared"));
            for name in names.cloned().chain([host(ns, service.s)]) {
                let owner = *owners.entry(name.clone()).or_insert((ns, service.s));
                if owner != (ns, service.s) {
                    let (other, s) = owner;
                    return Err(format!(
                        "{name} is a name of ns{other}/s{s} and of ns{ns}/s{}: what several want begins with `shared`",
                        service.s
                    ));
                }
            }
        }
        Ok(())
    }
}

fn of_this_build(v: u32) -> Result<(), String> {
    if v == VERSION {
        return Ok(());
    }
    Err(format!("it is of version {v}, this build reads {VERSION}"))
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

    use super::super::{Profile, of_seed};
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
        assert_eq!(wrong, "faults[0]: there is no machine 99: they count from 0");
        let wrong = with_fault(json!({"at": 5, "fault": "partition", "groups": [1]}));
        assert_eq!(wrong, "faults[0]: a partition has groups for 1 machines, and there are 6");
        let wrong = with_fault(
            json!({"at": 5, "fault": "ended_keys_back", "keys": 1, "days": 4_000_000_000_u64}),
        );
        assert_eq!(wrong, "faults[0]: 4000000000 quiet days; a year is enough");
        let wrong = with_fault(json!({"at": 5, "fault": "server_crash", "machine": 3}));
        assert_eq!(wrong, "faults[0]: machine 3 has no server of the store that could crash");
        let wrong = with_fault(json!({"at": 5, "for": 1, "fault": "loss", "per_mille": 5000}));
        assert_eq!(wrong, "faults[0]: 5000 of 1000 messages are struck");
        let effect = |fate| json!({"at": 5, "for": 1, "fault": "effect", "machine": 1, "class": "persist", "skip": 0, "fate": fate});
        let wrong = with_fault(effect("lost_answer"));
        assert_eq!(
            wrong,
            "faults[0]: a fence file is written or refused: its daemon waits for that"
        );
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
        assert_eq!(
            with_services([1, 1]).unwrap_err(),
            "operations[0]: service 1 is twice in one deploy"
        );
        let wrong = with_services([0, 2]).unwrap_err();
        assert_eq!(wrong, "operations[0]: there is no service 2: a namespace has 0 and 1");
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

    #[test]
    fn what_would_break_a_rule_by_itself_is_refused() {
        let effect = |class, fate, lasts: u64| json!({"at": 5, "for": lasts, "fault": "effect", "machine": 1, "class": class, "skip": 0, "fate": fate});
        let wrong = with_fault(effect("runtime", "twice", 1));
        assert_eq!(wrong, "faults[0]: twice does not happen to runtime, only to: command");
        let wrong = with_fault(effect("write", "crash_late", 100_001));
        assert!(wrong.contains("may go on for 100001 ms"), "{wrong}");
        let sleep = |at: u64, lasts: u64| {
            let fault = json!({"at": at, "for": lasts, "fault": "sleep", "machine": 1});
            read(|story| story["faults"] = json!([fault]))
        };
        let end = read(|_| {}).unwrap().length;
        assert!(sleep(end, 100_000).is_ok());
        assert!(sleep(5, u64::MAX).unwrap_err().contains("100000 at most"));
        assert!(sleep(end + 1, 1).unwrap_err().contains("the story ends at"));
        assert!(with_fault(json!({"at": 5, "fault": "quorum_loss"})).contains("server_crash"));
        assert!(read(|story| story["length"] = json!(u64::MAX)).unwrap_err().contains("31 days"));

        let deployed = |change: fn(&mut Value)| {
            read(|story| {
                story["request_every"] = json!(50);
                change(&mut story["operations"][0]["action"]);
            })
            .unwrap_err()
        };
        let service = |change: fn(&mut Value)| {
            read(|story| change(&mut story["operations"][0]["action"]["services"][0])).unwrap_err()
        };
        assert!(deployed(|action| action["ns"] = json!(2)).contains("take an odd one"));
        assert!(service(|it| it["image"] = json!("ready-2001-v1")).contains("2000 at most"));
        assert!(service(|it| it["image"] = json!("a\u{1b}[31m")).contains("letters, digits"));
        let name = |name: &'static str| {
            read(|story| story["operations"][0]["action"]["services"][0]["names"] = json!([name]))
        };
        assert!(name("s1.ns1.example.com").unwrap_err().contains("begins with `shared`"));
        assert!(name("shared1.example.com").is_ok());
    }

    #[test]
    fn another_version_is_told_before_fields_that_nobody_knows() {
        let wrong = read(|story| (story["v"], story["colour"]) = (json!(9), json!(1)));
        assert_eq!(wrong.unwrap_err(), format!("it is of version 9, this build reads {VERSION}"));
    }

    #[test]
    fn what_is_drawn_is_never_refused() {
        for seed in 0..300 {
            for profile in [Profile::Swarm, Profile::Everything, Profile::Crashes] {
                let story = of_seed(seed, (1, 60), profile);
                assert_eq!(story.check(), Ok(()), "seed {seed}");
            }
        }
    }
}
