//! The two stages that every modelled link is made of: a bottleneck that serves at a rate, and a
//! line behind it that delays. Pure; time is handed in.

use super::chance::{Purpose, Stream, deviation};
use super::pace::{Pace, Played};
use super::profile::{Distribution, Shape};
use crate::units::{Direction, LinkId, Percent, Rate};

/// Nanoseconds since an origin that the caller picks, and that never moves.
pub type Nanos = u64;

/// The header that Ethernet puts before an IP packet. Rates count frames, not packets.
pub const ETHERNET_HEADER: u32 = 14;

/// Serves packets one after another at a rate.
///
/// A packet leaves when its service *begins*: one that finds the bottleneck idle is not delayed,
/// and the time that its bits take keeps the next one back. So an idle link adds its delay and
/// nothing else, like a token bucket that holds one packet, and no window of time ever sees more
/// than rate × window plus one packet.
#[derive(Clone, Debug)]
pub struct Bottleneck {
    pace: Pace,
    free_at: Nanos,
    /// What integer nanoseconds left over, in bits × 10⁹; carried so that no rate drifts.
    rest: u128,
}

impl Bottleneck {
    pub fn new(rate: Rate) -> Bottleneck {
        Bottleneck { pace: Pace::Steady(rate), free_at: 0, rest: 0 }
    }

    /// How long a packet that comes now would wait.
    pub fn wait(&self, now: Nanos) -> Nanos {
        self.free_at.saturating_sub(now)
    }

    /// When a packet that comes now leaves; [`Nanos::MAX`] where an outage never ends.
    pub fn pass(&mut self, now: Nanos, bytes: u32) -> Nanos {
        if self.free_at < now {
            self.free_at = now;
            self.rest = 0;
        }
        let leaves = self.pace.open_from(self.free_at);
        let work = bytes as u128 * 8 * 1_000_000_000 + self.rest;
        (self.free_at, self.rest) = self.pace.finish(leaves, work);
        leaves
    }

    /// Serves at another pace from now on. `next` is when the first of those that wait was to leave,
    /// if any waits; what is left of that time shrinks or grows with the rate. Those that wait are
    /// then to pass again, in their order.
    pub fn change(&mut self, now: Nanos, pace: Pace, next: Option<Nanos>) {
        let left = self.pace.work(now, next.unwrap_or(self.free_at));
        self.free_at = if left > 0 { pace.finish(now, left).0 } else { now };
        self.rest = 0;
        self.pace = pace;
    }
}

/// What chance says of one packet's way along a line; drawn on arrival, used when it gets there.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    jitter: f64,
    overtakes: bool,
}

/// Delays packets. Keeps their order by letting none leave before one that came earlier (a running
/// maximum), so that jitter never reorders; a packet that reorders skips the delay and overtakes.
#[derive(Clone, Debug)]
pub struct Line {
    delay: f64,
    jitter: f64,
    /// Where the delay changes with time.
    played: Option<Played>,
    distribution: Distribution,
    reorder: Percent,
    last: Nanos,
    jitter_stream: Stream,
    reorder_stream: Stream,
}

impl Line {
    pub fn new(shape: &Shape, seed: u64, link: LinkId, direction: Direction) -> Line {
        let mut line = Line {
            delay: 0.0,
            jitter: 0.0,
            played: None,
            distribution: Distribution::Uniform,
            reorder: Percent::ZERO,
            last: 0,
            jitter_stream: Stream::new(seed, link, direction, Purpose::Jitter),
            reorder_stream: Stream::new(seed, link, direction, Purpose::Reorder),
        };
        line.change(shape, None);
        line
    }

    /// Takes over another shape's delay, jitter and reordering for what enters from now on. With
    /// `began` its trace is played from that time on.
    pub fn change(&mut self, shape: &Shape, began: Option<Nanos>) {
        self.delay = shape.delay.0.as_nanos() as f64;
        self.jitter = shape.jitter.0.as_nanos() as f64;
        self.distribution = shape.distribution.unwrap_or(Distribution::Uniform);
        self.reorder = shape.reorder;
        let trace = shape.trace.as_ref().filter(|trace| trace.changes_delay());
        self.played = trace.zip(began).map(|(trace, began)| Played::new(trace, began));
    }

    /// Delay and jitter of what enters at a time. No packet can arrive before it was sent.
    fn delay(&self, enters: Nanos) -> (f64, f64) {
        let step = self.played.as_ref().and_then(|played| played.at(enters).0.delay);
        let delay = step.map_or(self.delay, |delay| delay.0.as_nanos() as f64);
        (delay, self.jitter.min(delay))
    }

    pub fn keeps_order(&self) -> bool {
        self.reorder.is_zero()
    }

    pub fn draw(&mut self) -> Draw {
        Draw { jitter: self.jitter_stream.unit(), overtakes: self.reorder_stream.happens(self.reorder) }
    }

    /// When a packet that enters at `enters` leaves.
    pub fn pass(&mut self, enters: Nanos, draw: Draw) -> Nanos {
        if draw.overtakes {
            return enters;
        }
        let (delay, jitter) = self.delay(enters);
        let delay = delay + jitter * deviation(self.distribution, draw.jitter);
        // A float turned into an integer saturates at 0: no packet leaves before it enters.
        self.last = self.last.max(enters.saturating_add(delay as Nanos));
        self.last
    }

    /// Forgets what was planned to leave after `last`.
    pub fn rewind(&mut self, last: Nanos) {
        self.last = last;
    }
}
