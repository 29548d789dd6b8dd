//! Models of what the nodes talk to. Each is as strict as the real part, and no stricter: conformance tests hold them
//! to it.

pub mod bus;
pub mod kv;
pub mod routes;
pub mod runtime;

use proto_core::id::MachineId;
use proto_core::time::{Time, UnixTime};

/// Everything that is no node: what survives when every daemon dies.
#[derive(Debug, Clone)]
pub struct World {
    /// The one clock.
    pub now: Time,
    /// The machines.
    pub machines: Vec<MachineId>,
    /// The store.
    pub kv: kv::Kv,
    /// A runtime for each machine.
    pub runtimes: Vec<runtime::Runtime>,
    /// A gateway for each machine.
    pub gateways: Vec<routes::Gateway>,
}

impl World {
    /// Machines with nothing on them, and an empty store.
    #[must_use]
    pub fn new(machines: Vec<MachineId>) -> Self {
        let runtimes = machines.iter().map(|_| runtime::Runtime::default()).collect();
        let gateways = machines.iter().map(|_| routes::Gateway::default()).collect();
        Self { now: Time::ZERO, machines, kv: kv::Kv::default(), runtimes, gateways }
    }

    /// The wall clock of every machine.
    #[must_use]
    pub fn wall(&self) -> UnixTime {
        UnixTime::from_millis(1_800_000_000_000 + self.now.as_nanos() / 1_000_000)
    }
}
