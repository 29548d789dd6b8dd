//! One module per real thing: each turns an effect into I/O and a result, and decides nothing.

pub mod docker;
pub mod files;
pub mod probe;
pub mod runtime;
