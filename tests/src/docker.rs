//! A Docker engine for tests: the one that runs on this machine, or one of our own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// An engine and an image to run. Dropping it removes the image and, if the engine was started here, stops it.
#[derive(Debug)]
pub struct TestDocker {
    socket: PathBuf,
    image: String,
    engine: Option<Engine>,
}

/// Leaves the firewall of the machine alone.
const APART: &[&str] =
    &["--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"];

#[derive(Debug)]
struct Engine {
    process: Child,
    _directory: TempDir,
}

impl TestDocker {
    /// The engine on the default socket if it answers, else a private one. `None`, with the reason on stderr, where neither can be had.
    #[must_use]
    pub fn connect_or_start() -> Option<Self> {
        let usual = Path::new("/var/run/docker.sock");
        let found = if answers(usual) {
            Self::with_image(usual.to_owned(), None)
        } else {
            Self::start(APART)
        };
        found.map_err(|why| eprintln!("skipped: {why}")).ok()
    }

    /// A private engine, for tests that stop or freeze it.
    #[must_use]
    pub fn start_private() -> Option<Self> {
        Self::start(APART).map_err(|why| eprintln!("skipped: {why}")).ok()
    }

    /// A private engine with a bridge of its own, published ports and Swarm. It changes the firewall: only for a network namespace that
    /// holds nothing else.
    ///
    /// # Errors
    ///
    /// Why it does not come up.
    pub fn start_with_network() -> Result<Self, String> {
        Self::start(&[])
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// An image with busybox in it: `sh`, `httpd`, `sleep` and so on, and a page in `/www`. Runs `httpd` on port 8080 by itself.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The process id of the engine, if it was started here.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.engine.as_ref().map(|engine| engine.process.id())
    }

    /// Runs the Docker command line against this engine; its output, or its complaint.
    ///
    /// # Errors
    ///
    /// What it wrote to stderr.
    pub fn cli(&self, arguments: &[&str]) -> Result<String, String> {
        cli(&self.socket, arguments)
    }

    fn start(network: &[&str]) -> Result<Self, String> {
        if !run("id", &["-u"]).is_ok_and(|uid| uid.trim() == "0") {
            return Err("no Docker engine answers and only root can start one".to_owned());
        }
        if run("dockerd", &["--version"]).is_err() {
            return Err("no Docker engine answers and dockerd is not installed".to_owned());
        }
        // Short: the paths of sockets have a limit of 107 bytes.
        let directory =
            tempfile::Builder::new().prefix("pd").tempdir().map_err(|e| e.to_string())?;
        let at = |name: &str| directory.path().join(name).display().to_string();
        let log = std::fs::File::create(at("log")).map_err(|e| e.to_string())?;
        let process = Command::new("dockerd")
            .args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(["--host", &format!("unix://{}", at("socket"))])
            .args(network)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|e| e.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("dockerd: {error}"))?;
        let socket = directory.path().join("socket");
        let mut engine = Engine { process, _directory: directory };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !answers(&socket) {
            let ended = engine.process.try_wait().map_err(|e| e.to_string())?;
            if ended.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(socket.with_file_name("log")).unwrap_or_default();
                let last: Vec<_> = log.lines().rev().take(3).collect();
                return Err(format!("dockerd does not come up: {last:?}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Self::with_image(socket, Some(engine))
    }

    fn with_image(socket: PathBuf, engine: Option<Engine>) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let image = format!("ployz-test-busybox:{}-{number}", std::process::id());
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .ok_or("busybox is not installed (package busybox-static)")?;
        let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
        let root = directory.path().join("root");
        let script = format!(
            "set -e; mkdir -p {root}/bin {root}/etc {root}/www {root}/tmp; cp {busybox} {root}/bin/busybox; \
             for a in sh httpd sleep cat echo true false wget nc id env kill ls; do ln -s busybox {root}/bin/$a; done; \
             echo root:x:0:0::/:/bin/sh > {root}/etc/passwd; echo hello > {root}/www/index.html; \
             tar -C {root} -cf {tar} .",
            root = root.display(),
            tar = directory.path().join("image.tar").display(),
        );
        run("sh", &["-c", &script])?;
        let tar = directory.path().join("image.tar").display().to_string();
        let command = r#"CMD ["httpd","-f","-p","8080","-h","/www"]"#;
        // Built before the import, so that a failure stops the engine again.
        let test = Self { socket, image, engine };
        test.cli(&["import", "--change", command, "--change", "ENV PATH=/bin", &tar, &test.image])?;
        Ok(test)
    }
}

impl Drop for TestDocker {
    fn drop(&mut self) {
        if let Err(why) = self.cli(&["rmi", "--force", &self.image]) {
            eprintln!("test image left behind: {why}");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SIGTERM, so that it unmounts and removes what it made; frozen engines are woken for that.
        let pid = self.process.id().to_string();
        drop(run("kill", &["-CONT", &pid]));
        drop(run("kill", &["-TERM", &pid]));
        if let Err(error) = self.process.wait() {
            eprintln!("dockerd {pid} left behind: {error}");
        }
    }
}

fn answers(socket: &Path) -> bool {
    socket.exists() && cli(socket, &["version", "--format", "{{.Server.Version}}"]).is_ok()
}

fn cli(socket: &Path, arguments: &[&str]) -> Result<String, String> {
    let host = format!("unix://{}", socket.display());
    let mut all = vec!["--host", &host];
    all.extend(arguments);
    run("docker", &all)
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}
