//! Requests whose answers are read one after another: before a transfer and beside it.

use std::io;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::http::{Answers, Event};

/// Sends all of `bytes`.
///
/// # Errors
/// The connection broke.
pub async fn send(stream: &TcpStream, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("it broke the connection while being asked"),
        }
    }
    Ok(())
}

/// Hands what comes to `take` until that says that it has had enough. Returns whether it did before the
/// server ended the connection.
///
/// # Errors
/// Nothing came for as long as `patience`, the connection broke, what came is not HTTP, or `take` fails.
pub async fn receive(
    stream: &TcpStream,
    answers: &mut Answers,
    head_only: bool,
    patience: Duration,
    mut take: impl FnMut(Event) -> Result<bool>,
) -> Result<bool> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        timeout(patience, stream.readable()).await.map_err(|_| silence(patience))??;
        let read = match stream.try_read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error).context("it broke the connection"),
        };
        let mut input = &buffer[..read];
        loop {
            let event = answers.next(&mut input, head_only)?;
            if event == Event::NeedMore {
                break;
            }
            if take(event)? {
                return Ok(true);
            }
        }
    }
}

fn silence(patience: Duration) -> anyhow::Error {
    anyhow!("it accepted the connection and then did not answer for {} s", patience.as_secs_f64())
}
