//! Experiment files: what a `.toml` file in `experiments` says, strictly validated.
//!
//! An experiment is a matrix: conditions of the links × schedules × pipelines × congestion controls, and
//! conditions × programs, each of them done once in every repetition. Reads the profiles and channels that it names, so that
//! a wrong one is known before the first run; opens no socket and shapes nothing.

pub(crate) mod entrant;
pub(crate) mod find;
pub(crate) mod links;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use serde::Deserialize;

use crate::client::config::files_pattern;
use crate::client::measure::When;
use crate::config::file::{self, did_you_mean};
use crate::lab::servers;
use crate::log::schema::Cell;
use crate::qoe::Rule;
use crate::schedule::{Connections, Pipeline};
use crate::shape::setup::LinkSetup;
use crate::tcp;
use crate::text::check_placeholders;
use crate::units::Delay;
use entrant::{Entrant, ProgramEntry, RATES_ALONE};
use links::{LinkChoice, TimedChange};

/// The most cells that one experiment may have. At a second each that is most of a working day.
const MOST_CELLS: u64 = 20_000;
/// An experiment is a page long; a file beyond this is something else.
const LARGEST_BYTES: u64 = 256 * 1024;
const MOST_REPETITIONS: u64 = 1000;

/// A validated experiment.
#[derive(Clone, Debug)]
pub(crate) struct Experiment {
    /// The file's name without `.toml`.
    pub name: String,
    pub description: Option<String>,
    /// Of the order of the runs, and of everything random in the links.
    pub seed: u64,
    pub repetitions: u64,
    /// Which files each run fetches; all that the servers have where nothing is said.
    pub files: Option<String>,
    pub entrants: Vec<Entrant>,
    /// Servers of the programs' own protocol, as of `twinlink lab --server`.
    pub server_command: Option<String>,
    pub pipelines: Vec<Pipeline>,
    /// How many connections a link has; none for the schedule's own choice.
    pub connections: Vec<Option<Connections>>,
    /// Of the client's sockets; none for the kernel's own.
    pub congestion: Vec<Option<String>>,
    /// How long each of the three measurements of throughput takes; none for no measurement.
    pub throughput: Option<Delay>,
    /// Whether each run measures its links first.
    pub probe: When,
    /// How long a segment plays, and how many a player waits for before it starts.
    pub segment_duration: Delay,
    pub startup: u64,
    pub conditions: Vec<Condition>,
    /// Where paths in the file start, and programs are started.
    pub folder: PathBuf,
    /// The file itself, for the copy in the results.
    pub text: String,
}

/// One condition of the links.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    pub name: String,
    pub asked: LinkSetup,
}

impl Condition {
    /// "shared" where both links are on one channel, else "independent".
    pub(crate) fn channel(&self) -> &'static str {
        let shared =
            self.asked.channel.as_ref().is_some_and(|channel| channel.links.iter().all(Option::is_some));
        if shared { "shared" } else { "independent" }
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExperimentFile {
    description: Option<String>,
    #[serde(default = "one")]
    seed: u64,
    #[serde(default = "one")]
    repetitions: u64,
    files: Option<String>,
    server_command: Option<String>,
    #[serde(default)]
    schedules: Vec<String>,
    #[serde(default)]
    program: Vec<ProgramEntry>,
    pipelines: Option<Vec<toml::Value>>,
    connections: Option<Vec<toml::Value>>,
    congestion: Option<Vec<String>>,
    throughput: Option<Delay>,
    #[serde(default = "on")]
    probe: String,
    segment_duration: Option<Delay>,
    startup: Option<u64>,
    #[serde(default)]
    condition: Vec<FileCondition>,
}

fn one() -> u64 {
    1
}

/// As in compose: what the links do is measured before each run.
fn on() -> String {
    "on".into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCondition {
    name: String,
    channel: Option<String>,
    /// Each link of the channel on a channel of its own.
    #[serde(default)]
    independent: bool,
    link_a: Option<LinkChoice>,
    link_b: Option<LinkChoice>,
    /// Changes in the middle of each run.
    #[serde(default)]
    at: Vec<TimedChange>,
}

impl Experiment {
    /// Parses an experiment's text. Paths of profiles and channels in it start at `folder`.
    ///
    /// # Errors
    /// Unknown keys, profiles and channels, empty or repeated entries, and values out of range.
    pub(crate) fn parse(name: &str, text: &str, folder: &Path) -> Result<Experiment> {
        let file: ExperimentFile = file::parse(text)?;
        crate::units::check_seed(file.seed).map_err(|error| anyhow!(error))?;
        crate::units::check_seed(file.seed.saturating_add(file.repetitions))
            .map_err(|error| anyhow!("each repetition has the next seed, and of the last {error}"))?;
        let files = file.files.as_deref().map(files_pattern).transpose();
        let files = files.map_err(|problem| anyhow!("files: {problem}"))?;
        let pipelines = file.pipelines.unwrap_or_else(|| vec!["auto".into()]);
        let texts = |key, values: &[toml::Value]| -> Result<Vec<String>> {
            values.iter().map(|value| auto_or_number(key, value)).collect()
        };
        let pipelines = texts("pipelines", &pipelines)?;
        let connections = match file.connections {
            Some(counts) => {
                let counts = entries("connections", &texts("connections", &counts)?, str::parse)?;
                counts.into_iter().map(Some).collect()
            }
            None => vec![None],
        };
        let congestion = match file.congestion {
            Some(names) => {
                let names = entries("congestion", &names, congestion_name)?;
                names.into_iter().map(Some).collect()
            }
            None => vec![None],
        };
        let player = Rule::default();
        let segment_duration = Delay(Duration::from_secs_f64(player.segment_duration_ms / 1e3));
        let experiment = Experiment {
            name: name.to_string(),
            description: file.description,
            seed: file.seed,
            repetitions: file.repetitions,
            files,
            server_command: file.server_command,
            entrants: entrant::read(&file.schedules, file.program)?,
            pipelines: entries("pipelines", &pipelines, str::parse)?,
            connections,
            congestion,
            throughput: file.throughput,
            probe: When::from_str(&file.probe, false)
                .map_err(|_| anyhow!("probe is \"{}\": write \"off\", \"warn\" or \"on\"", file.probe))?,
            segment_duration: file.segment_duration.unwrap_or(segment_duration),
            startup: file.startup.unwrap_or(player.startup_segments),
            conditions: file.condition.into_iter().map(|c| c.load(folder)).collect::<Result<_>>()?,
            folder: folder.to_path_buf(),
            text: text.to_string(),
        };
        experiment.check()?;
        Ok(experiment)
    }

    /// Checks rules between keys, and the ranges of numbers.
    fn check(&self) -> Result<()> {
        ensure!(
            (1..=MOST_REPETITIONS).contains(&self.repetitions),
            "repetitions is {}: write a number from 1 to {MOST_REPETITIONS}; statistics need 6 or more, 10 are advised",
            self.repetitions
        );
        ensure!(!self.conditions.is_empty(), "the experiment has no condition: write a table [[condition]]");
        for (at, condition) in self.conditions.iter().enumerate() {
            let same =
                |other: &&Condition| (&other.name, other.channel()) == (&condition.name, condition.channel());
            ensure!(
                !self.conditions[..at].iter().any(|other| same(&other)),
                "the condition \"{}\" is there twice; one name may stand once for links on a shared \
                 channel and once for independent ones",
                condition.name
            );
        }
        if let Some(span) = self.throughput {
            ensure!(
                (0.5..=60.0).contains(&span.0.as_secs_f64()),
                "throughput is {span}: each measurement takes from 500ms to 60s"
            );
        } else if self.entrants.contains(&Entrant::RatesAlone) {
            bail!(
                "the schedule {RATES_ALONE} needs the throughputs of this experiment: add throughput = \"2s\""
            );
        }
        if let Some(command) = &self.server_command {
            check_placeholders(command, &servers::PLACEHOLDERS_OF_FILE)
                .map_err(|problem| anyhow!("server_command: {problem}"))?;
            let speaks = self.entrants.iter().find(|entrant| !matches!(entrant, Entrant::Program(_)));
            if let Some(entrant) =
                speaks.map(Entrant::to_string).or(self.throughput.map(|_| "throughput".into()))
            {
                bail!(
                    "{entrant} needs servers of HTTP, and those of server_command may be others: leave one of them out"
                );
            }
        }
        ensure!(
            !self.segment_duration.is_zero(),
            "segment_duration is {}: a segment plays for some time; write 4s, say",
            self.segment_duration
        );
        ensure!(self.startup > 0, "startup is 0: a player waits for one segment at least");
        let cells = self.cells();
        ensure!(
            cells <= MOST_CELLS,
            "this makes {cells} cells, more than {MOST_CELLS}: leave some conditions, entrants or repetitions out"
        );
        Ok(())
    }

    /// Returns the command of the servers, for `twinlink lab --server`.
    pub(crate) fn server_command(&self) -> Option<String> {
        let folder = std::path::absolute(Path::new(".").join(&self.folder)).unwrap_or_default();
        self.server_command.as_ref().map(|command| servers::of_file(command, &folder))
    }

    /// How many runs this is.
    pub(crate) fn cells(&self) -> u64 {
        let ways = |entrant| self.settings(entrant).len() as u64;
        let of_condition: u64 = self.entrants.iter().map(ways).sum();
        [self.conditions.len() as u64, of_condition].into_iter().fold(self.repetitions, u64::saturating_mul)
    }

    /// Returns each pipeline and congestion control that an entrant runs with. A program chooses both itself.
    fn settings(&self, entrant: &Entrant) -> Vec<(Pipeline, Option<Connections>, Option<String>)> {
        if let Entrant::Program(_) = entrant {
            return vec![(Pipeline::Auto, None, None)];
        }
        let mut settings = Vec::new();
        for &pipeline in &self.pipelines {
            for &connections in &self.connections {
                settings.extend(self.congestion.iter().map(|name| (pipeline, connections, name.clone())));
            }
        }
        settings
    }

    /// The records of one repetition's cells in the order of the file, their index still open.
    pub(crate) fn block(&self, block: u64) -> Vec<Cell> {
        let mut cells = Vec::new();
        for condition in &self.conditions {
            for entrant in &self.entrants {
                for (pipeline, connections, congestion) in self.settings(entrant) {
                    cells.push(Cell {
                        experiment: self.name.clone(),
                        index: 0,
                        block,
                        condition: condition.name.clone(),
                        channel: condition.channel().to_string(),
                        schedule: entrant.to_string(),
                        pipeline: pipeline.to_string(),
                        connections: connections.map(|count| count.to_string()),
                        congestion,
                    });
                }
            }
        }
        cells
    }

    /// The entrant whose cell of this experiment this is.
    pub(crate) fn entrant_of(&self, cell: &Cell) -> Option<&Entrant> {
        self.entrants.iter().find(|entrant| entrant.to_string() == cell.schedule)
    }

    /// The condition that a cell of this experiment is under.
    pub(crate) fn condition_of(&self, cell: &Cell) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.name == cell.condition && c.channel() == cell.channel)
    }
}

impl FileCondition {
    fn load(self, folder: &Path) -> Result<Condition> {
        let name = self.name;
        ensure!(
            !name.is_empty() && name.len() <= 60 && !name.contains(char::is_control),
            "the condition's name \"{}\" is empty, longer than 60 bytes, or has control characters",
            name.escape_debug()
        );
        let (channel, links) = (self.channel.as_deref(), [self.link_a, self.link_b]);
        let asked = links::load(channel, self.independent, links, self.at, folder)
            .with_context(|| format!("the condition \"{name}\" is invalid"))?;
        Ok(Condition { name, asked })
    }
}

/// Reads the entries of a list: at least one, and none twice.
fn entries<T: ToString>(
    key: &str,
    texts: &[String],
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>> {
    ensure!(!texts.is_empty(), "{key} is empty: there would be nothing to do; name one at least");
    let mut found: Vec<T> = Vec::with_capacity(texts.len());
    for text in texts {
        let entry = read(text).map_err(|problem| anyhow!("{key}: {problem}"))?;
        ensure!(
            found.iter().all(|other| other.to_string() != entry.to_string()),
            "{key} names {text} twice; repetitions are asked for with repetitions = N"
        );
        found.push(entry);
    }
    Ok(found)
}

/// One that can be asked for; whether the kernels here have it is seen when they are asked.
fn congestion_name(name: &str) -> Result<String, String> {
    let known = tcp::CONGESTION_CONTROLS;
    if known.contains(&name) {
        return Ok(name.to_string());
    }
    let guess = did_you_mean(name, known, "");
    Err(format!("\"{name}\" is unsupported: {guess}name one of {}", known.join(", ")))
}

/// A count may be written as a number.
fn auto_or_number(key: &str, value: &toml::Value) -> Result<String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(count) => Ok(count.to_string()),
        other => bail!("{key}: {other} is invalid: write \"auto\", or a number"),
    }
}

#[cfg(test)]
#[path = "experiment_tests.rs"]
mod tests;
