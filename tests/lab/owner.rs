//! Shaping touches only what is the lab's: a host's own interface is refused, filters from elsewhere stay, one process
//! shapes at a time, what a killed run left is removed, and whatever fails leaves nothing half done.

use std::process::Command;

use serde_json::{Value, json};

use crate::fixture::{
    Inside, Lab, eventually, is_root, is_success, number, program_under_test, server, stdout_of, words,
};

impl Inside {
    fn preferences(&self, direction: &str) -> Value {
        let filters = self.sh(&format!("tc -j filter show dev eth0 {direction}"));
        let filters: Value = serde_json::from_str(&filters).unwrap();
        let mut all: Vec<u64> =
            filters.as_array().unwrap().iter().filter_map(|one| one["pref"].as_u64()).collect();
        all.sort_unstable();
        all.dedup();
        json!(all)
    }

    fn hold(&self, options: &[&str]) -> Command {
        self.twinlink(&[&["link", "hold"], options, &["--", "true"]].concat())
    }

    /// Expects a refusal in one line that leaves the network as it was.
    fn refused_without_change(&self, command: &mut Command, part: &str) {
        let before = self.network_state();
        let said = self.refused(command, &[part]);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(self.network_state(), before);
    }

    /// Returns what these keys have in each link that is shown.
    fn links(&self, keys: &[&str]) -> Vec<Value> {
        let shown = self.json(&["link", "show", "--json"]);
        let row = |row: &Value| json!(keys.iter().map(|key| &row[*key]).collect::<Vec<_>>());
        let mut rows: Vec<Value> = shown["links"].as_array().unwrap().iter().map(row).collect();
        rows.dedup();
        rows
    }
}

/// An interface on the machine that is taken away when this is dropped.
struct Veth(String);

impl Drop for Veth {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

#[test]
fn interfaces_of_the_machine_itself_are_refused() {
    if !is_root() {
        return;
    }
    let sh = |line: &str| stdout_of(Command::new("sh").args(["-ec", line]));
    // Other programs may be busy on this machine, but none of them with these.
    let shaping = || sh("tc qdisc show | grep -cE 'clsact|ingress|tbf|netem' || true");
    let before = shaping();
    let refused = |address: &str, part: &str| {
        let args = ["link", "hold", "--link-a", "rate-20", "--server-a", address, "--", "true"];
        let folder = tempfile::tempdir().unwrap();
        let mut hold = Command::new(program_under_test());
        let output =
            hold.args(args).env("TWINLINK_CONTROL", folder.path().join("control.sock")).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{address}: {}", words(&output));
        assert!(words(&output).contains(part), "{address}: {}", words(&output));
    };
    refused("127.0.0.1", "cannot shape");
    let own = sh("ip -o -4 address show scope global | sed -n 's|.*inet \\([0-9.]*\\)/.*|\\1|p' | head -n 1");
    if !own.is_empty() {
        refused(&own, "cannot shape");
    }
    // A veth whose other end is elsewhere is still not the lab's in the machine's own namespace.
    let veth = Veth(format!("tw-{}", std::process::id()));
    sh(&format!(
        "ip netns add {0} && ip link add {0} type veth peer name eth0 netns {0}
         ip address add 198.51.100.1/24 dev {0} && ip link set {0} up
         ip -n {0} address add 198.51.100.2/24 dev eth0 && ip -n {0} link set eth0 up",
        veth.0
    ));
    refused("198.51.100.2", "the machine's own");
    drop(veth);
    assert_eq!(sh("ip -o link | grep -c twl- || true"), "0");
    assert_eq!(shaping(), before);
}

#[test]
fn links_are_set_shown_changed_and_cleared() {
    let Some(lab) = Lab::bare().enter() else { return };
    let clean = lab.network_state();
    let set = |args: &[&str]| drop(stdout_of(&mut lab.twinlink(&[&["link"], args].concat())));
    lab.refused_without_change(
        &mut lab.twinlink(&["link", "set", "a", "rate-20"]),
        "no process shapes links here",
    );
    let owner = lab.own_links(&["--link-a", "rate-20"]);
    set(&["set", "b", "rate-80"]);
    assert_eq!(
        lab.links(&["link", "direction", "profile", "owner"]),
        [
            json!(["a", "down", "rate-20", "run"]),
            json!(["a", "up", "rate-20", "run"]),
            json!(["b", "down", "rate-80", "run"]),
            json!(["b", "up", "rate-80", "run"])
        ]
    );
    lab.sh("ping -q -c 3 -i 0.2 10.45.0.2");
    let packets = number(&lab.shown("a", "down", "/counters/packets"));
    set(&["set", "a", "rate-80"]);
    assert_eq!(lab.shown("a", "down", "/shape/rate"), "80mbit");
    assert!(number(&lab.shown("a", "down", "/counters/packets")) >= packets);
    set(&["clear", "a"]);
    assert_eq!(lab.links(&["link"]), [json!(["b"])]);
    set(&["clear"]);
    assert_eq!(lab.network_state(), clean);
    set(&["set", "a", "rate-20"]);

    lab.refused_without_change(
        &mut lab.twinlink(&["link", "set", "a", "wifi-neer"]),
        "did you mean wifi-near",
    );
    let elsewhere = |args: &[&str]| {
        let mut command = lab.twinlink(&[&["link"], args].concat());
        command.env("TWINLINK_CONTROL", lab.path("elsewhere.sock"));
        command
    };
    let another = format!("another twinlink process ({})", owner.0.id());
    lab.refused_without_change(&mut elsewhere(&["hold", "--link-b", "rate-20", "--", "true"]), &another);
    lab.refused_without_change(&mut elsewhere(&["clear"]), &another);
    // A client that shapes nothing is not refused beside a process that shapes.
    stdout_of(&mut elsewhere(&["hold", "--", "true"]));
    assert_eq!(lab.links(&["link"]), [json!(["a"])]);
    owner.release();
    assert_eq!(lab.network_state(), clean);
}

#[test]
fn hold_that_cannot_shape_changes_nothing() {
    let Some(lab) = Lab::bare().enter() else { return };
    let hold = |options: &[&str]| lab.hold(&[&["--link-a", "rate-20"], options].concat());
    lab.refused_without_change(&mut hold(&["--server-a", "203.0.113.9"]), "unreachable");
    lab.refused_without_change(&mut hold(&["--server-a", "127.0.0.1"]), "not a lab");
    let program = std::env::var("TWINLINK_BIN").unwrap();
    let args = ["--bounding-set=-net_admin", "--inh-caps=-net_admin", &program, "link", "hold"];
    let mut unprivileged = lab.command("setpriv", &args);
    lab.refused_without_change(unprivileged.args(["--link-a", "rate-20", "--", "true"]), "NET_ADMIN");
    let without_tc = "mount -t tmpfs none \"$(dirname \"$(realpath \"$(command -v tc)\")\")\" && \
                      exec \"$TWINLINK_BIN\" link hold --link-a rate-20 -- true";
    lab.refused_without_change(
        &mut lab.command("unshare", &["--mount", "bash", "-c", without_tc]),
        "install the package iproute2",
    );
    let doctor = lab.json(&["doctor", "--json"]);
    let netem = doctor["checks"].as_array().unwrap().iter().find(|check| check["name"] == "netem").unwrap();
    if netem["ok"] != true {
        let netem = ["--link-a", "wifi-near", "--backend", "netem"];
        lab.refused_without_change(&mut lab.hold(&netem), "sch_netem");
    }
}

#[test]
fn another_user_neither_blocks_nor_deceives() {
    let Some(lab) = Lab::bare().enter() else { return };
    if !lab.is_real_root() {
        return;
    }
    let open = tempfile::tempdir_in("/tmp").unwrap();
    lab.sh(&format!("chmod 1777 {}", open.path().display()));
    let socket = open.path().join("control.sock");
    let listen = "
import socket, sys, time
held = [socket.socket(socket.AF_UNIX) for name in sys.argv[1:]]
for one, name in zip(held, sys.argv[1:]):
    one.bind(name.replace('@', '\\0'))
    one.listen(0)
time.sleep(600)";
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut holder = lab.command("setpriv", &nobody);
    holder.args(["python3", "-c", listen, "@twinlink/shaper"]).arg(&socket).current_dir("/");
    let mut holder = holder.spawn().unwrap();
    eventually("the other user listens", || socket.exists());
    let mut show = lab.twinlink(&["link", "show"]);
    lab.refused_without_change(show.env("TWINLINK_CONTROL", &socket), "another user");
    let mut lock = lab.command("setpriv", &nobody);
    lock.args(["flock", "-n", "/proc/sys/net/ipv4/tcp_fastopen_key", "true"]).current_dir("/");
    assert!(!is_success(&mut lock), "an ordinary user can hold the lock");
    stdout_of(&mut lab.hold(&["--link-a", "rate-20"]));
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn filters_from_elsewhere_stay() {
    let Some(lab) = Lab::bare().enter() else { return };
    lab.sh("tc qdisc add dev eth0 clsact
            tc filter add dev eth0 ingress pref 7 protocol ip u32 match ip src 192.0.2.7/32 flowid :1");
    let foreign = lab.network_state();
    let owner = lab.own_links(&["--link-a", "rate-20"]);
    assert_eq!(lab.preferences("ingress"), json!([7, 44551]));
    owner.release();
    assert_eq!(lab.network_state(), foreign);
    lab.sh("tc filter add dev eth0 egress pref 44552 protocol ip u32 match ip dst 192.0.2.7/32 flowid :1");
    lab.refused_without_change(&mut lab.hold(&["--link-a", "rate-20"]), "preference 44552");
    lab.sh("tc qdisc del dev eth0 clsact; tc qdisc add dev eth0 ingress");
    lab.refused_without_change(&mut lab.hold(&["--link-a", "rate-20"]), "ingress from elsewhere");
}

#[test]
fn remains_of_a_killed_run_are_removed() {
    let Some(lab) = Lab::bare().enter() else { return };
    let clean = lab.network_state();
    lab.own_links(&["--link-a", "rate-20"]).kill();
    lab.sh("ip link add twl-b-up type ifb");
    assert_eq!(lab.shown("a", "down", "/owner"), "dead");
    let owner = lab.own_links(&["--link-b", "rate-80"]);
    assert_eq!(lab.links(&["link", "profile"]), [json!(["b", "rate-80"])]);
    assert_eq!(lab.preferences("ingress"), json!([44553]));
    owner.kill();
    lab.sh("ip link del twl-b-down");
    let owner = lab.own_links(&["--link-a", "rate-20"]);
    // A filter without its device is gone, or the link would be dead.
    assert_eq!(lab.preferences("ingress"), json!([44551]));
    lab.sh(&format!("ping -q -c 1 {}", server("b")));
    owner.kill();
    stdout_of(&mut lab.twinlink(&["link", "clear"]));
    assert_eq!(lab.network_state(), clean);
}

#[test]
fn clean_up_goes_on_from_wherever_a_killed_process_left_it() {
    let Some(lab) = Lab::bare().enter() else { return };
    let clean = lab.network_state();
    let steps = [
        "tc filter del dev eth0 ingress pref 44551",
        "tc filter del dev eth0 egress pref 44552",
        "tc qdisc del dev eth0 clsact",
        "ip link del twl-a-down",
    ];
    for done in 0..=steps.len() {
        lab.own_links(&["--link-a", "rate-20"]).kill();
        steps[..done].iter().for_each(|step| drop(lab.sh(step)));
        stdout_of(&mut lab.hold(&["--link-b", "rate-80"]));
        assert_eq!(lab.network_state(), clean, "after {done} steps and a new start");
    }
    // An empty clsact that nobody owns.
    lab.sh("tc qdisc add dev eth0 clsact");
    stdout_of(&mut lab.hold(&["--link-a", "rate-20"]));
    assert_eq!(lab.network_state(), clean);
}
