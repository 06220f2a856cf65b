//! The entrants that an experiment compares: schedules of the client, and programs in its place.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;

use crate::program::command::PLACEHOLDERS;
use crate::schedule::Schedule;
use crate::text::check_placeholders;
use crate::units::Delay;

/// How a schedule is written whose rates are those that the links were measured to have alone.
pub(crate) const RATES_ALONE: &str = "rates=alone";
/// How long a program may run where nothing is said.
const TIME_LIMIT: Delay = Delay::from_millis(600_000);
const LONGEST_NAME_BYTES: usize = 60;

/// An entrant: compared with the others of its experiment under every condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entrant {
    Schedule(Schedule),
    /// The oracle: rates measured on each link alone, in the same block and condition.
    RatesAlone,
    Program(ProgramEntry),
}

/// A program in the client's place.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProgramEntry {
    pub name: String,
    /// A line for `sh`, as `twinlink run -- sh -c LINE`.
    pub command: String,
    /// A Docker image that the line runs in.
    pub image: Option<String>,
    /// Programs that the line needs; without it, its first word.
    needs: Option<Vec<String>>,
    #[serde(default = "time_limit")]
    pub time_limit: Delay,
}

fn time_limit() -> Delay {
    TIME_LIMIT
}

impl FromStr for Entrant {
    type Err = String;
    /// Reads an entry of `schedules`.
    fn from_str(s: &str) -> Result<Entrant, String> {
        if s == RATES_ALONE { Ok(Entrant::RatesAlone) } else { s.parse().map(Entrant::Schedule) }
    }
}

impl fmt::Display for Entrant {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Entrant::Schedule(schedule) => schedule.fmt(f),
            Entrant::RatesAlone => f.write_str(RATES_ALONE),
            Entrant::Program(program) => f.write_str(&program.name),
        }
    }
}

impl ProgramEntry {
    /// Checks the name and the line.
    ///
    /// # Errors
    /// One of them is empty, or the name is a schedule's or not fit for a table.
    pub(crate) fn check(&self) -> Result<()> {
        let name = program_name(&self.name).map_err(|problem| anyhow!(problem))?;
        ensure!(
            !self.time_limit.is_zero(),
            "the program \"{name}\" has a time_limit of 0: give it some time"
        );
        ensure!(!self.command.trim().is_empty(), "the program \"{name}\" has an empty command");
        check_placeholders(&self.command, &PLACEHOLDERS)
            .map_err(|problem| anyhow!("the program \"{name}\": {problem}"))?;
        Ok(())
    }

    /// Returns the command as a list of words.
    pub(crate) fn words(&self) -> Vec<String> {
        ["sh", "-c", &self.command].map(String::from).to_vec()
    }

    fn needs(&self) -> Vec<&str> {
        if self.image.is_some() {
            return vec!["docker", "tar"];
        }
        match &self.needs {
            Some(needs) => needs.iter().map(String::as_str).collect(),
            // A word that the shell has yet to expand is not known.
            None => {
                let plain = |word: &&str| !word.contains(|c: char| "\"'$`\\=()<>|&;#*?".contains(c));
                self.command.split_whitespace().next().filter(plain).into_iter().collect()
            }
        }
    }
}

/// Reads a program's name.
///
/// # Errors
/// It is a schedule's, or not fit for a table.
pub(crate) fn program_name(name: &str) -> Result<String, String> {
    if name.trim().is_empty() || name.len() > LONGEST_NAME_BYTES || name.contains(char::is_control) {
        return Err(format!(
            "the program's name \"{}\" is empty, longer than {LONGEST_NAME_BYTES} bytes, or has control characters",
            name.escape_debug()
        ));
    }
    if name.parse::<Entrant>().is_ok() {
        return Err(format!("the program's name \"{name}\" is a schedule's: give it another"));
    }
    Ok(name.into())
}

/// Asks the shell for every program that these entrants need. Paths start at `folder`.
///
/// # Errors
/// One is not there; the error names all of them.
pub(crate) fn check_programs(entrants: &[Entrant], folder: &Path) -> Result<()> {
    let needs: BTreeSet<&str> = entrants.iter().flat_map(Entrant::needs).collect();
    if needs.is_empty() {
        return Ok(());
    }
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let asked = Command::new("sh")
        .args(["-c", "for program; do command -v \"$program\" >/dev/null || echo \"$program\"; done", "sh"])
        .args(&needs)
        .current_dir(here)
        .stdin(Stdio::null())
        .output()
        .context("cannot run sh, which starts the programs of an experiment")?;
    let missing = String::from_utf8_lossy(&asked.stdout);
    let missing: Vec<String> = missing
        .lines()
        .map(|word| {
            let of = entrants.iter().filter(|entrant| entrant.needs().contains(&word));
            format!("{word} (of {})", of.map(Entrant::to_string).collect::<Vec<_>>().join(", "))
        })
        .collect();
    if !missing.is_empty() {
        bail!(
            "cannot find {}: install what is missing, or take its [[program]] out of the experiment",
            missing.join(", ")
        );
    }
    Ok(())
}

impl Entrant {
    fn needs(&self) -> Vec<&str> {
        match self {
            Entrant::Program(program) => program.needs(),
            Entrant::Schedule(_) | Entrant::RatesAlone => Vec::new(),
        }
    }
}

/// Reads the entrants of an experiment's file.
///
/// # Errors
/// There is none, one is invalid, or two have one name.
pub(crate) fn read(schedules: &[String], programs: Vec<ProgramEntry>) -> Result<Vec<Entrant>> {
    ensure!(
        !schedules.is_empty() || !programs.is_empty(),
        "schedules is empty, and there is no [[program]]: name one schedule or program at least"
    );
    let mut entrants = match schedules {
        [] => Vec::new(),
        _ => super::entries("schedules", schedules, str::parse)?,
    };
    for program in programs {
        program.check()?;
        ensure!(
            entrants.iter().all(|other: &Entrant| other.to_string() != program.name),
            "two programs are called \"{}\": give one another name",
            program.name
        );
        entrants.push(Entrant::Program(program));
    }
    Ok(entrants)
}
