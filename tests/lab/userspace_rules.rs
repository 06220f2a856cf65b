//! Rules that the userspace backend puts into the kernel are gone when it ends, however it ends, and what it cannot do it
//! refuses in words. While nobody holds the packets, nothing passes.

use std::fs;
use std::process::{Child, Command};

use nix::sys::signal::Signal::{SIGKILL, SIGTERM};

use crate::fixture::{Inside, Lab, eventually, executable, is_success, signal, stdout_of};

impl Inside {
    fn userspace(&self, options: &[&str]) -> Command {
        self.twinlink(&[&["link", "hold", "--backend", "userspace"], options].concat())
    }

    /// Starts a process that holds both links' packets.
    fn holder(&self) -> Child {
        let links = ["--link-a", "wifi-near", "--link-b", "lte-medium", "--", "sleep", "600"];
        let holder = self.userspace(&links).spawn().unwrap();
        let rule = ["-t", "raw", "-C", "OUTPUT", "-j", "TWINLINK-OUT"];
        eventually("both links are held", || {
            is_success(&mut self.command("iptables", &rule)) && !self.held().is_empty()
        });
        holder
    }

    fn reaches(&self, address: &str) -> bool {
        is_success(&mut self.command("ping", &["-c", "1", "-W", "2", address]))
    }

    /// Leaves what a killed holder leaves.
    fn kill_a_holder(&self) {
        let mut holder = self.holder();
        signal(&holder, SIGKILL);
        holder.wait().unwrap();
        assert!(self.rules() >= 4);
        assert!(!self.reaches("10.45.0.2"), "packets pass unshaped though nobody holds them");
    }

    fn held(&self) -> String {
        let shown = self.json(&["link", "show", "--json"]);
        let down = shown["links"].as_array().unwrap().iter().filter(|row| row["direction"] == "down");
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
        let rows = down.map(|row| [&row["link"], &row["profile"], &row["backend"]].map(text).join(" "));
        rows.collect::<Vec<_>>().join(", ")
    }
}

const LIST: [&str; 4] = ["iptables", "-t", "raw", "-S"];

#[test]
fn rules_are_there_while_links_are_held_and_gone_afterwards() {
    let Some(lab) = Lab::bare().enter() else { return };
    lab.sh("iptables -t raw -A OUTPUT -d 192.0.2.1 -j DROP");
    let hold = |command: &[&str]| {
        stdout_of(&mut lab.userspace(&[&["--link-a", "wifi-near", "--"], command].concat()))
    };
    assert_eq!(lab.rules(), 0);
    let listed = hold(&LIST);
    assert!(listed.lines().filter(|line| line.contains("TWINLINK")).count() >= 4, "{listed}");
    assert_eq!(lab.rules(), 0);
    // A rule of somebody else's stays.
    assert_eq!(lab.sh("iptables -t raw -S").matches("192.0.2.1").count(), 1);

    let mut holder = lab.holder();
    assert!(lab.reaches("10.45.0.2"), "a held link does not pass");
    assert_eq!(lab.held(), "a wifi-near userspace, b lte-medium userspace");
    stdout_of(&mut lab.twinlink(&["link", "set", "b", "wifi-far"]));
    assert_eq!(lab.held(), "a wifi-near userspace, b wifi-far userspace");
    stdout_of(&mut lab.twinlink(&["link", "clear", "a"]));
    assert_eq!(lab.held(), "b wifi-far userspace");
    signal(&holder, SIGTERM);
    holder.wait().unwrap();
    assert_eq!(lab.rules(), 0);

    // A program under it that shapes nothing takes nothing away.
    let program = std::env::var("TWINLINK_BIN").unwrap();
    let listed = hold(&[&[program.as_str(), "link", "hold", "--"], &LIST[..]].concat());
    assert!(listed.lines().filter(|line| line.contains("TWINLINK")).count() >= 4, "{listed}");
}

#[test]
fn rules_of_a_killed_holder_stop_packets_until_the_next_start() {
    let Some(lab) = Lab::bare().enter() else { return };
    lab.kill_a_holder();
    stdout_of(&mut lab.twinlink(&["link", "clear"]));
    assert!(lab.reaches("10.45.0.2"));
    assert_eq!(lab.rules(), 0);
    // A start that shapes nothing repairs too.
    lab.kill_a_holder();
    stdout_of(&mut lab.twinlink(&["link", "hold", "--", "ping", "-c", "1", "-W", "2", "10.45.0.2"]));
    assert_eq!(lab.rules(), 0);
    lab.kill_a_holder();
    let both = "ping -c 1 -W 2 10.45.0.2 && ping -c 1 -W 2 10.45.0.3";
    stdout_of(&mut lab.userspace(&["--link-b", "lte-medium", "--", "bash", "-c", both]));
    assert_eq!(lab.rules(), 0);
}

#[test]
fn refusal_says_what_is_in_the_way_of_userspace_links() {
    let Some(lab) = Lab::bare().enter() else { return };
    let near = ["--link-a", "wifi-near", "--", "true"];

    // A program that has one of the queues: it binds it and sleeps.
    let bind = "
import socket, struct, time
sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
sock.bind((0, 0))
command = struct.pack('=HH', 8, 1) + struct.pack('=BBH', 1, 0, 0)
body = struct.pack('=BB', 0, 0) + struct.pack('!H', 4452) + command
sock.send(struct.pack('=IHHII', 16 + len(body), 3 << 8 | 2, 5, 0, 0) + body)
time.sleep(600)";
    let has_queue = || {
        let table = fs::read_to_string("/proc/net/netfilter/nfnetlink_queue").unwrap_or_default();
        table.lines().any(|line| line.split_whitespace().next() == Some("4452"))
    };
    let mut other = lab.command("python3", &["-c", bind]).spawn().unwrap();
    eventually("the queue is taken", has_queue);
    lab.refused(&mut lab.userspace(&near), &["packet queue 4452: another program"]);
    assert_eq!(lab.rules(), 0);
    other.kill().unwrap();
    other.wait().unwrap();
    eventually("the queue is free", || !has_queue());

    // The folder of the real iptables is looked in whatever PATH says, so it is covered.
    let bin = lab.path("bin");
    fs::create_dir(&bin).unwrap();
    lab.sh("for tool in bash ip mount tc true unshare; do cp \"$(type -P $tool)\" bin; done");
    let covered = lab.sh("dirname \"$(realpath \"$(command -v iptables)\")\"");
    let without_iptables = || {
        let line = "mount -t tmpfs none \"$0\" && exec \"$TWINLINK_BIN\" link hold --backend userspace --link-a wifi-near -- true";
        let mut command =
            lab.command(bin.join("unshare").to_str().unwrap(), &["--mount", "bash", "-c", line, &covered]);
        command.env("PATH", &bin);
        command
    };
    lab.refused(&mut without_iptables(), &["install iptables"]);
    // Programs that are there and refuse: what they say is what the user reads.
    for tool in ["iptables", "iptables-restore"] {
        let text = format!("#!{}/bash\necho 'the table is locked by a policy' >&2\nexit 4\n", bin.display());
        executable(&bin.join(tool), &text);
    }
    lab.refused(&mut without_iptables(), &["says: the table is locked by a policy", "NET_ADMIN"]);
    assert_eq!(lab.rules(), 0);

    let plain = "rate = \"10mbit\"\nqueue = \"100ms\"";
    let twice = lab.profile("twice", &format!("{plain}\nduplicate = \"1%\""), plain, "");
    lab.refused(&mut lab.userspace(&["--link-a", &twice, "--", "true"]), &["down.duplicate"]);
    lab.refused(&mut lab.twinlink(&["link", "set", "a", "wifi-near"]), &["no process shapes links here"]);

    let channel = |name: &str, link: &str, phy: &str| {
        let text =
            format!("description = \"x\"\n[channel]\n[link.{link}]\nphy = \"{phy}\"\nqueue = \"50p\"\n");
        lab.write(&format!("{name}.toml"), &text)
    };
    let hold = |channel: &str| lab.userspace(&["--channel", channel, "--", "true"]);
    lab.refused(&mut hold(&channel("unknown", "c", "802.11a/6")), &["link \"c\" not found"]);
    lab.refused(&mut hold(&channel("radio", "a", "802.11a/7")), &["did you mean 802.11a/6"]);
    lab.refused(&mut hold("course-scenario-9"), &["channel \"course-scenario-9\" not found"]);
    let good = channel("good", "a", "802.11a/6");
    let both = ["--channel", &good, "--link-a", "wifi-near", "--", "true"];
    lab.refused(&mut lab.userspace(&both), &["profile of its own"]);
    let mut netem = lab.twinlink(&["link", "hold", "--backend", "netem", "--channel", &good, "--", "true"]);
    lab.refused(&mut netem, &["shared channel with netem"]);
    assert_eq!(lab.rules(), 0);
}
