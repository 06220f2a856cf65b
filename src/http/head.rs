//! Heads of requests: the resource that a request asks for, and its end.
//!
//! A request whose end is ambiguous is refused and its connection closed: the bytes behind it could be taken
//! for another request than its sender meant (RFC 9112, section 11.2).

use super::body::Framing;

/// The most header lines of a request.
const MAX_LINES: usize = 100;

/// The head of a request, as far as the server needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestHead {
    pub method: String,
    /// As it was sent: a path, an absolute URI, or `*`.
    pub target: String,
    /// 1 of HTTP/1.1.
    pub minor_version: u8,
    /// How many Host lines there are.
    pub hosts: usize,
    pub framing: Framing,
    /// The client waits to be told to go on with its body (RFC 9110, section 10.1.1).
    pub expects_continue: bool,
    /// The connection ends after the answer (RFC 9112, section 9.3).
    pub closes: bool,
    pub range: Option<String>,
    pub if_range: Option<String>,
    /// The lists of all lines.
    pub if_match: Option<String>,
    pub if_none_match: Option<String>,
    /// The value of `Twinlink-Sender` (`crate::sender_report`).
    pub sender: Option<String>,
    /// A browser sends it for a page of an origin that it names (RFC 6454, section 7).
    pub has_origin: bool,
}

/// Why a request is refused without knowing what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RefusedRequest {
    pub status: u16,
    pub why: &'static str,
}

pub(crate) const HEAD_TOO_LARGE: RefusedRequest =
    RefusedRequest { status: 431, why: "the head of the request is too large" };

const fn malformed(why: &'static str) -> RefusedRequest {
    RefusedRequest { status: 400, why }
}

/// Reads the head at the front of `bytes`; returns it and its length in bytes, or nothing where more has to
/// come first. Empty lines in front of it count as part of it (RFC 9112, section 2.2).
///
/// # Errors
/// When what came cannot be, or begin, a request.
pub(crate) fn parse_request(bytes: &[u8]) -> Result<Option<(RequestHead, usize)>, RefusedRequest> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_LINES];
    let mut request = httparse::Request::new(&mut lines);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Partial) => return Ok(None),
        Ok(httparse::Status::Complete(length)) => length,
        Err(httparse::Error::TooManyHeaders) => return Err(HEAD_TOO_LARGE),
        Err(httparse::Error::Version) => return Err(malformed("this server speaks HTTP/1.1 and HTTP/1.0")),
        Err(httparse::Error::HeaderName | httparse::Error::HeaderValue) => {
            return Err(malformed("a header line of the request is malformed"));
        }
        Err(_) => return Err(malformed("this is not a request of HTTP/1.1")),
    };
    let text = |text: Option<&str>| text.unwrap_or_default().to_string();
    let mut head = RequestHead {
        method: text(request.method),
        target: text(request.path),
        minor_version: request.version.unwrap_or(0),
        ..RequestHead::default()
    };
    let mut options = Options::default();
    let (mut lengths, mut codings) = (Vec::new(), Vec::new());
    for line in request.headers.iter() {
        let value = line.value.trim_ascii();
        match line.name.to_ascii_lowercase().as_str() {
            "host" => head.hosts += 1,
            "content-length" => lengths.push(value),
            "transfer-encoding" => codings.push(value),
            "connection" => options.note(&String::from_utf8_lossy(value)),
            "expect" => head.expects_continue |= value.eq_ignore_ascii_case(b"100-continue"),
            "origin" => head.has_origin = true,
            "range" => drop(head.range.get_or_insert_with(|| ascii(value))),
            "if-range" => drop(head.if_range.get_or_insert_with(|| ascii(value))),
            "if-match" => append(&mut head.if_match, value),
            "if-none-match" => append(&mut head.if_none_match, value),
            crate::sender_report::HEADER => drop(head.sender.get_or_insert_with(|| ascii(value))),
            _ => {}
        }
    }
    head.closes = options.close(head.minor_version);
    head.expects_continue &= head.minor_version > 0;
    head.framing = framing(head.minor_version, &lengths, &codings)?;
    Ok(Some((head, length)))
}

/// Decides where a request ends (RFC 9112, section 6.3). Of what the section leaves open, the strict reading:
/// a length is said once, and not beside a transfer coding; the only coding is `chunked`.
fn framing(minor_version: u8, lengths: &[&[u8]], codings: &[&[u8]]) -> Result<Framing, RefusedRequest> {
    match (codings, lengths) {
        ([], []) => Ok(Framing::NONE),
        ([], [length]) => {
            // Section 6.2 and RFC 9110, section 8.6: digits alone.
            let digits = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(length).ok().and_then(|text| text.parse().ok());
            let number = number.filter(|_| digits).ok_or(malformed("the Content-Length is not a number"))?;
            Ok(Framing::Length(number))
        }
        ([], _) => Err(malformed("the request has several Content-Lengths")),
        // Section 6.1: a sender of HTTP/1.0 does not know what it says there.
        _ if minor_version == 0 => Err(malformed("a request of HTTP/1.0 has no Transfer-Encoding")),
        (_, [_, ..]) => Err(malformed("the request has a Content-Length beside its Transfer-Encoding")),
        ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        _ => Err(malformed("the only Transfer-Encoding that is supported is chunked")),
    }
}

/// The options of `Connection` about the connection's end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    says_close: bool,
    says_keep_alive: bool,
}

impl Options {
    /// Takes the value of one line.
    pub(crate) fn note(&mut self, value: &str) {
        for option in value.split(',').map(str::trim) {
            self.says_close |= option.eq_ignore_ascii_case("close");
            self.says_keep_alive |= option.eq_ignore_ascii_case("keep-alive");
        }
    }

    /// Whether the connection ends after this message (RFC 9112, section 9.3).
    pub(crate) fn close(self, minor_version: u8) -> bool {
        self.says_close || (minor_version == 0 && !self.says_keep_alive)
    }
}

/// Returns a value as text. A value with other bytes than printable ASCII means nothing to this server, and
/// is an empty text.
fn ascii(value: &[u8]) -> String {
    let printable = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    std::str::from_utf8(value).ok().filter(|_| printable).unwrap_or_default().to_string()
}

/// Joins the lists of several lines into one (RFC 9110, section 5.3).
fn append(list: &mut Option<String>, value: &[u8]) {
    let value = ascii(value);
    *list = Some(list.take().map_or(value.clone(), |list| format!("{list}, {value}")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(lines: &str) -> Result<RequestHead, RefusedRequest> {
        let wire = format!("GET /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        parse_request(wire.as_bytes()).map(|parsed| parsed.unwrap().0)
    }

    #[test]
    fn request_is_read_as_it_was_sent() {
        let wire = b"\r\nHEAD http://a/b?c HTTP/1.0\r\nhost: a\r\nRANGE:  bytes=0-1 \r\nConnection: x, Keep-Alive\r\n\r\nrest";
        let (head, length) = parse_request(wire).unwrap().unwrap();
        assert_eq!(length, wire.len() - 4);
        assert_eq!((head.method.as_str(), head.target.as_str()), ("HEAD", "http://a/b?c"));
        assert_eq!((head.minor_version, head.hosts, head.closes), (0, 1, false));
        assert_eq!((head.range.as_deref(), head.framing), (Some("bytes=0-1"), Framing::NONE));
    }

    #[test]
    fn request_has_one_plain_end() {
        let framing = |lines| head(lines).map(|head| head.framing).map_err(|refusal| refusal.status);
        assert_eq!(framing(""), Ok(Framing::NONE));
        assert_eq!(framing("Content-Length: 07\r\n"), Ok(Framing::Length(7)));
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
        for unclear in [
            "Content-Length: 7\r\nContent-Length: 7\r\n",
            "Content-Length: 7, 7\r\n",
            "Content-Length: +7\r\n",
            "Content-Length:\r\n",
            "Content-Length: 18446744073709551616\r\n",
            "Content-Length: 7\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding:\r\n",
        ] {
            assert_eq!(framing(unclear), Err(400), "{unclear}");
        }
    }

    #[test]
    fn lists_of_several_lines_are_one_list() {
        let head = head("If-None-Match: \"a\"\r\nIf-None-Match: \"b\"\r\nRange: x\r\nRange: y\r\n").unwrap();
        assert_eq!(head.if_none_match.as_deref(), Some("\"a\", \"b\""));
        assert_eq!(head.range.as_deref(), Some("x"));
    }

    #[test]
    fn too_many_lines_are_too_large() {
        let lines = |count: usize| head(&"X: y\r\n".repeat(count)).map(|head| head.hosts);
        assert_eq!(lines(99), Ok(1));
        assert_eq!(lines(100), Err(HEAD_TOO_LARGE));
    }

    proptest! {
        #[test]
        fn cut_requests_need_more_and_mean_the_same(cut in 0usize..66) {
            let wire = b"GET /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n";
            prop_assume!(cut < wire.len());
            prop_assert_eq!(parse_request(&wire[..cut]), Ok(None));
            prop_assert!(parse_request(wire).unwrap().is_some());
        }

        #[test]
        fn no_bytes_make_the_parser_panic(wire in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_request(&wire);
        }
    }
}
