//! `twinlink run`: a program of the user's between the two links, judged from outside.
//!
//! The links are a run's own ([`Links`]); the program knows the servers, the list and a folder by its
//! environment. Requests come from the servers' access logs ([`requests`]), files from the folder
//! ([`arrivals`]), and [`account`] makes the same records of them that the client writes of itself.

pub(crate) mod account;
pub(crate) mod arrivals;
pub(crate) mod command;
pub(crate) mod config;
pub(crate) mod image;
pub(crate) mod playback;
pub(crate) mod requests;
pub(crate) mod sandbox;

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, ensure};
use indicatif::ProgressBar;
use sha2::{Digest as _, Sha256};
use tokio::time::{MissedTickBehavior, interval};

use crate::bound;
use crate::bound::TcpSegments;
use crate::client::finish::summary;
use crate::client::links::{CounterReading, Links};
use crate::client::origin::Origin;
use crate::client::prepare::{describe, first_facts, shape};
use crate::client::signals::Signals;
use crate::client::transfer::Failure;
use crate::client::{FinishedRun, blocking, progress, reach, runtime, unshape};
use crate::config::script::Script;
use crate::log::outcome::Outcome;
use crate::log::schema::{self, Cell, Event, Fault, LinkTotals, Log, PerLink, ProgramEnd, RunEnd, Sample};
use crate::log::writer::Stdout;
use crate::manifest::{self, ManifestEntry, digest::Digest, metalink};
use crate::output;
use crate::qoe::{self, Arrival, MediaEvent, Rule};
use crate::results::{self, Folder};
use crate::shape::control::server::ControlServer;
use crate::shape::setup::LinkSetup;
use crate::text::{duration, print};
use crate::units::{ByteCount, Direction, LinkId};
use account::{Account, FileState, FoundFile, PassedBytes};
use arrivals::Arrivals;
use command::{PLACEHOLDERS, ProgramUse, RunningProgram, Surroundings};
use config::ProgramConfig;
use requests::ServedRequest;
use sandbox::{Disk, Sandbox};

/// The folder of lists, beside the program's own.
const LISTS: &str = "lists";

/// How long a program's first frame is looked for, and how often: a program that takes longer to begin is sampled
/// meanwhile, and its time counts from its start.
const FIRST_FRAME: Duration = Duration::from_secs(2);
const FIRST_FRAME_EVERY: Duration = Duration::from_millis(2);

/// A run of a program, before it begins.
pub(crate) struct ProgramRun<'a> {
    pub config: &'a ProgramConfig,
    pub links: LinkSetup,
    pub log: Arc<Log>,
    /// Holds the log, and takes what the program prints.
    pub folder: Folder,
    /// The run's cell in an experiment.
    pub cell: Option<Cell>,
    /// Whether its bar is shown, where a person is looking.
    pub bars: bool,
}

/// How long the servers' logs may take to tell of the last requests.
const LONGEST_WAIT_FOR_LOGS: Duration = Duration::from_secs(5);

/// A run that is over, and what was seen of it from outside.
pub(crate) struct ObservedRun {
    pub finished: FinishedRun,
    pub account: Account,
    /// The requests that the servers answered, in the order of their logs; `None` where they do not tell.
    pub served: Option<Vec<ServedRequest>>,
}

/// Does one run in a folder of its own in `results`. `afterwards` is told that folder, however the run went.
///
/// # Errors
/// The links cannot be shaped, a server does not answer, the program fails, or a file is missing or wrong.
pub(crate) fn main(
    config: &ProgramConfig,
    links: LinkSetup,
    results: &Path,
    stdout: Stdout,
    afterwards: impl FnOnce(&Path),
) -> Result<()> {
    let run = schema::new_run_id();
    let folder = results::new_folder(results, &run)?;
    let stdout = if output::on_terminal() { Stdout::Nothing } else { stdout };
    let (path, names) = (folder.path().to_path_buf(), links.names());
    let page = Some(results::page_for_people(&path));
    let log = Arc::new(Log::new(run, Some(folder.create_new(results::LOG)?), stdout)?.with_page(page));
    let finished = runtime()?.block_on(async {
        let run = ProgramRun { config, links, log, folder, cell: None, bars: true };
        anyhow::Ok(one_run(run, &mut Signals::listen()?).await.finished)
    })?;
    afterwards(&path);
    if output::is_text() {
        let names = names.each_ref().map(Option::as_deref);
        print(&progress::summary(&finished.record, &config.servers, names, Some(&path)))?;
    }
    finished.outcome.map_err(|failure| failure.error)
}

/// Does a run: shapes, starts the program, watches, logs and clears. A signal ends it like any other failure.
pub(crate) async fn one_run(run: ProgramRun<'_>, signals: &mut Signals) -> ObservedRun {
    let ProgramRun { config, links, log, folder, cell, bars } = run;
    let mut observed = Observed::new(config, log, folder, bars && output::on_terminal());
    let outcome = tokio::select! {
        outcome = observed.whole(links, cell) => outcome,
        interrupted = signals.next() => Err(interrupted),
    };
    let outcome = unshape(observed.links.clone(), outcome).await;
    let (record, outcome) = observed.close(outcome);
    let finished = FinishedRun { record, probe_ms: 0.0, outcome };
    ObservedRun { finished, account: observed.account, served: observed.served }
}

/// A run of a program, and all that has been seen of it so far.
struct Observed<'a> {
    config: &'a ProgramConfig,
    log: Arc<Log>,
    folder: Folder,
    /// Whether a person is shown how far it is.
    shown: bool,
    links: Option<Arc<Links>>,
    /// Changes of the links, counted from the program's start.
    script: Script,
    files: Vec<ManifestEntry>,
    began: Option<Instant>,
    /// When a shaper first saw a frame of the program's.
    first_frame: Option<Instant>,
    program: Option<ProgramUse>,
    account: Account,
    served: Option<Vec<ServedRequest>>,
    /// The events that a player told; `None` for a program that stores files.
    told: Option<Vec<(f64, MediaEvent)>>,
    /// Payload that each shaper let pass on the way down, estimated from its frames.
    down_bytes: [PassedBytes; 2],
    /// When each link was sampled last, and its payload then.
    sampled: [(Instant, u64); 2],
}

/// The program's working environment.
struct ProgramContext {
    out: PathBuf,
    /// Holds the lists of names and digests, and the folder itself where none was given.
    temporary: tempfile::TempDir,
    /// The sandbox of a program, and its disk.
    sandbox: Option<(Sandbox, Disk)>,
    surroundings: Surroundings,
}

impl ProgramContext {
    fn command(&self, config: &ProgramConfig) -> Result<std::process::Command> {
        match &self.sandbox {
            Some((sandbox, disk)) => {
                let lists = self.temporary.path().join(LISTS);
                sandbox.command(disk, &lists, &self.surroundings.words(&config.command)?)
            }
            None => self.surroundings.command(&config.command, &config.folder),
        }
    }
}

impl<'a> Observed<'a> {
    fn new(config: &'a ProgramConfig, log: Arc<Log>, folder: Folder, shown: bool) -> Observed<'a> {
        let (links, script, files, began, first_frame, program, account, served, told, down_bytes) =
            Default::default();
        let sampled = [(Instant::now(), 0); 2];
        Observed {
            config,
            log,
            folder,
            shown,
            links,
            script,
            files,
            began,
            first_frame,
            program,
            account,
            served,
            told,
            down_bytes,
            sampled,
        }
    }

    /// Everything from looking the servers up to the last file.
    async fn whole(&mut self, setup: LinkSetup, cell: Option<Cell>) -> Result<(), Failure> {
        let logged = |error| Failure::new(Outcome::Log, error);
        self.script = setup.script.clone().unwrap_or_default();
        let shapes = setup.profiles.iter().any(Option::is_some);
        let mut start = schema::RunStart { cell, ..self.first_record(shapes) };
        let prepared = self.prepare(setup, &mut start).await;
        self.log.write(Event::RunStart(Box::new(start))).map_err(logged)?;
        if let Some(links) = &self.links {
            links.log_all().map_err(logged)?;
        }
        let (place, links, origins) = prepared?;
        if self.shown {
            progress::tell_links(&links.applied());
        }
        let mut beside = tokio::task::JoinSet::new();
        match ControlServer::open() {
            Ok(control) => {
                let links = links.clone();
                beside.spawn(control.serve(move |request| links.act(request)));
            }
            Err(error) => tracing::debug!("links cannot be changed during this run: {error:#}"),
        }
        let arrivals = Arrivals::watch(&place.out).map_err(|error| Failure::new(Outcome::Store, error))?;
        let printed =
            |name| self.folder.create_new(name).map_err(|error| Failure::new(Outcome::Store, error));
        let (stdout, stderr) = (printed("stdout.txt")?, printed("stderr.txt")?);
        let playing = links.clone();
        blocking(move || playing.play()).await?;
        let began = Instant::now();
        (self.began, self.sampled) = (Some(began), [(began, 0); 2]);
        let mut program = place
            .command(self.config)
            .and_then(|command| RunningProgram::start(command, &place.surroundings, stdout, stderr))
            .map_err(|error| Failure::new(Outcome::Program, error))?;
        let ended = self.follow(&mut program, &links, &arrivals, &place).await;
        let left = program.end_all();
        self.sample(&links).await?;
        let used = program.ended().await.map_err(|error| Failure::new(Outcome::Internal, error))?;
        self.program = Some(used);
        if left > usize::from(ended.is_err()) {
            self.fault(None, format!("the program left {left} processes"), "they were ended".into());
        }
        self.count(&place, arrivals, &origins).await?;
        ended?;
        self.judge(used, &place)
    }

    /// Looks the servers up, shapes the links, and makes the program's folder and lists.
    async fn prepare(
        &mut self,
        setup: LinkSetup,
        start: &mut schema::RunStart,
    ) -> Result<(ProgramContext, Arc<Links>, PerLink<Origin>), Failure> {
        let unreachable = |error| Failure::new(Outcome::Unreachable, error);
        let give_up = self.config.give_up;
        let (a, b) = tokio::try_join!(
            Origin::resolve(LinkId::A, &self.config.servers.a, None),
            Origin::resolve(LinkId::B, &self.config.servers.b, None)
        )
        .map_err(unreachable)?;
        let picked = tokio::try_join!(reach::pick_address(a, give_up), reach::pick_address(b, give_up));
        let (a, b) = picked.map_err(unreachable)?;
        start.servers.a.address = Some(a.address.to_string());
        start.servers.b.address = Some(b.address.to_string());
        let links = shape(setup, [&a, &b], self.config.backend, self.config.seed, &self.log).await?;
        self.links = Some(links.clone());
        let lists = match &self.config.manifest {
            // Servers of another protocol are not spoken to.
            Some(path) => {
                (Some(read_list(path).map_err(|error| Failure::new(Outcome::NoList, error))?), None)
            }
            None => {
                let found = tokio::try_join!(a.query_capabilities(give_up), b.query_capabilities(give_up));
                let (ia, ib) = found.map_err(unreachable)?;
                describe(&mut start.servers.a, &ia);
                describe(&mut start.servers.b, &ib);
                (ia.list, ib.list)
            }
        };
        self.files = manifest::agree(self.config.files.as_deref(), lists.0, lists.1)
            .map_err(|error| Failure::new(Outcome::ListsDiffer, error))?;
        start.files = Some(self.files.len() as u64);
        let origins = PerLink { a, b };
        let place = self.program_context(&origins).map_err(|error| Failure::new(Outcome::Store, error))?;
        Ok((place, links, origins))
    }

    /// Makes the folder that the program stores files in, and the lists that it may read.
    fn program_context(&self, origins: &PerLink<Origin>) -> Result<ProgramContext> {
        let temporary = tempfile::tempdir().context("cannot make a temporary folder; set TMPDIR")?;
        let folder = |name: &str| -> Result<PathBuf> {
            let folder = temporary.path().join(name);
            std::fs::create_dir(&folder).context("cannot make the program's folder; set TMPDIR")?;
            Ok(folder)
        };
        let sandbox = match (&self.config.sandbox, &self.config.image) {
            (Some(sandbox), _) => Some(Sandbox::clone(sandbox)),
            (None, Some(name)) => {
                let image = image::unpack(name, &temporary.path().join("image"))?;
                Some(Sandbox::of_image(image, self.config.memory_limit))
            }
            (None, None) => None,
        };
        let with_disk = |sandbox: Sandbox| -> Result<(Sandbox, Disk)> {
            let disk = Disk::new(&sandbox, &folder("disk")?)?;
            Ok((sandbox, disk))
        };
        let sandbox = sandbox.map(with_disk).transpose()?;
        let disk = sandbox.as_ref().map(|(_, disk)| disk);
        let out = match (&self.config.out, disk) {
            (_, Some(disk)) => disk.at(sandbox::OUT),
            (Some(out), None) => {
                let folder = Folder::make(out)?;
                for file in &self.files {
                    ensure!(
                        !folder.has(&file.name)?,
                        "cannot store files in {}: it holds {} already; give an empty folder with --out",
                        out.display(),
                        file.name
                    );
                }
                out.canonicalize().with_context(|| format!("cannot use {}", out.display()))?
            }
            (None, None) => folder("out")?,
        };
        let lists = folder(LISTS)?;
        std::fs::set_permissions(&lists, std::fs::Permissions::from_mode(0o755))?;
        let list = |name: &str, text: String| -> Result<String> {
            let path = lists.join(name);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            let seen = if disk.is_some() { Path::new(sandbox::LISTS).join(name) } else { path };
            Ok(seen.to_string_lossy().into_owned())
        };
        let seen = if disk.is_some() { Path::new(sandbox::OUT) } else { &out };
        let files = list("files.txt", self.files.iter().map(|file| format!("{}\n", file.name)).collect())?;
        let sums = list(manifest::SUMS, metalink::sums(&self.files))?;
        let values = [
            origins.a.host.clone(),
            origins.b.host.clone(),
            origins.a.address.ip().to_string(),
            origins.b.address.ip().to_string(),
            files,
            sums,
            seen.to_string_lossy().into_owned(),
        ];
        let own = PLACEHOLDERS.into_iter().zip(values);
        let surroundings = Surroundings(own.chain(self.config.placeholders.clone()).collect());
        Ok(ProgramContext { out, temporary, sandbox, surroundings })
    }

    /// Samples the links until the program has ended, or has reached a limit.
    async fn follow(
        &mut self,
        program: &mut RunningProgram,
        links: &Arc<Links>,
        arrivals: &Arrivals,
        place: &ProgramContext,
    ) -> Result<(), Failure> {
        let count = self.files.len() as u64;
        let bar = if self.shown { progress::files_bar(count) } else { ProgressBar::hidden() };
        let began = Instant::now();
        let mut ticks = interval(progress::SAMPLE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut script = std::mem::take(&mut self.script).changes;
        script.reverse();
        self.await_first_frame(program, links).await?;
        loop {
            tokio::select! {
                _ = program.ended() => {
                    bar.abandon();
                    return Ok(());
                }
                _ = ticks.tick() => {}
            }
            while script.last().is_some_and(|change| change.after.0 <= began.elapsed()) {
                let change = script.pop().expect("one was seen");
                let links = links.clone();
                blocking(move || links.apply(&change)).await?;
            }
            let kbit = self.sample(links).await?;
            bar.set_position(arrivals.count().min(self.files.len()) as u64);
            bar.set_message(format!("a {:>7.2}  b {:>7.2} Mbit/s", kbit[0] / 1e3, kbit[1] / 1e3));
            if let Some(failure) = self.limits(place).exceeded(program, began.elapsed()) {
                // Ending a program that forks on takes its time, so it gets none to end by itself.
                if failure.exit != Outcome::ProcessLimit {
                    self.stop(program).await;
                }
                return Err(failure);
            }
        }
    }

    /// Waits until a shaper has seen a frame on its way to a server, the program has ended, or it is time for a
    /// sample.
    async fn await_first_frame(
        &mut self,
        program: &mut RunningProgram,
        links: &Arc<Links>,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let read = || {
            let links = links.clone();
            blocking(move || links.read())
        };
        let packets = |reading: &CounterReading| -> Option<u64> {
            LinkId::BOTH.iter().map(|&link| Some(reading.counters(link, Direction::Up)?.packets)).sum()
        };
        let Some(before) = packets(&read().await?) else { return Ok(()) };
        while began.elapsed() < FIRST_FRAME {
            if let Ok(ended) = tokio::time::timeout(FIRST_FRAME_EVERY, program.ended()).await {
                return ended.map(drop).map_err(|error| Failure::new(Outcome::Internal, error));
            }
            if packets(&read().await?) > Some(before) {
                self.first_frame = Some(Instant::now());
                break;
            }
        }
        Ok(())
    }

    fn limits<'b>(&self, place: &'b ProgramContext) -> ProgramLimits<'b> {
        ProgramLimits {
            time: self.config.time_limit,
            memory: self.config.memory_limit,
            sandbox: place.sandbox.as_ref().map(|(sandbox, disk)| (sandbox, disk)),
        }
    }

    /// Gives a program a second to end by itself.
    async fn stop(&self, program: &mut RunningProgram) {
        program.terminate();
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until && program.memory_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Takes and logs one sample of each link; returns the goodputs in kbit/s.
    async fn sample(&mut self, links: &Arc<Links>) -> Result<[f64; 2], Failure> {
        let read = links.clone();
        let reading = blocking(move || read.read()).await?;
        let mut goodputs = [0.0; 2];
        for link in LinkId::BOTH {
            let bytes = payload_bytes(&reading, link);
            self.down_bytes[link.index()].note(bytes);
            let (now, bytes) = (Instant::now(), bytes.unwrap_or_default());
            let (then, earlier) = std::mem::replace(&mut self.sampled[link.index()], (now, bytes));
            let span_s = (now - then).as_secs_f64();
            let kbit = if span_s > 0.0 { bytes.saturating_sub(earlier) as f64 * 8e-3 / span_s } else { 0.0 };
            goodputs[link.index()] = kbit;
            let sample = Sample {
                link,
                bytes,
                goodput_kbit: kbit,
                requests_in_flight: None,
                connections: None,
                tcp: None,
                sender: None,
                sender_at_ms: None,
                down: reading.counters(link, Direction::Down).cloned(),
                up: reading.counters(link, Direction::Up).cloned(),
                air: reading.airtimes(link),
            };
            self.log
                .write(Event::Sample(Box::new(sample)))
                .map_err(|error| Failure::new(Outcome::Log, error))?;
        }
        Ok(goodputs)
    }

    /// Finds out which files are there, what the servers say of them, and logs every segment.
    async fn count(
        &mut self,
        place: &ProgramContext,
        arrivals: Arrivals,
        origins: &PerLink<Origin>,
    ) -> Result<(), Failure> {
        let times = arrivals.finish();
        let (files, log, out) = (self.files.clone(), self.log.clone(), place.out.clone());
        let mut found = blocking(move || {
            let state = |file: &ManifestEntry| {
                let time = times.get(std::ffi::OsStr::from_bytes(file.name.as_bytes()));
                found(&out.join(&file.name), file.digest, time.map(|at| log.ms(*at)), &log)
            };
            Ok(files
                .iter()
                .map(|file| FoundFile { name: file.name.clone(), state: state(file) })
                .collect::<Vec<_>>())
        })
        .await?;
        self.served = self.read_served(origins, &found).await;
        self.told = playback::read(&place.out, self.log.epoch(), self.log.ms(Instant::now()));
        if self.told.is_some() {
            account::count_as_fetched(&mut found, self.served.as_deref().unwrap_or_default());
        }
        self.account = account::account(&found, self.served.as_deref());
        self.account.elsewhere = self.elsewhere(place);
        for segment in &self.account.segments {
            let at = self.log.at(segment.done_ms);
            self.log
                .write_at(at, Event::Segment(segment.clone()))
                .map_err(|error| Failure::new(Outcome::Log, error))?;
        }
        Ok(())
    }

    /// Reads the servers' access logs from the program's start on; `None` where they keep none that is known. Waits
    /// for them to tell of every byte of the files that are there.
    async fn read_served(
        &self,
        origins: &PerLink<Origin>,
        files: &[FoundFile],
    ) -> Option<Vec<ServedRequest>> {
        let dir = self.config.server_logs.as_ref()?;
        let began_ms = self.began.map_or(0.0, |began| self.log.ms(began));
        let read = || -> Result<Vec<ServedRequest>> {
            let mut all = Vec::new();
            for link in LinkId::BOTH {
                let path = dir.join(format!("{}.jsonl", requests::NAMES[link.index()]));
                let up = self.up_delay_ms(link);
                all.extend(requests::read(&path, link, self.log.epoch())?.into_iter().map(|request| {
                    ServedRequest {
                        // The request left when the server had it, less its way there.
                        read_ms: request.read_ms - up,
                        ..request
                    }
                }));
            }
            // The server's clock is read to the millisecond.
            all.retain(|request| request.read_ms >= began_ms - 1.0);
            Ok(all)
        };
        // A server writes a record once it sees that a connection has ended.
        let mut found = read();
        let until = Instant::now() + LONGEST_WAIT_FOR_LOGS;
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let again = read();
            let same = match (&found, &again) {
                (Ok(a), Ok(b)) => a.len() == b.len() && account::tell_all(b, files),
                // The log of another kind of server stays one.
                (Err(_), Err(_)) => true,
                _ => false,
            };
            found = again;
            if same {
                break;
            }
        }
        match found {
            Ok(found) => Some(found),
            Err(error) => {
                let (a, b) = (&origins.a, &origins.b);
                tracing::warn!(
                    "the requests to {a} and {b} are unknown, and the time counts from the program's start: {error:#}"
                );
                None
            }
        }
    }

    /// Returns the time (ms) that a request spends on its way to the server: 0 where the way down holds both
    /// delays.
    fn up_delay_ms(&self, link: LinkId) -> f64 {
        let applied = self.links.as_ref().map(|links| links.applied()).unwrap_or_default();
        let up = applied.iter().find(|row| (row.link, row.direction) == (link, Direction::Up));
        up.map_or(0.0, |row| row.shape.delay.ms().min(row.delay_line_ms))
    }

    /// Says which missing file is in another place, and which file in `OUT` nobody asked for.
    fn elsewhere(&self, place: &ProgramContext) -> Vec<String> {
        let others: Vec<(PathBuf, &str)> = match &place.sandbox {
            Some((_, disk)) => ["/tmp", sandbox::SUBMISSION].map(|folder| (disk.at(folder), folder)).to_vec(),
            None if self.config.out.is_some() => Vec::new(),
            None => vec![(self.config.folder.clone(), "the current folder")],
        };
        let found = self.account.missing.iter().find_map(|name| {
            let (_, place) = others.iter().find(|(folder, _)| folder.join(name).exists())?;
            Some(format!("{name} is in {place} instead of $OUT"))
        });
        let other = partial(&place.out, &self.files);
        let other = other.map(|name| format!("$OUT holds {name}, which nobody asked for"));
        found.into_iter().chain(other).collect()
    }

    /// Says how the run ended, from the program's exit and the files.
    fn judge(&self, used: ProgramUse, place: &ProgramContext) -> Result<(), Failure> {
        let Account { missing, wrong, .. } = &self.account;
        let label = &self.config.name;
        let last = self.told.as_ref().map(|told| told.last().map(|(_, event)| *event));
        let stopped = last.is_some_and(|last| last != Some(MediaEvent::Ended));
        if let (Some(failure), false) =
            (self.limits(place).full_disk(), missing.is_empty() && wrong.is_empty())
        {
            return Err(failure);
        }
        if !used.status.success() {
            let printed = tail(&self.folder.join("stderr.txt"));
            let printed = if printed.is_empty() { String::new() } else { format!("; it printed: {printed}") };
            return Err(Failure::new(
                Outcome::Program,
                anyhow!("{label} ended with {}{printed}", used.status),
            ));
        }
        if stopped {
            let error = anyhow!(
                "{label} did not play to the end: the last event in $OUT/{} is not ended",
                playback::EVENTS
            );
            return Err(Failure::new(Outcome::Incomplete, error));
        }
        let named = |names: &[String], what: &str| match names {
            [] => None,
            [one] => Some(format!("{one} is {what}")),
            [first, ..] => Some(format!("{} files are {what}, the first {first}", names.len())),
        };
        let named = [named(missing, "not in $OUT"), named(wrong, "wrong")].into_iter().flatten();
        let words: Vec<String> = named.chain(self.account.elsewhere.iter().cloned()).collect();
        if missing.is_empty() && wrong.is_empty() {
            return Ok(());
        }
        Err(Failure::new(
            Outcome::Incomplete,
            anyhow!("{label} did not bring every file: {}", words.join("; ")),
        ))
    }

    fn fault(&self, link: Option<LinkId>, what: String, action: String) {
        tracing::warn!("{what}; {action}");
        // A log that cannot be written ends the run with its last record.
        let _ = self.log.write(Event::Fault(Fault { link, segment: None, what, action }));
    }

    fn first_record(&self, shapes: bool) -> schema::RunStart {
        let config = self.config;
        schema::RunStart {
            seed: config.seed,
            schedule: config.name.clone(),
            pipeline: "auto".into(),
            verify: true,
            segment_duration_ms: config.segment_duration.ms(),
            startup_segments: config.startup,
            ..first_facts(PerLink { a: &config.servers.a, b: &config.servers.b }, shapes, &self.log)
        }
    }

    /// Writes the last record.
    fn close(&mut self, outcome: Result<(), Failure>) -> (RunEnd, Result<(), Failure>) {
        let mut record = self.last_record(&outcome);
        let written = self.log.end(&mut record).map_err(|error| Failure::new(Outcome::Log, error));
        (record, outcome.and(written))
    }

    fn last_record(&self, outcome: &Result<(), Failure>) -> RunEnd {
        let account = &self.account;
        let seen = self.first_frame.or(self.began).map(|at| self.log.ms(at));
        let first_ms = account.first_request_ms.or(seen);
        let since_first = |at_ms: Option<f64>| Some((at_ms? - first_ms?).max(0.0));
        let elapsed_ms = if outcome.is_ok() { since_first(account.last_file_ms) } else { None };
        let bounds = first_ms.and_then(|first_ms| self.bounds_ms(self.log.at(first_ms)));
        let links = PerLink::of(|link| self.link_totals(link, &since_first));
        let received: Option<u64> = LinkId::BOTH.iter().map(|&link| self.received_bytes(link)).sum();
        let mut end = RunEnd {
            exit: outcome.as_ref().map_or_else(|failure| failure.exit, |()| Outcome::Ok),
            elapsed_ms,
            first_request_ms: first_ms,
            files: (account.segments.len() - account.wrong.len()) as u64,
            bytes: account.bytes,
            bound_ms: bounds.map(|(plain, _)| plain),
            bound_tcp_ms: bounds.map(|(_, tcp)| tcp),
            efficiency: elapsed_ms.filter(|&ms| ms > 0.0).zip(bounds).map(|(ms, (plain, _))| plain / ms),
            wasted_bytes: received.unwrap_or_default().saturating_sub(account.bytes),
            links,
            qoe: first_ms.and_then(|first_ms| self.qoe(first_ms)),
            program: self.program.map(|used| self.program_end(used)),
            ..RunEnd::default()
        };
        end.summary = summary(&self.config.name, received, &end, outcome, self.log.faults());
        end
    }

    /// Returns the payload that came over a link: as the server sent it, and no more than the shaper let pass.
    fn received_bytes(&self, link: LinkId) -> Option<u64> {
        let sent = self.account.links.as_ref().map(|links| links[link].sent_bytes);
        match (sent, self.down_bytes[link.index()].all()) {
            (Some(sent), Some(passed)) => Some(sent.min(passed)),
            (sent, passed) => sent.or(passed),
        }
    }

    fn link_totals(&self, link: LinkId, since_first: &impl Fn(Option<f64>) -> Option<f64>) -> LinkTotals {
        let served = self.account.links.as_ref().map(|links| &links[link]);
        let bytes = self.received_bytes(link).unwrap_or_default();
        let last_byte_ms = since_first(served.and_then(|served| served.last_file_ms));
        let passed = self.links.as_ref().and_then(|links| links.passed(link));
        LinkTotals {
            bytes,
            files: served.map_or(0, |served| served.files),
            goodput_kbit: last_byte_ms.filter(|&ms| ms > 0.0).map(|ms| bytes as f64 * 8.0 / ms),
            last_byte_ms,
            connections: served.map_or(0, |served| served.connections),
            cross_bytes: passed.map(|passed| passed.cross_bytes),
            cross_pct: passed.map(|passed| passed.cross_pct()),
            ..LinkTotals::default()
        }
    }

    /// Returns the bound, and that with slow start, of the payload that arrived (ms).
    fn bounds_ms(&self, first_request: Instant) -> Option<(f64, f64)> {
        let links = self.links.as_ref()?;
        let paths = links.paths(first_request, [TcpSegments::USUAL; 2])?;
        let (plain, tcp) = bound::bounds_s(&paths, links.channel().as_ref(), self.account.bytes as f64)?;
        Some((plain * 1e3, tcp * 1e3))
    }

    fn qoe(&self, first_ms: f64) -> Option<qoe::Qoe> {
        let config = self.config;
        let rule =
            Rule { segment_duration_ms: config.segment_duration.ms(), startup_segments: config.startup };
        if let Some(told) = &self.told {
            return qoe::watched(told, first_ms, rule);
        }
        let arrivals = self.account.segments.iter().map(|segment| Arrival {
            index: segment.index,
            done_ms: (segment.done_ms - first_ms).max(0.0),
            media: qoe::is_media(&segment.name),
        });
        qoe::play(arrivals, 0.0, rule).map(|played| played.qoe)
    }

    fn program_end(&self, used: ProgramUse) -> ProgramEnd {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        ProgramEnd {
            command: self.config.command.clone(),
            exit_code: used.status.code(),
            signal: used.status.signal(),
            took_ms: self.began.map(|began| ms(used.ended.saturating_duration_since(began))),
            cpu_user_ms: ms(used.cpu_user),
            cpu_system_ms: ms(used.cpu_system),
            peak_memory_bytes: used.peak_memory_bytes,
            requests: self.account.links.as_ref().map(|links| links.a.requests + links.b.requests),
            connections: self.served.as_deref().map(account::connections),
        }
    }
}

/// The limits of a program.
pub(crate) struct ProgramLimits<'a> {
    pub time: Duration,
    pub memory: Option<ByteCount>,
    pub sandbox: Option<(&'a Sandbox, &'a Disk)>,
}

impl ProgramLimits<'_> {
    /// Returns the limit that a program has reached after such a time, if it has.
    pub(crate) fn exceeded(&self, program: &RunningProgram, elapsed: Duration) -> Option<Failure> {
        // In a sandbox, others than who starts the program set its limits.
        let more = |option: &str| match self.sandbox {
            None => format!("; give it more with {option}"),
            Some(_) => String::new(),
        };
        if elapsed > self.time {
            let (limit, more) = (duration(self.time), more("--time-limit"));
            let error = anyhow!("the program took longer than {limit}, its time limit{more}");
            return Some(Failure::new(Outcome::TimeLimit, error));
        }
        // First of all, since many processes hold much memory.
        let most = self.sandbox.map(|(sandbox, _)| sandbox.processes);
        if let Some(most) = most.filter(|most| program.count() > most + sandbox::OWN_PROCESSES) {
            let error = anyhow!("the program had more than {most} processes at a time, its limit");
            return Some(Failure::new(Outcome::ProcessLimit, error));
        }
        if let Some(most) = self.memory.filter(|most| program.memory_bytes() > most.0) {
            let more = more("--memory-limit");
            let error = anyhow!("the program held more than {most} of memory, its limit{more}");
            return Some(Failure::new(Outcome::MemoryLimit, error));
        }
        self.full_disk()
    }

    fn full_disk(&self) -> Option<Failure> {
        let (sandbox, _) = self.sandbox.filter(|(_, disk)| disk.is_full())?;
        let error = anyhow!("the program filled its disk of {}", sandbox.disk);
        Some(Failure::new(Outcome::DiskLimit, error))
    }
}

/// Estimates the payload that a shaper let pass on the way down: its frames less the headers of each.
fn payload_bytes(reading: &CounterReading, link: LinkId) -> Option<u64> {
    let counters = reading.counters(link, Direction::Down)?;
    let usual = TcpSegments::USUAL;
    let header = usual.mss_bytes / usual.payload_share() - usual.mss_bytes;
    Some(counters.bytes.saturating_sub((counters.packets as f64 * header) as u64))
}

/// Looks at a file. It is done when the watch saw it last, or when it changed last, as by another of its names: the
/// kernel keeps that time, and the program cannot set it.
fn found(path: &Path, digest: Option<Digest>, seen_ms: Option<f64>, log: &Log) -> FileState {
    use std::os::unix::fs::MetadataExt;
    let whole = || -> std::io::Result<FileState> {
        let data = path.symlink_metadata()?;
        if !data.is_file() {
            return Ok(FileState::Missing);
        }
        let digest_ok = digest.map(|wanted| hash(path).map(|found| found == wanted)).transpose()?;
        let changed = Duration::new(data.ctime() as u64, data.ctime_nsec() as u32);
        let began = log.epoch().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let changed_ms = changed.saturating_sub(began).as_secs_f64() * 1e3;
        let done_ms = changed_ms.max(seen_ms.unwrap_or(0.0));
        Ok(FileState::Whole { bytes: data.len(), done_ms, digest_ok })
    };
    whole().unwrap_or(FileState::Missing)
}

fn hash(path: &Path) -> std::io::Result<Digest> {
    let (mut file, mut hasher, mut buffer) = (std::fs::File::open(path)?, Sha256::new(), vec![0; 256 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest(hasher.finalize().into())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Reads a list of files, as `sha256sum` writes it.
fn read_list(path: &Path) -> Result<Vec<ManifestEntry>> {
    let cannot = || format!("cannot use the list {}", path.display());
    let text = std::fs::read_to_string(path).with_context(cannot)?;
    manifest::parse_sums(&text).with_context(cannot)
}

/// Returns the name of a file in the folder that was not to be fetched.
fn partial(out: &Path, files: &[ManifestEntry]) -> Option<String> {
    let names = std::fs::read_dir(out)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    names.filter(|name| !files.iter().any(|file| file.name == *name)).min()
}

/// Returns the last line that a program printed.
pub(crate) fn tail(path: &Path) -> String {
    use std::os::unix::fs::FileExt;
    let read = || -> std::io::Result<String> {
        let file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        let mut last = vec![0; 4096];
        let read = file.read_at(&mut last, length.saturating_sub(4096))?;
        Ok(String::from_utf8_lossy(&last[..read]).trim_end().lines().last().unwrap_or_default().to_string())
    };
    read().unwrap_or_default()
}
