//! Medians and how sure they are. Pure: numbers in, numbers out; the resampling is seeded, so that a
//! report made twice says the same.
//!
//! Intervals are percentile bootstraps (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993,
//! chapter 13): they assume no distribution, which times of transfers do not have. With few values they
//! are a little narrow: with five, the interval is the span from the least to the greatest, which holds
//! the true median in 93.75 % of all cases (1 − 2/2⁵), not in 95.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;

/// With fewer values than this nothing is said about significance.
pub const ENOUGH: usize = 5;

/// How often values are drawn again. The 2.5 % point then rests on 25 draws.
const RESAMPLES: usize = 1000;

/// A median and the interval that holds the true one in about 95 of 100 cases.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    pub n: usize,
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

/// By how much one thing takes longer than another, in percent of the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    #[serde(flatten)]
    pub pct: Estimate,
    /// Whether values were compared block by block, or the two sets as a whole.
    pub paired: bool,
    /// Whether the interval excludes zero; null where there are too few values to say.
    pub significant: Option<bool>,
}

/// A value below which a share `p` of the sorted `values` lies, straight between neighbours (type 7 of
/// Hyndman and Fan, *The American Statistician* 50, 1996: what R and NumPy do unless told otherwise).
pub fn quantile(sorted: &[f64], p: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = p.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64))
}

pub fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    quantile(&sorted(values), 0.5)
}

/// The median of `values` with its interval.
pub fn estimate(values: &[f64], seed: u64) -> Option<Estimate> {
    let mut rng = Bootstrap::new(seed);
    let middle = median(values.iter().copied())?;
    Some(rng.interval(values.len(), middle, |rng| rng.median_again(values)))
}

/// Returns by how much `x` exceeds `y` where both were measured in the same blocks: the median of the
/// differences, each in percent of its `y`. Effects common to a block cancel.
pub fn paired(pairs: &[(f64, f64)], seed: u64) -> Option<Difference> {
    let differences: Vec<f64> =
        pairs.iter().filter(|(_, y)| *y > 0.0).map(|(x, y)| (x - y) / y * 100.0).collect();
    Some(Difference::new(estimate(&differences, seed)?, true))
}

/// By how much the median of `x` is more than that of `y`, measured apart from each other.
pub fn unpaired(x: &[f64], y: &[f64], seed: u64) -> Option<Difference> {
    let more = |x: f64, y: f64| (x - y) / y * 100.0;
    let (mx, my) = (median(x.iter().copied())?, median(y.iter().copied())?);
    let mut rng = Bootstrap::new(seed);
    let pct = rng
        .interval(x.len().min(y.len()), more(mx, my), |rng| more(rng.median_again(x), rng.median_again(y)));
    Some(Difference::new(pct, false))
}

impl Difference {
    fn new(pct: Estimate, paired: bool) -> Difference {
        let significant = (pct.n >= ENOUGH).then_some(pct.low > 0.0 || pct.high < 0.0);
        Difference { pct, paired, significant }
    }
}

struct Bootstrap(ChaCha8Rng);

impl Bootstrap {
    fn new(seed: u64) -> Bootstrap {
        Bootstrap(ChaCha8Rng::seed_from_u64(seed))
    }

    /// At least 0 and below `end`.
    fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.0.next_u64()) * end as u128) >> 64) as usize
    }

    /// The median of as many values, drawn from `values` with replacement.
    fn median_again(&mut self, values: &[f64]) -> f64 {
        let mut drawn: Vec<f64> = values.iter().map(|_| values[self.below(values.len())]).collect();
        drawn.sort_unstable_by(f64::total_cmp);
        quantile(&drawn, 0.5).unwrap_or(f64::NAN)
    }

    fn interval(&mut self, n: usize, median: f64, mut draw: impl FnMut(&mut Bootstrap) -> f64) -> Estimate {
        let draws = sorted((0..RESAMPLES).map(|_| draw(self)));
        let at = |p| quantile(&draws, p).unwrap_or(median);
        Estimate { n, median, low: at(0.025), high: at(0.975) }
    }
}

/// How well a straight line through the points explains them: the share of the variance of `y` that
/// it takes away (R²), and its slope. None where a line says nothing.
pub fn line(points: &[(f64, f64)]) -> Option<LineFit> {
    let n = points.len() as f64;
    if points.len() < 3 {
        return None;
    }
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (mx, my) = (mean(|p| p.0), mean(|p| p.1));
    let sum = |of: &dyn Fn(f64, f64) -> f64| points.iter().map(|p| of(p.0 - mx, p.1 - my)).sum::<f64>();
    let (xx, yy, xy) = (sum(&|x, _| x * x), sum(&|_, y| y * y), sum(&|x, y| x * y));
    (xx > 0.0 && yy > 0.0).then(|| LineFit { slope: xy / xx, r_squared: xy * xy / (xx * yy) })
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LineFit {
    pub slope: f64,
    pub r_squared: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unit(rng: &mut Bootstrap) -> f64 {
        ((rng.0.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Box and Muller's way from two uniform numbers to a normal one.
    fn normal(rng: &mut Bootstrap) -> f64 {
        let (u, v) = (unit(rng), unit(rng));
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    fn exponential(rng: &mut Bootstrap) -> f64 {
        -unit(rng).ln()
    }

    /// How many of `trials` intervals around the median of `n` values hold the true one.
    fn coverage(n: usize, trials: usize, truth: f64, draw: fn(&mut Bootstrap) -> f64) -> f64 {
        let mut rng = Bootstrap::new(7);
        let held = (0..trials)
            .filter(|&trial| {
                let values: Vec<f64> = (0..n).map(|_| draw(&mut rng)).collect();
                let found = estimate(&values, trial as u64).unwrap();
                found.low <= truth && truth <= found.high
            })
            .count();
        held as f64 / trials as f64
    }

    #[test]
    fn intervals_hold_the_true_median_of_known_distributions() {
        // 200 trials at 95 % scatter by 1.5 points; the bootstrap of few values is a little off itself.
        for n in [10, 25] {
            let (of_normal, of_exponential) =
                (coverage(n, 200, 0.0, normal), coverage(n, 200, std::f64::consts::LN_2, exponential));
            for found in [of_normal, of_exponential] {
                assert!((0.89..=0.995).contains(&found), "{n} values: {of_normal} {of_exponential}");
            }
        }
    }

    #[test]
    fn with_five_values_the_interval_is_their_span() {
        let found = estimate(&[5.0, 1.0, 4.0, 2.0, 3.0], 1).unwrap();
        assert_eq!(found, Estimate { n: 5, median: 3.0, low: 1.0, high: 5.0 });
        let covered = coverage(5, 200, 0.0, normal);
        assert!((0.90..=0.975).contains(&covered), "{covered}, expected about 0.9375");
    }

    #[test]
    fn a_difference_that_is_not_there_is_seldom_found() {
        let mut rng = Bootstrap::new(3);
        let trials = 200;
        let found = (0..trials)
            .filter(|&trial| {
                let pairs: Vec<(f64, f64)> = (0..10)
                    .map(|_| {
                        let block = 10.0 + normal(&mut rng);
                        (block + 0.1 * normal(&mut rng), block + 0.1 * normal(&mut rng))
                    })
                    .collect();
                paired(&pairs, trial).unwrap().significant == Some(true)
            })
            .count();
        assert!(found as f64 / trials as f64 <= 0.10, "{found} of {trials}");
    }

    #[test]
    fn pairs_find_what_the_blocks_would_hide() {
        // Blocks differ by 300 %, the two by 2 %.
        let pairs: Vec<(f64, f64)> =
            (1..=8).map(|block| (f64::from(block) * 1.02, f64::from(block))).collect();
        let by_block = paired(&pairs, 1).unwrap();
        assert!((by_block.pct.median - 2.0).abs() < 1e-9, "{by_block:?}");
        assert_eq!(by_block.significant, Some(true));
        let (x, y): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        assert_eq!(unpaired(&x, &y, 1).unwrap().significant, Some(false));
    }

    #[test]
    fn few_values_say_nothing_about_significance() {
        assert_eq!(paired(&[(2.0, 1.0); 4], 1).unwrap().significant, None);
        assert_eq!(paired(&[(2.0, 1.0); 5], 1).unwrap().significant, Some(true));
        assert_eq!(paired(&[(2.0, 1.0)], 1).unwrap().pct.median, 100.0);
        assert!(estimate(&[], 1).is_none() && unpaired(&[1.0], &[], 1).is_none());
    }

    #[test]
    fn quantiles_are_those_of_numpy() {
        // numpy.quantile([1, 2, 4, 8], [0, .1, .5, .95, 1])
        let values = [1.0, 2.0, 4.0, 8.0];
        for (p, expected) in [(0.0, 1.0), (0.1, 1.3), (0.5, 3.0), (0.95, 7.4), (1.0, 8.0)] {
            assert!((quantile(&values, p).unwrap() - expected).abs() < 1e-12, "{p}");
        }
        assert_eq!(median([3.0, f64::NAN, 1.0]), Some(2.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn a_line_is_told_from_a_corner() {
        let straight: Vec<(f64, f64)> = (0..10).map(|x| (f64::from(x), 3.0 - 0.5 * f64::from(x))).collect();
        let fit = line(&straight).unwrap();
        assert!((fit.slope + 0.5).abs() < 1e-12 && (fit.r_squared - 1.0).abs() < 1e-12, "{fit:?}");
        let corner: Vec<(f64, f64)> = (-5..=5).map(|x| (f64::from(x), f64::from(x).abs())).collect();
        assert!(line(&corner).unwrap().r_squared < 0.1);
        assert!(line(&[(1.0, 1.0); 5]).is_none());
    }

    proptest! {
        #[test]
        fn an_interval_is_around_its_median_and_within_the_values(
            values in prop::collection::vec(-1e6f64..1e6, 1..40), seed in any::<u64>()
        ) {
            let found = estimate(&values, seed).unwrap();
            let all = sorted(values.iter().copied());
            prop_assert!(found.low <= found.median && found.median <= found.high, "{found:?}");
            prop_assert!(all[0] <= found.low && found.high <= all[all.len() - 1], "{found:?}");
            prop_assert_eq!(Some(found), estimate(&values, seed));
        }
    }
}
