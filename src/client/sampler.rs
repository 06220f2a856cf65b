//! Ten times a second: how far each link has come, what its TCP and its shaper say.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Context;
use tokio::time::{MissedTickBehavior, interval};

use super::blocking;
use super::job::{Failure, Job};
use super::links::Links;
use super::progress::{Bars, SAMPLE_EVERY};
use crate::record::{Event, Sample};
use crate::tcp;
use crate::units::{Direction, LinkId};

/// Samples until it is dropped; returns only when the run cannot go on.
pub async fn run(job: Arc<Job>, links: Arc<Links>, bars: &Bars) -> Failure {
    let mut ticks = interval(SAMPLE_EVERY);
    // A late sample covers a longer time; it is not followed by hurried ones.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = [(Instant::now(), 0u64); 2];
    loop {
        ticks.tick().await;
        match sample(&job, &links, &mut before).await {
            Ok(goodput_kbit) => bars.update(&job, goodput_kbit),
            Err(failure) => return failure,
        }
    }
}

/// Takes and logs one sample of each link. Returns the goodputs in kbit/s.
async fn sample(
    job: &Job,
    links: &Arc<Links>,
    before: &mut [(Instant, u64); 2],
) -> Result<[f64; 2], Failure> {
    let reading = links.clone();
    let reading = blocking(move || reading.read().context("the links can no longer be read")).await?;
    let mut goodputs = [0.0; 2];
    for link in LinkId::BOTH {
        let gauge = job.gauge(link);
        let (now, bytes) = (Instant::now(), gauge.bytes());
        let (then, earlier) = std::mem::replace(&mut before[link.index()], (now, bytes));
        let span_s = (now - then).as_secs_f64();
        let goodput_kbit = if span_s > 0.0 { (bytes - earlier) as f64 * 8e-3 / span_s } else { 0.0 };
        goodputs[link.index()] = goodput_kbit;
        let tcp = gauge.socket().as_ref().and_then(|stream| tcp::read(stream.as_ref()).ok());
        if let Some(tcp) = &tcp {
            gauge.mss.store(tcp.snd_mss_bytes, Ordering::Relaxed);
        }
        let told = gauge.sender().clone();
        let sample = Sample {
            link,
            bytes,
            goodput_kbit,
            requests_in_flight: gauge.in_flight.load(Ordering::Relaxed),
            tcp,
            sender_at_ms: told.as_ref().map(|(at, _)| job.log.ms(*at)),
            sender: told.map(|(_, sender)| sender),
            down: reading.shaping(link, Direction::Down),
            up: reading.shaping(link, Direction::Up),
            air: reading.air(link),
        };
        job.log.write(Event::Sample(Box::new(sample))).map_err(|error| Failure::new("log", error))?;
    }
    Ok(goodputs)
}
