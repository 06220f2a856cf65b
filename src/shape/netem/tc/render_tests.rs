use crate::config::profile::Queue;
use crate::config::profile::load;
use crate::shape::netem::tc::render::*;
use crate::units::{Delay, Percent, Rate};

fn places() -> [DeviceDirection; 2] {
    Direction::BOTH.map(|way| DeviceDirection::new(LinkId::A, way, "eth0", "10.45.0.2".parse().unwrap()))
}

#[test]
fn every_built_in_profile_renders_as_it_did() {
    let mut all = String::new();
    for (name, _) in load::BUILT_IN {
        let profile = load::load(name, LinkId::A).unwrap();
        all += &format!("# {name}\n");
        for place in places() {
            let shape = profile.shape(place.direction);
            all += &(set_up(&place, shape, Child::needed_by(shape), None).join("\n") + "\n");
        }
    }
    insta::assert_snapshot!(all);
}

#[test]
fn a_device_and_its_filters_render_as_they_did() {
    let mut all: Vec<String> = places().iter().flat_map(|place| make_ifb(place, "twinlink x")).collect();
    all.extend(places().iter().map(redirect));
    all.push(redirect(&DeviceDirection::new(LinkId::B, Direction::Down, "eth1", "fd45::3".parse().unwrap())));
    all.push(remove_redirect("eth0", LinkId::B, Direction::Up));
    insta::assert_snapshot!(all.join("\n"));
}

fn shape(rate: u64) -> Shape {
    Shape::plain(Rate::from_bits_per_s(rate), Queue::Time(Delay::from_millis(100)))
}

#[test]
fn the_bucket_cuts_packets_and_stays_large_enough_for_fast_links() {
    assert_eq!(burst_bytes(&shape(20_000_000)), 3_000);
    assert_eq!(burst_bytes(&shape(225_000_000)), 7_031);
    assert_eq!(burst_bytes(&shape(1_000_000_000)), 16_384);
    let lossy = Shape { loss: Loss::Random(Percent::new(0.1)), ..shape(105_000_000) };
    assert_eq!(burst_bytes(&lossy), 3_000);
    assert_eq!(burst_bytes(&shape(105_000_000)), 3_281);
}

#[test]
fn netems_limit_holds_the_delay_line_and_the_queue() {
    // 50 Mbit/s are 4128 frames a second.
    let wanted = Shape { delay: Delay::from_millis(20), ..shape(50_000_000) };
    assert_eq!(netem_limit_packets(&wanted), 496);
    assert_eq!(netem_limit_packets(&Shape { queue: Queue::Packets(50), ..wanted }), 83 + 50);
    assert_eq!(netem_limit_packets(&shape(8_000)), 2);
}

#[test]
fn the_fifos_limit_is_the_queue_and_at_least_a_frame() {
    assert_eq!(fifo_limit_bytes(&shape(20_000_000)), 250_000);
    assert_eq!(fifo_limit_bytes(&shape(8_000)), FRAME);
    assert_eq!(fifo_limit_bytes(&Shape { queue: Queue::Packets(10), ..shape(8_000) }), 15_140);
}

#[test]
fn a_change_touches_tbf_only_when_it_must_and_writes_all_of_netem() {
    let plain = shape(20_000_000);
    let lossy = Shape { loss: Loss::Random(Percent::new(1.0)), ..plain.clone() };
    let faster = Shape { rate: Rate::from_bits_per_s(30_000_000), ..plain.clone() };
    let (lines, child) = change("twl-a-down", &lossy, Child::Netem, &plain, None);
    assert_eq!(child, Child::Netem);
    assert_eq!(lines.len(), 1, "{lines:?}");
    for zero in ["delay 0ms 0ms", "loss random 0%", "duplicate 0%", "corrupt 0%", "reorder 0%", "rate 10gbit"]
    {
        assert!(lines[0].contains(zero), "{} lacks {zero}", lines[0]);
    }
    let (lines, child) = change("twl-a-down", &plain, Child::Fifo, &faster, None);
    assert_eq!((lines.len(), child), (1, Child::Fifo));
    assert!(lines[0].starts_with("qdisc change dev twl-a-down root handle 1: tbf rate 30mbit"), "{lines:?}");
    assert_eq!(change("twl-a-down", &plain, Child::Fifo, &plain, None).0, Vec::<String>::new());
    let (lines, child) = change("twl-a-down", &plain, Child::Fifo, &lossy, Some(7));
    assert_eq!((lines.len(), child), (1, Child::Netem));
    assert!(lines[0].starts_with("qdisc add") && lines[0].ends_with("seed 7"), "{lines:?}");
    // A queue in bytes has to follow a longer time at the same rate.
    let longer = Shape { queue: Queue::Time(Delay::from_millis(200)), ..plain.clone() };
    assert!(change("twl-a-down", &plain, Child::Fifo, &longer, None).0[0].ends_with("limit 500000"));
}

#[test]
fn a_step_of_a_trace_gives_tbf_its_rate_less_the_refill_of_the_bucket() {
    let nominal = shape(20_000_000);
    let step = |bits, lasts_s| tbf_step("twl-a-down", &nominal, Rate::from_bits_per_s(bits), lasts_s);
    let line = |rate: &str, burst: u64| {
        format!("qdisc change dev twl-a-down root handle 1: tbf rate {rate} burst {burst} limit 250000")
    };
    // 2243 bytes more than were in the bucket on average, over two seconds: 8972 bit/s.
    assert_eq!(step(8_000_000, 2.0), line("7.991028mbit", 3_000));
    assert_eq!(step(1_000_000_000, 2.0), line("999.937492mbit", 16_384));
    assert_eq!(step(10_000, 0.1), line("8kbit", 3_000));
    assert_eq!(step(0, 2.0), line("1kbit", 1_600));
}

#[test]
fn a_step_may_carry_no_less_than_four_buckets() {
    let plain = shape(20_000_000);
    let can = |shape: &Shape, bits, lasts_s| can_step(shape, Rate::from_bits_per_s(bits), lasts_s);
    // 12 000 bytes are 96 ms at 1 Mbit/s.
    assert!(can(&plain, 1_000_000, 0.1) && !can(&plain, 1_000_000, 0.09));
    // The bucket grows with the rate, but for links that lose.
    assert!(!can(&plain, 150_000_000, 0.000_9));
    assert!(can(&Shape { loss: Loss::Random(Percent::new(1.0)), ..plain.clone() }, 150_000_000, 0.000_9));
    assert!(can(&plain, 0, 0.01), "an outage carries nothing that could be too much");
}

#[test]
fn a_step_of_a_trace_gives_netem_its_delay_and_loss_and_keeps_the_limit() {
    let nominal = Shape { delay: Delay::from_millis(20), jitter: Delay::from_millis(5), ..shape(20_000_000) };
    let step = |delay_ms: Option<u64>, loss: Option<f64>| {
        let (delay, loss) = (delay_ms.map(Delay::from_millis), loss.map(Percent::new));
        netem_step(
            "twl-a-down",
            &nominal,
            &TraceStep { at: 0, rate: Rate::from_bits_per_s(0), delay, loss },
            Some(7),
        )
    };
    let line = |delay: &str, loss: &str| {
        format!(
            "qdisc change dev twl-a-down parent 1:1 handle 10: netem limit 199 delay {delay} distribution uniform \
             loss random {loss} duplicate 0% corrupt 0% reorder 0% rate 10gbit seed 7"
        )
    };
    assert_eq!(step(None, None), line("20ms 5ms", "0%"));
    assert_eq!(step(Some(10), Some(1.5)), line("10ms 5ms", "1.5%"));
    // No packet can come before it was sent.
    assert_eq!(step(Some(3), None), line("3ms 3ms", "0%"));
}

#[test]
fn every_direction_has_a_name_a_filter_and_a_seed_of_its_own() {
    let all = LinkId::BOTH.into_iter().flat_map(|link| Direction::BOTH.map(|way| (link, way)));
    let mut seen = std::collections::BTreeSet::new();
    for (link, way) in all {
        assert_eq!(ifb_meaning(&ifb(link, way)), Some((link, way)));
        // The kernel takes names of up to 15 bytes.
        assert!(ifb(link, way).len() <= 15);
        seen.insert((ifb(link, way), pref(link, way), seed_of(9, link, way)));
    }
    assert_eq!(seen.len(), 4);
    assert_eq!(seen.iter().map(|(_, pref, _)| pref).collect::<std::collections::BTreeSet<_>>().len(), 4);
    assert_eq!(seen.iter().map(|(_, _, seed)| seed).collect::<std::collections::BTreeSet<_>>().len(), 4);
}

#[test]
fn a_queue_that_drops_early_stands_below_netem() {
    let queue = |text: &str| -> Queue {
        let table: toml::Table = toml::from_str(&format!("queue = {text}")).unwrap();
        table["queue"].clone().try_into().unwrap()
    };
    let fifo = shape(10_000_000);
    let codel = Shape { queue: queue("{ kind = \"codel\", limit = \"100ms\" }"), ..fifo.clone() };
    let fair = Shape {
        queue: queue("{ kind = \"fq_codel\", limit = \"100ms\", interval = \"60ms\", ecn = true }"),
        ..fifo.clone()
    };
    let place = DeviceDirection::new(LinkId::A, Direction::Down, "eth0", "10.45.0.2".parse().unwrap());
    let add = "qdisc add dev twl-a-down parent 10:1 handle 20: ";
    let added = set_up(&place, &codel, Child::needed_by(&codel), None);
    assert_eq!(added[2], format!("{add}codel limit 83 target 5ms interval 100ms noecn"));
    let change =
        |from: &Shape, to: &Shape| change("twl-a-down", from, Child::Netem, to, None).0[1..].to_vec();
    let fair_line = format!("{add}fq_codel limit 83 target 5ms interval 60ms ecn flows 1024 quantum 1514");
    let remove = "qdisc del dev twl-a-down parent 10:1".to_string();
    assert_eq!(change(&codel, &fair), [remove.clone(), fair_line]);
    assert_eq!(change(&fair, &fifo), [remove]);
    assert!(change(&fair, &fair).is_empty());
}
