//! What input from outside must survive. Each module is a fuzz target: it takes bytes, whatever they are, and panics if something
//! is wrong. `fuzz_targets/` hands them to libFuzzer; `tests/corpus.rs` replays the corpora in every `cargo test`.
//!
//! | target | the bytes are | what is asked beside "no panic, no memory without bound" |
//! |---|---|---|
//! | [`story`] | the choices of a small simulated story | every invariant of the simulator |
//! | [`manifest`] | a manifest, TOML or JSON | what is rendered reads back; what the schema's JSON says is the same |
//! | [`api`] | a request to the daemon: line and body | what is read is written and read again; a refusal changes nothing; the invariants |
//! | [`facts`] | what the store holds, what its follower says, what is asked for then | stable encoding; routes and names as a naive reference has them; an end |
//! | [`messages`] | a fence file and commands for a machine | stable encoding; nothing below the floor is done; one reply each |
//! | [`routes`] | services, Host headers, paths, DNS names | routes and names as a naive reference has them |
//! | [`prepared`] | the file of `deploy apply-prepared` | only what was prepared is read; whatever plan it holds, an end |
//! | [`dns`] | DNS messages | the answer is one: its id, its question, its size |

pub mod api;
#[cfg(feature = "adapters")]
pub mod dns;
pub mod facts;
pub mod manifest;
pub mod messages;
pub mod prepared;
pub mod routes;
pub mod story;

mod asked;
mod reference;
mod stable;
