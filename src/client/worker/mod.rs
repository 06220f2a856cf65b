//! A connection of a link at work: requests pipelined on it, answers into files.
//!
//! Asks the [`Transfer`] what to fetch and never decides it. A connection that breaks or stalls gives back
//! what it owed and is opened again with backoff; a server from which nothing comes for `--give-up` is
//! given up, or the run, where one link can do without the other, when nothing comes from either. That is the first
//! connection's part; a further one ends when it breaks, and is opened again where the scheduler wants it
//! ([`further`]).

pub(crate) mod further;
pub(crate) mod receive;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until};

use super::capabilities::ServerCapabilities;
use super::origin::{Origin, rtt_of};
use super::reach::{self, FIRST_BACKOFF, LONGEST_BACKOFF};
use super::running;
use super::splice::Pipe;
use super::transfer::answers::AnswerOrder;
use super::transfer::in_flight::{InFlight, OpenConnection};
use super::transfer::{Failure, Transfer};
use crate::http::answer::NotHttp;
use crate::http::pipeline::PipelinedConnection;
use crate::http::request::OutgoingRequest;
use crate::log::outcome::Outcome;
use crate::schedule::{ConnectionId, LEAST_STALL, Next};
use crate::text::duration;
use crate::units::LinkId;

/// Large enough that a read costs little beside its copy, small enough for a core's cache.
const READ_BUFFER_BYTES: usize = 256 * 1024;
/// A body with at least this much to come goes through a pipe of the kernel.
const PIPED_BYTES: u64 = 64 * 1024;
/// How often a link that could be a stalled one is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long a new connection may take to open, at least, while the other link goes on.
const LEAST_OPENING: Duration = Duration::from_secs(1);

/// The second connection to a server, while it is tried.
type Second = Pin<Box<dyn Future<Output = Arc<TcpStream>> + Send>>;

/// How a link's work came to its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LinkEnd {
    /// There is nothing left for it.
    Finished,
    /// It was given up, and the other link goes on.
    GivenUp,
}

/// Why a connection is of no more use.
enum Broken {
    /// The server announced the end after an answer, or nothing more is wanted of what it owes; that
    /// is no fault.
    Closed,
    /// Nothing came on it, and the server answers on another connection.
    Moved(Arc<TcpStream>, String),
    /// The server is busy, and may have said for how long.
    Busy(String, Option<Duration>),
    Origin(String),
    Fatal(Failure),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Broken {
        Broken::Fatal(failure)
    }
}

impl From<NotHttp> for Broken {
    fn from(error: NotHttp) -> Broken {
        Broken::Origin(error.to_string())
    }
}

struct Connection {
    http: PipelinedConnection,
    /// Its silence counts from here on at the earliest, in running time.
    due: Duration,
    in_flight: VecDeque<InFlight>,
    /// A request that the scheduler has handed out, and that is not to follow those in flight.
    held: Option<InFlight>,
    /// A request was sent on it behind another.
    pipelined: bool,
    /// An answer has begun on it.
    answered: bool,
    /// That it breaks is not the fault of the file that is due.
    excused: bool,
    /// The server ends the connection after the answer under way.
    closing: bool,
}

/// One connection's side of a run.
pub(crate) struct Fetcher {
    transfer: Arc<Transfer>,
    id: ConnectionId,
    origin: Origin,
    other: Origin,
    /// Where files are that the server redirects, and how many redirects led there.
    redirects: HashMap<usize, (String, u32)>,
    /// When enough of what is new last came, or was first due after a time with nothing to do, in running time.
    last_progress: Duration,
    /// The file whose slowness does not count as silence: the first slow one since a file was whole.
    spared: Option<usize>,
    /// How often the connection was changed since, for the server's silence.
    moves: u32,
    /// An answer has begun on any connection of it.
    answered: bool,
    /// Least round trip of the last connection.
    rtt: Duration,
    buffer: Vec<u8>,
    /// Made when it is first of use.
    pipe: Option<Pipe>,
}

impl Fetcher {
    /// Work on the link to `origin`, which said `capabilities` of itself, beside that to `other`.
    pub(crate) fn new(
        transfer: Arc<Transfer>,
        origin: Origin,
        other: Origin,
        capabilities: &ServerCapabilities,
    ) -> Fetcher {
        transfer.schedule(|scheduler, _| scheduler.keeps_alive(origin.link, capabilities.keeps_alive));
        if capabilities.fits {
            transfer.order_fits(origin.link, AnswerOrder::DigestsFit);
        }
        Fetcher {
            transfer,
            id: origin.link.into(),
            answered: false,
            origin,
            other,
            redirects: HashMap::new(),
            last_progress: running::now(),
            spared: None,
            moves: 0,
            rtt: Duration::ZERO,
            buffer: vec![0; READ_BUFFER_BYTES],
            pipe: None,
        }
    }

    /// Works until there is nothing left for this link, beginning on an open connection.
    pub(crate) async fn run(mut self, open: Arc<TcpStream>) -> Result<LinkEnd, Failure> {
        let mut ready = Some(open);
        let mut backoff = FIRST_BACKOFF;
        self.last_progress = running::now();
        let mut told = String::new();
        loop {
            let before = self.last_progress;
            let mut pause = None;
            let problem = match self.attempt(ready.take()).await {
                Ok(()) => return Ok(LinkEnd::Finished),
                Err(Broken::Closed) => match self.transfer.work_left(self.origin.link).await {
                    true => continue,
                    false => return Ok(LinkEnd::Finished),
                },
                Err(Broken::Fatal(failure)) => return Err(failure),
                Err(Broken::Moved(stream, problem)) if self.away() < self.transfer.give_up => {
                    self.transfer.fault(self.origin.link, problem, "going on with a new connection".into());
                    self.moves += 1;
                    ready = Some(stream);
                    continue;
                }
                Err(Broken::Origin(problem) | Broken::Moved(_, problem)) => problem,
                Err(Broken::Busy(problem, wait)) => {
                    pause = wait;
                    problem
                }
            };
            if self.last_progress > before {
                backoff = FIRST_BACKOFF;
                told.clear();
            }
            // No longer than the other server may need to be given up, since this one is asked then.
            let pause = pause.map_or(backoff, |pause: Duration| pause.clamp(backoff, self.transfer.give_up));
            if self.away() + pause >= self.transfer.give_up {
                return self.give_up(&problem, pause);
            }
            // The same problem again is said once.
            if told != problem {
                let again = format!("trying again in {} and from then on", duration(pause));
                self.transfer.fault(self.origin.link, problem.clone(), again);
                told = problem;
            }
            sleep(pause).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    /// How long this server has not got on; where the other can do its work, either.
    fn away(&self) -> Duration {
        let link = self.origin.link;
        // Its other connections may get on.
        let servers = self.transfer.schedule(|scheduler, now| {
            let other = Some(link.other()).filter(|_| scheduler.outlives_a_link());
            let progress = |link| now.saturating_sub(scheduler.last_progress(link));
            std::iter::once(link).chain(other).map(progress).min().unwrap_or_default()
        });
        running::now().saturating_sub(self.last_progress).min(servers)
    }

    /// Counts new bytes, which may be too few to be progress.
    fn brought_new(&mut self, bytes: u64) {
        let link = self.origin.link;
        if bytes > 0 && self.transfer.schedule(|scheduler, now| scheduler.brought_new(link, now, bytes)) {
            self.last_progress = running::now();
            self.moves = 0;
        }
    }

    /// A file is whole.
    fn completed_file(&mut self) {
        self.transfer.schedule(|scheduler, now| scheduler.progressed(self.origin.link, now));
        self.last_progress = running::now();
        (self.moves, self.spared) = (0, None);
    }

    /// Gives the server up, which was not to be asked again before `pause`.
    fn give_up(&self, problem: &str, pause: Duration) -> Result<LinkEnd, Failure> {
        let (link, give_up) = (self.origin.link, duration(self.transfer.give_up));
        let what = match pause > LONGEST_BACKOFF {
            true => {
                format!("{} is not to be asked again within {give_up} (--give-up): {problem}", self.origin)
            }
            false => format!("{} was away for {give_up}: {problem}", self.origin),
        };
        if self.transfer.give_up(link) {
            self.transfer.fault(link, what, "given up; the other server does the rest".into());
            return Ok(LinkEnd::GivenUp);
        }
        let again = match self.transfer.came_wrong() {
            wrong if wrong.is_empty() => String::new(),
            wrong => format!(", which was to bring again what came wrong: {}", wrong.join(", ")),
        };
        Err(Failure::new(
            Outcome::ServerAway,
            anyhow!("{what}; the run cannot be completed without it{again}"),
        ))
    }

    /// One connection, from opening it until it breaks or there is nothing left to do.
    async fn attempt(&mut self, ready: Option<Arc<TcpStream>>) -> Result<(), Broken> {
        let stream = match ready {
            Some(stream) => stream,
            None => {
                let timeout = self.transfer.give_up.saturating_sub(self.away());
                let timeout = match self.transfer.schedule(|scheduler, _| scheduler.outlives_a_link()) {
                    true => timeout.min(LEAST_OPENING.max(4 * self.rtt)),
                    false => timeout,
                };
                let timeout = timeout.max(Duration::from_millis(100));
                let opened = reach::open(&self.origin, timeout).await;
                opened.map_err(|error| Broken::Origin(format!("{error:#}")))?
            }
        };
        self.rtt = rtt_of(&stream).unwrap_or(self.rtt);
        let outlives = self.transfer.schedule(|scheduler, now| {
            scheduler.opened(self.id, now, self.rtt);
            scheduler.outlives_a_link()
        });
        // A server that was away for longer than anybody waits may come back, and needs time to answer then.
        let due = if outlives { running::now() } else { self.last_progress };
        let metrics = self.transfer.metrics(self.origin.link);
        metrics.connections.fetch_add(1, Ordering::Relaxed);
        let open = OpenConnection { socket: stream.clone(), sender: None, in_flight: 0 };
        metrics.open().insert(self.id.index, open);
        let mut connection = Connection {
            http: PipelinedConnection::new(stream),
            due,
            in_flight: VecDeque::new(),
            held: None,
            pipelined: false,
            answered: false,
            excused: false,
            closing: false,
        };
        let outcome = self.work(&mut connection).await;
        self.transfer.metrics(self.origin.link).closed(self.id.index);
        if let Err(Broken::Fatal(_)) = &outcome {
            // Claimed bytes may not be on file. They stay claimed, so that no note has them.
            return outcome;
        }
        if let (Err(Broken::Origin(problem)), Some(first)) = (&outcome, connection.in_flight.front())
            && !connection.excused
        {
            self.transfer.broke_off(self.id, first, first.first_byte.is_some(), problem);
        }
        if let Some(first) = connection.in_flight.front() {
            self.settle_unstated(first)?;
        }
        self.transfer.lost(self.id);
        for request in connection.in_flight.iter().filter(|request| request.incoming.is_some()) {
            self.transfer.note(self.id, request.part.segment)?;
        }
        outcome
    }

    async fn work(&mut self, connection: &mut Connection) -> Result<(), Broken> {
        let transfer = self.transfer.clone();
        let id = self.id;
        let mut second: Option<Second> = None;
        loop {
            // Being told of a change counts from before the question, so that none is missed.
            let changed = transfer.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let ask_again = match self.fill(connection) {
                Next::Done => return Ok(()),
                Next::Drop => return Err(Broken::Closed),
                Next::Wait(at) => at.map(|at| transfer.moment(at)),
                Next::Request(_) => None,
            };
            if connection.in_flight.is_empty() {
                tokio::select! {
                    () = changed => {}
                    () = until(ask_again) => {}
                }
                self.last_progress = running::now();
                second = None;
                continue;
            }
            connection.http.flush().map_err(|error| self.lost(connection, &error))?;
            let stalls = transfer.schedule(|scheduler, _| scheduler.stalls_at(id));
            let move_at = running::now() + self.move_after().saturating_sub(silent_for(&transfer, id));
            let now = Instant::now();
            let stalls =
                stalls.map(|at| transfer.moment(at)).map(|at| if at > now { at } else { now + LOOK_AGAIN });
            tokio::select! {
                readable = connection.http.readable() => {
                    readable.map_err(|error| self.lost(connection, &error))?;
                    self.read(connection)?;
                }
                () = changed => {}
                () = until(ask_again) => {}
                () = until(stalls) => {}
                () = running::sleep_until(move_at), if second.is_none() => {}
                stream = ready(&mut second) => {
                    let silent = duration(silent_for(&transfer, id));
                    let what = format!("nothing came from {} for {silent}, and it answers on another connection", self.origin);
                    return Err(Broken::Moved(stream, what));
                }
                () = running::sleep_until(self.last_progress.max(connection.due) + transfer.give_up) => {
                    // Reads the bytes that are there before it judges the deadline.
                    self.read(connection)?;
                }
            }
            let silent = silent_for(&transfer, id);
            if silent < self.move_after() {
                second = None;
            } else if second.is_none() {
                let due = transfer.schedule(|scheduler, _| scheduler.due(id));
                second = due.map(|(segment, at, _)| {
                    let path = self.path_of(segment).0.into_owned();
                    Box::pin(reach::second_connection(self.origin.clone(), path, at)) as Second
                });
            }
            self.check_silence(connection)?;
        }
    }

    /// How long nothing may come before the server is tried by a second connection: longer each time.
    fn move_after(&self) -> Duration {
        LEAST_STALL.max(4 * self.rtt) * 2u32.pow(self.moves.min(6))
    }

    /// Ends a connection on which nothing has come for too long.
    fn check_silence(&mut self, connection: &mut Connection) -> Result<(), Broken> {
        let link = self.origin.link;
        let silent = running::now().saturating_sub(self.last_progress.max(connection.due));
        connection.excused = true;
        if silent >= self.transfer.give_up {
            return Err(Broken::Origin(self.silence()));
        }
        if self.transfer.schedule(|scheduler, now| scheduler.is_stalled(self.id, now)) {
            let what = format!(
                "nothing came from {} for {} while the other link moved; its work goes there",
                self.origin,
                duration(silent)
            );
            return Err(Broken::Origin(what));
        }
        if is_slow(&self.transfer, link)
            && let Some((segment, ..)) = self.transfer.schedule(|scheduler, _| scheduler.due(self.id))
        {
            let name = &self.transfer.segments[segment].name;
            let what = format!("{} sends {name} slower than the least rate", self.origin);
            if *self.spared.get_or_insert(segment) == segment {
                self.last_progress = running::now();
            }
            // A fault has been logged then.
            let excluded = self.transfer.too_slow(self.id, segment, &what);
            return Err(if excluded { Broken::Closed } else { Broken::Origin(what) });
        }
        connection.excused = false;
        Ok(())
    }

    /// Says how little came in `--give-up`.
    fn silence(&self) -> String {
        let (link, give_up) = (self.origin.link, self.transfer.give_up);
        match silent_for(&self.transfer, self.id) < give_up {
            true => {
                let least = self.transfer.schedule(|scheduler, _| scheduler.least_progress(link));
                format!("fewer than {least} new bytes came in {} (--least-rate)", duration(give_up))
            }
            false => format!("nothing came for {}", duration(give_up)),
        }
    }

    /// Puts requests into the connection while there are any to make. Returns why it stopped.
    fn fill(&mut self, connection: &mut Connection) -> Next {
        let link = self.origin.link;
        let stopped = loop {
            if connection.closing {
                break Next::Wait(None);
            }
            let fits = matches!(self.transfer.order(link), AnswerOrder::SizesFit | AnswerOrder::DigestsFit);
            if !connection.in_flight.is_empty() && !fits {
                break Next::Wait(None);
            }
            let next = connection.held.take().map_or_else(|| self.transfer.next(self.id, Instant::now()), Ok);
            let mut request = match next {
                Ok(request) => request,
                Err(stopped) => break stopped,
            };
            let before = connection.in_flight.iter().map(|request| request.part.segment);
            if before.len() > 0 && !self.transfer.may_follow(link, request.part.segment, before) {
                connection.held = Some(request);
                break Next::Wait(None);
            }
            connection.pipelined |= !connection.in_flight.is_empty();
            request.requested = Instant::now();
            let (path, _) = self.path_of(request.part.segment);
            let whole = request.whole;
            connection.http.ask(&OutgoingRequest {
                from: if whole { 0 } else { request.part.from },
                to: request.part.to.filter(|_| !whole),
                if_range: request.etag.as_deref(),
                ..self.origin.request("GET", &path)
            });
            connection.in_flight.push_back(request);
        };
        if let Some(open) = self.transfer.metrics(link).open().get_mut(&self.id.index) {
            open.in_flight = connection.in_flight.len() as u64;
        }
        stopped
    }

    /// Where a segment is on the server, and how many redirects led there.
    fn path_of(&self, segment: usize) -> (Cow<'_, str>, u32) {
        match self.redirects.get(&segment) {
            Some((path, hops)) => (path.into(), *hops),
            None => (self.transfer.segments[segment].path.as_str().into(), 0),
        }
    }

    /// Reads what is there, once; more makes the socket readable again.
    fn read(&mut self, connection: &mut Connection) -> Result<(), Broken> {
        if let Some(outcome) = self.pull(connection) {
            return outcome;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let outcome = match connection.http.read(&mut buffer) {
            Ok(Some([])) => self.ended(connection),
            Ok(Some(bytes)) => self.take(connection, bytes),
            Ok(None) => Ok(()),
            Err(error) => Err(self.lost(connection, &error)),
        };
        self.buffer = buffer;
        outcome
    }

    fn lost(&self, connection: &Connection, error: &io::Error) -> Broken {
        let during = connection.in_flight.front().map_or(String::new(), |request| {
            format!(" during {}", self.transfer.segments[request.part.segment].name)
        });
        Broken::Origin(format!("the connection to {} was lost{during}: {error}", self.origin))
    }
}

/// Whether what is due on `link` comes so slowly that it counts as silence.
fn is_slow(transfer: &Transfer, link: LinkId) -> bool {
    transfer.schedule(|scheduler, now| scheduler.is_slow(link, now))
}

/// How long nothing has come on a connection although something was due.
fn silent_for(transfer: &Transfer, id: ConnectionId) -> Duration {
    transfer.schedule(|scheduler, now| now.saturating_sub(scheduler.silent_since(id).unwrap_or(now)))
}

/// Waits for a second connection; for ever where none is tried.
async fn ready(second: &mut Option<Second>) -> Arc<TcpStream> {
    match second {
        Some(second) => second.await,
        None => std::future::pending().await,
    }
}

/// Waits until a moment; for ever without one.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
