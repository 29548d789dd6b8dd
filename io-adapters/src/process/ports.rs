//! TCP ports of the machine, which instances share with everybody else on it.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use proto_core::runtime::{InstanceSpec, RuntimeError};
use tokio::net::TcpSocket;

use super::exec::reason;

/// A socket that listens, as the kernel's tables write it.
const LISTENS: &str = "0A";

/// The ports that anybody listens on, on any address, in ascending order.
///
/// # Errors
///
/// If the kernel's tables cannot be read. One that is not there, as that of IPv6 where there is none, holds nothing.
pub(super) fn listening() -> io::Result<Vec<u16>> {
    let mut ports = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match std::fs::read_to_string(table) {
            Ok(text) => ports.extend(text.lines().filter_map(listener)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ports.into_iter().collect())
}

/// The port of a line `0: 0100007F:1F90 00000000:0000 0A …`, if it is of a socket that listens.
fn listener(line: &str) -> Option<u16> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, state) = (fields.next()?, fields.nth(1)?);
    let (_, port) = local.rsplit_once(':')?;
    (state == LISTENS).then(|| u16::from_str_radix(port, 16).ok()).flatten()
}

/// Refuses an instance one of whose ports somebody else has: its readiness probe would be answered by a stranger.
///
/// Between this look and the instance's own there is time for another to come; what it then exits with is seen by whoever waits for it.
///
/// # Errors
///
/// [`RuntimeError::PortInUse`]; another one if there is no socket to look with.
pub(super) fn refuse_taken(spec: &InstanceSpec) -> Result<(), RuntimeError> {
    for port in spec.ports.values() {
        let at = SocketAddr::new(spec.address, *port);
        // It never listens, so that two that look at the same moment do not see each other.
        let socket = match at.ip() {
            IpAddr::V4(_) => TcpSocket::new_v4(),
            IpAddr::V6(_) => TcpSocket::new_v6(),
        };
        let socket = socket.map_err(|e| reason(&e))?;
        // Connections that have ended and linger are in nobody's way.
        socket.set_reuseaddr(true).map_err(|e| reason(&e))?;
        // What else may be wrong with an address the instance finds out.
        if socket.bind(at).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
            return Err(RuntimeError::PortInUse { detail: format!("{at}, of {}", spec.name) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::listener;

    #[test]
    fn only_sockets_that_listen_are_read_from_the_kernels_tables() {
        let line = |state| format!("   3: 0100007F:1F90 00000000:0000 {state} 00000000:00000000");
        assert_eq!(listener(&line("0A")), Some(8080));
        assert_eq!(listener(&line("01")), None);
        let six = "  0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0:0";
        assert_eq!(listener(six), Some(22));
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when";
        assert_eq!(listener(head), None);
    }
}
