//! Reads the formats in which traces come, line by line, so that a long file costs no memory beyond
//! its steps: mahimahi, pairs of seconds and Mbit/s, and CSV with a header.
//!
//! Says what is wrong with which line. Opens no file; where lines come from is the caller's.

use std::io::BufRead;
use std::time::Duration;

use super::build::Builder;
use super::{Trace, TraceStep, csv};
use crate::config::profile::FRAME;
use crate::units::Nanos;
use crate::units::{Delay, Percent, Rate};

/// How a trace file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// Told by the first line that is no comment.
    #[default]
    Auto,
    /// A millisecond a line, at which one full packet may pass.
    Mahimahi,
    /// Seconds and Mbit/s.
    Pairs,
    /// Columns with names.
    Csv,
}

/// The unit of the rates of pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum TraceUnit {
    Bit,
    Kbit,
    #[default]
    Mbit,
    Bytes,
}

impl std::str::FromStr for TraceUnit {
    type Err = String;

    fn from_str(text: &str) -> Result<TraceUnit, String> {
        match text {
            "bit/s" => Ok(TraceUnit::Bit),
            "kbit/s" => Ok(TraceUnit::Kbit),
            "mbit/s" => Ok(TraceUnit::Mbit),
            "bytes/s" => Ok(TraceUnit::Bytes),
            _ => Err(format!("unit \"{text}\" not found: write bit/s, kbit/s, mbit/s or bytes/s")),
        }
    }
}

impl TryFrom<String> for TraceUnit {
    type Error = String;

    fn try_from(text: String) -> Result<TraceUnit, String> {
        text.parse()
    }
}

impl TraceUnit {
    /// Returns the words for a rate in this unit.
    fn what(self) -> &'static str {
        match self {
            TraceUnit::Bit => "a rate in bit/s",
            TraceUnit::Kbit => "a rate in kbit/s",
            TraceUnit::Mbit => "a rate in Mbit/s",
            TraceUnit::Bytes => "a rate in bytes/s",
        }
    }

    /// Returns its bits per second.
    fn bits(self) -> f64 {
        match self {
            TraceUnit::Bit => 1.0,
            TraceUnit::Kbit => 1e3,
            TraceUnit::Mbit => 1e6,
            TraceUnit::Bytes => 8.0,
        }
    }
}

/// The steps of one direction, and where they end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Steps {
    pub steps: Vec<TraceStep>,
    pub length: Nanos,
    /// The file's own time of the first row.
    pub began: Nanos,
    /// The number of rows, and the longest time between two of them: since the first row, and how long.
    pub rows: u64,
    pub longest_gap: (Nanos, Nanos),
}

/// The content of a trace file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ParsedTrace {
    /// One rate, for whichever direction the profile says.
    One(Steps),
    /// A rate for each direction.
    Both { down: Steps, up: Steps },
    /// A rate for each link.
    Links { a: Steps, b: Steps },
}

/// The longest line that a trace may have; those of the public data sets have 200 bytes.
const LONGEST_LINE: u64 = 4096;

/// mahimahi's rates are counts: over less than this they would be noise.
const MAHIMAHI_STEP: Nanos = 100_000_000;

const MS: Nanos = 1_000_000;
const S: Nanos = 1_000_000_000;

/// The latest time that a trace may name, a week: no number that is a date passes for one.
const LATEST_S: f64 = 604_800.0;

/// The lines of a file that say something, with their numbers.
pub(crate) struct Lines<R> {
    from: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
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

/// Reads a trace. With `step` the rates are averaged over steps of that length; `unit` is that of pairs.
///
/// # Errors
/// The line and what is wrong with it.
pub(crate) fn read(
    from: impl BufRead,
    format: Format,
    step: Option<Nanos>,
    unit: TraceUnit,
) -> Result<ParsedTrace, String> {
    let mut lines = Lines { from, number: 0 };
    let Some(first) = lines.line()? else { return Err("it is empty: write one step at least".into()) };
    let format = if format == Format::Auto { guess(&first).map_err(|e| lines.problem(e))? } else { format };
    match format {
        Format::Mahimahi => mahimahi(first, lines, step.unwrap_or(MAHIMAHI_STEP)).map(ParsedTrace::One),
        Format::Pairs => pairs(first, lines, step, unit),
        Format::Csv | Format::Auto => csv::read(&first, lines, step),
    }
}

fn guess(first: &str) -> Result<Format, String> {
    let numbers: Vec<&str> = fields(first).collect();
    match numbers[..] {
        [one] if one.parse::<u64>().is_ok() => Ok(Format::Mahimahi),
        [_, _] | [_, _, _] if numbers.iter().all(|number| number.parse::<f64>().is_ok()) => Ok(Format::Pairs),
        _ if first.contains(',') && first.starts_with(|c: char| c.is_alphabetic() || c == '"') => {
            Ok(Format::Csv)
        }
        _ => Err(
            "this is not a trace: a line is a millisecond (mahimahi), or seconds and Mbit/s, or the header \
                  of a CSV with time,rate or DL_bitrate,UL_bitrate"
                .into(),
        ),
    }
}

fn fields(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| c.is_whitespace() || c == ',').filter(|field| !field.is_empty())
}

/// One full packet may pass at each of these milliseconds: 1500 bytes of IP, which as a frame are
/// 1514. The last one is where the trace begins again.
fn mahimahi<R: BufRead>(first: String, mut lines: Lines<R>, step: Nanos) -> Result<Steps, String> {
    let mut builder = Builder::averaging(step);
    let mut last = 0u64;
    let mut line = Some(first);
    while let Some(text) = line {
        let ms: u64 = text.parse().map_err(|_| {
            lines.problem(format!("{} is not a millisecond: write a whole number", shown(&text)))
        })?;
        if ms < last {
            return Err(lines.problem(format!("{ms} ms comes after {last} ms: times must not fall")));
        }
        if ms as f64 > LATEST_S * 1e3 {
            return Err(lines.problem(format!("{ms} ms is more than a week")));
        }
        last = ms;
        // The opportunity at t is used by t, so it belongs to the millisecond before.
        builder.add(ms.saturating_sub(1) * MS, FRAME * 8).map_err(|e| lines.problem(e))?;
        line = lines.line()?;
    }
    if last == 0 {
        return Err("it ends at 0 ms: the last line says when it begins again".into());
    }
    builder.finish(last * MS)
}

/// A time and a rate a line, or a time and the rates of links a and b.
fn pairs<R: BufRead>(
    first: String,
    mut lines: Lines<R>,
    step: Option<Nanos>,
    unit: TraceUnit,
) -> Result<ParsedTrace, String> {
    let columns = fields(&first).count().clamp(2, 3);
    let mut builders: Vec<Builder> = (1..columns).map(|_| Builder::new(step)).collect();
    let mut line = Some(first);
    while let Some(text) = line {
        let found: Vec<&str> = fields(&text).collect();
        if found.len() != columns {
            let shown = shown(&text);
            let expected = if columns == 2 {
                "two numbers: seconds and Mbit/s are"
            } else {
                "three numbers: seconds and two rates are"
            };
            return Err(lines.problem(format!("{shown} is not {expected} expected")));
        }
        let mut push = || {
            let at = seconds(found[0])?;
            for (builder, rate) in builders.iter_mut().zip(&found[1..]) {
                let rate = rate_of(number(rate, unit.what())? * unit.bits())?;
                builder.push(TraceStep { at, rate, delay: None, loss: None })?;
            }
            Ok(())
        };
        push().map_err(|problem: String| lines.problem(problem))?;
        line = lines.line()?;
    }
    let mut all = builders.into_iter().map(Builder::end);
    match (all.next(), all.next()) {
        (Some(a), Some(b)) => Ok(ParsedTrace::Links { a: a?, b: b? }),
        (Some(one), None) => one.map(ParsedTrace::One),
        (None, _) => Err("it is empty: write one step at least".into()),
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
    let (least, most) = super::RATES;
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

impl Steps {
    pub(crate) fn into_trace(self, file: &str, looped: bool) -> Result<Trace, String> {
        Trace::new(file.to_string(), looped, self.steps, self.length)
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
