//! `twinlink run`: the options of a program's run, of the command line or of the environment.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::client::config::{files_pattern, give_up_time, server_name};
use crate::log::schema::Stdout;
use crate::program;
use crate::program::config::ProgramConfig;
use crate::shape::setup::{LinkOptions, LinkSetup};
use crate::sweep::experiment::entrant::program_name;
use crate::units::{ByteCount, Delay, PerLink};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ProgramArgs {
    #[command(flatten)]
    pub links: LinkOptions,
    /// A file of link changes at given times
    #[arg(long, value_name = "FILE", env = "TWINLINK_SCRIPT")]
    pub script: Option<PathBuf>,
    /// The server at the end of link a, host[:port]
    #[arg(long, value_name = "SERVER", default_value = "server-a", value_parser = server_name)]
    pub server_a: String,
    /// The server at the end of link b, host[:port]
    #[arg(long, value_name = "SERVER", default_value = "server-b", value_parser = server_name)]
    pub server_b: String,
    /// The files to fetch, as in s{001..040}.m4s; without it, those of the servers' list
    #[arg(long, value_name = "PATTERN", env = "TWINLINK_FILES", value_parser = files_pattern)]
    pub files: Option<String>,
    /// The folder that the program stores files in ($OUT); without it, a temporary one
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Make a folder for the run below this one, with its log, its page and what the program printed
    #[arg(long, value_name = "DIR", env = "TWINLINK_RESULTS", default_value = "results")]
    pub results: PathBuf,
    /// The program's name in the log and in reports; without it, that of its file
    #[arg(long, value_name = "NAME", value_parser = program_name)]
    pub name: Option<String>,
    /// Where the servers' access logs are: server-a.jsonl and server-b.jsonl
    #[arg(long, value_name = "DIR", env = "TWINLINK_SERVER_LOGS")]
    pub server_logs: Option<PathBuf>,
    /// End the program after this time
    #[arg(long, value_name = "TIME", default_value = "60min", value_parser = some_time, allow_hyphen_values = true)]
    pub time_limit: Delay,
    /// End the program when its processes hold more memory than this together
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory_limit: Option<ByteCount>,
    /// How long a server may take to answer before the program starts
    #[arg(long, value_name = "TIME", default_value = "10s", env = "TWINLINK_GIVE_UP", value_parser = give_up_time, allow_hyphen_values = true)]
    pub give_up: Delay,
    /// How long a segment plays, for startup delay and rebuffering in the log
    #[arg(
        long,
        value_name = "TIME",
        default_value = "4s",
        env = "TWINLINK_SEGMENT_DURATION",
        allow_hyphen_values = true
    )]
    pub segment_duration: Delay,
    /// How many segments a player waits for before it starts
    #[arg(long, value_name = "SEGMENTS", default_value_t = 2, env = "TWINLINK_STARTUP",
          value_parser = clap::value_parser!(u64).range(1..), allow_hyphen_values = true)]
    pub startup: u64,
    /// Records on standard output where it is no terminal
    #[arg(long, env = "TWINLINK_STDOUT", value_enum, default_value = "records")]
    pub stdout: Stdout,
    /// The program and its arguments; {server_a} {server_b} {files} {manifest} {out} are filled in, and in its
    /// environment in capitals
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

impl ProgramArgs {
    /// Loads the links' profiles, channel and script.
    ///
    /// # Errors
    /// As [`LinkOptions::load`].
    pub(crate) fn load_links(&self) -> Result<LinkSetup> {
        self.links.load(self.script.as_deref())
    }
}

impl From<ProgramArgs> for ProgramConfig {
    fn from(args: ProgramArgs) -> ProgramConfig {
        let file = || Path::new(&args.command[0]).file_name().map(|name| name.to_string_lossy().into_owned());
        ProgramConfig {
            name: args.name.or_else(file).unwrap_or_else(|| args.command[0].clone()),
            command: args.command,
            folder: PathBuf::new(),
            servers: PerLink { a: args.server_a, b: args.server_b },
            backend: args.links.backend,
            files: args.files,
            out: args.out,
            server_logs: args.server_logs,
            time_limit: args.time_limit.0,
            memory_limit: args.memory_limit,
            give_up: args.give_up.0,
            segment_duration: args.segment_duration,
            startup: args.startup,
            seed: args.links.seed,
        }
    }
}

fn some_time(text: &str) -> Result<Delay, String> {
    let time: Delay = text.parse()?;
    if time.is_zero() { Err("a program needs some time: write 10s, say".into()) } else { Ok(time) }
}

/// Runs the program. `afterwards` is told the run's folder, however the run went.
///
/// # Errors
/// An option is invalid, or the run failed.
pub(crate) fn main(args: ProgramArgs, afterwards: impl FnOnce(&Path)) -> Result<()> {
    let (links, results, stdout) = (args.load_links()?, args.results.clone(), args.stdout);
    program::main(&args.into(), links, &results, stdout, afterwards)
}
