//! Reads the formats in which traces come, line by line, so that a long file costs no memory beyond
//! its steps: mahimahi, pairs of seconds and Mbit/s, and CSV with a header.
//!
//! Says what is wrong with which line. Opens no file; where lines come from is the caller's.

use std::io::BufRead;

use super::build::{Builder, ParsedTrace, Steps};
use super::line::{LATEST_S, Lines, number, rate_of, seconds, shown};
use super::{TraceStep, csv};
use crate::config::profile::FRAME;
use crate::units::Nanos;

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

/// mahimahi's rates are counts: over less than this they would be noise.
const MAHIMAHI_STEP: Nanos = 100_000_000;

const MS: Nanos = 1_000_000;
/// Reads a trace. With `step` the rates are averaged over steps of that length; `unit` is that of pairs, Mbit/s where
/// none is given.
///
/// # Errors
/// The line and what is wrong with it.
pub(crate) fn read(
    from: impl BufRead,
    format: Format,
    step: Option<Nanos>,
    unit: Option<TraceUnit>,
) -> Result<ParsedTrace, String> {
    let mut lines = Lines::new(from);
    let Some(first) = lines.line()? else { return Err("it is empty: write one step at least".into()) };
    let format = if format == Format::Auto { guess(&first).map_err(|e| lines.problem(e))? } else { format };
    if unit.is_some() && format != Format::Pairs {
        return Err("units: a file of this format says its own: leave units out".into());
    }
    match format {
        Format::Mahimahi => mahimahi(first, lines, step.unwrap_or(MAHIMAHI_STEP)).map(ParsedTrace::One),
        Format::Pairs => pairs(first, lines, step, unit.unwrap_or_default()),
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

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
