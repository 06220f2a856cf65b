//! Each record in one plain sentence, for whoever reads standard output.

use std::time::Duration;

use super::schema::{
    CellEnd, Event, Fault, Link, Request, RunStart, Sample, Segment, SweepStart, Throughput,
};
use crate::text::duration;

/// The record as a sentence. `page` is where the report of the run will stand, as its reader finds it.
pub(crate) fn say(event: &Event, page: Option<&str>) -> String {
    let with_page = |text: &str| match page {
        Some(page) => format!("{text} The page: {page}"),
        None => text.to_string(),
    };
    match event {
        Event::RunStart(start) => run_start(start),
        Event::Link(link) => self::link(link),
        Event::Segment(segment) => self::segment(segment),
        Event::Sample(sample) => self::sample(sample),
        Event::Probe(probe) => {
            format!("Link {} {}, measured: {}", probe.link, probe.direction, probe.verdict)
        }
        Event::Fault(fault) => self::fault(fault),
        Event::RunEnd(end) => with_page(&end.summary),
        Event::SweepStart(start) => sweep_start(start),
        Event::Throughput(found) => throughput(found),
        Event::CellEnd(end) => cell_end(end),
        Event::SweepEnd(end) => with_page(&end.summary),
        Event::ServeStart(start) => format!(
            "Serving {} files ({}) of {} on {}.",
            start.files,
            size(start.bytes),
            start.data,
            start.listen
        ),
        Event::Request(request) => self::request(request),
        Event::ServeEnd(end) => {
            format!(
                "The server ended ({}) after {} requests and {}.",
                end.reason,
                end.requests,
                size(end.bytes)
            )
        }
    }
}

fn run_start(start: &RunStart) -> String {
    let files = start.files.map_or("files".into(), |files| format!("{files} files"));
    format!("{} fetches {files} from {} and {}.", start.schedule, start.servers.a.name, start.servers.b.name)
}

fn link(link: &Link) -> String {
    let whose = format!("Link {} {}", link.link, link.direction);
    let profile = link.profile.as_deref().unwrap_or("no profile");
    match (link.action.as_str(), &link.asked) {
        ("cleared", _) => format!("{whose}: the shaping was cleared."),
        (action, Some(shape)) => format!(
            "{whose}: {action} to {profile} on {}: {:.2} Mbit/s, {:.1} ms one way, loss {:.2} %.",
            link.backend,
            shape.rate_kbit / 1e3,
            shape.delay_ms,
            shape.loss_pct
        ),
        (action, None) => format!("{whose}: {action} to {profile} on {}.", link.backend),
    }
}

fn segment(segment: &Segment) -> String {
    let digest = match segment.digest_ok {
        Some(true) => "its digest is right",
        Some(false) => "its digest is WRONG",
        None => "there was no digest to check",
    };
    format!(
        "{} ({}) came{} in {:.3} s; {digest}.",
        segment.name,
        size(segment.bytes),
        segment.link.map_or(String::new(), |link| format!(" over link {link}")),
        (segment.done_ms - segment.requested_ms) / 1e3
    )
}

fn sample(sample: &Sample) -> String {
    format!(
        "Link {}: {} so far, {:.2} Mbit/s now{}.",
        sample.link,
        size(sample.bytes),
        sample.goodput_kbit / 1e3,
        sample.requests_in_flight.map_or(String::new(), |count| format!(", {count} requests in flight"))
    )
}

fn fault(fault: &Fault) -> String {
    let link = fault.link.map_or(String::new(), |link| format!(" on link {link}"));
    let segment = fault.segment.as_ref().map_or(String::new(), |name| format!(" with {name}"));
    format!("Fault{link}{segment}: {}; {}.", fault.what.trim_end_matches('.'), fault.action)
}

/// Says what an experiment has before it.
pub(crate) fn sweep_start(start: &SweepStart) -> String {
    let expected = start.expected_s.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let expected = expected.map(|expected| format!("about {}", duration(expected)));
    let (name, cells) = (&start.experiment, start.cells);
    match (start.skipped, expected) {
        (0, None) => format!("Experiment {name}: {cells} runs."),
        (0, Some(about)) => format!("Experiment {name}: {cells} runs in {about}."),
        (done, None) => format!("Experiment {name}: {cells} runs, {done} of them done before."),
        (done, Some(about)) => {
            format!("Experiment {name}: {cells} runs, {done} of them done before, the rest in {about}.")
        }
    }
}

fn throughput(found: &Throughput) -> String {
    let mbit = |kbit: Option<f64>| kbit.map_or("unknown".into(), |kbit| format!("{:.2}", kbit / 1e3));
    format!(
        "{} ({} links), alone: a {} and b {} Mbit/s; together: a {} and b {} Mbit/s.",
        found.condition,
        found.channel,
        mbit(found.alone_kbit.a),
        mbit(found.alone_kbit.b),
        mbit(found.together_kbit.a),
        mbit(found.together_kbit.b)
    )
}

fn cell_end(end: &CellEnd) -> String {
    let cell = &end.cell;
    format!("Run {} ({}, {}): {}", cell.index + 1, cell.condition, cell.schedule, end.summary)
}

fn request(request: &Request) -> String {
    format!(
        "{} {} for {}: {}, {} in {:.1} ms.",
        request.method,
        request.target,
        request.peer,
        request.status,
        size(request.bytes),
        request.duration_ms
    )
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.2} MB", bytes as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::RunEnd;
    use super::*;
    use crate::units::LinkId;

    #[test]
    fn the_last_sentence_names_the_page() {
        let end = RunEnd { summary: "It took 9.111 s.".into(), ..RunEnd::default() };
        let said = say(&Event::RunEnd(Box::new(end.clone())), Some("results/x/report.html"));
        assert_eq!(said, "It took 9.111 s. The page: results/x/report.html");
        assert_eq!(say(&Event::RunEnd(Box::new(end)), None), "It took 9.111 s.");
    }

    #[test]
    fn a_fault_says_where_it_was_and_what_was_done() {
        let fault = Fault {
            link: Some(LinkId::B),
            segment: Some("s001.m4s".into()),
            what: "the connection was lost.".into(),
            action: "asked again".into(),
        };
        let said = say(&Event::Fault(fault), None);
        assert_eq!(said, "Fault on link b with s001.m4s: the connection was lost; asked again.");
    }
}
