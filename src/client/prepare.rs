//! Everything of a run before its first request: the servers are looked up, the links shaped, the lists
//! fetched and compared, and the log's first records written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::anyhow;

use super::capabilities::{self, Refused, ServerCapabilities};
use super::config::RunConfig;
use super::links::Links;
use super::origin::Origin;
use super::store::Store;
use super::transfer::{Failure, Transfer};
use super::{Run, blocking, reach};
use crate::adviser::AdviserProcess;
use crate::bound::TcpSegments;
use crate::doctor;
use crate::log::outcome::Outcome;
use crate::log::schema;
use crate::log::schema::{Event, Log, PerLink};
use crate::manifest;
use crate::manifest::ManifestEntry;
use crate::schedule::exec::AdvisedFile;
use crate::schedule::{Schedule, Scheduler};
use crate::shape::backend::BackendChoice;
use crate::shape::setup::LinkSetup;
use crate::units::LinkId;

/// The state of a run before its first request.
pub(crate) struct Ready {
    pub links: Arc<Links>,
    pub origins: PerLink<Origin>,
    pub capabilities: PerLink<ServerCapabilities>,
    pub transfer: Arc<Transfer>,
}

impl Ready {
    /// Returns the TCP segments on a link; `None` where no sample saw one.
    pub(crate) fn tcp_segments(&self, link: LinkId) -> Option<TcpSegments> {
        let metrics = self.transfer.metrics(link);
        let mss_bytes = metrics.mss_bytes();
        let timestamps = !metrics.no_timestamps.load(Ordering::Relaxed);
        (mss_bytes > 0.0).then_some(TcpSegments { mss_bytes, ipv6: self.is_ipv6(link), timestamps })
    }

    pub(crate) fn is_ipv6(&self, link: LinkId) -> bool {
        self.origins[link].address.ip().to_canonical().is_ipv6()
    }
}

/// The results of a preparation so far, which stay if it fails or is interrupted.
pub(crate) struct Preparation {
    /// The first record.
    start: schema::RunStart,
    /// The links, once they are shaped.
    pub links: Option<Arc<Links>>,
}

impl Preparation {
    pub(crate) fn new(run: &Run) -> Preparation {
        let start = first_record(run.config, run.links.shapes(), &run.log);
        Preparation { start: schema::RunStart { cell: run.cell.clone(), ..start }, links: None }
    }

    /// Looks the servers up, shapes the links, fetches and compares the lists, and opens the store.
    pub(crate) async fn prepare(&mut self, run: &Run<'_>) -> Result<Ready, Failure> {
        let (config, start) = (run.config, &mut self.start);
        let unreachable = |error: anyhow::Error| {
            Failure::new(
                if error.is::<Refused>() { Outcome::Congestion } else { Outcome::Unreachable },
                error,
            )
        };
        config.congestion.as_deref().map_or(Ok(()), capabilities::may_use).map_err(unreachable)?;
        let resolve = |link: LinkId| Origin::resolve(link, &config.servers[link], config.congestion.clone());
        let (a, b) = tokio::try_join!(resolve(LinkId::A), resolve(LinkId::B)).map_err(unreachable)?;
        let give_up = config.give_up;
        let picked = tokio::try_join!(reach::pick_address(a, give_up), reach::pick_address(b, give_up));
        let (a, b) = picked.map_err(unreachable)?;
        start.servers.a.address = Some(a.address.to_string());
        start.servers.b.address = Some(b.address.to_string());
        let links = shape(run.links.clone(), [&a, &b], config.backend, config.seed, &run.log).await?;
        self.links = Some(links.clone());
        let (ia, ib) = tokio::try_join!(a.query_capabilities(give_up), b.query_capabilities(give_up))
            .map_err(unreachable)?;
        describe(&mut start.servers.a, &ia);
        describe(&mut start.servers.b, &ib);
        no_list(config, &ia, &ib).map_or(Ok(()), Err)?;
        let segments = manifest::agree(config.files.as_deref(), ia.list.clone(), ib.list.clone())
            .map_err(|error| Failure::new(Outcome::ListsDiffer, error))?;
        start.congestion_control = ia.congestion_control.clone();
        start.files = Some(segments.len() as u64);
        let new = segments.iter().map(|segment| segment.name.as_str()).filter(|_| !config.resume);
        let store = Store::open(config.out.as_deref(), config.verify, new)
            .and_then(|store| {
                store.check_names(segments.iter().map(|segment| segment.name.as_str()))?;
                Ok(store)
            })
            .map_err(|error| Failure::new(Outcome::Store, error))?;
        let sizes = match config.schedule.needs_sizes() {
            true => a.sizes(&segments, give_up, &AtomicU64::new(0)).await,
            false => vec![None; segments.len()],
        };
        let schedule = config.schedule_of(segments.iter().map(|segment| segment.name.as_str()));
        let adviser = adviser(&schedule, &segments, &sizes).await?;
        let mut scheduler = Scheduler::new(&schedule, config.pipeline, sizes);
        scheduler.set_connections(config.connections());
        scheduler.set_least_share(config.least_rate.probability());
        adviser.into_iter().for_each(|adviser| scheduler.set_adviser(Box::new(adviser)));
        let transfer = Arc::new(Transfer::new(segments, scheduler, store, run.log.clone(), give_up));
        if config.resume {
            let found = transfer.clone();
            let mut cancel = CancelOnDrop(Some(transfer.clone()));
            let found = tokio::task::spawn_blocking(move || found.resume()).await;
            cancel.0 = None;
            let found = found.map_err(|error| Failure::new(Outcome::Internal, error))?;
            found.map_err(|error| Failure::new(Outcome::Store, error))?;
        }
        let (origins, capabilities) = (PerLink { a, b }, PerLink { a: ia, b: ib });
        Ok(Ready { links, origins, capabilities, transfer })
    }

    /// Writes the first records, however the preparation ended, and the faults of a run that is ready.
    pub(crate) fn log(self, run: &Run, prepared: Result<Ready, Failure>) -> Result<Ready, Failure> {
        let written = run.log.write(Event::RunStart(Box::new(self.start)));
        let written = written.and_then(|()| self.links.map_or(Ok(()), |links| links.log_all()));
        let ready = prepared?;
        written.map_err(|error| Failure::new(Outcome::Log, error))?;
        for link in LinkId::BOTH {
            let capabilities = &ready.capabilities[link];
            let action = if capabilities.list.is_some() {
                "its list came then"
            } else {
                "it counts as without a list"
            };
            for note in &capabilities.notes {
                tracing::warn!("{note}: {action}");
                ready.transfer.fault(link, note.clone(), action.into());
            }
        }
        if let Some(name) = &run.config.congestion {
            for link in LinkId::BOTH.into_iter().filter(|link| ready.capabilities[*link].sender.is_none()) {
                let what = format!("{} cannot be told to send with {name}", &ready.origins[link]);
                ready.transfer.fault(link, what, "its kernel's choice sends".into());
            }
        }
        Ok(ready)
    }
}

/// Starts the program of `exec`.
async fn adviser(
    schedule: &Schedule,
    segments: &[ManifestEntry],
    sizes: &[Option<u64>],
) -> Result<Option<AdviserProcess>, Failure> {
    let Schedule::Exec(line) = schedule else { return Ok(None) };
    let files = segments.iter().zip(sizes);
    let files = files.map(|(segment, &bytes)| AdvisedFile { name: &segment.name, bytes }).collect();
    let started = tokio::task::block_in_place(|| AdviserProcess::start(line, files));
    started.map(Some).map_err(|error| Failure::new(Outcome::Scheduler, error))
}

/// Ends the check of earlier files where nobody waits for it any more, as after SIGTERM.
struct CancelOnDrop(Option<Arc<Transfer>>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(transfer) = &self.0 {
            transfer.store.cancel();
        }
    }
}

/// Neither server has a list, nobody says what to fetch, and at least one answers oddly: its answers to
/// made-up names would be stored.
fn no_list(config: &RunConfig, a: &ServerCapabilities, b: &ServerCapabilities) -> Option<Failure> {
    let notes: Vec<&str> = [a, b].into_iter().flat_map(|i| &i.notes).map(String::as_str).collect();
    if a.list.is_some() || b.list.is_some() || config.files.is_some() || notes.is_empty() {
        return None;
    }
    let error = anyhow!("no server has a list of its files ({}); name them with --files", notes.join("; "));
    Some(Failure::new(Outcome::NoList, error))
}

pub(crate) async fn shape(
    setup: LinkSetup,
    origins: [&Origin; 2],
    choice: BackendChoice,
    seed: u64,
    log: &Arc<Log>,
) -> Result<Arc<Links>, Failure> {
    let servers = origins.map(|origin| origin.address.ip());
    let log = log.clone();
    blocking(move || Links::start(setup, servers, choice, seed, log).map(Arc::new)).await
}

fn first_record(config: &RunConfig, shapes: bool, log: &Log) -> schema::RunStart {
    schema::RunStart {
        seed: config.seed,
        schedule: config.schedule.to_string(),
        pipeline: config.pipeline.to_string(),
        connections: Some(config.connections().to_string()),
        congestion_control: config.congestion.clone(),
        verify: config.verify,
        sync: config.sync,
        segment_duration_ms: config.segment_duration.ms(),
        startup_segments: config.startup,
        ..first_facts(PerLink { a: &config.servers.a, b: &config.servers.b }, shapes, log)
    }
}

/// Returns the first record with all that does not depend on who fetches.
pub(crate) fn first_facts(servers: PerLink<&str>, shapes: bool, log: &Log) -> schema::RunStart {
    let unknown = |name: &str| schema::Server { name: name.to_string(), ..schema::Server::default() };
    schema::RunStart {
        version: env!("CARGO_PKG_VERSION").into(),
        command_line: std::env::args().collect(),
        kernel: doctor::kernel(),
        doctor: doctor::findings(shapes),
        servers: PerLink::of(|link| unknown(servers[link])),
        wall_clock: log.wall_clock(),
        commit: option_env!("TWINLINK_COMMIT").filter(|commit| !commit.is_empty()).map(str::to_string),
        ..schema::RunStart::default()
    }
}

pub(crate) fn describe(server: &mut schema::Server, capabilities: &ServerCapabilities) {
    server.software = capabilities.software.clone();
    server.http_version = Some(capabilities.http_version.clone());
    server.digests = Some(capabilities.list.is_some());
    server.rtt_ms = capabilities.rtt.map(|rtt| rtt.as_secs_f64() * 1e3);
    server.congestion_control = capabilities.sending_congestion_control();
}
