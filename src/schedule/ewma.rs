//! A link's goodput as an exponentially weighted mean.
//!
//! Σ bytes·e^(−age/τ) over the *busy* time weighted the same. Time without a request, and the wait for a first
//! byte, do not count; silence in the middle of an answer does, so that the rate of a link that stops falls,
//! and a burst that waited for a lost packet counts for the time of the wait too.

use std::time::Duration;

/// Less busy time than this says more about bursts than about the link.
const LEAST_S: f64 = 0.02;
/// A mean over this much busy time is no burst.
const STEADY_S: f64 = 0.25;
/// The least bytes of a burst.
const LEAST_BURST_BYTES: f64 = 64.0 * 1024.0;

#[derive(Clone, Debug)]
pub(crate) struct Ewma {
    /// The time constant τ: bytes of that age count 1/e as much.
    tau: Duration,
    bytes: f64,
    busy_s: f64,
    /// When the sums were last brought up to date, while something is coming.
    since: Option<Duration>,
}

impl Ewma {
    /// A mean with this time constant.
    pub(crate) fn over(tau: Duration) -> Ewma {
        Ewma { tau, bytes: 0.0, busy_s: 0.0, since: None }
    }

    /// `bytes` of payload came in one read.
    pub(crate) fn received(&mut self, now: Duration, bytes: u64) {
        // The bytes before the first read of a stretch are unknown, so it only starts the clock.
        if let Some(since) = self.since.replace(now) {
            let age_s = now.saturating_sub(since).as_secs_f64();
            let tau_s = self.tau.as_secs_f64();
            let faded = (-age_s / tau_s).exp();
            self.bytes = self.bytes * faded + bytes as f64;
            self.busy_s = self.busy_s * faded + tau_s * (1.0 - faded);
        }
    }

    /// Nothing is due: what follows is a new stretch.
    pub(crate) fn idle(&mut self) {
        self.since = None;
    }

    /// Whether the mean is over enough time to say what the link carries, not what one burst did.
    pub(crate) fn is_steady(&self) -> bool {
        self.busy_s >= STEADY_S
    }

    /// Bytes per second, once enough has been seen. `due` is when the first byte of an answer should
    /// have come at the latest, where none has: what passes after it counts as silence.
    pub(crate) fn bytes_per_s(&self, now: Duration, due: Option<Duration>) -> Option<f64> {
        let silent_s = self.since.or(due).map_or(0.0, |since| now.saturating_sub(since).as_secs_f64());
        if self.busy_s < LEAST_S {
            return None;
        }
        let tau_s = self.tau.as_secs_f64();
        let faded = (-silent_s / tau_s).exp();
        Some(self.bytes * faded / (self.busy_s * faded + tau_s * (1.0 - faded)))
    }

    /// Returns the bytes per second of the busy time, however short, and `None` below 64 KB.
    pub(crate) fn burst(&self) -> Option<f64> {
        (self.busy_s > 0.0 && self.bytes >= LEAST_BURST_BYTES).then(|| self.bytes / self.busy_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_pause_with_nothing_asked_for_is_left_out() {
        let mut ewma = Ewma::over(ms(1000));
        (0..500).for_each(|at| ewma.received(ms(at), 10_000));
        assert!((ewma.bytes_per_s(ms(499), None).unwrap() - 10e6).abs() < 1e4);
        ewma.idle();
        assert!((ewma.bytes_per_s(ms(5000), None).unwrap() - 10e6).abs() < 1e4);
        (5000..5500).for_each(|at| ewma.received(ms(at), 10_000));
        assert!((ewma.bytes_per_s(ms(5499), None).unwrap() - 10e6).abs() < 1e4);
    }

    #[test]
    fn silence_in_an_answer_counts_and_so_does_a_late_first_byte() {
        let mut ewma = Ewma::over(ms(1000));
        (0..3000).for_each(|at| ewma.received(ms(at), 10_000));
        assert!(ewma.bytes_per_s(ms(5999), None).unwrap() < 0.06 * 10e6);
        ewma.idle();
        assert!(ewma.bytes_per_s(ms(9000), Some(ms(6000))).unwrap() < 0.06 * 10e6);
    }

    #[test]
    fn one_burst_says_nothing() {
        let mut ewma = Ewma::over(ms(1000));
        ewma.received(ms(0), 500_000);
        ewma.received(ms(1), 500_000);
        assert_eq!(ewma.bytes_per_s(ms(1), None), None);
    }
}
