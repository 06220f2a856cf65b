//! How much a sender may have in flight: the congestion windows of Reno, CUBIC and BBR, as far as
//! they decide how long a transfer takes. Pure; time is handed in, in seconds.
//!
//! - **Reno** (RFC 5681, counting bytes as RFC 3465 does): doubles each round trip up to its
//!   threshold, then grows by a segment a round trip; a loss halves it.
//! - **CUBIC** (RFC 9438): the same start; then `C (t − K)³ + W_max` with C = 0.4 and β = 0.7, and at
//!   least what Reno would have.
//! - **BBR** (Cardwell et al., ACM Queue 14:5, 2016, as Linux has it): doubles until the rate that
//!   arrives has not grown by a quarter in three round trips; then holds 2 × the highest rate of the
//!   last ten round trips × the least round trip, and what acknowledgements bring beyond that rate at
//!   once, as on a link that aggregates; every 10 s four segments for 200 ms, to see the least round
//!   trip again. Losses do not concern it.
//!
//! What it does not do: HyStart, pacing, time-outs, and the halves of a fast recovery. A window
//! starts at ten segments (RFC 6928).

use std::collections::VecDeque;
use std::str::FromStr;

/// A sender's rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Reno,
    Cubic,
    Bbr,
}

impl FromStr for Control {
    type Err = String;
    fn from_str(name: &str) -> Result<Control, String> {
        match name {
            "reno" => Ok(Control::Reno),
            "cubic" => Ok(Control::Cubic),
            "bbr" => Ok(Control::Bbr),
            _ => Err(format!("\"{name}\" has no model here: choose reno, cubic or bbr")),
        }
    }
}

impl std::fmt::Display for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Control::Reno => "reno",
            Control::Cubic => "cubic",
            Control::Bbr => "bbr",
        })
    }
}

/// What an acknowledgement says.
#[derive(Clone, Copy, Debug)]
pub struct Acked {
    pub bytes: f64,
    pub rtt_s: f64,
    /// Bytes a second that arrived while what is acknowledged was under way.
    pub arrival_bytes_per_s: f64,
    /// Whether the sender had more to send than the window let it.
    pub limited: bool,
}

/// CUBIC's `C`, segments per second cubed.
const CUBIC_C: f64 = 0.4;
/// What CUBIC keeps of its window after a loss.
const CUBIC_BETA: f64 = 0.7;
/// BBR's rate filter, round trips.
const BBR_FILTER_ROUNDS: u64 = 10;
/// BBR looks for the least round trip so often, and for so long (s).
const BBR_PROBE_EVERY_S: f64 = 10.0;
const BBR_PROBE_FOR_S: f64 = 0.2;
/// BBR's window in its start and after it, in units of rate × least round trip. Its pacing, which
/// mostly keeps less than that in flight, is not modelled: what is more waits in the queue.
const BBR_START_GAIN: f64 = 2.89;
const BBR_GAIN: f64 = 2.0;
/// What a window allows for aggregation is at most what the rate brings in this time (s).
const BBR_LONGEST_AGGREGATE_S: f64 = 0.1;

/// A congestion window.
#[derive(Clone, Debug)]
pub struct Window {
    control: Control,
    mss: f64,
    bytes: f64,
    threshold: f64,
    cubic: Cubic,
    bbr: Bbr,
}

#[derive(Clone, Debug, Default)]
struct Cubic {
    /// Where the last loss met the window, in segments.
    peak: f64,
    /// What it was after it, and when growth from there began.
    floor: f64,
    since_s: Option<f64>,
    /// What Reno's growth would have made of it, bytes.
    reno: f64,
}

#[derive(Clone, Debug, Default)]
struct Bbr {
    round: u64,
    round_began_s: f64,
    /// Rates that arrived, with their rounds; falling.
    rates: VecDeque<(u64, f64)>,
    least_rtt: Option<(f64, f64)>,
    /// The rate at the last growth, and how many rounds ago that was; full after three.
    grown_to: f64,
    rounds_without_growth: u32,
    probe_ends_s: Option<f64>,
    /// When acknowledgements were last no faster than the rate, and their bytes since.
    epoch: (f64, f64),
    /// The most by which they were ahead, with its round.
    ahead: (u64, f64),
}

impl Window {
    pub fn new(control: Control, mss: f64) -> Window {
        Window {
            control,
            mss,
            bytes: 10.0 * mss,
            threshold: f64::INFINITY,
            cubic: Cubic::default(),
            bbr: Bbr::default(),
        }
    }

    /// How many bytes may be in flight.
    pub fn bytes(&self) -> f64 {
        self.bytes
    }

    pub fn acked(&mut self, now_s: f64, acked: Acked) {
        if self.control == Control::Bbr {
            return self.bbr_acked(now_s, acked);
        }
        // A window that is not used says nothing about the link, and does not grow.
        if !acked.limited {
            return;
        }
        if self.bytes < self.threshold {
            self.bytes = (self.bytes + acked.bytes).min(self.threshold.max(self.bytes));
            return;
        }
        let reno = self.mss * acked.bytes / self.bytes;
        if self.control == Control::Reno {
            self.bytes += reno;
            return;
        }
        let since = now_s - *self.cubic.since_s.get_or_insert(now_s);
        let k = ((self.cubic.peak - self.cubic.floor).max(0.0) / CUBIC_C).cbrt();
        let curve = CUBIC_C * (since + acked.rtt_s - k).powi(3) + self.cubic.peak;
        // What a Reno with this β would have, RFC 9438 section 4.3.
        self.cubic.reno += reno * 3.0 * (1.0 - CUBIC_BETA) / (1.0 + CUBIC_BETA);
        self.bytes = self.bytes.max(self.cubic.reno).max((curve * self.mss).min(self.bytes * 1.5));
    }

    /// Something sent after the last reduction was lost.
    pub fn lost(&mut self) {
        let keep = match self.control {
            Control::Reno => 0.5,
            Control::Cubic => CUBIC_BETA,
            Control::Bbr => return,
        };
        let before = self.bytes / self.mss;
        // A flow that lost sooner than last time leaves room for the others (fast convergence).
        self.cubic.peak = if before < self.cubic.peak { before * (1.0 + keep) / 2.0 } else { before };
        self.bytes = (self.bytes * keep).max(2.0 * self.mss);
        self.threshold = self.bytes;
        self.cubic.floor = self.bytes / self.mss;
        self.cubic.since_s = None;
        self.cubic.reno = self.bytes;
    }

    fn bbr_acked(&mut self, now_s: f64, acked: Acked) {
        let bbr = &mut self.bbr;
        let highest = bbr.rates.front().map_or(0.0, |rate| rate.1);
        // What is sent to look for the least round trip says nothing of the rate, as what is sent for
        // want of more does not.
        let limited = acked.limited && bbr.probe_ends_s.is_none();
        let counts = limited || acked.arrival_bytes_per_s > highest;
        if now_s - bbr.round_began_s >= acked.rtt_s {
            bbr.round += 1;
            bbr.round_began_s = now_s;
            if limited && bbr.rounds_without_growth < 3 {
                let grew = highest >= bbr.grown_to * 1.25;
                bbr.rounds_without_growth = if grew { 0 } else { bbr.rounds_without_growth + 1 };
                bbr.grown_to = if grew { highest } else { bbr.grown_to };
            }
        }
        if counts {
            bbr.rates
                .retain(|rate| rate.0 + BBR_FILTER_ROUNDS > bbr.round && rate.1 > acked.arrival_bytes_per_s);
            bbr.rates.push_back((bbr.round, acked.arrival_bytes_per_s));
        }
        let due = bbr.least_rtt.is_some_and(|(_, at)| now_s > at + BBR_PROBE_EVERY_S);
        if due && bbr.probe_ends_s.is_none() {
            bbr.probe_ends_s = Some(now_s + BBR_PROBE_FOR_S.max(acked.rtt_s) + acked.rtt_s);
            bbr.least_rtt = None;
        }
        if bbr.least_rtt.is_none_or(|(least, _)| acked.rtt_s <= least) {
            bbr.least_rtt = Some((acked.rtt_s, now_s));
        }
        bbr.probe_ends_s = bbr.probe_ends_s.filter(|ends| *ends > now_s);
        if bbr.probe_ends_s.is_some() {
            self.bytes = 4.0 * self.mss;
            return;
        }
        let rate = bbr.rates.front().map_or(0.0, |rate| rate.1);
        bbr.aggregate(now_s, acked.bytes, rate);
        let product = rate * bbr.least_rtt.map_or(0.0, |least| least.0);
        let full = bbr.rounds_without_growth >= 3;
        self.bytes = if full {
            (BBR_GAIN * product + bbr.ahead.1).max(4.0 * self.mss)
        } else {
            // Until the link is full the window doubles, but never beyond what its gain allows.
            (self.bytes + acked.bytes).min((BBR_START_GAIN * product).max(self.bytes))
        };
    }
}

impl Bbr {
    /// Follows how far acknowledgements run ahead of the rate, bytes.
    fn aggregate(&mut self, now_s: f64, bytes: f64, rate: f64) {
        if self.epoch.1 <= rate * (now_s - self.epoch.0) {
            self.epoch = (now_s, 0.0);
        }
        self.epoch.1 += bytes;
        let ahead = (self.epoch.1 - rate * (now_s - self.epoch.0)).min(rate * BBR_LONGEST_AGGREGATE_S);
        if ahead >= self.ahead.1 || self.ahead.0 + BBR_FILTER_ROUNDS < self.round {
            self.ahead = (self.round, ahead);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: f64 = 1448.0;

    /// Acknowledges a whole window each round trip of 100 ms.
    fn rounds(window: &mut Window, from: usize, count: usize) {
        for round in from..from + count {
            let bytes = window.bytes();
            let acked = Acked { bytes, rtt_s: 0.1, arrival_bytes_per_s: bytes / 0.1, limited: true };
            window.acked((round + 1) as f64 * 0.1, acked);
        }
    }

    #[test]
    fn every_window_doubles_from_ten_segments() {
        for control in [Control::Reno, Control::Cubic, Control::Bbr] {
            let mut window = Window::new(control, MSS);
            rounds(&mut window, 0, 3);
            assert!((window.bytes() / MSS - 80.0).abs() < 1e-6, "{control}: {}", window.bytes() / MSS);
        }
    }

    #[test]
    fn reno_halves_and_then_grows_by_a_segment_a_round_trip() {
        let mut window = Window::new(Control::Reno, MSS);
        rounds(&mut window, 0, 3);
        window.lost();
        assert!((window.bytes() / MSS - 40.0).abs() < 1e-6);
        rounds(&mut window, 3, 10);
        assert!((window.bytes() / MSS - 50.0).abs() < 1e-6, "{}", window.bytes() / MSS);
    }

    #[test]
    fn cubic_is_back_at_its_peak_after_k_seconds() {
        let mut window = Window::new(Control::Cubic, MSS);
        rounds(&mut window, 0, 5);
        let peak = window.bytes() / MSS;
        window.lost();
        assert!((window.bytes() / MSS - 0.7 * peak).abs() < 1e-6);
        let k = (peak * 0.3 / 0.4).cbrt();
        rounds(&mut window, 5, (k / 0.1).round() as usize);
        assert!((window.bytes() / MSS / peak - 1.0).abs() < 0.02, "{}", window.bytes() / MSS);
    }

    #[test]
    fn bbr_holds_what_the_link_carries_in_its_least_round_trip_and_no_loss_moves_it() {
        let mut window = Window::new(Control::Bbr, MSS);
        let link = 2.5e6;
        let mut now = 0.0;
        for _ in 0..60 {
            let bytes = window.bytes();
            // A window beyond the link's product waits in the queue.
            let rtt_s = f64::max(0.04, bytes / link);
            for _ in 0..20 {
                now += rtt_s / 20.0;
                let acked =
                    Acked { bytes: bytes / 20.0, rtt_s, arrival_bytes_per_s: bytes / rtt_s, limited: true };
                window.acked(now, acked);
            }
            window.lost();
        }
        let held = window.bytes() / (link * 0.04);
        assert!((2.0..2.5).contains(&held), "{held}");
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow() {
        let mut window = Window::new(Control::Reno, MSS);
        let acked = Acked { bytes: 1e6, rtt_s: 0.1, arrival_bytes_per_s: 1e6, limited: false };
        window.acked(1.0, acked);
        assert!((window.bytes() / MSS - 10.0).abs() < 1e-9);
    }
}
