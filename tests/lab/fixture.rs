//! A lab for a test. [`Place`] runs `twinlink lab` from outside, in folders of the test's own. [`Lab::enter`] goes on
//! inside: the test is run again as the command of a lab of its own, in the client's namespace, and whatever it starts
//! there ends with the lab.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{OnceLock, RwLock};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) use crate::support::{have, program_under_test};

pub(crate) const NOBODY: u32 = 65534;
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Far beyond what anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum User {
    /// The one who runs the tests.
    Own,
    /// Without any capability.
    Ordinary,
}

/// The users that labs are run as here.
pub(crate) fn users() -> Vec<User> {
    if !can_run() {
        return Vec::new();
    }
    if is_root() { vec![User::Own, User::Ordinary] } else { vec![User::Own] }
}

/// Whether this machine lets an ordinary user make a lab; where CI is set, it must.
pub(crate) fn can_run() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let place = Place::new(User::Ordinary);
        let tried = place.lab(&["--servers", "none", "--exec", "true"]).output().unwrap();
        let words = String::from_utf8_lossy(&tried.stderr).into_owned();
        if !tried.status.success() {
            assert!(std::env::var_os("CI").is_none(), "{words}");
            eprintln!("NOT RUN: {words}");
        }
        tried.status.success()
    })
}

/// The folders of a test, which belong to its user. `$TMPDIR` is one of them, so that everything of
/// a lab can be told by its environment.
pub(crate) struct Place {
    user: User,
    root: TempDir,
    pub(crate) program: PathBuf,
}

fn link_or_copy(from: &Path, to: &Path) {
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop)).unwrap();
}

impl Place {
    pub(crate) fn new(user: User) -> Place {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // The ordinary user may not reach the folder where the program was built.
        let program = root.path().join("twinlink");
        link_or_copy(&program_under_test(), &program);
        let place = Place { user, root, program };
        ["tmp", "work", "cache", "runtime"].iter().for_each(|name| drop(place.folder(name)));
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        if is_root() && self.user == User::Ordinary {
            chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        path
    }

    /// A folder with small segments, and the option that serves it.
    pub(crate) fn data(&self, count: u32, mean: &str) -> [String; 2] {
        let dir = self.path("data");
        let count = count.to_string();
        let made = Command::new(&self.program)
            .args(["segments", "--count", &count, "--mean-size", mean])
            .arg(&dir)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        ["--data".into(), dir.to_str().unwrap().into()]
    }

    pub(crate) fn lab(&self, args: &[&str]) -> Command {
        self.program(&[&["lab"], args].concat())
    }

    /// Returns a command that runs twinlink as the test's user.
    pub(crate) fn program(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=1", "--foreground", "600"]);
        if is_root() && self.user == User::Ordinary {
            command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
            command.args(["--bounding-set=-all", "--inh-caps=-all"]);
        }
        command.arg(&self.program).args(args);
        command.current_dir(self.path("work")).stdin(Stdio::null());
        command.env("TMPDIR", self.path("tmp")).env("XDG_CACHE_HOME", self.path("cache"));
        // The folders of the user who runs the tests may be closed to another one.
        let own = std::env::var("PATH").unwrap_or_default();
        let path = if self.user == User::Own { format!("{SYSTEM_PATH}:{own}") } else { SYSTEM_PATH.into() };
        command.env("PATH", path);
        command.env("HOME", self.path("work")).env("TWINLINK_LABS", self.path("runtime/labs"));
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.lab(args).output().unwrap()
    }

    /// Runs a shell's line in a lab without servers, and returns its output.
    pub(crate) fn shell(&self, line: &str) -> String {
        let output = self.run(&["--servers", "none", "--exec", "sh", "-c", line]);
        assert!(output.status.success(), "{:?}: {}", self.user, words(&output));
        String::from_utf8(output.stdout).unwrap().trim().into()
    }

    /// The processes of this test's labs: number and command line.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        let mark = format!("TMPDIR={}", self.path("tmp").display());
        numbers_of_processes()
            .into_iter()
            .filter(|pid| {
                let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environment.split(|&byte| byte == 0).any(|one| one.starts_with(mark.as_bytes()))
            })
            .map(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                (pid, String::from_utf8_lossy(&line).replace('\0', " "))
            })
            .collect()
    }

    /// Waits until no process and no temporary file of this test's labs is left.
    pub(crate) fn expect_nothing_left(&self) {
        eventually(&format!("nothing is left of a lab of {:?}", self.user), || {
            let is_empty = |name: &str| fs::read_dir(self.path(name)).into_iter().flatten().next().is_none();
            self.processes().is_empty() && is_empty("tmp") && is_empty("runtime/labs")
        });
    }
}

pub(crate) fn numbers_of_processes() -> Vec<i32> {
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    fs::read_dir("/proc").unwrap().filter_map(|entry| number(entry.ok()?)).collect()
}

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn words(output: &Output) -> String {
    let both = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    both.concat()
}

pub(crate) fn run_end(stdout: &[u8]) -> Value {
    let text = String::from_utf8_lossy(stdout);
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a JSON line"));
    let end = records.rev().find(|record| record["event"] == "run_end");
    end.unwrap_or_else(|| panic!("no run_end in {text}"))["data"].clone()
}
/// The lab that a test asks for.
pub(crate) struct Lab {
    options: Vec<String>,
    segments: Option<(u32, &'static str)>,
    users: Vec<User>,
}

/// Programs in Python that tests run inside.
const HELPERS: [&str; 4] = ["link-traffic.py", "trace-meter.py", "acceptance.py", "acceptance_probe.py"];
const INSIDE: &str = "TWINLINK_TEST_INSIDE";
const FOLDER: &str = "TWINLINK_TEST_FOLDER";
pub(crate) const CLIENT: &str = "10.45.0.4";

/// Tests that measure, those of `measure::`, have the machine to themselves. Nextest sees to that by its
/// configuration, and this where all run in one process.
static TURN: RwLock<()> = RwLock::new(());

impl Lab {
    /// A lab with these options, as each user; a test that measures runs once, as the user who runs the tests.
    pub(crate) fn with(options: &[&str]) -> Lab {
        let users = match is_root() && is_measuring() {
            _ if Lab::is_inside() => Vec::new(),
            true => vec![User::Own],
            false => users(),
        };
        Lab { options: options.iter().map(ToString::to_string).collect(), segments: None, users }
    }

    /// A lab without servers.
    pub(crate) fn bare() -> Lab {
        Lab::with(&["--servers", "none"])
    }

    /// A lab whose servers have so many segments of about this size.
    pub(crate) fn serving(count: u32, mean: &'static str) -> Lab {
        Lab::with(&[]).segments(count, mean)
    }

    /// A lab without servers, and so many segments for those that the test starts.
    pub(crate) fn with_segments(count: u32, mean: &'static str) -> Lab {
        Lab::bare().segments(count, mean)
    }

    pub(crate) fn segments(self, count: u32, mean: &'static str) -> Lab {
        Lab { segments: Some((count, mean)), ..self }
    }

    /// The same lab with other servers, as `--server` names them; `{PROGRAM}` is twinlink, `{WORK}` the test's folder.
    pub(crate) fn server(self, command: &str) -> Lab {
        self.option("--server", command)
    }

    pub(crate) fn option(mut self, name: &str, value: &str) -> Lab {
        self.options.extend([name.to_string(), value.to_string()]);
        self
    }

    /// The same lab as the user who runs the tests alone.
    pub(crate) fn once(mut self) -> Lab {
        self.users.truncate(1);
        self
    }

    /// Returns true in the test that runs inside of a lab.
    fn is_inside() -> bool {
        std::env::var_os(INSIDE).is_some()
    }

    /// Returns the lab to the test that runs inside it; outside, none, after that test has passed as each user.
    pub(crate) fn enter(self) -> Option<Inside> {
        let name = test_name();
        if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
            let folder = PathBuf::from(std::env::var_os(FOLDER).expect(FOLDER));
            return Some(Inside { data: folder.join("data"), work: folder.join("work"), folder });
        }
        let (alone, beside) =
            if is_measuring() { (Some(TURN.write()), None) } else { (None, Some(TURN.read())) };
        std::thread::scope(|scope| {
            self.users.iter().for_each(|user| drop(scope.spawn(|| self.run_inside(&name, *user))));
        });
        drop((alone, beside));
        None
    }

    fn run_inside(&self, name: &str, user: User) {
        let place = Place::new(user);
        let test = place.path("test");
        link_or_copy(&std::env::current_exe().unwrap(), &test);
        for helper in HELPERS {
            fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(helper), place.path(helper))
                .unwrap();
        }
        let program = place.program.to_str().unwrap();
        let work = place.path("work").display().to_string();
        let fill_in = |option: &String| option.replace("{PROGRAM}", program).replace("{WORK}", &work);
        let options: Vec<String> = self.options.iter().map(fill_in).collect();
        let mut args: Vec<&str> = options.iter().map(String::as_str).collect();
        let data = self.segments.map(|(count, mean)| place.data(count, mean));
        if let Some(data) = data.as_ref().filter(|_| !self.options.iter().any(|option| option == "--servers"))
        {
            args.extend(data.iter().map(String::as_str));
        }
        args.extend(["--exec", test.to_str().unwrap(), name, "--exact", "--include-ignored", "--nocapture"]);
        let mut lab = place.lab(&args);
        lab.env(INSIDE, name).env(FOLDER, place.path("")).env("RUST_BACKTRACE", "0");
        let output = lab.output().unwrap();
        println!("== as {user:?}\n{}", words(&output));
        assert!(output.status.success(), "{name} failed as {user:?}");
        assert!(words(&output).contains("1 passed"), "{name} did not run as {user:?}");
        place.expect_nothing_left();
    }
}

/// The harness runs each test in a thread of its name.
fn test_name() -> String {
    std::thread::current().name().expect("a test's thread has a name").to_string()
}

fn is_measuring() -> bool {
    test_name().starts_with("measure::")
}

/// The inside of a lab: the client's namespace.
pub(crate) struct Inside {
    pub(crate) data: PathBuf,
    pub(crate) work: PathBuf,
    folder: PathBuf,
}

pub(crate) fn server(link: &str) -> &'static str {
    if link == "a" { "10.45.0.2" } else { "10.45.0.3" }
}

impl Inside {
    /// Returns true for root, and not for an ordinary user who is root in a lab.
    pub(crate) fn is_real_root(&self) -> bool {
        fs::read_to_string("/proc/self/uid_map").unwrap().split_whitespace().nth(2) != Some("1")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }

    /// Writes a profile whose directions have these lines, and returns its path.
    pub(crate) fn profile(&self, name: &str, down: &str, up: &str, rest: &str) -> String {
        let text = format!("description = \"test\"\n[down]\n{down}\n[up]\n{up}\n{rest}\n");
        self.write(&format!("{name}.toml"), &text)
    }

    pub(crate) fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(&self.work).stdin(Stdio::null()).env("WORK", &self.work);
        command
    }

    pub(crate) fn twinlink(&self, args: &[&str]) -> Command {
        self.command(&std::env::var("TWINLINK_BIN").unwrap(), args)
    }

    /// Returns a command that runs in the namespace of that link's server.
    pub(crate) fn in_server(&self, link: &str, program: &str, args: &[&str]) -> Command {
        let namespace = std::env::var(format!("TWINLINK_NS_{}", link.to_uppercase())).unwrap();
        self.command("ip", &[&["netns", "exec", &namespace, program], args].concat())
    }

    /// Runs a shell's line and returns its output.
    pub(crate) fn sh(&self, line: &str) -> String {
        stdout_of(&mut self.command("bash", &["-ec", line]))
    }

    /// Returns what twinlink prints as JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&stdout_of(&mut self.twinlink(args))).unwrap()
    }

    /// Starts a run over both links; its log and its output have this name.
    pub(crate) fn client(&self, name: &str, options: &[&str]) -> Run {
        self.client_of(name, options, ["server-a", "server-b"])
    }

    pub(crate) fn client_of(&self, name: &str, options: &[&str], servers: [&str; 2]) -> Run {
        let mut client = self.twinlink(&["client", "--log"]);
        client.arg(self.path(&format!("{name}.jsonl"))).args(options).args(servers);
        self.start(name, client)
    }

    /// Starts a program whose output goes into a file, for a log of this name.
    pub(crate) fn start(&self, name: &str, mut command: Command) -> Run {
        let words = self.path(&format!("{name}.out"));
        let file = fs::File::create(&words).unwrap();
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Run { child, log: self.path(&format!("{name}.jsonl")), words }
    }

    /// Starts a process that owns the links from now on; `link set` changes them.
    pub(crate) fn own_links(&self, options: &[&str]) -> Owner {
        let mut hold = self.twinlink(&[&["link", "hold"], options, &["--", "sleep", "infinity"]].concat());
        let mut child = hold.spawn().unwrap();
        eventually("a process owns the links", || {
            assert_eq!(child.try_wait().unwrap(), None, "link hold {options:?} has ended");
            control_socket().exists()
        });
        Owner(child)
    }

    /// Starts twinlink's servers for both kinds of address.
    pub(crate) fn start_servers(&self) -> [Child; 2] {
        let listen = if Path::new("/proc/net/if_inet6").exists() { "[::]:4455" } else { "0.0.0.0:4455" };
        ["a", "b"].map(|link| self.start_server(link, listen))
    }

    pub(crate) fn start_server(&self, link: &str, listen: &str) -> Child {
        let program = std::env::var("TWINLINK_BIN").unwrap();
        let data = self.data.to_str().unwrap();
        let mut command = self.in_server(link, &program, &["server", "--data", data, "--listen", listen]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let address = format!("{}:4455", server(link));
        eventually("a server is ready", || is_success(&mut self.twinlink(&["health", &address])));
        child
    }

    /// Returns a command of the traffic program, in the namespace of a link's server or the client's.
    pub(crate) fn traffic(&self, from: &str, args: &[&str]) -> Command {
        let program = self.helper("link-traffic.py");
        match from {
            "client" => self.command("python3", &[&[program.as_str()], args].concat()),
            link => self.in_server(link, "python3", &[&[program.as_str()], args].concat()),
        }
    }

    /// Returns the path of a program of [`HELPERS`].
    pub(crate) fn helper(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Starts what takes datagrams and connections at the servers and the client.
    pub(crate) fn start_sinks(&self) {
        for (from, address) in [("a", server("a")), ("b", server("b")), ("client", CLIENT)] {
            self.start_sink(from, address);
        }
    }

    pub(crate) fn start_sink(&self, from: &str, address: &str) {
        background(&mut self.traffic(from, &["sink", address]));
        // A host reaches its own addresses too.
        let asker = if from == "client" { "a" } else { "client" };
        eventually("a sink answers", || {
            is_success(
                self.traffic(asker, &["rtt", address, "1"]).stdout(Stdio::null()).stderr(Stdio::null()),
            )
        });
    }

    /// Returns one value of a direction as `link show` reports it, by its JSON pointer.
    pub(crate) fn shown(&self, link: &str, direction: &str, pointer: &str) -> Value {
        let rows = self.json(&["link", "show", "--json"]);
        let of = |row: &&Value| row["link"] == link && row["direction"] == direction;
        let row = rows["links"].as_array().unwrap().iter().find(of).expect("the link is shown");
        row.pointer(pointer).unwrap_or(&Value::Null).clone()
    }

    /// Returns the Mbit/s of frames that leave the bottleneck while more is offered than it takes, of its best stretch.
    /// The queue fills first, so that its filling is not in the figure.
    pub(crate) fn rate_of(&self, link: &str, direction: &str, offered_mbit: u32, seconds: f64) -> f64 {
        let down = direction == "down";
        let (from, to) = if down { (link, CLIENT) } else { ("client", server(link)) };
        self.rate_between(from, to, &format!("twl-{link}-{direction}"), offered_mbit, seconds)
    }

    pub(crate) fn rate_between(
        &self,
        from: &str,
        to: &str,
        device: &str,
        offered_mbit: u32,
        seconds: f64,
    ) -> f64 {
        let whole = (seconds + 1.5).to_string();
        let mut flood =
            self.traffic(from, &["flood", to, &offered_mbit.to_string(), &whole]).spawn().unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let counter = format!("/sys/class/net/{device}/statistics/rx_bytes");
        let rate = stdout_of(&mut self.traffic("client", &["rate", &counter, &seconds.to_string()]));
        assert!(flood.wait().unwrap().success());
        rate.parse().unwrap()
    }

    /// Returns the devices, qdiscs and filters of this namespace, without their counters.
    pub(crate) fn network_state(&self) -> String {
        self.sh("ip -o link show | sed 's/^[0-9]*: //; s/[@:].*//' | sort
                 tc qdisc show | sed 's/ refcnt [0-9]*//'
                 tc filter show dev eth0 ingress 2>/dev/null || true
                 tc filter show dev eth0 egress 2>/dev/null || true")
    }

    /// Returns the number of twinlink's rules in this namespace.
    pub(crate) fn rules(&self) -> usize {
        self.sh("iptables -t raw -S 2>/dev/null || true").matches("TWINLINK").count()
    }

    /// Runs a command that must fail with exit code 1, and returns what it says, which must have these words.
    pub(crate) fn refused(&self, command: &mut Command, parts: &[&str]) -> String {
        let output = command.output().unwrap();
        let said = words(&output);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        parts.iter().for_each(|part| assert!(said.contains(part), "no '{part}' from {command:?} in: {said}"));
        println!("refused: {said}");
        said
    }
}

pub(crate) fn control_socket() -> PathBuf {
    std::env::var_os("TWINLINK_CONTROL").expect("a lab names its control socket").into()
}

/// A process that owns the links.
pub(crate) struct Owner(pub(crate) Child);

impl Owner {
    pub(crate) fn release(mut self) {
        signal(&self.0, nix::sys::signal::Signal::SIGTERM);
        self.0.wait().unwrap();
    }

    /// Leaves what a process leaves that is killed.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        fs::remove_file(control_socket()).unwrap();
    }
}

/// A run of the client, or of a program with a log like it.
pub(crate) struct Run {
    pub(crate) child: Child,
    pub(crate) log: PathBuf,
    words: PathBuf,
}

impl Run {
    /// Returns what stands in the log so far.
    pub(crate) fn log(&self) -> Log {
        Log::read(&self.log)
    }

    pub(crate) fn words(&self) -> String {
        fs::read_to_string(&self.words).unwrap()
    }

    /// Waits until so many segments are on disk.
    pub(crate) fn await_segments(&self, count: usize) {
        eventually("segments have come", || self.log().of("segment").len() >= count);
    }

    /// Waits for its end, and returns the exit code with the log.
    pub(crate) fn end(&mut self) -> (Option<i32>, Log) {
        let status = self.child.wait().unwrap();
        (status.code(), self.log())
    }

    /// Waits for its end, which must be a good one.
    pub(crate) fn well(&mut self) -> Log {
        let (code, log) = self.end();
        assert_eq!(code, Some(0), "{}", self.words());
        if let Some(end) = log.of("run_end").last() {
            println!("{}", end["summary"].as_str().unwrap());
            assert_eq!(end["exit"], "ok", "{end}");
        }
        log
    }
}

/// The records of a log.
#[derive(Clone, Debug)]
pub(crate) struct Log(pub(crate) Vec<Value>);

impl Log {
    /// Reads what stands there so far; a line that is still being written is left out.
    pub(crate) fn read(path: &Path) -> Log {
        let text = fs::read_to_string(path).unwrap_or_default();
        Log(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Returns the data of each record of a kind.
    pub(crate) fn of(&self, event: &str) -> Vec<&Value> {
        crate::support::of_event(&self.0, event)
    }

    pub(crate) fn start(&self) -> &Value {
        self.of("run_start")[0]
    }

    /// Returns the data of the run's last record.
    pub(crate) fn end(&self) -> &Value {
        crate::support::run_end(&self.0)
    }

    /// Returns the records of a kind that are of this link.
    pub(crate) fn of_link(&self, event: &str, link: &str) -> Vec<&Value> {
        self.of(event).into_iter().filter(|data| data["link"] == link).collect()
    }

    /// Returns the different values of the samples of a link, in order of their text.
    pub(crate) fn sampled(&self, link: &str, pointer: &str) -> std::collections::BTreeSet<String> {
        self.of_link("sample", link)
            .iter()
            .map(|data| data.pointer(pointer).unwrap_or(&Value::Null).to_string())
            .collect()
    }

    pub(crate) fn expect_no_fault(&self) {
        assert!(self.of("fault").is_empty(), "{:?}", self.of("fault"));
    }

    /// Expects that each of so many files came once and has the right digest.
    pub(crate) fn expect_verified(&self, files: usize) {
        let verified = |data: &&Value| data["digest_ok"] == true;
        let names = self.of("segment").into_iter().filter(verified).map(|data| data["name"].to_string());
        assert_eq!(names.collect::<std::collections::BTreeSet<_>>().len(), files);
        assert_eq!(self.of("segment").len(), files);
        assert_eq!(self.end()["files"], files);
    }

    /// Expects that the bytes of both links agree with their shapers' counters.
    pub(crate) fn expect_reconciled(&self) {
        for link in ["a", "b"] {
            assert_eq!(self.end()["links"][link]["reconciled"]["ok"], true, "link {link}: {}", self.end());
        }
    }
}

pub(crate) fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
}

/// Starts a process that ends with the lab.
pub(crate) fn background(command: &mut Command) {
    drop(command.spawn().unwrap());
}

pub(crate) fn is_success(command: &mut Command) -> bool {
    command.output().unwrap().status.success()
}

/// Runs a command that must succeed, and returns what it prints, without the end of the last line.
pub(crate) fn stdout_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", words(&output));
    String::from_utf8(output.stdout).unwrap().trim_end().into()
}

pub(crate) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Expects a figure in a range, and prints it.
pub(crate) fn between(what: &str, found: f64, least: f64, most: f64) {
    println!("{what}: {found} ({least} to {most})");
    assert!((least..=most).contains(&found), "{what} is {found}, expected {least} to {most}");
}

pub(crate) fn within(what: &str, found: f64, wanted: f64, percent: f64) {
    between(what, found, wanted * (1.0 - percent / 100.0), wanted * (1.0 + percent / 100.0));
}

/// Makes an executable file.
pub(crate) fn executable(path: &Path, text: &str) {
    let mut file = fs::File::create(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
}
