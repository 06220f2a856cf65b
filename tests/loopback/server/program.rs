//! The program as a user or a container runs it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use assert_cmd::Command as Program;

const BINARY: &str = env!("CARGO_BIN_EXE_twinlink");

fn program() -> Program {
    let mut program = Program::new(BINARY);
    program.env_remove("TWINLINK_DATA").env_remove("TWINLINK_SAMPLES").env_remove("TWINLINK_LISTEN");
    program
}

/// A server of `data` on a free port, ended when it is dropped.
struct Running {
    child: Child,
    stdout: Option<BufReader<std::process::ChildStdout>>,
    address: String,
}

impl Running {
    fn start(data: &Path) -> Running {
        Running::limited(data, "true")
    }

    /// After `ulimit`, a command of the shell.
    fn limited(data: &Path, ulimit: &str) -> Running {
        let mut child = Command::new("sh")
            .args(["-c", &format!("{ulimit} && exec \"$0\" server --listen 127.0.0.1:0 --data \"$1\"")])
            .args([BINARY.as_ref(), data.as_os_str()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let record: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(record["event"], "serve_start");
        let address = record["data"]["listen"].as_str().unwrap().to_string();
        Running { child, stdout: Some(stdout), address }
    }

    fn get(&self, target: &str) -> String {
        let mut tcp = TcpStream::connect(&self.address).unwrap();
        write!(tcp, "GET {target} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).unwrap();
        answer
    }

    fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so its id is still its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_signal_ends_it_well_and_every_line_is_json() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("s001.m4s"), "one").unwrap();
    for (signal, name) in [
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGQUIT, "SIGQUIT"),
    ] {
        let mut server = Running::start(dir.path());
        assert!(server.get("/s001.m4s").ends_with("\r\n\r\none"));
        server.signal(signal);
        assert_eq!(server.child.wait().unwrap().code(), Some(0));
        let mut rest = String::new();
        server.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        let records: Vec<serde_json::Value> =
            rest.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let events: Vec<_> = records.iter().map(|record| record["event"].as_str().unwrap()).collect();
        assert_eq!(events, ["request", "serve_end"]);
        assert_eq!(records[1]["data"]["reason"], name);
    }
}

#[test]
fn a_closed_stdout_costs_the_log_but_not_the_server() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("s001.m4s"), "one").unwrap();
    let mut server = Running::start(dir.path());
    server.stdout = None;
    for _ in 0..5 {
        assert!(server.get("/s001.m4s").ends_with("\r\n\r\none"));
    }
    server.signal(libc::SIGTERM);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn health_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("s001.m4s"), "one").unwrap();
    let server = Running::start(dir.path());
    program().args(["health", &server.address]).assert().success().stdout("").stderr("");
    let address = server.address.clone();
    drop(server);
    let failed = program().args(["health", &address]).assert().failure();
    let text = String::from_utf8_lossy(&failed.get_output().stderr).into_owned();
    assert!(text.contains(&format!("cannot ask {address} for its health")), "{text}");
    program().args(["health", "nonsense"]).assert().failure();
}

#[test]
fn mistakes_in_starting_it_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let explained = |args: &[&str], expected: &str| {
        let output =
            program().args(["server", "--output", "json"]).args(args).assert().failure().get_output().clone();
        let line: serde_json::Value = serde_json::from_slice(
            output.stderr.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).unwrap(),
        )
        .unwrap();
        let message = line["message"].as_str().unwrap();
        assert!(message.contains(expected), "{message}");
        assert_eq!(output.stdout, b"");
    };
    let empty = empty.to_str().unwrap();
    explained(&["--data", empty], "nothing to serve");
    explained(&["--data", &format!("{empty}/missing"), "--samples", empty], "twinlink segments");
    fs::write(dir.path().join("s001.m4s"), "one").unwrap();
    let data = dir.path().to_str().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    explained(&["--data", data, "--listen", &taken], "name a free address and port with --listen");
    drop(listener);
    let usage = program().args(["server", "--listen", "nowhere"]).assert().code(2).get_output().clone();
    let text = String::from_utf8(usage.stderr).unwrap();
    assert!(text.starts_with("error: ") && text.contains("is not an address and a port"), "{text}");
    explained(&["--data", data, "--listen", "no.where.invalid:4455"], "cannot listen on no.where.invalid");
}

#[test]
fn too_few_resources_are_an_error_with_its_cause() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("s001.m4s"), "one").unwrap();
    let data = dir.path().to_str().unwrap();
    let started = |ulimit: &str| {
        let command = format!("{ulimit} && exec timeout 60 \"$0\" server --listen 192.0.2.1:1 --data \"$1\"");
        let output = Command::new("sh").args(["-c", &command, BINARY, data]).output().unwrap();
        assert!(!output.status.success() && output.status.code().is_some(), "{ulimit}: {}", output.status);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for limit in 6..32 {
        let message = started(&format!("ulimit -n {limit}"));
        assert!(!message.contains("panicked"), "{limit} descriptors: {message}");
        assert!(message.contains("ulimit -n") || message.contains("cannot listen on"), "{message}");
    }
    assert!(started("ulimit -n 8").contains("Too many open files"));
}

#[test]
fn want_of_descriptors_is_answered_with_503() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("s001.m4s"), "one").unwrap();
    let server = Running::limited(dir.path(), "ulimit -n 40");
    // As many connections as there are descriptors: the server closes idle ones and goes on.
    let connect = || TcpStream::connect(&server.address).unwrap();
    let idle: Vec<TcpStream> = (0..60).map(|_| connect()).collect();
    let mut statuses: Vec<String> = Vec::new();
    for _ in 0..40 {
        let mut tcp = connect();
        let _ = write!(tcp, "GET /s001.m4s HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        let _ = tcp.read_to_string(&mut answer);
        let status = answer.split(' ').nth(1).unwrap_or("closed").to_string();
        assert!(status != "503" || answer.to_lowercase().contains("retry-after: 1"), "{answer}");
        statuses.push(status);
    }
    assert!(
        statuses.iter().all(|status| ["200", "503", "closed"].contains(&status.as_str())),
        "{statuses:?}"
    );
    assert!(statuses.iter().any(|status| status == "200"), "{statuses:?}");
    drop(idle);
    assert!(server.get("/s001.m4s").ends_with("\r\n\r\none"));
}
