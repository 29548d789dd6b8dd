//! Small files that are either the old or the new ones, also after a crash or a loss of power.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Replaces the file at `path` by one that holds `bytes`, with the permission bits `mode`.
///
/// When it returns, file and directory entry are on disk. Whoever opens `path` meanwhile sees the old or the
/// new content, never a mixture. Blocking: a few milliseconds on an ordinary disk.
///
/// # Errors
///
/// Whatever the operating system says; the file at `path` is then the old one, or (only if the directory could not be
/// synced) one of the two.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        // The umask may have taken bits away, and what is asked for is what is meant.
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if let Err(error) = written {
        // The first error is the one to tell; a temporary file that can't be removed either is only litter.
        drop(std::fs::remove_file(&temporary));
        return Err(error);
    }
    sync_directory(parent(path))
}

/// The content of the file at `path`, `None` if there is none.
///
/// # Errors
///
/// Whatever the operating system says, other than that there is no such file.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the entries of a directory (files created in it, renamed, removed) durable.
///
/// # Errors
///
/// Whatever the operating system says.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Free bytes of the file system that holds `path`, as an unprivileged process could use them.
///
/// # Errors
///
/// If the operating system does not say.
pub fn disk_free(path: &Path) -> io::Result<u64> {
    let statistics = rustix::fs::statvfs(path)?;
    Ok(statistics.f_bavail.saturating_mul(statistics.f_frsize))
}

fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    // Unique in this process by the counter, among processes by the pid; a file left by an earlier process with the
    // same pid makes `create_new` fail, so it is removed first.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path without a file name"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    let temporary = parent(path).join(temporary);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(temporary),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fence.json");
        assert_eq!(read(&path).unwrap(), None);
        write_atomic(&path, b"a longer first content", 0o600).unwrap();
        write_atomic(&path, b"second", 0o640).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"second");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_litter() {
        let directory = tempfile::tempdir().unwrap();
        // A directory in the place of the file: the rename fails after everything else went well.
        let path = directory.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("inside"), b"old").unwrap();
        assert!(write_atomic(&path, b"new", 0o600).is_err());
        assert_eq!(read(&path.join("inside")).unwrap().unwrap(), b"old");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
