//! `--schedule exec=PROGRAM` against our own servers on loopback: programs that decide, and such as fail at it.

use std::process::{Command, Output, Stdio};

use crate::support::{Server, TWINLINK, of_event, records, segments, stderr};
use serde_json::Value;

struct Bench {
    dir: tempfile::TempDir,
    servers: [Server; 2],
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        segments(&dir.path().join("data"), 12, "600KB");
        let server = || Server::start(&dir.path().join("data"));
        Bench { servers: [server(), server()], dir }
    }

    fn run(&self, program: &str) -> Output {
        let mut command = Command::new(TWINLINK);
        command.args(["client", "--backend", "none", "--schedule", &format!("exec={program}")]);
        command.args(self.servers.each_ref().map(|server| server.address.as_str()));
        command.env("TWINLINK_CONTROL", self.dir.path().join("control.sock"));
        command.env("TWINLINK_STDOUT", "segments").stdin(Stdio::null()).output().unwrap()
    }
}

/// Writes a program that answers each question `q` with this expression.
fn answering(answer: &str, dir: &tempfile::TempDir) -> String {
    let text = format!(
        "import json, sys, time\nfor line in sys.stdin:\n    q = json.loads(line)\n    \
         print(json.dumps({{}} if q['event'] == 'start' else {answer}), flush=True)\n"
    );
    let path = dir.path().join("scheduler.py");
    std::fs::write(&path, text).unwrap();
    format!("exec python3 {}", path.display())
}

fn end(output: &Output) -> Value {
    of_event(&records(output), "run_end").remove(0).clone()
}

#[test]
fn example_brings_every_file() {
    let bench = Bench::new();
    let output = bench.run(concat!("python3 ", env!("CARGO_MANIFEST_DIR"), "/examples/scheduler.py"));
    assert!(output.status.success(), "{}", stderr(&output));
    let end = end(&output);
    assert_eq!((&end["files"], &end["exit"]), (&12.into(), &"ok".into()), "{end}");
    let records = records(&output);
    let segments = of_event(&records, "segment");
    assert!(segments.iter().all(|segment| segment["digest_ok"] == true));
    let schedule = of_event(&records, "run_start")[0]["schedule"].as_str().unwrap();
    assert!(schedule.starts_with("exec=python3 "), "{schedule}");
}

#[test]
fn program_decides_which_link_brings_a_file() {
    let bench = Bench::new();
    // Even files come from a, odd ones from b, and whole.
    let rule = "next(({'file': p['file']} for p in q['waiting'] if 'ab'[p['file'] % 2] == q['link']), {'wait_ms': 5})";
    let output = bench.run(&answering(rule, &bench.dir));
    assert!(output.status.success(), "{}", stderr(&output));
    for segment in of_event(&records(&output), "segment") {
        let link = if segment["index"].as_u64().unwrap() % 2 == 0 { "a" } else { "b" };
        assert_eq!((&segment["link"], &segment["parts"].as_array().unwrap().len()), (&link.into(), &1));
    }
}

#[test]
fn schedulers_that_fail_end_the_run_with_a_reason() {
    let bench = Bench::new();
    fails(&bench, "./no-such-program", "it has ended; it printed: ");
    fails(
        &bench,
        &answering("sys.exit('out of ideas')", &bench.dir),
        "it has ended; it printed: out of ideas",
    );
    fails(&bench, &answering("time.sleep(100)", &bench.dir), "it did not answer within 1 s");
    fails(&bench, &answering("{'file': 99}", &bench.dir), "no such part waits");
    fails(&bench, &answering("'soon'", &bench.dir), "it answered");
}

fn fails(bench: &Bench, program: &str, words: &str) {
    let output = bench.run(program);
    assert_eq!(output.status.code(), Some(1), "{program}");
    let end = end(&output);
    assert_eq!(end["exit"], "scheduler", "{end}");
    assert!(end["summary"].as_str().unwrap().contains(words), "{words}: {end}");
}
