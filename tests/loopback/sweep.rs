//! An experiment against our own servers on loopback, as a user would run it, with links left unshaped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::{
    Server, TWINLINK, asked_for, odd_server, of_event, read_request, records, segments, stderr,
};
use serde_json::Value;

const TWO_BY_TWO: &str = "repetitions = 2\nprobe = \"off\"\nschedules = [\"greedy\", \"ratio=1:2\"]\nthroughput = \"500ms\"\n\
    [[condition]]\nname = \"near\"\nlink_a = \"wifi-near\"\n[[condition]]\nname = \"far\"\nlink_a = \"wifi-far\"\n";

/// A folder with an experiment in it, and two servers on one set of segments.
struct Bench {
    dir: tempfile::TempDir,
    a: Server,
    b: Server,
}

impl Bench {
    fn new(experiment: &str) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        segments(&dir.path().join("data"), 12, "20KB");
        fs::write(dir.path().join("experiment.toml"), experiment).unwrap();
        let server = || Server::start(&dir.path().join("data"));
        Bench { a: server(), b: server(), dir }
    }

    /// `twinlink sweep`, its links unshaped, between two servers.
    fn sweep(&self, a: &str, b: &str, options: &[&str]) -> Command {
        let mut command = Command::new(TWINLINK);
        command
            .args(["sweep", "experiment.toml", a, b, "--backend", "none"])
            .args(options)
            .current_dir(self.dir.path())
            .env("TWINLINK_CONTROL", self.dir.path().join("control.sock"))
            // The environment of a lab's container does not apply to an experiment's runs.
            .env("TWINLINK_SCHEDULE", "ratio=1:0")
            .env("TWINLINK_LINK_A", "no-such-profile")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, options: &[&str]) -> Output {
        self.sweep(&self.a.address, &self.b.address, options).output().unwrap()
    }

    fn folders(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path().join("results")).unwrap();
        let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        folders.sort();
        folders
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn last<'a>(records: &'a [Value], event: &str) -> &'a Value {
    let record = records.last().expect("there are records");
    assert_eq!(record["event"], event, "the last record is {record}");
    &record["data"]
}

#[test]
fn every_cell_is_run_and_recorded_and_has_a_log_of_its_own() {
    let experiment = TWO_BY_TWO.replace("ratio=1:2", "rates=alone");
    let bench = Bench::new(&experiment);
    let output = bench.run(&[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let records = records(&output);
    let folders = bench.folders();
    let [folder] = &folders[..] else { panic!("one folder, not {folders:?}") };
    assert_eq!(fs::read_to_string(folder.join("experiment.toml")).unwrap(), experiment);
    let mut printed = records.clone();
    for record in &mut printed {
        assert!(record.as_object_mut().unwrap().remove("say").is_some(), "{record}");
    }
    assert!(lines(&folder.join("sweep.jsonl")) == printed, "stdout and file differ");
    assert_eq!(of_event(&records, "sweep_start")[0]["cells"], 8);
    assert_eq!(last(&records, "sweep_end")["exit"], "ok");
    let throughputs = of_event(&records, "throughput");
    assert_eq!(throughputs.len(), 4, "one for each condition and block");
    for throughput in &throughputs {
        for kind in ["alone_kbit", "together_kbit"] {
            assert!(throughput[kind]["a"].as_f64() > Some(0.0) && throughput[kind]["b"].as_f64() > Some(0.0));
        }
    }
    let cells = of_event(&records, "cell_end");
    assert_eq!(cells.len(), 8);
    for (at, end) in cells.iter().enumerate() {
        assert_eq!(end["exit"], "ok");
        assert_eq!(end["cell"]["index"], at);
        assert!(end["setup_ms"].as_f64() > Some(0.0));
        let log = lines(&folder.join("runs").join(end["run"].as_str().unwrap()).join("log.jsonl"));
        let start = &of_event(&log, "run_start")[0];
        assert_eq!(start["cell"], end["cell"]);
        let oracle = |cell: &Value| {
            let same = |t: &&&Value| t["condition"] == cell["condition"] && t["block"] == cell["block"];
            let alone = &throughputs.iter().find(same).expect("it was measured before")["alone_kbit"];
            let kbit = |link: &str| alone[link].as_f64().unwrap().round();
            format!("rates={}:{}", kbit("a"), kbit("b"))
        };
        let schedule = match end["cell"]["schedule"].as_str().unwrap() {
            "rates=alone" => oracle(&end["cell"]),
            named => named.to_string(),
        };
        assert_eq!(start["schedule"], schedule);
        assert_eq!(last(&log, "run_end")["files"], 12);
        assert_eq!(last(&log, "run_end")["elapsed_ms"], end["elapsed_ms"]);
    }
}

#[test]
fn a_failed_cell_is_recorded_the_sweep_goes_on_and_resume_repeats_only_that() {
    let bench =
        Bench::new(&TWO_BY_TWO.replace("\"greedy\"", "\"ratio=1:0\"").replace("throughput = \"500ms\"", ""));
    // This one has nothing, which fails only those that ask it for something.
    let empty = odd_server(|_, mut stream| {
        while read_request(&mut stream).is_some() {
            crate::support::answer(&mut stream, "HTTP/1.1 404 Not Found", b"");
        }
    });
    let output = bench.sweep(&bench.a.address, &empty.to_string(), &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("4 of 8 runs"), "{}", stderr(&output));
    let first = records(&output);
    assert_eq!(of_event(&first, "cell_end").len(), 8);
    for end in of_event(&first, "cell_end") {
        let expected = if end["cell"]["schedule"] == "ratio=1:0" { "ok" } else { "missing_file" };
        assert_eq!(end["exit"], expected, "{end}");
    }
    assert_eq!(
        (&last(&first, "sweep_end")["exit"], &last(&first, "sweep_end")["failed"]),
        (&"failed".into(), &4.into())
    );
    let output = bench.run(&["--resume"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let again = records(&output);
    assert_eq!(of_event(&again, "sweep_start")[0]["skipped"], 4);
    let repeated = of_event(&again, "cell_end");
    assert_eq!(repeated.len(), 4);
    assert!(repeated.iter().all(|end| end["cell"]["schedule"] == "ratio=1:2" && end["exit"] == "ok"));
    let folders = bench.folders();
    assert_eq!(folders.len(), 1, "a resumed experiment stays in its folder");
    assert_eq!(lines(&folders[0].join("sweep.jsonl")).len(), first.len() + again.len());
}

/// Waits until the process has ended, for no longer than a test may take.
fn ended(child: &mut Child) -> Option<i32> {
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    panic!("the sweep did not end");
}

#[test]
fn an_interrupted_sweep_closes_its_records_and_resume_does_the_rest() {
    let bench = Bench::new(
        "schedules = [\"greedy\", \"ratio=1:1\"]\n[[condition]]\nname = \"c\"\nlink_a = \"dsl\"\n",
    );
    // This one keeps its answer to everything but the list to itself, and says that it was asked.
    let (asked, was_asked) = std::sync::mpsc::channel();
    let stuck = odd_server(move |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            match asked_for(&request).0.as_str() {
                "/SHA256SUMS" => crate::support::answer(&mut stream, "HTTP/1.1 404 Not Found", b""),
                _ => asked.send(()).unwrap(),
            }
        }
    });
    let mut child = bench
        .sweep(&bench.a.address, &stuck.to_string(), &["--results", "results"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    was_asked.recv_timeout(Duration::from_secs(30)).expect("the first run begins");
    // SAFETY: this signals the child that was just started and is not waited for yet.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    assert_eq!(ended(&mut child), Some(1));
    let folder = bench.folders().remove(0);
    let log = lines(&folder.join("sweep.jsonl"));
    assert_eq!(last(&log, "sweep_end")["exit"], "interrupted");
    let ends = of_event(&log, "cell_end");
    assert_eq!((ends.len(), &ends[0]["exit"]), (1, &"interrupted".into()));
    let run = lines(&folder.join("runs").join(ends[0]["run"].as_str().unwrap()).join("log.jsonl"));
    assert_eq!(last(&run, "run_end")["exit"], "interrupted");

    let output = bench.run(&["--resume", folder.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(of_event(&records(&output), "cell_end").len(), 2);
    let output = bench.run(&["--resume"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(of_event(&records(&output), "sweep_start")[0]["skipped"], 2);
    assert!(of_event(&records(&output), "cell_end").is_empty());
}

/// A schedule beside a program that copies every file from one server, under two conditions.
const WITH_PROGRAM: &str = r#"
probe = "off"
schedules = ["greedy"]
pipelines = ["auto", 2]
[[program]]
name = "copies"
command = "while read -r name; do curl -sS -o $OUT/$name http://{server_a}/$name; done <{files}; echo copied"
[[condition]]
name = "near"
link_a = "wifi-near"
[[condition]]
name = "far"
link_a = "wifi-far"
"#;

#[test]
fn program_is_an_entrant_beside_the_schedules() {
    let bench = Bench::new(WITH_PROGRAM);
    let output = bench.run(&[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let records = records(&output);
    let (cells, folder) = (of_event(&records, "cell_end"), bench.folders().remove(0));
    assert_eq!(cells.len(), 6, "a program takes part in no list of pipelines");
    let programs: Vec<&Value> =
        cells.iter().copied().filter(|end| end["cell"]["schedule"] == "copies").collect();
    let conditions: Vec<&Value> = programs.iter().map(|end| &end["cell"]["condition"]).collect();
    assert!(programs.len() == 2 && conditions[0] != conditions[1], "{conditions:?}");
    for end in programs {
        assert_eq!(end["exit"], "ok", "{end}");
        let run = folder.join("runs").join(end["run"].as_str().unwrap());
        assert_eq!(fs::read_to_string(run.join("stdout.txt")).unwrap(), "copied\n");
        let log = lines(&run.join("log.jsonl"));
        let start = &of_event(&log, "run_start")[0];
        assert_eq!((&start["cell"], &start["schedule"]), (&end["cell"], &"copies".into()));
        assert_eq!(last(&log, "run_end")["elapsed_ms"], end["elapsed_ms"]);
        assert_eq!(last(&log, "run_end")["files"], 12);
    }
    let page = fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(page.contains("copies") && page.contains("greedy, pipeline 2"));
    let again = bench.run(&["--resume"]);
    assert_eq!(of_event(&crate::support::records(&again), "sweep_start")[0]["skipped"], 6);
}

#[test]
fn conditions_keep_the_order_of_the_file_in_reports() {
    let bench = Bench::new(&TWO_BY_TWO.replace("\"near\"", "\"zeta\"").replace("\"far\"", "\"alpha\""));
    let output = bench.sweep(&bench.a.address, &bench.b.address, &["--output", "text"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let heading = |name: &str| text.find(&format!("\n{name}\n")).expect(&text);
    assert!(heading("zeta") < heading("alpha"), "{text}");
    let [.., sentence, page] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert_eq!(sentence, "All 8 runs of experiment are complete.");
    assert!(page.starts_with("The page: ") && page.ends_with("report.html"), "{page}");
    let start = &lines(&bench.folders()[0].join("sweep.jsonl"))[0]["data"];
    assert_eq!(start["conditions"][0]["condition"], "zeta");
    let list =
        Command::new(TWINLINK).args(["sweep", "--list"]).current_dir(bench.dir.path()).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(list.contains("course-quick ") && list.lines().all(|line| line.chars().count() <= 80), "{list}");
}

#[test]
fn failing_program_is_recorded_and_the_others_go_on() {
    let bench = Bench::new(&WITH_PROGRAM.replace("echo copied", "rm $OUT/s002.m4s"));
    let output = bench.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("2 of 6 runs"), "{}", stderr(&output));
    for end in of_event(&records(&output), "cell_end") {
        let expected = if end["cell"]["schedule"] == "copies" { "incomplete" } else { "ok" };
        assert_eq!(end["exit"], expected, "{end}");
    }
}

#[test]
fn missing_program_is_named_before_anything_runs() {
    let bench = Bench::new(&WITH_PROGRAM.replace("\"while read", "\"./no-such-tool && while read"));
    let output = bench.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    let words = stderr(&output);
    assert!(words.contains("./no-such-tool (of copies)"), "{words}");
    assert!(!bench.dir.path().join("results").exists());
}

#[test]
fn a_dry_run_lists_every_run_and_makes_nothing() {
    let bench = Bench::new(TWO_BY_TWO);
    let output = bench.run(&["--dry-run"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains("greedy")).count(), 4, "{text}");
    // With one link unshaped there is no telling.
    assert!(text.contains("8 runs in 2 repetitions, of which some cannot be predicted"), "{text}");
    assert!(!bench.dir.path().join("results").exists());
}

#[test]
fn the_time_that_an_experiment_takes_is_said_in_words() {
    let listing = |name: &str| {
        let output = Command::new(TWINLINK).args(["sweep", name, "--dry-run"]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap().lines().last().unwrap().to_string()
    };
    // The probes of eight runs, the throughputs, and what sets links up, each with its share.
    let quick = listing("course-quick");
    for part in
        ["8 runs in one repetition take about ", "transfers", "before runs", "throughputs", "set links up"]
    {
        assert!(quick.contains(part), "no {part} in {quick}");
    }
}

#[test]
fn what_cannot_be_begun_is_named_before_anything_is_made() {
    let bench = Bench::new(&TWO_BY_TWO.replace("wifi-far", "wifi-fra"));
    let output = bench.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    for word in ["experiment.toml", "\\\"far\\\"", "did you mean wifi-far?"] {
        assert!(stderr(&output).contains(word), "{word} is not in {}", stderr(&output));
    }
    assert!(!bench.dir.path().join("results").exists());
    let bench = Bench::new(TWO_BY_TWO);
    fs::create_dir(bench.dir.path().join("results")).unwrap();
    let output = bench.run(&["--resume"]);
    assert!(stderr(&output).contains("nothing to resume"), "{}", stderr(&output));
}

#[test]
fn an_experiment_whose_log_meets_a_limit_says_so_in_its_last_record() {
    let text = "probe = \"off\"\nschedules = [\"greedy\"]\nrepetitions = 3\n[[condition]]\nname = \"x\"\nlink_a = \"wifi-near\"\n";
    let bench = Bench::new(text);
    fs::remove_dir_all(bench.dir.path().join("data")).unwrap();
    segments(&bench.dir.path().join("data"), 2, "100B");
    let servers =
        [Server::start(&bench.dir.path().join("data")), Server::start(&bench.dir.path().join("data"))];
    for blocks in 1..6 {
        let line = format!("ulimit -f {blocks}; exec \"$@\"");
        let sweep = bench.sweep(&servers[0].address, &servers[1].address, &[]);
        let mut limited = Command::new("sh");
        limited.args(["-c", &line, "sh", TWINLINK]).args(sweep.get_args()).stdin(Stdio::null());
        limited.current_dir(bench.dir.path()).env("TWINLINK_CONTROL", bench.dir.path().join("control.sock"));
        let output = limited.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{blocks}: {}", stderr(&output));
        let records = records(&output);
        let end = &records.last().unwrap()["data"];
        assert_eq!(records.last().unwrap()["event"], "sweep_end", "{blocks}");
        assert_eq!(end["exit"], "failed", "{blocks}: {end}");
        assert!(stderr(&output).contains("ulimit -f"), "{blocks}: {}", stderr(&output));
    }
}

#[test]
fn lists_of_two_servers_are_printed_for_other_programs() {
    let bench = Bench::new(TWO_BY_TWO);
    let manifest = |options: &[&str]| {
        let servers = [bench.a.address.as_str(), &bench.b.address];
        let output = Command::new(TWINLINK).arg("manifest").args(options).args(servers).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let sums = fs::read_to_string(bench.dir.path().join("data/SHA256SUMS")).unwrap();
    assert_eq!(manifest(&[]), sums);
    assert_eq!(manifest(&["--files", "s{001..002}.m4s"]).lines().count(), 2);
    let list = bench.dir.path().join("two");
    fs::write(&list, sums.lines().take(2).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let metalink = manifest(&["--metalink", "--list", list.to_str().unwrap()]);
    assert_eq!((metalink.matches("<file ").count(), metalink.matches("<size>").count()), (2, 2));
    for (line, server) in sums.lines().take(2).zip([&bench.a.address, &bench.b.address]) {
        let (digest, name) = line.split_once("  ").unwrap();
        assert!(metalink.contains(digest) && metalink.contains(&format!("http://{server}/{name}</url>")));
    }
}
