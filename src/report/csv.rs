//! Tidy tables: a row an observation, a column a variable, a file a kind of thing. Every file but
//! `throughputs.csv` has the run's name in the column `run`, by which tables can be joined (a fault of an
//! experiment beside its runs has the experiment's); what is unknown is an empty field, which pandas and R
//! read as missing.

use std::fmt::Display;
use std::io::Write;

use anyhow::Result;

use super::compare;
use super::load::Loaded;
use super::run::{LoggedRun, Timed};
use crate::log::schema;
use crate::log::schema::{
    Counters, Fault, Link, LinkTotals, Part, Probe, RunEnd, Sample, Segment, Server, TcpInfo, Throughput,
};
use crate::results::Folder;
use crate::text::visible;
use crate::units::{Direction, LinkId};

/// A column: its name, and a row's field in it. `C` is what several rows have in common.
type Column<C, R> = (&'static str, fn(&C, &R) -> String);

/// Writes every table into `dir`.
pub(crate) fn write(loaded: &Loaded, dir: &Folder) -> Result<()> {
    let runs = || loaded.runs();
    let of_run = |run| (run, run);
    table(dir, "runs.csv", RUNS, runs().map(of_run))?;
    table(dir, "segments.csv", SEGMENTS, runs().flat_map(|run| run.segments.iter().map(move |s| (run, s))))?;
    let parts: Vec<((&LoggedRun, &Segment), &Part)> = runs()
        .flat_map(|run| run.segments.iter().map(move |segment| (run, segment)))
        .flat_map(|of| of.1.parts.iter().map(move |part| (of, part)))
        .collect();
    table(dir, "parts.csv", &part_columns(), parts.iter().map(|(of, part)| (of, *part)))?;
    table(dir, "samples.csv", SAMPLES, runs().flat_map(|run| run.samples.iter().map(move |s| (run, s))))?;
    table(dir, "links.csv", LINKS, runs().flat_map(|run| run.links.iter().map(move |l| (run, l))))?;
    table(dir, "probes.csv", PROBES, runs().flat_map(|run| run.probes.iter().map(move |p| (run, p))))?;
    let sweeps = || loaded.groups.iter().filter_map(|group| group.sweep.as_ref());
    let beside = sweeps().flat_map(|sweep| sweep.faults.iter().map(|f| (&sweep.name, f)));
    let faults = runs().flat_map(|run| run.faults.iter().map(|f| (&run.name, f)));
    table(dir, "faults.csv", FAULTS, faults.chain(beside))?;
    let throughputs = sweeps().flat_map(|sweep| sweep.throughputs.iter().map(|t| (&(), t)));
    table(dir, "throughputs.csv", THROUGHPUTS, throughputs)
}

fn table<'a, C: 'a, R: 'a>(
    dir: &Folder,
    name: &str,
    columns: &[Column<C, R>],
    rows: impl Iterator<Item = (&'a C, &'a R)>,
) -> Result<()> {
    dir.replace(name, |out| {
        let header: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        writeln!(out, "{}", header.join(","))?;
        for (common, row) in rows {
            for (index, (_, field)) in columns.iter().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                write!(out, "{comma}{}", field(common, row))?;
            }
            writeln!(out)?;
        }
        Ok(())
    })
}

/// Text as a field, in quotes where it must be. A spreadsheet takes what begins with `=`, `+`, `-` or `@`
/// for a formula; an apostrophe before it keeps it text. Control characters are written as escapes.
fn text(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
    let text = format!("{}{}", if formula { "'" } else { "" }, visible(text));
    let plain = !text.contains(['"', ',', '\n']);
    if plain { text } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

fn or_empty<T: Display>(value: Option<T>) -> String {
    value.map_or(String::new(), |value| text(&value.to_string()))
}

fn end<T: Display>(run: &LoggedRun, of: impl Fn(&RunEnd) -> Option<T>) -> String {
    or_empty(run.end.as_ref().and_then(of))
}

fn start<T: Display>(run: &LoggedRun, of: impl Fn(&schema::RunStart) -> Option<T>) -> String {
    or_empty(run.start.as_ref().and_then(of))
}

fn cell<T: Display>(run: &LoggedRun, of: impl Fn(&schema::Cell) -> T) -> String {
    start(run, |start| start.cell.as_ref().map(&of))
}

fn totals<T: Display>(run: &LoggedRun, link: LinkId, of: impl Fn(&LinkTotals) -> Option<T>) -> String {
    end(run, |end| of(&end.links[link]))
}

fn qoe<T: Display>(run: &LoggedRun, of: impl Fn(&schema::Qoe) -> Option<T>) -> String {
    end(run, |end| end.qoe.as_ref().and_then(&of))
}

/// Returns a value of the first record of a link's down direction.
fn first_down<T: Display>(run: &LoggedRun, link: LinkId, of: impl Fn(&Link) -> T) -> String {
    let mut records = run.links.iter().map(|timed| &timed.data);
    or_empty(records.find(|record| record.link == link && record.direction == Direction::Down).map(of))
}

fn server<T: Display>(run: &LoggedRun, link: LinkId, of: impl Fn(&Server) -> Option<T>) -> String {
    start(run, |start| of(&start.servers[link]))
}

const RUNS: &[Column<LoggedRun, LoggedRun>] = &[
    ("run", |r, _| text(&r.name)),
    ("experiment", |r, _| cell(r, |c| c.experiment.clone())),
    ("index", |r, _| cell(r, |c| c.index)),
    ("block", |r, _| cell(r, |c| c.block)),
    ("condition", |r, _| compare::key(r).map_or(String::new(), |(key, _)| text(&key.condition))),
    ("channel", |r, _| compare::key(r).map_or(String::new(), |(key, _)| text(&key.channel))),
    // As the experiment names it, and as it was carried out.
    ("schedule", |r, _| compare::key(r).map_or(String::new(), |(key, _)| text(&key.schedule))),
    ("schedule_used", |r, _| start(r, |s| Some(s.schedule.clone()))),
    ("pipeline", |r, _| start(r, |s| Some(s.pipeline.clone()))),
    ("connections", |r, _| start(r, |s| s.connections.clone())),
    // Of the client's sockets, which send requests, and of the servers', which send the payload.
    ("congestion", |r, _| start(r, |s| s.congestion_control.clone())),
    ("sender_congestion_a", |r, _| or_empty(r.sender_congestion(LinkId::A))),
    ("sender_congestion_b", |r, _| or_empty(r.sender_congestion(LinkId::B))),
    ("backend_a", |r, _| first_down(r, LinkId::A, |l| l.backend.clone())),
    ("backend_b", |r, _| first_down(r, LinkId::B, |l| l.backend.clone())),
    ("profile_a", |r, _| text(r.profile(LinkId::A))),
    ("profile_b", |r, _| text(r.profile(LinkId::B))),
    ("exit", |r, _| end(r, |e| Some(e.exit))),
    ("elapsed_ms", |r, _| end(r, |e| e.elapsed_ms)),
    ("first_request_ms", |r, _| end(r, |e| e.first_request_ms)),
    ("bound_ms", |r, _| end(r, |e| e.bound_ms)),
    ("bound_tcp_ms", |r, _| end(r, |e| e.bound_tcp_ms)),
    ("efficiency", |r, _| end(r, |e| e.efficiency)),
    ("predicted_ms", |r, _| end(r, |e| e.predicted_ms)),
    ("setup_ms", |r, _| or_empty(r.setup_ms)),
    ("files", |r, _| end(r, |e| Some(e.files))),
    ("bytes", |r, _| end(r, |e| Some(e.bytes))),
    ("wasted_bytes", |r, _| end(r, |e| Some(e.wasted_bytes))),
    ("bytes_a", |r, _| totals(r, LinkId::A, |l| Some(l.bytes))),
    ("bytes_b", |r, _| totals(r, LinkId::B, |l| Some(l.bytes))),
    ("files_a", |r, _| totals(r, LinkId::A, |l| Some(l.files))),
    ("files_b", |r, _| totals(r, LinkId::B, |l| Some(l.files))),
    ("goodput_a_kbit", |r, _| totals(r, LinkId::A, |l| l.goodput_kbit)),
    ("goodput_b_kbit", |r, _| totals(r, LinkId::B, |l| l.goodput_kbit)),
    ("last_byte_a_ms", |r, _| totals(r, LinkId::A, |l| l.last_byte_ms)),
    ("last_byte_b_ms", |r, _| totals(r, LinkId::B, |l| l.last_byte_ms)),
    ("idle_rtt_a_ms", |r, _| totals(r, LinkId::A, |l| l.idle_rtt_ms)),
    ("idle_rtt_b_ms", |r, _| totals(r, LinkId::B, |l| l.idle_rtt_ms)),
    ("busy_rtt_a_ms", |r, _| totals(r, LinkId::A, |l| l.busy_rtt_ms)),
    ("busy_rtt_b_ms", |r, _| totals(r, LinkId::B, |l| l.busy_rtt_ms)),
    ("rtt_a_ms", |r, _| server(r, LinkId::A, |s| s.rtt_ms)),
    ("rtt_b_ms", |r, _| server(r, LinkId::B, |s| s.rtt_ms)),
    ("startup_delay_ms", |r, _| qoe(r, |q| q.startup_delay_ms)),
    ("rebuffer_count", |r, _| qoe(r, |q| Some(q.rebuffer_count))),
    ("rebuffer_ms", |r, _| qoe(r, |q| Some(q.rebuffer_ms))),
    ("rebuffer_ratio", |r, _| qoe(r, |q| q.rebuffer_ratio)),
    ("stall_per_media", |r, _| qoe(r, |q| q.stall_per_media)),
    ("faults", |r, _| r.faults.len().to_string()),
    ("seed", |r, _| start(r, |s| Some(s.seed))),
    ("version", |r, _| start(r, |s| Some(s.version.clone()))),
    ("commit", |r, _| start(r, |s| s.commit.clone())),
    ("kernel", |r, _| start(r, |s| Some(s.kernel.clone()))),
    ("wall_clock", |r, _| start(r, |s| Some(s.wall_clock.clone()))),
    ("log", |r, _| text(&r.path.display().to_string())),
];

const SEGMENTS: &[Column<LoggedRun, Segment>] = &[
    ("run", |r, _| text(&r.name)),
    ("name", |_, s| text(&s.name)),
    ("index", |_, s| s.index.to_string()),
    ("link", |_, s| or_empty(s.link)),
    ("bytes", |_, s| s.bytes.to_string()),
    ("parts", |_, s| s.parts.len().to_string()),
    ("requested_ms", |_, s| s.requested_ms.to_string()),
    ("first_byte_ms", |_, s| s.first_byte_ms.to_string()),
    ("done_ms", |_, s| s.done_ms.to_string()),
    ("goodput_kbit", |_, s| or_empty(s.goodput_kbit)),
    ("digest_ok", |_, s| or_empty(s.digest_ok)),
];

/// Columns of `parts.csv`; a function, because a constant's types cannot name how long a run lives.
fn part_columns<'a>() -> [Column<(&'a LoggedRun, &'a Segment), Part>; 8] {
    [
        ("run", |of, _| text(&of.0.name)),
        ("name", |of, _| text(&of.1.name)),
        ("link", |_, p| p.link.to_string()),
        ("from_byte", |_, p| p.from_byte.to_string()),
        ("to_byte", |_, p| p.to_byte.to_string()),
        ("requested_ms", |_, p| p.requested_ms.to_string()),
        ("first_byte_ms", |_, p| p.first_byte_ms.to_string()),
        ("done_ms", |_, p| p.done_ms.to_string()),
    ]
}

fn tcp<T: Display>(sample: &Timed<Sample>, of: impl Fn(&TcpInfo) -> Option<T>) -> String {
    or_empty(sample.data.tcp.as_ref().and_then(of))
}

fn down<T: Display>(sample: &Timed<Sample>, of: impl Fn(&Counters) -> Option<T>) -> String {
    or_empty(sample.data.down.as_ref().and_then(of))
}

fn up<T: Display>(sample: &Timed<Sample>, of: impl Fn(&Counters) -> Option<T>) -> String {
    or_empty(sample.data.up.as_ref().and_then(of))
}

/// How busy a station of the shared channel was.
fn busy(sample: &Timed<Sample>, station: &str) -> String {
    let stations = sample.data.air.iter().flatten();
    or_empty(stations.into_iter().find(|busy| busy.station == station).map(|busy| busy.busy_pct))
}

const SAMPLES: &[Column<LoggedRun, Timed<Sample>>] = &[
    ("run", |r, _| text(&r.name)),
    ("t_ms", |_, s| s.at_ms.to_string()),
    ("link", |_, s| s.data.link.to_string()),
    ("bytes", |_, s| s.data.bytes.to_string()),
    ("goodput_kbit", |_, s| s.data.goodput_kbit.to_string()),
    ("requests_in_flight", |_, s| or_empty(s.data.requests_in_flight)),
    ("rtt_ms", |_, s| tcp(s, |t| Some(t.rtt_ms))),
    ("rcv_rtt_ms", |_, s| tcp(s, |t| Some(t.rcv_rtt_ms))),
    ("retransmits_total", |_, s| tcp(s, |t| Some(t.retransmits_total))),
    ("rcv_out_of_order", |_, s| tcp(s, |t| t.rcv_out_of_order)),
    ("sender_retransmits_total", |_, s| or_empty(s.data.sender.as_ref().map(|t| t.retransmits_total))),
    ("sender_rtt_ms", |_, s| or_empty(s.data.sender.as_ref().map(|t| t.rtt_ms))),
    ("sender_cwnd_packets", |_, s| or_empty(s.data.sender.as_ref().map(|t| t.snd_cwnd_packets))),
    ("down_rate_kbit", |_, s| down(s, |d| d.rate_kbit)),
    ("down_queue_ms", |_, s| down(s, |d| d.queue_ms)),
    ("down_queue_bytes", |_, s| down(s, |d| Some(d.queue_bytes))),
    ("down_packets", |_, s| down(s, |d| Some(d.packets))),
    ("down_bytes", |_, s| down(s, |d| Some(d.bytes))),
    ("down_packet_bytes", |_, s| down(s, |d| d.packet_bytes)),
    ("down_dropped_queue", |_, s| down(s, |d| Some(d.dropped_queue))),
    ("down_marked", |_, s| down(s, |d| d.marked)),
    ("down_cross_bytes", |_, s| down(s, |d| Some(d.cross_bytes))),
    ("down_dropped_loss", |_, s| down(s, |d| d.dropped_loss)),
    ("down_lateness_ms", |_, s| down(s, |d| d.lateness_ms)),
    ("up_rate_kbit", |_, s| up(s, |u| u.rate_kbit)),
    ("up_queue_ms", |_, s| up(s, |u| u.queue_ms)),
    ("up_packets", |_, s| up(s, |u| Some(u.packets))),
    ("up_bytes", |_, s| up(s, |u| Some(u.bytes))),
    ("up_packet_bytes", |_, s| up(s, |u| u.packet_bytes)),
    ("up_dropped_queue", |_, s| up(s, |u| Some(u.dropped_queue))),
    ("up_dropped_loss", |_, s| up(s, |u| u.dropped_loss)),
    ("air_busy_ap_pct", |_, s| busy(s, "ap")),
    ("air_busy_client_pct", |_, s| busy(s, "client")),
    ("air_busy_server_a_pct", |_, s| busy(s, "server-a")),
    ("air_busy_server_b_pct", |_, s| busy(s, "server-b")),
];

fn asked<T: Display>(link: &Timed<Link>, of: impl Fn(&schema::LinkShape) -> Option<T>) -> String {
    or_empty(link.data.asked.as_ref().and_then(of))
}

const LINKS: &[Column<LoggedRun, Timed<Link>>] = &[
    ("run", |r, _| text(&r.name)),
    ("t_ms", |_, l| l.at_ms.to_string()),
    ("link", |_, l| l.data.link.to_string()),
    ("direction", |_, l| l.data.direction.to_string()),
    ("action", |_, l| text(&l.data.action)),
    ("backend", |_, l| text(&l.data.backend)),
    ("profile", |_, l| or_empty(l.data.profile.as_ref())),
    ("rate_kbit", |_, l| asked(l, |a| Some(a.rate_kbit))),
    ("delay_ms", |_, l| asked(l, |a| Some(a.delay_ms))),
    ("jitter_ms", |_, l| asked(l, |a| Some(a.jitter_ms))),
    ("distribution", |_, l| asked(l, |a| a.distribution.clone())),
    ("loss_pct", |_, l| asked(l, |a| Some(a.loss_pct))),
    ("loss_model", |_, l| asked(l, |a| a.loss_model.clone())),
    ("queue_ms", |_, l| asked(l, |a| Some(a.queue_ms))),
    ("queue_kind", |_, l| asked(l, |a| Some(a.queue_kind.clone()))),
    ("cross", |_, l| asked(l, |a| a.cross.clone())),
    ("reorder_pct", |_, l| asked(l, |a| Some(a.reorder_pct))),
    ("duplicate_pct", |_, l| asked(l, |a| Some(a.duplicate_pct))),
    ("corrupt_pct", |_, l| asked(l, |a| Some(a.corrupt_pct))),
    ("trace", |_, l| asked(l, |a| a.trace.as_ref().map(|trace| trace.file.clone()))),
    ("planned_ms", |_, l| or_empty(l.data.planned_ms)),
    ("late_ms", |_, l| or_empty(l.data.late_ms)),
];

const PROBES: &[Column<LoggedRun, Probe>] = &[
    ("run", |r, _| text(&r.name)),
    ("link", |_, p| p.link.to_string()),
    ("direction", |_, p| p.direction.to_string()),
    ("rtt_ms", |_, p| or_empty(p.rtt_ms)),
    ("rtt_expected_ms", |_, p| or_empty(p.rtt_expected_ms)),
    ("rate_kbit", |_, p| or_empty(p.rate_kbit)),
    ("rate_expected_kbit", |_, p| or_empty(p.rate_expected_kbit)),
    ("goodput_kbit", |_, p| or_empty(p.goodput_kbit)),
    ("loss_pct", |_, p| or_empty(p.loss_pct)),
    ("loss_expected_pct", |_, p| or_empty(p.loss_expected_pct)),
    ("ok", |_, p| or_empty(p.ok)),
    ("took_ms", |_, p| p.took_ms.to_string()),
];

const FAULTS: &[Column<String, Timed<Fault>>] = &[
    ("run", |run, _| text(run)),
    ("t_ms", |_, f| f.at_ms.to_string()),
    ("link", |_, f| or_empty(f.data.link)),
    ("segment", |_, f| or_empty(f.data.segment.as_ref())),
    ("what", |_, f| text(&f.data.what)),
    ("action", |_, f| text(&f.data.action)),
];

const THROUGHPUTS: &[Column<(), Throughput>] = &[
    ("experiment", |(), t| text(&t.experiment)),
    ("condition", |(), t| text(&t.condition)),
    ("channel", |(), t| text(&t.channel)),
    ("block", |(), t| t.block.to_string()),
    ("alone_a_kbit", |(), t| or_empty(t.alone_kbit.a)),
    ("alone_b_kbit", |(), t| or_empty(t.alone_kbit.b)),
    ("together_a_kbit", |(), t| or_empty(t.together_kbit.a)),
    ("together_b_kbit", |(), t| or_empty(t.together_kbit.b)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        assert_eq!(text("plain"), "plain");
        assert_eq!(text("a \"b\", c"), "\"a \"\"b\"\", c\"");
        assert_eq!(or_empty::<f64>(None), "");
    }

    #[test]
    fn fields_are_no_formulas_and_have_no_control_characters() {
        assert_eq!(text("=cmd()"), "'=cmd()");
        assert_eq!(text("@SUM(A1,A2)"), "\"'@SUM(A1,A2)\"");
        assert_eq!(text("\t=1"), "'\\u{9}=1");
        assert_eq!(text("-1+cmd"), "'-1+cmd");
        assert_eq!(text("-1.5"), "-1.5");
        assert_eq!(text("a\u{1b}[2J"), "a\\u{1b}[2J");
        assert_eq!(text("ratio=1:3"), "ratio=1:3");
    }
}
