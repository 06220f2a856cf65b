//! Properties of the shared channel: the published formula for saturated stations, order, conservation, and a
//! repeatable fate.

use std::collections::HashMap;

use proptest::prelude::*;
use twinlink::config::channel::ChannelConfig;
use twinlink::emulate::channel::SharedChannel;
use twinlink::emulate::link::ArrivingPacket;
use twinlink::units::Nanos;
use twinlink::units::{Direction, LinkId};
use twinlink::wifi::saturation::{Saturated, frames_per_s};

const SECOND: Nanos = 1_000_000_000;
/// Bits of a full frame.
const L: f64 = 1514.0 * 8.0;

// A full frame of 1500 bytes of IP is an MPDU of 1536 bytes with 802.11a: 248 µs at 54 Mbit/s and 2072 at 6. With
// SIFS (16) and the ACK at 24 (28) or 6 Mbit/s (44) that is the time on the channel; DIFS (34) and half of a window
// of 15 slots of 9 µs come before.
const FAST: f64 = 292e-6;
const SLOW: f64 = 2132e-6;
const BEFORE: f64 = 34e-6 + 67.5e-6;

type Way = (LinkId, Direction);
const A_DOWN: Way = (LinkId::A, Direction::Down);
const B_DOWN: Way = (LinkId::B, Direction::Down);
const A_UP: Way = (LinkId::A, Direction::Up);

fn shared(text: &str) -> SharedChannel {
    SharedChannel::new(&ChannelConfig::parse("test", text).unwrap(), 1)
}

const A54: &str = "phy = \"802.11a/54\"";
const A6: &str = "phy = \"802.11a/6\"";

/// A channel file with two stations as servers and, if `client` is given, the client as a third.
fn channel_file(channel: &str, a: &str, b: &str, client: Option<&str>) -> String {
    let client = client.map(|phy| format!("[client]\n{phy}\n")).unwrap_or_default();
    format!(
        "description = \"test\"\n[channel]\n{channel}\n{client}\
         [link.a]\n{a}\nqueue = \"300p\"\n[link.b]\n{b}\nqueue = \"300p\"\n"
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
            while channel.tally(now, way.0, way.1).held_packets < 300 {
                id += 1;
                channel.arrive(now, *way, ArrivingPacket::plain(id, 1514)).unwrap();
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
fn a_station_alone_gets_what_its_turns_leave_it() {
    let text = channel_file("", A54, A6, None);
    close(saturate(&mut shared(&text), &[A_DOWN], 20)[0], L / (FAST + BEFORE), 0.005, "the fast one");
    close(saturate(&mut shared(&text), &[B_DOWN], 20)[0], L / (SLOW + BEFORE), 0.01, "the slow one");
    let n = "phy = \"802.11n/20MHz/MCS7\"";
    // 28 subframes of 1544 bytes are 5360 µs; SIFS, block ack and AIFS follow.
    let cycle = 5360e-6 + 16e-6 + 32e-6 + 43e-6 + 67.5e-6;
    let found = saturate(&mut shared(&channel_file("", n, A6, None)), &[A_DOWN], 20)[0];
    close(found, 28.0 * L / cycle, 0.005, "aggregates");
    let found = saturate(&mut shared(&channel_file("ampdu = 8", n, A6, None)), &[A_DOWN], 20)[0];
    close(found, 8.0 * L / (cycle - 5360e-6 + 1560e-6), 0.005, "eight a turn");
}

/// Returns what the closed form says of both servers together, in bit/s.
fn together(text: &str) -> [f64; 2] {
    let config = ChannelConfig::parse("test", text).unwrap();
    let saturated = |link| {
        let transmitter = config.hops(link, Direction::Down)[0].radio;
        Saturated { transmitter, frame_bytes: 1514 }
    };
    let frames = frames_per_s(&LinkId::BOTH.map(saturated));
    [frames[0] * L, frames[1] * L]
}

#[test]
fn saturated_stations_get_what_the_closed_form_says() {
    let cases = [
        ("", A54, A6),
        ("rts_cts = true", A54, A6),
        ("", "phy = \"802.11n/20MHz/MCS7\"\nretry = \"10%\"", "phy = \"802.11n/20MHz/MCS2\""),
        ("", "phy = \"802.11b/11\"", "phy = \"802.11b/2/short\""),
        ("", "phy = \"802.11g/54\"", "phy = \"802.11n/20MHz/MCS1/2.4GHz\""),
        ("", "phy = \"802.11n/40MHz/MCS7/x2/SGI\"", "phy = \"802.11n/20MHz/MCS2\""),
        ("ampdu = 16", "phy = \"802.11ac/80MHz/MCS9/x2\"", "phy = \"802.11ac/20MHz/MCS0\""),
        ("txop = \"4096us\"", "phy = \"802.11n/20MHz/MCS7\"", "phy = \"802.11n/20MHz/MCS7\""),
        ("access = \"video\"", "phy = \"802.11n/20MHz/MCS7\"", "phy = \"802.11n/20MHz/MCS7\""),
    ];
    for (keys, a, b) in cases {
        let text = channel_file(keys, a, b, None);
        let found = saturate(&mut shared(&text), &[A_DOWN, B_DOWN], 40);
        for (found, expected) in found.into_iter().zip(together(&text)) {
            close(found, expected, 0.03, &format!("{keys} {a} {b}"));
        }
    }
}

#[test]
fn access_categories_share_out_turns() {
    let n = |access: &str| format!("phy = \"802.11n/20MHz/MCS7\"\naccess = \"{access}\"");
    // The closed form takes every slot for as likely as any other, which small windows are not.
    for (a, b, tolerance) in [
        ("background", "background", 0.04),
        ("voice", "voice", 0.06),
        ("video", "best-effort", 0.1),
        ("best-effort", "background", 0.05),
    ] {
        let text = channel_file("", &n(a), &n(b), None);
        let found = saturate(&mut shared(&text), &[A_DOWN, B_DOWN], 60);
        for (found, expected) in found.iter().zip(together(&text)) {
            close(*found, expected, tolerance, &format!("{a} beside {b}"));
        }
        assert!(a == b || found[0] > 1.5 * found[1], "{a} beside {b}: {found:?}");
    }
}

#[test]
fn a_packet_between_two_stations_pays_for_both_crossings() {
    let text = channel_file("", A54, A6, Some("phy = \"802.11a/24\""));
    let config = ChannelConfig::parse("test", &text).unwrap();
    for (way, link) in [(A_DOWN, LinkId::A), (B_DOWN, LinkId::B)] {
        let alone = config.alone(link).unwrap().bits_per_s() as f64;
        close(saturate(&mut shared(&text), &[way], 30)[0], alone, 0.05, "two crossings");
    }
}

#[test]
fn retries_take_the_air_again_and_lengthen_backoffs() {
    let retrying = format!("{A54}\nretry = \"25%\"");
    let text = channel_file("", &retrying, A6, None);
    let found = saturate(&mut shared(&text), &[A_DOWN], 40)[0];
    let plain = L / (FAST + BEFORE);
    assert!(found < 0.74 * plain, "{found} of {plain}");
    let alone = ChannelConfig::parse("test", &text).unwrap().alone(LinkId::A).unwrap();
    close(found, alone.bits_per_s() as f64, 0.01, "a quarter repeated");
}

#[test]
fn a_cap_keeps_a_link_below_its_air() {
    let text = channel_file("", &format!("{A54}\ncap = \"5mbit\""), A54, None);
    let both = saturate(&mut shared(&text), &[A_DOWN, B_DOWN], 30);
    close(both[0], 5e6, 0.01, "the capped one");
    assert!(both[1] > 24e6, "the other gets what is left: {}", both[1]);
}

#[test]
fn airtime_fairness_undoes_the_anomaly_on_the_way_down_from_the_access_point() {
    let turns = L / (FAST + SLOW + 2.0 * BEFORE);
    // With equal airtime the fast one has more turns by the ratio of the times on the channel.
    let ratio = SLOW / FAST;
    let slow = L / (ratio * (FAST + BEFORE) + SLOW + BEFORE);
    for (fair, expected) in [("turns", [turns, turns]), ("airtime", [ratio * slow, slow])] {
        let text = channel_file(&format!("fair = \"{fair}\""), A54, A6, None);
        // The access point sends down to servers that are stations all that goes up to them.
        let both = saturate(&mut shared(&text), &[A_UP, (LinkId::B, Direction::Up)], 30);
        close(both[0], expected[0], 0.02, fair);
        close(both[1], expected[1], 0.02, fair);
    }
}

#[test]
fn the_way_back_takes_airtime_from_the_way_there() {
    let text = channel_file("", A54, A54, None);
    let both = saturate(&mut shared(&text), &[A_DOWN, A_UP], 30);
    let expected = together(&text);
    close(both[0], expected[0], 0.03, "down");
    close(both[1], expected[1], 0.03, "up");
}

#[test]
fn busy_time_is_that_of_the_transmissions() {
    let text = channel_file("", A54, A6, None);
    let mut channel = shared(&text);
    saturate(&mut channel, &[A_DOWN, B_DOWN], 10);
    let busy: HashMap<_, _> = channel.busy().collect();
    let all: Nanos = busy.values().sum();
    // Spaces and backoffs are nobody's, and a collision is everybody's.
    assert!(all > 9 * SECOND && all < 10 * SECOND, "{all}");
    let share = busy["server-b"] as f64 / all as f64;
    assert!((share - SLOW / (FAST + SLOW)).abs() < 0.02, "{share}");
}

#[test]
fn an_idle_channel_adds_the_transmission_and_the_delay() {
    let a = format!("{A54}\ndelay = \"7ms\"");
    let mut channel = shared(&channel_file("", &a, A6, None));
    channel.arrive(SECOND, A_DOWN, ArrivingPacket::plain(1, 1350)).unwrap();
    // 1372 bytes of MPDU are 51 symbols of 4 µs behind 20 µs of preamble.
    let expected = SECOND + 224_000 + 7_000_000;
    channel.advance(expected - 1);
    assert_eq!(channel.take_due(expected - 1, LinkId::A, Direction::Down), None);
    assert_eq!(channel.take_due(expected, LinkId::A, Direction::Down).unwrap().at, expected);
}

#[test]
fn a_busy_channel_makes_a_new_packet_wait_and_draw() {
    let mut starts = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let config = ChannelConfig::parse("test", &channel_file("", A54, A6, None)).unwrap();
        let mut channel = SharedChannel::new(&config, seed);
        channel.arrive(SECOND, B_DOWN, ArrivingPacket::plain(1, 1514)).unwrap();
        channel.arrive(SECOND + 1_000_000, A_DOWN, ArrivingPacket::plain(2, 1514)).unwrap();
        let mut at = SECOND;
        while channel.take_due(at, LinkId::A, Direction::Down).is_none() {
            at = channel.next_event().unwrap();
            channel.advance(at);
            channel.take_due(at, LinkId::B, Direction::Down);
        }
        // Slots after the slow one's exchange and DIFS, until the fast one's frame began.
        let began = at - 248_000 - SECOND - 2_132_000 - 34_000;
        assert_eq!(began % 9_000, 0, "{began}");
        starts.insert(began / 9_000);
    }
    assert_eq!(starts.into_iter().collect::<Vec<_>>(), (0..=15).collect::<Vec<_>>());
}

#[test]
fn what_fails_seven_times_is_lost_and_said_to_be() {
    let text = channel_file("", &format!("{A54}\nretry = \"80%\""), A6, None);
    let mut channel = shared(&text);
    let (mut lost, mut departed, mut now) = (0, 0, 0);
    for id in 0..10_000 {
        channel.arrive(now, A_DOWN, ArrivingPacket::plain(id, 1514)).unwrap();
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
    let names =
        ["802.11a/6", "802.11a/54", "802.11n/20MHz/MCS0", "802.11n/40MHz/MCS7/x2", "802.11ac/80MHz/MCS9/SGI"];
    let access = prop::sample::select(vec!["", "access = \"voice\"", "access = \"background\""]);
    (prop::sample::select(names.to_vec()), 0u32..40, access)
        .prop_map(|(name, retry, access)| format!("phy = \"{name}\"\nretry = \"{retry}%\"\n{access}"))
}

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
        if channel.arrive(now, ways[way], ArrivingPacket::plain(id as u32, bytes)).is_err() {
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
        packets in prop::collection::vec((0..1_000_000u64, 0usize..4, 60u32..=1514), 1..800),
        (a, b, client) in (phy(), phy(), prop::option::of(phy())),
        (txop, rts_cts, airtime) in (prop::option::of(100u32..5000), any::<bool>(), any::<bool>()),
    ) {
        let fair = if airtime { "airtime" } else { "turns" };
        let txop = txop.map_or(String::new(), |us| format!("txop = \"{us}us\"\n"));
        let channel = format!("{txop}rts_cts = {rts_cts}\nfair = \"{fair}\"");
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

/// Fills a direction of a channel with one flow of full frames, one every so many nanoseconds, beside a packet of
/// another flow every 20 ms. Returns the mean bit/s of the first, the mean wait (ms) of the others from 6 s on, and the
/// drops and marks.
fn beside_a_load(queue: &str, every: Nanos, ect: bool) -> (f64, f64, u64, u64) {
    // The way down crosses twice, and its second crossing is the slow one.
    let text = channel_file("", A54, A6, Some("phy = \"802.11n/20MHz/MCS1\"")).replace("\"300p\"", queue);
    let mut channel = shared(&text);
    let (mut now, mut id, mut next, mut load, mut bits) = (0, 0u32, 0, 0u64, 0u64);
    let (mut sent, mut waits) = (HashMap::new(), Vec::new());
    while now < 12 * SECOND {
        while let Some(departure) = channel.take_due(now, A_DOWN.0, A_DOWN.1) {
            match sent.remove(&departure.id) {
                Some(at) if at > 6 * SECOND => waits.push((departure.at - at) as f64 / 1e6),
                Some(_) => {}
                None => bits += u64::from(departure.bytes) * 8,
            }
        }
        for _ in load..now / every {
            id += 1;
            let _ = channel.arrive(now, A_DOWN, ArrivingPacket { id, bytes: 1514, flow: 1, ect });
        }
        load = now / every;
        if now >= next {
            (id, next) = (id + 1, next + SECOND / 50);
            if channel.arrive(now, A_DOWN, ArrivingPacket { id, bytes: 100, flow: 2, ect }).is_ok() {
                sent.insert(id, now);
            }
        }
        for (_, _, id) in channel.take_lost() {
            sent.remove(&id);
        }
        now = channel.next_event().unwrap_or(next).min((load + 1) * every);
        channel.advance(now);
    }
    let tally = channel.tally(now, A_DOWN.0, A_DOWN.1);
    (bits as f64 / 12.0, waits.iter().sum::<f64>() / waits.len() as f64, tally.dropped_queue, tally.marked)
}

#[test]
fn managed_queues_keep_waits_short_at_both_crossings() {
    let (fifo_bits, fifo_ms, ..) = beside_a_load("\"300ms\"", 605_600, false);
    assert!(fifo_ms > 100.0, "{fifo_ms} ms");
    // A tenth more than the channel carries, from a sender that answers no drops.
    let every = (L / (1.1 * fifo_bits) * 1e9) as Nanos;
    for (kind, most_ms) in [("codel", 60.0), ("fq_codel", 20.0)] {
        let (bits, ms, dropped, marked) =
            beside_a_load(&format!("{{ kind = \"{kind}\", limit = \"300ms\" }}"), every, false);
        assert!(ms < most_ms && dropped > 100 && marked == 0, "{kind}: {ms} ms, {dropped} dropped");
        close(bits, fifo_bits, 0.05, kind);
    }
    let marks = beside_a_load("{ kind = \"fq_codel\", limit = \"1s\", ecn = true }", every, true);
    assert!(marks.3 > 100, "{marks:?}");
}

#[test]
fn managed_queue_stands_before_the_cap_too() {
    let cap = "cap = \"10mbit\"\nqueue = { kind = \"fq_codel\", limit = \"1s\" }";
    let text = format!("description = \"test\"\n[channel]\n[link.a]\n{A54}\n{cap}\n");
    let mut channel = shared(&text);
    for id in 0..1000 {
        let _ = channel.arrive(0, A_DOWN, ArrivingPacket { id, bytes: 1514, flow: id % 5, ect: false });
    }
    let (mut departed, mut now) = (0, 0);
    while let Some(event) = channel.next_event() {
        now = event;
        channel.advance(now);
        departed += std::iter::from_fn(|| channel.take_due(now, A_DOWN.0, A_DOWN.1)).count() as u64;
    }
    let tally = channel.tally(now, A_DOWN.0, A_DOWN.1);
    assert_eq!((tally.held_packets, departed + tally.dropped_queue), (0, 1000));
    assert!(tally.dropped_queue > 50, "{tally:?}");
    close(departed as f64 * L / (now as f64 / 1e9), 1e7, 0.02, "the cap");
}
