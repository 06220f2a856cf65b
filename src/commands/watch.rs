//! `twinlink watch`, and the page of `--watch` that follows what other commands run.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};

use super::link::{self, Place};
use crate::config::profile::load;
use crate::shape::guard;
use crate::text::tell;
use crate::units::LinkId;
use crate::watch;
use crate::watch::serve::{PageServer, SetLink, loopback, serve};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WatchArgs {
    /// A run's or an experiment's folder, a log, or a folder of results, of which the newest is followed
    #[arg(value_name = "RESULTS", default_value = "results")]
    pub path: PathBuf,
    /// Serve a page on a port of loopback, as in :8080, in place of the terminal
    #[arg(long, value_name = "ADDRESS", value_parser = loopback)]
    pub watch: Option<SocketAddr>,
    /// Let the page change the links
    #[arg(long, requires = "watch")]
    pub control: bool,
    #[command(flatten)]
    pub place: Place,
    /// Follow what begins from now on, and end with standard input: for the command that started this
    #[arg(long, hide = true, requires = "watch")]
    pub beside: bool,
}

/// The page that follows a run, of the commands that run.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct WatchOptions {
    /// Serve a page that follows the run, on a port of loopback, as in :8080
    #[arg(long, value_name = "ADDRESS", value_parser = loopback, help_heading = "Output")]
    pub watch: Option<SocketAddr>,
    /// Let that page change the links
    #[arg(long, requires = "watch", help_heading = "Output")]
    pub control: bool,
}

/// The setting by which a command in a lab knows that it is watched from outside.
const WATCHED: &str = "TWINLINK_WATCHED";
/// How long the page stays after the run, for its last records.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// File systems keep times less exactly than clocks.
const SLACK: Duration = Duration::from_secs(1);

/// Shows or serves the newest run of a folder.
///
/// # Errors
/// There is no such folder, the port is taken, or a log cannot be read.
pub(crate) fn main(args: &WatchArgs) -> Result<()> {
    let Some(address) = args.watch else {
        ensure!(
            args.path.exists(),
            "cannot watch {}: it is not there; name a folder of results",
            args.path.display()
        );
        return watch::show(&args.path);
    };
    let listener = TcpListener::bind(address)
        .with_context(|| format!("cannot serve the page on {address}: name a free port with --watch"))?;
    tell(&format!("watch it at http://{}/", listener.local_addr()?));
    let since = args.beside.then(|| SystemTime::now() - SLACK);
    if args.beside {
        std::thread::Builder::new().name("starter".into()).spawn(|| {
            // Its end is all that is waited for.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::thread::sleep(LAST_WORDS);
            std::process::exit(0);
        })?;
    }
    let control = args.control.then(|| control(Place { quiet: true, ..args.place.clone() })).transpose()?;
    serve(&listener, &PageServer { root: args.path.clone(), since, control })
}

fn control(place: Place) -> Result<(Vec<String>, SetLink)> {
    let listed = load::list()?.into_iter().filter(|(_, _, profile)| profile.is_ok());
    let set = move |link: LinkId, profile: &str| link::set_profile(link, profile, &place).map(drop);
    Ok((listed.map(|(name, ..)| name).collect(), Arc::new(set)))
}

/// The process that serves the page; it ends soon after this is dropped.
pub(crate) struct Watcher(Option<Child>);

impl WatchOptions {
    /// Starts the page of what is about to run with its results below `root`, before any lab is built: nobody outside
    /// reaches the loopback of a lab. `lab` is the name of that lab.
    ///
    /// # Errors
    /// There is no folder of results, or the process cannot be started.
    pub(crate) fn start(&self, root: Option<&Path>, lab: Option<String>) -> Result<Watcher> {
        let Some(address) = self.watch.filter(|_| std::env::var_os(WATCHED).is_none()) else {
            return Ok(Watcher(None));
        };
        if guard::is_own_namespace() && std::env::var_os("TWINLINK_NS_CLIENT").is_some() {
            bail!(
                "nobody outside reaches a page in a lab: leave --watch out, and start twinlink watch --watch {address}"
            );
        }
        let root = root.context("--watch follows the log: add --results DIR")?;
        let mut command = Command::new(std::env::current_exe().context("cannot find the program itself")?);
        command.arg("watch").arg(root).args(["--beside", "--watch", &address.to_string()]);
        command.args(self.control.then_some("--control"));
        command.args(lab.into_iter().flat_map(|name| ["--lab".into(), name]));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let child = child.context("cannot start the page's server")?;
        // SAFETY: no other thread runs yet, so none can be reading the environment.
        unsafe { std::env::set_var(WATCHED, "1") };
        Ok(Watcher(Some(child)))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            drop(child.stdin.take());
            // It may have ended before, as where the port was taken.
            let _ = child.wait();
        }
    }
}
