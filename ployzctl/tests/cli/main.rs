//! `ployzctl` as a program, against a daemon that says what the test wants.

mod dev;
mod diff;
mod fake;
mod fixture;
mod manifests;
mod next;
mod operations;
mod questions;
mod usage;
mod workloads;
