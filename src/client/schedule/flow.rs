//! One link in the middle of a run: what it has been asked for, how much of that has come, how fast.

use std::collections::VecDeque;
use std::time::Duration;

use super::Part;
use super::choice::Pipeline;
use super::goodput::Goodput;
use super::pace::Pace;
use super::pool::Sizes;

/// A bound on what `auto` asks for ahead, whatever it computes.
const DEEPEST_AUTO: usize = 256;
/// What TCP sends before the first acknowledgement: ten segments (RFC 6928).
const FIRST_WINDOW_BYTES: u64 = 14_480;
/// How long a silent link may be silent before it counts as stalled, at least.
pub const LEAST_STALL: Duration = Duration::from_secs(1);

/// A request on its way, or being answered.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What was asked for; `to` shrinks when the other link takes over its end.
    pub part: Part,
    /// Only this link may fetch it.
    pub own: bool,
    /// The next byte to come.
    pub at: u64,
    /// One past the last byte that comes, as far as it is known.
    pub ends: Option<u64>,
    pub requested: Duration,
    pub answering: bool,
    /// What still comes of it is of no use.
    pub void: bool,
}

impl Asked {
    /// Bytes that are to come and wanted.
    pub fn wanted(&self, sizes: &Sizes) -> u64 {
        let from = self.at.max(self.part.from);
        if self.void { 0 } else { sizes.estimate(&Part { from, ..self.part }) }
    }

    /// Bytes that are to come, wanted or not.
    pub fn coming(&self, sizes: &Sizes) -> u64 {
        self.ends.map_or_else(
            || sizes.estimate(&Part { from: self.at, to: None, ..self.part }),
            |ends| ends.saturating_sub(self.at),
        )
    }
}

/// One link's side of a schedule.
#[derive(Clone, Debug)]
pub struct Flow {
    /// It has a connection.
    pub up: bool,
    pub dead: bool,
    /// The server keeps connections open between answers.
    pub keeps_alive: bool,
    /// The server answers ranges with ranges.
    pub ranges: bool,
    /// Least round trip seen.
    pub rtt: Duration,
    pub asked: VecDeque<Asked>,
    pub pace: Pace,
    /// The greatest rate that it has held for a while, bytes/s; 0 before it is known.
    best_rate: f64,
    /// Payload that came.
    brought: u64,
    goodput: Goodput,
    /// When a byte last came, or was first due.
    pub last_byte: Duration,
    /// When a byte last came.
    pub heard: Duration,
    /// Since when it has brought what was due without a pause.
    moves_since: Duration,
}

impl Default for Flow {
    fn default() -> Flow {
        Flow {
            up: false,
            dead: false,
            keeps_alive: true,
            ranges: true,
            rtt: Duration::ZERO,
            asked: VecDeque::new(),
            pace: Pace::default(),
            best_rate: 0.0,
            brought: 0,
            goodput: Goodput::default(),
            last_byte: Duration::ZERO,
            heard: Duration::ZERO,
            moves_since: Duration::ZERO,
        }
    }
}

impl Flow {
    pub fn opened(&mut self, now: Duration, rtt: Duration) {
        self.up = true;
        self.rtt = rtt;
        self.last_byte = now;
        self.moves_since = now;
    }

    pub fn ask(&mut self, part: Part, own: bool, now: Duration) {
        if self.asked.is_empty() {
            self.last_byte = now;
        }
        let (at, ends) = (part.from, part.to);
        self.asked.push_back(Asked { part, own, at, ends, requested: now, answering: false, void: false });
    }

    /// `bytes` of payload came in one read.
    pub fn received(&mut self, now: Duration, bytes: u64) {
        if self.pauses(now) {
            self.moves_since = now;
        }
        (self.last_byte, self.heard) = (now, now);
        self.goodput.received(now, bytes);
        self.pace.received(now, bytes);
        self.brought += bytes;
        if self.pace.is_steady() {
            self.best_rate = self.best_rate.max(self.pace.bytes_per_s(now, None).unwrap_or_default());
        }
        if self.asked.is_empty() {
            self.idle();
        }
    }

    /// The connection is gone, and with it what was asked for, which is returned.
    pub fn closed(&mut self) -> VecDeque<Asked> {
        self.up = false;
        self.idle();
        std::mem::take(&mut self.asked)
    }

    fn idle(&mut self) {
        self.goodput.idle();
        self.pace.idle();
    }

    /// Bytes per second that it carries now; `None` while that is not known.
    pub fn rate(&self, now: Duration) -> Option<f64> {
        let due = self.asked.front().map(|first| first.requested + 2 * self.rtt + Duration::from_millis(100));
        self.pace.bytes_per_s(now, due.filter(|&due| due < now))
    }

    /// Bytes per second of its last burst; `None` where not enough has come.
    pub fn burst(&self) -> Option<f64> {
        self.goodput.bytes_per_s()
    }

    /// The same as the rate, or what it has brought of late where that is more.
    pub fn latest_rate(&self, now: Duration) -> Option<f64> {
        let silent = now.saturating_sub(self.heard) > Goodput::WINDOW;
        let latest = self.burst().filter(|_| !silent).unwrap_or_default();
        Some(self.rate(now)?.max(latest))
    }

    /// The bandwidth-delay product of the best rate seen, bytes.
    pub fn best_in_flight(&self) -> f64 {
        self.best_rate * self.rtt.as_secs_f64()
    }

    /// Bytes asked for that are to come and wanted.
    pub fn wanted(&self, sizes: &Sizes) -> u64 {
        self.asked.iter().map(|asked| asked.wanted(sizes)).sum()
    }

    /// Bytes asked for that are to come, wanted or not: what a further request has to wait for.
    pub fn coming(&self, sizes: &Sizes) -> u64 {
        self.asked.iter().map(|asked| asked.coming(sizes)).sum()
    }

    /// Whether another request may go out, as far as the connection and the user's choice go.
    pub fn has_room(&self, pipeline: Pipeline) -> bool {
        match pipeline {
            _ if self.asked.is_empty() => true,
            _ if !self.keeps_alive => false,
            Pipeline::Depth(most) => self.asked.len() < most,
            Pipeline::Auto => self.asked.len() < DEEPEST_AUTO,
        }
    }

    /// Whether what is still to come takes less than about one round trip: one and a half of the
    /// least round trip seen, for the request's own delays, and 10 ms for this machine's. The rate is
    /// the best one seen, as a link that lost packets or waited for requests carries more than it just
    /// did. While no rate is known, what may be to come grows as TCP's window does, from ten segments
    /// by what came, up to `unknown` bytes. `typical` stands for a size that is not known.
    pub fn runs_dry_soon(&self, sizes: &Sizes, typical: Option<u64>, unknown: u64) -> bool {
        let mut to_come = 0;
        for asked in &self.asked {
            let known = asked.ends.or(sizes.of(asked.part.segment)).map(|ends| ends.saturating_sub(asked.at));
            let Some(bytes) = known.or(typical) else { return false };
            to_come += bytes;
        }
        let horizon = self.rtt.mul_f64(1.5) + Duration::from_millis(10);
        match self.goodput.bytes_per_s() {
            Some(rate) => to_come as f64 <= rate.max(self.best_rate) * horizon.as_secs_f64(),
            None => to_come <= (FIRST_WINDOW_BYTES + self.brought).min(unknown),
        }
    }

    /// From when on silence is a stall; `None` where nothing is due.
    pub fn stalls_at(&self) -> Option<Duration> {
        (self.up && !self.asked.is_empty()).then(|| self.last_byte + self.patience())
    }

    /// How long it may be silent while something is due.
    pub fn patience(&self) -> Duration {
        LEAST_STALL.max(4 * self.rtt)
    }

    /// Whether it has been silent for half of that.
    fn pauses(&self, now: Duration) -> bool {
        now.saturating_sub(self.last_byte) >= self.patience() / 2
    }

    /// Since when it has brought what was due, or had nothing due; `None` where it pauses or is away.
    pub fn moves_since(&self, now: Duration) -> Option<Duration> {
        (self.up && (self.asked.is_empty() || !self.pauses(now))).then_some(self.moves_since)
    }
}
