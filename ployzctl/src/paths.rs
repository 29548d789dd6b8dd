//! Where the daemon listens and where a cluster is kept, if nobody says otherwise.

use std::path::{Path, PathBuf};

/// The daemon's socket.
pub(crate) fn socket() -> PathBuf {
    socket_for(is_root(), env("XDG_RUNTIME_DIR"), &data_dir())
}

/// The socket that the shell has set: it is so for the next command too.
pub(crate) fn socket_of_environment() -> Option<PathBuf> {
    set("PLOYZ_SOCKET")
}

/// The directory of the cluster that the shell has set.
pub(crate) fn data_dir_of_environment() -> Option<PathBuf> {
    set("PLOYZ_DATA_DIR")
}

/// A variable that is set to something: one that is empty is none.
fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The directory that holds everything of the cluster.
pub(crate) fn data_dir() -> PathBuf {
    data_dir_for(is_root(), env("XDG_DATA_HOME"), env("HOME"))
}

/// Whether this program may do anything.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A directory out of the environment. The XDG specification wants relative ones ignored.
fn env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn socket_for(root: bool, runtime_dir: Option<PathBuf>, data_dir: &Path) -> PathBuf {
    match (root, runtime_dir) {
        (true, _) => PathBuf::from("/run/ployz/ployzd.sock"),
        (false, Some(dir)) => dir.join("ployz/ployzd.sock"),
        (false, None) => data_dir.join("ployzd.sock"),
    }
}

fn data_dir_for(root: bool, data_home: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    if root {
        return PathBuf::from("/var/lib/ployz");
    }
    let home = || home.unwrap_or_else(|| PathBuf::from("/")).join(".local/share");
    data_home.unwrap_or_else(home).join("ployz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_the_places_of_the_system_and_a_user_those_of_xdg() {
        let dir = |path: &str| Some(PathBuf::from(path));
        let text = |path: PathBuf| path.display().to_string();
        assert_eq!(text(data_dir_for(true, dir("/d"), dir("/h"))), "/var/lib/ployz");
        assert_eq!(text(data_dir_for(false, dir("/d"), dir("/h"))), "/d/ployz");
        assert_eq!(text(data_dir_for(false, None, dir("/h"))), "/h/.local/share/ployz");
        let data = Path::new("/d/ployz");
        assert_eq!(text(socket_for(true, dir("/r"), data)), "/run/ployz/ployzd.sock");
        assert_eq!(text(socket_for(false, dir("/r"), data)), "/r/ployz/ployzd.sock");
        assert_eq!(text(socket_for(false, None, data)), "/d/ployz/ployzd.sock");
    }
}
