//! Checks this host for the lab, line by line, with a remedy for each fault.
//!
//! It looks and tries, and changes nothing. It is the same inside a container and outside, where it checks
//! the [`ways`] to a lab too.

mod ways;

use std::sync::OnceLock;

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::shape;
use crate::shape::guard;
use crate::shape::kernel_support;
use crate::shape::kernel_support::{Feature, FeatureSupport};
use crate::shape::netem::check::FEATURES;
use crate::shape::netem::tc::run;
use crate::shape::netem::tc::run::Tool;
use crate::shape::userspace::nfqueue;
use crate::text::{fit, print, print_json};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DoctorArgs {
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

pub(crate) fn main(args: DoctorArgs) -> Result<()> {
    let mut checks = checks(true);
    checks.extend(ways::ways());
    if args.json {
        return print_json(&report(&checks));
    }
    let table = table(&checks).to_string();
    // Cells are padded to the terminal's width, which only makes copies of the text wide.
    let lines: Vec<&str> = table.lines().map(str::trim_end).collect();
    let (every, summary) = profiles(&checks);
    let ready = if every { "Ready" } else { "Not ready for every profile" };
    print(&format!("{}\n{ready}: {summary}.\n", lines.join("\n")))
}

/// The findings, for the log: all but Docker's, which no container can see and which take a while.
/// A run that shapes nothing tries nothing out, which would take longer than a fast transfer; for
/// the same reason a process tries things out once.
pub(crate) fn findings(shaping: bool) -> serde_json::Value {
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
    let mut checks = vec![namespace(), net_admin()];
    let mut features = Vec::new();
    if trying {
        checks.extend(tools());
        let tried = kernel_support::features(shape::features()).into_iter();
        features.extend(tried.map(|(feature, verdict)| judge(feature, verdict)));
    }
    checks.insert(0, kernel_line(&kernel(), &features));
    checks.extend(features);
    checks.push(congestion());
    checks
}

/// The kernel's release, as `uname -r` prints it.
pub(crate) fn kernel() -> String {
    let release = kernel_support::kernel();
    if release.is_empty() { "unknown".into() } else { release }
}

/// Says which kernel this is, and which of the features that were tried it lacks.
fn kernel_line(release: &str, features: &[Finding]) -> Finding {
    let kind = if release.to_lowercase().contains("microsoft") { ", WSL2" } else { "" };
    let lacks: Vec<&str> = features
        .iter()
        .filter(|feature| feature.ok == Some(false))
        .map(|feature| feature.name.as_str())
        .collect();
    let lacks = if lacks.is_empty() { String::new() } else { format!(", lacks {}", lacks.join(", ")) };
    let found = format!("{release}{kind}, {}{lacks}", std::env::consts::ARCH);
    let is_old =
        kernel_support::major_and_minor(release).is_some_and(|version| version < ways::OLDEST_KERNEL);
    let advice = "the compose lab needs Linux 4.15 or later, for TCP's settings in a container";
    Finding::new("kernel", Some(!is_old), found, advice)
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
            let advice = "run the doctor in a lab: twinlink lab --servers none --exec twinlink doctor, or docker compose \
                 run --rm client doctor";
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

fn works(checks: &[Finding], feature: &str) -> Option<bool> {
    checks.iter().find(|check| check.name == feature).and_then(|check| check.ok)
}

/// Says which profiles can run here.
fn summary(checks: &[Finding]) -> String {
    profiles(checks).1.into()
}

/// Returns whether every profile can run here, as far as any kernel runs it, and the same in words.
fn profiles(checks: &[Finding]) -> (bool, &'static str) {
    let basics: Vec<_> = FEATURES[..3].iter().map(|feature| works(checks, feature.name)).collect();
    let netem = works(checks, FEATURES[3].name);
    if basics == [Some(true); 3] && netem == Some(true) {
        (true, "every profile runs on this kernel")
    } else if works(checks, "nfqueue") == Some(true) {
        let held = "every profile without duplicate runs on this kernel: what its qdiscs cannot do is held in userspace, \
                    by NFQUEUE";
        (true, held)
    } else if basics.contains(&Some(false)) {
        (false, "this kernel cannot shape links: runs are unshaped (--backend none)")
    } else if basics.contains(&None) {
        (false, "what this kernel can do was not tried; see the lines above")
    } else if netem == Some(false) {
        (false, "profiles with a rate and a queue run on this kernel; delay and loss need netem")
    } else {
        (false, "profiles with a rate and a queue run on this kernel; netem was not tried")
    }
}

fn table(checks: &[Finding]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    fit(&mut table);
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
            assert!(summary(&checks).starts_with("every profile without duplicate runs on this kernel"));
        }
    }

    #[test]
    fn kernel_line_names_version_and_what_is_missing() {
        let line = |release: &str| kernel_line(release, &with(Some(false), Some(true)));
        assert!(line("6.1.0-18-amd64").found.starts_with("6.1.0-18-amd64, "));
        assert!(line("6.1.0-18-amd64").found.ends_with(", lacks netem"));
        assert_eq!((line("6.1.0-18-amd64").ok, line("6.1.0-18-amd64").advice), (Some(true), None));
        assert!(line("5.15.153.1-microsoft-standard-WSL2").found.contains(", WSL2, "));
        let old = line("3.10.0-1160.el7.x86_64");
        assert!(old.ok == Some(false) && old.advice.unwrap().contains("4.15"));
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
