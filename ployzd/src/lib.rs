//! The disposable daemon of a machine, and the roles that outlive it.
//!
//! | file | holds |
//! |---|---|
//! | `cli` | the command line |
//! | `config` | the configuration |
//! | `fit` | whether socket and ports are free |
//! | `init` | founding a cluster |
//! | `run` | the daemon: start, adoption, end |
//! | [`driver`] | node ↔ ports |
//! | [`ports`] | what a daemon needs of its machine and of the others |
//! | `parts` | the ports of a real machine |
//! | [`api`] | HTTP over whatever it listens on |
//! | `program` | the digests of the sidecars' programs |
//! | `sidecars` | nats-server, gateway and DNS as processes that are adopted or started |
//! | `roles` | `ployzd gateway`, `ployzd dns` |
//! | `failpoint` | where crash tests kill the daemon |
//!
//! Driver and API know nothing but [`ports::Ports`]: the program plugs them into the parts of its machine, the simulator's daemon tier
//! into models of those.

pub mod api;
mod cli;
pub mod clock;
mod config;
pub mod driver;
pub mod events;
mod failpoint;
mod fit;
mod init;
mod parts;
pub mod ports;
mod program;
mod roles;
mod run;
mod runtime;
mod sidecars;
mod subnet;

pub use cli::main;
