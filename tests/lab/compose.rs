//! `docker compose` as a newcomer types it: each test is a script of `tests/compose/`, which exits 77 where it cannot run.

use std::path::Path;
use std::process::Command;

use crate::fixture::words;

fn run(script: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compose").join(script);
    let output = Command::new("bash").arg(path).output().unwrap();
    let said = words(&output);
    println!("{said}");
    let cannot_run = output.status.code() == Some(77) && std::env::var_os("CI").is_none();
    if cannot_run {
        println!("NOT RUN: {}", said.lines().last().unwrap_or_default());
        return;
    }
    assert!(output.status.success(), "{script}: {}", output.status);
}

#[test]
fn main_job_runs_in_containers() {
    run("main-job.sh");
}

#[test]
fn links_in_containers_are_changed_in_a_run() {
    run("changes.sh");
}

#[test]
fn servers_in_containers_are_opened_to_the_host() {
    run("servers.sh");
}

#[test]
fn quick_sweep_runs_in_containers() {
    run("sweep.sh");
}
