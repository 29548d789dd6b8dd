//! The programs that are measured: release builds, or nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::lab::{Parts, beside};

/// Ployz as it ships, and where it stands among its peers.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The daemon, the workload, nats-server.
    pub parts: Parts,
    /// The command line.
    pub ployzctl: PathBuf,
}

impl Programs {
    /// The programs beside this one.
    ///
    /// # Errors
    ///
    /// If one is missing, or is no release build without failpoints.
    pub fn find() -> anyhow::Result<Self> {
        ensure!(!cfg!(debug_assertions), "this is a debug build: cargo run --release");
        let build = "cargo build --release -p ployzd -p ployzctl -p tests";
        let parts = Parts::with(beside("ployzd").context(build)?).context(build)?;
        let version = first_line(&parts.ployzd, &["--version"])?;
        if version.contains('(') {
            bail!("{} is {version}; only what ships is measured: {build}", parts.ployzd.display());
        }
        Ok(Self { parts, ployzctl: beside("ployzctl").context(build)? })
    }
}

/// What a program calls itself.
///
/// # Errors
///
/// If it is not there.
pub(super) fn first_line(program: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| program.display().to_string())?;
    // nginx speaks on stderr, wrk ends with 1.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().next().unwrap_or_default();
    Ok(line.trim().to_owned())
}
