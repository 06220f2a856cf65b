//! `twinlink link probe`: measures the links, with profiles or as they are. Fails where a link differs from
//! its profile.

use std::sync::Arc;

use anyhow::{Result, bail};
use comfy_table::{Table, presets};

use crate::client::blocking;
use crate::client::config::{give_up_time, server_name};
use crate::client::links::Links;
use crate::client::measure::{Prober, Rows};
use crate::client::origin::Origin;
use crate::client::signals::Signals;
use crate::commands::link::show;
use crate::log::schema;
use crate::log::schema::{Log, PerLink, Probe, Stdout};
use crate::shape::setup::{LinkOptions, LinkSetup};
use crate::text::{fit, print, print_json};
use crate::units::{Delay, LinkId};
use crate::{client, manifest};

#[derive(Clone, Debug, clap::Args)]
#[command(mut_args(measured_as_they_are))]
pub(crate) struct ProbeArgs {
    /// The server at the end of link a
    #[arg(default_value = "server-a", value_parser = server_name)]
    server_a: String,
    /// The server at the end of link b
    #[arg(default_value = "server-b", value_parser = server_name)]
    server_b: String,
    #[command(flatten)]
    links: LinkOptions,
    /// Files to ask for, as in s{001..160}.m4s; else all in the servers' SHA256SUMS
    #[arg(long, env = "TWINLINK_FILES", value_name = "PATTERN")]
    files: Option<String>,
    /// How long a server may be silent
    #[arg(long, env = "TWINLINK_GIVE_UP", default_value = "10s", value_name = "TIME", value_parser = give_up_time, allow_hyphen_values = true)]
    give_up: Delay,
    /// One JSON array instead of a table
    #[arg(long)]
    json: bool,
}

/// Keeps the environment of a client whose links are up from shaping them again.
fn measured_as_they_are(arg: clap::Arg) -> clap::Arg {
    if ["link_a", "link_b", "channel"].iter().any(|id| arg.get_id() == id) {
        arg.env(None::<&str>)
    } else {
        arg
    }
}

pub(crate) fn main(args: &ProbeArgs) -> Result<()> {
    let asked = args.links.load(None)?;
    let probes = client::runtime()?.block_on(run(args, asked))?;
    if args.json {
        print_json(&probes)
    } else {
        print(&format!("{}\n{}", table(&probes), verdicts(&probes)))
    }?;
    let bad = probes.iter().filter(|probe| probe.ok == Some(false)).count();
    if bad > 0 {
        bail!("{bad} of {} directions are not what their profiles say", probes.len());
    }
    Ok(())
}

async fn run(args: &ProbeArgs, asked: LinkSetup) -> Result<Vec<Probe>> {
    let mut signals = Signals::listen()?;
    let a = Origin::resolve(LinkId::A, &args.server_a, None).await?;
    let b = Origin::resolve(LinkId::B, &args.server_b, None).await?;
    let own = if asked.profiles.iter().any(Option::is_some) {
        let log = Arc::new(Log::new(schema::new_run_id(), None, Stdout::Nothing)?);
        let (servers, choice, seed) = ([a.address.ip(), b.address.ip()], args.links.backend, args.links.seed);
        let start = move || Links::start(asked, servers, choice, seed, log).map(Arc::new);
        Some(blocking(start).await.map_err(|failure| failure.error)?)
    } else {
        None
    };
    let rows: Rows = match own.clone() {
        Some(links) => Arc::new(move || links.rows()),
        None => Arc::new(show),
    };
    let found = tokio::select! {
        found = measure(args, PerLink { a, b }, rows) => found,
        interrupted = signals.next() => Err(interrupted.error),
    };
    if let Some(links) = own {
        blocking(move || links.finish()).await.map_err(|failure| failure.error)?;
    }
    found
}

async fn measure(args: &ProbeArgs, origins: PerLink<Origin>, rows: Rows) -> Result<Vec<Probe>> {
    let give_up = args.give_up.0;
    let (a, b) =
        tokio::try_join!(origins.a.query_capabilities(give_up), origins.b.query_capabilities(give_up))?;
    let files = manifest::agree(args.files.as_deref(), a.list.clone(), b.list.clone())?;
    let paths = files.into_iter().map(|file| file.path).collect();
    Prober::new(origins, &PerLink { a, b }, paths, rows, give_up).measure().await
}

fn verdicts(probes: &[Probe]) -> String {
    probes.iter().map(|probe| format!("{} {}: {}\n", probe.link, probe.direction, probe.verdict)).collect()
}

fn table(probes: &[Probe]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(vec!["link", "RTT ms", "expected", "Mbit/s", "expected", "goodput", "loss", "ok"]);
    fit(&mut table);
    let number = |value: Option<f64>, factor: f64, digits: usize, unit: &str| {
        value.map_or("-".to_string(), |value| format!("{:.digits$} {unit}", value * factor))
    };
    for probe in probes {
        table.add_row([
            format!("{} {}", probe.link, probe.direction),
            number(probe.rtt_ms, 1.0, 1, ""),
            number(probe.rtt_expected_ms, 1.0, 1, ""),
            number(probe.rate_kbit, 1e-3, 3, ""),
            number(probe.rate_expected_kbit, 1e-3, 3, ""),
            number(probe.goodput_kbit, 1e-3, 3, ""),
            number(probe.loss_pct, 1.0, 3, "%"),
            probe.ok.map_or("-", |ok| if ok { "yes" } else { "NO" }).to_string(),
        ]);
    }
    table
}
