//! The transfer of a run that is ready, and the checks of its links before and after.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use tokio::task::JoinSet;

use super::links::{CounterReading, Links};
use super::measure::{Prober, When, expected, reconciliation};
use super::origin::{self, Origin};
use super::prepare::Ready;
use super::progress::{self, Bars};
use super::sampler::{Sampler, tell_shaped_rates};
use super::transfer::{Failure, Transfer};
use super::worker::{Fetcher, LinkEnd, further};
use super::{Run, blocking, reach, running, scripted};
use crate::log::outcome::Outcome;
use crate::log::schema::{Event, Reconciled};
use crate::output;
use crate::shape::active_shaping::Counters;
use crate::shape::control::server::ControlServer;
use crate::text::{duration, tell};
use crate::units::{Direction, LinkId};

/// A run that was prepared, and the results of its transfer so far.
pub(crate) struct Fetched {
    pub ready: Ready,
    /// The time that measuring the links before the transfer took.
    pub probe_ms: f64,
    pub reconciled: [Option<Reconciled>; 2],
    /// Packets that each link's queue marked on the way down.
    pub marked: [Option<u64>; 2],
    pub sync_ms: Option<f64>,
}

impl Fetched {
    pub(crate) fn new(ready: Ready) -> Fetched {
        Fetched { ready, probe_ms: 0.0, reconciled: [None; 2], marked: [None; 2], sync_ms: None }
    }

    /// Fetches everything, and says whether it was what the links carried.
    pub(crate) async fn fetch(&mut self, run: &Run<'_>) -> Result<(), Failure> {
        let (config, ready) = (run.config, &self.ready);
        let script = run.links.script.clone().unwrap_or_default();
        let told = run.bars && output::is_text();
        if run.bars && output::on_terminal() {
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
            if told {
                progress::tell_probe(expected::probe_s(&run.links));
            }
            probe_links(ready, config.probe, told).await?;
            self.probe_ms = started.elapsed().as_secs_f64() * 1e3;
        }
        let names = run.links.names();
        let files = ready.transfer.segments.len() as u64;
        let bars = Bars::new(run.bars, files, &config.servers, names.each_ref().map(Option::as_deref));
        let before = read(&ready.links).await?;
        tell_shaped_rates(&ready.transfer, &before);
        let fetching = fetch_all(ready);
        let mut sampler = Sampler::new(ready.transfer.clone(), ready.links.clone());
        // The sampler ends only when it cannot go on, and then neither can the run.
        let outcome = tokio::select! {
            outcome = fetching => outcome,
            error = sampler.run(&bars) => Err(error),
            error = scripted::play(script, ready.transfer.clone(), ready.links.clone()) => Err(error),
            () = tell_of_standstills(&ready.transfer) => Ok(()),
        };
        bars.finish(&ready.transfer);
        if outcome.is_ok() {
            sampler.last().await?;
        }
        outcome?;
        let after = read(&ready.links).await?;
        self.reconciled = LinkId::BOTH.map(|link| reconciled(ready, link, [&before, &after]));
        self.marked = LinkId::BOTH.map(|link| {
            let marked = |reading: &CounterReading| reading.counters(link, Direction::Down)?.marked;
            marked(&after)?.checked_sub(marked(&before)?)
        });
        if config.sync {
            let started = Instant::now();
            let names = ready.transfer.segments.iter().map(|segment| segment.name.as_str());
            ready.transfer.store.sync(names).map_err(|error| Failure::new(Outcome::Store, error))?;
            self.sync_ms = Some(started.elapsed().as_secs_f64() * 1e3);
        }
        Ok(())
    }
}

async fn read(links: &Arc<Links>) -> Result<CounterReading, Failure> {
    let links = links.clone();
    blocking(move || links.read()).await
}

/// Whether what a link's shaper counted between two readings is what the application received.
fn reconciled(ready: &Ready, link: LinkId, readings: [&CounterReading; 2]) -> Option<Reconciled> {
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
        retransmits: metrics.retransmits(),
        spoilt,
        mss_bytes: metrics.mss_bytes() as u64,
        ipv6: ready.is_ipv6(link),
        in_flight_bytes,
        connections: metrics.connections(),
    }))
}

/// Measures the links, logs the measurements and, where they are `told`, gives a person the verdict in a line.
///
/// # Errors
/// A link that is not what its profile says, where that is to end the run.
async fn probe_links(ready: &Ready, when: When, told: bool) -> Result<(), Failure> {
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
        (true, _) => {
            if told {
                tell("both links are within tolerance of their profiles");
            }
            Ok(())
        }
        (false, When::On) => {
            let go_on = if output::in_compose() {
                "TWINLINK_PROBE=warn docker compose up --exit-code-from client"
            } else {
                "--probe warn"
            };
            let error = anyhow!("cannot rely on the links: {}; to run all the same: {go_on}", bad.join(" "));
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
    // Neither counts as away while its task has yet to begin.
    for (link, stream) in [(LinkId::A, &a), (LinkId::B, &b)] {
        let rtt = origin::rtt_of(stream).unwrap_or_default();
        ready.transfer.schedule(|scheduler, now| scheduler.opened(link, now, rtt));
    }
    let further = further::open_first(ready).await;
    // Every run meets a trace from its beginning, however long the preparation took.
    let links = ready.links.clone();
    blocking(move || links.play()).await?;
    let mut at_work = JoinSet::new();
    for (link, stream) in [(LinkId::A, a), (LinkId::B, b)] {
        let origins = [link, link.other()].map(|link| ready.origins[link].clone());
        let [origin, other] = origins;
        let fetcher = Fetcher::new(ready.transfer.clone(), origin, other, &ready.capabilities[link]);
        at_work.spawn(fetcher.run(stream));
    }
    let further = further::keep(ready, further);
    tokio::pin!(further);
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
            failure = &mut further => return Err(failure),
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
