//! What the two links of a run share: the list, the scheduler, unfinished files, totals.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::listing::Segment;
use super::schedule::{Next, Outlook, Part, Scheduler};
use super::store::{Incoming, Store};
use crate::record::{self, Event, Log};
use crate::units::LinkId;

/// How many requests a connection has in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipeline {
    /// Ask for the next when what is still to come takes about one round trip.
    Auto,
    Depth(usize),
}

impl std::str::FromStr for Pipeline {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s.parse() {
            _ if s == "auto" => Ok(Pipeline::Auto),
            Ok(depth) if (1..=1000).contains(&depth) => Ok(Pipeline::Depth(depth)),
            _ => Err(format!("\"{s}\" is not a pipeline depth: write auto, or a number from 1 to 1000")),
        }
    }
}

impl std::fmt::Display for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Pipeline::Auto => f.write_str("auto"),
            Pipeline::Depth(depth) => depth.fmt(f),
        }
    }
}

/// Why a run cannot go on.
#[derive(Debug)]
pub struct Failure {
    /// The word for it in `run_end`.
    pub exit: &'static str,
    pub error: anyhow::Error,
}

impl Failure {
    pub fn new(exit: &'static str, error: impl Into<anyhow::Error>) -> Failure {
        Failure { exit, error: error.into() }
    }
}

/// A segment of which something has come.
pub struct Partial {
    pub incoming: Incoming,
    /// The size of the whole file, where a server said it.
    pub total_bytes: Option<u64>,
    pub etag: Option<String>,
    pub parts: Vec<record::Part>,
    /// The most that was ever received of it, which a restart does not forget.
    pub most_bytes: u64,
}

/// What can be seen of a link from outside while it runs.
#[derive(Default)]
pub struct Gauge {
    /// Payload received.
    pub bytes: AtomicU64,
    pub files: AtomicU64,
    pub in_flight: AtomicU64,
    pub connections: AtomicU64,
    pub socket: Mutex<Option<Arc<TcpStream>>>,
    /// What the server last told of its end of that socket, and when.
    pub sender: Mutex<Option<(Instant, record::Sender)>>,
    /// Payload of a full segment, as negotiated; 0 until it was read.
    pub mss: AtomicU64,
}

impl Gauge {
    pub fn socket(&self) -> MutexGuard<'_, Option<Arc<TcpStream>>> {
        self.socket.lock().expect("nobody panics while holding a socket")
    }

    pub fn sender(&self) -> MutexGuard<'_, Option<(Instant, record::Sender)>> {
        self.sender.lock().expect("nobody panics while holding a report")
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn mss_bytes(&self) -> f64 {
        self.mss.load(Ordering::Relaxed) as f64
    }
}

/// The work of a run.
pub struct Job {
    pub segments: Vec<Segment>,
    pub store: Store,
    pub log: Arc<Log>,
    pub pipeline: Pipeline,
    pub give_up: Duration,
    pub gauges: [Gauge; 2],
    /// Told when a waiting link may find something to do.
    pub changed: Notify,
    board: Mutex<Board>,
}

struct Board {
    scheduler: Scheduler,
    unfinished: HashMap<usize, Partial>,
    totals: Totals,
}

/// How far a run has come.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub files: u64,
    pub bytes: u64,
    pub wasted_bytes: u64,
    /// Heads of answers, on the wire.
    pub head_bytes: u64,
    pub first_request: Option<Instant>,
    pub last_file: Option<Instant>,
    /// When each link's last byte came.
    pub last_byte: [Option<Instant>; 2],
    pub link_bytes: [u64; 2],
    /// Places in the list of what is complete, and when it was.
    pub arrivals: Vec<(usize, Instant)>,
}

impl Job {
    pub fn new(
        segments: Vec<Segment>,
        scheduler: Scheduler,
        store: Store,
        log: Arc<Log>,
        pipeline: Pipeline,
        give_up: Duration,
    ) -> Job {
        let board = Mutex::new(Board { scheduler, unfinished: HashMap::new(), totals: Totals::default() });
        let gauges = Default::default();
        Job { segments, store, log, pipeline, give_up, gauges, changed: Notify::new(), board }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().expect("nobody panics while holding the board")
    }

    pub fn gauge(&self, link: LinkId) -> &Gauge {
        &self.gauges[link.index()]
    }

    /// What `link` should ask for next, with what has come of it so far.
    pub fn next(&self, link: LinkId, now: Instant) -> (Next, Option<Partial>) {
        let mut board = self.board();
        let next = board.scheduler.next(link);
        let Next::Request(part) = next else { return (next, None) };
        board.totals.first_request.get_or_insert(now);
        let partial = board.unfinished.remove(&part.segment);
        (next, partial)
    }

    /// Takes back what a broken connection still owed, in the order of its requests.
    pub fn give_back(&self, link: LinkId, owed: Vec<(Part, Option<Partial>)>) {
        let mut board = self.board();
        let mut parts = Vec::with_capacity(owed.len());
        for (part, partial) in owed {
            parts.push(Part { from: partial.as_ref().map_or(0, |p| p.incoming.received()), ..part });
            if let Some(partial) = partial {
                board.unfinished.insert(part.segment, partial);
            }
        }
        board.scheduler.give_back(link, &parts);
        drop(board);
        self.changed.notify_waiters();
    }

    /// Gives a link up. Returns whether the rest can still be fetched.
    pub fn give_up(&self, link: LinkId) -> bool {
        let can_go_on = self.board().scheduler.give_up(link);
        self.changed.notify_waiters();
        can_go_on
    }

    /// Waits until there is something for `link` to fetch, or until there will not be.
    pub async fn work_left(&self, link: LinkId) -> bool {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Being told of a change counts from before the question, so that none is missed.
            changed.as_mut().enable();
            let outlook = self.board().scheduler.outlook(link);
            match outlook {
                Outlook::Work => return true,
                Outlook::Nothing => return false,
                Outlook::Perhaps => changed.await,
            }
        }
    }

    /// The file at `index` is under its name; `parts` says which link brought what of it.
    pub fn completed(&self, link: LinkId, index: usize, parts: &[record::Part], at: Instant) {
        let mut board = self.board();
        board.scheduler.completed();
        let totals = &mut board.totals;
        for part in parts {
            let bytes = part.to_byte - part.from_byte;
            totals.bytes += bytes;
            totals.link_bytes[part.link.index()] += bytes;
        }
        totals.files += 1;
        totals.arrivals.push((index, at));
        totals.last_file = Some(at);
        totals.last_byte[link.index()] = Some(at);
        let all = totals.files == self.segments.len() as u64;
        drop(board);
        self.gauge(link).files.fetch_add(1, Ordering::Relaxed);
        if all {
            self.changed.notify_waiters();
        }
    }

    pub fn received_head(&self, bytes: usize) {
        self.board().totals.head_bytes += bytes as u64;
    }

    pub fn wasted(&self, bytes: u64) {
        self.board().totals.wasted_bytes += bytes;
    }

    /// The mean size of what is complete, once something is.
    pub fn mean_file_bytes(&self) -> Option<u64> {
        let totals = &self.board().totals;
        totals.bytes.checked_div(totals.files)
    }

    pub fn totals(&self) -> Totals {
        self.board().totals.clone()
    }

    /// Writes a fault to the log; a log that cannot be written ends the run by itself elsewhere.
    pub fn fault(&self, link: LinkId, what: String, action: String) {
        let fault = record::Fault { link: Some(link), segment: None, what, action };
        if let Err(error) = self.log.write(Event::Fault(fault)) {
            tracing::warn!("a fault could not be logged: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipelines_are_auto_or_a_depth() {
        assert_eq!("auto".parse(), Ok(Pipeline::Auto));
        assert_eq!("4".parse(), Ok(Pipeline::Depth(4)));
        for bad in ["0", "-1", "deep", "", "1001"] {
            assert!(bad.parse::<Pipeline>().is_err(), "{bad}");
        }
    }
}
