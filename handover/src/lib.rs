//! What threads of the gateway and the DNS server share by hand and rely on. All of it is here, small enough for loom to try every
//! interleaving (`tests/interleavings.rs`); everything else goes through channels.
//!
//! Two rules hold between threads:
//!
//! * **Visible, then reported.** Whoever hears that a position is applied finds a state of that position or later in force.
//! * **Seen, or gone.** A request that goes to a backend was counted there before anybody who waits for the backend to drain, having put
//!   a state without it in force, counts; or the request has seen that state.

mod in_force;
mod under_way;

pub use in_force::InForce;
pub use under_way::{Guard, UnderWay, enter};

#[cfg(loom)]
mod sync {
    pub(crate) use loom::sync::{Arc, Mutex, RwLock};
}
#[cfg(not(loom))]
mod sync {
    pub(crate) use std::sync::{Arc, Mutex, RwLock};
}
