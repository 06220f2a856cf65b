//! `twinlink sweep`: an experiment from its file to its results, one run after another.
//!
//! [`experiment`] says what is to be done, [`plan`] in which order (pure), [`folder`] what is done
//! already, [`run`] does it by way of the client or of a program in its place, in the same process, and
//! [`progress`] says how far it is. Nothing here moves a packet or evaluates a result.

pub(crate) mod experiment;
pub(crate) mod folder;
pub(crate) mod outlook;
pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod run;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use comfy_table::{CellAlignment, Table, presets};

use crate::client;
use crate::client::config::{give_up_time, server_name};
use crate::client::finish::Predict;
use crate::log::outcome::Outcome;
use crate::log::schema;
use crate::output;
use crate::results::page_line;
use crate::shape::backend::BackendChoice;
use crate::simulate;
use crate::text::fit;
use crate::units::Delay;
use experiment::{Experiment, entrant, find};
use folder::ExperimentFolder;
use outlook::{Effort, Predictions, Seconds};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SweepArgs {
    /// A .toml file, or the name of an experiment in ./experiments or built in: course-quick, rtt and others
    #[arg(value_name = "EXPERIMENT", required_unless_present = "list")]
    pub experiment: Option<PathBuf>,
    /// Server a: host or host:port
    #[arg(env = "TWINLINK_SERVER_A", default_value = "server-a", value_parser = server_name)]
    pub server_a: String,
    /// Server b
    #[arg(env = "TWINLINK_SERVER_B", default_value = "server-b", value_parser = server_name)]
    pub server_b: String,
    /// List the experiments that have a name, and end
    #[arg(long)]
    pub list: bool,
    /// List the runs and do none; needs no server and no privilege
    #[arg(long)]
    pub dry_run: bool,
    /// The folder whose files are served: by a lab of the sweep's own, and for sizes in a dry run; without it the built-in sample's
    #[arg(long, env = "TWINLINK_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Go on in DIR, or in the newest folder that holds this experiment: complete runs are not repeated
    #[arg(long, value_name = "DIR", num_args = 0..=1, conflicts_with = "dry_run")]
    pub resume: Option<Option<PathBuf>>,
    /// Where the experiment's folder is made
    #[arg(long, env = "TWINLINK_RESULTS", value_name = "DIR", default_value = "results")]
    pub results: PathBuf,
    /// Backend that shapes the links
    #[arg(long, env = "TWINLINK_BACKEND", default_value = "auto")]
    pub backend: BackendChoice,
    /// For programs: where the servers' access logs are, server-a.jsonl and server-b.jsonl
    #[arg(long, value_name = "DIR", env = "TWINLINK_SERVER_LOGS")]
    pub server_logs: Option<PathBuf>,
    /// How long a server may be away before a run gives it up
    #[arg(long, env = "TWINLINK_GIVE_UP", default_value = "10s", value_name = "TIME", value_parser = give_up_time, allow_hyphen_values = true)]
    pub give_up: Delay,
}

impl SweepArgs {
    /// Returns the experiment's name or path; the command line requires one.
    pub(crate) fn wanted(&self) -> &Path {
        self.experiment.as_deref().unwrap_or(Path::new(""))
    }
}

/// The experiment, from the command line to the exit code.
///
/// `predict` gives each run its `predicted_ms`; `afterwards` is told the experiment's folder, however the experiment went.
pub(crate) fn main(args: SweepArgs, predict: Predict, afterwards: impl FnOnce(&Path)) -> Result<()> {
    if args.list {
        return print(&list());
    }
    if args.dry_run {
        let experiment = Experiment::find(args.wanted())?;
        print(&dry_run(&experiment, args.data.as_deref())?)?;
        if let Err(error) = entrant::check_programs(&experiment.entrants, &experiment.folder) {
            tracing::warn!("the runs themselves would not begin: {error:#}");
        }
        return Ok(());
    }
    let experiment = check(&args)?;
    ensure!(
        experiment.server_command.is_none() || args.data.is_some(),
        "cannot tell the files of server_command: run the sweep outside a lab, so that it makes one, or name the folder \
         that is served with --data"
    );
    let folder = match &args.resume {
        Some(dir) => ExperimentFolder::find(&args.results, dir.as_deref(), &experiment)?,
        None => ExperimentFolder::create(&args.results, schema::new_run_id(), &experiment)?,
    };
    let end = client::runtime()?.block_on(run::all(&args, &experiment, &folder, predict));
    afterwards(&folder.dir);
    let end = end?;
    if output::is_text() && end.exit == Outcome::Ok {
        print(&format!("{}\n{}", end.summary, page_line(&folder.dir)))?;
    }
    if end.exit != Outcome::Ok {
        bail!("{} What there is stands in {}", end.summary, folder.dir.display());
    }
    Ok(())
}

/// Returns the experiments that have a name, each with its runs and what it is for.
fn list() -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["experiment", "runs", "what it is for"]);
    fit(&mut table);
    for name in find::names() {
        let (cells, said) = match Experiment::find(Path::new(&name)) {
            Ok(experiment) => (experiment.cells().to_string(), experiment.description.unwrap_or_default()),
            Err(error) => ("-".into(), format!("not valid: {error:#}")),
        };
        table.add_row([name, cells, said]);
    }
    format!("{}\n", table.trim_fmt())
}

/// Finds the experiment, and looks for the programs that it needs.
///
/// # Errors
/// The experiment is not found or invalid, or a program is not there.
pub(crate) fn check(args: &SweepArgs) -> Result<Experiment> {
    let experiment = Experiment::find(args.wanted())?;
    entrant::check_programs(&experiment.entrants, &experiment.folder)?;
    Ok(experiment)
}

/// Returns the output of a dry run: every run in its order.
fn dry_run(experiment: &Experiment, data: Option<&Path>) -> Result<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    fit(&mut table);
    let (pipelines, controls) = (experiment.pipelines.len() > 1, experiment.congestion.len() > 1);
    let counts = experiment.connections.len() > 1;
    let shown_columns = [true, true, true, true, true, pipelines, counts, controls, true];
    let only_shown = |cells: [String; 9]| {
        let kept = cells.into_iter().zip(shown_columns).filter(|(_, shown)| *shown);
        kept.map(|(cell, _)| cell).collect::<Vec<_>>()
    };
    let head = [
        "run",
        "block",
        "condition",
        "links",
        "entrant",
        "pipeline",
        "connections",
        "congestion",
        "predicted s",
    ];
    table.set_header(only_shown(head.map(String::from)));
    for column in 0..2 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let cells = plan::order(experiment);
    let progress = progress::Predicting::new();
    let sizes = simulate::sizes(data, experiment.files.as_deref())?;
    let tell = |done, all| progress.done(done, all);
    let outlook = Predictions::new(experiment, sizes, &cells, Effort::THOROUGH, tell);
    progress.finish();
    for cell in &cells {
        let congestion = cell.congestion.clone().unwrap_or("the kernel's".into());
        let seconds = outlook.seconds(cell);
        table.add_row(only_shown([
            cell.index.to_string(),
            cell.block.to_string(),
            cell.condition.clone(),
            cell.channel.clone(),
            cell.schedule.clone(),
            cell.pipeline.clone(),
            cell.connections.clone().unwrap_or("the schedule's".into()),
            congestion,
            seconds.map_or("unknown".into(), shown),
        ]));
    }
    let total = outlook
        .expected(&plan::steps(experiment, &[], &[]))
        .map_or(", of which some cannot be predicted".into(), |expected| format!(" take {expected}"));
    let repetitions = match experiment.repetitions {
        1 => "one repetition".into(),
        many => format!("{many} repetitions"),
    };
    Ok(format!("{}\n{} runs in {repetitions}{total}\n", table.trim_fmt(), cells.len()))
}

/// The seconds of a cell, and between which values they lie where losses decide.
fn shown(seconds: Seconds) -> String {
    let between =
        seconds.between.map_or(String::new(), |(least, most)| format!(" ({least:.2} to {most:.2})"));
    format!("{:.2}{between}", seconds.median)
}

fn print(text: &str) -> Result<()> {
    crate::text::print(text)
}
