//! How long an experiment will take: its transfers by simulation, what is around them by the links' profiles.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::experiment::Experiment;
use super::experiment::entrant::Entrant;
use super::plan::PlanStep;
use crate::client::measure::When;
use crate::client::measure::expected::{probe_s, rtt_s, throughput_s};
use crate::log::schema::Cell;
use crate::schedule::{Connections, Schedule};
use crate::shape::setup::LinkSetup;
use crate::simulate::{self, Setup};
use crate::text::duration;

/// How much work predictions may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Seeds that are played where losses decide.
    pub seeds: usize,
    /// Kinds that are not predicted by then are left out.
    pub longest: Option<Duration>,
}

impl Effort {
    /// Of a dry run, which does nothing else.
    pub(crate) const THOROUGH: Effort = Effort { seeds: 5, longest: None };
    /// Of an experiment that is about to begin.
    pub(crate) const BRIEF: Effort = Effort { seeds: 1, longest: Some(Duration::from_secs(1)) };
}

/// The key of cells with equal predictions: condition, channel, schedule, pipeline, connections and congestion
/// control.
type Kind = [String; 6];

fn kind(cell: &Cell) -> Kind {
    let [congestion, connections] =
        [&cell.congestion, &cell.connections].map(|setting| setting.clone().unwrap_or_default());
    let Cell { condition, channel, schedule, pipeline, .. } = cell;
    [condition, channel, schedule, pipeline, &connections, &congestion].map(String::clone)
}

/// How long a cell's transfer takes, s.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seconds {
    pub median: f64,
    /// The least and the most, where losses decide.
    pub between: Option<(f64, f64)>,
}

/// Predictions, each made once: repetitions are predicted alike.
pub(crate) struct Predictions<'a> {
    experiment: &'a Experiment,
    sizes: Vec<u64>,
    known: HashMap<Kind, Option<Seconds>>,
}

impl<'a> Predictions<'a> {
    /// Predicts every kind of these cells for files of these sizes, on all cores, and calls `tell` with how many
    /// are done and how many there are.
    pub(crate) fn new(
        experiment: &'a Experiment,
        sizes: Vec<u64>,
        cells: &[Cell],
        effort: Effort,
        tell: impl Fn(usize, usize) + Sync,
    ) -> Predictions<'a> {
        let began = Instant::now();
        let in_time = || effort.longest.is_none_or(|longest| began.elapsed() < longest);
        let mut outlook = Predictions { experiment, sizes, known: HashMap::new() };
        let mut seen = HashSet::new();
        // Nothing predicts a program.
        let is_schedule =
            |cell: &&Cell| !matches!(experiment.entrant_of(cell), Some(Entrant::Program(_)) | None);
        let kinds: Vec<&Cell> =
            cells.iter().filter(is_schedule).filter(|cell| seen.insert(kind(cell))).collect();
        let (next, known) = (AtomicUsize::new(0), Mutex::new(HashMap::new()));
        let work = || {
            while let Some(cell) = kinds.get(next.fetch_add(1, Ordering::Relaxed)) {
                let seconds = outlook.predict(cell, effort.seeds, &in_time);
                if seconds.is_none() && !in_time() {
                    break;
                }
                let mut known = known.lock().expect("no prediction panics");
                known.insert(kind(cell), seconds);
                tell(known.len(), kinds.len());
            }
        };
        std::thread::scope(|scope| {
            let others = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) - 1;
            for _ in 0..others.min(kinds.len()) {
                // Where the system refuses a thread, those that there are do its work.
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        outlook.known = known.into_inner().expect("no prediction panics");
        outlook
    }

    /// Returns the predicted time of a cell's transfer; `None` where a link has no rate, or a program runs.
    pub(crate) fn seconds(&self, cell: &Cell) -> Option<Seconds> {
        *self.known.get(&kind(cell))?
    }

    fn predict(&self, cell: &Cell, seeds: usize, in_time: &(impl Fn() -> bool + Sync)) -> Option<Seconds> {
        let asked = &self.experiment.condition_of(cell)?.asked;
        let schedule = match self.experiment.entrant_of(cell)? {
            Entrant::Program(_) => return None,
            Entrant::Schedule(Schedule::Exec(_)) => return None,
            Entrant::Schedule(schedule) => schedule.clone(),
            // The rates measured alone will be near those of the profiles.
            Entrant::RatesAlone => {
                let [a, b] = &asked.profiles;
                let kbit = |rate: f64| rate.round().max(1.0) as u32;
                Schedule::Rates {
                    a_kbit: kbit(a.as_ref()?.down.rate.kbit()),
                    b_kbit: kbit(b.as_ref()?.down.rate.kbit()),
                }
            }
        };
        let schedule = schedule.for_playback(self.experiment.segment_duration.0, self.experiment.startup, 0);
        let control = match &cell.congestion {
            Some(name) => name.parse().ok()?,
            None => simulate::kernels_choice(),
        };
        let setup = Setup {
            profiles: &asked.profiles,
            channel: asked.channel.as_ref(),
            changes: asked.script.as_ref().map_or(&[], |script| &script.changes),
            schedule: &schedule,
            pipeline: cell.pipeline.parse().ok()?,
            connections: Connections::chosen(
                cell.connections.as_deref().map(str::parse).transpose().ok()?,
                &schedule,
            ),
            sizes: &self.sizes,
            congestion: [control; 2],
            kernel: simulate::kernels_choice(),
            seed: self.experiment.seed,
        };
        let found = simulate::predict(&setup, seeds, in_time)?;
        let between = (found.seeds > 1).then_some((found.least_ms / 1e3, found.most_ms / 1e3));
        Some(Seconds { median: found.elapsed_ms / 1e3, between })
    }

    /// Returns how long these steps take by all that is known; `None` where a link has no rate, or nothing was
    /// predicted. Programs, and kinds that were not predicted in time, count as the mean of the others.
    pub(crate) fn expected(&self, steps: &[PlanStep]) -> Option<ExpectedTime> {
        let known: Vec<f64> =
            self.known.values().map(|seconds| Some((*seconds)?.median)).collect::<Option<_>>()?;
        let mean_s = (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64);
        let mut expected = ExpectedTime::default();
        for step in steps {
            let asked = &self.experiment.condition_of(step.cell())?.asked;
            expected.setups_s += SETUP_S + SETUP_ROUND_TRIPS * longest_rtt_s(asked);
            match (step, self.experiment.throughput) {
                (PlanStep::Measure(_), Some(span)) => expected.throughputs_s += throughput_s(asked, span.0),
                (PlanStep::Measure(_), None) => {}
                (PlanStep::Run(cell), _) => {
                    expected.transfers_s += match self.seconds(cell) {
                        Some(seconds) => seconds.median,
                        None => mean_s?,
                    };
                    if self.experiment.probe != When::Off {
                        expected.probes_s += probe_s(asked);
                    }
                }
            }
        }
        Some(expected)
    }
}

/// Time that setting links up, asking servers for their lists and clearing takes in a run, on two cores.
const SETUP_S: f64 = 0.3;
/// Round trips of it, before the first request of a transfer.
const SETUP_ROUND_TRIPS: f64 = 3.0;

fn longest_rtt_s(asked: &LinkSetup) -> f64 {
    asked.profiles.iter().flatten().map(rtt_s).fold(0.0, f64::max)
}

/// How long an experiment takes, by what takes it, s.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ExpectedTime {
    pub transfers_s: f64,
    pub probes_s: f64,
    pub throughputs_s: f64,
    pub setups_s: f64,
}

impl ExpectedTime {
    pub(crate) fn all_s(&self) -> f64 {
        self.transfers_s + self.probes_s + self.throughputs_s + self.setups_s
    }
}

impl fmt::Display for ExpectedTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |seconds: f64| duration(Duration::from_secs_f64(seconds));
        write!(f, "about {}: {} of transfers", words(self.all_s()), words(self.transfers_s))?;
        let others = [
            (self.probes_s, "to measure links before runs"),
            (self.throughputs_s, "to measure throughputs"),
            (self.setups_s, "to set links up"),
        ];
        others.iter().filter(|(s, _)| *s > 0.0).try_for_each(|(s, what)| write!(f, ", {} {what}", words(*s)))
    }
}
