//! What links carry: bulk TCP over one or both of them for a while, counted and thrown away.
//!
//! Nothing is kept, verified or scheduled here. What is measured is goodput as a run sees it, payload
//! of HTTP bodies on one connection a link, without the time in which a connection finds its rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};

use super::http::{Answers, Event, Request};
use super::job::Failure;
use super::links::Links;
use super::peer::Peer;
use super::signals::Signals;
use super::{Args, Asked, blocking, listing, shape, unshape};
use crate::record::{Log, PerLink};
use crate::units::{Direction, LinkId};

/// The part of the time in which a connection finds its rate, and which does not count.
const WARM_UP: f64 = 0.25;
/// Requests on the way at once, so that the link never waits for one.
const DEPTH: usize = 4;
/// How long the queues may take to drain between two measurements.
const DRAIN: Duration = Duration::from_secs(10);

/// Goodput of each link, kbit/s.
#[derive(Clone, Debug)]
pub struct Found {
    /// While the other link rests.
    pub alone_kbit: PerLink<f64>,
    /// While both are busy.
    pub together_kbit: PerLink<f64>,
}

/// Shapes the links, measures each alone and then both at once, for `span` each, and clears them.
///
/// # Errors
/// A server cannot be reached or sends nothing, the links cannot be shaped or cleared, or a signal.
pub async fn measure(
    args: &Args,
    asked: Asked,
    span: Duration,
    log: &Arc<Log>,
    signals: &mut Signals,
) -> Result<Found, Failure> {
    let mut links = None;
    let mut found = None;
    let measuring = async {
        found = Some(measure_all(args, asked, span, log, &mut links).await?);
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = measuring => outcome,
        interrupted = signals.next() => Err(interrupted),
    };
    unshape(links, outcome).await?;
    found.ok_or_else(|| Failure::new("internal", anyhow::anyhow!("a measurement found nothing")))
}

async fn measure_all(
    args: &Args,
    asked: Asked,
    span: Duration,
    log: &Arc<Log>,
    kept: &mut Option<Arc<Links>>,
) -> Result<Found, Failure> {
    let unreachable = |error| Failure::new("unreachable", error);
    let resolve = |link: LinkId| Peer::resolve(link, &args.servers[link.index()], args.congestion.clone());
    let (a, b) = tokio::try_join!(resolve(LinkId::A), resolve(LinkId::B)).map_err(unreachable)?;
    let links = kept.insert(shape(args, asked, [&a, &b], log).await?).clone();
    let patience = args.give_up.0;
    let (ia, ib) = tokio::try_join!(a.introduce(patience), b.introduce(patience)).map_err(unreachable)?;
    let files = listing::agree(args.files.as_deref(), ia.list, ib.list)
        .map_err(|error| Failure::new("lists_differ", error))?;
    let paths: Vec<String> = files.into_iter().map(|file| file.path).collect();
    let [a, b] = [(a, ia.keeps_alive), (b, ib.keeps_alive)].map(|(peer, keeps_alive)| Source {
        peer,
        paths: &paths,
        depth: if keeps_alive { DEPTH } else { 1 },
    });
    drained(&links).await?;
    let alone_a = a.goodput_kbit(span).await.map_err(unreachable)?;
    drained(&links).await?;
    let alone_b = b.goodput_kbit(span).await.map_err(unreachable)?;
    drained(&links).await?;
    let (together_a, together_b) =
        tokio::try_join!(a.goodput_kbit(span), b.goodput_kbit(span)).map_err(unreachable)?;
    Ok(Found {
        alone_kbit: PerLink { a: alone_a, b: alone_b },
        together_kbit: PerLink { a: together_a, b: together_b },
    })
}

/// Waits until nothing is left in the links of what was asked for before.
async fn drained(links: &Arc<Links>) -> Result<(), Failure> {
    let until = Instant::now() + DRAIN;
    while Instant::now() < until {
        let reading = links.clone();
        let reading = blocking(move || reading.read()).await?;
        let queued = |link, direction| reading.shaping(link, direction).map_or(0, |s| s.queue_packets);
        if LinkId::BOTH.iter().all(|&link| Direction::BOTH.iter().all(|&d| queued(link, d) == 0)) {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
    // A link on which others send too never is empty; the measurement then has them in it.
    tracing::warn!("the links' queues did not drain in {} s", DRAIN.as_secs());
    Ok(())
}

/// A server that sends the files one after another, for as long as it is asked to.
struct Source<'a> {
    peer: Peer,
    paths: &'a [String],
    /// Requests in flight at once.
    depth: usize,
}

impl Source<'_> {
    /// The goodput over `span` after its warm-up.
    async fn goodput_kbit(&self, span: Duration) -> Result<f64> {
        let received = AtomicU64::new(0);
        let start = Instant::now();
        let (warm, end) = (start + span.mul_f64(WARM_UP), start + span);
        let before = async {
            sleep_until(warm).await;
            let (at, bytes) = (Instant::now(), received.load(Ordering::Relaxed));
            sleep_until(end).await;
            let spent_s = at.elapsed().as_secs_f64();
            (received.load(Ordering::Relaxed) - bytes) as f64 * 8e-3 / spent_s
        };
        let kbit = tokio::select! {
            error = self.pull(&received, end) => return Err(error),
            kbit = before => kbit,
        };
        if kbit <= 0.0 {
            bail!(
                "{} sent nothing for {:.1} s; give the experiment a longer throughput",
                self.peer,
                span.as_secs_f64()
            );
        }
        Ok(kbit)
    }

    /// Receives until it is dropped; returns only when the server cannot be used.
    async fn pull(&self, received: &AtomicU64, end: Instant) -> anyhow::Error {
        let mut next = self.paths.iter().cycle();
        loop {
            let before = received.load(Ordering::Relaxed);
            let connection = async {
                let stream = self.peer.connect(end.saturating_duration_since(Instant::now())).await?;
                self.pull_on(&stream, &mut next, received).await
            };
            if let Err(error) = connection.await {
                return error;
            }
            // Old servers end the connection after each answer. One that never answers is of no use.
            if received.load(Ordering::Relaxed) == before {
                return anyhow::anyhow!("{} ended the connection without sending anything", self.peer);
            }
        }
    }

    /// One connection, until the server ends it after an answer.
    async fn pull_on<'p>(
        &self,
        stream: &TcpStream,
        paths: &mut impl Iterator<Item = &'p String>,
        received: &AtomicU64,
    ) -> Result<()> {
        let (mut answers, mut to_send, mut in_flight) = (Answers::default(), Vec::new(), 0);
        let mut buffer = vec![0; 256 * 1024];
        let (mut closing, lost) = (false, || format!("the connection to {} was lost", self.peer));
        loop {
            while in_flight < self.depth && !closing {
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
                    Event::Head(head) => closing = head.closes,
                    Event::Body(body) => drop(received.fetch_add(body.len() as u64, Ordering::Relaxed)),
                    Event::End if closing => return Ok(()),
                    Event::End => in_flight -= 1,
                    Event::NeedMore => break,
                }
            }
        }
    }
}
