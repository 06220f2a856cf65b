//! The state of one link during a run: its outstanding requests, their progress, and its rate.

use std::collections::VecDeque;
use std::time::Duration;

use super::PartRequest;
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

/// A request on its way, or being answered.
#[derive(Clone, Debug)]
pub(crate) struct OutstandingRequest {
    /// The requested part; `to` shrinks when the other link steals its end.
    pub part: PartRequest,
    /// Only this link may fetch it.
    pub own: bool,
    /// The next byte to come.
    pub at: u64,
    /// One past the last byte that comes, as far as it is known.
    pub ends: Option<u64>,
    pub requested: Duration,
    pub answering: bool,
    /// The rest of its answer is useless.
    pub cancelled: bool,
}

impl OutstandingRequest {
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

/// One link's side of a schedule.
#[derive(Clone, Debug)]
pub(crate) struct LinkState {
    /// It has a connection.
    pub up: bool,
    pub dead: bool,
    /// The server keeps connections open between answers.
    pub keeps_alive: bool,
    /// The server answers ranges with ranges.
    pub ranges: bool,
    /// Least round trip seen.
    pub rtt: Duration,
    pub asked: VecDeque<OutstandingRequest>,
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
            up: false,
            dead: false,
            keeps_alive: true,
            ranges: true,
            rtt: Duration::ZERO,
            asked: VecDeque::new(),
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
    pub(crate) fn opened(&mut self, now: Duration, rtt: Duration) {
        self.up = true;
        self.rtt = rtt;
        self.last_byte = now;
        self.active_since = now;
        (self.due_since, self.unbroken_since) = (now, now);
    }

    pub(crate) fn ask(&mut self, part: PartRequest, own: bool, now: Duration) {
        if self.asked.is_empty() {
            self.last_byte = now;
            (self.due_since, self.unbroken_since) = (now, now);
        }
        let (at, ends) = (part.from, part.to);
        self.asked.push_back(OutstandingRequest {
            part,
            own,
            at,
            ends,
            requested: now,
            answering: false,
            cancelled: false,
        });
    }

    /// `bytes` of payload came in one read.
    pub(crate) fn received(&mut self, now: Duration, bytes: u64) {
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
        if self.asked.is_empty() {
            self.idle();
        }
    }

    /// The connection is gone, and with it what was asked for, which is returned.
    pub(crate) fn closed(&mut self) -> VecDeque<OutstandingRequest> {
        self.up = false;
        self.idle();
        std::mem::take(&mut self.asked)
    }

    fn idle(&mut self) {
        self.mean_rate.idle();
        self.latest.idle();
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
        let due = self.asked.front()?.requested + 2 * self.rtt + Duration::from_millis(100);
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
        self.asked.iter().map(|asked| asked.useful_outstanding(sizes)).sum()
    }

    /// Bytes asked for that are to come, wanted or not: what a further request has to wait for.
    pub(crate) fn outstanding(&self, sizes: &Sizes) -> u64 {
        self.asked.iter().map(|asked| asked.outstanding(sizes)).sum()
    }

    /// Whether another request may go out, as far as the connection and the user's choice go.
    pub(crate) fn may_pipeline(&self, pipeline: Pipeline) -> bool {
        match pipeline {
            _ if self.asked.is_empty() => true,
            _ if !self.keeps_alive => false,
            Pipeline::Depth(most) => self.asked.len() < most,
            Pipeline::Auto => self.asked.len() < DEEPEST_AUTO,
        }
    }

    /// From when on silence is a stall; `None` where nothing is due.
    pub(crate) fn stalls_at(&self) -> Option<Duration> {
        (self.up && !self.asked.is_empty()).then(|| self.last_byte + self.stall_timeout())
    }

    /// How many bytes came from `from` or a little earlier on.
    fn brought_since(&self, from: Duration) -> u64 {
        let before = self.marks.iter().rev().find(|(at, _)| *at <= from).or(self.marks.front());
        self.brought - before.map_or(self.brought, |(_, bytes)| *bytes)
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
        self.brought > 0 && self.asked.is_empty()
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
        let due = self.up && !self.asked.is_empty() && now < self.last_byte + self.stall_timeout();
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
        (self.up && (self.asked.is_empty() || !self.pauses(now))).then_some(self.active_since)
    }
}
