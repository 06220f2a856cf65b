//! `twinlink report` on logs that tests/report-logs.py makes up: what it finds, what it names, and
//! that it touches no log.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

fn made_up(what: &str, dir: &Path, more: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report-logs.py");
    let output =
        Command::new("python3").arg(script).arg(what).arg(dir).args(more).output().expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn report(paths: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_twinlink")).arg("report").args(paths).output().expect("twinlink runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn summary(dir: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(dir.join("summary.json")).unwrap()).unwrap()
}

fn place<'a>(summary: &'a Value, condition: &str, channel: &str) -> &'a Value {
    let mut places = summary["studies"][0]["places"].as_array().unwrap().iter();
    places.find(|place| place["condition"] == condition && place["channel"] == channel).unwrap()
}

fn best(place: &Value) -> &str {
    place["cells"][place["best"].as_u64().unwrap() as usize]["label"].as_str().unwrap()
}

/// A folder of one run of ten segments, and its log.
fn small_run(dir: &Path) -> PathBuf {
    made_up("run", dir, &["--segments", "10"]);
    dir.join("log.jsonl")
}

#[test]
fn an_experiment_s_verdicts_are_those_that_its_links_have() {
    let dir = TempDir::new().unwrap();
    made_up("sweep", dir.path(), &["--segments", "40"]);
    let output = report(&[dir.path()]);
    assert!(output.status.success(), "{}", stderr(&output));
    let summary = summary(dir.path());
    // On independent links that differ by a factor of five the ratio 5:1 is the best of the ratios,
    // as their throughputs say; where they differ by fifteen no ratio tried is near.
    let mid = &place(&summary, "mid", "independent")["split"];
    assert_eq!((mid["best"].as_str(), mid["named"].as_str()), (Some("ratio=5:1"), Some("ratio=5:1")));
    assert!(mid["regret"].is_null());
    let far = &place(&summary, "far", "independent")["split"];
    assert_eq!(far["regret"]["significant"], true);
    for condition in ["near", "mid", "far"] {
        // On a shared channel the time is linear in the split, and the end with the better link is best.
        let place = place(&summary, condition, "shared");
        assert_eq!(best(place), "ratio=1:0");
        assert!(place["split"]["line"]["r_squared"].as_f64() > Some(0.99), "{}", place["split"]);
        assert!(place["split"]["regret"]["pct"].is_null(), "the interval stands in the difference itself");
        assert!(place["split"]["regret"]["low"].as_f64() > Some(0.0), "{}", place["split"]);
    }
    let words = summary["verdicts"].to_string();
    assert!(words.contains("one channel, shared"), "{words}");
}

#[test]
fn tables_have_a_row_for_each_thing_and_the_same_columns_in_each_row() {
    let dir = TempDir::new().unwrap();
    made_up("sweep", dir.path(), &["--segments", "10", "--repetitions", "1"]);
    assert!(report(&[dir.path()]).status.success());
    for (name, rows) in [("runs", 48), ("segments", 480), ("links", 192), ("probes", 96), ("throughputs", 6)]
    {
        let text = fs::read_to_string(dir.path().join(format!("csv/{name}.csv"))).unwrap();
        assert_eq!(text.lines().count(), rows + 1, "{name}");
        let columns: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
        assert!(columns.iter().all(|count| *count == columns[0]), "{name}: {columns:?}");
    }
}

#[test]
fn a_report_made_twice_is_the_same_and_touches_no_log() {
    let dir = TempDir::new().unwrap();
    let log = small_run(dir.path());
    let before = fs::read(&log).unwrap();
    assert!(report(&[dir.path()]).status.success());
    let first = fs::read(dir.path().join("summary.json")).unwrap();
    assert!(report(&[dir.path()]).status.success());
    assert_eq!(first, fs::read(dir.path().join("summary.json")).unwrap());
    assert_eq!(before, fs::read(&log).unwrap());
}

#[test]
fn too_few_repetitions_say_nothing_about_significance() {
    let dir = TempDir::new().unwrap();
    made_up("sweep", dir.path(), &["--segments", "10", "--repetitions", "2"]);
    let output = report(&[dir.path()]);
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(words.contains("fewer than 5"), "{words}");
    assert!(!words.contains("not significant") && !words.contains(": significant"), "{words}");
}

/// Each of these is named, and what else there is is reported.
#[test]
fn what_cannot_be_used_is_named_and_the_rest_reported() {
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil); 6] = [
        ("the last line is cut off", |log| {
            let text = fs::read_to_string(log).unwrap();
            fs::write(log, &text[..text.len() - 40]).unwrap();
        }),
        ("never ended: 10 segments came", |log| {
            let text = fs::read_to_string(log).unwrap();
            let end = text.trim_end().rfind('\n').unwrap();
            fs::write(log, &text[..=end]).unwrap();
        }),
        ("use the newer program", |log| {
            let text = fs::read_to_string(log).unwrap();
            fs::write(log, text.replace("twinlink/1", "twinlink/2")).unwrap();
        }),
        ("no log of this lab", |log| {
            let text = fs::read_to_string(log).unwrap();
            fs::write(log, text.replace("twinlink/1", "other")).unwrap();
        }),
        ("line 5 is not a record", |log| {
            let text = fs::read_to_string(log).unwrap();
            let mut lines: Vec<&str> = text.lines().collect();
            lines[4] = "{\"schema\":";
            fs::write(log, lines.join("\n") + "\n").unwrap();
        }),
        ("empty", |log| fs::write(log, "").unwrap()),
    ];
    for (named, spoil) in cases {
        let dir = TempDir::new().unwrap();
        let whole = dir.path().join("20260101T000000Z-0001");
        let spoilt = dir.path().join("20260101T000000Z-0002");
        small_run(&whole);
        spoil(&small_run(&spoilt));
        let output = report(&[dir.path()]);
        assert_eq!(output.status.code(), Some(1), "{named}");
        let said = stderr(&output);
        assert!(said.contains(named) && said.contains("0002/log.jsonl"), "{named}: {said}");
        let summary = summary(dir.path());
        assert!(summary["problems"][0].to_string().contains(named), "{summary}");
        assert!(summary["studies"][0]["places"][0]["best"].is_u64(), "{named}: {summary}");
    }
}

#[test]
fn a_folder_without_a_run_is_named_beside_one_that_has_some() {
    let (empty, full) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    small_run(full.path());
    let output = report(&[full.path(), empty.path()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no run in it"), "{}", stderr(&output));
    assert!(summary(full.path())["studies"][0]["places"][0]["best"].is_u64());

    let output = report(&[empty.path()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("there is nothing to report"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0, "nothing is written there");
    let output = report(&[Path::new("/does/not/exist")]);
    assert!(stderr(&output).contains("cannot read /does/not/exist"), "{}", stderr(&output));
}

#[test]
fn an_experiment_that_was_cut_short_or_mixed_up_is_named() {
    let dir = TempDir::new().unwrap();
    made_up("sweep", dir.path(), &["--segments", "4", "--repetitions", "1"]);
    let sweep = dir.path().join("sweep.jsonl");
    let text = fs::read_to_string(&sweep).unwrap();
    let end = text.trim_end().rfind('\n').unwrap();
    fs::write(&sweep, &text[..=end]).unwrap();
    let runs = dir.path().join("runs");
    fs::remove_file(runs.join("20260101T000003Z-0000/log.jsonl")).unwrap();
    let strange = runs.join("20260101T000007Z-0000/log.jsonl");
    let log = fs::read_to_string(&strange).unwrap();
    fs::write(&strange, log.replace("\"experiment\":\"made-up\"", "\"experiment\":\"another\"")).unwrap();

    let output = report(&[dir.path()]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    for named in
        ["the experiment never ended: 48 of 48", "cell 3 ended, but its log is missing", "belongs to another"]
    {
        assert!(said.contains(named), "{named}: {said}");
    }
    let runs = fs::read_to_string(dir.path().join("csv/runs.csv")).unwrap();
    assert_eq!(runs.lines().count(), 1 + 46);
}

#[test]
fn the_page_is_one_file_that_needs_nothing_else() {
    let dir = TempDir::new().unwrap();
    made_up("sweep", dir.path(), &["--segments", "40", "--repetitions", "2"]);
    assert!(report(&[dir.path()]).status.success());
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    for foreign in ["<script", "http:", "https:", "@import", "url(", "src=", "NaN", "inf%"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    let ids = ["verdict", "timelines", "links", "environment", "not-modelled"];
    for id in ids {
        assert_eq!(page.matches(&format!("id=\"{id}\"")).count(), 1, "{id}");
    }
    // Every cell has its timeline, and every plot its words.
    assert_eq!(page.matches("<summary>near").count() + page.matches("<summary>mid").count(), 32);
    let images = page.matches("role=\"img\"").count();
    assert!(images > 48 * 4 && images == page.matches("aria-label=\"").count(), "{images}");
}

#[test]
fn a_log_of_a_hundred_thousand_segments_gives_a_small_page() {
    let dir = TempDir::new().unwrap();
    made_up("run", dir.path(), &["--segments", "100000"]);
    assert!(report(&[dir.path()]).status.success());
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.len() < 5_000_000, "{}", page.len());
    assert!(page.contains("neighbouring segments share a bar"), "what is put together is said");
}

#[test]
fn a_run_leaves_its_page_beside_its_log() {
    let data = TempDir::new().unwrap();
    common::segments(data.path(), 5, "5KB");
    let (a, b) = (common::Server::start(data.path()), common::Server::start(data.path()));
    let results = TempDir::new().unwrap();
    let results_arg = results.path().to_str().unwrap();
    let output = common::client(&["--results", results_arg, &a.address, &b.address]);
    assert!(output.status.success(), "{}", stderr(&output));
    let folder = fs::read_dir(results.path()).unwrap().next().unwrap().unwrap().path();
    let page = fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(page.contains("adaptive fetched 5 files"), "{page}");
    assert!(folder.join("summary.json").is_file() && folder.join("csv/runs.csv").is_file());
    let last = String::from_utf8(output.stdout).unwrap();
    assert!(last.lines().last().unwrap().contains("run_end"), "run_end stays the last on stdout");
}

#[test]
fn a_run_that_could_not_begin_leaves_a_page_that_says_so() {
    let results = TempDir::new().unwrap();
    let results_arg = results.path().to_str().unwrap();
    let output =
        common::client(&["--results", results_arg, "--give-up", "100ms", "127.0.0.1:1", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    let folder = fs::read_dir(results.path()).unwrap().next().unwrap().unwrap().path();
    let page = fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(page.contains("ended after 0 files"), "{page}");
}

#[test]
fn runs_of_one_s_own_are_compared_where_they_are_alike_and_experiments_apart() {
    let results = TempDir::new().unwrap();
    for (name, files) in [("r1", "10"), ("r2", "10"), ("r3", "20")] {
        made_up("run", &results.path().join(name), &["--segments", files]);
    }
    for name in ["x1", "x2"] {
        made_up("sweep", &results.path().join(name), &["--segments", "4", "--repetitions", "1"]);
    }
    let output = report(&[results.path()]);
    assert!(output.status.success(), "two experiments in two folders are no mistake: {}", stderr(&output));
    let summary = summary(results.path());
    let studies = summary["studies"].as_array().unwrap();
    let titles: Vec<&str> = studies.iter().map(|study| study["title"].as_str().unwrap()).collect();
    assert_eq!(titles, ["made-up", "made-up", "3 runs"]);
    let conditions: Vec<&str> =
        studies[2]["places"].as_array().unwrap().iter().map(|p| p["condition"].as_str().unwrap()).collect();
    assert_eq!(conditions, ["wifi-near and lte-medium, 10 files", "wifi-near and lte-medium, 20 files"]);
    assert_eq!(studies[2]["places"][0]["cells"][0]["elapsed_ms"]["n"], 2);
    // A folder named twice, and one in it, count once.
    let output = report(&[results.path(), &results.path().join("r1")]);
    assert!(output.status.success(), "{}", stderr(&output));
    let rows = fs::read_to_string(results.path().join("csv/runs.csv")).unwrap();
    assert_eq!(rows.lines().count(), 1 + 3 + 2 * 48);
}
