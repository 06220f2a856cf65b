//! The course's second question: does the ratio of the links' throughputs name the best ratio of
//! files, what does it cost to believe so, and why do they part? Pure.

use serde::Serialize;

use super::compare;
use super::compare::{EntrantResults, MedianThroughput};
use super::stats;
use super::stats::{Difference, LineFit};

/// The best ratio that was tried, against the one that the throughputs name.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Split {
    /// Throughput of link a over that of link b.
    pub throughput_ratio: f64,
    /// The share of files from link a that it asks for, and that `named` gives, in percent.
    pub wanted_a_pct: f64,
    pub named_a_pct: f64,
    /// The ratio tried that is nearest to it (by logarithm), as a schedule.
    pub named: String,
    /// The ratio tried with the least median time.
    pub best: String,
    /// How much longer `named` takes than `best`; null where they are the same.
    pub regret: Option<Difference>,
    /// The oracle: the schedule in fixed proportion to the measured rates, where it was run, against `best`.
    pub exact: Option<Exact>,
    /// Time (ms) as a straight line over the share of files from link a (percent).
    pub line: Option<LineFit>,
    /// Whether a ratio that leaves one link out was among them.
    pub end_tried: bool,
    /// The throughput of both together over the better one alone: 1 where they share one resource, more where
    /// they add up. Null where it was not measured.
    pub adds_up: Option<f64>,
    /// How much later than the other a link ended in the runs of `named`, ms; positive: link a was last.
    pub a_ends_later_ms: Option<f64>,
}

/// A schedule whose split is computed from throughputs, not picked from a list.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Exact {
    pub schedule: String,
    pub regret: Difference,
}

/// The share of files that a schedule with fixed numbers takes from link a, 0 to 1.
pub(crate) fn share_a(schedule: &str) -> Option<f64> {
    let (a, b) = schedule.strip_prefix("ratio=")?.split_once(':')?;
    let (a, b) = (a.trim().parse::<f64>().ok()?, b.trim().parse::<f64>().ok()?);
    (a >= 0.0 && b >= 0.0 && a + b > 0.0).then(|| a / (a + b))
}

/// Compares the ratios of a place; none with fewer than three, or without throughputs.
pub(crate) fn split(cells: &[EntrantResults], throughput: Option<&MedianThroughput>) -> Option<Split> {
    let throughput = throughput?;
    let all: Vec<(f64, &EntrantResults, f64)> = cells
        .iter()
        .filter_map(|cell| Some((share_a(&cell.schedule)?, cell, cell.elapsed_ms?.median)))
        .collect();
    let (_, best, _) = *all.iter().min_by(|x, y| x.2.total_cmp(&y.2))?;
    // Only the ratio may differ between what is compared here.
    let same =
        |cell: &EntrantResults| (&cell.pipeline, &cell.congestion) == (&best.pipeline, &best.congestion);
    let alike: Vec<_> = all.into_iter().filter(|(_, cell, _)| same(cell)).collect();
    let alone = &throughput.alone_kbit;
    if alike.len() < 3 || !(alone.a > 0.0 && alone.b > 0.0) {
        return None;
    }
    let throughput_ratio = Some(alone.a / alone.b).filter(|ratio| ratio.is_finite())?;
    let off = |share: f64| ((share / (1.0 - share)).ln() - throughput_ratio.ln()).abs();
    let (named_share, named, _) = *alike.iter().min_by(|x, y| off(x.0).total_cmp(&off(y.0)))?;
    let points: Vec<(f64, f64)> = alike.iter().map(|(share, _, time)| (share * 100.0, *time)).collect();
    let adds_up =
        throughput.together_kbit.as_ref().map(|together| (together.a + together.b) / alone.a.max(alone.b));
    Some(Split {
        throughput_ratio,
        wanted_a_pct: throughput_ratio / (1.0 + throughput_ratio) * 100.0,
        named_a_pct: named_share * 100.0,
        named: named.label.clone(),
        best: best.label.clone(),
        regret: if named.label == best.label { None } else { compare::difference(named, best) },
        // Rates that somebody typed were not measured.
        exact: cells.iter().find(|cell| cell.schedule == "rates=alone" && same(cell)).and_then(|cell| {
            Some(Exact { schedule: cell.label.clone(), regret: compare::difference(cell, best)? })
        }),
        line: stats::line(&points),
        end_tried: alike.iter().any(|(share, _, _)| *share == 0.0 || *share == 1.0),
        adds_up,
        a_ends_later_ms: named.median(|end| Some(end.links.a.last_byte_ms? - end.links.b.last_byte_ms?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ratios_have_a_share() {
        assert_eq!(share_a("ratio=1:3"), Some(0.25));
        assert_eq!(share_a("ratio=0:1"), Some(0.0));
        for other in ["greedy", "rates=1:2", "ratio=0:0", "ratio=x"] {
            assert_eq!(share_a(other), None, "{other}");
        }
    }
}
