//! The server's log: one record for each request, written by a thread of its own.
//!
//! Serving never waits for the log. A reader of stdout that has stalled fills the queue, and records
//! beyond it are counted and dropped; a stdout that is closed costs the log, not the server.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use crate::record::{Event, Log, Request, ServeEnd};

/// Records that may wait to be written: those of a few seconds of the smallest requests.
const QUEUE: usize = 16 * 1024;

/// How long the end of the server waits for a log that is not being read.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub struct Journal {
    sender: SyncSender<(Instant, Event)>,
    requests: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
    pub refused_connections: AtomicU64,
}

/// Resolves when everything is written and the writer has ended.
pub struct Written(oneshot::Receiver<()>);

impl Journal {
    pub fn start(log: Arc<Log>) -> (Arc<Journal>, Written) {
        let (sender, receiver) = mpsc::sync_channel::<(Instant, Event)>(QUEUE);
        let (written, done) = oneshot::channel();
        std::thread::spawn(move || {
            let mut failed = false;
            for (at, event) in receiver {
                if failed {
                    continue;
                }
                if let Err(error) = log.write_at(at, event) {
                    tracing::warn!("the log ends here, serving goes on: {error:#}");
                    failed = true;
                }
            }
            // Nobody is there to hear it when the server has stopped waiting.
            let _ = written.send(());
        });
        let journal = Journal {
            sender,
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            refused_connections: AtomicU64::new(0),
        };
        (Arc::new(journal), Written(done))
    }

    pub fn write(&self, event: Event) {
        if self.sender.try_send((Instant::now(), event)).is_err() && self.dropped.fetch_add(1, Relaxed) == 0 {
            tracing::warn!("the log is not read fast enough: records are dropped, and counted in serve_end");
        }
    }

    fn request(&self, record: Request) {
        self.requests.fetch_add(1, Relaxed);
        self.bytes.fetch_add(record.bytes, Relaxed);
        self.write(Event::Request(record));
    }

    /// Writes the last record and waits for the log to be written, but not for ever.
    pub async fn end(self: Arc<Journal>, written: Written, reason: &str, cut_connections: u64) {
        let end = ServeEnd {
            reason: reason.to_string(),
            requests: self.requests.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            cut_connections,
            refused_connections: self.refused_connections.load(Relaxed),
            dropped_records: self.dropped.load(Relaxed),
        };
        self.write(Event::ServeEnd(end));
        // The writer ends when the last sender is gone; all connections are, by now.
        drop(self);
        let _ = tokio::time::timeout(LAST_WORDS, written.0).await;
    }
}

/// What the parts of one connection know of it.
pub struct Connection {
    pub peer: SocketAddr,
    /// Counts connections from 1.
    pub number: u64,
    /// Requests whose head has been read, ever.
    pub requests: AtomicU64,
    /// Requests that are not yet answered in full.
    pub busy: AtomicUsize,
    /// Tells the connection to close because another needs its place.
    pub close: Notify,
    /// When it was accepted, or when its last answer was with the kernel.
    idle_since: Mutex<Instant>,
    journal: Arc<Journal>,
}

impl Connection {
    pub fn new(peer: SocketAddr, number: u64, journal: Arc<Journal>) -> Connection {
        Connection {
            peer,
            number,
            requests: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            close: Notify::new(),
            idle_since: Mutex::new(Instant::now()),
            journal,
        }
    }

    pub fn idle_since(&self) -> Instant {
        *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request that could not be read as one; what it was about is not known.
    pub fn malformed(&self, status: u16) {
        self.journal.request(Request {
            peer: self.peer.to_string(),
            connection: self.number,
            request: self.requests.load(Relaxed) + 1,
            method: String::new(),
            target: String::new(),
            range: None,
            status,
            bytes: 0,
            received_bytes: 0,
            duration_ms: 0.0,
            complete: true,
        });
    }
}

/// One request from its head to the last byte of its answer. Shared by the answer's body and by each
/// piece of it that waits to be sent: when the last of them is gone, so is the request, and its
/// record is written.
pub struct InFlight {
    connection: Arc<Connection>,
    started: Instant,
    number: u64,
    method: String,
    target: String,
    range: Option<String>,
    quiet: bool,
    answer: OnceLock<(u16, u64)>,
    sent: AtomicU64,
    received: AtomicU64,
}

impl InFlight {
    /// `quiet` requests leave no record: a health check every few seconds would be most of a log.
    pub fn begin<B>(connection: &Arc<Connection>, request: &hyper::Request<B>, quiet: bool) -> Arc<InFlight> {
        connection.busy.fetch_add(1, Relaxed);
        let range = request.headers().get(hyper::header::RANGE);
        Arc::new(InFlight {
            started: Instant::now(),
            number: connection.requests.fetch_add(1, Relaxed) + 1,
            method: request.method().to_string(),
            target: request.uri().to_string(),
            range: range.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
            quiet,
            answer: OnceLock::new(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            connection: connection.clone(),
        })
    }

    /// Notes the answer: its status, and how long its body is to be.
    pub fn answered(&self, status: u16, len: u64) {
        // A request is answered once; a second answer would be a mistake in this program, and the
        // first one is what went out.
        let _ = self.answer.set((status, len));
    }

    /// Bytes of the answer's body that the kernel has taken.
    pub fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }

    /// Bytes of the request's own body.
    pub fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        *self.connection.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.connection.busy.fetch_sub(1, Relaxed);
        if self.quiet {
            return;
        }
        let sent = self.sent.load(Relaxed);
        // Status 0: the connection ended before there was an answer.
        let (status, expected) = self.answer.get().copied().unwrap_or((0, 0));
        self.connection.journal.request(Request {
            peer: self.connection.peer.to_string(),
            connection: self.connection.number,
            request: self.number,
            method: std::mem::take(&mut self.method),
            target: std::mem::take(&mut self.target),
            range: self.range.take(),
            status,
            bytes: sent,
            received_bytes: self.received.load(Relaxed),
            duration_ms: self.started.elapsed().as_secs_f64() * 1e3,
            complete: status != 0 && sent == expected,
        });
    }
}
