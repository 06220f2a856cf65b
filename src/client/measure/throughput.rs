//! Measures the throughput of links: bulk TCP over one or both of them, counted and discarded.
//!
//! Nothing is kept, verified or scheduled here. The result is goodput as a run sees it, payload of HTTP
//! bodies on one connection a link, without the time in which a connection finds its rate. That time follows
//! the round trip: it counts from when the goodput has stopped growing, for at least ten round trips.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

use super::load::{LoadSource, Received};
use super::meter::{GLANCE, Meter, SEGMENT_BYTES};
use crate::client::config::RunConfig;
use crate::client::links::Links;
use crate::client::origin::{Origin, rtt_of};
use crate::client::prepare::shape;
use crate::client::signals::Signals;
use crate::client::transfer::Failure;
use crate::client::{blocking, running, unshape};
use crate::log::outcome::Outcome;
use crate::log::schema::{Log, PerLink};
use crate::manifest;
use crate::shape::setup::LinkSetup;
use crate::text::duration;
use crate::units::{Direction, LinkId};

/// How long the queues may take to drain between two measurements.
const DRAIN: Duration = Duration::from_secs(10);

/// Goodput of each link, kbit/s.
#[derive(Clone, Debug)]
pub(crate) struct MeasuredThroughput {
    /// While the other link rests.
    pub alone_kbit: PerLink<f64>,
    /// While both are busy.
    pub together_kbit: PerLink<f64>,
    /// Links of which a connection had not stopped growing when it was measured, so that they carry more.
    pub unsettled: Vec<LinkId>,
}

/// Shapes the links, measures each alone and then both at once, for `span` each, and clears them.
///
/// # Errors
/// A server cannot be reached or sends nothing, the links cannot be shaped or cleared, or a signal.
pub(crate) async fn measure(
    config: &RunConfig,
    setup: LinkSetup,
    span: Duration,
    log: &Arc<Log>,
    signals: &mut Signals,
) -> Result<MeasuredThroughput, Failure> {
    let mut links = None;
    let mut found = None;
    let measuring = async {
        found = Some(measure_all(config, setup, span, log, &mut links).await?);
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = measuring => outcome,
        interrupted = signals.next() => Err(interrupted),
    };
    unshape(links, outcome).await?;
    found.ok_or_else(|| Failure::new(Outcome::Internal, anyhow::anyhow!("a measurement found nothing")))
}

async fn measure_all(
    config: &RunConfig,
    setup: LinkSetup,
    span: Duration,
    log: &Arc<Log>,
    kept: &mut Option<Arc<Links>>,
) -> Result<MeasuredThroughput, Failure> {
    let unreachable = |error| Failure::new(Outcome::Unreachable, error);
    let resolve = |link: LinkId| Origin::resolve(link, &config.servers[link], config.congestion.clone());
    let (a, b) = tokio::try_join!(resolve(LinkId::A), resolve(LinkId::B)).map_err(unreachable)?;
    let links = kept.insert(shape(setup, [&a, &b], config.backend, config.seed, log).await?).clone();
    let give_up = config.give_up;
    let (ia, ib) = tokio::try_join!(a.query_capabilities(give_up), b.query_capabilities(give_up))
        .map_err(unreachable)?;
    let files = manifest::agree(config.files.as_deref(), ia.list, ib.list)
        .map_err(|error| Failure::new(Outcome::ListsDiffer, error))?;
    let paths: Vec<String> = files.into_iter().map(|file| file.path).collect();
    let [a, b] = [(&a, ia.keeps_alive), (&b, ib.keeps_alive)].map(|(origin, keeps_alive)| LoadSource {
        origin,
        paths: &paths,
        keeps_alive,
        window_bytes: None,
    });
    drained(&links).await?;
    let alone_a = goodput(&a, span, give_up).await.map_err(unreachable)?;
    drained(&links).await?;
    let alone_b = goodput(&b, span, give_up).await.map_err(unreachable)?;
    drained(&links).await?;
    let both = both(&a, &b, span, give_up).await.map_err(unreachable)?;
    let unsettled = LinkId::BOTH.into_iter().zip([[&alone_a, &both.a], [&alone_b, &both.b]]);
    let unsettled = unsettled.filter(|(_, found)| found.iter().any(|found| !found.settled));
    Ok(MeasuredThroughput {
        alone_kbit: PerLink { a: alone_a.kbit, b: alone_b.kbit },
        together_kbit: PerLink { a: both.a.kbit, b: both.b.kbit },
        unsettled: unsettled.map(|(link, _)| link).collect(),
    })
}

/// Waits until nothing is left in the links of what was asked for before.
async fn drained(links: &Arc<Links>) -> Result<(), Failure> {
    let until = Instant::now() + DRAIN;
    while Instant::now() < until {
        let reading = links.clone();
        let reading = blocking(move || reading.read()).await?;
        let queued = |link, direction| reading.counters(link, direction).map_or(0, |s| s.queue_packets);
        if LinkId::BOTH.iter().all(|&link| Direction::BOTH.iter().all(|&d| queued(link, d) == 0)) {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
    // A link on which others send too never is empty; the measurement then has them in it.
    tracing::warn!("the links' queues did not drain in {}", duration(DRAIN));
    Ok(())
}

/// The rate of one transfer.
struct TransferRate {
    kbit: f64,
    /// Whether it had stopped growing.
    settled: bool,
}

/// The goodput of bodies for `span`, or ten round trips if that is longer, once it has stopped growing.
async fn goodput(source: &LoadSource<'_>, span: Duration, give_up: Duration) -> Result<TransferRate> {
    let rtt_s = rtt_s(source, give_up).await?;
    let received = Received::default();
    tokio::select! {
        error = source.pull(&received, give_up) => Err(error),
        found = watch(source, &received, rtt_s, span, give_up) => found,
    }
}

/// The same of both links, each of which goes on until the other is measured too.
async fn both(
    a: &LoadSource<'_>,
    b: &LoadSource<'_>,
    span: Duration,
    give_up: Duration,
) -> Result<PerLink<TransferRate>> {
    let (rtt_a, rtt_b) = tokio::try_join!(rtt_s(a, give_up), rtt_s(b, give_up))?;
    let (received_a, received_b) = (Received::default(), Received::default());
    let watching = async {
        tokio::try_join!(
            watch(a, &received_a, rtt_a, span, give_up),
            watch(b, &received_b, rtt_b, span, give_up)
        )
    };
    tokio::select! {
        error = a.pull(&received_a, give_up) => Err(error),
        error = b.pull(&received_b, give_up) => Err(error),
        found = watching => found.map(|(a, b)| PerLink { a, b }),
    }
}

/// Idle round trip (s), that of a handshake.
async fn rtt_s(source: &LoadSource<'_>, give_up: Duration) -> Result<f64> {
    let stream = source.origin.connect(give_up).await?;
    let rtt = rtt_of(&stream).with_context(|| format!("cannot read the round trip to {}", source.origin))?;
    Ok(rtt.as_secs_f64())
}

async fn watch(
    source: &LoadSource<'_>,
    received: &Received,
    rtt_s: f64,
    span: Duration,
    give_up: Duration,
) -> Result<TransferRate> {
    let started = Instant::now();
    let mut meter = Meter::lasting(rtt_s, SEGMENT_BYTES, span.as_secs_f64());
    let mut progress = (running::now(), 0);
    loop {
        sleep(GLANCE).await;
        let (now, bytes) = (Instant::now(), received.body());
        if bytes > progress.1 {
            progress = (running::now(), bytes);
        } else if running::now() - progress.0 > give_up {
            bail!("{} sent nothing for {}", source.origin, duration(give_up));
        }
        if let Some(rate) = meter.note((now - started).as_secs_f64(), bytes) {
            return Ok(TransferRate { kbit: rate * 8e-3, settled: meter.settled() });
        }
    }
}
