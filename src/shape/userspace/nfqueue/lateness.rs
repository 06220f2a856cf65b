//! How late packets left, gathered in buckets: each is an eighth of the power of two that it is in,
//! so a reading is off by at most an eighth, and taking one costs nothing that matters.

use crate::units::Nanos;

const BUCKETS: usize = 64 * 8;

/// Lateness since the last reading, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct LatenessSummary {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// How many packets it is drawn from; with none the rest is 0.
    pub packets: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Lateness {
    counts: Box<[u32; BUCKETS]>,
    packets: u64,
    max: Nanos,
}

impl Default for Lateness {
    fn default() -> Self {
        Lateness { counts: Box::new([0; BUCKETS]), packets: 0, max: 0 }
    }
}

fn bucket(late: Nanos) -> usize {
    // A quarter of an hour and more is all one.
    let late = late.min(1 << 40);
    let power = 63 - (late | 8).leading_zeros() as usize;
    power * 8 + (late >> (power - 3)) as usize % 8
}

/// The greatest lateness that falls into a bucket.
fn top(bucket: usize) -> Nanos {
    let (power, eighth) = (bucket / 8, bucket as u64 % 8);
    ((9 + eighth) << (power - 3)).saturating_sub(1)
}

impl Lateness {
    pub(crate) fn record(&mut self, late: Nanos) {
        self.counts[bucket(late)] += 1;
        self.packets += 1;
        self.max = self.max.max(late);
    }

    /// Sums up what was recorded since the last call, and starts afresh.
    pub(crate) fn take(&mut self) -> LatenessSummary {
        let ms = |late: Nanos| late as f64 / 1e6;
        let summary = LatenessSummary {
            p50_ms: ms(self.quantile(0.50)),
            p99_ms: ms(self.quantile(0.99)),
            max_ms: ms(self.max),
            packets: self.packets,
        };
        self.counts.fill(0);
        self.packets = 0;
        self.max = 0;
        summary
    }

    fn quantile(&self, share: f64) -> Nanos {
        let rank = (self.packets as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, &count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            seen += u64::from(count);
            if seen >= rank {
                return top(index).min(self.max);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_an_eighth() {
        let mut lateness = Lateness::default();
        for micros in 1..=1000 {
            lateness.record(micros * 1000);
        }
        let summary = lateness.take();
        assert!((0.5..0.5 * 1.125).contains(&summary.p50_ms), "{summary:?}");
        assert!((0.99..=1.0).contains(&summary.p99_ms), "{summary:?}");
        assert_eq!((summary.max_ms, summary.packets), (1.0, 1000));
        assert_eq!(lateness.take(), LatenessSummary::default());
    }

    #[test]
    fn every_lateness_has_a_bucket_that_reaches_it() {
        for late in (0..200).chain([1 << 39, 1 << 40, (1 << 40) - 1]) {
            assert!(top(bucket(late)) >= late, "{late}");
            assert!(bucket(late) < BUCKETS);
        }
    }
}
