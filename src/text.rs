//! Text that is printed: on stdout, without a panic; and text of others, made fit to print.

use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};

/// Prints to stdout; a reader that has gone away (a closed pipe) is no failure.
///
/// # Errors
/// stdout cannot be written, as on a full disk.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

/// Prints a line to stderr, where that can be written.
pub fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Text of others as it can be shown: control characters but line ends become escapes, so that no log or
/// server sets a terminal's title or moves its cursor. So do marks that turn the direction of writing.
pub fn visible(text: &str) -> std::borrow::Cow<'_, str> {
    let hidden = |c: char| {
        c != '\n' && c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(hidden) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if hidden(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_show_as_escapes() {
        assert_eq!(visible("a\u{1b}]0;title\u{7}b\tc\nd"), "a\\u{1b}]0;title\\u{7}b\\u{9}c\nd");
        assert_eq!(visible("x\u{202e}gpj.exe\u{9b}1m"), "x\\u{202e}gpj.exe\\u{9b}1m");
        assert!(matches!(visible("Größe 3 × 5 = 15"), std::borrow::Cow::Borrowed(_)));
    }
}
