//! The order of an experiment's runs. Pure: no clock, no file, no socket.
//!
//! Every repetition is a block, and every cell stands in each block once, in an order of chance: what
//! drifts while an experiment goes on (a machine that gets warm or busy) then meets all cells alike,
//! and an experiment that is broken off has whole repetitions to compare.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::experiment::Experiment;
use crate::log::schema::{Cell, Throughput};

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PlanStep {
    /// Measure what the links of this cell's condition carry, before the first run under it in a block.
    Measure(Cell),
    Run(Cell),
}

impl PlanStep {
    /// Returns the cell that it does, or prepares for.
    pub(crate) fn cell(&self) -> &Cell {
        let (PlanStep::Measure(cell) | PlanStep::Run(cell)) = self;
        cell
    }
}

/// All runs of an experiment, in their order.
pub(crate) fn order(experiment: &Experiment) -> Vec<Cell> {
    let mut cells = Vec::new();
    for block in 0..experiment.repetitions {
        let mut of_block = experiment.block(block);
        shuffle(&mut of_block, experiment.seed, block);
        cells.extend(of_block);
    }
    for (index, cell) in (0..).zip(&mut cells) {
        cell.index = index;
    }
    cells
}

/// Shuffles (Fisher and Yates, as in Knuth's algorithm P). A block has a stream of random numbers of
/// its own, so that asking for more repetitions does not change the order of those before.
fn shuffle(cells: &mut [Cell], seed: u64, block: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(block);
    for last in (1..cells.len()).rev() {
        // The bias is below the number of cells over 2⁶⁴.
        let other = ((u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64) as usize;
        cells.swap(last, other);
    }
}

/// Returns the remaining steps where `complete` cells have been done and `measured` conditions measured.
pub(crate) fn steps(experiment: &Experiment, complete: &[Cell], measured: &[Throughput]) -> Vec<PlanStep> {
    let mut steps = Vec::new();
    let mut known: Vec<_> =
        measured.iter().map(|m| (m.block, m.condition.clone(), m.channel.clone())).collect();
    for cell in order(experiment) {
        if complete.contains(&cell) {
            continue;
        }
        let place = (cell.block, cell.condition.clone(), cell.channel.clone());
        if experiment.throughput.is_some() && !known.contains(&place) {
            known.push(place);
            steps.push(PlanStep::Measure(cell.clone()));
        }
        steps.push(PlanStep::Run(cell));
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::*;

    fn experiment(repetitions: u64, seed: u64) -> Experiment {
        let text = format!(
            "seed = {seed}\nrepetitions = {repetitions}\nthroughput = \"1s\"\n\
             schedules = [\"greedy\", \"ratio=1:1\", \"ratio=1:2\"]\n\
             [[condition]]\nname = \"near\"\nlink_a = \"wifi-near\"\n\
             [[condition]]\nname = \"far\"\nlink_a = \"wifi-far\"\n"
        );
        Experiment::parse("x", &text, Path::new(".")).unwrap()
    }

    fn what(cell: &Cell) -> (String, String) {
        (cell.condition.clone(), cell.schedule.clone())
    }

    #[test]
    fn every_cell_runs_once_in_each_block_and_indices_count() {
        let cells = order(&experiment(4, 1));
        assert_eq!(cells.len(), 24);
        assert!(cells.iter().zip(0..).all(|(cell, index)| cell.index == index && cell.block == index / 6));
        for block in cells.chunks(6) {
            assert_eq!(block.iter().map(what).collect::<HashSet<_>>().len(), 6);
        }
    }

    #[test]
    fn the_seed_makes_the_order_and_more_repetitions_keep_it() {
        let order_of = |repetitions, seed| order(&experiment(repetitions, seed));
        assert_eq!(order_of(3, 1), order_of(3, 1));
        assert_ne!(order_of(3, 1), order_of(3, 2));
        assert_eq!(order_of(3, 1), order_of(5, 1)[..18]);
        let blocks: HashSet<Vec<_>> =
            order_of(5, 1).chunks(6).map(|block| block.iter().map(what).collect()).collect();
        assert!(blocks.len() > 1, "every block has the same order");
    }

    /// Each of six cells stands in each of six places equally often: χ² over 36 counts of 200 expected
    /// each stays below 61, which chance passes once in 10⁴ (25 degrees of freedom).
    #[test]
    fn no_cell_is_favoured_by_the_order() {
        let (blocks, mut counts) = (1000, std::collections::HashMap::new());
        for (at, cell) in order(&experiment(blocks, 5)).iter().enumerate() {
            *counts.entry((what(cell), at % 6)).or_insert(0u32) += 1;
        }
        let expected = blocks as f64 / 6.0;
        let chi2: f64 = counts.values().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        assert_eq!(counts.len(), 36);
        assert!(chi2 < 61.0, "χ² is {chi2:.1}");
    }

    #[test]
    fn what_is_complete_is_not_planned_again_and_a_condition_is_measured_once_a_block() {
        let experiment = experiment(2, 3);
        let all = order(&experiment);
        let measures = |steps: &[PlanStep]| {
            steps
                .iter()
                .filter_map(|s| if let PlanStep::Measure(cell) = s { Some(cell.clone()) } else { None })
                .collect::<Vec<_>>()
        };
        let fresh = steps(&experiment, &[], &[]);
        assert_eq!(fresh.len(), 12 + 4);
        assert_eq!(measures(&fresh).iter().map(|c| (c.block, &c.condition)).collect::<HashSet<_>>().len(), 4);
        // The measurement of a condition comes right before the first run that it is for.
        for (step, after) in fresh.iter().zip(&fresh[1..]) {
            if let (PlanStep::Measure(cell), PlanStep::Run(run)) = (step, after) {
                assert_eq!(cell, run);
            }
        }
        let null = || crate::log::schema::PerLink { a: None, b: None };
        let known = Throughput {
            experiment: "x".into(),
            condition: all[0].condition.clone(),
            channel: all[0].channel.clone(),
            block: 0,
            alone_kbit: null(),
            together_kbit: null(),
        };
        let rest = steps(&experiment, &all[..5], &[known]);
        let runs: Vec<_> = rest.iter().filter(|s| matches!(s, PlanStep::Run(_))).collect();
        assert_eq!(runs.len(), 7);
        assert_eq!(*runs[0], PlanStep::Run(all[5].clone()));
        assert!(measures(&rest).iter().all(|cell| cell.block == 1 || cell.condition != all[0].condition));
        assert_eq!(steps(&experiment, &all, &[]), []);
    }
}
