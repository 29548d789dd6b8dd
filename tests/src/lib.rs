//! What the end-to-end tests share: real parts, started and cleaned up.

pub mod docker;
pub mod nats_server;
