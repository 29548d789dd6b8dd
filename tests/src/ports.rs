//! Ports for what a test starts. Not those that the kernel gives out by itself: there a client's connection may have taken one again before
//! it is listened on.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the kernel's own, which begin at 32768.
const PORTS: Range<u16> = 28_000..32_700;
/// Those of instances of a cluster, and how many each has.
const RANGES: u16 = 10_000;
/// How many ports an instance range has.
pub(crate) const RANGE: u16 = 60;

/// Ports of the loopback interface that nobody has just now and that no other call of this process has got; another process hardly has.
///
/// # Errors
///
/// If there are none.
pub fn free<const N: usize>() -> std::io::Result<[u16; N]> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let mut ports = [0; N];
    let mut found = 0;
    for _ in PORTS {
        if found == N {
            return Ok(ports);
        }
        let number = offset(131).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + number % (PORTS.end - PORTS.start);
        let here = (Ipv4Addr::UNSPECIFIED, port);
        if TcpListener::bind(here).is_ok() && UdpSocket::bind(here).is_ok() {
            ports[found] = port;
            found += 1;
        }
    }
    Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, "no port is free"))
}

/// A number below 300 that no other cluster of this process has, and hardly one of another.
pub(crate) fn cluster() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    offset(7).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 300
}

/// The first of the cluster's [`RANGE`] ports.
pub(crate) fn range(cluster: u16) -> u16 {
    RANGES + cluster * RANGE
}

/// Where this process begins to count, far from another that was started with it.
fn offset(step: u16) -> u16 {
    (std::process::id() % 300) as u16 * step
}
