//! From a manifest to a plan: parse, validate, place, plan.

mod host_name;
pub mod manifest;
pub mod placement;
pub mod plan;
pub mod spec;
mod units;
pub mod validate;

pub use host_name::{HostName, HostNameError};
