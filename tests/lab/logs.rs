//! Logs of runs: a trace's steps when they were planned, on both backends; links that were measured first; a shared
//! channel; a fault; each line as the published schema says. At a terminal a person sees bars and a table instead.

use std::fs;
use std::process::Stdio;

use crate::fixture::{
    CLIENT, Inside, Lab, Log, background, between, eventually, is_success, number, stdout_of,
};
use crate::support::{assert_valid, published_schema};

impl Inside {
    fn expect_published(&self, log: &str, expected: &[&str]) {
        let text = fs::read_to_string(self.path(&format!("{log}.jsonl"))).unwrap();
        assert_valid(&published_schema(), &text, expected);
    }
}

fn expect_steps_in_the_log_on(backend: &str) {
    let Some(lab) = Lab::serving(40, "200KB").enter() else { return };
    lab.write("three.csv", "time,rate\n0,20mbit\n0.5,6mbit\n1.2,16mbit\n");
    let plain = "rate = \"20mbit\"\nqueue = \"100ms\"";
    let three = lab.profile("three", plain, plain, "[trace]\nfile = \"three.csv\"\nloop = false");
    let log = lab.client("trace", &["--backend", backend, "--link-a", &three, "--link-b", "rate-20"]).well();
    let steps = log.of_link("link", "a");
    let steps: Vec<_> =
        steps.into_iter().filter(|step| step["direction"] == "down" && step["action"] == "step").collect();
    let rates: Vec<f64> = steps.iter().map(|step| number(&step["asked"]["rate_kbit"])).collect();
    assert_eq!(rates, [20_000.0, 6000.0, 16_000.0]);
    let planned = |index: usize| number(&steps[index]["planned_ms"]);
    let after_the_first: Vec<f64> = (0..3).map(|index| (planned(index) - planned(0)).round()).collect();
    assert_eq!(after_the_first, [0.0, 500.0, 1200.0]);
    // A busy machine makes a step late, but the next one is planned 500 ms later.
    steps.iter().for_each(|step| between("ms that a step is late", number(&step["late_ms"]), 0.0, 499.9));
    let rates = log.sampled("a", "/down/rate_kbit");
    let rates: Vec<f64> = rates.iter().map(|rate| rate.parse().unwrap()).collect();
    assert_eq!(rates.len(), 3, "{rates:?}");
    assert!([20_000.0, 6000.0, 16_000.0].iter().all(|rate| rates.contains(rate)), "{rates:?}");
    // Whatever holds the machine up makes the run longer, never shorter.
    let end = log.end();
    between("efficiency", number(&end["efficiency"]), 0.6, 1.0);
    between("prediction over time", number(&end["predicted_ms"]) / number(&end["elapsed_ms"]), 0.6, 1.05);
    lab.expect_published("trace", &["run_start", "link", "segment", "sample", "run_end"]);
}

#[test]
fn steps_of_a_trace_on_userspace_are_logged_as_planned() {
    expect_steps_in_the_log_on("userspace");
}

#[test]
fn steps_of_a_trace_on_netem_are_logged_as_planned() {
    expect_steps_in_the_log_on("netem");
}

/// Returns the stations that samples name.
pub(crate) fn stations(log: &Log) -> usize {
    let all =
        log.of("sample").into_iter().flat_map(|data| data["air"].as_array().cloned().unwrap_or_default());
    all.map(|air| air["station"].to_string()).collect::<std::collections::BTreeSet<_>>().len()
}

#[test]
fn probes_and_shares_of_a_channel_are_logged() {
    let Some(lab) = Lab::serving(10, "200KB").enter() else { return };
    let options = ["--probe", "warn", "--link-a", "wifi-mid", "--link-b", "lte-medium"];
    let log = lab.client("probed", &options).well();
    // TCP need not keep a lossy link busy; then the probe says that it knows no rate.
    for probe in log.of("probe") {
        assert!(number(&probe["goodput_kbit"]) > 0.0, "{probe}");
        let is_unknown = || probe["verdict"].as_str().unwrap().contains("its rate is not known");
        assert!(probe["rate_kbit"].as_f64().is_some_and(|rate| rate > 0.0) || is_unknown(), "{probe}");
    }
    lab.expect_published("probed", &["probe"]);
    let log = lab.client("channel", &["--channel", "course-scenario-1-mid"]).well();
    assert!(stations(&log) >= 2);
    lab.expect_published("channel", &["sample"]);
}

#[test]
fn server_that_takes_no_congestion_control_is_a_fault() {
    let Some(lab) = Lab::serving(4, "200KB").enter() else { return };
    let data = lab.data.to_str().unwrap();
    let mut python =
        lab.command("python3", &["-m", "http.server", "4480", "--bind", CLIENT, "--directory", data]);
    background(python.stdout(Stdio::null()).stderr(Stdio::null()));
    let address = format!("{CLIENT}:4480");
    let list = format!("http://{address}/SHA256SUMS");
    eventually("Python's server answers", || is_success(&mut lab.command("curl", &["-sf", &list])));
    let log = lab.client_of("other", &["--congestion", "reno"], ["server-a", &address]).well();
    let told = log.of("fault").iter().filter(|fault| fault.to_string().contains("cannot be told")).count();
    assert_eq!(told, 1, "{:?}", log.of("fault"));
    lab.expect_published("other", &["fault"]);
}

#[test]
fn terminal_names_links_and_what_carries_them() {
    let Some(lab) = Lab::serving(40, "50KB").enter() else { return };
    let line = "\"$TWINLINK_BIN\" client --link-a rate-20 --link-b wifi-near --backend userspace 10.45.0.2 10.45.0.3";
    // A terminal that can move its cursor, whatever this machine takes itself for.
    let mut script = lab.command("script", &["-qec", line, "screen"]);
    stdout_of(script.env("TERM", "xterm"));
    let seen = lab.sh("tr '\\r' '\\n' <screen | sed 's/\\x1b\\[[0-9;?]*[A-Za-z]//g'");
    let is_shown = |parts: &[&str]| seen.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    for parts in [
        &["link a: rate-20, carried by userspace: "][..],
        &["link b: wifi-near, carried by userspace: "],
        &["a 10.45.0.2 (rate-20) ", "files"],
        &["b 10.45.0.3 (wifi-near) ", "files"],
        &["Mbit/s", "RTT ms, busy", "last s"],
        &["adaptive fetched 40 files"],
    ] {
        assert!(is_shown(parts), "a terminal does not show {parts:?}: {seen}");
    }
    assert!(!seen.lines().any(|line| line.starts_with('{')), "{seen}");
}
