//! The commands of `ployz-sim`, a file each.

pub(crate) mod enumerate;
pub(crate) mod explain;
pub(crate) mod idle;
pub(crate) mod mutants;
pub(crate) mod run;
pub(crate) mod saved;
pub(crate) mod sweep;

pub(crate) use sim::figures::{cpu_seconds, peak_memory, write_between};
