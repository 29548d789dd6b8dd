//! A daemon that says what a test wants, on a unix socket; and `ployzctl` run against it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde::Serialize;
use tempfile::TempDir;

/// A request as the daemon saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Method and path: `GET /v1/status`.
    pub(crate) line: String,
    /// Its JSON; null if there is none.
    pub(crate) body: serde_json::Value,
    /// Where it came in.
    pub(crate) socket: PathBuf,
}

/// Where the answer goes.
pub(crate) struct Reply(UnixStream);

impl Reply {
    /// One document.
    pub(crate) fn json(&mut self, value: &impl Serialize) {
        self.begin("200 OK", "");
        self.line(value);
    }

    /// An error.
    pub(crate) fn error(&mut self, status: &str, value: &impl Serialize) {
        self.begin(status, "");
        self.line(value);
    }

    /// The beginning of a stream of an operation.
    pub(crate) fn operation(&mut self) {
        self.begin("200 OK", "ployz-handle: 7\r\n");
    }

    /// A line of it. Whoever asked may be gone.
    pub(crate) fn line(&mut self, value: &impl Serialize) {
        let line = serde_json::to_string(value).unwrap() + "\n";
        _ = self.0.write_all(line.as_bytes());
    }

    fn begin(&mut self, status: &str, headers: &str) {
        let head = format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\n\r\n");
        _ = self.0.write_all(head.as_bytes());
    }
}

/// The daemon. Its threads end with the test's process.
pub(crate) struct Fake {
    dir: TempDir,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Fake {
    /// One that answers like this.
    pub(crate) fn new(answer: impl Fn(&Seen, &mut Reply) + Send + Sync + 'static) -> Self {
        let fake = Self::away();
        let listener = UnixListener::bind(fake.socket()).unwrap();
        let (answer, seen, socket) = (Arc::new(answer), fake.seen.clone(), fake.socket());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, seen, socket) = (answer.clone(), seen.clone(), socket.clone());
                std::thread::spawn(move || {
                    let stream = stream.unwrap();
                    let Some(request) = read(&stream, &socket) else { return };
                    seen.lock().unwrap().push(request.clone());
                    answer(&request, &mut Reply(stream));
                });
            }
        });
        fake
    }

    /// None: the socket is not there.
    pub(crate) fn away() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), seen: Arc::default() }
    }

    /// One that answers everything with this document.
    pub(crate) fn saying(value: impl Serialize + Send + Sync + 'static) -> Self {
        Self::new(move |_, reply| reply.json(&value))
    }

    /// One that runs every operation like this.
    pub(crate) fn running<T: Serialize + Send + Sync + 'static>(events: Vec<T>) -> Self {
        Self::new(move |_, reply| {
            reply.operation();
            events.iter().for_each(|event| reply.line(event));
        })
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// A file beside the socket, with this content.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// What it was asked, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// `ployzctl` with these arguments, in the fake's directory.
    pub(crate) fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ployzctl"));
        command.args(args.split_whitespace()).current_dir(self.dir.path());
        command.env_clear().env("PLOYZ_SOCKET", self.socket()).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, args: &str) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }
}

/// Copies a program so that it can be run at once. Not by this process: a descriptor that is open for writing is inherited by whatever another
/// test starts at that instant, and a file that anybody may write to is not run ("text file busy").
pub(crate) fn copy_program(from: impl AsRef<Path>, to: &Path) {
    let copied = Command::new("cp").arg(from.as_ref()).arg(to).status().unwrap();
    assert!(copied.success());
}

/// How `ployzctl` ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it was not killed"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Reads a request; `None` if the other side only tried the socket.
fn read(stream: &UnixStream, socket: &Path) -> Option<Seen> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap() == 0 {
            return None;
        }
    }
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    Some(Seen { line, body, socket: socket.to_owned() })
}
