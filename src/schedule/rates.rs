//! Shares by rates that are known beforehand: both links would end together if they carried just those.
//! Each server's list is worked off in order and never shared, as with a ratio.
//!
//! **Rule.** A file goes to the link for which (bytes assigned so far + its own) / rate is less.
//!
//! **Source.** List scheduling on uniform machines: Cho and Sahni, "Bounds for list schedules on uniform
//! processors", SIAM Journal on Computing 9(1), 1980.
//!
//! **Worst case.** With links that carry just those rates, (1 + √5)/2 times the best that whole files allow
//! (the same source, two machines); neither list ends later than the other by more than the largest file
//! takes on the slower link. With others, a link that carries an n-th of what it was said to takes n times as
//! long, and the other does not help.

use crate::units::LinkId;

/// Assigns each segment to the link that would finish it first, after the segments it already has. An unknown
/// size counts as the mean of the known ones. One of the rates is above 0; only their ratio matters.
pub(crate) fn owners(a_kbit: u32, b_kbit: u32, sizes: &[Option<u64>]) -> Vec<LinkId> {
    let known: Vec<u64> = sizes.iter().copied().flatten().collect();
    let mean = known.iter().sum::<u64>() as f64 / known.len().max(1) as f64;
    let mean = if mean > 0.0 { mean } else { 1.0 };
    // Where each link's list ends, in bytes over its rate; one without a rate ends never.
    let mut ends = [0.0; 2];
    let rates = [f64::from(a_kbit), f64::from(b_kbit)];
    let deal = |size: &Option<u64>| {
        let bytes = size.map_or(mean, |bytes| bytes as f64);
        let after = LinkId::BOTH.map(|link| match rates[link.index()] {
            0.0 => f64::INFINITY,
            rate => ends[link.index()] + bytes / rate,
        });
        let owner = if after[0] <= after[1] { LinkId::A } else { LinkId::B };
        ends[owner.index()] = after[owner.index()];
        owner
    };
    sizes.iter().map(deal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_files_are_dealt_in_proportion_to_the_rates() {
        for sizes in [vec![None; 160], vec![Some(500_000); 160]] {
            let of_a = |a, b| owners(a, b, &sizes).iter().filter(|&&link| link == LinkId::A).count();
            assert_eq!(of_a(50_000, 50_000), 80);
            assert_eq!(of_a(75_000, 25_000), 120);
            assert_eq!(of_a(1, 0), 160);
            assert_eq!(of_a(0, 1), 0);
        }
    }

    proptest! {
        /// Neither link ends later than the other by more than the largest file takes on it.
        #[test]
        fn both_lists_end_together_but_for_one_file(
            sizes in prop::collection::vec(1u64..1_000_000, 1..200),
            a in 1u32..100_000,
            b in 1u32..100_000,
        ) {
            let known: Vec<_> = sizes.iter().copied().map(Some).collect();
            let mut ends = [0.0; 2];
            let mut largest = 0.0f64;
            for (owner, &size) in owners(a, b, &known).iter().zip(&sizes) {
                let rate = f64::from(if *owner == LinkId::A { a } else { b });
                ends[owner.index()] += size as f64 / rate;
                largest = largest.max(size as f64 / f64::from(a.min(b)));
            }
            prop_assert!((ends[0] - ends[1]).abs() <= largest + 1e-6, "{ends:?} {largest}");
        }
    }
}
