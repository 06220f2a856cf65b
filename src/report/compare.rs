//! Puts runs into cells, cells into places, and says which is best in each. Pure.
//!
//! A *place* is a condition of the links on a channel; only what ran in one place is compared. A *cell*
//! is a schedule with a pipeline and a congestion control, repeated. Runs of an
//! experiment say themselves which cell they are; others are put together by their profiles.

use std::collections::{BTreeMap, BTreeSet};

use super::load::Loaded;
use super::model::{
    CompleteRun, ConditionResults, EntrantResults, MedianThroughput, Reason, Study, difference,
};
use super::run::{Group, LoggedRun, SweepFile};
use super::split;
use super::stats;
use super::words;
use crate::log::outcome::Outcome;
use crate::log::schema::PerLink;
use crate::units::{Direction, LinkId};

/// Compares everything that was loaded. Runs that met faults are counted apart unless they are asked
/// for; a single run stands for itself.
pub(crate) fn studies(loaded: &Loaded, with_faulty: bool) -> Vec<Study<'_>> {
    loaded.groups.iter().map(|group| study(group, with_faulty || group.runs.len() == 1)).collect()
}

/// The settings that tell a run's cell from others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CellKey {
    pub condition: String,
    pub channel: String,
    pub schedule: String,
    pub pipeline: String,
    pub connections: Option<String>,
    pub congestion: Option<String>,
}

fn study(group: &Group, with_faulty: bool) -> Study<'_> {
    let mut runs: Vec<(CellKey, Option<u64>, &LoggedRun)> =
        group.runs.iter().filter_map(|run| key(run).map(|(key, block)| (key, block, run))).collect();
    tell_sizes_apart(&mut runs);
    let several = |of: fn(&CellKey) -> Option<&str>| {
        runs.iter().map(|(key, _, _)| of(key)).collect::<BTreeSet<_>>().len() > 1
    };
    // Each schedule has a choice of its own.
    let mut counts: BTreeMap<&String, BTreeSet<&Option<String>>> = BTreeMap::new();
    for (key, _, _) in &runs {
        counts.entry(&key.schedule).or_default().insert(&key.connections);
    }
    let pipelines = several(|key| Some(&key.pipeline));
    let congestions = several(|key| key.congestion.as_deref());
    let label = |key: &CellKey| {
        let mut label = key.schedule.clone();
        if pipelines {
            label += &format!(", pipeline {}", key.pipeline);
        }
        let several = counts.get(&key.schedule).is_some_and(|counts| counts.len() > 1);
        if let Some(count) = key.connections.as_deref().filter(|_| several) {
            label += &format!(", connections {count}");
        }
        if let Some(congestion) = key.congestion.as_deref().filter(|_| congestions) {
            label += &format!(", {congestion}");
        }
        label
    };

    // Places keep the order of the experiment's file. Logs of runs alone do not have it, so places go by name there,
    // and schedules by the share of link a.
    let mut places: BTreeMap<(String, String), BTreeMap<CellKey, EntrantResults>> = BTreeMap::new();
    for (key, block, run) in &runs {
        let place = places.entry((key.condition.clone(), key.channel.clone())).or_default();
        let cell = place.entry(key.clone()).or_insert_with(|| EntrantResults::new(label(key), key));
        cell.add(run, *block, with_faulty);
    }
    let mut labels: Vec<(EntrantOrder, String)> = runs
        .iter()
        .map(|(key, _, _)| (order(key), label(key)))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    labels.dedup_by(|x, y| x.1 == y.1);
    let labels: Vec<String> = labels.into_iter().map(|(_, label)| label).collect();
    let mut places: Vec<ConditionResults> = places
        .into_iter()
        .map(|((condition, channel), cells)| place(group, condition, channel, cells.into_values(), &labels))
        .collect();
    let written =
        group.sweep.iter().flat_map(|sweep| sweep.starts.last()).flat_map(|start| &start.conditions);
    let written: Vec<_> = written.map(|one| (&*one.condition, &*one.channel)).collect();
    let listed = |place: &ConditionResults| {
        written.iter().position(|one| *one == (&*place.condition, &*place.channel)).unwrap_or(usize::MAX)
    };
    places.sort_by(|x, y| {
        let by = |place: &ConditionResults| (place.channel.clone(), distance(&place.condition));
        let number = first_number(&x.condition).total_cmp(&first_number(&y.condition));
        listed(x)
            .cmp(&listed(y))
            .then_with(|| by(x).cmp(&by(y)))
            .then(number)
            .then_with(|| x.condition.cmp(&y.condition))
    });
    let names: Vec<String> = places.iter().map(|place| place.condition.clone()).collect();
    for place in &mut places {
        place.on_both = names.iter().filter(|name| **name == place.condition).count() > 1;
    }
    let faults = group.sweep.iter().flat_map(|sweep| &sweep.faults);
    let faults = faults.map(|fault| words::fault(&fault.data)).collect();
    Study { title: title(group), group, labels, places, faults }
}

/// Near, mid and far in this order, not in the alphabet's.
fn distance(condition: &str) -> usize {
    ["near", "mid", "far"].iter().position(|word| condition.contains(word)).unwrap_or(3)
}

/// Returns the first number in a condition's name, which sorts "30 ms" before "100 ms".
fn first_number(condition: &str) -> f64 {
    let digits = condition.split(|c: char| !c.is_ascii_digit() && c != '.').find(|part| !part.is_empty());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(f64::MAX)
}

fn title(group: &Group) -> String {
    if let Some(start) = group.sweep.as_ref().and_then(|sweep| sweep.starts.first()) {
        return start.experiment.clone();
    }
    match (group.runs.iter().find_map(LoggedRun::experiment), &group.runs[..]) {
        (Some(name), _) => name.into(),
        (None, [run]) => format!("run {}", run.name),
        (None, runs) => format!("{} runs", runs.len()),
    }
}

/// Where in the tables a cell comes: ratios by the share of link a, then the rest by name.
type EntrantOrder = (u64, String, u64, Option<u64>, Option<String>);

fn order(key: &CellKey) -> EntrantOrder {
    let share = split::share_a(&key.schedule).map_or(u64::MAX, |share| (share * 1e9) as u64);
    let depth = key.pipeline.parse().unwrap_or(u64::MAX);
    let count = key.connections.as_ref().map(|count| count.parse().unwrap_or(u64::MAX));
    (share, key.schedule.clone(), depth, count, key.congestion.clone())
}

/// Which cell a run is, and its block. None for a run that did not even begin.
pub(crate) fn key(run: &LoggedRun) -> Option<(CellKey, Option<u64>)> {
    let start = run.start.as_ref()?;
    if let Some(cell) = &start.cell {
        let key = CellKey {
            condition: cell.condition.clone(),
            channel: cell.channel.clone(),
            schedule: cell.schedule.clone(),
            pipeline: cell.pipeline.clone(),
            connections: cell.connections.clone(),
            congestion: cell.congestion.clone(),
        };
        return Some((key, Some(cell.block)));
    }
    let changed = run.links.iter().any(|link| matches!(link.data.action.as_str(), "changed" | "cleared"));
    let key = CellKey {
        condition: format!(
            "{} and {}{}",
            run.profile(LinkId::A),
            run.profile(LinkId::B),
            if changed { ", changed in the run" } else { "" }
        ),
        channel: if run.shares_channel() { "shared" } else { "independent" }.into(),
        schedule: start.schedule.clone(),
        pipeline: start.pipeline.clone(),
        connections: start.connections.clone(),
        congestion: start.congestion_control.clone(),
    };
    Some((key, None))
}

/// Runs of different lists of files are not compared with each other.
fn tell_sizes_apart(runs: &mut [(CellKey, Option<u64>, &LoggedRun)]) {
    let files = |run: &LoggedRun| run.start.as_ref().and_then(|start| start.files);
    let sizes: BTreeSet<u64> = runs.iter().filter_map(|(_, _, run)| files(run)).collect();
    if sizes.len() > 1 {
        for (key, block, run) in runs {
            if let (Some(files), None) = (files(run), block) {
                key.condition += &format!(", {files} files");
            }
        }
    }
}

impl<'a> EntrantResults<'a> {
    fn new(label: String, key: &CellKey) -> EntrantResults<'a> {
        EntrantResults {
            label,
            schedule: key.schedule.clone(),
            pipeline: key.pipeline.clone(),
            connections: key.connections.clone(),
            congestion: key.congestion.clone(),
            runs: Vec::new(),
            failed: Vec::new(),
            failures: 0,
            faulty: Vec::new(),
            left_out: 0,
            reasons: Vec::new(),
            elapsed_ms: None,
            bound_ms: None,
            efficiency: None,
            predicted_ms: None,
            share_a_pct: None,
            against_best: None,
        }
    }

    fn add(&mut self, run: &'a LoggedRun, block: Option<u64>, with_faulty: bool) {
        let complete = run.end.as_ref().filter(|end| end.exit == Outcome::Ok);
        match complete.and_then(|end| Some((end, end.elapsed_ms?))) {
            Some(_) if !with_faulty && run.met().next().is_some() => self.faulty.push(run),
            Some((end, elapsed_ms)) => self.runs.push(CompleteRun { run, end, elapsed_ms, block }),
            None => self.failed.push(run),
        }
    }

    fn sum_up(&mut self, sweep: Option<&SweepFile>) {
        let times: Vec<f64> = self.runs.iter().map(|done| done.elapsed_ms).collect();
        self.failures = self.failed.len();
        self.left_out = self.faulty.len();
        self.reasons = reasons(&self.failed, sweep);
        self.elapsed_ms = stats::estimate(&times);
        self.bound_ms = self.median(|end| end.bound_ms);
        self.efficiency = self.median(|end| end.efficiency);
        self.predicted_ms = self.median(|end| end.predicted_ms);
        self.share_a_pct =
            self.median(|end| (end.bytes > 0).then(|| end.links.a.bytes as f64 * 100.0 / end.bytes as f64));
    }
}

/// Why runs failed: as they say themselves, else as their experiment does.
fn reasons(failed: &[&LoggedRun], sweep: Option<&SweepFile>) -> Vec<Reason> {
    let mut reasons: Vec<Reason> = Vec::new();
    for run in failed {
        let cell_end = || sweep?.cells.iter().find(|end| end.run == run.name);
        let said = run.end.as_ref().map(|end| (end.exit.to_string(), end.summary.as_str()));
        let said = said.or_else(|| cell_end().map(|end| (end.exit.to_string(), end.summary.as_str())));
        let (exit, summary) = said.unwrap_or(("never ended".into(), ""));
        match reasons.iter_mut().find(|reason| reason.exit == exit) {
            Some(reason) => reason.runs += 1,
            None => reasons.push(Reason { exit, summary: summary.into(), runs: 1 }),
        }
    }
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.runs));
    reasons
}

fn place<'a>(
    group: &Group,
    condition: String,
    channel: String,
    cells: impl Iterator<Item = EntrantResults<'a>>,
    labels: &[String],
) -> ConditionResults<'a> {
    let mut cells: Vec<EntrantResults> = cells.collect();
    cells.sort_by_key(|cell| labels.iter().position(|label| *label == cell.label));
    cells.iter_mut().for_each(|cell| cell.sum_up(group.sweep.as_ref()));
    let time = |cell: &EntrantResults| cell.elapsed_ms.map(|estimate| estimate.median);
    let best = (0..cells.len())
        .filter_map(|index| Some((index, time(&cells[index])?)))
        .min_by(|x, y| x.1.total_cmp(&y.1))
        .map(|(index, _)| index);
    if let Some(best) = best {
        for index in (0..cells.len()).filter(|&index| index != best) {
            cells[index].against_best = difference(&cells[index], &cells[best]);
        }
        stats::correct_for_number(cells.iter_mut().filter_map(|cell| cell.against_best.as_mut()));
    }
    let throughput = throughput(group, &condition, &channel, &cells);
    let split = split::split(&cells, throughput.as_ref());
    ConditionResults { condition, channel, on_both: false, cells, best, throughput, split }
}

/// Returns the links' throughput: of the experiment's measurement, else of the probes before the runs.
fn throughput(
    group: &Group,
    condition: &str,
    channel: &str,
    cells: &[EntrantResults],
) -> Option<MedianThroughput> {
    let measured: Vec<_> = group
        .sweep
        .iter()
        .flat_map(|sweep| &sweep.throughputs)
        .filter(|record| record.condition == condition && record.channel == channel)
        .collect();
    let both = |of: &dyn Fn(LinkId) -> Option<f64>| Some(PerLink { a: of(LinkId::A)?, b: of(LinkId::B)? });
    let alone = both(&|link| stats::median(measured.iter().filter_map(|record| record.alone_kbit[link])));
    if let Some(alone_kbit) = alone {
        let together = |link| stats::median(measured.iter().filter_map(|record| record.together_kbit[link]));
        let together_kbit = both(&together);
        return Some(MedianThroughput { source: "alone", alone_kbit, together_kbit, n: measured.len() });
    }
    let runs = || cells.iter().flat_map(|cell| cell.runs.iter().map(|done| done.run));
    let probed = |link: LinkId| {
        let probes = runs().flat_map(|run| &run.probes);
        let down = probes.filter(|probe| probe.link == link && probe.direction == Direction::Down);
        stats::median(down.filter_map(|probe| probe.goodput_kbit))
    };
    let n = runs().filter(|run| !run.probes.is_empty()).count();
    Some(MedianThroughput { source: "probe", alone_kbit: both(&probed)?, together_kbit: None, n })
}
