//! The links between machines: latency, loss, duplicates, delays that reorder, one-way cuts, partitions. A sans-IO machine of its
//! own: it is asked when a message arrives, and says how often.

use std::sync::OnceLock;
use std::time::Duration;

use proto_core::random::Random;

/// What is wrong with some links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkFault {
    /// Messages from the first machine to the second are lost; the other way they arrive.
    OneWay {
        /// Who is not heard.
        from: usize,
        /// By whom.
        to: usize,
    },
    /// Machines of different groups don't hear each other. By machine; who is not listed is in group 0.
    Partition {
        /// The group of each machine.
        groups: Vec<u8>,
    },
    /// Every message is lost with this chance in a thousand.
    Loss {
        /// The chance.
        per_mille: u64,
    },
    /// Every message arrives twice with this chance in a thousand.
    Duplication {
        /// The chance.
        per_mille: u64,
    },
    /// Every message takes up to so much longer, so that later ones overtake it.
    Delay {
        /// At most.
        most: Duration,
    },
}

/// Identifies a fault, to end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FaultId(pub u64);

/// The links.
#[derive(Debug, Clone)]
pub struct Network {
    /// Shortest and longest latency of a link on which nothing is wrong, in microseconds.
    latency: (u64, u64),
    faults: Vec<Begun>,
    next: u64,
    /// A source for each sender, so that one more message of one machine delays none of another's.
    random: Vec<Random>,
    /// How many messages were lost, came twice, or were late because of a fault.
    pub struck: Struck,
}

/// A fault that goes on.
#[derive(Debug, Clone)]
struct Begun {
    id: FaultId,
    fault: LinkFault,
    /// Set once it has mattered: somebody was not heard, or a message was struck.
    hit: OnceLock<()>,
    /// That was told.
    told: bool,
}

/// How often each fault of a link mattered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Struck {
    /// Not heard because of a cut or a partition.
    pub cut: u64,
    /// Lost.
    pub lost: u64,
    /// Arrived twice.
    pub doubled: u64,
    /// Late.
    pub late: u64,
}

impl Network {
    /// Every message takes a millisecond, and arrives.
    #[must_use]
    pub fn ideal() -> Self {
        Self {
            latency: (1000, 1000),
            faults: Vec::new(),
            next: 0,
            random: Vec::new(),
            struck: Struck::default(),
        }
    }

    /// Messages take 0.2 to 3 milliseconds, drawn for each.
    #[must_use]
    pub fn drawn(machines: usize, random: &mut Random) -> Self {
        let random = (0..machines).map(|_| random.split()).collect();
        Self { latency: (200, 3000), random, ..Self::ideal() }
    }

    /// Something goes wrong from now on.
    pub fn begin(&mut self, fault: LinkFault) -> FaultId {
        self.next += 1;
        let id = FaultId(self.next);
        self.faults.push(Begun { id, fault, hit: OnceLock::new(), told: false });
        id
    }

    /// It is mended.
    pub fn end(&mut self, id: FaultId) {
        self.faults.retain(|other| other.id != id);
    }

    /// Everything is mended.
    pub fn heal(&mut self) {
        self.faults.clear();
    }

    /// A fault that has mattered, and of which that was not said yet.
    pub fn take_hit(&mut self) -> Option<FaultId> {
        let hit = self.faults.iter_mut().find(|there| there.hit.get().is_some() && !there.told)?;
        hit.told = true;
        Some(hit.id)
    }

    /// Whether anything that `from` says can be heard by `to`.
    #[must_use]
    pub fn passes(&self, from: usize, to: usize) -> bool {
        let group = |groups: &Vec<u8>, at: usize| groups.get(at).copied().unwrap_or(0);
        from == to
            || self.faults.iter().all(|there| {
                let passes = match &there.fault {
                    LinkFault::OneWay { from: silent, to: deaf } => (*silent, *deaf) != (from, to),
                    LinkFault::Partition { groups } => group(groups, from) == group(groups, to),
                    _ => true,
                };
                if !passes {
                    there.hit.get_or_init(|| ());
                }
                passes
            })
    }

    /// Whether both hear each other.
    #[must_use]
    pub fn connects(&self, a: usize, b: usize) -> bool {
        self.passes(a, b) && self.passes(b, a)
    }

    /// After how long a message arrives, each time that it does: not at all, once, or twice.
    pub fn carry(&mut self, from: usize, to: usize) -> Arrivals {
        if !self.passes(from, to) {
            self.struck.cut += 1;
            return Arrivals::default();
        }
        let latency = self.latency(from);
        let mut arrivals = Arrivals { first: Some(latency), second: None };
        if from == to || self.faults.is_empty() {
            return arrivals;
        }
        let Some(random) = self.random.get_mut(from) else { return arrivals };
        for Begun { fault, hit, .. } in &self.faults {
            match fault {
                LinkFault::Loss { per_mille } if random.below(1000) < *per_mille => {
                    hit.get_or_init(|| ());
                    self.struck.lost += 1;
                    return Arrivals::default();
                }
                LinkFault::Duplication { per_mille } if random.below(1000) < *per_mille => {
                    hit.get_or_init(|| ());
                    self.struck.doubled += 1;
                    let later = Duration::from_micros(random.below(5_000_000));
                    arrivals.second = arrivals.first.map(|first| first + later);
                }
                LinkFault::Delay { most } => {
                    hit.get_or_init(|| ());
                    self.struck.late += 1;
                    let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
                    let more = Duration::from_micros(random.below(most));
                    arrivals.first = arrivals.first.map(|first| first + more);
                }
                _ => {}
            }
        }
        arrivals
    }

    fn latency(&mut self, from: usize) -> Duration {
        let (least, most) = self.latency;
        let more = self.random.get_mut(from).map_or(0, |random| random.below(most - least));
        Duration::from_micros(least + more)
    }
}

/// When a message arrives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrivals {
    first: Option<Duration>,
    second: Option<Duration>,
}

impl Arrivals {
    /// The first arrival; `None`: it never does.
    #[must_use]
    pub fn first(self) -> Option<Duration> {
        self.first
    }

    /// A duplicate's.
    #[must_use]
    pub fn second(self) -> Option<Duration> {
        self.second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_one_way_cut_lets_the_other_way_pass_and_ends() {
        let mut network = Network::ideal();
        let cut = network.begin(LinkFault::OneWay { from: 0, to: 1 });
        assert!(!network.passes(0, 1) && network.passes(1, 0) && !network.connects(0, 1));
        assert_eq!(network.carry(0, 1).first(), None);
        network.end(cut);
        assert!(network.connects(0, 1));
    }

    #[test]
    fn a_partition_keeps_groups_apart_and_nobody_from_himself() {
        let mut network = Network::ideal();
        network.begin(LinkFault::Partition { groups: vec![0, 1, 1] });
        assert!(network.connects(1, 2) && network.connects(0, 0));
        assert!(!network.passes(0, 1) && !network.passes(2, 0));
        // Machine 3 is not listed: it is with machine 0.
        assert!(network.connects(0, 3) && !network.passes(3, 1));
    }

    #[test]
    fn a_fault_has_hit_once_somebody_was_not_heard() {
        let mut network = Network::ideal();
        let cut = network.begin(LinkFault::OneWay { from: 0, to: 1 });
        assert!(network.connects(1, 2) && network.passes(1, 0));
        assert_eq!(network.take_hit(), None);
        assert!(!network.connects(0, 1));
        assert_eq!((network.take_hit(), network.take_hit()), (Some(cut), None));
    }

    #[test]
    fn one_more_message_of_a_machine_delays_none_of_anothers() {
        let mut one = Network::drawn(2, &mut Random::new(1));
        let mut other = one.clone();
        let _ = one.carry(0, 1);
        assert_eq!(one.carry(1, 0), other.carry(1, 0));
    }

    #[test]
    fn loss_and_duplication_strike_about_as_often_as_they_say() {
        let mut network = Network::drawn(2, &mut Random::new(1));
        network.begin(LinkFault::Loss { per_mille: 300 });
        network.begin(LinkFault::Duplication { per_mille: 300 });
        let arrivals: Vec<_> = (0..1000).map(|_| network.carry(0, 1)).collect();
        let lost = arrivals.iter().filter(|arrivals| arrivals.first().is_none()).count();
        let doubled = arrivals.iter().filter(|arrivals| arrivals.second().is_some()).count();
        assert!((200..400).contains(&lost) && (130..330).contains(&doubled), "{lost} {doubled}");
    }
}
