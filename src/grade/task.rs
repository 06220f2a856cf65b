//! Work inside a lab: building a submission, or one trial of it. A process of its own, told by a file.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::assignment::{Assignment, GradedCondition};
use super::judge::{self, Observation, TrialVerdict, is_the_programs};
use crate::client::runtime;
use crate::client::signals::Signals;
use crate::log::outcome::Outcome;
use crate::log::schema::{self, Log, ProgramEnd, Stdout};
use crate::manifest::SUMS;
use crate::program::account::Account;
use crate::program::command::{RunningProgram, Surroundings};
use crate::program::config::ProgramConfig;
use crate::program::image::UnpackedImage;
use crate::program::sandbox::{self, Disk, Sandbox};
use crate::program::{self, ObservedRun, ProgramRun, tail};
use crate::qoe::Rule;
use crate::results::{self, Folder};
use crate::shape::backend::BackendChoice;
use crate::units::{Delay, LinkId, PerLink};

/// The verdict beside the log of a trial.
pub(crate) const VERDICT: &str = "verdict.json";

/// Work for one lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub assignment: PathBuf,
    /// The submission, as it was handed in or built.
    pub submission: PathBuf,
    /// The system that it brings along.
    pub image: Option<UnpackedImage>,
    /// Folders beside those of the system that it may read.
    pub visible: Vec<PathBuf>,
    /// An empty folder for what comes of it.
    pub results: PathBuf,
    pub work: Work,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Copies what was built to a folder that is not there yet.
    Build {
        to: PathBuf,
    },
    Trial {
        condition: usize,
        seed: u64,
        data: PathBuf,
    },
}

/// How a build went: nothing, or why it failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BuildVerdict {
    pub problem: Option<String>,
}

/// Does the work that a file tells, and writes the verdict. `afterwards` is told the folder of a trial.
///
/// # Errors
/// The file cannot be read, the sandbox not be made, or a result not be written.
pub(crate) fn main(path: &Path, afterwards: impl FnOnce(&Path)) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let task: Task = serde_json::from_str(&text).context("cannot read the task")?;
    let assignment = Assignment::load(&task.assignment)?;
    let folder = Folder::open(&task.results)?;
    let verdict = match &task.work {
        Work::Build { to } => serde_json::to_string(&build(&assignment, &task, &folder, to)?)?,
        Work::Trial { condition, seed, data } => {
            let condition = assignment.conditions.get(*condition).context("no such condition")?;
            let verdict = trial(&assignment, &task, condition, *seed, data)?;
            afterwards(&task.results);
            serde_json::to_string_pretty(&verdict)?
        }
    };
    std::io::Write::write_all(&mut folder.create_new(VERDICT)?, verdict.as_bytes())
        .context("cannot write the verdict")
}

fn sandbox(assignment: &Assignment, task: &Task, builds: bool) -> Sandbox {
    Sandbox {
        folder: Some(task.submission.clone()),
        image: task.image.clone(),
        visible: task.visible.clone(),
        disk: assignment.limits.disk,
        processes: assignment.limits.processes,
        memory: assignment.limits.memory,
        builds,
    }
}

/// Builds a submission in its sandbox, and copies it out.
fn build(assignment: &Assignment, task: &Task, folder: &Folder, to: &Path) -> Result<BuildVerdict> {
    let line = assignment.build.as_deref().context("there is nothing to build")?;
    let sandbox = sandbox(assignment, task, true);
    let temporary = tempfile::tempdir().context("cannot make a temporary folder; set TMPDIR")?;
    let (at, lists) = (temporary.path().join("disk"), temporary.path().join("lists"));
    std::fs::create_dir(&at).and_then(|()| std::fs::create_dir(&lists))?;
    let disk = Disk::new(&sandbox, &at)?;
    let words = ["sh", "-c", line].map(String::from);
    let nothing = Surroundings(Vec::new());
    let command = sandbox.command(&disk, &lists, &words)?;
    let (stdout, stderr) = (folder.create_new("stdout.txt")?, folder.create_new("stderr.txt")?);
    let mut program = RunningProgram::start(command, &nothing, stdout, stderr)?;
    let limits = program::ProgramLimits {
        time: assignment.limits.time.0,
        memory: Some(assignment.limits.memory),
        sandbox: Some((&sandbox, &disk)),
    };
    let began = Instant::now();
    let ended = runtime()?.block_on(async {
        loop {
            if let Ok(ended) = tokio::time::timeout(Duration::from_millis(50), program.ended()).await {
                return ended.map(Ok);
            }
            if let Some(failure) = limits.exceeded(&program, began.elapsed()) {
                return Ok(Err(failure.error));
            }
        }
    })?;
    program.end_all();
    let problem = match ended {
        Ok(used) if used.status.success() => {
            sandbox::copy_folder(&disk.at(sandbox::SUBMISSION), to, None)?;
            None
        }
        Ok(used) => {
            let (code, signal) = (used.status.code(), used.status.signal());
            Some(format!("building {}", ending(code, signal, &tail(&folder.join("stderr.txt")))))
        }
        Err(error) => Some(format!("building: {error}")),
    };
    Ok(BuildVerdict { problem })
}

/// Does one trial, and judges it.
fn trial(
    assignment: &Assignment,
    task: &Task,
    condition: &GradedCondition,
    seed: u64,
    data: &Path,
) -> Result<TrialVerdict> {
    let player = Rule::default();
    let limits = &assignment.limits;
    let name = task.submission.file_name().map_or("submission".into(), |name| name.to_string_lossy());
    let config = ProgramConfig {
        name: name.into_owned(),
        command: ["sh", "-c", &assignment.command].map(String::from).to_vec(),
        placeholders: condition.placeholders(),
        folder: PathBuf::new(),
        servers: PerLink { a: "server-a".into(), b: "server-b".into() },
        backend: BackendChoice::Auto,
        files: None,
        manifest: assignment.server_command.is_some().then(|| data.join(SUMS)),
        out: None,
        server_logs: std::env::var_os("TWINLINK_SERVER_LOGS").map(PathBuf::from),
        time_limit: limits.time.0,
        memory_limit: Some(limits.memory),
        sandbox: Some(Box::new(sandbox(assignment, task, false))),
        image: None,
        give_up: Duration::from_secs(10),
        segment_duration: Delay(Duration::from_secs_f64(player.segment_duration_ms / 1e3)),
        startup: player.startup_segments,
        seed,
    };
    let folder = Folder::open(&task.results)?;
    let log = Log::new(schema::new_run_id(), Some(folder.create_new(results::LOG)?), Stdout::Nothing)?;
    let links = condition.links.clone();
    let observed = runtime()?.block_on(async {
        let run = ProgramRun { config: &config, links, log: Arc::new(log), folder, cell: None, bars: false };
        anyhow::Ok(program::one_run(run, &mut Signals::listen()?).await)
    })?;
    Ok(verdict(condition, &observed, data, tail(&task.results.join("stderr.txt"))))
}

fn verdict(
    condition: &GradedCondition,
    observed: &ObservedRun,
    data: &Path,
    printed: String,
) -> TrialVerdict {
    let ObservedRun { finished, account, served } = observed;
    let record = &finished.record;
    let graded = is_the_programs(record.exit);
    let failure = finished.outcome.as_ref().err().map(|failure| format!("{:#}", failure.error));
    let names = account.segments.iter().map(|segment| &segment.name).chain(&account.missing);
    let size = |name: &String| std::fs::metadata(data.join(name)).map_or(0, |data| data.len());
    let mut sizes: Vec<(String, u64)> = names.map(|name| (name.clone(), size(name))).collect();
    sizes.sort();
    let mut checks = vec![ended_well(record.exit, record.program.as_ref(), failure.as_deref(), &printed)];
    checks.push(files(account, &sizes));
    if let Some(served) = served {
        let rtt_ms = PerLink::of(|link| rtt_ms(condition, link));
        checks.extend(judge::behaviour(condition, &sizes, served, &rtt_ms));
    }
    let did = checks.iter().all(|check| check.ok);
    let mut share = 0.0;
    if did {
        let (worth, seen) = judge::efficiency(condition, record.efficiency);
        share = worth;
        checks.push(seen);
    }
    let reason = checks.iter().find(|check| !check.ok).map(|check| format!("{}: {}", check.name, check.came));
    TrialVerdict {
        exit: record.exit,
        graded,
        checks,
        share,
        elapsed_ms: record.elapsed_ms,
        bound_ms: record.bound_ms,
        efficiency: record.efficiency,
        reason: reason.unwrap_or_default(),
        printed,
    }
}

/// Returns the least round trip of a link (ms); 0 where nothing delays it for certain.
fn rtt_ms(condition: &GradedCondition, link: LinkId) -> f64 {
    let profile = condition.links.profiles[link.index()].as_ref();
    profile.map_or(0.0, |profile| {
        [&profile.down, &profile.up]
            .map(|shape| (shape.delay.ms() - 3.0 * shape.jitter.ms()).max(0.0))
            .iter()
            .sum()
    })
}

/// Checks that the program ended by itself, and with 0.
fn ended_well(exit: Outcome, end: Option<&ProgramEnd>, failure: Option<&str>, printed: &str) -> Observation {
    let came = match (exit, end) {
        (Outcome::Ok | Outcome::Incomplete, _) => "it did".to_string(),
        (Outcome::Program, Some(end)) => ending(end.exit_code, end.signal, printed),
        _ => failure.unwrap_or_default().to_string(),
    };
    let ok = matches!(exit, Outcome::Ok | Outcome::Incomplete);
    Observation::new("end", "the program ends by itself with exit code 0", came, ok)
}

/// Says how a program ended that did not end well.
fn ending(code: Option<i32>, signal: Option<i32>, printed: &str) -> String {
    let how = match (code, signal) {
        (Some(127), _) => "the command was not found (exit code 127)".into(),
        (Some(126), _) => "the command may not be executed (exit code 126)".into(),
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(libc::SIGXFSZ)) => "it wrote a file larger than its disk".into(),
        (None, signal) => format!("it was ended by signal {}", signal.unwrap_or_default()),
    };
    if printed.is_empty() { how } else { format!("{how}; it printed: {printed}") }
}

/// Checks the files by name, and says which are partial, wrong or in the wrong place.
fn files(account: &Account, sizes: &[(String, u64)]) -> Observation {
    let count = sizes.len();
    let mut words = Vec::new();
    if let [first, ..] = &account.missing[..] {
        words.push(format!("{} of {count} are missing, the first {first}", account.missing.len()));
    }
    for name in account.wrong.iter().take(1) {
        let found = account.segments.iter().find(|segment| segment.name == *name).map_or(0, |one| one.bytes);
        let whole = sizes.iter().find(|(other, _)| other == name).map_or(0, |(_, size)| *size);
        let which = if found < whole {
            format!("{name} is partial, with {found} of {whole} bytes")
        } else {
            format!("{name} has other bytes than the servers' list says")
        };
        words.push(format!("{} of {count} are wrong: {which}", account.wrong.len()));
    }
    words.extend(account.elsewhere.iter().cloned());
    let ok = account.missing.is_empty() && account.wrong.is_empty();
    let came = if ok { format!("{count} files") } else { words.join("; ") };
    Observation::new("files", format!("{count} files in $OUT, each whole and right"), came, ok)
}
