//! What the gateway and the DNS server make of the commits.
//!
//! Both follow `ns.*.head` and `ns.*.commit.*` by a [`Projection`], which holds the commit that serves in each namespace
//! ([`Commits`]) through reloads, outages and restarts. From each state that it publishes the gateway builds a
//! [`RouteTable`] and the DNS server a [`DnsZone`]. Nothing here is shared with the machines that decide: these processes
//! read facts and write none.

mod dns_zone;
mod heard;
mod projection;
mod table;

pub use dns_zone::{DnsLookup, DnsName, DnsRecords, DnsZone, Srv, TTL_SECONDS, ZONE};
pub use heard::Heard;
pub use projection::{
    Commits, Effect, NamespaceStatus, Projection, ProjectionStatus, Served, Snapshot,
    SnapshotError, Stale,
};
pub use table::{Backend, Conflict, RouteMiss, RouteTable, Target};
