//! `twinlink trace check`: says what trace files hold, and what a profile should know of them.

use std::fmt::Write;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};

use crate::config::file;
use crate::config::trace::build::{ParsedTrace, Steps};
use crate::config::trace::load::LARGEST;
use crate::config::trace::read::{self, Format, TraceUnit};
use crate::config::trace::{Trace, is_outage};
use crate::text::print;
use crate::units::Nanos;

#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum TraceCommand {
    /// Say how long traces are, what they carry, where they are silent, and how two of them go together
    Check(CheckArgs),
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// Trace files, as the [trace] table of a profile names them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The unit of rates in files of seconds and rates: bit/s, kbit/s, mbit/s or bytes/s; else it is guessed
    #[arg(long, value_name = "UNIT")]
    units: Option<TraceUnit>,
}

const S: f64 = 1e9;

/// The width of a plot, characters.
const WIDTH: u64 = 72;

/// A median above this, in Mbit/s, is taken for a wrong unit.
const LIKELY_MBIT: f64 = 2000.0;

/// Rows that are so many usual distances apart have a gap between them.
const GAP: f64 = 3.0;

/// Checks the files and prints a paragraph for each, and the correlation of each two.
///
/// # Errors
/// A file cannot be read, or a line of it makes no trace.
pub(crate) fn main(command: TraceCommand) -> Result<()> {
    let TraceCommand::Check(args) = command;
    let (mut text, mut tracks) = (String::new(), Vec::new());
    for path in &args.files {
        let (unit, found) = load(path, args.units)?;
        if args.units.is_none() && unit != TraceUnit::Mbit {
            let _ = writeln!(
                text,
                "{}: rates look like bytes per second: write units = \"bytes/s\"",
                path.display()
            );
        }
        for track in tracks_of(path, found)? {
            text += &track.described();
            tracks.push(track);
        }
    }
    for (index, first) in tracks.iter().enumerate() {
        for second in &tracks[index + 1..] {
            text += &together(first, second);
        }
    }
    print(&text)
}

/// Reads a file in the unit given, or in the first that gives likely rates.
fn load(path: &Path, unit: Option<TraceUnit>) -> Result<(TraceUnit, ParsedTrace)> {
    let read = |unit| {
        let from = BufReader::new(file::open(path, "trace", LARGEST)?);
        let found = read::read(from, Format::Auto, None, unit);
        found.map_err(|problem| anyhow!("cannot use the trace {}: {problem}", path.display()))
    };
    if let Some(unit) = unit {
        return Ok((unit, read(Some(unit))?));
    }
    let in_mbit = read(None);
    match &in_mbit {
        Ok(found) if !too_fast(found) => return Ok((TraceUnit::Mbit, in_mbit?)),
        _ => {}
    }
    // An error in every unit is told as it is in the usual one.
    match read(Some(TraceUnit::Bytes)) {
        Ok(found) => Ok((TraceUnit::Bytes, found)),
        Err(_) => Ok((TraceUnit::Mbit, in_mbit?)),
    }
}

fn too_fast(found: &ParsedTrace) -> bool {
    let (ParsedTrace::One(steps) | ParsedTrace::Links { a: steps, .. }) = found else { return false };
    let mut rates: Vec<f64> = steps.steps.iter().map(|step| step.rate.mbit()).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).is_some_and(|median| *median > LIKELY_MBIT)
}

/// One rate over time, of a file or of a column.
struct Series {
    name: String,
    trace: Trace,
    began: Nanos,
    rows: u64,
    longest_gap: (Nanos, Nanos),
}

fn tracks_of(path: &Path, found: ParsedTrace) -> Result<Vec<Series>> {
    let file = path.display();
    let named: Vec<(String, Steps)> = match found {
        ParsedTrace::One(steps) => vec![(file.to_string(), steps)],
        ParsedTrace::Both { down, up } => vec![(format!("{file} down"), down), (format!("{file} up"), up)],
        ParsedTrace::Links { a, b } => vec![(format!("{file} link a"), a), (format!("{file} link b"), b)],
    };
    let track = |(name, steps): (String, Steps)| {
        let (began, rows, longest_gap) = (steps.began, steps.rows, steps.longest_gap);
        let trace = steps.into_trace(&name, false);
        let trace = trace.map_err(|problem| anyhow!("cannot use the trace {name}: {problem}"))?;
        Ok(Series { name, trace, began, rows, longest_gap })
    };
    named.into_iter().map(track).collect()
}

impl Series {
    fn length_s(&self) -> f64 {
        self.trace.length() as f64 / S
    }

    /// The mean rates (Mbit/s) of so many equal parts of the time from `from` on.
    fn means(&self, from: Nanos, length: Nanos, parts: u64) -> Vec<f64> {
        let edge = |part: u64| from + (u128::from(length) * u128::from(part) / u128::from(parts)) as Nanos;
        (0..parts).map(|part| self.mean(edge(part), edge(part + 1).max(edge(part) + 1))).collect()
    }

    fn mean(&self, from: Nanos, to: Nanos) -> f64 {
        let (mut at, mut work) = (from, 0.0);
        while at < to {
            let moment = self.trace.at(at);
            let until = moment.until.min(to);
            work += moment.step.rate.mbit() * (until - at) as f64;
            at = until;
        }
        work / (to - from) as f64
    }

    /// The rate below which the trace is for a share of its time, Mbit/s.
    fn percentile(&self, share: f64) -> f64 {
        let rates = self.trace.steps().iter().map(|step| step.rate.mbit());
        let mut rates: Vec<(f64, Nanos)> = rates.zip(self.trace.durations()).collect();
        rates.sort_by(|x, y| x.0.total_cmp(&y.0));
        let mut left = share * self.trace.length() as f64;
        for (rate, lasts) in &rates {
            left -= *lasts as f64;
            if left <= 0.0 {
                return *rate;
            }
        }
        rates.last().map_or(0.0, |rate| rate.0)
    }

    /// Outages: their number, all of their time and the longest (s), and how long one lasts from the beginning.
    fn outages(&self) -> (usize, f64, f64, f64) {
        let steps = || self.trace.steps().iter().zip(self.trace.durations());
        let dead: Vec<f64> =
            steps().filter(|(step, _)| is_outage(step.rate)).map(|(_, lasts)| lasts as f64 / S).collect();
        let first = steps().next().filter(|(step, _)| is_outage(step.rate));
        let start_s = first.map_or(0.0, |(_, lasts)| lasts as f64 / S);
        (dead.len(), dead.iter().sum(), dead.iter().copied().fold(0.0, f64::max), start_s)
    }

    fn described(&self) -> String {
        let mut text = format!("{}: {} s in {} rows", self.name, short(self.length_s()), self.rows);
        let _ = writeln!(text, ", {} steps of different rates", self.trace.steps().len());
        let percentiles = [0.05, 0.25, 0.5, 0.75, 0.95].map(|share| short(self.percentile(share)));
        let _ = writeln!(
            text,
            "  mean {} Mbit/s; percentiles 5, 25, 50, 75, 95: {}",
            short(self.trace.mean_kbit() / 1e3),
            percentiles.join(", ")
        );
        let (count, all_s, longest_s, start_s) = self.outages();
        if start_s > 0.0 {
            let start = short(start_s);
            let _ =
                writeln!(text, "  dead start: nothing passes for {start} s; offset = \"{start}s\" skips it");
        }
        if count > 0 {
            let (all, longest) = (short(all_s), short(longest_s));
            let _ = writeln!(text, "  outages: {count}, {all} s in all, the longest {longest} s");
        }
        let usual = self.trace.length() as f64 / self.rows.max(1) as f64;
        if self.longest_gap.1 as f64 > GAP * usual {
            let [at, lasts, usual] =
                [self.longest_gap.0 as f64, self.longest_gap.1 as f64, usual].map(|ns| short(ns / S));
            let _ = writeln!(text, "  gap: no row for {lasts} s from {at} s on, where {usual} s are usual");
        }
        let _ = writeln!(text, "{}", self.plot());
        text
    }

    /// The rate over time as a line of bars, from 0 to the greatest; blank in an outage.
    fn plot(&self) -> String {
        let means = self.means(0, self.trace.length(), WIDTH);
        let most = means.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let bar = |mean: &f64| match (mean / most * 8.0).ceil() as usize {
            0 => ' ',
            height => ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][height.min(8) - 1],
        };
        format!("  {}  to {} Mbit/s", means.iter().map(bar).collect::<String>(), short(most))
    }
}

/// The correlation of two traces over the time that they share, of means over a second or 1000 parts of it.
fn together(first: &Series, second: &Series) -> String {
    let names = format!("{} and {}", first.name, second.name);
    let end = |track: &Series| track.began + track.trace.length();
    let (began, ended) = (first.began.max(second.began), end(first).min(end(second)));
    let Some(length) = ended.checked_sub(began).filter(|length| *length > 0) else {
        return format!("{names}: their times do not overlap, so they are no pair\n");
    };
    let parts = (length / 1_000_000_000).clamp(10, 1000);
    let means = |track: &Series| track.means(began - track.began, length, parts);
    let shared = short(length as f64 / S);
    match correlation(&means(first), &means(second)) {
        Some(r) => format!("{names}: correlation {r:+.2} over {shared} s\n"),
        None => format!("{names}: no correlation over {shared} s, since one never changes\n"),
    }
}

/// Pearson's coefficient; none where one side does not vary.
fn correlation(x: &[f64], y: &[f64]) -> Option<f64> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mx, my) = (mean(x), mean(y));
    let sum = |of: fn(f64, f64) -> f64| x.iter().zip(y).map(|(x, y)| of(x - mx, y - my)).sum::<f64>();
    let (xx, yy, xy) = (sum(|x, _| x * x), sum(|_, y| y * y), sum(|x, y| x * y));
    (xx > 0.0 && yy > 0.0).then(|| xy / (xx * yy).sqrt())
}

/// A number with about three digits that mean something.
fn short(value: f64) -> String {
    let digits = if value >= 100.0 { 0 } else { 2 };
    let text = format!("{value:.digits$}");
    if digits == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what is said of files of these texts, without their folder.
    fn checked(texts: &[&str], units: Option<TraceUnit>) -> Result<String> {
        let dir = tempfile::tempdir().unwrap();
        let (mut said, mut tracks) = (String::new(), Vec::new());
        for (index, text) in texts.iter().enumerate() {
            let path = dir.path().join(format!("{index}.csv"));
            std::fs::write(&path, text).unwrap();
            let (unit, found) = load(&path, units)?;
            said += &format!("{unit:?} ");
            tracks.extend(tracks_of(&path, found)?);
        }
        said += &tracks.iter().map(Series::described).collect::<String>();
        for pair in tracks.windows(2) {
            said += &together(&pair[0], &pair[1]);
        }
        Ok(said.replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn trace_is_described_in_numbers() {
        let said = checked(&["0 0\n2 4\n3 8\n9 4\n10 0\n11 2\n"], None).unwrap();
        assert!(said.contains("0.csv: 12 s in 6 rows, 6 steps"), "{said}");
        // 2 s of 0, 1 s of 4, 6 s of 8, 1 s of 4, 1 s of 0, 1 s of 2.
        assert!(said.contains("mean 4.83 Mbit/s; percentiles 5, 25, 50, 75, 95: 0, 0, 4, 8, 8"), "{said}");
        assert!(said.contains("dead start: nothing passes for 2 s; offset = \"2s\""), "{said}");
        assert!(said.contains("outages: 2, 3 s in all, the longest 2 s"), "{said}");
        assert!(!said.contains("gap"), "{said}");
        let plot = said.lines().find(|line| line.contains('█')).unwrap();
        assert!(plot.ends_with("to 8 Mbit/s") && plot.matches('█').count() == 36, "{plot}");
    }

    #[test]
    fn gap_is_named_though_its_rates_are_equal() {
        let rows: String = (0..20).chain(80..100).map(|s| format!("{s} {}\n", s % 3 + 1)).collect();
        let said = checked(&[&rows], None).unwrap();
        assert!(said.contains("gap: no row for 61 s from 19 s on, where 2.5 s are usual"), "{said}");
    }

    #[test]
    fn bytes_are_guessed_where_mbit_would_be_unlikely() {
        for text in ["0 1250000\n1 2500000\n", "0 4000\n1 5000\n"] {
            assert!(checked(&[text], None).unwrap().starts_with("Bytes"), "{text}");
        }
        let said = checked(&["0 1250000\n1 2500000\n"], Some(TraceUnit::Bytes)).unwrap();
        assert!(said.contains("mean 15 Mbit/s"), "{said}");
        assert!(checked(&["0 12\n1 25\n"], None).unwrap().starts_with("Mbit"));
        let refusal = checked(&["0 1250000\n1 x\n"], None).unwrap_err().to_string();
        assert!(refusal.contains("line 1: 1250000 Mbit/s is out of range"), "{refusal}");
    }

    #[test]
    fn correlation_is_over_the_time_that_traces_share() {
        let rising: String = (0..30).map(|s| format!("{s} {}\n", s + 1)).collect();
        let falling: String = (10..40).map(|s| format!("{s} {}\n", 50 - s)).collect();
        let said = checked(&[&rising, &falling], None).unwrap();
        assert!(said.contains("0.csv and 1.csv: correlation -1.00 over 20 s"), "{said}");
        let columns: String = (0..30).map(|s| format!("{s} {} {}\n", s + 1, 2 * s + 1)).collect();
        let said = checked(&[&columns], None).unwrap();
        assert!(said.contains("0.csv link a and 0.csv link b: correlation +1.00 over 30 s"), "{said}");
        assert!(checked(&["0 1\n1 2\n", "5 1\n6 2\n"], None).unwrap().contains("do not overlap"));
    }
}
