//! The client: fetches every segment from both servers at once and logs how it went.
//!
//! This module is the recipe of a run. [`schedule`] decides what is fetched where (pure), [`fetch`]
//! moves it, [`store`] keeps it, [`links`] shapes the way, [`finish`](end) adds it up.

mod bulk;
pub mod end;
mod fetch;
mod http;
pub mod job;
mod links;
pub mod listing;
mod peer;
mod pipe;
pub mod probe;
mod progress;
mod reconcile;
mod sampler;
pub mod schedule;
mod scripted;
pub mod signals;
mod store;
pub mod throughput;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use tokio::task::JoinSet;

use crate::doctor;
use crate::link::listen::Control;
use crate::link::profile::Profile;
use crate::link::scenario::{self, Scenario};
use crate::link::script::Script;
use crate::link::{Choice, Counters};
use crate::record::{self, Cell, Event, Log, PerLink, RunEnd, Stdout};
use crate::results;
use crate::tcp;
use crate::units::{Delay, Direction, LinkId};
use fetch::{Fetcher, LinkEnd};
use job::{Failure, Job};
use links::{Links, Reading};
use peer::{Introduction, Peer, Refused};
use probe::{Prober, When};
use progress::Bars;
use sampler::Sampler;
use schedule::{Pipeline, Schedule, Scheduler};
use signals::Signals;
use store::Store;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The two servers, a and b: host or host:port (4455 where no port is given)
    #[arg(value_names = ["SERVER_A", "SERVER_B"], num_args = 2, required = true)]
    pub servers: Vec<String>,
    /// adaptive (each link gets what lets both end together), inorder (a film watched while it comes: what is due first comes first; see --segment-duration and --startup), greedy (whichever has room takes the next), ratio=NA:NB (NA files from server a, the next NB from server b, and so on), or rates=KBIT_A:KBIT_B (files dealt out so that both end together if they carry just that)
    #[arg(long, env = "TWINLINK_SCHEDULE", default_value = "adaptive")]
    pub schedule: Schedule,
    /// Requests in flight per connection: a number, or auto (ask for the next when what is still to come takes about one round trip)
    #[arg(long, env = "TWINLINK_PIPELINE", default_value = "auto", value_name = "auto|N")]
    pub pipeline: Pipeline,
    /// Profile of the link to server a: a name or a .toml file; without one the link is not shaped
    #[arg(long, env = "TWINLINK_LINK_A", value_name = "PROFILE")]
    pub link_a: Option<String>,
    /// Profile of the link to server b
    #[arg(long, env = "TWINLINK_LINK_B", value_name = "PROFILE")]
    pub link_b: Option<String>,
    /// A scenario that puts links on one wireless channel, by name or as a .toml file; they need no profile then
    #[arg(long, env = "TWINLINK_AIR", value_name = "SCENARIO")]
    pub air: Option<String>,
    /// Change links during the run as this file says
    #[arg(long, env = "TWINLINK_SCRIPT", value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// What shapes the links
    #[arg(long, env = "TWINLINK_BACKEND", value_enum, default_value = "auto")]
    pub backend: Choice,
    /// Folder for the files, created if missing; without it they are verified and deleted
    #[arg(long, env = "TWINLINK_OUT", value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Make a new folder for this run in DIR, with log.jsonl in it; none where there is a --log
    #[arg(long, env = "TWINLINK_RESULTS", value_name = "DIR")]
    pub results: Option<PathBuf>,
    /// Write the log to FILE, which must not exist yet
    #[arg(long, env = "TWINLINK_LOG", value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Files to fetch, as in s{001..160}.m4s; else all in the servers' SHA256SUMS
    #[arg(long, env = "TWINLINK_FILES", value_name = "PATTERN")]
    pub files: Option<String>,
    /// Congestion control of the servers' sockets, and of the client's; each kernel's default without it
    #[arg(long, env = "TWINLINK_CONGESTION", value_name = "NAME", value_parser = tcp::CONGESTION_CONTROLS)]
    pub congestion: Option<String>,
    /// Measure the links before the run: off, on (a link that is not what its profile says ends the run; --probe alone means this), or warn (it is logged, and the run goes on)
    #[arg(long, env = "TWINLINK_PROBE", value_enum, default_value = "off", default_missing_value = "on", num_args = 0..=1)]
    pub probe: probe::When,
    /// Do not check digests
    #[arg(long, env = "TWINLINK_NO_VERIFY", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_verify: bool,
    /// Flush the files to the disk after the run, and log the time that it took
    #[arg(long, env = "TWINLINK_SYNC", value_parser = clap::builder::FalseyValueParser::new())]
    pub sync: bool,
    /// Go on in the folder of --out where an earlier run ended: what is complete there is checked and kept
    #[arg(long, env = "TWINLINK_RESUME", value_parser = clap::builder::FalseyValueParser::new(), requires = "out")]
    pub resume: bool,
    /// How long a server may be away before it is given up
    #[arg(long, env = "TWINLINK_GIVE_UP", default_value = "10s", value_name = "TIME")]
    pub give_up: Delay,
    /// How long a segment plays, for deadlines and for what a viewer would have met
    #[arg(long, env = "TWINLINK_SEGMENT_DURATION", default_value = "4s", value_name = "TIME", value_parser = playing_time)]
    pub segment_duration: Delay,
    /// How many segments a player waits for before it starts
    #[arg(long, env = "TWINLINK_STARTUP", default_value_t = 2, value_name = "SEGMENTS",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub startup: u64,
    /// Seed of everything random in the links
    #[arg(long, env = "TWINLINK_SEED", default_value_t = 1)]
    pub seed: u64,
    /// Print the 100 ms samples on stdout too
    #[arg(long)]
    pub samples: bool,
}

fn playing_time(text: &str) -> Result<Delay, String> {
    let time: Delay = text.parse()?;
    if time.is_zero() { Err("a segment plays for some time; write 4s, say".into()) } else { Ok(time) }
}

impl Args {
    /// The schedule, told how the film of these files is cut and played.
    pub fn schedule_of<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Schedule {
        let leading = names.into_iter().take_while(|name| !crate::qoe::is_media(name)).count();
        self.schedule.clone().of_film(self.segment_duration.0, self.startup, leading)
    }

    /// What the command line means with these servers and nothing else, whatever the environment says:
    /// what the runs of an experiment start from.
    ///
    /// # Errors
    /// The names are no arguments, as where one begins with a dash.
    pub fn plain(servers: [String; 2]) -> Result<Args> {
        let command = <Args as clap::Args>::augment_args(clap::Command::new("client"));
        let command = command.mut_args(|arg| arg.env(None::<&str>));
        let words = ["client".to_string()].into_iter().chain(servers);
        let matches = command.try_get_matches_from(words).context("the servers' names make no sense")?;
        Ok(<Args as clap::FromArgMatches>::from_arg_matches(&matches)?)
    }
}

/// One run, from the command line to the exit code.
///
/// `afterwards` is told the run's folder under `--results`, however the run went.
pub fn main(args: Args, afterwards: impl FnOnce(&Path)) -> Result<()> {
    let asked = Asked::load(&args)?;
    let (log, folder) = open_log(&args)?;
    let outcome = runtime()?.block_on(run(args, asked, log));
    if let Some(folder) = folder {
        afterwards(&folder);
    }
    outcome
}

/// What runs are done on.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        // Writing files blocks a thread now and then, so there is one to spare for each link.
        .worker_threads(4)
        .enable_all()
        .build()
        .context("cannot start the async runtime")
}

/// How the links are to be shaped. Bad profiles are errors before anything is touched.
#[derive(Clone, Debug)]
pub struct Asked {
    pub profiles: [Option<Profile>; 2],
    pub air: Option<Scenario>,
    /// What changes during the run.
    pub script: Option<Script>,
}

impl Asked {
    pub fn load(args: &Args) -> Result<Asked> {
        let air = args.air.as_deref().map(Scenario::load).transpose()?;
        let profiles = scenario::profiles(air.as_ref(), [args.link_a.as_deref(), args.link_b.as_deref()])?;
        let script = args.script.as_deref().map(Script::load).transpose()?;
        let changed = script.iter().flat_map(Script::links);
        for link in changed {
            if args.backend == Choice::None {
                bail!("the script changes link {link}, and --backend none shapes nothing: leave one out");
            }
            if air.as_ref().is_some_and(|air| air.link(link).is_some()) {
                bail!("the script changes link {link}, which is on the air and follows its scenario");
            }
        }
        Ok(Asked { profiles, air, script })
    }

    /// Whether any link is asked to be shaped.
    fn shapes(&self) -> bool {
        self.profiles.iter().any(Option::is_some)
    }

    fn names(&self) -> [Option<String>; 2] {
        self.profiles.each_ref().map(|profile| profile.as_ref().map(|profile| profile.name.clone()))
    }
}

/// What a run has once everything before its first request is done.
struct Ready {
    links: Arc<Links>,
    peers: PerLink<Peer>,
    introductions: PerLink<Introduction>,
    job: Arc<Job>,
}

/// A run, before it begins.
pub struct Run<'a> {
    pub args: &'a Args,
    pub asked: Asked,
    pub log: Arc<Log>,
    /// Where the run stands in an experiment.
    pub cell: Option<Cell>,
    /// Whether its bars are shown, where a person is looking.
    pub bars: bool,
}

/// A run that is over: its last record, and why it failed if it did.
pub struct Ended {
    pub record: RunEnd,
    /// What measuring the links before the transfer took.
    pub probe_ms: f64,
    pub outcome: Result<(), Failure>,
}

async fn run(args: Args, asked: Asked, log: Arc<Log>) -> Result<()> {
    let names = asked.names();
    let mut signals = Signals::listen()?;
    let run = Run { args: &args, asked, log, cell: None, bars: true };
    let Ended { record, outcome, .. } = one_run(run, &mut signals).await?;
    if progress::on_terminal() {
        let servers = PerLink { a: args.servers[0].clone(), b: args.servers[1].clone() };
        println!("{}", progress::summary(&record, &servers, names.each_ref().map(Option::as_deref)));
    }
    outcome.map_err(|failure| failure.error)
}

/// Does a run: shapes, fetches, logs and clears. A signal ends it like any other failure.
///
/// # Errors
/// The last record cannot be written; how the run itself went is in what is returned.
pub async fn one_run(run: Run<'_>, signals: &mut Signals) -> Result<Ended> {
    let mut ends = end::Ends::default();
    let (args, log) = (run.args, run.log.clone());
    // Dropping the work on a signal clears the links: their owner clears them when it goes.
    let outcome = tokio::select! {
        outcome = whole_run(run, &mut ends) => outcome,
        interrupted = signals.next() => Err(interrupted),
    };
    let outcome = unshape(ends.links.clone(), outcome).await;
    let record = end::close(&log, args, &mut ends, &outcome)?;
    Ok(Ended { record, probe_ms: ends.probe_ms, outcome })
}

/// Takes the shaping away, however the run went. Failing at it is a failure of the run, unless there
/// is one already.
async fn unshape(links: Option<Arc<Links>>, outcome: Result<(), Failure>) -> Result<(), Failure> {
    let Some(links) = links else { return outcome };
    let finished = blocking(move || links.finish()).await;
    if let (Err(_), Err(failure)) = (&outcome, &finished) {
        tracing::error!("{:#}", failure.error);
    }
    outcome.and(finished)
}

/// Runs what waits for tc, or for the shaper's thread, off the threads that move packets.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| Failure::new("internal", error))?;
    done.map_err(|error| Failure::new("link", error))
}

/// The log, and the run's own folder if it has one.
fn open_log(args: &Args) -> Result<(Arc<Log>, Option<PathBuf>)> {
    let run = record::new_run_id();
    let results = args.results.as_deref().filter(|_| args.log.is_none());
    let folder = results.map(|dir| results::new_folder(dir, &run)).transpose()?;
    let file = match (&folder, &args.log) {
        (Some(folder), _) => Some(results::new_log(folder)?),
        (None, log) => log.as_deref().map(record::create_log_file).transpose()?,
    };
    let stdout = match (progress::on_terminal(), args.samples) {
        (true, _) => Stdout::Nothing,
        (false, false) => Stdout::AllButSamples,
        (false, true) => Stdout::Everything,
    };
    Ok((Arc::new(Log::new(run, file, stdout)), folder))
}

async fn whole_run(run: Run<'_>, ends: &mut end::Ends) -> Result<(), Failure> {
    let (args, bars, names) = (run.args, run.bars, run.asked.names());
    let script = run.asked.script.clone().unwrap_or_default();
    let ready = prepare(run, ends).await?;
    if bars && progress::on_terminal() {
        progress::tell_links(&ready.links.applied());
    }
    let control = Control::open().inspect_err(|error| {
        // Who shapes nothing will hardly miss it.
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
    if args.probe != When::Off {
        let started = Instant::now();
        probe_links(&ready, args.probe).await?;
        ends.probe_ms = started.elapsed().as_secs_f64() * 1e3;
    }
    let peers = PerLink { a: &ready.peers.a, b: &ready.peers.b };
    let bars =
        Bars::new(bars, &peers, ready.job.segments.len() as u64, names.each_ref().map(Option::as_deref));
    let before = read(&ready.links).await?;
    let transfer = transfer(&ready);
    let mut sampler = Sampler::new(ready.job.clone(), ready.links.clone());
    // The sampler ends only when it cannot go on, and then neither can the run.
    let outcome = tokio::select! {
        outcome = transfer => outcome,
        error = sampler.run(&bars) => Err(error),
        error = scripted::play(script, ready.job.clone(), ready.links.clone()) => Err(error),
    };
    bars.finish();
    if outcome.is_ok() {
        sampler.last().await?;
    }
    ends.mss_bytes = LinkId::BOTH.map(|link| ready.job.gauge(link).mss_bytes());
    outcome?;
    let after = read(&ready.links).await?;
    ends.reconciled = LinkId::BOTH.map(|link| reconciled(&ready, link, [&before, &after]));
    if args.sync {
        let started = Instant::now();
        let names = ready.job.segments.iter().map(|segment| segment.name.as_str());
        ready.job.store.sync(names).map_err(|error| Failure::new("store", error))?;
        ends.sync_ms = Some(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

/// Everything before the first request, from looking the servers up to their lists. Each step's
/// result goes into the log even if a later step fails.
async fn prepare(run: Run<'_>, ends: &mut end::Ends) -> Result<Ready, Failure> {
    let Run { args, asked, log, cell, .. } = run;
    let start = record::RunStart { cell, ..first_record(args, asked.shapes(), &log) };
    let end::Ends { start: first, links: shaped, senders, .. } = ends;
    let start = first.insert(Box::new(start));
    let prepared = async {
        let unreachable = |error: anyhow::Error| {
            Failure::new(if error.is::<Refused>() { "congestion" } else { "unreachable" }, error)
        };
        args.congestion.as_deref().map_or(Ok(()), peer::may_use).map_err(unreachable)?;
        let resolve =
            |link: LinkId| Peer::resolve(link, &args.servers[link.index()], args.congestion.clone());
        let (a, b) = tokio::try_join!(resolve(LinkId::A), resolve(LinkId::B)).map_err(unreachable)?;
        start.servers.a.address = Some(a.address.to_string());
        start.servers.b.address = Some(b.address.to_string());
        let links = shape(args, asked, [&a, &b], &log).await?;
        *shaped = Some(links.clone());
        let patience = args.give_up.0;
        let (ia, ib) = tokio::try_join!(a.introduce(patience), b.introduce(patience)).map_err(unreachable)?;
        describe(&mut start.servers.a, &ia);
        describe(&mut start.servers.b, &ib);
        *senders = [&start.servers.a, &start.servers.b]
            .map(|server| server.congestion_control.as_deref()?.parse().ok());
        let segments = listing::agree(args.files.as_deref(), ia.list.clone(), ib.list.clone())
            .map_err(|error| Failure::new("lists_differ", error))?;
        start.congestion_control = ia.congestion_control.clone();
        start.files = Some(segments.len() as u64);
        let new = segments.iter().map(|segment| segment.name.as_str()).filter(|_| !args.resume);
        let store = Store::open(args.out.as_deref(), !args.no_verify, new)
            .map_err(|error| Failure::new("store", error))?;
        // Who splits by rates must know the sizes before the clock starts.
        let sizes = match args.schedule {
            Schedule::Rates { .. } => a.sizes(&segments, patience).await,
            _ => vec![None; segments.len()],
        };
        let schedule = args.schedule_of(segments.iter().map(|segment| segment.name.as_str()));
        let scheduler = Scheduler::new(&schedule, args.pipeline, sizes);
        let job = Arc::new(Job::new(segments, scheduler, store, log.clone(), patience));
        if args.resume {
            let found = job.clone();
            let found = tokio::task::spawn_blocking(move || found.resume()).await;
            let found = found.map_err(|error| Failure::new("internal", error))?;
            found.map_err(|error| Failure::new("store", error))?;
        }
        Ok((links, PerLink { a, b }, PerLink { a: ia, b: ib }, job))
    }
    .await;
    let logged = |error| Failure::new("log", error);
    ends.start.take().map_or(Ok(()), |start| log.write(Event::RunStart(start))).map_err(logged)?;
    if let Some(links) = &ends.links {
        links.log_all().map_err(logged)?;
    }
    let (links, peers, introductions, job) = prepared?;
    ends.job = Some(job.clone());
    if let Some(name) = &args.congestion {
        for link in LinkId::BOTH.into_iter().filter(|link| introductions.get(*link).sender.is_none()) {
            let what = format!("{} cannot be told to send with {name}", peers.get(link));
            job.fault(link, what, "its kernel's choice sends".into());
        }
    }
    Ok(Ready { links, peers, introductions, job })
}

async fn shape(args: &Args, asked: Asked, peers: [&Peer; 2], log: &Arc<Log>) -> Result<Arc<Links>, Failure> {
    let servers = peers.map(|peer| peer.address.ip());
    let (choice, seed, log) = (args.backend, args.seed, log.clone());
    blocking(move || Links::start(asked, servers, choice, seed, log).map(Arc::new)).await
}

fn first_record(args: &Args, shapes: bool, log: &Log) -> record::RunStart {
    let unknown = |name: &String| record::Server {
        name: name.clone(),
        address: None,
        software: None,
        http_version: None,
        digests: None,
        rtt_ms: None,
        congestion_control: None,
    };
    record::RunStart {
        version: env!("CARGO_PKG_VERSION").into(),
        command_line: std::env::args().collect(),
        kernel: doctor::kernel(),
        doctor: doctor::findings(shapes),
        seed: args.seed,
        schedule: args.schedule.to_string(),
        pipeline: args.pipeline.to_string(),
        congestion_control: args.congestion.clone(),
        servers: PerLink { a: unknown(&args.servers[0]), b: unknown(&args.servers[1]) },
        files: None,
        verify: !args.no_verify,
        sync: args.sync,
        wall_clock: log.wall_clock(),
        segment_duration_ms: Some(args.segment_duration.ms()),
        startup_segments: Some(args.startup),
        cell: None,
        commit: option_env!("TWINLINK_COMMIT").filter(|commit| !commit.is_empty()).map(str::to_string),
    }
}

fn describe(server: &mut record::Server, introduction: &Introduction) {
    server.software = introduction.software.clone();
    server.http_version = Some(introduction.http_version.clone());
    server.digests = Some(introduction.list.is_some());
    server.rtt_ms = introduction.rtt.map(|rtt| rtt.as_secs_f64() * 1e3);
    server.congestion_control = introduction.sender.as_ref().and_then(|told| told.congestion_control.clone());
}

async fn read(links: &Arc<Links>) -> Result<Reading, Failure> {
    let links = links.clone();
    blocking(move || links.read()).await
}

/// Whether what a link's shaper counted between two readings is what the application received.
fn reconciled(ready: &Ready, link: LinkId, readings: [&Reading; 2]) -> Option<record::Reconciled> {
    let [before, after] = readings.map(|reading| reading.counters(link, Direction::Down));
    let (before, after) = (before?, after?);
    let gauge = ready.job.gauge(link);
    let drops = |counters: &Counters| counters.dropped_queue + counters.dropped_loss.unwrap_or_default();
    let (spoilt, in_flight_bytes) = ready.links.spoilt_and_held(link)?;
    Some(reconcile::reconcile(&reconcile::Counts {
        received_bytes: gauge.bytes() + gauge.head_bytes.load(Ordering::Relaxed),
        // Counters that went back are of a link that was set up anew.
        shaper_bytes: after.bytes.checked_sub(before.bytes)?,
        shaper_packets: after.packets.checked_sub(before.packets)?,
        dropped_packets: drops(after).checked_sub(drops(before))?,
        retransmits: gauge.sender().as_ref().map(|(_, sender)| sender.retransmits_total),
        spoilt,
        mss_bytes: gauge.mss_bytes() as u64,
        ipv6: ready.peers.get(link).address.ip().to_canonical().is_ipv6(),
        in_flight_bytes,
        connections: gauge.connections(),
    }))
}

/// Measures the links and logs what was found.
///
/// # Errors
/// A link that is not what its profile says, where that is to end the run.
async fn probe_links(ready: &Ready, when: When) -> Result<(), Failure> {
    let (links, job) = (ready.links.clone(), &ready.job);
    let paths = job.segments.iter().map(|segment| segment.path.clone()).collect();
    let rows = Arc::new(move || links.rows());
    let prober = Prober::new(ready.peers.clone(), &ready.introductions, paths, rows, job.give_up);
    let probes = prober
        .measure()
        .await
        .map_err(|error| Failure::new("probe", error.context("cannot measure the links before the run")))?;
    let mut bad = Vec::new();
    for probe in probes {
        let whose = format!("link {} {}", probe.link, probe.direction);
        if probe.ok == Some(false) {
            bad.push(format!("{whose}: {}", probe.verdict));
        }
        job.log.write(Event::Probe(Box::new(probe))).map_err(|error| Failure::new("log", error))?;
    }
    match (bad.is_empty(), when) {
        (true, _) => Ok(()),
        (false, When::On) => {
            let error = anyhow!(
                "the links are not what their profiles say ({}); --probe warn runs all the same",
                bad.join(" ")
            );
            Err(Failure::new("probe", error))
        }
        (false, _) => {
            bad.iter().for_each(|verdict| tracing::warn!("{verdict}"));
            Ok(())
        }
    }
}

async fn learn_sizes(job: &Job, peer: &Peer) {
    let sizes = peer.sizes(&job.segments, job.give_up).await;
    job.schedule(|scheduler, _| scheduler.learn_sizes(&sizes));
}

/// Opens a connection to each server, then fetches everything.
async fn transfer(ready: &Ready) -> Result<(), Failure> {
    let patience = ready.job.give_up;
    // Connections are open when the clock starts, which is when the first request is made.
    let (a, b) = tokio::try_join!(ready.peers.a.connect(patience), ready.peers.b.connect(patience))
        .map_err(|error| Failure::new("unreachable", error))?;
    // Every run meets a trace from its beginning, however long the preparation took.
    let links = ready.links.clone();
    blocking(move || links.play()).await?;
    let mut at_work = JoinSet::new();
    for (link, stream) in [(LinkId::A, a), (LinkId::B, b)] {
        let keeps_alive = ready.introductions.get(link).keeps_alive;
        let fetcher = Fetcher::new(ready.job.clone(), ready.peers.get(link).clone(), keeps_alive);
        at_work.spawn(fetcher.run(stream));
    }
    // Sizes matter towards the end, so the transfer does not wait for them.
    let sizes = learn_sizes(&ready.job, &ready.peers.a);
    tokio::pin!(sizes);
    let (mut ends, mut learning) = (Vec::new(), ready.job.schedule(|scheduler, _| scheduler.needs_sizes()));
    loop {
        let joined = tokio::select! {
            () = &mut sizes, if learning => {
                learning = false;
                continue;
            }
            joined = at_work.join_next() => joined,
            // A link that is still trying to come back is not waited for.
            () = ready.job.all_done() => break,
        };
        let Some(joined) = joined else { break };
        // The first failure drops the set, which ends the other link's work too.
        ends.push(joined.map_err(|error| Failure::new("internal", error))??);
    }
    let missing = ready.job.missing();
    if missing > 0 {
        let given_up = ends.iter().filter(|end| **end == LinkEnd::GivenUp).count();
        let error = anyhow!("{missing} files are missing after {given_up} of 2 servers were given up");
        return Err(Failure::new("server_away", error));
    }
    Ok(())
}
