//! Models of what the nodes talk to. Each is as strict as the real part, and no stricter: conformance tests hold them
//! to it.

pub mod bus;
pub mod clock;
pub mod feed;
pub mod gateway;
pub mod kv;
pub mod network;
pub mod runtime;
pub mod servers;

use proto_core::coordination::FenceFile;
use proto_core::id::{MachineId, Namespace};
use proto_core::random::Random;
use proto_core::store::Key;
use proto_core::store::facts::Head;
use proto_core::time::{Time, UnixTime};

/// Everything that is no node: what survives when every daemon dies.
#[derive(Debug, Clone)]
pub struct World {
    /// The one clock.
    pub now: Time,
    /// The machines.
    pub machines: Vec<MachineId>,
    /// The fence file on each machine's disk.
    pub fences: Vec<FenceFile>,
    /// What each machine's clocks say.
    pub clocks: Vec<clock::Clock>,
    /// The links between them.
    pub network: network::Network,
    /// Who answers for the store.
    pub servers: servers::Servers,
    /// What the store holds.
    pub kv: kv::Kv,
    /// A runtime for each machine.
    pub runtimes: Vec<runtime::Runtime>,
    /// A gateway for each machine.
    pub gateways: Vec<gateway::Gateway>,
}

impl World {
    /// Machines with nothing on them, right clocks, ideal links, and an empty store with one server.
    #[must_use]
    pub fn new(machines: Vec<MachineId>) -> Self {
        let count = machines.len();
        Self {
            now: Time::ZERO,
            machines,
            fences: vec![FenceFile::default(); count],
            clocks: vec![clock::Clock::default(); count],
            network: network::Network::ideal(),
            servers: servers::Servers::new(vec![0], Random::new(0)),
            kv: kv::Kv::default(),
            runtimes: vec![runtime::Runtime::default(); count],
            gateways: vec![gateway::Gateway::default(); count],
        }
    }

    /// The number of the commit that the head of this namespace names; 0: there is none.
    #[must_use]
    pub fn head(&self, namespace: &Namespace) -> u64 {
        self.kv.get::<Head>(&Key::head(namespace)).map_or(0, |head| head.commit)
    }

    /// The wall clock of a machine.
    #[must_use]
    pub fn wall(&self, machine: usize) -> UnixTime {
        self.clocks[machine].wall(self.now)
    }
}
