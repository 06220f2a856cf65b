//! The form in which a role reports: records for programs, sentences for people, or bars on a terminal.

use std::io::IsTerminal;
use std::sync::OnceLock;

/// The setting that children of this process inherit.
pub(crate) const SETTING: &str = "TWINLINK_OUTPUT";

/// The choices of `--output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Bars and a table on a terminal, else JSON lines
    #[default]
    Auto,
    /// Sentences and a table, with bars on a terminal
    Text,
    /// JSON lines, also on a terminal; errors too
    Json,
}

static CHOSEN: OnceLock<Output> = OnceLock::new();

fn chosen() -> Output {
    CHOSEN.get().copied().unwrap_or_default()
}

/// Chooses the form for this process, once.
pub(crate) fn choose(output: Output) {
    let _ = CHOSEN.set(output);
}

/// Returns whether bars and a table are shown: a person looks at standard output, and asked for no JSON.
pub(crate) fn on_terminal() -> bool {
    chosen() != Output::Json && std::io::stdout().is_terminal()
}

/// Returns whether standard output is for a person, on a terminal or not.
pub(crate) fn is_text() -> bool {
    chosen() == Output::Text || on_terminal()
}

/// Returns whether messages on standard error are JSON, of a role that prints JSON lines.
pub(crate) fn tells_json() -> bool {
    match chosen() {
        Output::Json => true,
        Output::Text => false,
        Output::Auto => !std::io::stderr().is_terminal(),
    }
}

/// Returns whether JSON was asked for by these arguments or the environment, or this is a container of compose whose
/// output nobody watches: a wrong command line is then told in JSON too.
pub(crate) fn asks_for_json(args: &[String]) -> bool {
    let after = |at: usize| args.get(at + 1).map(String::as_str);
    let given = args.iter().enumerate().find_map(|(at, arg)| match arg.strip_prefix("--output") {
        Some("") => after(at),
        Some(value) => value.strip_prefix('='),
        None => None,
    });
    let setting = std::env::var(SETTING).ok();
    match given.or(setting.as_deref()) {
        Some("json") => true,
        None | Some("auto") => in_compose() && !std::io::stderr().is_terminal(),
        Some(_) => false,
    }
}

/// Returns whether this process runs in the container of compose.yaml, where settings are given by the environment.
pub(crate) fn in_compose() -> bool {
    std::env::var_os("TWINLINK_RESULTS_HOST").is_some()
}
