//! Asks a server for its health.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// For the whole question.
const LIMIT: Duration = Duration::from_secs(2);

/// Asks `server` (HOST:PORT) for `GET /healthz`.
///
/// # Errors
/// It does not answer with 200 within two seconds.
pub(crate) fn check(server: &str) -> Result<()> {
    let status = ask(server).with_context(|| format!("cannot ask {server} for its health"))?;
    if status != "200" {
        bail!("{server} is not healthy: it answers with status {status}");
    }
    Ok(())
}

/// The status of the answer, as it was written.
fn ask(server: &str) -> Result<String> {
    let started = Instant::now();
    let left = || LIMIT.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
    let mut addresses = server.to_socket_addrs().context("write it as HOST:PORT")?;
    let address = addresses.next().context("it has no address")?;
    let mut tcp = TcpStream::connect_timeout(&address, left()).context("nothing answers there")?;
    tcp.set_write_timeout(Some(left()))?;
    write!(tcp, "GET /healthz HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut piece = [0; 512];
    // The status is in the first line, which no server makes longer than this.
    while !answer.contains(&b'\n') && answer.len() < 1024 && started.elapsed() < LIMIT {
        tcp.set_read_timeout(Some(left()))?;
        match tcp.read(&mut piece).context("it does not answer in time")? {
            0 => break,
            n => answer.extend_from_slice(&piece[..n]),
        }
    }
    let line = String::from_utf8_lossy(&answer);
    let mut words = line.split_ascii_whitespace();
    match (words.next(), words.next()) {
        (Some(version), Some(status)) if version.starts_with("HTTP/1.") => Ok(status.to_string()),
        _ => bail!("what answers there does not speak HTTP/1.1"),
    }
}
