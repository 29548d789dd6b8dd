//! A NATS client that shares no line with ours: the text protocol over TCP, requests to JetStream in JSON.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nkeys::KeyPair;
use serde_json::{Value, json};

/// A message that the server delivered.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// Where it was published.
    pub(crate) subject: String,
    /// Its headers.
    pub(crate) headers: BTreeMap<String, String>,
    /// Its bytes.
    pub(crate) payload: Vec<u8>,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    reader: BufReader<TcpStream>,
    inbox: String,
    requests: u32,
    /// What came while an answer was waited for.
    kept: VecDeque<Message>,
}

impl Client {
    /// Connects with the seed of an nkey user and listens on an inbox of its own below the user's, which the daemon shares.
    pub(crate) fn connect(port: u16, seed: &str, name: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let pair = KeyPair::from_seed(seed.trim())?;
        let inbox = format!("_INBOX.{}.{name}", pair.public_key());
        let mut client =
            Self { reader: BufReader::new(stream), inbox, requests: 0, kept: VecDeque::new() };
        let info = client.line()?;
        let info: Value = serde_json::from_str(info.strip_prefix("INFO ").context("no INFO")?)?;
        let nonce = info["nonce"].as_str().context("no nonce")?;
        let connect = json!({
            "nkey": pair.public_key(),
            "sig": base64url(&pair.sign(nonce.as_bytes())?),
            "verbose": false,
            "pedantic": false,
            "headers": true,
            "no_responders": true,
            "lang": "none",
            "version": "0",
        });
        client
            .send(&format!("CONNECT {connect}\r\nSUB {}.answer.> 1\r\nPING\r\n", client.inbox))?;
        let answer = client.line()?;
        ensure!(answer == "PONG", "{answer}");
        Ok(client)
    }

    /// Asks and returns the answer.
    pub(crate) fn request(&mut self, subject: &str, body: &str) -> anyhow::Result<Message> {
        self.requests += 1;
        let reply = format!("{}.answer.{}", self.inbox, self.requests);
        self.send(&format!("PUB {subject} {reply} {}\r\n{body}\r\n", body.len()))?;
        loop {
            let message = self.read()?;
            if message.subject == reply {
                return Ok(message);
            }
            self.kept.push_back(message);
        }
    }

    /// Asks and reads the answer as JSON.
    pub(crate) fn ask(&mut self, subject: &str, body: &Value) -> anyhow::Result<Value> {
        let answer: Value =
            serde_json::from_slice(&self.request(subject, &body.to_string())?.payload)?;
        ensure!(answer["error"].is_null(), "{subject}: {answer}");
        Ok(answer)
    }

    /// Has every write of the bucket delivered from the first that is kept, in order.
    pub(crate) fn follow(&mut self) -> anyhow::Result<()> {
        // By its whole name: the server does not count a wildcard as somebody who listens to a consumer.
        self.send(&format!("SUB {}.follow 2\r\n", self.inbox))?;
        let config = json!({
            "stream_name": "KV_facts",
            "config": {
                "name": "reader",
                "deliver_subject": format!("{}.follow", self.inbox),
                "deliver_policy": "all",
                "ack_policy": "none",
                "replay_policy": "instant",
                "mem_storage": true,
                "num_replicas": 1,
            },
        });
        self.ask("$JS.ployz.API.CONSUMER.CREATE.KV_facts.reader", &config).map(drop)
    }

    /// The next message; an error if none comes within ten seconds.
    pub(crate) fn next(&mut self) -> anyhow::Result<Message> {
        match self.kept.pop_front() {
            Some(message) => Ok(message),
            None => self.read(),
        }
    }

    fn read(&mut self) -> anyhow::Result<Message> {
        loop {
            let line = self.line()?;
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            let head = match words[..] {
                ["PING"] => {
                    self.send("PONG\r\n")?;
                    continue;
                }
                ["PONG" | "INFO", ..] => continue,
                ["MSG", ..] => 0,
                ["HMSG", .., head, _] => head.parse::<usize>()?,
                _ => bail!("{line}"),
            };
            // Subject, subscription, perhaps a subject for the answer, for HMSG the size of the headers, and the whole size.
            let size: usize = words[words.len() - 1].parse()?;
            let mut bytes = vec![0; size + 2];
            self.reader.read_exact(&mut bytes)?;
            bytes.truncate(size);
            let payload = bytes.split_off(head);
            let headers = String::from_utf8(bytes)?
                .lines()
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect();
            return Ok(Message { subject: words[1].to_owned(), headers, payload });
        }
    }

    fn send(&mut self, text: &str) -> anyhow::Result<()> {
        Ok(self.reader.get_mut().write_all(text.as_bytes())?)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(self.reader.read_line(&mut line)? > 0, "the server closed the connection");
        Ok(line.trim_end().to_owned())
    }
}

/// Base64 with `-` and `_` and without padding.
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for n in 0..=chunk.len() {
            text.push(char::from(DIGITS[(word >> (18 - 6 * n) & 63) as usize]));
        }
    }
    text
}
