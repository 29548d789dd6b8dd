//! The daemon tier: the driver loop and the HTTP API of ployzd, as they ship, on simulated hosts, in clusters that play the same stories as the
//! engine tier. The hosts are turmoil's, with a network that can be struck; or all run in one runtime with paused time, which is faster.
//!
//! | module | holds |
//! |---|---|
//! | [`mod@play`] | a story, from its first operation to the questions at rest |
//! | `stage` | where the hosts run: on turmoil, or in one runtime with paused time |
//! | `faults` | what is done for each fault of a story |
//! | `machine` | a machine's host: the daemon |
//! | `store`, `outliving`, `operator` | the other hosts: the store; runtimes and gateways; who asks |
//! | `ports` | what the daemon reaches through its ports |
//! | `shared` | what outlives every daemon |
//! | `net`, `wire` | connections between hosts, and the frames on them |
//!
//! The models of store, runtimes and gateways are those of [`sim::world`], and so are the invariants. Real here, beside what the engine
//! runs: the driver, its tasks and timers, the API, and every message as bytes.

mod faults;
mod machine;
mod net;
mod operator;
mod outliving;
pub mod play;
mod ports;
mod shared;
mod stage;
mod store;
mod wire;

pub use play::{Config, Error, Report, Struck, Tier, play};
