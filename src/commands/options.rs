//! Options that several commands have.

use std::path::PathBuf;

use anyhow::Result;

use crate::client::config::{files_pattern, give_up_time};
use crate::log::schema::Stdout;
use crate::schedule::{self, Connections, Pipeline, Schedule};
use crate::shape::setup::{LinkOptions, LinkSetup};
use crate::tcp;
use crate::units::Delay;

/// The files and the links of a run, also of a simulated one.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub links: LinkOptions,
    /// Change links during the run as this file says
    #[arg(long, env = "TWINLINK_SCRIPT", value_name = "FILE", help_heading = "Links")]
    pub script: Option<PathBuf>,
    /// Files to fetch, as in s{001..160}.m4s; else all in the servers' list
    #[arg(long, env = "TWINLINK_FILES", value_name = "PATTERN", value_parser = files_pattern)]
    pub files: Option<String>,
    /// The time that a segment plays, for deadlines and for the quality for a viewer
    #[arg(long, env = "TWINLINK_SEGMENT_DURATION", default_value = "4s", value_name = "TIME", value_parser = playing_time,
          allow_hyphen_values = true, help_heading = "Player")]
    pub segment_duration: Delay,
    /// Segments that a player waits for before it starts
    #[arg(long, env = "TWINLINK_STARTUP", default_value_t = 2, value_name = "SEGMENTS",
          value_parser = clap::value_parser!(u64).range(1..), allow_hyphen_values = true, help_heading = "Player")]
    pub startup: u64,
}

impl RunOptions {
    /// Loads the links' profiles, channel and script.
    ///
    /// # Errors
    /// As [`LinkOptions::load`].
    pub(crate) fn load_links(&self) -> Result<LinkSetup> {
        self.links.load(self.script.as_deref())
    }
}

/// The division of the files between the links, in a run and in its simulation.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ScheduleOptions {
    #[arg(long, env = "TWINLINK_SCHEDULE", default_value = "adaptive", help = schedule::HELP, help_heading = "Schedule")]
    pub schedule: Schedule,
    /// Requests in flight per connection: a number, or auto (asks for the next while the rest takes less than
    /// two RTTs and 150 ms)
    #[arg(
        long,
        env = "TWINLINK_PIPELINE",
        default_value = "auto",
        value_name = "auto|N",
        allow_hyphen_values = true,
        help_heading = "Schedule"
    )]
    pub pipeline: Pipeline,
    /// TCP connections to each server: a number, or auto (more than one on a round trip from 80 ms on, and more while
    /// losses limit a link and more carry more); without it auto for adaptive and inorder, and 1 for the others
    #[arg(
        long,
        env = "TWINLINK_CONNECTIONS",
        value_name = "auto|N",
        allow_hyphen_values = true,
        help_heading = "Schedule"
    )]
    pub connections: Option<Connections>,
    /// Congestion control of the servers' sockets, and of the client's; each kernel's default without it
    #[arg(long, env = "TWINLINK_CONGESTION", value_name = "NAME", value_parser = tcp::CONGESTION_CONTROLS,
          help_heading = "Schedule")]
    pub congestion: Option<String>,
}

/// Options of a run that takes place, with servers that may be away, and a log.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LiveOptions {
    /// How long a server may be away before it is given up
    #[arg(long, env = "TWINLINK_GIVE_UP", default_value = "10s", value_name = "TIME", value_parser = give_up_time, allow_hyphen_values = true)]
    pub give_up: Delay,
    /// Records on standard output where it is no terminal: all but segments and samples, segments too, or all
    #[arg(long, env = "TWINLINK_STDOUT", value_enum, default_value = "records", help_heading = "Results")]
    pub stdout: Stdout,
    /// Write what became of each packet on the shaped links to FILE, as pcapng; userspace backend
    #[arg(long, env = "TWINLINK_CAPTURE", value_name = "FILE", help_heading = "Results")]
    pub capture: Option<PathBuf>,
}

fn playing_time(text: &str) -> Result<Delay, String> {
    let time: Delay = text.parse()?;
    if time.is_zero() { Err("a segment plays for some time; write 4s, say".into()) } else { Ok(time) }
}
