//! `twinlink grade`: submissions of a class, each in a lab and a sandbox of its own. Where root runs the tests, an
//! ordinary user grades too.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::fixture::{eventually, have};

const BIN: &str = env!("CARGO_BIN_EXE_twinlink");
const NOBODY: u32 = 65534;
/// The seed that no submission may learn.
const HIDDEN: &str = "471147114711";

/// An assignment that gives all points for whatever brings every file.
const LENIENT: &str = r#"
    title = "A test"
    command = "{submission}/client"
    data = { count = 6, mean_size = "20KB" }
    public_seeds = [1]
    limits = { time = "10s", memory = "200MB", processes = 20, disk = "20MB" }
    [[condition]]
    name = "steady"
    link_a = "rate-80"
    link_b = "rate-80"
    points = 10
    full_from = 0.001
"#;

/// A client that brings every file from server a.
const GOOD: &str = r#"#!/bin/sh
exec /usr/bin/python3 - <<'END'
import os, urllib.request
for name in open(os.environ["FILES"]).read().split():
    with urllib.request.urlopen("http://" + os.environ["SERVER_A"] + "/" + name) as answer:
        open(os.path.join(os.environ["OUT"], name), "wb").write(answer.read())
END
"#;

struct Place {
    dir: TempDir,
    user: Option<u32>,
}

impl Place {
    /// The users that can grade here: the one who runs the tests, and where that is root an ordinary one too. None
    /// where this machine lets nobody make a lab; where CI is set, it must.
    fn all() -> Vec<Place> {
        let own = Place { dir: tempfile::tempdir().unwrap(), user: None };
        let tried = own.command().args(["lab", "--servers", "none", "--exec", "true"]).output().unwrap();
        if !tried.status.success() {
            let words = String::from_utf8_lossy(&tried.stderr);
            assert!(std::env::var_os("CI").is_none(), "{words}");
            eprintln!("NOT RUN: {words}");
            return Vec::new();
        }
        let mut all = vec![own];
        if nix::unistd::geteuid().is_root() {
            let dir = tempfile::tempdir().unwrap();
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
            chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
            all.push(Place { dir, user: Some(NOBODY) });
        }
        all
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=1", "--foreground", "300"]).arg(self.program());
        self.of_this_place(command)
    }

    fn program(&self) -> PathBuf {
        // A binary that an ordinary user can reach, whatever folder the tests were built in.
        let own = self.path("twinlink");
        if !own.exists() {
            fs::copy(BIN, &own).unwrap();
        }
        own
    }

    fn of_this_place(&self, mut command: Command) -> Command {
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command.env("HOME", self.dir.path()).env("TMPDIR", self.dir.path());
        command.env("XDG_CACHE_HOME", self.path("cache")).env("TWINLINK_LABS", self.path("labs"));
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Grades these submissions.
    fn grade(&self, submissions: &[&str], more: &[&str]) -> Graded {
        let results = tempfile::tempdir_in(self.dir.path()).unwrap().keep();
        if let Some(user) = self.user {
            chown(&results, Some(user), Some(user)).unwrap();
        }
        let mut command = self.command();
        command
            .args(["grade", "assignment.toml"])
            .args(submissions)
            .args(more)
            .arg("--results")
            .arg(&results);
        let output = command.output().unwrap();
        let folder = fs::read_dir(results).unwrap().next().map(|entry| entry.unwrap().path());
        Graded { output, folder }
    }
}

struct Graded {
    output: Output,
    folder: Option<PathBuf>,
}

impl Graded {
    fn folder(&self) -> &Path {
        self.folder.as_deref().unwrap_or_else(|| panic!("{}", self.said()))
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&[&self.output.stdout[..], &self.output.stderr].concat()).into_owned()
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.folder().join(path))
            .unwrap_or_else(|error| panic!("{path}: {error}: {}", self.said()))
    }

    fn results(&self, submission: &str) -> Value {
        serde_json::from_str(&self.read(&format!("{submission}/results.json"))).unwrap()
    }

    /// Returns the points of a submission, and the reason for which points are missing.
    fn points(&self, submission: &str) -> (f64, String) {
        let results = self.results(submission);
        (results["score"].as_f64().unwrap(), results["output"].as_str().unwrap().to_string())
    }

    /// The submission got nothing, for a reason that holds these words.
    fn nothing(&self, submission: &str, words: &str) {
        let (points, reason) = self.points(submission);
        assert!(points == 0.0 && reason.contains(words), "{submission}: {points}, {reason}: {}", self.said());
        assert!(self.read(&format!("{submission}/page.html")).contains("0 of 10 points"));
    }
}

#[test]
fn hostile_submissions_get_nothing_and_leave_others_alone() {
    for place in Place::all() {
        place.write("assignment.toml", &format!("hidden_seeds = \"hidden.txt\"\n{LENIENT}"));
        place.write("hidden.txt", HIDDEN);
        place.write("good/client", GOOD);
        let forks = "#!/usr/bin/python3\nimport os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n";
        place.write("forks/client", forks);
        place.write("fills/client", "#!/bin/sh\ncat /dev/zero >/tmp/much\nsleep 100\n");
        place.write("hangs/client", "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 100; done\n");
        // Looks at every file, at every process and at its own environment; with the seed it would do well.
        let home = place.dir.path().display();
        let spies = format!(
            r#"#!/usr/bin/python3
import os, subprocess, sys
looked = 0
for top in "{home}", "/root", "/home", "/tmp", "/proc", "/lists", "/submission", "/run", "/out", "/var":
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            try:
                content = open(path, "rb").read(100000) if os.path.isfile(path) else b""
            except OSError:
                continue
            looked += 1
            if b"{HIDDEN}" in content and not path.startswith(("/submission", "/proc/self", "/proc/%d/" % os.getpid())):
                sys.exit("found the seed in " + path)
            if name == "assignment.toml":
                sys.exit("found the assignment at " + path)
processes = [name for name in os.listdir("/proc") if name.isdigit()] if os.path.isdir("/proc") else []
sys.exit("looked at %d files and %d processes: no seed" % (looked, len(processes)))
"#
        );
        place.write("spies/client", &spies);
        let outside = Command::new(place.path("spies/client")).output().unwrap();
        let found = String::from_utf8_lossy(&outside.stderr).into_owned();
        assert!(found.contains("found the "), "the spy is blind: {found}");
        let all = ["good", "forks", "fills", "hangs", "spies"];
        let graded = place.grade(&all, &["--jobs", "5"]);
        assert_eq!(graded.output.status.code(), Some(0), "{}", graded.said());
        assert_eq!(graded.points("good"), (10.0, String::new()), "{}", graded.said());
        graded.nothing("forks", "more than 20 processes");
        graded.nothing("fills", "filled its disk of 20MB");
        graded.nothing("hangs", "longer than 10 s, its time limit");
        graded.nothing("spies", ": no seed");
        let spied = graded.points("spies").1;
        assert!(!spied.contains("looked at 0 files"), "{spied}");
        let csv = graded.read("class.csv");
        assert_eq!(csv.lines().count(), 6, "{csv}");
        assert!(csv.contains("\"good\",10,10,10,yes,\"\""), "{csv}");
        let junit = graded.read("junit.xml");
        assert!(junit.contains("tests=\"10\" failures=\"8\"") && !junit.contains(HIDDEN), "{junit}");
        for name in all {
            let page = graded.read(&format!("{name}/page.html"));
            assert!(page.contains("hidden seed 1") && !page.contains(HIDDEN), "{name}");
            let results = graded.results(name);
            let tests = results["tests"].as_array().unwrap();
            let seen: Vec<&str> = tests.iter().map(|test| test["visibility"].as_str().unwrap()).collect();
            assert_eq!(seen, ["visible", "after_published"]);
            assert!(!results.to_string().contains(HIDDEN));
        }
    }
}

/// A client that takes every second file from each server, and whatever comes for what it asked for.
const TRUSTING: &str = r#"#!/bin/sh
exec /usr/bin/python3 - <<'END'
import os, urllib.request
for at, name in enumerate(open(os.environ["FILES"]).read().split()):
    server = os.environ["SERVER_B" if at % 2 else "SERVER_A"]
    with urllib.request.urlopen("http://" + server + "/" + name) as answer:
        open(os.path.join(os.environ["OUT"], name), "wb").write(answer.read())
END
"#;

#[test]
fn servers_have_the_faults_of_the_assignment() {
    let Some(place) = Place::all().into_iter().next() else { return };
    let (head, condition) = LENIENT.split_once("[[condition]]").unwrap();
    let head = head.replace("count = 6", "count = 12").replace("20KB", "40KB");
    let with = |fault: &str| {
        let condition = condition.replace("steady", fault);
        format!("[[condition]]{condition}\nfault_b = \"{fault}@60KB\"\n")
    };
    let faults = ["dies", "trickles", "corrupts", "busy"];
    place.write("assignment.toml", &(head + &faults.map(with).concat()));
    // Our own client goes on without a faulty server.
    let own = "#!/bin/sh\nexec BIN client --backend none --least-rate 10% --give-up 1s \\\n    --out \"$OUT\" --log /tmp/log.jsonl server-a server-b\n";
    place.write("able/client", &own.replace("BIN", BIN));
    let built = Path::new(BIN).parent().unwrap().to_str().unwrap();
    place.write("trusting/client", TRUSTING);
    let graded = place.grade(&["able", "trusting"], &["--jobs", "2", "--visible", built]);
    assert_eq!(graded.output.status.code(), Some(0), "{}", graded.said());
    assert_eq!(graded.points("able"), (40.0, String::new()), "{}", graded.said());
    let trusting = graded.results("trusting");
    let expected = ["it ended with exit code 1", "longer than 10 s", "has other bytes", "HTTP Error 503"];
    for (test, words) in trusting["tests"].as_array().unwrap().iter().zip(expected) {
        let output = test["output"].as_str().unwrap();
        assert!(test["score"] == 0.0 && output.contains(words), "{words}: {test}");
    }
    assert!(graded.read("trusting/page.html").contains("Server b answers 503 after 60KB."));
}

#[test]
fn failures_are_named_in_words() {
    let Some(place) = Place::all().into_iter().next() else { return };
    place.write("assignment.toml", &format!("build = \"[ ! -e build ] || ./build\"\n{LENIENT}"));
    fs::create_dir(place.path("empty")).unwrap();
    place.write("ends/client", "#!/bin/sh\nexit 0\n");
    place.write("elsewhere/client", &GOOD.replace("os.environ[\"OUT\"]", "\"/tmp\""));
    place.write("outside/client", &GOOD.replace("os.environ[\"OUT\"]", "\"/submission\""));
    place.write("partial/client", &GOOD.replace("answer.read()", "answer.read(1000)"));
    place.write("leaves/client", &GOOD.replace("name), \"wb\"", "name + \".part\"), \"wb\""));
    place.write("crashes/client", "#!/bin/sh\necho no such server >&2\nexit 3\n");
    // Neither of its two processes reaches the limit alone.
    let eats = "#!/usr/bin/python3\nimport os, time\nos.fork()\nheld = b'x' * 150_000_000\ntime.sleep(60)\n";
    place.write("eats/client", eats);
    // Files in memory, which belong to no process; its disk of 20 MB is the most that each may hold.
    let hides = "#!/usr/bin/python3\nimport os, time\nfor _ in range(15):\n    \
         os.write(os.memfd_create('x'), b'x' * 19_000_000)\ntime.sleep(60)\n";
    place.write("hides/client", hides);
    place.write("unbuilt/build", "#!/bin/sh\necho a semicolon is missing >&2\nexit 2\n");
    place.write("large/client", "");
    fs::File::create(place.path("large/data")).unwrap().set_len(21_000_000).unwrap();
    // Both bring the files with them; one asks for a byte of each.
    for name in ["cached", "peeks"] {
        let made = place.path(&format!("{name}/files"));
        let mut segments = place.command();
        segments.args(["segments", "--count", "6", "--mean-size", "20KB", "--seed", "1"]).arg(made);
        assert!(segments.output().unwrap().status.success());
    }
    place.write("cached/client", "#!/bin/sh\ncp /submission/files/*.m4s \"$OUT\"\n");
    let a_byte = "urllib.request.Request(\"http://\" + os.environ[\"SERVER_A\"] + \"/%73\" + name[1:] + \"?x\", headers={\"Range\": \"bytes=0-0\"})";
    let peeks = GOOD.replace("\"http://\" + os.environ[\"SERVER_A\"] + \"/\" + name", a_byte);
    let copies = "answer.read() and open(\"/submission/files/\" + name, \"rb\").read()";
    place.write("peeks/client", &peeks.replace("answer.read()", copies));
    let cases = [
        ("cached", "transfer: of s001.m4s they sent 0 of "),
        ("peeks", "transfer: of s001.m4s they sent 1 of "),
        ("empty", "the command was not found"),
        ("ends", "6 of 6 are missing, the first s001.m4s"),
        ("elsewhere", "s001.m4s is in /tmp instead of $OUT"),
        ("outside", "Read-only file system"),
        ("partial", "s001.m4s is partial, with 1000 of "),
        ("leaves", "$OUT holds s001.m4s.part, which nobody asked for"),
        ("crashes", "it ended with exit code 3; it printed: no such server"),
        ("eats", "held more than 200MB of memory, its limit"),
        ("hides", "held more than 200MB of memory, its limit"),
        ("large", "its folder holds 21000192 bytes, and its disk 20MB"),
        ("unbuilt", "building it ended with exit code 2; it printed: a semicolon is missing"),
    ];
    let names: Vec<&str> = cases.iter().map(|(name, _)| *name).collect();
    let graded = place.grade(&names, &["--jobs", "3"]);
    assert_eq!(graded.output.status.code(), Some(0), "{}", graded.said());
    for (name, words) in cases {
        let (points, reason) = graded.points(name);
        assert!(points == 0.0 && reason.contains(words), "{name}: {points}, {reason}: {}", graded.said());
    }
}

#[test]
fn course_starters_are_graded_by_what_they_do() {
    let Some(place) = Place::all().into_iter().next() else { return };
    let course = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/course");
    let text = fs::read_to_string(course.join("assignment.toml")).unwrap();
    // The first condition, with fewer files.
    let (head, rest) = text.split_once("[[condition]]").unwrap();
    let first = rest.split("[[condition]]").next().unwrap();
    let short = head.replace("count = 40", "count = 12");
    assert_ne!(short, head);
    place.write("assignment.toml", &format!("{short}[[condition]]{first}"));
    let mut names = vec!["python", "sequential", "wrong"];
    let mut more: Vec<String> = vec!["--jobs".into(), "2".into()];
    for (name, compiler) in [("c", "cc"), ("go", "go"), ("rust", "rustc")] {
        if Command::new("sh")
            .args(["-c", &format!("command -v {compiler}")])
            .output()
            .unwrap()
            .status
            .success()
        {
            names.push(name);
        } else {
            assert!(std::env::var_os("CI").is_none(), "{compiler} is not here: tests/setup/packages.sh base");
            eprintln!("NOT RUN: {name}: no {compiler}");
        }
    }
    // A compiler of rustup's stands in a home folder, which no submission sees.
    if let Ok(root) = Command::new("rustc").args(["--print", "sysroot"]).output() {
        more.extend(["--visible".into(), String::from_utf8(root.stdout).unwrap().trim().to_string()]);
    }
    let folders: Vec<String> = names.iter().map(|name| course.join(name).display().to_string()).collect();
    let folders: Vec<&str> = folders.iter().map(String::as_str).collect();
    let graded = place.grade(&folders, &more.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(graded.output.status.code(), Some(0), "{}", graded.said());
    for name in names {
        let results = graded.results(name);
        let output = results["tests"][0]["output"].as_str().unwrap().to_string();
        let missed: Vec<&str> = output
            .lines()
            .filter(|line| line.contains("(missed)") && !line.starts_with("efficiency"))
            .collect();
        if name == "wrong" {
            assert_eq!(results["score"], 0.0);
            assert!(output.contains("is partial, with 65536 of "), "{output}");
            assert!(missed.iter().any(|line| line.starts_with("connections")), "{output}");
        } else {
            assert!(missed.is_empty(), "{name}: {output}");
        }
        // One link rests at a time, so half of the bound is the most that it can come to.
        if name == "sequential" {
            assert!(results["score"].as_f64().unwrap() < 20.0, "{output}");
        }
    }
}

#[test]
fn pair_with_a_protocol_of_its_own_is_graded_too() {
    let Some(place) = Place::all().into_iter().next() else { return };
    let raw = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/raw");
    fs::copy(raw.join("server.py"), place.path("server.py")).unwrap();
    let text = fs::read_to_string(raw.join("assignment.toml")).unwrap();
    let short = text.replace("count = 40", "count = 12").replace("full_from = 0.6", "full_from = 0.21");
    assert_eq!(short.matches("12").count(), 1);
    place.write("assignment.toml", &short);
    // A client that sends seven bytes of a name, and then waits for an answer.
    let client = fs::read_to_string(raw.join("client/client")).unwrap();
    place.write("short/client", &client.replace("name.encode()", "name.encode()[:7]"));
    place.write("raw/client", &client);
    let limits = format!(
        "limits = {{ time = \"10s\", memory = \"200MB\", processes = 20, disk = \"20MB\" }}\n{short}"
    );
    place.write("assignment.toml", &limits);
    let graded = place.grade(&["raw", "short"], &["--jobs", "2"]);
    assert_eq!(graded.output.status.code(), Some(0), "{}", graded.said());
    let results = graded.results("raw");
    let output = results["tests"][0]["output"].as_str().unwrap();
    assert!(output.contains("files (ok)") && output.contains("efficiency"), "{output}");
    graded.nothing("short", "longer than 10 s");
}

#[test]
fn image_is_the_system_of_its_submission() {
    let Some(place) = Place::all().into_iter().next() else { return };
    let works = |command: &str| Command::new("sh").args(["-c", command]).output().unwrap().status.success();
    // The image is made of one program that needs no library.
    if !works("docker info && busybox true && ! ldd $(command -v busybox)") {
        assert!(
            std::env::var_os("CI").is_none(),
            "no docker, or no static busybox: tests/setup/packages.sh compose"
        );
        eprintln!("NOT RUN: no docker, or no static busybox");
        return;
    }
    place.write("assignment.toml", LENIENT);
    let script = "#!/bin/sh\n[ ! -e /usr ] && [ \"$LIKED\" = yes ] || exit 5\n\
         while read -r name; do wget -q -O \"$OUT/$name\" \"http://$SERVER_A/$name\" || exit 6; done <\"$FILES\"\n";
    place.write("boxed/client", script);
    place.write("boxed/Dockerfile", "FROM scratch\nCOPY bin /bin\nENV LIKED=yes\n");
    fs::create_dir(place.path("boxed/bin")).unwrap();
    assert!(works(&format!("cp $(command -v busybox) {}", place.path("boxed/bin/busybox").display())));
    for name in ["sh", "wget"] {
        std::os::unix::fs::symlink("busybox", place.path("boxed/bin").join(name)).unwrap();
    }
    place.write("broken/Dockerfile", "FROM scratch\nCOPY nothing /\n");
    let graded = place.grade(&["boxed", "broken"], &[]);
    assert_eq!(graded.output.status.code(), Some(0), "{}", graded.said());
    assert_eq!(graded.points("boxed"), (10.0, String::new()), "{}", graded.said());
    graded.nothing("broken", "docker build failed");
}

#[test]
fn interrupted_grading_keeps_what_is_graded_and_leaves_no_files() {
    let Some(place) = Place::all().into_iter().next() else { return };
    place.write("assignment.toml", LENIENT);
    place.write("good/client", GOOD);
    place.write("hangs/client", "#!/bin/sh\ntouch \"$OUT/s001.m4s\"\nsleep 100\n");
    fs::create_dir(place.path("scratch")).unwrap();
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        ends_on(&place, signal);
    }
}

fn ends_on(place: &Place, signal: Signal) {
    // Not behind `timeout`, which would kill it a second after the signal.
    let mut grading = place.of_this_place(Command::new(place.program()));
    grading.args(["grade", "assignment.toml", "good", "hangs", "--jobs", "1"]);
    grading
        .env("TMPDIR", place.path("scratch"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = grading.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == "[1/2] good: 10 of 10 points"));
    // The next one is in its lab, or about to be.
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
    let table = lines.last().unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("interrupted: 1 of 2 submissions are graded"), "{said}");
    let csv = fs::read_to_string(place.path(&table)).unwrap();
    assert!(csv.lines().count() == 2 && csv.contains("\"good\",10,10"), "{csv}");
    assert_eq!(fs::read_dir(place.path("scratch")).unwrap().count(), 0, "temporary files are left");
}

#[test]
fn killed_grading_leaves_no_files() {
    let Some(place) = Place::all().into_iter().next() else { return };
    place.write("assignment.toml", LENIENT);
    place.write("hangs/client", "#!/bin/sh\ntouch \"$OUT/s001.m4s\"\nsleep 100\n");
    fs::create_dir(place.path("scratch")).unwrap();
    let mut grading = place.of_this_place(Command::new(place.program()));
    grading.args(["grade", "assignment.toml", "hangs"]).env("TMPDIR", place.path("scratch"));
    let mut child = grading.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let files = || fs::read_dir(place.path("scratch")).unwrap().count();
    // Its own folder, and that of the lab.
    eventually("a lab runs", || files() == 2);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("all files are gone", || files() == 0);
}

/// The folder of each submission, and its program in experiments/peers.toml.
const PEERS: [(&str, &str, &str); 5] = [
    ("aria2", "aria2 -j5", "aria2c"),
    ("curl", "curl -Z", "curl"),
    ("wget2", "wget2", "wget2"),
    ("lftp", "lftp, two", "lftp"),
    ("python", "Python, two threads", "python3"),
];

#[test]
fn tools_of_others_are_graded_under_the_public_conditions() {
    let Some(place) = Place::all().into_iter().next() else { return };
    if !have(&PEERS.map(|(_, _, program)| program)) {
        return;
    }
    let second = "[[condition]]\nname = \"far\"\nlink_a = { profile = \"rate-80\", delay = \"20ms\" }\n\
                  link_b = \"rate-20\"\npoints = 5\nfull_from = 0.001\n";
    place.write("assignment.toml", &format!("{LENIENT}{second}"));
    let peers: toml::Table = toml::from_str(include_str!("../../experiments/peers.toml")).unwrap();
    for (folder, name, _) in PEERS {
        let mut programs = peers["program"].as_array().unwrap().iter();
        let program = programs.find(|program| program["name"].as_str() == Some(name)).unwrap();
        let command = program["command"].as_str().unwrap();
        place.write(&format!("{folder}/client"), &format!("#!/bin/sh\n{}\n", command.trim()));
    }
    let graded = place.grade(&PEERS.map(|(folder, ..)| folder), &["--jobs", "3"]);
    assert_eq!(graded.output.status.code(), Some(0), "{}", graded.said());
    for (folder, ..) in PEERS {
        assert_eq!(graded.points(folder), (15.0, String::new()), "{folder}: {}", graded.said());
        let results = graded.results(folder);
        let tests = results["tests"].as_array().unwrap().iter();
        let conditions: Vec<_> = tests
            .map(|test| {
                let name = test["name"].as_str().unwrap().split(',').next().unwrap();
                (name, test["visibility"].as_str().unwrap())
            })
            .collect();
        assert_eq!(conditions, [("steady", "visible"), ("far", "visible")]);
    }
}

#[test]
fn nothing_is_started_for_an_invalid_assignment() {
    let Some(place) = Place::all().into_iter().next() else { return };
    place.write("good/client", GOOD);
    for (text, words) in [
        (LENIENT.replace("rate-80", "rate-81"), "rate-81"),
        (LENIENT.replace("points = 10", "point = 10"), "unknown key \"point\""),
        (LENIENT.replace("[1]", "[]"), "public_seeds is empty"),
        (
            LENIENT.replace("/client", "/{cilent}"),
            "command: cannot fill in {cilent}: unknown placeholder; use {server_a}",
        ),
        (LENIENT.replace("200MB", "1B"), "memory is 1B, in which no program runs"),
        (LENIENT.replace("points = 10", "points = 1e300"), "write a number from 0 to 10000"),
    ] {
        place.write("assignment.toml", &text);
        let graded = place.grade(&["good"], &[]);
        assert_eq!((graded.output.status.code(), &graded.folder), (Some(1), &None));
        assert!(graded.said().contains(words), "{words}: {}", graded.said());
    }
    place.write("assignment.toml", LENIENT);
    place.write("class.csv/client", GOOD);
    for (name, words) in [
        ("none", "cannot grade none: it is not a folder"),
        ("class.csv", "cannot grade class.csv: a result has that name"),
    ] {
        let graded = place.grade(&["good", name], &[]);
        assert!(graded.said().contains(words) && graded.folder.is_none(), "{}", graded.said());
    }
    // Each folder that all may read holds the others' work, or the hidden seeds.
    for shown in [".", "good", "/"] {
        let graded = place.grade(&["good"], &["--visible", shown]);
        let refused = graded.said().contains("cannot hide ") && graded.folder.is_none();
        assert!(refused && graded.output.status.code() == Some(1), "{shown}: {}", graded.said());
    }
}
