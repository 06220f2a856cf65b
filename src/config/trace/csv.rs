//! Traces as CSV with a header: `time,rate[,delay,loss]` of the lab's own, and the columns
//! `DL_bitrate,UL_bitrate` of the public 4G and 5G data sets.

use std::io::BufRead;

use super::TraceStep;
use super::build::{Builder, ParsedTrace};
use super::line::{Lines, delay_of, loss_of, number, rate_of, seconds, shown};
use crate::units::Nanos;
use crate::units::{Delay, Percent, Rate};

const S: Nanos = 1_000_000_000;

pub(crate) fn read<R: BufRead>(
    header: &str,
    lines: Lines<R>,
    step: Option<Nanos>,
) -> Result<ParsedTrace, String> {
    let names: Vec<String> = cells(header).map(|name| name.trim_matches('"').to_string()).collect();
    let place = |wanted: &str| names.iter().position(|name| name.eq_ignore_ascii_case(wanted));
    if let (Some(down), Some(up)) = (place("DL_bitrate"), place("UL_bitrate")) {
        return Bitrates { down, up, time: place("Timestamp") }.read(lines, step);
    }
    let known =
        |name: &&String| ["time", "rate", "delay", "loss"].iter().any(|k| name.eq_ignore_ascii_case(k));
    let unknown = names.iter().find(|name| !known(name));
    match (place("time"), place("rate"), unknown) {
        (Some(time), Some(rate), None) => {
            Own { time, rate, delay: place("delay"), loss: place("loss") }.read(lines, step)
        }
        (_, _, unknown) => Err(lines.problem(format!(
            "{}: the columns are time,rate and perhaps delay,loss; or, among others, DL_bitrate and UL_bitrate",
            match unknown {
                // Only a header that is like a trace's is quoted: the file may be something else.
                Some(name) if names.iter().any(|name| known(&name)) && name.len() <= 24 =>
                    format!("unknown column {name:?}"),
                Some(_) => "unknown columns".into(),
                None => "a column is missing".into(),
            }
        ))),
    }
}

fn cells(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(str::trim)
}

fn cell<'a>(row: &[&'a str], place: usize) -> Result<&'a str, String> {
    row.get(place).copied().ok_or_else(|| format!("only {} columns, fewer than the header has", row.len()))
}

/// Where the lab's own columns are. Times are seconds; the rest has its unit, as in a profile.
struct Own {
    time: usize,
    rate: usize,
    delay: Option<usize>,
    loss: Option<usize>,
}

impl Own {
    fn read<R: BufRead>(&self, mut lines: Lines<R>, step: Option<Nanos>) -> Result<ParsedTrace, String> {
        let mut builder = Builder::new(step);
        while let Some(line) = lines.line()? {
            let row: Vec<&str> = cells(&line).collect();
            let row = self.row(&row).and_then(|row| builder.push(row));
            row.map_err(|problem| lines.problem(problem))?;
        }
        builder.end().map(ParsedTrace::One)
    }

    fn row(&self, row: &[&str]) -> Result<TraceStep, String> {
        let rate: Rate = match cell(row, self.rate)? {
            text if is_zero(text) => Rate::from_bits_per_s(0),
            text => rate_of(text.parse::<Rate>()?.bits_per_s() as f64)?,
        };
        let given = |place: Option<usize>| place.map(|place| cell(row, place)).transpose();
        let delay: Option<Delay> = given(self.delay)?.map(delay_of).transpose()?;
        let loss: Option<Percent> = given(self.loss)?.map(loss_of).transpose()?;
        Ok(TraceStep { at: seconds(cell(row, self.time)?)?, rate, delay, loss })
    }
}

/// "0", or a 0 with a unit: as a rate of a profile it is refused, here it is an outage.
fn is_zero(text: &str) -> bool {
    let rest = text.trim_start_matches(['0', '.']);
    text.starts_with('0') && rest.chars().all(char::is_alphabetic)
}

/// The columns of the public data sets: kbit/s, `-` where nothing was measured. A missing value keeps the one
/// before it; without a `Timestamp` a row is a second.
struct Bitrates {
    down: usize,
    up: usize,
    time: Option<usize>,
}

impl Bitrates {
    fn read<R: BufRead>(&self, mut lines: Lines<R>, step: Option<Nanos>) -> Result<ParsedTrace, String> {
        let mut builders = [Builder::new(step), Builder::new(step)];
        let mut rates = [None, None];
        let mut count = 0;
        while let Some(line) = lines.line()? {
            let row: Vec<&str> = cells(&line).collect();
            let mut take = || {
                let at = match self.time {
                    Some(place) => stamp(cell(&row, place)?)?,
                    None => count * S,
                };
                for ((builder, place), rate) in builders.iter_mut().zip([self.down, self.up]).zip(&mut rates)
                {
                    *rate = kbit(cell(&row, place)?)?.or(*rate);
                    // Before the first value the rate is 0; both directions begin together.
                    let rate = rate.unwrap_or(Rate::from_bits_per_s(0));
                    builder.push_or_replace(TraceStep { at, rate, delay: None, loss: None })?;
                }
                Ok(())
            };
            take().map_err(|problem: String| lines.problem(problem))?;
            count += 1;
        }
        let [down, up] = builders;
        Ok(ParsedTrace::Both { down: down.end()?, up: up.end()? })
    }
}

fn kbit(text: &str) -> Result<Option<Rate>, String> {
    if text.is_empty() || text == "-" {
        return Ok(None);
    }
    rate_of(number(text, "a rate in kbit/s")? * 1e3).map(Some)
}

/// `2018.01.18_14.38.20`, as seconds since some day; or plain seconds.
fn stamp(text: &str) -> Result<Nanos, String> {
    let parts: Option<Vec<u64>> = text.split(['.', '_']).map(|part| part.parse().ok()).collect();
    let Some([year, month, day, hour, minute, second]) = parts.as_deref() else { return seconds(text) };
    if !(1970..3000).contains(year) || !(1..=12).contains(month) || !(1..=31).contains(day) {
        return Err(format!("{} is not a date", shown(text)));
    }
    if *hour > 23 || *minute > 59 || *second > 60 {
        return Err(format!("{} is not a time of day", shown(text)));
    }
    // Days since 1 March of year 0, with the months counted from March, so that a leap day comes last.
    let (year, month) = if *month > 2 { (*year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Ok((((days - 719_468) * 24 + hour) * 3600 + minute * 60 + second) * S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_count_seconds_over_midnight_and_leap_days() {
        let at = |text| stamp(text).unwrap() / S;
        assert_eq!(at("1970.01.01_00.00.01"), 1);
        assert_eq!(at("2018.01.18_14.38.20"), 1_516_286_300);
        assert_eq!(at("2020.03.01_00.00.00") - at("2020.02.28_23.59.59"), 86_401);
        for bad in ["2018.13.18_14.38.20", "2018.01.18_24.00.00", "yesterday", "2018.01.18"] {
            assert!(stamp(bad).is_err(), "{bad}");
        }
    }
}
