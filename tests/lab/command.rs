//! `twinlink lab` as the user who runs the tests and, where that is root, as an ordinary user without
//! any capability too. Each test has folders of its own; each lab is bounded by `timeout`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fixture::{
    NOBODY, PATIENCE, Place, User, eventually, is_root, numbers_of_processes, run_end, users, words,
};

/// The namespaces of these processes that this process is not in. One that has ended is in none, though its
/// parent may not have noticed yet.
fn namespaces_of(processes: &[i32]) -> BTreeSet<PathBuf> {
    let links = |pid: &str| {
        let lives = fs::read_link(format!("/proc/{pid}/ns/net")).is_ok();
        let entries = fs::read_dir(format!("/proc/{pid}/ns")).into_iter().flatten().flatten();
        let entries = entries.filter(|_| lives);
        entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect::<BTreeSet<_>>()
    };
    let all: BTreeSet<_> = processes.iter().flat_map(|pid| links(&pid.to_string())).collect();
    all.difference(&links("self")).cloned().collect()
}

/// Returns the kinds of things that a lab could leave on the machine: interfaces, named namespaces and, as root, rules.
fn network_of_the_machine() -> Vec<String> {
    let names = |dir: &str| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    let names = names("/run/netns").into_iter().chain(names("/etc/netns")).chain(names("/sys/class/net"));
    let is_of_a_lab =
        |name: &String| ["server-", "client", "br0", "twl-"].iter().any(|own| name.starts_with(own));
    let rules = Command::new("iptables").args(["-w", "-t", "raw", "-S"]).output();
    let rules = rules.map_or(String::new(), |output| words(&output));
    let rules = rules.lines().filter(|line| line.contains("TWINLINK")).map(String::from);
    names.filter(is_of_a_lab).chain(rules).collect()
}

#[test]
fn main_job_runs_in_an_empty_folder_without_privilege() {
    if users().is_empty() {
        return;
    }
    let place = Place::new(User::Ordinary);
    let output = place.run(&["--", "--link-a", "wifi-near", "--link-b", "lte-medium"]);
    assert!(output.status.success(), "{}", words(&output));
    let end = run_end(&output.stdout);
    assert_eq!((end["exit"].as_str(), end["files"].as_u64()), (Some("ok"), Some(160)), "{end}");
    let runs: Vec<_> = fs::read_dir(place.path("work/results")).unwrap().flatten().collect();
    assert_eq!(runs.len(), 1);
    assert!(runs[0].path().join("report.html").is_file() && runs[0].path().join("log.jsonl").is_file());
    place.expect_nothing_left();
    // The samples are kept, for the next lab.
    assert!(place.path("cache/twinlink/samples/SHA256SUMS").is_file());
}

#[test]
fn experiment_is_found_by_name_without_a_checkout() {
    for user in users() {
        let place = Place::new(user);
        assert!(place.shell("twinlink sweep rtt --dry-run").contains("150 runs"));
    }
}

#[test]
fn sweep_makes_a_lab_of_its_own() {
    for user in users() {
        let place = Place::new(user);
        let experiment = "description = \"Which?\"\nrepetitions = 1\nfiles = \"s{001..004}.m4s\"\n\
            probe = \"off\"\nschedules = [\"greedy\", \"ratio=1:1\"]\n\n[[condition]]\nname = \"near\"\n\
            link_a = \"wifi-near\"\nlink_b = \"lte-medium\"\n";
        fs::write(place.path("work/mine.toml"), experiment).unwrap();
        let output = place.program(&["sweep", "mine.toml"]).output().unwrap();
        assert!(output.status.success(), "{user:?}: {}", words(&output));
        assert!(words(&output).contains("\"sweep_end\""), "{}", words(&output));
        place.expect_nothing_left();
    }
}

#[test]
fn refusal_names_the_setting_where_namespaces_are_forbidden() {
    if users().is_empty() {
        return;
    }
    let place = Place::new(User::Ordinary);
    // The setting belongs to a user namespace, so it is changed in one of this test's own.
    let lab = place.lab(&["--servers", "none", "--exec", "true"]);
    let args: Vec<_> = lab.get_args().map(std::ffi::OsStr::to_owned).collect();
    let program = args.iter().position(|arg| *arg == *place.program).unwrap();
    let line = "echo 0 >/proc/sys/user/max_user_namespaces && \
                exec setpriv --bounding-set=-all --inh-caps=-all \"$@\"";
    let mut forbidden = Command::new("timeout");
    forbidden.args(&args[..program]).args(["unshare", "--user", "--map-root-user", "sh", "-c", line, "sh"]);
    forbidden.args(&args[program..]).current_dir(place.path("work"));
    forbidden.envs(lab.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = forbidden.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    for part in ["user.max_user_namespaces is 0", "sudo sysctl -w user.max_user_namespaces=10000", "Docker"] {
        assert!(words(&output).contains(part), "no {part} in {}", words(&output));
    }
    place.expect_nothing_left();
}

#[test]
fn doctor_says_that_the_lab_runs_without_root() {
    if users().is_empty() {
        return;
    }
    let doctor = Command::new(env!("CARGO_BIN_EXE_twinlink")).args(["doctor", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let found = |name: &str| checks.iter().find(|check| check["name"] == name).expect(name)["found"].as_str();
    assert_eq!(found("twinlink lab"), Some("runs without root, in a user namespace"));
    assert!(found("kernel").unwrap().contains(std::env::consts::ARCH));
    assert!(["docker", "docker compose", "podman", "selinux"].iter().all(|name| found(name).is_some()));
}

#[test]
fn terminal_shows_bars_table_and_page() {
    let Some(&user) = users().last() else { return };
    let place = Place::new(user);
    let data = place.data(8, "50KB");
    let lab = place.lab(&["--data", &data[1], "--", "--link-a", "rate-80"]);
    let quoted: Vec<String> = lab.get_args().map(|arg| format!("'{}'", arg.to_string_lossy())).collect();
    let line = format!("timeout {}", quoted.join(" "));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(place.path("work")).stdin(Stdio::null());
    script.envs(lab.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = script.env("TERM", "xterm").output().unwrap();
    let shown = words(&output);
    assert!(output.status.success(), "{shown}");
    for part in ["/8 files", "RTT ms, busy", "Mbit/s", "The page: results/", "report.html"] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
}

#[test]
fn exit_code_is_that_of_the_command() {
    for user in users() {
        let place = Place::new(user);
        let code = |args: &[&str]| place.run(args).status.code();
        let exec = |line: &str| code(&["--servers", "none", "--exec", "sh", "-c", line]);
        assert_eq!(exec("exit 0"), Some(0));
        assert_eq!(exec("exit 37"), Some(37));
        assert_eq!(exec("kill -9 $$"), Some(137));
        let killed = place.run(&["--servers", "none", "--exec", "sh", "-c", "kill -9 $$"]);
        assert!(words(&killed).contains("was ended by SIGKILL"), "{}", words(&killed));
        assert_eq!(code(&["--servers", "none", "--exec", "/no/such/program"]), Some(1));
        place.expect_nothing_left();
    }
}

#[test]
fn mistakes_are_told_before_anything_is_built() {
    for user in users() {
        let place = Place::new(user);
        let missing = place.path("none");
        let missing = missing.to_str().unwrap();
        for (args, code, word) in [
            (&["--no-such", "--", "x"][..], 2, "--no-such"),
            (&["--data"], 2, "--data"),
            (&["--exec"], 2, "COMMAND"),
            (&["--servers", "some", "--exec", "true"], 2, "none"),
            (&["--", "--no-such"], 2, "--no-such"),
            (&["wifi-near"], 2, "--exec before it"),
            (&["--", "--link-a", "wifi-naer"], 1, "did you mean wifi-near"),
            (&["--data", missing, "--exec", "true"], 1, "not a folder"),
            (&["--data-b", missing, "--exec", "true"], 1, "not a folder"),
        ] {
            let output = place.run(args);
            assert_eq!(output.status.code(), Some(code), "{args:?}: {}", words(&output));
            assert!(words(&output).contains(word), "{args:?}: {}", words(&output));
        }
        assert!(fs::read_dir(place.path("work")).unwrap().next().is_none());
    }
}

#[test]
fn command_sees_a_network_of_its_own() {
    for user in users() {
        let place = Place::new(user);
        let interfaces = "ls /sys/class/net | grep -v ^ifb | xargs";
        assert_eq!(place.shell(interfaces), "eth0 lo");
        let far = format!(
            "ip netns exec $TWINLINK_NS_B sh -c '{interfaces}'; ip -n $TWINLINK_NS_A -br a | grep -o 10.45.0.2"
        );
        assert_eq!(place.shell(&far), "eth0 lo\n10.45.0.2");
        assert_eq!(place.shell("getent ahostsv4 server-b | head -n 1 | cut -d ' ' -f 1"), "10.45.0.3");
        // Nothing listens without servers, and the other host is there.
        let line = "ping -c 1 -W 5 server-a >/dev/null && ! \"$TWINLINK_BIN\" health server-a:4455 2>&1";
        assert!(place.shell(line).contains("nothing answers"));
        let mut lab = place
            .lab(&["--servers", "none", "--exec", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut lab.stdin.take().unwrap(), b"some words").unwrap();
        assert_eq!(lab.wait_with_output().unwrap().stdout, b"some words");
        assert!(network_of_the_machine().is_empty(), "{:?}", network_of_the_machine());
    }
}

#[test]
fn links_are_shaped_in_the_client_namespace_only() {
    for user in users() {
        let place = Place::new(user);
        let hold = "\"$TWINLINK_BIN\" link hold --link-a rate-20 -- true 2>&1";
        assert!(place.shell(hold).contains("rate-20"));
        // The lab's first process is in the bridge's namespace, whose interfaces are not the client's.
        let elsewhere =
            format!("! nsenter --net=/proc/1/ns/net sh -c '{}'", hold.replace("hold", "hold --dev server-a"));
        let words = place.shell(&elsewhere.replace(" --dev server-a", ""));
        assert!(words.contains("cannot shape"), "{words}");
    }
}

#[test]
fn names_mean_ipv6_addresses_with_option_6() {
    for user in users() {
        let place = Place::new(user);
        let [option, dir] = place.data(6, "50KB");
        let output = place.run(&["-6", &option, &dir, "--exec", "getent", "hosts", "server-a"]);
        assert!(words(&output).starts_with("fd45::2 "), "{}", words(&output));
        let output = place.run(&["-6", &option, &dir, "--", "--link-a", "rate-20", "--link-b", "rate-80"]);
        assert!(output.status.success(), "{}", words(&output));
        assert!(words(&output).contains("[fd45::3]:4455"), "{}", words(&output));
        assert_eq!(run_end(&output.stdout)["files"], 6);
    }
}

#[test]
fn servers_are_any_program_with_data_of_their_own() {
    for user in users() {
        let place = Place::new(user);
        for (dir, text) in [("one", "1"), ("two", "2")] {
            fs::write(place.folder(dir).join("file"), text).unwrap();
        }
        let [one, two, logs] = ["one", "two", "work/logs"].map(|name| place.path(name).display().to_string());
        let server = format!("{} server --data {{DATA}} --listen {{ADDR}}:{{PORT}}", place.program.display());
        let fetch = "for name in server-a server-b; do printf 'GET /file HTTP/1.0\\r\\n\\r\\n' | \
                     timeout 20 bash -c \"exec 3<>/dev/tcp/$name/4455; cat >&3; tail -n 1 <&3\"; done";
        for custom in [&[][..], &["--server", &server]] {
            let mut args = vec!["--data", &one, "--data-b", &two, "--server-logs", &logs];
            args.extend(custom);
            args.extend(["--exec", "bash", "-c", fetch]);
            let output = place.run(&args);
            assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                "12",
                "{user:?} {custom:?}: {}",
                words(&output)
            );
            for name in ["server-a", "server-b"] {
                let log = fs::read_to_string(format!("{logs}/{name}.jsonl")).unwrap();
                assert!(log.contains("/file") || log.contains("\"file\""), "{log}");
                // The server was asked to end, and did in its own way.
                assert!(log.contains("serve_end"), "{log}");
            }
        }
        let broken = ["--data", &one, "--server", "sh -c 'echo out of order; exit 3'", "--exec", "true"];
        let output = place.run(&broken);
        assert_eq!(output.status.code(), Some(1));
        assert!(words(&output).contains("ended before it listened"), "{}", words(&output));
        assert!(words(&output).contains("out of order"), "{}", words(&output));
        place.expect_nothing_left();
    }
}

#[test]
fn server_that_never_listens_is_named_and_given_up() {
    for user in users() {
        let place = Place::new(user);
        let dir = place.folder("data").display().to_string();
        let output = place.run(&["--data", &dir, "--server", "sleep 300", "--", "--give-up", "1500ms"]);
        assert_eq!(output.status.code(), Some(1), "{}", words(&output));
        for part in [
            "waiting for server-a (\"sleep 300\") to listen on 10.45.0.2:4455",
            "error: cannot run the lab: server-a (\"sleep 300\") did not listen on 10.45.0.2:4455 for 1.5 s",
            "{PORT}",
            "--give-up",
            "it printed nothing",
        ] {
            assert!(words(&output).contains(part), "no {part} in {}", words(&output));
        }
        place.expect_nothing_left();
    }
}

#[test]
fn client_options_keep_the_links_of_the_lab_unless_they_name_one() {
    let Some(&user) = users().last() else { return };
    let place = Place::new(user);
    let [option, dir] = place.data(2, "10KB");
    for (options, profiles) in [
        (&["--schedule", "greedy"][..], &["wifi-near", "lte-medium"][..]),
        (&["--link-b", "rate-20"], &["rate-20"]),
        (&["--backend", "none"], &[]),
    ] {
        let args = [&[option.as_str(), &dir, "--"][..], options].concat();
        let output = place.run(&args);
        assert!(output.status.success(), "{}", words(&output));
        let text = String::from_utf8_lossy(&output.stdout);
        let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let down = |record: &Value| record["event"] == "link" && record["data"]["direction"] == "down";
        let set: Vec<String> = records
            .filter(down)
            .filter_map(|record| Some(record["data"]["profile"].as_str()?.into()))
            .collect();
        assert_eq!(set, profiles, "{options:?}");
    }
}

/// A lab whose command notes which signal it got, and ends in its own way.
fn start_noting(place: &Place, data: &[String; 2]) -> (Child, i32) {
    let line = "trap 'echo TERM >got; exit 5' TERM; trap 'echo INT >got; exit 6' INT; \
                trap 'echo HUP >got; exit 7' HUP; trap 'echo QUIT >got; exit 8' QUIT; \
                echo >up; while :; do sleep 0.05; done";
    start(place, data, line)
}

/// A lab in the background whose command has made the file `up`; with the number of its first process.
fn start(place: &Place, data: &[String; 2], line: &str) -> (Child, i32) {
    let _ = fs::remove_file(place.path("work/up"));
    let args = ["--exec".to_string(), "bash".into(), "-c".into(), line.into()];
    let args: Vec<&str> = data.iter().chain(&args).map(String::as_str).collect();
    let lab = place.lab(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the command is up", || place.path("work/up").exists());
    let started = format!("{} lab", place.program.display());
    let lab_process = |parent: i32| {
        let all = place.processes().into_iter().filter(|(_, line)| line.starts_with(&started));
        all.map(|(pid, _)| pid).find(|pid| parent_of(*pid) == parent)
    };
    // timeout → the lab; setpriv has become the lab.
    let outer = lab_process(lab.id() as i32).expect("the lab's process");
    (lab, outer)
}

fn parent_of(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    after_name.split_whitespace().nth(1).and_then(|parent| parent.parse().ok()).unwrap_or_default()
}

fn kill(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

#[test]
fn signals_reach_the_command_which_ends_in_its_own_way() {
    use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    for user in users() {
        let place = Place::new(user);
        let data = place.data(1, "1KB");
        let signals = [(SIGTERM, "TERM", 5), (SIGINT, "INT", 6), (SIGHUP, "HUP", 7), (SIGQUIT, "QUIT", 8)];
        for (signal, got, code) in signals {
            let (mut lab, outer) = start_noting(&place, &data);
            kill(outer, signal);
            assert_eq!(lab.wait().unwrap().code(), Some(code), "{user:?} {signal}");
            assert_eq!(fs::read_to_string(place.path("work/got")).unwrap().trim(), got);
            place.expect_nothing_left();
        }
        let deaf = "trap '' TERM INT; echo >up; while :; do sleep 0.05; done";
        let (mut lab, outer) = start(&place, &data, deaf);
        // The second one insists.
        let began = Instant::now();
        while lab.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < PATIENCE);
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(outer), SIGTERM);
            std::thread::sleep(Duration::from_millis(400));
        }
        assert_eq!(lab.wait().unwrap().code(), Some(137));
        place.expect_nothing_left();
    }
}

#[test]
fn nothing_is_left_after_sigkill_of_any_process() {
    for user in users() {
        let place = Place::new(user);
        let data = place.data(40, "500KB");
        let client = "\"$TWINLINK_BIN\" client --link-a rate-20 --link-b rate-20 server-a server-b >log & \
                      until grep -q link log; do sleep 0.05; done; echo >up; wait";
        // The lab itself, and its first process: everything ends at once.
        for first in [false, true] {
            let (mut lab, outer) = start(&place, &data, client);
            let all = place.processes();
            assert!(all.len() >= 7, "the lab's three, servers, client and shell: {all:?}");
            let namespaces = namespaces_of(&all.iter().map(|(pid, _)| *pid).collect::<Vec<_>>());
            assert!(namespaces.len() >= 6, "networks of four hosts, mounts, processes: {namespaces:?}");
            // The kernel gives a later process of another test the number of a namespace that is gone.
            let alive_before = numbers_of_processes();
            let inner = all.iter().map(|(pid, _)| *pid).find(|pid| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                parent_of(*pid) == outer && name.trim() == "twinlink-lab"
            });
            let victim = if first { inner.expect("the first process") } else { outer };
            kill(victim, nix::sys::signal::Signal::SIGKILL);
            let status = lab.wait().unwrap();
            assert!(status.code() == Some(137) || status.signal() == Some(9), "{status}");
            place.expect_nothing_left();
            eventually("no namespace is left", || namespaces_of(&alive_before).is_disjoint(&namespaces));
        }
        // A server, or what deletes the files: the lab lives on, and its end leaves nothing.
        for victim in ["server --data", "lab --data"] {
            let (mut lab, outer) = start_noting(&place, &data);
            let mut all = place.processes().into_iter();
            let (pid, _) = all
                .find(|(pid, line)| {
                    let is_lab_keeper = *pid == outer || parent_of(*pid) != outer;
                    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                    line.contains(victim)
                        && (victim.starts_with("server") || (!is_lab_keeper && name.trim() != "twinlink-lab"))
                })
                .unwrap_or_else(|| panic!("no {victim} in {:?}", place.processes()));
            kill(pid, nix::sys::signal::Signal::SIGKILL);
            kill(outer, nix::sys::signal::Signal::SIGTERM);
            assert_eq!(lab.wait().unwrap().code(), Some(5), "{user:?} {victim}");
            place.expect_nothing_left();
        }
        assert!(network_of_the_machine().is_empty(), "{:?}", network_of_the_machine());
    }
}

#[test]
fn labs_run_side_by_side() {
    for user in users() {
        let place = Place::new(user);
        let [option, dir] = place.data(8, "100KB");
        let labs: Vec<Child> = (0..10)
            .map(|_| {
                let mut lab = place.lab(&[&option, &dir, "--", "--link-a", "rate-20", "--link-b", "rate-80"]);
                lab.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        // Each has a control socket of its own at the same path.
        let show =
            "\"$TWINLINK_BIN\" link hold --link-a wifi-far -- \"$TWINLINK_BIN\" link show --json 2>/dev/null";
        let shown: Value = serde_json::from_str(&place.shell(show)).unwrap();
        assert_eq!(shown["links"][0]["profile"], "wifi-far", "{shown}");
        for lab in labs {
            let output = lab.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", words(&output));
            assert_eq!(run_end(&output.stdout)["files"], 8);
        }
        assert_eq!(fs::read_dir(place.path("work/results")).unwrap().count(), 10);
        place.expect_nothing_left();
    }
}

/// The records of the only run's log so far.
fn records(place: &Place) -> Vec<Value> {
    let runs = fs::read_dir(place.path("work/results")).into_iter().flatten().flatten();
    let text: String = runs.filter_map(|run| fs::read_to_string(run.path().join("log.jsonl")).ok()).collect();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn link_change_from_outside_is_in_the_log() {
    for user in users() {
        let place = Place::new(user);
        let [option, dir] = place.data(40, "200KB");
        // Slow enough that the run lasts until both links are cleared.
        let lab = ["--name", "mine", &option, &dir, "--", "--link-a", "edge", "--link-b", "edge"];
        let lab = place.lab(&lab).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let is_under_way = |record: &Value| record["event"] == "sample";
        eventually("the run is under way", || records(&place).iter().any(is_under_way));
        let ask = |args: &[&str]| {
            let output = place.program(&[&["link"], args].concat()).output().unwrap();
            assert!(output.status.success(), "{user:?} {args:?}: {}", words(&output));
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(ask(&["set", "a", "3g"]).contains("3g"));
        assert!(ask(&["set", "b", "3g", "--lab", "mine"]).contains("3g"));
        let shown: Value = serde_json::from_str(&ask(&["show", "--json"])).unwrap();
        assert_eq!(shown["links"][0]["profile"], "3g");
        if user == User::Own {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("netem/show.sh");
            let mut show = Command::new(script);
            show.env("TWINLINK_LABS", place.path("runtime/labs")).env("TWINLINK_BIN", &place.program);
            // The compose lab of somebody else here is not meant.
            let output = show.env("COMPOSE_PROJECT_NAME", "twinlink-no-such").output().unwrap();
            assert!(words(&output).contains("3g"), "{}", words(&output));
        }
        assert_eq!(ask(&["clear"]), "links a and b are cleared\nno link is shaped\n");
        let output = lab.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", words(&output));
        let changes: Vec<String> = records(&place)
            .iter()
            .filter(|record| record["event"] == "link" && record["data"]["direction"] == "down")
            .map(|record| record["data"].clone())
            .map(|link| {
                let profile = link["profile"].as_str().unwrap_or("-");
                format!("{} {} {profile}", link["link"].as_str().unwrap(), link["action"].as_str().unwrap())
            })
            .collect();
        let wanted =
            ["a set edge", "b set edge", "a changed 3g", "b changed 3g", "a cleared -", "b cleared -"];
        assert_eq!(changes, wanted);
        place.expect_nothing_left();
    }
}

#[test]
fn several_labs_are_told_apart_by_name() {
    for user in users() {
        let place = Place::new(user);
        let data = place.data(1, "1KB");
        let hold = |profile: &str| {
            let wait = "twinlink link show >/dev/null && echo >>up; while :; do sleep 0.05; done";
            format!("exec twinlink link hold --link-a {profile} -- sh -c '{wait}'")
        };
        let ask = |args: &[&str]| place.program(args).output().unwrap();
        let (mut one, first) = start(&place, &data, &hold("rate-20"));
        let (mut two, second) = start(&place, &data, &hold("rate-80"));
        let output = ask(&["link", "set", "a", "wifi-near"]);
        assert_eq!(output.status.code(), Some(1), "{}", words(&output));
        for part in ["cannot choose between 2 labs", "--lab NAME", "lab-1  lab --data", "lab-2  lab --data"] {
            assert!(words(&output).contains(part), "no {part} in {}", words(&output));
        }
        for (name, profile) in [("lab-1", "rate-20"), ("lab-2", "rate-80")] {
            let output = ask(&["link", "show", "--lab", name]);
            assert!(words(&output).contains(profile), "{user:?} {name}: {}", words(&output));
        }
        for (args, word) in [
            (&["link", "show", "--lab", "other"][..], "cannot find a lab named other"),
            (&["lab", "--name", "lab-2", "--exec", "true"], "another lab of this name runs"),
        ] {
            let output = ask(args);
            assert_eq!(output.status.code(), Some(1), "{args:?}: {}", words(&output));
            assert!(words(&output).contains(word), "{args:?}: {}", words(&output));
        }
        assert_eq!(ask(&["lab", "--name", "../x", "--exec", "true"]).status.code(), Some(2));
        kill(first, nix::sys::signal::Signal::SIGTERM);
        one.wait().unwrap();
        // The only one is meant.
        assert!(words(&ask(&["link", "set", "a", "rate-20"])).contains("rate-20"));
        kill(second, nix::sys::signal::Signal::SIGTERM);
        two.wait().unwrap();
        let output = ask(&["link", "set", "a", "wifi-near"]);
        assert!(words(&output).contains("start twinlink lab"), "{}", words(&output));
        place.expect_nothing_left();
        // Not even an empty folder.
        let labs = place.path("runtime/labs");
        eventually("no lab has an entry", || fs::read_dir(&labs).unwrap().next().is_none());
    }
}

#[test]
fn entry_of_a_killed_lab_is_swept() {
    for user in users() {
        let place = Place::new(user);
        let data = place.data(1, "1KB");
        let (mut lab, outer) = start_noting(&place, &data);
        let entry = place.path("runtime/labs/lab-1");
        assert_eq!(fs::metadata(&entry).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(place.path("runtime/labs")).unwrap().permissions().mode() & 0o777, 0o700);
        // The process that cleans up after a lab is killed first.
        let cleaner = place.processes().into_iter().map(|(pid, _)| pid).find(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            parent_of(*pid) == outer && name.trim() != "twinlink-lab"
        });
        kill(cleaner.expect("the process that cleans up"), nix::sys::signal::Signal::SIGKILL);
        kill(outer, nix::sys::signal::Signal::SIGKILL);
        lab.wait().unwrap();
        eventually("the lab's processes end", || place.processes().is_empty());
        assert!(entry.exists());
        let listed = place.program(&["lab", "--list"]).output().unwrap();
        assert_eq!((listed.status.code(), words(&listed).as_str()), (Some(0), ""));
        assert!(!entry.exists(), "{user:?}");
        fs::remove_dir_all(fs::read_dir(place.path("tmp")).unwrap().next().unwrap().unwrap().path()).unwrap();
        place.expect_nothing_left();
    }
}

#[test]
fn samples_last_as_long_as_the_lab_without_a_cache() {
    let Some(&user) = users().last() else { return };
    let place = Place::new(user);
    // As root too, no folder can be made below a file.
    fs::write(place.path("file"), "").unwrap();
    let mut lab = place.lab(&["--exec", "sh", "-c", "ls $TMPDIR/samples | wc -l"]);
    let output = lab.env("XDG_CACHE_HOME", place.path("file")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "161", "{}", words(&output));
    assert!(words(&output).contains("set XDG_CACHE_HOME"), "{}", words(&output));
    place.expect_nothing_left();
}

#[test]
fn results_in_a_folder_of_another_user_belong_to_the_user() {
    if !is_root() || users().is_empty() {
        return;
    }
    let place = Place::new(User::Ordinary);
    let [option, dir] = place.data(2, "10KB");
    // Root's, and open to all, as /tmp is.
    let shared = place.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    let output = place.run(&[&option, &dir, "--", "--results", shared.to_str().unwrap()]);
    assert!(output.status.success(), "{}", words(&output));
    assert!(is_report_of(&shared, NOBODY));
}

fn is_report_of(results: &Path, user: u32) -> bool {
    let run = fs::read_dir(results).unwrap().flatten().next().expect("a run's folder").path();
    let page = fs::metadata(run.join("report.html")).expect("its page");
    std::os::unix::fs::MetadataExt::uid(&page) == user
}
