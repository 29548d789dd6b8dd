//! Plans, the engine that runs them, and the participant that carries out their commands.
//!
//! An operation is observe → plan → record → execute → commit → clean up. Planners (such as [`crate::deploy::plan`]) are
//! pure functions that make a [`Plan`]; the one engine, `operation`, runs every plan, so all crash safety is here. On each
//! machine a participant takes [`Command`]s under a fence.
//!
//! | file | holds |
//! |---|---|
//! | [`plan`] | plans, steps, actions |
//! | [`command`] | what a coordinator says to a machine, and what it answers |
//! | [`record`] | `op.<id>`: what is written before the first change |
//! | [`participant`] | one machine's side: fence, journal, inspect, act, verify |

pub mod command;

pub mod operation;
pub mod participant;
pub mod plan;
pub mod record;

pub use command::{Command, CommandBody, CommandReply};

pub use operation::Operation;
pub use participant::{FenceFile, JournalEntry, Participant, User};
pub use plan::{Action, Plan, Step};
pub use record::{OperationRecord, Phase};
