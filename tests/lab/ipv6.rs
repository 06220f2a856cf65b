//! IPv6 servers are shaped as IPv4 ones are, each way and by both backends: the rates of the links are measured, and a run
//! over them agrees with its shaper's counters.

use std::path::Path;

use crate::fixture::{Inside, Lab, between, number, stdout_of};

fn lab_with_ipv6() -> Option<Inside> {
    let lab = Lab::with_segments(12, "500KB").enter()?;
    if !Path::new("/proc/net/if_inet6").exists() {
        println!("NOT RUN: this kernel has no IPv6");
        return None;
    }
    Some(lab)
}

impl Inside {
    fn uneven(&self) -> String {
        let rate = |mbit: u32| format!("rate = \"{mbit}mbit\"\nqueue = \"100ms\"");
        self.profile("uneven", &rate(30), &rate(6), "")
    }

    /// Expects that each of the four directions has the rate of its profile.
    fn expect_rates(&self, mbits: [f64; 4], options: &[&str]) {
        let args = [&["link", "probe", "--json"], options, &["server-a6", "server-b6"]].concat();
        let probes = self.json(&args);
        let probes = probes.as_array().unwrap();
        assert!(probes.iter().all(|probe| probe["ok"] == true), "{probes:?}");
        let expected: Vec<f64> =
            probes.iter().map(|probe| number(&probe["rate_expected_kbit"]) / 1e3).collect();
        assert_eq!(expected, mbits);
    }
}

#[test]
fn ipv6_links_have_the_rates_of_their_profiles() {
    let Some(lab) = lab_with_ipv6() else { return };
    let _servers = lab.start_servers();
    let uneven = lab.uneven();
    lab.expect_rates([30.0, 6.0, 20.0, 20.0], &["--link-a", &uneven, "--link-b", "rate-20"]);
    let held = ["--backend", "userspace", "--link-a", "cable", "--link-b", &uneven];
    lab.expect_rates([5.0, 1.0, 30.0, 6.0], &held);
}

#[test]
fn run_over_ipv6_agrees_with_its_shaper() {
    let Some(lab) = lab_with_ipv6() else { return };
    let _servers = lab.start_servers();
    let uneven = lab.uneven();
    for backend in ["auto", "userspace"] {
        let options = ["--backend", backend, "--link-a", &uneven, "--link-b", "rate-20"];
        let log = lab.client_of(backend, &options, ["server-a6", "server-b6"]).well();
        log.expect_reconciled();
        between("efficiency", number(&log.end()["efficiency"]), 0.8, 1.0);
    }
    // One server of each kind.
    let options = ["--link-a", "rate-20", "--link-b", "rate-20"];
    lab.client_of("mixed", &options, ["server-a6", "server-b"]).well().expect_reconciled();
    stdout_of(&mut lab.twinlink(&["health", "[fd45::2]:4455"]));
}
