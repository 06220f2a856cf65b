//! The state of one connection of a link: its outstanding requests, and how fast their answers come.

use std::collections::VecDeque;
use std::time::Duration;

use super::PartRequest;
use super::ewma::Ewma;
use super::pool::Sizes;
use crate::units::LinkId;

/// The time constant of a connection's rate.
const SPAN: Duration = Duration::from_millis(500);

/// Names a connection of a link. A link itself names its first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionId {
    pub link: LinkId,
    /// From 0.
    pub index: usize,
}

impl From<LinkId> for ConnectionId {
    fn from(link: LinkId) -> ConnectionId {
        ConnectionId { link, index: 0 }
    }
}

/// A request on its way, or being answered.
#[derive(Clone, Debug)]
pub(crate) struct OutstandingRequest {
    /// The requested part; `to` shrinks when another connection steals its end.
    pub part: PartRequest,
    /// Only this link may fetch it.
    pub own: bool,
    /// The next byte to come.
    pub at: u64,
    /// One past the last byte that comes, as far as it is known.
    pub ends: Option<u64>,
    pub requested: Duration,
    pub answering: bool,
    /// Only the beginning of the part was asked for, up to `ends`.
    pub beginning: bool,
    /// The rest of its answer is useless.
    pub cancelled: bool,
}

impl OutstandingRequest {
    pub(crate) fn new(part: PartRequest, own: bool, requested: Duration) -> OutstandingRequest {
        let (at, ends) = (part.from, part.to);
        OutstandingRequest {
            part,
            own,
            at,
            ends,
            requested,
            answering: false,
            beginning: false,
            cancelled: false,
        }
    }

    /// Returns the outstanding bytes that are useful.
    pub(crate) fn useful_outstanding(&self, sizes: &Sizes) -> u64 {
        let from = self.at.max(self.part.from);
        if self.cancelled { 0 } else { sizes.estimate(&PartRequest { from, ..self.part }) }
    }

    /// Returns the outstanding bytes, useful or not.
    pub(crate) fn outstanding(&self, sizes: &Sizes) -> u64 {
        self.ends.map_or_else(
            || sizes.estimate(&PartRequest { from: self.at, to: None, ..self.part }),
            |ends| ends.saturating_sub(self.at),
        )
    }
}

/// One connection's side of a schedule.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionState {
    /// It is open.
    pub up: bool,
    pub asked: VecDeque<OutstandingRequest>,
    /// When a byte last came, or was first due.
    pub last_byte: Duration,
    rate: Ewma,
}

impl Default for ConnectionState {
    fn default() -> ConnectionState {
        ConnectionState {
            up: false,
            asked: VecDeque::new(),
            last_byte: Duration::ZERO,
            rate: Ewma::over(SPAN),
        }
    }
}

impl ConnectionState {
    pub(crate) fn opened(&mut self, now: Duration) {
        *self = ConnectionState { up: true, last_byte: now, ..ConnectionState::default() };
    }

    pub(crate) fn ask(&mut self, request: OutstandingRequest) {
        if self.asked.is_empty() {
            self.last_byte = request.requested;
        }
        self.asked.push_back(request);
    }

    /// `bytes` of payload came in one read.
    pub(crate) fn received(&mut self, now: Duration, bytes: u64) {
        self.last_byte = now;
        self.rate.received(now, bytes);
        if self.asked.is_empty() {
            self.rate.idle();
        }
    }

    /// Returns its rate in bytes per second; `None` while that is unknown.
    pub(crate) fn rate(&self, now: Duration) -> Option<f64> {
        self.rate.bytes_per_s(now, None)
    }

    /// Returns the bytes asked for that are to come and wanted.
    pub(crate) fn useful_outstanding(&self, sizes: &Sizes) -> u64 {
        self.asked.iter().map(|asked| asked.useful_outstanding(sizes)).sum()
    }

    /// Returns the bytes asked for that are to come, wanted or not: a further request has to wait for them.
    pub(crate) fn outstanding(&self, sizes: &Sizes) -> u64 {
        self.asked.iter().map(|asked| asked.outstanding(sizes)).sum()
    }
}
