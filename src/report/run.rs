//! A run or an experiment, built from its records. Reads no file.

use std::borrow::Cow;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::log::schema::{
    CellEnd, Fault, Link, Probe, RunEnd, RunStart, Sample, Segment, SweepEnd, SweepStart, Throughput,
};
use crate::qoe::{self, Arrival, Playback, Rule};
use crate::units::{Direction, LinkId};

/// A record and when it was written, in ms since the run's start.
#[derive(Clone, Debug)]
pub(crate) struct Timed<T> {
    pub at_ms: f64,
    pub data: T,
}

/// One run, as far as its log tells.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoggedRun {
    pub name: String,
    pub path: PathBuf,
    pub start: Option<RunStart>,
    pub end: Option<RunEnd>,
    pub links: Vec<Timed<Link>>,
    pub probes: Vec<Probe>,
    pub segments: Vec<Segment>,
    pub samples: Vec<Timed<Sample>>,
    pub faults: Vec<Timed<Fault>>,
    /// The time of its cell beside probe and transfer, where an experiment tells it.
    pub setup_ms: Option<f64>,
}

/// An experiment's own file, without its runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct SweepFile {
    pub name: String,
    pub path: PathBuf,
    /// One for each call: an experiment that was resumed has several.
    pub starts: Vec<SweepStart>,
    pub throughputs: Vec<Throughput>,
    /// The last end of each cell: one that was tried again has several.
    pub cells: Vec<CellEnd>,
    /// Faults outside the runs.
    pub faults: Vec<Timed<Fault>>,
    pub end: Option<SweepEnd>,
}

/// Runs that belong together: an experiment's, or all that lie without one around them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    pub sweep: Option<SweepFile>,
    pub runs: Vec<LoggedRun>,
}

/// A line, its data not looked at yet: an unknown event must not fail, and most time goes into data.
#[derive(Deserialize)]
pub(crate) struct LogLine<'a> {
    #[serde(borrow)]
    pub schema: Cow<'a, str>,
    t_ns: u64,
    #[serde(borrow)]
    pub run: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl LogLine<'_> {
    fn data<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.data.get())
    }

    fn timed<T: DeserializeOwned>(&self) -> serde_json::Result<Timed<T>> {
        Ok(Timed { at_ms: self.t_ns as f64 / 1e6, data: self.data()? })
    }
}

impl LoggedRun {
    /// The playback, on the log's clock.
    pub(crate) fn playback(&self) -> Option<Playback> {
        let rule = self.start.as_ref().map_or(Rule::default(), |start| Rule {
            segment_duration_ms: start.segment_duration_ms,
            startup_segments: start.startup_segments,
        });
        let arrivals = self.segments.iter().map(|segment| Arrival {
            index: segment.index,
            done_ms: segment.done_ms,
            media: qoe::is_media(&segment.name),
        });
        qoe::play(arrivals, self.first_request_ms()?, rule)
    }

    /// Returns whether the files are a film: it was fetched for playback, its segments have a length that somebody gave,
    /// or one of them is an init segment.
    pub(crate) fn is_film(&self) -> bool {
        let told = self.start.as_ref().is_some_and(|start| {
            start.schedule == "inorder" || start.segment_duration_ms != Rule::default().segment_duration_ms
        });
        told || self.segments.iter().any(|segment| !qoe::is_media(&segment.name))
    }

    /// When the clock of the transfer started, in ms since the run's start.
    pub(crate) fn first_request_ms(&self) -> Option<f64> {
        let said = self.end.as_ref().and_then(|end| end.first_request_ms);
        said.or_else(|| self.segments.iter().map(|segment| segment.requested_ms).reduce(f64::min))
    }

    /// Faults of the transfer: what was told before the first request is of its setting.
    pub(crate) fn met(&self) -> impl Iterator<Item = &Timed<Fault>> {
        let first = self.first_request_ms().unwrap_or(f64::INFINITY);
        self.faults.iter().filter(move |fault| fault.at_ms >= first)
    }

    /// The first fault of a link during the transfer, and when it was (ms from the first request).
    pub(crate) fn outage(&self, link: LinkId) -> Option<(f64, &Fault)> {
        let fault = self.met().find(|fault| fault.data.link == Some(link))?;
        Some((fault.at_ms - self.first_request_ms()?, &fault.data))
    }

    /// The experiment that it says it is of.
    pub(crate) fn experiment(&self) -> Option<&str> {
        Some(&self.start.as_ref()?.cell.as_ref()?.experiment)
    }

    /// Whether both links were on one channel.
    pub(crate) fn shares_channel(&self) -> bool {
        let on_channel = |link| self.samples.iter().any(|s| s.data.link == link && s.data.air.is_some());
        LinkId::BOTH.into_iter().all(on_channel)
    }

    /// Returns a link's record of its shaping at the start, in the down direction.
    pub(crate) fn shaping(&self, link: LinkId) -> Option<&Link> {
        let mut records = self.links.iter().map(|timed| &timed.data);
        records.find(|record| record.link == link && record.direction == Direction::Down)
    }

    /// Returns the profile that a link began with, "unshaped" for none.
    pub(crate) fn profile(&self, link: LinkId) -> &str {
        self.shaping(link).and_then(|record| record.profile.as_deref()).unwrap_or("unshaped")
    }

    /// The congestion control of a server's sockets, which send the payload.
    pub(crate) fn sender_congestion(&self, link: LinkId) -> Option<&str> {
        let said = self.start.as_ref().and_then(|start| start.servers[link].congestion_control.as_deref());
        let mut samples = self.samples.iter().filter(|sample| sample.data.link == link);
        said.or_else(|| samples.find_map(|sample| sample.data.sender.as_ref()?.congestion_control.as_deref()))
    }

    /// Keeps what a report needs; a version may gain events, so others are no mistake.
    pub(crate) fn take(&mut self, line: LogLine) -> serde_json::Result<()> {
        match &*line.event {
            "run_start" => self.start = Some(line.data()?),
            "run_end" => self.end = Some(line.data()?),
            "link" => self.links.push(line.timed()?),
            "probe" => self.probes.push(line.data()?),
            "segment" => self.segments.push(line.data()?),
            "sample" => self.samples.push(line.timed()?),
            "fault" => self.faults.push(line.timed()?),
            _ => {}
        }
        Ok(())
    }
}

/// Returns the packets that the shaper has dropped in the down direction since the link was set.
pub(crate) fn drops(sample: &Sample) -> u64 {
    sample.down.as_ref().map_or(0, |down| down.dropped_queue.saturating_add(down.dropped_loss.unwrap_or(0)))
}

impl SweepFile {
    pub(crate) fn take(&mut self, line: LogLine) -> serde_json::Result<()> {
        match &*line.event {
            "sweep_start" => {
                self.starts.push(line.data()?);
                // Going on after an end takes the end back.
                self.end = None;
            }
            "throughput" => self.throughputs.push(line.data()?),
            "cell_end" => {
                let end: CellEnd = line.data()?;
                self.cells.retain(|earlier| earlier.cell != end.cell);
                self.cells.push(end);
            }
            "fault" => self.faults.push(line.timed()?),
            "sweep_end" => self.end = Some(line.data()?),
            _ => {}
        }
        Ok(())
    }
}
