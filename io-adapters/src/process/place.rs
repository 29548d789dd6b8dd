//! The directory of an instance, which is all that its supervisor and the adapter share.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use proto_core::id::InstanceName;
use proto_core::runtime::InstanceSpec;
use proto_core::time::UnixTime;
use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, flock, mknodat};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ProcessIdentity;
use super::environment::User;
use crate::files::{read, sync_directory, write_atomic};

/// What the operator wants; written by the adapter, read by the supervisor when it is poked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    /// Whether it is to run.
    pub(super) run: bool,
    /// If not: how long it has between SIGTERM and SIGKILL.
    pub(super) grace_millis: u64,
}

impl Wanted {
    pub(super) const RUN: Self = Self { run: true, grace_millis: 0 };
}

/// What is; written by the supervisor, and by the adapter only once there is no supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) supervisor: ProcessIdentity,
    pub(super) phase: Phase,
    /// The process that was started last; written before it becomes the workload.
    pub(super) workload: Option<ProcessIdentity>,
    pub(super) started_at: Option<UnixTime>,
    pub(super) restarts: u32,
    /// How it last ended by itself and was not left alone; also what older supervisors did not write.
    #[serde(default)]
    pub(super) last_exit: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    Running,
    Restarting,
    Exited(i32),
}

/// An instance's directory.
#[derive(Debug, Clone)]
pub(super) struct Place(PathBuf);

impl Place {
    pub(super) fn new(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Fills a directory that is not there yet with what an instance needs, and makes it durable.
    pub(super) fn fill(&self, spec: &InstanceSpec, user: Option<User>) -> io::Result<()> {
        // Others may pass through: the workload may run as another user.
        DirBuilder::new().recursive(true).mode(0o711).create(&self.0)?;
        DirBuilder::new().mode(0o755).create(self.at("data"))?;
        for pipe in ["poke", "stdout", "stderr"] {
            mknodat(CWD, self.at(pipe), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        }
        if let Some(User { uid, gid }) = user {
            for own in ["data", "stdout", "stderr"] {
                std::os::unix::fs::chown(self.at(own), Some(uid), Some(gid))?;
            }
        }
        write_atomic(&self.at("spec.json"), &serde_json::to_vec_pretty(spec)?, 0o600)?;
        self.want(Wanted::RUN)
    }

    /// The spec, `None` if this is no instance's directory.
    pub(super) fn spec(&self) -> io::Result<Option<InstanceSpec>> {
        self.json("spec.json")
    }

    pub(super) fn wanted(&self) -> io::Result<Wanted> {
        Ok(self.json("wanted.json")?.unwrap_or(Wanted::RUN))
    }

    pub(super) fn want(&self, wanted: Wanted) -> io::Result<()> {
        write_atomic(&self.at("wanted.json"), &serde_json::to_vec(&wanted)?, 0o600)
    }

    /// The state, `None` if no supervisor has started yet.
    pub(super) fn state(&self) -> io::Result<Option<State>> {
        self.json("state.json")
    }

    pub(super) fn set_state(&self, state: &State) -> io::Result<()> {
        write_atomic(&self.at("state.json"), &serde_json::to_vec(state)?, 0o600)
    }

    /// Makes the supervisor look at what is wanted. Says nothing about whether there is one.
    pub(super) fn poke(&self) -> io::Result<()> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        match OpenOptions::new().write(true).custom_flags(flags).open(self.at("poke")) {
            // A full pipe will make it look as well as one more byte would.
            Ok(mut pipe) => match io::Write::write(&mut pipe, b".") {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
                Ok(_) | Err(_) => Ok(()),
            },
            // Nobody reads: no supervisor.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let path = self.at(name);
        let Some(bytes) = read(&path)? else { return Ok(None) };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
    }
}

/// Where all instances are.
#[derive(Debug, Clone)]
pub(super) struct Places(PathBuf);

impl Places {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn of(&self, instance: &InstanceName) -> Place {
        Place(self.0.join(instance.as_str()))
    }

    /// Every directory that bears an instance's name. What is being made or removed begins with a dot, so it is none.
    pub(super) fn all(&self) -> io::Result<Vec<Place>> {
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut places = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            if let Some(name) = name.to_str().and_then(|name| InstanceName::new(name).ok()) {
                places.push(self.of(&name));
            }
        }
        places.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(places)
    }

    /// Takes an instance's name for a change, waiting for whoever has it. A supervisor that is starting has it too, by inheritance.
    pub(super) fn lock(&self, instance: &InstanceName) -> io::Result<Lock> {
        let directory = self.0.join(".locks");
        DirBuilder::new().recursive(true).mode(0o711).create(&directory)?;
        let path = directory.join(instance.as_str());
        loop {
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
            while let Err(error) = flock(&file, FlockOperation::LockExclusive) {
                if error != rustix::io::Errno::INTR {
                    return Err(error.into());
                }
            }
            // The one who had it may have removed the file, and somebody else may hold a new one of that name.
            let current = std::fs::metadata(&path).is_ok_and(|there| {
                file.metadata()
                    .is_ok_and(|mine| (mine.dev(), mine.ino()) == (there.dev(), there.ino()))
            });
            if current {
                return Ok(Lock { file, path });
            }
        }
    }

    /// Makes an instance's directory, whole or not at all.
    pub(super) fn make(&self, spec: &InstanceSpec, user: Option<User>) -> io::Result<Place> {
        let place = self.of(&spec.name);
        self.clear(&spec.name)?;
        let new = Place(self.beside(&spec.name, "new"));
        new.fill(spec, user)?;
        std::fs::rename(&new.0, &place.0)?;
        sync_directory(&self.0)?;
        Ok(place)
    }

    /// Removes an instance's directory, whole or not at all as far as anybody can see.
    pub(super) fn remove(&self, instance: &InstanceName) -> io::Result<()> {
        self.clear(instance)?;
        std::fs::rename(self.of(instance).0, self.beside(instance, "gone"))?;
        sync_directory(&self.0)?;
        self.clear(instance)
    }

    /// Removes what a crash while making or removing has left.
    pub(super) fn clear(&self, instance: &InstanceName) -> io::Result<()> {
        for kind in ["new", "gone"] {
            match std::fs::remove_dir_all(self.beside(instance, kind)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn beside(&self, instance: &InstanceName, kind: &str) -> PathBuf {
        self.0.join(format!(".{kind}-{instance}"))
    }
}

/// The right to change an instance; released when every process that has it is done with it.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// The same lock, for the supervisor to inherit.
    pub(super) fn share(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Removes the lock's file: the instance is gone.
    pub(super) fn retire(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}
