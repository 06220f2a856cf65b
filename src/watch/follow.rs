//! Follows the newest log of a folder while it is written.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::log::schema::Record;
use crate::results::{LOG, RUNS, SWEEP_LOG};

/// Read at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// News of the logs that are followed.
pub(crate) enum News {
    /// Another run is followed from now on.
    Run,
    Record(Box<Record>),
}

/// Reads whole records from the end of what was read before.
struct Tail {
    path: PathBuf,
    file: File,
    /// The beginning of a record whose rest is not written yet.
    begun: Vec<u8>,
}

impl Tail {
    fn open(path: PathBuf) -> io::Result<Tail> {
        let file = File::open(&path)?;
        Ok(Tail { path, file, begun: Vec::new() })
    }

    /// Returns the records that are new. A line that is no record of this version is left out.
    fn read(&mut self) -> io::Result<Vec<Record>> {
        let read = (&self.file).take(CHUNK_BYTES).read_to_end(&mut self.begun)?;
        let Some(end) = self.begun.iter().rposition(|&byte| byte == b'\n').filter(|_| read > 0) else {
            return Ok(Vec::new());
        };
        let rest = self.begun.split_off(end + 1);
        let whole = std::mem::replace(&mut self.begun, rest);
        Ok(whole.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }
}

/// Follows a log, the newest run of an experiment, or the newest of a folder of results.
pub(crate) struct Follower {
    root: PathBuf,
    /// Logs that were last written before are left out.
    since: Option<SystemTime>,
    experiment: Option<Tail>,
    run: Option<Tail>,
}

impl Follower {
    pub(crate) fn new(root: &Path, since: Option<SystemTime>) -> Follower {
        Follower { root: root.into(), since, experiment: None, run: None }
    }

    /// Returns the news since the last call. A folder that is not there yet has none.
    ///
    /// # Errors
    /// A log cannot be read.
    pub(crate) fn poll(&mut self) -> io::Result<Vec<News>> {
        let [experiment, run] = self.newest();
        let mut news = Vec::new();
        let is_other = |tail: &Option<Tail>, path: &PathBuf| tail.as_ref().is_none_or(|t| t.path != *path);
        // The last records of a run come before the first of the next.
        read(self.run.as_mut(), &mut news)?;
        match experiment {
            Some(path) if is_other(&self.experiment, &path) => self.experiment = Some(Tail::open(path)?),
            Some(_) => {}
            None => self.experiment = None,
        }
        if let Some(path) = run.filter(|path| is_other(&self.run, path)) {
            self.run = Some(Tail::open(path)?);
            news.push(News::Run);
            read(self.run.as_mut(), &mut news)?;
        }
        read(self.experiment.as_mut(), &mut news)?;
        Ok(news)
    }

    /// Returns the log of the experiment and of the run that are to be followed.
    fn newest(&self) -> [Option<PathBuf>; 2] {
        if self.root.is_file() {
            return [None, Some(self.root.clone())];
        }
        let own = logs_in(&self.root);
        if own.iter().any(Option::is_some) {
            return own;
        }
        self.newest_folder(&self.root).map_or([None, None], |folder| logs_in(&folder))
    }

    /// Returns the newest folder with a log. The names of runs sort by time.
    fn newest_folder(&self, folder: &Path) -> Option<PathBuf> {
        let is_recent = |path: &Path| {
            let written = |name: &str| path.join(name).metadata().and_then(|meta| meta.modified()).ok();
            let written = written(LOG).max(written(SWEEP_LOG));
            written.is_some_and(|written| self.since.is_none_or(|since| written >= since))
        };
        let entries = folder.read_dir().ok()?.flatten().map(|entry| entry.path());
        entries.filter(|path| is_recent(path)).max()
    }
}

fn read(tail: Option<&mut Tail>, news: &mut Vec<News>) -> io::Result<()> {
    let records = tail.map_or(Ok(Vec::new()), Tail::read)?;
    news.extend(records.into_iter().map(|record| News::Record(Box::new(record))));
    Ok(())
}

/// Returns the log of the experiment that a folder holds, and the log of its run or of its newest run.
fn logs_in(folder: &Path) -> [Option<PathBuf>; 2] {
    let there = |path: PathBuf| path.is_file().then_some(path);
    let Some(experiment) = there(folder.join(SWEEP_LOG)) else { return [None, there(folder.join(LOG))] };
    let runs = folder.join(RUNS).read_dir().into_iter().flatten().flatten();
    let newest = runs.filter_map(|entry| there(entry.path().join(LOG))).max();
    [Some(experiment), newest]
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;
    use crate::log::schema::{Event, Fault, SCHEMA};

    fn line(what: &str) -> String {
        let fault = Fault { link: None, segment: None, what: what.into(), action: "none".into() };
        let record = Record { schema: SCHEMA.into(), t_ns: 0, run: "r".into(), event: Event::Fault(fault) };
        serde_json::to_string(&record).unwrap() + "\n"
    }

    fn told(follower: &mut Follower) -> Vec<String> {
        let news = follower.poll().unwrap().into_iter();
        let words = news.map(|news| match news {
            News::Run => "another run".into(),
            News::Record(record) => match record.event {
                Event::Fault(fault) => fault.what,
                other => panic!("{other:?}"),
            },
        });
        words.collect()
    }

    #[test]
    fn a_record_is_told_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut follower = Follower::new(dir.path(), None);
        assert!(told(&mut follower).is_empty());
        let run = dir.path().join("20260101T000000Z-aaaa");
        fs::create_dir(&run).unwrap();
        let (one, two) = (line("one"), line("two"));
        fs::write(run.join(LOG), format!("{one}{}", &two[..9])).unwrap();
        assert_eq!(told(&mut follower), ["another run", "one"]);
        let mut log = File::options().append(true).open(run.join(LOG)).unwrap();
        log.write_all(&two.as_bytes()[9..]).unwrap();
        log.write_all(b"no record\n").unwrap();
        assert_eq!(told(&mut follower), ["two"]);
        assert!(told(&mut follower).is_empty());
    }

    #[test]
    fn the_newest_run_of_an_experiment_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let add = |path: &str, text: String| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        add("20260101T000000Z-aaaa/log.jsonl", line("an older run"));
        add("20260102T000000Z-aaaa/sweep.jsonl", line("of the experiment"));
        let mut follower = Follower::new(dir.path(), None);
        assert_eq!(told(&mut follower), ["of the experiment"]);
        add("20260102T000000Z-aaaa/runs/20260102T000001Z-aaaa/log.jsonl", line("first"));
        assert_eq!(told(&mut follower), ["another run", "first"]);
        add("20260102T000000Z-aaaa/runs/20260102T000002Z-aaaa/log.jsonl", line("second"));
        assert_eq!(told(&mut follower), ["another run", "second"]);
        let mut later =
            Follower::new(dir.path(), Some(SystemTime::now() + std::time::Duration::from_secs(60)));
        assert!(told(&mut later).is_empty(), "what was written before is left out");
    }
}
