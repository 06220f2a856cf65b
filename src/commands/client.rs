//! `twinlink client`: the client's options, of the command line or of the environment.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::client;
use crate::client::LogPlace;
use crate::client::config::{RunConfig, files_pattern, give_up_time, server_name};
use crate::client::finish::Predict;
use crate::client::measure;
use crate::log::schema::Stdout;
use crate::schedule::{self, Pipeline, Schedule};
use crate::shape::setup::{LinkOptions, LinkSetup};
use crate::tcp;
use crate::units::{Delay, PerLink, Percent};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ClientArgs {
    /// The two servers, a and b: host or host:port (4455 where no port is given)
    #[arg(value_names = ["SERVER_A", "SERVER_B"], num_args = 2, required = true, value_parser = server_name)]
    pub servers: Vec<String>,
    #[arg(long, env = "TWINLINK_SCHEDULE", default_value = "adaptive", help = schedule::HELP)]
    pub schedule: Schedule,
    /// Requests in flight per connection: a number, or auto (asks for the next while the rest takes less than
    /// two RTTs and 150 ms)
    #[arg(
        long,
        env = "TWINLINK_PIPELINE",
        default_value = "auto",
        value_name = "auto|N",
        allow_hyphen_values = true
    )]
    pub pipeline: Pipeline,
    #[command(flatten)]
    pub links: LinkOptions,
    /// Change links during the run as this file says
    #[arg(long, env = "TWINLINK_SCRIPT", value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// Folder for the files, created if missing; without it they are verified and deleted
    #[arg(long, env = "TWINLINK_OUT", value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Make a new folder for this run in DIR, with log.jsonl in it; none where there is a --log
    #[arg(long, env = "TWINLINK_RESULTS", value_name = "DIR")]
    pub results: Option<PathBuf>,
    /// Write the log to FILE, which must not exist yet
    #[arg(long, env = "TWINLINK_LOG", value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Files to fetch, as in s{001..160}.m4s; else all in the servers' SHA256SUMS
    #[arg(long, env = "TWINLINK_FILES", value_name = "PATTERN", value_parser = files_pattern)]
    pub files: Option<String>,
    /// Congestion control of the servers' sockets, and of the client's; each kernel's default without it
    #[arg(long, env = "TWINLINK_CONGESTION", value_name = "NAME", value_parser = tcp::CONGESTION_CONTROLS)]
    pub congestion: Option<String>,
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
    /// How long a server may be away before it is given up
    #[arg(long, env = "TWINLINK_GIVE_UP", default_value = "10s", value_name = "TIME", value_parser = give_up_time, allow_hyphen_values = true)]
    pub give_up: Delay,
    /// A server that brings less than this share of what the other link carries, for 5 s, counts as silent; 0% for none
    #[arg(
        long,
        env = "TWINLINK_LEAST_RATE",
        default_value = "1%",
        value_name = "PERCENT",
        allow_hyphen_values = true
    )]
    pub least_rate: Percent,
    /// The time that a segment plays, for deadlines and for the quality for a viewer
    #[arg(long, env = "TWINLINK_SEGMENT_DURATION", default_value = "4s", value_name = "TIME", value_parser = playing_time, allow_hyphen_values = true)]
    pub segment_duration: Delay,
    /// Segments that a player waits for before it starts
    #[arg(long, env = "TWINLINK_STARTUP", default_value_t = 2, value_name = "SEGMENTS",
          value_parser = clap::value_parser!(u64).range(1..), allow_hyphen_values = true)]
    pub startup: u64,
    /// Records on standard output where it is no terminal: all but segments and samples, segments too, or all
    #[arg(long, env = "TWINLINK_STDOUT", value_enum, default_value = "records")]
    pub stdout: Stdout,
}

fn playing_time(text: &str) -> Result<Delay, String> {
    let time: Delay = text.parse()?;
    if time.is_zero() { Err("a segment plays for some time; write 4s, say".into()) } else { Ok(time) }
}

impl ClientArgs {
    /// Loads the links' profiles, channel and script.
    ///
    /// # Errors
    /// As [`LinkOptions::load`].
    pub(crate) fn load_links(&self) -> Result<LinkSetup> {
        self.links.load(self.script.as_deref())
    }
}

impl From<ClientArgs> for RunConfig {
    fn from(args: ClientArgs) -> RunConfig {
        let mut servers = args.servers.into_iter();
        let mut next = || servers.next().unwrap_or_default();
        RunConfig {
            servers: PerLink { a: next(), b: next() },
            schedule: args.schedule,
            pipeline: args.pipeline,
            backend: args.links.backend,
            out: args.out,
            files: args.files,
            congestion: args.congestion,
            probe: args.probe,
            verify: !args.no_verify,
            sync: args.sync,
            resume: args.resume,
            give_up: args.give_up.0,
            least_rate: args.least_rate,
            segment_duration: args.segment_duration,
            startup: args.startup,
            seed: args.links.seed,
        }
    }
}

/// Does one run. `predict` gives its record the `predicted_ms`; `afterwards` is told the run's folder under
/// `--results`, however the run went.
///
/// # Errors
/// An option is invalid, or the run failed.
pub(crate) fn main(args: ClientArgs, predict: Predict, afterwards: impl FnOnce(&Path)) -> Result<()> {
    let links = args.load_links()?;
    let place = LogPlace { results: args.results.clone(), file: args.log.clone(), stdout: args.stdout };
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
