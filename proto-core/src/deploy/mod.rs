//! From a manifest to a plan: parse, validate, place, plan.

mod host_name;
pub mod spec;

pub use host_name::{HostName, HostNameError};
