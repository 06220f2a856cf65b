//! Heads of answers: the status, the fields that the client uses, and the position of the body.
//!
//! It is lenient where curl and browsers are, and where leniency cannot move the end of a body.

use std::time::{Duration, SystemTime};

use super::head::Options;
use super::range::{ContentRange, MAX_FILE_BYTES, Placed, content_range, file_size};
use super::target::same_host;
use crate::sender_report;

const MAX_HEADERS: usize = 64;
/// How many bytes of empty lines may stand before a status line.
pub(super) const MAX_BLANK_BYTES: usize = 8;
/// How many interim answers (1xx) may come before one that counts.
pub(super) const MAX_INTERIM: u32 = 8;
/// How many redirects of one request are followed.
pub(crate) const MOST_REDIRECTS: u32 = 5;
/// The longest time that `Retry-After` may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The head of an answer, as far as the client needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AnswerHead {
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
    /// The server's report on its sending end (`crate::sender_report`).
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

impl AnswerHead {
    /// Returns where the body of a 200 or 206 lies in its file. The bytes `from..to` were asked for (to
    /// the file's end without `to`), and the file has `known` bytes, as far as is known.
    ///
    /// # Errors
    /// Says why a 206 is not the range that was asked for.
    pub(crate) fn place(&self, from: u64, to: Option<u64>, known: Option<u64>) -> Result<Placed, String> {
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
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.status, 429 | 503)
    }

    pub(crate) fn is_redirect(&self) -> bool {
        matches!(self.status, 301 | 302 | 303 | 307 | 308)
    }

    /// Returns the path that a redirect of `path` leads to, if it is on the same `host`.
    ///
    /// # Errors
    /// Says where else it leads.
    pub(crate) fn redirected(&self, host: &str, path: &str) -> Result<String, String> {
        let Some(location) = self.location.as_deref() else { return Err("without a Location".into()) };
        same_host(host, path, location).ok_or_else(|| {
            let shown: String = location.chars().take(200).collect();
            format!("to {}", shown.escape_debug())
        })
    }
}

/// Why the bytes of a server are not answers.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum NotHttp {
    #[error("it answers with something that is not HTTP: \"{0}\"")]
    Garbage(String),
    #[error("the head of its answer is longer than 32 KiB")]
    HeadTooLong,
    #[error("its answer is malformed: {0}")]
    Malformed(String),
    #[error(
        "it says a size of {0} bytes, and no file may have more than {MAX_FILE_BYTES} (8 TiB); split the \
         file, or serve another one"
    )]
    TooLarge(String),
    #[error("it sends chunked bodies, which this client does not read; serve files with a Content-Length")]
    Chunked,
    #[error("it sends more than {MAX_INTERIM} interim answers (1xx) and no other")]
    Interim,
    #[error("it sends bytes that nobody asked for")]
    Unasked,
}

/// Returns what follows the empty lines at the front of `bytes`. Some servers send one after a body.
pub(super) fn after_blank_lines(bytes: &[u8]) -> Result<&[u8], NotHttp> {
    let mut rest = bytes;
    while let Some(next) = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")) {
        rest = next;
        if bytes.len() - rest.len() > MAX_BLANK_BYTES {
            return Err(NotHttp::Garbage(String::new()));
        }
    }
    Ok(rest)
}

pub(super) fn parse_answer(bytes: &[u8]) -> Result<Option<AnswerHead>, NotHttp> {
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

fn understand(response: &httparse::Response, head_bytes: usize) -> Result<AnswerHead, NotHttp> {
    let minor_version = response.version.unwrap_or(0);
    let status = response.code.unwrap_or(0);
    let mut head = AnswerHead { status, minor_version, head_bytes, ..AnswerHead::default() };
    let mut options = Options::default();
    for header in response.headers.iter() {
        let value = String::from_utf8_lossy(header.value);
        let value = value.trim();
        match header.name.to_ascii_lowercase().as_str() {
            "content-length" => {
                // The same length several times is one length (RFC 9110, section 8.6).
                for part in value.split(',') {
                    let part = part.trim();
                    let too_large = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
                    let length = file_size(part).ok_or_else(|| match too_large {
                        true => NotHttp::TooLarge(shown(part)),
                        false => bad("Content-Length", value),
                    })?;
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
            sender_report::HEADER => head.sender = Some(value.to_string()),
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
            "connection" => options.note(value),
            "transfer-encoding" if !value.eq_ignore_ascii_case("identity") => return Err(NotHttp::Chunked),
            _ => {}
        }
    }
    // A body that ends with the connection leaves no connection.
    let endless = head.length.is_none() && !matches!(status, 204 | 304);
    head.closes = endless || options.close(minor_version);
    Ok(head)
}

fn bad(header: &str, value: &str) -> NotHttp {
    NotHttp::Malformed(format!("its {header} is \"{}\"", shown(value)))
}

/// A header's value as it may stand in a message.
fn shown(value: &str) -> String {
    value.chars().take(100).collect::<String>().escape_debug().collect()
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

    fn head(wire: &[u8]) -> AnswerHead {
        parse_answer(wire).unwrap().unwrap()
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
    fn the_head_says_what_the_client_needs() {
        let wire = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\nContent-Range: bytes 5-6/7\r\nETag: \"x\"\r\nServer: s/1\r\nRepr-Digest: sha-512=:AA:, sha-256=:BB==:\r\n\r\n";
        let head = head(wire);
        assert_eq!(head.range, Some(Ok(ContentRange { first: 5, last: 6, total: Some(7) })));
        assert_eq!(head.etag.as_deref(), Some("\"x\""));
        assert_eq!(head.sha256_base64.as_deref(), Some("BB=="));
        assert!(!head.closes);
        assert_eq!(head.head_bytes, wire.len());
    }

    #[test]
    fn a_weak_etag_is_no_use_for_ranges() {
        let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: W/\"x\"\r\n\r\n";
        let head = head(wire);
        assert_eq!(head.etag, None);
    }

    #[test]
    fn an_old_server_closes_after_each_answer() {
        let wire = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let head = head(wire);
        assert!(head.closes);
        assert_eq!(head.minor_version, 0);
    }
}
