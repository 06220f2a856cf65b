//! The table `[trace]` of a profile, and the files that it names: found beside the profile, bounded in
//! size, read, and given to the directions that the profile says.

use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

use super::build::{ParsedTrace, Steps};
use super::read;
use super::read::{Format, TraceUnit};
use super::{SHORTEST_STEP, Trace};
use crate::config::file;
use crate::units::{Delay, LinkId, PerLink};

/// The table `[trace]` of a profile.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TraceTable {
    /// Path of the file, from the profile's folder.
    file: Option<String>,
    /// The traces of both links, measured at the same place and time.
    pair: Option<PairFiles>,
    /// Another file for the up direction, where traces come in pairs.
    up_file: Option<String>,
    #[serde(default)]
    format: Format,
    /// The unit of rates in a file of seconds and rates.
    units: Option<TraceUnit>,
    /// Whether the trace starts again at its end; true by default.
    #[serde(default = "yes", rename = "loop")]
    looped: bool,
    /// The part that is skipped.
    #[serde(default)]
    offset: Delay,
    /// Average the rates over steps of this length.
    step: Option<Delay>,
    /// The direction of the file; by default down for one rate, both for two.
    direction: Option<TraceDirection>,
}

/// One file with a column for each link, or a file for link a and one for link b.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "write one file with a column for each link, as \"drive.csv\", or two, as [\"a.csv\", \"b.csv\"]"
)]
enum PairFiles {
    One(String),
    Two([String; 2]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TraceDirection {
    Down,
    Up,
    Both,
}

fn yes() -> bool {
    true
}

/// The traces of a link's two directions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pair {
    pub down: Option<Trace>,
    pub up: Option<Trace>,
}

/// The largest file that is read, in bytes. Days of mahimahi's milliseconds fit.
pub(crate) const LARGEST: u64 = 100_000_000;

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../netem/traces/", $name)))),*]
    };
}

/// Name and text of every trace in `netem/traces`, for the profiles that are built in.
pub(crate) const BUILT_IN: &[(&str, &str)] = built_in![
    "wifi-walk.csv",
    "lte-driving.csv",
    "lte-handover.csv",
    "5g-blockage.csv",
    "starlink-reconfig.csv",
];

impl TraceTable {
    /// Reads the files for a link. They lie beside a profile in `folder`, or are built in.
    ///
    /// # Errors
    /// A file that cannot be read or is too large, or the line in it that makes no trace.
    pub(crate) fn load(&self, folder: Option<&Path>, link: LinkId) -> Result<Pair> {
        if let Some(step) = self.step.filter(|step| step.0.as_nanos() < u128::from(SHORTEST_STEP)) {
            bail!("trace.step: {step} is too fine: at least 10ms");
        }
        let file = match (&self.file, &self.pair) {
            (Some(file), None) => file,
            (None, Some(pair)) => {
                if self.up_file.is_some() {
                    bail!("trace.pair: a pair has one direction: leave up_file out");
                }
                let both = self.pair(pair, folder)?;
                return Ok(self.directed(both[link].clone()));
            }
            (Some(_), Some(_)) => bail!("trace.pair: it stands in place of file: leave file out"),
            (None, None) => bail!("[trace] has no file: write file, or pair for both links"),
        };
        if let Some(up_file) = &self.up_file {
            if self.direction.is_some() {
                bail!("trace.direction: with an up_file each file has its direction: leave direction out");
            }
            let down = self.one(file, folder)?;
            return Ok(Pair { down: Some(down), up: Some(self.one(up_file, folder)?) });
        }
        let pair = match self.read(file, folder)? {
            ParsedTrace::Both { down, up } => {
                let down = self.finish(down, file)?;
                Pair { down: Some(down), up: Some(self.finish(up, file)?) }
            }
            ParsedTrace::One(steps) => self.directed(self.finish(steps, file)?),
            ParsedTrace::Links { .. } => bail!("trace {file} holds both links: name it as pair, not as file"),
        };
        Ok(match self.direction {
            Some(TraceDirection::Down) => Pair { up: None, ..pair },
            Some(TraceDirection::Up) => Pair { down: None, ..pair },
            Some(TraceDirection::Both) | None => pair,
        })
    }

    /// Gives one trace to the directions that it is for.
    fn directed(&self, trace: Trace) -> Pair {
        match self.direction.unwrap_or(TraceDirection::Down) {
            TraceDirection::Down => Pair { down: Some(trace), up: None },
            TraceDirection::Up => Pair { down: None, up: Some(trace) },
            TraceDirection::Both => Pair { down: Some(trace.clone()), up: Some(trace) },
        }
    }

    /// Returns the traces of both links, which begin and end together.
    fn pair(&self, files: &PairFiles, folder: Option<&Path>) -> Result<PerLink<Trace>> {
        let offset = |trace: Trace, file: &str| {
            trace.skip(self.offset.0.as_nanos() as u64).map_err(|problem| self.problem(file, &problem))
        };
        let (a, b, file_a, file_b) = match files {
            PairFiles::One(file) => match self.read(file, folder)? {
                ParsedTrace::Links { a, b } => (a, b, file, file),
                _ => {
                    bail!("trace {file} has no column for each link: a line is seconds, rate of a, rate of b")
                }
            },
            PairFiles::Two([a, b]) => (self.steps(a, folder)?, self.steps(b, folder)?, a, b),
        };
        let (began, ended) = (a.began.max(b.began), (a.began + a.length).min(b.began + b.length));
        let Some(length) = ended.checked_sub(began).filter(|length| *length > 0) else {
            bail!(
                "trace.pair: {file_a} ends before {file_b} begins, or the other way round: their times must overlap"
            );
        };
        let part = |steps: Steps, file: &str| {
            let from = began - steps.began;
            let trace = steps.into_trace(file, self.looped).and_then(|trace| trace.part(from, length));
            offset(trace.map_err(|problem| self.problem(file, &problem))?, file)
        };
        Ok(PerLink { a: part(a, file_a)?, b: part(b, file_b)? })
    }

    /// Returns the one trace of a file that is for one direction.
    fn one(&self, file: &str, folder: Option<&Path>) -> Result<Trace> {
        self.finish(self.steps(file, folder)?, file)
    }

    fn steps(&self, file: &str, folder: Option<&Path>) -> Result<Steps> {
        match self.read(file, folder)? {
            ParsedTrace::One(steps) => Ok(steps),
            ParsedTrace::Both { .. } => bail!("trace {file} holds both directions: leave up_file out"),
            ParsedTrace::Links { .. } => bail!("trace {file} holds both links: name it alone, as pair"),
        }
    }

    fn read(&self, file: &str, folder: Option<&Path>) -> Result<ParsedTrace> {
        let step = self.step.map(|step| step.0.as_nanos() as u64);
        let parse = |from: &mut dyn Read| read::read(BufReader::new(from), self.format, step, self.units);
        let found = match folder {
            Some(folder) => {
                let path = folder.join(file);
                parse(&mut file::open(&path, "trace", LARGEST)?)
            }
            None => {
                let name = file.rsplit('/').next().unwrap_or_default();
                let found = BUILT_IN.iter().find(|(known, _)| *known == name);
                let (_, text) =
                    found.with_context(|| format!("cannot read the trace {file}: it is not built in"))?;
                parse(&mut text.as_bytes())
            }
        };
        found.map_err(|problem| self.problem(file, &problem))
    }

    fn finish(&self, steps: Steps, file: &str) -> Result<Trace> {
        let offset = self.offset.0.as_nanos() as u64;
        let trace = steps.into_trace(file, self.looped).and_then(|trace| trace.skip(offset));
        trace.map_err(|problem| self.problem(file, &problem))
    }

    fn problem(&self, file: &str, problem: &str) -> anyhow::Error {
        anyhow!("trace {file}, {problem}")
    }
}
