//! Bulk transfers that keep nothing: files asked for over and over on one connection, or bytes sent to
//! a server's `/sink`, for as long as somebody measures. What is measured is for the callers to say.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::exchange::{Allowance, receive, send};
use super::http::{Answers, Event, MOST_REDIRECTS, Request};
use super::peer::Peer;
use super::reach::LONGEST_BACKOFF;
use super::running;
use crate::tcp;

/// Requests on the way at once, as long as the size of files is not known.
const DEPTH: usize = 4;
/// What is asked for ahead once it is: more than any profile's link holds.
const AHEAD_BYTES: u64 = 8 << 20;
const DEEPEST: u64 = 256;
/// A server that sends less than this for as long as it may be silent is silent.
const LEAST_BYTES: u64 = 1024;

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
        // A server that is silent while several requests are under way may have dropped all but the first.
        let (mut ahead, mut busy_since) = (self.keeps_alive, None);
        loop {
            let before = received.body();
            let connection = async {
                let stream = self.peer.connect(patience).await?;
                if let Some(window) = self.window_bytes {
                    tcp::clamp_window(stream.as_ref(), window).context("cannot bound the receive window")?;
                }
                self.pull_on(&stream, &mut next, received, ahead, patience).await
            };
            let ended = match connection.await {
                Ok(ended) => ended,
                Err(error) => return error,
            };
            if received.body() > before {
                busy_since = None;
            }
            match ended {
                Ended::Silent if ahead => ahead = false,
                Ended::Silent => {
                    let patience_s = patience.as_secs_f64();
                    return anyhow!("{} sent less than {LEAST_BYTES} bytes in {patience_s} s", self.peer);
                }
                Ended::Busy(status, wait) => {
                    let since = *busy_since.get_or_insert_with(running::now);
                    if running::now() + wait >= since + patience {
                        return anyhow!("{} answers {status} to a request for a file of its list", self.peer);
                    }
                    sleep(wait.max(LONGEST_BACKOFF)).await;
                }
                // Old servers end the connection after each answer. One that never answers is of no use.
                Ended::Closed if received.body() == before => {
                    return anyhow!("{} ended the connection without sending anything", self.peer);
                }
                Ended::Closed => {}
            }
        }
    }

    /// One connection, until it is of no more use. Asks for several files ahead if `ahead`.
    async fn pull_on<'p>(
        &self,
        stream: &TcpStream,
        paths: &mut impl Iterator<Item = &'p String>,
        received: &Received,
        ahead: bool,
        patience: Duration,
    ) -> Result<Ended> {
        note_mss(stream, &received.mss_bytes);
        let (mut answers, mut to_send) = (Answers::default(), Vec::new());
        // Paths asked for, with how many redirects led there.
        let (mut in_flight, mut redirected) = (VecDeque::new(), Vec::new());
        let mut depth = if ahead { DEPTH } else { 1 };
        let mut buffer = vec![0; 256 * 1024];
        let (mut closing, lost) = (false, || format!("the connection to {} was lost", self.peer));
        let (mut due, mut due_bytes) = (running::now() + patience, received.body() + LEAST_BYTES);
        loop {
            while in_flight.len() < depth && !closing {
                let (path, hops) = match redirected.pop() {
                    Some(led) => led,
                    None => (paths.next().context("there is no file to ask for")?.clone(), 0),
                };
                let (host, congestion) = (self.peer.host.as_str(), self.peer.congestion.as_deref());
                Request { method: "GET", host, path: &path, from: 0, to: None, if_range: None, congestion }
                    .render(&mut to_send);
                in_flight.push_back((path, hops));
            }
            let writing =
                if to_send.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
            let left = due.saturating_sub(running::now());
            let ready = running::timeout(left, stream.ready(writing)).await;
            if received.body() >= due_bytes {
                (due, due_bytes) = (running::now() + patience, received.body() + LEAST_BYTES);
            } else if running::now() >= due {
                return Ok(Ended::Silent);
            }
            ready.transpose().with_context(lost)?;
            match stream.try_write(&to_send) {
                Ok(written) => drop(to_send.drain(..written)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).with_context(lost),
            }
            let read = match stream.try_read(&mut buffer) {
                Ok(0) => return Ok(Ended::Closed),
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error).with_context(lost),
            };
            let mut input = &buffer[..read];
            loop {
                let Some((path, hops)) = in_flight.front() else {
                    answers.idle(input)?;
                    break;
                };
                match answers.next(&mut input, false)? {
                    Event::Head(head) => {
                        received.head_bytes.fetch_add(head.head_bytes as u64, Ordering::Relaxed);
                        closing = head.closes;
                        if head.is_busy() {
                            return Ok(Ended::Busy(head.status, head.retry_after.unwrap_or_default()));
                        }
                        if head.is_redirect() && *hops < MOST_REDIRECTS {
                            let led = head.redirected(&self.peer.host, path).map_err(|place| {
                                anyhow!("{} redirects {path} {place}, which is not followed", self.peer)
                            })?;
                            redirected.push((led, hops + 1));
                        } else if head.status != 200 {
                            bail!(
                                "{} answered {} to a request for a file of its list",
                                self.peer,
                                head.status
                            );
                        } else if ahead {
                            depth = depth_for(head.length);
                        }
                    }
                    Event::Body(body) => {
                        received.body_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
                    }
                    Event::End if closing => return Ok(Ended::Closed),
                    Event::End => drop(in_flight.pop_front()),
                    Event::NeedMore => break,
                }
            }
        }
    }
}

/// Why a connection of a [`Source`] is of no more use.
enum Ended {
    Closed,
    /// Nearly nothing came for as long as a server may be silent.
    Silent,
    /// The server answered with this status, and asks to wait.
    Busy(u16, Duration),
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
    // The callers have a time limit of their own.
    let mut allowance = Allowance::new(Duration::from_secs(24 * 3600));
    let whole = receive(stream, &mut answers, false, &mut allowance, |event| {
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
