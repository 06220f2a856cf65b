//! The forms of output: records, sentences, and what is told of a wrong command line.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::{Server, TWINLINK, segments, stderr};

fn twinlink(args: &[&str], settings: &[(&str, &str)]) -> Output {
    let socket = tempfile::tempdir().unwrap();
    Command::new(TWINLINK)
        .args(args)
        .env_remove("TWINLINK_OUTPUT")
        .env_remove("TWINLINK_RESULTS_HOST")
        .env("TWINLINK_CONTROL", socket.path().join("control.sock"))
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Fetches a few files from two servers, with results in `dir`.
fn fetch(dir: &Path, args: &[&str], settings: &[(&str, &str)]) -> Output {
    let data = dir.join("data");
    std::fs::create_dir_all(&data).unwrap();
    segments(&data, 6, "5KB");
    let (a, b) = (Server::start(&data), Server::start(&data));
    let results = dir.join("results");
    let fixed = ["client", "--results", results.to_str().unwrap(), &a.address, &b.address];
    twinlink(&[&fixed, args].concat(), settings)
}

#[test]
fn text_is_sentences_a_table_and_the_page() {
    for (args, settings) in [(&["--output", "text"][..], &[][..]), (&[], &[("TWINLINK_OUTPUT", "text")])] {
        let dir = tempfile::tempdir().unwrap();
        let output = fetch(dir.path(), args, settings);
        assert!(output.status.success(), "{}", stderr(&output));
        let (said, told) = (stdout(&output), stderr(&output));
        assert!(!said.contains("{\"") && !told.contains("{\""), "{said}{told}");
        assert!(said.lines().all(|line| !line.contains('─') || line.chars().count() <= 80), "{said}");
        assert!(said.starts_with("adaptive fetches 6 files from 127.0.0.1:"), "{said}");
        let [.., sentence, page] = said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
        assert!(sentence.starts_with("adaptive fetched 6 files"), "{said}");
        assert_eq!(said.matches(sentence).count(), 1, "it is said once: {said}");
        let page = page.strip_prefix("The page: ").unwrap();
        assert!(Path::new(page).is_file(), "{page}");
    }
}

#[test]
fn lists_are_printed_whatever_the_environment_sets() {
    let settings =
        [("TWINLINK_RESULTS", "results"), ("TWINLINK_SERVER_LOGS", "logs"), ("TWINLINK_OUTPUT", "json")];
    for args in [["sweep", "--list"], ["lab", "--list"]] {
        let output = twinlink(&args, &settings);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn the_page_is_named_as_the_host_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().join("results");
    let mounted = [("TWINLINK_RESULTS", results.to_str().unwrap()), ("TWINLINK_RESULTS_HOST", "./on-host")];
    let text = stdout(&fetch(dir.path(), &["--output", "text"], &mounted));
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("The page: ./on-host/") && last.ends_with("/report.html"), "{last}");
}

#[test]
fn records_begin_with_a_sentence_also_where_json_is_asked_for() {
    for args in [&[][..], &["--output", "json"], &["--output=auto"]] {
        let dir = tempfile::tempdir().unwrap();
        let output = fetch(dir.path(), args, &[]);
        let said = stdout(&output);
        assert!(
            said.lines().count() > 1 && said.lines().all(|line| line.starts_with("{\"say\":\"")),
            "{said}"
        );
        assert!(said.lines().last().unwrap().contains("The page: "), "{said}");
    }
}

#[test]
fn init_makes_a_folder_of_its_own_and_says_what_to_type() {
    let dir = tempfile::tempdir().unwrap();
    let init = |args: &[&str], settings: &[(&str, &str)]| {
        let mut command = Command::new(TWINLINK);
        command.arg("init").args(args).env_remove("TWINLINK_RESULTS").env_remove("TWINLINK_RESULTS_HOST");
        let output = command.envs(settings.iter().copied()).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    assert!(init(&[], &[]).ends_with("next: twinlink sweep mine/experiment.toml --dry-run\n"));
    let inside = dir.path().join("results");
    let inside = inside.to_str().unwrap();
    let compose = [("TWINLINK_RESULTS", inside), ("TWINLINK_RESULTS_HOST", "results")];
    let wanted = format!(
        "wrote results/mine/experiment.toml and results/mine/link.toml\n\
         next: docker compose run --rm client sweep {inside}/mine/experiment.toml --dry-run\n"
    );
    assert_eq!(init(&[], &compose), wanted);
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.len() == 2 && left.iter().all(|name| name == "mine" || name == "results"), "{left:?}");
}

#[test]
fn json_asked_for_on_a_terminal_is_json() {
    if !crate::support::have(&["script"]) {
        return;
    }
    let seen = |form: &str| {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        segments(&data, 6, "5KB");
        let (a, b) = (Server::start(&data), Server::start(&data));
        let line = format!("{TWINLINK} client --output {form} {} {}", a.address, b.address);
        let output = Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output();
        stdout(&output.unwrap())
    };
    assert!(seen("json").contains("{\"say\":\""));
    for form in ["auto", "text"] {
        let text = seen(form);
        assert!(!text.contains("{\"say\"") && text.contains("RTT ms, busy"), "{form}: {text}");
    }
}

#[test]
fn a_report_on_a_terminal_has_a_plain_table() {
    if !crate::support::have(&["script"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(fetch(dir.path(), &[], &[]).status.success());
    let line = format!("{TWINLINK} report {}", dir.path().join("results").display());
    let output =
        Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
    let text = stdout(&output);
    assert!(text.contains("adaptive") && text.contains(" best"), "{text}");
    assert!(!text.contains("u{1b}") && !text.contains('\u{1b}'), "{text}");
    assert!(
        text.lines().filter(|line| line.contains("─")).all(|line| line.trim_end().chars().count() <= 80),
        "{text}"
    );
}

#[test]
fn a_wrong_command_line_is_told_in_text_unless_json_was_asked_for() {
    let wrong = ["client", "--schedule", "ratoi=1:2", "a", "b"];
    let compose = ("TWINLINK_RESULTS_HOST", "results");
    let (text, json) = (("TWINLINK_OUTPUT", "text"), ("TWINLINK_OUTPUT", "json"));
    for settings in [&[][..], &[text], &[("TWINLINK_OUTPUT", "auto")], &[text, compose]] {
        let output = twinlink(&wrong, settings);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).starts_with("error: "), "{settings:?}: {}", stderr(&output));
    }
    for settings in [&[json][..], &[compose], &[json, compose]] {
        let output = twinlink(&wrong, settings);
        assert_eq!(output.status.code(), Some(2));
        let told = stderr(&output);
        let record: serde_json::Value = serde_json::from_str(&told).expect(&told);
        assert!(record["message"].as_str().unwrap().contains("ratoi=1:2"), "{told}");
    }
    let by_option = twinlink(&[&wrong[..], &["--output", "json"]].concat(), &[text]);
    assert!(stderr(&by_option).starts_with('{'), "the option counts before the setting");
}
