//! Grades a class: a lab for each trial, several submissions side by side. Results are on disk as soon as a submission ends.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::assignment::{Assignment, trial_name};
use super::judge::{TrialVerdict, points};
use super::task::{BuildVerdict, Task, VERDICT, Work};
use super::{page, records};
use crate::lab::scratch::Scratch;
use crate::lab::servers;
use crate::log::schema;
use crate::program::image::{self, UnpackedImage};
use crate::program::sandbox::{self, copy_folder};
use crate::results::{self, Folder};
use crate::runtime::{self, EndingSignals};
use crate::segments::Set;
use crate::text::{count, explained, print, tell};

/// The time of a lab beside its program: to build the network, start and end servers, write results.
const LAB_TIME: Duration = Duration::from_secs(120);

/// The request of the command line.
#[derive(Clone, Debug)]
pub(crate) struct ClassConfig {
    pub assignment: PathBuf,
    pub submissions: Vec<PathBuf>,
    pub results: PathBuf,
    /// Folders beside those of the system that submissions may read.
    pub visible: Vec<PathBuf>,
    pub jobs: usize,
}

/// A submission that has been graded.
#[derive(Clone, Debug)]
pub(crate) struct Grade {
    pub name: String,
    /// Why it could not be made ready.
    pub build_problem: Option<String>,
    pub trials: Vec<Trial>,
}

/// One trial, with its verdict; `None` where the lab failed.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub condition: usize,
    pub seed: u64,
    pub hidden: bool,
    pub folder: PathBuf,
    pub verdict: Option<TrialVerdict>,
}

impl Trial {
    /// Names the seed; a hidden one by its place alone.
    pub(crate) fn seed_name(&self, assignment: &Assignment) -> String {
        if !self.hidden {
            return format!("seed {}", self.seed);
        }
        let at = assignment.hidden_seeds.iter().position(|&seed| seed == self.seed);
        format!("hidden seed {}", at.unwrap_or_default() + 1)
    }

    /// Says why there are not all points, of a hidden seed without what came.
    pub(crate) fn reason(&self) -> String {
        let Some(verdict) = &self.verdict else {
            return "the lab failed: this trial is not graded".into();
        };
        match verdict.checks.iter().find(|check| !check.ok).filter(|_| self.hidden) {
            Some(missed) => format!("{}: {}", missed.name, missed.shown(true)),
            None => verdict.reason.clone(),
        }
    }
}

impl Grade {
    /// Returns the points of a condition: the mean over its seeds.
    pub(crate) fn points(&self, assignment: &Assignment, condition: usize) -> f64 {
        let of: Vec<&Trial> = self.trials.iter().filter(|trial| trial.condition == condition).collect();
        let shares = of.iter().filter_map(|trial| Some(trial.verdict.as_ref()?.share));
        let mean = shares.sum::<f64>() / of.len().max(1) as f64;
        mean * assignment.conditions[condition].points
    }

    pub(crate) fn all_points(&self, assignment: &Assignment) -> f64 {
        (0..assignment.conditions.len()).map(|condition| self.points(assignment, condition)).sum()
    }

    /// Returns true where a trial failed for a reason that is not the submission's.
    pub(crate) fn is_incomplete(&self) -> bool {
        let none = self.trials.is_empty() && self.build_problem.is_none();
        none || self.trials.iter().any(|trial| !trial.verdict.as_ref().is_some_and(|verdict| verdict.graded))
    }

    /// Returns the first reason for which points are missing; empty where none are.
    pub(crate) fn reason(&self) -> String {
        if self.trials.is_empty() && self.build_problem.is_none() {
            return "it could not be graded".into();
        }
        let of_trials = self.trials.iter().map(Trial::reason).find(|reason| !reason.is_empty());
        self.build_problem.clone().or(of_trials).unwrap_or_default()
    }
}

/// Grades all submissions, and writes what came of each as it ends.
///
/// # Errors
/// Something that was asked for is invalid, a result cannot be written, or a lab failed.
pub(crate) fn main(config: &ClassConfig) -> Result<()> {
    let assignment = Assignment::load(&config.assignment)?;
    let submissions = named(&config.submissions)?;
    for folder in &config.visible {
        ensure!(folder.is_dir(), "cannot show {} to submissions: it is not a folder", folder.display());
    }
    let visible: Vec<PathBuf> =
        config.visible.iter().map(|folder| folder.canonicalize()).collect::<Result<_, _>>()?;
    let path = config.assignment.canonicalize().context("cannot find the assignment")?;
    let results = std::path::absolute(&config.results).context("cannot find the results")?;
    let own = [path.parent().unwrap_or(Path::new("/")), &*results];
    ensure_unseen(submissions.iter().map(|(_, folder)| &**folder).chain(own), &visible)?;
    if assignment.hidden_seeds.is_empty() {
        tell("no hidden seeds are here: the public ones alone are graded");
    }
    // Before any thread.
    let scratch = Scratch::new()?;
    let graded = grade_all(config, path, assignment, submissions, visible, scratch.path());
    scratch.remove();
    graded
}

fn grade_all(
    config: &ClassConfig,
    path: PathBuf,
    assignment: Assignment,
    submissions: Vec<(String, PathBuf)>,
    visible: Vec<PathBuf>,
    scratch: &Path,
) -> Result<()> {
    let folder = results::new_folder(&config.results, &format!("grade-{}", schema::new_run_id()))?;
    for (at, (seed, _)) in assignment.seeds().enumerate() {
        let set = Set::new(assignment.data.count, assignment.data.mean_size, seed)?;
        set.write(&data_folder(scratch, at)).context("cannot make the files to fetch")?;
    }
    let stopped = Arc::new(AtomicBool::new(false));
    // A signal ends the labs and the temporary files before this process.
    let runtime = runtime::multi_thread(1)?;
    let (mut signals, noted) = (runtime.block_on(async { EndingSignals::listen() })?, stopped.clone());
    runtime.spawn(async move {
        signals.next().await;
        noted.store(true, Ordering::Relaxed);
        tell("ending: the labs are ended, and what has been graded is kept");
    });
    let class = Class {
        path,
        assignment,
        visible,
        folder,
        scratch: scratch.to_path_buf(),
        stopped,
        ended: Mutex::default(),
        of: submissions.len(),
    };
    let queue = Mutex::new(submissions.into_iter().collect::<VecDeque<_>>());
    let failed: Vec<anyhow::Error> = std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..config.jobs.clamp(1, class.of)).map(|_| scope.spawn(|| class.work(&queue))).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker does not panic")).collect()
    });
    class.close(failed)
}

/// Refuses folders that lie in one that every submission may read.
fn ensure_unseen<'a>(folders: impl Iterator<Item = &'a Path>, visible: &[PathBuf]) -> Result<()> {
    let shown: Vec<PathBuf> =
        sandbox::SYSTEM.iter().filter_map(|path| Path::new(path).canonicalize().ok()).collect();
    for folder in folders {
        if let Some(shown) = shown.iter().chain(visible).find(|shown| folder.starts_with(shown)) {
            bail!(
                "cannot hide {} from submissions, which may read {}: move it, as to your home folder",
                folder.display(),
                shown.display()
            );
        }
    }
    Ok(())
}

/// Its name is on the command lines of servers, where it is not to tell a hidden seed.
fn data_folder(scratch: &Path, place_of_seed: usize) -> PathBuf {
    scratch.join(format!("data-{}", place_of_seed + 1))
}

/// Returns the submissions' folders by name.
fn named(paths: &[PathBuf]) -> Result<Vec<(String, PathBuf)>> {
    let mut names = HashSet::new();
    let mut found = Vec::new();
    for path in paths {
        ensure!(path.is_dir(), "cannot grade {}: it is not a folder", path.display());
        let path = path.canonicalize().with_context(|| format!("cannot grade {}", path.display()))?;
        let name =
            path.file_name().with_context(|| format!("cannot grade {}: it has no name", path.display()))?;
        let name = name.to_str().with_context(|| {
            format!("cannot grade {}: its name is not UTF-8; give it another", path.display())
        })?;
        ensure!(
            !["class.csv", "junit.xml"].contains(&name),
            "cannot grade {name}: a result has that name; give it another"
        );
        let name = name.to_string();
        ensure!(names.insert(name.clone()), "two submissions are called {name}: give one another name");
        found.push((name, path));
    }
    Ok(found)
}

/// Returns the bytes of a folder's files, each with what it takes of a disk.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.filter_map(|entry| {
        let data = entry.path().symlink_metadata().ok()?;
        Some(if data.is_dir() { folder_bytes(&entry.path()) } else { data.len().next_multiple_of(4096) })
    });
    bytes.sum()
}

struct Class {
    path: PathBuf,
    assignment: Assignment,
    visible: Vec<PathBuf>,
    folder: Folder,
    /// Holds files to fetch and built submissions while grading.
    scratch: PathBuf,
    /// Whether the user ended the grading.
    stopped: Arc<AtomicBool>,
    /// Submissions that have been graded, by name.
    ended: Mutex<BTreeMap<String, Grade>>,
    of: usize,
}

impl Class {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Grades one submission after another until none is left. Returns why some could not be graded; the others are.
    fn work(&self, queue: &Mutex<VecDeque<(String, PathBuf)>>) -> Vec<anyhow::Error> {
        let mut failed = Vec::new();
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((name, path)) = next.filter(|_| !self.is_stopped()) else { return failed };
            let grade = self.grade(&name, &path);
            if self.is_stopped() {
                return failed;
            }
            let grade = grade.unwrap_or_else(|error| {
                failed.push(error.context(format!("cannot grade {name}")));
                Grade { name: name.clone(), build_problem: None, trials: Vec::new() }
            });
            failed
                .extend(self.record(grade).err().map(|error| error.context(format!("cannot grade {name}"))));
        }
    }

    fn grade(&self, name: &str, submission: &Path) -> Result<Grade> {
        let folder = self.folder.new_child(name.as_ref())?;
        let built = self.scratch.join("built").join(name);
        fs::create_dir_all(built.parent().expect("it has one"))?;
        let (image, build_problem) = match self.image(name, submission)? {
            Ok(image) => (image, None),
            Err(problem) => (None, Some(problem)),
        };
        let build_problem =
            match (build_problem.or_else(|| self.too_large(submission)), &self.assignment.build) {
                (Some(problem), _) => Some(problem),
                (None, Some(_)) => self.build(submission, image.as_ref(), &folder, &built)?,
                (None, None) => copy_folder(submission, &built, None).map(|()| None)?,
            };
        let build_problem = build_problem.or_else(|| self.too_large(&built));
        let mut grade = Grade { name: name.into(), build_problem, trials: Vec::new() };
        if grade.build_problem.is_some() {
            return Ok(grade);
        }
        for (index, condition) in self.assignment.conditions.iter().enumerate() {
            for (at, (seed, hidden)) in self.assignment.seeds().enumerate() {
                ensure!(!self.is_stopped(), "interrupted");
                let results = folder.new_child(trial_name(index, &condition.name, at).as_ref())?;
                let data = data_folder(&self.scratch, at);
                let work = Work::Trial { condition: index, seed, data: data.clone() };
                let verdict = self.in_lab(&built, image.as_ref(), &results, work, Some(&data));
                let verdict: Option<TrialVerdict> = verdict
                    .map_err(|error| tell(&format!("{name}, {}: {}", condition.name, explained(&error))))
                    .ok();
                let trial =
                    Trial { condition: index, seed, hidden, folder: results.path().to_path_buf(), verdict };
                self.say(name, &trial)?;
                grade.trials.push(trial);
            }
        }
        Ok(grade)
    }

    /// Says that a folder does not fit its disk, if it does not.
    fn too_large(&self, folder: &Path) -> Option<String> {
        let (bytes, disk) = (folder_bytes(folder), self.assignment.limits.disk);
        (bytes > disk.0).then(|| format!("its folder holds {bytes} bytes, and its disk {disk}"))
    }

    /// Builds and unpacks the image of a submission with a Dockerfile. The inner error is the submission's.
    fn image(&self, name: &str, submission: &Path) -> Result<Result<Option<UnpackedImage>, String>> {
        if !submission.join("Dockerfile").is_file() {
            return Ok(Ok(None));
        }
        let root = self.scratch.join("images");
        fs::create_dir_all(&root)?;
        Ok(match image::build(submission) {
            Ok(built) => {
                let unpacked = image::unpack(&built, &root.join(name));
                image::remove(&built);
                Ok(Some(unpacked?))
            }
            Err(error) => Err(format!("{error:#}")),
        })
    }

    fn build(
        &self,
        submission: &Path,
        image: Option<&UnpackedImage>,
        folder: &Folder,
        built: &Path,
    ) -> Result<Option<String>> {
        let results = folder.new_child("build".as_ref())?;
        let work = Work::Build { to: built.to_path_buf() };
        let verdict: BuildVerdict = self.in_lab(submission, image, &results, work, None)?;
        Ok(verdict.problem)
    }

    /// Has a lab of its own do some work, and returns the verdict that it leaves.
    fn in_lab<T: serde::de::DeserializeOwned>(
        &self,
        submission: &Path,
        image: Option<&UnpackedImage>,
        results: &Folder,
        work: Work,
        data: Option<&Path>,
    ) -> Result<T> {
        let place = results.path().canonicalize().context("cannot find the results")?;
        let faults = match &work {
            Work::Trial { condition, .. } => self.assignment.conditions[*condition].faults,
            Work::Build { .. } => [None, None],
        };
        let task = Task {
            assignment: self.path.clone(),
            submission: submission.into(),
            image: image.cloned(),
            visible: self.visible.clone(),
            results: place.clone(),
            work,
        };
        // Beside the scratch folder of labs, which a submission does not see either.
        let mut file = tempfile::NamedTempFile::new_in(&self.scratch)?;
        file.write_all(serde_json::to_string(&task)?.as_bytes())?;
        let own = std::env::current_exe().context("cannot find the program itself")?;
        let mut arguments: Vec<OsString> = vec!["lab".into()];
        match (data, &self.assignment.server_command) {
            (None, _) => arguments.extend(["--servers".into(), "none".into()]),
            (Some(data), server) => {
                for (option, fault) in ["--fault-a", "--fault-b"].into_iter().zip(faults) {
                    arguments.extend(fault.map(|fault| format!("{option}={fault}").into()));
                }
                arguments.extend(["--data".into(), data.into()]);
                let folder = self.path.parent().unwrap_or(Path::new("/"));
                let server = server.as_ref().map(|line| servers::of_file(line, folder).into());
                arguments.extend(server.into_iter().flat_map(|line| ["--server".into(), line]));
            }
        }
        arguments.extend(["--server-logs".into(), place.join("servers").into(), "--exec".into()]);
        arguments.extend([own.clone().into(), "grade-task".into(), file.path().into()]);
        let told = results.create_new("lab.txt")?;
        let limit = self.assignment.limits.time.0 + LAB_TIME;
        let ended = self.run_lab(Command::new(own).args(arguments), told, limit);
        let said = || fs::read_to_string(place.join("lab.txt")).unwrap_or_default();
        ended.with_context(|| said().trim().to_string())?;
        let text = fs::read_to_string(place.join(VERDICT)).with_context(|| said().trim().to_string())?;
        serde_json::from_str(&text).context("cannot read the verdict")
    }

    /// Runs a lab to its end, for a time at most.
    fn run_lab(&self, command: &mut Command, told: File, limit: Duration) -> Result<()> {
        use std::os::unix::process::CommandExt;
        let copy = told.try_clone()?;
        command.stdin(Stdio::null()).stdout(copy).stderr(told).process_group(0);
        let follow = || match nix::sys::prctl::set_pdeathsig(Signal::SIGTERM) {
            Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        };
        // SAFETY: a plain system call.
        unsafe { command.pre_exec(follow) };
        let mut child = command.spawn().context("cannot start a lab")?;
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().context("cannot wait for a lab")? {
                ensure!(status.success(), "the lab ended with {status}");
                return Ok(());
            }
            if self.is_stopped() {
                let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
                child.wait().context("cannot wait for a lab")?;
                bail!("interrupted");
            }
            if began.elapsed() > limit {
                let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
                child.wait().context("cannot wait for a lab")?;
                bail!("the lab took longer than {limit:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Tells how far it is.
    fn say(&self, name: &str, trial: &Trial) -> Result<()> {
        let condition = &self.assignment.conditions[trial.condition];
        let seed = trial.seed_name(&self.assignment);
        let share = trial.verdict.as_ref().map_or(0.0, |verdict| verdict.share);
        let reason = trial.reason();
        let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
        let (got, of) = (points(share * condition.points), points(condition.points));
        print(&format!("{name}: {}, {seed}: {got} of {of}{why}\n", condition.name))
    }

    /// Writes what came of a submission, and the lists of all that have ended.
    fn record(&self, grade: Grade) -> Result<()> {
        let folder = self.folder.child(grade.name.as_ref())?;
        let write = |folder: &Folder, name: &str, text: String| {
            folder.replace(name, |out| out.write_all(text.as_bytes()))
        };
        write(&folder, "page.html", page::page(&self.assignment, &grade))?;
        write(&folder, "results.json", records::gradescope(&self.assignment, &grade)?)?;
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let (got, of) = (points(grade.all_points(&self.assignment)), points(self.assignment.points()));
        let name = grade.name.clone();
        ended.insert(name.clone(), grade);
        write(&self.folder, "class.csv", records::csv(&self.assignment, ended.values()))?;
        write(&self.folder, "junit.xml", records::junit(&self.assignment, ended.values()))?;
        print(&format!("[{}/{}] {name}: {got} of {of} points\n", ended.len(), self.of))
    }

    fn close(self, failed: Vec<anyhow::Error>) -> Result<()> {
        let stopped = self.is_stopped();
        let ended = self.ended.into_inner().unwrap_or_else(PoisonError::into_inner);
        print(&format!("{}\n", self.folder.join("class.csv").display()))?;
        for error in &failed {
            tell(&format!("error: {}", explained(error)));
        }
        let incomplete: Vec<&str> = ended
            .values()
            .filter(|grade| grade.build_problem.is_none() && grade.is_incomplete())
            .map(|grade| &*grade.name)
            .collect();
        if !incomplete.is_empty() {
            bail!(
                "labs of {} failed, so their points are not complete: lab.txt of the trials says why; grade these again",
                incomplete.join(", ")
            );
        }
        if stopped {
            bail!("interrupted: {} of {} submissions are graded", ended.len(), self.of);
        }
        match failed.len() {
            0 => Ok(()),
            number => Err(anyhow!("{} could not be graded", count(number as u64, "submission"))),
        }
    }
}
