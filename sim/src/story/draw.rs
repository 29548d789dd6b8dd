//! Drawing a story. First which classes of faults there are at all (a swarm: about half of them), then when and where.

use proto_core::deploy::spec::Strategy;
use proto_core::random::Random;

use super::past::ADDRESSES;
use super::scenes::{self, Kind, Scene};
use super::{
    Action, Asked, CLASSES, EffectFate, Fault, Pinned, Service, Story, Then, VERSION, What, host,
};
use crate::choice::Choices;
use crate::fate::EffectClass;

/// How large a story shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How many machines.
    pub nodes: usize,
    /// How many operations.
    pub operations: usize,
    /// How long it is, in milliseconds.
    pub length: u64,
    /// Which faults.
    pub profile: Profile,
}

/// Which faults there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Some classes of all, drawn.
    Swarm,
    /// All classes.
    Everything,
    /// Daemons and machines die, links are cut; nothing else.
    Crashes,
    /// None.
    None,
}

const TEN_MINUTES: u64 = 600_000;
/// In GiB: two instances that reserve it do not fit on a machine.
const ROOM_FOR_ONE: u64 = 5;

/// As many machines have one share of faults.
const MACHINES: usize = 50;

const NETWORK: [&str; 5] = ["partition", "one_way", "loss", "duplication", "delay"];

/// The story of a seed in a sweep: its size is drawn from the seed too. `nodes`: least and most machines.
#[must_use]
pub fn of_seed(seed: u64, nodes: (u64, u64), profile: Profile) -> Story {
    let mut random = Random::new(seed ^ 0x5eed);
    // Most are small: there is more going on at once.
    let most = if random.below(4) == 0 { nodes.1 } else { (nodes.0 + 5).min(nodes.1) };
    let nodes = nodes.0 + random.below(most.saturating_sub(nodes.0) + 1);
    let length = 120_000 + random.below(480_000);
    let operations = 10 + random.below(38);
    let shape = Shape {
        nodes: usize::try_from(nodes).expect("few machines"),
        operations: usize::try_from(operations).expect("few operations"),
        length,
        profile,
    };
    draw(&mut Choices::seeded(seed), seed, shape)
}

/// Draws a story. `seed` is only written into it. Each class of faults comes up to so many times in ten minutes on 50 machines, and as
/// often on fewer.
pub fn draw(choices: &mut Choices, seed: u64, shape: Shape) -> Story {
    let mut draw = Draw { choices, shape };
    let servers = match shape.nodes {
        0..=2 => 1,
        3..=4 => [1, 3][draw.below(2)],
        _ => [1, 3, 5][draw.below(3)],
    };
    let namespaces = 1 + draw.below(shape.nodes.clamp(1, 12)) as u32;
    let mut operations = Vec::new();
    for n in 0..shape.operations {
        let is_first = n < namespaces as usize;
        let beside = if is_first { None } else { draw.beside(&operations, namespaces) };
        operations.push(beside.unwrap_or_else(|| draw.asked(n, namespaces)));
    }
    let classes = draw.classes(servers);
    let mut faults = Vec::new();
    for class in classes {
        let most = match class {
            "undecided" => 8,
            "daemon_pause" | "sleep" => 6,
            _ => 3,
        };
        let times = usize::try_from(shape.length / TEN_MINUTES).map_or(1, |times| times.max(1));
        let most = most * times * (shape.nodes / MACHINES).max(1);
        for _ in 0..=draw.below(most) {
            let (at, machine) = draw.place(class, &operations);
            faults.push(draw.fault(class, at, machine, servers));
        }
    }
    // In half of all stories cuts come one at a time, with a calm after each; in the others they come as they come.
    if draw.below(2) == 1 {
        let calm = draw.millis(5_000, 40_000);
        keep_calm(&mut faults, calm, shape.length);
    }
    // Whose power goes is no server of the store, or nothing at all would go on.
    let spare = shape.nodes - servers;
    let goes = spare > 0 && shape.profile != Profile::None && draw.below(4) < 3;
    let away = goes.then(|| servers + draw.below(spare));
    // On new machines addresses are drawn in turn; on old ones, who used each last decides.
    let used = match draw.below(3) {
        0 => 0,
        1 => ADDRESSES,
        _ => 1 + draw.below(usize::from(ADDRESSES) - 1) as u16,
    };
    let request_every = [2000, 50, 200, 1000][draw.below(4)];
    if let Some(scene) = draw.scene(namespaces) {
        let (asked, struck) = scene.play(shape.length);
        operations.extend(asked);
        faults.retain(|fault| !scene.is_disturbed_by(fault));
        faults.extend(struck);
    }
    faults.retain(|fault| fault.at <= shape.length);
    let length = shape.length;
    let nodes = shape.nodes;
    Story {
        v: VERSION,
        seed,
        nodes,
        servers,
        length,
        request_every,
        used,
        operations,
        faults,
        away,
        broke: None,
    }
}

/// Moves cuts of links behind each other, with so many milliseconds between the end of one and the next. What would come after the end
/// of the story is left out.
fn keep_calm(faults: &mut Vec<Fault>, calm: u64, length: u64) {
    faults.sort_by_key(|fault| fault.at);
    let mut quiet_until = 0;
    faults.retain_mut(|fault| {
        if fault.what.is_cut() {
            fault.at = fault.at.max(quiet_until);
            quiet_until = fault.at + fault.lasts + calm;
        }
        fault.at <= length
    });
}

struct Draw<'a> {
    choices: &'a mut Choices,
    shape: Shape,
}

impl Draw<'_> {
    fn below(&mut self, bound: usize) -> usize {
        self.choices.choose(bound.max(1), String::new)
    }

    fn millis(&mut self, from: u64, to: u64) -> u64 {
        let bound = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
        from + self.below(bound) as u64
    }

    fn machine(&mut self) -> usize {
        self.below(self.shape.nodes)
    }

    fn asked(&mut self, n: usize, namespaces: u32) -> Asked {
        // The first of each namespace brings it into being, early, so that there is something to work on.
        let first = n < namespaces as usize;
        let ns = if first { n as u32 } else { self.below(namespaces as usize) as u32 };
        let early = (self.shape.length / 8).max(1);
        let at = if first { self.millis(0, early) } else { self.millis(0, self.shape.length) };
        let action = if first { self.first(ns) } else { self.action(ns) };
        let then = match self.below(24) {
            0..=8 => Then::Resume,
            9..=14 => Then::Retry,
            15 | 16 => Then::Abort,
            17..=22 => Then::Leave,
            _ => Then::GiveUp,
        };
        let machine = self.machine();
        let cancel_after = (self.below(16) == 1).then(|| self.millis(1, 6000));
        let then_on = if self.below(2) == 0 { machine } else { self.machine() };
        Asked { at, machine, action, cancel_after, then, then_on }
    }

    /// What is asked for because of what somebody else asks for, if anything is.
    fn beside(&mut self, earlier: &[Asked], namespaces: u32) -> Option<Asked> {
        self.for_room(earlier, namespaces).or_else(|| self.once_more(earlier))
    }

    /// Now and then two namespaces want room on one machine at the same time, where there is room for one.
    fn for_room(&mut self, earlier: &[Asked], namespaces: u32) -> Option<Asked> {
        let wants_room = |asked: &Asked| match &asked.action {
            Action::DeployService { ns, service } if service.memory == ROOM_FOR_ONE => {
                Some((*ns, service.pinned?))
            }
            _ => None,
        };
        let mut last = earlier.iter().rev();
        let first = last.next().and_then(|asked| Some((asked.at, wants_room(asked)?)));
        let first = first.filter(|_| last.next().and_then(wants_room).is_none());
        if namespaces < 2 || first.is_none() && self.below(32) != 1 {
            return None;
        }
        let (at, ns, pinned) = match first {
            Some((at, (ns, pinned))) => {
                let other = ns + 1 + self.below(namespaces as usize - 1) as u32;
                (at + self.millis(0, 40), other % namespaces, pinned)
            }
            None => {
                let at = self.millis(0, self.shape.length);
                let ns = self.below(namespaces as usize) as u32;
                (at, ns, Pinned::To(self.machine()))
            }
        };
        let image = format!("ready-300-v{}", self.below(3));
        let mut service = Service::new(1, image, 1, Strategy::Rolling);
        (service.memory, service.pinned) = (ROOM_FOR_ONE, Some(pinned));
        let (machine, then_on) = (self.machine(), self.machine());
        let action = Action::DeployService { ns, service };
        Some(Asked { at, machine, action, cancel_after: None, then: Then::Resume, then_on })
    }

    /// Now and then somebody asks for the same as another, on the same machine, while the first is at it.
    fn once_more(&mut self, earlier: &[Asked]) -> Option<Asked> {
        if earlier.is_empty() || self.below(16) != 1 {
            return None;
        }
        let asked = &earlier[self.below(earlier.len())];
        let at = asked.at + self.millis(1, 8000);
        (at <= self.shape.length).then(|| Asked { at, cancel_after: None, ..asked.clone() })
    }

    /// In some stories that are long enough, in a namespace of its own that may stop serving, as the odd ones may.
    fn scene(&mut self, namespaces: u32) -> Option<Scene> {
        let Shape { nodes, length, profile, .. } = self.shape;
        let may = nodes > 2 && matches!(profile, Profile::Swarm | Profile::Everything);
        if !may || length < scenes::SHORTEST || self.below(8) != 1 {
            return None;
        }
        let runs_on = self.machine();
        let first = self.below(nodes - 1);
        let first = if first < runs_on { first } else { first + 1 };
        let others: Vec<_> = (0..nodes).filter(|at| *at != runs_on && *at != first).collect();
        let later = others[self.below(others.len())];
        let kind = Kind::ALL[self.below(Kind::ALL.len())];
        let mut replicas = [1; 3];
        if kind != Kind::LateRecordAndACommit && self.below(2) == 1 {
            replicas = replicas.map(|_| 1 + self.below(2) as u32);
        }
        let publishes = kind == Kind::LateRecord && self.below(3) == 1;
        Some(Scene {
            kind,
            replicas,
            publish: publishes.then_some(8080),
            ns: namespaces | 1,
            at: self.millis(20_000, length - 95_000),
            machines: [runs_on, first, later],
            skip: self.below(4) as u32,
            delay: self.millis(0, 2000),
            second: self.below(3) == 1,
        })
    }

    fn action(&mut self, ns: u32) -> Action {
        let s = self.below(2) as u32;
        match self.below(22) {
            0..=3 => self.deploy(ns),
            4..=7 | 21 => Action::DeployService { ns, service: self.service(ns, s) },
            8 | 9 => Action::Scale { ns, s: self.one_of(), replicas: self.replicas() },
            10 | 11 => Action::Restart { ns, s: self.one_of() },
            12 | 13 => Action::Stop { ns, s: self.one_of() },
            14 => {
                let to = (self.below(9) == 1).then(|| 1 + self.below(3) as u64);
                Action::Rollback { ns, to }
            }
            16 if self.below(4) > 0 => Action::Remove { ns },
            15..=17 => self.deploy(ns),
            18 => Action::Preview { of: Box::new(self.deploy(ns)) },
            _ => {
                let most = [2000, 20_000][self.below(2)];
                Action::Prepared { of: Box::new(self.deploy(ns)), after: self.millis(1, most) }
            }
        }
    }

    /// Mostly the first service of a namespace: the second one is not always there.
    fn one_of(&mut self) -> u32 {
        u32::from(self.below(8) == 1)
    }

    fn replicas(&mut self) -> u32 {
        if self.below(12) == 1 { 0 } else { 1 + self.below(6) as u32 }
    }

    /// What brings a namespace into being comes up, so that there is something to work on.
    fn first(&mut self, ns: u32) -> Action {
        let mut action = self.deploy(ns);
        if let Action::Deploy { services, .. } = &mut action {
            services.iter_mut().for_each(|service| service.image = "ready-1500-v0".to_owned());
        }
        action
    }

    fn deploy(&mut self, ns: u32) -> Action {
        let services = (0..=self.below(2) as u32).map(|s| self.service(ns, s)).collect();
        Action::Deploy { ns, services }
    }

    fn service(&mut self, ns: u32, s: u32) -> Service {
        let version = self.below(3);
        let image = match self.below(40) {
            1 => format!("never-v{version}"),
            2 => format!("exits-3-v{version}"),
            3 => format!("missing-v{version}"),
            4 => format!("ready-45000-v{version}"),
            _ => format!("ready-{}-v{version}", [300, 1500][self.below(2)]),
        };
        // What is in an even namespace never stops serving.
        let strategies = [Strategy::Rolling, Strategy::BlueGreen, Strategy::Recreate];
        let strategy = strategies[self.below(if ns.is_multiple_of(2) { 2 } else { 3 })];
        let global = self.shape.nodes <= 24 && self.below(10) == 1;
        let replicas = if global { 0 } else { 1 + self.below(3) as u32 };
        let mut service = Service::new(s, image, replicas, strategy);
        service.names = self.names(ns, s);
        match self.below(24) {
            // Two of them fit on a machine.
            1..=3 if !global => service.memory = 3,
            // It cannot run beside its successor.
            6 if !global && !ns.is_multiple_of(2) => {
                service.strategy = Strategy::Recreate;
                service.publish = Some(9000 + self.below(2) as u16);
            }
            4 => service.pinned = Some(Pinned::To(self.machine())),
            5 if self.shape.nodes > 1 => service.pinned = Some(Pinned::AwayFrom(self.machine())),
            _ => {}
        }
        service
    }

    /// Host names beside the service's own. They differ from deploy to deploy, so that most commits claim some and give up others.
    fn names(&mut self, ns: u32, s: u32) -> Vec<String> {
        let mut names = Vec::new();
        for n in 0..3 {
            if self.below(2) == 1 {
                names.push(format!("n{n}.{}", host(ns, s)));
            }
        }
        // One that other namespaces want too: whoever comes first has it, until it is given up.
        if self.below(16) == 1 {
            names.push(format!("shared{}.example.com", self.below(4)));
        }
        names
    }

    fn classes(&mut self, servers: usize) -> Vec<&'static str> {
        let profile = self.shape.profile;
        let mut classes = Vec::new();
        for class in CLASSES {
            let there = match class {
                "torn_batch" | "ended_keys_back" => servers == 1,
                "quorum_loss" | "election" => servers > 1,
                "partition" | "one_way" => self.shape.nodes > 1,
                _ => true,
            };
            let wanted = match profile {
                Profile::Swarm => self.below(2) == 1,
                Profile::Everything => true,
                Profile::Crashes => {
                    matches!(class, "daemon_crash" | "reboot" | "partition" | "one_way")
                }
                Profile::None => false,
            };
            if there && wanted {
                classes.push(class);
            }
        }
        classes
    }

    /// When and where something goes wrong: mostly soon after something was asked for, and where it was, as there is most to strike.
    fn place(&mut self, class: &'static str, asked: &[Asked]) -> (u64, usize) {
        if asked.is_empty() {
            return (self.millis(0, self.shape.length), self.machine());
        }
        // What stands still where nothing is coordinated is hardly missed, and neither if nobody else comes to the same namespace meanwhile.
        let stands_still = matches!(class, "daemon_pause" | "sleep");
        let mut near = &asked[self.below(asked.len())];
        // An operator who is left without knowing is rare, and so are these.
        let rare = |asked: &&Asked| {
            matches!(asked.action, Action::Rollback { .. } | Action::Remove { .. })
        };
        let rare: Vec<_> = asked.iter().filter(rare).collect();
        if class == "undecided" && !rare.is_empty() && self.below(4) == 1 {
            near = rare[self.below(rare.len())];
        }
        for _ in 0..if stands_still { 4 } else { 0 } {
            let mut others = asked.iter().filter(|other| other.machine != near.machine);
            let comes_later = |other: &Asked| {
                other.action.ns() == near.action.ns()
                    && (near.at + 30_000..near.at + 100_000).contains(&other.at)
            };
            if others.any(comes_later) {
                break;
            }
            near = &asked[self.below(asked.len())];
        }
        let (near_at, near_machine) = (near.at, near.machine);
        let at = match self.below(4) {
            0 => self.millis(0, self.shape.length),
            // While it is at work: a deploy takes some seconds.
            _ if stands_still => near_at + self.millis(0, 3000),
            _ => near_at + self.millis(0, 6000),
        };
        let here = stands_still || self.below(2) == 0;
        (at, if here { near_machine } else { self.machine() })
    }

    fn fault(&mut self, class: &'static str, at: u64, machine: usize, servers: usize) -> Fault {
        let lasts = match class {
            // Longer than anybody waits for it.
            "undecided" if self.below(3) > 0 => self.millis(62_000, 90_000),
            "crash_late" | "late" | "undecided" | "twice" => self.millis(100, 20_000),
            // Longer than a lease lives: somebody else may have taken it, and be at work.
            "daemon_pause" | "sleep" if self.below(3) > 0 => self.millis(40_000, 100_000),
            _ if NETWORK.contains(&class) => self.millis(500, 60_000),
            _ => self.millis(200, 40_000),
        };
        let what = match class {
            "daemon_crash" => What::DaemonCrash { machine },
            "daemon_pause" => What::DaemonPause { machine },
            "sleep" => What::Sleep { machine },
            "reboot" => What::Reboot { machine },
            "partition" => What::Partition { groups: self.groups() },
            "one_way" => {
                let to = (machine + 1 + self.below(self.shape.nodes - 1)) % self.shape.nodes;
                What::OneWay { from: machine, to }
            }
            "loss" => What::Loss { per_mille: self.millis(10, 400) },
            "duplication" => What::Duplication { per_mille: self.millis(10, 400) },
            "delay" => What::Delay { most: self.millis(10, 4000) },
            "server_crash" => What::ServerCrash { machine: self.below(servers) },
            "ended_keys_back" => {
                // Longer than a record lives, or only as long as what was given up.
                let days = if self.below(2) == 1 { 8 } else { 0 };
                What::EndedKeysBack { keys: 1 + self.below(12), days }
            }
            "quorum_loss" => What::QuorumLoss,
            "election" => What::Election,
            "torn_batch" => {
                let (commit, kills) = (self.below(3) > 0, self.below(2) == 1);
                What::TornBatch { writes: 1 + self.below(6), commit, kills }
            }
            "follower_gap" => What::FollowerGap { machine },
            // Shorter than an operation waits for gateways.
            "slow_follower" => What::SlowFollower { machine, millis: self.millis(200, 4000) },
            "slow_runtime" => What::SlowRuntime { machine, times: 2 + self.below(60) as u32 },
            "failing_runtime" => What::FailingRuntime { machine },
            "disk_full" => What::DiskFull { machine },
            "clock_step" => {
                let millis = self.millis(0, 7_200_000);
                let millis = i64::try_from(millis).unwrap_or(0) - 3_600_000;
                What::ClockStep { machine, millis }
            }
            "instance_exit" => What::InstanceExit { machine, nth: self.below(4) },
            _ => self.effect(class, machine),
        };
        Fault { at, lasts, what }
    }

    fn effect(&mut self, class: &'static str, machine: usize) -> What {
        let fate = match class {
            "crash_before" => EffectFate::CrashBefore,
            "crash_after" => EffectFate::CrashAfter,
            "crash_late" => EffectFate::CrashLate,
            "lost_answer" => EffectFate::LostAnswer,
            "lost_request" => EffectFate::LostRequest,
            "late" => EffectFate::Late,
            "undecided" => EffectFate::Undecided,
            "twice" => EffectFate::Twice,
            _ => EffectFate::Fails,
        };
        let classes = fate.strikes();
        let class = classes[self.below(classes.len())];
        let skip = if class == EffectClass::Commit { 0 } else { self.below(5) as u32 };
        What::Effect { machine, class, skip, fate }
    }

    fn groups(&mut self) -> Vec<u8> {
        let nodes = self.shape.nodes;
        match self.below(3) {
            // Uniform.
            0 => (0..nodes).map(|_| self.below(2) as u8).collect(),
            // One is alone.
            1 => {
                let alone = self.machine();
                (0..nodes).map(|machine| u8::from(machine == alone)).collect()
            }
            // Halves, beginning anywhere: the store's servers are on the first machines.
            _ => {
                let first = self.machine();
                (0..nodes).map(|machine| u8::from((machine + first) % nodes * 2 < nodes)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calm_cuts_come_one_at_a_time_and_others_stay_where_they_were() {
        let cut = |at, lasts| Fault { at, lasts, what: What::Partition { groups: Vec::new() } };
        let crash = |at| Fault { at, lasts: 0, what: What::DaemonCrash { machine: 0 } };
        let mut faults = vec![cut(9000, 4000), crash(9500), cut(1000, 5000), cut(3000, 1000)];
        keep_calm(&mut faults, 2000, 15_000);
        assert_eq!(faults, [cut(1000, 5000), cut(8000, 1000), cut(11_000, 4000), crash(9500)]);
        keep_calm(&mut faults, 2000, 10_000);
        assert_eq!(faults, [cut(1000, 5000), cut(8000, 1000), crash(9500)]);
    }
}
