//! The two stages that every modelled link is made of: a bottleneck that serves at a rate, and a
//! line behind it that delays. Pure; time is handed in.

use super::chance::{Purpose, Stream, deviation};
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
    rate: Rate,
    free_at: Nanos,
    /// What integer nanoseconds left over, in units of 1/rate ns; carried so that no rate drifts.
    rest: u128,
}

impl Bottleneck {
    pub fn new(rate: Rate) -> Bottleneck {
        Bottleneck { rate, free_at: 0, rest: 0 }
    }

    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// How long a packet that comes now would wait.
    pub fn wait(&self, now: Nanos) -> Nanos {
        self.free_at.saturating_sub(now)
    }

    /// When a packet that comes now leaves.
    pub fn pass(&mut self, now: Nanos, bytes: u32) -> Nanos {
        if self.free_at < now {
            self.free_at = now;
            self.rest = 0;
        }
        let leaves = self.free_at;
        let rate = self.rate.bits_per_s() as u128;
        let work = bytes as u128 * 8 * 1_000_000_000 + self.rest;
        self.free_at += (work / rate) as Nanos;
        self.rest = work % rate;
        leaves
    }

    /// Serves at another rate from now on. `next` is when the first of those that wait was to leave,
    /// if any waits; what is left of that time shrinks or grows with the rate. Those that wait are
    /// then to pass again, in their order.
    pub fn change(&mut self, now: Nanos, rate: Rate, next: Option<Nanos>) {
        let wait = next.unwrap_or(self.free_at).saturating_sub(now) as u128;
        let wait = wait * self.rate.bits_per_s() as u128 / rate.bits_per_s() as u128;
        self.free_at = now.saturating_add(Nanos::try_from(wait).unwrap_or(Nanos::MAX));
        self.rest = 0;
        self.rate = rate;
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
            distribution: Distribution::Uniform,
            reorder: Percent::ZERO,
            last: 0,
            jitter_stream: Stream::new(seed, link, direction, Purpose::Jitter),
            reorder_stream: Stream::new(seed, link, direction, Purpose::Reorder),
        };
        line.change(shape);
        line
    }

    /// Takes over another shape's delay, jitter and reordering for what enters from now on.
    pub fn change(&mut self, shape: &Shape) {
        self.delay = shape.delay.0.as_nanos() as f64;
        self.jitter = shape.jitter.0.as_nanos() as f64;
        self.distribution = shape.distribution.unwrap_or(Distribution::Uniform);
        self.reorder = shape.reorder;
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
        let delay = self.delay + self.jitter * deviation(self.distribution, draw.jitter);
        // A float turned into an integer saturates at 0: no packet leaves before it enters.
        self.last = self.last.max(enters + delay as Nanos);
        self.last
    }

    /// Forgets what was planned to leave after `last`.
    pub fn rewind(&mut self, last: Nanos) {
        self.last = last;
    }
}
