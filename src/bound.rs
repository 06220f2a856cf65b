//! What physics allows: the least time in which a payload can come over the links. Pure.
//!
//! T* is the least T with Σᵢ [βᵢ + ∫ Cᵢ(t − eᵢ) dt from sᵢ to T]⁺ ≥ payload, where link i has the
//! earliest first payload byte sᵢ, the burst credit βᵢ, the delay eᵢ behind its bottleneck and the
//! payload capacity Cᵢ. No schedule is faster on links that do not share a channel.

/// Rates one after another, in bytes per second; the last one holds, or all of them come again.
#[derive(Clone, Debug)]
pub struct Course {
    /// When each rate begins (s), and the rate; ascending, the first at 0.
    steps: Vec<(f64, f64)>,
    /// Bytes up to the beginning of each step.
    sums: Vec<f64>,
    period_s: Option<f64>,
}

impl Course {
    /// `period_s` is when the steps come again; `None` where the last one holds.
    pub fn new(steps: Vec<(f64, f64)>, period_s: Option<f64>) -> Course {
        let mut sums = Vec::with_capacity(steps.len());
        let (mut sum, mut last) = (0.0, (0.0, 0.0));
        for &step in &steps {
            sum += last.1 * (step.0 - last.0);
            sums.push(sum);
            last = step;
        }
        Course { steps, sums, period_s }
    }

    /// Bytes from its beginning to `t` (s).
    fn sum(&self, t: f64) -> f64 {
        let within = |t: f64| {
            let place = self.steps.partition_point(|step| step.0 <= t);
            let Some(index) = place.checked_sub(1) else { return 0.0 };
            let (began, rate) = self.steps[index];
            // No time is infinite here, but a rate of 0 and a late end must not make NaN.
            self.sums[index] + if rate > 0.0 { rate * (t - began) } else { 0.0 }
        };
        match self.period_s {
            Some(period) if t > period => {
                let laps = (t / period).floor();
                laps * within(period) + within(t - laps * period)
            }
            _ => within(t),
        }
    }

    fn is_usable(&self) -> bool {
        let last = self.steps.last().is_some_and(|step| step.1 > 0.0);
        last || self.period_s.is_some() && self.steps.iter().any(|step| step.1 > 0.0)
    }
}

/// A capacity that changes, in bytes per second: courses one after another.
#[derive(Clone, Debug)]
pub struct Capacity {
    /// When each course begins, in seconds from the first request; ascending. It may have begun
    /// before the first request; what it carried until then does not count.
    courses: Vec<(f64, Course)>,
}

impl Capacity {
    pub fn constant(bytes_per_s: f64) -> Capacity {
        Capacity::from(Course::new(vec![(0.0, bytes_per_s)], None))
    }

    /// A course that began `at_s` seconds after the first request, or before it.
    pub fn begun(at_s: f64, course: Course) -> Capacity {
        Capacity { courses: vec![(at_s, course)] }
    }

    /// From `at_s` on (s from the first request) another course holds, which begins then.
    pub fn then(mut self, at_s: f64, course: Course) -> Capacity {
        self.courses.push((at_s, course));
        self
    }

    /// Bytes between two times (s).
    fn integral(&self, from: f64, to: f64) -> f64 {
        let from = from.max(0.0);
        let ends = self.courses.iter().skip(1).map(|course| course.0).chain([f64::INFINITY]);
        self.courses
            .iter()
            .zip(ends)
            .map(|((began, course), end)| {
                let (from, to) = (from.max(*began), to.min(end));
                if from < to { course.sum(to - began) - course.sum(from - began) } else { 0.0 }
            })
            .sum()
    }

    /// The highest of its rates, bytes per second.
    pub fn highest(&self) -> f64 {
        let steps = self.courses.iter().flat_map(|(_, course)| &course.steps);
        steps.map(|step| step.1).fold(0.0, f64::max)
    }

    fn is_usable(&self) -> bool {
        self.courses.last().is_some_and(|(_, course)| course.is_usable())
    }
}

/// A course that begins at the first request.
impl From<Course> for Capacity {
    fn from(course: Course) -> Capacity {
        Capacity::begun(0.0, course)
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
        let falls = Course::new(vec![(0.0, 0.1e6)], None);
        let capacity = Capacity::constant(1e6).then(1.0, falls);
        let bound = bound_s(&[Path { capacity, ..path(0.0, 0.0) }], 1.1e6).unwrap();
        assert!((bound - 2.0).abs() < 1e-6, "{bound}");
    }

    #[test]
    fn a_course_that_comes_again_is_followed_through_its_outages() {
        // 1 MB/s for 1 s, nothing for 2 s, and so on; it began half a second before the first request.
        let course = || Course::new(vec![(0.0, 1e6), (1.0, 0.0)], Some(3.0));
        let capacity = Capacity::constant(5e6).then(-0.5, course());
        let at = |bytes| bound_s(&[Path { capacity: capacity.clone(), ..path(0.0, 0.0) }], bytes).unwrap();
        for (bytes, expected) in [(0.4e6, 0.4), (0.6e6, 2.6), (1.5e6, 3.5), (1.6e6, 5.6), (100.5e6, 300.5)] {
            assert!((at(bytes) - expected).abs() < 1e-6, "{bytes}: {}", at(bytes));
        }
        // It is cut off in an outage, and another one follows for good.
        let capacity = Capacity::from(course()).then(7.5, Course::new(vec![(0.0, 0.0)], None));
        let dies = [Path { capacity, ..path(0.0, 0.0) }];
        assert!((bound_s(&dies, 2.9e6).unwrap() - 6.9).abs() < 1e-6);
        assert_eq!(bound_s(&dies, 3.1e6), None);
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
