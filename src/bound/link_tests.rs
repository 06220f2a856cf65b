//! The bound against the model of a link, in virtual time: packets that wait at the bottleneck from the
//! first moment on come as fast as any run can bring them.

use std::sync::Arc;

use crate::bound::bound_s;
use crate::bound::link::*;
use crate::config::profile::Profile;
use crate::config::trace::{Trace, TraceStep};
use crate::emulate::emulator::Emulator;
use crate::emulate::link::ArrivingPacket;
use crate::units::{Direction, LinkId, Rate};

const FIRST_REQUEST: u64 = 1_000_000_000;

fn profile(down: &str, up: &str) -> Profile {
    let text = format!(
        "description = \"\"\n[down]\n{down}\nqueue = \"1000000p\"\n[up]\n{up}\nqueue = \"1000000p\"\n"
    );
    toml::from_str(&text).unwrap()
}

/// A profile of this rate and delay each way.
fn plain(rate: &str, delay: &str) -> Profile {
    let shape = format!("rate = \"{rate}\"\ndelay = \"{delay}\"");
    profile(&shape, &shape)
}

/// One with a trace of (ms, Mbit/s, delay in ms where it has one) in the down direction.
fn traced(rate: &str, delay: &str, steps: &[(u64, u64, Option<u64>)], loop_ms: Option<u64>) -> Profile {
    let steps: Vec<TraceStep> = steps
        .iter()
        .map(|&(at_ms, mbit, delay_ms)| TraceStep {
            at: at_ms * 1_000_000,
            rate: Rate::from_bits_per_s(mbit * 1_000_000),
            delay: delay_ms.map(|ms| Delay(std::time::Duration::from_millis(ms))),
            loss: None,
        })
        .collect();
    let length = loop_ms.map_or(steps.last().unwrap().at + 1_000_000_000, |ms| ms * 1_000_000);
    let mut profile = plain(rate, delay);
    profile.down.trace = Some(Arc::new(Trace::new("t".into(), loop_ms.is_some(), steps, length).unwrap()));
    profile
}

fn stage(from_s: f64, profile: &Profile) -> Stage {
    let (down, up) = (profile.down.clone(), profile.up.clone());
    Stage { from_s, began_s: from_s, down, up, played: true, shaper: ShaperFacts::Model }
}

/// A link: its profile at first, and others from a time (ms) on.
type TestCourse<'a> = (&'a Profile, &'a [(u64, Profile)]);

fn bound(links: [TestCourse; 2], bytes: f64) -> f64 {
    let path = |(first, later): TestCourse| {
        let later = later.iter().map(|(at_ms, profile)| stage(*at_ms as f64 / 1e3, profile));
        let stages: Vec<Stage> = std::iter::once(stage(0.0, first)).chain(later).collect();
        path(&stages, TcpSegments::USUAL).unwrap()
    };
    bound_s(&links.map(path), bytes).unwrap()
}

/// When (s) the model has brought so many bytes, if there is always something to bring.
fn fastest(links: [TestCourse; 2], bytes: f64, seed: u64) -> f64 {
    let mut emulator = Emulator::new(None, seed);
    let mut changes: Vec<(u64, LinkId, &Profile)> = Vec::new();
    for (link, (first, later)) in LinkId::BOTH.into_iter().zip(links) {
        changes.push((FIRST_REQUEST, link, first));
        changes.extend(later.iter().map(|(ms, profile)| (FIRST_REQUEST + ms * 1_000_000, link, profile)));
    }
    changes.sort_by_key(|change| change.0);
    let mut changes = changes.into_iter().peekable();
    while let Some((now, link, profile)) = changes.next_if(|change| change.0 == FIRST_REQUEST) {
        emulator.set(now, link, profile);
        emulator.play(now, link, profile);
        emulator.arrive(now, (link, Direction::Up), ArrivingPacket::plain(0, 74)).unwrap();
    }
    let mut come = 0.0;
    loop {
        let event = emulator.next_event().unwrap();
        if let Some((now, link, profile)) = changes.next_if(|change| change.0 <= event) {
            emulator.set(now, link, profile);
            emulator.play(now, link, profile);
            continue;
        }
        emulator.advance(event);
        for link in LinkId::BOTH {
            // All answers come as soon as the request is there.
            while emulator.take_due(event, (link, Direction::Up)).is_some() {
                for id in 0..(bytes / 1448.0) as u32 + 2 {
                    emulator.arrive(event, (link, Direction::Down), ArrivingPacket::plain(id, 1514)).unwrap();
                }
            }
            while emulator.take_due(event, (link, Direction::Down)).is_some() {
                come += 1448.0;
            }
        }
        if come >= bytes {
            return (event - FIRST_REQUEST) as f64 / 1e9;
        }
    }
}

/// The bound is below what is fastest, and no further than half a percent and `slack_s`.
fn holds(links: [TestCourse; 2], bytes: f64, slack_s: f64) {
    for seed in 1..=3 {
        let (bound, fastest) = (bound(links, bytes), fastest(links, bytes, seed));
        assert!(bound <= fastest + 1e-6, "{bytes} bytes: the bound is {bound}, and they came in {fastest}");
        assert!(bound >= fastest * 0.995 - slack_s, "{bytes} bytes: {bound} is far below {fastest}");
    }
}

#[test]
fn bound_is_below_two_small_files_at_64_kbit() {
    let slow = plain("64kbit", "8500us");
    let both = [(&slow, &[][..]), (&slow, &[][..])];
    // Each link brings a packet as soon as its round trip is over.
    assert!((bound(both, 2.0 * 1100.0) - 0.017).abs() < 1e-6);
    for bytes in [10.0, 900.0, 3000.0, 40_000.0] {
        holds(both, bytes, 0.19);
    }
    let uneven = plain("2mbit", "100ms");
    holds([(&slow, &[]), (&uneven, &[])], 4_000.0, 0.007);
}

#[test]
fn bound_counts_a_trace_from_its_beginning() {
    // Packets before the outage were at the bottleneck before the first RTT was over.
    let outage = traced("25mbit", "50ms", &[(0, 25, None), (3000, 0, None), (8000, 25, None)], None);
    let slow = plain("1mbit", "50ms");
    let links = [(&outage, &[][..]), (&slow, &[][..])];
    let before = 3.0 * 25e6 / 8.0 * 1448.0 / 1514.0;
    assert!(bound(links, before * 0.999) < 3.1);
    for share in [0.01, 0.5, 0.99, 1.01, 1.1, 2.0] {
        holds(links, before * share, 0.013);
    }
    let burst = traced("1mbit", "20ms", &[(0, 40, None), (60, 1, None)], None);
    [1e4, 1e5, 1e6].into_iter().for_each(|bytes| holds([(&burst, &[]), (&slow, &[])], bytes, 0.013));
    let late = traced("5mbit", "20ms", &[(0, 0, None), (500, 5, None), (900, 0, None)], Some(1000));
    [1e3, 1e5, 1e6].into_iter().for_each(|bytes| holds([(&late, &[]), (&slow, &[])], bytes, 0.013));
}

#[test]
fn bound_follows_the_delay_of_a_trace() {
    let steps = [(0, 10, Some(20)), (2000, 10, Some(200)), (4000, 10, Some(60))];
    let moves = traced("10mbit", "20ms", &steps, Some(6000));
    let slow = plain("1mbit", "50ms");
    for bytes in [1e5, 1e6, 2.45e6, 2.6e6, 5.2e6, 2e7] {
        // Packets after a fall of the delay wait for those before it.
        holds([(&moves, &[]), (&slow, &[])], bytes, 0.145);
    }
}

#[test]
fn bound_takes_the_least_delay_of_jitter() {
    let shape = "rate = \"8mbit\"\ndelay = \"100ms\"\njitter = \"100ms\"";
    let wide = profile(shape, shape);
    let normal = "rate = \"20mbit\"\ndelay = \"40ms\"\njitter = \"9ms\"\ndistribution = \"normal\"";
    let normal = profile(normal, normal);
    for bytes in [500.0, 20_000.0, 4e6] {
        holds([(&wide, &[]), (&wide, &[])], bytes, 0.4);
        holds([(&wide, &[]), (&normal, &[])], bytes, 0.4);
    }
    let overtaken = profile("rate = \"8mbit\"\ndelay = \"100ms\"\nreorder = \"50%\"", "rate = \"8mbit\"");
    holds([(&overtaken, &[]), (&overtaken, &[])], 3000.0, 0.101);
}

#[test]
fn bound_follows_changes_in_the_middle() {
    let (near, far) = (plain("30mbit", "5ms"), plain("3mbit", "150ms"));
    let slow = plain("1mbit", "50ms");
    for bytes in [1e5, 7e5, 8e5, 3e6] {
        holds([(&near, &[(200, far.clone()), (900, near.clone())]), (&slow, &[])], bytes, 0.31);
        holds([(&far, &[(400, near.clone())]), (&slow, &[])], bytes, 0.31);
    }
}

#[test]
fn bound_waits_for_the_way_up() {
    let mut closed = plain("10mbit", "20ms");
    let steps = [(0, 0, None), (300, 10, None)];
    closed.up.trace = traced("10mbit", "20ms", &steps, None).down.trace;
    let path = path(&[stage(0.0, &closed)], TcpSegments::USUAL).unwrap();
    assert!((path.first_byte_s() - 0.34).abs() < 1e-9);
}

#[test]
fn tbf_lets_its_bucket_pass_at_once_and_once_more_after_a_change() {
    let profile = plain("1mbit", "20ms");
    let shaper = ShaperFacts::Tbf { burst_bytes: 3000.0 };
    let first = Stage { shaper, ..stage(0.0, &profile) };
    let again = Stage { shaper, ..stage(1.0, &profile) };
    let at = |stages: &[Stage], t| path(stages, TcpSegments::USUAL).unwrap().delivered(t);
    let share = TcpSegments::USUAL.payload_share();
    assert_eq!(at(std::slice::from_ref(&first), 0.039), 0.0);
    assert!((at(std::slice::from_ref(&first), 2.04) - (3000.0 + 250_000.0) * share).abs() < 1.0);
    assert!((at(&[first, again], 2.04) - (6000.0 + 250_000.0) * share).abs() < 1.0);
}

#[test]
fn headers_without_timestamps_leave_more_payload() {
    let bare = TcpSegments { mss_bytes: 1460.0, ipv6: false, timestamps: false };
    assert_eq!(bare.payload_share(), 1460.0 / 1514.0);
    assert_eq!(TcpSegments::USUAL.payload_share(), 1448.0 / 1514.0);
}

#[test]
fn datagrams_count_off_the_rate_unless_connections_had_their_time_too() {
    let crossed = |cross: &str| {
        let down = format!("rate = \"20mbit\"\ndelay = \"5ms\"{cross}");
        stage(0.0, &profile(&down, "rate = \"20mbit\"\ndelay = \"5ms\""))
    };
    let left = |crosses: [&str; 2]| {
        let mut stages = crosses.map(crossed);
        leave_out_datagrams(&mut stages, 6e6);
        stages.map(|stage| stage.down.rate.bits_per_s() / 1_000_000)
    };
    let [datagrams, connections] = ["\ncross = \"6mbit\"", "\ncross = \"2 x cubic\""];
    assert_eq!(left(["", datagrams]), [20, 14]);
    assert_eq!(left([datagrams, connections]), [20, 20]);
    assert_eq!(left(["", connections]), [20, 20]);
}
