//! Whether this machine has room for a daemon: what can be known before anything is founded or started.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use anyhow::Context as _;
use proto_core::api::ErrorBody;
use proto_core::services::Component;

use crate::config::Config;
use crate::sidecars;

/// Why a daemon is not founded or started: a stable code, a sentence, the next command. Whoever called reads it as JSON on standard output.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) ErrorBody);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(body) = self;
        write!(f, "{}: {}", body.code, body.message)?;
        body.next.iter().try_for_each(|next| write!(f, "; next: {next}"))
    }
}

impl std::error::Error for Refusal {}

/// `ployzd check`: the socket's place, the instances' subnet, and the addresses of every sidecar that does not run.
///
/// # Errors
///
/// A [`Refusal`], or a record that cannot be read.
pub(crate) fn check(config: &Config) -> anyhow::Result<()> {
    socket(&config.socket)?;
    crate::subnet::check(config)?;
    for component in Component::ALL {
        if sidecars::runs(config, component)? {
            continue;
        }
        let (kind, listen) = match component {
            Component::Nats => {
                ("the store's server", vec![(Ipv4Addr::LOCALHOST, config.nats.port).into()])
            }
            Component::Gateway => ("the gateway", config.gateway.listen.clone()),
            Component::Dns => ("the DNS server", config.dns.listen.clone()),
        };
        for at in listen {
            free("tcp", kind, at, TcpListener::bind(at).map(drop))?;
            if component == Component::Dns {
                free("udp", kind, at, UdpSocket::bind(at).map(drop))?;
            }
        }
    }
    Ok(())
}

/// Refuses a place where there is something else than a socket: a daemon replaces nothing but that.
pub(crate) fn socket(path: &Path) -> anyhow::Result<()> {
    let there = match std::fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        // Also a parent that is no directory.
        Err(error) => Err(error).with_context(|| format!("{} is no place", path.display()))?,
    };
    if there.file_type().is_socket() {
        return Ok(());
    }
    let message = format!("{} is there and is no socket; it is left alone", path.display());
    let body = ErrorBody::new("NOT_A_SOCKET", message).next(format!("ls -ld {}", path.display()));
    Err(Refusal(body).into())
}

/// Only what is in use is refused; what else may be wrong with an address its sidecar says.
fn free(
    protocol: &str,
    wants: &str,
    at: SocketAddr,
    bound: std::io::Result<()>,
) -> anyhow::Result<()> {
    match bound {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let message =
                format!("port {} is in use: {wants} is to listen on {at}/{protocol}", at.port());
            let flag = if protocol == "tcp" { 't' } else { 'u' };
            let next = format!("ss -l{flag}np 'sport = :{}'", at.port());
            Err(Refusal(ErrorBody::new("PORT_IN_USE", message).next(next)).into())
        }
        _ => Ok(()),
    }
}
