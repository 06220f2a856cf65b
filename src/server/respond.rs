//! From a request to its answer: which resource, which part of it, and which headers.
//!
//! Knows no socket and no time limit; opens a file at most. An error has one line of text with a remedy.

use std::fmt::{Display, Write};
use std::io;
use std::time::SystemTime;

use super::catalog::{Catalog, CatalogContent, CatalogEntry};
use super::file::{OpenFile, is_shortage};
use crate::http::head::RequestHead;
use crate::http::range::{Selection, names_etag, select};
use crate::http::target::{Target, percent_decoded, target};

/// Seconds after which a client may ask again what was answered with 503.
const RETRY_AFTER_S: u32 = 1;

/// The resource that a request names.
pub(crate) enum Resource<'a> {
    Entry(&'a CatalogEntry),
    Health,
    Sink,
    /// A browser asks what a page of another origin may request.
    Preflight,
    /// The resource does not take the method; it takes these.
    NotAllowed(&'static str),
    NotFound,
    /// Why the request cannot be understood.
    Bad(&'static str),
}

/// An answer, ready to be sent.
pub(crate) struct Answer<'a> {
    pub status: u16,
    /// Header lines, each with its end.
    lines: String,
    pub body: Body<'a>,
    /// The connection ends after it.
    pub closes: bool,
}

pub(crate) enum Body<'a> {
    Empty,
    Owned(Vec<u8>),
    Memory(&'a [u8]),
    /// The bytes of a file from the first number up to and without the second.
    File(OpenFile, u64, u64),
}

impl Body<'_> {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Body::Empty => 0,
            Body::Owned(bytes) => bytes.len() as u64,
            Body::Memory(bytes) => bytes.len() as u64,
            Body::File(_, from, to) => to - from,
        }
    }
}

impl<'a> Answer<'a> {
    fn new(status: u16) -> Answer<'a> {
        Answer { status, lines: String::new(), body: Body::Empty, closes: false }
    }

    /// An answer of one line of text.
    pub(crate) fn plain(status: u16, line: &str) -> Answer<'a> {
        Answer::new(status)
            .header("Content-Type", "text/plain; charset=utf-8")
            .body(Body::Owned(format!("{line}\n").into_bytes()))
    }

    pub(crate) fn header(mut self, name: &str, value: impl Display) -> Answer<'a> {
        // Writing to a String cannot fail.
        let _ = write!(self.lines, "{name}: {value}\r\n");
        self
    }

    fn body(self, body: Body<'a>) -> Answer<'a> {
        Answer { body, ..self }.sized()
    }

    fn sized(self) -> Answer<'a> {
        let bytes = self.body.len();
        self.header("Content-Length", bytes)
    }

    /// Changes the first byte of a file, and nothing else.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn corrupted(mut self) -> io::Result<Answer<'a>> {
        if let Body::File(file, from, to) = &self.body {
            let mut bytes = vec![0; (to - from) as usize];
            file.read_exact_at(&mut bytes, *from)?;
            if let Some(first) = bytes.first_mut() {
                *first ^= 0xff;
            }
            self.body = Body::Owned(bytes);
        }
        Ok(self)
    }

    /// Lets pages of every origin read the answer and its timing (Fetch, 3.2; Resource Timing, 3.5).
    pub(crate) fn for_every_origin(self) -> Answer<'a> {
        self.header("Access-Control-Allow-Origin", "*")
            .header("Access-Control-Expose-Headers", "*")
            .header("Timing-Allow-Origin", "*")
    }

    pub(crate) fn closing(self) -> Answer<'a> {
        Answer { closes: true, ..self }
    }

    /// Renders the head of the answer to a request of HTTP/1.`minor_version`.
    pub(crate) fn head(&self, minor_version: u8) -> String {
        let connection = match (self.closes, minor_version) {
            (true, _) => "Connection: close\r\n",
            (false, 0) => "Connection: keep-alive\r\n",
            (false, _) => "",
        };
        format!(
            "HTTP/1.{minor_version} {} {}\r\n{}Server: twinlink/{}\r\nDate: {}\r\n{connection}\r\n",
            self.status,
            reason(self.status),
            self.lines,
            env!("CARGO_PKG_VERSION"),
            httpdate::fmt_http_date(SystemTime::now())
        )
    }
}

/// The phrase that stands behind a status (RFC 9110, section 15).
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        416 => "Range Not Satisfiable",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "",
    }
}

/// Finds what a request is about. The query is ignored.
pub(crate) fn resource<'a>(table: &'a Catalog, request: &RequestHead) -> Resource<'a> {
    if request.minor_version > 0 && request.hosts != 1 {
        return Resource::Bad("an HTTP/1.1 request has exactly one Host header");
    }
    let path = match target(&request.method, &request.target) {
        Some(Target::Path(path)) => path,
        Some(Target::NoPath) => return Resource::NotFound,
        None => return Resource::Bad("the target is not a path that begins with a slash"),
    };
    let Some(name) = percent_decoded(path) else {
        return Resource::Bad("the name is not percent-encoded UTF-8");
    };
    let reads = matches!(request.method.as_str(), "GET" | "HEAD");
    match name.as_str() {
        _ if request.method == "OPTIONS" && request.has_origin => Resource::Preflight,
        "healthz" if reads => Resource::Health,
        "sink" if request.method == "PUT" => Resource::Sink,
        "sink" => Resource::NotAllowed("PUT"),
        "healthz" => Resource::NotAllowed("GET, HEAD"),
        name => match table.get(name) {
            Some(entry) if reads => Resource::Entry(entry),
            Some(_) => Resource::NotAllowed("GET, HEAD"),
            None => Resource::NotFound,
        },
    }
}

/// The answer to GET or HEAD of a file or of the list of digests.
pub(crate) fn entry<'a>(entry: &'a CatalogEntry, request: &RequestHead) -> Answer<'a> {
    let tagged = |status| Answer::new(status).header("ETag", &entry.etag).header("Accept-Ranges", "bytes");
    let etag = entry.etag.as_str();
    if request.if_match.as_deref().is_some_and(|tags| !names_etag(tags, etag, false)) {
        return Answer::plain(412, "this is another version")
            .header("ETag", etag)
            .header("Accept-Ranges", "bytes");
    }
    if request.if_none_match.as_deref().is_some_and(|tags| names_etag(tags, etag, true)) {
        return tagged(304);
    }
    // A Range means something to GET alone, and only where If-Range, if there is one, names the
    // version that is here; a date never does, because no answer carries one.
    let same_version = request.if_range.as_deref().is_none_or(|tag| tag == etag);
    let selection = match &request.range {
        Some(range) if request.method == "GET" && same_version => select(range, entry.len),
        _ => Selection::Whole,
    };
    let (status, from, to) = match selection {
        Selection::Whole => (200, 0, entry.len),
        Selection::Part { from, to } => (206, from, to),
        Selection::Unsatisfiable => {
            return Answer::plain(416, "the range begins behind the end of the file")
                .header("ETag", etag)
                .header("Accept-Ranges", "bytes")
                .header("Content-Range", format_args!("bytes */{}", entry.len));
        }
    };
    match body(entry, from, to) {
        Ok(body) => {
            let answer = tagged(status)
                .header("Content-Type", entry.content_type)
                .header("Repr-Digest", &entry.repr_digest)
                .body(body);
            if status != 206 {
                return answer;
            }
            answer.header("Content-Range", format_args!("bytes {from}-{}/{}", to - 1, entry.len))
        }
        Err(error) if is_shortage(&error) => {
            tracing::warn!("cannot serve {} now: {error}", entry.name);
            busy()
        }
        Err(error) => {
            tracing::error!("cannot serve {}: {error}", entry.name);
            Answer::plain(500, "the file cannot be read as it was when the server started: start it anew")
        }
    }
}

/// The answer of a server that has no room for another file.
pub(crate) fn busy<'a>() -> Answer<'a> {
    Answer::plain(503, "the server has no resources left for this file: ask again in a while")
        .header("Retry-After", RETRY_AFTER_S)
}

/// HEAD opens the file too, so that it says what GET would.
fn body(entry: &CatalogEntry, from: u64, to: u64) -> io::Result<Body<'_>> {
    match &entry.content {
        CatalogContent::Memory(bytes) => Ok(Body::Memory(&bytes[from as usize..to as usize])),
        CatalogContent::File(file) => Ok(Body::File(file.open()?, from, to)),
    }
}

/// The answers about anything but a file.
pub(crate) fn other<'a>(resource: &Resource) -> Answer<'a> {
    match resource {
        Resource::Health => Answer::plain(200, "ok"),
        Resource::Preflight => Answer::new(204)
            .header("Access-Control-Allow-Methods", "GET, HEAD, PUT")
            .header("Access-Control-Allow-Headers", "*")
            .header("Access-Control-Max-Age", 86_400),
        Resource::NotAllowed(allow) => Answer::plain(405, "this takes other methods").header("Allow", allow),
        Resource::Bad(why) => Answer::plain(400, why),
        Resource::Entry(_) | Resource::Sink | Resource::NotFound => {
            Answer::plain(404, "file not found: /SHA256SUMS lists the files of this server")
        }
    }
}

/// How a `PUT /sink` went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sunk {
    Whole,
    TooLarge,
    TooSlow,
    Broken,
}

/// The answer to `PUT /sink` of `bytes`, which took `elapsed_ms`. Where not all was read, the connection
/// cannot be used again.
pub(crate) fn sink<'a>(outcome: Sunk, bytes: u64, elapsed_ms: f64) -> Answer<'a> {
    let status = match outcome {
        Sunk::Whole => 200,
        Sunk::TooLarge => 413,
        Sunk::TooSlow => 408,
        Sunk::Broken => 400,
    };
    let whole = outcome == Sunk::Whole;
    let text = serde_json::json!({ "bytes": bytes, "elapsed_ms": elapsed_ms, "whole": whole }).to_string();
    let answer =
        Answer::new(status).header("Content-Type", "application/json").body(Body::Owned(text.into_bytes()));
    if whole { answer } else { answer.closing() }
}
