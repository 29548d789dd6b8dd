//! One module per real thing: each turns an effect into I/O and a result, and decides nothing.

pub mod control;
pub mod dns;
pub mod docker;
pub mod files;
pub mod gateway;
pub mod nats;
pub mod probe;
pub mod process;
mod projection;
pub mod runtime;
