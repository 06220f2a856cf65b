//! The state of one link during a run: its connections, their progress together, and its rate.

use std::collections::VecDeque;
use std::time::Duration;

use super::connection::{ConnectionState, OutstandingRequest};
use super::ewma::Ewma;
use super::pipeline::Pipeline;
use super::pool::Sizes;

/// The most requests in flight of `auto`.
const DEEPEST_AUTO: usize = 1000;
/// The time constant of a link's rate.
const MEAN_SPAN: Duration = Duration::from_secs(1);
/// The time constant of its latest rate.
const LATEST: Duration = Duration::from_millis(100);
/// TCP's initial window: ten segments (RFC 6928).
const FIRST_WINDOW_BYTES: u64 = 14_480;
/// A mean over less time is no rate.
const LEAST_MEAN_S: f64 = 0.25;
/// The round trip of a link that is near.
const NEAR: Duration = Duration::from_millis(20);
/// How long a silent link may be silent before it counts as stalled, at least.
pub(crate) const LEAST_STALL: Duration = Duration::from_secs(1);

/// How long what came is looked back at, for a link that is slow.
pub(crate) const SLOW_WINDOW: Duration = Duration::from_secs(5);
/// The same where a link is known to carry more, and the other link may bring the rest at once.
pub(crate) const SHORT_SLOW_WINDOW: Duration = Duration::from_millis(1500);
/// No link is slow above this rate and a tenth of its own best one, bytes/s: the slowest links in use
/// (EDGE) carry 30 000. Of a link that is shaped to less than ten times this, a tenth of its rate counts.
const SLOW_BYTES_PER_S: f64 = 8000.0;
/// How often the bytes that came are noted, for looking back.
const MARK_EVERY: Duration = Duration::from_millis(100);

/// One link's side of a schedule.
#[derive(Clone, Debug)]
pub(crate) struct LinkState {
    /// The connections that it has or had, by their index.
    pub connections: Vec<ConnectionState>,
    pub dead: bool,
    /// The server keeps connections open between answers.
    pub keeps_alive: bool,
    /// The server answers ranges with ranges.
    pub ranges: bool,
    /// Least round trip seen.
    pub rtt: Duration,
    /// Its rate, for decisions that reach further than the next request.
    pub mean_rate: Ewma,
    /// Its latest rate, which is more than that while its TCP has not reached the link's rate.
    latest: Ewma,
    /// The greatest rate that it has held for a while, bytes/s; 0 before it is known.
    best_rate: f64,
    /// The rate that it is shaped to, bytes/s; infinite for an unshaped link.
    pub shaped_rate: f64,
    /// New payload that came since the last progress, and when that was.
    new_bytes: u64,
    pub last_progress: Duration,
    /// Payload that came, and when the first of it did.
    brought: u64,
    first_byte: Option<Duration>,
    /// When a byte last came, or was first due.
    pub last_byte: Duration,
    /// When a byte last came.
    pub last_rx: Duration,
    /// Since when it has brought what was due without a pause.
    active_since: Duration,
    /// Since when something has been due without an end, and without a silence of half of [`SLOW_WINDOW`].
    due_since: Duration,
    /// The same, without a silence for which it counts as stalled.
    unbroken_since: Duration,
    /// The bytes received by these times, the latest last.
    marks: VecDeque<(Duration, u64)>,
}

impl Default for LinkState {
    fn default() -> LinkState {
        LinkState {
            connections: vec![ConnectionState::default()],
            dead: false,
            keeps_alive: true,
            ranges: true,
            rtt: Duration::ZERO,
            mean_rate: Ewma::over(MEAN_SPAN),
            best_rate: 0.0,
            shaped_rate: f64::INFINITY,
            new_bytes: 0,
            last_progress: Duration::ZERO,
            brought: 0,
            first_byte: None,
            latest: Ewma::over(LATEST),
            last_byte: Duration::ZERO,
            last_rx: Duration::ZERO,
            active_since: Duration::ZERO,
            due_since: Duration::ZERO,
            unbroken_since: Duration::ZERO,
            marks: VecDeque::new(),
        }
    }
}

impl LinkState {
    pub(crate) fn opened(&mut self, index: usize, now: Duration, rtt: Duration) {
        if self.is_up() {
            self.rtt = self.rtt.min(rtt);
        } else {
            self.rtt = rtt;
            self.last_byte = now;
            self.active_since = now;
            (self.due_since, self.unbroken_since) = (now, now);
        }
        if self.connections.len() <= index {
            self.connections.resize_with(index + 1, ConnectionState::default);
        }
        self.connections[index].opened(now);
    }

    /// Whether it has a connection.
    pub(crate) fn is_up(&self) -> bool {
        self.connections.iter().any(|connection| connection.up)
    }

    /// Returns the requests that are outstanding on its connections.
    pub(crate) fn asked(&self) -> impl DoubleEndedIterator<Item = &OutstandingRequest> {
        self.connections.iter().flat_map(|connection| &connection.asked)
    }

    pub(crate) fn asked_mut(&mut self) -> impl Iterator<Item = &mut OutstandingRequest> {
        self.connections.iter_mut().flat_map(|connection| &mut connection.asked)
    }

    /// Whether nothing is outstanding on it.
    pub(crate) fn is_idle(&self) -> bool {
        self.connections.iter().all(|connection| connection.asked.is_empty())
    }

    pub(crate) fn ask(&mut self, index: usize, request: OutstandingRequest) {
        if self.is_idle() {
            let now = request.requested;
            self.last_byte = now;
            (self.due_since, self.unbroken_since) = (now, now);
        }
        self.connections[index].ask(request);
    }

    /// `bytes` of payload came in one read.
    pub(crate) fn received(&mut self, index: usize, now: Duration, bytes: u64) {
        self.connections[index].received(now, bytes);
        if self.pauses(now) {
            self.active_since = now;
        }
        let silent = now.saturating_sub(self.last_byte);
        if silent >= self.stall_timeout() {
            self.unbroken_since = now;
        }
        if silent >= SLOW_WINDOW / 2 {
            self.due_since = now;
        }
        (self.last_byte, self.last_rx) = (now, now);
        if self.marks.back().is_none_or(|&(at, _)| now >= at + MARK_EVERY) {
            self.marks.push_back((now, self.brought));
            let old = self.marks.iter().take_while(|(at, _)| *at + SLOW_WINDOW + MARK_EVERY < now).count();
            self.marks.drain(..old);
        }
        self.mean_rate.received(now, bytes);
        self.latest.received(now, bytes);
        self.brought += bytes;
        self.first_byte.get_or_insert(now);
        if self.mean_rate.is_steady() {
            self.best_rate = self.best_rate.max(self.mean_rate.bytes_per_s(now, None).unwrap_or_default());
        }
        if self.is_idle() {
            self.idle();
        }
    }

    /// A connection is gone, and with it what it was asked for, which is returned.
    pub(crate) fn closed(&mut self, index: usize) -> VecDeque<OutstandingRequest> {
        let closed = std::mem::take(&mut self.connections[index]);
        if self.is_idle() {
            self.idle();
        }
        closed.asked
    }

    fn idle(&mut self) {
        self.mean_rate.idle();
        self.latest.idle();
    }

    /// Returns true for a shaped link of a short round trip, which need not be asked for much at once.
    pub(crate) fn is_near_shaped(&self) -> bool {
        self.rtt <= NEAR && self.shaped_rate.is_finite()
    }

    /// Returns its rate over the last second or so, in bytes per second; `None` while that is unknown.
    pub(crate) fn rate(&self, now: Duration) -> Option<f64> {
        self.mean_rate.bytes_per_s(now, self.overdue(now))
    }

    /// Returns the same, or the rate over the last tenth of a second where that is more.
    pub(crate) fn latest_rate(&self, now: Duration) -> Option<f64> {
        let latest = self.latest.bytes_per_s(now, self.overdue(now)).unwrap_or_default();
        Some(self.rate(now)?.max(latest))
    }

    /// Returns the latest time at which the first due byte should have come, if that time is over.
    fn overdue(&self, now: Duration) -> Option<Duration> {
        let firsts = self.connections.iter().filter_map(|connection| connection.asked.front());
        let due = firsts.map(|first| first.requested).min()? + 2 * self.rtt + Duration::from_millis(100);
        (due < now).then_some(due)
    }

    /// The mean from the first byte to the last, in bytes per second: what is known of a link whose answers
    /// each come in one read.
    pub(crate) fn mean_rate(&self) -> Option<f64> {
        let span_s = self.last_rx.saturating_sub(self.first_byte?).as_secs_f64();
        (span_s >= LEAST_MEAN_S).then(|| self.brought as f64 / span_s)
    }

    /// The bandwidth-delay product of the best rate seen, bytes.
    pub(crate) fn best_in_flight(&self) -> f64 {
        self.best_rate * self.rtt.as_secs_f64()
    }

    /// Returns the most bytes that TCP's slow start brings in the next round trip: ten segments, and as many
    /// again as have come.
    pub(crate) fn next_window(&self) -> f64 {
        (FIRST_WINDOW_BYTES + self.brought) as f64
    }

    /// Returns the payload that came, useful or not (bytes).
    pub(crate) fn received_bytes(&self) -> u64 {
        self.brought
    }

    /// Bytes asked for that are to come and wanted.
    pub(crate) fn useful_outstanding(&self, sizes: &Sizes) -> u64 {
        self.asked().map(|asked| asked.useful_outstanding(sizes)).sum()
    }

    /// Bytes asked for that are to come, wanted or not: what a further request has to wait for.
    pub(crate) fn outstanding(&self, sizes: &Sizes) -> u64 {
        self.asked().map(|asked| asked.outstanding(sizes)).sum()
    }

    /// Returns the share of its rate that a connection has, as far as it is known; 1 for the only one.
    pub(crate) fn share_of(&self, index: usize, now: Duration) -> f64 {
        let up = || self.connections.iter().filter(|connection| connection.up);
        if up().nth(1).is_none() {
            return 1.0;
        }
        let known = || up().filter_map(|connection| connection.rate(now));
        let mean = known().sum::<f64>() / known().count().max(1) as f64;
        // After a loss it carries less for a while; it would never carry more if it were asked for no more.
        let rate =
            |connection: &ConnectionState| connection.rate(now).unwrap_or(mean).max(mean / 4.0).max(1.0);
        rate(&self.connections[index]) / up().map(rate).sum::<f64>()
    }

    /// Whether another request may go out on a connection, as far as that and the user's choice go.
    pub(crate) fn may_pipeline(&self, index: usize, pipeline: Pipeline) -> bool {
        match (self.connections[index].asked.len(), pipeline) {
            (0, _) => true,
            _ if !self.keeps_alive => false,
            (asked, Pipeline::Depth(most)) => asked < most,
            (asked, Pipeline::Auto) => asked < DEEPEST_AUTO,
        }
    }

    /// From when on the silence of a connection is a stall; `None` where nothing is due on it.
    pub(crate) fn stalls_at(&self, index: usize) -> Option<Duration> {
        let connection = &self.connections[index];
        (connection.up && !connection.asked.is_empty()).then(|| connection.last_byte + self.stall_timeout())
    }

    /// How many bytes came from `from` or a little earlier on.
    fn brought_since(&self, from: Duration) -> u64 {
        let before = self.marks.iter().rev().find(|(at, _)| *at <= from).or(self.marks.front());
        self.brought - before.map_or(self.brought, |(_, bytes)| *bytes)
    }

    /// Returns the bytes per second that came from `from` or a little earlier on; 0 before anything came.
    pub(super) fn rate_since(&self, from: Duration, now: Duration) -> f64 {
        let before = self.marks.iter().rev().find(|(at, _)| *at <= from).or(self.marks.front());
        before.map_or(0.0, |&(at, bytes)| {
            (self.brought - bytes) as f64 / now.saturating_sub(at).as_secs_f64().max(1e-3)
        })
    }

    /// Notes that its server got on.
    pub(crate) fn progressed(&mut self, now: Duration) {
        (self.new_bytes, self.last_progress) = (0, now);
    }

    /// `bytes` of what came are new. Returns whether, together with earlier ones, they are progress: `least`.
    pub(crate) fn brought_new(&mut self, now: Duration, bytes: u64, least: u64) -> bool {
        self.new_bytes += bytes;
        let progress = self.new_bytes >= least;
        if progress {
            self.progressed(now);
        }
        progress
    }

    /// Returns the rate above which it is never slow, bytes/s.
    pub(crate) fn trickle_rate(&self) -> f64 {
        SLOW_BYTES_PER_S.min(self.shaped_rate / 10.0)
    }

    /// Returns whether all that it was asked for came, sooner than a rate can be told.
    pub(crate) fn is_done_at_once(&self) -> bool {
        self.brought > 0 && self.is_idle()
    }

    /// Whether it brings less than `least_bytes_per_s` although something is due. A link that is slow by
    /// nature is not: where it brings more than [`LinkState::trickle_rate`], it must also bring less than a tenth of what it
    /// once carried. Nor is one from which nothing comes at all: that is silence. `at_once` judges one that
    /// carried more by a shorter time.
    pub(crate) fn is_slow(&self, least_bytes_per_s: f64, at_once: bool, now: Duration) -> bool {
        let least = least_bytes_per_s.min(self.trickle_rate().max(self.best_rate / 10.0));
        let (window, since) = match at_once && self.best_rate >= 10.0 * least {
            true => (SHORT_SLOW_WINDOW.max(4 * self.rtt).min(SLOW_WINDOW), self.unbroken_since),
            false => (SLOW_WINDOW, self.due_since),
        };
        let due = self.is_up() && !self.is_idle() && now < self.last_byte + self.stall_timeout();
        let from = now.checked_sub(window).filter(|&from| due && since <= from);
        let bytes = from.map_or(0, |from| self.brought_since(from));
        bytes > 0 && (bytes as f64) < least * window.as_secs_f64()
    }

    /// How long it may be silent while something is due.
    pub(crate) fn stall_timeout(&self) -> Duration {
        LEAST_STALL.max(4 * self.rtt)
    }

    /// Whether it has been silent for half of that.
    fn pauses(&self, now: Duration) -> bool {
        now.saturating_sub(self.last_byte) >= self.stall_timeout() / 2
    }

    /// Since when it has brought what was due, or had nothing due; `None` where it pauses or is away.
    pub(crate) fn active_since(&self, now: Duration) -> Option<Duration> {
        (self.is_up() && (self.is_idle() || !self.pauses(now))).then_some(self.active_since)
    }
}
