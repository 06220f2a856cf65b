//! A run as a trace for Perfetto, in the Trace Event Format (JSON), which chrome://tracing reads too.
//!
//! A process of the trace is a link, the segments or the viewer; a thread is a row of slices in it. Slices of a row
//! never overlap, since the format has no place for those that do: parts that were requested at a time
//! lie on rows of their own. Times are microseconds on the log's clock.

use serde_json::{Value, json};

use super::LoggedRun;
use crate::log::schema::{Counters, Part};
use crate::units::{Direction, LinkId};

/// The processes behind those of the links.
const SEGMENTS: u64 = 3;
const VIEWER: u64 = 4;

/// Threads are numbered through all processes; the first of a process has its moments.
const THREADS: u64 = 1000;

/// A slice of a row: from, to (ms), its name and its arguments.
struct Slice {
    from_ms: f64,
    to_ms: f64,
    name: String,
    args: Value,
    /// Slices inside it, one after another: name, from, to (ms).
    inner: Vec<(&'static str, f64, f64)>,
}

/// Renders the trace, an event a line.
pub(crate) fn render(run: &LoggedRun) -> String {
    let mut events = Vec::new();
    for link in LinkId::BOTH {
        name_process(&mut events, process(link), &format!("link {link}: {}", run.profile(link)));
        parts(&mut events, run, link);
        samples(&mut events, run, link);
    }
    name_process(&mut events, SEGMENTS, "segments");
    segments(&mut events, run);
    moments(&mut events, run);
    viewer(&mut events, run);
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    let start = run.start.as_ref();
    let about = json!({
        "run": run.name,
        "schedule": start.map(|start| &start.schedule),
        "wall_clock": start.map(|start| &start.wall_clock),
        "version": start.map(|start| &start.version),
    });
    let lines = lines.join(",\n");
    format!("{{\"displayTimeUnit\":\"ms\",\"otherData\":{about},\"traceEvents\":[\n{lines}\n]}}\n")
}

fn process(link: LinkId) -> u64 {
    link.index() as u64 + 1
}

/// Microseconds, to the nanosecond that the log knows.
fn us(ms: f64) -> f64 {
    (ms * 1e6).round() / 1e3
}

fn name_process(events: &mut Vec<Value>, pid: u64, name: &str) {
    events.push(json!({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}));
    events.push(json!({"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": pid}}));
}

fn name_thread(events: &mut Vec<Value>, pid: u64, row: u64, name: &str) -> u64 {
    let tid = pid * THREADS + row;
    events.push(json!({"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}));
    let args = json!({"sort_index": row});
    events.push(json!({"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "args": args}));
    tid
}

fn slice(
    events: &mut Vec<Value>,
    (pid, tid): (u64, u64),
    name: &str,
    from_ms: f64,
    to_ms: f64,
    args: &Value,
) {
    let (ts, end) = (us(from_ms), us(to_ms));
    let dur = ((end - ts).max(0.0) * 1e3).round() / 1e3;
    let event = json!({"ph": "X", "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur, "args": args});
    events.push(event);
}

fn counter(events: &mut Vec<Value>, pid: u64, name: &str, at_ms: f64, value: impl Into<Option<f64>>) {
    if let Some(value) = value.into() {
        let args = json!({"value": value});
        events.push(json!({"ph": "C", "name": name, "pid": pid, "ts": us(at_ms), "args": args}));
    }
}

/// Puts slices on as few rows as hold them without an overlap, and names these rows.
fn rows(events: &mut Vec<Value>, pid: u64, name: &str, mut slices: Vec<Slice>) {
    slices.sort_by(|x, y| x.from_ms.total_cmp(&y.from_ms).then(x.to_ms.total_cmp(&y.to_ms)));
    let mut ends_us: Vec<f64> = Vec::new();
    for Slice { from_ms, to_ms, name: of, args, inner } in slices {
        let row = ends_us.iter().position(|end| *end <= us(from_ms)).unwrap_or(ends_us.len());
        if row == ends_us.len() {
            name_thread(events, pid, row as u64 + 1, &format!("{name} {}", row + 1));
            ends_us.push(0.0);
        }
        ends_us[row] = us(to_ms.max(from_ms));
        let place = (pid, pid * THREADS + row as u64 + 1);
        slice(events, place, &of, from_ms, to_ms, &args);
        let none = json!({});
        inner.into_iter().for_each(|(name, from, to)| slice(events, place, name, from, to, &none));
    }
}

fn parts(events: &mut Vec<Value>, run: &LoggedRun, link: LinkId) {
    let part = |name: &str, part: &Part| {
        let Part { from_byte, to_byte, requested_ms, first_byte_ms, done_ms, .. } = part;
        let first_ms = first_byte_ms.clamp(*requested_ms, done_ms.max(*requested_ms));
        Slice {
            from_ms: *requested_ms,
            to_ms: *done_ms,
            name: name.to_string(),
            args: json!({"from_byte": from_byte, "to_byte": to_byte}),
            inner: vec![("waiting", *requested_ms, first_ms), ("receiving", first_ms, *done_ms)],
        }
    };
    let of = run.segments.iter().flat_map(|segment| segment.parts.iter().map(|part| (&segment.name, part)));
    let slices = of.filter(|(_, of)| of.link == link).map(|(name, of)| part(name, of)).collect();
    rows(events, process(link), "parts", slices);
}

fn segments(events: &mut Vec<Value>, run: &LoggedRun) {
    let whole = run.segments.iter().map(|segment| Slice {
        from_ms: segment.requested_ms,
        to_ms: segment.done_ms,
        name: segment.name.clone(),
        args: json!({
            "link": segment.link,
            "bytes": segment.bytes,
            "goodput_kbit": segment.goodput_kbit,
            "digest_ok": segment.digest_ok,
        }),
        inner: Vec::new(),
    });
    rows(events, SEGMENTS, "segments", whole.collect());
}

fn samples(events: &mut Vec<Value>, run: &LoggedRun, link: LinkId) {
    let pid = process(link);
    for sample in run.samples.iter().filter(|sample| sample.data.link == link) {
        let (at_ms, data) = (sample.at_ms, &sample.data);
        let mut count = |name: &str, value: Option<f64>| counter(events, pid, name, at_ms, value);
        count("goodput, kbit/s", Some(data.goodput_kbit));
        count("requests in flight", data.requests_in_flight.map(|count| count as f64));
        // The client sends requests only: the window that matters is the server's.
        count(
            "cwnd of the server, packets",
            data.sender.as_ref().map(|sender| sender.snd_cwnd_packets as f64),
        );
        count("RTT of the server, ms", data.sender.as_ref().map(|sender| sender.rtt_ms));
        count("retransmissions", data.sender.as_ref().map(|sender| sender.retransmits_total as f64));
        for (direction, counters) in [(Direction::Down, &data.down), (Direction::Up, &data.up)] {
            let Some(Counters { rate_kbit, queue_ms, dropped_queue, dropped_loss, .. }) = counters else {
                continue;
            };
            count(&format!("{direction}: rate, kbit/s"), *rate_kbit);
            count(&format!("{direction}: queue, ms"), *queue_ms);
            count(&format!("{direction}: dropped by the queue"), Some(*dropped_queue as f64));
            count(&format!("{direction}: lost"), dropped_loss.map(|count| count as f64));
        }
    }
}

/// Faults and changes of links.
fn moments(events: &mut Vec<Value>, run: &LoggedRun) {
    let faults = run.faults.iter().map(|fault| {
        let data = &fault.data;
        (
            data.link,
            fault.at_ms,
            format!("fault: {}", data.what),
            json!({"segment": data.segment, "action": data.action}),
        )
    });
    let changes = run.links.iter().map(|change| {
        let data = &change.data;
        let profile = data.profile.as_deref().unwrap_or("unshaped");
        let rate_kbit = data.asked.as_ref().map(|asked| asked.rate_kbit);
        let what = format!("{} {}: {profile}", data.direction, data.action);
        (Some(data.link), change.at_ms, what, json!({"backend": data.backend, "rate_kbit": rate_kbit}))
    });
    let all: Vec<_> = faults.chain(changes).collect();
    for pid in [process(LinkId::A), process(LinkId::B), SEGMENTS] {
        let mut here = all.iter().filter(|(link, ..)| link.map_or(SEGMENTS, process) == pid).peekable();
        if here.peek().is_none() {
            continue;
        }
        let tid = name_thread(events, pid, 0, "faults and changes");
        events.extend(here.map(|(_, at_ms, what, args)| {
            json!({"ph": "i", "s": "p", "name": what, "pid": pid, "tid": tid, "ts": us(*at_ms), "args": args})
        }));
    }
}

/// The playback of the segments as they came (`crate::qoe`).
fn viewer(events: &mut Vec<Value>, run: &LoggedRun) {
    let (Some(played), Some(first_ms)) = (run.playback(), run.first_request_ms()) else { return };
    let Some(startup_ms) = played.qoe.startup_delay_ms else { return };
    name_process(events, VIEWER, "viewer");
    let place = (VIEWER, name_thread(events, VIEWER, 0, "playback"));
    let none = json!({});
    slice(events, place, "startup", first_ms, first_ms + startup_ms, &none);
    let mut from_ms = first_ms + startup_ms;
    for stall in &played.stalls {
        slice(events, place, "playing", from_ms, stall.from_ms, &none);
        slice(events, place, "stall", stall.from_ms, stall.to_ms, &none);
        from_ms = stall.to_ms;
    }
    let end_ms = played.buffer.last().map_or(from_ms, |(at_ms, _)| *at_ms);
    slice(events, place, "playing", from_ms, end_ms, &none);
    for (at_ms, level_ms) in &played.buffer {
        counter(events, VIEWER, "buffer, ms", *at_ms, *level_ms);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::super::fixtures::{run, segment};
    use super::*;

    /// The events of a run, each held against the rules of the format.
    fn events(run: &LoggedRun) -> Vec<Value> {
        let trace: Value = serde_json::from_str(&render(run)).unwrap();
        let events = trace["traceEvents"].as_array().unwrap().clone();
        let mut named = BTreeSet::new();
        let mut slices: BTreeMap<u64, Vec<(i64, i64)>> = BTreeMap::new();
        for event in &events {
            let (pid, tid) = (event["pid"].as_u64().unwrap(), event["tid"].as_u64());
            let name = event["name"].as_str().unwrap();
            let ns = |key: &str| (event[key].as_f64().unwrap() * 1e3).round() as i64;
            match event["ph"].as_str().unwrap() {
                "M" => drop(named.insert((pid, tid.filter(|_| name.starts_with("thread"))))),
                "C" => assert!(event["args"].as_object().unwrap().values().all(Value::is_number), "{event}"),
                "i" => assert_eq!(event["s"], "p"),
                "X" => slices.entry(tid.unwrap()).or_default().push((ns("ts"), ns("ts") + ns("dur"))),
                other => panic!("phase {other}"),
            }
            if event["ph"] != "M" {
                assert!(ns("ts") >= 0, "{event}");
                assert!(named.contains(&(pid, None)) && named.contains(&(pid, tid)), "unnamed: {event}");
            }
        }
        for row in slices.values_mut() {
            // A slice lies in the one that began before it, or behind it.
            let mut open: Vec<i64> = Vec::new();
            row.sort_by_key(|(from, to)| (*from, -to));
            for (from, to) in row {
                open.retain(|end| *end > *from);
                assert!(from <= to && open.iter().all(|end| end >= to), "{from} to {to} in {open:?}");
                open.push(*to);
            }
        }
        events
    }

    fn names<'a>(events: &'a [Value], phase: &str, pid: u64) -> Vec<&'a str> {
        let of = events.iter().filter(|event| event["ph"] == phase && event["pid"] == pid);
        of.map(|event| event["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn each_link_is_a_process_with_its_parts_and_counters() {
        let events = events(&run());
        assert_eq!(names(&events, "X", 1), ["s001.m4s", "waiting", "receiving"]);
        assert_eq!(
            names(&events, "X", 2),
            ["s002.m4s", "waiting", "receiving", "s003.m4s", "waiting", "receiving"]
        );
        assert_eq!(names(&events, "X", SEGMENTS), ["s001.m4s", "s002.m4s", "s003.m4s"]);
        assert_eq!(names(&events, "i", 1), ["fault: the connection broke"]);
        assert_eq!(names(&events, "X", VIEWER), ["startup", "playing", "stall", "playing"]);
        let counters = names(&events, "C", 1);
        for name in ["goodput, kbit/s", "cwnd of the server, packets", "down: queue, ms", "down: lost"] {
            assert!(counters.contains(&name), "{name} is not among {counters:?}");
        }
    }

    #[test]
    fn parts_that_overlap_lie_on_rows_of_their_own() {
        let mut run = run();
        run.segments = (0..4).map(|n| segment(n, LinkId::A, n as f64, 10.0 + n as f64)).collect();
        run.segments.push(segment(4, LinkId::A, 10.0, 12.0));
        let events = events(&run);
        let rows: BTreeSet<u64> = events
            .iter()
            .filter(|e| e["ph"] == "X" && e["pid"] == 1)
            .map(|e| e["tid"].as_u64().unwrap())
            .collect();
        assert_eq!(rows.len(), 4, "the fifth follows the first");
    }

    #[test]
    fn a_run_without_an_answer_still_renders() {
        let empty = LoggedRun::default();
        assert!(names(&events(&empty), "X", 1).is_empty());
    }
}
