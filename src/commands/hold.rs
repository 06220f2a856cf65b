//! `twinlink link hold`: shapes links for as long as another program runs, with either backend.
//!
//! The userspace backend needs a process that holds the packets; this is one for measurements with
//! programs of one's own. It does not fetch anything, and writes no log. While the program runs,
//! `twinlink link set|show|clear` reach it at the control socket.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

use crate::runtime::EndingSignals;
use crate::shape::Shaper;
use crate::shape::active_shaping::ActiveShaping;
use crate::shape::backend::ShapingRequest;
use crate::shape::control::client::ControlRequest;
use crate::shape::control::server::ControlServer;
use crate::shape::setup::LinkOptions;
use crate::text::tell;
use crate::units::{Direction, LinkId};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HoldArgs {
    #[command(flatten)]
    links: LinkOptions,
    /// The server at the end of link a
    #[arg(long, value_name = "HOST", default_value = "server-a")]
    server_a: String,
    /// The server at the end of link b
    #[arg(long, value_name = "HOST", default_value = "server-b")]
    server_b: String,
    /// Write what was counted to this file when the program has ended, as JSON
    #[arg(long, value_name = "FILE")]
    counters: Option<std::path::PathBuf>,
    /// Write what became of each packet to FILE, as pcapng; userspace backend
    #[arg(long, value_name = "FILE")]
    capture: Option<std::path::PathBuf>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl HoldArgs {
    fn server(&self, link: LinkId) -> &str {
        if link == LinkId::A { &self.server_a } else { &self.server_b }
    }
}

/// How late packets left over the whole time, by direction of a link.
#[derive(Default)]
struct HoldLateness(BTreeMap<(LinkId, Direction), LateRow>);

#[derive(Serialize)]
struct LateRow {
    link: LinkId,
    direction: Direction,
    /// The percentiles of the worst second: a mean over seconds would hide it.
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl HoldLateness {
    fn note(&mut self, rows: &[ActiveShaping]) {
        for ActiveShaping { link, direction, counters, .. } in rows {
            let (link, direction) = (*link, *direction);
            let empty = LateRow { link, direction, p50_ms: 0.0, p99_ms: 0.0, max_ms: 0.0 };
            let row = self.0.entry((link, direction)).or_insert(empty);
            let worst = |so_far: f64, now: Option<f64>| now.map_or(so_far, |now| so_far.max(now));
            row.p50_ms = worst(row.p50_ms, counters.lateness_p50_ms);
            row.p99_ms = worst(row.p99_ms, counters.lateness_p99_ms);
            row.max_ms = worst(row.max_ms, counters.lateness_ms);
        }
    }
}

fn resolve(host: &str) -> Result<IpAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let found = (bare, 0).to_socket_addrs().with_context(|| {
        format!("cannot find the address of {host}: name it with --server-a or --server-b")
    })?;
    found
        .map(|address| address.ip())
        .next()
        .with_context(|| format!("cannot find the address of {host}: it has none"))
}

/// Shapes, runs the program, removes the shaping; fails if the program does.
pub(crate) fn main(args: &HoldArgs) -> Result<()> {
    let setup = args.links.load(None)?.with_capture(args.capture.as_deref(), args.links.backend)?;
    let wanted = setup.requests(|link| resolve(args.server(link)))?;
    if wanted.is_empty() {
        tell("neither link is shaped: --link-a PROFILE --link-b PROFILE shapes them");
    }
    let runtime = crate::runtime::multi_thread(1)?;
    let capture = setup.capture.as_deref().map(crate::results::create_named).transpose()?;
    let shaper =
        Shaper::start(&wanted, setup.channel.as_ref(), args.links.backend, args.links.seed, capture)?;
    for row in shaper.rows() {
        let (link, direction, profile) = (row.link, row.direction, &row.profile);
        tracing::info!(
            "link {link} {direction}: {profile}, {} ({})",
            row.backend,
            row.why.as_deref().unwrap_or_default()
        );
    }
    let shaper = Arc::new(Mutex::new(shaper));
    let mut late = HoldLateness::default();
    let status = runtime.block_on(async {
        // Only `link set` needs the control socket, so the program runs without it.
        match ControlServer::open() {
            Ok(control) => drop(tokio::spawn(control.serve(acting(args.clone(), shaper.clone())))),
            Err(error) => tracing::debug!("links cannot be set meanwhile: {error:#}"),
        }
        // Traces begin with the program.
        locked(&shaper).play()?;
        run(&args.command, &shaper, &mut late).await
    })?;
    let mut shaper = locked(&shaper);
    if let Some(path) = &args.counters {
        let counted =
            serde_json::json!({ "links": shaper.show()?, "lateness": late.0.values().collect::<Vec<_>>() });
        let text = serde_json::to_string_pretty(&counted)?;
        crate::results::write_named(path, text.as_bytes())
            .with_context(|| format!("cannot write the counters to {}", path.display()))?;
    }
    if !status.success() {
        bail!("{} ended with {status}", args.command[0]);
    }
    Ok(())
}

fn locked(shaper: &Mutex<Shaper>) -> MutexGuard<'_, Shaper> {
    shaper.lock().expect("nobody panics while holding the shaper")
}

/// Returns the action on the control socket's requests.
fn acting(
    args: HoldArgs,
    shaper: Arc<Mutex<Shaper>>,
) -> impl Fn(ControlRequest) -> Result<Vec<ActiveShaping>> {
    move |request| {
        let mut shaper = locked(&shaper);
        match request {
            ControlRequest::Set { link, profile } => {
                let wanted = ShapingRequest { link, server: resolve(args.server(link))?, profile: *profile };
                shaper.change(&wanted)?;
            }
            ControlRequest::Show => {}
            ControlRequest::Clear { link } => {
                LinkId::named(link).try_for_each(|link| shaper.clear_link(link))?;
            }
        }
        shaper.show()
    }
}

/// Runs the program to its end, and reports faults of the links meanwhile.
async fn run(command: &[String], shaper: &Mutex<Shaper>, late: &mut HoldLateness) -> Result<ExitStatus> {
    let mut child = tokio::process::Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {}", command[0]))?;
    let mut signals = EndingSignals::listen()?;
    let mut look = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            status = child.wait() => return status.with_context(|| format!("cannot wait for {}", command[0])),
            signal = signals.next() => match (signal, child.id()) {
                // A terminal sends these to the program as well, so there is nothing to pass on.
                (Signal::SIGINT | Signal::SIGQUIT, _) | (_, None) => {}
                // The child has not been waited for, so its id is its own.
                (signal, Some(pid)) => drop(kill(Pid::from_raw(pid as i32), signal)),
            },
            _ = look.tick() => {
                let mut shaper = locked(shaper);
                late.note(shaper.read()?);
                shaper.take_steps();
                for (link, fault) in shaper.take_faults() {
                    tracing::warn!("link {link} {fault}");
                }
            }
        }
    }
}
