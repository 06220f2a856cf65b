//! The client: fetches every segment from both servers at once and logs how it went.
//!
//! This module is the recipe of a run. [`schedule`] decides what is fetched where (pure), [`worker`]
//! moves it, [`store`] keeps it, [`links`] shapes the way, [`finish`](end) adds it up.

pub(crate) mod allowance;
pub mod config;
pub mod finish;
pub(crate) mod links;
pub mod measure;
pub(crate) mod origin;
pub(crate) mod prepare;
pub(crate) mod progress;
pub(crate) mod reach;
pub(crate) mod running;
pub(crate) mod sampler;
pub(crate) mod scripted;
pub mod signals;
pub(crate) mod splice;
pub(crate) mod store;
pub mod transfer;
pub mod verify;
pub(crate) mod worker;

use crate::client::measure::reconciliation;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use tokio::task::JoinSet;

use crate::bound::TcpSegments;
use crate::client::measure::{Prober, When};
use crate::config::channel;
use crate::config::channel::ChannelConfig;
use crate::config::profile::Profile;
use crate::config::script::Script;
use crate::log::outcome::Outcome;
use crate::log::schema;
use crate::log::schema::{Cell, Event, Log, PerLink, RunEnd, Stdout};
use crate::results;
use crate::shape::active_shaping::Counters;
use crate::shape::backend::BackendChoice;
use crate::shape::control::server::ControlServer;
use crate::text::{duration, print};
use crate::units::{Direction, LinkId};
use config::RunConfig;
use links::{CounterReading, Links};
use origin::Origin;
use prepare::{Ready, prepare};
use progress::Bars;
use sampler::Sampler;
use signals::Signals;
use transfer::{Failure, Transfer};
use worker::{Fetcher, LinkEnd};

/// Where a run's log goes.
#[derive(Clone, Debug)]
pub struct LogPlace {
    /// The folder in which the run makes one of its own, unless there is a file.
    pub results: Option<PathBuf>,
    pub file: Option<PathBuf>,
    pub stdout: Stdout,
}

/// Does one run. `afterwards` is told the run's own folder, however the run went.
///
/// # Errors
/// The log cannot be made, or the run failed.
pub fn main(
    config: RunConfig,
    links: LinkSetup,
    place: &LogPlace,
    afterwards: impl FnOnce(&Path),
) -> Result<()> {
    let (log, folder) = open_log(place)?;
    let outcome = runtime()?.block_on(run(config, links, log));
    if let Some(folder) = folder {
        afterwards(&folder);
    }
    outcome
}

/// Returns the runtime for runs.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    // Writing files blocks a thread now and then, so there is one to spare for each link.
    crate::runtime::multi_thread(4)
}

/// How the links are to be shaped. Bad profiles are errors before anything is touched.
#[derive(Clone, Debug)]
pub struct LinkSetup {
    pub profiles: [Option<Profile>; 2],
    pub channel: Option<ChannelConfig>,
    /// The changes during the run.
    pub script: Option<Script>,
}

impl LinkSetup {
    /// Loads profiles, channel and script by their names.
    ///
    /// # Errors
    /// One of them is not found or invalid, or the script changes what cannot be changed.
    pub fn load(
        profiles: [Option<&str>; 2],
        channel: Option<&str>,
        script: Option<&Path>,
        backend: BackendChoice,
    ) -> Result<LinkSetup> {
        let channel = channel.map(ChannelConfig::load).transpose()?;
        let profiles = channel::profiles(channel.as_ref(), profiles)?;
        let script = script.map(Script::load).transpose()?;
        let changed = script.iter().flat_map(Script::links);
        for link in changed {
            if backend == BackendChoice::None {
                bail!("the script changes link {link}, and --backend none shapes nothing: leave one out");
            }
            if channel.as_ref().is_some_and(|channel| channel.link(link).is_some()) {
                bail!("the script changes link {link}, which is on the channel and follows its channel file");
            }
        }
        Ok(LinkSetup { profiles, channel, script })
    }

    /// Whether any link is asked to be shaped.
    fn shapes(&self) -> bool {
        self.profiles.iter().any(Option::is_some)
    }

    fn names(&self) -> [Option<String>; 2] {
        self.profiles.each_ref().map(|profile| profile.as_ref().map(|profile| profile.name.clone()))
    }
}

/// A run, before it begins.
pub struct Run<'a> {
    pub config: &'a RunConfig,
    pub links: LinkSetup,
    pub log: Arc<Log>,
    /// Where the run stands in an experiment.
    pub cell: Option<Cell>,
    /// Whether its bars are shown, where a person is looking.
    pub bars: bool,
}

/// A run that is over: its last record, and why it failed if it did.
pub struct FinishedRun {
    pub record: RunEnd,
    /// The time that measuring the links before the transfer took.
    pub probe_ms: f64,
    pub outcome: Result<(), Failure>,
}

async fn run(config: RunConfig, links: LinkSetup, log: Arc<Log>) -> Result<()> {
    let names = links.names();
    let mut signals = Signals::listen()?;
    let run = Run { config: &config, links, log, cell: None, bars: true };
    let FinishedRun { record, outcome, .. } = one_run(run, &mut signals).await;
    if progress::on_terminal() {
        let summary = progress::summary(&record, &config.servers, names.each_ref().map(Option::as_deref));
        print(&format!("{summary}\n"))?;
    }
    outcome.map_err(|failure| failure.error)
}

/// Does a run: shapes, fetches, logs and clears. A signal ends it like any other failure.
pub async fn one_run(run: Run<'_>, signals: &mut Signals) -> FinishedRun {
    let mut facts = finish::RunFacts::default();
    let (config, log) = (run.config, run.log.clone());
    // Dropping the work on a signal clears the links: their owner clears them when it goes.
    let outcome = tokio::select! {
        outcome = whole_run(run, &mut facts) => outcome,
        interrupted = signals.next() => Err(interrupted),
    };
    let outcome = unshape(facts.links.clone(), outcome).await;
    let (record, outcome) = finish::close(&log, config, &mut facts, outcome);
    FinishedRun { record, probe_ms: facts.probe_ms, outcome }
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
    let stdout = if progress::on_terminal() { Stdout::Nothing } else { place.stdout };
    let folder = folder.map(|folder| folder.path().to_path_buf());
    let page = folder.as_deref().map(results::page_for_people);
    Ok((Arc::new(Log::new(run, file, stdout)?.with_page(page)), folder))
}

async fn whole_run(run: Run<'_>, facts: &mut finish::RunFacts) -> Result<(), Failure> {
    let (config, bars, names) = (run.config, run.bars, run.links.names());
    let script = run.links.script.clone().unwrap_or_default();
    let ready = prepare(run, facts).await?;
    if bars && progress::on_terminal() {
        progress::tell_links(&ready.links.applied());
    }
    let control = ControlServer::open().inspect_err(|error| {
        // A run that shapes nothing hardly needs it.
        if ready.links.applied().is_empty() {
            tracing::debug!("links cannot be set during this run: {error:#}");
        } else {
            tracing::warn!("links cannot be changed during this run: {error:#}");
        }
    });
    let mut beside = JoinSet::new();
    if let Ok(control) = control {
        let links = ready.links.clone();
        beside.spawn(control.serve(move |request| links.act(request)));
    }
    if config.probe != When::Off {
        let started = Instant::now();
        probe_links(&ready, config.probe).await?;
        facts.probe_ms = started.elapsed().as_secs_f64() * 1e3;
    }
    let origins = PerLink { a: &ready.origins.a, b: &ready.origins.b };
    let bars = Bars::new(
        bars,
        &origins,
        ready.transfer.segments.len() as u64,
        names.each_ref().map(Option::as_deref),
    );
    let before = read(&ready.links).await?;
    let fetching = fetch_all(&ready);
    let mut sampler = Sampler::new(ready.transfer.clone(), ready.links.clone());
    // The sampler ends only when it cannot go on, and then neither can the run.
    let outcome = tokio::select! {
        outcome = fetching => outcome,
        error = sampler.run(&bars) => Err(error),
        error = scripted::play(script, ready.transfer.clone(), ready.links.clone()) => Err(error),
        () = tell_of_standstills(&ready.transfer) => Ok(()),
    };
    bars.finish();
    if outcome.is_ok() {
        sampler.last().await?;
    }
    facts.segments = LinkId::BOTH.map(|link| {
        let metrics = ready.transfer.metrics(link);
        let ipv6 = ready.origins.get(link).address.ip().to_canonical().is_ipv6();
        let timestamps = !metrics.no_timestamps.load(Ordering::Relaxed);
        let mss_bytes = metrics.mss_bytes();
        (mss_bytes > 0.0).then_some(TcpSegments { mss_bytes, ipv6, timestamps })
    });
    outcome?;
    let after = read(&ready.links).await?;
    facts.reconciled = LinkId::BOTH.map(|link| reconciled(&ready, link, [&before, &after]));
    if config.sync {
        let started = Instant::now();
        let names = ready.transfer.segments.iter().map(|segment| segment.name.as_str());
        ready.transfer.store.sync(names).map_err(|error| Failure::new(Outcome::Store, error))?;
        facts.sync_ms = Some(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

async fn read(links: &Arc<Links>) -> Result<CounterReading, Failure> {
    let links = links.clone();
    blocking(move || links.read()).await
}

/// Whether what a link's shaper counted between two readings is what the application received.
fn reconciled(ready: &Ready, link: LinkId, readings: [&CounterReading; 2]) -> Option<schema::Reconciled> {
    let [before, after] = readings.map(|reading| reading.counters(link, Direction::Down));
    let (before, after) = (before?, after?);
    let metrics = ready.transfer.metrics(link);
    let drops = |counters: &Counters| counters.dropped_queue + counters.dropped_loss.unwrap_or_default();
    let (spoilt, in_flight_bytes) = ready.links.spoilt_and_held(link)?;
    Some(reconciliation::reconcile(&reconciliation::Counts {
        received_bytes: metrics.bytes() + metrics.head_bytes.load(Ordering::Relaxed),
        // Counters that went back are of a link that was set up anew.
        shaper_bytes: after.bytes.checked_sub(before.bytes)?,
        shaper_packets: after.packets.checked_sub(before.packets)?,
        dropped_packets: drops(after).checked_sub(drops(before))?,
        retransmits: metrics.sender().as_ref().map(|(_, sender)| sender.retransmits_total),
        spoilt,
        mss_bytes: metrics.mss_bytes() as u64,
        ipv6: ready.origins.get(link).address.ip().to_canonical().is_ipv6(),
        in_flight_bytes,
        connections: metrics.connections(),
    }))
}

/// Measures the links and logs what was found.
///
/// # Errors
/// A link that is not what its profile says, where that is to end the run.
async fn probe_links(ready: &Ready, when: When) -> Result<(), Failure> {
    let (links, transfer) = (ready.links.clone(), &ready.transfer);
    let paths = transfer.segments.iter().map(|segment| segment.path.clone()).collect();
    let rows = Arc::new(move || links.rows());
    let prober = Prober::new(ready.origins.clone(), &ready.capabilities, paths, rows, transfer.give_up);
    let probes = prober.measure().await.map_err(|error| {
        Failure::new(Outcome::Probe, error.context("cannot measure the links before the run"))
    })?;
    let mut bad = Vec::new();
    for probe in probes {
        let whose = format!("link {} {}", probe.link, probe.direction);
        if probe.ok == Some(false) {
            bad.push(format!("{whose}: {}", probe.verdict));
        }
        transfer
            .log
            .write(Event::Probe(Box::new(probe)))
            .map_err(|error| Failure::new(Outcome::Log, error))?;
    }
    match (bad.is_empty(), when) {
        (true, _) => Ok(()),
        (false, When::On) => {
            let error = anyhow!(
                "the links are not what their profiles say ({}); --probe warn runs all the same",
                bad.join(" ")
            );
            Err(Failure::new(Outcome::Probe, error))
        }
        (false, _) => {
            bad.iter().for_each(|verdict| tracing::warn!("{verdict}"));
            Ok(())
        }
    }
}

/// Logs each time in which this process did not run for longer than 1 s.
async fn tell_of_standstills(transfer: &Transfer) {
    let mut told = running::stood_still();
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let still = running::stood_still();
        let by = still - std::mem::replace(&mut told, still);
        if by > Duration::from_secs(1) {
            let what = format!("the client stood still for {}", duration(by));
            for link in LinkId::BOTH {
                transfer.fault(link, what.clone(), "that time does not count as a server's silence".into());
            }
        }
    }
}

async fn learn_sizes(transfer: &Transfer, origin: &Origin) {
    // They pass the shaper as all others do.
    let heads = &transfer.metrics(origin.link).head_bytes;
    let sizes = origin.sizes(&transfer.segments, transfer.give_up, heads).await;
    transfer.schedule(|scheduler, _| scheduler.learn_sizes(&sizes));
}

/// Opens a connection to each server, then fetches everything.
async fn fetch_all(ready: &Ready) -> Result<(), Failure> {
    let give_up = ready.transfer.give_up;
    // Connections are open when the clock starts, which is when the first request is made.
    let (a, b) = tokio::try_join!(
        reach::await_server(&ready.origins.a, give_up),
        reach::await_server(&ready.origins.b, give_up)
    )
    .map_err(|error| Failure::new(Outcome::Unreachable, error))?;
    // Every run meets a trace from its beginning, however long the preparation took.
    let links = ready.links.clone();
    blocking(move || links.play()).await?;
    // Neither counts as away while its task has yet to begin.
    for (link, stream) in [(LinkId::A, &a), (LinkId::B, &b)] {
        let rtt = origin::rtt_of(stream).unwrap_or_default();
        ready.transfer.schedule(|scheduler, now| scheduler.opened(link, now, rtt));
    }
    let mut at_work = JoinSet::new();
    for (link, stream) in [(LinkId::A, a), (LinkId::B, b)] {
        let origins = [link, link.other()].map(|link| ready.origins.get(link).clone());
        let [origin, other] = origins;
        let fetcher = Fetcher::new(ready.transfer.clone(), origin, other, ready.capabilities.get(link));
        at_work.spawn(fetcher.run(stream));
    }
    // Sizes matter towards the end, so the transfer does not wait for them.
    let sizes = learn_sizes(&ready.transfer, &ready.origins.a);
    tokio::pin!(sizes);
    let (mut link_ends, mut learning) =
        (Vec::new(), ready.transfer.schedule(|scheduler, _| scheduler.needs_sizes()));
    loop {
        let joined = tokio::select! {
            () = &mut sizes, if learning => {
                learning = false;
                continue;
            }
            joined = at_work.join_next() => joined,
            // A link that is still trying to come back is not waited for.
            done = ready.transfer.all_done() => {
                done?;
                break;
            }
        };
        let Some(joined) = joined else { break };
        // The first failure drops the set, which ends the other link's work too.
        link_ends.push(joined.map_err(|error| Failure::new(Outcome::Internal, error))??);
    }
    let missing = ready.transfer.missing();
    if let Some(failure) = ready.transfer.unobtainable() {
        return Err(failure);
    }
    if missing > 0 {
        let given_up = link_ends.iter().filter(|end| **end == LinkEnd::GivenUp).count();
        let error = anyhow!("{missing} files are missing after {given_up} of 2 servers were given up");
        return Err(Failure::new(Outcome::ServerAway, error));
    }
    Ok(())
}
