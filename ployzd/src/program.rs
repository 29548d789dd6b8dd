//! The digests of the programs that sidecars are started from.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use proto_core::digest::{Digest, Digester};

/// How much of a program is in memory while it is read: the allocator keeps what was large once, for as long as the daemon lives.
const PIECE: usize = 64 * 1024;

/// Which contents a file has, as far as that shows without reading it: the change time moves with every write, whoever sets
/// the other times.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// Reads a program again only if it changed: a sidecar that died is to be back within two seconds, and reading tens of
/// megabytes may take longer on a machine that is busy.
#[derive(Debug, Default)]
pub(crate) struct Programs(Mutex<BTreeMap<PathBuf, (Stamp, Digest)>>);

impl Programs {
    /// The digest of a program's file.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(crate) fn digest(&self, program: &Path) -> anyhow::Result<Digest> {
        let unreadable = || format!("the program {} cannot be read", program.display());
        // Held while reading: gateway and DNS server are the same program, and start at the same time.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(program).with_context(unreadable)?;
        if let Some((then, digest)) = known.get(program)
            && *then == stamp
        {
            return Ok(*digest);
        }
        let digest = read(program).with_context(unreadable)?;
        // The stamp is older than what was read: a write in between shows at the next look.
        known.insert(program.to_owned(), (stamp, digest));
        Ok(digest)
    }
}

fn read(program: &Path) -> std::io::Result<Digest> {
    let mut file = std::fs::File::open(program)?;
    let mut piece = vec![0; PIECE];
    let mut digester = Digester::default();
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(digester.finish()),
            Ok(length) => digester.update(&piece[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn stamp(program: &Path) -> std::io::Result<Stamp> {
    let meta = std::fs::metadata(program)?;
    let (device, inode, size) = (meta.dev(), meta.ino(), meta.len());
    Ok(Stamp { device, inode, size, changed: (meta.ctime(), meta.ctime_nsec()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_several_pieces_has_the_digest_of_all_its_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        let bytes: Vec<u8> = (0..2 * PIECE + 1).map(|n| (n % 251) as u8).collect();
        std::fs::write(&program, &bytes).unwrap();
        assert_eq!(Programs::default().digest(&program).unwrap(), Digest::of_bytes(&bytes));
    }

    #[test]
    fn a_program_that_was_replaced_by_one_of_the_same_size_and_age_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        std::fs::write(&program, "one").unwrap();
        let age = std::fs::metadata(&program).unwrap().modified().unwrap();
        let programs = Programs::default();
        assert_eq!(programs.digest(&program).unwrap(), Digest::of_bytes(b"one"));
        assert_eq!(programs.digest(&program).unwrap(), Digest::of_bytes(b"one"));

        let next = directory.path().join("next");
        std::fs::write(&next, "two").unwrap();
        std::fs::File::options().write(true).open(&next).unwrap().set_modified(age).unwrap();
        std::fs::rename(&next, &program).unwrap();
        assert_eq!(programs.digest(&program).unwrap(), Digest::of_bytes(b"two"));
    }
}
