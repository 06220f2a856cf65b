//! BBR as Linux has it, version 1 (Cardwell et al., "BBR: Congestion-Based Congestion Control", ACM
//! Queue 2016; draft-cardwell-iccrg-bbr-congestion-control-00): the model is the greatest delivery rate
//! of ten round trips and the least round trip of ten seconds.

use std::collections::VecDeque;

use super::window::{Ack, ControlState, FIRST_WINDOW, RateSample, Window};
use crate::emulate::rng::{Purpose, Stream};
use crate::emulate::tcp::receiver::MSS;
use crate::units::Nanos;
use crate::units::{Direction, LinkId};

/// 2 / ln 2: the least gain that doubles the rate each round trip (draft, 4.3.1.1).
pub(crate) const STARTUP_GAIN: f64 = 2.0 / std::f64::consts::LN_2;
/// Empties in one round trip the queue that the start has made (draft, 4.3.2).
const DRAIN_GAIN: f64 = 1.0 / STARTUP_GAIN;
/// One round trip to probe, one to drain, six to cruise (draft, 4.3.3.2).
pub(crate) const CYCLE: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
/// Room for acknowledgements that are delayed or bunch (draft, 4.2.3.2).
const WINDOW_GAIN: f64 = 2.0;
/// Paces this much below the estimate, as Linux does, so that no queue builds up.
const PACING_MARGIN: f64 = 0.99;
const LEAST_WINDOW: u32 = 4;
const BANDWIDTH_ROUNDS: u64 = 10;
const LEAST_RTT_FOR: Nanos = 10_000_000_000;
const PROBE_RTT_FOR: Nanos = 200_000_000;
/// The link is full after three rounds that grew by less than a quarter (draft, 4.3.1.2).
const FULL_GROWTH: f64 = 1.25;
const FULL_ROUNDS: u32 = 3;
/// Acknowledgements that run ahead of the rate are remembered for five rounds, to 100 ms at most.
const AHEAD_ROUNDS: u32 = 5;
const LONGEST_AHEAD_S: f64 = 0.1;
/// A policer: intervals of 4 to 16 rounds that lose a fifth, at rates that differ by an eighth; its rate
/// then holds for 48 rounds.
const POLICER_ROUNDS: (u32, u32) = (4, 16);
const POLICER_LOSS: f64 = 50.0 / 256.0;
const POLICER_HOLDS: u32 = 48;

/// Bytes a second for segments / ns.
fn paced(rate: f64, gain: f64) -> f64 {
    rate * gain * PACING_MARGIN * MSS as f64 * 1e9
}

/// Returns the pacing rate (bytes/s) of a new connection with this RTT.
pub(crate) fn first_pacing_rate(rtt: Nanos) -> f64 {
    paced(f64::from(FIRST_WINDOW) / rtt.max(1_000_000) as f64, STARTUP_GAIN)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Startup,
    Drain,
    ProbeBandwidth,
    ProbeRtt,
}

#[derive(Clone, Debug)]
pub(crate) struct Bbr {
    mode: Mode,
    /// Segments / ns, with the round of each; the greatest first, each later one less.
    rates: VecDeque<(u64, f64)>,
    least_rtt: Nanos,
    least_rtt_at: Nanos,
    round: u64,
    round_ends: u64,
    round_start: bool,
    pacing_gain: f64,
    pacing_rate: f64,
    cycle: usize,
    cycle_at: Nanos,
    full_rate: f64,
    full_rounds: u32,
    full: bool,
    probe_rtt_ends: Option<Nanos>,
    probe_rtt_round: bool,
    prior_window: u32,
    before: ControlState,
    conserves: bool,
    idle_restart: bool,
    ahead: Ahead,
    policer: Policer,
    rng: Stream,
}

/// How far acknowledgements run ahead of the rate.
#[derive(Clone, Debug, Default)]
struct Ahead {
    epoch: Nanos,
    acked: f64,
    /// The most in this stretch of rounds and in the one before.
    most: [f64; 2],
    rounds: u32,
    now: usize,
}

#[derive(Clone, Debug, Default)]
struct Policer {
    samples: bool,
    /// Its rate, in segments / ns, where it is believed.
    uses: bool,
    rate: f64,
    rounds: u32,
    at: Nanos,
    delivered: u64,
    lost: u64,
}

impl Bbr {
    /// Starts with the round trip of the handshake.
    pub(crate) fn new(seed: u64, rtt: Nanos) -> Bbr {
        Bbr {
            mode: Mode::Startup,
            rates: VecDeque::with_capacity(16),
            least_rtt: rtt,
            least_rtt_at: 0,
            round: 0,
            round_ends: 0,
            round_start: false,
            pacing_gain: STARTUP_GAIN,
            pacing_rate: first_pacing_rate(rtt),
            cycle: 0,
            cycle_at: 0,
            full_rate: 0.0,
            full_rounds: 0,
            full: false,
            probe_rtt_ends: None,
            probe_rtt_round: false,
            prior_window: 0,
            before: ControlState::Open,
            conserves: false,
            idle_restart: false,
            ahead: Ahead::default(),
            policer: Policer::default(),
            rng: Stream::new(seed, LinkId::B, Direction::Up, Purpose::Turn),
        }
    }

    /// Bytes a second.
    pub(crate) fn pacing_rate(&self) -> f64 {
        self.pacing_rate
    }

    fn greatest_rate(&self) -> f64 {
        self.rates.front().map_or(0.0, |rate| rate.1)
    }

    fn rate(&self) -> f64 {
        if self.policer.uses { self.policer.rate } else { self.greatest_rate() }
    }

    /// The least segments that go out at once.
    pub(crate) fn burst(&self) -> u32 {
        if self.pacing_rate < 150_000.0 { 1 } else { 2 }
    }

    fn burst_goal(&self) -> u32 {
        ((self.pacing_rate.min(64e6) / 1024.0 / MSS as f64) as u32).clamp(self.burst(), 44)
    }

    fn product(&self, rate: f64, gain: f64) -> u32 {
        if self.least_rtt == Nanos::MAX {
            return FIRST_WINDOW;
        }
        (rate * self.least_rtt as f64 * gain).ceil().min(1e9) as u32
    }

    /// Room for what the hosts hold back, and an even count.
    fn with_room(&self, segments: u32) -> u32 {
        let even = (segments + 3 * self.burst_goal() + 1) & !1;
        even + if self.mode == Mode::ProbeBandwidth && self.cycle == 0 { 2 } else { 0 }
    }

    fn in_flight_at(&self, rate: f64, gain: f64) -> u32 {
        self.with_room(self.product(rate, gain))
    }

    pub(crate) fn save_window(&mut self, window: u32) {
        let saved = self.before < ControlState::Recovery && self.mode != Mode::ProbeRtt;
        self.prior_window = if saved { window } else { self.prior_window.max(window) };
    }

    pub(crate) fn timed_out(&mut self) {
        self.before = ControlState::Loss;
        self.full_rate = 0.0;
        self.round_start = true;
    }

    pub(crate) fn undone(&mut self) {
        self.full_rate = 0.0;
        self.full_rounds = 0;
        self.policer = Policer::default();
    }

    /// Sending begins again after the server had nothing to send.
    pub(crate) fn restarts(&mut self, now: Nanos) {
        self.idle_restart = true;
        (self.ahead.epoch, self.ahead.acked) = (now, 0.0);
        if self.mode == Mode::ProbeBandwidth {
            self.set_pacing_rate(1.0);
        }
    }

    fn set_pacing_rate(&mut self, gain: f64) {
        let rate = paced(self.rate(), gain);
        if (self.full || rate > self.pacing_rate) && rate > 0.0 {
            self.pacing_rate = rate;
        }
    }

    /// Decides window and pacing after an acknowledgement.
    pub(crate) fn acked(&mut self, ack: &Ack, window: &mut Window) {
        self.learn_rate(ack);
        self.learn_ahead(ack, window.segments);
        self.move_cycle(ack);
        self.judge_full(ack);
        self.leave_drain(ack, window);
        self.learn_rtt(ack, window);
        self.pacing_gain = match self.mode {
            Mode::Startup => STARTUP_GAIN,
            Mode::Drain => DRAIN_GAIN,
            Mode::ProbeBandwidth if self.policer.uses => 1.0,
            Mode::ProbeBandwidth => CYCLE[self.cycle],
            Mode::ProbeRtt => 1.0,
        };
        self.set_pacing_rate(self.pacing_gain);
        self.size(ack, window);
    }

    fn learn_rate(&mut self, ack: &Ack) {
        self.round_start = false;
        let Some(sample) = ack.rate.filter(|sample| sample.interval > 0) else { return };
        if sample.prior_delivered >= self.round_ends {
            self.round_ends = ack.delivered;
            self.round += 1;
            self.round_start = true;
            self.conserves = false;
        }
        self.watch_policer(ack, sample);
        let rate = sample.delivered as f64 / sample.interval as f64;
        if !sample.app_limited || rate >= self.greatest_rate() {
            let (round, oldest) = (self.round, self.round.saturating_sub(BANDWIDTH_ROUNDS));
            self.rates.retain(|known| known.1 > rate && known.0 >= oldest);
            self.rates.push_back((round, rate));
        }
    }

    fn learn_ahead(&mut self, ack: &Ack, window: u32) {
        if ack.acked == 0 || ack.rate.is_none() {
            return;
        }
        let rate = self.rate();
        let ahead = &mut self.ahead;
        if self.round_start {
            ahead.rounds += 1;
            if ahead.rounds >= AHEAD_ROUNDS {
                ahead.rounds = 0;
                ahead.now = 1 - ahead.now;
                ahead.most[ahead.now] = 0.0;
            }
        }
        let mut expected = rate * (ack.now - ahead.epoch) as f64;
        if ahead.acked <= expected {
            (ahead.epoch, ahead.acked, expected) = (ack.now, 0.0, 0.0);
        }
        ahead.acked += f64::from(ack.acked);
        let extra = (ahead.acked - expected).min(f64::from(window));
        ahead.most[ahead.now] = ahead.most[ahead.now].max(extra);
    }

    /// Segments in flight when pacing lets the next one go.
    fn in_flight_then(&self, ack: &Ack, in_flight: u32) -> u32 {
        let delivered = self.rate() * ack.paced_until.saturating_sub(ack.now) as f64;
        let in_flight = in_flight + if self.pacing_gain > 1.0 { self.burst_goal() } else { 0 };
        in_flight.saturating_sub(delivered as u32)
    }

    fn move_cycle(&mut self, ack: &Ack) {
        if self.mode != Mode::ProbeBandwidth {
            return;
        }
        let whole = ack.now - self.cycle_at > self.least_rtt;
        let in_flight = self.in_flight_then(ack, ack.prior_in_flight);
        let over = match self.pacing_gain {
            gain if gain > 1.0 => {
                whole && (ack.losses > 0 || in_flight >= self.in_flight_at(self.greatest_rate(), gain))
            }
            gain if gain < 1.0 => whole || in_flight <= self.in_flight_at(self.greatest_rate(), 1.0),
            _ => whole,
        };
        if over {
            self.cycle = (self.cycle + 1) % CYCLE.len();
            self.cycle_at = ack.now;
        }
    }

    fn begin_cycle(&mut self, now: Nanos) {
        self.mode = Mode::ProbeBandwidth;
        // Anywhere but in the phase that drains.
        self.cycle = (CYCLE.len() - self.rng.below(CYCLE.len() - 1)) % CYCLE.len();
        self.cycle_at = now;
    }

    fn judge_full(&mut self, ack: &Ack) {
        if self.full || !self.round_start || ack.rate.is_some_and(|rate| rate.app_limited) {
            return;
        }
        let rate = self.greatest_rate();
        if rate >= self.full_rate * FULL_GROWTH {
            (self.full_rate, self.full_rounds) = (rate, 0);
            return;
        }
        self.full_rounds += 1;
        self.full = self.full_rounds >= FULL_ROUNDS;
    }

    fn leave_drain(&mut self, ack: &Ack, window: &mut Window) {
        let one = self.in_flight_at(self.greatest_rate(), 1.0);
        if self.mode == Mode::Startup && self.full {
            self.mode = Mode::Drain;
            window.ssthresh = one;
        }
        if self.mode == Mode::Drain && self.in_flight_then(ack, ack.in_flight) <= one {
            self.begin_cycle(ack.now);
        }
    }

    fn learn_rtt(&mut self, ack: &Ack, window: &mut Window) {
        let old = ack.now > self.least_rtt_at + LEAST_RTT_FOR;
        if let Some(rtt) = ack.rtt.filter(|&rtt| rtt <= self.least_rtt || old) {
            (self.least_rtt, self.least_rtt_at) = (rtt, ack.now);
        }
        if old && !self.idle_restart && self.mode != Mode::ProbeRtt {
            self.mode = Mode::ProbeRtt;
            self.save_window(window.segments);
            self.probe_rtt_ends = None;
        }
        if self.mode == Mode::ProbeRtt {
            match self.probe_rtt_ends {
                None if ack.in_flight <= LEAST_WINDOW => {
                    self.probe_rtt_ends = Some(ack.now + PROBE_RTT_FOR);
                    self.probe_rtt_round = false;
                    self.round_ends = ack.delivered;
                }
                None => {}
                Some(ends) => {
                    self.probe_rtt_round |= self.round_start;
                    if self.probe_rtt_round && ack.now > ends {
                        self.least_rtt_at = ack.now;
                        window.segments = window.segments.max(self.prior_window);
                        if self.full { self.begin_cycle(ack.now) } else { self.mode = Mode::Startup }
                    }
                }
            }
        }
        if ack.acked > 0 {
            self.idle_restart = false;
        }
    }

    /// Whether what is sent counts as limited by the sender: the window is small to measure the round trip.
    pub(crate) fn probes_rtt(&self) -> bool {
        self.mode == Mode::ProbeRtt
    }

    fn size(&mut self, ack: &Ack, window: &mut Window) {
        if ack.acked > 0 && !self.recovers(ack, window) {
            let ahead = match self.full {
                true => self.ahead.most[0].max(self.ahead.most[1]).min(self.rate() * LONGEST_AHEAD_S * 1e9),
                false => 0.0,
            };
            let gain = match self.mode {
                Mode::Startup | Mode::Drain => STARTUP_GAIN,
                Mode::ProbeBandwidth => WINDOW_GAIN,
                Mode::ProbeRtt => 1.0,
            };
            let target = self.with_room(self.product(self.rate(), gain) + ahead as u32);
            if self.full {
                window.segments = (window.segments + ack.acked).min(target);
            } else if window.segments < target || ack.delivered < u64::from(FIRST_WINDOW) {
                window.segments += ack.acked;
            }
            window.segments = window.segments.max(LEAST_WINDOW);
        }
        if self.mode == Mode::ProbeRtt {
            window.segments = window.segments.min(LEAST_WINDOW);
        }
    }

    /// In the first round of a recovery what came is replaced, and no more; its end restores the window.
    fn recovers(&mut self, ack: &Ack, window: &mut Window) -> bool {
        let mut segments = window.segments;
        if ack.losses > 0 {
            segments = segments.saturating_sub(ack.losses).max(1);
        }
        if ack.state == ControlState::Recovery && self.before != ControlState::Recovery {
            self.conserves = true;
            self.round_ends = ack.delivered;
            segments = ack.in_flight + ack.acked;
        } else if self.before >= ControlState::Recovery && ack.state < ControlState::Recovery {
            segments = segments.max(self.prior_window);
            self.conserves = false;
        }
        self.before = ack.state;
        window.segments = if self.conserves { segments.max(ack.in_flight + ack.acked) } else { segments };
        self.conserves
    }

    fn watch_policer(&mut self, ack: &Ack, sample: RateSample) {
        let begin = |policer: &mut Policer| {
            (policer.at, policer.delivered, policer.lost, policer.rounds) =
                (ack.now, ack.delivered, ack.lost, 0);
        };
        if self.policer.uses {
            if self.mode == Mode::ProbeBandwidth && self.round_start {
                self.policer.rounds += 1;
                if self.policer.rounds >= POLICER_HOLDS {
                    self.policer = Policer::default();
                    self.begin_cycle(ack.now);
                }
            }
            return;
        }
        let policer = &mut self.policer;
        if !policer.samples {
            if ack.losses == 0 {
                return;
            }
            begin(policer);
            policer.samples = true;
        }
        if sample.app_limited {
            *policer = Policer::default();
            return;
        }
        policer.rounds += u32::from(self.round_start);
        if policer.rounds > POLICER_ROUNDS.1 {
            *policer = Policer::default();
            return;
        }
        if policer.rounds < POLICER_ROUNDS.0 || ack.losses == 0 {
            return;
        }
        let (lost, delivered) = (ack.lost - policer.lost, ack.delivered - policer.delivered);
        let lasted = ack.now - policer.at;
        if delivered == 0 || (lost as f64) < POLICER_LOSS * delivered as f64 || lasted < 1_000_000 {
            return;
        }
        let rate = delivered as f64 / lasted as f64;
        let apart = (rate - policer.rate).abs();
        if policer.rate > 0.0 && (apart <= policer.rate / 8.0 || apart * MSS as f64 * 1e9 <= 500.0) {
            policer.rate = (policer.rate + rate) / 2.0;
            policer.uses = true;
            policer.rounds = 0;
            self.pacing_gain = 1.0;
            return;
        }
        policer.rate = rate;
        begin(policer);
    }
}
