//! Properties of every packet on every profile that the userspace model takes.

use std::time::Duration;

use proptest::prelude::*;
use twinlink::config::profile::{CoDelKind, CoDelQueue, Distribution, GilbertElliott, Loss, Queue, Shape};
use twinlink::emulate::link::{ArrivingPacket, Cause, Departure, LinkModel};
use twinlink::units::Nanos;
use twinlink::units::{Delay, Direction, LinkId, Percent, Rate};

const MS: Nanos = 1_000_000;

fn shape(kbit: u64, delay_us: u64, queue: Queue) -> Shape {
    Shape {
        delay: Delay(Duration::from_micros(delay_us)),
        ..Shape::plain(Rate::from_bits_per_s(kbit * 1000), queue)
    }
}

fn link(shape: &Shape, seed: u64) -> LinkModel {
    LinkModel::new(shape, seed, LinkId::A, Direction::Down)
}

/// A packet that comes `gap` after the one before it.
type Arrival = (Nanos, u32);

/// The fate of every packet, by id, and every departure in order.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    dropped: Vec<(u32, Cause)>,
    departed: Vec<Departure>,
}

fn collect(link: &mut LinkModel, until: Nanos, outcome: &mut Outcome) {
    while let Some(departure) = link.take_due(until) {
        outcome.departed.push(departure);
    }
    outcome.dropped.extend(link.take_lost().map(|id| (id, Cause::QueueFull)));
}

/// Plays arrivals; before the n-th one, `change` may act on the link.
fn play(
    link: &mut LinkModel,
    arrivals: &[Arrival],
    mut change: impl FnMut(usize, &mut LinkModel, Nanos),
) -> (Nanos, Outcome) {
    let (mut now, mut outcome) = (0, Outcome::default());
    for (n, &(gap, bytes)) in arrivals.iter().enumerate() {
        now += gap;
        collect(link, now, &mut outcome);
        change(n, link, now);
        // Three connections, of which one sends most.
        let (id, flow) = (n as u32, [0, 0, 0, 1, 2][n % 5]);
        if let Err(cause) = link.take_in(now, ArrivingPacket { id, bytes, flow, ect: false }) {
            outcome.dropped.push((id, cause));
        }
    }
    (now, outcome)
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    // Bursts, paced packets and pauses, of all sizes that Ethernet carries.
    let gap = prop_oneof![3 => Just(0), 4 => 0..2 * MS, 1 => 0..200 * MS];
    prop::collection::vec((gap, 60u32..=1514), 1..300)
}

fn queue() -> impl Strategy<Value = Queue> {
    prop_oneof![
        (1u64..400).prop_map(|ms| Queue::Time(Delay::from_millis(ms))),
        (6u64..400).prop_map(|ms| Queue::CoDel(CoDelQueue::new(CoDelKind::CoDel, Delay::from_millis(ms)))),
        (1u32..200).prop_map(Queue::Packets)
    ]
}

/// One more queue, which does not keep the order of packets of different flows.
fn any_queue() -> impl Strategy<Value = Queue> {
    let fair = |ms| Queue::CoDel(CoDelQueue::new(CoDelKind::FqCoDel, Delay::from_millis(ms)));
    prop_oneof![3 => queue(), 1 => (6u64..400).prop_map(fair)]
}

fn loss() -> impl Strategy<Value = Loss> {
    let share = || (0.0..60.0f64).prop_map(Percent::new);
    prop_oneof![
        Just(Loss::default()),
        share().prop_map(Loss::Random),
        (share(), share(), share(), share())
            .prop_map(|(p, r, bad, good)| Loss::GilbertElliott(GilbertElliott { p, r, bad, good }))
    ]
}

/// Any shape that keeps order.
fn any_shape() -> impl Strategy<Value = Shape> {
    let distribution = prop_oneof![
        Just(None),
        Just(Some(Distribution::Uniform)),
        Just(Some(Distribution::Normal)),
        Just(Some(Distribution::Pareto)),
        Just(Some(Distribution::ParetoNormal)),
    ];
    (50u64..2_000_000, 0u64..400_000, 0u64..300_000, distribution, loss(), queue()).prop_map(
        |(kbit, delay_us, jitter_us, distribution, loss, queue)| Shape {
            jitter: Delay(Duration::from_micros(jitter_us)),
            distribution,
            loss,
            ..shape(kbit, delay_us, queue)
        },
    )
}

/// Whether every window of departures holds at most rate × window plus one packet.
fn keeps_to_the_rate(departed: &[Departure], bits_per_s: u64) -> Result<(), TestCaseError> {
    for first in 0..departed.len() {
        let mut bytes = 0u64;
        for packet in &departed[first..] {
            bytes += u64::from(packet.bytes);
            let window = packet.at - departed[first].at;
            // One nanosecond of slack: departures are whole nanoseconds.
            let most = (window + 1) as f64 * bits_per_s as f64 / 8e9 + f64::from(packet.bytes);
            prop_assert!(bytes as f64 <= most + 1e-6, "{bytes} bytes in {window} ns, at most {most}");
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_window_is_faster_than_the_rate(
        arrivals in arrivals(), kbit in 50u64..2_000_000, delay_us in 0u64..100_000, queue in queue(),
    ) {
        let mut link = link(&shape(kbit, delay_us, queue), 1);
        let (_, mut outcome) = play(&mut link, &arrivals, |_, _, _| ());
        collect(&mut link, Nanos::MAX, &mut outcome);
        keeps_to_the_rate(&outcome.departed, kbit * 1000)?;
    }

    #[test]
    fn a_changed_rate_binds_from_the_change_on(
        arrivals in arrivals(), before in 50u64..100_000, after in 50u64..100_000, queue in queue(),
    ) {
        let mut link = link(&shape(before, 0, queue), 1);
        let (half, mut changed_at) = (arrivals.len() / 2, Nanos::MAX);
        let (_, mut outcome) = play(&mut link, &arrivals, |n, link, now| {
            if n == half {
                changed_at = now;
                link.change(now, &shape(after, 0, queue));
            }
        });
        collect(&mut link, Nanos::MAX, &mut outcome);
        let split = outcome.departed.partition_point(|packet| packet.at <= changed_at);
        keeps_to_the_rate(&outcome.departed[..split], before * 1000)?;
        keeps_to_the_rate(&outcome.departed[split..], after * 1000)?;
    }

    #[test]
    fn jitter_and_changes_keep_the_order(
        arrivals in arrivals(), shapes in prop::collection::vec(any_shape(), 1..5), seed in any::<u64>(),
    ) {
        let mut link = link(&shapes[0], seed);
        let (_, mut outcome) = play(&mut link, &arrivals, |n, link, now| {
            if n % 40 == 39 {
                link.change(now, &shapes[n / 40 % shapes.len()]);
            }
        });
        collect(&mut link, Nanos::MAX, &mut outcome);
        for pair in outcome.departed.windows(2) {
            prop_assert!(pair[0].id < pair[1].id, "{} overtook {}", pair[1].id, pair[0].id);
            prop_assert!(pair[0].at <= pair[1].at);
        }
    }

    #[test]
    fn what_goes_in_comes_out_is_dropped_or_is_held(
        arrivals in arrivals(), first in any_shape(), second in any_shape(), reorder in 0.0..50.0f64,
        queues in (any_queue(), any_queue()),
    ) {
        let second = Shape { queue: queues.1, ..second };
        let mut link = link(&Shape { reorder: Percent::new(reorder), queue: queues.0, ..first }, 3);
        let (now, mut outcome) = play(&mut link, &arrivals, |n, link, now| {
            if n == 50 {
                link.change(now, &second);
            }
        });
        let tally = link.tally(now);
        let gone = (outcome.departed.len() + outcome.dropped.len()) as u64;
        prop_assert_eq!(arrivals.len() as u64, gone + link.held() as u64);
        prop_assert_eq!(tally.packets, outcome.departed.len() as u64);
        prop_assert_eq!(tally.dropped_loss + tally.dropped_queue, outcome.dropped.len() as u64);
        prop_assert_eq!(tally.bytes, outcome.departed.iter().map(|d| u64::from(d.bytes)).sum::<u64>());
        collect(&mut link, Nanos::MAX, &mut outcome);
        let mut ids: Vec<u32> = outcome.departed.iter().map(|departure| departure.id).collect();
        ids.extend(outcome.dropped.iter().map(|(id, _)| id));
        ids.sort_unstable();
        prop_assert_eq!(ids, (0..arrivals.len() as u32).collect::<Vec<_>>());
        prop_assert_eq!(link.tally(Nanos::MAX).held_packets, 0);
    }

    #[test]
    fn the_limit_is_never_passed(arrivals in arrivals(), shape in any_shape(), queue in any_queue()) {
        let shape = Shape { queue, ..shape };
        let mut link = link(&shape, 4);
        let (now, _) = play(&mut link, &arrivals, |_, _, _| ());
        let tally = link.tally(now);
        match shape.queue {
            Queue::Time(_) | Queue::CoDel(_) => prop_assert!(tally.waiting_bytes <= shape.queue_bytes()),
            Queue::Packets(most) => prop_assert!(tally.waiting_packets <= u64::from(most)),
        }
    }

    #[test]
    fn the_same_seed_means_the_same_fate(arrivals in arrivals(), shape in any_shape(), seed in any::<u64>()) {
        let run = || play(&mut link(&shape, seed), &arrivals, |_, _, _| ());
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn jitter_does_not_move_the_losses(
        arrivals in arrivals(), loss in loss(), jitter in 0u64..100, reorder in 0.0..50.0f64,
    ) {
        let plain = Shape { loss, ..shape(1_000_000, 10_000, Queue::Packets(1_000_000)) };
        let jittery = Shape {
            jitter: Delay::from_millis(jitter),
            distribution: Some(Distribution::Pareto),
            reorder: Percent::new(reorder),
            corrupt: Percent::new(10.0),
            ..plain.clone()
        };
        let lost = |shape| play(&mut link(shape, 9), &arrivals, |_, _, _| ()).1.dropped;
        prop_assert_eq!(lost(&plain), lost(&jittery));
    }

    #[test]
    fn an_idle_link_adds_its_delay_and_nothing_else(
        kbit in 50u64..2_000_000, delay_us in 0u64..400_000, bytes in 60u32..=1514,
    ) {
        let shape = shape(kbit, delay_us, Queue::Packets(10));
        let now = 5 * MS;
        prop_assert_eq!(link(&shape, 1).arrive(now, 0, bytes), Ok(now + delay_us * 1000));
    }
}

/// Sends full frames twice as fast as the rate for `seconds`.
fn saturate(shape: &Shape, seconds: u64) -> (LinkModel, Outcome) {
    let gap = shape.rate.time_for(1514).as_nanos() as Nanos / 2;
    let arrivals: Vec<Arrival> = (0..seconds * 1_000 * MS / gap).map(|_| (gap, 1514)).collect();
    let mut link = link(shape, 1);
    let (_, outcome) = play(&mut link, &arrivals, |_, _, _| ());
    (link, outcome)
}

#[test]
fn a_saturated_link_carries_its_rate_and_queues_for_as_long_as_it_says() {
    let shape = shape(20_000, 30_000, Queue::Time(Delay::from_millis(100)));
    let (mut link, outcome) = saturate(&shape, 10);
    let bytes: u64 = outcome.departed.iter().map(|departure| u64::from(departure.bytes)).sum();
    let mbit = bytes as f64 * 8.0 / 10e6;
    assert!((mbit - 20.0).abs() < 0.1, "{mbit} Mbit/s");
    let last = outcome.departed.last().unwrap();
    // In the steady state a packet waits for the queue and then for the delay.
    let waited = last.at - Nanos::from(last.id) * (shape.rate.time_for(1514).as_nanos() as Nanos / 2);
    assert!(waited.abs_diff(130 * MS) < 2 * MS, "waited {waited} ns");
    let tally = link.tally(10_000 * MS);
    let queue_ms = tally.waiting_bytes as f64 * 8.0 / 20e3;
    assert!((queue_ms - 100.0).abs() < 2.0, "{queue_ms} ms waiting");
}

#[test]
fn a_fall_of_the_rate_stretches_what_is_queued() {
    let fast = shape(10_000, 0, Queue::Packets(1000));
    let mut link = link(&fast, 1);
    for id in 0..101 {
        link.arrive(0, id, 1250).unwrap();
    }
    // 1250 bytes take 1 ms: after 20.5 ms, 80 packets wait, the first of them for 0.5 ms more.
    let now = 20 * MS + MS / 2;
    let mut outcome = Outcome::default();
    collect(&mut link, now, &mut outcome);
    assert_eq!(outcome.departed.len(), 21);
    link.change(now, &shape(1_000, 0, Queue::Packets(10)));
    assert_eq!(link.held(), 80, "a lowered limit evicts nothing");
    assert_eq!(link.next_event(), Some(now + 5 * MS));
    collect(&mut link, Nanos::MAX, &mut outcome);
    assert_eq!(outcome.departed.last().unwrap().at, now + 5 * MS + 79 * 10 * MS);
    assert_eq!(outcome.departed.len(), 101);
}

#[test]
fn a_fall_of_the_delay_does_not_reorder() {
    let slow = shape(100_000, 100_000, Queue::Packets(1000));
    let mut link = link(&slow, 1);
    assert_eq!(link.arrive(0, 0, 1000), Ok(100 * MS));
    link.change(MS, &shape(100_000, 10_000, Queue::Packets(1000)));
    assert_eq!(link.arrive(2 * MS, 1, 1000), Ok(100 * MS), "the line's running maximum");
    assert_eq!(link.arrive(95 * MS, 2, 1000), Ok(105 * MS));
}

#[test]
fn reordering_lets_its_share_overtake() {
    let wanted = Shape { reorder: Percent::new(25.0), ..shape(100_000, 50_000, Queue::Packets(100_000)) };
    let arrivals: Vec<Arrival> = (0..20_000).map(|_| (MS, 1000)).collect();
    let mut link = link(&wanted, 1);
    let (_, mut outcome) = play(&mut link, &arrivals, |_, _, _| ());
    collect(&mut link, Nanos::MAX, &mut outcome);
    let (mut latest, mut overtaken) = (0, 0usize);
    for departure in &outcome.departed {
        overtaken += usize::from(departure.id < latest);
        latest = latest.max(departure.id);
    }
    // Everything that keeps its delay of 50 ms is overtaken by one of the next 50 at 25 % each.
    let share = overtaken as f64 / 20_000.0;
    assert!((share - 0.75).abs() < 0.02, "{share}");
}

#[test]
fn reordering_of_few_overtakes_by_its_share() {
    let down = Shape { reorder: Percent::new(4.0), ..shape(100_000, 50_000, Queue::Packets(100_000)) };
    let mut link = link(&down, 1);
    let arrivals: Vec<Arrival> = (0..20_000).map(|_| (MS, 1000)).collect();
    let (_, mut outcome) = play(&mut link, &arrivals, |_, _, _| ());
    collect(&mut link, Nanos::MAX, &mut outcome);
    // An overtaker comes before packets that were sent earlier.
    let mut earliest = u32::MAX;
    let overtakers = outcome.departed.iter().rev().filter(|departure| {
        let overtook = departure.id > earliest;
        earliest = earliest.min(departure.id);
        overtook
    });
    let share = overtakers.count() as f64 / 20_000.0;
    assert!((share - 0.04).abs() < 0.006, "{share}");
}

/// Mean and standard deviation of the time from the bottleneck to departure, in ms.
fn delays_ms(shape: &Shape, gap: Nanos, bytes: u32) -> (f64, f64) {
    let arrivals: Vec<Arrival> = (0..200_000 * MS / gap).map(|_| (gap, bytes)).collect();
    let mut link = link(shape, 5);
    let (_, mut outcome) = play(&mut link, &arrivals, |_, _, _| ());
    collect(&mut link, Nanos::MAX, &mut outcome);
    assert!(outcome.dropped.is_empty());
    let delays = outcome.departed.iter().map(|d| (d.at - (Nanos::from(d.id) + 1) * gap) as f64 / 1e6);
    let count = outcome.departed.len() as f64;
    let (sum, squares) = delays.fold((0.0, 0.0), |(sum, squares), ms| (sum + ms, squares + ms * ms));
    (sum / count, (squares / count - (sum / count).powi(2)).sqrt())
}

#[test]
fn jitter_keeps_mean_and_spread_at_any_load() {
    for distribution in [Distribution::Uniform, Distribution::Normal, Distribution::Pareto] {
        let jittery = Shape {
            jitter: Delay::from_millis(9),
            distribution: Some(distribution),
            ..shape(10_000, 40_000, Queue::Packets(1000))
        };
        let (idle, idle_spread) = delays_ms(&jittery, 25 * MS, 60);
        let gap = jittery.rate.time_for(1514).as_nanos() as Nanos + 1;
        let (busy, busy_spread) = delays_ms(&jittery, gap, 1514);
        println!("{distribution:?}: idle {idle:.2} ± {idle_spread:.2}, busy {busy:.2} ± {busy_spread:.2}");
        assert!((idle / 40.0 - 1.0).abs() < 0.02, "{distribution:?}: {idle}");
        assert!((busy / idle - 1.0).abs() < 0.03, "{distribution:?}: {busy} for {idle}");
        assert!((busy_spread / idle_spread - 1.0).abs() < 0.05, "{distribution:?}: {busy_spread}");
    }
}

#[test]
fn jitter_without_correlation_stays_at_its_upper_end_on_a_busy_link() {
    let jittery = Shape {
        jitter: Delay::from_millis(9),
        distribution: Some(Distribution::Normal),
        correlation: Some(Delay::ZERO),
        ..shape(10_000, 40_000, Queue::Packets(1000))
    };
    let gap = jittery.rate.time_for(1514).as_nanos() as Nanos + 1;
    let (mean, spread) = delays_ms(&jittery, gap, 1514);
    assert!((46.0..62.0).contains(&mean) && spread < 7.0, "{mean} ± {spread}");
    let (mean, spread) = delays_ms(&jittery, 80 * MS, 60);
    assert!((mean - 40.0).abs() < 1.0 && (spread - 9.0).abs() < 0.5, "{mean} ± {spread}");
}

#[test]
fn small_frames_fill_the_queue_by_their_bytes() {
    // 23 % of the rate in frames of 60 bytes, with a long delay behind.
    let link_of = |kbit| shape(kbit, 250_000, Queue::Time(Delay::from_millis(100)));
    for kbit in [1_000, 3_000] {
        let gap = 60 * 8 * MS / kbit * 100 / 23;
        let mut link = link(&link_of(kbit), 1);
        let arrivals: Vec<Arrival> = (0..20_000).map(|_| (gap, 60)).collect();
        let (_, outcome) = play(&mut link, &arrivals, |_, _, _| ());
        assert!(outcome.dropped.is_empty(), "{} of 20000 at {kbit} kbit/s", outcome.dropped.len());
    }
    // At twice the rate the queue holds its bytes of small frames, and as many packets where it says so.
    for (queue, packets) in [(Queue::Time(Delay::from_millis(100)), 208), (Queue::Packets(20), 20)] {
        let mut link = link(&Shape { queue, ..link_of(1_000) }, 1);
        let arrivals: Vec<Arrival> = (0..20_000).map(|_| (MS * 60 * 4 / 1000, 60)).collect();
        let (now, _) = play(&mut link, &arrivals, |_, _, _| ());
        let waiting = link.tally(now).waiting_packets;
        assert!((packets - 1..=packets).contains(&waiting), "{waiting}");
    }
}

#[test]
fn corruption_hits_its_share_and_names_a_place() {
    let wanted = Shape { corrupt: Percent::new(5.0), ..shape(100_000, 0, Queue::Packets(100_000)) };
    let arrivals: Vec<Arrival> = (0..20_000).map(|_| (MS, 1000)).collect();
    let mut link = link(&wanted, 1);
    let (_, mut outcome) = play(&mut link, &arrivals, |_, _, _| ());
    collect(&mut link, Nanos::MAX, &mut outcome);
    let places: Vec<u64> = outcome.departed.iter().filter_map(|departure| departure.corrupt).collect();
    assert!((places.len() as f64 / 20_000.0 - 0.05).abs() < 0.006, "{}", places.len());
    assert!(places.windows(2).any(|pair| pair[0] != pair[1]));
}
