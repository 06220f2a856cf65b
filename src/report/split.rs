//! The course's second question: does the ratio of the links' throughputs name the best ratio of
//! files, what does it cost to believe so, and why do they part? Pure.

use super::model::{EntrantResults, Exact, MedianThroughput, Split, difference};
use super::stats;

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
    let settings =
        |cell: &EntrantResults| (cell.pipeline.clone(), cell.connections.clone(), cell.congestion.clone());
    let same = |cell: &EntrantResults| settings(cell) == settings(best);
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
        regret: if named.label == best.label { None } else { difference(named, best) },
        // Rates that somebody typed were not measured.
        exact: cells
            .iter()
            .find(|cell| cell.schedule == "rates=alone" && same(cell))
            .and_then(|cell| Some(Exact { schedule: cell.label.clone(), regret: difference(cell, best)? })),
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
