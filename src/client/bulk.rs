//! Bulk transfers that keep nothing: files asked for over and over on one connection, or bytes sent to
//! a server's `/sink`, for as long as somebody measures. What is measured is for the callers to say.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::exchange::{receive, send};
use super::http::{Answers, Event, Request};
use super::peer::Peer;
use crate::tcp;

/// Requests on the way at once, as long as the size of files is not known.
const DEPTH: usize = 4;
/// What is asked for ahead once it is: more than any profile's link holds.
const AHEAD_BYTES: u64 = 8 << 20;
const DEEPEST: u64 = 256;

/// A server that sends the files one after another, for as long as it is asked to.
pub struct Source<'a> {
    pub peer: &'a Peer,
    pub paths: &'a [String],
    pub keeps_alive: bool,
    /// The most that may be on its way, as the receiver's window; none for no such bound.
    pub window_bytes: Option<u64>,
}

/// What has come so far.
#[derive(Default)]
pub struct Received {
    pub body_bytes: AtomicU64,
    pub head_bytes: AtomicU64,
    /// Payload of a full segment, as negotiated; 0 while there was no connection.
    pub mss_bytes: AtomicU64,
}

impl Received {
    pub fn body(&self) -> u64 {
        self.body_bytes.load(Ordering::Relaxed)
    }

    /// All that TCP has delivered: bodies and heads.
    pub fn all(&self) -> u64 {
        self.body() + self.head_bytes.load(Ordering::Relaxed)
    }
}

impl Source<'_> {
    /// Receives until it is dropped; returns only when the server cannot be used.
    pub async fn pull(&self, received: &Received, patience: Duration) -> anyhow::Error {
        let mut next = self.paths.iter().cycle();
        loop {
            let before = received.body();
            let connection = async {
                let stream = self.peer.connect(patience).await?;
                if let Some(window) = self.window_bytes {
                    tcp::clamp_window(stream.as_ref(), window).context("cannot bound the receive window")?;
                }
                self.pull_on(&stream, &mut next, received).await
            };
            if let Err(error) = connection.await {
                return error;
            }
            // Old servers end the connection after each answer. One that never answers is of no use.
            if received.body() == before {
                return anyhow::anyhow!("{} ended the connection without sending anything", self.peer);
            }
        }
    }

    /// One connection, until the server ends it after an answer.
    async fn pull_on<'p>(
        &self,
        stream: &TcpStream,
        paths: &mut impl Iterator<Item = &'p String>,
        received: &Received,
    ) -> Result<()> {
        note_mss(stream, &received.mss_bytes);
        let (mut answers, mut to_send, mut in_flight) = (Answers::default(), Vec::new(), 0);
        let mut depth = if self.keeps_alive { DEPTH } else { 1 };
        let mut buffer = vec![0; 256 * 1024];
        let (mut closing, lost) = (false, || format!("the connection to {} was lost", self.peer));
        loop {
            while in_flight < depth && !closing {
                let Some(path) = paths.next() else { bail!("there is no file to ask for") };
                let (host, congestion) = (self.peer.host.as_str(), self.peer.congestion.as_deref());
                Request { method: "GET", host, path, from: 0, to: None, if_range: None, congestion }
                    .render(&mut to_send);
                in_flight += 1;
            }
            let writing =
                if to_send.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
            stream.ready(writing).await.with_context(lost)?;
            match stream.try_write(&to_send) {
                Ok(written) => drop(to_send.drain(..written)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).with_context(lost),
            }
            let read = match stream.try_read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error).with_context(lost),
            };
            let mut input = &buffer[..read];
            loop {
                match answers.next(&mut input, false)? {
                    Event::Head(head) if head.status != 200 => {
                        bail!("{} answered {} to a request for a file of its list", self.peer, head.status)
                    }
                    Event::Head(head) => {
                        received.head_bytes.fetch_add(head.head_bytes as u64, Ordering::Relaxed);
                        closing = head.closes;
                        if self.keeps_alive {
                            depth = depth_for(head.length);
                        }
                    }
                    Event::Body(body) => {
                        received.body_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
                    }
                    Event::End if closing => return Ok(()),
                    Event::End => in_flight -= 1,
                    Event::NeedMore => break,
                }
            }
        }
    }
}

/// How many requests for files of this size keep a link busy.
fn depth_for(length: Option<u64>) -> usize {
    let files = length.map_or(1, |length| AHEAD_BYTES / length.max(1));
    files.clamp(DEPTH as u64, DEEPEST) as usize
}

fn note_mss(stream: &impl AsRawFd, mss: &AtomicU64) {
    if let Ok(info) = tcp::read(stream) {
        mss.store(info.snd_mss_bytes, Ordering::Relaxed);
    }
}

/// What has been sent and acknowledged so far.
#[derive(Default)]
pub struct Sent {
    pub acked_bytes: AtomicU64,
    pub mss_bytes: AtomicU64,
}

/// A chunk of a chunked body. It is small, so that an upload over a slow link can end soon.
const CHUNK_BYTES: usize = 8 * 1024;
/// Below the server's own bound of 1 GiB for one body.
const MOST_BYTES: u64 = 1_000_000_000;
/// How often an upload looks what has been acknowledged.
const GLANCE: Duration = Duration::from_millis(2);

/// Whether a server takes `PUT /sink`; the connection on which it said so, if it does.
///
/// # Errors
/// It cannot be reached.
pub async fn open_sink(peer: &Peer, patience: Duration) -> Result<Option<Arc<TcpStream>>> {
    let stream = peer.connect(patience).await?;
    let request = format!("PUT /sink HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", peer.host);
    let asked = async {
        send(&stream, request.as_bytes()).await?;
        status_of(&stream).await
    };
    match tokio::time::timeout(patience, asked).await {
        Ok(Ok(Some(200))) => Ok(Some(stream)),
        // Servers that take no uploads say so in many ways, some by ending the connection.
        Ok(_) => Ok(None),
        Err(_) => bail!("{peer} did not answer PUT /sink for {} s", patience.as_secs_f64()),
    }
}

/// Sends to the sink until `stop` turns true, one body after another; then ends the last and waits for
/// the server's word. No more than `window_bytes` are on their way at once.
///
/// # Errors
/// The connection broke, or the server took less than all.
pub async fn push(
    stream: &TcpStream,
    peer: &Peer,
    window_bytes: Option<u64>,
    sent: &Sent,
    stop: &AtomicBool,
) -> Result<()> {
    note_mss(stream, &sent.mss_bytes);
    let mss = sent.mss_bytes.load(Ordering::Relaxed).max(1);
    let before = tcp::bytes_acked(stream).context("the kernel does not tell what was acknowledged")?;
    let mut written = 0u64;
    let mut room = |wrote: u64| {
        written += wrote;
        let acked = tcp::bytes_acked(stream).map_or(0, |acked| acked.saturating_sub(before));
        sent.acked_bytes.store(acked, Ordering::Relaxed);
        let on_the_way = written.saturating_sub(acked);
        // Whole segments, so that what is sent is full frames.
        window_bytes.map_or(u64::MAX, |window| window.saturating_sub(on_the_way)) / mss * mss
    };
    while !stop.load(Ordering::Relaxed) {
        push_body(stream, peer, &mut room, stop).await.with_context(|| format!("cannot upload to {peer}"))?;
    }
    Ok(())
}

/// Sends one chunked body, until it is as long as a server takes or `stop` turns true. `room` is told what
/// was written last, and says how much more may be.
async fn push_body(
    stream: &TcpStream,
    peer: &Peer,
    room: &mut impl FnMut(u64) -> u64,
    stop: &AtomicBool,
) -> Result<()> {
    let head = format!("PUT /sink HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n", peer.host);
    send(stream, head.as_bytes()).await?;
    let mut chunk = format!("{CHUNK_BYTES:x}\r\n").into_bytes();
    chunk.resize(chunk.len() + CHUNK_BYTES, 0);
    chunk.extend_from_slice(b"\r\n");
    // Many chunks in one buffer, since a write should be able to hand over a whole window.
    let many = chunk.repeat(32);
    let (mut place, mut body, mut wrote) = (0, 0u64, 0);
    while !stop.load(Ordering::Relaxed) && body < MOST_BYTES {
        let size = room(wrote).min((many.len() - place) as u64) as usize;
        wrote = 0;
        match stream.try_write(&many[place..place + size]) {
            Ok(n) if n > 0 => {
                (wrote, body, place) = (n as u64, body + n as u64, (place + n) % many.len());
                // Whoever measures runs on this task too.
                tokio::task::yield_now().await;
                continue;
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        sleep(GLANCE).await;
    }
    let rest = (chunk.len() - place % chunk.len()) % chunk.len();
    let mut end = many[place..place + rest].to_vec();
    end.extend_from_slice(b"0\r\n\r\n");
    send(stream, &end).await?;
    match status_of(stream).await? {
        Some(200) => Ok(()),
        Some(status) => bail!("it answered {status}"),
        None => bail!("it ended the connection"),
    }
}

/// Reads one answer whole; its status, or nothing where the connection ends first.
async fn status_of(stream: &TcpStream) -> Result<Option<u16>> {
    let (mut answers, mut status) = (Answers::default(), None);
    // Whoever waits for this has a time limit of their own.
    let whole = receive(stream, &mut answers, false, Duration::MAX, |event| {
        if let Event::Head(head) = &event {
            status = Some(head.status);
        }
        Ok(event == Event::End)
    });
    Ok(whole.await?.then_some(status).flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_is_asked_for_whatever_the_size_of_files() {
        assert_eq!(depth_for(Some(1 << 30)), DEPTH);
        assert_eq!(depth_for(Some(500_000)), 16);
        assert_eq!(depth_for(Some(0)), DEEPEST as usize);
        assert_eq!(depth_for(None), DEPTH);
    }
}
