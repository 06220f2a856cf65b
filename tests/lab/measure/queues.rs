//! Queues and real packets: beside a connection that fills the link, others meet the whole of a fifo, a short queue under
//! CoDel, and none under fq_codel; and packets of senders that ask for ECN are marked, not dropped.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::fixture::{Inside, Lab, between, eventually, number, server, stdout_of};

/// A run over two links with a queue, as link a saw it while it was busy.
struct Loaded {
    /// The median of the packets' time in queue and delay line, which is 20 ms of a busy link (ms).
    held_ms: f64,
    /// The median of handshakes beside the run (ms).
    handshake_ms: f64,
    /// The last sample's direction down.
    down: Value,
}

impl Inside {
    fn loaded(&self, name: &str, queue: &str, servers: [&str; 2]) -> Loaded {
        let plain = "rate = \"20mbit\"\ndelay = \"10ms\"\nqueue = ";
        let profile = self.profile(name, &format!("{plain}{queue}"), &format!("{plain}\"200ms\""), "");
        let links = ["--backend", "userspace", "--link-a", &profile, "--link-b", &profile];
        let options = [&links[..], &["--schedule", "ratio=1:1", "--congestion", "reno"]].concat();
        let mut run = self.client_of(name, &options, servers);
        let held = |data: &Value| data["down"]["queue_ms"].as_f64();
        let is_full = |data: &Value| held(data).is_some_and(|ms| ms > 60.0);
        eventually("the queue fills", || run.log().of("sample").into_iter().any(is_full));
        let handshakes = stdout_of(&mut self.traffic("client", &["rtt", server("a"), "20"]));
        let log = run.well();
        let mut busy = log.of_link("sample", "a");
        busy.retain(|data| number(&data["goodput_kbit"]) > 15_000.0);
        assert!(busy.len() >= 10, "{name}: {} samples of a busy link", busy.len());
        let mut all_held: Vec<f64> = busy.iter().filter_map(|data| held(data)).collect();
        all_held.sort_by(f64::total_cmp);
        let loaded = Loaded {
            held_ms: all_held[all_held.len() / 2],
            handshake_ms: handshakes.split(' ').next().unwrap().parse().unwrap(),
            down: busy.last().unwrap()["down"].clone(),
        };
        println!("{name}: {} ms held, {} ms of handshakes beside it", loaded.held_ms, loaded.handshake_ms);
        loaded
    }
}

const SERVERS: [&str; 2] = ["server-a", "server-b"];

#[test]
fn queue_decides_what_others_meet_beside_a_full_link() {
    let Some(lab) = Lab::serving(80, "500KB").enter() else { return };
    lab.start_sinks();
    let fifo = lab.loaded("fifo", "\"200ms\"", SERVERS);
    let codel = lab.loaded("codel", "{ kind = \"codel\", limit = \"200ms\" }", SERVERS);
    let fq_codel = lab.loaded("fq_codel", "{ kind = \"fq_codel\", limit = \"200ms\" }", SERVERS);
    assert!(codel.held_ms < fifo.held_ms / 2.0);
    assert!(fq_codel.held_ms < fifo.held_ms / 2.0);
    between("handshakes beside a fifo, ms", fifo.handshake_ms, 50.1, f64::INFINITY);
    between("handshakes beside fq_codel, ms", fq_codel.handshake_ms, 0.0, 24.9);
    assert!(number(&fq_codel.down["dropped_queue"]) > 0.0);
    assert_eq!(fq_codel.down["marked"], 0);
}

#[test]
fn packets_that_ask_for_ecn_are_marked_and_not_dropped() {
    let Some(lab) = Lab::serving(80, "500KB").enter() else { return };
    lab.start_sinks();
    let fifo = lab.loaded("fifo", "\"200ms\"", SERVERS);
    if let Err(error) = fs::write("/proc/sys/net/ipv4/tcp_ecn", "1") {
        assert!(std::env::var_os("CI").is_none(), "{error}");
        println!("NOT RUN: this kernel lets nobody ask for ECN here: {error}");
        return;
    }
    let ipv6 = Path::new("/proc/net/if_inet6").exists().then_some(["server-a6", "server-b6"]);
    for servers in [Some(SERVERS), ipv6].into_iter().flatten() {
        let queue = "{ kind = \"fq_codel\", limit = \"200ms\", ecn = true }";
        let marks = lab.loaded(servers[0], queue, servers);
        assert!(number(&marks.down["marked"]) > 0.0, "{}", marks.down);
        assert_eq!(marks.down["dropped_queue"], 0);
        assert!(marks.held_ms < fifo.held_ms / 2.0);
    }
}

#[test]
fn traffic_of_others_has_its_share_and_is_accounted_for() {
    let Some(lab) = Lab::serving(80, "500KB").enter() else { return };
    let up = "rate = \"20mbit\"\ndelay = \"10ms\"\nqueue = \"200ms\"";
    let alone = lab.profile("alone", up, up, "");
    let share_and_efficiency = |name: &str, down: &str| {
        let down = format!("rate = \"20mbit\"\ndelay = \"10ms\"\n{down}");
        let crossed = lab.profile(name, &down, up, "");
        let links = ["--backend", "userspace", "--link-a", &crossed, "--link-b", &alone];
        let options = [&links[..], &["--schedule", "ratio=1:1", "--congestion", "reno"]].concat();
        let log = lab.client_of(name, &options, SERVERS).well();
        assert_eq!(log.end()["links"]["b"]["cross_pct"], Value::Null);
        (number(&log.end()["links"]["a"]["cross_pct"]), number(&log.end()["efficiency"]))
    };
    let (share, efficiency) = share_and_efficiency("datagrams", "queue = \"200ms\"\ncross = \"6mbit\"");
    between("share of datagrams of 6 of 20 Mbit/s, %", share, 26.0, 34.0);
    between("efficiency in what they left", efficiency, 0.8, 1.0);
    let fair = "queue = { kind = \"fq_codel\", limit = \"200ms\" }\ncross = \"1 x reno\"";
    let (share, efficiency) = share_and_efficiency("connection", fair);
    between("share of one connection beside one, %", share, 40.0, 60.0);
    between("efficiency in the whole link", efficiency, 0.3, 0.7);
}

/// Keeps connections to server a busy for some seconds; prints the Mbit/s of each after the first third.
const CONNECTIONS: &str = r#"
import http.client, os, sys, threading, time
number, seconds = int(sys.argv[1]), float(sys.argv[2])
began, got = time.monotonic(), [0] * number
def fetch(at):
    server = http.client.HTTPConnection("server-a", 4455)
    while True:
        server.request("GET", "/s001.m4s", headers={"Twinlink-Sender": "cc=reno"})
        answer = server.getresponse()
        while piece := answer.read(16384):
            if seconds / 3 < time.monotonic() - began < seconds:
                got[at] += len(piece)
for at in range(number):
    threading.Thread(target=fetch, args=(at,), daemon=True).start()
time.sleep(seconds)
print(*(bytes * 8 / (seconds * 2 / 3) / 1e6 for bytes in got), flush=True)
os._exit(0)
"#;

#[test]
fn modelled_connections_leave_what_real_ones_leave() {
    let Some(lab) = Lab::serving(1, "5MB").enter() else { return };
    lab.write("connections.py", CONNECTIONS);
    let of_each = |name: &str, queue: &str, cross: &str, number: &str| -> Vec<f64> {
        let plain = format!("rate = \"20mbit\"\ndelay = \"10ms\"\nqueue = {queue}\n");
        let profile = lab.profile(name, &format!("{plain}{cross}"), &plain, "");
        let hold = ["link", "hold", "--backend", "userspace", "--link-a", &profile, "--"];
        let run = ["python3", "connections.py", number, "9"];
        let told = stdout_of(&mut lab.twinlink(&[&hold[..], &run].concat()));
        told.split_whitespace().map(|mbit| mbit.parse().unwrap()).collect()
    };
    // Three that share a fifo differ by chance, as do the runs; fq_codel gives each the same.
    for (name, queue, runs, tolerance) in
        [("fifo", "\"100ms\"", 3, 0.4), ("fair", "{ kind = \"fq_codel\", limit = \"100ms\" }", 1, 0.08)]
    {
        let real = of_each(&format!("{name}-real"), queue, "", "3");
        let mut modelled: Vec<f64> =
            (0..runs).map(|_| of_each(name, queue, "cross = \"2 x reno\"", "1")[0]).collect();
        modelled.sort_by(f64::total_cmp);
        let (mean, beside_modelled) = (real.iter().sum::<f64>() / 3.0, modelled[runs / 2]);
        println!("{name}: {real:?} Mbit/s of three, {modelled:?} beside two of the model");
        let range = (mean * (1.0 - tolerance), mean * (1.0 + tolerance));
        between("Mbit/s beside two connections of the model", beside_modelled, range.0, range.1);
    }
}
