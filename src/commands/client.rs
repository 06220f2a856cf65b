//! `twinlink client`: the client's options, of the command line or of the environment.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::options::{LiveOptions, RunOptions, ScheduleOptions};
use super::watch::WatchOptions;
use crate::client;
use crate::client::LogPlace;
use crate::client::config::{RunConfig, server_name};
use crate::client::finish::Predict;
use crate::client::measure;
use crate::units::{PerLink, Percent};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ClientArgs {
    /// The two servers, a and b: host or host:port (4455 where no port is given)
    #[arg(value_names = ["SERVER_A", "SERVER_B"], num_args = 2, required = true, value_parser = server_name)]
    pub servers: Vec<String>,
    #[command(flatten)]
    pub run: RunOptions,
    #[command(flatten)]
    pub schedule: ScheduleOptions,
    #[command(flatten)]
    pub live: LiveOptions,
    #[command(flatten)]
    pub watch: WatchOptions,
    /// Folder for the files, created if missing; without it they are verified and deleted
    #[arg(long, env = "TWINLINK_OUT", value_name = "DIR", help_heading = "Results")]
    pub out: Option<PathBuf>,
    /// Make a new folder for this run in DIR, with log.jsonl in it; none where there is a --log
    #[arg(long, env = "TWINLINK_RESULTS", value_name = "DIR", help_heading = "Results")]
    pub results: Option<PathBuf>,
    /// Write the log to FILE, which must not exist yet
    #[arg(long, env = "TWINLINK_LOG", value_name = "FILE", help_heading = "Results")]
    pub log: Option<PathBuf>,
    /// Measure the links before the run: off, on (a link that differs from its profile ends the run; --probe alone means this), or warn (logs the difference and goes on)
    #[arg(long, env = "TWINLINK_PROBE", value_enum, default_value = "off", default_missing_value = "on", num_args = 0..=1)]
    pub probe: measure::When,
    /// Do not check digests
    #[arg(long, env = "TWINLINK_NO_VERIFY", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_verify: bool,
    /// Flush the files to the disk after the run, and log the time that it took
    #[arg(long, env = "TWINLINK_SYNC", value_parser = clap::builder::FalseyValueParser::new())]
    pub sync: bool,
    /// Go on in the folder of --out where an earlier run ended: complete files there are checked and kept
    #[arg(long, env = "TWINLINK_RESUME", value_parser = clap::builder::FalseyValueParser::new(), requires = "out")]
    pub resume: bool,
    /// A server that brings less than this share of what the other link carries, for 5 s, counts as silent; 0% for none
    #[arg(
        long,
        env = "TWINLINK_LEAST_RATE",
        default_value = "1%",
        value_name = "PERCENT",
        allow_hyphen_values = true
    )]
    pub least_rate: Percent,
}

impl From<ClientArgs> for RunConfig {
    fn from(args: ClientArgs) -> RunConfig {
        let mut servers = args.servers.into_iter();
        let mut next = || servers.next().unwrap_or_default();
        RunConfig {
            servers: PerLink { a: next(), b: next() },
            schedule: args.schedule.schedule,
            pipeline: args.schedule.pipeline,
            connections: args.schedule.connections,
            backend: args.run.links.backend,
            out: args.out,
            files: args.run.files,
            congestion: args.schedule.congestion,
            probe: args.probe,
            verify: !args.no_verify,
            sync: args.sync,
            resume: args.resume,
            give_up: args.live.give_up.0,
            least_rate: args.least_rate,
            segment_duration: args.run.segment_duration,
            startup: args.run.startup,
            seed: args.run.links.seed,
        }
    }
}

impl ClientArgs {
    /// Returns the folder or file in which the run's log will be.
    pub(crate) fn log_place(&self) -> Option<&Path> {
        self.log.as_deref().or(self.results.as_deref())
    }
}

/// Does one run. `predict` gives its record the `predicted_ms`; `afterwards` is told the run's folder under
/// `--results`, however the run went.
///
/// # Errors
/// An option is invalid, or the run failed.
pub(crate) fn main(args: ClientArgs, predict: Predict, afterwards: impl FnOnce(&Path)) -> Result<()> {
    let links = args.run.load_links()?.with_capture(args.live.capture.as_deref(), args.run.links.backend)?;
    let place = LogPlace { results: args.results.clone(), file: args.log.clone(), stdout: args.live.stdout };
    client::main(args.into(), links, &place, predict, afterwards)
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;

    #[test]
    fn options_that_are_not_given_are_the_defaults() {
        let command = <ClientArgs as clap::Args>::augment_args(clap::Command::new("client"));
        let command = command.mut_args(|arg| arg.env(None::<&str>));
        let matches = command.get_matches_from(["client", "server-a", "server-b"]);
        let args = ClientArgs::from_arg_matches(&matches).unwrap();
        assert_eq!(RunConfig::from(args), RunConfig::default());
    }
}
