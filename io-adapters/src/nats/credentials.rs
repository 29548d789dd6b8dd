use std::io;
use std::path::{Path, PathBuf};

use nkeys::KeyPair;

use crate::files;

/// An nkey user: the seed, and what follows from it.
///
/// On disk it is the seed alone, as every NATS client reads it (`nats --nkey FILE`).
#[derive(Clone)]
pub struct Credentials {
    seed: String,
    public_key: String,
}

/// Credentials could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file can't be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// The file holds no seed of an nkey user.
    #[error("{path} holds no nkey seed of a user (a line that begins with SU)")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl Credentials {
    /// A new user, drawn from the operating system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        let pair = KeyPair::new_user();
        // A pair that was just drawn holds its seed; only pairs made of a public key don't.
        let seed = pair.seed().expect("a new key pair has a seed");
        Self { seed, public_key: pair.public_key() }
    }

    /// Reads the seed at `path`.
    ///
    /// # Errors
    ///
    /// If it can't be read, or holds something else.
    pub fn load(path: &Path) -> Result<Self, CredentialsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| CredentialsError::Io { path: path.to_owned(), error })?;
        Self::from_seed(&text).ok_or_else(|| CredentialsError::Malformed { path: path.to_owned() })
    }

    /// Reads the seed at `path`, or draws one and writes it there, readable by its owner alone.
    ///
    /// # Errors
    ///
    /// If the file can't be read or written, or holds something else: that is never overwritten.
    pub fn load_or_generate(path: &Path) -> Result<Self, CredentialsError> {
        let io = |error| CredentialsError::Io { path: path.to_owned(), error };
        if files::read(path).map_err(io)?.is_some() {
            return Self::load(path);
        }
        let credentials = Self::generate();
        credentials.save(path)?;
        Ok(credentials)
    }

    /// Writes the seed to `path`, atomically, readable by its owner alone.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says.
    pub fn save(&self, path: &Path) -> Result<(), CredentialsError> {
        files::write_atomic(path, format!("{}\n", self.seed).as_bytes(), 0o600)
            .map_err(|error| CredentialsError::Io { path: path.to_owned(), error })
    }

    fn from_seed(text: &str) -> Option<Self> {
        let seed = text.trim();
        let pair = KeyPair::from_seed(seed).ok()?;
        let public_key = pair.public_key();
        public_key.starts_with('U').then(|| Self { seed: seed.to_owned(), public_key })
    }

    /// The public key, by which a server's configuration names the user.
    #[must_use]
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// Where the user takes answers: nobody else may listen there.
    #[must_use]
    pub fn inbox_prefix(&self) -> String {
        inbox_prefix(&self.public_key)
    }

    /// The signature of a server's challenge.
    pub(super) fn sign(&self, nonce: &[u8]) -> Result<Vec<u8>, nkeys::error::Error> {
        KeyPair::from_seed(&self.seed)?.sign(nonce)
    }
}

/// Where the user with this public key takes answers.
pub(super) fn inbox_prefix(public_key: &str) -> String {
    format!("_INBOX.{public_key}")
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The seed must not reach a log.
        f.debug_struct("Credentials").field("public_key", &self.public_key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn credentials_come_back_from_a_file_that_only_their_owner_reads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("coordinator.nk");
        let first = Credentials::load_or_generate(&path).unwrap();
        let again = Credentials::load_or_generate(&path).unwrap();
        assert_eq!(first.public_key(), again.public_key());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(first.public_key().starts_with('U'));
        assert!(!format!("{first:?}").contains(&first.seed));
    }

    #[test]
    fn a_file_that_holds_something_else_is_refused_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("broken.nk");
        for text in ["", "not a seed", &nkeys::KeyPair::new_account().seed().unwrap()] {
            std::fs::write(&path, text).unwrap();
            let error = Credentials::load_or_generate(&path).unwrap_err();
            assert!(matches!(error, CredentialsError::Malformed { .. }), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
