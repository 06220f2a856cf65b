//! `twinlink export` on the log of a real run: what it writes, held against the formats' rules, and opened by the tools
//! that read them where they are installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Server, client, segments, stderr};

const FILES: usize = 6;

fn export(args: &[&str], run: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_twinlink"))
        .arg("export")
        .args(args)
        .arg(run)
        .output()
        .expect("twinlink runs")
}

fn exported(args: &[&str], run: &Path) -> Value {
    let output = export(args, run);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

/// Makes a run over two servers on loopback, and returns its folder.
fn run_in(dir: &TempDir) -> PathBuf {
    let (data, results) = (dir.path().join("data"), dir.path().join("results"));
    segments(&data, FILES as u32, "50KB");
    let (a, b) = (Server::start(&data), Server::start(&data));
    let output =
        client(&[&a.address, &b.address, "--schedule", "ratio=1:1", "--results", results.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    let mut folders = fs::read_dir(&results).unwrap();
    folders.next().unwrap().unwrap().path()
}

/// Runs a tool that no package of the system's brings. Where it is missing it is said that this does not run.
fn if_here(name: &str, command: &mut Command) -> Option<String> {
    match command.output() {
        Ok(output) if output.status.success() => Some(String::from_utf8(output.stdout).unwrap()),
        Ok(output) if !stderr(&output).contains("No module named") => {
            panic!("{name} cannot read the export: {}", stderr(&output))
        }
        _ => {
            println!("NOT RUN: {name} is not installed, and no package of Debian's brings it");
            None
        }
    }
}

#[test]
fn perfetto_trace_has_each_file_on_its_link() {
    let dir = TempDir::new().unwrap();
    let (run, file) = (run_in(&dir), dir.path().join("trace.json"));
    assert!(export(&["perfetto", "--out", file.to_str().unwrap()], &run).status.success());
    let trace: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(trace, exported(&["perfetto"], &run.join("log.jsonl")), "a folder is as its log");
    let events = trace["traceEvents"].as_array().unwrap();
    let slices = |pid: u64| {
        let of = events.iter().filter(move |event| event["ph"] == "X" && event["pid"] == pid);
        of.filter(|event| event["name"].as_str().unwrap().ends_with(".m4s")).count()
    };
    assert_eq!([1, 2, 3].map(slices), [FILES / 2, FILES / 2, FILES]);
    for counter in ["goodput, kbit/s", "requests in flight", "buffer, ms"] {
        assert!(events.iter().any(|event| event["ph"] == "C" && event["name"] == counter), "no {counter}");
    }
    let query = dir.path().join("query.sql");
    fs::write(&query, "select count(*) from slice where name glob '*.m4s'").unwrap();
    let name = "trace_processor_shell";
    if let Some(read) = if_here(name, Command::new(name).arg("--query-file").args([&query, &file])) {
        assert!(read.lines().any(|line| line.trim() == (2 * FILES).to_string()), "{read}");
    }
}

#[test]
fn p1203_input_is_what_the_model_reads() {
    let dir = TempDir::new().unwrap();
    let run = run_in(&dir);
    let options =
        ["p1203", "--resolution", "1280x720", "--fps", "24", "--audio-kbit", "20", "--device", "mobile"];
    let input = exported(&options, &run);
    let stream = |key: &str, items: Value| json!({"type": "object", "required": [key, "streamId"], "properties": {key: {"type": "array", "items": items}}});
    let positive = json!({"type": "number", "exclusiveMinimum": 0});
    let of = |codec: &str, more: &[&str]| {
        let required = [&["codec", "start", "duration", "bitrate"], more].concat();
        json!({"required": required, "properties": {
            "codec": {"const": codec}, "start": {"type": "number", "minimum": 0}, "duration": positive,
            "bitrate": positive, "fps": positive, "resolution": {"pattern": "^[0-9]+x[0-9]+$"}}})
    };
    let pair =
        json!({"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number", "minimum": 0}});
    // The keys as the implementation's description of its input has them.
    let schema = json!({"required": ["I11", "I13", "I23", "IGen"], "properties": {
        "I11": stream("segments", of("aaclc", &[])), "I13": stream("segments", of("h264", &["fps", "resolution"])),
        "I23": stream("stalling", pair)}});
    jsonschema::validator_for(&schema)
        .unwrap()
        .validate(&input)
        .unwrap_or_else(|error| panic!("{error}: {input:#}"));
    let of = |stream: &str| input[stream]["segments"].as_array().unwrap().clone();
    assert_eq!((of("I13").len(), of("I11").len()), (FILES, FILES));
    assert_eq!(of("I13")[1]["start"], 4.0);
    assert_eq!(input["I23"]["stalling"][0][0], 0.0);
    assert_eq!(input["IGen"]["device"], "mobile");
    let file = dir.path().join("p1203.json");
    fs::write(&file, input.to_string()).unwrap();
    if let Some(read) = if_here("itu_p1203", Command::new("python3").args(["-m", "itu_p1203"]).arg(&file)) {
        assert!(read.contains("O46"), "{read}");
    }
}

#[test]
fn what_cannot_be_exported_is_refused_in_words() {
    let dir = TempDir::new().unwrap();
    let first = run_in(&dir);
    let results = first.parent().unwrap();
    fs::create_dir(results.join("again")).unwrap();
    fs::copy(first.join("log.jsonl"), results.join("again/log.jsonl")).unwrap();
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for (args, run, expected) in [
        (&["perfetto"][..], results, "cannot export 2 runs at a time: name one of them"),
        (&["perfetto"], &empty, "nothing to export"),
        (&["p1203"], &dir.path().join("missing"), "cannot read"),
        (&["p1203", "--resolution", "720p"], &first, "expected pixels as in 1920x1080"),
        (&["p1203", "--fps", "0"], &first, "expected pictures a second"),
    ] {
        let output = export(args, run);
        assert!(!output.status.success() && output.stdout.is_empty());
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
}
