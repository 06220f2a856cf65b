//! Links with a rate charge small packets 14 bytes more than their IP length, carry packets of wire size, and take a
//! change at once.

use serde_json::Value;

use crate::fixture::{Inside, Lab, between, number, server, stdout_of};

#[test]
fn headers_count_the_same_each_way() {
    let Some(lab) = Lab::bare().enter() else { return };
    let _owner = lab.own_links(&["--link-a", "rate-20"]);
    lab.sh("ping -q -c 10 -i 0.2 -s 100 10.45.0.2");
    // Ten pings of 128 IP bytes.
    assert_eq!(lab.shown("a", "up", "/counters/bytes"), 1420);
    assert_eq!(lab.shown("a", "down", "/counters/bytes"), 1420);
    assert_eq!(lab.shown("a", "down", "/counters/packets"), 10);
}

#[test]
fn change_of_a_slow_link_takes_effect_at_once() {
    let Some(lab) = Lab::bare().enter() else { return };
    let slow =
        lab.profile("slow", "rate = \"1mbit\"\nqueue = \"60s\"", "rate = \"8kbit\"\nqueue = \"60s\"", "");
    let _owner = lab.own_links(&["--link-a", &slow]);
    // Two fit in the bucket; the next would wait for a second and a half.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    for _ in 0..6 {
        socket.send_to(&[0; 1400], (server("a"), 9)).unwrap();
    }
    assert!(number(&lab.shown("a", "up", "/counters/queue_packets")) >= 3.0);
    stdout_of(&mut lab.twinlink(&["link", "set", "a", "rate-20"]));
    assert_eq!(lab.shown("a", "up", "/counters/queue_packets"), 0);
}

/// Returns the bytes and packets that a device has received.
fn received(lab: &Inside, device: &str) -> [f64; 2] {
    let link: Value = serde_json::from_str(&lab.sh(&format!("ip -s -j link show dev {device}"))).unwrap();
    ["bytes", "packets"].map(|key| number(&link[0]["stats64"]["rx"][key]))
}

#[test]
fn packets_have_wire_size_though_tcp_hands_over_larger_ones() {
    let Some(lab) = Lab::with_segments(16, "500KB").enter() else { return };
    let servers = lab.start_servers();
    let owner = lab.own_links(&["--link-a", "rate-20", "--link-b", "rate-80"]);
    let [bytes, packets] = received(&lab, "twl-a-down");
    lab.sh(
        "for file in $(seq -f 's%03g.m4s' 1 16); do curl -sf -o /dev/null http://10.45.0.2:4455/$file; done",
    );
    let after = received(&lab, "twl-a-down");
    between("mean bytes of a packet", (after[0] - bytes) / (after[1] - packets), 1400.1, 1514.0);
    let rates: Value = serde_json::from_str(&lab.sh("tc -j qdisc show dev twl-a-down")).unwrap();
    assert_eq!([&rates[0]["options"]["rate"], &rates[0]["options"]["burst"]], [2_500_000, 3000]);
    owner.release();
    drop(servers);
}
