//! Does what is planned: sets the links, measures them, runs the cell, records how it went.
//!
//! Each record is in `sweep.jsonl` as soon as it is known. A cell that fails is recorded like any
//! other and the experiment goes on; a signal ends it after the record of the cell under way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::SweepArgs;
use super::experiment::entrant::{Entrant, ProgramEntry};
use super::experiment::{Condition, Experiment};
use super::folder::ExperimentFolder;
use super::outlook::{Effort, Predictions};
use super::plan;
use super::plan::PlanStep;
use super::progress::Progress;
use crate::client;
use crate::client::capabilities::listed_sizes;
use crate::client::config::RunConfig;
use crate::client::finish::Predict;
use crate::client::measure::throughput;
use crate::client::signals::Signals;
use crate::client::{FinishedRun, Run};
use crate::doctor;
use crate::log::outcome::Outcome;
use crate::log::say::sweep_start;
use crate::log::schema;
use crate::log::schema::{
    Cell, CellEnd, Event, Fault, Log, NamedCondition, PerLink, Stdout, SweepEnd, SweepStart, Throughput,
};
use crate::manifest::SUMS;
use crate::output;
use crate::program;
use crate::program::ProgramRun;
use crate::program::config::ProgramConfig;
use crate::results;
use crate::shape::backend::BackendChoice;
use crate::text::explained;

/// An experiment under way.
struct Sweep<'a> {
    args: &'a SweepArgs,
    experiment: &'a Experiment,
    folder: &'a ExperimentFolder,
    log: Arc<Log>,
    signals: Signals,
    progress: Progress,
    predict: Predict,
    measured: Vec<Throughput>,
    failed: u64,
    /// Conditions whose throughput could not be measured.
    unmeasured: u64,
}

/// How a cell is run.
enum EntrantConfig {
    Client(RunConfig),
    Program(ProgramConfig),
}

/// Whether to go on with the next step.
#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    Stop,
}

/// Does all runs that are not complete.
///
/// # Errors
/// The experiment's own log, or that of a run, cannot be written. How the runs went is in the record.
pub(crate) async fn all(
    args: &SweepArgs,
    experiment: &Experiment,
    folder: &ExperimentFolder,
    predict: Predict,
) -> Result<SweepEnd> {
    let stdout = if output::on_terminal() { Stdout::Nothing } else { Stdout::Records };
    let page = results::page_for_people(&folder.dir);
    let log = Arc::new(Log::new(folder.name.clone(), Some(folder.log()?), stdout)?.with_page(Some(page)));
    let mut signals = Signals::listen()?;
    let order = plan::order(experiment);
    let complete: Vec<Cell> = order.into_iter().filter(|cell| folder.done.complete.contains(cell)).collect();
    let skipped = complete.len() as u64;
    let cells = experiment.cells();
    let steps = plan::steps(experiment, &complete, &folder.done.measured);
    let mut outcome = Ok(Then::GoOn);
    let expected = tokio::select! {
        expected = expected(args, experiment, &steps) => expected,
        _ = signals.next() => {
            outcome = Ok(Then::Stop);
            None
        }
    };
    let start = start(&log, args, experiment, skipped, expected);
    let progress = Progress::new(cells, skipped, expected);
    progress.say(&sweep_start(&start));
    if let Err(error) = log.write(Event::SweepStart(Box::new(start))) {
        outcome = Err(error);
    }
    let mut sweep = Sweep {
        args,
        experiment,
        folder,
        log,
        signals,
        progress,
        predict,
        measured: folder.done.measured.clone(),
        failed: 0,
        unmeasured: 0,
    };
    for step in steps {
        if !matches!(outcome, Ok(Then::GoOn)) {
            break;
        }
        outcome = sweep.step(step).await;
    }
    sweep.close(cells, outcome)
}

/// Says about how long these steps take with the files of server a; `None` where that is not known.
async fn expected(args: &SweepArgs, experiment: &Experiment, steps: &[PlanStep]) -> Option<Duration> {
    if args.backend == BackendChoice::None || steps.is_empty() || experiment.server_command.is_some() {
        return None;
    }
    let sizes = listed_sizes(&args.server_a, experiment.files.as_deref(), args.give_up.0).await;
    let sizes = sizes.inspect_err(|error| tracing::debug!("no estimate of the time: {error:#}")).ok()?;
    let cells: Vec<Cell> = steps.iter().map(|step| step.cell().clone()).collect();
    let predict = || Predictions::new(experiment, sizes, &cells, Effort::BRIEF, |_, _| {}).expected(steps);
    let seconds = tokio::task::block_in_place(predict)?.all_s();
    Some(Duration::from_secs_f64(seconds))
}

fn start(
    log: &Log,
    args: &SweepArgs,
    experiment: &Experiment,
    skipped: u64,
    expected: Option<Duration>,
) -> SweepStart {
    SweepStart {
        version: env!("CARGO_PKG_VERSION").into(),
        experiment: experiment.name.clone(),
        file: args.wanted().display().to_string(),
        description: experiment.description.clone(),
        command_line: std::env::args().collect(),
        kernel: doctor::kernel(),
        seed: experiment.seed,
        cells: experiment.cells(),
        repetitions: experiment.repetitions,
        skipped,
        expected_s: expected.map(|expected| expected.as_secs_f64()),
        conditions: experiment.conditions.iter().map(named).collect(),
        wall_clock: log.wall_clock(),
    }
}

fn named(condition: &Condition) -> NamedCondition {
    NamedCondition { condition: condition.name.clone(), channel: condition.channel().into() }
}

impl Sweep<'_> {
    async fn step(&mut self, step: PlanStep) -> Result<Then> {
        match step {
            PlanStep::Measure(cell) => self.measure(&cell).await,
            PlanStep::Run(cell) => self.run(cell).await,
        }
    }

    /// Returns the client's configuration in a cell, without its schedule.
    fn config(&self, cell: &Cell) -> RunConfig {
        RunConfig {
            servers: PerLink { a: self.args.server_a.clone(), b: self.args.server_b.clone() },
            backend: self.args.backend,
            give_up: self.args.give_up.0,
            files: self.experiment.files.clone(),
            congestion: cell.congestion.clone(),
            // All schedules of a block meet the same losses, and each block meets others.
            seed: self.experiment.seed.wrapping_add(cell.block),
            ..RunConfig::default()
        }
    }

    fn condition(&self, cell: &Cell) -> Result<&Condition> {
        let condition = self.experiment.condition_of(cell);
        condition.ok_or_else(|| anyhow!("the cell {} has no condition; please report this", cell.index))
    }

    /// Measures what the links carry under a cell's condition. Failing at it is a fault, after which
    /// only the schedules fail that are computed from it.
    async fn measure(&mut self, cell: &Cell) -> Result<Then> {
        let Some(span) = self.experiment.throughput else { return Ok(Then::GoOn) };
        self.progress.now("throughput of ", cell);
        let asked = self.condition(cell)?.asked.clone();
        let config = self.config(cell);
        let found = throughput::measure(&config, asked, span.0, &self.log, &mut self.signals).await;
        let found = match found {
            Ok(found) => found,
            Err(failure) => {
                let stop = failure.exit == Outcome::Interrupted;
                self.unmeasured += u64::from(!stop);
                let (condition, channel, error) = (&cell.condition, &cell.channel, &failure.error);
                self.log.write(Event::Fault(Fault {
                    link: None,
                    segment: None,
                    what: format!("the throughput of {condition} ({channel}) was not measured: {error:#}"),
                    action: "the experiment goes on without it, if it was not interrupted".into(),
                }))?;
                return Ok(if stop { Then::Stop } else { Then::GoOn });
            }
        };
        for link in &found.unsettled {
            let (condition, channel) = (&cell.condition, &cell.channel);
            self.log.write(Event::Fault(Fault {
                link: Some(*link),
                segment: None,
                what: format!(
                    "the throughput of {condition} ({channel}) was still growing when it was measured: the link \
                     carries more than the figure"
                ),
                action: "the figure is kept, and rates=alone follows it; do not trust either".into(),
            }))?;
        }
        let some = |kbit: PerLink<f64>| PerLink { a: Some(kbit.a), b: Some(kbit.b) };
        let throughput = Throughput {
            experiment: cell.experiment.clone(),
            condition: cell.condition.clone(),
            channel: cell.channel.clone(),
            block: cell.block,
            alone_kbit: some(found.alone_kbit),
            together_kbit: some(found.together_kbit),
        };
        self.log.write(Event::Throughput(throughput.clone()))?;
        self.measured.push(throughput);
        Ok(Then::GoOn)
    }

    /// Does one cell, from setting its links to its record.
    async fn run(&mut self, cell: Cell) -> Result<Then> {
        let began = Instant::now();
        self.progress.now(&format!("{} under ", cell.schedule), &cell);
        let end = match self.config_of_run(&cell)? {
            Some(config) => self.transfer(&cell, config, began).await?,
            None => unmeasured(cell),
        };
        let then = if end.exit == Outcome::Interrupted { Then::Stop } else { Then::GoOn };
        if then == Then::GoOn && end.exit != Outcome::Ok {
            self.failed += 1;
        }
        self.log.write(Event::CellEnd(Box::new(end.clone())))?;
        self.progress.ended(&end);
        Ok(then)
    }

    /// Returns how a cell is run; `None` where the throughput that its schedule depends on is unknown.
    fn config_of_run(&self, cell: &Cell) -> Result<Option<EntrantConfig>> {
        let wrong = |problem: String| anyhow!("the cell {}: {problem}", cell.index);
        let entrant = self.experiment.entrant_of(cell).ok_or_else(|| wrong("no entrant".into()))?;
        let schedule = match entrant {
            Entrant::Program(program) => {
                return Ok(Some(EntrantConfig::Program(self.program(cell, program))));
            }
            Entrant::Schedule(schedule) => schedule.clone(),
            Entrant::RatesAlone => {
                let same = |m: &&Throughput| {
                    (m.block, &m.condition, &m.channel) == (cell.block, &cell.condition, &cell.channel)
                };
                let alone = self.measured.iter().rev().find(same).map(|m| &m.alone_kbit);
                let Some(PerLink { a: Some(a), b: Some(b) }) = alone else { return Ok(None) };
                format!("rates={}:{}", a.round().max(1.0), b.round().max(1.0)).parse().map_err(wrong)?
            }
        };
        Ok(Some(EntrantConfig::Client(RunConfig {
            schedule,
            probe: self.experiment.probe,
            segment_duration: self.experiment.segment_duration,
            startup: self.experiment.startup,
            pipeline: cell.pipeline.parse().map_err(wrong)?,
            connections: cell.connections.as_deref().map(str::parse).transpose().map_err(wrong)?,
            ..self.config(cell)
        })))
    }

    fn program(&self, cell: &Cell, program: &ProgramEntry) -> ProgramConfig {
        let RunConfig { servers, backend, give_up, files, seed, .. } = self.config(cell);
        ProgramConfig {
            name: program.name.clone(),
            command: program.words(),
            placeholders: Vec::new(),
            folder: self.experiment.folder.clone(),
            servers,
            backend,
            files,
            manifest: self
                .experiment
                .server_command
                .as_ref()
                .and(self.args.data.as_ref())
                .map(|data| data.join(SUMS)),
            out: None,
            server_logs: self.args.server_logs.clone(),
            time_limit: program.time_limit.0,
            memory_limit: None,
            sandbox: None,
            image: program.image.clone(),
            give_up,
            segment_duration: self.experiment.segment_duration,
            startup: self.experiment.startup,
            seed,
        }
    }

    async fn transfer(&mut self, cell: &Cell, config: EntrantConfig, began: Instant) -> Result<CellEnd> {
        let run = schema::new_run_id();
        let folder = self.folder.new_run(&run)?;
        let log = Arc::new(Log::new(run.clone(), Some(folder.create_new(results::LOG)?), Stdout::Nothing)?);
        let (links, cell, bars) = (self.condition(cell)?.asked.clone(), cell.clone(), false);
        let of_cell = Some(cell.clone());
        let signals = &mut self.signals;
        let FinishedRun { record, probe_ms, .. } = match &config {
            EntrantConfig::Client(config) => {
                let predict = self.predict;
                client::one_run(Run { config, links, log, cell: of_cell, bars, predict }, signals).await
            }
            EntrantConfig::Program(config) => {
                program::one_run(ProgramRun { config, links, log, folder, cell: of_cell, bars }, signals)
                    .await
                    .finished
            }
        };
        let took_ms = began.elapsed().as_secs_f64() * 1e3;
        Ok(CellEnd {
            cell,
            run,
            exit: record.exit,
            summary: record.summary,
            elapsed_ms: record.elapsed_ms,
            bound_ms: record.bound_ms,
            efficiency: record.efficiency,
            predicted_ms: record.predicted_ms,
            setup_ms: record.elapsed_ms.map(|elapsed_ms| took_ms - elapsed_ms - probe_ms),
        })
    }

    /// Writes the last record.
    fn close(self, cells: u64, outcome: Result<Then>) -> Result<SweepEnd> {
        self.progress.finish();
        let name = &self.experiment.name;
        let (exit, summary) = match (&outcome, self.failed + self.unmeasured) {
            (Err(error), _) => {
                (Outcome::Failed, format!("{name} ended: {}; --resume does the rest.", explained(error)))
            }
            (Ok(Then::Stop), _) => {
                (Outcome::Interrupted, format!("{name} was interrupted; --resume does the rest."))
            }
            (_, 0) => (Outcome::Ok, format!("All {cells} runs of {name} are complete.")),
            _ if self.failed > 0 => (
                Outcome::Failed,
                format!("{} of {cells} runs of {name} failed; --resume tries them again.", self.failed),
            ),
            _ => (
                Outcome::Failed,
                format!(
                    "All {cells} runs of {name} are complete, but the throughput of {} conditions is unknown.",
                    self.unmeasured
                ),
            ),
        };
        let end = SweepEnd { exit, summary, cells, failed: self.failed };
        let written = self.log.write(Event::SweepEnd(end.clone()));
        outcome.and(written).map(|()| end)
    }
}

/// The end of a cell that could not begin, for want of the throughput that its schedule is made of.
fn unmeasured(cell: Cell) -> CellEnd {
    CellEnd {
        cell,
        run: String::new(),
        exit: Outcome::Unmeasured,
        summary: "The throughput that its schedule is computed from was not measured.".into(),
        elapsed_ms: None,
        bound_ms: None,
        efficiency: None,
        predicted_ms: None,
        setup_ms: None,
    }
}
