//! The model of a report: studies, conditions, entrants, and what was computed of them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::run::{Group, LoggedRun};
use super::stats::{self, Difference, Estimate, LineFit};
use crate::log::schema::{PerLink, RunEnd};

/// An experiment, or runs that lay beside each other.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Study<'a> {
    pub title: String,
    #[serde(skip)]
    pub group: &'a Group,
    /// The labels of all cells, in the order of the tables.
    pub labels: Vec<String>,
    pub places: Vec<ConditionResults<'a>>,
    /// Faults of the experiment outside its runs.
    pub faults: Vec<String>,
}

/// One condition of the links.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ConditionResults<'a> {
    pub condition: String,
    /// "shared" or "independent".
    pub channel: String,
    /// Another place has this condition's name on the other kind of channel.
    #[serde(skip)]
    pub on_both: bool,
    pub cells: Vec<EntrantResults<'a>>,
    /// Index of the cell with the least median time.
    pub best: Option<usize>,
    /// The throughput of each link alone and beside the other, where it was measured.
    pub throughput: Option<MedianThroughput>,
    /// The best ratio against the ratio of the measured throughputs.
    pub split: Option<Split>,
}

/// Medians over the blocks, kbit/s of payload.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MedianThroughput {
    /// "alone": each while the other rested; "probe": the probes before the runs.
    pub source: &'static str,
    pub alone_kbit: PerLink<f64>,
    pub together_kbit: Option<PerLink<f64>>,
    pub n: usize,
}

/// A schedule under one condition, with its repetitions.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct EntrantResults<'a> {
    pub label: String,
    pub schedule: String,
    pub pipeline: String,
    /// Null for the schedule's own choice.
    pub connections: Option<String>,
    pub congestion: Option<String>,
    #[serde(skip)]
    pub runs: Vec<CompleteRun<'a>>,
    /// Runs that ended without every file, or never.
    #[serde(skip)]
    pub failed: Vec<&'a LoggedRun>,
    pub failures: usize,
    /// Runs that fetched everything but met faults meanwhile, and so say nothing of their profile.
    #[serde(skip)]
    pub faulty: Vec<&'a LoggedRun>,
    pub left_out: usize,
    /// Why these failed, the most frequent reason first.
    pub reasons: Vec<Reason>,
    pub elapsed_ms: Option<Estimate>,
    pub bound_ms: Option<f64>,
    pub efficiency: Option<f64>,
    pub predicted_ms: Option<f64>,
    /// Share of the bytes that link a brought, in percent.
    pub share_a_pct: Option<f64>,
    /// By how much its time is more than that of the best cell; null for the best itself.
    pub against_best: Option<Difference>,
}

/// An end of runs that did not fetch everything.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Reason {
    pub exit: String,
    /// Of the first of them.
    pub summary: String,
    pub runs: usize,
}

/// A run that fetched everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompleteRun<'a> {
    pub run: &'a LoggedRun,
    pub end: &'a RunEnd,
    pub elapsed_ms: f64,
    pub block: Option<u64>,
}

impl ConditionResults<'_> {
    pub(crate) fn name(&self) -> String {
        let links = match (self.channel.as_str(), self.on_both) {
            ("shared", _) => ", shared channel",
            (_, true) => ", independent links",
            (_, false) => "",
        };
        format!("{}{links}", self.condition)
    }

    pub(crate) fn cell(&self, label: &str) -> Option<&EntrantResults<'_>> {
        self.cells.iter().find(|cell| cell.label == label)
    }
}

impl<'a> EntrantResults<'a> {
    /// The median of what the runs' ends say; of those that say it.
    pub(crate) fn median(&self, of: impl Fn(&RunEnd) -> Option<f64>) -> Option<f64> {
        stats::median(self.runs.iter().filter_map(|done| of(done.end)))
    }

    /// The run whose time is nearest to the median: the one to look at. Where none was complete, the
    /// one that came furthest.
    pub(crate) fn representative(&self) -> Option<&'a LoggedRun> {
        let Some(middle) = self.elapsed_ms.map(|estimate| estimate.median) else {
            let apart = self.failed.iter().chain(&self.faulty);
            return apart.max_by_key(|run| run.segments.len()).copied();
        };
        let far = |done: &&CompleteRun| (done.elapsed_ms - middle).abs();
        self.runs.iter().min_by(|x, y| far(x).total_cmp(&far(y))).map(|done| done.run)
    }

    /// Returns true for a program of the user's, which fetched in the client's place.
    pub(crate) fn is_program(&self) -> bool {
        self.all_runs().any(|run| run.end.as_ref().is_some_and(|end| end.program.is_some()))
    }

    pub(crate) fn all_runs(&self) -> impl Iterator<Item = &'a LoggedRun> {
        let apart = self.failed.iter().chain(&self.faulty).copied();
        self.runs.iter().map(|done| done.run).chain(apart)
    }
}

/// How much longer the cell `x` takes than `y`: block by block where both ran in the same blocks.
pub(crate) fn difference(x: &EntrantResults, y: &EntrantResults) -> Option<Difference> {
    let by_block = |cell: &EntrantResults| -> BTreeMap<u64, f64> {
        cell.runs.iter().filter_map(|done| Some((done.block?, done.elapsed_ms))).collect()
    };
    let (bx, by) = (by_block(x), by_block(y));
    let pairs: Vec<(f64, f64)> = bx.iter().filter_map(|(block, x)| Some((*x, *by.get(block)?))).collect();
    if !pairs.is_empty() {
        return stats::paired(&pairs);
    }
    let times =
        |cell: &EntrantResults| -> Vec<f64> { cell.runs.iter().map(|done| done.elapsed_ms).collect() };
    stats::unpaired(&times(x), &times(y))
}

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
