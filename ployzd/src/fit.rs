//! Whether this machine has room for a daemon: what can be known before anything is founded or started.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
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

/// `ployzd check`: the socket's place, the instances' subnet, that no two sidecars want one port, and the addresses of every sidecar that
/// does not run.
///
/// # Errors
///
/// A [`Refusal`], or a record that cannot be read.
pub(crate) fn check(config: &Config) -> anyhow::Result<()> {
    socket(&config.socket)?;
    crate::subnet::check(config)?;
    apart(config)?;
    for component in Component::ALL {
        if sidecars::runs(config, component)? {
            continue;
        }
        let (kind, listen) = listeners(config, component);
        for at in listen {
            free("tcp", kind, at, TcpListener::bind(at).map(drop))?;
            if component == Component::Dns {
                free("udp", kind, at, UdpSocket::bind(at).map(drop))?;
            }
        }
    }
    Ok(())
}

/// What a component is called, and where it is to listen.
fn listeners(config: &Config, component: Component) -> (&'static str, Vec<SocketAddr>) {
    match component {
        Component::Nats => {
            ("the store's server", vec![(Ipv4Addr::LOCALHOST, config.nats.port).into()])
        }
        Component::Gateway => ("the gateway", config.gateway.listen.clone()),
        Component::Dns => ("the DNS server", config.dns.listen.clone()),
    }
}

/// Refuses two components that are to listen on one port; all of them listen on TCP. Port 0 stands for any.
fn apart(config: &Config) -> anyhow::Result<()> {
    let mut others: Vec<(&str, SocketAddr)> = Vec::new();
    for component in Component::ALL {
        let (kind, listen) = listeners(config, component);
        let met = listen.iter().find_map(|at| {
            let (other, there) = others.iter().find(|(_, there)| meet(*at, *there))?;
            Some((*at, *other, *there))
        });
        if let Some((at, other, there)) = met {
            let message = format!(
                "port {} is wanted twice: {other} is to listen on {there} and {kind} on {at}",
                at.port()
            );
            let body = ErrorBody::new("PORT_IN_USE", message).next("ployzctl mesh init --help");
            return Err(Refusal(body).into());
        }
        others.extend(listen.into_iter().map(|at| (kind, at)));
    }
    Ok(())
}

/// Whether only one can listen, the other one being there.
fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    // The unspecified address of IPv6 takes in those of IPv4.
    let covers =
        |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip() || covers(one.ip(), other.ip()) || covers(other.ip(), one.ip()))
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
