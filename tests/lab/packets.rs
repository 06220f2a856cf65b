//! `--capture`: what the shaper says of each packet, as tshark reads it, against the shaper's own counters in the log.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::fixture::{Log, Place, User, have, number, stdout_of, users, words};

const PROFILE: &str = "description = \"a short queue and some loss\"
[down]
rate = \"20mbit\"
delay = \"10ms\"
loss = \"1%\"
queue = \"20ms\"
[up]
rate = \"20mbit\"
delay = \"10ms\"
queue = \"20ms\"
";

/// The comments of a capture's packets, by interface.
fn comments(file: &Path) -> BTreeMap<String, Vec<String>> {
    let fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "frame.comment"];
    let text = stdout_of(Command::new("tshark").arg("-r").arg(file).args(fields));
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let (interface, comment) = line.split_once('\t').unwrap();
        found.entry(interface.into()).or_default().push(comment.into());
    }
    found
}

#[test]
fn capture_tells_the_queue_time_and_the_drops_of_each_packet() {
    if users().is_empty() || !have(&["tshark"]) {
        return;
    }
    let place = Place::new(User::Own);
    let data = place.data(20, "200KB");
    let [profile, log, file] =
        ["lossy.toml", "work/log.jsonl", "work/links.pcapng"].map(|name| place.path(name));
    std::fs::write(&profile, PROFILE).unwrap();
    let [link, log_name, file_name] = [&profile, &log, &file].map(|path| path.to_str().unwrap());
    let options = ["--", "--link-a", link, "--link-b", link, "--log", log_name, "--capture", file_name];
    // Further connections that are closed leave more behind the last sample.
    let options = [&options[..], &["--connections", "1"]].concat();
    let output = place.run(&[&data.each_ref().map(String::as_str)[..], &options].concat());
    assert!(output.status.success(), "{}", words(&output));
    assert!(!words(&output).contains("the capture lacks"), "{}", words(&output));

    let (log, captured) = (Log::read(&log), comments(&file));
    for link in ["a", "b"] {
        for direction in ["down", "up"] {
            let of = &captured[&format!("link-{link}-{direction}")];
            let begins = |with: &str| of.iter().filter(|comment| comment.starts_with(with)).count();
            let [released, lost, full] =
                ["queue ", "dropped: lost", "dropped: the queue is full"].map(begins);
            assert_eq!(released + lost + full, of.len(), "{link} {direction}: a comment is none of these");
            let last = &log.of_link("sample", link).last().unwrap()[direction];
            // The queue's packets and the connections' ends come behind the last sample.
            let behind = number(&last["queue_packets"]) + 20.0;
            for (seen, key) in [(released, "packets"), (lost, "dropped_loss"), (full, "dropped_queue")] {
                let counted = number(&last[key]);
                assert!(
                    (counted..=counted + behind).contains(&(seen as f64)),
                    "{link} {direction} {key}: {seen}, not {last}"
                );
            }
        }
        let down = &captured[&format!("link-{link}-down")];
        assert!(
            down.iter().any(|comment| comment.starts_with("dropped: lost")),
            "1 % of the packets are lost"
        );
        let queue = |comment: &String| comment.strip_prefix("queue ")?.split(' ').next()?.parse::<f64>().ok();
        let longest = down.iter().filter_map(queue).fold(0.0, f64::max);
        assert!((5.0..=21.0).contains(&longest), "a queue of 20 ms held a packet for {longest} ms");
        assert!(down.iter().any(|comment| comment.contains("delay line 10.000 ms")), "{:?}", down[0]);
    }
}

#[test]
fn capture_without_a_shaper_that_sees_packets_is_refused() {
    if users().is_empty() {
        return;
    }
    let place = Place::new(User::Own);
    let data = place.data(1, "10KB");
    for (options, expected) in [
        (["--link-a", "rate-20", "--backend", "netem"], "only the userspace backend sees each packet"),
        (["--link-a", "rate-20", "--backend", "none"], "only the userspace backend sees each packet"),
    ] {
        let line = [&data.each_ref().map(String::as_str)[..], &["--"], &options, &["--capture", "x.pcapng"]]
            .concat();
        let output = place.run(&line);
        assert!(!output.status.success() && words(&output).contains(expected), "{}", words(&output));
        assert!(!place.path("work/x.pcapng").exists());
    }
}
