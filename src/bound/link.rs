//! From a link's shapes to the path that the bound computes with. Pure.

use super::Path;
use super::capacity::{Capacity, Course, RateStep};
use crate::config::profile::{Distribution, FRAME, Shape};
use crate::config::trace::is_outage;
use crate::config::traffic::Cross;
use crate::emulate::rng::jitter_quantile;
use crate::units::{Delay, Rate};

/// The shapes of a link from a moment on.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    /// When they came into force, and when their traces began to be played; seconds from the first
    /// request, negative before it.
    pub from_s: f64,
    pub began_s: f64,
    pub down: Shape,
    pub up: Shape,
    /// Whether the rates are those of the traces.
    pub played: bool,
    pub shaper: ShaperFacts,
}

/// The facts of a shaper that a bound depends on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ShaperFacts {
    /// The userspace model: a packet passes the bottleneck when its service begins, and the delay is behind it.
    Model,
    /// tbf with a bucket of so many bytes, behind netem's delay. A change refills the bucket.
    Tbf { burst_bytes: f64 },
}

/// Segments as TCP sends them on a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TcpSegments {
    /// Payload of a full one, bytes.
    pub mss_bytes: f64,
    pub ipv6: bool,
    /// Whether its header has TCP's timestamps.
    pub timestamps: bool,
}

impl TcpSegments {
    /// The segments of TCP over Ethernet with IPv4, where nothing else is known.
    pub(crate) const USUAL: TcpSegments = TcpSegments { mss_bytes: 1448.0, ipv6: false, timestamps: true };

    /// The share of a frame that is payload: a segment travels with TCP's 20 bytes of header and 12 of
    /// timestamps, IP's 20 (40 for IPv6), and Ethernet's 14. 1448 / 1514 at MTU 1500.
    pub(crate) fn payload_share(self) -> f64 {
        let headers = 14.0 + if self.ipv6 { 40.0 } else { 20.0 } + if self.timestamps { 32.0 } else { 20.0 };
        self.mss_bytes / (self.mss_bytes + headers)
    }
}

/// The least delay (s) that a packet of this shape can have where `delay` is the nominal one.
fn least_s(shape: &Shape, delay: Delay) -> f64 {
    // A packet that overtakes skips the delay.
    if !shape.reorder.is_zero() {
        return 0.0;
    }
    let least = jitter_quantile(shape.distribution.unwrap_or(Distribution::Uniform), 0.0);
    (delay.0.as_secs_f64() + least * shape.jitter.min(delay).0.as_secs_f64()).max(0.0)
}

/// The least delay (s) of a shape at any time of its trace, where that is played.
fn least_of_all_s(shape: &Shape, played: bool) -> f64 {
    let steps = shape.trace.iter().filter(|_| played).flat_map(|trace| trace.steps());
    let delays = steps.map(|step| step.delay.unwrap_or(shape.delay));
    delays.min().map_or_else(|| least_s(shape, shape.delay), |delay| least_s(shape, delay))
}

/// Takes off the rate what datagrams of others took: they yield to nobody, so it was never to be had. TCP yields, so
/// that beside it nothing is taken off; nor is it where both had their time, since the count has the bytes of both.
pub(crate) fn leave_out_datagrams(stages: &mut [Stage], bits_per_s: f64) {
    let has_only_datagrams = |stage: &Stage| matches!(stage.down.cross, None | Some(Cross::Datagrams(_)));
    if !stages.iter().all(has_only_datagrams) {
        return;
    }
    for stage in stages.iter_mut().filter(|stage| stage.down.cross.is_some()) {
        let left = stage.down.rate.bits_per_s().saturating_sub(bits_per_s as u64);
        stage.down.rate = Rate::from_bits_per_s(left.max(1));
    }
}

impl Stage {
    fn least_delays_s(&self) -> (f64, f64) {
        (least_of_all_s(&self.down, self.played), least_of_all_s(&self.up, self.played))
    }

    /// Returns the course of a bottleneck with one of the link's shapes.
    fn course(&self, shape: &Shape, share: f64) -> Course {
        let behind = |delay: Delay| match self.shaper {
            ShaperFacts::Model => least_s(shape, delay),
            ShaperFacts::Tbf { .. } => 0.0,
        };
        let Some(trace) = shape.trace.as_ref().filter(|_| self.played) else {
            return Course::steady(shape.rate.bytes_per_s() * share, behind(shape.delay));
        };
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let steps = trace.steps().iter().zip(trace.durations()).map(|(step, lasts)| {
            let bytes_per_s = match self.shaper {
                // tbf knows no outage: a kilobit a second and one full frame pass instead.
                ShaperFacts::Tbf { .. } if is_outage(step.rate) => 125.0 + FRAME as f64 / seconds(lasts),
                _ => step.rate.bytes_per_s(),
            };
            RateStep {
                at_s: seconds(step.at),
                bytes_per_s: bytes_per_s * share,
                behind_s: behind(step.delay.unwrap_or(shape.delay)),
            }
        });
        Course::new(steps.collect(), trace.looped().then(|| seconds(trace.length())))
    }
}

/// Returns the better of two stages in every value, from when the second begins: it holds while the first is
/// changed into it.
pub(crate) fn better(first: &Stage, second: Stage) -> Stage {
    let fast = if second.down.rate > first.down.rate { second.clone() } else { first.clone() };
    let least = |of: fn(&Stage) -> f64| Delay(std::time::Duration::from_secs_f64(of(first).min(of(&second))));
    let (down, up) = (least(|stage| stage.least_delays_s().0), least(|stage| stage.least_delays_s().1));
    let still = |shape: Shape, delay| Shape { delay, jitter: Delay::default(), ..shape };
    Stage { from_s: second.from_s, down: still(fast.down, down), up: still(fast.up, up), ..fast }
}

/// Returns the capacity of one direction over all stages, in bytes of payload.
fn capacity(stages: &[Stage], share: f64, course: impl Fn(&Stage) -> Course) -> Capacity {
    stages.iter().enumerate().fold(Capacity::default(), |capacity, (index, stage)| {
        let again = match stage.shaper {
            ShaperFacts::Tbf { burst_bytes } if index > 0 => burst_bytes * share,
            _ => 0.0,
        };
        capacity.then(stage.from_s, stage.began_s, again, course(stage))
    })
}

/// Returns the path of a link with these shapes, one after another; `None` where there are none, or where its
/// up direction never lets a request pass.
pub(crate) fn path(stages: &[Stage], segment: TcpSegments) -> Option<Path> {
    let first = stages.first()?;
    let share = segment.payload_share();
    let up = capacity(stages, 1.0, |stage| stage.course(&stage.up, 1.0));
    // A shape that comes into force before the first byte does may have a shorter delay.
    let rtt_of = |stage: &Stage| stage.least_delays_s().0 + stage.least_delays_s().1;
    let early = stages.iter().filter(|stage| stage.from_s <= rtt_of(first));
    let (down_s, up_s) = early
        .map(Stage::least_delays_s)
        .fold((f64::MAX, f64::MAX), |least, delays| (delays.0.min(least.0), delays.1.min(least.1)));
    let opens_s = match first.shaper {
        ShaperFacts::Model => up.opens(0.0)? + up_s,
        ShaperFacts::Tbf { .. } => up.opens(up_s)? + down_s,
    };
    let credit_bytes = match first.shaper {
        ShaperFacts::Model => segment.mss_bytes,
        ShaperFacts::Tbf { burst_bytes } => (burst_bytes * share).max(segment.mss_bytes),
    };
    Some(Path {
        capacity: capacity(stages, share, |stage| stage.course(&stage.down, share)),
        opens_s,
        credit_bytes,
        rtt_s: down_s + up_s,
        mss_bytes: segment.mss_bytes,
    })
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
