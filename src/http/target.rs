//! Targets of requests and redirects (RFC 9112, section 3.2; RFC 3986).

/// An absolute URI that names a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Absolute<'a> {
    pub scheme: &'a str,
    pub authority: &'a str,
    /// Path, query and fragment, as far as there are any.
    pub rest: &'a str,
}

/// Reads `scheme://authority…`; nothing where the text is of another form.
pub(crate) fn absolute(text: &str) -> Option<Absolute<'_>> {
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    (is_scheme && !authority.is_empty()).then_some(Absolute { scheme, authority, rest })
}

/// The resource that a request's target names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// A path, without its leading slash, query and fragment; still percent-encoded.
    Path(&'a str),
    /// The server itself (`*`), or another one (of CONNECT).
    NoPath,
}

/// Reads a request's target; nothing where it has none of the four forms.
pub(crate) fn target<'a>(method: &str, text: &'a str) -> Option<Target<'a>> {
    if text == "*" || method == "CONNECT" {
        return Some(Target::NoPath);
    }
    let path = if text.starts_with('/') { text } else { absolute(text)?.rest };
    let path = &path[..path.find(['?', '#']).unwrap_or(path.len())];
    Some(Target::Path(path.strip_prefix('/').unwrap_or(path)))
}

/// Returns the name of the file that a target asks for, as a server looks it up; nothing where it names none.
pub(crate) fn file_name(method: &str, text: &str) -> Option<String> {
    match target(method, text)? {
        Target::Path(path) => percent_decoded(path),
        Target::NoPath => None,
    }
}

/// Resolves a redirect (RFC 3986, section 5.3); `None` where it leads to another host, port or scheme.
pub(crate) fn same_host(host: &str, path: &str, location: &str) -> Option<String> {
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

/// Decodes `%41` to `A`; nothing where the escapes or the text are malformed.
pub(crate) fn percent_decoded(path: &str) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_name_paths() {
        for (text, path) in [
            ("/a", "a"),
            ("/a?b#c", "a"),
            ("//a", "/a"),
            ("/a#b?c", "a"),
            ("/", ""),
            ("http://h/a/../b", "a/../b"),
            ("HTTPS://u:p@h:1?x/a", ""),
            ("http://h", ""),
        ] {
            assert_eq!(target("GET", text), Some(Target::Path(path)), "{text}");
        }
        assert_eq!(target("OPTIONS", "*"), Some(Target::NoPath));
        assert_eq!(target("CONNECT", "h:1"), Some(Target::NoPath));
        for other in ["a", "h:1", "http:///a", "1http://h/a", "://h/a", "", "mailto:x"] {
            assert_eq!(target("GET", other), None, "{other}");
        }
    }

    #[test]
    fn names_are_percent_decoded() {
        assert_eq!(percent_decoded("a%20b%C3%a9.m4s").as_deref(), Some("a bé.m4s"));
        assert_eq!(percent_decoded("%2e%2e/x").as_deref(), Some("../x"));
        for malformed in ["%", "%4", "%zz", "a%+1", "%ff"] {
            assert_eq!(percent_decoded(malformed), None, "{malformed}");
        }
    }
}
