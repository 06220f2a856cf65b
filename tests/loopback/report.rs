//! `twinlink report` on logs that tests/report-logs.py makes up: what it finds, what it names, and
//! that it touches no log.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
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

/// Changes each record of a log.
fn edit(log: &Path, change: impl Fn(&mut Value)) {
    let text = fs::read_to_string(log).unwrap();
    let edited = text.lines().map(|line| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        change(&mut record);
        format!("{record}\n")
    });
    fs::write(log, edited.collect::<String>()).unwrap();
}

/// Puts records behind those of a log, each an event, its time and its data, and the log in order.
fn add(log: &Path, records: &[(&str, f64, Value)]) {
    let text = fs::read_to_string(log).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (schema, run) = (lines[0]["schema"].clone(), lines[0]["run"].clone());
    lines.extend(records.iter().map(|(event, at_ms, data)| {
        json!({"schema": schema, "run": run, "event": event, "t_ns": (at_ms * 1e6) as u64, "data": data})
    }));
    lines.sort_by_key(|line| line["t_ns"].as_u64());
    fs::write(log, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

fn fault(what: &str) -> Value {
    json!({"link": "a", "segment": null, "what": what, "action": "the run goes on"})
}

/// The page of a log that was changed, after a report that must go well.
fn page_of(log: &Path) -> String {
    let dir = log.parent().unwrap();
    let output = report(&[dir]);
    assert!(output.status.success(), "{}", stderr(&output));
    fs::read_to_string(dir.join("report.html")).unwrap()
}

fn titles(summary: &Value) -> Vec<&str> {
    summary["studies"].as_array().unwrap().iter().map(|study| study["title"].as_str().unwrap()).collect()
}

/// A folder of one run of ten segments, and its log.
fn small_run(dir: &Path) -> PathBuf {
    made_up("run", dir, &["--segments", "10"]);
    dir.join("log.jsonl")
}

#[test]
fn an_experiment_s_verdicts_are_those_that_its_links_have() {
    let dir = TempDir::new().unwrap();
    made_up("sweep", dir.path(), &["--segments", "40", "--repetitions", "6"]);
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
    assert!(words.contains("With 6 blocks, a difference from the best of less than"), "{words}");
    assert!(words.contains("7 comparisons need 9 with Holm's correction"), "{words}");
    assert!(words.contains("Systematic errors, the same in all runs: "), "{words}");
}

#[test]
fn tables_have_a_row_for_each_thing_and_the_same_columns_in_each_row() {
    let dir = TempDir::new().unwrap();
    made_up("sweep", dir.path(), &["--segments", "10", "--repetitions", "1"]);
    assert!(report(&[dir.path()]).status.success());
    for (name, rows) in
        [("runs", 48), ("segments", 480), ("parts", 480), ("links", 192), ("probes", 96), ("throughputs", 6)]
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
    assert!(words.contains("fewer than 6"), "{words}");
    assert!(words.contains("No difference is shown between the two least medians, "), "{words}");
    assert!(words.contains("2 runs of each are too few, 9 are needed. "), "{words}");
    assert!(!words.contains("Best is"), "{words}");
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
        ("not a log of twinlink", |log| {
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
    assert!(stderr(&output).contains("nothing to report"), "{}", stderr(&output));
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
fn an_experiment_that_was_only_written_is_no_problem_of_a_report() {
    let dir = TempDir::new().unwrap();
    made_up("run", &dir.path().join("one"), &["--segments", "10"]);
    fs::create_dir(dir.path().join("mine")).unwrap();
    fs::write(dir.path().join("mine/experiment.toml"), "").unwrap();
    let output = report(&[dir.path()]);
    assert!(output.status.success(), "{}", stderr(&output));
    // One that was begun is: its runs are there, and what it measured is lost.
    fs::create_dir(dir.path().join("mine/runs")).unwrap();
    let output = report(&[dir.path()]);
    assert!(
        !output.status.success() && stderr(&output).contains("sweep.jsonl: missing"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn tables_are_exported_for_notes_and_papers_and_nothing_is_written() {
    let dir = TempDir::new().unwrap();
    made_up("sweep", dir.path(), &["--segments", "10", "--repetitions", "2"]);
    let table = |form: &str| {
        let output = report(&["--export".as_ref(), form.as_ref(), dir.path()]);
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let markdown = table("md");
    let wanted = "| schedule | runs | median s | interval | efficiency | from a | longer than best |  |\n\
                  |---|---:|---:|---:|---:|---:|---:|---|\n| ratio=0:1 | 2 | ";
    assert!(markdown.starts_with(&format!("**near, independent links**\n\n{wanted}")), "{markdown}");
    assert_eq!(markdown.matches("\n\n| schedule").count(), 6);
    let latex = table("latex");
    assert_eq!(latex.matches("\\begin{tabular}{lrrrrrrl}\n\\toprule\nschedule & runs").count(), 6);
    assert!(latex.contains("0.0 \\%") && !latex.contains("0.0 %"), "{latex}");
    assert!(!dir.path().join("report.html").exists());
}

#[test]
fn the_page_is_one_file_that_needs_nothing_else() {
    let dir = TempDir::new().unwrap();
    made_up("sweep", dir.path(), &["--segments", "40", "--repetitions", "2"]);
    assert!(report(&[dir.path()]).status.success());
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    for foreign in ["<script ", "http:", "https:", "@import", "url(", "src=", "NaN", "inf%"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert_eq!(page.matches("<script>").count(), 1);
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
    let mut report = Command::new(crate::support::program_under_test());
    assert!(report.arg("report").arg(dir.path()).output().unwrap().status.success());
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.len() < 5_000_000, "{}", page.len());
    assert!(page.contains("neighbouring segments share a bar"), "what is put together is said");
}

#[test]
fn a_run_leaves_its_page_beside_its_log() {
    let data = TempDir::new().unwrap();
    crate::support::segments(data.path(), 5, "5KB");
    let (a, b) = (crate::support::Server::start(data.path()), crate::support::Server::start(data.path()));
    let results = TempDir::new().unwrap();
    let results_arg = results.path().to_str().unwrap();
    let output = crate::support::client(&["--results", results_arg, &a.address, &b.address]);
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
    let output = crate::support::client(&[
        "--results",
        results_arg,
        "--give-up",
        "100ms",
        "127.0.0.1:1",
        "127.0.0.1:1",
    ]);
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
    assert_eq!(titles(&summary), ["made-up", "made-up", "3 runs"]);
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

#[test]
fn runs_that_are_named_one_by_one_are_compared_with_each_other() {
    let results = TempDir::new().unwrap();
    let [first, second, third] = ["r1", "r2", "r3"].map(|name| results.path().join(name));
    for dir in [&first, &second, &third] {
        small_run(dir);
    }
    let output = report(&[&first, &second, &third.join("log.jsonl")]);
    assert!(output.status.success(), "{}", stderr(&output));
    let summary = summary(&first);
    assert_eq!(titles(&summary), ["3 runs"]);
    assert_eq!(summary["studies"][0]["places"][0]["cells"][0]["elapsed_ms"]["n"], 3);

    // All that lies in a folder with a report: that is no run, and no problem either.
    assert!(report(&[results.path()]).status.success());
    let mut all: Vec<PathBuf> = fs::read_dir(results.path()).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    assert_eq!(all.len(), 6, "three runs, a page, a summary and tables");
    let all: Vec<&Path> =
        ["--out".as_ref(), first.as_path()].into_iter().chain(all.iter().map(PathBuf::as_path)).collect();
    let output = report(&all);
    assert!(output.status.success(), "{}", stderr(&output));
    let output = report(&[&results.path().join("report.html")]);
    assert!(stderr(&output).contains("report.html"), "{}", stderr(&output));
}

#[test]
fn runs_of_different_experiments_in_one_folder_are_named_and_kept_apart() {
    let dir = TempDir::new().unwrap();
    made_up("sweep", &dir.path().join("x"), &["--segments", "4", "--repetitions", "1"]);
    let mixed = dir.path().join("mixed");
    fs::create_dir(&mixed).unwrap();
    for (index, experiment) in ["made-up", "made-up", "another"].iter().enumerate() {
        let to = mixed.join(format!("20260101T00000{index}Z-0000"));
        fs::rename(dir.path().join(format!("x/runs/20260101T00000{index}Z-0000")), &to).unwrap();
        edit(&to.join("log.jsonl"), |record| {
            if record["event"] == "run_start" {
                record["data"]["cell"]["experiment"] = json!(experiment);
            }
        });
    }
    small_run(&mixed.join("own"));
    let output = report(&[&mixed]);
    let said = stderr(&output);
    assert!(said.contains("runs of no experiment, another, made-up lie in one folder"), "{said}");
    assert_eq!(titles(&summary(&mixed)), ["run 20260101T000000Z-0000", "another", "made-up"]);

    // Named one by one they are in no folder together, which is no mistake.
    let named = ["20260101T000000Z-0000", "20260101T000002Z-0000"].map(|name| mixed.join(name));
    let output = report(&[&named[0], &named[1]]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(titles(&summary(&named[0])), ["another", "made-up"]);
}

#[test]
fn an_experiment_of_which_only_its_copy_is_there_is_found_in_a_folder_too() {
    let dir = TempDir::new().unwrap();
    made_up("sweep", &dir.path().join("x"), &["--segments", "4", "--repetitions", "1"]);
    fs::remove_file(dir.path().join("x/sweep.jsonl")).unwrap();
    let output = report(&[dir.path()]);
    assert!(stderr(&output).contains("what the experiment measured beside its runs is not known"));
    assert_eq!(titles(&summary(dir.path())), ["made-up"]);
}

/// A copy of a run of an experiment under another name, changed as its log's records are.
fn another_try(dir: &Path, of: &str, name: &str, change: impl Fn(&mut Value)) -> PathBuf {
    let log = dir.join("runs").join(name).join("log.jsonl");
    fs::create_dir(log.parent().unwrap()).unwrap();
    fs::copy(dir.join("runs").join(of).join("log.jsonl"), &log).unwrap();
    edit(&log, |record| {
        record["run"] = json!(name);
        change(record);
    });
    log
}

#[test]
fn of_a_cell_that_was_tried_again_the_last_end_counts() {
    let dir = TempDir::new().unwrap();
    made_up("sweep", dir.path(), &["--segments", "4", "--repetitions", "1"]);
    let sweep = dir.path().join("sweep.jsonl");
    let (done, failed, killed) = ("20260101T000003Z-0000", "20260101T000100Z-0000", "20260101T000200Z-0000");
    another_try(dir.path(), done, failed, |record| {
        if record["event"] == "run_end" {
            (record["data"]["exit"], record["data"]["elapsed_ms"]) = (json!("link"), Value::Null);
            record["data"]["summary"] = json!("It could not be shaped.");
        }
    });
    let killed = another_try(dir.path(), done, killed, |_| {});
    let text = fs::read_to_string(&killed).unwrap();
    fs::write(&killed, &text[..text.len() / 2]).unwrap();

    let text = fs::read_to_string(&sweep).unwrap();
    let end = text.lines().find(|line| line.contains("cell_end") && line.contains(done)).unwrap();
    let earlier = end.replace(done, failed).replace("\"exit\":\"ok\"", "\"exit\":\"link\"");
    let unmeasured = end.replace(done, "").replace("\"exit\":\"ok\"", "\"exit\":\"unmeasured\"");
    let start = text.lines().next().unwrap();

    // The failure and what was not measured came first.
    let text_then = text.replace(start, &format!("{start}\n{earlier}\n{unmeasured}"));
    fs::write(&sweep, text_then).unwrap();
    let output = report(&[dir.path()]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!summary(dir.path()).to_string().contains("could not be shaped"));
    let runs = fs::read_to_string(dir.path().join("csv/runs.csv")).unwrap();
    assert_eq!(runs.lines().count(), 1 + 48);
    assert!(runs.contains(",300,"), "setup_ms: {runs}");

    // The failure came last.
    fs::write(&sweep, text.replace(end, &format!("{end}\n{earlier}"))).unwrap();
    let output = report(&[dir.path()]);
    assert!(output.status.success(), "{}", stderr(&output));
    let words = summary(dir.path())["verdicts"].to_string();
    assert!(words.contains("ratio=1:1 (1 of 1: link, \\\"It could not be shaped\\\")"), "{words}");
    assert_eq!(fs::read_to_string(dir.path().join("csv/runs.csv")).unwrap().lines().count(), 1 + 48);

    // Unmeasured cells come last.
    fs::write(&sweep, text.replace(end, &format!("{end}\n{unmeasured}"))).unwrap();
    let said = stderr(&report(&[dir.path()]));
    assert!(said.contains("cell 3, ratio=1:1, was not measured: done"), "{said}");
    assert!(!said.contains("missing"), "{said}");
}

#[test]
fn the_faults_of_runs_and_of_an_experiment_are_in_its_verdict() {
    let dir = TempDir::new().unwrap();
    made_up("sweep", dir.path(), &["--segments", "4", "--repetitions", "1"]);
    add(&dir.path().join("sweep.jsonl"), &[("fault", 1.5, fault("the throughput was not measured"))]);
    for index in [4, 6] {
        let log = dir.path().join(format!("runs/20260101T00000{index}Z-0000/log.jsonl"));
        add(&log, &[("fault", 50.0, fault("the link was late"))]);
    }
    assert!(report(&[dir.path()]).status.success());
    let summary = summary(dir.path());
    let words = summary["verdicts"][0]["words"].to_string();
    let expected = "2 of 8 runs logged faults; the first, under ratio=2:1: link a: the link was late.";
    assert!(words.contains(expected), "{words}");
    let beside = "link a: the throughput was not measured; the run goes on";
    assert_eq!(summary["studies"][0]["faults"], json!([beside]));
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains(expected) && page.contains(&format!("<li>{beside}</li>")));
    assert!(page.contains("before the first request:</span> fault, link a: the link was late"));
    let faults = fs::read_to_string(dir.path().join("csv/faults.csv")).unwrap();
    assert_eq!(faults.lines().count(), 1 + 3);
}

#[test]
fn runs_with_faults_are_marked_and_left_out_of_verdicts() {
    let dir = TempDir::new().unwrap();
    made_up("sweep", dir.path(), &["--segments", "4", "--repetitions", "1"]);
    let log = dir.path().join("runs/20260101T000004Z-0000/log.jsonl");
    add(&log, &[("fault", 150.0, fault("the connection was lost"))]);
    let counts = |more: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_twinlink")).arg("report").args(more).arg(dir.path()).output();
        assert!(output.unwrap().status.success());
        let places = summary(dir.path())["studies"][0]["places"].clone();
        let cells: Vec<Value> =
            places.as_array().unwrap().iter().flat_map(|p| p["cells"].as_array().unwrap().clone()).collect();
        let left_out: u64 = cells.iter().map(|cell| cell["left_out"].as_u64().unwrap()).sum();
        (left_out, cells.iter().filter(|cell| cell["elapsed_ms"].is_null()).count())
    };
    assert_eq!(counts(&[]), (1, 1));
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("<div class=\"verdict faulty\">"));
    assert!(
        page.contains("One that fetched everything is left out of all figures; --with-faulty counts it.")
    );
    assert!(page.contains("No figure is left of ratio=2:1, of which every run met faults."));
    assert_eq!(counts(&["--with-faulty"]), (0, 0));
}

#[test]
fn an_outage_is_told_as_one_on_the_page() {
    let dir = TempDir::new().unwrap();
    let log = small_run(dir.path());
    edit(&log, |record| {
        if record["event"] == "run_end" {
            let data = &mut record["data"];
            let elapsed = data["elapsed_ms"].as_f64().unwrap();
            data["links"]["a"]["last_byte_ms"] = json!(elapsed / 2.0);
            data["links"]["b"]["last_byte_ms"] = json!(elapsed);
        }
    });
    assert!(page_of(&log).contains("Link a had nothing left to do"));
    add(&log, &[("fault", 150.0, fault("the connection to server-a was lost"))]);
    let page = page_of(&log);
    assert!(page.contains("Link a was out: the connection to server-a was lost at "), "{page}");
    assert!(!page.contains("had nothing left to do"));
    assert!(page.contains("Something went wrong during this run"));
}

#[test]
fn hostile_logs_neither_panic_nor_reach_the_terminal() {
    let dir = TempDir::new().unwrap();
    let log = small_run(dir.path());
    edit(&log, |record| match record["event"].as_str() {
        Some("segment") => {
            for part in record["data"]["parts"].as_array_mut().unwrap() {
                (part["from_byte"], part["to_byte"]) = (json!(u64::MAX), json!(3));
            }
        }
        Some("run_end") => {
            let data = &mut record["data"];
            data["summary"] = json!("\u{1b}]0;owned\u{7}=cmd()");
            for key in ["elapsed_ms", "bound_ms"] {
                data[key] = json!(0.0);
            }
            for link in ["a", "b"] {
                data["links"][link]["last_byte_ms"] = json!(0.0);
            }
        }
        _ => {}
    });
    add(&log, &[("fault", 150.0, fault("=HYPERLINK(\"x\")\u{1b}[2J\u{202e}"))]);
    let output = report(&[dir.path()]);
    assert!(output.status.success(), "{}", stderr(&output));
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    let csv = fs::read_to_string(dir.path().join("csv/faults.csv")).unwrap();
    for text in [&String::from_utf8(output.stdout).unwrap(), &page, &csv] {
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']) && !text.contains("NaN"), "{text}");
    }
    assert!(csv.contains("\"'=HYPERLINK("), "{csv}");
}

#[test]
fn numbers_that_no_run_has_give_no_nan_and_no_end() {
    let cases: &[(&str, &str, Value)] = &[
        ("run_end", "/data/elapsed_ms", json!(0.0)),
        ("run_end", "/data/elapsed_ms", json!(1e-308)),
        ("run_end", "/data/efficiency", json!(1e308)),
        ("run_start", "/data/segment_duration_ms", json!(1e308)),
        ("sample", "/data/goodput_kbit", json!(1e308)),
        ("sample", "/data/goodput_kbit", json!(0.0)),
        ("sample", "/data/down/queue_ms", json!(5e-324)),
        ("probe", "/data/goodput_kbit", json!(0.0)),
        ("segment", "/data/done_ms", json!(1e308)),
        ("segment", "/data/bytes", json!(u64::MAX)),
    ];
    for (event, place, value) in cases {
        let dir = TempDir::new().unwrap();
        let log = small_run(dir.path());
        edit(&log, |record| {
            if record["event"] == *event {
                *record.pointer_mut(place).unwrap() = value.clone();
            }
        });
        assert_says_numbers(dir.path(), &format!("{event}{place} of {value}"));
    }
    // Counters that jump up and down: no sum of what they grew by overflows.
    let dir = TempDir::new().unwrap();
    let log = small_run(dir.path());
    let up = std::cell::Cell::new(false);
    edit(&log, |record| {
        if record["event"] == "sample" {
            up.set(!up.get());
            record["data"]["down"]["dropped_queue"] = json!(if up.get() { 0 } else { u64::MAX });
        }
    });
    assert_says_numbers(dir.path(), "jumping counters");
}

/// Reports on a folder, and checks that nothing in it is NaN or infinite.
fn assert_says_numbers(dir: &Path, what: &str) {
    let output = report(&[dir]);
    assert!(output.status.success(), "{what}: {}", stderr(&output));
    let page = fs::read_to_string(dir.join("report.html")).unwrap();
    for text in [&String::from_utf8(output.stdout).unwrap(), &page] {
        let odd = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()).to_string();
        let found = text.split(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"')).map(odd);
        let found: Vec<String> = found.filter(|word| word == "NaN" || word == "inf").collect();
        assert!(found.is_empty(), "{what}: {found:?}");
    }
}

#[test]
fn a_run_that_sent_no_request_shows_why_and_its_faults() {
    let dir = TempDir::new().unwrap();
    let log = small_run(dir.path());
    let text = fs::read_to_string(&log).unwrap();
    let kept = |line: &&str| line.contains("run_start") || line.contains("run_end");
    let lines: Vec<&str> = text.lines().filter(kept).collect();
    fs::write(&log, lines.join("\n") + "\n").unwrap();
    edit(&log, |record| {
        if record["event"] == "run_end" {
            let data = &mut record["data"];
            (data["exit"], data["summary"]) = (json!("unreachable"), json!("Nobody answers."));
            (data["elapsed_ms"], data["first_request_ms"]) = (Value::Null, Value::Null);
        }
    });
    add(&log, &[("fault", 20.0, fault("it does not answer"))]);
    let page = page_of(&log);
    assert!(page.contains("Nothing was transferred: unreachable. Nobody answers."), "{page}");
    assert!(page.contains("0.020 s:</span> fault, link a: it does not answer; the run goes on"), "{page}");
    assert!(page.contains("<li>Exit: unreachable.</li>"), "{page}");
}

#[test]
fn a_run_whose_link_was_cleared_is_not_compared_with_others() {
    let results = TempDir::new().unwrap();
    small_run(&results.path().join("r1"));
    let log = small_run(&results.path().join("r2"));
    let cleared = json!({"link": "a", "direction": "down", "backend": "none", "why": "asked", "profile": null,
                         "asked": null, "kernel": null, "action": "cleared"});
    add(&log, &[("link", 200.0, cleared)]);
    assert!(report(&[results.path()]).status.success());
    let summary = summary(results.path());
    let places = summary["studies"][0]["places"].as_array().unwrap();
    let conditions: Vec<&str> = places.iter().map(|place| place["condition"].as_str().unwrap()).collect();
    assert_eq!(conditions, ["wifi-near and lte-medium", "wifi-near and lte-medium, changed in the run"]);
}

#[test]
fn what_a_probe_lost_is_no_loss_of_the_transfer() {
    let dir = TempDir::new().unwrap();
    let log = small_run(dir.path());
    let said = |output: Output| String::from_utf8(output.stdout).unwrap();
    let before = said(report(&[dir.path()]));
    assert!(before.contains("Packets dropped in the down direction"), "{before}");
    edit(&log, |record| {
        if let Some(drops) = record["data"]["down"].get_mut("dropped_queue") {
            *drops = json!(drops.as_u64().unwrap() + 5000);
        }
    });
    assert_eq!(before, said(report(&[dir.path()])));
}

#[test]
fn an_outage_s_queue_is_drawn_over_the_rate_before_it() {
    let dir = TempDir::new().unwrap();
    let log = small_run(dir.path());
    edit(&log, |record| {
        let out = record["data"]["link"] == "a" && record["t_ns"].as_u64() > Some(350_000_000);
        if let Some(down) = record["data"].get_mut("down").filter(|down| out && down.is_object()) {
            (down["rate_kbit"], down["queue_ms"]) = (json!(0.0), Value::Null);
            down["queue_bytes"] = json!(1_500_000);
        }
    });
    let page = page_of(&log);
    assert!(page.contains("Queue in the down direction: at most 200 ms on link a"), "{page}");
}

#[test]
fn a_sum_of_rates_is_drawn_only_where_both_links_have_one_and_share_nothing() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str, [bool; 3]); 4] = [
        (|_| {}, "the rates in force of a and of both", [true, false, true]),
        (|data| data["air"] = json!([]), "the two do not add up", [true, true, false]),
        (
            |data| data["down"] = if data["link"] == "a" { Value::Null } else { data["down"].take() },
            "the rate in force of b, on top of a",
            [false, true, false],
        ),
        (|data| data["down"] = Value::Null, "on top of it</figcaption>", [false; 3]),
    ];
    for (change, words, drawn) in cases {
        let dir = TempDir::new().unwrap();
        let log = small_run(dir.path());
        edit(&log, |record| {
            if record["event"] == "sample" {
                change(&mut record["data"]);
            }
        });
        let page = page_of(&log);
        assert!(page.contains(words), "{words}: {page}");
        assert_eq!(["a", "b", "fg"].map(|class| page.contains(&format!("l {class} dash"))), drawn, "{words}");
    }
}

#[test]
fn only_rates_that_were_measured_are_the_oracle_s() {
    for (schedule, congestion, exact) in [
        ("rates=alone", Value::Null, true),
        ("rates=60:4", Value::Null, false),
        ("rates=alone", json!("bbr"), false),
    ] {
        let dir = TempDir::new().unwrap();
        made_up("sweep", dir.path(), &["--segments", "4", "--repetitions", "1"]);
        let runs = fs::read_dir(dir.path().join("runs")).unwrap();
        let logs = runs.map(|run| run.unwrap().path().join("log.jsonl"));
        for log in logs.chain([dir.path().join("sweep.jsonl")]) {
            edit(&log, |record| {
                let cell = &mut record["data"]["cell"];
                if cell["schedule"] == "adaptive" {
                    (cell["schedule"], cell["congestion"]) = (json!(schedule), congestion.clone());
                }
            });
        }
        assert!(report(&[dir.path()]).status.success());
        let summary = summary(dir.path());
        let split = &place(&summary, "mid", "independent")["split"];
        assert_eq!(split["exact"].is_object(), exact, "{schedule} {congestion}: {split}");
    }
}

#[test]
fn the_page_tells_what_the_probes_lost_and_how_the_servers_send() {
    let dir = TempDir::new().unwrap();
    let log = small_run(dir.path());
    edit(&log, |record| {
        if record["event"] == "run_start" {
            record["data"]["servers"]["b"]["congestion_control"] = json!("bbr");
        }
    });
    let page = page_of(&log);
    assert!(page.contains("<td data-of=\"loss %\">0.010</td><td data-of=\"→ probed\">0.013</td>"), "{page}");
    assert!(page.contains("a: unknown, b: bbr"), "{page}");
    let runs = fs::read_to_string(dir.path().join("csv/runs.csv")).unwrap();
    assert!(runs.contains(",reno,,bbr,netem,netem,"), "{runs}");
}

#[test]
fn the_verdict_names_each_program_with_its_distance() {
    let dir = TempDir::new().unwrap();
    made_up("sweep", dir.path(), &["--segments", "10", "--repetitions", "6", "--long-names"]);
    assert!(report(&[dir.path()]).status.success());
    let summary = summary(dir.path());
    for verdict in summary["verdicts"].as_array().unwrap() {
        let first = verdict["words"][0].as_str().unwrap();
        let told = " Of the programs, a-downloader-of-my-own-that-splits-files-into-many-pieces took ";
        assert_eq!(first.matches(told).count(), 1, "{first}");
    }
}

#[test]
fn a_condition_stands_once_in_a_table_and_each_cell_names_its_column() {
    let dir = TempDir::new().unwrap();
    made_up("sweep", dir.path(), &["--segments", "4", "--repetitions", "1", "--long-names"]);
    assert!(report(&[dir.path()]).status.success());
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    let links = page.split("<section id=\"links\">").nth(1).unwrap().split("</section>").next().unwrap();
    for condition in ["near", "mid", "far"] {
        let name = format!("{condition}, with the second station behind two walls of concrete");
        assert_eq!(links.matches(&name).count(), 1, "{links}");
    }
    assert_eq!(page.matches("<td").count(), page.matches(" data-of=\"").count());
}

#[test]
fn what_is_not_modelled_holds_for_the_backend_in_use() {
    let (packets, time) = ("a burst of losses counts packets", "a burst of losses lasts a time");
    for (backend, model, said) in [
        ("netem", "gilbert-elliott", [true, false, true]),
        ("userspace", "gilbert-elliott", [false, true, true]),
        ("userspace", "random", [false, false, false]),
    ] {
        let dir = TempDir::new().unwrap();
        let log = small_run(dir.path());
        edit(&log, |record| {
            if record["event"] == "link" {
                record["data"]["backend"] = json!(backend);
                record["data"]["asked"]["loss_model"] = json!(model);
            }
        });
        let page = page_of(&log);
        assert_eq!(
            [packets, time, "Losses in bursts"].map(|text| page.contains(text)),
            said,
            "{backend} {model}"
        );
        assert!(page.contains("The links of two profiles") && !page.contains("The shared channel has"));
    }
}
