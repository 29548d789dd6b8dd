//! A proxy between the daemon and nats-server that loses what it is told to lose: the end of a commit's batch, or the answer to it. All
//! else goes through, on the same connection too; so only that write runs into its timeout.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinHandle;

/// What becomes of the message that ends a commit's batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The server gets it; its answer is lost.
    AnswerIsLost,
    /// The server gets it right after it has answered the next write of the operation's record, which is the abort mark.
    LandsAfterMark,
    /// It never arrives; so many times in a row.
    NeverLands(u32),
}

/// What happened to it.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// How many batches were lost, or their answers.
    pub(super) lost: u32,
    /// How many abort marks the server answered after that.
    pub(super) marks: u32,
    /// What the server said to the write that came late, or whose answer was lost.
    pub(super) answer: Option<String>,
}

/// The proxy. Dropped, it takes no more connections, and those that it has end with the daemon.
#[derive(Debug)]
pub(super) struct Wire {
    /// Where it listens.
    pub(super) address: String,
    shared: Arc<Mutex<Shared>>,
    accepting: JoinHandle<()>,
}

type Server = Arc<AsyncMutex<OwnedWriteHalf>>;

#[derive(Debug, Default)]
struct Shared {
    fate: Option<Fate>,
    seen: Seen,
    /// Where the answer to the lost message goes.
    reply: Option<String>,
    /// Where the answer to the mark goes.
    mark: Option<String>,
    held: Option<(Server, Vec<u8>)>,
}

impl Wire {
    /// Listens on a port of its own, in front of the server on `port`.
    pub(super) async fn open(port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let accepting = tokio::spawn(accept(listener, port, Arc::clone(&shared)));
        Ok(Self { address, shared, accepting })
    }

    /// The next commit meets this fate.
    pub(super) fn expect(&self, fate: Fate) {
        *lock(&self.shared) = Shared { fate: Some(fate), ..Shared::default() };
    }

    /// What happened since; waits for the answer to the message, if one is to come.
    pub(super) async fn seen(&self) -> anyhow::Result<Seen> {
        let begun = Instant::now();
        loop {
            let (seen, waits) = {
                let shared = lock(&self.shared);
                let answered = !matches!(shared.fate, Some(Fate::NeverLands(_)));
                (shared.seen.clone(), answered && shared.seen.answer.is_none())
            };
            if !waits {
                return Ok(seen);
            }
            if begun.elapsed() > Duration::from_secs(10) {
                bail!("the server did not answer the message that was lost: {seen:?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, port: u16, shared: Arc<Mutex<Shared>>) {
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let to_server = Arc::new(AsyncMutex::new(to_server));
        tokio::spawn(upwards(from_client, Arc::clone(&to_server), Arc::clone(&shared)));
        tokio::spawn(downwards(from_server, to_client, Arc::clone(&shared)));
    }
}

/// To the server, until either side ends.
async fn upwards(
    from: OwnedReadHalf,
    to: Server,
    shared: Arc<Mutex<Shared>>,
) -> anyhow::Result<()> {
    let mut from = BufReader::new(from);
    // The commit is in the batch that is being sent.
    let mut commits = false;
    while let Some(frame) = Frame::read(&mut from).await? {
        let text = String::from_utf8_lossy(&frame.bytes);
        let subject = frame.words.get(1).map_or("", String::as_str);
        commits |= frame.is_message() && subject.contains(".commit.");
        let ends = text.contains("Nats-Batch-Commit");
        let hold = {
            let mut shared = lock(&shared);
            if shared.mark.is_none() && !ends && subject.contains(".op.") && shared.seen.lost > 0 {
                shared.mark = frame.reply();
            }
            let hold = commits && ends && shared.is_lost(&frame, &to);
            commits &= !ends;
            hold
        };
        if !hold {
            to.lock().await.write_all(&frame.bytes).await?;
        }
    }
    to.lock().await.shutdown().await?;
    Ok(())
}

/// To the daemon, until either side ends.
async fn downwards(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: Arc<Mutex<Shared>>,
) -> anyhow::Result<()> {
    let mut from = BufReader::new(from);
    while let Some(frame) = Frame::read(&mut from).await? {
        let (drop, late) = lock(&shared).answered(&frame);
        if !drop {
            to.write_all(&frame.bytes).await?;
        }
        if let Some((server, bytes)) = late {
            server.lock().await.write_all(&bytes).await?;
        }
    }
    to.shutdown().await?;
    Ok(())
}

impl Shared {
    /// A message that ends a commit's batch: whether the server is not to get it now.
    fn is_lost(&mut self, frame: &Frame, server: &Server) -> bool {
        let hold = match self.fate {
            Some(Fate::NeverLands(times)) => self.seen.lost < times,
            Some(Fate::LandsAfterMark | Fate::AnswerIsLost) if self.seen.lost > 0 => return false,
            Some(Fate::LandsAfterMark) => {
                self.held = Some((Arc::clone(server), frame.bytes.clone()));
                true
            }
            Some(Fate::AnswerIsLost) => false,
            None => return false,
        };
        if hold || self.fate == Some(Fate::AnswerIsLost) {
            self.seen.lost += 1;
            self.reply = frame.reply();
            self.mark = None;
        }
        hold
    }

    /// A message of the server: whether it is lost, and what lands after it.
    fn answered(&mut self, frame: &Frame) -> (bool, Option<(Server, Vec<u8>)>) {
        let subject = frame.words.get(1);
        if !frame.is_message() || subject.is_none() {
            return (false, None);
        }
        if subject == self.mark.as_ref() {
            self.mark = None;
            self.seen.marks += 1;
            return (false, self.held.take());
        }
        if subject == self.reply.as_ref() {
            self.reply = None;
            self.seen.answer = Some(frame.payload());
            return (self.fate == Some(Fate::AnswerIsLost), None);
        }
        (false, None)
    }
}

/// A line of the NATS protocol with the payload that follows it.
struct Frame {
    words: Vec<String>,
    bytes: Vec<u8>,
    /// Where the payload begins.
    body: usize,
}

impl Frame {
    async fn read(from: &mut BufReader<OwnedReadHalf>) -> anyhow::Result<Option<Self>> {
        let mut bytes = Vec::new();
        if from.read_until(b'\n', &mut bytes).await? == 0 {
            return Ok(None);
        }
        let body = bytes.len();
        let line = String::from_utf8_lossy(&bytes);
        let words = line.split_whitespace().map(str::to_owned).collect();
        let mut frame = Self { words, bytes, body };
        if frame.is_message() {
            let size: usize = frame.words.last().context("a verb")?.parse()?;
            // Its own end of line.
            frame.bytes.resize(body + size + 2, 0);
            from.read_exact(&mut frame.bytes[body..]).await?;
        }
        Ok(Some(frame))
    }

    fn is_message(&self) -> bool {
        let verb = self.words.first().map_or("", String::as_str);
        matches!(verb, "PUB" | "HPUB" | "MSG" | "HMSG")
    }

    /// Where the answer to a message of the daemon goes: `HPUB subject [reply] headers total`, `PUB subject [reply] total`.
    fn reply(&self) -> Option<String> {
        let sizes = if self.words.first().is_some_and(|verb| verb == "HPUB") { 2 } else { 1 };
        (self.words.len() == 3 + sizes).then(|| self.words[2].clone())
    }

    fn payload(&self) -> String {
        String::from_utf8_lossy(&self.bytes[self.body..]).trim().to_owned()
    }
}
