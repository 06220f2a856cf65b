//! A run while it goes on: the page of `--watch`, reached from outside the lab, follows it and changes a link, and
//! `twinlink watch` shows it on a terminal's 80 columns.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::fixture::{PATIENCE, Place, User, program_under_test, stdout_of, users, words};
use crate::report_page::browser;
use crate::support::have;

/// A program that says where its page is.
struct Page {
    child: Child,
    host: String,
}

impl Page {
    fn of(mut command: Command) -> Page {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut told = String::new();
        let host = loop {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "no page: {told}");
            if let Some((_, rest)) = line.split_once("watch it at http://") {
                break rest.trim_end().trim_end_matches('/').to_string();
            }
            told += &line;
        };
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Page { child, host }
    }

    /// Sends a request, and returns the connection.
    fn send(&self, head: &str, host: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let request = format!("{head} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n");
        stream.write_all(format!("{request}\r\n{body}").as_bytes()).unwrap();
        stream
    }

    fn answer(&self, head: &str, host: &str, body: &str) -> String {
        let mut text = String::new();
        self.send(head, host, body).read_to_string(&mut text).unwrap();
        text
    }

    /// Reads news until one fits; returns it.
    fn news(events: &mut impl BufRead, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            let mut line = String::new();
            assert!(events.read_line(&mut line).unwrap() > 0, "the page ended before");
            let Some(json) = line.strip_prefix("data: ") else { continue };
            let news: Vec<Value> = serde_json::from_str(json).unwrap();
            if let Some(found) = news.into_iter().find(|one| fits(one)) {
                return found;
            }
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_run_in_a_lab_is_followed_and_changed_from_its_page() {
    if users().is_empty() {
        return;
    }
    let place = Place::new(User::Own);
    let links = ["--", "--link-a", "rate-20", "--link-b", "rate-20", "--files", "s{001..060}.m4s"];
    let watched = ["--probe", "off", "--watch", "127.0.0.1:0", "--control"];
    let mut page = Page::of(place.lab(&[&links[..], &watched].concat()));
    let host = page.host.clone();
    assert!(page.answer("GET /", &host, "").contains("<title>twinlink: live</title>"));
    let mut events = BufReader::new(page.send("GET /events", &host, ""));
    let sample =
        Page::news(&mut events, |one| one["event"] == "sample" && one["goodput"].as_f64() > Some(0.0));
    assert_eq!(sample["rate"], 20.0, "{sample}");
    // Another page in the same browser, and a name that another site gave this address, change nothing.
    let change = r#"{"link":"b","profile":"rate-80"}"#;
    assert!(page.answer("POST /link", "evil.example", change).starts_with("HTTP/1.1 403"));
    let origin = format!("{host}\r\nOrigin: http://evil.example");
    assert!(page.answer("POST /link", &origin, change).starts_with("HTTP/1.1 403"));
    let unknown = change.replace("rate-80", "/etc/passwd");
    assert!(page.answer("POST /link", &host, &unknown).starts_with("HTTP/1.1 400"));
    let own = format!("{host}\r\nOrigin: http://{host}");
    let answer = page.answer("POST /link", &own, change);
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("Link b follows rate-80 now.\n"),
        "{answer}"
    );
    let changed = Page::news(&mut events, |one| one["event"] == "link" && one["action"] == "changed");
    assert_eq!((&changed["link"], &changed["profile"]), (&"b".into(), &"rate-80".into()));
    let end = Page::news(&mut events, |one| one["event"] == "end");
    assert!(end["said"].as_str().unwrap().contains("60 files") && end["exit"] == "ok", "{end}");
    // The page goes with the run.
    assert!(page.child.wait().unwrap().success());
    let mut rest = String::new();
    events.read_to_string(&mut rest).unwrap();
    assert!(TcpStream::connect(&host).is_err());
}

/// Writes a run's log as the lab would.
fn logged(folder: &std::path::Path) {
    let program = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report-logs.py");
    stdout_of(Command::new("python3").arg(program).arg("run").arg(folder));
}

#[test]
fn a_run_that_has_ended_is_shown_in_80_columns() {
    if !have(&["python3"]) {
        return;
    }
    let place = Place::new(User::Own);
    let folder = place.path("work/logs");
    logged(&folder);
    let output = place.program(&["watch", folder.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(" files after ") && text.contains("Mbit/s, queue "), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let missing = place.program(&["watch", "no-such-folder"]).output().unwrap();
    assert!(words(&missing).contains("cannot watch no-such-folder"), "{}", words(&missing));
}

/// The live page as a file, with the news that its server sent so far: a browser need not wait for a stream to end.
fn kept(page: &Page) -> String {
    let html = page.answer("GET /", &page.host, "");
    let (_, html) = html.split_once("\r\n\r\n").unwrap();
    let mut events = BufReader::new(page.send("GET /events", &page.host, ""));
    let mut news = Vec::new();
    while !news.last().is_some_and(|json: &String| json.contains("\"event\":\"end\"")) {
        let mut line = String::new();
        assert!(events.read_line(&mut line).unwrap() > 0);
        news.extend(line.strip_prefix("data: ").map(String::from));
    }
    let news = news.join(",").replace('<', "\\u003c");
    let stream = format!(
        "{{}}; setTimeout(() => [{news}].forEach(one => source.onmessage({{data: JSON.stringify(one)}})))"
    );
    assert_eq!(html.matches("new EventSource(\"/events\")").count(), 1);
    html.replace("new EventSource(\"/events\")", &stream)
}

#[test]
fn the_live_page_draws_a_run_and_fits_a_phone() {
    if !have(&["python3"]) {
        return;
    }
    let Some(browser) = browser() else { return };
    let place = Place::new(User::Own);
    let folder = place.path("work/logs");
    logged(&folder);
    let mut command = Command::new(program_under_test());
    command.arg("watch").arg(&folder).args(["--watch", "127.0.0.1:0", "--control"]);
    let file = place.path("work/live.html");
    fs::write(&file, kept(&Page::of(command))).unwrap();
    browser.expect_fits("live", &file, 3);
    let [dom, _] =
        browser.browse(&["--virtual-time-budget=5000", "--dump-dom", &format!("file://{}", file.display())]);
    for words in
        ["twinlink</title>", " MB so far, rate in force ", " files</p>", "<option>lte-medium</option>"]
    {
        assert!(dom.contains(words), "{words}: {dom}");
    }
}
