//! The log's schema: every record that the lab writes, for writing and for reading back.
//!
//! One JSON object a line: `{"schema":"twinlink/1","event":…,"t_ns":…,"run":…,"data":{…}}`.
//! `t_ns` is monotonic from the run's start. Units are in the keys; what is unknown is null.
//! `docs/log-schema.md` says what each field means; `docs/log.schema.json` checks real logs.

use serde::{Deserialize, Serialize};

pub use crate::config::channel::ChannelError;
pub use crate::log::outcome::Outcome;
pub use crate::log::writer::{Log, Stdout, create_log_file, new_run_id};
pub use crate::qoe::Qoe;
pub use crate::sender_report::Sender;
pub use crate::shape::active_shaping::Counters;
pub use crate::tcp::TcpInfo;
pub use crate::units::PerLink;
use crate::units::{Direction, LinkId};

/// The name and version of the schema. Fields may be added to a version; none changes its meaning.
pub const SCHEMA: &str = "twinlink/1";

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Record {
    pub schema: String,
    pub t_ns: u64,
    pub run: String,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "event", content = "data", rename_all = "snake_case")]
pub enum Event {
    RunStart(Box<RunStart>),
    Link(Box<Link>),
    Segment(Segment),
    Sample(Box<Sample>),
    Probe(Box<Probe>),
    Fault(Fault),
    RunEnd(Box<RunEnd>),
    SweepStart(Box<SweepStart>),
    Throughput(Throughput),
    CellEnd(Box<CellEnd>),
    SweepEnd(SweepEnd),
    ServeStart(ServeStart),
    Request(Request),
    ServeEnd(ServeEnd),
}

impl Event {
    /// Makes a last record say that the log file lacks some, and why.
    pub(super) fn incomplete_log(&mut self, cause: &str) {
        let told = |summary: &str| format!("{summary} The log file is not complete: {cause}.");
        match self {
            Event::RunEnd(end) if end.exit == Outcome::Ok => {
                (end.exit, end.summary) = (Outcome::Log, told(&end.summary));
                (end.elapsed_ms, end.efficiency, end.predicted_ms) = (None, None, None);
            }
            Event::SweepEnd(end) if end.exit == Outcome::Ok => {
                (end.exit, end.summary) = (Outcome::Failed, told(&end.summary));
            }
            _ => {}
        }
    }
}

/// The configuration of the run, before anything happened.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RunStart {
    pub version: String,
    pub command_line: Vec<String>,
    pub kernel: String,
    /// The findings of `twinlink doctor` on this host.
    pub doctor: serde_json::Value,
    pub seed: u64,
    /// The schedule, or the name of the program that fetches in the client's place.
    pub schedule: String,
    /// "auto", or the number of requests in flight per connection.
    pub pipeline: String,
    /// "auto", or the number of connections to each server; null for a program.
    pub connections: Option<String>,
    /// Of the client's sockets, which send only requests.
    pub congestion_control: Option<String>,
    pub servers: PerLink<Server>,
    /// How many files there are to fetch; null where the run ended before that was known.
    pub files: Option<u64>,
    pub verify: bool,
    pub sync: bool,
    /// RFC 3339, UTC, at `t_ns` 0.
    pub wall_clock: String,
    /// How long a segment plays, for deadlines and QoE.
    pub segment_duration_ms: f64,
    /// How many segments a player waits for before it starts.
    pub startup_segments: u64,
    /// The cell of an experiment that this run is; null for a run of its own.
    pub cell: Option<Cell>,
    /// The commit that the program was built from; null where that was not known.
    pub commit: Option<String>,
}

/// Where a run stands in an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Cell {
    /// The experiment's name.
    pub experiment: String,
    /// Place in the order of the runs, from 0.
    pub index: u64,
    /// Which repetition, from 0: every cell runs once in each block.
    pub block: u64,
    /// The links' condition, as in "near"; cells of one condition are compared with each other.
    pub condition: String,
    /// "shared" where both links are on one channel, else "independent".
    pub channel: String,
    /// The schedule or program as the experiment names it; "rates=alone" where it is computed from throughputs.
    pub schedule: String,
    /// "auto" for a program, which decides itself.
    pub pipeline: String,
    /// How many connections each link has; null for the schedule's own choice, and for a program.
    pub connections: Option<String>,
    pub congestion: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Server {
    /// As it was named on the command line.
    pub name: String,
    /// The address and port in use; null where the name did not resolve.
    pub address: Option<String>,
    /// The `Server` header of its answers.
    pub software: Option<String>,
    pub http_version: Option<String>,
    /// Whether it gave a list of digests.
    pub digests: Option<bool>,
    /// Handshake round trip before the transfer, idle.
    pub rtt_ms: Option<f64>,
    /// Of its sockets, which send the payload; null where it does not tell.
    pub congestion_control: Option<String>,
}

/// One direction of a link, when it was set, changed or cleared.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Link {
    pub link: LinkId,
    pub direction: Direction,
    /// "netem", "userspace", or "none" for a link that is not shaped.
    pub backend: String,
    pub why: String,
    pub profile: Option<String>,
    pub asked: Option<LinkShape>,
    /// The kernel's report, as tc prints it.
    pub kernel: serde_json::Value,
    /// The error of the shared channel's model; null for a link that is not on one.
    pub channel_error: Option<ChannelError>,
    /// "set", "changed" or "cleared"; "step" when a step of its trace begins.
    pub action: String,
    /// When the step was to begin, on the log's clock, and how late it was; null where it is none, and
    /// the second where it was left out.
    pub planned_ms: Option<f64>,
    pub late_ms: Option<f64>,
}

/// A profile's direction, with units in the keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LinkShape {
    pub rate_kbit: f64,
    /// One way.
    pub delay_ms: f64,
    pub jitter_ms: f64,
    pub distribution: Option<String>,
    /// Mean share of packets lost, full queues apart.
    pub loss_pct: f64,
    /// "random" or "gilbert-elliott"; null without loss.
    pub loss_model: Option<String>,
    /// The time that a full queue takes to drain at the rate.
    pub queue_ms: f64,
    /// Traffic of others through it, as the profile says it.
    #[serde(default)]
    pub cross: Option<String>,
    /// "droptail", or "codel" or "fq_codel", which drop before they are full.
    pub queue_kind: String,
    pub reorder_pct: f64,
    pub duplicate_pct: f64,
    pub corrupt_pct: f64,
    /// The trace that changes the rate over time.
    pub trace: Option<LinkTrace>,
}

/// A trace as a profile has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LinkTrace {
    pub file: String,
    pub looped: bool,
    pub steps: u64,
    pub length_ms: f64,
    /// Of one lap.
    pub mean_rate_kbit: f64,
    pub shortest_step_ms: f64,
}

/// One file, when it is on disk under its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Segment {
    pub name: String,
    /// Its place in the list, from 0.
    pub index: u64,
    /// The link that brought its last byte; null where a program fetched it and no server tells.
    pub link: Option<LinkId>,
    pub bytes: u64,
    pub parts: Vec<Part>,
    /// When the first request for it was sent.
    pub requested_ms: f64,
    pub first_byte_ms: f64,
    pub done_ms: f64,
    /// `bytes` over the time from the first byte to done.
    pub goodput_kbit: Option<f64>,
    /// Null where there was nothing to check it against.
    pub digest_ok: Option<bool>,
}

/// A range of a segment that one answer brought.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Part {
    pub link: LinkId,
    pub from_byte: u64,
    /// One past the last byte.
    pub to_byte: u64,
    pub requested_ms: f64,
    pub first_byte_ms: f64,
    pub done_ms: f64,
}

/// The state of one link, every 100 ms.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Sample {
    pub link: LinkId,
    /// Payload received on this link since the transfer began.
    pub bytes: u64,
    /// Over the time since the last sample.
    pub goodput_kbit: f64,
    /// Null where a program fetches, which does not tell.
    pub requests_in_flight: Option<u64>,
    /// How many connections are open; null where a program fetches.
    pub connections: Option<u64>,
    /// Of the first of the open connections.
    pub tcp: Option<TcpInfo>,
    /// The server's end, as it last told; null before it did and where it does not.
    pub sender: Option<Sender>,
    /// When the answer came that told it.
    pub sender_at_ms: Option<f64>,
    pub down: Option<Counters>,
    pub up: Option<Counters>,
    /// The stations of the shared channel; null for a link that is not on one.
    pub air: Option<Vec<Airtime>>,
}

/// How busy a station of the shared channel is, or the access point ("ap").
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Airtime {
    pub station: String,
    /// Its share of the channel's time since the last sample.
    pub busy_pct: f64,
}

/// One direction of a link, measured before the transfer and held against its profile.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Probe {
    pub link: LinkId,
    pub direction: Direction,
    /// Idle round trip of the whole link, median of TCP handshakes: the same in both directions.
    pub rtt_ms: Option<f64>,
    pub rtt_expected_ms: Option<f64>,
    /// Of Ethernet frames, to compare with the profile; null where the server has no such direction.
    pub rate_kbit: Option<f64>,
    pub rate_expected_kbit: Option<f64>,
    /// How the rate was found: "shaper" (what the shaper let pass; on a link that TCP does not fill, while
    /// its bottleneck was busy), or "payload" (goodput and its headers, on a link that is not shaped).
    pub rate_from: Option<String>,
    /// Of TCP payload, to compare with other tools.
    pub goodput_kbit: Option<f64>,
    pub loss_pct: Option<f64>,
    pub loss_expected_pct: Option<f64>,
    /// The most by which a packet left the shaper late meanwhile; null where the backend does not say.
    pub late_ms: Option<f64>,
    /// Whether what was measured is within tolerance; null where nothing could be compared.
    pub ok: Option<bool>,
    /// One sentence for people.
    pub verdict: String,
    pub took_ms: f64,
}

/// Something that should not have happened, and what was done about it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Fault {
    pub link: Option<LinkId>,
    pub segment: Option<String>,
    pub what: String,
    pub action: String,
}

/// The last record of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RunEnd {
    /// "ok", or a word for what ended the run.
    pub exit: Outcome,
    /// One sentence for people.
    pub summary: String,
    /// From the first request until the last file is on disk under its name; null if that never was.
    pub elapsed_ms: Option<f64>,
    /// When the first request was sent, on the log's clock.
    pub first_request_ms: Option<f64>,
    pub files: u64,
    /// Verified payload, without waste.
    pub bytes: u64,
    pub bound_ms: Option<f64>,
    /// The bound with each link's slow start from ten segments.
    pub bound_tcp_ms: Option<f64>,
    /// Bound over elapsed.
    pub efficiency: Option<f64>,
    pub predicted_ms: Option<f64>,
    /// Bytes received and thrown away.
    pub wasted_bytes: u64,
    /// Whether the links got in each other's way, as `adaptive` and `inorder` found; null where they did not find out.
    #[serde(default)]
    pub coupling: Option<LinkCoupling>,
    /// Records that stdout did not get, because nobody read it; the file has them.
    pub dropped_records: u64,
    /// Files that an earlier run had left complete; null without `--resume`.
    pub resumed_files: Option<u64>,
    /// Bytes of these files and of others that it left, not part of `bytes`.
    pub resumed_bytes: Option<u64>,
    /// Time that `--sync` took after the last file, not part of `elapsed_ms`.
    pub sync_ms: Option<f64>,
    pub links: PerLink<LinkTotals>,
    /// The quality for a viewer; null where nothing came.
    pub qoe: Option<Qoe>,
    /// The resources of a program that fetched in the client's place; null for a run of the client.
    pub program: Option<ProgramEnd>,
}

/// Whether what one link brings costs the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LinkCoupling {
    pub coupled: bool,
    /// The better link's goodput alone, over that of both together; null for independent links.
    pub gain: Option<f64>,
}

/// A program of the user's, when it has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ProgramEnd {
    pub command: Vec<String>,
    /// Null where a signal ended it.
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// From its start to its end.
    pub took_ms: Option<f64>,
    /// CPU time of it and of the children that it waited for.
    pub cpu_user_ms: f64,
    pub cpu_system_ms: f64,
    /// The greatest resident set of one of its processes.
    pub peak_memory_bytes: u64,
    /// Requests that the servers answered; null where they do not tell.
    pub requests: Option<u64>,
    /// Its connections, as the servers saw them; null where they do not tell.
    pub connections: Option<Vec<ProgramConnection>>,
}

/// A connection of a program's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ProgramConnection {
    pub link: LinkId,
    /// The server's count of connections, from 1.
    pub connection: u64,
    pub requests: u64,
    /// Bytes of bodies that the server's kernel took.
    pub bytes: u64,
    /// TCP_INFO of the server's end, as it was told last.
    pub sender: Option<Sender>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LinkTotals {
    pub bytes: u64,
    /// Segments whose last byte came on this link.
    pub files: u64,
    /// `bytes` over the time from the first request to this link's last byte.
    pub goodput_kbit: Option<f64>,
    /// When this link's last byte came, counted from the first request.
    pub last_byte_ms: Option<f64>,
    /// How many were opened.
    pub connections: u64,
    /// How many it was to have at the end, and why; null where a program fetched.
    pub connections_wanted: Option<u64>,
    pub connections_why: Option<String>,
    /// The least round trip that TCP saw at either end.
    #[serde(default)]
    pub idle_rtt_ms: Option<f64>,
    /// The smoothed round trip while something came: the median of the samples, and of 95 in 100 the most.
    #[serde(default)]
    pub busy_rtt_ms: Option<f64>,
    #[serde(default)]
    pub busy_rtt_p95_ms: Option<f64>,
    /// Cross traffic that passed the bottleneck on the way down, in frames, and its share of all that did; null
    /// without.
    #[serde(default)]
    pub cross_bytes: Option<u64>,
    #[serde(default)]
    pub cross_pct: Option<f64>,
    /// Packets that the queue marked (ECN) on the way down, in place of dropping them; null where the backend does not
    /// say.
    #[serde(default)]
    pub marked: Option<u64>,
    /// Null where the link was not shaped all the time.
    pub reconciled: Option<Reconciled>,
}

/// Whether the application's bytes and the shaper's agree, in the down direction over the transfer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Reconciled {
    /// Bodies and heads of answers that the application received.
    pub received_bytes: u64,
    /// Ethernet frames that the shaper let through, and how many they were.
    pub shaper_bytes: u64,
    pub shaper_packets: u64,
    /// Frames without headers, less what was received: what came twice.
    pub unexplained_bytes: i64,
    /// The least (below 0) and the most of it that is allowed.
    pub allowed_least_bytes: i64,
    pub allowed_most_bytes: i64,
    /// Whether it is within these two.
    pub ok: bool,
}

/// An experiment that begins, or goes on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SweepStart {
    pub version: String,
    pub experiment: String,
    /// Path of its file, as given; the folder holds a copy.
    pub file: String,
    pub description: Option<String>,
    pub command_line: Vec<String>,
    pub kernel: String,
    pub seed: u64,
    pub cells: u64,
    pub repetitions: u64,
    /// Cells that an earlier call had completed.
    pub skipped: u64,
    /// About how long the others take, measuring and setting up included; null where a link has no rate, or
    /// server a does not tell the sizes of its files.
    #[serde(default)]
    pub expected_s: Option<f64>,
    /// The conditions, in the order of the file.
    #[serde(default)]
    pub conditions: Vec<NamedCondition>,
    pub wall_clock: String,
}

/// A condition of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NamedCondition {
    pub condition: String,
    /// As in `cell`.
    pub channel: String,
}

/// The throughput of each link under one condition, measured by an experiment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Throughput {
    pub experiment: String,
    pub condition: String,
    pub channel: String,
    pub block: u64,
    /// Goodput of each link while the other rests, kbit/s.
    pub alone_kbit: PerLink<Option<f64>>,
    /// Goodput of each link while both are busy, kbit/s.
    pub together_kbit: PerLink<Option<f64>>,
}

/// A cell that has ended. Its own log is `runs/<run>/log.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CellEnd {
    pub cell: Cell,
    /// The run's name.
    pub run: String,
    /// As in `run_end`.
    pub exit: Outcome,
    pub summary: String,
    pub elapsed_ms: Option<f64>,
    pub bound_ms: Option<f64>,
    pub efficiency: Option<f64>,
    pub predicted_ms: Option<f64>,
    /// The time of the cell beside its transfer and its probe.
    pub setup_ms: Option<f64>,
}

/// The last record of an experiment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SweepEnd {
    /// "ok", "failed" where a cell failed, or "interrupted".
    pub exit: Outcome,
    pub summary: String,
    pub cells: u64,
    pub failed: u64,
}

/// A server that is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ServeStart {
    pub version: String,
    pub listen: String,
    pub data: String,
    pub files: u64,
    pub bytes: u64,
    pub wall_clock: String,
}

/// One request that a server answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Request {
    pub peer: String,
    /// Counts connections from 1.
    pub connection: u64,
    /// Counts requests on the connection from 1.
    pub request: u64,
    /// Empty, like the target, where the head could not be read.
    pub method: String,
    pub target: String,
    pub range: Option<String>,
    /// 0 where the connection ended before there was an answer.
    pub status: u16,
    /// Bytes of the answer's body that the kernel took.
    pub bytes: u64,
    /// Bytes of the request's own body.
    pub received_bytes: u64,
    /// From the request's head to the last byte of the answer handed to the kernel.
    pub duration_ms: f64,
    /// Whether the whole body went out.
    pub complete: bool,
    /// TCP_INFO of the connection after the answer, every 100 ms at most; null in between.
    pub sender: Option<Sender>,
}

/// A server that has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ServeEnd {
    pub reason: String,
    pub requests: u64,
    pub bytes: u64,
    /// Connections that were still busy when the time to finish was over.
    pub cut_connections: u64,
    /// Connections turned away because there were too many.
    pub refused_connections: u64,
    /// Records lost because the log was not read fast enough.
    pub dropped_records: u64,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let record = Record {
            schema: SCHEMA.into(),
            t_ns: 12,
            run: "r".into(),
            event: Event::Fault(Fault {
                link: Some(LinkId::B),
                segment: None,
                what: "w".into(),
                action: "a".into(),
            }),
        };
        let text = serde_json::to_string(&record).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["schema"], "twinlink/1");
        assert_eq!(value["event"], "fault");
        assert_eq!(value["data"]["link"], "b");
        let back: Record = serde_json::from_str(&text).unwrap();
        assert!(matches!(back.event, Event::Fault(fault) if fault.what == "w"));
    }

    /// `docs/log.schema.json` is what these types say. `UPDATE_SCHEMA=1 cargo test schema` writes it.
    #[test]
    fn the_published_schema_is_the_one_of_these_types() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/log.schema.json");
        let mut schema = schemars::schema_for!(Record);
        schema.insert("title".into(), "A line of a twinlink log".into());
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let published = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(published == text, "docs/log.schema.json is out of date: UPDATE_SCHEMA=1 cargo test schema");
    }
}
