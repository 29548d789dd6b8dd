//! Models of what the nodes talk to. Each is as strict as the real part, and no stricter: conformance tests hold them
//! to it.

pub mod bus;
pub mod kv;
pub mod routes;
pub mod runtime;
