//! Frames between simulated hosts: a length of four bytes, then JSON. One connection carries one question and one answer.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::net::{Net, Stream};

/// No frame is longer, in bytes.
const MOST: u32 = 16 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum AskError {
    /// There was no connection: the question was not sent, and never will be.
    NotSent(io::Error),
    /// It was sent, at least in part.
    Lost,
}

/// Asks a host and waits for its answer, for as long as it takes.
pub(crate) async fn ask<Q: Serialize, A: DeserializeOwned>(
    net: &Net,
    host: &str,
    port: u16,
    question: &Q,
) -> Result<A, AskError> {
    let mut stream = net.connect(host, port).await.map_err(AskError::NotSent)?;
    let answer = async {
        write(&mut stream, question).await?;
        read(&mut stream).await
    };
    answer.await.map_err(|_| AskError::Lost)
}

pub(crate) async fn write<T: Serialize>(stream: &mut Stream, value: &T) -> io::Result<()> {
    let json = serde_json::to_vec(value)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(json);
    stream.write_all(&frame).await
}

pub(crate) async fn read<T: DeserializeOwned>(stream: &mut Stream) -> io::Result<T> {
    let length = stream.read_u32().await?;
    if length > MOST {
        return Err(io::Error::other(format!("a frame of {length} bytes")));
    }
    let mut json = vec![0; length as usize];
    stream.read_exact(&mut json).await?;
    Ok(serde_json::from_slice(&json)?)
}
