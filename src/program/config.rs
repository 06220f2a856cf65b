//! The configuration of a program's run, which the command line or an experiment fills in.

use std::path::PathBuf;
use std::time::Duration;

use super::sandbox::Sandbox;
use crate::shape::backend::BackendChoice;
use crate::units::{ByteCount, Delay, PerLink};

/// The configuration of a program's run; its links are a [`crate::shape::setup::LinkSetup`].
#[derive(Clone, Debug)]
pub(crate) struct ProgramConfig {
    /// The program's name in the log and in reports.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Further placeholders of the command, with their values.
    pub placeholders: Vec<(&'static str, String)>,
    /// The folder that it starts in; the current one if empty.
    pub folder: PathBuf,
    /// Each as host or host:port.
    pub servers: PerLink<String>,
    pub backend: BackendChoice,
    /// A pattern of names; without it, the files of the servers' lists.
    pub files: Option<String>,
    /// A list of the files, where the servers are not to be asked for theirs.
    pub manifest: Option<PathBuf>,
    /// The folder for the files; without it, a temporary one.
    pub out: Option<PathBuf>,
    /// The folder of the servers' access logs.
    pub server_logs: Option<PathBuf>,
    pub time_limit: Duration,
    pub memory_limit: Option<ByteCount>,
    /// The program is one that nobody vouches for.
    pub sandbox: Option<Box<Sandbox>>,
    /// A Docker image that the program runs in, where no sandbox says more.
    pub image: Option<String>,
    /// How long a server may take to answer before the program starts.
    pub give_up: Duration,
    /// The time that a segment plays, and the segments that a player waits for before it starts.
    pub segment_duration: Delay,
    pub startup: u64,
    /// Of everything random in the links.
    pub seed: u64,
}
