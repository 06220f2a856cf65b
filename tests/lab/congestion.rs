//! A congestion control that a kernel refuses to a program without privileges ends the run before its first request,
//! whichever end refuses, and the message names the allowed ones; both ends use one that is allowed.

use std::fs;

use crate::fixture::{Inside, Lab, Log, is_root};

impl Inside {
    /// Runs the client by way of another program, and returns whether it ended well, with its log.
    fn congested(&self, name: &str, prefix: &[&str], control: &str) -> (bool, Log) {
        let program = std::env::var("TWINLINK_BIN").unwrap();
        let mut words: Vec<&str> = prefix.to_vec();
        words.extend([&program, "client", "--log", "log", "--congestion", control, "server-a", "server-b"]);
        let _ = fs::remove_file(self.path("log"));
        let mut run = self.start(name, self.command(words[0], &words[1..]));
        run.log = self.path("log");
        let (code, log) = run.end();
        (code == Some(0), log)
    }
}

#[test]
fn refused_congestion_control_ends_the_run_with_the_allowed_ones() {
    // As in a container that has dropped its capabilities.
    let nobody = if is_root() { "--reuid 65534 --regid 65534 --clear-groups" } else { "" };
    let server = format!(
        "setpriv {nobody} --bounding-set -all --inh-caps -all {{PROGRAM}} server --data {{DATA}} --listen {{ADDR}}:{{PORT}}"
    );
    let Some(lab) = Lab::serving(8, "50KB").server(&server).once().enter() else { return };
    let (ok, log) = lab.congested("reno", &[], "reno");
    assert!(ok);
    for server in ["a", "b"] {
        assert_eq!(log.start()["servers"][server]["congestion_control"], "reno");
    }
    let allowed = fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control").unwrap();
    let refused =
        ["bbr", "cubic"].into_iter().find(|name| !allowed.split_whitespace().any(|one| one == *name));
    let Some(refused) = refused else {
        println!("this kernel lets everybody use all congestion controls: none can be refused");
        return;
    };
    let expect_refusal = |who: &[&str], (ok, log): (bool, Log)| {
        let end = log.end();
        assert!(!ok && end["exit"] == "congestion" && end["first_request_ms"].is_null(), "{end}");
        let summary = end["summary"].as_str().unwrap();
        let is_told = who.iter().any(|who| summary.contains(who));
        let (_, behind) = summary.split_once("its kernel allows it").expect(summary);
        assert!(is_told && behind.contains("reno"), "{summary}");
    };
    expect_refusal(&["server a", "server b"], lab.congested("theirs", &[], refused));
    let unprivileged = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"];
    expect_refusal(&["the client"], lab.congested("ours", &unprivileged, refused));
}
