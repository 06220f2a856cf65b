//! Assignment files: what a submission is started with, under which conditions, and what it must do there.
//! Strictly validated before the first submission is started.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;

use crate::config::file;
use crate::config::server_fault::ServerFault;
use crate::lab::servers;
use crate::program::command::PLACEHOLDERS;
use crate::program::sandbox::SUBMISSION;
use crate::shape::setup::LinkSetup;
use crate::sweep::experiment::links::{self, LinkChoice, TimedChange};
use crate::text::check_placeholders;
use crate::units::{ByteCount, Delay, check_seed};

/// An assignment is some pages long; a file beyond this is something else.
const LARGEST_BYTES: u64 = 256 * 1024;
const LONGEST_LABEL_BYTES: usize = 100;
/// Points are added up and shown with two decimals.
const MOST_POINTS: f64 = 10_000.0;
const LONGEST_TURN: u32 = 10_000;
/// The least limits with which a shell and a program start.
const LEAST_TIME: Delay = Delay::from_millis(100);
const LEAST_MEMORY: ByteCount = ByteCount(1_000_000);

/// A validated assignment.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    pub title: String,
    /// The line that starts a submission, for `sh`.
    pub command: String,
    /// The line that makes it ready, in its own folder.
    pub build: Option<String>,
    /// The program that serves in the place of twinlink's own, as of `twinlink lab --server`.
    pub server_command: Option<String>,
    pub data: DataSet,
    pub limits: LimitSet,
    pub public_seeds: Vec<u64>,
    /// Empty where their file is not here, as on a student's machine.
    pub hidden_seeds: Vec<u64>,
    pub conditions: Vec<GradedCondition>,
}

/// The files that are fetched: a set of sample segments, another for each seed.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataSet {
    pub count: u32,
    pub mean_size: ByteCount,
}

/// The limits of a submission, in each trial.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitSet {
    pub time: Delay,
    pub memory: ByteCount,
    pub processes: u64,
    /// Its own folder, its files and `/tmp` together.
    pub disk: ByteCount,
}

impl Default for LimitSet {
    fn default() -> LimitSet {
        LimitSet {
            time: Delay::from_millis(60_000),
            memory: ByteCount(512_000_000),
            processes: 64,
            disk: ByteCount(256_000_000),
        }
    }
}

/// One condition of the links, and what it is worth.
#[derive(Clone, Debug)]
pub(crate) struct GradedCondition {
    pub name: String,
    pub points: f64,
    /// Efficiency from which all points are given, and below which none are.
    pub full_from: f64,
    pub none_below: f64,
    /// The files of each turn, first of server a, then of server b.
    pub ratio: Option<(u32, u32)>,
    pub require: Requirements,
    pub links: LinkSetup,
    /// Faults that the servers have on purpose.
    pub faults: [Option<ServerFault>; 2],
}

/// The behaviour that is required beside bringing every file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Requirements {
    /// The most connections to each server.
    pub connections: Option<u64>,
    /// A server is asked for a file only when the one before has come.
    pub sequential: Option<bool>,
    /// Each file comes from the server whose turn it is, in order.
    pub order: Option<bool>,
}

impl Requirements {
    fn or(self, all: Requirements) -> Requirements {
        Requirements {
            connections: self.connections.or(all.connections),
            sequential: self.sequential.or(all.sequential),
            order: self.order.or(all.order),
        }
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AssignmentFile {
    title: String,
    command: String,
    build: Option<String>,
    server_command: Option<String>,
    data: DataSet,
    #[serde(default)]
    limits: LimitSet,
    public_seeds: Vec<u64>,
    hidden_seeds: Option<PathBuf>,
    #[serde(default)]
    require: Requirements,
    #[serde(default)]
    condition: Vec<ConditionTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConditionTable {
    name: String,
    points: f64,
    #[serde(default = "one")]
    full_from: f64,
    #[serde(default)]
    none_below: f64,
    ratio: Option<String>,
    #[serde(default)]
    require: Requirements,
    channel: Option<String>,
    link_a: Option<LinkChoice>,
    link_b: Option<LinkChoice>,
    #[serde(default)]
    at: Vec<TimedChange>,
    fault_a: Option<ServerFault>,
    fault_b: Option<ServerFault>,
}

fn one() -> f64 {
    1.0
}

impl Assignment {
    /// Reads an assignment, with the profiles and the file of hidden seeds that it names.
    ///
    /// # Errors
    /// It cannot be read, or something in it is invalid.
    pub(crate) fn load(path: &Path) -> Result<Assignment> {
        let text = file::read(path, "assignment", LARGEST_BYTES)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Assignment::parse(&text, folder)
            .with_context(|| format!("cannot use the assignment {}", path.display()))
    }

    fn parse(text: &str, folder: &Path) -> Result<Assignment> {
        let file: AssignmentFile = file::parse(text)?;
        check_label(&file.title).context("title")?;
        ensure!(!file.command.trim().is_empty(), "command is empty: write the line that starts a submission");
        let assignment = Assignment {
            title: file.title,
            command: file.command,
            build: file.build,
            server_command: file.server_command,
            data: file.data,
            limits: file.limits,
            public_seeds: file.public_seeds,
            hidden_seeds: file
                .hidden_seeds
                .map_or(Ok(Vec::new()), |path| hidden_seeds(&folder.join(path)))?,
            conditions: file
                .condition
                .into_iter()
                .map(|condition| condition.load(folder, file.require))
                .collect::<Result<_>>()?,
        };
        assignment.check()?;
        Ok(assignment)
    }

    fn check(&self) -> Result<()> {
        crate::segments::Set::new(self.data.count, self.data.mean_size, 1).context("data")?;
        let limits = &self.limits;
        ensure!(limits.time >= LEAST_TIME, "limits: time is {}: write {LEAST_TIME} or more", limits.time);
        ensure!(limits.processes > 0, "limits: processes is 0: write 1 or more");
        ensure!(
            limits.memory >= LEAST_MEMORY,
            "limits: memory is {}, in which no program runs: write {LEAST_MEMORY} or more",
            limits.memory
        );
        let needed = ByteCount(self.data.mean_size.0.saturating_mul(self.data.count.into()));
        ensure!(
            limits.disk > needed,
            "limits: disk is {}, and the files to fetch hold {needed}: write more than that",
            limits.disk
        );
        self.check_placeholders()?;
        ensure!(!self.public_seeds.is_empty(), "public_seeds is empty: name one at least, as in [1]");
        let mut seen = HashSet::new();
        for &seed in self.public_seeds.iter().chain(&self.hidden_seeds) {
            check_seed(seed).map_err(|problem| anyhow!(problem))?;
            ensure!(seen.insert(seed), "a seed is named twice: a hidden seed must be no public one either");
        }
        ensure!(!self.conditions.is_empty(), "the assignment has no condition: write a table [[condition]]");
        let mut names = HashSet::new();
        for condition in &self.conditions {
            ensure!(names.insert(&condition.name), "the condition \"{}\" is there twice", condition.name);
            condition
                .check(self.server_command.is_none())
                .with_context(|| format!("the condition \"{}\" is invalid", condition.name))?;
        }
        let needs_ratio = ["{n_a}", "{n_b}"].iter().any(|name| self.command.contains(name));
        let without = self.conditions.iter().find(|condition| needs_ratio && condition.ratio.is_none());
        ensure!(
            without.is_none(),
            "the condition \"{}\" has no ratio to fill in {{n_a}} and {{n_b}} of the command: write ratio = \"1:2\"",
            without.map_or("", |condition| &condition.name)
        );
        Ok(())
    }

    /// Returns the points of all conditions.
    pub(crate) fn points(&self) -> f64 {
        self.conditions.iter().map(|condition| condition.points).sum()
    }

    /// Returns the seeds, the hidden ones last and marked.
    pub(crate) fn seeds(&self) -> impl Iterator<Item = (u64, bool)> {
        let public = self.public_seeds.iter().map(|&seed| (seed, false));
        public.chain(self.hidden_seeds.iter().map(|&seed| (seed, true)))
    }

    /// Refuses placeholders that nothing fills in.
    fn check_placeholders(&self) -> Result<()> {
        let of_all: Vec<&str> = PLACEHOLDERS.into_iter().chain(["submission"]).collect();
        let names = [&of_all[..], &["n_a", "n_b"]].concat();
        let check = |key: &str, line: &Option<String>, names: &[&str]| match line {
            Some(line) => check_placeholders(line, names).map_err(|problem| anyhow!("{key}: {problem}")),
            None => Ok(()),
        };
        check("command", &Some(self.command.clone()), &names)?;
        check("build", &self.build, &[])?;
        check("server_command", &self.server_command, &servers::PLACEHOLDERS_OF_FILE)
    }
}

impl ConditionTable {
    fn load(self, folder: &Path, all: Requirements) -> Result<GradedCondition> {
        let wrong = |name: &str| format!("the condition \"{name}\" is invalid");
        let ratio = self.ratio.as_deref().map(ratio).transpose().with_context(|| wrong(&self.name))?;
        let links = links::load(self.channel.as_deref(), false, [self.link_a, self.link_b], self.at, folder)
            .with_context(|| wrong(&self.name))?;
        Ok(GradedCondition {
            name: self.name,
            points: self.points,
            full_from: self.full_from,
            none_below: self.none_below,
            ratio,
            require: self.require.or(all),
            links,
            faults: [self.fault_a, self.fault_b],
        })
    }
}

impl GradedCondition {
    /// Returns the placeholders of the command beside those of every program, with their values.
    pub(crate) fn placeholders(&self) -> Vec<(&'static str, String)> {
        let turns = self.ratio.map(|(a, b)| [("n_a", a.to_string()), ("n_b", b.to_string())]);
        std::iter::once(("submission", SUBMISSION.into())).chain(turns.into_iter().flatten()).collect()
    }

    fn check(&self, logs_requests: bool) -> Result<()> {
        check_label(&self.name).context("name")?;
        ensure!(
            self.points.is_sign_positive() && self.points <= MOST_POINTS,
            "points is {}: write a number from 0 to {MOST_POINTS}",
            self.points
        );
        ensure!(
            self.require.connections != Some(0),
            "connections is 0, with which no file comes: write 1 or more"
        );
        ensure!(
            0.0 <= self.none_below && self.none_below < self.full_from && self.full_from <= 1.0,
            "none_below is {} and full_from {}: write 0 <= none_below < full_from <= 1",
            self.none_below,
            self.full_from
        );
        ensure!(
            self.require.order != Some(true) || self.ratio.is_some(),
            "order is required, and there is no ratio to say which: write ratio = \"1:2\""
        );
        ensure!(
            logs_requests || self.faults == [None, None],
            "faults are those of twinlink's own servers: leave fault_a and fault_b out with a server_command"
        );
        let asks = self.require != Requirements::default();
        ensure!(
            logs_requests || !asks,
            "connections, sequential and order come from the log of twinlink's own server: leave them out \
             with a server_command"
        );
        Ok(())
    }
}

/// Checks a title or a name, which heads pages and lists.
fn check_label(label: &str) -> Result<()> {
    ensure!(
        label.starts_with(char::is_alphanumeric)
            && label.len() <= LONGEST_LABEL_BYTES
            && !label.contains(char::is_control),
        "\"{}\" does not begin with a letter or a digit, is longer than {LONGEST_LABEL_BYTES} bytes, or has control \
         characters: write a short line",
        label.escape_debug()
    );
    Ok(())
}

/// Reads a ratio as of the course: the files of a turn.
fn ratio(text: &str) -> Result<(u32, u32)> {
    let read = || -> Option<(u32, u32)> {
        let (a, b) = text.split_once(':')?;
        Some((a.parse().ok()?, b.parse().ok()?))
    };
    let (a, b) = read().with_context(|| format!("ratio is \"{text}\": write it as in \"1:2\""))?;
    ensure!(a > 0 || b > 0, "ratio is 0:0, by which no file comes from anywhere");
    ensure!(a.max(b) <= LONGEST_TURN, "ratio is {text}: the files of a turn are {LONGEST_TURN} at most");
    Ok((a, b))
}

/// Reads seeds, one a line; none where there is no such file.
fn hidden_seeds(path: &Path) -> Result<Vec<u64>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = file::read(path, "file of hidden seeds", LARGEST_BYTES)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let seed = |line: &str| {
        line.parse()
            .map_err(|_| anyhow!("{}: \"{line}\" is not a seed: write a number a line", path.display()))
    };
    lines.map(seed).collect()
}

/// Names a folder for a condition and a seed.
pub(crate) fn trial_name(condition: usize, name: &str, at: usize) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let plain = words.collect::<Vec<_>>().join("-").to_ascii_lowercase();
    format!("{}-{plain}.{}", condition + 1, at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = r#"
        title = "t"
        command = "{submission}/client {n_a} {n_b}"
        public_seeds = [1]
        data = { count = 4, mean_size = "10KB" }
        require = { connections = 1, sequential = true }
    "#;

    fn parse(more: &str) -> Result<Assignment> {
        Assignment::parse(&format!("{BASE}\n{more}"), Path::new("/none"))
    }

    const CONDITION: &str = "[[condition]]\nname = \"x\"\npoints = 5\nlink_a = \"rate-80\"\n";

    #[test]
    fn requirements_of_all_hold_where_a_condition_says_nothing() {
        let condition =
            format!("{CONDITION}ratio = \"1:2\"\nrequire = {{ sequential = false, order = true }}");
        let assignment = parse(&condition).unwrap();
        let require = assignment.conditions[0].require;
        let expected = Requirements { connections: Some(1), sequential: Some(false), order: Some(true) };
        assert_eq!(require, expected);
        let placeholders = assignment.conditions[0].placeholders();
        let named = |name, value: &str| (name, value.to_string());
        assert_eq!(placeholders, [named("submission", "/submission"), named("n_a", "1"), named("n_b", "2")]);
    }

    #[test]
    fn mistakes_are_named() {
        let full = |more: &str| format!("{CONDITION}{more}");
        for (text, words) in [
            (String::new(), "has no condition"),
            (full("none_below = 0.9\nfull_from = 0.5"), "none_below is 0.9 and full_from 0.5"),
            (full("require = { order = true }"), "there is no ratio"),
            (full("ratio = \"0:0\""), "no file comes from anywhere"),
            (full("ratio = \"2\""), "write it as in"),
            (full("poins = 3"), "poins"),
            (format!("{CONDITION}{CONDITION}"), "is there twice"),
            (
                full("points_ = 1").replace("points = 5\n", "points = -1\n").replace("points_ = 1", ""),
                "points is -1",
            ),
            (full("").replace("= 5", "= 1e300"), "points is 1000000000"),
            (full("").replace("= 5", "= -0.0"), "points is -0: write a number from 0 to 10000"),
            (full("").replace("\"x\"", "\"..x\""), "name: \"..x\" does not begin with a letter"),
            (full("ratio = \"1:4294967295\""), "10000 at most"),
            (full("require = { connections = 0 }"), "connections is 0"),
            (full(""), "\"x\" has no ratio to fill in {n_a} and {n_b}"),
        ] {
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains(words), "{text}: {error}");
        }
        // Of the file's own keys, with the key that is replaced.
        let all = format!("{BASE}\n{CONDITION}ratio = \"1:2\"\n");
        assert!(Assignment::parse(&all, Path::new("/none")).is_ok());
        for (from, to, words) in [
            ("\"t\"", "\"...t\"", "title: \"...t\" does not begin with a letter or a digit"),
            (
                "{n_b}",
                "{n_c}",
                "command: cannot fill in {n_c}: unknown placeholder; use {server_a} {server_b} ",
            ),
            ("title", "build = \"make -C {out}\"\ntitle", "build: cannot fill in {out}"),
            ("title", "server_command = \"x {port}\"\ntitle", "use {DATA} {ADDR} {PORT} {NAME} {folder}, or"),
            ("title", "limits = { memory = \"1B\" }\ntitle", "memory is 1B, in which no program runs"),
            ("title", "limits = { time = \"1ms\" }\ntitle", "time is 1ms: write 100ms or more"),
            (
                "title",
                "limits = { disk = \"40KB\" }\ntitle",
                "disk is 40KB, and the files to fetch hold 40KB",
            ),
        ] {
            let text = all.replacen(from, to, 1);
            let error = format!("{:#}", Assignment::parse(&text, Path::new("/none")).unwrap_err());
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
