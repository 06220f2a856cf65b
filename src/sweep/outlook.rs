//! How long an experiment's runs will take, by simulation. Needs no server; reads sizes of files only.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;

use super::experiment::{Experiment, Policy};
use crate::log::schema::Cell;
use crate::schedule::Schedule;
use crate::simulate::{self, Setup};

/// Seeds that are played where losses decide.
const SEEDS: usize = 5;

/// The key of cells with equal predictions: condition, channel, schedule, pipeline and congestion control.
type Kind = [String; 5];

fn kind(cell: &Cell) -> Kind {
    let congestion = cell.congestion.clone().unwrap_or_default();
    [&cell.condition, &cell.channel, &cell.schedule, &cell.pipeline, &congestion].map(String::clone)
}

/// How long a cell's transfer takes, s.
#[derive(Clone, Copy, Debug)]
pub struct Seconds {
    pub median: f64,
    /// The least and the most, where losses decide.
    pub between: Option<(f64, f64)>,
}

/// Predictions, each made once: repetitions are predicted alike.
pub struct Predictions<'a> {
    experiment: &'a Experiment,
    sizes: Vec<u64>,
    known: HashMap<Kind, Option<Seconds>>,
}

impl<'a> Predictions<'a> {
    /// Predicts every kind of these cells, on all cores, and calls `tell` with how many are done and how
    /// many there are.
    ///
    /// # Errors
    /// The files of `data`, or of the built-in sample, are not those that the experiment fetches.
    pub fn new(
        experiment: &'a Experiment,
        data: Option<&Path>,
        cells: &[Cell],
        tell: impl Fn(usize, usize) + Sync,
    ) -> Result<Predictions<'a>> {
        let sizes = simulate::sizes(data, experiment.files.as_deref())?;
        let mut outlook = Predictions { experiment, sizes, known: HashMap::new() };
        let mut seen = HashSet::new();
        let kinds: Vec<&Cell> = cells.iter().filter(|cell| seen.insert(kind(cell))).collect();
        let (next, known) = (AtomicUsize::new(0), Mutex::new(HashMap::new()));
        let work = || {
            while let Some(cell) = kinds.get(next.fetch_add(1, Ordering::Relaxed)) {
                let seconds = outlook.predict(cell);
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
        Ok(outlook)
    }

    /// Returns the predicted time of a cell's transfer; `None` where a link has no rate.
    pub fn seconds(&self, cell: &Cell) -> Option<Seconds> {
        *self.known.get(&kind(cell))?
    }

    fn predict(&self, cell: &Cell) -> Option<Seconds> {
        let asked = &self.experiment.condition_of(cell)?.asked;
        let schedule = match cell.schedule.parse().ok()? {
            Policy::Fixed(schedule) => schedule,
            // The rates measured alone will be near those of the profiles.
            Policy::RatesAlone => {
                let [a, b] = &asked.profiles;
                let kbit = |rate: f64| rate.round().max(1.0) as u32;
                Schedule::Rates {
                    a_kbit: kbit(a.as_ref()?.down.rate.kbit()),
                    b_kbit: kbit(b.as_ref()?.down.rate.kbit()),
                }
            }
        };
        let schedule = schedule.of_film(self.experiment.segment_duration.0, self.experiment.startup, 0);
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
            sizes: &self.sizes,
            congestion: [control; 2],
            kernel: simulate::kernels_choice(),
            seed: self.experiment.seed,
        };
        let found = simulate::predict(&setup, SEEDS, &|| true)?;
        let between = (found.seeds > 1).then_some((found.least_ms / 1e3, found.most_ms / 1e3));
        Some(Seconds { median: found.elapsed_ms / 1e3, between })
    }

    /// Returns the time that measuring throughputs takes in all (s): three times its span for each condition
    /// and block.
    pub fn measuring_s(&self) -> f64 {
        let times = 3 * self.experiment.repetitions * self.experiment.conditions.len() as u64;
        self.experiment.throughput.map_or(0.0, |span| span.0.as_secs_f64() * times as f64)
    }
}
