//! HTTP/1.1 as the client speaks it: request heads out, answers in. No socket in it.
//!
//! [`Answers`] is fed bytes as they come and says what they mean, for any number of answers one
//! after another on a connection. It reads bodies of a stated length, and to the end of the
//! connection where an old server states none; it does not read chunked bodies. However the bytes are
//! cut, they mean the same.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use crate::http::target::absolute;
use crate::sender;

/// The most that the head of an answer may take, in bytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;
/// How many interim answers (1xx) may come before one that counts.
const MAX_INTERIM: u32 = 8;
/// How many bytes of empty lines may stand before a status line.
const MAX_BLANK_BYTES: usize = 8;
/// The largest size of a file that is believed: 8 TiB, so that the sum over a million files is a `u64`.
const MAX_FILE_BYTES: u64 = 1 << 43;
/// How many redirects of one request are followed.
pub const MOST_REDIRECTS: u32 = 5;
/// The longest time that `Retry-After` may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A request without a body.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    pub host: &'a str,
    /// The path, percent-encoded where it needs to be.
    pub path: &'a str,
    /// Ask for the bytes from here on.
    pub from: u64,
    /// One past the last byte to ask for; `None` for the end of the file.
    pub to: Option<u64>,
    /// The strong ETag that the bytes before `from` had.
    pub if_range: Option<&'a str>,
    /// The congestion control that the server is to send with; its own without one.
    pub congestion: Option<&'a str>,
}

impl Request<'_> {
    /// Appends the request to what is to be sent.
    pub fn render(&self, out: &mut Vec<u8>) {
        // Writing to a String cannot fail.
        let mut text = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, self.path, self.host);
        if self.from > 0 || self.to.is_some() {
            let last = self.to.map_or(String::new(), |to| to.saturating_sub(1).to_string());
            let _ = write!(text, "Range: bytes={}-{last}\r\n", self.from);
            if let Some(etag) = self.if_range {
                let _ = write!(text, "If-Range: {etag}\r\n");
            }
        }
        let _ = write!(text, "Twinlink-Sender: {}\r\n", sender::ask(self.congestion));
        text.push_str("User-Agent: twinlink/");
        text.push_str(env!("CARGO_PKG_VERSION"));
        text.push_str("\r\nAccept-Encoding: identity\r\n\r\n");
        out.extend_from_slice(text.as_bytes());
    }
}

/// Encodes a file's name for the path of a request (RFC 3986: all but unreserved characters).
pub fn path_of(name: &str) -> String {
    let mut path = String::from("/");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(byte as char);
        } else {
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

/// The head of an answer, as far as the client needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    pub minor_version: u8,
    /// Bytes of body that follow; `None` means up to the end of the connection.
    pub length: Option<u64>,
    /// Of a 206: its Content-Range, as it stands there where it cannot be read.
    pub range: Option<Result<ContentRange, String>>,
    pub etag: Option<String>,
    /// The sha-256 of the whole file in base64, from `Repr-Digest`.
    pub sha256_base64: Option<String>,
    pub server: Option<String>,
    /// What the server tells of its sending end (`crate::sender`).
    pub sender: Option<String>,
    pub location: Option<String>,
    /// How long the server asks to wait before the next request.
    pub retry_after: Option<Duration>,
    /// The media type, in lower case, without parameters.
    pub media_type: Option<String>,
    /// The Content-Encoding, where it is not `identity`.
    pub encoding: Option<String>,
    /// The server ends the connection after this answer.
    pub closes: bool,
    /// The size of the head on the wire, bytes.
    pub head_bytes: usize,
}

/// `bytes first-last/total`; `total` is `None` for `*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    pub first: u64,
    pub last: u64,
    pub total: Option<u64>,
}

/// Where the body of an answer lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub from: u64,
    /// One past the body's last byte, where the head tells.
    pub to: Option<u64>,
    /// The size of the file, where the head tells.
    pub total_bytes: Option<u64>,
}

impl Head {
    /// Returns where the body of a 200 or 206 lies in its file. The bytes `from..to` were asked for (to
    /// the file's end without `to`), and the file has `known` bytes, as far as is known.
    ///
    /// # Errors
    /// Says why a 206 is not the range that was asked for.
    pub fn place(&self, from: u64, to: Option<u64>, known: Option<u64>) -> Result<Placed, String> {
        if self.status != 206 {
            return Ok(Placed { from: 0, to: self.length, total_bytes: self.length });
        }
        if self.media_type.as_deref() == Some("multipart/byteranges") {
            return Err("an answer of several ranges (multipart/byteranges)".into());
        }
        let range = match &self.range {
            None => return Err("a 206 without Content-Range".into()),
            Some(Err(text)) => return Err(format!("the Content-Range \"{text}\"")),
            Some(Ok(range)) => *range,
        };
        let ContentRange { first, last, total } = range;
        let Some(end) = to.into_iter().chain(total.or(known)).min() else {
            return Err(format!("the bytes {first}-{last} of a file of unknown size"));
        };
        if first != from || last + 1 != end {
            return Err(format!("the bytes {first}-{last}, not {from}-{}", end.saturating_sub(1)));
        }
        if let Some(length) = self.length.filter(|&length| length != end - first) {
            return Err(format!("{length} bytes as the bytes {first}-{last}"));
        }
        Ok(Placed { from, to: Some(end), total_bytes: total })
    }

    /// Whether the server asks to be asked again later: 429 or 503.
    pub fn is_busy(&self) -> bool {
        matches!(self.status, 429 | 503)
    }

    pub fn is_redirect(&self) -> bool {
        matches!(self.status, 301 | 302 | 303 | 307 | 308)
    }

    /// Returns the path that a redirect of `path` leads to, if it is on the same `host`.
    ///
    /// # Errors
    /// Says where else it leads.
    pub fn redirected(&self, host: &str, path: &str) -> Result<String, String> {
        let Some(location) = self.location.as_deref() else { return Err("without a Location".into()) };
        same_host(host, path, location).ok_or_else(|| {
            let shown: String = location.chars().take(200).collect();
            format!("to {}", shown.escape_debug())
        })
    }
}

/// Resolves a redirect (RFC 3986, section 5.3); `None` where it leads to another host, port or scheme.
fn same_host(host: &str, path: &str, location: &str) -> Option<String> {
    let location = location.split('#').next()?;
    let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
    let target = if location.starts_with("//") {
        format!("http:{location}")
    } else if location.starts_with('/') {
        format!("http://{host}{location}")
    } else if location.starts_with('?') {
        format!("http://{host}{}{location}", path.split('?').next()?)
    } else if location.split(['/', '?']).next()?.contains(':') {
        location.to_string()
    } else {
        format!("http://{host}{folder}{location}")
    };
    let target = absolute(&target)?;
    let same = host_and_port(target.authority)? == host_and_port(host)?;
    let plain = target.scheme.eq_ignore_ascii_case("http");
    let path = if target.rest.starts_with('/') { target.rest.into() } else { format!("/{}", target.rest) };
    (same && plain && path.bytes().all(may_stand_in_path)).then_some(path)
}

/// Takes an authority apart: the host in lower case, and the port.
fn host_and_port(authority: &str) -> Option<(String, u16)> {
    let colon = authority.rfind(':').filter(|_| !authority.ends_with(']'));
    let (host, port) = authority.split_at(colon.unwrap_or(authority.len()));
    let port = match port.get(1..).unwrap_or_default() {
        "" => 80,
        port => port.parse().ok()?,
    };
    let is_host = !host.is_empty() && !host.contains('@') && host.bytes().all(may_stand_in_path);
    is_host.then(|| (host.to_ascii_lowercase(), port))
}

/// Whether a byte of a redirect may be sent in a request line.
fn may_stand_in_path(byte: u8) -> bool {
    !byte.is_ascii_control() && !b" \"<>\\^`".contains(&byte)
}

/// Why the bytes of a server are not answers.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotHttp {
    #[error("it answers with something that is not HTTP: \"{0}\"")]
    Garbage(String),
    #[error("the head of its answer is longer than 32 KiB")]
    HeadTooLong,
    #[error("its answer is malformed: {0}")]
    Malformed(String),
    #[error("it sends chunked bodies, which this client does not read; serve files with a Content-Length")]
    Chunked,
    #[error("it sends more than {MAX_INTERIM} interim answers (1xx) and no other")]
    Interim,
    #[error("it sends bytes that nobody asked for")]
    Unasked,
}

/// What the next bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    Head(Box<Head>),
    Body(&'a [u8]),
    /// The answer is complete.
    End,
    /// Everything fed so far has been used.
    NeedMore,
}

#[derive(Debug)]
enum State {
    Head(Vec<u8>),
    Body { left: Option<u64> },
}

/// Reads answers out of a stream of bytes.
#[derive(Debug)]
pub struct Answers {
    state: State,
    /// Interim answers since the last one that counted.
    interim: u32,
}

impl Default for Answers {
    fn default() -> Self {
        Answers { state: State::Head(Vec::new()), interim: 0 }
    }
}

impl Answers {
    /// Takes what it can from the front of `input` and moves `input` past it.
    ///
    /// `head_only` says that the answer under way has no body (it answers a HEAD).
    ///
    /// # Errors
    /// When the bytes cannot be the answer that is due. The connection is of no more use then.
    pub fn next<'a>(&mut self, input: &mut &'a [u8], head_only: bool) -> Result<Event<'a>, NotHttp> {
        loop {
            return match &mut self.state {
                State::Body { left: Some(0) } => {
                    self.state = State::Head(Vec::new());
                    Ok(Event::End)
                }
                _ if input.is_empty() => Ok(Event::NeedMore),
                State::Body { left } => {
                    let take = left.map_or(input.len(), |left| left.min(input.len() as u64) as usize);
                    let (body, rest) = input.split_at(take);
                    *input = rest;
                    if let Some(left) = left {
                        *left -= take as u64;
                    }
                    Ok(Event::Body(body))
                }
                State::Head(seen) => {
                    // Nearly always the whole head is in `input`; only one that was cut is kept.
                    let before = seen.len();
                    let room = (MAX_HEAD_BYTES + 1).saturating_sub(before).min(input.len());
                    let parsed = if before == 0 {
                        parse_head(&input[..room])?
                    } else {
                        seen.extend_from_slice(&input[..room]);
                        parse_head(seen)?
                    };
                    let Some(head) = parsed else {
                        if before == 0 {
                            seen.extend_from_slice(&input[..room]);
                        }
                        if seen.len() > MAX_HEAD_BYTES {
                            return Err(NotHttp::HeadTooLong);
                        }
                        *input = &[];
                        return Ok(Event::NeedMore);
                    };
                    *input = &input[head.head_bytes - before..];
                    if head.status < 200 {
                        // An interim answer: the one that counts follows.
                        self.interim += 1;
                        if self.interim > MAX_INTERIM {
                            return Err(NotHttp::Interim);
                        }
                        self.state = State::Head(Vec::new());
                        continue;
                    }
                    self.interim = 0;
                    let bodiless = head_only || matches!(head.status, 204 | 304);
                    self.state = State::Body { left: if bodiless { Some(0) } else { head.length } };
                    Ok(Event::Head(Box::new(head)))
                }
            };
        }
    }

    /// Takes bytes that come while no answer is due: empty lines, which some servers send after a body.
    ///
    /// # Errors
    /// When they are anything else.
    pub fn idle(&mut self, input: &[u8]) -> Result<(), NotHttp> {
        let State::Head(seen) = &mut self.state else { return Err(NotHttp::Unasked) };
        seen.extend_from_slice(&input[..input.len().min(MAX_BLANK_BYTES + 1)]);
        let rest = after_blank_lines(seen).map_err(|_| NotHttp::Unasked)?;
        if rest.is_empty() || rest == b"\r" { Ok(()) } else { Err(NotHttp::Unasked) }
    }

    /// How many bytes of a body of a stated length are still to come.
    pub fn body_left(&self) -> u64 {
        match self.state {
            State::Body { left } => left.unwrap_or(0),
            State::Head(_) => 0,
        }
    }

    /// Notes that the next `bytes` of the body, at most `body_left`, went another way.
    pub fn skip_body(&mut self, bytes: u64) {
        if let State::Body { left: Some(left) } = &mut self.state {
            *left = left.saturating_sub(bytes);
        }
    }

    /// The connection has ended. Was the answer under way complete, having no stated length?
    pub fn ended_well(&self) -> bool {
        matches!(self.state, State::Body { left: None })
    }
}

/// Returns what follows the empty lines at the front of `bytes`. Some servers send one after a body.
fn after_blank_lines(bytes: &[u8]) -> Result<&[u8], NotHttp> {
    let mut rest = bytes;
    while let Some(next) = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")) {
        rest = next;
        if bytes.len() - rest.len() > MAX_BLANK_BYTES {
            return Err(NotHttp::Garbage(String::new()));
        }
    }
    Ok(rest)
}

fn parse_head(bytes: &[u8]) -> Result<Option<Head>, NotHttp> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let mut config = httparse::ParserConfig::default();
    // As curl and browsers do.
    config
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_multiple_spaces_in_response_status_delimiters(true);
    let rest = after_blank_lines(bytes)?;
    if rest == b"\r" {
        return Ok(None);
    }
    match config.parse_response(&mut response, rest) {
        Ok(httparse::Status::Partial) => {
            // An SSH server, say, sends a line and then waits: it must be told apart at once.
            let start = &rest[..rest.len().min(5)];
            if *start != b"HTTP/"[..start.len()] { Err(garbage(rest)) } else { Ok(None) }
        }
        Ok(httparse::Status::Complete(length)) => {
            understand(&response, bytes.len() - rest.len() + length).map(Some)
        }
        Err(_) if !rest.starts_with(b"HTTP/") => Err(garbage(rest)),
        Err(error) => Err(NotHttp::Malformed(error.to_string())),
    }
}

fn garbage(bytes: &[u8]) -> NotHttp {
    let line = bytes.split(|&b| b == b'\r' || b == b'\n').next().unwrap_or(bytes);
    let text: String = String::from_utf8_lossy(&line[..line.len().min(60)]).escape_debug().collect();
    NotHttp::Garbage(text)
}

fn understand(response: &httparse::Response, head_bytes: usize) -> Result<Head, NotHttp> {
    let minor_version = response.version.unwrap_or(0);
    let status = response.code.unwrap_or(0);
    let mut head = Head { status, minor_version, closes: minor_version == 0, head_bytes, ..Head::default() };
    for header in response.headers.iter() {
        let value = String::from_utf8_lossy(header.value);
        let value = value.trim();
        match header.name.to_ascii_lowercase().as_str() {
            "content-length" => {
                // The same length several times is one length (RFC 9110, section 8.6).
                for part in value.split(',') {
                    let length = number(part.trim()).ok_or_else(|| bad("Content-Length", value))?;
                    if head.length.is_some_and(|known| known != length) {
                        return Err(NotHttp::Malformed("it has two different Content-Lengths".into()));
                    }
                    head.length = Some(length);
                }
            }
            "content-range" if status == 206 => {
                let range = content_range(value).ok_or_else(|| shown(value));
                let other = head.range.as_ref().is_some_and(|known| *known != range);
                head.range = Some(if other { Err("two different ones".into()) } else { range });
            }
            "etag" if value.starts_with('"') => head.etag = Some(value.to_string()),
            "repr-digest" => head.sha256_base64 = sha256_of_digest(value),
            sender::HEADER => head.sender = Some(value.to_string()),
            "server" => head.server = Some(value.to_string()),
            "location" => head.location = Some(value.to_string()),
            "retry-after" => head.retry_after = retry_after(value, SystemTime::now()),
            "content-type" => {
                let media = value.split(';').next().unwrap_or_default();
                head.media_type = Some(media.trim().to_ascii_lowercase());
            }
            "content-encoding" if !matches!(value.to_ascii_lowercase().as_str(), "" | "identity") => {
                head.encoding = Some(shown(value));
            }
            "connection" => {
                let has = |token: &str| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token));
                head.closes = has("close") || (head.closes && !has("keep-alive"));
            }
            "transfer-encoding" if !value.eq_ignore_ascii_case("identity") => return Err(NotHttp::Chunked),
            _ => {}
        }
    }
    // A body that ends with the connection leaves no connection.
    head.closes |= head.length.is_none() && !matches!(status, 204 | 304);
    Ok(head)
}

fn bad(header: &str, value: &str) -> NotHttp {
    NotHttp::Malformed(format!("its {header} is \"{}\"", shown(value)))
}

/// A header's value as it may stand in a message.
fn shown(value: &str) -> String {
    value.chars().take(100).collect::<String>().escape_debug().collect()
}

/// Reads digits alone, no sign, and no size beyond that of any file.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&number| digits && number <= MAX_FILE_BYTES)
}

/// Reads `bytes 7-9/10` (RFC 9110, section 14.4).
fn content_range(value: &str) -> Option<ContentRange> {
    let (unit, rest) = value.split_once(' ')?;
    let (range, total) = rest.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let total = if total == "*" { None } else { Some(number(total)?) };
    let possible = first <= last && total.is_none_or(|total| last < total);
    (possible && unit.eq_ignore_ascii_case("bytes")).then_some(ContentRange { first, last, total })
}

/// Reads seconds or a date (RFC 9110, section 10.2.3).
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let wait = if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() {
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// Picks the sha-256 out of `sha-512=:…:, sha-256=:…:` (RFC 9530).
fn sha256_of_digest(value: &str) -> Option<String> {
    value.split(',').find_map(|entry| {
        let inner = entry.trim().strip_prefix("sha-256=:")?.strip_suffix(':')?;
        Some(inner.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The head of an answer, what came of its body, and whether it ended.
    type Answered = (Head, Vec<u8>, bool);

    /// Feeds `wire` in these pieces and collects the statuses and bodies.
    fn read_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Answered>, Option<NotHttp>) {
        let mut answers = Answers::default();
        let mut read: Vec<Answered> = Vec::new();
        for chunk in pieces {
            let mut input = chunk;
            loop {
                match answers.next(&mut input, false) {
                    Ok(Event::Head(head)) => read.push((*head, Vec::new(), false)),
                    Ok(Event::Body(body)) => read.last_mut().unwrap().1.extend_from_slice(body),
                    Ok(Event::End) => read.last_mut().unwrap().2 = true,
                    Ok(Event::NeedMore) => break,
                    Err(error) => return (read, Some(error)),
                }
            }
        }
        (read, None)
    }

    fn read_all(wire: &[u8], piece: usize) -> Result<Vec<(u16, Vec<u8>)>, NotHttp> {
        let (read, error) = read_pieces(wire.chunks(piece));
        error.map_or(Ok(()), Err)?;
        Ok(read
            .into_iter()
            .map(|(head, body, complete)| (assert!(complete), (head.status, body)).1)
            .collect())
    }

    fn head(wire: &[u8]) -> Head {
        let Event::Head(head) = Answers::default().next(&mut &wire[..], false).unwrap() else { panic!() };
        *head
    }

    const WIRES: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\nHTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-6/7\r\ncontent-length: 2\r\n\r\nfg",
        b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na\r\n\r\nHTTP/1.1 200\r\nContent-Length: 1\r\n\r\nb",
        b"\nHTTP/1.1 200 OK\nContent-Length: 1\n\nb",
        b"\r\n\r\n\r\n\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"\rHTTP/1.1 200 OK\r\n\r\n",
        b" HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\nHTTP/1.1 204 No Content\r\n\r\nHTTP/1.0 200 OK\r\n\r\nto the end",
        b"HTTP/1.1  200  OK\r\nContent-Length : 2\r\nX-Folded: a\r\n b\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\nX: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ];

    #[test]
    fn answers_mean_the_same_however_they_are_cut() {
        let endless: Vec<u8> = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(20);
        for wire in WIRES.iter().copied().chain([&endless[..]]) {
            let kind = |error: Option<NotHttp>| error.map(|error| std::mem::discriminant(&error));
            let (whole, error) = read_pieces([wire]);
            let expected = (whole, kind(error));
            let same = |(read, error)| assert_eq!((read, kind(error)), expected, "{}", wire.escape_ascii());
            for cut in 0..=wire.len() {
                let (start, rest) = wire.split_at(cut);
                same(read_pieces([start, rest]));
            }
            for piece in 1..wire.len() {
                same(read_pieces(wire.chunks(piece)));
            }
        }
    }

    #[test]
    fn pipelined_answers_are_told_apart() {
        let expected = vec![(200, b"abc".to_vec()), (404, vec![]), (206, b"fg".to_vec())];
        assert_eq!(read_all(WIRES[0], 400).unwrap(), expected);
        assert_eq!(read_all(WIRES[1], 400).unwrap(), [(200, b"a".to_vec()), (200, b"b".to_vec())]);
        assert_eq!(read_all(WIRES[6], 400).unwrap(), [(200, b"ok".to_vec())]);
        assert_eq!(read_all(WIRES[8], 400).unwrap(), [(200, b"ok".to_vec())]);
        assert_eq!(read_all(WIRES[9], 400).unwrap(), [(200, b"ok".to_vec())]);
    }

    #[test]
    fn lengths_that_no_file_has_are_malformed() {
        for wire in &WIRES[10..14] {
            assert!(matches!(read_all(wire, 400), Err(NotHttp::Malformed(_))), "{}", wire.escape_ascii());
        }
    }

    #[test]
    fn empty_lines_between_answers_are_taken() {
        for pieces in [&[&b"\r\n"[..]][..], &[b"\r", b"\n"], &[b"\n", b"\r"], &[b""]] {
            let mut answers = Answers::default();
            pieces.iter().for_each(|piece| answers.idle(piece).unwrap());
        }
        let mut answers = Answers::default();
        assert_eq!(answers.idle(b"\r\nHTTP"), Err(NotHttp::Unasked));
        let mut answers = Answers::default();
        assert_eq!((0..9).try_for_each(|_| answers.idle(b"\r\n")), Err(NotHttp::Unasked));
        let mut answers = Answers::default();
        answers.idle(b"\r").unwrap();
        let mut input = &b"\nHTTP/1.1 204 No\r\n\r\n"[..];
        assert!(matches!(answers.next(&mut input, false), Ok(Event::Head(_))));
        assert!(input.is_empty());
    }

    #[test]
    fn interim_answers_are_bounded() {
        let interim = |count| {
            let mut wire = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(count);
            wire.extend_from_slice(b"HTTP/1.1 204 No Content\r\n\r\n");
            read_all(&wire, 7)
        };
        assert_eq!(interim(8), Ok(vec![(204, vec![])]));
        assert_eq!(interim(9), Err(NotHttp::Interim));
    }

    #[test]
    fn only_the_range_that_was_asked_for_is_placed() {
        let place = |fields: &str, from, to, known| {
            head(format!("HTTP/1.1 206 Partial Content\r\n{fields}\r\n\r\n").as_bytes())
                .place(from, to, known)
        };
        let placed = |from, to, total_bytes| Ok(Placed { from, to: Some(to), total_bytes });
        let length = "Content-Length: 3\r\nContent-Range: ";
        let good = |range: &str, from, to, known| place(&format!("{length}{range}"), from, to, known);
        assert_eq!(good("bytes 5-7/9", 5, Some(8), None), placed(5, 8, Some(9)));
        assert_eq!(good("bytes 5-7/8", 5, None, None), placed(5, 8, Some(8)));
        assert_eq!(good("Bytes 5-7/8", 5, Some(99), None), placed(5, 8, Some(8)));
        assert_eq!(good("bytes 5-7/*", 5, Some(8), None), placed(5, 8, None));
        assert_eq!(good("bytes 5-7/*", 5, None, Some(8)), placed(5, 8, None));
        assert_eq!(place("Content-Range: bytes 5-7/9", 5, Some(8), None), placed(5, 8, Some(9)));
        for (range, from, to) in [
            ("bytes 4-6/9", 5, Some(8)),
            ("bytes 5-7/9", 5, Some(9)),
            ("bytes 5-7/9", 5, None),
            ("bytes 5-7/*", 5, None),
            ("bytes 6-8/9", 5, Some(8)),
            ("bytes 5-8/9", 5, Some(8)),
            ("bytes 7-5/9", 5, Some(8)),
            ("bytes 5-7/7", 5, Some(8)),
            ("bytes -5-7/9", 5, Some(8)),
            ("bytes=5-7/9", 5, Some(8)),
            ("bytes 5-7", 5, Some(8)),
            ("bytes */9", 5, Some(8)),
            ("bytes +5-7/9", 5, Some(8)),
            ("bytes 5-18446744073709551615/*", 5, None),
            ("items 5-7/9", 5, Some(8)),
            ("", 5, Some(8)),
        ] {
            assert!(good(range, from, to, None).is_err(), "{range} for {from}-{to:?}");
        }
        assert!(place("Content-Length: 3", 5, Some(8), None).is_err());
        assert!(place("Content-Length: 0\r\nContent-Range: bytes 5-7/9", 5, Some(8), None).is_err());
        let several = "Content-Type: Multipart/ByteRanges; boundary=x\r\nContent-Range: bytes 5-7/9";
        assert!(place(several, 5, Some(8), None).is_err());
        let two = "Content-Range: bytes 5-7/9\r\nContent-Range: bytes 4-7/9";
        assert!(place(two, 5, Some(8), None).is_err());
    }

    #[test]
    fn redirects_are_followed_on_the_same_host_only() {
        let to = |location: &str| {
            let wire = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n");
            head(wire.as_bytes()).redirected("h:80", "/a/x?y")
        };
        for (location, path) in [
            ("/b/x", "/b/x"),
            ("http://H/b", "/b"),
            ("http://h:80/b?c#d", "/b?c"),
            ("http://h", "/"),
            ("//h/b", "/b"),
            ("z", "/a/z"),
            ("./z", "/a/./z"),
            ("?z", "/a/x?z"),
        ] {
            assert_eq!(to(location).as_deref(), Ok(path), "{location}");
        }
        for elsewhere in [
            "https://h/b",
            "http://h:81/b",
            "http://i/b",
            "//i/b",
            "http://u@h/b",
            "ftp://h/b",
            "mailto:x",
            "/a b",
        ] {
            assert!(to(elsewhere).is_err_and(|place| place.contains(elsewhere)), "{elsewhere}");
        }
        assert!(head(b"HTTP/1.1 302 Found\r\n\r\n").redirected("h:80", "/x").is_err());
        let v6 = head(b"HTTP/1.1 302 Found\r\nLocation: http://[::1]:8/y\r\n\r\n");
        assert_eq!(v6.redirected("[::1]:8", "/x").as_deref(), Ok("/y"));
    }

    #[test]
    fn the_time_to_wait_is_read_in_seconds_and_as_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        let after = |value| retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(after("120"), Some(120));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(7));
        assert_eq!(after("Sat, 06 Nov 1993 08:49:37 GMT"), Some(0));
        assert_eq!(after("99999999999999999999"), Some(24 * 3600));
        for bad in ["", "-1", "1.5", "soon"] {
            assert_eq!(after(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_changes_a_body_s_meaning_is_read() {
        let wire =
            b"HTTP/1.1 200 OK\r\nContent-Encoding : GZIP\r\nContent-Type: Text/HTML; charset=x\r\n\r\n";
        assert_eq!(head(wire).encoding.as_deref(), Some("GZIP"));
        assert_eq!(head(wire).media_type.as_deref(), Some("text/html"));
        assert_eq!(head(b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\n\r\n").encoding, None);
    }

    #[test]
    fn a_body_may_go_another_way() {
        let mut answers = Answers::default();
        let mut input = &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"[..];
        assert_eq!(answers.body_left(), 0);
        assert!(matches!(answers.next(&mut input, false), Ok(Event::Head(_))));
        assert_eq!(answers.next(&mut input, false), Ok(Event::Body(b"abc")));
        answers.skip_body(4);
        assert_eq!(answers.body_left(), 2);
        let mut input = &b"hi"[..];
        assert_eq!(answers.next(&mut input, false), Ok(Event::Body(b"hi")));
        assert_eq!(answers.next(&mut input, false), Ok(Event::End));
        assert_eq!(answers.body_left(), 0);
    }

    #[test]
    fn the_head_says_what_the_client_needs() {
        let wire = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\nContent-Range: bytes 5-6/7\r\nETag: \"x\"\r\nServer: s/1\r\nRepr-Digest: sha-512=:AA:, sha-256=:BB==:\r\n\r\n";
        let Event::Head(head) = Answers::default().next(&mut &wire[..], false).unwrap() else { panic!() };
        assert_eq!(head.range, Some(Ok(ContentRange { first: 5, last: 6, total: Some(7) })));
        assert_eq!(head.etag.as_deref(), Some("\"x\""));
        assert_eq!(head.sha256_base64.as_deref(), Some("BB=="));
        assert!(!head.closes);
        assert_eq!(head.head_bytes, wire.len());
    }

    #[test]
    fn a_weak_etag_is_no_use_for_ranges() {
        let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: W/\"x\"\r\n\r\n";
        let Event::Head(head) = Answers::default().next(&mut &wire[..], false).unwrap() else { panic!() };
        assert_eq!(head.etag, None);
    }

    #[test]
    fn an_old_server_closes_after_each_answer() {
        let wire = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let Event::Head(head) = Answers::default().next(&mut &wire[..], false).unwrap() else { panic!() };
        assert!(head.closes);
        assert_eq!(head.minor_version, 0);
    }

    #[test]
    fn other_protocols_are_named_at_once() {
        for wire in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"220 mail", b"\x16\x03\x01\x02\x00"] {
            assert!(matches!(read_all(wire, wire.len()), Err(NotHttp::Garbage(_))), "{wire:?}");
        }
    }

    #[test]
    fn endless_heads_and_chunks_are_refused() {
        let mut wire = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
        wire.extend(vec![b'a'; 40_000]);
        assert_eq!(read_all(&wire, 1000), Err(NotHttp::HeadTooLong));
        let wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(read_all(wire, 10), Err(NotHttp::Chunked));
    }

    #[test]
    fn names_are_encoded_for_the_path() {
        assert_eq!(path_of("s001.m4s"), "/s001.m4s");
        assert_eq!(path_of("my clip #1.m4s"), "/my%20clip%20%231.m4s");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(wire in prop::collection::vec(any::<u8>(), 0..400), piece in 1usize..50) {
            let mut answers = Answers::default();
            'wire: for chunk in wire.chunks(piece) {
                let mut input = chunk;
                loop {
                    match answers.next(&mut input, false) {
                        Err(_) => break 'wire,
                        Ok(Event::NeedMore) => break,
                        Ok(_) => {}
                    }
                }
            }
        }
    }
}
