//! Everything that *decides* in Ployz, as pure state machines.
//!
//! Nothing in this crate reads a clock, draws randomness, opens a socket or a file, or looks at the
//! environment: time, seeds and completions come in as arguments, effects go out as values. The same
//! machines run in `ployzd` on real parts and in `sim` against a modelled world.
//!
//! The verbs are the same at every layer:
//!
//! ```text
//! handle_input(now, input)   feed one input
//! poll_effect()              drain effects until None; each has an id and comes back as an input
//! poll_event()               drain progress events until None
//! poll_timeout()             when to call again with no other input, and why
//! ```
//!
//! Folders are the domains:
//!
//! | module | holds |
//! |---|---|
//! | [`store`] | keys, revisions, batches, the fact schema |
//! | [`runtime`] | what an instance is, and what can be asked of a container or process runtime |
//! | [`deploy`] | manifest, validation, placement, the deploy planner |
//! | [`coordination`] | plans, the operation engine, leases, fences, the participant |
//! | [`routing`] | the gateway's and the DNS server's projection of commits |
//! | [`services`] | adoption of managed sidecars (nats-server, gateway, DNS) |
//! | [`machine`] | machine identity, lifecycle, capacity |
//! | [`daemon`] | the node: participant and operations of one machine behind one interface |
//! | [`api`] | requests, responses, error codes, exit codes |

pub mod api;
pub mod coordination;
pub mod daemon;
pub mod deploy;
pub mod digest;
pub mod id;
pub mod machine;
pub mod mutant;
pub mod random;
pub mod routing;
pub mod runtime;
pub mod services;
pub mod span;
pub mod store;
pub mod time;

mod canonical;
mod number_keys;
mod outcome;
mod shared;
pub use outcome::Outcome;
