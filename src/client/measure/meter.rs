//! Tells the steady part of a bulk transfer from its beginning, and a bottleneck that is busy from one
//! that is not. Pure: times (s) and counts are handed in.

use crate::config::profile::FRAME;
use crate::shape::active_shaping::ActiveShaping;

/// A transfer has found its rate when this many rounds have brought no quarter more than the best
/// before them: how BBR judges that a pipe is full (Cardwell et al., ACM Queue 14(5), 2016).
const FLAT_ROUNDS: u32 = 3;
const GROWTH: f64 = 1.25;
/// A transfer that grows for so long is measured all the same.
const MOST_ROUNDS: u32 = 40;
/// Packets that a window must hold at least, and how long it may last for them.
const PACKETS: f64 = 200.0;
const LONGEST_S: f64 = 60.0;

/// How often a transfer is looked at.
pub(crate) const GLANCE: std::time::Duration = std::time::Duration::from_millis(5);
/// Payload of a full segment, where it is not known better.
pub(crate) const SEGMENT_BYTES: f64 = 1448.0;

/// Measures a transfer's goodput from when it has found its rate.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
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
    pub(crate) fn new(rtt_s: f64, mss_bytes: f64) -> Meter {
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

    /// The same with a window that is at least so long.
    pub(crate) fn lasting(rtt_s: f64, mss_bytes: f64, least_s: f64) -> Meter {
        let meter = Meter::new(rtt_s, mss_bytes);
        Meter { window_s: (10.0 * rtt_s).max(least_s), ..meter }
    }

    /// How long it takes from when the transfer has grown to this rate (bytes per second), s.
    pub(crate) fn expected_s(&self, rate: f64) -> f64 {
        let round_s = self.round_s.max((10.0 * self.mss_bytes / rate).min(2.0));
        let window_s = self.window_s.max((PACKETS * self.mss_bytes / rate).min(LONGEST_S));
        f64::from(1 + FLAT_ROUNDS) * round_s + window_s
    }

    /// Whether the transfer had stopped growing when its window began.
    pub(crate) fn settled(&self) -> bool {
        self.flat >= FLAT_ROUNDS
    }

    /// When (s) the window began that counts, if it has.
    pub(crate) fn steady_from_s(&self) -> Option<f64> {
        self.steady.map(|(from_s, _)| from_s)
    }

    /// Takes note of all the bytes that have come up to now, which is counted from the first request.
    /// Gives the rate of the window (bytes per second) once it is over.
    pub(crate) fn note(&mut self, now_s: f64, bytes: u64) -> Option<f64> {
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

/// A reading of one direction's shaper: asked for and answered at these times (s), in which the bytes were
/// counted, and how late packets left since the reading before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShaperReading {
    pub asked_s: f64,
    pub answered_s: f64,
    /// That have passed so far.
    pub bytes: u64,
    pub late_s: f64,
}

/// Returns the bytes that passed between two readings, and the least time (s) that they took. The time is
/// that which the link had for them: from the start of the first reading, plus the lateness of earlier bytes.
/// One packet passes at once.
fn passed(first: ShaperReading, second: ShaperReading, last: ShaperReading) -> (f64, f64) {
    let bytes = last.bytes.saturating_sub(first.bytes).saturating_sub(FRAME);
    (bytes as f64, last.answered_s - first.asked_s + second.late_s)
}

/// The profile's values of a shaper's rate.
#[derive(Clone, Copy, Debug)]
struct Nominal {
    kbit: f64,
    /// By how much (s) a delay that varies can push packets together.
    spread_s: f64,
}

impl Nominal {
    fn of(row: &ActiveShaping, other: Option<&ActiveShaping>) -> Nominal {
        let jitters = [Some(row), other].into_iter().flatten().map(|row| row.shape.jitter.0.as_secs_f64());
        // Four deviations to each side are the most that any distribution here has.
        Nominal { kbit: row.shape.rate.kbit(), spread_s: 8.0 * jitters.sum::<f64>() }
    }

    /// Returns the rate of bytes that passed in some seconds, at most the link's rate where only a varying
    /// delay exceeds it.
    fn rate_kbit(&self, bytes: f64, seconds: f64) -> f64 {
        let kbit = |seconds: f64| bytes * 8e-3 / seconds;
        if kbit(seconds + self.spread_s) <= self.kbit { kbit(seconds).min(self.kbit) } else { kbit(seconds) }
    }
}

/// Counts the bytes that a shaper let go over a whole measurement, when they leave the shaper: at the
/// receiver a lost packet makes those behind it readable all at once.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    nominal: Nominal,
    readings: Vec<ShaperReading>,
}

impl Passed {
    pub(crate) fn new(row: &ActiveShaping, other: Option<&ActiveShaping>) -> Passed {
        Passed { nominal: Nominal::of(row, other), readings: Vec::new() }
    }

    pub(crate) fn note(&mut self, reading: ShaperReading) {
        self.readings.push(reading);
    }

    /// The rate (kbit/s) between two times (s), never above what the link can have carried; `None` where
    /// it was read too seldom.
    pub(crate) fn rate_kbit(&self, from_s: f64, to_s: f64) -> Option<f64> {
        let within = |reading: &&ShaperReading| reading.asked_s >= from_s && reading.answered_s <= to_s;
        let readings: Vec<ShaperReading> = self.readings.iter().filter(within).copied().collect();
        let (&[first, second, ..], Some(&last)) = (&readings[..], readings.last()) else { return None };
        let (bytes, seconds) = passed(first, second, last);
        (2.0 * seconds > to_s - from_s).then_some(self.nominal.rate_kbit(bytes, seconds))
    }
}

/// Counts one direction's shaper while its bottleneck is never idle.
///
/// The queue that a backend reports has the delay line in it, which at the full rate holds no more than rate
/// × (delay + jitter). Bytes beyond that wait for the bottleneck. They count once this has lasted for as long
/// as the delay line: before, departures may be of an idle time.
#[derive(Clone, Debug)]
pub(crate) struct Backlog {
    line_s: f64,
    line_bytes: f64,
    busy_since: Option<f64>,
    nominal: Nominal,
    /// The readings of a busy time that count: the first two, and the last so far.
    run: Vec<ShaperReading>,
    pub bytes: f64,
    pub seconds: f64,
}

impl Backlog {
    pub(crate) fn new(row: &ActiveShaping, other: Option<&ActiveShaping>) -> Backlog {
        let line_s = row.delay_line_ms * 1e-3;
        // Some more, so that a bottleneck seldom runs empty between two readings.
        let spare_bytes = (row.shape.rate.bytes_per_s() * 5e-3).max(2.0 * FRAME as f64);
        let line_bytes = row.shape.rate.bytes_per_s() * line_s + spare_bytes;
        let nominal = Nominal::of(row, other);
        Backlog { line_s, line_bytes, busy_since: None, nominal, run: Vec::new(), bytes: 0.0, seconds: 0.0 }
    }

    pub(crate) fn note(&mut self, reading: ShaperReading, queue_bytes: u64) {
        if queue_bytes as f64 <= self.line_bytes {
            self.end_run();
            return;
        }
        let since = *self.busy_since.get_or_insert(reading.answered_s);
        if reading.asked_s - since >= self.line_s {
            self.run.truncate(2);
            self.run.push(reading);
        }
    }

    fn end_run(&mut self) {
        self.busy_since = None;
        let run = std::mem::take(&mut self.run);
        if let (&[first, second, ..], Some(&last)) = (&run[..], run.last()) {
            let (bytes, seconds) = passed(first, second, last);
            self.bytes += bytes;
            self.seconds += seconds;
        }
    }

    /// The rate in kbit/s; `None` where the bottleneck was busy for too short a time: 0.3 s or 50 full
    /// frames.
    pub(crate) fn rate_kbit(&mut self) -> Option<f64> {
        self.end_run();
        let enough = self.seconds >= 0.3 && self.bytes >= (50 * FRAME) as f64;
        enough.then(|| self.nominal.rate_kbit(self.bytes, self.seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::profile::{Profile, Shape, load};
    use crate::emulate::emulator::Emulator;
    use crate::emulate::link::ArrivingPacket;
    use crate::shape::active_shaping::{Counters, Owner};
    use crate::units::{Direction, LinkId};

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
    fn window_follows_the_round_trip() {
        // 12 Mbit/s with 300 ms of round trip: ten segments that double each round trip.
        let ramp = |now: f64| (10.0 * 1448.0 / 0.3 * 2f64.powf((now / 0.3).floor())).min(1.5e6);
        let meter = || Meter::lasting(0.3, 1448.0, 2.0);
        let (took, found) = measure(meter(), ramp);
        assert!((found - 1.5e6).abs() < 1e4, "{found}");
        assert!(took > 3.0 + 5.0 * 0.3, "{took}");
        // One that grows for ever says so.
        let mut grows = meter();
        let mut bytes = 0.0;
        let ended = (1..20_000).any(|step| {
            let now = f64::from(step) * 0.01;
            bytes += 1e4 * 1.4f64.powf(now / 0.3) * 0.01;
            grows.note(now, bytes as u64).is_some()
        });
        assert!(ended && !grows.settled());
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

    /// lte-medium on the way down: 10.7 Mbit/s, 35 ± 6 ms.
    fn row() -> ActiveShaping {
        ActiveShaping {
            link: LinkId::A,
            direction: Direction::Down,
            backend: "netem".into(),
            why: None,
            profile: "lte-medium".into(),
            server: None,
            owner: Owner::Run,
            shape: load::load("lte-medium", LinkId::A).unwrap().down,
            trace: None,
            delay_line_ms: 41.0,
            burst_bytes: None,
            kernel: serde_json::Value::Null,
            counters: Counters::default(),
            airtimes: None,
            channel_error: None,
        }
    }

    #[test]
    fn only_the_time_in_which_the_bottleneck_was_busy_counts() {
        let row = row();
        let mut backlog = Backlog::new(&row, None);
        let reading = |at_s, bytes| ShaperReading { asked_s: at_s, answered_s: at_s, bytes, late_s: 0.0 };
        // lte-medium down: 10.7 Mbit/s, 35 ± 6 ms: its line holds 55 KB at most.
        let mut bytes = 0;
        for step in 0..100 {
            let now = f64::from(step) * 0.02;
            let busy = step >= 30;
            bytes += if busy { 26_750 } else { 5_000 };
            backlog.note(reading(now, bytes), if busy { 200_000 } else { 20_000 });
        }
        let rate = backlog.rate_kbit().unwrap();
        // One packet less than what passed, for it passes at once.
        assert!((10_680.0..=10_700.0).contains(&rate), "{rate}");
        assert!(backlog.seconds < 1.36, "{}", backlog.seconds);
        let mut idle = Backlog::new(&row, None);
        (0..100).for_each(|step| idle.note(reading(f64::from(step) * 0.02, step as u64 * 1000), 3000));
        assert_eq!(idle.rate_kbit(), None);
    }

    /// The readings of a model link of 12 Mbit/s that is always busy, while its shaper sleeps now and then
    /// and lets go in a heap what was due meanwhile. `reads` says when it is read, and how long that takes.
    fn stalled(stall_s: f64, reads: impl Iterator<Item = (f64, f64)>) -> Passed {
        let shape = row().shape;
        let mut model = Emulator::new(None, 1);
        let profile = Profile {
            name: String::new(),
            description: String::new(),
            down: Shape {
                rate: "12mbit".parse().unwrap(),
                queue: "1000000p".parse().unwrap(),
                ..shape.clone()
            },
            up: shape,
        };
        let way = (LinkId::A, Direction::Down);
        model.set(0, LinkId::A, &profile);
        (0..4000).for_each(|id| assert!(model.arrive(0, way, ArrivingPacket::plain(id, 1514)).is_ok()));
        let measured = ActiveShaping { shape: profile.down.clone(), ..row() };
        let (mut bytes, mut late_s, mut passed) = (0, 0f64, Passed::new(&measured, None));
        let mut reads = reads.peekable();
        for step in 0.. {
            // Every 1 ms, but for a stall each 200 ms.
            let now_s = f64::from(step) * 1e-3;
            let Some(&(asked_s, took_s)) = reads.peek() else { break };
            if now_s % 0.2 >= stall_s {
                let now = (now_s * 1e9) as u64;
                while let Some(departure) = model.take_due(now, way) {
                    bytes += u64::from(departure.bytes);
                    late_s = late_s.max((now - departure.at) as f64 / 1e9);
                }
            }
            if asked_s + took_s <= now_s {
                passed.note(ShaperReading { asked_s, answered_s: now_s, bytes, late_s });
                late_s = 0.0;
                reads.next();
            }
        }
        passed
    }

    #[test]
    fn rate_is_never_above_the_links_when_the_shaper_is_late() {
        for stall_s in [0.0, 0.022, 0.09] {
            for phase in 0..20 {
                let start = 0.1 + f64::from(phase) * 0.011;
                let reads = (0..60).map(|read| (start + f64::from(read) * 0.02, 0.002));
                let passed = stalled(stall_s, reads);
                let rate = passed.rate_kbit(start, start + 1.25).unwrap();
                assert!(rate <= 12_000.0, "stalls of {stall_s} s, phase {phase}: {rate}");
                let least = 12_000.0 * (0.98 - 2.0 * stall_s / 1.2);
                assert!(rate >= least, "stalls of {stall_s} s, phase {phase}: {rate}");
            }
        }
    }

    #[test]
    fn rate_is_unknown_where_the_shaper_was_hardly_read() {
        let reads = [(0.1, 0.001), (0.3, 0.001)].into_iter();
        assert_eq!(stalled(0.0, reads).rate_kbit(0.0, 1.0), None);
    }
}
