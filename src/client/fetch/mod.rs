//! One link at work: a connection at a time, requests pipelined on it, answers into files.
//!
//! Asks the [`Job`] what to fetch and never decides it. A connection that breaks gives back what it
//! owed and is opened again with backoff; a server from which nothing comes for `--give-up` is
//! given up.

mod receive;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until};

use super::goodput::Goodput;
use super::http::{Answers, Head, NotHttp, Request};
use super::job::{Failure, Job, Partial, Pipeline};
use super::peer::{Peer, rtt_of};
use super::schedule::{Next, Part};

/// Large enough that a read costs little beside its copy, small enough for a core's cache.
const READ_BUFFER_BYTES: usize = 256 * 1024;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);
/// A bound on what `auto` asks for ahead, whatever it computes.
const DEEPEST_AUTO: usize = 64;

/// How a link's work came to its end.
#[derive(Debug, PartialEq, Eq)]
pub enum LinkEnd {
    /// There is nothing left for it.
    Finished,
    /// It was given up, and the other link goes on.
    GivenUp,
}

/// Why a connection is of no more use.
enum Broken {
    /// The server announced the end after an answer; that is no fault.
    Closed,
    Peer(String),
    Fatal(Failure),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Broken {
        Broken::Fatal(failure)
    }
}

impl From<NotHttp> for Broken {
    fn from(error: NotHttp) -> Broken {
        Broken::Peer(error.to_string())
    }
}

/// A request that has been sent, or is about to be.
struct InFlight {
    part: Part,
    partial: Option<Partial>,
    requested: Instant,
    first_byte: Option<Instant>,
    head: Option<Head>,
    /// Where in the file this answer began.
    began_at: u64,
}

struct Connection {
    stream: Arc<TcpStream>,
    answers: Answers,
    to_send: Vec<u8>,
    in_flight: VecDeque<InFlight>,
    /// The server ends the connection after the answer under way.
    closing: bool,
    rtt: Duration,
}

/// One link's side of a run.
pub struct Fetcher {
    job: Arc<Job>,
    peer: Peer,
    goodput: Goodput,
    /// Whether the server keeps connections open between answers.
    keeps_alive: bool,
    /// When something last came, or was first due after a time with nothing to do.
    last_progress: Instant,
    buffer: Vec<u8>,
}

impl Fetcher {
    pub fn new(job: Arc<Job>, peer: Peer, keeps_alive: bool) -> Fetcher {
        Fetcher {
            job,
            peer,
            goodput: Goodput::default(),
            keeps_alive,
            last_progress: Instant::now(),
            buffer: vec![0; READ_BUFFER_BYTES],
        }
    }

    /// Works until there is nothing left for this link, beginning on an open connection.
    pub async fn run(mut self, open: Arc<TcpStream>) -> Result<LinkEnd, Failure> {
        let mut ready = Some(open);
        let mut backoff = FIRST_BACKOFF;
        self.last_progress = Instant::now();
        loop {
            let before = self.last_progress;
            let problem = match self.attempt(ready.take()).await {
                Ok(()) => return Ok(LinkEnd::Finished),
                Err(Broken::Closed) => match self.job.work_left(self.peer.link).await {
                    true => continue,
                    false => return Ok(LinkEnd::Finished),
                },
                Err(Broken::Fatal(failure)) => return Err(failure),
                Err(Broken::Peer(problem)) => problem,
            };
            if self.last_progress > before {
                backoff = FIRST_BACKOFF;
            }
            let away = self.last_progress.elapsed();
            if away + backoff >= self.job.give_up {
                return self.give_up(&problem);
            }
            let link = self.peer.link;
            self.job.fault(link, problem, format!("trying again in {} ms", backoff.as_millis()));
            sleep(backoff).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    fn give_up(&self, problem: &str) -> Result<LinkEnd, Failure> {
        let link = self.peer.link;
        let what = format!("{} was away for {:.1} s: {problem}", self.peer, self.job.give_up.as_secs_f64());
        if self.job.give_up(link) {
            self.job.fault(link, what, "given up; the other server does the rest".into());
            return Ok(LinkEnd::GivenUp);
        }
        Err(Failure::new("server_away", anyhow!("{what}; the run cannot be completed without it")))
    }

    /// One connection, from opening it until it breaks or there is nothing left to do.
    async fn attempt(&mut self, ready: Option<Arc<TcpStream>>) -> Result<(), Broken> {
        let stream = match ready {
            Some(stream) => stream,
            None => {
                let patience = self.job.give_up.saturating_sub(self.last_progress.elapsed());
                let patience = patience.max(Duration::from_millis(100));
                self.peer.connect(patience).await.map_err(|error| Broken::Peer(format!("{error:#}")))?
            }
        };
        let rtt = rtt_of(&stream).unwrap_or_default();
        let gauge = self.job.gauge(self.peer.link);
        gauge.connections.fetch_add(1, Ordering::Relaxed);
        *gauge.socket() = Some(stream.clone());
        let mut connection = Connection {
            stream,
            answers: Answers::default(),
            to_send: Vec::new(),
            in_flight: VecDeque::new(),
            closing: false,
            rtt,
        };
        let outcome = self.work(&mut connection).await;
        let gauge = self.job.gauge(self.peer.link);
        *gauge.socket() = None;
        *gauge.sender() = None;
        self.give_back(connection);
        self.goodput.idle();
        outcome
    }

    async fn work(&mut self, connection: &mut Connection) -> Result<(), Broken> {
        let job = self.job.clone();
        loop {
            // Being told of a change counts from before the question, so that none is missed.
            let changed = job.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let next = self.fill(connection);
            if connection.in_flight.is_empty() {
                if next == Some(Next::Done) {
                    return Ok(());
                }
                changed.await;
                self.last_progress = Instant::now();
                continue;
            }
            self.flush(connection)?;
            let interest = if connection.to_send.is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            tokio::select! {
                ready = connection.stream.ready(interest) => {
                    ready.map_err(|error| self.lost(connection, &error))?;
                }
                () = sleep_until((self.last_progress + job.give_up).into()) => {
                    return Err(Broken::Peer(format!("nothing came for {:.1} s", job.give_up.as_secs_f64())));
                }
            }
            self.read(connection)?;
        }
    }

    /// Puts requests into the connection while it has room. Returns why it stopped, if that was
    /// not for want of room.
    fn fill(&mut self, connection: &mut Connection) -> Option<Next> {
        let link = self.peer.link;
        let mut stopped = None;
        while self.has_room(connection) {
            let now = Instant::now();
            let (next, partial) = self.job.next(link, now);
            let Next::Request(part) = next else {
                stopped = Some(next);
                break;
            };
            let etag = partial.as_ref().and_then(|partial| partial.etag.clone());
            Request {
                method: "GET",
                host: &self.peer.host,
                path: &self.job.segments[part.segment].path,
                from: part.from,
                if_range: etag.as_deref(),
                congestion: self.peer.congestion.as_deref(),
            }
            .render(&mut connection.to_send);
            connection.in_flight.push_back(InFlight {
                part,
                partial,
                requested: now,
                first_byte: None,
                head: None,
                began_at: part.from,
            });
        }
        self.job.gauge(link).in_flight.store(connection.in_flight.len() as u64, Ordering::Relaxed);
        stopped
    }

    /// Whether it is time for another request.
    fn has_room(&self, connection: &Connection) -> bool {
        let depth = connection.in_flight.len();
        if connection.closing {
            return false;
        }
        if depth == 0 || !self.keeps_alive {
            return depth == 0;
        }
        match self.job.pipeline {
            Pipeline::Depth(most) => depth < most,
            Pipeline::Auto => depth < DEEPEST_AUTO && self.runs_dry_soon(connection),
        }
    }

    /// Whether what is still to come takes less than about one round trip: one and a half of the
    /// least round trip seen, for the request's own delays, and 10 ms for this machine's.
    fn runs_dry_soon(&self, connection: &Connection) -> bool {
        let Some(rate) = self.goodput.bytes_per_s() else { return false };
        let typical = self.job.mean_file_bytes();
        let mut to_come = 0;
        for request in &connection.in_flight {
            let known = request
                .partial
                .as_ref()
                .and_then(|partial| Some(partial.total_bytes?.saturating_sub(partial.incoming.received())));
            let Some(bytes) = known.or(typical) else { return false };
            to_come += bytes;
        }
        let horizon = connection.rtt.mul_f64(1.5) + Duration::from_millis(10);
        to_come as f64 / rate <= horizon.as_secs_f64()
    }

    /// Sends what can be sent now; several requests go out in one write.
    fn flush(&self, connection: &mut Connection) -> Result<(), Broken> {
        while !connection.to_send.is_empty() {
            match connection.stream.try_write(&connection.to_send) {
                Ok(written) => drop(connection.to_send.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(self.lost(connection, &error)),
            }
        }
        Ok(())
    }

    /// Reads what is there, once; more makes the socket readable again.
    fn read(&mut self, connection: &mut Connection) -> Result<(), Broken> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let outcome = match connection.stream.try_read(&mut buffer) {
            Ok(0) => self.ended(connection),
            Ok(read) => self.take(connection, &buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(self.lost(connection, &error)),
        };
        self.buffer = buffer;
        outcome
    }

    fn lost(&self, connection: &Connection, error: &io::Error) -> Broken {
        let during = connection.in_flight.front().map_or(String::new(), |request| {
            format!(" during {}", self.job.segments[request.part.segment].name)
        });
        Broken::Peer(format!("the connection to {} was lost{during}: {error}", self.peer))
    }

    /// Hands what the connection still owed back to the job, keeping what has come.
    fn give_back(&self, connection: Connection) {
        let now = Instant::now();
        let mut owed = Vec::with_capacity(connection.in_flight.len());
        for mut request in connection.in_flight {
            let part = self.part_record(&request, now).filter(|part| part.to_byte > part.from_byte);
            if let (Some(partial), Some(part)) = (&mut request.partial, part) {
                partial.parts.push(part);
            }
            owed.push((request.part, request.partial));
        }
        self.job.gauge(self.peer.link).in_flight.store(0, Ordering::Relaxed);
        if !owed.is_empty() {
            self.job.give_back(self.peer.link, owed);
        }
    }
}
