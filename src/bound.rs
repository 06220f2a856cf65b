//! What physics allows: the least time in which a payload can come over the links. Pure.
//!
//! T* is the least T with Σᵢ [βᵢ + ∫ Cᵢ(t − eᵢ) dt from sᵢ to T]⁺ ≥ payload, where link i has the
//! earliest first payload byte sᵢ, the burst credit βᵢ, the delay eᵢ behind its bottleneck and the
//! payload capacity Cᵢ. No schedule is faster on links that do not share a channel.

/// A capacity that changes in steps, in bytes per second.
#[derive(Clone, Debug)]
pub struct Capacity {
    /// When each rate begins, in seconds from the first request, and the rate; ascending, from 0.
    steps: Vec<(f64, f64)>,
}

impl Capacity {
    pub fn constant(bytes_per_s: f64) -> Capacity {
        Capacity { steps: vec![(0.0, bytes_per_s)] }
    }

    /// Rates with the times (s) from which they hold; times below 0 count as 0.
    pub fn steps(mut steps: Vec<(f64, f64)>) -> Capacity {
        for step in &mut steps {
            step.0 = step.0.max(0.0);
        }
        Capacity { steps }
    }

    /// Bytes between two times (s).
    fn integral(&self, from: f64, to: f64) -> f64 {
        let ends = self.steps.iter().skip(1).map(|step| step.0).chain([f64::INFINITY]);
        self.steps
            .iter()
            .zip(ends)
            .map(|(&(start, rate), end)| rate * (to.min(end) - from.max(start)).max(0.0))
            .sum()
    }

    /// The highest of its rates, bytes per second.
    pub fn highest(&self) -> f64 {
        self.steps.iter().map(|step| step.1).fold(0.0, f64::max)
    }

    fn is_usable(&self) -> bool {
        self.steps.last().is_some_and(|step| step.1 > 0.0)
    }
}

/// One link, as far as the bound needs it.
#[derive(Clone, Debug)]
pub struct Path {
    /// Of payload, not of frames: see [`payload_share`].
    pub capacity: Capacity,
    /// Earliest first payload byte after the first request (s): one round trip on an open connection.
    pub first_byte_s: f64,
    /// Delay behind the bottleneck (s): capacity used at t is payload at t + this.
    pub behind_s: f64,
    /// What the shaper lets pass at once before its rate binds, bytes.
    pub credit_bytes: f64,
    /// Round trip of an idle link (s), for slow start.
    pub rtt_s: f64,
    /// Payload of a full segment, bytes.
    pub mss_bytes: f64,
}

impl Path {
    /// Payload bytes that can have come by time `t` (s).
    fn delivered(&self, t: f64) -> f64 {
        if t <= self.first_byte_s {
            return 0.0;
        }
        self.credit_bytes + self.capacity.integral(self.first_byte_s - self.behind_s, t - self.behind_s)
    }

    /// The same with TCP's slow start from ten segments (RFC 6928) that doubles each round trip.
    fn delivered_tcp(&self, t: f64) -> f64 {
        let physical = self.delivered(t);
        if self.rtt_s <= 0.0 {
            return physical;
        }
        let mut window = 10.0 * self.mss_bytes;
        let mut sent = 0.0;
        let mut round = self.first_byte_s;
        // Once a window fills a round trip, the link and not the window is the limit.
        while round < t {
            let room = self.capacity.integral(round - self.behind_s, round + self.rtt_s - self.behind_s);
            if window >= room {
                let rest = self.capacity.integral(round - self.behind_s, t - self.behind_s);
                return physical.min(sent + self.credit_bytes + rest);
            }
            sent += window.min(self.capacity.integral(round - self.behind_s, t - self.behind_s));
            round += self.rtt_s;
            window *= 2.0;
        }
        physical.min(sent)
    }
}

/// The share of a frame that is payload: a segment of `mss` bytes travels with TCP's 32 bytes of
/// header (timestamps on), IP's 20 (40 for IPv6), and Ethernet's 14. 1448 / 1514 at MTU 1500.
pub fn payload_share(mss_bytes: f64, ipv6: bool) -> f64 {
    let headers = 14.0 + if ipv6 { 40.0 } else { 20.0 } + 32.0;
    mss_bytes / (mss_bytes + headers)
}

/// The least time (s) in which `bytes` can come over `paths`; `None` if they never can.
pub fn bound_s(paths: &[Path], bytes: f64) -> Option<f64> {
    least_time(paths, bytes, Path::delivered)
}

/// The bound with each link's slow start (s).
pub fn bound_tcp_s(paths: &[Path], bytes: f64) -> Option<f64> {
    least_time(paths, bytes, Path::delivered_tcp)
}

/// The least T with Σ delivered(T) ≥ bytes, by bisection: delivered never falls.
fn least_time(paths: &[Path], bytes: f64, delivered: fn(&Path, f64) -> f64) -> Option<f64> {
    const LONGEST_S: f64 = 1e7;
    let total = |t: f64| paths.iter().map(|path| delivered(path, t)).sum::<f64>();
    if bytes <= 0.0 {
        return Some(0.0);
    }
    if !paths.iter().any(|path| path.capacity.is_usable()) && total(LONGEST_S) < bytes {
        return None;
    }
    let mut high = 1e-3;
    while total(high) < bytes {
        high *= 2.0;
        if high > LONGEST_S {
            return None;
        }
    }
    let mut low = 0.0;
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if total(middle) < bytes { low = middle } else { high = middle }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(bytes_per_s: f64, rtt_s: f64) -> Path {
        Path {
            capacity: Capacity::constant(bytes_per_s),
            first_byte_s: rtt_s,
            behind_s: 0.0,
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
        let capacity = Capacity::steps(vec![(-1.0, 1e6), (1.0, 0.1e6)]);
        let bound = bound_s(&[Path { capacity, ..path(0.0, 0.0) }], 1.1e6).unwrap();
        assert!((bound - 2.0).abs() < 1e-6, "{bound}");
    }

    #[test]
    fn a_delay_behind_the_bottleneck_costs_nothing_more_than_the_first_byte() {
        let late = Path { behind_s: 0.05, ..path(1e6, 0.1) };
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
