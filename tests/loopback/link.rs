//! `twinlink link` and `twinlink doctor` as a user without privileges runs them: what is printed, what
//! is refused, and how it is said. Nothing here touches the network; tests/lab does.

use std::path::Path;
use std::process::Output;

use assert_cmd::Command;

/// The program in an empty folder, so that the copies that are built in are what it finds.
fn twinlink(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::cargo_bin("twinlink").unwrap();
    command.current_dir(dir).env_remove("TWINLINK_PROFILES").env("TWINLINK_CONTROL", dir.join("no-socket"));
    command.args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The error of a command that must fail: one line, exit code 1, nothing on stdout.
fn refusal(dir: &Path, args: &[&str]) -> String {
    let output = twinlink(dir, args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
    assert_eq!(output.stdout, b"", "{args:?}");
    assert_eq!(error.lines().count(), 1, "{args:?}: {error}");
    assert!(error.starts_with("error: "), "{args:?}: {error}");
    error
}

#[test]
fn a_plan_needs_no_privilege_and_has_placeholders_for_what_is_not_given() {
    let dir = tempfile::tempdir().unwrap();
    let plan = twinlink(dir.path(), &["link", "plan", "a", "wifi-mid"]);
    assert!(plan.status.success());
    insta::assert_snapshot!(stdout(&plan));
    let given = ["link", "plan", "b", "rate-20", "--dev", "eth7", "--server", "fd45::3", "--seed", "5"];
    let text = stdout(&twinlink(dir.path(), &given));
    assert!(text.contains("dev eth7 ingress") && text.contains("ip6 src fd45::3/128"), "{text}");
    assert!(!text.contains("DEV") && !text.contains("SERVER") && !text.contains("netem"), "{text}");
}

#[test]
fn a_plan_of_a_trace_prints_its_first_steps_and_how_many_follow() {
    let dir = tempfile::tempdir().unwrap();
    let text = stdout(&twinlink(dir.path(), &["link", "plan", "a", "lte-driving"]));
    for way in ["down", "up"] {
        assert!(text.contains(&format!("# {way} by the trace ../traces/lte-driving.csv: ")), "{text}");
    }
    let more = |line: &&str| line.starts_with("# and ") && line.ends_with(" more: --all prints them");
    assert_eq!(text.lines().filter(more).count(), 2);
    let steps = |text: &str| text.lines().filter(|line| line.starts_with("#  ")).count();
    assert_eq!(steps(&text), 40);
    let all = stdout(&twinlink(dir.path(), &["link", "plan", "a", "lte-driving", "--all"]));
    assert!(steps(&all) > 40 && !all.contains("# and "), "{all}");
    let outages = stdout(&twinlink(dir.path(), &["link", "plan", "a", "lte-handover"]));
    assert!(outages.contains(" s outage\n"), "{outages}");
}

#[test]
fn the_list_has_every_profile_for_people_and_for_programs() {
    let dir = tempfile::tempdir().unwrap();
    let table = stdout(&twinlink(dir.path(), &["link", "list"]));
    let json = stdout(&twinlink(dir.path(), &["link", "list", "--json"]));
    let entries: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    assert!(entries.len() >= 16);
    for entry in &entries {
        let name = entry["name"].as_str().unwrap();
        assert!(table.lines().any(|line| line.split_whitespace().next() == Some(name)), "{name}: {table}");
        assert!(entry["profile"]["down"]["rate"].is_string(), "{entry}");
        assert_eq!(entry["source"], "built in");
    }
}

#[test]
fn a_folder_of_ones_own_comes_before_what_is_built_in() {
    let dir = tempfile::tempdir().unwrap();
    let profiles = dir.path().join("netem/profiles");
    std::fs::create_dir_all(&profiles).unwrap();
    let own = "description = \"own\"\n[down]\nrate = \"1mbit\"\nqueue = \"1s\"\n[up]\nrate = \"1mbit\"\nqueue = \"1s\"\n";
    std::fs::write(profiles.join("geo.toml"), own).unwrap();
    std::fs::write(profiles.join("own.toml"), own).unwrap();
    std::fs::write(profiles.join("broken.toml"), "down = 3").unwrap();
    let json = stdout(&twinlink(dir.path(), &["link", "list", "--json"]));
    let entries: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    let entry = |name: &str| entries.iter().find(|entry| entry["name"] == name).unwrap();
    assert_eq!(entry("geo")["profile"]["down"]["rate"], "1mbit");
    assert_eq!(entry("own")["source"], "netem/profiles/own.toml");
    assert!(entry("broken")["error"].as_str().unwrap().contains("broken.toml"));
    assert!(stdout(&twinlink(dir.path(), &["link", "plan", "a", "own"])).contains("rate 1mbit"));
    let by_path = stdout(&twinlink(dir.path(), &["link", "plan", "a", "netem/profiles/own.toml"]));
    assert!(by_path.contains("rate 1mbit"), "{by_path}");
}

#[test]
fn bad_profiles_are_refused_by_name_key_and_what_was_expected() {
    let dir = tempfile::tempdir().unwrap();
    let error = refusal(dir.path(), &["link", "plan", "a", "wifi-neer"]);
    assert!(error.contains("did you mean wifi-near?") && error.contains("lte-medium"), "{error}");
    let error = refusal(dir.path(), &["link", "plan", "a", "./missing.toml"]);
    assert!(error.contains("cannot read the profile ./missing.toml"), "{error}");
    let cases = [
        ("rate = \"20\"\nqueue = \"1s\"", "down.rate: \"20\" has no unit"),
        ("rate = \"-20mbit\"\nqueue = \"1s\"", "is negative"),
        ("rate = \"0mbit\"\nqueue = \"1s\"", "a rate of 0"),
        (
            "rate = \"20mbit\"\nqueue = \"1s\"\ndeley = \"1ms\"",
            "unknown key \"deley\": did you mean \"delay\"?",
        ),
    ];
    for (lines, expected) in cases {
        let text = format!("description = \"d\"\n[down]\n{lines}\n[up]\nrate = \"1mbit\"\nqueue = \"1s\"\n");
        std::fs::write(dir.path().join("bad.toml"), text).unwrap();
        let error = refusal(dir.path(), &["link", "plan", "a", "bad.toml"]);
        assert!(error.contains(expected) && error.contains("bad.toml, line "), "{error}");
    }
    std::fs::write(dir.path().join("big.toml"), "#".repeat(100_000)).unwrap();
    assert!(refusal(dir.path(), &["link", "plan", "a", "big.toml"]).contains("more than it may have"));
}

#[test]
fn a_link_that_does_not_exist_is_a_mistake_in_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let output = twinlink(dir.path(), &["link", "plan", "c", "rate-20"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the links are a and b"));
}

#[test]
fn a_server_that_does_not_resolve_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let hold = ["link", "hold", "--link-a", "rate-20", "--server-a", "no-such-host.invalid", "--", "true"];
    let error = refusal(dir.path(), &hold);
    assert!(error.contains("no-such-host.invalid") && error.contains("--server-a"), "{error}");
}

#[test]
fn a_running_client_is_asked_and_its_refusal_is_told() {
    use std::io::{BufRead, BufReader, Write};
    let dir = tempfile::tempdir().unwrap();
    let listener = std::os::unix::net::UnixListener::bind(dir.path().join("no-socket")).unwrap();
    let client = std::thread::spawn(move || {
        let answers = [r#"{"ok":true,"links":[]}"#, r#"{"ok":false,"error":"the run is over"}"#, "nonsense"];
        answers.map(|answer| {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            writeln!(stream.get_mut(), "{answer}").unwrap();
            serde_json::from_str::<serde_json::Value>(&line).unwrap()
        })
    });
    assert_eq!(stdout(&twinlink(dir.path(), &["link", "show"])), "no link is shaped\n");
    let error = refusal(dir.path(), &["link", "set", "b", "rate-20"]);
    assert!(error.contains("the running client refused: the run is over"), "{error}");
    let error = refusal(dir.path(), &["link", "clear", "a"]);
    assert!(error.contains("cannot understand the answer"), "{error}");
    let asked = client.join().unwrap();
    assert_eq!(asked[0]["op"], "show");
    assert_eq!((&asked[1]["op"], &asked[1]["link"]), (&"set".into(), &"b".into()));
    assert_eq!(asked[1]["profile"]["name"], "rate-20");
    assert_eq!((&asked[2]["op"], &asked[2]["link"]), (&"clear".into(), &"a".into()));
}

#[test]
fn what_is_in_force_is_shown_with_its_reason_its_trace_and_the_causes_of_drops() {
    use std::io::{BufRead, BufReader, Write};
    let row = |direction: &str, backend: &str, counters: serde_json::Value| {
        serde_json::json!({
            "link": "a", "direction": direction, "backend": backend, "why": "asked for", "profile": "p",
            "server": "10.45.0.2", "owner": "run", "shape": { "rate": "20mbit", "queue": "100ms" },
            "delay_line_ms": 0.0, "kernel": null, "counters": counters
        })
    };
    let counters = |kbit: f64, queue: u64, loss: Option<u64>, most: Option<u64>| {
        serde_json::json!({
            "packets": 9, "bytes": 900, "dropped_queue": queue, "dropped_loss": loss, "queue_packets": 1,
            "queue_bytes": 100, "queue_packets_max": most, "rate_kbit": kbit, "lateness_ms": null
        })
    };
    let mut playing = row("down", "userspace", counters(3200.0, 3, Some(2), Some(40)));
    playing["trace"] = "steps.txt".into();
    let mut outage = row("up", "userspace", counters(0.0, 0, Some(0), Some(1)));
    outage["trace"] = "steps.txt".into();
    let kernel = row("down", "netem", counters(20_000.0, 5, None, None));
    let answers = [vec![playing, outage], vec![kernel]]
        .map(|links| serde_json::json!({ "ok": true, "links": links }).to_string());
    let dir = tempfile::tempdir().unwrap();
    let listener = std::os::unix::net::UnixListener::bind(dir.path().join("no-socket")).unwrap();
    let client = std::thread::spawn(move || {
        for answer in answers {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            stream.read_line(&mut String::new()).unwrap();
            writeln!(stream.get_mut(), "{answer}").unwrap();
        }
    });
    let held = stdout(&twinlink(dir.path(), &["link", "show"]));
    for words in [
        "3 by queue, 2 by loss",
        " 40 p",
        " 3.2mbit ",
        " outage ",
        "link a is on userspace: asked for\n",
        "link a down follows the trace steps.txt",
        "link a up follows the trace steps.txt",
    ] {
        assert_eq!(held.matches(words).count(), 1, "{words}: {held}");
    }
    let kernel = stdout(&twinlink(dir.path(), &["link", "show"]));
    assert!(kernel.contains("5 by queue or loss") && kernel.contains(" 20mbit "), "{kernel}");
    assert!(!kernel.contains("follows"), "{kernel}");
    client.join().unwrap();
}

#[test]
fn the_doctor_tells_programs_what_it_tells_people() {
    let dir = tempfile::tempdir().unwrap();
    let json = twinlink(dir.path(), &["doctor", "--json"]);
    assert!(json.status.success());
    let report: serde_json::Value = serde_json::from_str(&stdout(&json)).unwrap();
    let table = stdout(&twinlink(dir.path(), &["doctor"]));
    assert!(table.contains(report["kernel"].as_str().unwrap()), "{table}");
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() >= 12, "{report}");
    for check in checks {
        let name = check["name"].as_str().unwrap();
        assert!(table.contains(name), "{name}: {table}");
        // A finding that is not well has a remedy.
        assert!(check["ok"] == true || check["advice"].is_string(), "{check}");
    }
}

#[test]
fn netem_that_was_asked_for_refuses_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let cross = "description = \"d\"\n[down]\nrate = \"20mbit\"\nqueue = \"100ms\"\ncross = \"1 x cubic\"\n\
                 [up]\nrate = \"20mbit\"\nqueue = \"100ms\"\n";
    std::fs::write(dir.path().join("cross.toml"), cross).unwrap();
    let netem = ["simulate", "--backend", "netem"];
    let channel = refusal(dir.path(), &[&netem[..], &["--channel", "course-scenario-1-near"]].concat());
    assert!(
        channel.contains("cannot do a shared channel with netem: use --backend auto or userspace"),
        "{channel}"
    );
    let links = ["--link-a", "./cross.toml", "--link-b", "rate-20"];
    let error = refusal(dir.path(), &[&netem[..], &links].concat());
    let words = "cannot do all of the profile ./cross.toml with netem: it has no traffic of others: use --backend auto";
    assert!(error.contains(words), "{error}");
    let script = "[[at]]\nafter = \"1s\"\nlink = \"b\"\nprofile = \"./cross.toml\"\n";
    std::fs::write(dir.path().join("script.toml"), script).unwrap();
    let links = ["--link-a", "rate-80", "--link-b", "rate-20", "--script", "script.toml"];
    let error = refusal(dir.path(), &[&netem[..], &links].concat());
    assert!(error.contains(words), "{error}");
    let allowed = twinlink(
        dir.path(),
        &["simulate", "--backend", "netem", "--link-a", "rate-80", "--link-b", "rate-20"],
    );
    assert!(allowed.status.success());
}
