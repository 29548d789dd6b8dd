//! The workload's program as an image, without a registry.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::docker::TestDocker;

/// An image with the program at `/bin/lab-app`. Removed when dropped.
#[derive(Debug)]
pub struct LabImage<'a> {
    docker: &'a TestDocker,
    /// Its reference.
    pub name: String,
}

impl<'a> LabImage<'a> {
    /// Makes it from the program and the shared libraries that it is linked with.
    ///
    /// # Errors
    ///
    /// If the engine does not take it.
    pub fn build(docker: &'a TestDocker, program: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let root = directory.path().join("root");
        let libraries = Command::new("ldd").arg(program).output().context("ldd")?;
        let libraries = String::from_utf8_lossy(&libraries.stdout).into_owned();
        // `name => /path (address)`, and the loader without a name; links are followed.
        let paths = libraries.split_whitespace().filter(|word| word.starts_with('/'));
        for library in paths {
            copy(Path::new(library), &root.join(library.trim_start_matches('/')))?;
        }
        copy(program, &root.join("bin/lab-app"))?;
        let tar = directory.path().join("image.tar");
        let packed =
            Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status()?;
        ensure!(packed.success(), "tar: {packed}");
        let name = format!("ployz-lab-app:{}", std::process::id());
        let tar = tar.to_str().context("temporary directories have plain names")?;
        docker.cli(&["import", tar, &name]).map_err(anyhow::Error::msg)?;
        Ok(Self { docker, name })
    }
}

impl Drop for LabImage<'_> {
    fn drop(&mut self) {
        if let Err(why) = self.docker.cli(&["rmi", "--force", &self.name]) {
            eprintln!("image left behind: {why}");
        }
    }
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to.parent().context("a file is in a directory")?)?;
    std::fs::copy(from, to).with_context(|| from.display().to_string())?;
    Ok(())
}
