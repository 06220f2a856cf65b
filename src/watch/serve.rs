//! A page on loopback that follows a run: server-sent events of what the log tells, and changes of links.

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::EVERY;
use super::follow::{Follower, News};
use crate::log::say::say;
use crate::log::schema::{Event, Record};
use crate::text::visible_json;
use crate::units::{Direction, LinkId};

const PAGE: &str = include_str!("page.html");
/// Nothing is loaded from elsewhere, and no other page may hold this one.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; frame-ancestors 'none'";
const MOST_READERS: usize = 32;
const LONGEST_HEAD: usize = 16 * 1024;
const LONGEST_BODY: usize = 1024;
/// A reader that takes nothing for this long is gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rounds without news after which a reader is shown that the page is there.
const SILENT_ROUNDS: u32 = 25;

/// Gives a link a profile by its name.
pub(crate) type SetLink = Arc<dyn Fn(LinkId, &str) -> Result<()> + Send + Sync>;

/// The page's server.
#[derive(Clone)]
pub(crate) struct PageServer {
    pub root: PathBuf,
    pub since: Option<SystemTime>,
    /// Names of profiles that a link can be given, and how; `None` where links may not be changed from the page.
    pub control: Option<(Vec<String>, SetLink)>,
}

/// Parses the address of the page: a port, with or without a loopback address before it.
///
/// # Errors
/// It is none, or not of loopback: whoever reaches the page sees the run, and may change its links.
pub(crate) fn loopback(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text).parse::<u16>();
    let address = port.map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    let address = address.or_else(|_| text.replace("localhost", "127.0.0.1").parse());
    match address {
        Ok(address) if address.ip().is_loopback() => Ok(address),
        Ok(_) => {
            Err(format!("{text} is not on loopback: write :8080, and reach it from elsewhere with ssh -L"))
        }
        Err(_) => Err(format!("\"{text}\" is no port of loopback: write :8080, say")),
    }
}

/// Serves until the process ends.
///
/// # Errors
/// The listener fails.
pub(crate) fn serve(listener: &TcpListener, page: &PageServer) -> Result<()> {
    let readers = Arc::new(AtomicUsize::new(0));
    loop {
        let (stream, _) = listener.accept().context("cannot accept a reader of the page")?;
        if readers.fetch_add(1, Ordering::SeqCst) >= MOST_READERS {
            readers.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (page, count) = (page.clone(), readers.clone());
        let work = move || {
            // A reader that goes away ends its own answer.
            let _ = page.answer(&stream);
            count.fetch_sub(1, Ordering::SeqCst);
        };
        std::thread::Builder::new().name("reader".into()).spawn(work).context("cannot start a thread")?;
    }
}

/// A request, as far as it matters here.
struct PageRequest {
    method: String,
    target: String,
    /// Of this page: named by loopback, and sent by no other page.
    is_own: bool,
    body: Vec<u8>,
}

fn read_request(stream: &TcpStream) -> io::Result<PageRequest> {
    let invalid = || io::Error::from(ErrorKind::InvalidData);
    let mut reader = BufReader::new(stream.take((LONGEST_HEAD + LONGEST_BODY) as u64));
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        reader.read_exact(&mut byte)?;
        head.push(byte[0]);
        if head.len() > LONGEST_HEAD {
            return Err(invalid());
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    parsed.parse(&head).map_err(|_| invalid())?;
    let header = |name: &str| {
        let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let host = header("host").unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is_own = ["127.0.0.1", "localhost", "[::1]"].contains(&name)
        && header("origin").is_none_or(|origin| origin == format!("http://{host}"))
        && header("sec-fetch-site").is_none_or(|site| ["same-origin", "none"].contains(&site));
    let length: usize = header("content-length").map_or(Ok(0), str::parse).map_err(|_| invalid())?;
    if length > LONGEST_BODY {
        return Err(invalid());
    }
    let (method, target) = (parsed.method.unwrap_or_default().into(), parsed.path.unwrap_or_default().into());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(PageRequest { method, target, is_own, body })
}

#[derive(Deserialize)]
struct WantedProfile {
    link: LinkId,
    profile: String,
}

impl PageServer {
    fn answer(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let request = read_request(stream)?;
        let told = |status, text: &str| send(stream, status, "text/plain; charset=utf-8", text);
        match (request.method.as_str(), request.target.as_str()) {
            _ if !request.is_own => told("403 Forbidden", "This page answers its own requests alone.\n"),
            ("GET", "/") => {
                let profiles = self.control.as_ref().map(|(profiles, _)| profiles);
                let profiles = serde_json::to_string(&profiles)?.replace('<', "\\u003c");
                send(stream, "200 OK", "text/html; charset=utf-8", &PAGE.replace("PROFILES", &profiles))
            }
            ("GET", "/events") => self.events(stream),
            ("POST", "/link") => {
                match (&self.control, serde_json::from_slice::<WantedProfile>(&request.body)) {
                    (None, _) => told("403 Forbidden", "Links are changed from here only with --control.\n"),
                    (_, Err(error)) => told("400 Bad Request", &format!("{error}\n")),
                    (Some((profiles, _)), Ok(change)) if !profiles.contains(&change.profile) => {
                        told("400 Bad Request", "This is not one of the profiles.\n")
                    }
                    (Some((_, set)), Ok(change)) => match set(change.link, &change.profile) {
                        Ok(()) => {
                            told("200 OK", &format!("Link {} follows {} now.\n", change.link, change.profile))
                        }
                        Err(error) => told("409 Conflict", &format!("{error:#}\n")),
                    },
                }
            }
            _ => told("404 Not Found", "There is only the page itself.\n"),
        }
    }

    /// Sends all that the log has told so far, and goes on as it grows.
    fn events(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
        )?;
        let mut follower = Follower::new(&self.root, self.since);
        let mut silent = 0;
        loop {
            let news: Vec<Value> = follower.poll()?.iter().filter_map(told).collect();
            silent = if news.is_empty() { silent + 1 } else { 0 };
            if !news.is_empty() {
                let json = serde_json::to_string(&news)?;
                stream.write_all(format!("data: {}\n\n", visible_json(&json)).as_bytes())?;
            } else if silent % SILENT_ROUNDS == 1 {
                stream.write_all(b":\n\n")?;
            }
            std::thread::sleep(EVERY);
        }
    }
}

fn send(mut stream: &TcpStream, status: &str, kind: &str, text: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Content-Security-Policy: {POLICY}\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        text.len()
    );
    stream.write_all(format!("{head}{text}").as_bytes())
}

/// Returns what the page shows of a record; `None` for one that it does not show.
fn told(news: &News) -> Option<Value> {
    let News::Record(record) = news else { return Some(json!({ "event": "run" })) };
    let Record { t_ns, event, .. } = &**record;
    let (t, said) = (*t_ns as f64 / 1e9, say(event, None));
    Some(match event {
        Event::RunStart(start) => json!({ "event": "start", "t": t, "said": said, "files": start.files }),
        Event::Link(link) if link.direction == Direction::Down => json!({
            "event": "link", "t": t, "link": link.link, "profile": link.profile, "action": link.action,
            "rate": link.asked.as_ref().map(|asked| asked.rate_kbit / 1e3),
        }),
        Event::Sample(sample) => json!({
            "event": "sample", "t": t, "link": sample.link, "goodput": sample.goodput_kbit / 1e3, "bytes": sample.bytes,
            "rate": sample.down.as_ref().and_then(|down| down.rate_kbit).map(|kbit| kbit / 1e3),
            "queue": sample.down.as_ref().and_then(|down| down.queue_ms),
        }),
        Event::Segment(segment) => json!({
            "event": "segment", "t": t, "name": segment.name, "index": segment.index, "link": segment.link,
            "from": segment.requested_ms / 1e3, "to": segment.done_ms / 1e3,
        }),
        Event::Probe(_) => json!({ "event": "probe", "t": t, "said": said }),
        Event::Fault(_) => json!({ "event": "fault", "t": t, "said": said }),
        Event::RunEnd(end) => json!({ "event": "end", "t": t, "said": said, "exit": end.exit }),
        Event::SweepStart(start) => {
            json!({ "event": "sweep", "said": said, "done": start.skipped, "cells": start.cells })
        }
        Event::CellEnd(_) => json!({ "event": "cell", "said": said }),
        Event::SweepEnd(_) => json!({ "event": "sweep_end", "said": said }),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_loopback_serve_the_page() {
        for text in [":8080", "8080", "127.0.0.1:8080", "localhost:8080"] {
            assert_eq!(loopback(text), Ok("127.0.0.1:8080".parse().unwrap()), "{text}");
        }
        assert_eq!(loopback("[::1]:80"), Ok("[::1]:80".parse().unwrap()));
        for text in ["0.0.0.0:8080", "192.0.2.1:80"] {
            assert!(loopback(text).unwrap_err().contains("not on loopback"), "{text}");
        }
        for text in ["", ":", "host:80", ":99999"] {
            assert!(loopback(text).unwrap_err().contains("write :8080"), "{text}");
        }
    }
}
