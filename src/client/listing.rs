//! Which files there are to fetch: the servers' SHA256SUMS, or a pattern. Pure.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::http;
use super::store::Digest;
use crate::manifest;
use crate::units::LinkId;

/// What is asked for where no server has a list.
pub const DEFAULT_PATTERN: &str = "s{001..160}.m4s";

/// One file to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub name: String,
    /// The path to ask for, percent-encoded.
    pub path: String,
    pub digest: Option<Digest>,
}

impl Segment {
    fn new(name: &str, digest: Option<Digest>) -> Result<Segment> {
        check_name(name)?;
        Ok(Segment { name: name.to_string(), path: http::path_of(name), digest })
    }
}

/// A name becomes a file here, so it must not lead anywhere else.
fn check_name(name: &str) -> Result<()> {
    manifest::check_name(name).map_err(|problem| {
        let shown: String = name.chars().take(300).collect();
        anyhow!("\"{}\" cannot be fetched as a file: {problem}", shown.escape_debug())
    })
}

/// Reads a list as `sha256sum` writes it: `<64 hex digits>  <name>`.
pub fn parse_sums(text: &str) -> Result<Vec<Segment>> {
    let mut segments = Vec::new();
    let mut seen = HashMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() {
            continue;
        }
        let parsed = line.split_once(' ').and_then(|(hex, rest)| {
            // The second character says text (a space) or binary (a star).
            let name = rest.strip_prefix(' ').or_else(|| rest.strip_prefix('*'))?;
            Some((Digest::from_hex(hex)?, name))
        });
        let Some((digest, name)) = parsed else {
            bail!("line {number} of its SHA256SUMS is not \"<sha256>  <name>\"");
        };
        let segment = Segment::new(name, Some(digest)).with_context(|| {
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
pub fn expand(pattern: &str) -> Result<Vec<Segment>> {
    const MOST: u64 = 1_000_000;
    let example = "as in s{001..160}.m4s";
    let Some((before, rest)) = pattern.split_once('{') else {
        return Ok(vec![Segment::new(pattern, None)?]);
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
        before.len() + width.max(last.len()) + after.len() <= manifest::LONGEST_NAME_BYTES,
        "the pattern makes names of more than {} bytes; write it {example}",
        manifest::LONGEST_NAME_BYTES
    );
    (low..=high).map(|i| Segment::new(&format!("{before}{i:0width$}{after}"), None)).collect()
}

/// What is to be fetched, from what each server says it has.
///
/// # Errors
/// When both have a list and the lists differ: the first difference is named.
pub fn agree(
    pattern: Option<&str>,
    a: Option<Vec<Segment>>,
    b: Option<Vec<Segment>>,
) -> Result<Vec<Segment>> {
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
            let mut wanted = expand(pattern)?;
            if let Some(listed) = listed {
                let digests: HashMap<_, _> = listed.into_iter().map(|s| (s.name, s.digest)).collect();
                for segment in &mut wanted {
                    let digest = digests.get(&segment.name);
                    segment.digest = *digest.with_context(|| {
                        format!("--files asks for {}, which is not in the servers' SHA256SUMS", segment.name)
                    })?;
                }
            }
            Ok(wanted)
        }
    }
}

fn first_difference(a: &[Segment], b: &[Segment]) -> Option<String> {
    let missing = |from: LinkId, name: &str| {
        Some(format!("server {} has {name}, server {from} does not", from.other()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sums(lines: &[(&str, char)]) -> Vec<Segment> {
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
