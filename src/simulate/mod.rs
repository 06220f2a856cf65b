//! `twinlink simulate`: how long a run would take, in virtual time.
//!
//! The scheduler is the client's own, the links and the shared channel are the shaper's own model of
//! them (`crate::emulate::emulator`), and TCP is played segment by segment ([`connection`], with a [`sender`] and
//! a [`receiver`] at each end). Everything below this module is pure: no clock, no file, no socket. What
//! the model leaves out stands in `docs/simulation.md`.

pub(crate) mod client;
pub(crate) mod connection;
pub(crate) mod lookup;
pub mod predict;
pub(crate) mod receiver;
pub(crate) mod run;
pub(crate) mod sender;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::client::LinkSetup;
use crate::manifest::folder;
use crate::segments::Set;
use crate::text::print;
use crate::units::ByteCount;
use crate::{client as client_role, manifest};
pub use predict::{Prediction, Setup, predict};
pub use sender::control::Control;

/// The client's options, and those of a simulation. Servers are not taken.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(mut_arg("servers", |servers| servers.required(false).hide(true)))]
pub struct SimulateArgs {
    #[command(flatten)]
    pub client: client_role::ClientArgs,
    /// Folder whose files are fetched, for their sizes; without it the built-in sample's
    #[arg(long, env = "TWINLINK_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// So many seeds are played where losses decide: the least and the most of them hold between them what
/// nine of ten runs with other seeds take.
const SEEDS: usize = 9;

/// Predicts the run that the options describe, and prints it.
///
/// # Errors
/// Options that make no sense, and links without a rate.
pub fn main(args: SimulateArgs) -> Result<()> {
    if let Some(server) = args.client.servers.first() {
        bail!("a simulation needs no servers: leave {server} out, and say --data DIR for the files' sizes");
    }
    let asked = LinkSetup::load(&args.client)?;
    let sizes = sizes(args.data.as_deref(), args.client.files.as_deref())?;
    let congestion = match &args.client.congestion {
        Some(name) => name.parse().map_err(anyhow::Error::msg)?,
        None => kernels_choice(),
    };
    for (id, profile) in ["a", "b"].iter().zip(&asked.profiles) {
        ensure!(
            profile.is_some(),
            "link {id} has no rate, so there is nothing to predict: give it a profile with --link-{id}"
        );
    }
    let schedule = args.client.schedule_of([]);
    let setup = Setup {
        profiles: &asked.profiles,
        air: asked.air.as_ref(),
        changes: asked.script.as_ref().map_or(&[], |script| &script.changes),
        schedule: &schedule,
        pipeline: args.client.pipeline,
        sizes: &sizes,
        congestion: [congestion; 2],
        kernel: kernels_choice(),
        seed: args.client.seed,
    };
    let prediction = predict(&setup, SEEDS, &|| true).context(
        "a link has no rate any more, or the files can never all arrive: see the profiles and the script",
    )?;
    let told =
        if args.json { serde_json::to_string(&prediction)? } else { text(&args, congestion, &prediction) };
    print(&format!("{told}\n"))
}

/// What this machine's kernel sends with where nothing is chosen; CUBIC where it is unknown or has no
/// model, as most kernels have it.
pub fn kernels_choice() -> Control {
    let name = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
    name.trim().parse().unwrap_or(Control::Cubic)
}

/// The sizes of the files of a folder, or of the built-in sample, in the order of the list.
pub fn sizes(data: Option<&Path>, pattern: Option<&str>) -> Result<Vec<u64>> {
    let all: Vec<(String, u64)> = match data {
        Some(data) => {
            let mut found = folder::list(data)?;
            ensure!(!found.is_empty(), "{} holds no file that a server would serve", data.display());
            folder::sort(&mut found, &folder::read_list(data));
            let size = |file: folder::FolderFile| {
                let metadata = std::fs::metadata(&file.path)
                    .with_context(|| format!("cannot examine {}", file.path.display()))?;
                Ok((file.name, metadata.len()))
            };
            found.into_iter().map(size).collect::<Result<_>>()?
        }
        None => {
            let set = Set::new(160, ByteCount(500_000), 1)?;
            (0..set.sizes().len()).map(|index| (set.name(index), set.sizes()[index])).collect()
        }
    };
    let Some(pattern) = pattern else { return Ok(all.into_iter().map(|file| file.1).collect()) };
    let sizes: std::collections::HashMap<String, u64> = all.into_iter().collect();
    let whence = data.map_or("the built-in sample".into(), |data| data.display().to_string());
    let size = |wanted: manifest::ManifestEntry| {
        sizes.get(&wanted.name).copied().with_context(|| {
            format!("--files asks for {}, which is not in {whence}: name the folder with --data", wanted.name)
        })
    };
    manifest::expand(pattern)?.into_iter().map(size).collect()
}

fn text(args: &SimulateArgs, congestion: Control, prediction: &Prediction) -> String {
    let links = [("a", &prediction.links.a), ("b", &prediction.links.b)].map(|(id, link)| {
        let done = link.last_byte_ms.map_or("-".into(), |ms| format!("{:.3} s", ms / 1e3));
        let rate = link.goodput_kbit.map_or("-".into(), |kbit| format!("{:.2} Mbit/s", kbit / 1e3));
        format!(
            "  link {id}: {:.1} % of the bytes, {} files, {rate}, done at {done}",
            link.share_pct, link.files
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
        args.client.schedule,
        args.client.pipeline,
        prediction.files,
        prediction.bytes as f64 / 1e6,
        prediction.elapsed_ms / 1e3,
        prediction.bound_ms / 1e3,
        prediction.efficiency,
        links.join("\n")
    )
}
