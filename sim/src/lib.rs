//! The machines of `proto-core`, unchanged, against a modelled world that is broken on purpose.
//!
//! | module | holds |
//! |---|---|
//! | [`choice`] | the one source of choices: exhaustive, seeded, recorded |
//! | [`claims`] | what the models claim to do as the real parts do |
//! | [`world`] | models of the store, the runtimes, the bus, the gateway |
//! | [`cluster`] | whole nodes against the world on one clock |
//! | [`scenario`] | what is tried |
//! | [`run`] | one run of a scenario |
//! | [`mod@enumerate`] | every run within a budget |
//! | [`explain`] | a run told to people: as text, as a page |
//! | [`mod@measure`] | bugs planted on purpose |
//! | [`trace`] | what happened, for people |
//! | [`figures`] | what a run took, and tables in pages |
//! | [`fate`] | what can become of an effect |
//! | [`invariants`] | what must hold, a file each |

pub mod choice;
pub mod claims;
pub mod cluster;
pub mod enumerate;
pub mod explain;
pub mod fate;
pub mod figures;
pub mod invariants;
pub mod marks;
pub mod measure;
mod panics;
pub mod play;
pub mod run;
pub mod scenario;
pub mod shrink;
pub mod specs;
pub mod story;
pub mod trace;
pub mod world;
