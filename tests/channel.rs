//! Properties of the shared channel: the published formula for saturated stations, order, conservation, and a
//! repeatable fate.

use std::collections::HashMap;

use proptest::prelude::*;
use twinlink::config::channel::ChannelConfig;
use twinlink::emulate::channel::SharedChannel;
use twinlink::units::Nanos;
use twinlink::units::{Direction, LinkId};

const SECOND: Nanos = 1_000_000_000;
const L: f64 = 1514.0 * 8.0;

type Way = (LinkId, Direction);
const A_DOWN: Way = (LinkId::A, Direction::Down);
const B_DOWN: Way = (LinkId::B, Direction::Down);
const A_UP: Way = (LinkId::A, Direction::Up);

fn shared(text: &str) -> SharedChannel {
    SharedChannel::new(&ChannelConfig::parse("test", text).unwrap(), 1, false)
}

/// A channel file with two stations as servers and, if `client` is given, the client as a third.
fn channel_file(channel: &str, a: &str, b: &str, client: Option<&str>) -> String {
    let client = client.map(|phy| format!("[client]\n{phy}\n")).unwrap_or_default();
    format!(
        "description = \"test\"\n[channel]\n{channel}\n{client}\
         [link.a]\n{a}\nqueue = \"50p\"\n[link.b]\n{b}\nqueue = \"50p\"\n"
    )
}

/// Keeps the given ways full of full frames for `seconds`; gives what each carried in bit/s.
fn saturate(channel: &mut SharedChannel, ways: &[Way], seconds: u64) -> Vec<f64> {
    let mut carried = vec![0u64; ways.len()];
    let (mut now, mut id) = (0, 0);
    while now < seconds * SECOND {
        for (way, carried) in ways.iter().zip(&mut carried) {
            while let Some(departure) = channel.take_due(now, way.0, way.1) {
                *carried += u64::from(departure.bytes);
            }
            while channel.tally(now, way.0, way.1).held_packets < 50 {
                id += 1;
                channel.arrive(now, *way, id, 1514).unwrap();
            }
        }
        channel.take_lost();
        now = channel.next_event().unwrap();
        channel.advance(now);
    }
    carried.iter().map(|&bytes| bytes as f64 * 8.0 / seconds as f64).collect()
}

fn close(got: f64, expected: f64, share: f64, what: &str) {
    assert!((got - expected).abs() < share * expected, "{what}: {got:.0} instead of {expected:.0}");
}

#[test]
fn two_saturated_stations_each_get_what_both_turns_leave_them() {
    for (overhead, seconds) in [("0us", 0.0), ("170us", 170e-6)] {
        let text =
            channel_file(&format!("overhead = \"{overhead}\""), "phy = \"54mbit\"", "phy = \"6mbit\"", None);
        let (t_a, t_b) = (seconds + L / 54e6, seconds + L / 6e6);
        let both = saturate(&mut shared(&text), &[A_DOWN, B_DOWN], 30);
        close(both[0], L / (t_a + t_b), 0.05, "the fast one beside the slow one");
        close(both[1], L / (t_a + t_b), 0.05, "the slow one beside the fast one");
        close(saturate(&mut shared(&text), &[A_DOWN], 20)[0], L / t_a, 0.01, "the fast one alone");
        close(saturate(&mut shared(&text), &[B_DOWN], 20)[0], L / t_b, 0.01, "the slow one alone");
    }
}

#[test]
fn a_packet_between_two_stations_pays_for_both_crossings() {
    let text =
        channel_file("overhead = \"170us\"", "phy = \"54mbit\"", "phy = \"6mbit\"", Some("phy = \"24mbit\""));
    let (t_b, t_client) = (170e-6 + L / 6e6, 170e-6 + L / 24e6);
    close(saturate(&mut shared(&text), &[B_DOWN], 30)[0], L / (t_b + t_client), 0.05, "two crossings");
}

#[test]
fn aggregates_pay_their_overhead_once_and_end_with_the_turn() {
    let channel = "overhead = \"170us\"\nampdu = 8\ntxop = \"4ms\"";
    let text = channel_file(channel, "phy = \"54mbit\"", "phy = \"6mbit\"", None);
    let eight = 8.0 * L / (170e-6 + 8.0 * L / 54e6);
    close(saturate(&mut shared(&text), &[A_DOWN], 20)[0], eight, 0.01, "eight a turn");
    // At 6 Mbit/s one packet takes 2.02 ms: a turn of 4 ms holds one, and no second.
    let one = L / (170e-6 + L / 6e6);
    close(saturate(&mut shared(&text), &[B_DOWN], 20)[0], one, 0.01, "one a turn");
}

#[test]
fn retries_take_the_air_again() {
    let text =
        channel_file("overhead = \"0us\"", "phy = \"54mbit\"\nretry = \"25%\"", "phy = \"6mbit\"", None);
    close(saturate(&mut shared(&text), &[A_DOWN], 30)[0], 54e6 * 0.75, 0.02, "a quarter repeated");
}

#[test]
fn a_cap_keeps_a_link_below_its_air() {
    let text =
        channel_file("overhead = \"0us\"", "phy = \"54mbit\"\ncap = \"5mbit\"", "phy = \"54mbit\"", None);
    let both = saturate(&mut shared(&text), &[A_DOWN, B_DOWN], 30);
    close(both[0], 5e6, 0.01, "the capped one");
    close(both[1], 49e6, 0.01, "the other gets what is left");
}

#[test]
fn airtime_fairness_undoes_the_anomaly_on_the_way_down_from_the_access_point() {
    for (fair, expected) in [("turns", [5.4e6, 5.4e6]), ("airtime", [27e6, 3e6])] {
        let channel = format!("overhead = \"0us\"\nfair = \"{fair}\"");
        let text = channel_file(&channel, "phy = \"54mbit\"", "phy = \"6mbit\"", None);
        // Up traffic to servers that are stations is the access point's down traffic to them.
        let both = saturate(&mut shared(&text), &[A_UP, (LinkId::B, Direction::Up)], 30);
        close(both[0], expected[0], 0.02, fair);
        close(both[1], expected[1], 0.02, fair);
    }
}

#[test]
fn the_way_back_takes_airtime_from_the_way_there() {
    let text = channel_file("overhead = \"0us\"", "phy = \"54mbit\"", "phy = \"6mbit\"", None);
    let both = saturate(&mut shared(&text), &[A_DOWN, A_UP], 30);
    close(both[0], 27e6, 0.05, "down");
    close(both[1], 27e6, 0.05, "up");
}

#[test]
fn busy_time_adds_up_to_the_time_that_passed() {
    let text = channel_file("overhead = \"170us\"", "phy = \"54mbit\"", "phy = \"6mbit\"", None);
    let mut channel = shared(&text);
    saturate(&mut channel, &[A_DOWN, B_DOWN], 10);
    let busy: HashMap<_, _> = channel.busy().collect();
    let all: Nanos = busy.values().sum();
    assert!(all.abs_diff(10 * SECOND) < SECOND / 50, "{all}");
    let (t_a, t_b) = (170e-6 + L / 54e6, 170e-6 + L / 6e6);
    let share = busy["server-b"] as f64 / all as f64;
    assert!((share - t_b / (t_a + t_b)).abs() < 0.02, "{share}");
}

#[test]
fn an_idle_channel_adds_the_turn_and_the_delay() {
    let a = "phy = \"54mbit\"\ndelay = \"7ms\"";
    let text = channel_file("overhead = \"170us\"", a, "phy = \"6mbit\"", None);
    let mut channel = shared(&text);
    channel.arrive(SECOND, A_DOWN, 1, 1350).unwrap();
    // 1350 bytes take 200 µs at 54 Mbit/s.
    let expected = SECOND + 170_000 + 200_000 + 7_000_000;
    channel.advance(expected - 1);
    assert_eq!(channel.take_due(expected - 1, LinkId::A, Direction::Down), None);
    assert_eq!(channel.take_due(expected, LinkId::A, Direction::Down).unwrap().at, expected);
}

#[test]
fn what_fails_seven_times_is_lost_and_said_to_be() {
    let text =
        channel_file("overhead = \"0us\"", "phy = \"54mbit\"\nretry = \"80%\"", "phy = \"6mbit\"", None);
    let mut channel = shared(&text);
    let (mut lost, mut departed, mut now) = (0, 0, 0);
    for id in 0..10_000 {
        channel.arrive(now, A_DOWN, id, 1514).unwrap();
        while let Some(at) = channel.next_event() {
            now = at;
            channel.advance(now);
            departed += usize::from(channel.take_due(now, LinkId::A, Direction::Down).is_some());
        }
        lost += channel.take_lost().count();
    }
    assert_eq!(lost + departed, 10_000);
    let expected = 0.8f64.powi(7);
    assert!((lost as f64 / 10_000.0 - expected).abs() < 0.02, "{lost} lost");
    assert_eq!(channel.tally(now, LinkId::A, Direction::Down).dropped_loss, lost as u64);
}

fn phy() -> impl Strategy<Value = String> {
    (1u32..200, 0u32..40).prop_map(|(mbit, retry)| format!("phy = \"{mbit}mbit\"\nretry = \"{retry}%\""))
}

/// The fate of each packet: its place in the order of departures (by way), drops, and losses.
type Told = (Vec<(usize, u32, Nanos)>, Vec<u32>, Vec<u32>);

/// Plays packets (gap, way, bytes) and gives departures, drops at the queue, and losses on the channel.
fn play(text: &str, packets: &[(Nanos, usize, u32)]) -> (Told, u64) {
    let ways = [A_DOWN, A_UP, B_DOWN, (LinkId::B, Direction::Up)];
    let mut channel = shared(text);
    let (mut now, mut departed, mut dropped, mut lost) = (0, Vec::new(), Vec::new(), Vec::new());
    let mut collect = |channel: &mut SharedChannel, now: Nanos| {
        for (index, way) in ways.iter().enumerate() {
            while let Some(departure) = channel.take_due(now, way.0, way.1) {
                departed.push((index, departure.id, departure.at));
            }
        }
        lost.extend(channel.take_lost().map(|(_, _, id)| id));
    };
    for (id, &(gap, way, bytes)) in packets.iter().enumerate() {
        now += gap;
        channel.advance(now);
        collect(&mut channel, now);
        if channel.arrive(now, ways[way], id as u32, bytes).is_err() {
            dropped.push(id as u32);
        }
    }
    while let Some(at) = channel.next_event() {
        now = now.max(at);
        channel.advance(now);
        collect(&mut channel, now);
    }
    let held = ways.iter().map(|way| channel.tally(now, way.0, way.1).held_packets).sum();
    ((departed, dropped, lost), held)
}

proptest! {
    #[test]
    fn nothing_is_lost_from_sight_nor_overtakes_nor_changes_with_the_run(
        packets in prop::collection::vec((0..3_000_000u64, 0usize..4, 60u32..=1514), 1..400),
        (a, b, client) in (phy(), phy(), prop::option::of(phy())),
        (ampdu, overhead, airtime) in (1u32..=64, 0u32..300, any::<bool>()),
    ) {
        let fair = if airtime { "airtime" } else { "turns" };
        let channel = format!("overhead = \"{overhead}us\"\nampdu = {ampdu}\ntxop = \"4ms\"\nfair = \"{fair}\"");
        let text = channel_file(&channel, &a, &b, client.as_deref());
        let ((departed, dropped, lost), held) = play(&text, &packets);
        prop_assert_eq!(held, 0);
        prop_assert_eq!(departed.len() + dropped.len() + lost.len(), packets.len());
        for way in 0..4 {
            let ids: Vec<u32> = departed.iter().filter(|d| d.0 == way).map(|d| d.1).collect();
            prop_assert!(ids.is_sorted(), "a packet overtook another on way {way}");
        }
        prop_assert_eq!(play(&text, &packets), ((departed, dropped, lost), held));
    }
}
