//! `twinlink run`: programs of others between the links, judged from outside. Each test has a lab of its own
//! and folders of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const BIN: &str = env!("CARGO_BIN_EXE_twinlink");

/// A program that fetches every second file from each server, over one connection each, as the course asks.
const TURNS: &str = r#"
import http.client, os, sys, threading
names = open(os.environ["FILES"]).read().split()
def fetch(host, mine):
    connection = http.client.HTTPConnection(host)
    for name in mine:
        connection.request("GET", "/" + name)
        body = connection.getresponse().read()
        with open(os.path.join(os.environ["OUT"], name + ".new"), "wb") as file:
            file.write(body)
        os.rename(file.name, file.name[:-4])
threads = [threading.Thread(target=fetch, args=(os.environ[server], names[at::2]))
           for at, server in enumerate(["SERVER_A", "SERVER_B"])]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("stored", len(names), "files")
"#;

struct Place(TempDir);

impl Place {
    /// `None` where this machine lets nobody here make a lab; where CI is set, it must.
    fn new() -> Option<Place> {
        let place = Place(tempfile::tempdir().unwrap());
        let tried = place.command("lab", &["--servers", "none", "--exec", "true"]).output().unwrap();
        if tried.status.success() {
            return Some(place);
        }
        let words = String::from_utf8_lossy(&tried.stderr);
        assert!(std::env::var_os("CI").is_none(), "{words}");
        eprintln!("NOT RUN: {words}");
        None
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, role: &str, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=1", "--foreground", "120", BIN, role]).args(args);
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command.env("XDG_CACHE_HOME", self.path("cache")).env("TMPDIR", self.0.path());
        command
    }

    fn run(&self, args: &[&str]) -> Judged {
        // Names of runs sort by the second alone, so each has a folder of its own for its results.
        let results = tempfile::tempdir_in(self.0.path()).unwrap().keep();
        let output = self.command("run", args).env("TWINLINK_RESULTS", &results).output().unwrap();
        let mut folders = fs::read_dir(results).unwrap().map(|entry| entry.unwrap().path());
        let folder = folders.next().expect("the run left no folder");
        assert_eq!(folders.next(), None);
        Judged { output, folder }
    }
}

/// A run that has ended.
struct Judged {
    output: Output,
    folder: PathBuf,
}

impl Judged {
    fn records(&self, event: &str) -> Vec<Value> {
        records(&self.folder.join("log.jsonl"), event)
    }

    fn end(&self) -> Value {
        let mut ends = self.records("run_end");
        assert_eq!(ends.len(), 1, "{}", String::from_utf8_lossy(&self.output.stderr));
        ends.remove(0)
    }

    /// The run failed, with this word and these words.
    fn failed(&self, exit: &str, words: &[&str]) -> Value {
        let end = self.end();
        assert_eq!((self.output.status.code(), &end["exit"]), (Some(1), &Value::from(exit)), "{end}");
        let summary = end["summary"].as_str().unwrap();
        assert!(words.iter().all(|word| summary.contains(word)), "{summary}");
        assert!(end["elapsed_ms"].is_null() && end["efficiency"].is_null(), "{end}");
        end
    }
}

fn records(log: &Path, event: &str) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|record| record["event"] == event).map(|mut record| record["data"].take()).collect()
}

#[test]
fn python_program_is_judged_like_a_client() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("turns.py"), TURNS).unwrap();
    let links = ["--link-a", "rate-80", "--link-b", "rate-20", "--files", "s{001..012}.m4s"];
    let run = place.run(&[&links[..], &["--name", "turns", "--", "python3", "turns.py"]].concat());
    let end = run.end();
    assert_eq!((run.output.status.code(), &end["exit"]), (Some(0), &Value::from("ok")), "{end}");
    assert_eq!((&end["files"], &end["wasted_bytes"]), (&12.into(), &0.into()), "{end}");
    assert_eq!((&end["links"]["a"]["files"], &end["links"]["b"]["files"]), (&6.into(), &6.into()));
    assert_eq!((&end["links"]["a"]["connections"], &end["program"]["requests"]), (&1.into(), &12.into()));
    let connections = end["program"]["connections"].as_array().unwrap();
    let told: Vec<_> = connections.iter().map(|one| (&one["link"], &one["requests"])).collect();
    assert_eq!(told, [(&Value::from("a"), &Value::from(6)), (&Value::from("b"), &Value::from(6))]);
    assert!(connections.iter().all(|one| one["sender"]["rtt_ms"].as_f64().unwrap() > 0.0), "{connections:?}");
    let sum = end["links"]["a"]["bytes"].as_u64().unwrap() + end["links"]["b"]["bytes"].as_u64().unwrap();
    assert_eq!(Value::from(sum), end["bytes"]);
    let (elapsed, bound) = (end["elapsed_ms"].as_f64().unwrap(), end["bound_ms"].as_f64().unwrap());
    assert!(bound < elapsed && elapsed <= end["program"]["took_ms"].as_f64().unwrap(), "{end}");
    let [start] = &run.records("run_start")[..] else { panic!("one run_start") };
    assert_eq!((&start["schedule"], &start["files"]), (&"turns".into(), &12.into()));
    let segments = run.records("segment");
    assert!(segments.iter().all(|segment| segment["digest_ok"] == true), "{segments:?}");
    assert_eq!(segments.iter().filter(|segment| segment["link"] == "b").count(), 6);
    let samples = run.records("sample");
    let most =
        samples.iter().filter(|sample| sample["link"] == "a").map(|sample| sample["goodput_kbit"].as_f64());
    assert!(most.flatten().fold(0.0, f64::max) < 160_000.0, "{samples:?}");
    assert!(!samples.is_empty());
    assert_eq!(fs::read_to_string(run.folder.join("stdout.txt")).unwrap(), "stored 12 files\n");
    assert!(fs::read_to_string(run.folder.join("report.html")).unwrap().contains("turns"));
}

#[test]
fn elapsed_from_outside_agrees_with_the_clients_own() {
    let Some(place) = Place::new() else { return };
    let files = ["--files", "s{001..012}.m4s"];
    let client = ["--", BIN, "client", "--backend", "none", "--log", "own.jsonl", "--out", "{out}"];
    let servers = ["{server_a}", "{server_b}"];
    let links = ["--link-a", "wifi-near", "--link-b", "lte-medium"];
    let run = place.run(&[&links[..], &files, &client, &files, &servers].concat());
    let (outside, own) = (run.end(), records(&place.path("own.jsonl"), "run_end").remove(0));
    assert_eq!((&outside["exit"], &outside["bytes"]), (&"ok".into(), &own["bytes"]), "{outside}");
    let [outside_ms, own_ms] = [&outside, &own].map(|end| end["elapsed_ms"].as_f64().unwrap());
    let most = 20f64.max(0.005 * own_ms);
    assert!((outside_ms - own_ms).abs() <= most, "{outside_ms} ms from outside, {own_ms} ms its own");
}

#[test]
fn program_and_schedule_are_compared_over_the_same_links() {
    let Some(place) = Place::new() else { return };
    fs::create_dir(place.path("own")).unwrap();
    fs::write(place.path("own/turns.py"), TURNS).unwrap();
    let experiment = "files = \"s{001..006}.m4s\"\nprobe = \"off\"\nschedules = [\"adaptive\"]\n\
        [[condition]]\nname = \"80 and 20\"\nlink_a = \"rate-80\"\nlink_b = \"rate-20\"\n\
        at = [{ after = \"200ms\", link = \"b\", profile = { profile = \"rate-20\", rate = \"10mbit\" } }]\n\
        [[program]]\nname = \"turns\"\ncommand = \"python3 turns.py\"\n";
    fs::write(place.path("own/experiment.toml"), experiment).unwrap();
    let sweep = ["--exec", BIN, "sweep", "own/experiment.toml"];
    let output = place.command("lab", &sweep).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let folder = fs::read_dir(place.path("results")).unwrap().next().unwrap().unwrap().path();
    let ends = records(&folder.join("sweep.jsonl"), "cell_end");
    assert_eq!(ends.len(), 2);
    for end in &ends {
        let log = folder.join("runs").join(end["run"].as_str().unwrap()).join("log.jsonl");
        let run = records(&log, "run_end").remove(0);
        assert_eq!((&run["files"], &run["wasted_bytes"].is_u64()), (&6.into(), &true), "{run}");
        assert!(end["efficiency"].as_f64().unwrap() <= 1.0, "{end}");
        let changed = records(&log, "link").into_iter().filter(|link| link["action"] == "changed");
        assert!(changed.map(|link| link["link"].clone()).all(|link| link == "b"));
        if end["cell"]["schedule"] == "turns" {
            let files = |link: &str| run["links"][link]["files"].as_u64().unwrap();
            assert_eq!((files("a"), files("b"), &run["program"]["requests"]), (3, 3, &6.into()));
        }
    }
}

#[test]
fn pair_with_its_own_protocol_runs_and_sweeps() {
    let Some(place) = Place::new() else { return };
    let raw = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/raw").display().to_string();
    let data = place.path("data").display().to_string();
    let made = place.command("segments", &[&data, "--count", "6", "--mean-size", "400KB"]).output().unwrap();
    assert!(made.status.success());
    let (client, server) =
        (format!("{raw}/client/client"), format!("python3 {raw}/server.py {{ADDR}} {{PORT}} {{DATA}}"));
    let list = format!("{data}/SHA256SUMS");
    let lab = ["--data", &data, "--server", &server, "--exec", BIN];
    let run =
        ["run", "--manifest", &list, "--link-a", "rate-80", "--link-b", "rate-20", "--results", "runs", "--"];
    let output =
        place.command("lab", &[&lab[..], &run, &[&client, "2", "1", "{ip_a}", "{ip_b}"]].concat()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let folder = fs::read_dir(place.path("runs")).unwrap().next().unwrap().unwrap().path();
    let end = Judged { output, folder }.end();
    // No access log tells the requests.
    assert_eq!(
        (&end["exit"], &end["files"], &end["program"]["requests"]),
        (&"ok".into(), &6.into(), &Value::Null)
    );
    let efficiency = |of: &Value| of["efficiency"].as_f64().unwrap();
    assert!(efficiency(&end) > 0.0 && efficiency(&end) <= 1.0, "{end}");

    // An experiment has the sweep's own lab start the servers.
    let experiment = format!(
        "repetitions = 2\nserver_command = \"python3 '{{folder}}/server.py' {{ADDR}} {{PORT}} {{DATA}}\"\n\
         [[condition]]\nname = \"80 and 20\"\nlink_a = \"rate-80\"\nlink_b = \"rate-20\"\n\
         [[program]]\nname = \"2:1\"\ncommand = \"{client} 2 1 {{ip_a}} {{ip_b}}\"\n\
         [[program]]\nname = \"all of a\"\ncommand = \"{client} 1 0 {{ip_a}} {{ip_b}}\"\n"
    );
    fs::copy(format!("{raw}/server.py"), place.path("server.py")).unwrap();
    fs::write(place.path("raw.toml"), &experiment).unwrap();
    let output = place.command("sweep", &["raw.toml", "--data", &data]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let folder = fs::read_dir(place.path("results")).unwrap().next().unwrap().unwrap().path();
    let ends = records(&folder.join("sweep.jsonl"), "cell_end");
    assert_eq!(ends.len(), 4);
    assert!(ends.iter().all(|end| end["exit"] == "ok" && efficiency(end) <= 1.0), "{ends:?}");

    // The lab's own servers speak HTTP, so that a schedule has no part.
    fs::write(place.path("raw.toml"), format!("schedules = [\"greedy\"]\n{experiment}")).unwrap();
    let output = place.command("sweep", &["raw.toml", "--data", &data]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("greedy needs servers of HTTP"), "{output:?}");
}

#[test]
fn unknown_placeholder_is_refused_before_anything_starts() {
    let place = Place(tempfile::tempdir().unwrap());
    for (role, args, words) in [
        (
            "run",
            &["--", "curl", "-o", "{outt}/x"][..],
            "cannot fill in {outt}: unknown placeholder; use {server_a} ",
        ),
        ("run", &["--", "sh", "-c", "echo {n_a}"], "or write {{n_a}} for {n_a} itself"),
        (
            "lab",
            &["--server", "serve {PORTT}", "--exec", "true"],
            "use {DATA} {ADDR} {PORT} {NAME}, or write {{PORTT}}",
        ),
    ] {
        let output = place.command(role, args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(words), "{said}");
    }
    let experiment = "[[condition]]\nname = \"x\"\nlink_a = \"rate-80\"\n[[program]]\nname = \"x\"\ncommand = \"x {ot}\"\n";
    fs::write(place.path("x.toml"), experiment).unwrap();
    let output = place.command("sweep", &["x.toml", "--dry-run"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && said.contains("the program \"x\": cannot fill in {ot}"),
        "{said}"
    );
    assert!(!place.path("results").exists());
}

#[test]
fn failures_of_a_program_are_named() {
    let Some(place) = Place::new() else { return };
    let files = ["--files", "s{001..003}.m4s", "--backend", "none"];
    let run = |rest: &[&str]| place.run(&[&files[..], rest].concat());
    run(&["--", "./missing"]).failed("program", &["cannot run ./missing", "no such program"]);
    let end =
        run(&["--", "sh", "-c", "echo out of ideas >&2; exit 3"]).failed("program", &["3", "out of ideas"]);
    assert_eq!(end["program"]["exit_code"], 3);
    let part =
        "curl -s -o $OUT/s001.m4s http://$SERVER_A/s001.m4s; echo x >$OUT/s002.m4s; touch $OUT/s003.part";
    let words = ["s003.m4s is not in $OUT", "s002.m4s is wrong", "$OUT holds s003.part"];
    let end = run(&["--", "sh", "-c", part]).failed("incomplete", &words);
    assert_eq!(end["files"], 1);
    let elsewhere = "curl -s -O http://$SERVER_A/s001.m4s";
    run(&["--", "sh", "-c", elsewhere]).failed("incomplete", &["current folder instead of $OUT"]);
    run(&["--time-limit", "300ms", "--", "sleep", "100"]).failed("time_limit", &["0.3 s", "give it more"]);
    let hog = "import time; held = b'x' * 300_000_000; time.sleep(100)";
    run(&["--memory-limit", "150MB", "--", "python3", "-c", hog]).failed("memory_limit", &["150MB"]);
}

/// Fetches a file, and a second later four more, which it writes behind the watch's back: by another name, to a file
/// without a name whose time it then sets back, by a descriptor that was open all along, and by mapped memory.
const HIDDEN_WRITES: &str = r#"
import mmap, os, time, urllib.request
out = os.environ["OUT"]
def ask(name, **how):
    return urllib.request.urlopen(urllib.request.Request(f"http://{os.environ['SERVER_A']}/{name}", **how))
first, linked, dated, held, mapped = open(os.environ["FILES"]).read().split()
size = int(ask(mapped, method="HEAD").headers["Content-Length"])
os.chdir(out)
open(first, "wb").write(ask(first).read())
early = time.time()
os.mkdir("d")
open(linked, "w").close()
os.link(linked, "d/x")
os.link("d/x", "d/y")
nameless = open(os.open(out, os.O_TMPFILE | os.O_WRONLY), "wb", 0)
file = open(held, "wb", 0)
open(held, "r+").close()
with open(mapped, "wb+") as begun:
    begun.truncate(size)
    memory = mmap.mmap(begun.fileno(), size)
time.sleep(1)
open("d/x", "wb").write(ask(linked).read())
nameless.write(ask(dated).read())
os.link(f"/proc/self/fd/{nameless.fileno()}", dated, src_dir_fd=os.open("/", os.O_RDONLY), follow_symlinks=True)
os.utime(dated, (early, early))
file.write(ask(held).read())
memory.write(ask(mapped).read())
os.unlink("d/x"), os.unlink("d/y"), os.rmdir("d")
os._exit(0)
"#;

#[test]
fn file_is_done_when_it_changed_last_however_it_was_written() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("hidden.py"), HIDDEN_WRITES).unwrap();
    let run = place.run(&["--files", "s{001..005}.m4s", "--backend", "none", "--", "python3", "hidden.py"]);
    let end = run.end();
    assert_eq!(end["exit"], "ok", "{end}");
    let mut segments = run.records("segment");
    segments.sort_by_key(|segment| segment["index"].as_u64());
    let done: Vec<_> = segments.iter().map(|segment| segment["done_ms"].as_f64().unwrap()).collect();
    assert_eq!(done.len(), 5);
    assert!(done[1..].iter().all(|&ms| ms >= done[0] + 1000.0), "{done:?}");
}

#[test]
fn what_a_program_leaves_behind_is_ended() {
    let Some(place) = Place::new() else { return };
    let leave = "setsid sleep 3001 & sleep 3002 & curl -s -o $OUT/s001.m4s http://$SERVER_A/s001.m4s";
    let run = place.run(&["--files", "s001.m4s", "--backend", "none", "--", "sh", "-c", leave]);
    assert_eq!(run.end()["exit"], "ok");
    let [fault] = &run.records("fault")[..] else { panic!("one fault") };
    assert_eq!(fault["what"], "the program left 2 processes");
    let links = run.records("link");
    assert!(
        links.len() == 4 && links.iter().all(|link| link["backend"] == "none" && link["why"] == "asked for")
    );
}

#[test]
fn servers_of_others_leave_what_is_unknown_null() {
    let Some(place) = Place::new() else { return };
    let data = place.path("data");
    let made = place.command("segments", &["data", "--count", "4", "--mean-size", "100KB"]).output().unwrap();
    assert!(made.status.success());
    fs::write(place.path("turns.py"), TURNS).unwrap();
    let server = "python3 -m http.server {PORT} --bind {ADDR} --directory {DATA}";
    let lab =
        ["--data", data.to_str().unwrap(), "--server", server, "--exec", BIN, "run", "--backend", "none"];
    let output = place.command("lab", &[&lab[..], &["--", "python3", "turns.py"]].concat()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let folder = fs::read_dir(place.path("results")).unwrap().next().unwrap().unwrap().path();
    let end = Judged { output, folder: folder.clone() }.end();
    assert_eq!(
        (&end["exit"], &end["files"], &end["program"]["requests"]),
        (&"ok".into(), &4.into(), &Value::Null)
    );
    assert!(end["elapsed_ms"].as_f64().unwrap() > 0.0);
    let segments = records(&folder.join("log.jsonl"), "segment");
    assert!(segments.iter().all(|segment| segment["link"].is_null() && segment["digest_ok"] == true));
}
