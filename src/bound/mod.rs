//! Bounds: the least time in which a payload can come over the links. Pure.
//!
//! T* is the least T with Σᵢ [βᵢ + ∫ Cᵢ(t) dt over t ≥ oᵢ with t + eᵢ(t) ≤ T]⁺ ≥ payload, where an answer on
//! link i can be at the bottleneck at oᵢ at the earliest, βᵢ is the burst credit, eᵢ the least delay behind
//! the bottleneck and Cᵢ the payload capacity. No schedule is faster on links that do not share a channel;
//! [`channel`] is for those that do.

pub(crate) mod capacity;
pub(crate) mod channel;
pub(crate) mod link;

use crate::config::channel::ChannelConfig;
pub(crate) use capacity::Capacity;
pub(crate) use link::TcpSegments;

/// One link, as far as the bound needs it.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    /// Of payload, not of frames: see [`payload_share`]. It knows the delays behind the bottleneck.
    pub capacity: Capacity,
    /// When (s) the first answer can be at the bottleneck; the connection is open at 0.
    pub opens_s: f64,
    /// Bytes that the shaper lets pass at once before its rate binds.
    pub credit_bytes: f64,
    /// Least round trip of an idle link (s), for slow start.
    pub rtt_s: f64,
    /// Payload of a full segment, bytes.
    pub mss_bytes: f64,
}

impl Path {
    /// When (s) the first byte of payload can have arrived; infinite where none ever does.
    pub(crate) fn first_byte_s(&self) -> f64 {
        self.capacity.first_arrival(self.opens_s).unwrap_or(f64::INFINITY)
    }

    /// Payload bytes that can have come by time `t` (s).
    pub(crate) fn delivered(&self, t: f64) -> f64 {
        if t < self.first_byte_s() {
            return 0.0;
        }
        self.credit_bytes + self.capacity.arrived(self.opens_s, t)
    }

    /// The same with TCP's slow start from ten segments (RFC 6928) that doubles each round trip.
    fn delivered_tcp(&self, t: f64) -> f64 {
        let physical = self.delivered(t);
        let mut round = self.first_byte_s();
        if self.rtt_s <= 0.0 || !round.is_finite() {
            return physical;
        }
        let mut window = 10.0 * self.mss_bytes;
        let mut sent = 0.0;
        let arrived = |t: f64| self.capacity.arrived(self.opens_s, t);
        // Once a window fills a round trip, the link and not the window is the limit.
        while round <= t {
            let room = arrived(round + self.rtt_s) - arrived(round);
            if window >= room {
                return physical.min(sent + self.credit_bytes + arrived(t) - arrived(round));
            }
            sent += window.min(self.credit_bytes + arrived(t) - arrived(round));
            round += self.rtt_s;
            window *= 2.0;
        }
        physical.min(sent)
    }
}

/// The share of a frame that is payload, where TCP has timestamps: see [`TcpSegments::payload_share`].
pub(crate) fn payload_share(mss_bytes: f64, ipv6: bool) -> f64 {
    TcpSegments { mss_bytes, ipv6, timestamps: true }.payload_share()
}

/// How far a run may fall short of the bound before anything is wrong: clocks and timers are read to
/// about a millisecond, and a packet a link may have been under way before the first request was noted.
pub(crate) const TOLERANCE_S: f64 = 1e-3;

/// The least time (s) in which `bytes` can come over `paths`; `None` if they never can.
pub(crate) fn bound_s(paths: &[Path], bytes: f64) -> Option<f64> {
    least_time(paths, bytes, Path::delivered)
}

/// The bound with each link's slow start (s).
pub(crate) fn bound_tcp_s(paths: &[Path], bytes: f64) -> Option<f64> {
    least_time(paths, bytes, Path::delivered_tcp)
}

/// The least time (s) for `bytes` over two links that may share the channel, and that with slow start.
pub(crate) fn bounds_s(paths: &[Path], channel: Option<&ChannelConfig>, bytes: f64) -> Option<(f64, f64)> {
    let plain = match channel {
        None => bound_s(paths, bytes)?,
        Some(channel) => {
            let both = [paths.first()?.clone(), paths.get(1)?.clone()];
            channel::sharers(channel, both, bytes).least_time_s(bytes)?
        }
    };
    Some((plain, bound_tcp_s(paths, bytes)?.max(plain)))
}

/// The least T with Σ delivered(T) ≥ bytes.
fn least_time(paths: &[Path], bytes: f64, delivered: fn(&Path, f64) -> f64) -> Option<f64> {
    first_time(bytes, |t| paths.iter().map(|path| delivered(path, t)).sum())
}

/// The least time (s) at which `delivered` is `bytes`, by bisection: delivered never falls. `None`
/// where it is not within four months.
fn first_time(bytes: f64, delivered: impl Fn(f64) -> f64) -> Option<f64> {
    const LONGEST_S: f64 = 1e7;
    if bytes <= 0.0 {
        return Some(0.0);
    }
    let mut high = 1e-3;
    while delivered(high) < bytes {
        high *= 2.0;
        if high > LONGEST_S {
            return None;
        }
    }
    let mut low = 0.0;
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if delivered(middle) < bytes { low = middle } else { high = middle }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::capacity::Course;
    use super::*;
    use proptest::prelude::*;

    fn path(bytes_per_s: f64, rtt_s: f64) -> Path {
        Path {
            capacity: Capacity::from(Course::steady(bytes_per_s, 0.0)),
            opens_s: rtt_s,
            credit_bytes: 0.0,
            rtt_s,
            mss_bytes: 1448.0,
        }
    }

    #[test]
    fn the_known_case_of_20_and_80_mbit() {
        // 80.25 MB over 100 Mbit/s of frames took at least 6.72 s of payload time when measured.
        let share = payload_share(1448.0, false);
        let paths = [path(2.5e6 * share, 0.0), path(10e6 * share, 0.0)];
        let bound = bound_s(&paths, 80.25e6).unwrap();
        assert!((bound - 6.713).abs() < 0.01, "{bound}");
    }

    #[test]
    fn a_link_that_starts_late_gives_less() {
        // 1 MB/s from 0.1 s and 1 MB/s from 0.3 s: 1 MB is there at 0.7 s.
        let bound = bound_s(&[path(1e6, 0.1), path(1e6, 0.3)], 1e6).unwrap();
        assert!((bound - 0.7).abs() < 1e-6, "{bound}");
    }

    #[test]
    fn a_rate_that_falls_is_followed() {
        let capacity =
            Capacity::from(Course::steady(1e6, 0.0)).then(1.0, 1.0, 0.0, Course::steady(0.1e6, 0.0));
        let bound = bound_s(&[Path { capacity, ..path(0.0, 0.0) }], 1.1e6).unwrap();
        assert!((bound - 2.0).abs() < 1e-6, "{bound}");
    }

    #[test]
    fn a_course_that_comes_again_is_followed_through_its_outages() {
        // 1 MB/s for 1 s, nothing for 2 s, and so on; it began half a second before the first request.
        let step = |at_s, bytes_per_s| capacity::RateStep { at_s, bytes_per_s, behind_s: 0.0 };
        let course = || Course::new(vec![step(0.0, 1e6), step(1.0, 0.0)], Some(3.0));
        let capacity = Capacity::from(Course::steady(5e6, 0.0)).then(-0.5, -0.5, 0.0, course());
        let at = |bytes| bound_s(&[Path { capacity: capacity.clone(), ..path(0.0, 0.0) }], bytes).unwrap();
        for (bytes, expected) in [(0.4e6, 0.4), (0.6e6, 2.6), (1.5e6, 3.5), (1.6e6, 5.6), (100.5e6, 300.5)] {
            assert!((at(bytes) - expected).abs() < 1e-6, "{bytes}: {}", at(bytes));
        }
        // It is cut off in an outage, and another one follows for good.
        let capacity = Capacity::from(course()).then(7.5, 7.5, 0.0, Course::steady(0.0, 0.0));
        let dies = [Path { capacity, ..path(0.0, 0.0) }];
        assert!((bound_s(&dies, 2.9e6).unwrap() - 6.9).abs() < 1e-6);
        assert_eq!(bound_s(&dies, 3.1e6), None);
    }

    #[test]
    fn a_delay_behind_the_bottleneck_costs_nothing_more_than_the_first_byte() {
        let capacity = Capacity::from(Course::steady(1e6, 0.05));
        let late = Path { capacity, opens_s: 0.05, ..path(1e6, 0.1) };
        assert!((bound_s(&[late], 1e6).unwrap() - 1.1).abs() < 1e-6);
    }

    #[test]
    fn nothing_comes_over_a_dead_link() {
        assert_eq!(bound_s(&[path(0.0, 0.0)], 1.0), None);
        assert_eq!(bound_s(&[path(0.0, 0.0)], 0.0), Some(0.0));
    }

    #[test]
    fn slow_start_costs_the_rounds_it_takes() {
        // 10 + 20 + 40 + 80 segments in four rounds; the link itself is practically free.
        let bound = bound_tcp_s(&[path(1e12, 0.1)], 150.0 * 1448.0).unwrap();
        assert!((bound - 0.4).abs() < 1e-3, "{bound}");
    }

    proptest! {
        #[test]
        fn tcp_is_never_faster_than_the_link(
            rate_a in 1e4f64..1e8, rate_b in 1e4f64..1e8, rtt_a in 0f64..0.7, rtt_b in 0f64..0.7, bytes in 1f64..1e9
        ) {
            let paths = [path(rate_a, rtt_a), path(rate_b, rtt_b)];
            let (plain, tcp) = (bound_s(&paths, bytes).unwrap(), bound_tcp_s(&paths, bytes).unwrap());
            prop_assert!(tcp >= plain * (1.0 - 1e-9), "{plain} {tcp}");
        }

        #[test]
        fn more_bytes_take_no_less(rate in 1e4f64..1e8, rtt in 0f64..0.7, bytes in 1f64..1e9) {
            let paths = [path(rate, rtt), path(rate / 3.0, rtt * 2.0)];
            prop_assert!(bound_s(&paths, bytes * 1.1).unwrap() >= bound_s(&paths, bytes).unwrap());
        }
    }
}
