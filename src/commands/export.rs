//! `twinlink export`: a logged run in the format of another tool.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::export::{p1203, perfetto};
use crate::report::load::load;
use crate::report::run::LoggedRun;
use crate::results::write_named;
use crate::text::{print, visible};

#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum ExportCommand {
    /// A timeline to zoom in: segments, parts, goodput, queue, cwnd, faults; open it at ui.perfetto.dev
    Perfetto {
        #[command(flatten)]
        of: ExportedRun,
    },
    /// The input of ITU-T P.1203, mode 0, for the quality that a viewer would have seen; for itu-p1203
    P1203 {
        #[command(flatten)]
        of: ExportedRun,
        #[command(flatten)]
        media: p1203::P1203Media,
    },
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ExportedRun {
    /// A run's folder, or its log
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Write FILE, and replace one that is there; else standard output
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Writes the export.
///
/// # Errors
/// There is not one run to read, it holds nothing for this format, or the file cannot be written.
pub(crate) fn main(command: &ExportCommand) -> Result<()> {
    let (of, text) = match command {
        ExportCommand::Perfetto { of } => (of, perfetto::render(&read(of)?)),
        ExportCommand::P1203 { of, media } => {
            (of, p1203::render(&read(of)?, media).context("cannot rate the run")?)
        }
    };
    let Some(path) = &of.out else { return print(&text) };
    write_named(path, text.as_bytes())
}

/// Reads the run, and warns of the log's problems.
fn read(of: &ExportedRun) -> Result<LoggedRun> {
    let loaded = load(std::slice::from_ref(&of.run))?;
    let problems: Vec<String> =
        loaded.problems.iter().map(|problem| visible(&problem.to_string()).into()).collect();
    let runs: Vec<&LoggedRun> = loaded.runs().collect();
    match runs.as_slice() {
        [run] => {
            problems.iter().for_each(|problem| tracing::warn!("{problem}"));
            Ok((*run).clone())
        }
        [] => bail!("nothing to export: {}", problems.join("; ")),
        [first, ..] => bail!(
            "cannot export {} runs at a time: name one of them, as in {}",
            runs.len(),
            first.path.parent().unwrap_or(&first.path).display()
        ),
    }
}
