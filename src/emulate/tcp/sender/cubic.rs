//! CUBIC (RFC 9438) with HyStart (Ha and Rhee, "Taming the elephants: New TCP slow start", 2011), with
//! the constants that Linux has.

use super::window::Window;
use crate::units::Nanos;

/// C of the window curve, segments / s³ (RFC 9438, 5.1).
const C: f64 = 0.4;
/// The factor of the window after a loss: 0.7, in Linux 717 / 1024 (RFC 9438, 4.6).
const BETA: f64 = 717.0 / 1024.0;
/// The window is looked at anew after this time, or when it has changed.
const RENEW: Nanos = 31_250_000;

/// HyStart looks at windows from this size on.
const LEAST_HYSTART_WINDOW: u32 = 16;
/// Acknowledgements nearer to each other than this are one train.
const TRAIN_GAP: Nanos = 2_000_000;
/// A train of paced segments is a whole round trip and so much longer where the link is full.
const PACED_TRAIN: Nanos = 1_000_000;
/// The number of RTT samples before a round's delay is judged.
const LEAST_SAMPLES: u32 = 8;
/// How much longer than the least a round trip may be: an eighth, within these bounds.
const DELAY_BOUNDS: (Nanos, Nanos) = (4_000_000, 16_000_000);

#[derive(Clone, Debug, Default)]
pub(crate) struct Cubic {
    last_max: u32,
    last_window: u32,
    last_time: Nanos,
    epoch: Option<Nanos>,
    origin: f64,
    k_s: f64,
    /// Segments acknowledged since the epoch began, as far as Reno's window has not used them.
    acked: u32,
    reno_window: u32,
    /// Segments to be acknowledged for each by which the window grows.
    per: u32,
    least_rtt: Option<Nanos>,
    round: HyStart,
}

/// A round of HyStart.
#[derive(Clone, Debug, Default)]
struct HyStart {
    began: Nanos,
    /// The round is over when this segment is acknowledged.
    ends: u32,
    last_ack: Nanos,
    least_rtt: Nanos,
    samples: u32,
    found: bool,
}

impl Cubic {
    pub(crate) fn reset(&mut self) {
        *self = Cubic::default();
    }

    pub(crate) fn after_loss(&mut self, window: u32) -> u32 {
        self.epoch = None;
        // Fast convergence (RFC 9438, 4.7).
        let shrinks = window < self.last_max;
        self.last_max = if shrinks { (f64::from(window) * (1.0 + BETA) / 2.0) as u32 } else { window };
        ((f64::from(window) * BETA) as u32).max(2)
    }

    pub(crate) fn restarts(&mut self, now: Nanos, last_sent: Nanos) {
        if let Some(epoch) = self.epoch.as_mut().filter(|_| now > last_sent) {
            *epoch = (*epoch + (now - last_sent)).min(now);
        }
    }

    /// A round trip was measured; all before the first of `acked` have come, those before the second are
    /// sent.
    pub(crate) fn measured(
        &mut self,
        now: Nanos,
        rtt: Nanos,
        acked: (u32, u32),
        paced: bool,
        window: &mut Window,
    ) {
        // A sample right after a recovery includes its waiting time.
        if self.epoch.is_some_and(|epoch| now - epoch < 1_000_000_000) {
            return;
        }
        let least = self.least_rtt.map_or(rtt, |least| least.min(rtt));
        self.least_rtt = Some(least);
        // Pacing spreads what is sent over half a round trip by itself.
        let train = if paced { least + PACED_TRAIN } else { least / 2 };
        if !self.round.found && window.in_slow_start() {
            self.round.look(now, (rtt, least, train), acked, window);
        }
    }

    pub(crate) fn grow(&mut self, now: Nanos, acked: u32, window: &mut Window) {
        if !window.limits {
            return;
        }
        let left = if window.in_slow_start() { window.slow_start(acked) } else { acked };
        if left > 0 {
            self.renew(now, left, window.segments);
            window.avoid_congestion(self.per, left);
        }
    }

    fn renew(&mut self, now: Nanos, acked: u32, window: u32) {
        self.acked += acked;
        if self.last_window == window && self.per > 0 && now - self.last_time <= RENEW {
            return;
        }
        (self.last_window, self.last_time) = (window, now);
        let epoch = match self.epoch {
            Some(epoch) => epoch,
            None => {
                (self.acked, self.reno_window) = (acked, window);
                let below = self.last_max.saturating_sub(window);
                self.k_s = (f64::from(below) / C).cbrt();
                self.origin = f64::from(self.last_max.max(window));
                *self.epoch.insert(now)
            }
        };
        // RFC 9438, figure 1: W(t) = C (t − K)³ + W_max, a least round trip ahead.
        let t_s = (now - epoch + self.least_rtt.unwrap_or(0)) as f64 / 1e9;
        let target = self.origin + C * (t_s - self.k_s).powi(3);
        let now_has = f64::from(window);
        let mut per = if target > now_has { now_has / (target - now_has) } else { 100.0 * now_has };
        if self.last_max == 0 {
            per = per.min(20.0);
        }
        // The window that Reno would have (RFC 9438, 4.3).
        let reno_per = (now_has * (1.0 + BETA) / (3.0 * (1.0 - BETA))).max(1.0) as u32;
        self.reno_window += self.acked / reno_per;
        self.acked %= reno_per;
        if self.reno_window > window {
            per = per.min(now_has / f64::from(self.reno_window - window));
        }
        self.per = (per as u32).max(2);
    }
}

impl HyStart {
    /// Ends slow start where the link is found to be full.
    fn look(
        &mut self,
        now: Nanos,
        (rtt, least, train): (Nanos, Nanos, Nanos),
        (acked, next): (u32, u32),
        window: &mut Window,
    ) {
        if acked >= self.ends {
            *self = HyStart {
                began: now,
                ends: next,
                last_ack: now,
                least_rtt: Nanos::MAX,
                samples: 0,
                found: false,
            };
        }
        if window.segments < LEAST_HYSTART_WINDOW {
            return;
        }
        if now - self.last_ack <= TRAIN_GAP {
            self.last_ack = now;
            self.found |= now - self.began > train;
        }
        self.least_rtt = self.least_rtt.min(rtt);
        if self.samples < LEAST_SAMPLES {
            self.samples += 1;
        } else {
            self.found |= self.least_rtt > least + (least / 8).clamp(DELAY_BOUNDS.0, DELAY_BOUNDS.1);
        }
        if self.found {
            window.ssthresh = window.segments;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    fn limited(segments: u32) -> Window {
        Window { segments, limits: true, ..Window::new() }
    }

    /// Acknowledges a window, segment by segment, in each round trip of 100 ms.
    fn rounds(cubic: &mut Cubic, window: &mut Window, from: u64, count: u64) {
        for round in from..from + count {
            let acks = u64::from(window.segments);
            (0..acks).for_each(|ack| cubic.grow(round * 100 * MS + ack * 100 * MS / acks, 1, window));
        }
    }

    #[test]
    fn cubic_doubles_in_slow_start() {
        let (mut cubic, mut window) = (Cubic::default(), limited(10));
        rounds(&mut cubic, &mut window, 0, 3);
        assert_eq!(window.segments, 80);
    }

    #[test]
    fn cubic_follows_the_curve_of_rfc_9438() {
        let (mut cubic, mut window) = (Cubic::default(), limited(1000));
        window.ssthresh = cubic.after_loss(1000);
        window.segments = window.ssthresh;
        assert_eq!(window.segments, 700);
        let k_s = (300.0f64 / 0.4).cbrt();
        let mut round = 1;
        for share in [0.25, 0.5, 0.75, 1.0, 1.25, 1.5] {
            let until = (share * k_s * 10.0) as u64;
            rounds(&mut cubic, &mut window, round, until + 1 - round);
            round = until + 1;
            let t_s = (until as f64 + 1.0) / 10.0 - 0.1;
            let expected = 0.4 * (t_s - k_s).powi(3) + 1000.0;
            let off = f64::from(window.segments) / expected - 1.0;
            assert!(off.abs() < 0.02, "{share} K: {} against {expected}", window.segments);
        }
    }

    #[test]
    fn cubic_is_no_slower_than_reno_on_a_short_way() {
        let (mut cubic, mut window) = (Cubic::default(), limited(20));
        window.ssthresh = cubic.after_loss(20);
        window.segments = window.ssthresh;
        for round in 0..100u64 {
            let acks = u64::from(window.segments);
            (0..acks).for_each(|_| cubic.grow((round + 1) * 10 * MS, 1, &mut window));
        }
        // RFC 9438, 4.3: by 3 (1 − β) / (1 + β), 0.53, segments a round trip.
        assert!((60..=70).contains(&window.segments), "{}", window.segments);
    }

    #[test]
    fn hystart_ends_slow_start_when_the_delay_grows_or_a_train_fills_half_a_round_trip() {
        let (mut cubic, mut window) = (Cubic::default(), limited(40));
        for ack in 0..8 {
            cubic.measured(ack * 5 * MS, 100 * MS, (ack as u32, 40), false, &mut window);
        }
        assert!(window.in_slow_start());
        for ack in 0..9 {
            cubic.measured(100 * MS + ack * 5 * MS, 114 * MS, (40 + ack as u32, 80), false, &mut window);
        }
        assert!(!window.in_slow_start(), "14 ms more than 100 ms are beyond an eighth");
        let (mut cubic, mut window) = (Cubic::default(), limited(40));
        (0..40).for_each(|ack| cubic.measured(ack * MS, 100 * MS, (ack as u32, 40), false, &mut window));
        assert!(window.in_slow_start(), "39 ms are less than half of 100 ms");
        (40..55).for_each(|ack| cubic.measured(ack * MS, 100 * MS, (39, 40), false, &mut window));
        assert!(!window.in_slow_start());
    }
}
