//! The workload of the lab: an HTTP server that ends without breaking off what it has begun.
//!
//! Listens on `PORT` of `LISTEN` (default 127.0.0.1). `/healthz` answers 200, `/slow?ms=N` answers after N milliseconds, everything else
//! answers with `VERSION`. After SIGTERM it takes no new connections, answers what it has begun to read, and exits with 0. `CRASH` makes it
//! write that text to stderr and exit with 3 at once; `NEVER_READY` makes `/healthz` answer 503 and say so on stderr, `READY_AFTER_MS` for so
//! long.

use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

fn main() -> ExitCode {
    LazyLock::force(&STARTED);
    if let Ok(text) = std::env::var("CRASH") {
        eprintln!("{text}");
        return ExitCode::from(3);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(serve())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-app: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> std::io::Result<()> {
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1".to_owned());
    let port = std::env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    let listener = TcpListener::bind(format!("{address}:{port}")).await?;
    let mut term = signal(SignalKind::terminate())?;
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                connections.spawn(converse(stream, stopping.clone()));
            }
            // An ended one makes room; its error is its client's.
            Some(_) = connections.join_next() => {}
            _ = term.recv() => break,
        }
    }
    drop(listener);
    // Nobody may be left to hear it.
    let _ = stop.send(true);
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn converse(stream: TcpStream, mut stopping: watch::Receiver<bool>) -> std::io::Result<()> {
    let version = std::env::var("VERSION").unwrap_or_default();
    let mut stream = BufReader::new(stream);
    loop {
        let mut request = String::new();
        tokio::select! {
            biased;
            read = stream.read_line(&mut request) => if read? == 0 { return Ok(()) },
            _ = stopping.wait_for(|stop| *stop) => return Ok(()),
        }
        loop {
            let mut header = String::new();
            if stream.read_line(&mut header).await? == 0 {
                return Ok(());
            }
            if header.trim().is_empty() {
                break;
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        let (status, body) = answer(path, &version).await;
        let closing = *stopping.borrow();
        let connection = if closing { "close" } else { "keep-alive" };
        let response = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: {connection}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(response.as_bytes()).await?;
        stream.flush().await?;
        if closing {
            return Ok(());
        }
    }
}

async fn answer(path: &str, version: &str) -> (&'static str, String) {
    if path == "/healthz" && std::env::var("NEVER_READY").is_ok() {
        eprintln!("not ready: the lab says so");
        return ("503 Service Unavailable", "not ready".to_owned());
    }
    let ready_after = std::env::var("READY_AFTER_MS").ok().and_then(|ms| ms.parse().ok());
    if path == "/healthz" && STARTED.elapsed() < Duration::from_millis(ready_after.unwrap_or(0)) {
        return ("503 Service Unavailable", "not yet".to_owned());
    }
    if let Some(ms) = path.strip_prefix("/slow?ms=") {
        tokio::time::sleep(Duration::from_millis(ms.parse().unwrap_or(0))).await;
    }
    ("200 OK", version.to_owned())
}
