//! Reads logs back: one run's folder, a folder of results, an experiment's folder, or a log file.
//!
//! It names unusable input and keeps the rest: a line that was cut off, a log of a newer schema, a run that
//! never ended, runs of another experiment. Changes no file.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::run::{Group, LogLine, LoggedRun, SweepFile};
use super::{SUMMARY, TABLES};
use crate::log::schema::SCHEMA;
use crate::results::{LOG as RUN_LOG, PAGE, RUNS, SWEEP_LOG};
use crate::text::visible;

/// Something that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Problem {
    pub path: PathBuf,
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loaded {
    pub groups: Vec<Group>,
    pub problems: Vec<Problem>,
    /// Runs without an experiment's folder around them.
    alone: Vec<LoggedRun>,
    /// Logs already read, so that a folder named twice counts once.
    seen: HashSet<PathBuf>,
    /// Logs that were found, those read already among them.
    found: usize,
}

/// The file of an experiment's own records, and the copy of its description.
const EXPERIMENT: &str = "experiment.toml";

/// Reads all of `paths`.
///
/// # Errors
/// A path that cannot be read at all: that is a mistake in the call, not in the data.
pub(crate) fn load(paths: &[PathBuf]) -> Result<Loaded> {
    let mut loaded = Loaded::default();
    // A list of all files in a folder includes those of an earlier report.
    let of_a_report = |path: &&PathBuf| [PAGE, SUMMARY, TABLES].iter().any(|name| path.ends_with(name));
    for path in paths.iter().filter(|path| paths.len() == 1 || !of_a_report(path)) {
        let meta = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        let before = loaded.found;
        if meta.is_file() {
            let run = loaded.run(path);
            loaded.alone.extend(run);
        } else {
            loaded.folder(path)?;
        }
        if loaded.found == before && !loaded.problems.iter().any(|p| p.path.starts_with(path)) {
            loaded.problem(path, "no run in it: there is neither a log.jsonl nor a folder with one");
        }
    }
    loaded.group_alone();
    Ok(loaded)
}

impl Loaded {
    pub(crate) fn runs(&self) -> impl Iterator<Item = &LoggedRun> {
        self.groups.iter().flat_map(|group| &group.runs)
    }

    fn problem(&mut self, path: &Path, what: impl Into<String>) {
        let problem = Problem { path: path.into(), what: what.into() };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// A run's folder, an experiment's, or one with some of either.
    fn folder(&mut self, path: &Path) -> Result<()> {
        if self.run_or_experiment(path) {
            return Ok(());
        }
        let before = self.alone.len();
        let listed = subfolders(path).with_context(|| format!("cannot list {}", path.display()))?;
        for folder in listed {
            self.run_or_experiment(&folder);
        }
        let of: BTreeSet<_> = self.alone[before..].iter().map(LoggedRun::experiment).collect();
        if of.len() > 1 {
            let of: Vec<&str> = of.into_iter().map(|name| name.unwrap_or("no experiment")).collect();
            let what =
                format!("runs of {} lie in one folder; each are compared for themselves", of.join(", "));
            self.problem(path, what);
        }
        Ok(())
    }

    /// Reads a folder that is either; says whether it is.
    fn run_or_experiment(&mut self, path: &Path) -> bool {
        let has = |name| path.join(name).is_file();
        if has(RUN_LOG) {
            let run = self.run(&path.join(RUN_LOG));
            self.alone.extend(run);
        } else if has(SWEEP_LOG) || (has(EXPERIMENT) && path.join(RUNS).is_dir()) {
            self.experiment(path);
        } else {
            return false;
        }
        true
    }

    /// Runs that lie anywhere without an experiment around them are compared with each other, unless
    /// they say that they are of different experiments.
    fn group_alone(&mut self) {
        let mut groups: BTreeMap<Option<String>, Vec<LoggedRun>> = BTreeMap::new();
        for run in self.alone.drain(..) {
            groups.entry(run.experiment().map(str::to_string)).or_default().push(run);
        }
        self.groups.extend(groups.into_values().map(|runs| Group { sweep: None, runs }));
    }

    fn experiment(&mut self, path: &Path) {
        let runs_path = path.join(RUNS);
        let folders = subfolders(&runs_path).unwrap_or_default();
        let logs: Vec<PathBuf> = folders.iter().map(|folder| folder.join(RUN_LOG)).collect();
        let mut runs = Vec::new();
        for log in logs {
            if log.is_file() {
                runs.extend(self.run(&log));
            } else {
                self.problem(&log, "missing: a run that left no log");
            }
        }
        let sweep = self.sweep(&path.join(SWEEP_LOG));
        if let Some(sweep) = &sweep {
            self.check_experiment(path, sweep, &mut runs);
        }
        if runs.is_empty() {
            self.problem(path, "an experiment without a run that can be read");
        }
        if !runs.is_empty() || sweep.is_some() {
            self.groups.push(Group { sweep, runs });
        }
    }

    /// Compares the cells that an experiment's file promises with the runs in its folder.
    fn check_experiment(&mut self, path: &Path, sweep: &SweepFile, runs: &mut Vec<LoggedRun>) {
        self.keep_last_tries(sweep, runs);
        for end in &sweep.cells {
            let (cell, folder) = (&end.cell, path.join(RUNS).join(&end.run));
            if end.run.is_empty() {
                let what =
                    format!("cell {}, {}, was not measured: {}", cell.index, cell.schedule, end.summary);
                self.problem(&sweep.path, what);
            } else if !folder.join(RUN_LOG).is_file() {
                self.problem(&folder, format!("cell {} ended, but its log is missing", cell.index));
            }
        }
        let names: HashSet<&str> = sweep.starts.iter().map(|start| start.experiment.as_str()).collect();
        if names.len() > 1 {
            let mut names: Vec<_> = names.iter().copied().collect();
            names.sort_unstable();
            let what = format!("two experiments in one file: {}", names.join(", "));
            self.problem(&sweep.path, what);
        }
        // A run of another experiment belongs to none of these cells, whatever its condition is called.
        runs.retain(|run| {
            let of = run.start.as_ref().map(|_| run.experiment().unwrap_or("no experiment"));
            let other = of.filter(|name| !names.is_empty() && !names.contains(name));
            if let Some(other) = other {
                self.problem(&run.path, format!("belongs to {other}, not to this experiment; left out"));
            }
            other.is_none()
        });
        if sweep.end.is_none() {
            let cells = sweep.starts.last().map_or(0, |start| start.cells);
            let what = format!(
                "the experiment never ended: {} of {cells} cells; `twinlink sweep --resume` goes on with it",
                sweep.cells.len()
            );
            self.problem(&sweep.path, what);
        }
    }

    /// Of a cell that was tried again, only the run of its last end counts, and what the others lack is
    /// no problem: neither those that failed nor those that were killed.
    fn keep_last_tries(&mut self, sweep: &SweepFile, runs: &mut Vec<LoggedRun>) {
        runs.retain_mut(|run| {
            let cell = run.start.as_ref().and_then(|start| start.cell.as_ref());
            let Some(last) = sweep.cells.iter().find(|end| Some(&end.cell) == cell) else { return true };
            run.setup_ms = last.setup_ms;
            if last.run != run.name {
                self.problems.retain(|problem| problem.path != run.path);
            }
            last.run == run.name
        });
    }

    fn run(&mut self, path: &Path) -> Option<LoggedRun> {
        let text = self.text(path)?;
        let mut run = LoggedRun { path: path.into(), ..LoggedRun::default() };
        self.lines(path, &text, |line| {
            if run.name.is_empty() {
                run.name = line.run.to_string();
            }
            run.take(line)
        })?;
        if run.start.is_none() && run.segments.is_empty() {
            self.problem(path, "not the log of a run: it has no run_start");
            return None;
        }
        if run.end.is_none() {
            let came = run.segments.len();
            let what = format!("the run never ended: {came} segments came; left out of every comparison");
            self.problem(path, what);
        }
        Some(run)
    }

    fn sweep(&mut self, path: &Path) -> Option<SweepFile> {
        if !path.is_file() {
            self.problem(path, "missing: what the experiment measured beside its runs is not known");
            return None;
        }
        let text = self.text(path)?;
        let mut sweep = SweepFile { path: path.into(), ..SweepFile::default() };
        self.lines(path, &text, |line| {
            if sweep.name.is_empty() {
                sweep.name = line.run.to_string();
            }
            sweep.take(line)
        })?;
        Some(sweep)
    }

    /// Returns a file's text, unless it was read before. Bytes that are not UTF-8 show as a bad line.
    fn text(&mut self, path: &Path) -> Option<String> {
        self.found += 1;
        let known = fs::canonicalize(path).unwrap_or_else(|_| path.into());
        if !self.seen.insert(known) {
            return None;
        }
        match read_bounded(path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.problem(path, format!("cannot be read: {error}"));
                None
            }
        }
    }

    /// Hands each line's record on. `None` where the file is in a schema that is not known here.
    fn lines(
        &mut self,
        path: &Path,
        text: &str,
        mut take: impl FnMut(LogLine) -> serde_json::Result<()>,
    ) -> Option<()> {
        if text.trim().is_empty() {
            self.problem(path, "empty");
            return None;
        }
        let mut bad = Bad::default();
        let mut lines = text.lines().enumerate().peekable();
        while let Some((index, text_line)) = lines.next() {
            let line = match serde_json::from_str::<LogLine>(text_line) {
                Ok(line) => line,
                // A process that is killed leaves half a line at the end.
                Err(_) if lines.peek().is_none() && !text.ends_with('\n') => {
                    let what = format!("the last line is cut off; the {index} records before it are used");
                    self.problem(path, what);
                    break;
                }
                Err(error) => {
                    bad.add(index, error);
                    continue;
                }
            };
            if line.schema != SCHEMA {
                self.problem(path, of_another_schema(&line.schema));
                return None;
            }
            if let Err(error) = take(line) {
                bad.add(index, error);
            }
        }
        if let Some(what) = bad.what() {
            self.problem(path, what);
        }
        Some(())
    }
}

/// The longest line that is read, bytes: no record comes near it.
const LONGEST_LINE: u64 = 1 << 20;
/// A longer line is not read to its end, bytes.
const LONGEST_SKIP: u64 = 64 << 20;

/// A file's lines; what is too long for a record is cut, and so is no record.
fn read_bounded(path: &Path) -> std::io::Result<String> {
    // A FIFO, or a device, has no end.
    if !fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not an ordinary file"));
    }
    let mut reader = BufReader::new(fs::File::open(path)?);
    let (mut text, mut line) = (String::new(), Vec::new());
    loop {
        line.clear();
        if reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(text);
        }
        if line.len() as u64 == LONGEST_LINE && line.last() != Some(&b'\n') {
            line.truncate(64);
            line.extend_from_slice("… (too long)\n".as_bytes());
            if reader.by_ref().take(LONGEST_SKIP).skip_until(b'\n')? as u64 == LONGEST_SKIP {
                return Err(std::io::Error::other("a line is longer than 64 MiB, so it is not a log"));
            }
        }
        text += &harmless(&String::from_utf8_lossy(&line));
    }
}

/// A line of JSON in whose strings control characters show as escapes, so that nothing that is made of
/// them moves a terminal's cursor.
fn harmless(line: &str) -> Cow<'_, str> {
    let hidden = |c: char| c != '\n' && c != '\r' && visible(c.encode_utf8(&mut [0; 4])).len() > c.len_utf8();
    if !line.contains('\\') && !line.contains(hidden) {
        return line.into();
    }
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let escape = if c == '\\' { rest.chars().nth(1) } else { None };
        let taken = match escape {
            Some('u') => rest.get(..6),
            Some(_) => rest.get(..2),
            None => None,
        };
        let Some(taken) = taken else {
            match c {
                c if hidden(c) => shown += &format!("\\\\u{{{:x}}}", u32::from(c)),
                c => shown.push(c),
            }
            rest = &rest[c.len_utf8()..];
            continue;
        };
        let code = taken.get(2..6).and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
        if code.is_some_and(hidden) || code == Some('\r') || matches!(taken, "\\b" | "\\f" | "\\r") {
            // Another backslash makes the escape itself the text.
            shown.push('\\');
        }
        shown += taken;
        rest = &rest[taken.len()..];
    }
    shown.into()
}

/// Lines that are no records.
#[derive(Default)]
struct Bad {
    first: Option<String>,
    count: usize,
}

impl Bad {
    fn add(&mut self, index: usize, error: serde_json::Error) {
        self.first.get_or_insert_with(|| format!("line {} is not a record ({error})", index + 1));
        self.count += 1;
    }

    fn what(self) -> Option<String> {
        let first = self.first?;
        Some(match self.count {
            1 => format!("{first}; it is left out"),
            count => format!("{first}, nor are {} more; they are left out", count - 1),
        })
    }
}

fn of_another_schema(schema: &str) -> String {
    let version = |schema: &str| schema.strip_prefix("twinlink/")?.parse::<u32>().ok();
    if version(schema) > version(SCHEMA) {
        format!("written as {schema}, and this program reads {SCHEMA}: use the newer program; left out")
    } else {
        format!("written as \"{schema}\", not {SCHEMA}: it is not a log of twinlink; left out")
    }
}

/// The folders in a folder, by name, which for runs is by time.
fn subfolders(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_a_log_become_text() {
        let line = "{\"what\":\"a\\u001b[2J\\r\u{9b}1m \\\\u001b \\\"q\\\" \\n é\"}\n";
        let parsed: serde_json::Value = serde_json::from_str(&harmless(line)).unwrap();
        assert_eq!(parsed["what"], "a\\u001b[2J\\r\\u{9b}1m \\u001b \"q\" \n é");
        // Half an escape at the end of a line that was cut off.
        assert_eq!(harmless("{\"a\\u00"), "{\"a\\u00");
    }

    #[test]
    fn lines_that_are_too_long_are_cut() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("{{}}\n{}\n{{}}\n", "x".repeat(5 << 20))).unwrap();
        let text = read_bounded(file.path()).unwrap();
        assert!(text.len() < 200 && text.lines().count() == 3, "{} bytes", text.len());
        assert!(read_bounded(Path::new("/dev/zero")).is_err());
        // A terabyte of nothing, which takes no room.
        file.as_file().set_len(1 << 40).unwrap();
        let error = read_bounded(file.path()).unwrap_err().to_string();
        assert!(error.contains("longer than 64 MiB"), "{error}");
    }
}
