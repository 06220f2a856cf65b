//! The configuration of a run, which the command line or an experiment fills in.

use std::path::PathBuf;
use std::time::Duration;

use super::measure::When;
use super::origin;
use crate::manifest;
use crate::schedule::{Connections, Pipeline, Schedule};
use crate::shape::backend::BackendChoice;
use crate::units::{Delay, PerLink, Percent};

/// The configuration of a run; its links are a [`crate::shape::setup::LinkSetup`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RunConfig {
    /// Each as host or host:port.
    pub servers: PerLink<String>,
    pub schedule: Schedule,
    pub pipeline: Pipeline,
    /// How many connections each link has; without it, the schedule's own choice.
    pub connections: Option<Connections>,
    pub backend: BackendChoice,
    /// The folder for the files; without it they are verified and deleted.
    pub out: Option<PathBuf>,
    /// A pattern of names; without it, the files of the servers' lists.
    pub files: Option<String>,
    /// Congestion control of both ends' sockets; without it, each kernel's default.
    pub congestion: Option<String>,
    /// Whether the links are measured before the run.
    pub probe: When,
    /// Whether digests are checked.
    pub verify: bool,
    /// Whether the files are flushed to the disk after the run.
    pub sync: bool,
    /// Whether complete files of an earlier run in `out` are kept.
    pub resume: bool,
    /// How long a server may be away.
    pub give_up: Duration,
    /// A server that brings less than this share of what the other link carries counts as silent.
    pub least_rate: Percent,
    /// The time that a segment plays, and the segments that a player waits for before it starts.
    pub segment_duration: Delay,
    pub startup: u64,
    /// Of everything random in the links.
    pub seed: u64,
}

impl Default for RunConfig {
    fn default() -> RunConfig {
        RunConfig {
            servers: PerLink { a: "server-a".into(), b: "server-b".into() },
            schedule: Schedule::Adaptive,
            pipeline: Pipeline::Auto,
            connections: None,
            backend: BackendChoice::Auto,
            out: None,
            files: None,
            congestion: None,
            probe: When::Off,
            verify: true,
            sync: false,
            resume: false,
            give_up: Duration::from_secs(10),
            least_rate: Percent::new(1.0),
            segment_duration: Delay::from_millis(4000),
            startup: 2,
            seed: 1,
        }
    }
}

impl RunConfig {
    /// Returns how many connections each link has.
    pub(crate) fn connections(&self) -> Connections {
        Connections::chosen(self.connections, &self.schedule)
    }

    /// Returns the schedule, with the playback of these files.
    pub(crate) fn schedule_of<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Schedule {
        let init_segments = names.into_iter().take_while(|name| !crate::qoe::is_media(name)).count();
        self.schedule.clone().for_playback(self.segment_duration.0, self.startup, init_segments)
    }
}

/// Checks the name of a server: host or host:port.
///
/// # Errors
/// It cannot be one.
pub(crate) fn server_name(text: &str) -> Result<String, String> {
    origin::with_port(text).map(|_| text.to_string()).map_err(|error| error.to_string())
}

/// Checks a pattern of files.
///
/// # Errors
/// It names no file that could be fetched.
pub(crate) fn files_pattern(text: &str) -> Result<String, String> {
    manifest::expand(text).map(|_| text.to_string()).map_err(|error| format!("{error:#}"))
}

/// Reads how long a server may be away.
///
/// # Errors
/// It is no time, or less than any server takes to answer.
pub(crate) fn give_up_time(text: &str) -> Result<Delay, String> {
    let time: Delay = text.parse()?;
    if time < Delay::from_millis(1) {
        return Err(format!("\"{text}\" is less than a server takes to answer: write 10s, or 1ms or more"));
    }
    Ok(time)
}
