//! The two stages that every modelled link is made of: a bottleneck that serves at a rate, and a
//! line behind it that delays. Pure; time is handed in.

use std::collections::VecDeque;

use super::rng::{Purpose, Stream, jitter_quantile, normal_share};
use super::service_rate::{ActiveTrace, ServiceRate};
use crate::config::profile::{Distribution, Shape};
use crate::units::{Direction, LinkId, Nanos, Percent, Rate};

/// The header that Ethernet puts before an IP packet. Rates count frames, not packets.
pub(crate) const ETHERNET_HEADER: u32 = 14;

/// Serves packets one after another at a rate.
///
/// A packet leaves when its service *begins*: one that finds the bottleneck idle is not delayed, and its bits
/// keep the next one back. An idle link thus adds its delay and nothing else, like a token bucket that holds
/// one packet, and no window of time sees more than rate × window plus one packet.
#[derive(Clone, Debug)]
pub(crate) struct Bottleneck {
    service_rate: ServiceRate,
    free_at: Nanos,
    /// The remainder of the integer nanoseconds, in bits × 10⁹; carried so that no rate drifts.
    rest: u128,
    /// The departure and the bytes of each waiting packet, in order.
    queue: VecDeque<(Nanos, u32)>,
    queued_bytes: u64,
}

impl Bottleneck {
    pub(crate) fn new(rate: Rate) -> Bottleneck {
        Bottleneck {
            service_rate: ServiceRate::Steady(rate),
            free_at: 0,
            rest: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
        }
    }

    /// Returns the number of waiting packets, and their bytes. The one in service does not wait.
    pub(crate) fn waiting(&mut self, now: Nanos) -> (u64, u64) {
        while let Some(&(leaves, bytes)) = self.queue.front()
            && leaves <= now
        {
            self.queue.pop_front();
            self.queued_bytes -= u64::from(bytes);
        }
        (self.queue.len() as u64, self.queued_bytes)
    }

    /// Returns when the service of a packet that comes now would begin.
    pub(crate) fn begins(&self, now: Nanos) -> Nanos {
        self.service_rate.open_from(self.free_at.max(now))
    }

    /// Returns the departure of a packet that comes now; [`Nanos::MAX`] where an outage never ends.
    pub(crate) fn pass(&mut self, now: Nanos, bytes: u32) -> Nanos {
        self.waiting(now);
        if self.free_at < now {
            self.free_at = now;
            self.rest = 0;
        }
        let leaves = self.service_rate.open_from(self.free_at);
        let work = u128::from(bytes) * 8 * 1_000_000_000 + self.rest;
        (self.free_at, self.rest) = self.service_rate.finish(leaves, work);
        if leaves > now {
            self.queue.push_back((leaves, bytes));
            self.queued_bytes += u64::from(bytes);
        }
        leaves
    }

    /// Changes the service rate from now on. `next` is the departure of the first waiting packet, if one
    /// waits; the rest of that time shrinks or grows with the rate. The caller then passes the waiting
    /// packets again, in their order.
    pub(crate) fn change(&mut self, now: Nanos, service_rate: ServiceRate, next: Option<Nanos>) {
        let left = self.service_rate.work(now, next.unwrap_or(self.free_at));
        self.free_at = if left > 0 { service_rate.finish(now, left).0 } else { now };
        self.rest = 0;
        self.service_rate = service_rate;
        self.queue.clear();
        self.queued_bytes = 0;
    }
}

/// The random numbers of one packet on a line; drawn on arrival, used when the packet enters it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Draw {
    jitter: f64,
    overtakes: bool,
}

impl Draw {}

/// Jitter as a process in time: at any moment it follows its distribution, and it takes another value within
/// `correlation`. Packets draw nothing, so a busy link has the jitter of an idle one.
///
/// Between two independent normal values the process is x₀ cos φ + x₁ sin φ, φ from 0 to π/2, which is normal
/// with the same variance all the way.
#[derive(Clone, Debug)]
struct JitterProcess {
    correlation: Nanos,
    stream: Stream,
    /// The time of the first packet, from which cells are counted.
    began: Option<Nanos>,
    /// A cell and the values at its two ends.
    cell: Option<(u64, [f64; 2])>,
}

impl JitterProcess {
    fn new(stream: Stream) -> JitterProcess {
        JitterProcess { correlation: 0, stream, began: None, cell: None }
    }

    /// Sets the correlation time.
    fn set(&mut self, correlation: Nanos) {
        if correlation != self.correlation {
            (self.correlation, self.began, self.cell) = (correlation, None, None);
        }
    }

    /// Where the jitter is in its distribution at a time, 0 to 1; none where each packet draws its own.
    fn at(&mut self, time: Nanos) -> Option<f64> {
        if self.correlation == 0 {
            return None;
        }
        let since = time.saturating_sub(*self.began.get_or_insert(time));
        let cell = since / self.correlation;
        let ends = match self.cell {
            Some((known, ends)) if known == cell => ends,
            _ => [cell, cell + 1]
                .map(|place| jitter_quantile(Distribution::Normal, self.stream.unit_at(place))),
        };
        self.cell = Some((cell, ends));
        let angle = (since % self.correlation) as f64 / self.correlation as f64 * std::f64::consts::FRAC_PI_2;
        Some(normal_share(ends[0] * angle.cos() + ends[1] * angle.sin()))
    }
}

/// Delays packets. Keeps their order by letting none leave before one that came earlier (a running
/// maximum), so that jitter never reorders; a packet that reorders skips the delay and overtakes.
#[derive(Clone, Debug)]
pub(crate) struct DelayLine {
    delay: f64,
    jitter: f64,
    /// Where the delay changes with time.
    active_trace: Option<ActiveTrace>,
    distribution: Distribution,
    reorder: Percent,
    last: Nanos,
    jitter_stream: Stream,
    process: JitterProcess,
    reorder_stream: Stream,
}

impl DelayLine {
    pub(crate) fn new(shape: &Shape, seed: u64, link: LinkId, direction: Direction) -> DelayLine {
        let mut line = DelayLine {
            delay: 0.0,
            jitter: 0.0,
            active_trace: None,
            distribution: Distribution::Uniform,
            reorder: Percent::ZERO,
            last: 0,
            jitter_stream: Stream::new(seed, link, direction, Purpose::Jitter),
            process: JitterProcess::new(Stream::new(seed, link, direction, Purpose::JitterProcess)),
            reorder_stream: Stream::new(seed, link, direction, Purpose::Reorder),
        };
        line.change(shape, None);
        line
    }

    /// Adopts another shape's delay, jitter and reordering for packets that enter from now on. With `began`
    /// its trace is played from that time on.
    pub(crate) fn change(&mut self, shape: &Shape, began: Option<Nanos>) {
        self.delay = shape.delay.0.as_nanos() as f64;
        self.jitter = shape.jitter.0.as_nanos() as f64;
        self.process.set(shape.jitter_correlation().as_nanos() as Nanos);
        self.distribution = shape.distribution.unwrap_or(Distribution::Uniform);
        self.reorder = shape.reorder;
        let trace = shape.trace.as_ref().filter(|trace| trace.changes_delay());
        self.active_trace = trace.zip(began).map(|(trace, began)| ActiveTrace::new(trace, began));
    }

    /// Returns delay and jitter (ns) of a packet that enters at a time. No packet can arrive before it was
    /// sent.
    fn delay(&self, enters: Nanos) -> (f64, f64) {
        let step = self.active_trace.as_ref().and_then(|trace| trace.at(enters).0.delay);
        let delay = step.map_or(self.delay, |delay| delay.0.as_nanos() as f64);
        (delay, self.jitter.min(delay))
    }

    pub(crate) fn keeps_order(&self) -> bool {
        self.reorder.is_zero()
    }

    pub(crate) fn draw(&mut self) -> Draw {
        Draw { jitter: self.jitter_stream.unit(), overtakes: self.reorder_stream.happens(self.reorder) }
    }

    /// When a packet that enters at `enters` leaves.
    pub(crate) fn pass(&mut self, enters: Nanos, draw: Draw) -> Nanos {
        if draw.overtakes {
            return enters;
        }
        self.last = self.last.max(self.leaves(enters, draw));
        self.last
    }

    fn leaves(&mut self, enters: Nanos, draw: Draw) -> Nanos {
        let (delay, jitter) = self.delay(enters);
        let place = if jitter > 0.0 { self.process.at(enters) } else { None };
        let delay = delay + jitter * jitter_quantile(self.distribution, place.unwrap_or(draw.jitter));
        // A float turned into an integer saturates at 0: no packet leaves before it enters.
        enters.saturating_add(delay as Nanos)
    }

    /// Forgets what was planned to leave after `last`.
    pub(crate) fn rewind(&mut self, last: Nanos) {
        self.last = last;
    }
}
