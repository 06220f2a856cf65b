//! A link is given another profile in the middle of a run, by hand and by a script: on the connection that was there, with
//! the queue that was there, nothing of the old profile left, and in the log.

use serde_json::Value;

use crate::fixture::{Inside, Lab, Log, eventually, number, server, stdout_of};

/// Returns when link a changed down (ms), for each time.
fn changes(log: &Log) -> Vec<f64> {
    let is_change = |record: &&Value| {
        let data = &record["data"];
        record["event"] == "link" && data["action"] == "changed" && data["direction"] == "down"
    };
    log.0.iter().filter(is_change).map(|record| number(&record["t_ns"]) / 1e6).collect()
}

/// Returns link a's direction down in the samples from a time (ms) on.
fn samples(log: &Log, from_ms: f64) -> Vec<&Value> {
    let is_later = |record: &&Value| {
        record["event"] == "sample"
            && record["data"]["link"] == "a"
            && number(&record["t_ns"]) / 1e6 >= from_ms
    };
    log.0.iter().filter(is_later).map(|record| &record["data"]["down"]).collect()
}

fn expect_change_by_hand(before: &str, after: &str) {
    let Some(lab) = Lab::serving(24, "500KB").enter() else { return };
    let options = ["--schedule", "ratio=5:1", "--link-a", before, "--link-b", "rate-80"];
    let mut run = lab.client_of("hand", &options, [server("a"), server("b")]);
    let has_bytes = |data: &Value| number(&data["bytes"]) > 0.0;
    eventually("bytes have come", || run.log().of("sample").into_iter().any(has_bytes));
    std::thread::sleep(std::time::Duration::from_millis(300));
    stdout_of(&mut lab.twinlink(&["link", "set", "a", after]));
    for direction in ["down", "up"] {
        assert_eq!(lab.shown("a", direction, "/profile"), after);
    }
    let profiles = lab.json(&["link", "list", "--json"]);
    let profile = profiles.as_array().unwrap().iter().find(|profile| profile["name"] == after).unwrap();
    let rate = profile["profile"]["down"]["rate"].as_str().unwrap();
    let mbit: f64 = rate.strip_suffix("mbit").unwrap().parse().unwrap();
    let log = run.well();
    let at = changes(&log)[0];
    let settled = samples(&log, at + 100.0);
    assert!(!settled.is_empty() && settled.iter().all(|down| number(&down["rate_kbit"]) == mbit * 1e3));
    assert!(number(&samples(&log, at)[0]["queue_packets"]) > 0.0);
    assert_eq!(log.end()["links"]["a"]["connections"], 1);
    log.expect_no_fault();
    log.expect_reconciled();
    assert!(number(&log.end()["efficiency"]) <= 1.0);
}

#[test]
fn change_by_hand_on_rate_links_takes_effect() {
    expect_change_by_hand("rate-80", "rate-20");
}

#[test]
fn change_by_hand_on_wifi_links_takes_effect() {
    expect_change_by_hand("wifi-mid", "wifi-far");
}

#[test]
fn script_changes_a_link_when_it_is_planned() {
    let Some(lab) = Lab::serving(24, "500KB").enter() else { return };
    let entry = |after: &str, profile: &str| {
        format!("[[at]]\nafter = \"{after}\"\nlink = \"a\"\nprofile = \"{profile}\"\n")
    };
    let script = lab.write("script.toml", &(entry("900ms", "rate-80") + &entry("300ms", "dsl")));
    let links =
        ["--backend", "userspace", "--schedule", "ratio=1:5", "--link-a", "rate-20", "--link-b", "rate-20"];
    let options = [&links[..], &["--script", &script]].concat();
    let log = lab.client_of("script", &options, [server("a"), server("b")]).well();
    let down = log.of_link("link", "a").into_iter().filter(|data| data["direction"] == "down");
    let profiles: Vec<&str> = down.map(|data| data["profile"].as_str().unwrap()).collect();
    assert_eq!(profiles, ["rate-20", "dsl", "rate-80"]);
    let began = number(&log.end()["first_request_ms"]);
    for (at, planned) in changes(&log).into_iter().zip([300.0, 900.0]) {
        // A busy machine makes it late, but not by as much as the next one is planned later.
        crate::fixture::between(
            "ms of a change after the first request",
            at - began,
            planned,
            planned + 599.9,
        );
    }
    assert_eq!(number(&samples(&log, 0.0).last().unwrap()["rate_kbit"]), 80_000.0);
    log.expect_no_fault();
}

impl Inside {
    fn expect_script_is_refused(&self, text: &str, part: &str) {
        let script = self.write("bad.toml", text);
        let mut client =
            self.twinlink(&["client", "--log", "bad.jsonl", "--link-a", "rate-20", "--script", &script]);
        let said = self.refused(client.args([server("a"), server("b")]), &[part]);
        assert!(!self.path("bad.jsonl").exists(), "a log was begun: {said}");
    }
}

#[test]
fn invalid_script_is_refused_before_anything_is_shaped() {
    let Some(lab) = Lab::serving(1, "1KB").enter() else { return };
    let entry = |after: &str, link: &str, profile: &str| {
        format!("[[at]]\nafter = \"{after}\"\nlink = \"{link}\"\nprofile = \"{profile}\"\n")
    };
    lab.expect_script_is_refused(&entry("1s", "c", "wifi-far"), "not found: the links are a and b");
    lab.expect_script_is_refused(&entry("-1s", "a", "wifi-far"), "negative");
    lab.expect_script_is_refused(&entry("1s", "a", "no-such"), "no-such");
    lab.expect_script_is_refused("", "names no change");
}
