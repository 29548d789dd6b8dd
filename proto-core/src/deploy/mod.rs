//! From a manifest to a plan: parse, validate, place, plan.

mod host_name;
pub mod placement;
pub mod spec;
mod units;

pub use host_name::{HostName, HostNameError};
