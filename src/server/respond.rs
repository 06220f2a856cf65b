//! From a request to its answer: which resource, which part of it, and which headers.
//!
//! Knows no socket and no time limit; opens a file at most. Errors have a one-line text that says
//! what to do.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{
    ACCEPT_RANGES, ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HOST, HeaderName,
    HeaderValue, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE, RETRY_AFTER, SERVER,
};
use hyper::http::response::Builder;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};

use super::body::Body;
use super::file::is_shortage;
use super::journal::InFlight;
use super::outbox::Outbox;
use super::range::{Selection, names_etag, select};
use super::table::{Content, Entry, Table};

const SOFTWARE: HeaderValue = HeaderValue::from_static(concat!("twinlink/", env!("CARGO_PKG_VERSION")));
/// Seconds after which a client may ask again what was answered with 503.
const RETRY_AFTER_S: u32 = 1;
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// What a request is about.
pub enum Resource<'a> {
    Entry(&'a Entry),
    Health,
    Sink,
    /// The method is not one that the resource takes; what it takes instead.
    NotAllowed(&'static str),
    NotFound,
    /// Why the request cannot be understood.
    Bad(&'static str),
}

/// Finds what a request is about. The query is ignored.
pub fn resource<'a, B>(table: &'a Table, request: &Request<B>) -> Resource<'a> {
    if request.version() == Version::HTTP_11 && request.headers().get_all(HOST).iter().count() != 1 {
        return Resource::Bad("an HTTP/1.1 request has exactly one Host header");
    }
    let Some(path) = request.uri().path().strip_prefix('/') else { return Resource::NotFound };
    let Some(name) = percent_decoded(path) else {
        return Resource::Bad("the name is not percent-encoded UTF-8");
    };
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match name.as_str() {
        "healthz" if reads => Resource::Health,
        "sink" if request.method() == Method::PUT => Resource::Sink,
        "sink" => Resource::NotAllowed("PUT"),
        "healthz" => Resource::NotAllowed("GET, HEAD"),
        name => match table.get(name) {
            Some(entry) if reads => Resource::Entry(entry),
            Some(_) => Resource::NotAllowed("GET, HEAD"),
            None => Resource::NotFound,
        },
    }
}

/// `%41` to `A`; nothing where the escapes or the text are malformed.
fn percent_decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            (digit(rest.next())? * 16 + digit(rest.next())?) as u8
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}

/// The answer to GET or HEAD of a file or of the list of digests.
pub fn entry(
    entry: &Entry,
    method: &Method,
    headers: &HeaderMap,
    outbox: &Arc<Outbox>,
    in_flight: Arc<InFlight>,
) -> Response<Body> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let etag = entry.etag.to_str().unwrap_or_default();
    let base = builder().header(ETAG, &entry.etag).header(ACCEPT_RANGES, "bytes");
    if text(IF_MATCH).is_some_and(|tags| !names_etag(tags, etag, false)) {
        return plain(base, StatusCode::PRECONDITION_FAILED, "this is another version", method, in_flight);
    }
    if text(IF_NONE_MATCH).is_some_and(|tags| names_etag(tags, etag, true)) {
        in_flight.answered(StatusCode::NOT_MODIFIED.as_u16(), 0);
        return finish(base.status(StatusCode::NOT_MODIFIED), Body::empty(in_flight));
    }
    // A Range means something to GET alone, and only where If-Range, if there is one, names the
    // version that is here; a date never does, because no answer carries one.
    let same_version = headers.get(IF_RANGE).is_none() || text(IF_RANGE) == Some(etag);
    let selection = match text(RANGE) {
        Some(range) if method == Method::GET && same_version => select(range, entry.len),
        _ => Selection::Whole,
    };
    let (status, from, to) = match selection {
        Selection::Whole => (StatusCode::OK, 0, entry.len),
        Selection::Part { from, to } => (StatusCode::PARTIAL_CONTENT, from, to),
        Selection::Unsatisfiable => {
            let base = base.header(CONTENT_RANGE, format!("bytes */{}", entry.len));
            let why = "the range begins behind the end of the file";
            return plain(base, StatusCode::RANGE_NOT_SATISFIABLE, why, method, in_flight);
        }
    };
    let body = match body(entry, from, to, method, outbox, &in_flight) {
        Ok(body) => body,
        Err(error) if is_shortage(&error) => {
            tracing::warn!("cannot serve {} now: {error}", entry.name);
            let base = builder().header(RETRY_AFTER, RETRY_AFTER_S);
            let why = "the server has no resources left for this file: ask again in a while";
            return plain(base, StatusCode::SERVICE_UNAVAILABLE, why, method, in_flight);
        }
        Err(error) => {
            tracing::error!("cannot serve {}: {error}", entry.name);
            let why = "the file cannot be read as it was when the server started: start it anew";
            return plain(builder(), StatusCode::INTERNAL_SERVER_ERROR, why, method, in_flight);
        }
    };
    let mut answer = base
        .status(status)
        .header(CONTENT_TYPE, entry.content_type)
        .header(CONTENT_LENGTH, to - from)
        .header(REPR_DIGEST, &entry.repr_digest);
    if status == StatusCode::PARTIAL_CONTENT {
        answer = answer.header(CONTENT_RANGE, format!("bytes {from}-{}/{}", to - 1, entry.len));
    }
    in_flight.answered(status.as_u16(), if method == Method::HEAD { 0 } else { to - from });
    finish(answer, body)
}

fn body(
    entry: &Entry,
    from: u64,
    to: u64,
    method: &Method,
    outbox: &Arc<Outbox>,
    in_flight: &Arc<InFlight>,
) -> std::io::Result<Body> {
    let in_flight = in_flight.clone();
    match &entry.content {
        Content::Memory(_) if method == Method::HEAD => Ok(Body::empty(in_flight)),
        Content::Memory(bytes) => Ok(Body::memory(bytes.slice(from as usize..to as usize), in_flight)),
        Content::File(file) => {
            // HEAD opens the file too, so that it says what GET would.
            let file = file.open()?;
            Ok(if method == Method::HEAD {
                Body::empty(in_flight)
            } else {
                Body::file(file, from, to, outbox.clone(), in_flight)
            })
        }
    }
}

/// The answers about anything but a file.
pub fn other(resource: &Resource, method: &Method, in_flight: Arc<InFlight>) -> Response<Body> {
    match resource {
        Resource::Health => plain(builder(), StatusCode::OK, "ok", method, in_flight),
        Resource::NotAllowed(allow) => {
            let base = builder().header(ALLOW, *allow);
            plain(base, StatusCode::METHOD_NOT_ALLOWED, "this takes other methods", method, in_flight)
        }
        Resource::Bad(why) => plain(builder(), StatusCode::BAD_REQUEST, why, method, in_flight),
        Resource::Entry(_) | Resource::Sink | Resource::NotFound => {
            let why = "there is no such file here: /SHA256SUMS lists those that are";
            plain(builder(), StatusCode::NOT_FOUND, why, method, in_flight)
        }
    }
}

/// How a `PUT /sink` went.
pub enum Sunk {
    Whole,
    TooLarge,
    TooSlow,
    Broken,
}

/// The answer to `PUT /sink`. Where not all was read, the connection cannot be used again.
pub fn sink(outcome: &Sunk, bytes: u64, in_flight: Arc<InFlight>) -> Response<Body> {
    let (status, done) = match outcome {
        Sunk::Whole => (StatusCode::OK, true),
        Sunk::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, false),
        Sunk::TooSlow => (StatusCode::REQUEST_TIMEOUT, false),
        Sunk::Broken => (StatusCode::BAD_REQUEST, false),
    };
    let elapsed_ms = in_flight.elapsed().as_secs_f64() * 1e3;
    let text = serde_json::json!({ "bytes": bytes, "elapsed_ms": elapsed_ms, "whole": done }).to_string();
    let mut answer = builder().status(status).header(CONTENT_TYPE, "application/json");
    if !done {
        answer = answer.header(CONNECTION, "close");
    }
    in_flight.answered(status.as_u16(), text.len() as u64);
    finish(answer.header(CONTENT_LENGTH, text.len()), Body::memory(Bytes::from(text), in_flight))
}

/// An answer of one line of text.
fn plain(
    base: Builder,
    status: StatusCode,
    line: &str,
    method: &Method,
    in_flight: Arc<InFlight>,
) -> Response<Body> {
    let text = Bytes::from(format!("{line}\n"));
    let answer = base
        .status(status)
        .header(CONTENT_TYPE, "text/plain; charset=utf-8")
        .header(CONTENT_LENGTH, text.len());
    let text = if method == Method::HEAD { Bytes::new() } else { text };
    in_flight.answered(status.as_u16(), text.len() as u64);
    finish(answer, Body::memory(text, in_flight))
}

fn builder() -> Builder {
    Response::builder().header(SERVER, SOFTWARE)
}

fn finish(answer: Builder, body: Body) -> Response<Body> {
    answer.body(body).expect("all header values are constants, numbers, hex or base64")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_percent_decoded() {
        assert_eq!(percent_decoded("a%20b%C3%a9.m4s").as_deref(), Some("a bé.m4s"));
        assert_eq!(percent_decoded("%2e%2e/x").as_deref(), Some("../x"));
        for malformed in ["%", "%4", "%zz", "a%+1", "%ff"] {
            assert_eq!(percent_decoded(malformed), None, "{malformed}");
        }
    }
}
