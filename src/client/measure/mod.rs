//! Measures what each link does to packets before a transfer relies on it: idle round trip, then rate
//! and loss each way, held against the profile in force.
//!
//! The recipe. [`meter`] finds the steady part of a transfer, [`verdict`] compares (both pure),
//! [`self::load`] moves the bytes, [`probe`] is `twinlink link probe`. It shapes nothing itself.

pub(crate) mod expected;
pub(crate) mod load;
pub(crate) mod meter;
pub(crate) mod reconciliation;
pub(crate) mod throughput;
pub(crate) mod verdict;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

use self::load::{LoadSource, Received, Sent};
use crate::bound::payload_share;
use crate::client::capabilities::ServerCapabilities;
use crate::client::origin::{Origin, rtt_of};
use crate::client::{blocking, running};
use crate::config::profile::Shape;
use crate::log::schema::{PerLink, Probe};
use crate::shape::active_shaping::ActiveShaping;
use crate::text::duration;
use crate::units::{Direction, LinkId};
use meter::{Backlog, GLANCE, Meter, Passed, SEGMENT_BYTES, ShaperReading};
use verdict::RoundTrips;

/// Whether links are measured before a run, and what a failed verdict does to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum When {
    #[default]
    Off,
    /// A link that is not what its profile says ends the run.
    On,
    /// It is logged, and the run goes on.
    Warn,
}

/// Reads the links in force and their counters, a row per link and direction.
pub(crate) type Rows = Arc<dyn Fn() -> Result<Vec<ActiveShaping>> + Send + Sync>;

/// Every how many looks at a transfer the shaper is looked at.
const GLANCES_PER_READING: u32 = 4;
/// Handshakes for the idle round trip: some, more where the link has jitter, fewer on a slow one.
const HANDSHAKES: (usize, usize) = (5, 15);
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// How long queues may take to drain beyond their own length.
const DRAIN: Duration = Duration::from_secs(5);
/// The least window, in full segments: with fewer, acknowledgements are delayed.
const LEAST_WINDOW: f64 = 4.0;

/// Both links, ready to be measured.
pub(crate) struct Prober {
    pub origins: PerLink<Origin>,
    /// Whether each server keeps connections open between answers.
    pub keeps_alive: PerLink<bool>,
    /// The paths to request, in a loop.
    pub paths: Vec<String>,
    pub rows: Rows,
    /// How long a server may be silent.
    pub give_up: Duration,
    /// How late the shapers let packets go: whose, and when it was read.
    late: Mutex<Vec<(Instant, LinkId, ProbeLateness)>>,
}

/// By how much this machine was behind its time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ProbeLateness {
    /// The most by which a packet left the shaper late (ms); `None` where the backend does not say.
    pub packets_ms: Option<f64>,
    /// The most by which this program woke up late (ms).
    pub woken_ms: f64,
}

impl ProbeLateness {
    fn worse(self, other: ProbeLateness) -> ProbeLateness {
        let packets_ms = self.packets_ms.into_iter().chain(other.packets_ms).reduce(f64::max);
        ProbeLateness { packets_ms, woken_ms: self.woken_ms.max(other.woken_ms) }
    }
}

/// The result of a bulk transfer in one direction.
#[derive(Default)]
struct BulkResult {
    goodput_kbit: f64,
    mss_bytes: f64,
    /// The shaper's rate over the same time as the goodput.
    shaper_kbit: Option<f64>,
    /// The shaper's rate while its bottleneck was busy.
    busy_kbit: Option<f64>,
    /// Bytes that TCP delivered beyond all that the shaper let pass.
    beside_bytes: u64,
    late: ProbeLateness,
    /// Packets lost, and all that were sent, by the shaper's counters.
    lost: Option<(u64, u64)>,
    /// The profile was changed meanwhile.
    changed: bool,
}

impl Prober {
    pub(crate) fn new(
        origins: PerLink<Origin>,
        capabilities: &PerLink<ServerCapabilities>,
        paths: Vec<String>,
        rows: Rows,
        give_up: Duration,
    ) -> Prober {
        let keeps_alive = PerLink { a: capabilities.a.keeps_alive, b: capabilities.b.keeps_alive };
        Prober { origins, keeps_alive, paths, rows, give_up, late: Mutex::default() }
    }

    /// Measures both links, each way. Links of their own are measured at the same time, as they are
    /// used; those on a shared channel one after the other, since together they are not alone.
    ///
    /// # Errors
    /// A server or the shaper does not answer. A link that is not as it should be is no error.
    pub(crate) async fn measure(&self) -> Result<Vec<Probe>> {
        let on_channel = self.rows().await?.iter().any(|row| row.airtimes.is_some());
        let [a, b] = LinkId::BOTH;
        let (a, b) = if on_channel {
            let first = self.link(a, self.round_trips(a).await?).await?;
            (first, self.link(b, self.round_trips(b).await?).await?)
        } else {
            // Idle means both: the machine is busy while one of them is filled.
            let (trips_a, trips_b) = tokio::try_join!(self.round_trips(a), self.round_trips(b))?;
            tokio::try_join!(self.link(a, trips_a), self.link(b, trips_b))?
        };
        Ok(a.into_iter().chain(b).collect())
    }

    /// One link, and once more where the first verdict is bad: a machine that was busy for a moment is
    /// no fault of the link's.
    async fn link(&self, link: LinkId, trips: (RoundTrips, ProbeLateness)) -> Result<[Probe; 2]> {
        let first = self.both_ways(link, trips).await?;
        if first.iter().all(|probe| probe.ok != Some(false)) {
            return Ok(first);
        }
        let trips = self.round_trips(link).await?;
        let mut second = self.both_ways(link, trips).await?;
        for (before, after) in first.iter().zip(&mut second) {
            after.took_ms += before.took_ms;
            after.verdict =
                format!("At the second attempt: {} At the first: {}", after.verdict, before.verdict);
        }
        Ok(second)
    }

    async fn both_ways(
        &self,
        link: LinkId,
        (trips, late): (RoundTrips, ProbeLateness),
    ) -> Result<[Probe; 2]> {
        let down = self.one_way(link, Direction::Down, &trips, late).await?;
        let up = self.one_way(link, Direction::Up, &trips, late).await?;
        Ok([down, up])
    }

    async fn rows(&self) -> Result<Vec<ActiveShaping>> {
        let rows = self.rows.clone();
        let rows = blocking(move || rows()).await.map_err(|failure| failure.error)?;
        // A shaper tells its lateness since it was asked last, and both links' measurements ask it.
        let now = Instant::now();
        let mut late = self.late.lock().expect("nobody panics while holding what was late");
        late.extend(rows.iter().map(|row| {
            (now, row.link, ProbeLateness { packets_ms: row.counters.lateness_ms, woken_ms: 0.0 })
        }));
        drop(late);
        Ok(rows)
    }

    /// How late a link's shapers were from a time on.
    fn late_since(&self, link: LinkId, since: Instant) -> ProbeLateness {
        let late = self.late.lock().expect("nobody panics while holding what was late");
        let of_link = late.iter().filter(|(at, of, _)| *of == link && *at >= since);
        of_link.fold(ProbeLateness::default(), |worst, (_, _, late)| worst.worse(*late))
    }

    /// The rows of one link, this direction's first.
    async fn rows_of(
        &self,
        link: LinkId,
        direction: Direction,
    ) -> Result<Option<(ActiveShaping, Option<ActiveShaping>)>> {
        let mut rows: Vec<ActiveShaping> =
            self.rows().await?.into_iter().filter(|row| row.link == link).collect();
        let Some(own) = rows.iter().position(|row| row.direction == direction) else { return Ok(None) };
        let own = rows.remove(own);
        Ok(Some((own, rows.pop())))
    }

    /// Idle round trips, by TCP handshakes: what they are for is timed by the kernel, not by a thread.
    async fn round_trips(&self, link: LinkId) -> Result<(RoundTrips, ProbeLateness)> {
        let rows = self.rows_of(link, Direction::Down).await?;
        let asked = Instant::now();
        let jitter: Duration = rows.map_or(Duration::ZERO, |(own, other)| {
            [Some(own), other].iter().flatten().map(|row| row.shape.jitter.0).sum()
        });
        let wanted = if jitter.is_zero() { HANDSHAKES.0 } else { HANDSHAKES.1 };
        let origin = &self.origins[link];
        let (started, mut trips) = (Instant::now(), Vec::new());
        let mut open = Vec::new();
        while trips.len() < wanted && (trips.len() < HANDSHAKES.0 || started.elapsed() < HANDSHAKE_TIME) {
            let stream = origin.connect(self.give_up).await?;
            let trip = rtt_of(&stream).with_context(|| format!("cannot read the round trip to {origin}"))?;
            trips.push(trip.as_secs_f64() * 1e3);
            // Packets keep their order, so one that follows closely would wait for a late one.
            open.push(stream);
            sleep(jitter * 2).await;
        }
        self.rows().await?;
        Ok((RoundTrips(trips), self.late_since(link, asked)))
    }

    async fn one_way(
        &self,
        link: LinkId,
        direction: Direction,
        trips: &RoundTrips,
        late: ProbeLateness,
    ) -> Result<Probe> {
        let started = Instant::now();
        let rows = self.rows_of(link, direction).await?;
        let rtt_s = trips.median_ms().unwrap_or_default() / 1e3;
        let found = match direction {
            Direction::Down => Some(self.down(link, rtt_s, rows.as_ref()).await?),
            Direction::Up => self.up(link, rtt_s, rows.as_ref()).await?,
        };
        self.drain(link, rtt_s).await?;
        let ipv6 = self.origins[link].address.ip().to_canonical().is_ipv6();
        let mut probe = judge(trips, late, rows.as_ref(), found.as_ref(), ipv6);
        (probe.link, probe.direction) = (link, direction);
        probe.took_ms = started.elapsed().as_secs_f64() * 1e3;
        Ok(probe)
    }

    async fn down(
        &self,
        link: LinkId,
        rtt_s: f64,
        rows: Option<&(ActiveShaping, Option<ActiveShaping>)>,
    ) -> Result<BulkResult> {
        let source = LoadSource {
            origin: &self.origins[link],
            paths: &self.paths,
            keeps_alive: self.keeps_alive[link],
            window_bytes: window_bytes(rows),
        };
        let received = Received::default();
        let seen = || (received.all(), received.mss_bytes.load(Ordering::Relaxed));
        tokio::select! {
            error = source.pull(&received, self.give_up) => Err(error),
            found = self.watch((link, Direction::Down), rtt_s, rows, seen) => found,
        }
    }

    /// `None` where the server has no such way.
    async fn up(
        &self,
        link: LinkId,
        rtt_s: f64,
        rows: Option<&(ActiveShaping, Option<ActiveShaping>)>,
    ) -> Result<Option<BulkResult>> {
        let origin = &self.origins[link];
        let Some(pipeline) = load::open_sink(origin, self.give_up).await? else { return Ok(None) };
        let (sent, stop) = (Sent::default(), AtomicBool::new(false));
        let seen = || (sent.acked_bytes.load(Ordering::Relaxed), sent.mss_bytes.load(Ordering::Relaxed));
        let pushing = load::push(pipeline, origin, window_bytes(rows), &sent, &stop);
        tokio::pin!(pushing);
        let found = tokio::select! {
            ended = &mut pushing => match ended {
                Err(error) => return Err(error),
                Ok(()) => bail!("an upload to {origin} was over before it could be measured"),
            },
            found = self.watch((link, Direction::Up), rtt_s, rows, seen) => found?,
        };
        stop.store(true, Ordering::Relaxed);
        // The result stays, even if the upload's end fails.
        match running::timeout(self.give_up, pushing).await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::debug!("the end of an upload: {error:#}"),
            None => tracing::debug!("the end of an upload took too long"),
        }
        Ok(Some(found))
    }

    /// Looks at a transfer, and at what its shaper counts, until both are known. `seen` tells the bytes
    /// so far and the payload of a full segment.
    async fn watch(
        &self,
        (link, direction): (LinkId, Direction),
        rtt_s: f64,
        rows: Option<&(ActiveShaping, Option<ActiveShaping>)>,
        seen: impl Fn() -> (u64, u64),
    ) -> Result<BulkResult> {
        let started = Instant::now();
        let since = |at: Instant| (at - started).as_secs_f64();
        let mut meter = Meter::new(rtt_s, SEGMENT_BYTES);
        let mut backlog = rows.map(|(own, other)| Backlog::new(own, other.as_ref()));
        let mut passed = rows.map(|(own, other)| Passed::new(own, other.as_ref()));
        let (mut last, mut seen_bytes) = (None, 0);
        let (mut progress, mut glances, mut woken) = ((running::now(), 0), 0, Duration::ZERO);
        let mut read_at = started;
        let rate = loop {
            let slept = Instant::now();
            sleep(GLANCE).await;
            let (bytes, _) = seen();
            let now = Instant::now();
            woken = woken.max((now - slept).saturating_sub(GLANCE));
            if bytes > progress.1 {
                progress = (running::now(), bytes);
            } else if running::now() - progress.0 > self.give_up {
                let (origin, silent) = (&self.origins[link], duration(self.give_up));
                bail!("nothing passed between here and {origin} for {silent}");
            }
            if let Some(rate) = meter.note(since(now), bytes) {
                break rate;
            }
            glances += 1;
            if let (Some(passed), Some(backlog)) = (&mut passed, &mut backlog)
                && glances % GLANCES_PER_READING == 0
            {
                let asked = Instant::now();
                let Some((own, _)) = self.rows_of(link, direction).await? else { continue };
                let reading = ShaperReading {
                    asked_s: since(asked),
                    answered_s: since(Instant::now()),
                    bytes: own.counters.bytes,
                    // The other link's measurement may have been told of it first.
                    late_s: self.late_since(link, read_at).packets_ms.unwrap_or_default() / 1e3,
                };
                read_at = asked;
                passed.note(reading);
                backlog.note(reading, own.counters.queue_bytes);
                seen_bytes = bytes;
                last = Some(own);
            }
        };
        let before = rows.map(|(own, _)| own);
        let pair = before.zip(last.as_ref());
        let let_pass = pair.map(|(before, after)| after.counters.bytes.saturating_sub(before.counters.bytes));
        let from_s = meter.steady_from_s().unwrap_or_default();
        let woken_ms = woken.as_secs_f64() * 1e3;
        Ok(BulkResult {
            goodput_kbit: rate * 8e-3,
            mss_bytes: seen().1 as f64,
            shaper_kbit: passed.and_then(|passed| passed.rate_kbit(from_s, since(Instant::now()))),
            busy_kbit: backlog.and_then(|mut backlog| backlog.rate_kbit()),
            beside_bytes: let_pass.map_or(0, |let_pass| seen_bytes.saturating_sub(let_pass)),
            late: self.late_since(link, started).worse(ProbeLateness { packets_ms: None, woken_ms }),
            lost: pair.map(|(before, after)| losses(before, after)),
            changed: pair.is_some_and(|(before, after)| changed(before, after)),
        })
    }

    /// Waits until nothing of a measurement is left in the link.
    async fn drain(&self, link: LinkId, rtt_s: f64) -> Result<()> {
        sleep(Duration::from_secs_f64(rtt_s)).await;
        let started = Instant::now();
        loop {
            let rows: Vec<ActiveShaping> =
                self.rows().await?.into_iter().filter(|row| row.link == link).collect();
            let longest = rows.iter().map(|row| row.shape.queue_time()).max().unwrap_or_default();
            if rows.iter().all(|row| row.counters.queue_packets == 0) {
                return Ok(());
            }
            if started.elapsed() > longest + DRAIN {
                tracing::warn!("link {link} did not drain: something else is using it too");
                return Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Returns the bytes in flight on the link itself plus half of its queue: with so many the queue is never
/// full, so that only the link's own loss drops packets.
fn window_bytes(rows: Option<&(ActiveShaping, Option<ActiveShaping>)>) -> Option<u64> {
    let (own, other) = rows?;
    let line = |shape: &Shape| (shape.delay.0 + shape.jitter.0).as_secs_f64();
    let rtt_s = line(&own.shape) + other.as_ref().map_or(0.0, |other| line(&other.shape));
    let held_s = rtt_s + own.shape.queue_time().as_secs_f64() / 2.0;
    Some((own.shape.rate.bytes_per_s() * held_s).max(LEAST_WINDOW * SEGMENT_BYTES) as u64)
}

/// Packets lost between two readings, and all that were sent. Where the kernel counts losses and full
/// queues as one, all are losses: the window does not fill the queue.
fn losses(before: &ActiveShaping, after: &ActiveShaping) -> (u64, u64) {
    let lost = |row: &ActiveShaping| row.counters.dropped_loss.unwrap_or(row.counters.dropped_queue);
    let lost = lost(after).saturating_sub(lost(before));
    (lost, lost + after.counters.packets.saturating_sub(before.counters.packets))
}

/// Whether another profile came into force between two readings. A trace's own steps are no such thing.
fn changed(before: &ActiveShaping, after: &ActiveShaping) -> bool {
    before.trace != after.trace || (after.trace.is_none() && before.shape != after.shape)
}

/// Holds what was found against what is in force. Link, direction and time are the caller's to fill in.
fn judge(
    trips: &RoundTrips,
    late: ProbeLateness,
    rows: Option<&(ActiveShaping, Option<ActiveShaping>)>,
    found: Option<&BulkResult>,
    ipv6: bool,
) -> Probe {
    let own = rows.map(|(own, _)| own);
    let shape = own.filter(|row| row.airtimes.is_none() && row.trace.is_none()).map(|row| &row.shape);
    let (mut compared, mut notes) = (Vec::new(), Vec::new());
    match own {
        None => notes.push("the link is not shaped, so there is nothing to compare".to_string()),
        Some(row) if row.airtimes.is_some() => {
            notes.push("on a shared channel the rate depends on who else sends: not compared".to_string());
        }
        Some(row) if row.trace.is_some() => {
            notes.push("the link follows a trace, so it has no one rate to compare".to_string());
        }
        Some(_) => {}
    }
    let rtt_ms = trips.median_ms();
    let other = rows.and_then(|(_, other)| other.as_ref()).filter(|row| row.trace.is_none());
    let other = other.map(|row| &row.shape);
    let rtt = shape.zip(other).map(|(own, other)| verdict::rtt_expected_ms(own, other, trips.0.len()));
    if let (Some(found), Some((expected, tolerance))) = (rtt_ms, rtt) {
        compared.push(verdict::compare_rtt(found, expected, tolerance));
    }
    let steady = found.filter(|found| !found.changed);
    let (mut rate_kbit, mut rate_from) = (None, None);
    match steady {
        Some(found) if own.is_none() => {
            rate_kbit = Some(found.goodput_kbit / payload_share(found.mss_bytes, ipv6));
            rate_from = Some("payload".to_string());
        }
        Some(found) => {
            let fills = shape.is_none_or(verdict::tcp_fills);
            rate_kbit = if fills { found.shaper_kbit } else { found.busy_kbit };
            rate_from = rate_kbit.map(|_| "shaper".to_string());
            match (rate_kbit, fills) {
                (None, true) => notes.push("the shaper was read too seldom, so the rate is not known".into()),
                (None, false) => {
                    notes.push("TCP did not keep this lossy link busy, so its rate is not known".into());
                }
                (Some(_), _) => {}
            }
        }
        None if found.is_some() => notes.push("the profile was changed during the measurement".into()),
        None => notes.push("the server takes no PUT /sink, so the way up was not measured".into()),
    }
    if let (Some(rate), Some(shape)) = (rate_kbit, shape) {
        compared.push(verdict::compare_rate(rate, shape.rate.kbit()));
    }
    let lost = steady.and_then(|found| found.lost).filter(|(_, packets)| *packets > 0);
    if let (Some((lost, packets)), Some(shape)) = (lost, shape) {
        compared.push(verdict::compare_loss(shape.loss, lost, packets));
    }
    compared.extend(steady.map(|found| found.beside_bytes).filter(|&bytes| bytes > 0).map(verdict::beside));
    let late = found.map_or(late, |found| late.worse(found.late));
    let (ok, verdict) = verdict::sum_up(&compared, &notes, late);
    Probe {
        link: LinkId::A,
        direction: Direction::Down,
        rtt_ms,
        rtt_expected_ms: rtt.map(|(expected, _)| expected),
        rate_kbit,
        rate_expected_kbit: shape.map(|shape| shape.rate.kbit()),
        rate_from,
        goodput_kbit: found.map(|found| carried_kbit(found, ipv6)),
        loss_pct: lost.map(|(lost, packets)| lost as f64 * 100.0 / packets as f64),
        loss_expected_pct: shape.map(|shape| shape.loss.mean().percent()),
        late_ms: late.packets_ms,
        ok,
        verdict,
        took_ms: 0.0,
    }
}

/// The goodput, which cannot be more than what the shaper let pass in the same time.
fn carried_kbit(found: &BulkResult, ipv6: bool) -> f64 {
    let most = found.shaper_kbit.map(|rate| rate * payload_share(found.mss_bytes, ipv6));
    most.map_or(found.goodput_kbit, |most| found.goodput_kbit.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goodput_is_no_more_than_the_shaper_let_pass() {
        // Bytes behind a lost packet became readable at once.
        let heap = BulkResult { goodput_kbit: 14_590.0, mss_bytes: 1448.0, ..BulkResult::default() };
        let shaped = BulkResult { shaper_kbit: Some(11_990.0), ..heap };
        let carried = carried_kbit(&shaped, false);
        assert!((carried - 11_990.0 * 1448.0 / 1514.0).abs() < 1e-6, "{carried}");
        assert_eq!(carried_kbit(&BulkResult { shaper_kbit: None, ..shaped }, false), 14_590.0);
    }
}
