//! Who still waits inside a server behind a Unix socket, as the kernel sees it.
//!
//! A connection whose client is gone stays open on the server's side until the server has finished with the request that it
//! carried, so the kernel's list of such connections says whether a request of a dead process can still have an effect.

use std::collections::BTreeSet;
use std::io;
use std::os::linux::fs::MetadataExt as _;
use std::path::Path;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

/// Connections that have lost their client and are not finished.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Orphans {
    /// How many of them the server has not accepted yet.
    pub(super) queued: usize,
    /// Those that it has, each by the number that the kernel gives a socket and never gives again.
    pub(super) accepted: BTreeSet<u64>,
}

/// The orphans of the server that listens on `socket`. Connections from another network namespace are not seen.
///
/// # Errors
///
/// If there is no such socket, or the kernel cannot be asked (`CONFIG_UNIX_DIAG` is off).
pub(super) fn orphans(socket: &Path) -> io::Result<Orphans> {
    let file = std::fs::metadata(socket)?;
    let place = (low(file.st_ino()), kernel_device(file.st_dev()));
    let netlink = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    sendto(&netlink, &request(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut found = Orphans::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let (read, _) = recv(&netlink, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..read];
        while let Some((kind, body, after)) = message(rest) {
            match kind {
                DONE => return Ok(found),
                ERROR => {
                    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(-code));
                }
                BY_FAMILY => found.look_at(body, place),
                _ => {}
            }
            rest = after;
        }
    }
}

// linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h
const ERROR: u16 = 2;
const DONE: u16 = 3;
const BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const SHOW_VFS_PEER_ICONS: u32 = 2 | 4 | 8;
const ATTRIBUTE_VFS: u16 = 1;
const ATTRIBUTE_PEER: u16 = 2;
const ATTRIBUTE_ICONS: u16 = 3;
const STATE_ESTABLISHED: u8 = 1;
const STATE_LISTEN: u8 = 10;

fn request() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    bytes.extend(40_u32.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST_DUMP.to_ne_bytes());
    bytes.extend([0; 8]); // sequence, port
    bytes.extend([1, 0, 0, 0]); // AF_UNIX
    bytes.extend(u32::MAX.to_ne_bytes()); // sockets in any state
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(SHOW_VFS_PEER_ICONS.to_ne_bytes());
    bytes.extend([0xff; 8]); // no cookie
    bytes
}

/// The first message of a datagram: its kind, its body, what comes after it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(16..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

impl Orphans {
    /// Adds what one socket of the kernel's list says.
    fn look_at(&mut self, socket: &[u8], place: (u32, u32)) {
        let (Some(&state), Some(cookie)) = (socket.get(2), u64_at(socket, 8)) else { return };
        let mut here = false;
        let mut peer = 0;
        let mut pending = 0;
        let mut rest = socket.get(16..).unwrap_or_default();
        while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
            let Some(value) = rest.get(4..usize::from(length)) else { break };
            match kind {
                ATTRIBUTE_VFS => {
                    here = (u32_at(value, 0), u32_at(value, 4)) == (Some(place.0), Some(place.1))
                }
                ATTRIBUTE_PEER => peer = u32_at(value, 0).unwrap_or(0),
                ATTRIBUTE_ICONS => {
                    pending = value.chunks_exact(4).filter(|ino| *ino == [0; 4]).count()
                }
                _ => {}
            }
            rest = rest.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
        }
        match state {
            STATE_LISTEN if here => self.queued += pending,
            STATE_ESTABLISHED if here && peer == 0 => {
                self.accepted.insert(cookie);
            }
            _ => {}
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernel reports 32 bits of the inode number"
)]
fn low(inode: u64) -> u32 {
    inode as u32
}

/// A device number as the kernel keeps it inside, which is how this list shows it.
fn kernel_device(device: u64) -> u32 {
    rustix::fs::major(device) << 20 | rustix::fs::minor(device)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_connection_counts_from_the_death_of_its_client_until_the_server_is_done() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let server = UnixListener::bind(&path).unwrap();
        let living = UnixStream::connect(&path).unwrap();
        let (_accepted, _) = server.accept().unwrap();
        match orphans(&path) {
            Ok(found) => assert_eq!(found, Orphans::default()),
            Err(error) => return eprintln!("skipped: the kernel cannot be asked: {error}"),
        }
        let mut dying = UnixStream::connect(&path).unwrap();
        dying.write_all(b"x").unwrap();
        assert_eq!(orphans(&path).unwrap(), Orphans::default());
        drop(dying);
        let found = orphans(&path).unwrap();
        assert_eq!((found.queued, found.accepted.len()), (1, 0), "not yet accepted");
        let (mut accepted, _) = server.accept().unwrap();
        accepted.read_exact(&mut [0]).unwrap();
        let first = orphans(&path).unwrap();
        assert_eq!((first.queued, first.accepted.len()), (0, 1), "accepted, read, not finished");
        drop(UnixStream::connect(&path).unwrap());
        let (second, _) = server.accept().unwrap();
        drop(accepted);
        let left = orphans(&path).unwrap();
        assert_eq!(left.accepted.len(), 1);
        assert!(left.accepted.is_disjoint(&first.accepted), "each is told from the others");
        drop(second);
        assert_eq!(orphans(&path).unwrap(), Orphans::default());
        drop(living);
    }
}
