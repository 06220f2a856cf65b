//! Ranges: the part of a representation that a request asks for, with the validators that it depends on, and
//! the part that an answer brings (RFC 9110, sections 13 and 14). Pure: header values in, a decision out.

/// The largest size of a file that is believed: 8 TiB, so that the sum over a million files is a `u64`.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 43;

/// The part of a representation that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// All of it.
    Whole,
    /// The bytes from `from` up to and without `to`; never empty, never beyond the end.
    Part { from: u64, to: u64 },
    /// A well-formed range that begins behind the end.
    Unsatisfiable,
}

/// Reads a `Range` header for a representation of `len` bytes.
///
/// A unit that is not `bytes`, a range that cannot be read, and more than one range all select the
/// whole, as the RFC allows: a client that asked for less learns so from the status.
pub(crate) fn select(header: &str, len: u64) -> Selection {
    let Some((unit, ranges)) = header.split_once('=') else { return Selection::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Selection::Whole;
    }
    let mut ranges = ranges.split(',').map(|range| range.trim_matches([' ', '\t'])).filter(|r| !r.is_empty());
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return Selection::Whole };
    let Some((first, last)) = range.split_once('-') else { return Selection::Whole };
    match (number(first), number(last)) {
        (Number::Value(first), Number::None) if first < len => Selection::Part { from: first, to: len },
        (Number::Value(first), Number::Value(last)) if last < first => Selection::Whole,
        (Number::Value(first), Number::Value(last)) if first < len => {
            Selection::Part { from: first, to: last.saturating_add(1).min(len) }
        }
        (Number::Value(_), Number::None | Number::Value(_)) => Selection::Unsatisfiable,
        (Number::None, Number::Value(0)) => Selection::Unsatisfiable,
        // The last bytes of nothing are nothing, which no `Content-Range` can say.
        (Number::None, Number::Value(_)) if len == 0 => Selection::Whole,
        (Number::None, Number::Value(suffix)) => {
            Selection::Part { from: len.saturating_sub(suffix), to: len }
        }
        _ => Selection::Whole,
    }
}

enum Number {
    None,
    Value(u64),
    Malformed,
}

/// Reads digits only: no sign, no space. A number beyond 64 bits is behind the end of any file.
fn number(text: &str) -> Number {
    if text.is_empty() {
        Number::None
    } else if text.bytes().all(|byte| byte.is_ascii_digit()) {
        Number::Value(text.parse().unwrap_or(u64::MAX))
    } else {
        Number::Malformed
    }
}

/// Whether a list of entity tags (`If-Match`, `If-None-Match`) names `etag`, which is strong.
/// `weak_too` compares as `If-None-Match` does, where a weak tag of the same text matches.
pub(crate) fn names_etag(list: &str, etag: &str, weak_too: bool) -> bool {
    // Our tags hold no comma, so splitting at commas can break only tags that are not ours.
    list.split(',').map(str::trim).any(|tag| {
        tag == "*" || tag == etag || (weak_too && tag.strip_prefix("W/").is_some_and(|tag| tag == etag))
    })
}

/// `bytes first-last/total`; `total` is `None` for `*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    pub first: u64,
    pub last: u64,
    pub total: Option<u64>,
}

/// Where the body of an answer lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub from: u64,
    /// One past the body's last byte, where the head tells.
    pub to: Option<u64>,
    /// The size of the file, where the head tells.
    pub total_bytes: Option<u64>,
}

/// Reads digits alone, no sign, and no size beyond that of any file.
pub(super) fn file_size(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&number| digits && number <= MAX_FILE_BYTES)
}

/// Reads `bytes 7-9/10` (RFC 9110, section 14.4).
pub(super) fn content_range(value: &str) -> Option<ContentRange> {
    let (unit, rest) = value.split_once(' ')?;
    let (range, total) = rest.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (file_size(first)?, file_size(last)?);
    let total = if total == "*" { None } else { Some(file_size(total)?) };
    let possible = first <= last && total.is_none_or(|total| last < total);
    (possible && unit.eq_ignore_ascii_case("bytes")).then_some(ContentRange { first, last, total })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn single_ranges_select_what_they_say() {
        let part = |from, to| Selection::Part { from, to };
        for (header, expected) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=0-99", part(0, 100)),
            ("bytes=10-", part(10, 100)),
            ("bytes=99-", part(99, 100)),
            ("bytes=5-1000", part(5, 100)),
            ("bytes=5-99999999999999999999999", part(5, 100)),
            ("bytes=-1", part(99, 100)),
            ("bytes=-100", part(0, 100)),
            ("bytes=-101", part(0, 100)),
            ("Bytes=1-2", part(1, 3)),
            ("bytes= 1-2 ,", part(1, 3)),
            ("bytes=100-", Selection::Unsatisfiable),
            ("bytes=100-200", Selection::Unsatisfiable),
            ("bytes=99999999999999999999999-", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
        ] {
            assert_eq!(select(header, 100), expected, "{header}");
        }
    }

    #[test]
    fn what_cannot_be_read_selects_the_whole() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=1-2-3",
            "bytes=+1-2",
            "bytes=2-1",
            "bytes=0x1-2",
            "bytes=1 - 2",
            "items=0-1",
            "bytes=0-1,5-6",
            "0-1",
            "bytes=,",
            "bytes=--1",
        ] {
            assert_eq!(select(header, 100), Selection::Whole, "{header}");
        }
    }

    #[test]
    fn an_empty_file_has_no_part() {
        assert_eq!(select("bytes=0-", 0), Selection::Unsatisfiable);
        assert_eq!(select("bytes=0-0", 0), Selection::Unsatisfiable);
        assert_eq!(select("bytes=-5", 0), Selection::Whole);
    }

    #[test]
    fn entity_tags_compare_strongly_or_weakly() {
        assert!(names_etag("\"a\", \"b\"", "\"b\"", false));
        assert!(names_etag("*", "\"b\"", false));
        assert!(names_etag("W/\"b\"", "\"b\"", true));
        assert!(!names_etag("W/\"b\"", "\"b\"", false));
        assert!(!names_etag("\"a\"", "\"b\"", true));
        assert!(!names_etag("", "\"b\"", true));
    }

    proptest! {
        #[test]
        fn no_header_selects_what_is_not_there(header in "(bytes=)?[ ,0-9-]{0,24}", len: u64) {
            if let Selection::Part { from, to } = select(&header, len) {
                prop_assert!(from < to && to <= len, "{from}..{to} of {len}");
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(header in "\\PC{0,30}", len: u64) {
            select(&header, len);
            names_etag(&header, "\"x\"", true);
        }

        #[test]
        fn a_range_written_by_a_client_is_read_back(from in 0u64..1000, length in 1u64..1000, beyond in 0u64..1000) {
            let to = from + length;
            let header = format!("bytes={from}-{}", to - 1);
            prop_assert_eq!(select(&header, to + beyond), Selection::Part { from, to });
        }

        #[test]
        fn the_parts_of_a_file_make_up_the_file(len in 1u64..500, cut in 0u64..500) {
            let cut = cut % len;
            let tail = select(&format!("bytes={cut}-"), len);
            prop_assert_eq!(tail, Selection::Part { from: cut, to: len });
            prop_assert_eq!(select(&format!("bytes=-{}", len - cut), len), tail);
        }
    }
}
