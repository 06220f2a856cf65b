//! Rate-only links hold their rate, down and up, both at once and for IPv6, on whatever kernel this is.

use std::path::Path;

use crate::fixture::{Lab, number, within};

#[test]
fn each_direction_holds_its_rate() {
    let Some(lab) = Lab::bare().enter() else { return };
    lab.start_sinks();
    let _owner = lab.own_links(&["--link-a", "rate-20", "--link-b", "rate-80"]);
    for direction in ["down", "up"] {
        within(&format!("Mbit/s of a {direction}"), lab.rate_of("a", direction, 26, 2.0), 20.0, 2.0);
        within(&format!("Mbit/s of b {direction}"), lab.rate_of("b", direction, 104, 2.0), 80.0, 2.0);
    }
    assert!(number(&lab.shown("a", "down", "/counters/dropped_queue")) > 0.0);
    assert_eq!(lab.shown("a", "down", "/counters/dropped_loss"), 0);
    std::thread::scope(|scope| {
        scope.spawn(|| within("Mbit/s of a down beside b", lab.rate_of("a", "down", 26, 2.0), 20.0, 2.0));
        scope.spawn(|| within("Mbit/s of b up beside a", lab.rate_of("b", "up", 104, 2.0), 80.0, 2.0));
    });
}

#[test]
fn ipv6_link_holds_its_rate_and_leaves_ipv4_alone() {
    let Some(lab) = Lab::bare().enter() else { return };
    if !Path::new("/proc/net/if_inet6").exists() {
        println!("NOT RUN: this kernel has no IPv6");
        return;
    }
    let _owner = lab.own_links(&["--link-a", "rate-20", "--server-a", "server-a6"]);
    lab.start_sink("a", "fd45::2");
    let before = lab.shown("a", "up", "/counters/bytes");
    lab.sh("ping -q -c 5 -i 0.2 -s 100 10.45.0.2");
    assert_eq!(lab.shown("a", "up", "/counters/bytes"), before);
    within(
        "Mbit/s up to an IPv6 server",
        lab.rate_between("client", "fd45::2", "twl-a-up", 26, 1.5),
        20.0,
        2.0,
    );
}
