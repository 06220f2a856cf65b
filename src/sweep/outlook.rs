//! How long an experiment's runs will take, by simulation. Needs no server; reads sizes of files only.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;

use super::experiment::{Experiment, Policy};
use crate::client::schedule::Schedule;
use crate::record::Cell;
use crate::simulate::{self, Setup};

/// Predictions, each made once: repetitions are predicted alike.
pub struct Outlook<'a> {
    experiment: &'a Experiment,
    sizes: Vec<u64>,
    known: HashMap<[String; 5], Option<f64>>,
}

impl<'a> Outlook<'a> {
    /// # Errors
    /// The files of `data`, or of the built-in sample, are not those that the experiment fetches.
    pub fn new(experiment: &'a Experiment, data: Option<&Path>) -> Result<Outlook<'a>> {
        let sizes = simulate::sizes(data, experiment.files.as_deref())?;
        Ok(Outlook { experiment, sizes, known: HashMap::new() })
    }

    /// What a cell's transfer takes; none where a link has no rate.
    pub fn seconds(&mut self, cell: &Cell) -> Option<f64> {
        let congestion = cell.congestion.clone().unwrap_or_default();
        let key =
            [&cell.condition, &cell.channel, &cell.schedule, &cell.pipeline, &congestion].map(String::clone);
        if let Some(seconds) = self.known.get(&key) {
            return *seconds;
        }
        let seconds = self.predict(cell);
        self.known.insert(key, seconds);
        seconds
    }

    fn predict(&self, cell: &Cell) -> Option<f64> {
        let asked = &self.experiment.condition_of(cell)?.asked;
        let schedule = match cell.schedule.parse().ok()? {
            Policy::Fixed(schedule) => schedule,
            // What is measured alone will be about what the profiles say.
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
            air: asked.air.as_ref(),
            changes: asked.script.as_ref().map_or(&[], |script| &script.changes),
            schedule: &schedule,
            pipeline: cell.pipeline.parse().ok()?,
            sizes: &self.sizes,
            congestion: [control; 2],
            seed: self.experiment.seed,
        };
        Some(simulate::predict(&setup)?.elapsed_ms / 1e3)
    }

    /// What measuring throughputs takes in all: three times its span for each condition and block.
    pub fn measuring_s(&self) -> f64 {
        let times = 3 * self.experiment.repetitions * self.experiment.conditions.len() as u64;
        self.experiment.throughput.map_or(0.0, |span| span.0.as_secs_f64() * times as f64)
    }
}
