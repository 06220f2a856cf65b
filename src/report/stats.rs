//! Medians and how sure they are. Pure: numbers in, numbers out.
//!
//! Everything here is exact and assumes no distribution, which times of transfers do not have. The interval of a
//! median goes from the k-th least to the k-th greatest value, and misses the true median with probability
//! 2 P(B < k), B binomial with n and 1/2: the sign test. Of values that were not measured in pairs it goes from
//! the k-th least to the k-th greatest of all differences, by the test of Mann and Whitney (Hodges and Lehmann,
//! *Annals of Mathematical Statistics* 34, 1963). An interval says its coverage.

use serde::Serialize;

/// The chance of a significant difference where there is none, and of an interval that misses.
const LEVEL: f64 = 0.05;

/// A median and its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Estimate {
    pub n: usize,
    pub median: f64,
    pub low: f64,
    pub high: f64,
    /// How often such an interval holds the true median: at least 95 %, where so few values can say it.
    pub coverage_pct: f64,
}

/// By how much one thing takes longer than another, in percent of the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Difference {
    #[serde(flatten)]
    pub pct: Estimate,
    /// Whether values were compared block by block, or the two sets as a whole.
    pub paired: bool,
    /// The chance of a difference as clear as this where there is none.
    pub p: f64,
    /// Whether `p` is at most 0.05; null where there are too few values to say.
    pub significant: Option<bool>,
    /// The same with Holm's correction for the comparisons beside it; null where there is none to correct for.
    pub significant_of_all: Option<bool>,
}

/// A value below which a share `p` of the sorted `values` lies, straight between neighbours (type 7 of
/// Hyndman and Fan, *The American Statistician* 50, 1996: what R and NumPy do unless told otherwise).
pub(crate) fn quantile(sorted: &[f64], p: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = p.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64))
}

pub(crate) fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    quantile(&sorted(values), 0.5)
}

/// The median of `values` with its interval.
pub(crate) fn estimate(values: &[f64]) -> Option<Estimate> {
    let values = sorted(values.iter().copied());
    let n = values.len();
    interval(n, &values, |fewer| binomial_below(n, fewer))
}

/// Returns by how much `x` exceeds `y` where both were measured in the same blocks: the median of the
/// differences, each in percent of its `y`. Effects common to a block cancel.
pub(crate) fn paired(pairs: &[(f64, f64)]) -> Option<Difference> {
    let differences: Vec<f64> =
        pairs.iter().filter(|(_, y)| *y > 0.0).map(|(x, y)| (x - y) / y * 100.0).collect();
    let pct = estimate(&differences)?;
    let count = |of: fn(&f64) -> bool| differences.iter().filter(|difference| of(difference)).count();
    let (less, more) = (count(|d| *d < 0.0), count(|d| *d > 0.0));
    let p = 2.0 * binomial_below(less + more, less.min(more) + 1);
    Some(Difference::new(pct, true, p, 2.0 * binomial_below(pct.n, 1)))
}

/// Returns by how much `x` exceeds `y` where they were measured apart from each other: the median of the
/// differences of each from each.
pub(crate) fn unpaired(x: &[f64], y: &[f64]) -> Option<Difference> {
    let all = x.iter().flat_map(|x| y.iter().filter(|y| **y > 0.0).map(move |y| (x - y) / y * 100.0));
    let all = sorted(all);
    let ranks = RankSums::new(x.len(), y.len());
    let pct = interval(x.len().min(y.len()), &all, |fewer| ranks.below(fewer))?;
    let (less, more) = (all.partition_point(|d| *d < 0.0), all.len() - all.partition_point(|d| *d <= 0.0));
    // An equal pair is half a pair for either side.
    let fewer = less.min(more) + (all.len() - less - more) / 2;
    Some(Difference::new(pct, false, 2.0 * ranks.below(fewer + 1), 2.0 * ranks.below(1)))
}

/// Judges differences together by Holm's rule (*Scandinavian Journal of Statistics* 6, 1979): all that it calls
/// significant are so at once with probability 0.95.
pub(crate) fn correct_for_number<'a>(differences: impl Iterator<Item = &'a mut Difference>) {
    let mut differences: Vec<&mut Difference> = differences.filter(|d| d.significant.is_some()).collect();
    differences.sort_by(|x, y| x.p.total_cmp(&y.p));
    let count = differences.len();
    let mut holds = true;
    for (place, difference) in differences.into_iter().enumerate() {
        holds &= difference.p * (count - place) as f64 <= LEVEL;
        difference.significant_of_all = Some(holds);
    }
}

/// Returns the blocks (`paired`), or runs of each, at least that can make one of so many comparisons significant,
/// Holm's correction included.
pub(crate) fn runs_for(comparisons: usize, paired: bool) -> usize {
    let least_p = |n| 2.0 * if paired { binomial_below(n, 1) } else { RankSums::new(n, n).below(1) };
    (1..).find(|&n| least_p(n) * comparisons as f64 <= LEVEL).unwrap_or(usize::MAX)
}

impl Difference {
    /// `least_p` is the least that so many values can have.
    fn new(pct: Estimate, paired: bool, p: f64, least_p: f64) -> Difference {
        let p = p.min(1.0);
        let significant = (least_p <= LEVEL).then_some(p <= LEVEL);
        Difference { pct, paired, p, significant, significant_of_all: None }
    }

    /// The difference that this comparison could just have told from none, in percent: the longer part of its
    /// interval. None where there are too few values to say.
    pub(crate) fn least_seen_pct(&self) -> Option<f64> {
        let Estimate { median, low, high, .. } = self.pct;
        self.significant.map(|_| (median - low).max(high - median))
    }

    /// About how many blocks would tell a difference of so many percent from none: intervals shrink with the root
    /// of their number.
    pub(crate) fn blocks_to_see(&self, pct: f64) -> Option<usize> {
        let times = (self.least_seen_pct()? / pct).powi(2);
        Some((self.pct.n as f64 * times).ceil() as usize)
    }
}

/// The interval between the k-th least and the k-th greatest of `sorted`, with the greatest k that misses in 5 % of
/// all cases at most, else 1. `below(k)` is the chance that fewer than k of all values lie on one side.
fn interval(n: usize, sorted: &[f64], below: impl Fn(usize) -> f64) -> Option<Estimate> {
    let median = quantile(sorted, 0.5)?;
    let most = sorted.len().div_ceil(2);
    let rank = (1..=most).take_while(|&rank| 2.0 * below(rank) <= LEVEL).last().unwrap_or(1);
    Some(Estimate {
        n,
        median,
        low: sorted[rank - 1],
        high: sorted[sorted.len() - rank],
        coverage_pct: ((1.0 - 2.0 * below(rank)) * 100.0).max(0.0),
    })
}

/// The chance of fewer than `count` heads in `n` throws of a coin.
fn binomial_below(n: usize, count: usize) -> f64 {
    let mut log = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for heads in 0..count.min(n + 1) {
        sum += log.exp();
        log += ((n - heads) as f64 / (heads + 1) as f64).ln();
    }
    sum
}

/// The chances of Mann and Whitney's U, the number of pairs in which the one is less, for two sets without a
/// difference.
struct RankSums {
    /// By U; empty where there are too many pairs to count, and U is as good as normal.
    chances: Vec<f64>,
    mean: f64,
    deviation: f64,
}

impl RankSums {
    fn new(n: usize, m: usize) -> RankSums {
        let pairs = n * m;
        let mut chances = Vec::new();
        if pairs <= 1000 {
            // Orders by U are the coefficients of Π (1 − q^(m+j)) / (1 − q^j), j from 1 to n.
            chances = vec![0.0; pairs + 1];
            chances[0] = 1.0;
            for j in 1..=n {
                for u in (m + j..=pairs).rev() {
                    chances[u] -= chances[u - m - j];
                }
                for u in j..=pairs {
                    chances[u] += chances[u - j];
                }
            }
            let all: f64 = chances.iter().sum();
            chances.iter_mut().for_each(|chance| *chance /= all);
        }
        let deviation = (pairs as f64 * (n + m + 1) as f64 / 12.0).sqrt();
        RankSums { chances, mean: pairs as f64 / 2.0, deviation }
    }

    /// The chance that U is below `count`.
    fn below(&self, count: usize) -> f64 {
        if self.chances.is_empty() {
            normal_below((count as f64 - 0.5 - self.mean) / self.deviation)
        } else {
            self.chances.iter().take(count).sum()
        }
    }
}

/// The chance that a standard normal value is below `z` (Abramowitz and Stegun, *Handbook of Mathematical
/// Functions*, 26.2.17; off by less than 10⁻⁷).
fn normal_below(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let coefficients = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let polynomial = coefficients.iter().rev().fold(0.0, |sum, coefficient| (sum + coefficient) * t);
    let tail = (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt() * polynomial;
    if z < 0.0 { tail } else { 1.0 - tail }
}

/// How well a straight line through the points explains them: the share of the variance of `y` that
/// it takes away (R²), and its slope. None where a line says nothing.
pub(crate) fn line(points: &[(f64, f64)]) -> Option<LineFit> {
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
pub(crate) struct LineFit {
    pub slope: f64,
    pub r_squared: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    fn unit(rng: &mut ChaCha8Rng) -> f64 {
        ((rng.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Box and Muller's way from two uniform numbers to a normal one.
    fn normal(rng: &mut ChaCha8Rng) -> f64 {
        let (u, v) = (unit(rng), unit(rng));
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    fn exponential(rng: &mut ChaCha8Rng) -> f64 {
        -unit(rng).ln()
    }

    fn drawn(n: usize, rng: &mut ChaCha8Rng, draw: fn(&mut ChaCha8Rng) -> f64) -> Vec<f64> {
        (0..n).map(|_| draw(rng)).collect()
    }

    #[test]
    fn intervals_cover_what_they_say() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        for n in [3, 5, 7, 10, 25] {
            let normals = (normal as fn(&mut ChaCha8Rng) -> f64, 0.0);
            for (draw, truth) in [normals, (exponential, std::f64::consts::LN_2)] {
                let found = (0..4000).map(|_| estimate(&drawn(n, &mut rng, draw)).unwrap());
                let found: Vec<Estimate> = found.collect();
                let held = found.iter().filter(|e| e.low <= truth && truth <= e.high).count();
                // Of 4000 trials a share of 95 % scatters by 0.35 points, and one of 75 % by 0.7.
                let held = held as f64 / 40.0;
                assert!((held - found[0].coverage_pct).abs() < 2.5, "{n}: {held} %, {:?}", found[0]);
            }
        }
    }

    #[test]
    fn coverage_is_that_of_the_sign_test() {
        for (n, low, coverage) in [(3, 1.0, 75.0), (5, 1.0, 93.75), (6, 1.0, 96.875), (9, 2.0, 96.09375)] {
            let values: Vec<f64> = (1..=n).map(f64::from).collect();
            let found = estimate(&values).unwrap();
            assert_eq!((found.low, found.high), (low, f64::from(n) + 1.0 - low));
            assert!((found.coverage_pct - coverage).abs() < 1e-9, "{found:?}");
        }
        // Tables give ranks 10 and 21 for 30 values.
        let found = estimate(&(1..=30).map(f64::from).collect::<Vec<_>>()).unwrap();
        assert_eq!((found.low, found.high), (10.0, 21.0));
    }

    #[test]
    fn ranks_are_those_of_the_tables_of_mann_and_whitney() {
        // The greatest U that is significant at 5 %, two-sided.
        for (n, m, critical) in [(4, 4, 0), (5, 5, 2), (8, 8, 13), (10, 10, 23), (5, 9, 7), (20, 20, 127)] {
            let ranks = RankSums::new(n, m);
            assert!(2.0 * ranks.below(critical + 1) <= LEVEL, "{n} and {m}");
            assert!(2.0 * ranks.below(critical + 2) > LEVEL, "{n} and {m}");
        }
        let (exact, mut normal) = (RankSums::new(30, 30), RankSums::new(30, 30));
        normal.chances.clear();
        for u in [250, 317, 400, 450] {
            assert!((exact.below(u) - normal.below(u)).abs() < 0.002, "{u}");
        }
    }

    #[test]
    fn a_difference_that_is_not_there_is_seldom_found() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let (mut by_block, mut apart) = (0, 0);
        for _ in 0..2000 {
            let (x, y) = (drawn(7, &mut rng, exponential), drawn(7, &mut rng, exponential));
            let pairs: Vec<(f64, f64)> = x.iter().copied().zip(y.iter().copied()).collect();
            by_block += i32::from(paired(&pairs).unwrap().significant == Some(true));
            apart += i32::from(unpaired(&x, &y).unwrap().significant == Some(true));
        }
        // At most 5 % of 2000, and three standard deviations of that.
        assert!(by_block <= 130 && apart <= 130, "{by_block} and {apart} of 2000");
    }

    #[test]
    fn one_of_eleven_equals_is_seldom_called_worse_than_the_first() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let (mut plain, mut corrected) = (0, 0);
        for _ in 0..500 {
            let first = drawn(10, &mut rng, exponential);
            let others = (0..10).map(|_| {
                let other = drawn(10, &mut rng, exponential);
                paired(&other.into_iter().zip(first.iter().copied()).collect::<Vec<_>>()).unwrap()
            });
            let mut others: Vec<Difference> = others.collect();
            correct_for_number(others.iter_mut());
            plain += i32::from(others.iter().any(|d| d.significant == Some(true)));
            corrected += i32::from(others.iter().any(|d| d.significant_of_all == Some(true)));
        }
        assert!(plain > 50 && corrected <= 40, "{plain} and {corrected} of 500");
    }

    #[test]
    fn holm_stops_at_the_first_that_does_not_hold() {
        let of = |p| Difference::new(estimate(&[1.0; 10]).unwrap(), true, p, 0.002);
        let mut differences = [of(0.04), of(0.01), of(0.03), of(0.02)];
        correct_for_number(differences.iter_mut());
        // 0.01 × 4 holds, 0.02 × 3 does not, and what follows does not either.
        let found = differences.map(|difference| difference.significant_of_all.unwrap());
        assert_eq!(found, [false, true, false, false]);
        assert_eq!([1, 2, 12, 20].map(|count| runs_for(count, true)), [6, 7, 9, 10]);
        assert_eq!([1, 2, 12, 20].map(|count| runs_for(count, false)), [4, 5, 6, 6]);
    }

    #[test]
    fn differences_are_those_of_scipy() {
        // scipy 1.17 (binomtest, mannwhitneyu with method="exact", binom) and statsmodels 0.15 (multipletests, "holm").
        let best = [9.12, 9.40, 9.05, 9.31, 9.22, 9.18, 9.51, 9.27, 9.09, 9.36];
        let others = [
            [9.21, 9.58, 9.13, 9.40, 9.20, 9.30, 9.66, 9.41, 9.17, 9.49],
            [9.31, 9.77, 9.33, 9.66, 9.50, 9.47, 9.88, 9.63, 9.35, 9.74],
            [9.02, 9.52, 9.15, 9.28, 9.33, 9.11, 9.62, 9.20, 9.19, 9.50],
            [9.15, 9.45, 9.02, 9.39, 9.28, 9.25, 9.56, 9.33, 9.04, 9.41],
        ];
        let near =
            |found: f64, expected: f64| assert!((found - expected).abs() < 1e-5, "{found}, {expected}");
        let by_block = others.map(|other| other.into_iter().zip(best).collect::<Vec<_>>());
        let mut found = by_block.map(|pairs| paired(&pairs).unwrap());
        let expected = [
            (0.021484, 1.147016, 0.880088, 1.577287),
            (0.001953, 3.459220, 2.860286, 3.936170),
            (0.753906, 1.102541, -0.762527, 1.276596),
            (0.109375, 0.533051, -0.331492, 0.762527),
        ];
        for (found, (p, median, low, high)) in found.iter().zip(expected) {
            near(found.p, p);
            near(found.pct.median, median);
            near(found.pct.low, low);
            near(found.pct.high, high);
            near(found.pct.coverage_pct, 97.851562);
        }
        correct_for_number(found.iter_mut());
        assert_eq!(found.map(|one| one.significant), [true, true, false, false].map(Some));
        assert_eq!(found.map(|one| one.significant_of_all), [false, true, false, false].map(Some));
        let mut apart = others.map(|other| unpaired(&other, &best).unwrap());
        let medians = [0.976772, 3.260023, 0.218943, 0.528839];
        for (found, median) in apart.iter().zip(medians) {
            near(found.pct.median, median);
        }
        correct_for_number(apart.iter_mut());
        assert_eq!(apart.map(|one| one.significant_of_all), [false, true, false, false].map(Some));
    }

    #[test]
    fn pairs_find_what_the_blocks_would_hide() {
        // Blocks differ by 300 %, the two by 2 %.
        let pairs: Vec<(f64, f64)> =
            (1..=8).map(|block| (f64::from(block) * 1.02, f64::from(block))).collect();
        let by_block = paired(&pairs).unwrap();
        assert!((by_block.pct.median - 2.0).abs() < 1e-9, "{by_block:?}");
        assert_eq!(by_block.significant, Some(true));
        let (x, y): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        assert_eq!(unpaired(&x, &y).unwrap().significant, Some(false));
    }

    #[test]
    fn few_values_say_nothing_about_significance() {
        assert_eq!(paired(&[(2.0, 1.0); 5]).unwrap().significant, None);
        assert_eq!(paired(&[(2.0, 1.0); 6]).unwrap().significant, Some(true));
        assert_eq!(unpaired(&[2.0; 3], &[1.0; 3]).unwrap().significant, None);
        assert_eq!(unpaired(&[2.0; 4], &[1.0; 4]).unwrap().significant, Some(true));
        assert_eq!(paired(&[(2.0, 1.0)]).unwrap().pct.median, 100.0);
        assert!(estimate(&[]).is_none() && unpaired(&[1.0], &[]).is_none());
    }

    #[test]
    fn least_seen_difference_is_the_wider_part_of_the_interval() {
        let pairs: Vec<(f64, f64)> = (0..10).map(|i| (100.0 + f64::from(i), 100.0)).collect();
        let difference = paired(&pairs).unwrap();
        // From the second to the ninth, around 4.5.
        assert_eq!((difference.pct.low, difference.pct.high), (1.0, 8.0));
        assert!((difference.least_seen_pct().unwrap() - 3.5).abs() < 1e-9);
        assert_eq!(difference.blocks_to_see(1.75), Some(40));
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
            values in prop::collection::vec(-1e6f64..1e6, 1..40)
        ) {
            let found = estimate(&values).unwrap();
            let all = sorted(values.iter().copied());
            prop_assert!(found.low <= found.median && found.median <= found.high, "{found:?}");
            prop_assert!(all[0] <= found.low && found.high <= all[all.len() - 1], "{found:?}");
        }
    }
}
