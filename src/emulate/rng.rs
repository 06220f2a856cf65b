//! Repeatable random numbers: loss, jitter and the other draws that decide a packet's fate.
//!
//! Every purpose draws from a stream of its own, once for every packet that arrives, whatever becomes of it.
//! The n-th packet of a direction therefore meets the same fate under the same seed, and adding jitter to a
//! profile does not move its losses. Reads no clock.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::config::profile::{Distribution, FRAME, Loss, Shape};
use crate::units::Nanos;
use crate::units::{Direction, LinkId, Percent, Rate};

/// The decision that a stream of random numbers makes.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    Loss = 0,
    Jitter = 1,
    Reorder = 2,
    Corrupt = 3,
    /// The next turn on a shared channel.
    Turn = 4,
    /// Whether a transmission on a shared channel must be repeated.
    Retry = 5,
    /// Jitter that changes with time.
    JitterProcess = 6,
    /// When cross traffic comes, and which of it is lost.
    Cross = 7,
    CrossLoss = 8,
}

/// A stream of random numbers that depends on the seed, the direction and the purpose alone.
#[derive(Clone, Debug)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    pub fn new(seed: u64, link: LinkId, direction: Direction, purpose: Purpose) -> Stream {
        let flow = link.index() as u64 * 2 + direction as u64;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(flow * 16 + purpose as u64);
        Stream(rng)
    }

    /// At least 0 and below 1, in steps of 2⁻⁵³.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The number at a place, as [`Stream::unit`] gives it. Independent of what was drawn before; a
    /// stream read by place must not be read in turn too.
    pub fn unit_at(&mut self, place: u64) -> f64 {
        self.0.set_word_pos(u128::from(place) * 2);
        self.unit()
    }

    /// True with this probability. Draws once, even where the outcome is certain.
    pub fn happens(&mut self, share: Percent) -> bool {
        self.unit() < share.probability()
    }

    /// At least 0 and below `end`, which must be above 0. The bias is below `end` / 2⁶⁴.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.0.next_u64()) * end as u128) >> 64) as usize
    }
}

/// Decides which packets are lost. Its state survives a change of the model's numbers.
///
/// A burst lasts a time: the chain steps once in the time that a full frame takes at the profile's
/// rate, whether a packet comes or not. Packets are looked at in the time in which they would pass the
/// bottleneck, so that on a busy link each full frame meets one step, however the packets bunch.
#[derive(Clone, Debug)]
pub struct LossProcess {
    model: Loss,
    in_bad_state: bool,
    stream: Stream,
    rate: Rate,
    /// How far ahead of the time of arrival a packet may pass: a full queue.
    ahead_most: Nanos,
    /// When the next packet passes, if it has come by then; none before the first one.
    passes_at: Option<Nanos>,
    stepped_at: Nanos,
}

impl LossProcess {
    /// Starts in the good state with the first packet.
    pub fn new(shape: &Shape, stream: Stream) -> LossProcess {
        LossProcess {
            model: shape.loss,
            in_bad_state: false,
            stream,
            rate: shape.rate,
            ahead_most: shape.queue_time().as_nanos() as Nanos,
            passes_at: None,
            stepped_at: 0,
        }
    }

    /// Adopts another shape's loss, rate and queue.
    pub fn reshape(&mut self, shape: &Shape) {
        self.change(shape.loss);
        self.rate = shape.rate;
        self.ahead_most = shape.queue_time().as_nanos() as Nanos;
    }

    pub fn change(&mut self, model: Loss) {
        self.model = model;
        // A chain that is switched off forgets its state: switched on again, it starts as new.
        self.in_bad_state &= matches!(model, Loss::GilbertElliott(_));
    }

    /// The fate of a packet of `bytes` (as Ethernet frame) that arrives now.
    pub fn loses_next(&mut self, now: Nanos, bytes: u32) -> bool {
        // Two draws whatever the model, so that a change of model does not shift what follows.
        let (fate, change) = (self.stream.unit(), self.stream.unit());
        let steps = self.steps_until(now, bytes);
        match self.model {
            Loss::Random(share) => fate < share.probability(),
            Loss::GilbertElliott(chain) => {
                self.in_bad_state = change < chain.bad_after(self.in_bad_state, steps);
                let loss = if self.in_bad_state { chain.bad } else { chain.good };
                fate < loss.probability()
            }
        }
    }

    /// How many steps lie between the packet before and this one, each passing when the bottleneck
    /// has served what came before it.
    fn steps_until(&mut self, now: Nanos, bytes: u32) -> u64 {
        let step = self.rate.time_for(FRAME).as_nanos().max(1) as Nanos;
        let passes = match self.passes_at {
            Some(at) => at.max(now),
            None => {
                self.stepped_at = now;
                now
            }
        };
        let steps = passes.saturating_sub(self.stepped_at) / step;
        self.stepped_at += steps * step;
        let ahead = passes + self.rate.time_for(u64::from(bytes)).as_nanos() as Nanos;
        // An overflow of the queue does not pass, but each full frame is a step all the same.
        let latest = now + self.ahead_most + step;
        self.passes_at = Some(ahead.min(latest));
        self.stepped_at -= ahead.saturating_sub(latest).min(self.stepped_at);
        steps
    }
}

/// A deviation from the mean delay, in units of the profile's jitter, for a uniform draw `u`.
///
/// - uniform: ±1.
/// - normal: deviation 1, cut at ±4.
/// - pareto: shape 3; (u^(−1/3) − 3/2) · 4/3, cut at 4. The mean is 0 but for the cut.
/// - paretonormal: a quarter of the normal and three quarters of the pareto value at the same `u`.
///
/// These are the distributions that iproute2's tables hold (its pareto and paretonormal tables
/// have these quantiles), so that both backends spread jitter alike.
pub fn jitter_quantile(distribution: Distribution, u: f64) -> f64 {
    const CUT: f64 = 4.0;
    let pareto = || ((1.0 - u).max(f64::MIN_POSITIVE).powf(-1.0 / 3.0) - 1.5) * 4.0 / 3.0;
    match distribution {
        Distribution::Uniform => 2.0 * u - 1.0,
        Distribution::Normal => normal_quantile(u).clamp(-CUT, CUT),
        Distribution::Pareto => pareto().min(CUT),
        Distribution::ParetoNormal => 0.25 * normal_quantile(u).clamp(-CUT, CUT) + 0.75 * pareto().min(CUT),
    }
}

/// The standard normal quantile by Abramowitz and Stegun, formula 26.2.23; off by less than 0.00045.
fn normal_quantile(u: f64) -> f64 {
    let tail = u.min(1.0 - u).max(f64::MIN_POSITIVE);
    let t = (-2.0 * tail.ln()).sqrt();
    let above = 2.515517 + t * (0.802853 + t * 0.010328);
    let below = 1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308));
    let z = t - above / below;
    if u < 0.5 { -z } else { z }
}

/// The share of a standard normal distribution below `x`, by the error function of Abramowitz and
/// Stegun, formula 26.2.17; off by less than 10⁻⁷.
pub fn normal_share(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.2316419 * x.abs());
    let series = [1.330274429, -1.821255978, 1.781477937, -0.356563782, 0.319381530];
    let sum = series.into_iter().fold(0.0, |sum, factor| (sum + factor) * t);
    let above = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * sum;
    if x < 0.0 { above } else { 1.0 - above }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::profile::{GilbertElliott, Queue};
    use crate::units::Delay;

    fn stream(seed: u64, purpose: Purpose) -> Stream {
        Stream::new(seed, LinkId::A, Direction::Down, purpose)
    }

    #[test]
    fn streams_differ_by_seed_flow_and_purpose_and_repeat_otherwise() {
        let first = |mut s: Stream| s.unit();
        let base = first(stream(1, Purpose::Loss));
        assert_eq!(base, first(stream(1, Purpose::Loss)));
        assert_ne!(base, first(stream(2, Purpose::Loss)));
        assert_ne!(base, first(stream(1, Purpose::Jitter)));
        assert_ne!(base, first(Stream::new(1, LinkId::B, Direction::Down, Purpose::Loss)));
        assert_ne!(base, first(Stream::new(1, LinkId::A, Direction::Up, Purpose::Loss)));
    }

    /// A full frame takes 1 ms.
    fn process(model: Loss) -> LossProcess {
        let rate = Rate::from_bits_per_s(12_112_000);
        let shape = Shape { loss: model, ..Shape::plain(rate, Queue::Time(Delay::from_millis(100))) };
        LossProcess::new(&shape, stream(7, Purpose::Loss))
    }

    /// Draws `n` fates of frames that come when `at` says, and gives the share lost and the mean length
    /// of a run of losses.
    fn measure_at(model: Loss, n: u64, bytes: u32, at: impl Fn(u64) -> Nanos) -> (f64, f64) {
        let mut process = process(model);
        let (mut lost, mut bursts, mut before) = (0, 0, false);
        for number in 0..n {
            let now = process.loses_next(at(number), bytes);
            lost += usize::from(now);
            bursts += usize::from(now && !before);
            before = now;
        }
        (f64::from(lost as u32) / n as f64, f64::from(lost as u32) / f64::from(bursts as u32))
    }

    fn measure(model: Loss, n: u64) -> (f64, f64) {
        measure_at(model, n, 1514, |number| number * MS)
    }

    const MS: Nanos = 1_000_000;

    #[test]
    fn random_loss_has_its_mean_and_no_bursts() {
        let (share, burst) = measure(Loss::Random(Percent::new(2.0)), 500_000);
        assert!((share - 0.02).abs() < 0.001, "{share}");
        assert!((burst - 1.0 / 0.98).abs() < 0.02, "{burst}");
    }

    #[test]
    fn bursty_loss_has_its_mean_and_its_burst_length() {
        let chain = GilbertElliott {
            p: Percent::new(0.5),
            r: Percent::new(25.0),
            bad: Percent::new(100.0),
            good: Percent::ZERO,
        };
        let (share, burst) = measure(Loss::GilbertElliott(chain), 1_000_000);
        let expected = chain.mean().probability();
        assert!((share - expected).abs() < 0.001, "{share} against {expected}");
        assert!((burst - 4.0).abs() < 0.15, "{burst}");
    }

    const BURSTS: GilbertElliott = GilbertElliott {
        p: Percent::new(0.5),
        r: Percent::new(25.0),
        bad: Percent::new(100.0),
        good: Percent::ZERO,
    };

    #[test]
    fn bursts_keep_their_length_however_full_frames_bunch() {
        let model = Loss::GilbertElliott(BURSTS);
        let mean = BURSTS.mean().probability();
        // Forty at once every 40 ms, and a third more than the link carries.
        for at in [(|n| n / 40 * 40 * MS) as fn(u64) -> Nanos, |n| n * MS * 3 / 4] {
            let (share, burst) = measure_at(model, 1_000_000, 1514, at);
            assert!((share / mean - 1.0).abs() < 0.08, "{share} against {mean}");
            assert!((burst - 4.0).abs() < 0.2, "{burst}");
        }
    }

    #[test]
    fn bursts_last_a_time_for_frames_of_any_size() {
        // Ten small frames in the time of a full one: four times as long as a frame of 1514 bytes is 40.
        let (share, burst) = measure_at(Loss::GilbertElliott(BURSTS), 2_000_000, 60, |n| n * MS / 10);
        assert!((share / BURSTS.mean().probability() - 1.0).abs() < 0.15, "{share}");
        assert!((burst / 40.0 - 1.0).abs() < 0.15, "{burst}");
    }

    #[test]
    fn silence_ends_a_burst() {
        let mut process = process(Loss::GilbertElliott(BURSTS));
        let (mut now, mut after, mut survived) = (0, 0, 0);
        for _ in 0..200_000 {
            now += MS;
            if process.loses_next(now, 1514) {
                // A retransmission after the least time-out.
                now += 200 * MS;
                after += 1;
                survived += u32::from(process.loses_next(now, 1514));
            }
        }
        let share = f64::from(survived) / f64::from(after);
        let mean = BURSTS.mean().probability();
        assert!(after > 500 && share < mean + 0.03, "{survived} of {after}");
    }

    #[test]
    fn deviations_have_the_quantiles_of_the_tables_that_netem_uses() {
        // The 10 %, 50 % and 90 % points of iproute2's pareto and paretonormal tables.
        let cases = [
            (Distribution::Uniform, [-0.8, 0.0, 0.8]),
            (Distribution::Normal, [-1.2816, 0.0, 1.2816]),
            (Distribution::Pareto, [-0.6191, -0.3201, 0.8717]),
            (Distribution::ParetoNormal, [-0.7849, -0.2400, 0.9740]),
        ];
        for (distribution, quantiles) in cases {
            for (u, expected) in [0.1, 0.5, 0.9].into_iter().zip(quantiles) {
                let got = jitter_quantile(distribution, u);
                assert!((got - expected).abs() < 0.002, "{distribution:?} at {u}: {got}");
            }
            for u in [0.0, 1.0 - 1.0 / (1u64 << 53) as f64] {
                assert!(jitter_quantile(distribution, u).abs() <= 4.0, "{distribution:?} at {u}");
            }
        }
    }
}
