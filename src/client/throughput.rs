//! What links carry: bulk TCP over one or both of them for a while, counted and thrown away.
//!
//! Nothing is kept, verified or scheduled here. What is measured is goodput as a run sees it, payload
//! of HTTP bodies on one connection a link, without the time in which a connection finds its rate.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, sleep_until};

use super::bulk::{Received, Source};
use super::job::Failure;
use super::links::Links;
use super::peer::Peer;
use super::prepare::shape;
use super::signals::Signals;
use super::{Args, Asked, blocking, listing, unshape};
use crate::record::{Log, PerLink};
use crate::units::{Direction, LinkId};

/// The part of the time in which a connection finds its rate, and which does not count.
const WARM_UP: f64 = 0.25;
/// How long the queues may take to drain between two measurements.
const DRAIN: Duration = Duration::from_secs(10);

/// Goodput of each link, kbit/s.
#[derive(Clone, Debug)]
pub struct Found {
    /// While the other link rests.
    pub alone_kbit: PerLink<f64>,
    /// While both are busy.
    pub together_kbit: PerLink<f64>,
}

/// Shapes the links, measures each alone and then both at once, for `span` each, and clears them.
///
/// # Errors
/// A server cannot be reached or sends nothing, the links cannot be shaped or cleared, or a signal.
pub async fn measure(
    args: &Args,
    asked: Asked,
    span: Duration,
    log: &Arc<Log>,
    signals: &mut Signals,
) -> Result<Found, Failure> {
    let mut links = None;
    let mut found = None;
    let measuring = async {
        found = Some(measure_all(args, asked, span, log, &mut links).await?);
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = measuring => outcome,
        interrupted = signals.next() => Err(interrupted),
    };
    unshape(links, outcome).await?;
    found.ok_or_else(|| Failure::new("internal", anyhow::anyhow!("a measurement found nothing")))
}

async fn measure_all(
    args: &Args,
    asked: Asked,
    span: Duration,
    log: &Arc<Log>,
    kept: &mut Option<Arc<Links>>,
) -> Result<Found, Failure> {
    let unreachable = |error| Failure::new("unreachable", error);
    let resolve = |link: LinkId| Peer::resolve(link, &args.servers[link.index()], args.congestion.clone());
    let (a, b) = tokio::try_join!(resolve(LinkId::A), resolve(LinkId::B)).map_err(unreachable)?;
    let links = kept.insert(shape(args, asked, [&a, &b], log).await?).clone();
    let patience = args.give_up.0;
    let (ia, ib) = tokio::try_join!(a.introduce(patience), b.introduce(patience)).map_err(unreachable)?;
    let files = listing::agree(args.files.as_deref(), ia.list, ib.list)
        .map_err(|error| Failure::new("lists_differ", error))?;
    let paths: Vec<String> = files.into_iter().map(|file| file.path).collect();
    let [a, b] = [(&a, ia.keeps_alive), (&b, ib.keeps_alive)].map(|(peer, keeps_alive)| Source {
        peer,
        paths: &paths,
        keeps_alive,
        window_bytes: None,
    });
    drained(&links).await?;
    let alone_a = goodput_kbit(&a, span).await.map_err(unreachable)?;
    drained(&links).await?;
    let alone_b = goodput_kbit(&b, span).await.map_err(unreachable)?;
    drained(&links).await?;
    let (together_a, together_b) =
        tokio::try_join!(goodput_kbit(&a, span), goodput_kbit(&b, span)).map_err(unreachable)?;
    Ok(Found {
        alone_kbit: PerLink { a: alone_a, b: alone_b },
        together_kbit: PerLink { a: together_a, b: together_b },
    })
}

/// Waits until nothing is left in the links of what was asked for before.
async fn drained(links: &Arc<Links>) -> Result<(), Failure> {
    let until = Instant::now() + DRAIN;
    while Instant::now() < until {
        let reading = links.clone();
        let reading = blocking(move || reading.read()).await?;
        let queued = |link, direction| reading.shaping(link, direction).map_or(0, |s| s.queue_packets);
        if LinkId::BOTH.iter().all(|&link| Direction::BOTH.iter().all(|&d| queued(link, d) == 0)) {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
    // A link on which others send too never is empty; the measurement then has them in it.
    tracing::warn!("the links' queues did not drain in {} s", DRAIN.as_secs());
    Ok(())
}

/// The goodput of bodies over `span` after its warm-up.
async fn goodput_kbit(source: &Source<'_>, span: Duration) -> Result<f64> {
    let received = Received::default();
    let start = Instant::now();
    let (warm, end) = (start + span.mul_f64(WARM_UP), start + span);
    let before = async {
        sleep_until(warm).await;
        let (at, bytes) = (Instant::now(), received.body());
        sleep_until(end).await;
        let spent_s = at.elapsed().as_secs_f64();
        (received.body() - bytes) as f64 * 8e-3 / spent_s
    };
    let kbit = tokio::select! {
        error = source.pull(&received, span) => return Err(error),
        kbit = before => kbit,
    };
    if kbit <= 0.0 {
        bail!(
            "{} sent nothing for {:.1} s; give the experiment a longer throughput",
            source.peer,
            span.as_secs_f64()
        );
    }
    Ok(kbit)
}
