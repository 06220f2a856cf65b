//! Which files there are to fetch: the servers' SHA256SUMS, or a pattern. Pure.

pub(crate) mod digest;
pub(crate) mod folder;
pub(crate) mod metalink;
pub(crate) mod name;

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, anyhow, bail, ensure};
use unicode_normalization::{UnicodeNormalization, is_nfc, is_nfd};

use self::digest::Digest;
use crate::http::request::path_of;

use crate::units::LinkId;

/// The list of digests that a folder may hold and a server offers.
pub(crate) const SUMS: &str = "SHA256SUMS";

/// The pattern of files to fetch where no server has a manifest.
pub(crate) const DEFAULT_PATTERN: &str = "s{001..160}.m4s";

/// The longest line of a list that is read: far more than a digest and a name take.
const LONGEST_LINE: usize = 4096;
/// The most files of a list.
const MOST_LINES: usize = 1_000_000;

/// One file to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ManifestEntry {
    pub name: String,
    /// The path to ask for, percent-encoded.
    pub path: String,
    pub digest: Option<Digest>,
}

impl ManifestEntry {
    fn new(name: &str, digest: Option<Digest>) -> Result<ManifestEntry> {
        check_name(name)?;
        Ok(ManifestEntry { name: name.to_string(), path: path_of(name), digest })
    }
}

/// A name becomes a file here, so it must not lead anywhere else.
fn check_name(name: &str) -> Result<()> {
    name::check_name(name).map_err(|problem| {
        let shown: String = name.chars().take(300).collect();
        anyhow!("\"{}\" cannot be fetched as a file: {problem}", shown.escape_debug())
    })
}

/// Checks a list while it comes, so that nothing endless is read to its end.
#[derive(Debug, Default)]
pub(crate) struct Growing {
    line_bytes: usize,
    lines: usize,
}

impl Growing {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// They cannot be of a list.
    pub(crate) fn grow(&mut self, bytes: &[u8]) -> Result<()> {
        for &byte in bytes {
            if byte == b'\n' {
                (self.line_bytes, self.lines) = (0, self.lines + 1);
                ensure!(self.lines <= MOST_LINES, "it has more than {MOST_LINES} lines");
            } else {
                self.line_bytes += 1;
                let number = self.lines + 1;
                ensure!(self.line_bytes <= LONGEST_LINE, "line {number} is longer than {LONGEST_LINE} bytes");
            }
        }
        Ok(())
    }
}

/// Takes a line of a list apart: the digest and the name.
fn parse_line(line: &str) -> Option<(Digest, &str)> {
    let (hex, rest) = line.split_once(' ')?;
    // The second character says text (a space) or binary (a star).
    let name = rest.strip_prefix(' ').or_else(|| rest.strip_prefix('*'))?;
    Some((Digest::from_hex(hex)?, name))
}

/// Whether `body` begins as a list does. A page that stands in for a list does not.
pub(crate) fn begins_as_list(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(&body[..body.len().min(LONGEST_LINE)]);
    let text = text.trim_start_matches('\u{feff}');
    let first = text.lines().find(|line| !line.is_empty());
    first.is_some_and(|line| parse_line(line).is_some())
}

/// Reads a list as `sha256sum` writes it: `<64 hex digits>  <name>`.
pub(crate) fn parse_sums(text: &str) -> Result<Vec<ManifestEntry>> {
    let mut segments = Vec::new();
    let mut seen = HashMap::new();
    // Editors on Windows put a byte order mark first.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() {
            continue;
        }
        let Some((digest, name)) = parse_line(line) else {
            bail!("line {number} of its SHA256SUMS is not \"<sha256>  <name>\"");
        };
        let segment = ManifestEntry::new(name, Some(digest)).with_context(|| {
            format!("line {number} of its SHA256SUMS names a file that cannot be fetched")
        })?;
        if let Some(first) = seen.insert(name.to_string(), number) {
            bail!("its SHA256SUMS names {name} twice, in lines {first} and {number}");
        }
        segments.push(segment);
    }
    ensure!(!segments.is_empty(), "its SHA256SUMS is empty: there is nothing to fetch");
    Ok(segments)
}

/// Expands one `{001..160}` in a pattern; the digits written are the least number of digits.
pub(crate) fn expand(pattern: &str) -> Result<Vec<ManifestEntry>> {
    const MOST: u64 = 1_000_000;
    let example = "as in s{001..160}.m4s";
    let Some((before, rest)) = pattern.split_once('{') else {
        return Ok(vec![ManifestEntry::new(pattern, None)?]);
    };
    let (range, after) = rest
        .split_once('}')
        .with_context(|| format!("the pattern \"{pattern}\" has a {{ without a }}; write it {example}"))?;
    let (first, last) = range.split_once("..").with_context(|| {
        format!("the pattern \"{pattern}\" has no .. between its braces; write it {example}")
    })?;
    let number = |text: &str| {
        text.parse::<u64>()
            .with_context(|| format!("\"{text}\" in \"{pattern}\" is not a number; write it {example}"))
    };
    let (low, high) = (number(first)?, number(last)?);
    ensure!(low <= high, "the pattern \"{pattern}\" counts from {low} to {high}, which is nothing");
    ensure!(high - low < MOST, "the pattern \"{pattern}\" means more than {MOST} files");
    let width = first.len();
    ensure!(
        before.len() + width.max(last.len()) + after.len() <= name::LONGEST_NAME_BYTES,
        "the pattern makes names of more than {} bytes; write it {example}",
        name::LONGEST_NAME_BYTES
    );
    (low..=high).map(|i| ManifestEntry::new(&format!("{before}{i:0width$}{after}"), None)).collect()
}

/// Returns the files to fetch, from the manifests of both servers.
///
/// # Errors
/// Both have a manifest and they differ; the error names the first difference.
pub(crate) fn agree(
    pattern: Option<&str>,
    a: Option<Vec<ManifestEntry>>,
    b: Option<Vec<ManifestEntry>>,
) -> Result<Vec<ManifestEntry>> {
    if let (Some(a), Some(b)) = (&a, &b)
        && let Some(difference) = first_difference(a, b)
    {
        bail!("the servers do not hold the same files: {difference}; serve the same folder on both");
    }
    let listed = a.or(b);
    match (pattern, listed) {
        (None, Some(listed)) => Ok(listed),
        (None, None) => expand(DEFAULT_PATTERN),
        (Some(pattern), listed) => {
            let mut selected = expand(pattern)?;
            if let Some(listed) = listed {
                let digests: HashMap<_, _> = listed.into_iter().map(|s| (s.name, s.digest)).collect();
                for segment in &mut selected {
                    let digest = digests.get(&segment.name);
                    segment.digest = *digest.with_context(|| {
                        format!("--files asks for {}, which is not in the servers' SHA256SUMS", segment.name)
                    })?;
                }
            }
            Ok(selected)
        }
    }
}

fn first_difference(a: &[ManifestEntry], b: &[ManifestEntry]) -> Option<String> {
    let missing = |from: LinkId, name: &str| {
        let there = if from == LinkId::A { a } else { b };
        let composed: String = name.nfc().collect();
        let alike = there.iter().find(|s| s.name.nfc().eq(composed.chars()));
        Some(match alike {
            Some(alike) => format!(
                "{name} is spelled in other bytes on server {from}: {} there, {} on server {}; rename one to \
                 the same Unicode normalization form (NFC)",
                form(&alike.name),
                form(name),
                from.other()
            ),
            None => format!("server {} has {name}, server {from} does not", from.other()),
        })
    };
    let of_b: HashMap<_, _> = b.iter().map(|s| (&s.name, s.digest)).collect();
    for segment in a {
        match of_b.get(&segment.name) {
            None => return missing(LinkId::B, &segment.name),
            Some(digest) if *digest != segment.digest => {
                let hex = |digest: Option<Digest>| digest.map_or_else(String::new, |d| d.to_string());
                return Some(format!(
                    "{} has the digest {} on server a and {} on server b",
                    segment.name,
                    hex(segment.digest),
                    hex(*digest)
                ));
            }
            Some(_) => {}
        }
    }
    let of_a: HashSet<_> = a.iter().map(|s| &s.name).collect();
    b.iter().find(|s| !of_a.contains(&s.name)).and_then(|s| missing(LinkId::A, &s.name))
}

/// Names the Unicode normalization form of a name.
fn form(name: &str) -> &'static str {
    if is_nfc(name) {
        "composed (NFC)"
    } else if is_nfd(name) {
        "decomposed (NFD)"
    } else {
        "neither composed nor decomposed"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sums(lines: &[(&str, char)]) -> Vec<ManifestEntry> {
        let text: String =
            lines.iter().map(|(name, digit)| format!("{}  {name}\n", digit.to_string().repeat(64))).collect();
        parse_sums(&text).unwrap()
    }

    #[test]
    fn the_default_pattern_is_the_course_s_160_files() {
        let files = expand(DEFAULT_PATTERN).unwrap();
        assert_eq!(files.len(), 160);
        assert_eq!(files[0].name, "s001.m4s");
        assert_eq!(files[159].path, "/s160.m4s");
    }

    #[test]
    fn bad_patterns_say_what_is_wrong() {
        let zeros = format!("s{{{}..1}}", "0".repeat(70_000));
        let sevens = format!("s{{0..{}7}}", "0".repeat(300));
        for bad in [
            &zeros,
            &sevens,
            ".twinlink",
            "s{1..",
            "s{1-5}",
            "s{a..b}",
            "s{5..1}",
            "../s{1..2}",
            "",
            "s{0..18446744073709551615}",
        ] {
            assert!(expand(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_that_would_write_elsewhere_is_refused() {
        for name in ["../evil", "/etc/passwd", "a/b", "..", "x\u{7}"] {
            assert!(parse_sums(&format!("{}  {name}\n", "0".repeat(64))).is_err(), "{name}");
        }
        assert!(parse_sums("").is_err());
        assert!(parse_sums("not a list").is_err());
    }

    #[test]
    fn the_first_difference_is_named() {
        let a = || Some(sums(&[("x", '1'), ("y", '2')]));
        assert_eq!(agree(None, a(), a()).unwrap(), a().unwrap());
        let error = |b: &[(&str, char)]| agree(None, a(), Some(sums(b))).unwrap_err().to_string();
        assert!(error(&[("x", '1')]).contains("server a has y, server b does not"));
        assert!(error(&[("x", '1'), ("y", '2'), ("z", '3')]).contains("server b has z, server a does not"));
        assert!(error(&[("x", '1'), ("y", '3')]).contains("y has the digest 22"));
    }

    #[test]
    fn names_in_two_unicode_forms_are_named() {
        let (composed, decomposed) = (sums(&[("caf\u{e9}", '1')]), sums(&[("cafe\u{301}", '1')]));
        let error = agree(None, Some(composed.clone()), Some(decomposed.clone())).unwrap_err().to_string();
        assert!(error.contains("decomposed (NFD) there, composed (NFC) on server a"), "{error}");
        let error = agree(None, Some(decomposed), Some(composed)).unwrap_err().to_string();
        assert!(error.contains("composed (NFC) there, decomposed (NFD) on server a"), "{error}");
    }

    #[test]
    fn a_byte_order_mark_before_a_list_is_taken() {
        let text = format!("\u{feff}{}  x\r\n", "1".repeat(64));
        assert_eq!(parse_sums(&text).unwrap()[0].name, "x");
        assert!(begins_as_list(text.as_bytes()));
    }

    #[test]
    fn a_page_is_told_from_a_list_by_its_first_line() {
        for page in [&b"<!DOCTYPE html>\n<html>"[..], b"", b"\n\n", b"Not found\n", b"\xff\xfe\0", b"{}"] {
            assert!(!begins_as_list(page), "{}", page.escape_ascii());
        }
        let list = format!("\n{}  x\nspoilt", "1".repeat(64));
        assert!(begins_as_list(list.as_bytes()) && parse_sums(&list).is_err());
    }

    #[test]
    fn an_endless_list_is_refused_as_it_comes() {
        let mut growing = Growing::default();
        (0..4096).for_each(|_| growing.grow(b"a").unwrap());
        assert!(growing.grow(b"a").unwrap_err().to_string().contains("line 1 is longer"));
        let mut growing = Growing::default();
        growing.grow(&b"\n".repeat(MOST_LINES)).unwrap();
        assert!(growing.grow(b"\n").is_err());
    }

    #[test]
    fn one_list_serves_for_both() {
        let list = sums(&[("x", '1')]);
        assert_eq!(agree(None, None, Some(list.clone())).unwrap(), list);
        assert_eq!(agree(Some("x"), Some(list.clone()), None).unwrap(), list);
        assert!(agree(Some("q"), Some(list), None).unwrap_err().to_string().contains("not in the servers'"));
    }

    proptest! {
        #[test]
        fn no_list_makes_the_parser_panic(text in "[0-9a-f /.*\n]{0,200}") {
            let _ = parse_sums(&text);
        }
    }
}
