//! The client against our own servers and against odd ones, as a user would run it.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{
    Server, TWINLINK, answer, asked_for, assert_valid, client, odd_server, of_event, published_schema,
    read_request, records, run_end, segments, stderr,
};
use sha2::{Digest, Sha256};

struct Pair {
    data: tempfile::TempDir,
    a: Server,
    b: Server,
}

/// Two servers on one set of segments.
fn pair(count: u32, mean: &str) -> Pair {
    let data = tempfile::tempdir().unwrap();
    segments(data.path(), count, mean);
    let (a, b) = (Server::start(data.path()), Server::start(data.path()));
    Pair { data, a, b }
}

/// Every file of `data` but the list stands in `out`, the same.
fn assert_same_files(data: &Path, out: &Path) {
    let mut compared = 0;
    for entry in fs::read_dir(data).unwrap() {
        let name = entry.unwrap().file_name();
        if name == "SHA256SUMS" {
            continue;
        }
        assert_eq!(fs::read(data.join(&name)).unwrap(), fs::read(out.join(&name)).unwrap(), "{name:?}");
        compared += 1;
    }
    assert!(compared > 0, "there was nothing to compare");
    assert!(!fs::read_dir(out).unwrap().any(|e| e.unwrap().path().extension().is_some_and(|x| x == "part")));
}

#[test]
fn all_files_arrive_by_every_schedule_and_depth() {
    let pair = pair(40, "20KB");
    let ratios = ["ratio=1:2", "ratio=5:1", "ratio=1:0", "ratio=0:1"];
    for schedule in ["adaptive", "inorder", "greedy", "rates=3000:1000"].into_iter().chain(ratios) {
        for pipeline in ["auto", "1", "8"] {
            let out = tempfile::tempdir().unwrap();
            let dir = out.path().join("new/folder");
            let output = client(&[
                "--schedule",
                schedule,
                "--pipeline",
                pipeline,
                "--out",
                dir.to_str().unwrap(),
                &pair.a.address,
                &pair.b.address,
            ]);
            assert!(output.status.success(), "{schedule} {pipeline}: {}", stderr(&output));
            assert_same_files(pair.data.path(), &dir);
            let records = records(&output);
            let end = run_end(&records);
            assert_eq!(end["exit"], "ok");
            assert_eq!(end["files"], 40);
            assert_eq!(of_event(&records, "segment").len(), 40);
            assert!(of_event(&records, "segment").iter().all(|segment| segment["digest_ok"] == true));
            assert!(of_event(&records, "fault").is_empty());
        }
    }
}

#[test]
fn a_ratio_is_exactly_the_course_s_order() {
    let pair = pair(10, "5KB");
    let output = client(&["--schedule", "ratio=1:2", "--pipeline", "1", &pair.a.address, &pair.b.address]);
    let records = records(&output);
    let names = |link: &str| -> Vec<String> {
        let segments = of_event(&records, "segment");
        segments
            .iter()
            .filter(|s| s["link"] == link)
            .map(|s| s["name"].as_str().unwrap().to_string())
            .collect()
    };
    assert_eq!(names("a"), ["s001.m4s", "s004.m4s", "s007.m4s", "s010.m4s"]);
    assert_eq!(names("b"), ["s002.m4s", "s003.m4s", "s005.m4s", "s006.m4s", "s008.m4s", "s009.m4s"]);
    let end = run_end(&records);
    assert_eq!(end["links"]["a"]["files"], 4);
    assert_eq!(end["links"]["b"]["files"], 6);
    let bytes = end["links"]["a"]["bytes"].as_u64().unwrap() + end["links"]["b"]["bytes"].as_u64().unwrap();
    assert_eq!(end["bytes"], bytes);
}

#[test]
fn rates_deal_the_files_out_by_their_sizes() {
    let pair = pair(40, "20KB");
    let output = client(&["--schedule", "rates=3000:1000", &pair.a.address, &pair.b.address]);
    let records = records(&output);
    let end = run_end(&records);
    let largest =
        of_event(&records, "segment").iter().map(|s| s["bytes"].as_f64().unwrap()).fold(0.0, f64::max);
    let of_a = end["links"]["a"]["bytes"].as_f64().unwrap();
    assert!((of_a - 0.75 * end["bytes"].as_f64().unwrap()).abs() <= largest, "{end}");
}

#[test]
fn the_viewer_s_start_is_when_the_first_segments_were_there() {
    let pair = pair(10, "5KB");
    let film = ["--segment-duration", "2s", "--startup", "3"];
    let output = client(&[&film[..], &[&pair.a.address, &pair.b.address]].concat());
    let records = records(&output);
    let end = run_end(&records);
    let segments = of_event(&records, "segment");
    let started = segments
        .iter()
        .filter(|segment| segment["index"].as_u64() < Some(3))
        .map(|segment| segment["done_ms"].as_f64().unwrap())
        .fold(0.0, f64::max);
    let startup = end["qoe"]["startup_delay_ms"].as_f64().unwrap();
    assert!((startup - (started - end["first_request_ms"].as_f64().unwrap())).abs() < 1.0, "{end}");
    assert_eq!(end["qoe"]["rebuffer_count"], 0);
    assert_eq!(end["qoe"]["segment_duration_ms"], 2000.0);
    assert_eq!(of_event(&records, "run_start")[0]["startup_segments"], 3);
}

#[test]
fn one_in_flight_waits_for_each_answer() {
    let pair = pair(12, "5KB");
    let output = client(&["--schedule", "ratio=1:0", "--pipeline", "1", &pair.a.address, &pair.b.address]);
    let records = records(&output);
    let segments = of_event(&records, "segment");
    for two in segments.windows(2) {
        assert!(two[1]["requested_ms"].as_f64() >= two[0]["done_ms"].as_f64(), "{two:?}");
    }
}

#[test]
fn several_connections_bring_every_file_once() {
    for schedule in ["adaptive", "inorder", "greedy", "ratio=1:2"] {
        let (pair, out) = (pair(20, "500KB"), tempfile::tempdir().unwrap());
        let folder = out.path().to_str().unwrap();
        let addresses = [pair.a.address.as_str(), &pair.b.address];
        let output = client(&[
            "--connections",
            "4",
            "--schedule",
            schedule,
            "--out",
            folder,
            addresses[0],
            addresses[1],
        ]);
        assert!(output.status.success(), "{schedule}: {}", stderr(&output));
        let records = records(&output);
        let (start, end) = (&records[0]["data"], run_end(&records));
        assert_eq!(start["connections"], "4");
        assert_eq!((&end["files"], end["exit"].as_str()), (&20.into(), Some("ok")));
        assert!(of_event(&records, "fault").is_empty(), "{schedule}");
        for link in ["a", "b"] {
            let totals = &end["links"][link];
            assert!(totals["connections"].as_u64() >= Some(4), "{schedule}: {totals}");
            assert_eq!(
                (&totals["connections_wanted"], &totals["connections_why"]),
                (&4.into(), &"chosen".into())
            );
        }
        let arrived = fs::read_dir(out.path()).unwrap().count();
        assert!(arrived >= 20, "{schedule}: {arrived}");
    }
}

#[test]
fn server_that_refuses_further_connections_is_asked_for_no_more() {
    let server = || {
        let open = AtomicUsize::new(0);
        odd_server(move |_, mut stream| {
            let busy = open.fetch_add(1, Ordering::SeqCst) >= 3;
            while let Some(request) = read_request(&mut stream) {
                let (path, _) = asked_for(&request);
                let (status, body) = match path.as_str() {
                    "/SHA256SUMS" => ("404 Not Found", &b""[..]),
                    _ if busy => ("503 Service Unavailable", &b""[..]),
                    _ => ("200 OK", BODY),
                };
                std::thread::sleep(Duration::from_millis(5));
                answer(&mut stream, &format!("HTTP/1.1 {status}"), body);
                if busy {
                    break;
                }
            }
            open.fetch_sub(1, Ordering::SeqCst);
        })
        .to_string()
    };
    let output = client(&["--files", "x{0..39}", "--connections", "6", &server(), &server()]);
    let records = records(&output);
    let end = run_end(&records);
    let why = &end["links"]["a"]["connections_why"];
    assert_eq!((&end["files"], why), (&40.into(), &"refused".into()), "{}", stderr(&output));
    assert!(end["links"]["a"]["connections_wanted"].as_u64() < Some(6), "{end}");
}

#[test]
fn a_run_leaves_a_log_in_a_folder_of_its_own() {
    let pair = pair(5, "5KB");
    let results = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let output =
            client(&["--results", results.path().to_str().unwrap(), &pair.a.address, &pair.b.address]);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let runs: Vec<_> = fs::read_dir(results.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(runs.len(), 2);
    for run in runs {
        let text = fs::read_to_string(run.join("log.jsonl")).unwrap();
        assert!(text.lines().next().unwrap().contains("\"event\":\"run_start\""));
        assert!(text.lines().last().unwrap().contains("\"event\":\"run_end\""));
        assert!(text.contains("\"event\":\"sample\""), "samples belong into the file");
    }
}

#[test]
fn names_with_spaces_and_an_init_segment_are_fetched_too() {
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("init.mp4"), b"init").unwrap();
    fs::write(data.path().join("my clip #1.m4s"), b"one").unwrap();
    fs::write(data.path().join("empty.m4s"), b"").unwrap();
    let (a, b) = (Server::start(data.path()), Server::start(data.path()));
    let out = tempfile::tempdir().unwrap();
    let output = client(&["--out", out.path().to_str().unwrap(), &a.address, &b.address]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_same_files(data.path(), out.path());
}

// Bad input, before anything is fetched.

#[test]
fn the_command_line_is_checked() {
    for (args, expected) in [
        (&["one"][..], "2 values"),
        (&["one", "two", "three"], "2 values"),
        (&["--schedule", "ratio=0:0", "x", "y"], "gives no server anything to do"),
        (&["--schedule", "ratio=1:-2", "x", "y"], "two whole numbers"),
        (&["--schedule", "ratio=a:b", "x", "y"], "two whole numbers"),
        (&["--schedule", "best", "x", "y"], "is not a schedule"),
        (&["--pipeline", "0", "x", "y"], "pipeline depth"),
        (&["--give-up", "10", "x", "y"], "no unit"),
        (&["--give-up", "0s", "x", "y"], "less than a server takes to answer"),
        (&["", "y"], "is not a server"),
        (&["x", "y:"], "is not a port"),
        (&["http://x/", "y"], "is not a server"),
        (&["--files", "s{5..1}", "x", "y"], "counts from 5 to 1"),
        (&["--files", "../x", "x", "y"], "leads to another folder"),
        (&["--files", "s{1..99999999}", "x", "y"], "more than 1000000 files"),
    ] {
        let output = client(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let text = stderr(&output);
        assert!(text.contains(expected), "{args:?}: {text}");
        assert!(text.starts_with("error: "), "{args:?}: {text}");
        let output = client(&[args, &["--output", "json"]].concat());
        let line: serde_json::Value = serde_json::from_str(stderr(&output).trim()).expect("one JSON line");
        assert_eq!(line["level"], "ERROR");
        assert!(line["message"].as_str().unwrap().contains(expected), "{args:?}: {line}");
    }
}

/// Runs a client that must fail, and returns its message and the exit word of its log.
fn failure(args: &[&str]) -> (String, String) {
    let output = client(args);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let exit = run_end(&records(&output))["exit"].as_str().unwrap().to_string();
    (stderr(&output), exit)
}

#[test]
fn a_host_that_does_not_resolve_is_named() {
    let pair = pair(2, "1KB");
    let (text, exit) = failure(&[&pair.a.address, "no-such-host.invalid"]);
    assert!(text.contains("server b") && text.contains("no-such-host.invalid"), "{text}");
    assert_eq!(exit, "unreachable");
}

#[test]
fn nobody_listening_is_an_error_after_give_up() {
    let pair = pair(2, "1KB");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (text, exit) = failure(&["--give-up", "300ms", &pair.a.address, &port.to_string()]);
    assert!(text.contains("waiting for it for 0.3 s"), "{text}");
    assert!(text.contains("is a server running there?"), "{text}");
    assert_eq!(exit, "unreachable");
}

#[test]
fn other_programs_behind_the_port_are_told_apart() {
    let pair = pair(2, "1KB");
    let ssh = odd_server(|_, mut stream| {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n");
        std::thread::sleep(Duration::from_secs(5));
    });
    let closes = odd_server(|_, stream| drop(stream));
    let silent = odd_server(|_, mut stream| while read_request(&mut stream).is_some() {});
    let garbage = odd_server(|_, mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(&[0, 255, 13, 10, 1, 2, 3]);
    });
    for (address, expected) in [
        (ssh, "SSH-2.0-OpenSSH"),
        (closes, "closed the connection without an answer"),
        (silent, "did not answer for 0.5 s"),
        (garbage, "not HTTP"),
    ] {
        let (text, exit) = failure(&["--give-up", "500ms", &address.to_string(), &pair.b.address]);
        let reset = text.contains("Connection reset");
        assert!(text.contains(expected) || (expected.contains("without an answer") && reset), "{text}");
        assert!(text.contains("server a"), "{text}");
        assert_eq!(exit, "unreachable");
    }
}

/// Characters that a terminal obeys: of both sets of control characters, separators, and a turn of direction.
const OBEYED: &str = "\u{1b}]0;title\u{7}\u{7f}\u{9b}2J\u{2028}\u{2029}\u{202e}";

fn expect_nothing_obeyed(what: &str, output: &std::process::Output) {
    for text in [&output.stdout, &output.stderr] {
        let text = String::from_utf8(text.clone()).expect("UTF-8");
        let obeyed = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{2028}'..='\u{202e}');
        assert!(!text.contains(obeyed), "{what}: {text:?}");
    }
    let both = [&output.stdout[..], &output.stderr].concat();
    assert!(String::from_utf8_lossy(&both).contains("title"), "{what} says nothing of it");
}

#[test]
fn nothing_of_servers_or_files_is_obeyed_by_a_terminal() {
    let pair = pair(2, "1KB");
    let banner = odd_server(|_, mut stream| {
        let _ = stream.write_all(format!("SSH-{OBEYED}\r\n").as_bytes());
        read_request(&mut stream);
    });
    let leads_away = odd_server(|_, mut stream| {
        read_request(&mut stream);
        // A head with a control character of ASCII is none.
        let place = OBEYED.replace(|c: char| c.is_ascii_control(), "");
        answer(&mut stream, &format!("HTTP/1.1 302 Found\r\nLocation: http://x.invalid/{place}"), b"");
    });
    let other = odd_server(|_, mut stream| {
        read_request(&mut stream);
        answer(&mut stream, "HTTP/1.1 200 OK", format!("{}  {OBEYED}\n", "0".repeat(64)).as_bytes());
    });
    for (what, address) in [("a banner", banner), ("a redirect", leads_away), ("a list", other)] {
        let output = client(&["--give-up", "300ms", &address.to_string(), &pair.a.address]);
        // Every line is JSON still.
        records(&output);
        for line in stderr(&output).lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|_| panic!("{what}: {line}"));
        }
        expect_nothing_obeyed(what, &output);
    }

    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let escaped: String = OBEYED.chars().map(|c| format!("\\u{:04x}", c as u32)).collect();
    fs::create_dir_all(dir.path().join("netem/profiles")).unwrap();
    let profile = "[down]\nrate = \"1mbit\"\nqueue = \"1s\"\n[up]\nrate = \"1mbit\"\nqueue = \"1s\"\n";
    let description = format!("description = \"{escaped}\"\n");
    write("netem/profiles/odd.toml", &(description + profile));
    write("odd.toml", &format!("{profile}\"{escaped}\" = 1\n"));
    write(&format!("{OBEYED}.toml"), "nothing");
    let condition =
        format!("[[condition]]\nname = \"{escaped}\"\nlink_a = \"wifi-near\"\nlink_b = \"wifi-near\"\n");
    write("experiment.toml", &format!("repetitions = 1\nschedules = [\"greedy\"]\n{condition}"));
    let named = format!("./{OBEYED}.toml");
    for args in [
        &["sweep", "experiment.toml", "--dry-run"][..],
        &["link", "list"],
        &["link", "list", "--json"],
        &["link", "plan", "a", "./odd.toml"],
        &["link", "plan", "a", &named],
        &["simulate", "--link-a", &named, "--link-b", "wifi-near"],
        &["report", &named],
    ] {
        let output = Command::new(TWINLINK).args(args).current_dir(dir.path()).output().unwrap();
        expect_nothing_obeyed(&args.join(" "), &output);
    }
}

#[test]
fn servers_that_differ_are_an_error_that_names_the_first_difference() {
    let first = pair(3, "1KB");
    let second = tempfile::tempdir().unwrap();
    for name in ["s001.m4s", "s002.m4s", "s003.m4s"] {
        fs::copy(first.data.path().join(name), second.path().join(name)).unwrap();
    }
    fs::write(second.path().join("s002.m4s"), "another").unwrap();
    let other = Server::start(second.path());
    let (text, exit) = failure(&[&first.a.address, &other.address]);
    assert!(text.contains("s002.m4s has the digest"), "{text}");
    assert_eq!(exit, "lists_differ");
}

#[test]
fn nothing_is_overwritten() {
    let pair = pair(3, "1KB");
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("s002.m4s"), "mine").unwrap();
    let (text, exit) = failure(&["--out", out.path().to_str().unwrap(), &pair.a.address, &pair.b.address]);
    assert!(text.contains("already holds s002.m4s"), "{text}");
    assert_eq!(exit, "store");
    assert_eq!(fs::read(out.path().join("s002.m4s")).unwrap(), b"mine");

    let log = out.path().join("log.jsonl");
    fs::write(&log, "old").unwrap();
    let output = client(&["--log", log.to_str().unwrap(), &pair.a.address, &pair.b.address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("never overwritten"), "{}", stderr(&output));
    assert_eq!(fs::read(&log).unwrap(), b"old");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let pair = pair(3, "1KB");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let (text, _) = failure(&["--out", file.join("out").to_str().unwrap(), &pair.a.address, &pair.b.address]);
    assert!(text.contains("file/out"), "{text}");
}

// Servers that fail in the middle.

/// A server of files; `serve` answers each request but that for the list.
fn file_server(
    serve: impl Fn(&mut TcpStream, usize, &str, Option<usize>) -> bool + Send + Sync + 'static,
) -> std::net::SocketAddr {
    odd_server(move |connection, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            let (path, from) = asked_for(&request);
            if path == "/SHA256SUMS" {
                answer(&mut stream, "HTTP/1.1 404 Not Found", b"");
            } else if !serve(&mut stream, connection, &path, from) {
                return;
            }
        }
    })
}

const BODY: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Answers with the rest of the body.
fn answer_rest(stream: &mut TcpStream, from: usize) {
    let head = format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-35/36");
    answer(stream, &head, &BODY[from..]);
}

/// Fetches `x0` from `server` alone, checks it, and returns what the client logged.
fn fetch_x0(server: std::net::SocketAddr) -> Vec<serde_json::Value> {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().to_str().unwrap();
    let (server, other) = (server.to_string(), good_server().to_string());
    let output = client(&["--files", "x0", "--schedule", "ratio=1:0", "--out", dir, &server, &other]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read(out.path().join("x0")).unwrap(), BODY);
    records(&output)
}

/// A server that answers well, with ranges.
fn good_server() -> std::net::SocketAddr {
    file_server(|stream, _, _, from| {
        match from {
            None => answer(stream, "HTTP/1.1 200 OK", BODY),
            Some(from) => {
                answer_rest(stream, from);
            }
        }
        true
    })
}

#[test]
fn a_broken_connection_goes_on_from_the_byte_where_it_broke() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let breaks = file_server(move |stream, _, path, from| {
        seen.lock().unwrap().push((path.to_string(), from));
        match from {
            None => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 36\r\n\r\n");
                let _ = stream.write_all(&BODY[..10]);
                return false;
            }
            Some(from) => {
                answer_rest(stream, from);
            }
        }
        true
    });
    let records = fetch_x0(breaks);
    assert_eq!(*asked.lock().unwrap(), [("/x0".into(), None), ("/x0".into(), Some(10))]);
    assert_eq!(of_event(&records, "fault").len(), 1);
    let segment = of_event(&records, "segment")[0];
    assert_eq!(segment["parts"].as_array().unwrap().len(), 2);
    assert_eq!(segment["digest_ok"], serde_json::Value::Null);
    assert_eq!(run_end(&records)["wasted_bytes"], 0);
}

#[test]
fn a_server_without_ranges_sends_the_file_again_and_the_waste_is_counted() {
    let tries = Arc::new(AtomicUsize::new(0));
    let breaks = file_server(move |stream, _, _, _| {
        if tries.fetch_add(1, Ordering::SeqCst) == 0 {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 36\r\n\r\n0123456789");
            return false;
        }
        answer(stream, "HTTP/1.1 200 OK", BODY);
        true
    });
    let records = fetch_x0(breaks);
    assert_eq!(run_end(&records)["wasted_bytes"], 10);
}

#[test]
fn a_ratio_run_ends_when_a_server_stays_away_and_greedy_goes_on() {
    let dies = || {
        file_server(|stream, _, path, _| {
            if path != "/x0" && path != "/x1" {
                return false;
            }
            answer(stream, "HTTP/1.1 200 OK", BODY);
            true
        })
    };
    let args = ["--files", "x{0..9}", "--give-up", "700ms", "--pipeline", "1"];
    let addresses = [dies().to_string(), good_server().to_string()];
    let mut ratio = args.to_vec();
    ratio.extend(["--schedule", "ratio=1:1", &addresses[0], &addresses[1]]);
    let (text, exit) = failure(&ratio);
    assert!(text.contains("server a") && text.contains("was away for 0.7 s"), "{text}");
    assert_eq!(exit, "server_away");

    let mut greedy = args.to_vec();
    greedy.extend(["--schedule", "greedy", &addresses[0], &addresses[1]]);
    let output = client(&greedy);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(run_end(&records(&output))["files"], 10);
}

#[test]
fn a_silent_server_is_given_up() {
    let silent = file_server(|_, _, _, _| true);
    let args = ["--files", "x{0..3}", "--give-up", "500ms", "--schedule", "ratio=1:1"];
    let mut all = args.to_vec();
    let addresses = [good_server().to_string(), silent.to_string()];
    all.extend([addresses[0].as_str(), addresses[1].as_str()]);
    let (text, exit) = failure(&all);
    assert!(text.contains("server b") && text.contains("nothing came for 0.5 s"), "{text}");
    assert_eq!(exit, "server_away");
}

#[test]
fn lies_about_the_length_and_missing_files_are_errors() {
    let short = file_server(|stream, _, _, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n0123456789");
        false
    });
    let good = good_server().to_string();
    let args = ["--files", "x0", "--give-up", "3s", "--schedule", "ratio=1:0"];
    let with = |address: String| {
        let mut all: Vec<String> = args.iter().map(ToString::to_string).collect();
        all.extend([address, good.clone()]);
        all
    };
    let run = |all: Vec<String>| failure(&all.iter().map(String::as_str).collect::<Vec<_>>());
    let (text, exit) = run(with(short.to_string()));
    assert!(text.contains("closed the connection after byte"), "{text}");
    assert_eq!(exit, "server_away");

    let missing = file_server(|stream, _, _, _| {
        answer(stream, "HTTP/1.1 404 Not Found", b"");
        true
    });
    let (text, exit) = run(with(missing.to_string()));
    assert!(text.contains("answered 404 for x0"), "{text}");
    assert_eq!(exit, "missing_file");
}

#[test]
fn a_wrong_digest_is_an_error_that_names_the_file() {
    let wrong = || {
        file_server(|stream, _, _, _| {
            let digest = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
            answer(stream, &format!("HTTP/1.1 200 OK\r\nRepr-Digest: {digest}"), BODY);
            true
        })
    };
    let out = tempfile::tempdir().unwrap();
    // The other server is asked for it too, and does no better.
    let (wrong, other) = (wrong().to_string(), wrong().to_string());
    let dir = out.path().to_str().unwrap();
    let args = ["--files", "x0", "--schedule", "ratio=1:0", "--out", dir, &wrong, &other];
    let (text, exit) = failure(&args);
    assert!(text.contains("sent x0 with the digest"), "{text}");
    assert_eq!(exit, "digest");
    assert!(!out.path().join("x0").exists());
    let mut unverified = vec!["--no-verify"];
    unverified.extend(args);
    assert!(client(&unverified).status.success());
}

#[test]
fn an_old_server_that_closes_after_each_answer_works() {
    let old = || {
        odd_server(|_, mut stream| {
            let Some(request) = read_request(&mut stream) else { return };
            let (path, _) = asked_for(&request);
            let status = if path == "/SHA256SUMS" { "404 Not Found" } else { "200 OK" };
            std::thread::sleep(Duration::from_millis(50));
            answer(
                &mut stream,
                &format!("HTTP/1.0 {status}"),
                if path == "/SHA256SUMS" { b"" } else { BODY },
            );
        })
        .to_string()
    };
    let output = client(&["--files", "x{0..9}", "--stdout", "samples", &old(), &old()]);
    assert!(output.status.success(), "{}", stderr(&output));
    let records = records(&output);
    assert_eq!(run_end(&records)["files"], 10);
    assert!(of_event(&records, "fault").is_empty(), "a polite end of a connection is no fault");
    // Each answer comes in one read, which is its last.
    let sampled = of_event(&records, "sample").iter().map(|sample| sample["bytes"].as_u64().unwrap()).max();
    assert!(sampled > Some(0), "nothing of what came is counted");
}

#[test]
fn a_server_that_closes_now_and_then_is_asked_ahead_all_the_same() {
    let digest: String = Sha256::digest(BODY).iter().map(|byte| format!("{byte:02x}")).collect();
    let list: String = (0..40).map(|i| format!("{digest}  x{i}\n")).collect();
    // As nginx does after keepalive_requests; what was asked for behind that is not answered.
    let closes = odd_server(move |_, mut stream| {
        let mut answered = 0;
        while let Some(request) = read_request(&mut stream) {
            let known = asked_for(&request).0 != "/SHA256SUMS";
            answered += usize::from(known);
            match known {
                // Only a server whose answers can be told apart is asked ahead.
                false => answer(&mut stream, "HTTP/1.1 200 OK", list.as_bytes()),
                true if answered < 4 => answer(&mut stream, "HTTP/1.1 200 OK", BODY),
                true => {
                    answer(&mut stream, "HTTP/1.1 200 OK\r\nConnection: close", BODY);
                    be_silent(&mut stream);
                    return;
                }
            }
        }
    })
    .to_string();
    let args = ["--files", "x{0..39}", "--schedule", "ratio=1:0", "--pipeline", "3"];
    let output = client(&[&args[..], &[&closes, &good_server().to_string()]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let records = records(&output);
    assert!(of_event(&records, "fault").is_empty(), "a polite end of a connection is no fault");
    assert_eq!(run_end(&records)["links"]["a"]["connections"], 10);
    let segments = of_event(&records, "segment");
    let ahead = |two: &[&serde_json::Value]| two[1]["requested_ms"].as_f64() < two[0]["done_ms"].as_f64();
    assert!(segments[8..].windows(2).filter(|two| ahead(two)).count() >= 16, "one at a time: {segments:?}");
}

#[test]
fn a_body_that_ends_with_its_connection_is_whole() {
    let endless = || {
        odd_server(|_, mut stream| {
            let Some(request) = read_request(&mut stream) else { return };
            let (path, _) = asked_for(&request);
            if path == "/SHA256SUMS" {
                let _ = stream.write_all(b"HTTP/1.0 404 Not Found\r\n\r\n");
            } else {
                let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
                let _ = stream.write_all(BODY);
            }
        })
        .to_string()
    };
    let out = tempfile::tempdir().unwrap();
    let output =
        client(&["--files", "x{0..3}", "--out", out.path().to_str().unwrap(), &endless(), &endless()]);
    assert!(output.status.success(), "{}", stderr(&output));
    for i in 0..4 {
        assert_eq!(fs::read(out.path().join(format!("x{i}"))).unwrap(), BODY);
    }
}

#[test]
fn an_interrupted_run_says_so_in_its_log() {
    let silent = file_server(|_, _, _, _| true).to_string();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let mut child = Command::new(TWINLINK)
        .args(["client", "--files", "x{0..3}", "--log", log.to_str().unwrap(), &silent, &silent])
        .env("TWINLINK_CONTROL", dir.path().join("control.sock"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first sample shows that the transfer is under way.
    while !fs::read_to_string(&log).is_ok_and(|text| text.contains("\"sample\"")) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let signalled = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let text = fs::read_to_string(&log).unwrap();
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "run_end");
    assert_eq!(last["data"]["exit"], "interrupted");
    assert!(text.lines().next().unwrap().contains("\"run_start\""), "{text}");
    assert!(!dir.path().join("control.sock").exists(), "the control socket goes with the client");
}

#[test]
fn real_logs_are_what_the_published_schema_says() {
    let schema = published_schema();
    let pair = pair(20, "50KB");
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let output = client(&["--log", log.to_str().unwrap(), &pair.a.address, &pair.b.address]);
    assert!(output.status.success(), "{}", stderr(&output));
    let broken = client(&[&pair.a.address, "no-such-host.invalid"]);
    let text = fs::read_to_string(&log).unwrap() + &String::from_utf8_lossy(&broken.stdout);
    assert_valid(&schema, &text, &["run_start", "link", "segment", "sample", "run_end"]);
    let wrong =
        serde_json::json!({"schema": "twinlink/1", "event": "segment", "t_ns": 1, "run": "r", "data": {}});
    assert!(!schema.is_valid(&wrong), "the schema accepts an empty segment");
}

#[test]
fn the_senders_use_the_congestion_control_that_was_chosen_and_tell_how_they_do() {
    let pair = pair(20, "50KB");
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let log = log.to_str().unwrap();
    let output = client(&["--congestion", "reno", "--log", log, &pair.a.address, &pair.b.address]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = fs::read_to_string(log).unwrap();
    let records: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let start = of_event(&records, "run_start")[0];
    assert_eq!(start["congestion_control"], "reno");
    for server in ["a", "b"] {
        assert_eq!(start["servers"][server]["congestion_control"], "reno");
    }
    assert!(of_event(&records, "fault").is_empty());
    // A run this short may end before a sample sees a report; one that is there is whole.
    for sample in of_event(&records, "sample").iter().filter(|sample| !sample["sender"].is_null()) {
        assert_eq!(sample["sender"]["congestion_control"], "reno");
        assert!(sample["sender"]["snd_cwnd_packets"].as_u64().unwrap() > 0);
        assert!(sample["sender_at_ms"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn a_server_that_takes_no_congestion_control_is_named_in_the_log() {
    let pair = pair(3, "5KB");
    let files = fs::read_dir(pair.data.path()).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (format!("/{}", entry.file_name().into_string().unwrap()), fs::read(entry.path()).unwrap())
    });
    let files: std::collections::HashMap<String, Vec<u8>> = files.collect();
    let plain = odd_server(move |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            answer(&mut stream, "HTTP/1.1 200 OK", &files[&asked_for(&request).0]);
        }
    });
    let output = client(&["--congestion", "reno", &plain.to_string(), &pair.b.address]);
    assert!(output.status.success(), "{}", stderr(&output));
    let records = records(&output);
    let servers = &of_event(&records, "run_start")[0]["servers"];
    assert!(servers["a"]["congestion_control"].is_null());
    assert_eq!(servers["b"]["congestion_control"], "reno");
    let faults = of_event(&records, "fault");
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(faults[0]["link"], "a");
    assert!(faults[0]["what"].as_str().unwrap().contains("cannot be told to send with reno"));
}

#[test]
fn a_congestion_control_that_a_server_refuses_ends_the_run_before_the_transfer() {
    let pair = pair(3, "5KB");
    let refusing = odd_server(|_, mut stream| {
        while read_request(&mut stream).is_some() {
            answer(&mut stream, "HTTP/1.1 400 Bad Request\r\nTwinlink-Sender: allowed=(bbr cubic)", b"no\n");
        }
    });
    let output = client(&["--congestion", "reno", &pair.a.address, &refusing.to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let records = records(&output);
    let end = run_end(&records);
    assert_eq!(end["exit"], "congestion");
    assert!(end["summary"].as_str().unwrap().contains("its kernel allows it bbr, cubic"), "{end}");
    assert_eq!(end["first_request_ms"], serde_json::Value::Null);
    let unknown = client(&["--congestion", "vegas", &pair.a.address, &pair.b.address]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("cubic, bbr, reno"), "{}", stderr(&unknown));
}

#[test]
fn large_files_arrive_whole_with_and_without_a_look_at_them() {
    let pair = pair(6, "3MB");
    for options in [&[][..], &["--no-verify"], &["--no-verify", "--pipeline", "8"]] {
        let out = tempfile::tempdir().unwrap();
        let mut args = options.to_vec();
        args.extend(["--out", out.path().to_str().unwrap(), &pair.a.address, &pair.b.address]);
        let output = client(&args);
        assert!(output.status.success(), "{options:?}: {}", stderr(&output));
        assert_same_files(pair.data.path(), out.path());
        let checked = options.is_empty();
        for segment in of_event(&records(&output), "segment") {
            assert_eq!(segment["digest_ok"].as_bool(), checked.then_some(true));
        }
    }
}

#[test]
fn a_large_file_whose_server_breaks_off_is_completed_without_a_look_at_it() {
    let data = tempfile::tempdir().unwrap();
    segments(data.path(), 1, "2MB");
    let content = fs::read(data.path().join("s001.m4s")).unwrap();
    let whole = content.clone();
    let tries = AtomicUsize::new(0);
    let breaking = odd_server(move |_, mut stream| {
        let Some(request) = read_request(&mut stream) else { return };
        let (path, from) = asked_for(&request);
        match (path.as_str(), from) {
            ("/s001.m4s", None) if tries.fetch_add(1, Ordering::SeqCst) == 0 => {
                let head =
                    format!("HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: {}\r\n\r\n", whole.len());
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(&whole[..1_200_000]);
            }
            ("/s001.m4s", from) => {
                let from = from.unwrap_or(0);
                let head = format!(
                    "HTTP/1.1 206 Partial Content\r\nETag: \"1\"\r\nContent-Range: bytes {from}-{}/{}",
                    whole.len() - 1,
                    whole.len()
                );
                answer(&mut stream, &head, &whole[from..]);
            }
            _ => answer(&mut stream, "HTTP/1.1 404 Not Found", b""),
        }
    })
    .to_string();
    let out = tempfile::tempdir().unwrap();
    let out_dir = out.path().to_str().unwrap();
    let options = ["--no-verify", "--schedule", "ratio=1:0", "--files", "s{001..001}.m4s", "--out", out_dir];
    let output = client(&[&options[..], &[&breaking, &breaking]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read(out.path().join("s001.m4s")).unwrap(), content);
    assert!(!of_event(&records(&output), "fault").is_empty());
}

// The adaptive schedule, and servers that misbehave under it.

/// Answers from `body` with whatever range is asked for.
fn answer_range(stream: &mut impl Write, request: &str, body: &[u8]) {
    let range = request.lines().find_map(|line| line.strip_prefix("Range: bytes="));
    if request.starts_with("HEAD") {
        let _ =
            stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
        return;
    }
    let Some((from, to)) = range.and_then(|range| range.split_once('-')) else {
        answer(stream, "HTTP/1.1 200 OK", body);
        return;
    };
    let from: usize = from.parse().unwrap();
    let last = to.parse().map_or(body.len() - 1, |last: usize| last.min(body.len() - 1));
    let head = format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{last}/{}", body.len());
    answer(stream, &head, &body[from..=last]);
}

/// A server of files that are all `body`; `before` may end a connection instead of the answer to the
/// n-th request for a file.
fn range_server(
    body: Arc<Vec<u8>>,
    before: impl Fn(&mut TcpStream, usize) -> bool + Send + Sync + 'static,
) -> String {
    let asked = AtomicUsize::new(0);
    odd_server(move |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            if asked_for(&request).0 == "/SHA256SUMS" {
                answer(&mut stream, "HTTP/1.1 404 Not Found", b"");
                continue;
            }
            let get = request.starts_with("GET");
            if get && !before(&mut stream, asked.fetch_add(1, Ordering::SeqCst)) {
                return;
            }
            answer_range(&mut stream, &request, &body);
        }
    })
    .to_string()
}

/// A server of files that are all `body`, and nothing wrong with it.
fn good_ranges(body: Arc<Vec<u8>>) -> String {
    range_server(body, |_, _| true)
}

/// The files that a run left that ended early.
#[derive(Default)]
struct Kept {
    /// Files under their names.
    files: u64,
    /// Bytes of others, as their notes say, and as they are there.
    noted: u64,
    there: u64,
}

/// Reads the files that a run left, of files that are all `body`, of which no byte is 0. Checks that every
/// part in a note is there.
fn kept(out: &Path, body: &[u8]) -> Kept {
    let mut kept = Kept::default();
    let files = |dir: &Path| {
        let entries = fs::read_dir(dir).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect::<Vec<_>>()
    };
    for path in files(out) {
        assert!(fs::read(&path).unwrap() == body, "{path:?} is wrong");
        kept.files += 1;
    }
    let work = out.join(".twinlink");
    for path in files(&work.join("parts")) {
        kept.there += fs::read(&path).unwrap().iter().filter(|&&byte| byte != 0).count() as u64;
    }
    for path in files(&work.join("notes")) {
        let note: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).unwrap()).expect("a note is whole");
        // The note goes before the file gets its name, so it speaks of something.
        let part = fs::read(work.join("parts").join(path.file_name().unwrap())).unwrap();
        for range in note["ranges"].as_array().unwrap() {
            let [from, to] = [0, 1].map(|end| range[end].as_u64().unwrap() as usize);
            assert!(part.get(from..to) == Some(&body[from..to]), "{path:?}: {range} is not there");
            kept.noted += (to - from) as u64;
        }
    }
    kept
}

/// Bytes of which the first is '0', none is 0, and no two ranges are alike.
fn noise(bytes: usize) -> Arc<Vec<u8>> {
    let mut noise: Vec<u8> =
        (0..bytes as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 | 1).collect();
    noise[0] = b'0';
    Arc::new(noise)
}

/// Fetches x0 to x9, all `body`, with adaptive, and returns the log.
fn fetch_ten(body: &[u8], a: &str, b: &str) -> Vec<serde_json::Value> {
    fetch_many(10, "4s", body, a, b)
}

/// Fetches so many files, all `body`, with adaptive, and returns the log.
fn fetch_many(count: u64, give_up: &str, body: &[u8], a: &str, b: &str) -> Vec<serde_json::Value> {
    let out = tempfile::tempdir().unwrap();
    let (dir, files) = (out.path().to_str().unwrap(), format!("x{{0..{}}}", count - 1));
    let output =
        client(&["--files", &files, "--schedule", "adaptive", "--give-up", give_up, "--out", dir, a, b]);
    assert!(output.status.success(), "{}", stderr(&output));
    for i in 0..count {
        assert!(fs::read(out.path().join(format!("x{i}"))).unwrap() == body, "x{i} is wrong");
    }
    let records = records(&output);
    let parts = parts(&records);
    let bytes =
        |part: &&serde_json::Value| part["to_byte"].as_u64().unwrap() - part["from_byte"].as_u64().unwrap();
    let all: u64 = parts.iter().map(bytes).sum();
    assert_eq!(all, count * body.len() as u64, "each byte stands in one part");
    let end = run_end(&records);
    for link in ["a", "b"] {
        let theirs = parts.iter().filter(|part| part["link"] == link);
        let last = theirs.map(|part| part["done_ms"].as_f64().unwrap()).reduce(f64::max);
        let last = last.map(|at| at - end["first_request_ms"].as_f64().unwrap());
        let said = end["links"][link]["last_byte_ms"].as_f64();
        assert!(
            last.zip(said).map_or(last == said, |(last, said)| (last - said).abs() < 0.1),
            "{last:?}: {end}"
        );
    }
    records
}

/// Returns the parts of all segments, one for each request.
fn parts(records: &[serde_json::Value]) -> Vec<&serde_json::Value> {
    let segments = of_event(records, "segment");
    segments.into_iter().flat_map(|segment| segment["parts"].as_array().unwrap()).collect()
}

/// Takes what comes on a connection, and answers nothing, until the client closes it.
fn be_silent(stream: &mut TcpStream) -> bool {
    let _ = std::io::Read::read_to_end(stream, &mut Vec::new());
    false
}

/// A server of files that are all `body`, which takes 100 ms for each.
fn slow_server(
    body: Arc<Vec<u8>>,
    before: impl Fn(&mut TcpStream, usize) -> bool + Send + Sync + 'static,
) -> String {
    range_server(body, move |stream, asked| {
        std::thread::sleep(Duration::from_millis(100));
        before(stream, asked)
    })
}

#[test]
fn adaptive_does_without_a_server_that_refuses_resets_stalls_or_dribbles() {
    let body = noise(300_000);
    // It takes its time, so that the other has to be noticed before all is over.
    let good = range_server(body.clone(), |_, _| {
        std::thread::sleep(Duration::from_millis(200));
        true
    });
    // It sends a beginning, and then nothing on this connection, or a byte now and then.
    let begin = |stream: &mut TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n0").is_ok()
    };
    let resets = range_server(body.clone(), move |_, asked| asked < 1);
    let stalls = range_server(body.clone(), move |stream, asked| {
        if asked < 1 {
            return true;
        }
        begin(stream);
        be_silent(stream)
    });
    let dribbles = range_server(body.clone(), move |stream, _| {
        begin(stream);
        while stream.write_all(b"0").is_ok() {
            std::thread::sleep(Duration::from_millis(200));
        }
        false
    });
    for odd in [&resets, &stalls] {
        let records = fetch_ten(&body, &good, odd);
        assert!(!of_event(&records, "fault").is_empty(), "nothing is said about it");
    }
    let body = Arc::new(vec![b'0'; 300_000]);
    let good = good_ranges(body.clone());
    fetch_ten(&body, &good, &dribbles);
}

#[test]
fn adaptive_goes_on_with_a_server_that_was_away_for_longer_than_give_up() {
    let body = noise(100_000);
    let began = std::sync::OnceLock::new();
    let away = slow_server(body.clone(), move |stream, _| {
        let since = began.get_or_init(Instant::now).elapsed();
        !(200..2000).contains(&since.as_millis()) || be_silent(stream)
    });
    let records = fetch_many(40, "700ms", &body, &slow_server(body.clone(), |_, _| true), &away);
    let late =
        |part: &&serde_json::Value| part["link"] == "b" && part["first_byte_ms"].as_f64() > Some(2000.0);
    assert!(
        parts(&records).into_iter().filter(late).count() > 0,
        "it brings nothing any more: {:?}",
        of_event(&records, "fault")
    );
}

#[test]
fn a_server_that_stops_while_the_other_pauses_is_noticed_later() {
    let body = noise(100_000);
    let stops = range_server(body.clone(), |stream, asked| asked != 1 || be_silent(stream));
    let pauses = slow_server(body.clone(), |_, asked| {
        if asked == 4 {
            std::thread::sleep(Duration::from_millis(900));
        }
        true
    });
    let records = fetch_many(30, "10s", &body, &pauses, &stops);
    let faults = of_event(&records, "fault");
    let stalled = |fault: &&&serde_json::Value| {
        fault["link"] == "b" && fault["what"].as_str().unwrap().contains("nothing came from")
    };
    assert_eq!(faults.iter().filter(stalled).count(), 1, "{faults:?}");
}

#[test]
fn adaptive_does_with_servers_that_send_files_whole() {
    let body = noise(300_000);
    let whole = || {
        let body = body.clone();
        odd_server(move |_, mut stream| {
            while let Some(request) = read_request(&mut stream) {
                let known = asked_for(&request).0 != "/SHA256SUMS";
                if request.starts_with("HEAD") {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n");
                } else if known {
                    answer(&mut stream, "HTTP/1.1 200 OK", &body);
                } else {
                    answer(&mut stream, "HTTP/1.1 404 Not Found", b"");
                }
            }
        })
        .to_string()
    };
    fetch_ten(&body, &whole(), &whole());
}

#[test]
fn adaptive_ends_when_both_servers_are_away_and_keeps_what_came() {
    let body = noise(1000);
    let gone = || {
        range_server(body.clone(), |stream, asked| {
            if asked == 1 {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
                let _ = stream.write_all(&noise(1000)[..400]);
            }
            asked < 1
        })
    };
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().to_str().unwrap();
    let args = ["--files", "x{0..9}", "--schedule", "adaptive", "--pipeline", "1", "--out", dir];
    let (text, exit) = failure(&[&args[..], &["--give-up", "700ms", &gone(), &gone()]].concat());
    assert!(text.contains("was away for 0.7 s"), "{text}");
    assert_eq!(exit, "server_away");
    let kept = kept(out.path(), &body);
    // Both servers brought 400 bytes of a file each, or the second of them was not asked any more.
    assert_eq!(kept.files, 2);
    assert!(kept.noted == kept.there && [400, 800].contains(&kept.there), "{} of {}", kept.noted, kept.there);

    let good = good_ranges(body.clone());
    let output = client(&[&args[..], &["--resume", &good, &good]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(run_end(&records(&output))["resumed_bytes"], 2000 + kept.there);
}

/// Files that are hashed as the last of them comes, and such as are hashed behind those who receive.
#[test]
fn a_wrong_file_is_fetched_again_from_the_other_server_once() {
    for (mean, spoilt_bytes) in [("20KB", 7), ("3MB", 3_000_000)] {
        fetch_from_a_spoiler(mean, spoilt_bytes);
    }
}

fn fetch_from_a_spoiler(mean: &str, spoilt_bytes: usize) {
    let data = tempfile::tempdir().unwrap();
    segments(data.path(), 4, mean);
    let good = Server::start(data.path());
    let sums = fs::read(data.path().join("SHA256SUMS")).unwrap();
    let spoiler = |sums: Vec<u8>| {
        let spoilt = vec![b's'; spoilt_bytes];
        odd_server(move |_, mut stream| {
            while let Some(request) = read_request(&mut stream) {
                match asked_for(&request).0.as_str() {
                    "/SHA256SUMS" => answer(&mut stream, "HTTP/1.1 200 OK", &sums),
                    _ => answer(&mut stream, "HTTP/1.1 200 OK", &spoilt),
                }
            }
        })
        .to_string()
    };
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().to_str().unwrap();
    let spoiled = spoiler(sums.clone());
    let output = client(&["--schedule", "ratio=1:1", "--out", dir, &spoiled, &good.address]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_same_files(data.path(), out.path());
    let records = records(&output);
    assert_eq!(of_event(&records, "fault").len(), 2, "one for each file that came wrong");
    assert_eq!(run_end(&records)["wasted_bytes"], 2 * spoilt_bytes);

    let (text, exit) = failure(&["--schedule", "greedy", &spoiled, &spoiler(sums)]);
    assert!(text.contains("with the digest"), "{text}");
    assert_eq!(exit, "digest");
}

#[test]
fn one_file_that_comes_wrong_twice_stops_no_other() {
    let data = tempfile::tempdir().unwrap();
    segments(data.path(), 8, "20KB");
    let sums = fs::read_to_string(data.path().join("SHA256SUMS")).unwrap();
    // The digest of the first file is of no file.
    let wrong = format!("{}{}", "0".repeat(64), &sums[64..]);
    let name =
        sums.lines().next().unwrap().split_whitespace().nth(1).unwrap().trim_start_matches('*').to_string();
    fs::write(data.path().join("SHA256SUMS"), wrong).unwrap();
    let serve = || {
        let folder = data.path().to_path_buf();
        odd_server(move |_, mut stream| {
            while let Some(request) = read_request(&mut stream) {
                let body = fs::read(folder.join(&asked_for(&request).0[1..])).unwrap_or_default();
                answer_range(&mut stream, &request, &body);
            }
        })
        .to_string()
    };
    for schedule in SCHEDULES {
        let output = client(&["--schedule", schedule, &serve(), &serve()]);
        let records = records(&output);
        assert_eq!(run_end(&records)["exit"], "digest", "{schedule}");
        assert_eq!(run_end(&records)["files"], 7, "{schedule}: {}", stderr(&output));
        assert!(stderr(&output).contains(&format!("cannot fetch {name}")), "{schedule}: {}", stderr(&output));
    }
}

#[test]
fn a_killed_run_goes_on_where_it_was() {
    let body = noise(400_000);
    // The seventh answer never comes to its end.
    let slow = range_server(body.clone(), |stream, asked| {
        if asked < 6 {
            return true;
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n0");
        let _ = std::io::Read::read_to_end(stream, &mut Vec::new());
        false
    });
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().to_str().unwrap();
    let args = ["client", "--files", "x{0..9}", "--schedule", "adaptive", "--out", dir];
    let mut child = Command::new(TWINLINK)
        .args(args)
        .args([&slow, &slow])
        .env("TWINLINK_CONTROL", out.path().join("control.sock"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let complete = || (0..10).filter(|i| out.path().join(format!("x{i}")).exists()).count() as u64;
    while complete() < 4 {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let there = complete();
    let good = good_ranges(body.clone());
    let output = client(&[&args[1..], &["--resume", &good, &good]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let records = records(&output);
    let end = run_end(&records);
    // Files that were whole and not yet checked are complete too.
    let kept = end["resumed_files"].as_u64().unwrap();
    assert!(kept >= there, "{kept} of {there}");
    assert_eq!(end["files"], 10 - kept);
    let resumed = end["resumed_bytes"].as_u64().unwrap();
    assert!(resumed >= kept * 400_000);
    assert_eq!(end["bytes"], 4_000_000 - resumed);
    for i in 0..10 {
        assert!(fs::read(out.path().join(format!("x{i}"))).unwrap() == *body, "x{i} is wrong");
    }
}

#[test]
fn at_any_moment_that_a_run_is_killed_its_notes_are_true_and_miss_one_request_a_connection() {
    let body = noise(300_000);
    let limited = || {
        let body = body.clone();
        odd_server(move |_, mut stream| {
            while let Some(request) = read_request(&mut stream) {
                let mut whole = Vec::new();
                match asked_for(&request).0.as_str() {
                    "/SHA256SUMS" => answer(&mut whole, "HTTP/1.1 404 Not Found", b""),
                    _ => answer_range(&mut whole, &request, &body),
                }
                for piece in whole.chunks(20_000) {
                    if stream.write_all(piece).is_err() {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        })
        .to_string()
    };
    let (a, b) = (limited(), limited());
    let (socket, mut there) = (tempfile::tempdir().unwrap(), 0);
    for moment in 0..10 {
        let out = tempfile::tempdir().unwrap();
        // Few files are asked for in parts, and where every segment is late, so is each.
        let schedule = if moment % 2 == 0 { "adaptive" } else { "inorder" };
        let args = ["client", "--files", "x{0..3}", "--schedule", schedule, "--segment-duration", "1ms"];
        let mut child = Command::new(TWINLINK)
            .args(args)
            .args(["--out", out.path().to_str().unwrap(), &a, &b])
            .env("TWINLINK_CONTROL", socket.path().join("control.sock"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !out.path().join(".twinlink/parts/x0").exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(20 + 57 * moment));
        child.kill().unwrap();
        child.wait().unwrap();
        let kept = kept(out.path(), &body);
        assert!(kept.there <= kept.noted + 2 * 300_000, "{} of {} are noted", kept.noted, kept.there);
        there += kept.there;
    }
    assert!(there > 0, "no run was killed when anything of a file was there");
}

/// Runs twinlink under a limit of the shell's `ulimit`: blocks of 512 bytes for `-f`.
fn under_limit(limit: &str, args: &[&str]) -> std::process::Output {
    let socket = tempfile::tempdir().unwrap();
    Command::new("sh")
        .args(["-c", &format!("ulimit {limit}; exec \"$@\""), "sh", TWINLINK])
        .args(args)
        .env("TWINLINK_CONTROL", socket.path().join("control.sock"))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Expects an error that names the limit on files and what to do, and returns what was said.
fn failed_for_want_of_room(output: &std::process::Output) -> String {
    let words = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{:?}: {words}", output.status);
    assert!(words.contains("File too large") && words.contains("raise the limit"), "{words}");
    words
}

#[test]
fn a_log_that_meets_a_limit_ends_the_run_with_its_word() {
    let pair = pair(4, "100B");
    let dir = tempfile::tempdir().unwrap();
    let mut complete = 0;
    for blocks in 1.. {
        let log = dir.path().join(blocks.to_string());
        let log_arg = log.to_str().unwrap();
        let args = ["client", "--log", log_arg, &pair.a.address, &pair.b.address];
        let output = under_limit(&format!("-f {blocks}"), &args);
        let text = fs::read_to_string(&log).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("a whole record")).collect();
        let end = run_end(&records(&output)).clone();
        if output.status.success() {
            assert_eq!(
                (end["exit"].as_str(), lines.last().unwrap()["data"]["exit"].as_str()),
                (Some("ok"), Some("ok"))
            );
            complete = blocks;
            break;
        }
        let words = failed_for_want_of_room(&output);
        assert!(words.contains("cannot write to the log file"), "{words}");
        assert_eq!(
            (end["exit"].as_str(), &end["elapsed_ms"]),
            (Some("log"), &serde_json::Value::Null),
            "{end}"
        );
        assert!(end["summary"].as_str().unwrap().contains("ulimit -f"), "{end}");
    }
    assert!(complete > 5, "the whole log took {complete} blocks");
}

#[test]
fn what_init_cannot_write_whole_is_not_left() {
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("new");
    failed_for_want_of_room(&under_limit("-f 1", &["init", new.to_str().unwrap()]));
    assert_eq!(fs::read_dir(&new).unwrap().count(), 0);
}

#[test]
fn what_could_not_be_written_is_not_noted() {
    let body = noise(400_000);
    let server = good_ranges(body.clone());
    let out = tempfile::tempdir().unwrap();
    let out_dir = out.path().to_str().unwrap();
    let output = under_limit(
        "-f 400",
        &["client", "--files", "x{0..9}", "--schedule", "adaptive", "--out", out_dir, &server, &server],
    );
    let words = failed_for_want_of_room(&output);
    assert_eq!(run_end(&records(&output))["exit"], "store", "{words}");
    let kept = kept(out.path(), &body);
    assert_eq!(kept.files, 0);
    assert!(kept.there > 0, "nothing was written");
}

const SCHEDULES: [&str; 4] = ["ratio=1:1", "greedy", "adaptive", "inorder"];

#[test]
fn both_servers_are_tried_again_when_connections_go_silent() {
    let body = noise(20_000);
    for schedule in SCHEDULES {
        // As behind a blackhole, or after a server was replaced: old connections say nothing any more.
        let silent = || range_server(body.clone(), |stream, asked| asked != 3 || be_silent(stream));
        let args = ["--files", "x{0..11}", "--give-up", "20s", "--schedule", schedule, &silent(), &silent()];
        let output = client(&args);
        assert!(output.status.success(), "{schedule}: {}", stderr(&output));
        let records = records(&output);
        assert_eq!(run_end(&records)["files"], 12, "{schedule}");
    }
}

#[test]
fn a_client_that_stood_still_goes_on_where_it_was() {
    let body = noise(20_000);
    let (a, b) = (slow_server(body.clone(), |_, _| true), slow_server(body, |_, _| true));
    for schedule in SCHEDULES {
        let out = tempfile::tempdir().unwrap();
        let mut running = Command::new(TWINLINK)
            .args(["client", "--files", "x{0..19}", "--give-up", "2s", "--schedule", schedule, "--out"])
            .args([out.path().to_str().unwrap(), &a, &b])
            .env("TWINLINK_CONTROL", out.path().with_extension("sock"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let kill = |signal: &str, pid: u32| {
            Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
        };
        let there = || fs::read_dir(out.path()).map_or(0, Iterator::count);
        while there() < 3 && running.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        kill("-STOP", running.id());
        std::thread::sleep(Duration::from_secs(3));
        kill("-CONT", running.id());
        let output = running.wait_with_output().unwrap();
        let records = records(&output);
        assert_eq!(run_end(&records)["exit"], "ok", "{schedule}");
        let still = |fault: &&&serde_json::Value| fault["what"].as_str().unwrap().contains("stood still for");
        assert!(of_event(&records, "fault").iter().filter(still).count() > 0, "{schedule}: nothing is said");
    }
}

#[test]
fn a_server_that_starts_late_is_waited_for() {
    let body = noise(1000);
    let port = std::net::TcpListener::bind("127.0.0.77:0").unwrap().local_addr().unwrap();
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        let listener = std::net::TcpListener::bind(port).unwrap();
        let body = noise(1000);
        for mut stream in listener.incoming().flatten() {
            let body = body.clone();
            std::thread::spawn(move || {
                while let Some(request) = read_request(&mut stream) {
                    match asked_for(&request).0.as_str() {
                        "/SHA256SUMS" => answer(&mut stream, "HTTP/1.1 404 Not Found", b""),
                        _ => answer_range(&mut stream, &request, &body),
                    }
                }
            });
        }
    });
    let output = client(&["--files", "x{0..3}", "--give-up", "20s", &good_ranges(body), &port.to_string()]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("waiting for it for 20 s"), "{}", stderr(&output));
    drop(late);
}

/// A server of files that are all `body`, but for one, to which it answers with `head` and `piece`.
fn refusing_server(
    body: Arc<Vec<u8>>,
    path: &'static str,
    head: &'static str,
    piece: &'static [u8],
) -> String {
    odd_server(move |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            match asked_for(&request).0.as_str() {
                "/SHA256SUMS" => answer(&mut stream, "HTTP/1.1 404 Not Found", b""),
                asked if asked == path && request.starts_with("GET") => {
                    let _ = stream.write_all(head.as_bytes());
                    let _ = stream.write_all(piece);
                    if !piece.is_empty() {
                        return;
                    }
                }
                _ => answer_range(&mut stream, &request, &body),
            }
        }
    })
    .to_string()
}

#[test]
fn the_other_server_brings_what_one_refuses() {
    let body = noise(2000);
    for head in [
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: http://else.where/x1\r\nContent-Length: 0\r\n\r\n",
    ] {
        for schedule in ["greedy", "adaptive", "inorder"] {
            let refuses = refusing_server(body.clone(), "/x1", head, b"");
            let good = good_ranges(body.clone());
            let args = ["--files", "x{0..5}", "--schedule", schedule, "--give-up", "5s", &refuses, &good];
            let output = client(&args);
            assert!(output.status.success(), "{schedule}, {head}: {}", stderr(&output));
            assert_eq!(run_end(&records(&output))["files"], 6);
        }
    }
}

#[test]
fn a_file_that_both_servers_refuse_is_named_after_all_others() {
    let body = noise(2000);
    let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    let short = "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n";
    for schedule in SCHEDULES {
        for (head, piece) in [(missing, &b""[..]), (short, b"0")] {
            let refuses = || refusing_server(body.clone(), "/x0", head, piece);
            let (a, b) = (refuses(), refuses());
            let args = ["--files", "x{0..9}", "--schedule", schedule, "--give-up", "5s", &a, &b];
            let output = client(&args);
            assert!(!output.status.success());
            assert_eq!(run_end(&records(&output))["files"], 9, "{schedule}, {head}: {}", stderr(&output));
            assert!(stderr(&output).contains("cannot fetch x0"), "{schedule}: {}", stderr(&output));
        }
    }
}

#[test]
fn stdout_says_each_record_and_leaves_segments_out() {
    let pair = pair(6, "20KB");
    let results = tempfile::tempdir().unwrap();
    let run = |stdout: &str| {
        Command::new(TWINLINK)
            .args(["client", "--results", results.path().to_str().unwrap(), &pair.a.address, &pair.b.address])
            .env("TWINLINK_STDOUT", stdout)
            .env("TWINLINK_RESULTS", results.path())
            .env("TWINLINK_RESULTS_HOST", "on/the/host")
            .output()
            .unwrap()
    };
    let plain = run("");
    let text = String::from_utf8_lossy(&plain.stdout).into_owned();
    assert!(plain.status.success() && !text.is_empty(), "{}", stderr(&plain));
    assert!(text.lines().all(|line| line.starts_with("{\"say\":\"")), "{text}");
    let all = records(&plain);
    assert!(of_event(&all, "segment").is_empty() && of_event(&all, "sample").is_empty(), "{text}");
    let last = all.last().unwrap();
    let page = format!("on/the/host/{}/report.html", last["run"].as_str().unwrap());
    assert!(last["say"].as_str().unwrap().ends_with(&page), "{last}");
    let log = results.path().join(last["run"].as_str().unwrap()).join("log.jsonl");
    assert!(log.with_file_name("report.html").is_file(), "the page is not where the last line says");
    assert_eq!(fs::read_to_string(&log).unwrap().matches("\"event\":\"segment\"").count(), 6);
    assert_eq!(of_event(&records(&run("segments")), "segment").len(), 6);
    assert!(!of_event(&records(&run("samples")), "sample").is_empty());
}

/// A client whose standard output and standard error nobody reads.
fn unread_client(args: &[&str]) -> std::process::Child {
    Command::new(TWINLINK)
        .arg("client")
        .args(args)
        .env("TWINLINK_STDOUT", "samples")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn ends(child: &mut std::process::Child) -> std::process::ExitStatus {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < until, "the client does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_run_ends_although_nobody_reads_its_stdout() {
    // 600 segment records are far more than a pipe holds.
    let pair = pair(600, "1KB");
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let mut child = unread_client(&["--log", log.to_str().unwrap(), &pair.a.address, &pair.b.address]);
    assert!(ends(&mut child).success());
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(text.matches("\"event\":\"segment\"").count(), 600, "the file loses nothing");
    assert!(text.lines().last().unwrap().contains("run_end"));
}

#[test]
fn a_signal_ends_a_run_although_nobody_reads_its_stdout() {
    let pair = pair(600, "1KB");
    let silent = odd_server(|_, stream| {
        std::thread::sleep(Duration::from_secs(120));
        drop(stream);
    });
    let mut child =
        unread_client(&["--files", "x{001..600}", "--no-verify", &pair.a.address, &silent.to_string()]);
    std::thread::sleep(Duration::from_millis(300));
    // SAFETY: the child is this test's own, and has not been waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    assert_eq!(ends(&mut child).code(), Some(1));
}

/// A server that takes connections and never answers.
fn mute_server() -> String {
    odd_server(|_, stream| {
        std::thread::sleep(Duration::from_secs(120));
        drop(stream);
    })
    .to_string()
}

/// Returns the last record of a client that gets this signal after it has begun.
fn last_record_after(signal: libc::c_int, args: &[&str]) -> serde_json::Value {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let servers = [mute_server(), mute_server()];
    let args = [&["--log", log.to_str().unwrap()], args, &[&servers[0], &servers[1]]].concat();
    let mut child = unread_client(&args);
    let until = Instant::now() + Duration::from_secs(60);
    while !log.exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    // SAFETY: the child is this test's own, and has not been waited for.
    unsafe { libc::kill(child.id() as i32, signal) };
    assert_eq!(ends(&mut child).code(), Some(1));
    let text = fs::read_to_string(&log).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn every_signal_that_asks_for_an_end_is_named_in_the_last_record() {
    let signals = [
        (libc::SIGINT, "SIGINT"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGQUIT, "SIGQUIT"),
    ];
    for (signal, name) in signals {
        let end = &last_record_after(signal, &[])["data"];
        assert_eq!(end["exit"], "interrupted");
        let summary = end["summary"].as_str().unwrap();
        let kept = format!("interrupted by {name}; without --out no file is kept");
        assert_eq!(summary.matches(&kept).count(), 1, "{summary}");
    }
}

#[test]
fn an_interrupted_run_says_that_it_can_go_on_only_where_it_can() {
    let out = tempfile::tempdir().unwrap();
    let told = |args: &[&str]| {
        let end = last_record_after(libc::SIGINT, args);
        let summary = end["data"]["summary"].as_str().unwrap().to_string();
        summary.contains("--resume") && summary.contains(out.path().to_str().unwrap())
    };
    assert!(told(&["--out", out.path().to_str().unwrap()]));
    assert!(!told(&[]));
}

/// Asserts that the files in `out` are those of which the log tells, in segment records and in the end.
fn assert_log_counts_files(out: &Path, records: &[serde_json::Value]) {
    let names = fs::read_dir(out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    let mut logged: Vec<&str> =
        of_event(records, "segment").iter().map(|record| record["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    logged.sort_unstable();
    assert_eq!(names, logged);
    assert_eq!(run_end(records)["files"], names.len());
}

#[test]
fn a_run_that_is_given_up_counts_the_files_that_are_there() {
    let pair = pair(8, "3MB");
    let busy = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 99999\r\nContent-Length: 0\r\n\r\n";
    for give_up in ["200ms", "1s"] {
        let busy_server = odd_server(move |_, mut stream| {
            while read_request(&mut stream).is_some() {
                let _ = stream.write_all(busy.as_bytes());
            }
        });
        let out = tempfile::tempdir().unwrap();
        let dir = out.path().to_str().unwrap();
        let ratio = ["--schedule", "ratio=1:1", "--give-up", give_up, "--out", dir];
        let output = client(&[&ratio[..], &[&pair.a.address, &busy_server.to_string()]].concat());
        assert!(!output.status.success());
        assert_log_counts_files(out.path(), &records(&output));
    }
}

#[test]
fn an_interrupted_run_counts_the_files_that_are_there() {
    let pair = pair(12, "3MB");
    for after_ms in [50, 150] {
        let out = tempfile::tempdir().unwrap();
        let log = out.path().join(".log");
        let (dir, file) = (out.path().to_str().unwrap(), log.to_str().unwrap());
        let mut child = unread_client(&["--out", dir, "--log", file, &pair.a.address, &pair.b.address]);
        let until = Instant::now() + Duration::from_secs(60);
        while !out.path().join("s001.m4s").exists() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(after_ms));
        // SAFETY: the child is this test's own, and has not been waited for.
        unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
        ends(&mut child);
        let text = fs::read_to_string(&log).unwrap();
        let records: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_log_counts_files(out.path(), &records);
    }
}

#[test]
fn seeds_above_what_jq_keeps_are_refused() {
    let output = client(&["--seed", "9007199254740993", "127.0.0.1:9", "127.0.0.1:9"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("is too large"), "{}", stderr(&output));
}

/// A server of files that are all `body`, which takes 100 ms for each, but sends one at 0.5 kB/s.
fn dribbling_server(body: Arc<Vec<u8>>, path: &'static str) -> String {
    odd_server(move |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            let asked = asked_for(&request).0;
            if asked == "/SHA256SUMS" {
                answer(&mut stream, "HTTP/1.1 404 Not Found", b"");
                continue;
            }
            std::thread::sleep(Duration::from_millis(if request.starts_with("GET") { 100 } else { 0 }));
            let mut whole = Vec::new();
            answer_range(&mut whole, &request, &body);
            if asked != path || request.starts_with("HEAD") {
                let _ = stream.write_all(&whole);
                continue;
            }
            for piece in whole.chunks(50) {
                if stream.write_all(piece).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    })
    .to_string()
}

#[test]
fn a_file_that_one_server_sends_slowly_ends_no_run() {
    let body = noise(200_000);
    let run = |schedule: &str| {
        let (good, slow) = (dribbling_server(body.clone(), ""), dribbling_server(body.clone(), "/x11"));
        let args = ["--files", "x{0..23}", "--schedule", schedule, &good, &slow];
        let output = client(&args);
        let records = records(&output);
        let faults = of_event(&records, "fault");
        let named = |fault: &&&serde_json::Value| fault["what"].as_str().unwrap().contains("slower than");
        let named = faults.iter().filter(named).count();
        if schedule == "ratio=1:1" {
            assert!(!output.status.success());
            assert_eq!(run_end(&records)["files"], 23, "{}", stderr(&output));
            assert!(stderr(&output).contains("cannot fetch x11"), "{}", stderr(&output));
            assert_eq!(named, 3, "{faults:?}");
        } else {
            assert!(output.status.success(), "{schedule}: {}", stderr(&output));
            assert_eq!(run_end(&records)["files"], 24);
        }
    };
    std::thread::scope(|scope| {
        SCHEDULES.iter().for_each(|&schedule| {
            drop(scope.spawn({
                let run = &run;
                move || run(schedule)
            }));
        });
    });
}

/// A server of files that are all `body`, of which it sends so many bytes every 200 ms.
fn trickling_server(body: Arc<Vec<u8>>, bytes: usize) -> String {
    odd_server(move |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            if asked_for(&request).0 == "/SHA256SUMS" {
                answer(&mut stream, "HTTP/1.1 404 Not Found", b"");
                continue;
            }
            let mut whole = Vec::new();
            answer_range(&mut whole, &request, &body);
            let head = whole.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
            let _ = stream.write_all(&whole[..head]);
            for piece in whole[head..].chunks(bytes) {
                if stream.write_all(piece).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    })
    .to_string()
}

/// Returns the end of a run of 8 files of 20 KB with `--give-up 2s`.
fn end_of_eight_files(schedule: &str, a: &str, b: &str) -> serde_json::Value {
    let args = ["--files", "x{0..7}", "--schedule", schedule, "--give-up", "2s", a, b];
    run_end(&records(&client(&args))).clone()
}

#[test]
fn a_server_that_trickles_does_not_hold_a_run_up() {
    let body = noise(20_000);
    let run = |schedule: &str, bytes: usize| {
        let end =
            end_of_eight_files(schedule, &good_ranges(body.clone()), &trickling_server(body.clone(), bytes));
        let (exit, files) = if schedule == "ratio=1:1" { ("server_away", 4) } else { ("ok", 8) };
        assert_eq!(end["exit"], exit, "{schedule}, {bytes}: {end}");
        assert_eq!(end["files"], files, "{schedule}, {bytes}: {end}");
    };
    std::thread::scope(|scope| {
        for (schedule, bytes) in SCHEDULES.iter().flat_map(|&schedule| [(schedule, 1), (schedule, 100)]) {
            let run = &run;
            scope.spawn(move || run(schedule, bytes));
        }
    });
}

#[test]
fn a_run_with_two_servers_that_trickle_ends() {
    let body = noise(20_000);
    let run = |schedule: &str| {
        let (a, b) = (trickling_server(body.clone(), 1), trickling_server(body.clone(), 1));
        let end = end_of_eight_files(schedule, &a, &b);
        assert_eq!(end["exit"], "server_away", "{schedule}: {end}");
        let summary = end["summary"].as_str().unwrap();
        assert!(summary.contains("new bytes came in 2 s"), "{schedule}: {summary}");
    };
    std::thread::scope(|scope| {
        for schedule in SCHEDULES {
            let run = &run;
            scope.spawn(move || run(schedule));
        }
    });
}

/// A server of files that are all `body`, but for x1: of that it sends a byte, and then empty ranges.
fn empty_range_server(body: Arc<Vec<u8>>) -> String {
    odd_server(move |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            let asked = asked_for(&request).0;
            if asked == "/SHA256SUMS" {
                answer(&mut stream, "HTTP/1.1 404 Not Found", b"");
            } else if asked != "/x1" || request.starts_with("HEAD") {
                answer_range(&mut stream, &request, &body);
            } else if request.contains("Range: bytes=") {
                let head = format!(
                    "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 1-{}/{}",
                    body.len() - 1,
                    body.len()
                );
                answer(&mut stream, &head, b"");
            } else {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n0", body.len());
                let _ = stream.write_all(head.as_bytes());
                return;
            }
        }
    })
    .to_string()
}

#[test]
fn empty_ranges_are_asked_for_three_times_at_most() {
    let body = noise(2000);
    for schedule in SCHEDULES {
        let (a, b) = (good_ranges(body.clone()), empty_range_server(body.clone()));
        let output = client(&["--files", "x{0..9}", "--schedule", schedule, "--give-up", "5s", &a, &b]);
        let files = if schedule == "ratio=1:1" { 9 } else { 10 };
        assert_eq!(run_end(&records(&output))["files"], files, "{schedule}: {}", stderr(&output));
        assert_eq!(output.status.success(), files == 10, "{schedule}: {}", stderr(&output));
    }
}

#[test]
fn too_few_descriptors_or_threads_are_an_error_not_a_panic() {
    let pair = pair(6, "400KB");
    let limits = (6..=40).map(|count| format!("-n {count}")).chain(["-v 150000".into(), "-v 190000".into()]);
    for limit in limits {
        let out = tempfile::tempdir().unwrap();
        let line = format!("ulimit {limit}; exec \"$@\"");
        let output = Command::new("sh")
            .args(["-c", &line, "sh", TWINLINK, "client", "--give-up", "2s", "--out"])
            .args([out.path().as_os_str(), pair.a.address.as_ref(), pair.b.address.as_ref()])
            .output()
            .unwrap();
        let words = stderr(&output);
        match output.status.code() {
            Some(0) => assert_same_files(pair.data.path(), out.path()),
            code => {
                assert_eq!(code, Some(1), "{limit}: {words}");
                let cause =
                    ["Too many open files", "Resource temporarily unavailable", "Cannot allocate memory"];
                assert!(cause.iter().any(|cause| words.contains(cause)), "{limit}: {words}");
                assert!(!words.contains("NET_ADMIN") && !words.contains("panicked"), "{limit}: {words}");
            }
        }
    }
}

#[test]
fn output_to_a_full_disk_is_an_error_not_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let (new, made) = (dir.path().join("new"), dir.path().join("made"));
    let (new, made) = (new.to_str().unwrap(), made.to_str().unwrap());
    let simulate = ["simulate", "--link-a", "wifi-near", "--link-b", "lte-medium"];
    for args in [&["init", new][..], &["segments", "--count", "2", made], &["link", "list"], &simulate] {
        let full = || fs::File::options().write(true).open("/dev/full").unwrap();
        let output = Command::new(TWINLINK).args(args).stdout(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("cannot write to stdout"), "{args:?}: {}", stderr(&output));
        let output = Command::new(TWINLINK).args(args).stdout(full()).stderr(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?} with nowhere to say so");
    }
}

/// Values that no option takes, and what is said of each.
#[test]
fn values_out_of_range_are_named_with_what_to_write() {
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("gone");
    for (args, word) in [
        (&["simulate", "--seed", "-1"][..], "from 0 to 2^53"),
        (&["client", "--least-rate", "-1%", "a", "b"], "-1%"),
        (&["client", "--give-up", "-1s", "a", "b"], "for '--give-up"),
        (&["client", "--pipeline", "-1", "a", "b"], "for '--pipeline"),
        (&["run", "--time-limit", "0s", "--", "true"], "needs some time"),
        (&["run", "--name", "", "--", "true"], "is empty"),
        (&["run", "--name", "a\nb", "--", "true"], "control characters"),
        (&["run", "--name", "adaptive", "--", "true"], "is a schedule's"),
    ] {
        let output = Command::new(TWINLINK).args(args).output().unwrap();
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {told}");
        assert!(told.contains(word) && !told.contains("use '--"), "{args:?}: {told}");
    }
    for wanted in ["wifi-near", "mine"] {
        let plan = ["link", "plan", "a", wanted];
        let output = Command::new(TWINLINK).args(plan).env("TWINLINK_PROFILES", &gone).output().unwrap();
        assert!(!output.status.success());
        assert!(stderr(&output).contains("change or unset TWINLINK_PROFILES"), "{}", stderr(&output));
    }
}
