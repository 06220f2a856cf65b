//! The shared channel on real packets: stations that always have something to send get the rates of ns-3 and its documents
//! (`tests/loopback/wifi-truth.csv`), and a link between two stations what its two crossings leave.

use serde_json::Value;

use crate::fixture::{Inside, Lab, between, number, stdout_of, within};

/// Returns the name of a radio.
fn phy(standard: &str, rate: &str) -> String {
    let index = match rate {
        _ if standard != "802.11n" => return format!("{standard}/{rate}"),
        "6.5" => 0,
        "13" => 1,
        "19.5" => 2,
        "26" => 3,
        "39" => 4,
        "65" => 7,
        _ => panic!("no index for {rate} of {standard}"),
    };
    format!("{standard}/20MHz/MCS{index}")
}

/// Returns a channel file with a server at each rate.
fn channel_file(standard: &str, rates: &str, ampdu_bytes: &str, txop_us: &str) -> String {
    let ampdu = match (standard, ampdu_bytes) {
        ("802.11n", "0") => "ampdu = 1\n".to_string(),
        ("802.11n", bytes) => format!("ampdu_bytes = \"{bytes}B\"\n"),
        _ => String::new(),
    };
    let txop = if txop_us == "0" { String::new() } else { format!("txop = \"{txop_us}us\"\n") };
    let link = |(rate, link): (&str, &str)| {
        format!("[link.{link}]\nphy = \"{}\"\nqueue = \"300p\"\n", phy(standard, rate))
    };
    let links: String = rates.split(' ').zip(["a", "b"]).map(link).collect();
    format!("description = \"test\"\n[channel]\n{ampdu}{txop}{links}")
}

impl Inside {
    /// Returns the Mbit/s of UDP payload that each of these links carries down when it is kept full.
    fn flood(&self, channel: &str, links: &str) -> Vec<f64> {
        let channel = self.write("channel.toml", channel);
        let hold = ["link", "hold", "--channel", &channel, "--counters", "counters.json", "--"];
        let bits = stdout_of(
            &mut self
                .twinlink(&[&hold[..], &["python3", &self.helper("acceptance.py"), "flood", links]].concat()),
        );
        bits.split_whitespace().map(|bits| bits.parse::<f64>().unwrap() * 1472.0 / 1514.0 / 1e6).collect()
    }
}

fn expect_rates_of(row: &str) {
    let Some(lab) = Lab::bare().enter() else { return };
    let table = include_str!("../../loopback/wifi-truth.csv");
    let line = table.lines().find(|line| line.split(',').next() == Some(row)).unwrap();
    let [_, standard, rates, ampdu, txop, each, sum] = line.split(',').take(7).collect::<Vec<_>>()[..] else {
        panic!("too few columns in {line}")
    };
    let sum: f64 = sum.parse().unwrap();
    let links = if rates.contains(' ') { "ab" } else { "a" };
    let found = lab.flood(&channel_file(standard, rates, ampdu, txop), links);
    if links == "a" {
        within(&format!("{row}, Mbit/s"), found[0], sum, 2.0);
        return;
    }
    within(&format!("{row}, sum, Mbit/s"), found.iter().sum(), sum, 5.0);
    for (found, wanted) in found.iter().zip(each.split(' ')) {
        within(&format!("{row}, a station, Mbit/s"), *found, wanted.parse().unwrap(), 12.0);
    }
    let counters: Value = serde_json::from_str(&lab.sh("cat counters.json")).unwrap();
    let air = counters["links"][0]["air"].as_array().unwrap().iter();
    let servers = air.filter(|air| air["station"].as_str().unwrap().starts_with("server"));
    between(
        "seconds of both servers on the channel",
        servers.map(|air| number(&air["seconds"])).sum(),
        3.0,
        1e9,
    );
}

macro_rules! rows {
    ($($name:ident: $row:literal,)*) => {$(
        #[test]
        fn $name() {
            expect_rates_of($row);
        }
    )*};
}

rows! {
    one_station_of_802_11a: "a54",
    two_fast_stations_of_802_11a: "a54-54",
    fast_station_of_802_11a_beside_a_slow_one: "a54-6",
    stations_of_802_11b: "b11-1",
    one_station_of_802_11n: "n7",
    two_fast_stations_of_802_11n: "n7-7",
    fast_station_of_802_11n_beside_a_slow_one: "n7-3",
    stations_of_802_11n_within_a_txop: "n7-3-txop",
    station_of_802_11n_without_aggregation: "n7-plain",
}

#[test]
fn packets_between_two_stations_cross_the_channel_twice() {
    let Some(lab) = Lab::bare().enter() else { return };
    // The server and the access point contend like two stations, and carry the same packets.
    let channel = channel_file("802.11a", "54", "0", "0") + "[client]\nphy = \"802.11a/54\"\n";
    within("two crossings, Mbit/s", lab.flood(&channel, "a")[0], 15.125, 5.0);
}
