//! The command line: one subcommand a role; each role owns its arguments.
//!
//! The only place that prints an error chain, and the only one that picks an exit code: 0 when all
//! went well, 1 when the work failed, 2 when the command line made no sense.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::debug_fn;

use crate::log::spool::Spool;
use crate::output;
use crate::output::Output;

use crate::commands::simulate::predicted_ms;
use crate::commands::{export, grade, init, manifest, run, watch};
use crate::config::{channel, profile};
use crate::shape::setup::LinkOptions;
use crate::text::{explained, print, tell, visible, visible_json};
use crate::{doctor, lab, report, schedule, segments, server, sweep};

/// A two-server, one-client network lab
#[derive(Parser)]
#[command(name = "twinlink", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The form of the output: json, text, or auto (bars and a table on a terminal, else JSON lines)
    #[arg(long, global = true, env = output::SETTING, value_enum, default_value = "auto", value_name = "FORM",
          hide_possible_values = true, help_heading = "Output")]
    output: Output,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Run the whole lab here, without Docker and without root: two servers, and the client or a command
    Lab(lab::LabArgs),
    /// Serve a folder of segments
    Server(server::ServerArgs),
    /// Fetch all segments from two servers at once
    Client(crate::commands::client::ClientArgs),
    /// Run a program of your own between the two links, and judge it from outside
    Run(run::ProgramArgs),
    /// Grade the programs of a class, each in a lab and a sandbox of its own
    Grade(grade::GradeArgs),
    #[command(hide = true)]
    GradeTask(grade::TaskArgs),
    #[command(hide = true)]
    Sandbox(grade::SandboxArgs),
    /// Do an experiment: many runs in a random order, each with its own links and schedule
    Sweep(SweepCommand),
    /// Write an experiment and a profile to start from
    Init(init::InitArgs),
    /// Predict how long a run would take, in virtual time
    Simulate(crate::commands::simulate::SimulateArgs),
    /// Set, show and clear link profiles
    #[command(subcommand)]
    Link(LinkArgs),
    /// Look at trace files before a profile plays them
    #[command(subcommand)]
    Trace(crate::commands::trace::TraceCommand),
    /// List what servers offer, for other programs: SHA256SUMS, or a Metalink
    Manifest(manifest::ManifestArgs),
    /// Write a set of sample segments
    Segments(segments::SegmentsArgs),
    /// Follow a run or an experiment while it goes on, on the terminal or on a page
    Watch(watch::WatchArgs),
    /// Compare runs: a verdict, a page, tables and a summary from logs
    Report(report::ReportArgs),
    /// Write a run for another tool: a Perfetto timeline, or the input of ITU-T P.1203
    #[command(subcommand)]
    Export(export::ExportCommand),
    /// Say what this host can do, and what to do about the rest
    Doctor(doctor::DoctorArgs),
    /// Print what makes a shell complete twinlink's commands, as in: source <(twinlink completions bash)
    Completions { shell: clap_complete::Shell },
    /// Ask a server whether it is ready (for health checks)
    Health(crate::commands::health::HealthArgs),
}

#[derive(clap::Args)]
struct SweepCommand {
    #[command(flatten)]
    args: sweep::SweepArgs,
    #[command(flatten)]
    watch: watch::WatchOptions,
}

/// The commands by what they are for, as the help shows them.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Run", &["lab", "client", "server", "run", "sweep", "grade"]),
    ("Look", &["watch", "report", "export", "simulate", "doctor"]),
    ("Links", &["link", "trace"]),
    ("Prepare", &["init", "segments", "manifest", "health", "completions"]),
];

/// Lines to type, shown below the help of a command.
const EXAMPLES: [(&str, &str); 18] = [
    ("lab", "twinlink lab -- --link-a wifi-near --link-b lte-medium\ntwinlink lab --exec bash"),
    (
        "client",
        "twinlink client --link-a wifi-near --link-b lte-medium 192.0.2.1 192.0.2.2\ntwinlink client --schedule ratio=1:2 --results results server-a server-b",
    ),
    ("server", "twinlink server --data films\ntwinlink server --listen 127.0.0.1:4456"),
    (
        "run",
        "twinlink run --link-a wifi-near --link-b lte-medium -- python3 mine.py\ntwinlink run --watch :8080 -- ./mine",
    ),
    (
        "sweep",
        "twinlink sweep --list\ntwinlink sweep course-quick --dry-run\ntwinlink sweep mine/experiment.toml --watch :8080",
    ),
    ("grade", "twinlink grade assignment.toml handed-in/*"),
    ("watch", "twinlink watch\ntwinlink watch results --watch :8080 --control"),
    ("report", "twinlink report results\ntwinlink report results --export latex"),
    ("export", "twinlink export perfetto results/20261127T101502Z-9f3a"),
    (
        "simulate",
        "twinlink simulate --schedule ratio=6:1\ntwinlink simulate --link-a wifi-far --link-b lte-weak --json",
    ),
    ("doctor", "twinlink doctor"),
    ("link", "twinlink link list\ntwinlink link set b lte-weak\ntwinlink link show"),
    ("trace", "twinlink trace check drive.csv"),
    ("init", "twinlink init mine\ntwinlink sweep mine/experiment.toml"),
    ("segments", "twinlink segments films --count 40 --mean-size 500KB"),
    ("manifest", "twinlink manifest server-a server-b"),
    ("health", "twinlink health 127.0.0.1:4455"),
    ("completions", "source <(twinlink completions bash)"),
];

/// The command line, with the commands in groups and examples below each.
fn command_line() -> clap::Command {
    let mut command = Cli::command();
    let mut groups = String::new();
    for (heading, names) in GROUPS {
        groups += &format!("{heading}:\n");
        for name in names {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about);
            groups += &format!("  {name:<12} {}\n", about.cloned().unwrap_or_default());
        }
        groups += "\n";
    }
    for (name, examples) in EXAMPLES {
        let lines: String = examples.lines().map(|line| format!("\n  {line}")).collect();
        command = command.mut_subcommand(name, |own| own.after_help(format!("Examples:{lines}")));
    }
    // A prediction shapes nothing.
    command = command.mut_subcommand("simulate", |own| own.mut_arg("backend", |arg| arg.hide(true)));
    command
        .help_template(format!(
            "{{about}}\n\n{{usage-heading}} {{usage}}\n\n{groups}Options:\n{{options}}{{after-help}}"
        ))
        .after_help("twinlink COMMAND --help says more of a command.")
}

/// Parses a command line.
fn parse(args: impl Iterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = command_line();
    let matches = command.try_get_matches_from_mut(spell_out_probe(args))?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Gives each argument that takes a name the names that there are, for shells to offer. A path may be typed all the same.
fn with_names(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let names = names_for(arg.get_id().as_str());
        if names.is_empty() { arg } else { arg.value_parser(PossibleValuesParser::new(names)) }
    });
    let own: Vec<String> = command.get_subcommands().map(|own| own.get_name().to_string()).collect();
    own.into_iter().fold(command, |command, name| command.mut_subcommand(name, with_names))
}

/// Returns the names that an argument may have, by the argument's id.
fn names_for(id: &str) -> Vec<&'static str> {
    let kept = |names: Vec<String>| names.into_iter().map(|name| &*name.leak()).collect();
    match id {
        "link" => vec!["a", "b"],
        "link_a" | "link_b" | "profile" => {
            let profiles = profile::load::list().unwrap_or_default();
            kept(profiles.into_iter().map(|(name, ..)| name).collect())
        }
        "channel" => kept(channel::names()),
        "schedule" => schedule::NAMES.to_vec(),
        "experiment" => kept(sweep::experiment::find::names()),
        _ => Vec::new(),
    }
}

#[derive(clap::Subcommand)]
enum LinkArgs {
    #[command(flatten)]
    Shape(crate::commands::link::LinkCommand),
    /// Measure both links, each way, against their profiles; without --link-a, --link-b or --channel, as they are
    Probe(crate::commands::probe::ProbeArgs),
}

impl Command {
    /// Whether this is a role that runs in a container, where every line printed is a JSON object.
    fn prints_json_lines(&self) -> bool {
        match self {
            Command::Server(_) | Command::Client(_) => true,
            // A lab is built before any thread is started, as the one that writes such lines would be.
            Command::Run(args) => lab::is_served(&args.server_a, &args.server_b),
            // A dry run prints a table, for a person.
            Command::Sweep(SweepCommand { args, .. }) => {
                !args.dry_run && !args.list && lab::is_served(&args.server_a, &args.server_b)
            }
            _ => false,
        }
    }

    fn run(self) -> Result<ExitCode> {
        match self {
            Command::Lab(args) => return run_lab(args),
            Command::Server(args) => server::main(args),
            Command::Client(args) => {
                let _watcher = args.watch.start(args.log_place(), None)?;
                crate::commands::client::main(args, predicted_ms, leave_report)
            }
            Command::Run(args) => return run_program(args),
            Command::Grade(args) => grade::main(args),
            Command::GradeTask(args) => grade::task(&args, leave_report),
            Command::Sandbox(args) => return grade::enter_sandbox(&args),
            Command::Sweep(args) => return run_sweep(args),
            Command::Init(args) => init::main(args),
            Command::Simulate(mut args) => {
                or_default_links(&mut args.run.links);
                crate::commands::simulate::main(args)
            }
            Command::Completions { shell } => completions(shell),
            Command::Link(LinkArgs::Shape(command)) => crate::commands::link::main(command),
            Command::Link(LinkArgs::Probe(args)) => crate::commands::probe::main(&args),
            Command::Trace(command) => crate::commands::trace::main(command),
            Command::Manifest(args) => manifest::main(&args),
            Command::Segments(args) => segments::main(args),
            Command::Watch(args) => watch::main(&args),
            Command::Report(args) => report::main(args),
            Command::Export(command) => export::main(&command),
            Command::Doctor(args) => doctor::main(args),
            Command::Health(args) => crate::commands::health::main(args),
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

/// Checks what the client is told, so that a mistake shows before anything is built, then runs the lab.
fn run_lab(mut args: lab::LabArgs) -> Result<ExitCode> {
    let first = args.command.first().map(|word| word.to_string_lossy());
    if let Some(word) = first.filter(|word| !args.exec && !word.starts_with('-')) {
        let text =
            format!("\"{word}\" is not an option of the client: to run a command, write --exec before it");
        return Ok(usage_error(&Cli::command().error(ErrorKind::UnknownArgument, text), false));
    }
    let shapes = |word: &OsString| {
        ["hold", "client", "sweep", "probe", "run", "grade-task"].iter().any(|own| word == own)
    };
    if args.exec && !args.command.iter().any(shapes) {
        tell(
            "--exec shapes no link by itself; to shape them: --exec twinlink link hold --link-a PROFILE \
             --link-b PROFILE -- COMMAND",
        );
    }
    let (mut give_up, mut watcher) = (None, None);
    if let Some(arguments) = args.client_arguments() {
        let line = std::iter::once("twinlink".into()).chain(arguments);
        match parse(line).map(|cli| cli.command) {
            Ok(Command::Client(mut client)) => {
                args.command.extend(or_default_links(&mut client.run.links));
                client.run.load_links()?;
                give_up = Some(client.live.give_up.0);
                let root = client.log_place().unwrap_or(Path::new("results"));
                watcher = Some(client.watch.start(Some(root), args.name.as_ref().map(ToString::to_string))?);
                if client.log_place().is_none() {
                    args.command.extend(["--results".into(), "results".into()]);
                }
            }
            Ok(_) => bail!("cannot run the client: an option is not the client's"),
            Err(error) => return Ok(usage_error(&error, false)),
        }
    }
    let code = lab::main(args, give_up);
    drop(watcher);
    code
}

/// Runs a program between the links of the lab that this process is in; elsewhere in a lab of its own.
fn run_program(mut args: run::ProgramArgs) -> Result<ExitCode> {
    args.run.load_links()?;
    let _watcher = args.watch.start(Some(&args.results), None)?;
    if lab::is_served(&args.server_a, &args.server_b) {
        if !args.run.links.are_given() {
            tracing::warn!("neither link is shaped: --link-a PROFILE --link-b PROFILE shapes them");
        }
        return run::main(args, leave_report).map(|()| ExitCode::SUCCESS);
    }
    let mut command = this_command()?;
    command.splice(2..2, or_default_links(&mut args.run.links));
    lab::main(lab::LabArgs::of_command(command), None)
}

/// Runs an experiment over the links of the lab that this process is in; elsewhere in a lab of its own.
fn run_sweep(SweepCommand { args, watch }: SweepCommand) -> Result<ExitCode> {
    let _watcher = watch.start(Some(&args.results), None)?;
    if args.list || args.dry_run || lab::is_served(&args.server_a, &args.server_b) {
        return sweep::main(args, predicted_ms, leave_verdict).map(|()| ExitCode::SUCCESS);
    }
    let server = sweep::check(&args)?.server_command();
    lab::main(lab::LabArgs { server, data: args.data, ..lab::LabArgs::of_command(this_command()?) }, None)
}

/// Gives links of which nothing is said the lab's profiles. Returns the options that say the same.
fn or_default_links(links: &mut LinkOptions) -> Vec<OsString> {
    if links.are_given() {
        return Vec::new();
    }
    let [a, b] = lab::DEFAULT_LINKS;
    (links.link_a, links.link_b) = (Some(a.into()), Some(b.into()));
    ["--link-a", a, "--link-b", b].map(OsString::from).to_vec()
}

/// The command line of this process, with the program's full path.
fn this_command() -> Result<Vec<OsString>> {
    let mut command: Vec<OsString> = std::env::args_os().collect();
    command[0] = std::env::current_exe().context("cannot find the program itself")?.into();
    Ok(command)
}

/// Puts a report beside the logs of what has just ended. The logs are what counts: without a page the
/// run is no failure.
fn leave_report(folder: &Path) {
    match report::leave_in(folder) {
        Ok(_) => {}
        Err(error) => tracing::warn!("the run's log is there, but not its report: {}", explained(&error)),
    }
}

/// Puts a report beside an experiment's logs, and shows a person its tables.
fn leave_verdict(folder: &Path) {
    match report::leave_in(folder) {
        // Tables that nobody reads are no failure.
        Ok(tables) if output::is_text() => drop(print(&tables)),
        Ok(_) => {}
        Err(error) => {
            tracing::warn!("the experiment's log is there, but not its report: {}", explained(&error));
        }
    }
}

/// The whole program.
pub fn main() -> ExitCode {
    forget_empty_settings();
    outlive_the_limit_on_files();
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let args: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into()).collect();
            return usage_error(&error, output::asks_for_json(&args));
        }
    };
    hand_on(cli.output);
    let json = output::tells_json() && cli.command.prints_json_lines();
    let told = start_tracing(json);
    let code = match cli.command.run() {
        Ok(code) => code,
        Err(error) => {
            if json {
                tracing::error!("{}", explained(&error));
            } else {
                tell(&format!("error: {}", explained(&error)));
            }
            ExitCode::FAILURE
        }
    };
    told.iter().for_each(Spool::flush);
    code
}

fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut with_names(Cli::command()), "twinlink", &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// Lets a plain `--probe` mean on: clap alone would take what follows for its value.
fn spell_out_probe(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    for index in 0..args.len() {
        let value = args.get(index + 1).map(|next| next.to_string_lossy());
        let has_value = value.is_some_and(|next| matches!(&*next, "off" | "on" | "warn"));
        if args[index] == "--probe" && !has_value {
            args[index] = "--probe=on".into();
        }
    }
    args
}

/// Compose passes a setting that is not set as an empty one; both mean the default.
fn forget_empty_settings() {
    let empty: Vec<_> = std::env::vars_os()
        .filter(|(name, value)| name.to_string_lossy().starts_with("TWINLINK_") && value.is_empty())
        .map(|(name, _)| name)
        .collect();
    for name in empty {
        // SAFETY: no other thread runs yet, so none can be reading the environment.
        unsafe { std::env::remove_var(name) };
    }
}

/// Chooses the form of the output for this process and for those that it starts.
fn hand_on(output: Output) {
    output::choose(output);
    if let Some(value) = output.to_possible_value().filter(|_| output != Output::Auto) {
        // SAFETY: no other thread runs yet, so none can be reading the environment.
        unsafe { std::env::set_var(output::SETTING, value.get_name()) };
    }
}

/// Lets a write that meets the limit on the size of files fail with an error. A handler, other than an ignored
/// signal, is not handed on to the programs that this one starts.
fn outlive_the_limit_on_files() {
    extern "C" fn nothing(_: libc::c_int) {}
    let nothing = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing. Without it, the signal ends this process.
    let _ = unsafe { sigaction(Signal::SIGXFSZ, &nothing) };
}

/// Help and version go to stdout as clap writes them; a mistake is told in text, and as one JSON line where JSON
/// was asked for.
fn usage_error(error: &clap::Error, json: bool) -> ExitCode {
    let role = std::env::args().nth(1).unwrap_or_default();
    if error.use_stderr() && json && matches!(role.as_str(), "server" | "client" | "run" | "sweep") {
        let told = start_tracing(true);
        let text = error.render().to_string();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        tracing::error!("{}", text.trim_start_matches("error: "));
        told.iter().for_each(Spool::flush);
    } else {
        // A closed pipe is no reason to fail while printing help.
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Says on stderr what happens. In JSON, for a container, a queue stands between, so that a reader who
/// stands still holds nothing up; that queue is returned.
fn start_tracing(json: bool) -> Option<Spool> {
    let filter = EnvFilter::try_from_env("TWINLINK_TRACE").unwrap_or_else(|_| EnvFilter::new("info"));
    let queue = json.then(|| Spool::start("stderr", io::stderr()).ok()).flatten();
    let through = queue.clone();
    let writer = move || match &through {
        Some(queue) => Box::new(VisibleJson(queue.clone())) as Box<dyn Write>,
        None => Box::new(io::stderr()),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    if json {
        builder.json().flatten_event(true).with_target(false).init();
    } else {
        let fields = debug_fn(|out, field, value| match field.name() {
            "message" => write!(out, "{}", visible(&format!("{value:?}"))),
            name => write!(out, " {name}={}", visible(&format!("{value:?}"))),
        });
        let builder = builder.fmt_fields(fields).with_ansi(io::stderr().is_terminal());
        builder.with_target(false).without_time().init();
    }
    queue
}

/// Lines of JSON on their way to a queue, made fit for a terminal.
struct VisibleJson(Spool);

impl Write for VisibleJson {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.offer(visible_json(&String::from_utf8_lossy(line)).into_owned().into_bytes());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_a_group_and_has_an_example_that_parses() {
        let command = command_line();
        let shown = command.get_subcommands().filter(|own| !own.is_hide_set());
        let shown: std::collections::BTreeSet<&str> = shown.map(clap::Command::get_name).collect();
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        assert_eq!(grouped.iter().copied().collect::<std::collections::BTreeSet<_>>(), shown);
        assert_eq!(grouped.len(), shown.len(), "none is there twice");
        for name in shown {
            let (_, examples) = EXAMPLES.iter().find(|(own, _)| *own == name).expect(name);
            for example in examples.lines().filter(|line| line.starts_with("twinlink ")) {
                assert!(parse(example.split(' ').map(OsString::from)).is_ok(), "{example}");
            }
        }
    }

    #[test]
    fn shells_offer_names_of_profiles_channels_schedules_and_experiments() {
        let mut text = Vec::new();
        clap_complete::generate(
            clap_complete::Shell::Bash,
            &mut with_names(Cli::command()),
            "twinlink",
            &mut text,
        );
        let text = String::from_utf8(text).unwrap();
        for name in ["lte-medium", "course-scenario-1-mid", "adaptive", "course-quick"] {
            assert!(text.contains(name), "{name}");
        }
    }

    #[test]
    fn a_plain_probe_means_on() {
        let spelt = |text: &str| {
            let args = spell_out_probe(text.split(' ').map(OsString::from));
            args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(spelt("client --probe a b"), "client --probe=on a b");
        assert_eq!(spelt("client a b --probe"), "client a b --probe=on");
        assert_eq!(spelt("client --probe warn a b"), "client --probe warn a b");
        assert_eq!(spelt("client --probe=off a b"), "client --probe=off a b");
    }
}
