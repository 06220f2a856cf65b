//! Chance, made repeatable: loss, jitter and the other draws that decide a packet's fate.
//!
//! Every purpose draws from a stream of its own, once for every packet that arrives, whatever
//! becomes of it. So the n-th packet of a direction meets the same fate under the same seed, and
//! adding jitter to a profile does not move its losses. Reads no clock.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::profile::{Distribution, Loss};
use crate::units::{Direction, LinkId, Percent};

/// What a stream of random numbers decides.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    Loss = 0,
    Jitter = 1,
    Reorder = 2,
    Corrupt = 3,
    /// Whose turn it is on a shared channel.
    Turn = 4,
    /// Whether a transmission on a shared channel must be repeated.
    Retry = 5,
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

    /// True with this probability. Draws once, even where the outcome is certain.
    pub fn happens(&mut self, share: Percent) -> bool {
        self.unit() < share.probability()
    }

    /// At least 0 and below `end`, which must be above 0. The bias is below `end` / 2⁶⁴.
    pub fn below(&mut self, end: usize) -> usize {
        ((self.0.next_u64() as u128 * end as u128) >> 64) as usize
    }
}

/// Decides which packets are lost. Its state survives a change of the model's numbers.
#[derive(Clone, Debug)]
pub struct LossProcess {
    model: Loss,
    in_bad_state: bool,
    stream: Stream,
}

impl LossProcess {
    /// Starts in the good state.
    pub fn new(model: Loss, stream: Stream) -> LossProcess {
        LossProcess { model, in_bad_state: false, stream }
    }

    pub fn change(&mut self, model: Loss) {
        self.model = model;
        // A chain that is switched off forgets its state: switched on again, it starts as new.
        self.in_bad_state &= matches!(model, Loss::GilbertElliott(_));
    }

    /// The fate of the next packet. The state in force when it arrives decides, then the chain
    /// steps, as netem's `gemodel` does.
    pub fn loses_next(&mut self) -> bool {
        // Two draws whatever the model, so that a change of model does not shift what follows.
        let (fate, step) = (self.stream.unit(), self.stream.unit());
        match self.model {
            Loss::Random(share) => fate < share.probability(),
            Loss::GilbertElliott(chain) => {
                let (loss, leave) =
                    if self.in_bad_state { (chain.bad, chain.r) } else { (chain.good, chain.p) };
                self.in_bad_state ^= step < leave.probability();
                fate < loss.probability()
            }
        }
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
pub fn deviation(distribution: Distribution, u: f64) -> f64 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::profile::GilbertElliott;

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

    /// Draws `n` fates and gives the share lost and the mean length of a run of losses.
    fn measure(model: Loss, n: usize) -> (f64, f64) {
        let mut process = LossProcess::new(model, stream(7, Purpose::Loss));
        let (mut lost, mut bursts, mut before) = (0, 0, false);
        for _ in 0..n {
            let now = process.loses_next();
            lost += usize::from(now);
            bursts += usize::from(now && !before);
            before = now;
        }
        (lost as f64 / n as f64, lost as f64 / bursts as f64)
    }

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
                let got = deviation(distribution, u);
                assert!((got - expected).abs() < 0.002, "{distribution:?} at {u}: {got}");
            }
            for u in [0.0, 1.0 - 1.0 / (1u64 << 53) as f64] {
                assert!(deviation(distribution, u).abs() <= 4.0, "{distribution:?} at {u}");
            }
        }
    }
}
