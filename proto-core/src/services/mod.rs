//! Adoption and supervision of the managed sidecars: nats-server, gateway, DNS.
//!
//! Sidecars outlive `ployzd`. It keeps a [`Record`] of each one that it started; when it starts anew it looks at the
//! recorded processes and asks [`adopt`] what becomes of each. What is exactly what is wanted stays untouched; what drifted is
//! made anew, and the event names the part; a process that merely carries a recorded pid is nobody's and is never signalled.
//!
//! From then on a [`Supervisor`] for each sidecar says when one that died is started again.

mod adopt;
mod disk;
mod supervisor;

pub use adopt::{
    Component, Decision, Identity, Observed, Part, ProcessState, Record, StartReason, adopt,
};
pub use disk::{DiskChange, StoreDisk};
pub use supervisor::{
    Attempt, BACKOFF_CAP, BACKOFF_FIRST, Effect, Input, STABLE_UPTIME, Supervisor, TimerKind,
};
