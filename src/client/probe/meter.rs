//! Tells the steady part of a bulk transfer from its beginning, and a bottleneck that is busy from one
//! that is not. Pure: times (s) and counts are handed in.

use crate::link::control::Row;
use crate::link::profile::FRAME;
use crate::link::{Backend, Counters};
use crate::units::Direction;

/// A transfer has found its rate when this many rounds have brought no quarter more than the best
/// before them: how BBR judges that a pipe is full (Cardwell et al., ACM Queue 14(5), 2016).
const FLAT_ROUNDS: u32 = 3;
const GROWTH: f64 = 1.25;
/// A transfer that grows for so long is measured all the same.
const MOST_ROUNDS: u32 = 40;
/// Packets that a window must hold at least, and how long it may last for them.
const PACKETS: f64 = 200.0;
const LONGEST_S: f64 = 60.0;

/// What a transfer carried once it had found its rate.
#[derive(Clone, Debug)]
pub struct Meter {
    round_s: f64,
    window_s: f64,
    mss_bytes: f64,
    began: (f64, u64),
    best: f64,
    rounds: u32,
    flat: u32,
    /// Where the window began, once it has.
    steady: Option<(f64, u64)>,
}

impl Meter {
    /// For a link with this idle round trip (s). The window is at least 1 s, 10 round trips and 200
    /// full segments long.
    pub fn new(rtt_s: f64, mss_bytes: f64) -> Meter {
        Meter {
            round_s: rtt_s.max(0.05),
            window_s: (10.0 * rtt_s).max(1.0),
            mss_bytes,
            began: (0.0, 0),
            best: 0.0,
            rounds: 0,
            flat: 0,
            steady: None,
        }
    }

    /// Takes note of all the bytes that have come up to now, which is counted from the first request.
    /// Gives the rate of the window (bytes per second) once it is over.
    pub fn note(&mut self, now_s: f64, bytes: u64) -> Option<f64> {
        if let Some((from_s, from)) = self.steady {
            let (span_s, come) = (now_s - from_s, (bytes - from) as f64);
            let enough = come >= PACKETS * self.mss_bytes || span_s >= LONGEST_S;
            return (span_s >= self.window_s && enough).then_some(come / span_s);
        }
        let (from_s, from) = self.began;
        let span_s = now_s - from_s;
        // A round of a few packets tells nothing of growth.
        let come = (bytes - from) as f64;
        if span_s < self.round_s || (come < 10.0 * self.mss_bytes && span_s < 2.0) {
            return None;
        }
        let rate = come / span_s;
        self.rounds += 1;
        if rate > self.best * GROWTH {
            (self.best, self.flat) = (rate, 0);
        } else if self.best > 0.0 {
            self.flat += 1;
        }
        self.began = (now_s, bytes);
        if self.flat >= FLAT_ROUNDS || self.rounds >= MOST_ROUNDS {
            self.steady = Some((now_s, bytes));
        }
        None
    }
}

/// What one direction's shaper counted while its bottleneck was never idle.
///
/// The queue that a backend reports has the delay line in it, which at the full rate holds no more
/// than rate × (delay + jitter). What is beyond that waits for the bottleneck. It counts once it has been
/// so for as long as the delay line is: before, what leaves may be of an idle time.
#[derive(Clone, Debug)]
pub struct Backlog {
    line_s: f64,
    line_bytes: f64,
    busy_since: Option<f64>,
    last: Option<(f64, u64)>,
    pub bytes: u64,
    pub seconds: f64,
}

impl Backlog {
    pub fn new(row: &Row, other: Option<&Row>) -> Backlog {
        let line = |row: &Row| (row.shape.delay.0 + row.shape.jitter.0).as_secs_f64();
        let line_s = match (row.backend, row.direction) {
            (Backend::Netem, _) => line(row),
            // Userspace holds both delays on the way down.
            (Backend::Userspace, Direction::Down) => line(row) + other.map_or(0.0, line),
            (Backend::Userspace, Direction::Up) => 0.0,
        };
        // Some more, so that a bottleneck seldom runs empty between two readings.
        let spare_bytes = (row.shape.rate.bytes_per_s() * 5e-3).max(2.0 * FRAME as f64);
        let line_bytes = row.shape.rate.bytes_per_s() * line_s + spare_bytes;
        Backlog { line_s, line_bytes, busy_since: None, last: None, bytes: 0, seconds: 0.0 }
    }

    pub fn note(&mut self, now_s: f64, counters: &Counters) {
        let busy = counters.queue_bytes as f64 > self.line_bytes;
        let since = if busy { *self.busy_since.get_or_insert(now_s) } else { now_s };
        if !busy {
            self.busy_since = None;
        } else if let Some((at_s, bytes)) = self.last.filter(|(at_s, _)| at_s - since >= self.line_s) {
            self.bytes += counters.bytes - bytes;
            self.seconds += now_s - at_s;
        }
        self.last = Some((now_s, counters.bytes));
    }

    /// The rate in kbit/s; `None` where the bottleneck was busy for too short a time: 0.3 s or 50 full
    /// frames.
    pub fn rate_kbit(&self) -> Option<f64> {
        let enough = self.seconds >= 0.3 && self.bytes >= 50 * FRAME;
        enough.then(|| self.bytes as f64 * 8e-3 / self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::profile::load;
    use crate::units::LinkId;

    /// Feeds a meter a transfer whose rate (bytes/s) is told by the time, looked at every 10 ms.
    fn measure(mut meter: Meter, rate: impl Fn(f64) -> f64) -> (f64, f64) {
        let mut bytes = 0.0;
        for step in 1..20_000 {
            let now = f64::from(step) * 0.01;
            bytes += rate(now) * 0.01;
            if let Some(found) = meter.note(now, bytes as u64) {
                return (now, found);
            }
        }
        panic!("the meter never came to an end");
    }

    #[test]
    fn slow_start_does_not_count() {
        // Doubles every 100 ms up to 1 MB/s, which it reaches at 0.66 s.
        let grows = |now: f64| (1e4 * 2f64.powf(now / 0.1)).min(1e6);
        let (took, found) = measure(Meter::new(0.1, 1448.0), grows);
        assert!((found - 1e6).abs() < 1e4, "{found}");
        assert!(took > 1.9 && took < 2.6, "{took}");
    }

    #[test]
    fn a_slow_link_is_measured_until_200_packets_have_come() {
        let (took, found) = measure(Meter::new(0.84, 1448.0), |_| 28_700.0);
        assert!((found - 28_700.0).abs() < 300.0, "{found}");
        assert!(took > 200.0 * 1448.0 / 28_700.0, "{took}");
    }

    #[test]
    fn a_transfer_that_never_settles_is_measured_all_the_same() {
        let (_, found) = measure(Meter::new(0.05, 1448.0), |now| 1e5 * 1.1f64.powf(now * 20.0));
        assert!(found > 0.0);
    }

    fn row(backend: Backend) -> Row {
        Row {
            link: LinkId::A,
            direction: Direction::Down,
            backend,
            why: None,
            profile: "lte-medium".into(),
            server: None,
            owner: "run".into(),
            shape: load::load("lte-medium").unwrap().down,
            trace: None,
            kernel: serde_json::Value::Null,
            counters: Counters::default(),
            air: None,
        }
    }

    #[test]
    fn only_the_time_in_which_the_bottleneck_was_busy_counts() {
        let row = row(Backend::Netem);
        let mut backlog = Backlog::new(&row, None);
        let counters = |bytes, queue_bytes| Counters { bytes, queue_bytes, ..Counters::default() };
        // lte-medium down: 10.7 Mbit/s, 35 ± 6 ms: its line holds 55 KB at most.
        let mut bytes = 0;
        for step in 0..100 {
            let now = f64::from(step) * 0.02;
            let busy = step >= 30;
            bytes += if busy { 26_750 } else { 5_000 };
            backlog.note(now, &counters(bytes, if busy { 200_000 } else { 20_000 }));
        }
        let rate = backlog.rate_kbit().unwrap();
        assert!((rate - 10_700.0).abs() < 1.0, "{rate}");
        assert!(backlog.seconds < 1.36, "{}", backlog.seconds);
        let mut idle = Backlog::new(&row, None);
        (0..100).for_each(|step| idle.note(f64::from(step) * 0.02, &counters(step as u64 * 1000, 3000)));
        assert_eq!(idle.rate_kbit(), None);
    }
}
