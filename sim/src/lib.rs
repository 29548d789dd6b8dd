//! The machines of `proto-core`, unchanged, against a modelled world that is broken on purpose.
//!
//! | module | holds |
//! |---|---|
//! | [`choice`] | the one source of choices: exhaustive, seeded, recorded |
//! | [`world`] | models of the store, the runtimes, the bus, the gateway |

pub mod choice;
pub mod world;
