//! An experiment's folder: made new, or found again to go on with.
//!
//! It holds a copy of the experiment, `sweep.jsonl`, and a folder in `runs` for each run.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::OFlags;

use super::experiment::Experiment;
use crate::log::outcome::Outcome;
use crate::log::schema::{Cell, Event, Record, Throughput};
use crate::results;

const COPY: &str = "experiment.toml";
use results::{RUNS, SWEEP_LOG as LOG};

/// A folder that an experiment is being done in.
#[derive(Debug)]
pub(crate) struct ExperimentFolder {
    pub dir: PathBuf,
    /// Its name, under which the experiment's records stand.
    pub name: String,
    pub done: CompletedRuns,
    /// Keeps others from going on in it at the same time.
    _held: results::Folder,
}

/// The results of earlier calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct CompletedRuns {
    /// Cells that ended well.
    pub complete: Vec<Cell>,
    pub measured: Vec<Throughput>,
}

impl ExperimentFolder {
    /// Makes a folder for `experiment` in `results`.
    ///
    /// # Errors
    /// It cannot be made or written, or exists.
    pub(crate) fn create(results: &Path, name: String, experiment: &Experiment) -> Result<ExperimentFolder> {
        let dir = results::new_folder(results, &name)?;
        let mut copy = dir.create_new(COPY)?;
        copy.write_all(experiment.text.as_bytes())
            .with_context(|| format!("cannot write {}", dir.join(COPY).display()))?;
        dir.new_child(RUNS.as_ref())?;
        dir.lock()?;
        Ok(ExperimentFolder {
            dir: dir.path().to_path_buf(),
            name,
            done: CompletedRuns::default(),
            _held: dir,
        })
    }

    /// Opens `dir` to go on with `experiment`, or the newest folder in `results` that holds it.
    ///
    /// # Errors
    /// There is none, or it holds another experiment.
    pub(crate) fn find(
        results: &Path,
        dir: Option<&Path>,
        experiment: &Experiment,
    ) -> Result<ExperimentFolder> {
        let dir = match dir {
            Some(dir) => {
                let copy = dir.join(COPY);
                let text = fs::read_to_string(&copy).with_context(|| {
                    format!("cannot go on in {}: experiment.toml not found", dir.display())
                })?;
                ensure!(
                    text == experiment.text,
                    "cannot go on in {}: its experiment.toml is not the experiment that was given; give \
                     that one, or begin anew without --resume",
                    dir.display()
                );
                dir.to_path_buf()
            }
            None => newest(results, experiment)?,
        };
        let name = fs::canonicalize(&dir)
            .ok()
            .and_then(|full| Some(full.file_name()?.to_string_lossy().into_owned()))
            .with_context(|| format!("cannot tell the name of the folder {}", dir.display()))?;
        let held = results::Folder::open(&dir)?;
        held.lock().context("cannot go on")?;
        let done = done(&held)?;
        Ok(ExperimentFolder { dir, name, done, _held: held })
    }

    /// Opens the experiment's own log to add to it.
    pub(crate) fn log(&self) -> Result<File> {
        results::Folder::open(&self.dir)?.append(LOG)
    }

    /// Makes a folder for a run.
    pub(crate) fn new_run(&self, run: &str) -> Result<results::Folder> {
        let runs = results::Folder::open(&self.dir)?.child(RUNS.as_ref())?;
        runs.new_child(run.as_ref())
    }
}

/// The newest folder in `results` with the same experiment. Names sort by time.
fn newest(results: &Path, experiment: &Experiment) -> Result<PathBuf> {
    let entries = fs::read_dir(results)
        .with_context(|| format!("cannot look for what to resume in {}", results.display()))?;
    let mut dirs: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    dirs.sort();
    let same = |dir: &&PathBuf| fs::read_to_string(dir.join(COPY)).is_ok_and(|text| text == experiment.text);
    let Some(dir) = dirs.iter().rev().find(same) else {
        bail!(
            "nothing to resume: no folder in {} holds this experiment as it is now; begin it \
             without --resume",
            results.display()
        );
    };
    Ok(dir.clone())
}

/// Reads what is complete, and cuts off a last line that a killed process left unfinished, so that
/// the next record starts on a line of its own.
fn done(folder: &results::Folder) -> Result<CompletedRuns> {
    let path = folder.join(LOG);
    let shown = path.display();
    let mut bytes = Vec::new();
    // It was killed before its first record.
    let Some(mut file) = folder.open_file(LOG, OFlags::RDWR)? else { return Ok(CompletedRuns::default()) };
    file.read_to_end(&mut bytes).with_context(|| format!("cannot read {shown}"))?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    if whole < bytes.len() {
        tracing::warn!("the last line of {shown} is not complete, and is dropped");
        file.set_len(whole as u64).with_context(|| format!("cannot cut the unfinished line off {shown}"))?;
    }
    parse(&bytes[..whole]).with_context(|| format!("cannot go on from {shown}"))
}

/// Reads the records of an experiment, whole lines of them.
fn parse(text: &[u8]) -> Result<CompletedRuns> {
    let mut done = CompletedRuns::default();
    for (number, line) in (1..).zip(text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())) {
        let record: Record = serde_json::from_slice(line)
            .with_context(|| format!("line {number} is not a record of its log"))?;
        match record.event {
            Event::CellEnd(end) if end.exit == Outcome::Ok => done.complete.push(end.cell),
            Event::Throughput(throughput) => done.measured.push(throughput),
            _ => {}
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::schema::{CellEnd, Log, Stdout};
    use crate::sweep::plan;

    fn experiment(repetitions: u64) -> Experiment {
        let text = format!(
            "repetitions = {repetitions}\nschedules = [\"greedy\"]\n[[condition]]\nname = \"c\"\nlink_a = \"dsl\"\n"
        );
        Experiment::parse("x", &text, Path::new(".")).unwrap()
    }

    fn end(cell: &Cell, exit: Outcome) -> Event {
        Event::CellEnd(Box::new(CellEnd {
            cell: cell.clone(),
            run: "r".into(),
            exit,
            summary: String::new(),
            elapsed_ms: None,
            bound_ms: None,
            efficiency: None,
            predicted_ms: None,
            setup_ms: None,
        }))
    }

    #[test]
    fn what_ended_well_is_complete_and_a_torn_line_is_cut_off() {
        let results = tempfile::tempdir().unwrap();
        let experiment = experiment(3);
        let cells = plan::order(&experiment);
        let folder = ExperimentFolder::create(results.path(), "one".into(), &experiment).unwrap();
        let log = Log::new("one".into(), Some(folder.log().unwrap()), Stdout::Nothing).unwrap();
        log.write(end(&cells[0], Outcome::Ok)).unwrap();
        log.write(end(&cells[1], Outcome::ServerAway)).unwrap();
        // The end of a log waits until all is written.
        drop(log);
        let path = folder.dir.join(LOG);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], b"{\"schema\":\"twinl"].concat()).unwrap();
        let again = || ExperimentFolder::find(results.path(), None, &experiment);
        let error = format!("{:#}", again().unwrap_err());
        assert!(error.contains("is in use by"), "{error}");
        let dir = folder.dir.clone();
        drop(folder);
        let found = again().unwrap();
        assert_eq!((found.dir, found.name.as_str()), (dir, "one"));
        assert_eq!(found.done.complete, cells[..1]);
        assert_eq!(fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn the_newest_folder_with_the_same_experiment_is_found_and_no_other() {
        let results = tempfile::tempdir().unwrap();
        for (name, repetitions) in [("1", 3), ("2", 3), ("3", 4)] {
            ExperimentFolder::create(results.path(), name.into(), &experiment(repetitions)).unwrap();
        }
        let find = |dir: Option<&Path>, repetitions| {
            ExperimentFolder::find(results.path(), dir, &experiment(repetitions))
        };
        assert_eq!(find(None, 3).unwrap().name, "2");
        let error = find(None, 5).unwrap_err().to_string();
        assert!(error.contains("nothing to resume"), "{error}");
        let three = results.path().join("3");
        assert_eq!(find(Some(&three), 4).unwrap().name, "3");
        let error = find(Some(&three), 3).unwrap_err().to_string();
        assert!(error.contains("is not the experiment that was given"), "{error}");
        let error = find(Some(&results.path().join("4")), 3).unwrap_err().to_string();
        assert!(error.contains("experiment.toml not found"), "{error}");
    }

    #[test]
    fn a_folder_is_never_used_twice_and_a_broken_log_is_named() {
        let results = tempfile::tempdir().unwrap();
        let dir = ExperimentFolder::create(results.path(), "1".into(), &experiment(1)).unwrap().dir;
        assert!(ExperimentFolder::create(results.path(), "1".into(), &experiment(1)).is_err());
        fs::write(dir.join(LOG), "{}\n").unwrap();
        let error =
            format!("{:#}", ExperimentFolder::find(results.path(), None, &experiment(1)).unwrap_err());
        assert!(error.contains("sweep.jsonl") && error.contains("line 1"), "{error}");
    }
}
