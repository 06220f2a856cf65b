//! Requests of the client: their heads, rendered.

use std::fmt::Write;

use crate::sender_report;

/// A request without a body.
#[derive(Clone, Debug)]
pub(crate) struct OutgoingRequest<'a> {
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

impl OutgoingRequest<'_> {
    /// Appends the request to what is to be sent.
    pub(crate) fn render(&self, out: &mut Vec<u8>) {
        // Writing to a String cannot fail.
        let mut text = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, self.path, self.host);
        if self.from > 0 || self.to.is_some() {
            let last = self.to.map_or(String::new(), |to| to.saturating_sub(1).to_string());
            let _ = write!(text, "Range: bytes={}-{last}\r\n", self.from);
            if let Some(etag) = self.if_range {
                let _ = write!(text, "If-Range: {etag}\r\n");
            }
        }
        let _ = write!(text, "Twinlink-Sender: {}\r\n", sender_report::ask(self.congestion));
        text.push_str("User-Agent: twinlink/");
        text.push_str(env!("CARGO_PKG_VERSION"));
        text.push_str("\r\nAccept-Encoding: identity\r\n\r\n");
        out.extend_from_slice(text.as_bytes());
    }
}

/// Encodes a file's name for the path of a request (RFC 3986: all but unreserved characters).
pub(crate) fn path_of(name: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_for_the_path() {
        assert_eq!(path_of("s001.m4s"), "/s001.m4s");
        assert_eq!(path_of("my clip #1.m4s"), "/my%20clip%20%231.m4s");
    }
}
