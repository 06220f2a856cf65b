//! `twinlink lab`: two servers and a client in network namespaces of their own, without Docker and
//! without root.
//!
//! Three processes keep a lab. The one that was started moves into new namespaces ([`namespaces`]),
//! passes signals on and returns the exit code. Its child is process 1 of the lab's pid namespace: it
//! builds the network ([`network`]), starts the servers ([`servers`]) and runs the command ([`inside`]).
//! When either of them ends, in any way, the kernel ends every process of the lab, and with the last
//! one go the namespaces and mounts, because nothing else holds them. The third deletes the lab's
//! temporary files ([`scratch`]). A file that they hold locked tells other programs of this user where the
//! lab's control socket is ([`registry`]).

pub(crate) mod inside;
pub(crate) mod namespaces;
pub(crate) mod network;
pub(crate) mod registry;
pub(crate) mod samples;
pub(crate) mod scratch;
pub(crate) mod servers;
pub(crate) mod signals;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::config::server_fault::ServerFault;
use crate::text::{print, tell, visible};
pub(crate) use namespaces::attempt;
use registry::{Entry, LabName};
use scratch::Scratch;
use signals::LabSignals;

#[derive(Clone, Debug, Default, clap::Args)]
#[command(override_usage = "twinlink lab [OPTIONS] [-- CLIENT-OPTIONS…]
       twinlink lab [OPTIONS] --exec COMMAND…")]
pub(crate) struct LabArgs {
    /// Folder that both servers serve; without it 160 sample segments, made once in the user's cache folder
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Folder that server-b serves, where it differs
    #[arg(long, value_name = "DIR")]
    pub data_b: Option<PathBuf>,
    /// Other servers, with {DATA} {ADDR} {PORT} {NAME} filled in, as in --server 'python3 -m http.server {PORT} --bind {ADDR} --directory {DATA}'
    #[arg(long, value_name = "COMMAND", conflicts_with = "servers", value_parser = servers::command)]
    pub server: Option<String>,
    /// A fault that server-a has on purpose: dies, trickles, corrupts or busy, after some bytes as in dies@200KB
    #[arg(long, value_name = "FAULT", conflicts_with_all = ["server", "servers"])]
    pub fault_a: Option<ServerFault>,
    /// A fault that server-b has
    #[arg(long, value_name = "FAULT", conflicts_with_all = ["server", "servers"])]
    pub fault_b: Option<ServerFault>,
    /// Start no server; COMMAND may start its own in the namespaces $TWINLINK_NS_A and $TWINLINK_NS_B
    #[arg(long, value_name = "none", value_parser = ["none"])]
    pub servers: Option<String>,
    /// Keep the output of the servers, as DIR/server-a.jsonl and DIR/server-b.jsonl
    #[arg(long, env = "TWINLINK_SERVER_LOGS", value_name = "DIR")]
    pub server_logs: Option<PathBuf>,
    /// Use IPv6: server-a, server-b and client name IPv6 addresses
    #[arg(short = '6', long = "ipv6")]
    pub ipv6: bool,
    /// The lab's name, for twinlink link set --lab NAME; without it lab-1, lab-2 …
    #[arg(long, value_name = "NAME")]
    pub name: Option<LabName>,
    /// List the labs of this user that run, by name, and end
    #[arg(long)]
    pub list: bool,
    /// Run COMMAND in the client's namespace instead of the client
    #[arg(long, requires = "command")]
    pub exec: bool,
    /// Options of twinlink client, after --; where they name no link, --link-a wifi-near --link-b lte-medium. With --exec, the command
    #[arg(trailing_var_arg = true, value_name = "CLIENT-OPTIONS | COMMAND")]
    pub command: Vec<OsString>,
}

/// The control socket of whatever shapes in the lab, in the folder that the lab sees as [`CONTROL_FOLDER`].
const CONTROL_SOCKET: &str = "control.sock";
const CONTROL_FOLDER: &str = "/run/twinlink";

/// The links of a lab whose client is told of none.
pub(crate) const DEFAULT_LINKS: [&str; 2] = ["wifi-near", "lte-medium"];

impl LabArgs {
    /// A lab with the sample segments that runs a command.
    pub(crate) fn of_command(command: Vec<OsString>) -> LabArgs {
        LabArgs { exec: true, command, ..LabArgs::default() }
    }

    /// Returns the client's arguments, after its program's name; none with `--exec`.
    pub(crate) fn client_arguments(&self) -> Option<Vec<OsString>> {
        let servers = ["server-a", "server-b"].map(OsString::from);
        let arguments = || std::iter::once("client".into()).chain(self.command.clone()).chain(servers);
        (!self.exec).then(|| arguments().collect())
    }
}

/// A lab that is about to be built: every path is absolute, every folder was found.
pub(crate) struct Plan {
    /// The program itself.
    program: PathBuf,
    command: Vec<OsString>,
    servers: Option<servers::ServerRequest>,
    ipv6: bool,
    scratch: PathBuf,
    /// The source of [`CONTROL_FOLDER`], as seen from outside.
    control: PathBuf,
    /// How long a server's program of another kind may take until it listens.
    give_up: Duration,
    /// Where the servers' output is kept.
    server_logs: PathBuf,
}

/// Returns true where these servers can be reached from here: they are not the lab's own, or this is a lab's namespace
/// or container.
pub(crate) fn is_served(server_a: &str, server_b: &str) -> bool {
    let named = server_a != "server-a" || server_b != "server-b";
    named || ["TWINLINK_LAB", "TWINLINK_NS_CLIENT"].iter().any(|name| std::env::var_os(name).is_some())
}

/// Builds the lab, runs the command in it and returns the command's exit code: 128 and the signal's
/// number where a signal ended it. A server that is no twinlink may take `give_up` until it listens; without
/// one, as long as twinlink's own.
///
/// # Errors
/// A folder is missing, another lab has the name, the kernel refuses a namespace, or a server does not get
/// ready.
pub(crate) fn main(args: LabArgs, give_up: Option<Duration>) -> Result<ExitCode> {
    if args.list {
        let labs = registry::running()?;
        let text = if labs.is_empty() { String::new() } else { registry::table(&labs) + "\n" };
        return print(&text).map(|()| ExitCode::SUCCESS);
    }
    let program = std::env::current_exe().context("cannot find the program itself")?;
    let command = match args.client_arguments() {
        Some(arguments) => std::iter::once(program.clone().into()).chain(arguments).collect(),
        None => args.command.clone(),
    };
    let data = args.data.as_deref().map(folder).transpose()?;
    let data_b = args.data_b.as_deref().map(folder).transpose()?;
    // From now on the lab ends in its own way, so that nothing is left.
    let signals = LabSignals::block()?;
    let scratch = Scratch::new()?;
    let logs = log_folder(&args.server_logs.unwrap_or_else(|| scratch.path().join("servers")))?;
    let control = scratch.path().join("control");
    std::fs::create_dir(&control).with_context(|| format!("cannot make the folder {}", control.display()))?;
    let entry = Entry::new(args.name.as_ref(), &control, &command_line())?;
    let servers = args.servers.is_none().then_some(servers::ServerRequest {
        data,
        data_b,
        faults: [args.fault_a, args.fault_b],
        command: args.server,
        logs: logs.clone(),
    });
    let scratch_dir = scratch.path().to_path_buf();
    let give_up = give_up.unwrap_or(inside::UNTIL_READY);
    let plan = Plan {
        program,
        command,
        servers,
        ipv6: args.ipv6,
        scratch: scratch_dir,
        control,
        give_up,
        server_logs: logs,
    };
    namespaces::enter()?;
    let lifeline = namespaces::Lifeline::new()?;
    // SAFETY: no other thread runs, so the child may go on as any program.
    match unsafe { fork() }.context("cannot start the lab's first process")? {
        ForkResult::Child => {
            lifeline.hold()?;
            inside::run(&plan, &signals).map(ExitCode::from)
        }
        ForkResult::Parent { child } => {
            let code = supervise(child, &signals)?;
            entry.remove();
            scratch.remove();
            Ok(ExitCode::from(code))
        }
    }
}

/// This program's command line in one line, fit to print.
fn command_line() -> String {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into()).collect();
    let line = words.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    visible(&line).chars().take(200).collect()
}

/// Passes signals on to the lab's first process until that has ended; returns its exit code.
fn supervise(first: Pid, signals: &LabSignals) -> Result<u8> {
    loop {
        let Some(received) = signals.wait(None)? else { continue };
        match received.signal {
            Signal::SIGCHLD => match waitpid(first, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => return Ok(code as u8),
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    tell(&format!("error: the lab was ended by {signal}"));
                    return Ok(128 + signal as u8);
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("cannot wait for the lab"),
            },
            // A terminal signals the whole foreground group, which that process is in.
            _ if received.from_terminal => {}
            signal => {
                // It may just have ended, which the next signal tells.
                let _ = kill(first, signal);
            }
        }
    }
}

/// Returns the absolute path of a folder that is served.
fn folder(dir: &Path) -> Result<PathBuf> {
    ensure!(dir.is_dir(), "cannot serve {}: it is not a folder", dir.display());
    dir.canonicalize().with_context(|| format!("cannot serve {}", dir.display()))
}

fn log_folder(dir: &Path) -> Result<PathBuf> {
    let absolute = std::fs::create_dir_all(dir).and_then(|()| dir.canonicalize());
    absolute.with_context(|| format!("cannot make the folder {} for the servers' logs", dir.display()))
}
