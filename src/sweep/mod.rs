//! `twinlink sweep`: an experiment from its file to its results, one run after another.
//!
//! [`experiment`] says what is to be done, [`plan`] in which order (pure), [`folder`] what is done
//! already, [`run`] does it by way of the client, in the same process, and [`progress`] says how far
//! it is. Nothing here moves a packet or evaluates a result.

pub mod experiment;
mod folder;
mod plan;
mod progress;
mod run;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};

use crate::client;
use crate::link::Choice;
use crate::record;
use crate::units::Delay;
use experiment::Experiment;
use folder::Folder;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The experiment's .toml file
    #[arg(value_name = "EXPERIMENT.toml")]
    pub experiment: PathBuf,
    /// Server a: host or host:port
    #[arg(env = "TWINLINK_SERVER_A", default_value = "server-a")]
    pub server_a: String,
    /// Server b
    #[arg(env = "TWINLINK_SERVER_B", default_value = "server-b")]
    pub server_b: String,
    /// List the runs and do none; needs no server and no privilege
    #[arg(long)]
    pub dry_run: bool,
    /// Go on in DIR, or in the newest folder that holds this experiment: complete runs are not repeated
    #[arg(long, value_name = "DIR", num_args = 0..=1, conflicts_with = "dry_run")]
    pub resume: Option<Option<PathBuf>>,
    /// Where the experiment's folder is made
    #[arg(long, env = "TWINLINK_RESULTS", value_name = "DIR", default_value = "results")]
    pub results: PathBuf,
    /// What shapes the links
    #[arg(long, env = "TWINLINK_BACKEND", value_enum, default_value = "auto")]
    pub backend: Choice,
    /// How long a server may be away before a run gives it up
    #[arg(long, env = "TWINLINK_GIVE_UP", default_value = "10s", value_name = "TIME")]
    pub give_up: Delay,
}

/// The experiment, from the command line to the exit code.
///
/// `afterwards` is told the experiment's folder, however the experiment went.
pub fn main(args: Args, afterwards: impl FnOnce(&Path)) -> Result<()> {
    let experiment = Experiment::load(&args.experiment)?;
    if args.dry_run {
        return print(&listing(&experiment));
    }
    let folder = match &args.resume {
        Some(dir) => Folder::find(&args.results, dir.as_deref(), &experiment)?,
        None => Folder::create(&args.results, record::new_run_id(), &experiment)?,
    };
    let end = client::runtime()?.block_on(run::all(&args, &experiment, &folder));
    afterwards(&folder.dir);
    let end = end?;
    if end.exit != "ok" {
        bail!("{} What there is stands in {}", end.summary, folder.dir.display());
    }
    Ok(())
}

/// What a dry run prints: every run in its order.
fn listing(experiment: &Experiment) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["run", "block", "condition", "channel", "schedule", "pipeline", "congestion"]);
    for column in 0..2 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let cells = plan::order(experiment);
    for cell in &cells {
        let congestion = cell.congestion.clone().unwrap_or("the kernel's".into());
        table.add_row([
            cell.index.to_string(),
            cell.block.to_string(),
            cell.condition.clone(),
            cell.channel.clone(),
            cell.schedule.clone(),
            cell.pipeline.clone(),
            congestion,
        ]);
    }
    format!("{}\n{} runs in {} repetitions\n", table.trim_fmt(), cells.len(), experiment.repetitions)
}

fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        _ => Ok(()),
    }
}
