//! `twinlink simulate`: predicts a run and prints it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};

use super::options::{RunOptions, ScheduleOptions};
use crate::client::finish::PastRun;
use crate::schedule::{Connections, Schedule};
use crate::simulate::{Control, Prediction, Setup, kernels_choice, predict, sizes};
use crate::text::{count, print, visible_json};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SimulateArgs {
    #[command(flatten)]
    pub run: RunOptions,
    #[command(flatten)]
    pub schedule: ScheduleOptions,
    /// Folder whose files are fetched, for their sizes; without it the built-in sample's
    #[arg(long, env = "TWINLINK_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The number of seeds where losses decide: the least and the most of their results bound nine of ten runs
/// with other seeds.
const SEEDS: usize = 9;

/// Predicts the run that the options describe, and prints it.
///
/// # Errors
/// An option is invalid, or a link has no rate.
pub(crate) fn main(args: SimulateArgs) -> Result<()> {
    let asked = args.run.load_links()?;
    let sizes = sizes(args.data.as_deref(), args.run.files.as_deref())?;
    let congestion = match &args.schedule.congestion {
        Some(name) => name.parse().map_err(anyhow::Error::msg)?,
        None => kernels_choice(),
    };
    for (id, profile) in ["a", "b"].iter().zip(&asked.profiles) {
        ensure!(
            profile.is_some(),
            "link {id} has no rate, so there is nothing to predict: give it a profile with --link-{id}"
        );
    }
    let chosen = args.schedule.schedule.clone();
    let schedule = chosen.for_playback(args.run.segment_duration.0, args.run.startup, 0);
    let setup = Setup {
        profiles: &asked.profiles,
        channel: asked.channel.as_ref(),
        changes: asked.script.as_ref().map_or(&[], |script| &script.changes),
        schedule: &schedule,
        pipeline: args.schedule.pipeline,
        connections: Connections::chosen(args.schedule.connections, &schedule),
        sizes: &sizes,
        congestion: [congestion; 2],
        kernel: kernels_choice(),
        seed: args.run.links.seed,
    };
    ensure!(
        !matches!(args.schedule.schedule, Schedule::Exec(_)),
        "cannot simulate a program's decisions; run them between the links with twinlink lab"
    );
    let prediction = predict(&setup, SEEDS, &|| true).context(
        "a link has no rate any more, or the files can never all arrive: see the profiles and the script",
    )?;
    let told = match args.json {
        true => visible_json(&serde_json::to_string(&prediction)?).into_owned(),
        false => text(&args, congestion, &prediction),
    };
    print(&format!("{told}\n"))
}

/// The processor time that a prediction may take at the end of a run. The time by the clock would make its
/// presence depend on what else the machine does.
const PREDICTION_CPU_TIME: Duration = Duration::from_millis(280);
/// Seeds that are played in it where losses decide.
const PREDICTION_SEEDS: usize = 3;

/// Returns the simulated time (ms) of a run that is over; `None` where a link has no rate or the simulation
/// takes too long.
pub(crate) fn predicted_ms(run: &PastRun) -> Option<f64> {
    let began = cpu_time();
    let sender = |name: &Option<String>| name.as_deref().and_then(|name| name.parse().ok());
    let setup = Setup {
        profiles: &run.profiles,
        channel: run.channel.as_ref(),
        changes: &run.changes,
        schedule: &run.schedule,
        pipeline: run.pipeline,
        connections: run.connections,
        sizes: &run.sizes,
        congestion: run.senders.each_ref().map(|name| sender(name).unwrap_or_else(kernels_choice)),
        kernel: kernels_choice(),
        seed: run.seed,
    };
    let in_time = || cpu_time().saturating_sub(began) < PREDICTION_CPU_TIME;
    predict(&setup, PREDICTION_SEEDS, &in_time).map(|prediction| prediction.elapsed_ms)
}

/// The processor time of this process so far, of all its threads.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

fn text(args: &SimulateArgs, congestion: Control, prediction: &Prediction) -> String {
    let links = [("a", &prediction.links.a), ("b", &prediction.links.b)].map(|(id, link)| {
        let done = link.last_byte_ms.map_or("-".into(), |ms| format!("{:.3} s", ms / 1e3));
        let rate = link.goodput_kbit.map_or("-".into(), |kbit| format!("{:.2} Mbit/s", kbit / 1e3));
        format!(
            "  link {id}: {:.1} % of the bytes, {} files, {rate}, done at {done}, {}",
            link.share_pct,
            link.files,
            count(link.connections as u64, "connection")
        )
    });
    let between = match prediction.seeds {
        1 => String::new(),
        seeds => format!(
            " ({:.3} to {:.3} s with {seeds} seeds)",
            prediction.least_ms / 1e3,
            prediction.most_ms / 1e3
        ),
    };
    format!(
        "{} with pipeline {} and {congestion}: {} files ({:.1} MB) in {:.3} s{between}; the bound is {:.3} s, efficiency {:.3}\n{}",
        args.schedule.schedule,
        args.schedule.pipeline,
        prediction.files,
        prediction.bytes as f64 / 1e6,
        prediction.elapsed_ms / 1e3,
        prediction.bound_ms / 1e3,
        prediction.efficiency,
        links.join("\n")
    )
}
