//! What the end-to-end tests share: real parts, started and cleaned up.

pub mod bench;
pub mod conformance;
pub mod docker;
pub mod lab;
pub mod nats_server;
pub mod ports;
