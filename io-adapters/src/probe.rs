//! Readiness probes over the network: one attempt, one verdict.
//!
//! A probe that does not succeed is not an error of the adapter but an answer: the `Err` says, in the words that are shown to
//! people, why the instance is not ready. Probes of the kind `exec` belong to the runtimes, which know the instance's environment.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A `GET` of `path` must be answered, within `limit`, with a status of 200 to 399. Redirects are not followed and the body is not read.
///
/// # Errors
///
/// The reason why the instance does not count as ready.
pub async fn http(address: IpAddr, port: u16, path: &str, limit: Duration) -> Result<(), String> {
    let to = SocketAddr::new(address, port);
    let status = within(limit, &format!("GET http://{to}{path}"), async {
        let stream = connect(to).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| format!("no HTTP with {to}: {error}"))?;
        let request = http::Request::get(path)
            .header(http::header::HOST, to.to_string())
            .header(http::header::USER_AGENT, "ployz-probe")
            .header(http::header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| format!("{path:?} cannot be requested: {error}"))?;
        let answer = sender.send_request(request);
        tokio::pin!(connection, answer);
        let mut open = true;
        // The connection makes progress only while it is polled; dropping both at the end closes it.
        let response = loop {
            tokio::select! {
                answer = &mut answer => break answer,
                _ = &mut connection, if open => open = false,
            }
        };
        Ok(response
            .map_err(|error| format!("no answer from {to}: {}", innermost(&error)))?
            .status())
    })
    .await?;
    if (200..=399).contains(&status.as_u16()) {
        Ok(())
    } else {
        Err(format!("GET http://{to}{path} was answered with {status}"))
    }
}

/// A connection must be accepted within `limit`; it is closed at once.
///
/// # Errors
///
/// The reason why the instance does not count as ready.
pub async fn tcp(address: IpAddr, port: u16, limit: Duration) -> Result<(), String> {
    let to = SocketAddr::new(address, port);
    within(limit, &format!("a connection to {to}"), connect(to)).await.map(drop)
}

async fn connect(to: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(to).await.map_err(|error| format!("{to} does not accept: {error}"))
}

async fn within<T>(
    limit: Duration,
    what: &str,
    attempt: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    timeout(limit, attempt)
        .await
        .unwrap_or_else(|_| Err(format!("{what} took longer than {} ms", limit.as_millis())))
}

fn innermost(error: &dyn std::error::Error) -> &dyn std::error::Error {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const LIMIT: Duration = Duration::from_secs(5);

    /// Answers one connection with `answer` (none: keeps it open in silence) and hands back what was asked.
    async fn answering(answer: Option<&'static str>) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 4096];
            let read = stream.read(&mut buffer).await.unwrap();
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                None => std::future::pending().await,
            }
            String::from_utf8_lossy(&buffer[..read]).into_owned()
        });
        (port, served)
    }

    #[tokio::test]
    async fn success_and_redirect_are_ready_and_the_path_goes_out_as_written() {
        for status in ["200 OK", "204 No Content", "302 Found"] {
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nlocation: /x\r\n\r\n");
            let (port, served) = answering(Some(answer.leak())).await;
            assert_eq!(http(HERE, port, "/ready?deep=1", LIMIT).await, Ok(()), "{status}");
            let asked = served.await.unwrap();
            assert!(asked.starts_with("GET /ready?deep=1 HTTP/1.1\r\n"), "{asked}");
            assert!(asked.contains(&format!("host: 127.0.0.1:{port}")), "{asked}");
        }
    }

    #[tokio::test]
    async fn a_body_that_never_ends_does_not_matter() {
        let (port, _served) =
            answering(Some("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nx")).await;
        assert_eq!(http(HERE, port, "/", LIMIT).await, Ok(()));
    }

    #[tokio::test]
    async fn an_error_status_is_named() {
        let (port, _served) =
            answering(Some("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")).await;
        let why = http(HERE, port, "/", LIMIT).await.unwrap_err();
        assert!(why.contains("503 Service Unavailable"), "{why}");
    }

    #[tokio::test]
    async fn silence_nonsense_and_a_closed_port_are_not_ready() {
        let (port, _served) = answering(None).await;
        let why = http(HERE, port, "/", Duration::from_millis(50)).await.unwrap_err();
        assert!(why.contains("took longer than 50 ms"), "{why}");

        let (port, _served) = answering(Some("SSH-2.0-OpenSSH\r\n")).await;
        let why = http(HERE, port, "/", LIMIT).await.unwrap_err();
        assert!(why.contains("no answer from"), "{why}");

        let free = TcpListener::bind((HERE, 0)).await.unwrap().local_addr().unwrap().port();
        let why = http(HERE, free, "/", LIMIT).await.unwrap_err();
        assert!(why.contains("does not accept"), "{why}");
        assert!(tcp(HERE, free, LIMIT).await.is_err());
    }

    #[tokio::test]
    async fn an_accepted_connection_is_enough_for_tcp() {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(tcp(HERE, port, LIMIT).await, Ok(()));
    }
}
