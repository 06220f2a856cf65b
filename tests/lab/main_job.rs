//! The main job over rate-20 and rate-80: nothing stays shaped however a run ends, a link can be changed in the middle of a
//! run, and whatever stands in a run's way is named. `measure::main_job` looks at a whole run.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal::{self, SIGINT, SIGKILL, SIGTERM};

use crate::fixture::{Inside, Lab, Log, between, number, signal, stdout_of};

const SHAPED: [&str; 4] = ["--link-a", "rate-20", "--link-b", "rate-80"];
const SERVERS: [&str; 2] = ["server-a", "server-b"];

/// A run that is stopped in the middle; returns its exit code and log.
fn stop_a_run(lab: &Inside, sent: Signal) -> (Option<i32>, Log) {
    let before = lab.network_state();
    let mut run = lab.client("stopped", &SHAPED);
    run.await_segments(10);
    // Unless the state is another one while it runs, finding it unchanged later shows nothing.
    assert_ne!(lab.network_state(), before);
    signal(&run.child, sent);
    run.end()
}

fn expect_stopped_by(sent: Signal) {
    let Some(lab) = Lab::serving(60, "500KB").enter() else { return };
    let before = lab.network_state();
    let (code, log) = stop_a_run(&lab, sent);
    assert_eq!(code, Some(1));
    let end = log.end();
    assert_eq!(end["exit"], "interrupted", "{end}");
    assert!(number(&end["files"]) >= 10.0 && end["elapsed_ms"].is_null(), "{end}");
    assert_eq!(lab.network_state(), before);
}

#[test]
fn interrupted_run_leaves_the_network_as_it_was() {
    expect_stopped_by(SIGINT);
}

#[test]
fn terminated_run_leaves_the_network_as_it_was() {
    expect_stopped_by(SIGTERM);
}

#[test]
fn run_after_a_killed_one_repairs_the_network() {
    let Some(lab) = Lab::serving(60, "500KB").enter() else { return };
    let before = lab.network_state();
    let (code, _) = stop_a_run(&lab, SIGKILL);
    assert_eq!(code, None);
    let devices = |state: &str| state.lines().filter(|line| line.starts_with("twl")).count();
    assert_eq!(devices(&lab.network_state()), 4);
    let mut run = lab.client("after", &SHAPED);
    run.well();
    assert!(run.words().contains("earlier run"), "{}", run.words());
    assert_eq!(lab.network_state(), before);
}

#[test]
fn second_run_is_refused_and_a_link_can_be_changed() {
    let Some(lab) = Lab::serving(160, "500KB").enter() else { return };
    let mut run = lab.client("changed", &SHAPED);
    run.await_segments(10);
    let mut second = lab.twinlink(&[&["client", "--log", "second.jsonl"], &SHAPED[..], &SERVERS].concat());
    second.env("TWINLINK_CONTROL", lab.path("second.sock"));
    lab.refused(&mut second, &[&format!("another twinlink process ({})", run.child.id())]);
    assert_eq!(Log::read(&lab.path("second.jsonl")).end()["exit"], "link");

    stdout_of(&mut lab.twinlink(&["link", "set", "a", "rate-80"]));
    assert_eq!(lab.shown("a", "down", "/profile"), "rate-80");
    let log = run.well();
    log.expect_verified(160);
    let is_change = |data: &&&serde_json::Value| data["action"] == "changed";
    let links = log.of("link");
    let changes: Vec<_> = links.iter().filter(is_change).collect();
    let mut ways: Vec<String> = changes
        .iter()
        .map(|data| ["link", "direction", "profile"].map(|key| data[key].as_str().unwrap()).join(" "))
        .collect();
    ways.sort();
    assert_eq!(ways, ["a down rate-80", "a up rate-80"]);
    let rates: Vec<f64> =
        log.sampled("a", "/down/rate_kbit").iter().map(|rate| rate.parse().unwrap()).collect();
    assert_eq!(rates, [20_000.0, 80_000.0]);
    let fast = log.of_link("sample", "a").into_iter().filter(|data| data["down"]["rate_kbit"] == 80_000.0);
    let best = fast.map(|data| number(&data["goodput_kbit"])).fold(0.0, f64::max);
    // More than 20 Mbit/s can let through, even counted with all heads.
    between("goodput of a after the change, kbit/s", best, 30_000.0, f64::INFINITY);
    assert!(number(&log.end()["efficiency"]) <= 1.0);
}

/// Expects that the client ends with exit code 1, these words and this exit in its log, and leaves the network as it was.
fn expect_refusal(
    lab: &Inside,
    name: &str,
    mut client: std::process::Command,
    parts: &[&str],
    exit: &str,
) -> Log {
    let before = lab.network_state();
    let path = lab.path(&format!("{name}.jsonl"));
    lab.refused(&mut client, parts);
    let log = Log::read(&path);
    assert_eq!(log.end()["exit"], exit, "{}", log.end());
    assert_eq!(lab.network_state(), before);
    log
}

#[test]
fn missing_privilege_is_named() {
    let Some(lab) = Lab::serving(8, "50KB").enter() else { return };
    let program = std::env::var("TWINLINK_BIN").unwrap();
    let drop_privilege =
        ["--bounding-set", "-net_admin", "--inh-caps", "-net_admin", program.as_str(), "client"];
    let mut client = lab.command("setpriv", &drop_privilege);
    client.args(SHAPED).args(["--log", "refused.jsonl"]).args(SERVERS);
    expect_refusal(&lab, "refused", client, &["NET_ADMIN"], "link");
    // A client that shapes nothing needs no privilege.
    let mut client = lab.command("setpriv", &drop_privilege);
    client.args(["--log", "unshaped.jsonl"]).args(SERVERS);
    stdout_of(&mut client);
    assert_eq!(Log::read(&lab.path("unshaped.jsonl")).end()["exit"], "ok");
}

#[test]
fn missing_tc_is_named() {
    let Some(lab) = Lab::serving(8, "50KB").enter() else { return };
    // The client also looks into the folders where tc usually is, so in a mount namespace of its own
    // those are replaced by one with ip alone.
    fs::create_dir(lab.path("sbin")).unwrap();
    lab.sh("cp \"$(command -v ip)\" sbin/ip");
    let line = "export PATH=$WORK/sbin
                for folder in /usr/local/sbin /usr/sbin /sbin; do
                    [ -L \"$folder\" ] || [ ! -d \"$folder\" ] || /bin/mount --bind \"$WORK/sbin\" \"$folder\"
                done
                exec \"$TWINLINK_BIN\" client --log no-tc.jsonl \"$@\"";
    let mut client = lab.command("unshare", &["--mount", "bash", "-ec", line, "no-tc"]);
    client.args(SHAPED).args(SERVERS);
    expect_refusal(&lab, "no-tc", client, &["tc not found", "iproute2"], "link");
}

#[test]
fn full_folder_is_named() {
    let Some(lab) = Lab::serving(20, "500KB").enter() else { return };
    // A file system of 2 MB, in a mount namespace that nobody else sees, holds four segments at most.
    fs::create_dir(lab.path("full")).unwrap();
    let line = "mount -t tmpfs -o size=2m none full && exec \"$TWINLINK_BIN\" client --out full --log full.jsonl \"$@\"";
    let mut client = lab.command("unshare", &["--mount", "bash", "-c", line, "full"]);
    client.args(SHAPED).args(SERVERS);
    let parts = ["full/.twinlink/parts/s", ".m4s", "No space left"];
    let log = expect_refusal(&lab, "full", client, &parts, "store");
    assert!(number(&log.end()["files"]) < 5.0);
}

#[test]
fn closed_folder_is_named() {
    let Some(lab) = Lab::serving(8, "50KB").enter() else { return };
    if !lab.is_real_root() {
        // In this lab nobody is another user, and root may write everywhere.
        return;
    }
    let closed = lab.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
    let open = lab.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let program = std::env::var("TWINLINK_BIN").unwrap();
    let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups", program.as_str(), "client"];
    let mut client = lab.command("setpriv", &nobody);
    client.args(["--log", "open/closed.jsonl", "--out", closed.to_str().unwrap()]).args(SERVERS);
    let parts = [closed.to_str().unwrap(), "Permission denied"];
    expect_refusal(&lab, "open/closed", client, &parts, "store");
    assert!(fs::read_dir(&closed).unwrap().next().is_none());
}
