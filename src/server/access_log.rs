//! The server's access log: one record for each request.
//!
//! Serving never waits for it: records that a stalled reader of stdout has no room for are dropped and
//! counted, and a stdout that is closed costs the log, not the server.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::http::head::RequestHead;
use crate::log::schema::{Event, Log, Request, Sender, ServeEnd};

pub(crate) struct AccessLog {
    log: Arc<Log>,
    requests: AtomicU64,
    bytes: AtomicU64,
    /// It has been said that records are lost.
    warned: AtomicBool,
    pub refused_connections: AtomicU64,
}

impl AccessLog {
    pub(crate) fn start(log: Arc<Log>) -> Arc<AccessLog> {
        Arc::new(AccessLog {
            log,
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            warned: AtomicBool::new(false),
            refused_connections: AtomicU64::new(0),
        })
    }

    pub(crate) fn write(&self, event: Event) {
        let written = self.log.write(event);
        let lost = written.is_err() || self.log.dropped() > 0;
        if !lost || self.warned.swap(true, Relaxed) {
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
    pub(crate) fn end(&self, reason: &str, cut_connections: u64) {
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

/// The state of a connection that others than its own task see.
pub(crate) struct ConnectionLog {
    pub peer: SocketAddr,
    /// Counts connections from 1.
    pub number: u64,
    /// A request is not yet answered in full.
    pub busy: AtomicBool,
    /// Tells the connection to close because another needs its place.
    pub close: Notify,
    /// When it was accepted, or when its last answer was with the kernel.
    idle_since: Mutex<Instant>,
    /// Requests whose head has been read, ever.
    requests: AtomicU64,
    access_log: Arc<AccessLog>,
}

impl ConnectionLog {
    pub(crate) fn new(peer: SocketAddr, number: u64, access_log: Arc<AccessLog>) -> ConnectionLog {
        ConnectionLog {
            peer,
            number,
            busy: AtomicBool::new(false),
            close: Notify::new(),
            idle_since: Mutex::new(Instant::now()),
            requests: AtomicU64::new(0),
            access_log,
        }
    }

    pub(crate) fn idle_since(&self) -> Instant {
        *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the record of a request. `quiet` ones leave none: a health check every few seconds would be
    /// most of a log. A request that could not be read has no head.
    pub(crate) fn begin(self: &Arc<ConnectionLog>, head: Option<&RequestHead>, quiet: bool) -> RequestLog {
        self.busy.store(true, Relaxed);
        let text = |field: fn(&RequestHead) -> &String| head.map(field).cloned().unwrap_or_default();
        RequestLog {
            started: Instant::now(),
            record: Request {
                peer: self.peer.to_string(),
                connection: self.number,
                request: self.requests.fetch_add(1, Relaxed) + 1,
                method: text(|head| &head.method),
                target: text(|head| &head.target),
                range: head.and_then(|head| head.range.clone()),
                status: 0,
                bytes: 0,
                received_bytes: 0,
                duration_ms: 0.0,
                complete: false,
                sender: None,
            },
            quiet,
            head_bytes: 0,
            body_bytes: 0,
            taken: 0,
            connection: self.clone(),
        }
    }
}

/// One request from its head to the last byte of its answer; its record is written when it is dropped.
pub(crate) struct RequestLog {
    connection: Arc<ConnectionLog>,
    started: Instant,
    /// Its status is 0 while there is no answer.
    record: Request,
    quiet: bool,
    head_bytes: u64,
    body_bytes: u64,
    /// Bytes of the answer that the kernel has taken.
    pub taken: u64,
}

impl RequestLog {
    /// Notes the answer: its status, and how long its head and its body are to be.
    pub(crate) fn answered(&mut self, status: u16, head_bytes: u64, body_bytes: u64) {
        self.record.status = status;
        (self.head_bytes, self.body_bytes) = (head_bytes, body_bytes);
    }

    /// Notes bytes of the request's own body.
    pub(crate) fn received(&mut self, bytes: u64) {
        self.record.received_bytes += bytes;
    }

    /// Notes the state of the connection after the answer.
    pub(crate) fn sent(&mut self, sender: Option<Sender>) {
        self.record.sender = sender;
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        *self.connection.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.connection.busy.store(false, Relaxed);
        if self.quiet {
            return;
        }
        let bytes = self.taken.saturating_sub(self.head_bytes);
        let duration_ms = self.started.elapsed().as_secs_f64() * 1e3;
        let complete = self.record.status != 0 && bytes == self.body_bytes;
        let unread = self.record.method.is_empty();
        self.connection.access_log.request(Request {
            // Of a request that could not be read, neither says anything.
            bytes: if unread { 0 } else { bytes },
            duration_ms: if unread { 0.0 } else { duration_ms },
            complete,
            ..self.record.clone()
        });
    }
}
