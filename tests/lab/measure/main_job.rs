//! The main job: one client fetches 160 segments from two servers at once over rate-20 and rate-80. Every file arrives
//! whole, the log explains the run and agrees with the kernel's own counters, and nothing stays shaped.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::fixture::{Inside, Lab, Log, between, number};

impl Inside {
    /// Returns the bytes that the server's interface has sent, as its kernel counts them.
    fn sent_by(&self, link: &str) -> f64 {
        let line = format!("ip -n $TWINLINK_NS_{} -j -s link show dev eth0", link.to_uppercase());
        let shown: Value = serde_json::from_str(&self.sh(&line)).unwrap();
        number(&shown[0]["stats64"]["tx"]["bytes"])
    }
}

/// Runs the whole job by a schedule, and returns its log.
fn expect_whole_job(schedule: &str) -> Option<Log> {
    let lab = Lab::serving(160, "500KB").enter()?;
    let before = lab.network_state();
    let sent = ["a", "b"].map(|link| lab.sent_by(link));
    let options = ["--schedule", schedule, "--link-a", "rate-20", "--link-b", "rate-80", "--out", "files"];
    let mut run = lab.client("run", &options);
    let log = run.well();
    let sent = [lab.sent_by("a") - sent[0], lab.sent_by("b") - sent[1]];
    assert_eq!(lab.network_state(), before);
    lab.sh(&format!("cd files && sha256sum --check --quiet {}/SHA256SUMS", lab.data.display()));
    assert_eq!(lab.sh("find files -type f | wc -l"), "160");

    log.expect_verified(160);
    log.expect_no_fault();
    // This only tells a run over shaped links from one that stalled; how fast it is, the benchmark says.
    between("efficiency", number(&log.end()["efficiency"]), 0.5, 1.0);
    let words = run.words();
    let printed: Vec<Value> = words.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(
        !printed.is_empty()
            && printed.iter().all(|one| one["event"] != "sample" && one["event"] != "segment")
    );

    let links: BTreeSet<String> = log
        .of("link")
        .into_iter()
        .map(|data| {
            let keys = ["link", "direction", "backend", "profile", "action"];
            keys.map(|key| data[key].as_str().unwrap()).join(" ")
        })
        .collect();
    let wanted = ["a down netem rate-20", "a up netem rate-20", "b down netem rate-80", "b up netem rate-80"];
    assert_eq!(log.of("link").len(), 4);
    assert_eq!(links, wanted.map(|way| format!("{way} set")).into_iter().collect());
    for (link, rate) in [("a", 20_000.0), ("b", 80_000.0)] {
        let samples = log.of_link("sample", link);
        // Ten a second over several seconds, were the machine ever so busy.
        assert!(samples.len() > 10);
        let with_rtt =
            samples.iter().filter(|data| data["tcp"]["rtt_ms"].as_f64().is_some_and(|rtt| rtt > 0.0));
        assert!(with_rtt.count() > 10);
        let queues = |data: &&Value| ["down", "up"].map(|way| data[way]["queue_bytes"].as_f64());
        assert!(samples.iter().all(|data| queues(data).iter().all(Option::is_some)));
        // A bottleneck that is kept busy has packets waiting before it.
        assert!(samples.iter().any(|data| number(&data["down"]["queue_bytes"]) > 0.0));
        assert!(samples.iter().all(|data| number(&data["down"]["rate_kbit"]) == rate));
    }
    // Payload against the counters of two kernels: the server's interface over the whole run, and the
    // shaper of the link up to the last sample. Heads of packets and answers are 4.6 % at wire size.
    for (link, sent) in ["a", "b"].into_iter().zip(sent) {
        let payload = number(&log.end()["links"][link]["bytes"]);
        between(&format!("bytes that server-{link} sent for each of payload"), sent / payload, 1.0, 1.15);
        let samples = log.of_link("sample", link);
        let last = samples.iter().rev().find(|data| number(&data["bytes"]) > 2e6).unwrap();
        let shaped = number(&last["down"]["bytes"]) / number(&last["bytes"]);
        between(&format!("bytes through the shaper of {link} for each of payload"), shaped, 1.0, 1.15);
    }
    Some(log)
}

fn names_from_a(log: &Log) -> BTreeSet<String> {
    log.of_link("segment", "a").into_iter().map(|data| data["name"].as_str().unwrap().to_string()).collect()
}

#[test]
fn greedy_run_uses_both_links() {
    let Some(log) = expect_whole_job("greedy") else { return };
    assert!((1..160).contains(&names_from_a(&log).len()));
}

#[test]
fn run_by_ratio_takes_files_in_turn() {
    let Some(log) = expect_whole_job("ratio=1:4") else { return };
    // Link a gets s001, b the next four, and so on.
    assert_eq!(names_from_a(&log), (1..=160).step_by(5).map(|number| format!("s{number:03}.m4s")).collect());
}
