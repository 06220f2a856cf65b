//! The table `[trace]` of a profile, and the files that it names: found beside the profile, bounded in
//! size, read, and given to the directions that the profile says.

use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

use super::read;
use super::read::{Format, ParsedTrace, Steps};
use super::{SHORTEST_STEP, Trace};
use crate::config::file;
use crate::units::Delay;

/// The table `[trace]` of a profile.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceTable {
    /// Path of the file, from the profile's folder.
    pub file: String,
    /// Another file for the up direction, where traces come in pairs.
    up_file: Option<String>,
    #[serde(default)]
    format: Format,
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
pub struct Pair {
    pub down: Option<Trace>,
    pub up: Option<Trace>,
}

/// The largest file that is read, in bytes. Days of mahimahi's milliseconds fit.
const LARGEST: u64 = 100_000_000;

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../netem/traces/", $name)))),*]
    };
}

/// Name and text of every trace in `netem/traces`, for the profiles that are built in.
pub const BUILT_IN: &[(&str, &str)] = built_in![
    "wifi-walk.csv",
    "lte-driving.csv",
    "lte-handover.csv",
    "5g-blockage.csv",
    "starlink-reconfig.csv",
];

impl TraceTable {
    /// Reads the files, which lie beside a profile in `folder`, or are built in.
    ///
    /// # Errors
    /// A file that cannot be read or is too large, or the line in it that makes no trace.
    pub fn load(&self, folder: Option<&Path>) -> Result<Pair> {
        if let Some(step) = self.step.filter(|step| step.0.as_nanos() < u128::from(SHORTEST_STEP)) {
            bail!("trace.step: {step} is too fine: at least 10ms");
        }
        if let Some(up_file) = &self.up_file {
            if self.direction.is_some() {
                bail!("trace.direction: with an up_file each file has its direction: leave direction out");
            }
            let down = self.one(&self.file, folder)?;
            return Ok(Pair { down: Some(down), up: Some(self.one(up_file, folder)?) });
        }
        let pair = match self.read(&self.file, folder)? {
            ParsedTrace::Both { down, up } => {
                let down = self.finish(down, &self.file)?;
                Pair { down: Some(down), up: Some(self.finish(up, &self.file)?) }
            }
            ParsedTrace::One(steps) => {
                let trace = self.finish(steps, &self.file)?;
                match self.direction.unwrap_or(TraceDirection::Down) {
                    TraceDirection::Down => Pair { down: Some(trace), up: None },
                    TraceDirection::Up => Pair { down: None, up: Some(trace) },
                    TraceDirection::Both => Pair { down: Some(trace.clone()), up: Some(trace) },
                }
            }
        };
        Ok(match self.direction {
            Some(TraceDirection::Down) => Pair { up: None, ..pair },
            Some(TraceDirection::Up) => Pair { down: None, ..pair },
            Some(TraceDirection::Both) | None => pair,
        })
    }

    /// Returns the one trace of a file that is for one direction.
    fn one(&self, file: &str, folder: Option<&Path>) -> Result<Trace> {
        match self.read(file, folder)? {
            ParsedTrace::One(steps) => self.finish(steps, file),
            ParsedTrace::Both { .. } => bail!("trace {file} holds both directions: leave up_file out"),
        }
    }

    fn read(&self, file: &str, folder: Option<&Path>) -> Result<ParsedTrace> {
        let step = self.step.map(|step| step.0.as_nanos() as u64);
        let parse = |from: &mut dyn Read| read::read(BufReader::new(from), self.format, step);
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
