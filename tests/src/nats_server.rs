//! A private nats-server: a real process with generated credentials on a loopback port of its own, in a directory of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use io_adapters::nats::server::{ServerConfig, Users, render};
use io_adapters::nats::{Bus, Credentials, Link, Store};
use proto_core::id::MachineId;

use crate::ports;

const READY: Duration = Duration::from_secs(20);

/// A nats-server as `ployzd` configures it for the machine `m1`. Killed and removed when dropped.
#[derive(Debug)]
pub struct TestNats {
    directory: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
    /// May serve machine `m1`.
    pub participant: Credentials,
    /// May read and write facts, and command machines.
    pub coordinator: Credentials,
    /// May read what lies below `ns.`.
    pub follower: Credentials,
    /// May administer the server.
    pub system: Credentials,
}

impl TestNats {
    /// Starts a server. `None`, with the reason on stderr, if there is no nats-server on this machine.
    ///
    /// # Errors
    ///
    /// If there is one and it does not start.
    pub fn start() -> anyhow::Result<Option<Self>> {
        if Command::new("nats-server")
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_err()
        {
            eprintln!("skipped: there is no nats-server in the PATH");
            return Ok(None);
        }
        // The port is free when it is drawn and may be taken when the server starts: then another is drawn.
        let mut last = None;
        for _ in 0..5 {
            let mut nats = Self::new()?;
            match nats.launch() {
                Ok(()) => return Ok(Some(nats)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("never tried")))
    }

    fn new() -> anyhow::Result<Self> {
        let nats = Self {
            directory: tempfile::Builder::new().prefix("ployz-nats-").tempdir()?,
            port: ports::free::<1>()?[0],
            child: None,
            participant: Credentials::generate(),
            coordinator: Credentials::generate(),
            follower: Credentials::generate(),
            system: Credentials::generate(),
        };
        std::fs::write(nats.config_file(), render(&nats.config()))?;
        Ok(nats)
    }

    /// The configuration that it was started with.
    #[must_use]
    pub fn config(&self) -> ServerConfig {
        ServerConfig {
            name: "m1".to_owned(),
            machine: machine(),
            port: self.port,
            monitor_port: None,
            store_dir: self.directory.path().join("store"),
            pid_file: None,
            log_file: None,
            max_file_store: 1 << 30,
            users: Users {
                participant: self.participant.public_key().to_owned(),
                coordinator: self.coordinator.public_key().to_owned(),
                follower: self.follower.public_key().to_owned(),
                system: Some(self.system.public_key().to_owned()),
            },
        }
    }

    /// The rendered configuration.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.directory.path().join("nats.conf")
    }

    /// Where the test may keep files; removed with the server.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `host:port`
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Opens a link with the given credentials. Must be called within a tokio runtime.
    #[must_use]
    pub fn link(&self, credentials: &Credentials) -> Link {
        Link::open(self.address(), credentials.clone(), "test")
    }

    /// A coordinator's store, connected, with its bucket.
    ///
    /// # Errors
    ///
    /// If that takes more than ten seconds.
    pub async fn store(&self) -> anyhow::Result<Store> {
        let link = self.link(&self.coordinator);
        link.up(Duration::from_secs(10)).await.map_err(anyhow::Error::msg)?;
        let store = Store::new(link);
        store.ensure_bucket(Duration::from_secs(10)).await?;
        Ok(store)
    }

    /// A connected bus.
    ///
    /// # Errors
    ///
    /// If that takes more than ten seconds.
    pub async fn bus(&self, credentials: &Credentials) -> anyhow::Result<Bus> {
        let link = self.link(credentials);
        link.up(Duration::from_secs(10)).await.map_err(anyhow::Error::msg)?;
        Ok(Bus::new(link))
    }

    /// Starts the server again on the same port and directory, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If it runs, or does not start.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        if self.child.is_some() {
            bail!("the server runs already");
        }
        let mut child = Command::new("nats-server")
            .arg("-c")
            .arg(self.config_file())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("nats-server")?;
        let stderr = child.stderr.take().context("nats-server has no stderr")?;
        self.child = Some(child);
        let (ready, is_ready) = mpsc::channel();
        // The thread ends with the server, whose log it takes so that the pipe never fills up.
        std::thread::spawn(move || {
            let mut log = Vec::new();
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if line.contains("Server is ready") {
                    drop(ready.send(Ok(())));
                }
                log.push(line);
            }
            drop(ready.send(Err(log.join("\n"))));
        });
        match is_ready.recv_timeout(READY) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(log)) => {
                self.kill();
                bail!("nats-server ended:\n{log}")
            }
            Err(_) => {
                self.kill();
                bail!("nats-server was not ready in {} s", READY.as_secs())
            }
        }
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// `kill -9`, and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; then there is nothing to kill, and `wait` takes it all the same.
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Asks the process to end (SIGTERM), and waits for its end.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.signal(rustix::process::Signal::TERM)?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    /// `kill -9` and a start on the same directory.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        self.launch()
    }

    /// Stops the process where it is (SIGSTOP), and waits until it has stopped: its sockets stay open and nobody answers.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn freeze(&self) -> anyhow::Result<()> {
        let pid = self.signal(rustix::process::Signal::STOP)?;
        // The signal takes effect in its own time; the kernel tells the parent when it has.
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::UNTRACED)?;
        Ok(())
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal(rustix::process::Signal::CONT).map(drop)
    }

    fn signal(&self, signal: rustix::process::Signal) -> anyhow::Result<rustix::process::Pid> {
        let child = self.child.as_ref().context("the server does not run")?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id())?).context("pid 0")?;
        rustix::process::kill_process(pid, signal)?;
        Ok(pid)
    }
}

impl Drop for TestNats {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The machine of the server's participant.
#[must_use]
pub fn machine() -> MachineId {
    // "m1" is a name by the rules of names.
    MachineId::new("m1").expect("m1 is a machine id")
}
