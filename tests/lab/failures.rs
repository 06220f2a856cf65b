//! Servers that fail in the middle of a run by adaptive, on shaped links: behind a blackhole for less and for longer than
//! --give-up, stopped, killed and started again. Each run ends well, every file is right, and the server brings
//! something again afterwards. Where both are away the run ends, and the bytes that came are kept.

use std::fs;
use std::process::Child;
use std::time::Duration;

use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP};
use serde_json::Value;

use crate::fixture::{Inside, Lab, Log, Run, eventually, number, server, signal};

const LISTEN: &str = "0.0.0.0:4455";
const RATES: [&str; 6] = ["--schedule", "adaptive", "--link-a", "rate-20", "--link-b", "rate-20"];

/// Returns the payload bytes that a link has brought so far.
fn received(link: &str, log: &Log) -> f64 {
    log.of_link("sample", link).last().map_or(0.0, |data| number(&data["bytes"]))
}

impl Inside {
    /// Starts a run, and waits until both servers have brought something.
    fn begin(&self, files: u32, options: &[&str]) -> Run {
        let files = format!("s{{001..{files:03}}}.m4s");
        let out = self.path("out").display().to_string();
        let options = [&RATES[..], &["--files", &files, "--out", &out], options].concat();
        let run = self.client_of("run", &options, [server("a"), server("b")]);
        for link in ["a", "b"] {
            eventually("each link brings something", || received(link, &run.log()) > 500_000.0);
        }
        run
    }

    /// Drops all that comes from a server, or does so no more.
    fn blackhole(&self, link: &str, is_on: bool) {
        let option = if is_on { "-I" } else { "-D" };
        self.sh(&format!("iptables -w {option} INPUT -s {} -j DROP", server(link)));
    }

    fn expect_good_end(&self, run: &mut Run) -> Log {
        let log = run.well();
        self.sh(&format!(
            "cd out && sha256sum --check --quiet --ignore-missing {}/SHA256SUMS",
            self.data.display()
        ));
        assert_eq!(self.sh("find out/.twinlink -type f 2>/dev/null || true"), "");
        log
    }

    /// Makes server b fail for a while, and expects that its link brings something when it is back.
    fn fails_and_comes_back(&self, mut run: Run, fail: impl FnOnce(), seconds: u64, heal: impl FnOnce()) {
        fail();
        std::thread::sleep(Duration::from_secs(seconds));
        let before = received("b", &run.log());
        heal();
        let log = self.expect_good_end(&mut run);
        assert!(received("b", &log) - before > 500_000.0);
        let explained = |fault: &&Value| !fault["what"].as_str().unwrap().contains("unexplained");
        assert_eq!(
            log.of_link("fault", "a").into_iter().filter(explained).count(),
            0,
            "{:?}",
            log.of("fault")
        );
    }

    fn servers(&self) -> [Child; 2] {
        ["a", "b"].map(|link| self.start_server(link, LISTEN))
    }
}

#[test]
fn server_behind_a_short_blackhole_comes_back() {
    let Some(lab) = Lab::with_segments(48, "500KB").enter() else { return };
    let _servers = lab.servers();
    let run = lab.begin(48, &[]);
    lab.fails_and_comes_back(run, || lab.blackhole("b", true), 3, || lab.blackhole("b", false));
}

#[test]
fn server_behind_a_blackhole_beyond_give_up_comes_back() {
    let Some(lab) = Lab::with_segments(72, "500KB").enter() else { return };
    let _servers = lab.servers();
    let run = lab.begin(72, &["--give-up", "4s"]);
    lab.fails_and_comes_back(run, || lab.blackhole("b", true), 6, || lab.blackhole("b", false));
}

#[test]
fn server_that_is_stopped_comes_back() {
    let Some(lab) = Lab::with_segments(48, "500KB").enter() else { return };
    let [_, b] = &lab.servers();
    let run = lab.begin(48, &[]);
    lab.fails_and_comes_back(run, || signal(b, SIGSTOP), 3, || signal(b, SIGCONT));
}

#[test]
fn server_that_is_killed_comes_back() {
    let Some(lab) = Lab::with_segments(48, "500KB").enter() else { return };
    let [_, mut b] = lab.servers();
    let run = lab.begin(48, &[]);
    let kill = || {
        signal(&b, SIGKILL);
        b.wait().unwrap();
    };
    lab.fails_and_comes_back(run, kill, 2, || drop(lab.start_server("b", LISTEN)));
}

#[test]
fn bytes_are_kept_and_resumed_where_both_servers_go_away() {
    let Some(lab) = Lab::with_segments(48, "500KB").enter() else { return };
    let _servers = lab.servers();
    let mut run = lab.begin(48, &["--give-up", "2s"]);
    ["a", "b"].iter().for_each(|link| lab.blackhole(link, true));
    let (code, log) = run.end();
    ["a", "b"].iter().for_each(|link| lab.blackhole(link, false));
    assert_eq!(code, Some(1));
    assert_eq!(log.end()["exit"], "server_away", "{}", log.end());
    let mut kept = 0;
    for note in fs::read_dir(lab.path("out/.twinlink/notes")).unwrap().flatten() {
        let name = note.file_name().into_string().unwrap();
        let part = fs::read(lab.path("out/.twinlink/parts").join(&name)).unwrap();
        let whole = fs::read(lab.data.join(&name)).unwrap();
        let note: Value = serde_json::from_slice(&fs::read(note.path()).unwrap()).unwrap();
        for range in note["ranges"].as_array().unwrap() {
            let [from, to] = [0, 1].map(|end| range[end].as_u64().unwrap() as usize);
            assert!(
                part[from..to] == whole[from..to],
                "the bytes {from} to {to} of {name} are noted and not there"
            );
            kept += to - from;
        }
    }
    assert!(kept > 0);

    let out = lab.path("out").display().to_string();
    let options = [&RATES[..], &["--files", "s{001..048}.m4s", "--resume", "--out", &out]].concat();
    let mut run = lab.client_of("resumed", &options, [server("a"), server("b")]);
    let log = lab.expect_good_end(&mut run);
    assert_eq!(lab.sh("find out -type f | wc -l"), "48");
    assert!(number(&log.end()["resumed_bytes"]) > kept as f64);
    // A simulation says nothing of a part of a run.
    assert!(log.end()["predicted_ms"].is_null());
}
