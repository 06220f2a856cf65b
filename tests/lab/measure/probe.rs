//! `twinlink link probe` is the lab's own iperf3: on links without loss its goodput is iperf3's in the same namespaces,
//! each way. And it tells a link that is not what its profile says.

use std::net::TcpStream;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::fixture::{Inside, Lab, Log, Place, between, eventually, have, number, server, stdout_of, users};

fn of<'a>(probes: &'a Value, link: &str, direction: &str) -> &'a Value {
    let is_it = |row: &&Value| row["link"] == link && row["direction"] == direction;
    probes.as_array().unwrap().iter().find(is_it).unwrap()
}

impl Inside {
    fn start_iperf3(&self) -> [Child; 2] {
        ["a", "b"].map(|link| {
            let child = self.in_server(link, "iperf3", &["-s"]).stdout(Stdio::null()).spawn().unwrap();
            eventually("iperf3 listens", || TcpStream::connect((server(link), 5201)).is_ok());
            child
        })
    }
}

fn expect_goodput_of_iperf3(a: &str, b: &str) {
    if !have(&["iperf3"]) {
        return;
    }
    let Some(lab) = Lab::serving(8, "500KB").enter() else { return };
    let _servers = lab.start_iperf3();
    // Mbit/s of goodput after the first second, of both links at once, as the probe does it.
    let run = "for way in down up; do
                   reverse=-R; [ $way = down ] || reverse=
                   for each in a:10.45.0.2 b:10.45.0.3; do
                       iperf3 -c ${each#*:} -t 4 -O 1 -J $reverse >iperf3-${each%%:*}-$way &
                   done
                   wait
               done";
    let links = ["--link-a", a, "--link-b", b];
    stdout_of(&mut lab.twinlink(&[&["link", "hold"], &links[..], &["--", "bash", "-c", run]].concat()));
    let probes = lab.json(&[&["link", "probe", "--json"], &links[..]].concat());
    assert!(probes.as_array().unwrap().iter().filter(|probe| probe["ok"] == true).count() == 4, "{probes}");
    for link in ["a", "b"] {
        for direction in ["down", "up"] {
            let iperf3: Value =
                serde_json::from_str(&lab.sh(&format!("cat iperf3-{link}-{direction}"))).unwrap();
            let iperf3 = number(&iperf3["end"]["sum_received"]["bits_per_second"]) / 1e6;
            // A machine that is held up takes from either figure and adds to none. So the probe finds the goodput of
            // iperf3, or more, and never more than full frames of the link's rate carry: 1448 of 1514 bytes.
            let probe = of(&probes, link, direction);
            let most = 1.01 * number(&probe["rate_expected_kbit"]) / 1e3 * 1448.0 / 1514.0;
            let what = format!("Mbit/s of {link} {direction}, iperf3 {iperf3:.3}");
            between(&what, number(&probe["goodput_kbit"]) / 1e3, 0.97 * iperf3, most);
        }
    }
    assert!(!lab.network_state().contains("twl-"), "the probe left devices");
}

#[test]
fn goodput_on_rate_links_is_that_of_iperf3() {
    expect_goodput_of_iperf3("rate-80", "rate-20");
}

#[test]
fn goodput_on_uneven_links_is_that_of_iperf3() {
    expect_goodput_of_iperf3("dsl", "cable");
}

#[test]
fn links_are_probed_as_they_are() {
    let Some(lab) = Lab::serving(8, "500KB").enter() else { return };
    let probes = lab.json(&["link", "probe", "--json"]);
    assert!(probes.as_array().unwrap().iter().all(|probe| probe["ok"].is_null()), "{probes}");
    let owner = lab.own_links(&["--link-b", "rate-20"]);
    let probes = lab.json(&["link", "probe", "--json"]);
    for direction in ["down", "up"] {
        let probe = of(&probes, "b", direction);
        assert_eq!((number(&probe["rate_expected_kbit"]), &probe["ok"]), (20_000.0, &true.into()), "{probe}");
    }
    owner.release();
}

/// Returns the directions whose verdict is bad. Of the links that are right, a busy machine's verdict may be bad; it then
/// says so, and blames no link.
fn wrong(log: &Log) -> Vec<String> {
    let is_blamed = |probe: &&Value| {
        let is_busy = probe["verdict"].as_str().unwrap().starts_with("This machine is busy");
        probe["ok"] == false && (!is_busy || (probe["link"] == "a" && probe["direction"] == "down"))
    };
    let name = |probe: &Value| {
        format!("{} {}", probe["link"].as_str().unwrap(), probe["direction"].as_str().unwrap())
    };
    log.of("probe").into_iter().filter(is_blamed).map(name).collect()
}

#[test]
fn link_that_is_not_as_its_profile_says_is_told() {
    let Some(lab) = Lab::serving(8, "500KB").enter() else { return };
    let slow =
        ["qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "10mbit", "burst", "3000", "limit", "100000"];
    stdout_of(&mut lab.in_server("a", "tc", &slow));
    let links = ["--link-a", "rate-20", "--link-b", "rate-80"];
    let (code, log) = lab.client("on", &[&["--probe=on"], &links[..]].concat()).end();
    assert_ne!(code, Some(0), "a run with a wrong link went on");
    assert_eq!(log.end()["exit"], "probe", "{}", log.end());
    assert_eq!(wrong(&log), ["a down"], "{:?}", log.of("probe"));
    assert!(log.of("segment").is_empty());
    let log = lab.client("warn", &[&["--probe", "warn"], &links[..]].concat()).well();
    assert_eq!(log.of("probe").len(), 4);
    assert_eq!(wrong(&log), ["a down"], "{:?}", log.of("probe"));
}

#[test]
fn links_of_root_and_of_an_ordinary_user_are_as_their_profiles_say() {
    for user in users() {
        let place = Place::new(user);
        let [option, data] = place.data(8, "500KB");
        let client = [
            "--",
            "--link-a",
            "wifi-near",
            "--link-b",
            "lte-medium",
            "--probe",
            "warn",
            "--log",
            "log.jsonl",
        ];
        let output = place.run(&[&[&*option, &*data], &client[..]].concat());
        assert!(output.status.success(), "{user:?}: {}", String::from_utf8_lossy(&output.stderr));
        let log = Log::read(&place.path("work/log.jsonl"));
        let probes = log.of("probe");
        assert_eq!(probes.len(), 4, "{user:?}");
        for probe in probes {
            let verdict = probe["verdict"].as_str().unwrap();
            let verdict = verdict.strip_prefix("At the second attempt: ").unwrap_or(verdict);
            assert!(probe["ok"] == true || verdict.starts_with("This machine is busy"), "{user:?}: {probe}");
        }
    }
}
