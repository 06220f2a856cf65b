//! Servers, clients and logs for the tests: the real program on loopback, every port picked by the
//! kernel, every process ended by its own handle.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

pub(crate) const TWINLINK: &str = env!("CARGO_BIN_EXE_twinlink");

/// Returns the program that labs and large inputs are tested with: `$TWINLINK_BIN`, such as a release build, or the one
/// built with the tests.
pub(crate) fn program_under_test() -> PathBuf {
    std::env::var_os("TWINLINK_BIN").map_or_else(|| env!("CARGO_BIN_EXE_twinlink").into(), PathBuf::from)
}

/// A `twinlink server` that ends when it is dropped.
pub(crate) struct Server {
    child: Child,
    pub address: String,
}

impl Server {
    pub(crate) fn start(data: &Path) -> Server {
        let mut child = Command::new(TWINLINK)
            .args(["server", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its stdout is a pipe"));
        let mut first = String::new();
        lines.read_line(&mut first).expect("the server says that it is ready");
        let ready: Value = serde_json::from_str(&first).expect("that is JSON");
        let address = ready["data"]["listen"].as_str().expect("it says where").to_string();
        // Reads the rest of its log, or it would wait for a reader.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Server { child, address }
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Writes `count` segments of about `mean` each.
pub(crate) fn segments(dir: &Path, count: u32, mean: &str) {
    let output = Command::new(TWINLINK)
        .args(["segments", "--count", &count.to_string(), "--mean-size", mean])
        .arg(dir)
        .output()
        .expect("twinlink runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `twinlink client`, with a control socket of its own.
pub(crate) fn client(args: &[&str]) -> Output {
    let socket = tempfile::tempdir().expect("a folder for the socket");
    Command::new(TWINLINK)
        .arg("client")
        .args(args)
        .env("TWINLINK_CONTROL", socket.path().join("control.sock"))
        .env("TWINLINK_STDOUT", "segments")
        .stdin(Stdio::null())
        .output()
        .expect("twinlink runs")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The records on a client's stdout.
pub(crate) fn records(output: &Output) -> Vec<Value> {
    output
        .stdout
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("every line is JSON"))
        .collect()
}

pub(crate) fn of_event<'a>(records: &'a [Value], event: &str) -> Vec<&'a Value> {
    records.iter().filter(|record| record["event"] == event).map(|record| &record["data"]).collect()
}

/// The one `run_end` of a run, which must be its last record.
pub(crate) fn run_end(records: &[Value]) -> &Value {
    let last = records.last().expect("there are records");
    assert_eq!(last["event"], "run_end", "the last record is {last}");
    &last["data"]
}

/// A server that does with each connection what `behave` does, on a thread, until the test ends.
pub(crate) fn odd_server(behave: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let behave = std::sync::Arc::new(behave);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let behave = behave.clone();
            std::thread::spawn(move || behave(number, stream));
        }
    });
    address
}

/// Reads one request head from a connection; `None` at its end.
pub(crate) fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    String::from_utf8(head).ok()
}

/// The path of a request, and the first byte that it asks for.
pub(crate) fn asked_for(request: &str) -> (String, Option<usize>) {
    let path = request.split(' ').nth(1).unwrap_or_default().to_string();
    let from = request
        .lines()
        .find_map(|line| line.strip_prefix("Range: bytes="))
        .and_then(|range| range.trim_end_matches('-').parse().ok());
    (path, from)
}

pub(crate) fn answer(stream: &mut impl Write, head: &str, body: &[u8]) {
    let _ = stream.write_all(format!("{head}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
    let _ = stream.write_all(body);
}

pub(crate) fn published_schema() -> jsonschema::Validator {
    let schema: Value =
        serde_json::from_str(include_str!("../../docs/log.schema.json")).expect("the schema is JSON");
    jsonschema::validator_for(&schema).expect("the schema is a schema")
}

/// Holds every line against the schema, and all of `expected` against the events that there are.
pub(crate) fn assert_valid(schema: &jsonschema::Validator, text: &str, expected: &[&str]) {
    let mut events = std::collections::BTreeSet::new();
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        if let Err(error) = schema.validate(&record) {
            panic!("{line}\n{error} at {}", error.instance_path());
        }
        events.insert(record["event"].as_str().unwrap().to_string());
    }
    for event in expected {
        assert!(events.contains(*event), "no {event} among {events:?}");
    }
}

/// Returns true if these programs are here. Where CI is set they must be; else it is said what does not run.
pub(crate) fn have(programs: &[&str]) -> bool {
    let is_here = |program: &&&str| {
        Command::new("sh")
            .args(["-c", "command -v \"$0\"", program])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    let missing: Vec<_> = programs.iter().filter(|program| !is_here(program)).collect();
    if !missing.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "{missing:?} not found: run tests/setup/packages.sh");
        println!("NOT RUN: {missing:?} not found: run tests/setup/packages.sh");
    }
    missing.is_empty()
}
