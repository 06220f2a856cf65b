//! The server's access log: one record for each request.
//!
//! Serving never waits for it: records that a stalled reader of stdout has no room for are dropped and
//! counted, and a stdout that is closed costs the log, not the server.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::record::{Event, Log, Request, ServeEnd};

pub struct Journal {
    log: Arc<Log>,
    requests: AtomicU64,
    bytes: AtomicU64,
    /// It has been said that records are lost.
    told: AtomicBool,
    pub refused_connections: AtomicU64,
}

impl Journal {
    pub fn start(log: Arc<Log>) -> Arc<Journal> {
        Arc::new(Journal {
            log,
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            told: AtomicBool::new(false),
            refused_connections: AtomicU64::new(0),
        })
    }

    pub fn write(&self, event: Event) {
        let written = self.log.write(event);
        let lost = written.is_err() || self.log.dropped() > 0;
        if !lost || self.told.swap(true, Relaxed) {
            return;
        }
        match written {
            Err(error) => tracing::warn!("the log ends here, serving goes on: {error:#}"),
            Ok(()) => tracing::warn!(
                "the log is not read fast enough: records are dropped, and counted in serve_end"
            ),
        }
    }

    fn request(&self, record: Request) {
        self.requests.fetch_add(1, Relaxed);
        self.bytes.fetch_add(record.bytes, Relaxed);
        self.write(Event::Request(record));
    }

    /// Writes the last record and waits for the log to be written, but not for ever.
    pub fn end(&self, reason: &str, cut_connections: u64) {
        self.write(Event::ServeEnd(ServeEnd {
            reason: reason.to_string(),
            requests: self.requests.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            cut_connections,
            refused_connections: self.refused_connections.load(Relaxed),
            dropped_records: 0,
        }));
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
