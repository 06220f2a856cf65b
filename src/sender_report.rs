//! A server's report on its sending end to its client: one header, the same name both ways.
//!
//! A request with `Twinlink-Sender: ?1` asks for a report of the server's socket; with `Twinlink-Sender:
//! cc=reno` it also chooses the congestion control for what is sent from then on. The answer's header is a
//! report, a dictionary of numbers and tokens (RFC 8941): `cc=reno, rtt_us=40213, cwnd=52, …`. A choice that
//! is unavailable is answered with 400 and `allowed=(bbr reno)`. Servers that do not know the header ignore
//! it. Pure: no socket, no clock.

use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// TCP_INFO of a server's socket, which sends the payload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Sender {
    pub congestion_control: Option<String>,
    /// Smoothed, of data and its acknowledgement: it holds the queue of the down direction.
    pub rtt_ms: f64,
    pub rtt_var_ms: f64,
    pub min_rtt_ms: Option<f64>,
    pub snd_mss_bytes: u64,
    pub snd_cwnd_packets: u64,
    /// Null as long as nothing has ended the first slow start.
    pub ssthresh_packets: Option<u64>,
    pub unacked_packets: u64,
    pub retransmits_total: u64,
    /// The kernel's estimate of what the path delivers.
    pub delivery_rate_kbit: Option<u64>,
    /// Null where nothing paces.
    pub pacing_rate_kbit: Option<u64>,
    /// How long there was something to send, ever; and of that, how long it waited for the client's
    /// window, and for the server's own buffer.
    pub busy_ms: Option<f64>,
    pub rwnd_limited_ms: Option<f64>,
    pub sndbuf_limited_ms: Option<f64>,
}

pub(crate) const HEADER: &str = "twinlink-sender";

/// The value of a request's header.
pub(crate) fn ask(congestion: Option<&str>) -> String {
    congestion.map_or_else(|| "?1".into(), |name| format!("cc={name}"))
}

/// The congestion control that a request's header chooses, if it does.
pub(crate) fn asked(value: &str) -> Option<&str> {
    get(value, "cc")
}

/// The header of an answer that refuses a choice.
pub(crate) fn refuse(allowed: &[&str]) -> String {
    format!("allowed=({})", allowed.join(" "))
}

/// Returns the choices that a server allows instead, if this header refuses one.
pub(crate) fn allowed(value: &str) -> Option<Vec<&str>> {
    let names = get(value, "allowed")?.strip_prefix('(')?.strip_suffix(')')?;
    Some(names.split_whitespace().collect())
}

/// Times are rounded to microseconds, or milliseconds for sums; what is unknown is left out.
pub(crate) fn render(sender: &Sender) -> String {
    let us = |ms: f64| (ms * 1e3).round() as u64;
    let ms = |ms: f64| ms.round() as u64;
    let numbers = [
        ("rtt_us", Some(us(sender.rtt_ms))),
        ("var_us", Some(us(sender.rtt_var_ms))),
        ("min_us", sender.min_rtt_ms.map(us)),
        ("mss", Some(sender.snd_mss_bytes)),
        ("cwnd", Some(sender.snd_cwnd_packets)),
        ("ssthresh", sender.ssthresh_packets),
        ("unacked", Some(sender.unacked_packets)),
        ("retrans", Some(sender.retransmits_total)),
        ("rate_kbit", sender.delivery_rate_kbit),
        ("pace_kbit", sender.pacing_rate_kbit),
        ("busy_ms", sender.busy_ms.map(ms)),
        ("rwnd_ms", sender.rwnd_limited_ms.map(ms)),
        ("sndbuf_ms", sender.sndbuf_limited_ms.map(ms)),
    ];
    let mut text = sender.congestion_control.as_ref().map_or_else(String::new, |name| format!("cc={name}"));
    for (key, number) in numbers {
        if let Some(number) = number {
            let comma = if text.is_empty() { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(text, "{comma}{key}={number}");
        }
    }
    text
}

/// Reads a report; `None` where the header is none.
pub(crate) fn parse(value: &str) -> Option<Sender> {
    let number = |key: &str| get(value, key)?.parse::<u64>().ok();
    let us = |key: &str| number(key).map(|us| us as f64 / 1e3);
    let ms = |key: &str| number(key).map(|ms| ms as f64);
    Some(Sender {
        congestion_control: get(value, "cc").map(str::to_string),
        rtt_ms: us("rtt_us")?,
        rtt_var_ms: us("var_us")?,
        min_rtt_ms: us("min_us"),
        snd_mss_bytes: number("mss")?,
        snd_cwnd_packets: number("cwnd")?,
        ssthresh_packets: number("ssthresh"),
        unacked_packets: number("unacked")?,
        retransmits_total: number("retrans")?,
        delivery_rate_kbit: number("rate_kbit"),
        pacing_rate_kbit: number("pace_kbit"),
        busy_ms: ms("busy_ms"),
        rwnd_limited_ms: ms("rwnd_ms"),
        sndbuf_limited_ms: ms("sndbuf_ms"),
    })
}

fn get<'a>(dictionary: &'a str, key: &str) -> Option<&'a str> {
    dictionary.split(',').find_map(|member| member.trim().strip_prefix(key)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Sender {
        Sender {
            congestion_control: Some("reno".into()),
            rtt_ms: 40.213,
            rtt_var_ms: 1.5,
            min_rtt_ms: Some(40.001),
            snd_mss_bytes: 1448,
            snd_cwnd_packets: 52,
            ssthresh_packets: None,
            unacked_packets: 51,
            retransmits_total: 3,
            delivery_rate_kbit: Some(9470),
            pacing_rate_kbit: Some(11_000),
            busy_ms: Some(1200.0),
            rwnd_limited_ms: Some(0.0),
            sndbuf_limited_ms: None,
        }
    }

    #[test]
    fn a_report_reads_back_as_it_was_written() {
        let text = render(&report());
        assert!(text.starts_with("cc=reno, rtt_us=40213, var_us=1500, "), "{text}");
        assert_eq!(parse(&text), Some(report()));
        let nameless = Sender { congestion_control: None, ..report() };
        assert_eq!(parse(&render(&nameless)), Some(nameless));
    }

    #[test]
    fn other_headers_are_no_report() {
        for other in ["", "?1", "cc=reno", "allowed=(bbr reno)", "rtt_us=-1, var_us=1", "rtt_us"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_request_chooses_and_a_refusal_names_what_is_allowed() {
        assert_eq!(asked(&ask(Some("bbr"))), Some("bbr"));
        assert_eq!(asked(&ask(None)), None);
        assert_eq!(allowed(&refuse(&["bbr", "reno"])), Some(vec!["bbr", "reno"]));
        assert_eq!(allowed(&refuse(&[])), Some(vec![]));
        assert_eq!(allowed(&render(&report())), None);
    }
}
