//! Text that is printed: on stdout, without a panic; and text of others, made fit to print.

use std::borrow::Cow;
use std::error::Error;
use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use comfy_table::{ContentArrangement, Table};

/// Prints text to stdout, made fit for a terminal; a reader that has gone away (a closed pipe) is no failure.
///
/// # Errors
/// stdout cannot be written, as on a full disk.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout();
    match stdout.write_all(lines(text).as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

/// Prints a value as JSON over several lines to stdout, as [`print()`].
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(value).context("cannot render JSON")?;
    print(&format!("{}\n", visible_json(&json)))
}

/// Prints a line to stderr, made fit for a terminal, where that can be written.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{}", lines(line));
}

/// The columns that every terminal has.
pub(crate) const TERMINAL_COLUMNS: u16 = 80;

/// Makes a table wrap what does not fit a terminal of 80 columns.
pub(crate) fn fit(table: &mut Table) {
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(TERMINAL_COLUMNS);
}

/// Returns a remedy for a system error whose cause is room: on a disk, in a quota, under a limit on files.
pub(crate) fn remedy(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let own = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    let code = own.or_else(|| error.downcast_ref::<rustix::io::Errno>().map(|error| error.raw_os_error()))?;
    match code {
        libc::EFBIG => Some("raise the limit on the size of files (ulimit -f)"),
        libc::ENOSPC => Some("free some space there, or name a folder on another disk"),
        libc::EMFILE => Some("raise the limit on open files (ulimit -n)"),
        libc::EDQUOT => Some("free some of this user's quota, or name a folder on another disk"),
        _ => None,
    }
}

/// An error with its causes and, where the system ran out of room, what to do about it.
pub(crate) fn explained(error: &anyhow::Error) -> String {
    match error.chain().find_map(remedy) {
        Some(remedy) => format!("{error:#}: {remedy}"),
        None => format!("{error:#}"),
    }
}

/// A text with the point that ends a sentence, unless it has its end.
pub(crate) fn sentence(mut text: String) -> String {
    if !text.ends_with(['.', '?', '!']) {
        text.push('.');
    }
    text
}

/// A number of things: "1 file", "3 files".
pub(crate) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// A span of time as people say one: "30 ms", "0.7 s", "40 s", "2 min 5 s", "3 h 16 min".
pub(crate) fn duration(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    if seconds < 0.0995 {
        return match (seconds * 1e3).round() as u64 {
            0 if span.is_zero() => "0 s".into(),
            0 => "less than 1 ms".into(),
            ms => format!("{ms} ms"),
        };
    }
    if seconds < 9.95 {
        return format!("{} s", (seconds * 10.0).round() / 10.0);
    }
    let two = |large: u64, of: &str, small: u64, name: &str| match small {
        0 => format!("{large} {of}"),
        _ => format!("{large} {of} {small} {name}"),
    };
    let whole = seconds.round() as u64;
    let (minutes, hours) = ((seconds / 60.0).round() as u64, (seconds / 3600.0).round() as u64);
    match whole {
        ..60 => format!("{whole} s"),
        60..600 => two(whole / 60, "min", whole % 60, "s"),
        _ if minutes < 60 => format!("{minutes} min"),
        _ if minutes < 24 * 60 => two(minutes / 60, "h", minutes % 60, "min"),
        _ => two(hours / 24, "d", hours % 24, "h"),
    }
}

/// Returns a command with its placeholders filled in: `{name}` becomes the value of that name, and `{{name}}` becomes
/// `{name}`. Other braces stay, as those of `${name}`, `%{name}` and `{ print }`.
///
/// # Errors
/// A name is unknown.
pub(crate) fn fill_in(command: &str, values: &[(&str, &str)]) -> Result<String, String> {
    let mut filled = String::with_capacity(command.len());
    let mut rest = command;
    while let Some((before, behind)) = rest.split_once('{') {
        filled.push_str(before);
        let (inner, end) = behind.strip_prefix('{').map_or((behind, "}"), |inner| (inner, "}}"));
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, after) = inner.split_at(inner.find(|c| !is_of_name(c)).unwrap_or(inner.len()));
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic()) && !before.ends_with(['$', '%']);
        let Some(after) = after.strip_prefix(end).filter(|_| is_name) else {
            filled.push('{');
            rest = behind;
            continue;
        };
        let value = values.iter().find(|(known, _)| *known == name);
        match (end, value) {
            ("}}", _) => filled.extend(["{", name, "}"]),
            (_, Some((_, value))) => filled.push_str(value),
            (_, None) => {
                let known: Vec<String> = values.iter().map(|(name, _)| format!("{{{name}}}")).collect();
                let use_one =
                    if known.is_empty() { String::new() } else { format!("use {}, or ", known.join(" ")) };
                return Err(format!(
                    "cannot fill in {{{name}}}: unknown placeholder; {use_one}write {{{{{name}}}}} for {{{name}}} itself"
                ));
            }
        }
        rest = after;
    }
    Ok(filled + rest)
}

/// Refuses a command with other placeholders than those of these names.
///
/// # Errors
/// A name is unknown.
pub(crate) fn check_placeholders(command: &str, names: &[&str]) -> Result<(), String> {
    fill_in(command, &names.iter().map(|&name| (name, "")).collect::<Vec<_>>()).map(drop)
}

/// Whether a terminal would obey a character instead of showing it: control characters of both sets, line and
/// paragraph separators, and marks that turn the direction of writing.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn replaced(text: &str, hidden: impl Fn(char) -> bool, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) || !text.contains(&hidden) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if hidden(c) { shown.push_str(&escape(c)) } else { shown.push(c) }
    }
    shown.into()
}

fn escape(c: char) -> String {
    c.escape_unicode().to_string()
}

/// Text of others as it can be shown: what a terminal would obey becomes an escape, line ends apart, so that no
/// log or server sets a terminal's title or moves its cursor.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    replaced(text, |c| c != '\n' && is_obeyed(c), escape)
}

/// The same of whole lines of our own, which may be indented by tabs.
fn lines(text: &str) -> Cow<'_, str> {
    replaced(text, |c| !matches!(c, '\n' | '\t') && is_obeyed(c), escape)
}

/// Returns JSON of the same meaning whose strings a terminal does not obey. Only strings hold characters that
/// serde_json leaves as they are.
pub(crate) fn visible_json(json: &str) -> Cow<'_, str> {
    replaced(json, |c| !c.is_ascii_whitespace() && is_obeyed(c), |c| format!("\\u{:04x}", c as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_that_a_terminal_does_not_obey_means_the_same() {
        let text = "\u{1b}]0;x\u{7}\t\u{7f}\u{9b}2J\u{2028}\u{202e}\u{2069} Größe";
        for json in [serde_json::to_string(&[text]).unwrap(), serde_json::to_string_pretty(&[text]).unwrap()]
        {
            let shown = visible_json(&json);
            assert!(!shown.contains(|c| c != '\n' && is_obeyed(c)), "{shown}");
            assert_eq!(serde_json::from_str::<Vec<String>>(&shown).unwrap(), [text]);
            assert_eq!(lines(&shown), shown);
        }
    }

    #[test]
    fn placeholders_are_filled_in_and_other_braces_stay() {
        let values = [("out", "/o"), ("server_a", "{out}:1")];
        for (command, filled) in [
            ("http://{server_a}/{out}", "http://{out}:1//o"),
            ("awk '{ print }' {out}{out", "awk '{ print }' /o{out"),
            (
                "${out} ${x:-1} %{http_code} {1..3} {} {\"a\":1}",
                "${out} ${x:-1} %{http_code} {1..3} {} {\"a\":1}",
            ),
            ("{{out}} {{x}} {{{out}}} events {{}}", "{out} {x} {{out}} events {{}}"),
        ] {
            assert_eq!(fill_in(command, &values).as_deref(), Ok(filled));
        }
        let unknown = "cannot fill in {OUT}: unknown placeholder; use {out} {server_a}, or write {{OUT}} for {OUT} itself";
        assert_eq!(fill_in("x {OUT}", &values).unwrap_err(), unknown);
        assert!(
            check_placeholders("{out}", &[])
                .unwrap_err()
                .ends_with("placeholder; write {{out}} for {out} itself")
        );
        assert_eq!(check_placeholders("{out}", &["out"]), Ok(()));
    }

    #[test]
    fn errors_for_want_of_room_say_what_to_do() {
        for (code, word) in [
            (libc::EMFILE, "ulimit -n"),
            (libc::EFBIG, "ulimit -f"),
            (libc::ENOSPC, "space"),
            (libc::EDQUOT, "quota"),
        ] {
            let own = anyhow::Error::from(io::Error::from_raw_os_error(code)).context("cannot write x");
            let other = rustix::io::Errno::from_raw_os_error(code);
            for error in [own, anyhow::Error::from(other).context("cannot write x")] {
                let text = explained(&error);
                assert!(text.starts_with("cannot write x: ") && text.contains(word), "{text}");
            }
        }
        let other = anyhow::Error::from(io::Error::from_raw_os_error(libc::EIO));
        assert_eq!(explained(&other), format!("{other:#}"));
    }

    #[test]
    fn a_sentence_has_one_end_and_one_thing_no_plural() {
        assert_eq!(
            ["is it there?", "no.", "no"].map(|text| sentence(text.into())),
            ["is it there?", "no.", "no."]
        );
        assert_eq!([0, 1, 2].map(|number| count(number, "file")), ["0 files", "1 file", "2 files"]);
    }

    #[test]
    fn durations_read_as_people_say_them() {
        for (seconds, words) in [
            (0.0, "0 s"),
            (0.000_4, "less than 1 ms"),
            (0.03, "30 ms"),
            (0.0996, "0.1 s"),
            (0.7, "0.7 s"),
            (9.96, "10 s"),
            (10.0, "10 s"),
            (40.4, "40 s"),
            (59.6, "1 min"),
            (125.0, "2 min 5 s"),
            (599.6, "10 min"),
            (600.0, "10 min"),
            (3599.0, "1 h"),
            (11_770.0, "3 h 16 min"),
            (86_399.0, "1 d"),
            (180_000.0, "2 d 2 h"),
        ] {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), words, "{seconds}");
        }
    }

    #[test]
    fn control_characters_show_as_escapes() {
        assert_eq!(visible("a\u{1b}]0;title\u{7}b\tc\nd"), "a\\u{1b}]0;title\\u{7}b\\u{9}c\nd");
        assert_eq!(visible("x\u{202e}gpj.exe\u{9b}1m"), "x\\u{202e}gpj.exe\\u{9b}1m");
        assert_eq!(visible("\u{7f}\u{2028}\u{2029}\u{61c}"), "\\u{7f}\\u{2028}\\u{2029}\\u{61c}");
        assert!(matches!(visible("Größe 3 × 5 = 15"), Cow::Borrowed(_)));
    }
}
