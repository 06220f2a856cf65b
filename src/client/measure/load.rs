//! Bulk transfers that keep nothing: files asked for over and over on one connection, or bytes sent to a
//! server's `/sink`, for as long as the caller measures.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::client::allowance::{Allowance, TooSlow, receive};
use crate::client::origin::Origin;
use crate::client::reach::LONGEST_BACKOFF;
use crate::client::running;
use crate::http::answer::MOST_REDIRECTS;
use crate::http::pipeline::PipelinedConnection;
use crate::http::reader::AnswerEvent;
use crate::tcp;
use crate::text::duration;

/// Requests on the way at once, as long as the size of files is not known.
const DEPTH: usize = 4;
/// Bytes asked for ahead once the length is known: more than any profile's link holds.
const AHEAD_BYTES: u64 = 8 << 20;
const DEEPEST: u64 = 256;

/// A server that sends the files one after another, for as long as it is asked to.
pub(crate) struct LoadSource<'a> {
    pub origin: &'a Origin,
    pub paths: &'a [String],
    pub keeps_alive: bool,
    /// The most that may be on its way, as the receiver's window; none for no such bound.
    pub window_bytes: Option<u64>,
}

/// Bytes and bodies that have come so far.
#[derive(Default)]
pub(crate) struct Received {
    pub body_bytes: AtomicU64,
    pub head_bytes: AtomicU64,
    /// Payload of a full segment, as negotiated; 0 while there was no connection.
    pub mss_bytes: AtomicU64,
}

impl Received {
    pub(crate) fn body(&self) -> u64 {
        self.body_bytes.load(Ordering::Relaxed)
    }

    /// All that TCP has delivered: bodies and heads.
    pub(crate) fn all(&self) -> u64 {
        self.body() + self.head_bytes.load(Ordering::Relaxed)
    }
}

impl LoadSource<'_> {
    /// Receives until it is dropped; returns only when the server cannot be used.
    pub(crate) async fn pull(&self, received: &Received, give_up: Duration) -> anyhow::Error {
        let mut next = self.paths.iter().cycle();
        // A server that is silent or breaks off while several requests are under way may have dropped all
        // but the first.
        let (mut ahead, mut busy_since) = (self.keeps_alive, None);
        loop {
            let before = received.body();
            let connection = async {
                let stream = self.origin.connect(give_up).await?;
                if let Some(window) = self.window_bytes {
                    tcp::clamp_window(stream.as_ref(), window).context("cannot bound the receive window")?;
                }
                Ok(stream)
            };
            let stream = match connection.await {
                Ok(stream) => stream,
                Err(error) => return error,
            };
            let ended = match self.pull_on(stream, &mut next, received, ahead, give_up).await {
                Ok(ended) => ended,
                Err(error) if ahead && error.is::<TooSlow>() => SourceEnd::Silent,
                // A server that closes with requests unread resets the connection, and its answer is lost.
                Err(_) if ahead && received.body() == before => {
                    ahead = false;
                    continue;
                }
                Err(error) => return error,
            };
            if received.body() > before {
                busy_since = None;
            }
            match ended {
                SourceEnd::Silent => ahead = false,
                SourceEnd::Busy(status, wait) => {
                    let since = *busy_since.get_or_insert_with(running::now);
                    if running::now() + wait >= since + give_up {
                        return anyhow!(
                            "{} answers {status} to a request for a file of its list",
                            self.origin
                        );
                    }
                    sleep(wait.max(LONGEST_BACKOFF)).await;
                }
                // Old servers end the connection after each answer. One that never answers is of no use.
                SourceEnd::Closed if received.body() == before => {
                    return anyhow!("{} ended the connection without sending anything", self.origin);
                }
                SourceEnd::Closed => {}
            }
        }
    }

    /// One connection, until it is of no more use. Asks for several files ahead if `ahead`.
    async fn pull_on<'p>(
        &self,
        stream: Arc<TcpStream>,
        paths: &mut impl Iterator<Item = &'p String>,
        received: &Received,
        ahead: bool,
        give_up: Duration,
    ) -> Result<SourceEnd> {
        note_mss(stream.as_ref(), &received.mss_bytes);
        let mut pipeline = PipelinedConnection::new(stream);
        // Paths asked for, with how many redirects led there.
        let (mut in_flight, mut redirected) = (VecDeque::new(), Vec::new());
        let mut depth = if ahead { DEPTH } else { 1 };
        let (mut closing, mut ended) = (false, SourceEnd::Closed);
        let mut fill =
            |pipeline: &mut PipelinedConnection, in_flight: &mut VecDeque<_>, led: Option<_>, depth| {
                redirected.extend(led);
                while in_flight.len() < depth {
                    let (path, hops) = match redirected.pop() {
                        Some(led) => led,
                        None => (paths.next().context("no file to fetch")?.clone(), 0),
                    };
                    pipeline.ask(&self.origin.request("GET", &path));
                    in_flight.push_back((path, hops));
                }
                anyhow::Ok(())
            };
        fill(&mut pipeline, &mut in_flight, None, depth)?;
        let mut led = None;
        let mut allowance = Allowance::endless(give_up);
        let pulling = receive(&mut pipeline, false, &mut allowance, |pipeline, event| {
            let Some((path, hops)) = in_flight.front() else { bail!("it sends bytes that nobody asked for") };
            match event {
                AnswerEvent::Head(head) => {
                    received.head_bytes.fetch_add(head.head_bytes as u64, Ordering::Relaxed);
                    closing = head.closes;
                    if head.is_busy() {
                        ended = SourceEnd::Busy(head.status, head.retry_after.unwrap_or_default());
                        return Ok(true);
                    }
                    if head.is_redirect() && *hops < MOST_REDIRECTS {
                        let path_led = head
                            .redirected(&self.origin.host, path)
                            .map_err(|place| anyhow!("it redirects {path} {place}, which is not followed"))?;
                        led = Some((path_led, hops + 1));
                    } else if head.status != 200 {
                        bail!("it answered {} to a request for a file of its list", head.status);
                    } else if ahead {
                        depth = depth_for(head.length);
                    }
                }
                AnswerEvent::Body(body) => {
                    received.body_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
                }
                AnswerEvent::End if closing => return Ok(true),
                AnswerEvent::End => {
                    in_flight.pop_front();
                    fill(pipeline, &mut in_flight, led.take(), depth)?;
                }
                AnswerEvent::NeedMore => {}
            }
            Ok(false)
        });
        pulling.await.with_context(|| format!("cannot measure the link to {}", self.origin))?;
        Ok(ended)
    }
}

/// Why a connection of a [`LoadSource`] is of no more use.
enum SourceEnd {
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

/// Bytes sent and acknowledged so far.
#[derive(Default)]
pub(crate) struct Sent {
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
pub(crate) async fn open_sink(origin: &Origin, give_up: Duration) -> Result<Option<PipelinedConnection>> {
    let mut pipeline = PipelinedConnection::new(origin.connect(give_up).await?);
    let request = format!("PUT /sink HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", origin.host);
    pipeline.queue(request.as_bytes());
    match running::timeout(give_up, status_of(&mut pipeline)).await {
        Some(Ok(Some(200))) => Ok(Some(pipeline)),
        // Servers that take no uploads say so in many ways, some by ending the connection.
        Some(_) => Ok(None),
        None => bail!("{origin} did not answer PUT /sink for {}", duration(give_up)),
    }
}

/// Sends to the sink until `stop` turns true, one body after another; then ends the last and waits for
/// the server's word. No more than `window_bytes` are on their way at once.
///
/// # Errors
/// The connection broke, or the server took less than all.
pub(crate) async fn push(
    mut pipeline: PipelinedConnection,
    origin: &Origin,
    window_bytes: Option<u64>,
    sent: &Sent,
    stop: &AtomicBool,
) -> Result<()> {
    let stream = pipeline.stream.clone();
    note_mss(stream.as_ref(), &sent.mss_bytes);
    let mss = sent.mss_bytes.load(Ordering::Relaxed).max(1);
    let before =
        tcp::bytes_acked(stream.as_ref()).context("the kernel does not tell what was acknowledged")?;
    let mut written = 0u64;
    let mut room = |wrote: u64| {
        written += wrote;
        let acked = tcp::bytes_acked(stream.as_ref()).map_or(0, |acked| acked.saturating_sub(before));
        sent.acked_bytes.store(acked, Ordering::Relaxed);
        let on_the_way = written.saturating_sub(acked);
        // Whole segments, so that what is sent is full frames.
        window_bytes.map_or(u64::MAX, |window| window.saturating_sub(on_the_way)) / mss * mss
    };
    while !stop.load(Ordering::Relaxed) {
        push_body(&mut pipeline, origin, &mut room, stop)
            .await
            .with_context(|| format!("cannot upload to {origin}"))?;
    }
    Ok(())
}

/// Sends one chunked body, until it is as long as a server takes or `stop` turns true. `room` is told what
/// was written last, and says how much more may be.
async fn push_body(
    pipeline: &mut PipelinedConnection,
    origin: &Origin,
    room: &mut impl FnMut(u64) -> u64,
    stop: &AtomicBool,
) -> Result<()> {
    let head = format!("PUT /sink HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n", origin.host);
    pipeline.queue(head.as_bytes());
    pipeline.sent().await?;
    let mut chunk = format!("{CHUNK_BYTES:x}\r\n").into_bytes();
    chunk.resize(chunk.len() + CHUNK_BYTES, 0);
    chunk.extend_from_slice(b"\r\n");
    // Many chunks in one buffer, since a write should be able to hand over a whole window.
    let many = chunk.repeat(32);
    let (mut place, mut body, mut wrote) = (0, 0u64, 0);
    while !stop.load(Ordering::Relaxed) && body < MOST_BYTES {
        let size = room(wrote).min((many.len() - place) as u64) as usize;
        wrote = 0;
        match pipeline.stream.try_write(&many[place..place + size]) {
            Ok(n) if n > 0 => {
                (wrote, body, place) = (n as u64, body + n as u64, (place + n) % many.len());
                // The measuring code runs on this task too.
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
    pipeline.queue(&many[place..place + rest]);
    pipeline.queue(b"0\r\n\r\n");
    match status_of(pipeline).await? {
        Some(200) => Ok(()),
        Some(status) => bail!("it answered {status}"),
        None => bail!("it ended the connection"),
    }
}

/// Sends what is queued and reads one answer whole; its status, or nothing where the connection ends first.
async fn status_of(pipeline: &mut PipelinedConnection) -> Result<Option<u16>> {
    let mut status = None;
    // The callers have a time limit of their own.
    let mut allowance = Allowance::new(Duration::from_secs(24 * 3600));
    let whole = receive(pipeline, false, &mut allowance, |_, event| {
        if let AnswerEvent::Head(head) = &event {
            status = Some(head.status);
        }
        Ok(event == AnswerEvent::End)
    });
    Ok(whole.await?.then_some(status).flatten())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::units::LinkId;

    #[tokio::test]
    async fn server_that_drops_pipelined_requests_is_asked_one_by_one() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let name = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut packet = [0; 65536];
                while stream.read(&mut packet).is_ok_and(|read| read > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n");
                    let _ = stream.write_all(&[7; 2000]);
                }
            }
        });
        let origin = Origin::resolve(LinkId::A, &name, None).await.unwrap();
        let paths = ["/x".to_string()];
        let source = LoadSource { origin: &origin, paths: &paths, keeps_alive: true, window_bytes: None };
        let received = Received::default();
        let enough = async {
            while received.body() < 20_000 {
                sleep(GLANCE).await;
            }
        };
        tokio::select! {
            error = source.pull(&received, Duration::from_millis(300)) => panic!("{error:#}"),
            () = enough => {}
        }
    }

    #[test]
    fn enough_is_asked_for_whatever_the_size_of_files() {
        assert_eq!(depth_for(Some(1 << 30)), DEPTH);
        assert_eq!(depth_for(Some(500_000)), 16);
        assert_eq!(depth_for(Some(0)), DEEPEST as usize);
        assert_eq!(depth_for(None), DEPTH);
    }
}
