//! A set of byte ranges of one file.

/// Ranges `[from, to)`, ascending, with gaps between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    ranges: Vec<(u64, u64)>,
}

impl Ranges {
    /// Adds `[from, to)`; what is there already stays.
    pub(crate) fn insert(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let first = self.ranges.partition_point(|range| range.1 < from);
        let last = self.ranges.partition_point(|range| range.0 <= to);
        let (mut low, mut high) = (from, to);
        if first < last {
            low = low.min(self.ranges[first].0);
            high = high.max(self.ranges[last - 1].1);
        }
        self.ranges.splice(first..last, [(low, high)]);
    }

    /// How many bytes from `at` on are in the set without a gap.
    pub(crate) fn covered_from(&self, at: u64) -> u64 {
        let next = self.ranges.partition_point(|range| range.1 <= at);
        self.ranges.get(next).filter(|range| range.0 <= at).map_or(0, |range| range.1 - at)
    }

    /// The first byte after `at` that is in the set, where `at` is not.
    fn next_from(&self, at: u64) -> Option<u64> {
        let next = self.ranges.partition_point(|range| range.1 <= at);
        self.ranges.get(next).map(|range| range.0)
    }

    /// Of `most` bytes from `at` on: how many are in the set first, and how many are not after them.
    pub(crate) fn split(&self, at: u64, most: u64) -> (u64, u64) {
        let had = self.covered_from(at).min(most);
        let at = at + had;
        let left = most - had;
        let gap = self.next_from(at).map_or(left, |next| next.saturating_sub(at).min(left));
        (had, gap)
    }

    /// Returns the gaps of the set in `[from, to)`. Without `to`, the last gap has no end.
    pub(crate) fn gaps(&self, from: u64, to: Option<u64>) -> Vec<(u64, Option<u64>)> {
        let mut gaps = Vec::new();
        let mut at = from;
        for &(low, high) in &self.ranges {
            if to.is_some_and(|to| low >= to) {
                break;
            }
            if low > at {
                gaps.push((at, Some(low)));
            }
            at = at.max(high);
        }
        if to.is_none_or(|to| at < to) {
            gaps.push((at, to));
        }
        gaps
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().copied()
    }
}

impl FromIterator<(u64, u64)> for Ranges {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(ranges: I) -> Ranges {
        let mut set = Ranges::default();
        ranges.into_iter().for_each(|(from, to)| set.insert(from, to));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the same set kept as one flag a byte.
        #[test]
        fn ranges_are_a_set_of_bytes(
            inserts in prop::collection::vec((0u64..60, 0u64..20), 0..12), at in 0u64..80, most in 0u64..80,
        ) {
            let ranges: Ranges = inserts.iter().map(|&(from, length)| (from, from + length)).collect();
            let mut flags = [false; 200];
            for (from, length) in inserts {
                (from..from + length).for_each(|byte| flags[byte as usize] = true);
            }
            prop_assert!(ranges.ranges.windows(2).all(|two| two[0].1 < two[1].0), "{ranges:?}");
            let had = (at..at + most).take_while(|&byte| flags[byte as usize]).count() as u64;
            let gap = (at + had..at + most).take_while(|&byte| !flags[byte as usize]).count() as u64;
            prop_assert_eq!(ranges.split(at, most), (had, gap));
            let mut missing = Vec::new();
            for (from, to) in ranges.gaps(at, Some(at + most)) {
                missing.extend(from..to.unwrap());
            }
            prop_assert_eq!(missing, (at..at + most).filter(|&b| !flags[b as usize]).collect::<Vec<_>>());
        }
    }
}
