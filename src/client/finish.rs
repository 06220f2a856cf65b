//! The end of a run: totals, bound and efficiency, in the log's last record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::RunConfig;
use super::links::Links;
use super::transfer::{Failure, Totals, Transfer};
use crate::bound;
use crate::bound::TcpSegments;
use crate::log::outcome::Outcome;
use crate::log::schema::{Event, Fault, LinkTotals, Log, PerLink, Qoe, Reconciled, RunEnd, RunStart};
use crate::qoe::{self, Arrival, Rule};
use crate::simulate;
use crate::text::{count, explained, sentence};
use crate::units::LinkId;

/// The facts of a run for its last record, as far as it came.
#[derive(Default)]
pub struct RunFacts {
    /// The first record, until it has been written.
    pub start: Option<Box<RunStart>>,
    pub links: Option<Arc<Links>>,
    pub transfer: Option<Arc<Transfer>>,
    /// Segments as they were on each link, as far as a sample saw them.
    pub segments: [Option<TcpSegments>; 2],
    /// The congestion control that each server reported.
    pub senders: [Option<simulate::Control>; 2],
    pub sync_ms: Option<f64>,
    pub reconciled: [Option<Reconciled>; 2],
    /// The time that measuring the links before the transfer took.
    pub probe_ms: f64,
}

/// Writes the last record of a run. A log that cannot be written is a failure of the run, unless there is one.
pub fn close(
    log: &Log,
    config: &RunConfig,
    facts: &mut RunFacts,
    outcome: Result<(), Failure>,
) -> (RunEnd, Result<(), Failure>) {
    // The last record tells of all that could not be written before it.
    let write = |event| drop(log.write(event));
    // A run that was interrupted while it was prepared has a first record too.
    if let Some(start) = facts.start.take() {
        write(Event::RunStart(start));
    }
    let totals = facts.transfer.as_ref().map(|transfer| transfer.totals()).unwrap_or_default();
    let mut record = run_end(config, facts, &totals, &outcome);
    for link in LinkId::BOTH {
        let Some(found) = facts.reconciled[link.index()].filter(|found| !found.ok) else { continue };
        write(Event::Fault(Fault {
            link: Some(link),
            segment: None,
            what: format!(
                "the shaper let {} bytes pass and the application received {}: {} bytes are unexplained, and {} to {} may be",
                found.shaper_bytes,
                found.received_bytes,
                found.unexplained_bytes,
                found.allowed_least_bytes,
                found.allowed_most_bytes
            ),
            action: "the result is kept; do not trust it".into(),
        }));
    }
    if let Some((elapsed_ms, bounds)) = record.elapsed_ms.zip(bounds(facts, &totals))
        && elapsed_ms < bounds.credible_ms
    {
        write(Event::Fault(Fault {
            link: None,
            segment: None,
            what: format!(
                "the run took {elapsed_ms:.1} ms and the bound is {:.1} ms; clocks and one packet a link explain \
                 no run below {:.1} ms: a link let more through than its profile says",
                bounds.plain_ms, bounds.credible_ms
            ),
            action: "the result is kept; do not trust it".into(),
        }));
    }
    let written = log.end(&mut record).map_err(|error| Failure::new(Outcome::Log, error));
    (record, outcome.and(written))
}

fn run_end(config: &RunConfig, facts: &RunFacts, totals: &Totals, outcome: &Result<(), Failure>) -> RunEnd {
    let log = facts.transfer.as_ref().map(|transfer| transfer.log.clone());
    let since_first = |at: Instant| {
        totals.first_request.map(|first| at.saturating_duration_since(first).as_secs_f64() * 1e3)
    };
    let elapsed_ms = if outcome.is_ok() { totals.last_file.and_then(since_first) } else { None };
    let bounds = bounds(facts, totals);
    let links = |link: LinkId| {
        let bytes = totals.link_bytes[link.index()];
        let last_byte_ms = totals.last_byte[link.index()].and_then(since_first);
        let metrics = facts.transfer.as_ref().map(|transfer| transfer.metrics(link));
        LinkTotals {
            bytes,
            files: metrics.map_or(0, super::transfer::LinkMetrics::files),
            goodput_kbit: last_byte_ms.filter(|&ms| ms > 0.0).map(|ms| bytes as f64 * 8.0 / ms),
            last_byte_ms,
            connections: metrics.map_or(0, super::transfer::LinkMetrics::connections),
            reconciled: facts.reconciled[link.index()],
        }
    };
    let mut end = RunEnd {
        exit: outcome.as_ref().map_or_else(|failure| failure.exit, |()| Outcome::Ok),
        summary: String::new(),
        elapsed_ms,
        first_request_ms: log.zip(totals.first_request).map(|(log, at)| log.ms(at)),
        files: totals.files,
        bytes: totals.bytes,
        bound_ms: bounds.map(|bounds| bounds.plain_ms),
        bound_tcp_ms: bounds.map(|bounds| bounds.tcp_ms),
        // A run of files without a byte takes no time.
        efficiency: elapsed_ms
            .filter(|&elapsed| elapsed > 0.0)
            .zip(bounds)
            .map(|(elapsed, bounds)| bounds.plain_ms / elapsed),
        predicted_ms: outcome.is_ok().then(|| predicted_ms(config, facts, totals)).flatten(),
        wasted_bytes: totals.wasted_bytes,
        dropped_records: 0,
        resumed_files: config.resume.then_some(totals.resumed_files),
        resumed_bytes: config.resume.then_some(totals.resumed_bytes),
        sync_ms: facts.sync_ms,
        links: PerLink { a: links(LinkId::A), b: links(LinkId::B) },
        qoe: qoe(config, facts, totals),
        program: None,
    };
    let faults = facts.transfer.as_ref().map(|transfer| transfer.log.faults()).unwrap_or_default();
    end.summary = summary(&config.schedule.to_string(), end.bytes, &end, outcome, faults);
    end
}

/// The longest that a prediction may hold up the end of a run.
const PREDICTION_TIME: Duration = Duration::from_millis(140);
/// Seeds that are played in it where losses decide.
const PREDICTION_SEEDS: usize = 3;

/// Returns the simulated time of the same run (ms), with the links as they were when it began and each change
/// at its time; `None` where a link has no rate, where an earlier run had left something, or where the
/// simulation takes too long.
fn predicted_ms(config: &RunConfig, facts: &RunFacts, totals: &Totals) -> Option<f64> {
    if totals.resumed_files > 0 || totals.resumed_bytes > 0 {
        return None;
    }
    let (transfer, links) = (facts.transfer.as_ref()?, facts.links.as_ref()?);
    let (profiles, changes) = links.profiles_from(totals.first_request?);
    let size = |segment| transfer.schedule(|scheduler, _| scheduler.size(segment));
    let sizes: Vec<u64> = (0..transfer.segments.len()).map(size).collect::<Option<_>>()?;
    let congestion = facts.senders.map(|told| told.unwrap_or_else(simulate::kernels_choice));
    let channel = links.channel();
    let schedule = config.schedule_of(transfer.segments.iter().map(|segment| segment.name.as_str()));
    let setup = simulate::Setup {
        profiles: &profiles,
        channel: channel.as_ref(),
        changes: &changes,
        schedule: &schedule,
        pipeline: config.pipeline,
        sizes: &sizes,
        congestion,
        kernel: simulate::kernels_choice(),
        seed: config.seed,
    };
    let began = Instant::now();
    let in_time = || began.elapsed() < PREDICTION_TIME;
    simulate::predict(&setup, PREDICTION_SEEDS, &in_time).map(|prediction| prediction.elapsed_ms)
}

/// Returns the quality for a viewer of the segments as they came; `None` where no media came.
fn qoe(config: &RunConfig, facts: &RunFacts, totals: &Totals) -> Option<Qoe> {
    let (transfer, first) = (facts.transfer.as_ref()?, totals.first_request?);
    let rule = Rule { segment_duration_ms: config.segment_duration.ms(), startup_segments: config.startup };
    let arrivals = totals.arrivals.iter().map(|&(index, at)| Arrival {
        index: index as u64,
        done_ms: at.saturating_duration_since(first).as_secs_f64() * 1e3,
        media: qoe::is_media(&transfer.segments[index].name),
    });
    qoe::play(arrivals, 0.0, rule).map(|played| played.qoe)
}

/// The bounds of a run, ms.
#[derive(Clone, Copy)]
struct Bounds {
    plain_ms: f64,
    /// With slow start.
    tcp_ms: f64,
    /// A shorter time is too fast for the links.
    credible_ms: f64,
}

/// `None` where a link has no rate or nothing came.
fn bounds(facts: &RunFacts, totals: &Totals) -> Option<Bounds> {
    let links = facts.links.as_ref()?;
    let paths =
        links.paths(totals.first_request?, facts.segments.map(|seen| seen.unwrap_or(TcpSegments::USUAL)))?;
    let bytes = (totals.bytes + totals.head_bytes) as f64;
    let channel = links.channel();
    let (plain, tcp) = bound::bounds_s(&paths, channel.as_ref(), bytes)?;
    let packets: f64 = paths.iter().map(|path| path.mss_bytes).sum();
    let credible =
        bound::bounds_s(&paths, channel.as_ref(), (bytes - packets).max(0.0)).map_or(0.0, |found| found.0);
    let tolerance = bound::TOLERANCE_S + links.latest_step_s();
    Some(Bounds { plain_ms: plain * 1e3, tcp_ms: tcp * 1e3, credible_ms: (credible - tolerance) * 1e3 })
}

/// Returns one sentence for people. `label` names the schedule or the program; a link's share is of `arrived`
/// bytes.
pub fn summary(
    label: &str,
    arrived: u64,
    end: &RunEnd,
    outcome: &Result<(), Failure>,
    faults: (u64, Option<Fault>),
) -> String {
    if let Err(failure) = outcome {
        let files = count(end.files, "file");
        return sentence(format!("{label} ended after {files}: {}", explained(&failure.error)));
    }
    let seconds = end.elapsed_ms.unwrap_or_default() / 1e3;
    let mbytes = end.bytes as f64 / 1e6;
    let share = |link: LinkId| end.links.get(link).bytes as f64 * 100.0 / (arrived.max(1)) as f64;
    let mut text = format!(
        "{label} fetched {} ({mbytes:.1} MB) in {seconds:.3} s, {:.0} % from a and {:.0} % from b",
        count(end.files, "file"),
        share(LinkId::A),
        share(LinkId::B)
    );
    if let (Some(bound_ms), Some(efficiency)) = (end.bound_ms, end.efficiency) {
        text += &format!("; the bound is {:.3} s, efficiency {efficiency:.3}", bound_ms / 1e3);
    }
    if let (count, Some(first)) = faults {
        let link = first.link.map_or(String::new(), |link| format!("on link {link}: "));
        let count = if count == 1 { "one fault, ".into() } else { format!("{count} faults, the first ") };
        text += &format!("; {count}{link}{}", first.what);
    }
    sentence(text)
}
