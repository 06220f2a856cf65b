//! `twinlink grade`, and the two commands that it starts inside a lab and inside a sandbox.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::grade::class::{self, ClassConfig};
use crate::grade::task;
use crate::program::sandbox;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct GradeArgs {
    /// The assignment: conditions, required behaviour and points
    #[arg(value_name = "ASSIGNMENT.toml")]
    pub assignment: PathBuf,
    /// Folders of submissions
    #[arg(required = true, value_name = "SUBMISSION")]
    pub submissions: Vec<PathBuf>,
    /// Make a folder for the grades below this one
    #[arg(long, value_name = "DIR", env = "TWINLINK_RESULTS", default_value = "results")]
    pub results: PathBuf,
    /// A folder that submissions may read beside /usr, /etc and the like, with its bin in their PATH; may be repeated
    #[arg(long, value_name = "DIR")]
    pub visible: Vec<PathBuf>,
    /// Submissions that are graded side by side; without it, one for each two processors
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
}

/// Grades.
///
/// # Errors
/// As [`class::main`].
pub(crate) fn main(args: GradeArgs) -> Result<()> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let jobs = args.jobs.map_or((processors / 2).max(1), usize::from);
    let GradeArgs { assignment, submissions, results, visible, .. } = args;
    class::main(&ClassConfig { assignment, submissions, results, visible, jobs })
}

/// Work inside a lab.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TaskArgs {
    file: PathBuf,
}

/// Does it. `afterwards` is told the folder of a trial.
///
/// # Errors
/// As [`task::main`].
pub(crate) fn task(args: &TaskArgs, afterwards: impl FnOnce(&Path)) -> Result<()> {
    task::main(&args.file, afterwards)
}

/// A program to start in a sandbox.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SandboxArgs {
    entrance: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// Starts it, and ends as it ends.
///
/// # Errors
/// As [`sandbox::enter`].
pub(crate) fn enter_sandbox(args: &SandboxArgs) -> Result<ExitCode> {
    let entrance = serde_json::from_str(&args.entrance).context("cannot read the sandbox's description")?;
    sandbox::enter(&entrance, &args.words)
}
