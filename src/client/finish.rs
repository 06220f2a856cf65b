//! The end of a run: totals, bound and efficiency, in the log's last record.

use std::time::Instant;

use super::Run;
use super::config::RunConfig;
use super::fetch::Fetched;
use super::prepare::Ready;
use super::transfer::{Failure, Totals};
use crate::bound;
use crate::bound::TcpSegments;
use crate::config::channel::ChannelConfig;
use crate::config::profile::Profile;
use crate::config::script::Change;
use crate::log::outcome::Outcome;
use crate::log::schema::{Event, Fault, LinkCoupling, LinkTotals, PerLink, Qoe, RunEnd};
use crate::qoe::{self, Arrival, Rule};
use crate::schedule::{Connections, Coupling, Pipeline, Schedule};
use crate::text::{count, explained, sentence};
use crate::units::LinkId;

/// A run that is over, as a prediction of the same run takes it.
pub(crate) struct PastRun {
    /// As they were at the first request; `None` for an unshaped link.
    pub profiles: [Option<Profile>; 2],
    pub channel: Option<ChannelConfig>,
    /// The changes of the links after the first request.
    pub changes: Vec<Change>,
    pub schedule: Schedule,
    pub pipeline: Pipeline,
    pub connections: Connections,
    /// The files' sizes in bytes.
    pub sizes: Vec<u64>,
    /// The congestion control that each server reported.
    pub senders: [Option<String>; 2],
    pub seed: u64,
}

/// Returns the time (ms) that a run takes by a model; `None` where the model has none.
pub(crate) type Predict = fn(&PastRun) -> Option<f64>;

/// Writes the last record of a run. A log that cannot be written is a failure of the run, unless there is one.
pub(crate) fn close(
    run: &Run,
    fetched: Option<&Fetched>,
    outcome: Result<(), Failure>,
) -> (RunEnd, Result<(), Failure>) {
    let mut record = RunEnd {
        exit: outcome.as_ref().map_or_else(|failure| failure.exit, |()| Outcome::Ok),
        resumed_files: run.config.resume.then_some(0),
        resumed_bytes: run.config.resume.then_some(0),
        ..RunEnd::default()
    };
    if let Some(fetched) = fetched {
        fetched.add_up(run, &mut record);
    }
    let label = run.config.schedule.to_string();
    record.summary = summary(&label, Some(record.bytes), &record, &outcome, run.log.faults());
    for doubt in fetched.into_iter().flat_map(|fetched| fetched.doubts(&record)) {
        // The last record tells of all that could not be written before it.
        drop(run.log.write(Event::Fault(doubt)));
    }
    let written = run.log.end(&mut record).map_err(|error| Failure::new(Outcome::Log, error));
    (record, outcome.and(written))
}

impl Fetched {
    /// Completes the last record, whose outcome is known.
    fn add_up(&self, run: &Run, end: &mut RunEnd) {
        let (config, transfer) = (run.config, &self.ready.transfer);
        let totals = &transfer.totals();
        let since_first = |at: Instant| {
            totals.first_request.map(|first| at.saturating_duration_since(first).as_secs_f64() * 1e3)
        };
        let is_ok = end.exit == Outcome::Ok;
        end.elapsed_ms = totals.last_file.filter(|_| is_ok).and_then(since_first);
        end.first_request_ms = totals.first_request.map(|at| run.log.ms(at));
        (end.files, end.bytes, end.wasted_bytes) = (totals.files, totals.bytes, totals.wasted_bytes);
        end.coupling = match transfer.schedule(|scheduler, _| scheduler.coupling()) {
            Coupling::Unknown => None,
            Coupling::Independent => Some(LinkCoupling { coupled: false, gain: None }),
            Coupling::Coupled { gain } => Some(LinkCoupling { coupled: true, gain: Some(gain) }),
        };
        let bounds = self.bounds(totals);
        end.bound_ms = bounds.map(|bounds| bounds.plain_ms);
        end.bound_tcp_ms = bounds.map(|bounds| bounds.tcp_ms);
        // A run of files without a byte takes no time.
        let elapsed_ms = end.elapsed_ms.filter(|&elapsed| elapsed > 0.0);
        end.efficiency = elapsed_ms.zip(bounds).map(|(elapsed, bounds)| bounds.plain_ms / elapsed);
        end.predicted_ms =
            self.past_run(config, totals).filter(|_| is_ok).and_then(|past| (run.predict)(&past));
        end.resumed_files = config.resume.then_some(totals.resumed_files);
        end.resumed_bytes = config.resume.then_some(totals.resumed_bytes);
        end.sync_ms = self.sync_ms;
        end.links = PerLink::of(|link| {
            let bytes = totals.link_bytes[link];
            let last_byte_ms = totals.last_byte[link].and_then(since_first);
            let metrics = transfer.metrics(link);
            let passed = self.ready.links.passed(link);
            let connections = transfer.schedule(|scheduler, _| {
                (scheduler.wanted_connections(link), scheduler.connections_reason(link))
            });
            metrics.round_trips().add_to(LinkTotals {
                bytes,
                files: metrics.files(),
                goodput_kbit: last_byte_ms.filter(|&ms| ms > 0.0).map(|ms| bytes as f64 * 8.0 / ms),
                last_byte_ms,
                connections: metrics.connections(),
                connections_wanted: Some(connections.0 as u64),
                connections_why: Some(connections.1.to_string()),
                reconciled: self.reconciled[link.index()],
                marked: self.marked[link.index()],
                cross_bytes: passed.map(|passed| passed.cross_bytes),
                cross_pct: passed.map(|passed| passed.cross_pct()),
                ..LinkTotals::default()
            })
        });
        end.qoe = self.qoe(config, totals);
    }

    /// Returns the reasons not to trust the results.
    fn doubts(&self, end: &RunEnd) -> Vec<Fault> {
        let mut doubts = Vec::new();
        let mut doubt = |link, what| {
            let action = "the result is kept; do not trust it".into();
            doubts.push(Fault { link, segment: None, what, action });
        };
        for link in LinkId::BOTH {
            let Some(found) = self.reconciled[link.index()].filter(|found| !found.ok) else { continue };
            doubt(
                Some(link),
                format!(
                    "the shaper let {} bytes pass and the application received {}: {} bytes are unexplained, and {} to {} may be",
                    found.shaper_bytes,
                    found.received_bytes,
                    found.unexplained_bytes,
                    found.allowed_least_bytes,
                    found.allowed_most_bytes
                ),
            );
        }
        if let Some((elapsed_ms, bounds)) = end.elapsed_ms.zip(self.bounds(&self.ready.transfer.totals()))
            && elapsed_ms < bounds.credible_ms
        {
            doubt(
                None,
                format!(
                    "the run took {elapsed_ms:.1} ms and the bound is {:.1} ms; clocks and one packet a link explain \
                 no run below {:.1} ms: a link let more through than its profile says",
                    bounds.plain_ms, bounds.credible_ms
                ),
            );
        }
        doubts
    }

    /// Returns the run as a prediction takes it; `None` where an earlier run had left something, or a size is
    /// unknown.
    fn past_run(&self, config: &RunConfig, totals: &Totals) -> Option<PastRun> {
        if totals.resumed_files > 0 || totals.resumed_bytes > 0 {
            return None;
        }
        let Ready { links, transfer, capabilities, .. } = &self.ready;
        let (profiles, changes) = links.profiles_from(totals.first_request?);
        let size = |segment| transfer.schedule(|scheduler, _| scheduler.size(segment));
        Some(PastRun {
            profiles,
            channel: links.channel(),
            changes,
            schedule: config.schedule_of(transfer.segments.iter().map(|segment| segment.name.as_str())),
            pipeline: config.pipeline,
            connections: config.connections(),
            sizes: (0..transfer.segments.len()).map(size).collect::<Option<_>>()?,
            senders: LinkId::BOTH.map(|link| capabilities[link].sending_congestion_control()),
            seed: config.seed,
        })
    }

    /// Returns the quality for a viewer of the segments as they came; `None` where no media came.
    fn qoe(&self, config: &RunConfig, totals: &Totals) -> Option<Qoe> {
        let (transfer, first) = (&self.ready.transfer, totals.first_request?);
        let rule =
            Rule { segment_duration_ms: config.segment_duration.ms(), startup_segments: config.startup };
        let arrivals = totals.arrivals.iter().map(|&(index, at)| Arrival {
            index: index as u64,
            done_ms: at.saturating_duration_since(first).as_secs_f64() * 1e3,
            media: qoe::is_media(&transfer.segments[index].name),
        });
        qoe::play(arrivals, 0.0, rule).map(|played| played.qoe)
    }

    /// Returns the bounds; `None` where a link has no rate or nothing came.
    fn bounds(&self, totals: &Totals) -> Option<Bounds> {
        let links = &self.ready.links;
        let seen = LinkId::BOTH.map(|link| self.ready.tcp_segments(link).unwrap_or(TcpSegments::USUAL));
        let paths = links.paths(totals.first_request?, seen)?;
        let bytes = (totals.bytes + totals.head_bytes) as f64;
        let channel = links.channel();
        let (plain, tcp) = bound::bounds_s(&paths, channel.as_ref(), bytes)?;
        let packets: f64 = paths.iter().map(|path| path.mss_bytes).sum();
        let credible = bound::bounds_s(&paths, channel.as_ref(), (bytes - packets).max(0.0))
            .map_or(0.0, |found| found.0);
        let tolerance = bound::TOLERANCE_S + links.latest_step_s();
        Some(Bounds { plain_ms: plain * 1e3, tcp_ms: tcp * 1e3, credible_ms: (credible - tolerance) * 1e3 })
    }
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

/// Returns one sentence for people. `label` names the schedule or the program; a link's share is of `arrived`
/// bytes, and not said where those are not known.
pub(crate) fn summary(
    label: &str,
    arrived: Option<u64>,
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
    let mut text = format!("{label} fetched {} ({mbytes:.1} MB) in {seconds:.3} s", count(end.files, "file"));
    if let Some(arrived) = arrived {
        let share = |link: LinkId| end.links[link].bytes as f64 * 100.0 / (arrived.max(1)) as f64;
        text += &format!(", {:.0} % from a and {:.0} % from b", share(LinkId::A), share(LinkId::B));
    }
    if let (Some(bound_ms), Some(efficiency)) = (end.bound_ms, end.efficiency) {
        text += &format!("; the bound is {:.3} s, efficiency {efficiency:.3}", bound_ms / 1e3);
    }
    if let Some(LinkCoupling { coupled: true, gain: Some(gain) }) = end.coupling {
        text += &format!("; the links share a channel: one alone brings {gain:.2} times what both do");
    }
    if let (count, Some(first)) = faults {
        let link = first.link.map_or(String::new(), |link| format!("on link {link}: "));
        let count = if count == 1 { "one fault, ".into() } else { format!("{count} faults, the first ") };
        text += &format!("; {count}{link}{}", first.what);
    }
    sentence(text)
}
