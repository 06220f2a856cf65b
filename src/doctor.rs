//! Checks this host for the lab, line by line, with a remedy for each fault.
//!
//! It looks and tries, and changes nothing. It is the same inside a container and outside, where it checks
//! Docker too.

use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::shape;
use crate::shape::guard;
use crate::shape::kernel_support;
use crate::shape::kernel_support::{Feature, FeatureSupport};
use crate::shape::netem::check::FEATURES;
use crate::shape::netem::tc::run;
use crate::shape::netem::tc::run::Tool;
use crate::shape::userspace::nfqueue;
use crate::text::{print, print_json};

#[derive(Clone, Debug, clap::Args)]
pub struct DoctorArgs {
    /// One JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// One line of the doctor's: what was looked at, and what to do where it is not well.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    name: String,
    /// Null where it could not be found out.
    ok: Option<bool>,
    found: String,
    /// The remedy, if one is needed.
    advice: Option<String>,
}

impl Finding {
    fn new(name: &str, ok: Option<bool>, found: impl Into<String>, advice: &str) -> Finding {
        let advice = (ok != Some(true) && !advice.is_empty()).then(|| advice.to_string());
        Finding { name: name.into(), ok, found: found.into(), advice }
    }
}

pub fn main(args: DoctorArgs) -> Result<()> {
    let mut checks = checks(true);
    checks.extend(ways());
    if args.json {
        return print_json(&report(&checks));
    }
    let table = table(&checks).to_string();
    // Cells are padded to the terminal's width, which only makes copies of the text wide.
    let lines: Vec<&str> = table.lines().map(str::trim_end).collect();
    print(&format!("{}\n{}\n", lines.join("\n"), summary(&checks)))
}

/// The findings, for the log: all but Docker's, which no container can see and which take a while.
/// A run that shapes nothing tries nothing out, which would take longer than a fast transfer; for
/// the same reason a process tries things out once.
pub fn findings(shaping: bool) -> serde_json::Value {
    static TRIED: OnceLock<serde_json::Value> = OnceLock::new();
    if shaping {
        return TRIED.get_or_init(|| report(&checks(true))).clone();
    }
    let mut report = report(&checks(false));
    report["summary"] = "nothing is shaped, so nothing was tried".into();
    report
}

fn report(checks: &[Finding]) -> serde_json::Value {
    serde_json::json!({ "kernel": kernel(), "summary": summary(checks), "checks": checks })
}

/// Returns the findings; with `trying` also those that need a trial.
fn checks(trying: bool) -> Vec<Finding> {
    let mut checks = vec![Finding::new("kernel", Some(true), kernel(), ""), namespace(), net_admin()];
    if trying {
        checks.extend(tools());
        let features = kernel_support::features(shape::features()).into_iter();
        checks.extend(features.map(|(feature, verdict)| judge(feature, verdict)));
    }
    checks.push(congestion());
    checks
}

/// The kernel's release, as `uname -r` prints it.
pub fn kernel() -> String {
    let release = kernel_support::kernel();
    if release.is_empty() { "unknown".into() } else { release }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_string())
}

fn namespace() -> Finding {
    let found = if guard::is_own_namespace() {
        "a lab's own"
    } else {
        "the machine's own, where links are never shaped: docker compose and twinlink lab make others"
    };
    Finding::new("network namespace", Some(true), found, "")
}

fn net_admin() -> Finding {
    let there = guard::has_net_admin();
    let found = if there { "NET_ADMIN is there" } else { "NET_ADMIN is missing" };
    let advice = "to shape links here: cap_add: [NET_ADMIN] for the container, or twinlink lab";
    Finding::new("capabilities", Some(there), found, advice)
}

fn tools() -> Vec<Finding> {
    let iproute2 = [Tool::Tc, Tool::Ip].map(|tool| match run::output(tool, &["-V"]) {
        Ok(text) => {
            let seed = match tool {
                Tool::Tc if !kernel_support::tc_can_seed(&text) => ", too old to hand netem a seed (6.6 on)",
                Tool::Tc if !kernel_support::kernel_can_seed(&kernel()) => {
                    ", could hand netem a seed, which this kernel is too old to heed (6.6 on)"
                }
                Tool::Tc => ", hands netem a seed",
                Tool::Ip => "",
            };
            Finding::new(tool.name(), Some(true), format!("{}{seed}", version(&text)), "")
        }
        Err(_) => Finding::new(tool.name(), Some(false), "not found", "install iproute2"),
    });
    let iptables = match nfqueue::iptables_version() {
        Some(text) => Finding::new("iptables", Some(true), version(&text), ""),
        None => Finding::new("iptables", Some(false), "not found", "install iptables for NFQUEUE"),
    };
    iproute2.into_iter().chain([iptables]).collect()
}

/// Returns the version of a program's text, without its name.
fn version(text: &str) -> &str {
    text.split_once(' ').map_or(text, |(_, rest)| rest).trim()
}

fn judge(feature: &Feature, verdict: FeatureSupport) -> Finding {
    match verdict {
        FeatureSupport::Yes(how) => Finding::new(feature.name, Some(true), how, ""),
        FeatureSupport::No(why) => {
            // The command itself says less than what came of it.
            let said = why.rsplit_once("\": ").map_or(why.as_str(), |(_, said)| said);
            Finding::new(feature.name, Some(false), said, feature.advice)
        }
        FeatureSupport::Unknown(why) => {
            let advice =
                "run the doctor as root, or in the lab's client: docker compose run --rm client doctor";
            Finding::new(feature.name, None, why, advice)
        }
    }
}

fn congestion() -> Finding {
    let get = |name: &str| read(&format!("/proc/sys/net/ipv4/tcp_{name}"));
    let Some(default) = get("congestion_control") else {
        return Finding::new("congestion control", None, "this namespace does not tell", "");
    };
    let listed = |name: &str| get(name).unwrap_or_else(|| "unknown".into());
    let found = format!(
        "{default}; available: {}; allowed to all: {}",
        listed("available_congestion_control"),
        listed("allowed_congestion_control")
    );
    Finding::new("congestion control", Some(true), found, "")
}

/// The oldest compose that knows all that compose.yaml says.
const OLDEST_COMPOSE: (u32, u32) = (2, 20);

/// The ways to a lab on the host: `twinlink lab` without root, Docker and its compose plugin.
fn ways() -> Vec<Finding> {
    let inside = std::env::var("TWINLINK_LAB").is_ok_and(|value| value == "container");
    if inside {
        return Vec::new();
    }
    let rootless = match crate::lab::attempt() {
        Ok(()) => Finding::new("twinlink lab", Some(true), "runs without root", ""),
        Err(why) => Finding::new("twinlink lab", Some(false), format!("{why:#}"), "docs/hosts.md says more"),
    };
    let advice = "needed for docker compose up only: install Docker Engine, or use twinlink lab";
    let client = match ask(&["version", "--format", "{{.Server.Version}}"]) {
        Ok(version) => Finding::new("docker", Some(true), version, ""),
        Err(why) => Finding::new("docker", Some(false), why, advice),
    };
    let compose = compose(ask(&["compose", "version", "--short"]));
    vec![rootless, client, compose]
}

/// Judges what docker answered to a question for its compose plugin's version.
fn compose(answer: Result<String, String>) -> Finding {
    let name = "docker compose";
    match answer {
        Ok(version) => {
            let ok = kernel_support::major_and_minor(&version).map(|version| version >= OLDEST_COMPOSE);
            Finding::new(name, ok, version, "upgrade the compose plugin to version 2.20 or later")
        }
        Err(why) if why == NO_DOCKER => Finding::new(name, Some(false), why, "it comes with Docker Engine"),
        // Without its plugin, docker takes the word for one of its own commands, and the option for a mistake.
        Err(why) => Finding::new(
            name,
            Some(false),
            format!("docker has no compose plugin that answers; it says: {why}"),
            "install the compose plugin, version 2.20 or later: docker-compose-plugin of Docker's own packages, \
             docker-compose-v2 of Ubuntu's, docker-compose of Debian's (13 on) or Fedora's",
        ),
    }
}

/// Why docker does not answer where there is none.
const NO_DOCKER: &str = "not found";

/// Returns docker's answer.
///
/// # Errors
/// One line says why it does not answer.
fn ask(args: &[&str]) -> Result<String, String> {
    let output = Command::new("docker").args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => NO_DOCKER.to_string(),
        _ => format!("cannot be started: {error}"),
    })?;
    let text =
        |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().trim().to_string();
    let (said, complaint) = (text(&output.stdout), text(&output.stderr));
    if output.status.success() && !said.is_empty() {
        return Ok(said);
    }
    Err(if complaint.is_empty() { format!("no answer ({})", output.status) } else { complaint })
}

fn works(checks: &[Finding], feature: &str) -> Option<bool> {
    checks.iter().find(|check| check.name == feature).and_then(|check| check.ok)
}

/// One sentence: which profiles can run here.
fn summary(checks: &[Finding]) -> String {
    let basics: Vec<_> = FEATURES[..3].iter().map(|feature| works(checks, feature.name)).collect();
    let netem = works(checks, FEATURES[3].name);
    let text = if basics == [Some(true); 3] && netem == Some(true) {
        "every profile runs on this kernel"
    } else if works(checks, "nfqueue") == Some(true) {
        "every profile without duplicate and up.reorder runs on this kernel: what its qdiscs cannot do is held \
         in userspace, by NFQUEUE"
    } else if basics.contains(&Some(false)) {
        "this kernel cannot shape links: runs are unshaped (--backend none)"
    } else if basics.contains(&None) {
        "what this kernel can do was not tried; see the lines above"
    } else if netem == Some(false) {
        "profiles with a rate and a queue run on this kernel; delay and loss need netem"
    } else {
        "profiles with a rate and a queue run on this kernel; netem was not tried"
    };
    text.to_string()
}

fn table(checks: &[Finding]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    for check in checks {
        let mark = match check.ok {
            Some(true) => "ok",
            Some(false) => "no",
            None => "?",
        };
        let text = match &check.advice {
            Some(advice) => format!("{}\n-> {advice}", check.found),
            None => check.found.clone(),
        };
        table.add_row([mark, check.name.as_str(), text.as_str()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(netem: Option<bool>, tbf: Option<bool>) -> Vec<Finding> {
        let works = [Some(true), tbf, Some(true), netem];
        FEATURES.iter().zip(works).map(|(feature, ok)| Finding::new(feature.name, ok, "", "")).collect()
    }

    #[test]
    fn the_summary_follows_from_what_works() {
        assert!(summary(&with(Some(true), Some(true))).starts_with("every profile"));
        assert!(summary(&with(Some(false), Some(true))).contains("delay and loss need netem"));
        assert!(summary(&with(Some(true), Some(false))).contains("cannot shape links"));
        assert!(summary(&with(None, None)).contains("not tried"));
        for (netem, tbf) in [(Some(false), Some(true)), (Some(true), Some(false))] {
            let mut checks = with(netem, tbf);
            checks.push(Finding::new("nfqueue", Some(true), "", ""));
            assert!(summary(&checks).starts_with("every profile without duplicate and up.reorder"));
        }
    }

    #[test]
    fn compose_is_judged_by_its_minor_version_too() {
        let version = kernel_support::major_and_minor;
        assert_eq!(version("v2.20.3-desktop.1"), Some((2, 20)));
        assert!(version("2.19.1") < Some(OLDEST_COMPOSE) && version("5.0.0") > Some(OLDEST_COMPOSE));
        assert_eq!(version("dev"), None);
    }

    #[test]
    fn docker_without_its_compose_plugin_is_told_with_a_remedy() {
        for why in ["unknown flag: --short", "docker: 'compose' is not a docker command."] {
            let found = compose(Err(why.into()));
            assert!(found.found.contains("no compose plugin") && found.found.contains(why), "{found:?}");
            assert!(found.advice.unwrap().contains("docker-compose-plugin"));
        }
        assert!(compose(Err(NO_DOCKER.into())).advice.unwrap().contains("Docker Engine"));
        assert!(compose(Ok("2.19.1".into())).advice.unwrap().contains("upgrade"));
        assert_eq!(compose(Ok("2.26.1".into())).advice, None);
    }

    #[test]
    fn what_does_not_work_says_what_to_do() {
        for feature in shape::features() {
            assert!(judge(feature, FeatureSupport::No("x".into())).advice.is_some());
            assert!(judge(feature, FeatureSupport::Unknown("x".into())).advice.is_some());
            assert!(judge(feature, FeatureSupport::Yes("tried")).advice.is_none());
        }
    }

    #[test]
    fn the_findings_name_the_kernel_and_every_feature() {
        let findings = findings(true);
        assert_eq!(findings["kernel"], kernel().as_str());
        let names: Vec<&str> =
            findings["checks"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
        assert!(shape::features().all(|feature| names.contains(&feature.name)), "{names:?}");
    }
}
