//! Samples of a run against tcpdump on the ifb of each link's direction down: between any two samples a second apart the log
//! has the bytes that the capture saw, and at the end as many in all.

use std::fs;
use std::process::Stdio;
use std::time::SystemTime;

use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};

use crate::fixture::{Inside, Lab, Log, eventually, have, number, server, signal};

/// The frames of a capture in order: the time of each (s), and the bytes up to and with it.
struct Capture(Vec<(f64, f64)>);

impl Capture {
    fn read(file: &[u8]) -> Capture {
        let number = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap());
        assert_eq!(number(0), 0xA1B2_C3D4, "not a capture in microseconds");
        let (mut at, mut sum, mut frames) = (24, 0.0, Vec::new());
        while at + 16 <= file.len() {
            sum += f64::from(number(at + 12));
            frames.push((f64::from(number(at)) + f64::from(number(at + 4)) / 1e6, sum));
            at += 16 + number(at + 8) as usize;
        }
        Capture(frames)
    }

    /// Returns the bytes that were seen until a time.
    fn seen(&self, until: f64) -> f64 {
        match self.0.partition_point(|(at, _)| *at <= until) {
            0 => 0.0,
            index => self.0[index - 1].1,
        }
    }
}

fn expect_agreement(lab: &Inside, log: &Log, link: &str) {
    let capture = Capture::read(&fs::read(lab.path(&format!("{link}.pcap"))).unwrap());
    let began = humantime::parse_rfc3339(log.start()["wall_clock"].as_str().unwrap()).unwrap();
    let began = began.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let of_link = log.0.iter().filter(|record| record["event"] == "sample" && record["data"]["link"] == link);
    let samples: Vec<(f64, f64)> = of_link
        .map(|record| (began + number(&record["t_ns"]) / 1e9, number(&record["data"]["down"]["bytes"])))
        .collect();
    assert!(samples.len() > 40, "only {} samples of link {link}", samples.len());
    let captured = |from: f64, to: f64| capture.seen(to) - capture.seen(from);
    for (&(at, before), &(later, after)) in samples.iter().zip(&samples[10..]) {
        let (captured, logged) = (captured(at, later), after - before);
        // A sample is read a little before it is stamped: 10 ms of a second, and two frames.
        let allowed = 0.01 * captured + 2.0 * 1514.0;
        assert!(
            (captured - logged).abs() <= allowed,
            "link {link}, {:.3} s: {logged} bytes in the samples, {captured} in the capture",
            at - began
        );
    }
    let (first, last) = (samples[0], samples[samples.len() - 1]);
    let (captured, logged) = (captured(first.0, last.0), last.1 - first.1);
    println!("link {link}: {} frames; {logged} and {captured} bytes in all", capture.0.len());
    assert!(
        (captured - logged).abs() <= 0.002 * captured + 2.0 * 1514.0,
        "{logged} of {captured} bytes in all"
    );
}

#[test]
fn samples_have_the_bytes_of_a_capture() {
    if !have(&["tcpdump"]) {
        return;
    }
    let Some(lab) = Lab::with_segments(120, "500KB").enter() else { return };
    if !lab.is_real_root() {
        println!("NOT RUN: tcpdump changes its user, which a user namespace with one user does not allow");
        return;
    }
    let servers = lab.start_servers();
    // The servers stand still until the captures have begun, so that nothing is missed.
    servers.iter().for_each(|server| signal(server, SIGSTOP));
    let options = ["--link-a", "rate-20", "--link-b", "rate-80", "--give-up", "60s"];
    let mut run = lab.client_of("run", &options, [server("a"), server("b")]);
    eventually("both links are shaped", || {
        lab.sh("tc filter show dev eth0 egress 2>/dev/null || true").contains("twl-b-up")
    });
    let mut captures = ["a", "b"].map(|link| {
        // Heads alone are kept; each record says how long its frame was.
        let options = ["-Q", "out", "-s", "64", "-B", "8192", "--immediate-mode", "-U", "-Z", "root"];
        let mut tcpdump = lab.command("tcpdump", &options);
        tcpdump.args(["-i", &format!("twl-{link}-down"), "-w", &format!("{link}.pcap")]);
        let words = fs::File::create(lab.path(&format!("{link}.words"))).unwrap();
        let child = tcpdump.stdout(Stdio::null()).stderr(words).spawn().unwrap();
        eventually("tcpdump listens", || lab.sh(&format!("cat {link}.words")).contains("listening on"));
        child
    });
    servers.iter().for_each(|server| signal(server, SIGCONT));
    let log = run.well();
    // The devices, and with them the captures, end with the run.
    for capture in &mut captures {
        capture.wait().unwrap();
    }
    println!("{}", lab.sh("grep -H 'dropped by kernel' *.words"));
    ["a", "b"].iter().for_each(|link| expect_agreement(&lab, &log, link));
}
