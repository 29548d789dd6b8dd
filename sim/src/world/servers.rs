//! The store's servers: who leads, whether it has a quorum, and what becomes of a request that reaches it.
//!
//! As measured on real ones: a lost leader is replaced after 4 to 7 seconds without an answer; a leader that lost its quorum answers
//! reads for 16 to 20 seconds, keeps writes undecided, refuses competing ones as in flight, then nobody answers; what it kept
//! undecided lands when its followers come back, unless another leader was elected meanwhile. The data are in [`super::kv`].

use std::time::Duration;

use proto_core::random::Random;
use proto_core::store::{StoreError, StoreReply, StoreRequest, Write};
use proto_core::time::Time;

use super::kv::Kv;
use super::network::Network;

/// The servers of the store.
#[derive(Debug, Clone)]
pub struct Servers {
    /// The machine of each server.
    at: Vec<usize>,
    up: Vec<bool>,
    leader: Option<usize>,
    /// A leader is elected at this time, if there is a quorum then.
    election: Option<Time>,
    /// The leader has no quorum and steps down at this time.
    steps_down: Option<Time>,
    /// Writes that the leader has and that are not decided.
    undecided: Vec<Vec<Write>>,
    /// A leader that was cut off while another was elected, and what it still believes.
    deposed: Option<Deposed>,
    /// A batch to come is stored in part before the lone server dies.
    tear: Option<Tear>,
    random: Random,
    /// What rare states there were.
    pub seen: Seen,
}

/// Which batch is torn, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tear {
    /// So many of its writes are stored.
    pub writes: usize,
    /// It is the next batch that moves a head, and not just the next.
    pub commit: bool,
    /// The daemon that asked dies with the server.
    pub kills: bool,
}

impl Tear {
    fn takes(self, writes: &[Write]) -> bool {
        let moves = || writes.iter().any(|write| write.key.as_str().ends_with(".head"));
        writes.len() > 1 && (!self.commit || moves())
    }
}

#[derive(Debug, Clone)]
struct Deposed {
    server: usize,
    until: Time,
    kv: Kv,
}

/// How often something rare happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Leaders that were elected.
    pub elections: u64,
    /// Leaders that lost their quorum.
    pub quorums_lost: u64,
    /// Reads that were answered from an old state.
    pub stale_reads: u64,
    /// Writes that were kept undecided.
    pub undecided: u64,
    /// Writes that landed after their writer had given up on the answer.
    pub landed_late: u64,
    /// Undecided writes that were lost with their leader.
    pub lost_with_leader: u64,
    /// Writes that were refused because another was undecided.
    pub in_flight: u64,
    /// Batches of which only a part was stored.
    pub torn: u64,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Answer {
    /// It was answered.
    Reply(Result<StoreReply, StoreError>),
    /// It was taken, and is not answered.
    Silence,
    /// The batch was stored in part, and the server died of it.
    Torn {
        /// This part.
        part: Vec<Write>,
        /// The daemon that asked dies too.
        kills: bool,
    },
}

impl Servers {
    /// Servers on these machines, the first one leading.
    #[must_use]
    pub fn new(at: Vec<usize>, random: Random) -> Self {
        let up = vec![true; at.len()];
        Self {
            at,
            up,
            leader: Some(0),
            election: None,
            steps_down: None,
            undecided: Vec::new(),
            deposed: None,
            tear: None,
            random,
            seen: Seen::default(),
        }
    }

    /// The machines that have a server.
    #[must_use]
    pub fn machines(&self) -> &[usize] {
        &self.at
    }

    /// The machine of the leader.
    #[must_use]
    pub fn leads(&self) -> Option<usize> {
        self.leader.map(|leader| self.at[leader])
    }

    /// The machine of the server that answers what this machine asks, if one does.
    #[must_use]
    pub fn answers(&self, network: &Network, machine: usize) -> Option<usize> {
        let leader = self.leads();
        let deposed = self.deposed.as_ref().map(|deposed| self.at[deposed.server]);
        leader.into_iter().chain(deposed).find(|at| network.connects(machine, *at))
    }

    /// Whether a leader with a quorum can be heard by this machine.
    #[must_use]
    pub fn is_followed(&self, network: &Network, machine: usize) -> bool {
        let leader = self.leader.filter(|_| self.steps_down.is_none()).map(|at| self.at[at]);
        leader.is_some_and(|at| network.connects(machine, at))
    }

    /// Whether what this machine's server answers to reads may be older than what another has stored.
    #[must_use]
    pub fn is_deposed(&self, at: usize) -> bool {
        self.deposed.as_ref().is_some_and(|deposed| self.at[deposed.server] == at)
    }

    /// A request reaches the server on this machine.
    pub fn apply(&mut self, kv: &mut Kv, now: Time, at: usize, request: &StoreRequest) -> Answer {
        let away = || Answer::Reply(Err(StoreError::Unavailable("no responders".to_owned())));
        if self.leads() == Some(at) {
            return match request {
                StoreRequest::Commit { writes } if self.steps_down.is_some() => {
                    self.keep(kv, writes)
                }
                StoreRequest::Commit { writes }
                    if self.tear.is_some_and(|tear| tear.takes(writes)) =>
                {
                    self.tear_apart(kv, now, writes)
                }
                request => {
                    let result = kv.apply(now, request);
                    self.seen.in_flight += u64::from(result == Err(StoreError::InFlight));
                    Answer::Reply(result)
                }
            };
        }
        match &mut self.deposed {
            Some(deposed) if self.at[deposed.server] == at => match request {
                StoreRequest::Read { .. } => {
                    self.seen.stale_reads += 1;
                    Answer::Reply(deposed.kv.apply(now, request))
                }
                // It has no quorum: what it takes is never stored.
                StoreRequest::Commit { .. } => {
                    self.seen.undecided += 1;
                    self.seen.lost_with_leader += 1;
                    Answer::Silence
                }
            },
            _ => away(),
        }
    }

    /// The leader has no quorum: the batch waits.
    fn keep(&mut self, kv: &mut Kv, writes: &[Write]) -> Answer {
        if kv.is_held(writes) {
            self.seen.in_flight += 1;
            return Answer::Reply(Err(StoreError::InFlight));
        }
        if !kv.holds(writes) {
            return Answer::Reply(Err(StoreError::Conflict));
        }
        kv.hold(writes);
        self.undecided.push(writes.to_vec());
        self.seen.undecided += 1;
        Answer::Silence
    }

    fn tear_apart(&mut self, kv: &mut Kv, now: Time, writes: &[Write]) -> Answer {
        let whole = writes.len();
        let Tear { writes: part, kills, .. } = self.tear.take().expect("there is one to take");
        let part = part.clamp(1, whole - 1);
        if !kv.holds(writes) {
            return Answer::Reply(Err(StoreError::Conflict));
        }
        let part = StoreRequest::Commit { writes: writes[..part].to_vec() };
        let result = kv.apply(now, &part);
        let StoreRequest::Commit { writes: part } = part else { unreachable!("made above") };
        match result {
            Ok(_) => {
                self.seen.torn += 1;
                Answer::Torn { part, kills }
            }
            Err(error) => Answer::Reply(Err(error)),
        }
    }

    /// A batch that is to reach a lone server is stored in part.
    pub fn tear_next(&mut self, tear: Tear) {
        if self.at.len() == 1 {
            self.tear = Some(tear);
        }
    }

    /// What was to be torn and has not come is stored whole.
    pub fn tear_no_more(&mut self) {
        self.tear = None;
    }

    /// A machine's server stops or starts; whether it was otherwise before.
    pub fn set_up(&mut self, machine: usize, up: bool) -> bool {
        let server = self.at.iter().position(|at| *at == machine);
        server.is_some_and(|server| std::mem::replace(&mut self.up[server], up) != up)
    }

    /// Whether the machine has a server and it runs.
    #[must_use]
    pub fn is_up(&self, machine: usize) -> bool {
        self.at.iter().position(|at| *at == machine).is_some_and(|server| self.up[server])
    }

    /// The leader gives up its office, as when it is asked to or restarts.
    pub fn depose(&mut self, kv: &mut Kv, now: Time) {
        self.lose_leader(kv, now, false);
    }

    /// Looks at what servers and links are like now. Call it after each change of them, and when [`Self::wake_at`] says so. Says
    /// what landed late: the batches, in order.
    pub fn look(&mut self, kv: &mut Kv, network: &Network, now: Time) -> Vec<Vec<Write>> {
        if self
            .deposed
            .as_ref()
            .is_some_and(|deposed| deposed.until <= now || !self.up[deposed.server])
        {
            self.deposed = None;
        }
        if self.election.is_some_and(|at| at <= now) {
            self.election = None;
            self.leader = self.candidate(network);
            self.seen.elections += u64::from(self.leader.is_some());
        }
        if let Some(leader) = self.leader
            && !self.up[leader]
        {
            self.lose_leader(kv, now, false);
        }
        let mut landed = Vec::new();
        match self.leader {
            Some(leader) if self.has_quorum(network, leader) => {
                if self.steps_down.take().is_some() {
                    landed = self.land(kv, now);
                }
                // It hears the others again, and follows.
                self.deposed = self
                    .deposed
                    .take()
                    .filter(|deposed| !network.connects(self.at[deposed.server], self.at[leader]));
            }
            Some(leader) => {
                if self.steps_down.is_none() {
                    self.seen.quorums_lost += 1;
                    let after = 16_000 + self.random.below(4000);
                    self.steps_down = Some(now + Duration::from_millis(after));
                }
                if self.candidate(network).is_some() {
                    // The others elect one of theirs; this one does not know it yet.
                    let until = self.steps_down.take().expect("set above");
                    self.lose_leader(kv, now, true);
                    self.deposed = Some(Deposed { server: leader, until, kv: kv.clone() });
                } else if self.steps_down.is_some_and(|at| at <= now) {
                    self.steps_down = None;
                    self.leader = None;
                }
            }
            None => {
                if self.election.is_none() && self.candidate(network).is_some() {
                    self.call_election(now);
                }
            }
        }
        // A lone server, or an old leader whose followers returned, decides what was left.
        if self.leader.is_some() && self.steps_down.is_none() && !self.undecided.is_empty() {
            landed.extend(self.land(kv, now));
        }
        landed
    }

    /// When [`Self::look`] has something to do.
    #[must_use]
    pub fn wake_at(&self) -> Option<Time> {
        let deposed = self.deposed.as_ref().map(|deposed| deposed.until);
        self.election.into_iter().chain(self.steps_down).chain(deposed).min()
    }

    fn lose_leader(&mut self, kv: &mut Kv, now: Time, cut_off: bool) {
        self.leader = None;
        self.steps_down = None;
        // What it had not shared with a quorum is gone with it, or one of the others had it.
        if cut_off || self.random.below(2) == 0 {
            for writes in std::mem::take(&mut self.undecided) {
                self.seen.lost_with_leader += 1;
                kv.release(&writes);
            }
        }
        self.call_election(now);
    }

    fn call_election(&mut self, now: Time) {
        // A lone server comes back as what it was.
        let millis = if self.at.len() == 1 { 200 } else { 4000 + self.random.below(3000) };
        self.election = Some(now + Duration::from_millis(millis));
    }

    fn land(&mut self, kv: &mut Kv, now: Time) -> Vec<Vec<Write>> {
        let mut landed = Vec::new();
        for writes in std::mem::take(&mut self.undecided) {
            kv.release(&writes);
            let request = StoreRequest::Commit { writes };
            let stored = kv.apply(now, &request).is_ok();
            let StoreRequest::Commit { writes } = request else { unreachable!("made above") };
            if stored {
                self.seen.landed_late += 1;
                landed.push(writes);
            }
        }
        landed
    }

    fn has_quorum(&self, network: &Network, server: usize) -> bool {
        let heard = (0..self.at.len())
            .filter(|other| self.up[*other] && network.connects(self.at[server], self.at[*other]));
        self.up[server] && heard.count() * 2 > self.at.len()
    }

    fn candidate(&self, network: &Network) -> Option<usize> {
        (0..self.at.len()).find(|server| self.has_quorum(network, *server))
    }
}

#[cfg(test)]
mod tests {
    use proto_core::store::{Key, Revision};

    use super::super::network::LinkFault;
    use super::*;

    fn write(expect: u64) -> StoreRequest {
        let key = Key::new("a").expect("a key");
        let write = Write { key, value: 1.into(), expect: Some(Revision(expect)), ttl: None };
        StoreRequest::Commit { writes: vec![write] }
    }

    fn read() -> StoreRequest {
        StoreRequest::Read { prefixes: vec![Key::new("a").expect("a key")] }
    }

    fn at(secs: u64) -> Time {
        Time::ZERO + Duration::from_secs(secs)
    }

    fn three() -> (Servers, Kv, Network) {
        (Servers::new(vec![0, 1, 2], Random::new(1)), Kv::default(), Network::ideal())
    }

    #[test]
    fn a_write_without_a_quorum_is_not_answered_and_lands_when_the_followers_return() {
        let (mut servers, mut kv, network) = three();
        servers.set_up(1, false);
        servers.set_up(2, false);
        assert!(servers.look(&mut kv, &network, at(0)).is_empty());
        assert!(matches!(servers.apply(&mut kv, at(1), 0, &write(0)), Answer::Silence));
        let Answer::Reply(Err(StoreError::InFlight)) = servers.apply(&mut kv, at(2), 0, &write(0))
        else {
            panic!("a competing write of an undecided key is in flight")
        };
        let Answer::Reply(Ok(StoreReply::Entries(entries))) =
            servers.apply(&mut kv, at(3), 0, &read())
        else {
            panic!("a leader without a quorum answers reads")
        };
        assert!(entries.is_empty());
        servers.set_up(1, true);
        assert_eq!(servers.look(&mut kv, &network, at(4)).len(), 1);
        assert_eq!(kv.last(), Revision(1));
    }

    #[test]
    fn a_lost_leader_is_replaced_after_some_seconds_of_no_answer() {
        let (mut servers, mut kv, network) = three();
        servers.set_up(0, false);
        servers.look(&mut kv, &network, at(0));
        assert_eq!(servers.answers(&network, 1), None);
        let elected = servers.wake_at().expect("an election is called");
        assert!((at(4)..=at(7)).contains(&elected));
        servers.look(&mut kv, &network, elected);
        assert_eq!(servers.answers(&network, 1), Some(1));
    }

    #[test]
    fn a_deposed_leader_answers_reads_from_its_past_and_stores_nothing() {
        let (mut servers, mut kv, mut network) = three();
        servers.apply(&mut kv, at(0), 0, &write(0));
        network.begin(LinkFault::Partition { groups: vec![0, 1, 1] });
        servers.look(&mut kv, &network, at(1));
        let elected = servers.wake_at().expect("an election is called");
        servers.look(&mut kv, &network, elected);
        assert_eq!(servers.answers(&network, 2), Some(1));
        assert!(matches!(servers.apply(&mut kv, elected, 1, &write(1)), Answer::Reply(Ok(_))));
        assert_eq!(servers.answers(&network, 0), Some(0));
        let Answer::Reply(Ok(StoreReply::Entries(entries))) =
            servers.apply(&mut kv, elected, 0, &read())
        else {
            panic!("it answers")
        };
        assert_eq!(entries[0].revision, Revision(1));
        assert!(matches!(servers.apply(&mut kv, elected, 0, &write(1)), Answer::Silence));
        servers.look(&mut kv, &network, at(30));
        assert_eq!(servers.answers(&network, 0), None);
    }

    #[test]
    fn a_torn_batch_keeps_its_first_writes_and_is_not_answered() {
        let mut servers = Servers::new(vec![0], Random::new(1));
        let mut kv = Kv::default();
        servers.tear_next(Tear { writes: 1, commit: false, kills: false });
        let writes = ["a", "b"].map(|key| Write {
            key: Key::new(key).expect("a key"),
            value: 1.into(),
            expect: Some(Revision::ABSENT),
            ttl: None,
        });
        let request = StoreRequest::Commit { writes: writes.to_vec() };
        assert!(matches!(servers.apply(&mut kv, at(0), 0, &request), Answer::Torn { .. }));
        assert_eq!(kv.last(), Revision(1));
    }
}
