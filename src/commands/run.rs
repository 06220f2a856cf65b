//! `twinlink run`: the options of a program's run, of the command line or of the environment.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::options::{LiveOptions, RunOptions};
use super::watch::WatchOptions;
use crate::client::config::server_name;
use crate::program;
use crate::program::command::PLACEHOLDERS;
use crate::program::config::ProgramConfig;
use crate::sweep::experiment::entrant::program_name;
use crate::text::check_placeholders;
use crate::units::{ByteCount, Delay, PerLink};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ProgramArgs {
    #[command(flatten)]
    pub run: RunOptions,
    #[command(flatten)]
    pub live: LiveOptions,
    #[command(flatten)]
    pub watch: WatchOptions,
    /// The server at the end of link a, host[:port]
    #[arg(long, value_name = "SERVER", default_value = "server-a", value_parser = server_name)]
    pub server_a: String,
    /// The server at the end of link b, host[:port]
    #[arg(long, value_name = "SERVER", default_value = "server-b", value_parser = server_name)]
    pub server_b: String,
    /// A list of the files as of sha256sum; the servers are not asked for theirs then, and need not speak HTTP
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
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
    /// A Docker image whose file system the command finds in the place of this machine's
    #[arg(long, value_name = "IMAGE", conflicts_with = "out")]
    pub image: Option<String>,
    /// The program and its arguments; {server_a} {server_b} {files} {manifest} {out} are filled in, and in its
    /// environment in capitals
    #[arg(last = true, required = true, value_name = "COMMAND", value_parser = filled_in_later)]
    pub command: Vec<String>,
}

impl From<ProgramArgs> for ProgramConfig {
    fn from(args: ProgramArgs) -> ProgramConfig {
        let file = || Path::new(&args.command[0]).file_name().map(|name| name.to_string_lossy().into_owned());
        ProgramConfig {
            name: args.name.or_else(file).unwrap_or_else(|| args.command[0].clone()),
            command: args.command,
            placeholders: Vec::new(),
            folder: PathBuf::new(),
            servers: PerLink { a: args.server_a, b: args.server_b },
            backend: args.run.links.backend,
            files: args.run.files,
            manifest: args.manifest,
            out: args.out,
            server_logs: args.server_logs,
            time_limit: args.time_limit.0,
            memory_limit: args.memory_limit,
            sandbox: None,
            image: args.image,
            give_up: args.live.give_up.0,
            segment_duration: args.run.segment_duration,
            startup: args.run.startup,
            seed: args.run.links.seed,
        }
    }
}

fn some_time(text: &str) -> Result<Delay, String> {
    let time: Delay = text.parse()?;
    if time.is_zero() { Err("a program needs some time: write 10s, say".into()) } else { Ok(time) }
}

fn filled_in_later(word: &str) -> Result<String, String> {
    check_placeholders(word, &PLACEHOLDERS).map(|()| word.into())
}

/// Runs the program. `afterwards` is told the run's folder, however the run went.
///
/// # Errors
/// An option is invalid, or the run failed.
pub(crate) fn main(args: ProgramArgs, afterwards: impl FnOnce(&Path)) -> Result<()> {
    let links = args.run.load_links()?.with_capture(args.live.capture.as_deref(), args.run.links.backend)?;
    let (results, stdout) = (args.results.clone(), args.live.stdout);
    program::main(&args.into(), links, &results, stdout, afterwards)
}
