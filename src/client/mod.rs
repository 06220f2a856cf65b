//! The client: fetches every segment from both servers at once and logs how it went.
//!
//! This module is the recipe of a run: [`prepare`], [`fetch`], [`finish`]. In between, the room `schedule` decides
//! which link fetches what (pure), [`worker`] moves it, [`store`] keeps it, and [`links`] shapes the way.

pub(crate) mod allowance;
pub(crate) mod capabilities;
pub(crate) mod config;
pub(crate) mod fetch;
pub(crate) mod finish;
pub(crate) mod links;
pub(crate) mod measure;
pub(crate) mod origin;
pub(crate) mod prepare;
pub(crate) mod progress;
pub(crate) mod reach;
pub(crate) mod round_trips;
pub(crate) mod running;
pub(crate) mod sampler;
pub(crate) mod scripted;
pub(crate) mod signals;
pub(crate) mod splice;
pub(crate) mod store;
pub(crate) mod transfer;
pub(crate) mod verify;
pub(crate) mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, anyhow};

use crate::log::outcome::Outcome;
use crate::log::schema;
use crate::log::schema::{Cell, Log, RunEnd, Stdout};
use crate::output;
use crate::results;
use crate::shape::setup::LinkSetup;
use crate::text::print;
use config::RunConfig;
use fetch::Fetched;
use finish::Predict;
use links::Links;
use prepare::Preparation;
use signals::Signals;
use transfer::Failure;

/// Where a run's log goes.
#[derive(Clone, Debug)]
pub(crate) struct LogPlace {
    /// The folder in which the run makes one of its own, unless there is a file.
    pub results: Option<PathBuf>,
    pub file: Option<PathBuf>,
    pub stdout: Stdout,
}

/// Does one run. `predict` gives the record its `predicted_ms`; `afterwards` is told the run's own folder, however
/// the run went.
///
/// # Errors
/// The log cannot be made, or the run failed.
pub(crate) fn main(
    config: RunConfig,
    links: LinkSetup,
    place: &LogPlace,
    predict: Predict,
    afterwards: impl FnOnce(&Path),
) -> Result<()> {
    let (log, folder) = open_log(place)?;
    let (servers, names) = (config.servers.clone(), links.names());
    let finished = runtime()?.block_on(run(config, links, log, predict))?;
    if let Some(folder) = &folder {
        afterwards(folder);
    }
    if output::is_text() {
        let names = names.each_ref().map(Option::as_deref);
        print(&progress::summary(&finished.record, &servers, names, folder.as_deref()))?;
    }
    finished.outcome.map_err(|failure| failure.error)
}

/// Returns the runtime for runs.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    // Writing files blocks a thread now and then, so there is one to spare for each link.
    crate::runtime::multi_thread(4)
}

/// A run, before it begins.
pub(crate) struct Run<'a> {
    pub config: &'a RunConfig,
    pub links: LinkSetup,
    pub log: Arc<Log>,
    /// Where the run stands in an experiment.
    pub cell: Option<Cell>,
    /// Whether its bars are shown, where a person is looking.
    pub bars: bool,
    pub predict: Predict,
}

/// A run that is over: its last record, and why it failed if it did.
pub(crate) struct FinishedRun {
    pub record: RunEnd,
    /// The time that measuring the links before the transfer took.
    pub probe_ms: f64,
    pub outcome: Result<(), Failure>,
}

async fn run(config: RunConfig, links: LinkSetup, log: Arc<Log>, predict: Predict) -> Result<FinishedRun> {
    let mut signals = Signals::listen()?;
    let run = Run { config: &config, links, log, cell: None, bars: true, predict };
    Ok(one_run(run, &mut signals).await)
}

/// Does a run: shapes, fetches, logs and clears. A signal ends it like any other failure.
pub(crate) async fn one_run(run: Run<'_>, signals: &mut Signals) -> FinishedRun {
    let mut preparation = Preparation::new(&run);
    let alone = run.cell.is_none();
    let interrupted_by = |interrupted| with_what_is_kept(interrupted, run.config.out.as_deref(), alone);
    // Dropping the work on a signal clears the links: their owner clears them when it goes.
    let prepared = tokio::select! {
        prepared = preparation.prepare(&run) => prepared,
        interrupted = signals.next() => Err(interrupted_by(interrupted)),
    };
    let links = preparation.links.clone();
    let (fetched, outcome) = match preparation.log(&run, prepared) {
        Err(failure) => (None, Err(failure)),
        Ok(ready) => {
            let mut fetched = Fetched::new(ready);
            let outcome = tokio::select! {
                outcome = fetched.fetch(&run) => outcome,
                interrupted = signals.next() => Err(interrupted_by(interrupted)),
            };
            (Some(fetched), outcome)
        }
    };
    let outcome = unshape(links, outcome).await;
    if let Some(fetched) = &fetched {
        fetched.ready.transfer.end().await;
    }
    let (record, outcome) = finish::close(&run, fetched.as_ref(), outcome);
    FinishedRun { record, probe_ms: fetched.map_or(0.0, |fetched| fetched.probe_ms), outcome }
}

/// Adds to the error of a signal which files are kept; a run that is not `alone` is one of an experiment, which says it.
fn with_what_is_kept(interrupted: Failure, out: Option<&Path>, alone: bool) -> Failure {
    let Failure { exit, error } = interrupted;
    let error = match out {
        Some(out) => anyhow!("{error}; {} keeps what came, and --resume goes on with it", out.display()),
        None if alone => anyhow!("{error}; without --out no file is kept"),
        None => error,
    };
    Failure::new(exit, error)
}

/// Takes the shaping away, however the run went. Failing at it is a failure of the run, unless there
/// is one already.
pub(crate) async fn unshape(links: Option<Arc<Links>>, outcome: Result<(), Failure>) -> Result<(), Failure> {
    let Some(links) = links else { return outcome };
    let finished = blocking(move || links.finish()).await;
    if let (Err(_), Err(failure)) = (&outcome, &finished) {
        tracing::error!("{:#}", failure.error);
    }
    outcome.and(finished)
}

/// Runs what waits for tc, or for the shaper's thread, off the threads that move packets.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let done =
        tokio::task::spawn_blocking(work).await.map_err(|error| Failure::new(Outcome::Internal, error))?;
    done.map_err(|error| Failure::new(Outcome::Link, error))
}

/// The log, and the run's own folder if it has one.
fn open_log(place: &LogPlace) -> Result<(Arc<Log>, Option<PathBuf>)> {
    let run = schema::new_run_id();
    let results = place.results.as_deref().filter(|_| place.file.is_none());
    let folder = results.map(|dir| results::new_folder(dir, &run)).transpose()?;
    let file = match (&folder, &place.file) {
        (Some(folder), _) => Some(folder.create_new(results::LOG)?),
        (None, log) => log.as_deref().map(schema::create_log_file).transpose()?,
    };
    let stdout = if output::on_terminal() { Stdout::Nothing } else { place.stdout };
    let folder = folder.map(|folder| folder.path().to_path_buf());
    let page = folder.as_deref().map(results::page_for_people);
    Ok((Arc::new(Log::new(run, file, stdout)?.with_page(page)), folder))
}
