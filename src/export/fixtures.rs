//! Runs that the renderers are tested with.

use super::LoggedRun;
use crate::log::schema::{Counters, Fault, Part, RunStart, Sample, Segment, Sender};
use crate::report::run::Timed;
use crate::units::LinkId;

/// A segment of 125 000 bytes, which are 1000 kbit, that came in one part.
pub(super) fn segment(index: u64, link: LinkId, requested_ms: f64, done_ms: f64) -> Segment {
    let (bytes, first_byte_ms) = (125_000, (requested_ms + done_ms) / 2.0);
    Segment {
        name: format!("s{:03}.m4s", index + 1),
        index,
        link: Some(link),
        bytes,
        parts: vec![Part { link, from_byte: 0, to_byte: bytes, requested_ms, first_byte_ms, done_ms }],
        requested_ms,
        first_byte_ms,
        done_ms,
        goodput_kbit: None,
        digest_ok: Some(true),
    }
}

/// A run of three segments of a second each, the last of them late, with one sample and one fault on link a.
pub(super) fn run() -> LoggedRun {
    let sender = Sender {
        congestion_control: Some("cubic".into()),
        rtt_ms: 40.0,
        rtt_var_ms: 1.0,
        min_rtt_ms: None,
        snd_mss_bytes: 1448,
        snd_cwnd_packets: 10,
        ssthresh_packets: None,
        unacked_packets: 4,
        retransmits_total: 0,
        delivery_rate_kbit: None,
        pacing_rate_kbit: None,
        busy_ms: None,
        rwnd_limited_ms: None,
        sndbuf_limited_ms: None,
    };
    let counters = Counters {
        rate_kbit: Some(8000.0),
        queue_ms: Some(12.5),
        dropped_loss: Some(1),
        ..Counters::default()
    };
    let sample = Sample {
        link: LinkId::A,
        bytes: 125_000,
        goodput_kbit: 7500.0,
        requests_in_flight: Some(2),
        connections: Some(1),
        tcp: None,
        sender: Some(sender),
        sender_at_ms: Some(90.0),
        down: Some(counters),
        up: None,
        air: None,
    };
    let what = "the connection broke".to_string();
    let fault = Fault { link: Some(LinkId::A), segment: None, what, action: "a new one".into() };
    LoggedRun {
        name: "r".into(),
        start: Some(RunStart { segment_duration_ms: 1000.0, startup_segments: 2, ..RunStart::default() }),
        segments: vec![
            segment(0, LinkId::A, 0.0, 100.0),
            segment(1, LinkId::B, 0.0, 200.0),
            segment(2, LinkId::B, 200.0, 3000.0),
        ],
        samples: vec![Timed { at_ms: 100.0, data: sample }],
        faults: vec![Timed { at_ms: 150.0, data: fault }],
        ..LoggedRun::default()
    }
}
