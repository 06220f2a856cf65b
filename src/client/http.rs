//! HTTP/1.1 as the client speaks it: request heads out, answers in. No socket in it.
//!
//! [`Answers`] is fed bytes as they come and says what they mean, for any number of answers one
//! after another on a connection. It reads bodies of a stated length, and to the end of the
//! connection where an old server states none; it does not read chunked bodies.

use std::fmt::Write;

use crate::sender;

/// The most that the head of an answer may take, in bytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    pub minor_version: u8,
    /// Bytes of body that follow; `None` means up to the end of the connection.
    pub length: Option<u64>,
    /// Of a 206: the first byte and the size of the whole, where it is known.
    pub range: Option<(u64, Option<u64>)>,
    pub etag: Option<String>,
    /// The sha-256 of the whole file in base64, from `Repr-Digest`.
    pub sha256_base64: Option<String>,
    pub server: Option<String>,
    /// What the server tells of its sending end (`crate::sender`).
    pub sender: Option<String>,
    /// The server ends the connection after this answer.
    pub closes: bool,
    /// The size of the head on the wire, bytes.
    pub head_bytes: usize,
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
    #[error("it sends bytes that nobody asked for")]
    Unasked,
}

/// What the next bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    Head(Head),
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
}

impl Default for Answers {
    fn default() -> Self {
        Answers { state: State::Head(Vec::new()) }
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
                        self.state = State::Head(Vec::new());
                        continue;
                    }
                    let bodiless = head_only || matches!(head.status, 204 | 304);
                    self.state = State::Body { left: if bodiless { Some(0) } else { head.length } };
                    Ok(Event::Head(head))
                }
            };
        }
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

fn parse_head(bytes: &[u8]) -> Result<Option<Head>, NotHttp> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(httparse::Status::Partial) => {
            // An SSH server, say, sends a line and then waits: it must be told apart at once.
            let start = &bytes[..bytes.len().min(5)];
            if *start != b"HTTP/"[..start.len()] { Err(garbage(bytes)) } else { Ok(None) }
        }
        Ok(httparse::Status::Complete(length)) => understand(&response, length).map(Some),
        Err(_) if !bytes.starts_with(b"HTTP/") => Err(garbage(bytes)),
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
    let mut head = Head {
        status: response.code.unwrap_or(0),
        minor_version,
        length: None,
        range: None,
        etag: None,
        sha256_base64: None,
        server: None,
        sender: None,
        closes: minor_version == 0,
        head_bytes,
    };
    for header in response.headers.iter() {
        let value = String::from_utf8_lossy(header.value);
        let value = value.trim();
        match header.name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let length = value.parse().map_err(|_| bad("Content-Length", value))?;
                if head.length.is_some_and(|known| known != length) {
                    return Err(NotHttp::Malformed("it has two different Content-Lengths".into()));
                }
                head.length = Some(length);
            }
            "content-range" if head.status == 206 => {
                head.range = Some(content_range(value).ok_or_else(|| bad("Content-Range", value))?);
            }
            "etag" if value.starts_with('"') => head.etag = Some(value.to_string()),
            "repr-digest" => head.sha256_base64 = sha256_of_digest(value),
            sender::HEADER => head.sender = Some(value.to_string()),
            "server" => head.server = Some(value.to_string()),
            "connection" => {
                let has = |token: &str| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token));
                head.closes = has("close") || (head.closes && !has("keep-alive"));
            }
            "transfer-encoding" if !value.eq_ignore_ascii_case("identity") => return Err(NotHttp::Chunked),
            _ => {}
        }
    }
    // A body that ends with the connection leaves no connection.
    head.closes |= head.length.is_none() && !matches!(head.status, 204 | 304);
    Ok(head)
}

fn bad(header: &str, value: &str) -> NotHttp {
    NotHttp::Malformed(format!("its {header} is \"{}\"", value.escape_debug()))
}

/// `bytes 7-9/10` gives the first byte, 7, and the size of the whole, 10.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, size) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _last) = range.split_once('-')?;
    let size = if size == "*" { None } else { Some(size.parse().ok()?) };
    Some((first.parse().ok()?, size))
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

    /// Feeds `wire` in pieces of `piece` bytes and collects the statuses and bodies.
    fn read_all(wire: &[u8], piece: usize) -> Result<Vec<(u16, Vec<u8>)>, NotHttp> {
        let mut answers = Answers::default();
        let mut read: Vec<(u16, Vec<u8>)> = Vec::new();
        let mut complete = 0;
        for chunk in wire.chunks(piece) {
            let mut input = chunk;
            loop {
                match answers.next(&mut input, false)? {
                    Event::Head(head) => read.push((head.status, Vec::new())),
                    Event::Body(body) => read.last_mut().unwrap().1.extend_from_slice(body),
                    Event::End => complete += 1,
                    Event::NeedMore => break,
                }
            }
        }
        assert_eq!(complete, read.len());
        Ok(read)
    }

    #[test]
    fn pipelined_answers_are_told_apart_however_they_are_cut() {
        let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\nHTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-6/7\r\ncontent-length: 2\r\n\r\nfg";
        let expected = vec![(200, b"abc".to_vec()), (404, vec![]), (206, b"fg".to_vec())];
        for piece in 1..wire.len() {
            assert_eq!(read_all(wire, piece).unwrap(), expected, "in pieces of {piece}");
        }
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
        assert_eq!(head.range, Some((5, Some(7))));
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
