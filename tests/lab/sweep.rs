//! An experiment in a lab: links of every kind, set and cleared for each run; a sweep that is killed in the middle of a run
//! goes on where it was; runs that fail are recorded, the others are done, and resuming repeats only those; an interrupt
//! ends it with its records closed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal::{SIGINT, SIGKILL};
use serde_json::Value;

use crate::fixture::{Inside, Lab, Log, eventually, number, signal};

pub(crate) const LINKS: &str = r#"
repetitions = 2
probe = "off"
schedules = ["greedy", "ratio=1:2"]
throughput = "500ms"
[[condition]]
name = "wifi"
channel = "course-scenario-1-mid"
[[condition]]
name = "wifi"
channel = "course-scenario-1-mid"
independent = true
[[condition]]
name = "rates"
link_a = "rate-80"
link_b = { profile = "rate-20", rate = "30mbit" }
"#;

pub(crate) fn lab_with_experiment() -> Option<Inside> {
    let lab = Lab::serving(24, "100KB").enter()?;
    lab.write("links.toml", LINKS);
    Some(lab)
}

impl Inside {
    pub(crate) fn sweep(&self, file: &str, options: &[&str]) -> Command {
        let args = [&["sweep", file, "--results", "results", "--give-up", "2s"], options].concat();
        self.twinlink(&args)
    }

    /// Returns the only sweep's folder.
    fn sweep_folder(&self) -> Option<PathBuf> {
        let mut folders = fs::read_dir(self.path("results")).ok()?.flatten();
        let folder = folders.next()?.path();
        assert!(folders.next().is_none(), "more than one sweep");
        Some(folder)
    }

    pub(crate) fn sweep_log(&self) -> Log {
        self.sweep_folder().map_or(Log(Vec::new()), |folder| Log::read(&folder.join("sweep.jsonl")))
    }

    /// Expects that neither rules nor devices of a link are left.
    fn expect_unshaped(&self) {
        assert_eq!(self.rules(), 0);
        assert_eq!(self.sh("ip -o link show type ifb | wc -l"), "0");
    }
}

/// Returns the records that a sweep has printed, which each have a sentence.
fn printed(command: &mut Command) -> (Option<i32>, Log, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for record in &mut records {
        assert!(record.as_object_mut().unwrap().remove("say").is_some(), "{record}");
    }
    (output.status.code(), Log(records), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn links_of_every_kind_are_set_for_each_run() {
    let Some(lab) = lab_with_experiment() else { return };
    let (code, printed, errors) = printed(&mut lab.sweep("links.toml", &[]));
    assert_eq!(code, Some(0), "{errors}");
    let log = lab.sweep_log();
    assert_eq!(printed.0, log.0);
    let cells = log.of("cell_end");
    assert_eq!(cells.len(), 12);
    assert!(cells.iter().all(|cell| cell["exit"] == "ok"), "{cells:?}");
    assert_eq!(log.of("throughput").len(), 6);
    for cell in cells {
        let run = lab.sweep_folder().unwrap().join("runs").join(cell["run"].as_str().unwrap());
        let run = Log::read(&run.join("log.jsonl"));
        let wanted =
            match (cell["cell"]["condition"].as_str().unwrap(), cell["cell"]["channel"].as_str().unwrap()) {
                ("wifi", "shared") => "course-scenario-1-mid",
                ("wifi", "independent") => "course-scenario-1-mid link b alone",
                _ => "rate-20, rate 30mbit",
            };
        let down = run.of_link("link", "b").into_iter().filter(|data| data["direction"] == "down");
        assert_eq!(down.map(|data| data["profile"].as_str().unwrap()).collect::<Vec<_>>(), [wanted]);
        let end = run.end();
        assert!(end["exit"] == "ok" && end["files"] == 24 && number(&end["efficiency"]) <= 1.0, "{end}");
    }
    lab.expect_unshaped();
}

#[test]
fn sweep_that_is_killed_in_a_run_goes_on_where_it_was() {
    let Some(lab) = lab_with_experiment() else { return };
    let mut sweep = lab.start("killed", lab.sweep("links.toml", &[]));
    eventually("a run is under way", || {
        let runs = || fs::read_dir(lab.sweep_folder()?.join("runs")).ok().map(Iterator::count);
        let done = lab.sweep_log().of("cell_end").len();
        done >= 2 && runs().is_some_and(|runs| runs > done)
    });
    signal(&sweep.child, SIGKILL);
    sweep.child.wait().unwrap();
    let before = lab.sweep_log().of("cell_end").len();
    lab.sh("printf '{\"schema\":\"twinlink/1\",\"t_ns\":12' >>results/*/sweep.jsonl");
    let (code, printed, errors) = printed(&mut lab.sweep("links.toml", &["--resume"]));
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(printed.of("sweep_start")[0]["skipped"], before);
    let log = lab.sweep_log();
    let cells = log.of("cell_end");
    let indices = cells.iter().map(|cell| cell["cell"]["index"].to_string());
    assert_eq!((cells.len(), indices.collect::<std::collections::BTreeSet<_>>().len()), (12, 12));
    assert_eq!(log.of("sweep_end").last().unwrap()["exit"], "ok");
    lab.expect_unshaped();
}

#[test]
fn failed_runs_are_recorded_and_repeated_by_resuming() {
    let Some(lab) = lab_with_experiment() else { return };
    let away = LINKS.replace("throughput = \"500ms\"\n", "").replace("repetitions = 2", "repetitions = 1");
    lab.write("away.toml", &away);
    let server_b = lab.sh("ip netns pids $TWINLINK_NS_B");
    assert_eq!(server_b.split_whitespace().count(), 1, "these run beside server-b: {server_b}");
    lab.sh(&format!("kill -STOP {server_b}"));
    let (code, log, errors) = printed(&mut lab.sweep("away.toml", &[]));
    assert_eq!(code, Some(1));
    assert!(errors.contains("6 of 6 runs of away failed"), "{errors}");
    let end = log.of("sweep_end")[0];
    assert!(end["exit"] == "failed" && end["failed"] == 6, "{end}");
    assert!(log.of("cell_end").iter().all(|cell| cell["exit"] == "unreachable"), "{:?}", log.of("cell_end"));
    lab.sh(&format!("kill -CONT {server_b}"));
    let (code, log, errors) = printed(&mut lab.sweep("away.toml", &["--resume"]));
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(log.of("sweep_start")[0]["skipped"], 0);
    let end = log.of("sweep_end")[0];
    assert!(end["exit"] == "ok" && end["failed"] == 0, "{end}");
    lab.expect_unshaped();
}

#[test]
fn interrupted_sweep_closes_its_records() {
    let Some(lab) = lab_with_experiment() else { return };
    let mut sweep = lab.start("stopped", lab.sweep("links.toml", &[]));
    eventually("the sweep prints", || !lab.sweep_log().0.is_empty());
    signal(&sweep.child, SIGINT);
    assert_eq!(sweep.end().0, Some(1), "{}", sweep.words());
    let log = lab.sweep_log();
    let last = log.0.last().unwrap();
    assert!(last["event"] == "sweep_end" && last["data"]["exit"] == "interrupted", "{last}");
    lab.expect_unshaped();
}
