//! `ployzctl` as an operator calls it: the real program, in the cluster's directory, its output in a pipe.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::report::say;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How `ployzctl` is called.
#[derive(Debug, Clone)]
pub struct Ctl {
    /// The program.
    pub program: PathBuf,
    /// Where it is called, and where files without a directory are.
    pub directory: PathBuf,
    /// The daemon's socket.
    pub socket: PathBuf,
    /// The user and group that call it; `None`: those of the lab.
    pub user: Option<u32>,
}

/// What a call said. It is printed where it is made.
#[derive(Debug, Clone)]
pub struct Said {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ctl {
    /// Calls it with these words, which have no blanks in them, and waits for its end.
    ///
    /// # Errors
    ///
    /// If it cannot be run, or does not end.
    pub async fn run(&self, words: &str) -> anyhow::Result<Said> {
        self.begin(words)?.end().await
    }

    /// Calls it.
    ///
    /// # Errors
    ///
    /// If it cannot be run.
    pub fn begin(&self, words: &str) -> anyhow::Result<Call> {
        let mut command = Command::new(&self.program);
        command.args(words.split(' ')).arg("--socket").arg(&self.socket);
        command.current_dir(&self.directory).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(id) = self.user {
            // Without the groups of root: the standard library drops them with the user.
            command.gid(id).uid(id);
        }
        let mut child = command.spawn().context("ployzctl cannot be run")?;
        let out = Reading::of(child.stdout.take().context("piped")?);
        let err = Reading::of(child.stderr.take().context("piped")?);
        Ok(Call { words: words.to_owned(), child, out, err })
    }
}

/// A call that runs; killed when it is dropped.
#[derive(Debug)]
pub struct Call {
    words: String,
    child: Child,
    out: Reading,
    err: Reading,
}

impl Call {
    /// Waits until standard output holds this text; all of it so far.
    ///
    /// # Errors
    ///
    /// If it ends without it.
    pub async fn out_has(&mut self, text: &str) -> anyhow::Result<String> {
        self.out.has(text).await
    }

    /// The same of standard error.
    ///
    /// # Errors
    ///
    /// If it ends without it.
    pub async fn err_has(&mut self, text: &str) -> anyhow::Result<String> {
        self.err.has(text).await
    }

    /// Ctrl-C.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn interrupt(&self) -> anyhow::Result<()> {
        let pid = self.child.id().context("it has ended")?;
        let pid = Pid::from_raw(i32::try_from(pid)?).context("pid 0")?;
        Ok(kill_process(pid, Signal::INT)?)
    }

    /// Waits for its end, and prints what it said.
    ///
    /// # Errors
    ///
    /// If it does not end.
    pub async fn end(mut self) -> anyhow::Result<Said> {
        let Ok(status) = tokio::time::timeout(PATIENCE, self.child.wait()).await else {
            bail!("`ployzctl {}` does not end: {:?}", self.words, self.out.text.borrow());
        };
        let code = status?.code();
        let said = Said { code, out: self.out.all().await?, err: self.err.all().await? };
        say(&format!("  $ ployzctl {}", self.words));
        for line in said.out.lines().chain(said.err.lines()) {
            say(&format!("  {line}"));
        }
        say(&format!("  exit {}", said.code.map_or("by a signal".to_owned(), |c| c.to_string())));
        Ok(said)
    }
}

/// A pipe that is read as it fills.
#[derive(Debug)]
struct Reading {
    text: watch::Receiver<String>,
    reader: JoinHandle<std::io::Result<()>>,
}

impl Reading {
    fn of(pipe: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let (sender, text) = watch::channel(String::new());
        let reader = tokio::spawn(async move {
            let mut lines = BufReader::new(pipe).lines();
            while let Some(line) = lines.next_line().await? {
                sender.send_modify(|text| *text = format!("{text}{line}\n"));
            }
            Ok(())
        });
        Self { text, reader }
    }

    async fn has(&mut self, wanted: &str) -> anyhow::Result<String> {
        let wait = self.text.wait_for(|text| text.contains(wanted));
        if let Ok(Ok(text)) = tokio::time::timeout(PATIENCE, wait).await {
            return Ok(text.clone());
        }
        bail!("no {wanted:?} in {:?}", self.text.borrow())
    }

    async fn all(self) -> anyhow::Result<String> {
        self.reader.await??;
        Ok(self.text.borrow().clone())
    }
}

impl Said {
    /// Whether it ended with this exit code and an error of this code, which names the next command, in lines that hold these words.
    #[must_use]
    pub fn told(&self, exit: i32, code: &str, words: &[&str]) -> bool {
        let next = self.err.lines().filter_map(|line| line.strip_prefix("next: "));
        self.code == Some(exit)
            && self.err.contains(&format!("error[{code}]: "))
            && next.filter(|command| !command.trim().is_empty()).count() == 1
            && words.iter().all(|word| self.err.contains(word))
    }

    /// In a line.
    #[must_use]
    pub fn in_short(&self) -> String {
        let all: Vec<_> = self.err.lines().map(str::trim).collect();
        let code = self.code.map_or("by a signal".to_owned(), |code| code.to_string());
        format!("exit {code}: {}", all.join(" | "))
    }
}
