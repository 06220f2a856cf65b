//! Ten times a second: how far each link has come, what its TCP and its shaper say; the schedule is told the rates
//! that the links are shaped to.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::time::{MissedTickBehavior, interval};

use super::blocking;
use super::links::{CounterReading, Links};
use super::progress::{Bars, LinkMoment, SAMPLE_EVERY};
use super::transfer::in_flight::OpenConnection;
use super::transfer::{Failure, Transfer};
use crate::log::outcome::Outcome;
use crate::log::schema::{Event, Sample};
use crate::schedule::TcpReading;
use crate::tcp::{self, TcpInfo};
use crate::units::{Direction, LinkId};

/// The last sample of each link.
pub(crate) struct Sampler {
    transfer: Arc<Transfer>,
    links: Arc<Links>,
    before: [(Instant, u64); 2],
    taken: u64,
}

/// A sample over less time says more of bursts than of the link.
const LEAST_SPAN: Duration = Duration::from_millis(20);

impl Sampler {
    pub(crate) fn new(transfer: Arc<Transfer>, links: Arc<Links>) -> Sampler {
        Sampler { transfer, links, before: [(Instant::now(), 0); 2], taken: 0 }
    }

    /// Samples until it is dropped; returns only when the run cannot go on.
    pub(crate) async fn run(&mut self, bars: &Bars) -> Failure {
        let mut ticks = interval(SAMPLE_EVERY);
        // A late sample covers a longer time; it is not followed by hurried ones.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.sample().await {
                Ok(now) => bars.update(&self.transfer, now),
                Err(failure) => return failure,
            }
        }
    }

    /// Takes and logs one sample of each link.
    async fn sample(&mut self) -> Result<[LinkMoment; 2], Failure> {
        let reading = self.links.clone();
        let reading = blocking(move || reading.read().context("the links can no longer be read")).await?;
        self.taken += 1;
        tell_shaped_rates(&self.transfer, &reading);
        log(&self.transfer, &reading, &mut self.before)
    }

    /// The sample at the end of a transfer, unless one has just been taken: however short a transfer
    /// was, its log has one.
    pub(crate) async fn last(&mut self) -> Result<(), Failure> {
        if self.taken == 0 || self.before[1].0.elapsed() >= LEAST_SPAN {
            self.sample().await?;
        }
        Ok(())
    }
}

fn log(
    transfer: &Transfer,
    reading: &CounterReading,
    before: &mut [(Instant, u64); 2],
) -> Result<[LinkMoment; 2], Failure> {
    let mut now_of = [LinkMoment::default(); 2];
    for link in LinkId::BOTH {
        let metrics = transfer.metrics(link);
        let (now, bytes) = (Instant::now(), metrics.bytes());
        let (then, earlier) = std::mem::replace(&mut before[link.index()], (now, bytes));
        let span_s = (now - then).as_secs_f64();
        let goodput_kbit = if span_s > 0.0 { (bytes - earlier) as f64 * 8e-3 / span_s } else { 0.0 };
        let queue_ms = reading.counters(link, Direction::Down).and_then(|down| down.queue_ms);
        now_of[link.index()] = LinkMoment { goodput_kbit, queue_ms };
        let open: Vec<OpenConnection> = metrics.open().values().cloned().collect();
        let infos: Vec<TcpInfo> =
            open.iter().filter_map(|open| tcp::read(open.socket.as_ref()).ok()).collect();
        let first = open.first();
        let tcp = infos.first().cloned();
        if let Some((tcp, first)) = tcp.as_ref().zip(first) {
            metrics.mss.store(tcp.snd_mss_bytes, Ordering::Relaxed);
            let without = tcp::has_timestamps(first.socket.as_ref()).is_ok_and(|has| !has);
            metrics.no_timestamps.store(without, Ordering::Relaxed);
        }
        if let Some(reading) = reading_of(&infos) {
            transfer.schedule(|scheduler, now| scheduler.read_tcp(link, reading, now));
        }
        let told = first.and_then(|first| first.sender.clone());
        let sample = Sample {
            link,
            bytes,
            goodput_kbit,
            requests_in_flight: Some(open.iter().map(|open| open.in_flight).sum()),
            connections: Some(open.len() as u64),
            tcp,
            sender_at_ms: told.as_ref().map(|(at, _)| transfer.log.ms(*at)),
            sender: told.map(|(_, sender)| sender),
            down: reading.counters(link, Direction::Down).cloned(),
            up: reading.counters(link, Direction::Up).cloned(),
            air: reading.airtimes(link),
        };
        let client = sample.tcp.as_ref().map(|tcp| (tcp.rtt_ms, tcp.min_rtt_ms));
        let server = sample.sender.as_ref().map(|sender| (sender.rtt_ms, sender.min_rtt_ms));
        metrics.round_trips().note(goodput_kbit > 0.0, client, server);
        transfer
            .log
            .write(Event::Sample(Box::new(sample)))
            .map_err(|error| Failure::new(Outcome::Log, error))?;
    }
    Ok(now_of)
}

/// Returns the state of the TCP of a link's connections; `None` without one. The client's end tells, with any server:
/// a loss shows as data out of order, and the round trip is that of its acknowledgements, or of its requests where that
/// is more.
fn reading_of(infos: &[TcpInfo]) -> Option<TcpReading> {
    let losses = infos.iter().filter_map(|tcp| tcp.rcv_out_of_order).sum();
    let rtt_ms = infos.iter().map(|tcp| tcp.rcv_rtt_ms.max(tcp.rtt_ms)).sum::<f64>() / infos.len() as f64;
    (!infos.is_empty()).then(|| TcpReading { losses, rtt: Duration::from_secs_f64(rtt_ms / 1e3) })
}

/// Tells the scheduler what the links are shaped to.
pub(crate) fn tell_shaped_rates(transfer: &Transfer, reading: &CounterReading) {
    transfer.schedule(|scheduler, _| {
        LinkId::BOTH.into_iter().for_each(|link| scheduler.set_shaped_rate(link, reading.shaped_rate(link)));
    });
}
