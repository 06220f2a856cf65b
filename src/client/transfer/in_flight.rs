//! A request in flight, and the metrics of the link that it is on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio::net::TcpStream;

use crate::client::round_trips::ObservedRtts;
use crate::client::store::Incoming;
use crate::log::schema;
use crate::schedule::PartRequest;

/// A request that has been sent, or is about to be.
pub(crate) struct InFlight {
    pub part: PartRequest,
    /// The version that a range was asked of.
    pub etag: Option<String>,
    pub requested: Instant,
    pub first_byte: Option<Instant>,
    /// Where the answer's bytes go; none before its head, nor where they are of no use.
    pub incoming: Option<Arc<Incoming>>,
    /// The size of the whole file, where the answer said it.
    pub total_bytes: Option<u64>,
    /// It was asked for without a range.
    pub whole: bool,
    /// The answer does not say how long its body is. It has to end here at the latest, as far as its head
    /// says.
    pub unstated: bool,
    pub ends: Option<u64>,
    /// Nothing of the answer is of use.
    pub passed_over: bool,
    /// Which of the segment's part records it adds to.
    pub(super) record: Option<usize>,
}

impl InFlight {
    pub(super) fn new(part: PartRequest, etag: Option<String>, whole: bool, now: Instant) -> InFlight {
        InFlight {
            part,
            etag,
            requested: now,
            first_byte: None,
            incoming: None,
            total_bytes: None,
            whole,
            unstated: false,
            ends: None,
            passed_over: false,
            record: None,
        }
    }
}

/// An open connection, as other tasks see it.
#[derive(Clone)]
pub(crate) struct OpenConnection {
    pub socket: Arc<TcpStream>,
    /// The server's last report on its end, and its time.
    pub sender: Option<(Instant, schema::Sender)>,
    pub in_flight: u64,
}

/// The metrics of a link that other tasks read while it runs.
#[derive(Default)]
pub(crate) struct LinkMetrics {
    /// Payload received.
    pub bytes: AtomicU64,
    /// Heads of answers received.
    pub head_bytes: AtomicU64,
    pub files: AtomicU64,
    /// How many connections were opened.
    pub connections: AtomicU64,
    open: Mutex<BTreeMap<usize, OpenConnection>>,
    /// Segments that the server said it sent again on connections that are closed.
    closed_retransmits: AtomicU64,
    pub round_trips: Mutex<ObservedRtts>,
    /// Payload of a full segment, as negotiated; 0 until it was read.
    pub mss: AtomicU64,
    /// Whether TCP goes without timestamps, so that more of a frame is payload.
    pub no_timestamps: AtomicBool,
}

impl LinkMetrics {
    /// Returns the open connections, by their index.
    pub(crate) fn open(&self) -> MutexGuard<'_, BTreeMap<usize, OpenConnection>> {
        self.open.lock().expect("nobody panics while holding the connections")
    }

    /// A connection is not open any more.
    pub(crate) fn closed(&self, index: usize) {
        let told = self.open().remove(&index).and_then(|closed| closed.sender);
        let again = told.map_or(0, |(_, sender)| sender.retransmits_total);
        self.closed_retransmits.fetch_add(again, Ordering::Relaxed);
    }

    /// Returns how many segments the server sent again, as it last said for each connection.
    pub(crate) fn retransmits(&self) -> u64 {
        let told = |open: &OpenConnection| Some(open.sender.as_ref()?.1.retransmits_total);
        let of_open: u64 = self.open().values().filter_map(told).sum();
        of_open + self.closed_retransmits.load(Ordering::Relaxed)
    }

    pub(crate) fn round_trips(&self) -> MutexGuard<'_, ObservedRtts> {
        self.round_trips.lock().expect("nobody panics while holding round trips")
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn mss_bytes(&self) -> f64 {
        self.mss.load(Ordering::Relaxed) as f64
    }
}
