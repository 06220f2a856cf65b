//! Reads the access logs of both servers: the requests of a program, on the clock of its run.

use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::http::target::file_name;
use crate::log::schema::{Event, Record, Sender};
use crate::units::LinkId;

/// A server's name in its log's file name.
pub(crate) const NAMES: [&str; 2] = ["server-a", "server-b"];

/// One request that a server answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServedRequest {
    pub link: LinkId,
    pub connection: u64,
    /// The name that the server looked up, whatever the spelling of the target.
    pub name: String,
    /// The first byte that was asked for, and one past the last that was sent.
    pub from_byte: u64,
    pub to_byte: u64,
    pub method: String,
    pub status: u16,
    /// When the server had read the request's head, and when the kernel had the last byte of its answer (ms on
    /// the run's clock; below 0 for what came before the run).
    pub read_ms: f64,
    pub sent_ms: f64,
    /// TCP_INFO of the server's end after the answer, where it was told.
    pub sender: Option<Sender>,
}

impl ServedRequest {
    /// Returns true for a request that was to bring bytes of a file.
    pub(crate) fn fetches(&self) -> bool {
        self.method == "GET" && matches!(self.status, 200 | 206)
    }

    /// Returns the bytes of the body that the kernel took.
    pub(crate) fn bytes(&self) -> u64 {
        self.to_byte - self.from_byte
    }
}

/// Reads a server's log. `epoch` is time 0 of the run's clock.
///
/// # Errors
/// The file cannot be read, or it is no log of a twinlink server.
pub(crate) fn read(path: &Path, link: LinkId, epoch: SystemTime) -> Result<Vec<ServedRequest>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text, link, epoch).with_context(|| format!("cannot use {} as a server's log", path.display()))
}

/// Parses a server's log. Lines of other programs, and one that is not yet complete, are passed over.
///
/// # Errors
/// No record says that a twinlink server began, or when.
pub(crate) fn parse(text: &str, link: LinkId, epoch: SystemTime) -> Result<Vec<ServedRequest>> {
    let mut began_ms = None;
    let mut requests = Vec::new();
    for line in text.lines() {
        let Ok(record) = serde_json::from_str::<Record>(line) else { continue };
        match record.event {
            Event::ServeStart(start) => {
                let began =
                    humantime::parse_rfc3339(&start.wall_clock).context("its wall_clock is invalid")?;
                began_ms = Some(ms_between(epoch, began));
            }
            Event::Request(request) => {
                let began_ms = began_ms.context("a request is before the server began")?;
                let sent_ms = began_ms + record.t_ns as f64 / 1e6;
                let from_byte = if request.status == 206 { first_byte(request.range.as_deref()) } else { 0 };
                requests.push(ServedRequest {
                    link,
                    connection: request.connection,
                    name: file_name(&request.method, &request.target).unwrap_or(request.target),
                    from_byte,
                    to_byte: from_byte + request.bytes,
                    method: request.method,
                    status: request.status,
                    read_ms: sent_ms - request.duration_ms,
                    sent_ms,
                    sender: request.sender,
                });
            }
            _ => {}
        }
    }
    began_ms.context("no record of it is of a twinlink server")?;
    Ok(requests)
}

/// Returns the first byte of a range; a suffix (`bytes=-5`) counts from 0, as its place is not in the log.
fn first_byte(range: Option<&str>) -> u64 {
    let first = range.and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok());
    first.unwrap_or(0)
}

fn ms_between(from: SystemTime, to: SystemTime) -> f64 {
    match to.duration_since(from) {
        Ok(after) => after.as_secs_f64() * 1e3,
        Err(before) => -before.duration().as_secs_f64() * 1e3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"not json
{"schema":"twinlink/1","t_ns":0,"run":"s","event":"serve_start","data":{"version":"0","listen":"x","data":"d","files":1,"bytes":1,"wall_clock":"2026-01-01T00:00:10.000Z"}}
{"schema":"twinlink/1","t_ns":1500000000,"run":"s","event":"request","data":{"peer":"p","connection":3,"request":1,"method":"GET","target":"/s001.m4s","range":"bytes=100-299","status":206,"bytes":200,"received_bytes":0,"duration_ms":500.0,"complete":true,"sender":null}}
{"schema":"twinlink/1","t_ns":16"#;

    fn at(text: &str) -> SystemTime {
        humantime::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn requests_are_on_the_clock_of_the_run() {
        let found = parse(LOG, LinkId::B, at("2026-01-01T00:00:11Z")).unwrap();
        let [request] = &found[..] else { panic!("{found:?}") };
        assert_eq!((request.name.as_str(), request.from_byte, request.to_byte), ("s001.m4s", 100, 300));
        assert!(
            (request.read_ms - 0.0).abs() < 1e-6 && (request.sent_ms - 500.0).abs() < 1e-6,
            "{request:?}"
        );
        assert!(request.fetches());
    }

    #[test]
    fn a_file_has_one_name_however_it_is_asked_for() {
        for target in ["/s001.m4s?x=1", "/%73001.m4s", "http://server-a/s001.m4s", "/s001.m4s#t"] {
            let found =
                parse(&LOG.replace("/s001.m4s", target), LinkId::A, at("2026-01-01T00:00:11Z")).unwrap();
            assert_eq!(found[0].name, "s001.m4s", "{target}");
        }
        let spaced = parse(&LOG.replace("s001", "a%20%3C"), LinkId::A, at("2026-01-01T00:00:11Z")).unwrap();
        assert_eq!(spaced[0].name, "a <.m4s");
    }

    #[test]
    fn earlier_requests_have_times_below_zero() {
        let found = parse(LOG, LinkId::A, at("2026-01-01T00:01:00Z")).unwrap();
        assert!(found[0].sent_ms < 0.0);
    }

    #[test]
    fn log_without_a_beginning_is_refused() {
        let without: String = LOG.lines().skip(2).map(|line| format!("{line}\n")).collect();
        assert!(parse(&without, LinkId::A, SystemTime::now()).is_err());
    }
}
