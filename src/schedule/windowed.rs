//! How fast a connection brings payload just now: what `--pipeline auto` goes by.
//!
//! Waiting for a first byte is not a slow link, so a gap with nothing due is left out.

use std::collections::VecDeque;
use std::time::Duration;

/// Goodput over the last stretch of receiving, in bytes per second.
#[derive(Clone, Debug, Default)]
pub struct Windowed {
    /// Times and bytes received at them, since receiving last began.
    recent: VecDeque<(Duration, u64)>,
    recent_bytes: u64,
    last_known: Option<f64>,
}

impl Windowed {
    /// How far back it looks.
    pub const WINDOW: Duration = Duration::from_millis(250);
    /// Less than this says more about bursts than about the link.
    const LEAST_BYTES: u64 = 64 * 1024;

    /// `bytes` of payload came in one read.
    pub fn received(&mut self, now: Duration, bytes: u64) {
        self.recent.push_back((now, bytes));
        self.recent_bytes += bytes;
        while self.recent.len() > 2 && now - self.recent[0].0 > Self::WINDOW {
            let (_, old) = self.recent.pop_front().unwrap_or((now, 0));
            self.recent_bytes -= old;
        }
        let (first_at, first_bytes) = self.recent[0];
        // The first read of the window counts from its end: what came before it is not known.
        let (bytes, span) = (self.recent_bytes - first_bytes, (now - first_at).as_secs_f64());
        if bytes >= Self::LEAST_BYTES && span > 0.0 {
            self.last_known = Some(bytes as f64 / span);
        } else if span >= Self::WINDOW.as_secs_f64() / 2.0 && bytes > 0 {
            // A slow link never fills LEAST_BYTES in the window; time will do instead.
            self.last_known = Some(bytes as f64 / span);
        }
    }

    /// Nothing is due: what follows is a new stretch.
    pub fn idle(&mut self) {
        self.recent.clear();
        self.recent_bytes = 0;
    }

    /// Bytes per second, once enough has been seen.
    pub fn bytes_per_s(&self) -> Option<f64> {
        self.last_known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_is_measured_and_a_pause_is_left_out() {
        let start = Duration::from_secs(7);
        let mut goodput = Windowed::default();
        for ms in 0..100u64 {
            goodput.received(start + Duration::from_millis(ms), 10_000);
        }
        assert!((goodput.bytes_per_s().unwrap() - 10e6).abs() < 1e5);
        goodput.idle();
        for ms in 0..100u64 {
            goodput.received(start + Duration::from_millis(2000 + ms), 10_000);
        }
        assert!((goodput.bytes_per_s().unwrap() - 10e6).abs() < 1e5);
    }

    #[test]
    fn a_slow_link_is_measured_too() {
        let start = Duration::from_secs(7);
        let mut goodput = Windowed::default();
        for packet in 0..10u64 {
            goodput.received(start + Duration::from_millis(50 * packet), 1448);
        }
        let rate = goodput.bytes_per_s().unwrap();
        assert!((rate - 28_960.0).abs() < 300.0, "{rate}");
    }

    #[test]
    fn one_burst_says_nothing() {
        let mut goodput = Windowed::default();
        goodput.received(Duration::ZERO, 500_000);
        assert_eq!(goodput.bytes_per_s(), None);
    }
}
