//! Requests whose answers are read one after another: before a transfer and beside it.

use std::io;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::net::TcpStream;

use super::http::{Answers, Event};
use super::running;

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

/// The time that an exchange may take: as long as a server may be silent, and more for what comes.
#[derive(Debug)]
pub struct Allowance {
    began: Duration,
    patience: Duration,
    bytes: u64,
}

/// What a byte that came adds to the time: this many a second is the least that an exchange goes on with.
const LEAST_BYTES_PER_S: u64 = 16 * 1024;
/// No exchange may take longer than this many times a server's silence.
const MOST_PATIENCES: u32 = 30;

impl Allowance {
    pub fn new(patience: Duration) -> Allowance {
        Allowance { began: running::now(), patience, bytes: 0 }
    }

    fn left(&self) -> Duration {
        let earned = Duration::from_secs_f64(self.bytes as f64 / LEAST_BYTES_PER_S as f64);
        let longest = self.patience.saturating_mul(MOST_PATIENCES);
        let deadline = self.began.saturating_add(self.patience.saturating_add(earned).min(longest));
        deadline.saturating_sub(running::now())
    }

    fn used_up(&self) -> anyhow::Error {
        match self.bytes {
            0 => {
                let patience_s = self.patience.as_secs_f64();
                anyhow!("it accepted the connection and then did not answer for {patience_s} s")
            }
            bytes => {
                let took_s = running::now().saturating_sub(self.began).as_secs_f64();
                anyhow!("it sent {bytes} bytes in {took_s:.1} s and its answer is not complete")
            }
        }
    }
}

/// Hands what comes to `take` until that says that it has had enough. Returns whether it did before the
/// server ended the connection.
///
/// # Errors
/// The time that is allowed is used up, the connection broke, what came is not HTTP, or `take` fails.
pub async fn receive(
    stream: &TcpStream,
    answers: &mut Answers,
    head_only: bool,
    allowance: &mut Allowance,
    mut take: impl FnMut(Event) -> Result<bool>,
) -> Result<bool> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let readable = running::timeout(allowance.left(), stream.readable()).await;
        readable.ok_or_else(|| allowance.used_up())??;
        let read = match stream.try_read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error).context("it broke the connection"),
        };
        allowance.bytes += read as u64;
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
