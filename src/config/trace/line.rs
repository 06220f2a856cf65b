//! The lines of a trace file and the values on them: says what is wrong with which.

use std::io::BufRead;
use std::time::Duration;

use super::RATES;
use crate::units::{Delay, Nanos, Percent, Rate};

/// The longest line that a trace may have; those of the public data sets have 200 bytes.
const LONGEST_LINE: u64 = 4096;

const S: Nanos = 1_000_000_000;

/// The latest time that a trace may name, a week: no number that is a date passes for one.
pub(crate) const LATEST_S: f64 = 604_800.0;

/// The lines of a file that say something, with their numbers.
pub(crate) struct Lines<R> {
    from: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(from: R) -> Lines<R> {
        Lines { from, number: 0 }
    }

    /// The next line that is neither empty nor a comment.
    pub(crate) fn line(&mut self) -> Result<Option<String>, String> {
        loop {
            let mut line = Vec::new();
            let mut bounded = std::io::Read::take(&mut self.from, LONGEST_LINE);
            let count =
                bounded.read_until(b'\n', &mut line).map_err(|error| format!("cannot be read: {error}"))?;
            if count == 0 {
                return Ok(None);
            }
            self.number += 1;
            if count as u64 == LONGEST_LINE {
                return Err(self.problem("more than 4096 bytes: this is not a trace"));
            }
            let text = String::from_utf8(line).ok().filter(|text| !text.contains('\0'));
            let text = text.ok_or_else(|| self.problem("bytes that are not UTF-8: this is not a trace"))?;
            let text = text.trim_start_matches('\u{feff}').trim();
            if !text.is_empty() && !text.starts_with('#') {
                return Ok(Some(text.to_string()));
            }
        }
    }

    pub(crate) fn problem(&self, what: impl std::fmt::Display) -> String {
        format!("line {}: {what}", self.number)
    }
}

/// A number that is neither negative nor out of this world.
pub(crate) fn number(text: &str, what: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value < 0.0 => Err(format!("\"{text}\" is negative: {what} is 0 or more")),
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(format!("{} is not {what}", shown(text))),
    }
}

pub(crate) fn seconds(text: &str) -> Result<Nanos, String> {
    let value = number(text, "a time in seconds")?;
    // A clock's time counts from long ago; only what passes since the first line matters.
    if value > LATEST_S && value < 1e9 || value > 1e10 {
        return Err(format!("{text} s is more than a week"));
    }
    Ok((value * S as f64).round() as Nanos)
}

/// Returns a rate in bit/s. A rate below the slowest of a profile counts as an outage.
pub(crate) fn rate_of(bits: f64) -> Result<Rate, String> {
    let (least, most) = RATES;
    if bits > most as f64 {
        return Err(format!(
            "{} Mbit/s is out of range: at most 10000; where the file counts bytes, write units = \"bytes/s\"",
            bits / 1e6
        ));
    }
    let bits = bits.round() as u64;
    Ok(Rate::from_bits_per_s(if bits < least { 0 } else { bits }))
}

pub(crate) fn delay_of(text: &str) -> Result<Delay, String> {
    let delay: Delay = text.parse()?;
    if delay.0 > Duration::from_secs(60) {
        return Err(format!("a delay of {delay} is out of range: at most 60s"));
    }
    Ok(delay)
}

pub(crate) fn loss_of(text: &str) -> Result<Percent, String> {
    let loss: Percent = text.parse()?;
    if loss.percent() >= 100.0 {
        return Err(format!("a loss of {loss} lets nothing pass: write an outage as a rate of 0"));
    }
    Ok(loss)
}

/// A value for an error, quoted where it looks like a number with a unit. Other text is not shown: the
/// file may be no trace at all, and hold what nobody should read in a log.
pub(crate) fn shown(text: &str) -> String {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || "+-.,:_% ".contains(c));
    let is_value = text.len() <= 24 && unit.len() <= 5 && unit.len() < text.len();
    if is_value && unit.chars().all(|c| c.is_ascii_alphabetic()) {
        format!("\"{text}\"")
    } else {
        "the text".into()
    }
}
