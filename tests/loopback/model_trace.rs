//! Properties of every packet while a trace is played in the userspace model.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use twinlink::config::profile::{Queue, Shape};
use twinlink::config::trace::{Trace, TraceStep};
use twinlink::emulate::link::{Cause, Departure, LinkModel};
use twinlink::units::Nanos;
use twinlink::units::{Delay, Direction, LinkId, Percent, Rate};

const MS: Nanos = 1_000_000;
const S: Nanos = 1_000_000_000;

fn step(at: Nanos, kbit: u64) -> TraceStep {
    TraceStep { at, rate: Rate::from_bits_per_s(kbit * 1000), delay: None, loss: None }
}

fn trace(looped: bool, steps: Vec<TraceStep>, length: Nanos) -> Arc<Trace> {
    Arc::new(Trace::new("t".into(), looped, steps, length).unwrap())
}

/// 10 Mbit/s until the trace is played.
fn shape(delay_ms: u64, queue: Queue, trace: Arc<Trace>) -> Shape {
    Shape {
        delay: Delay::from_millis(delay_ms),
        trace: Some(trace),
        ..Shape::plain(Rate::from_bits_per_s(10_000_000), queue)
    }
}

fn played(shape: &Shape, at: Nanos) -> LinkModel {
    let mut link = LinkModel::new(shape, 1, LinkId::A, Direction::Down);
    link.play(at, shape);
    link
}

fn drain(link: &mut LinkModel) -> Vec<Departure> {
    std::iter::from_fn(|| link.take_due(Nanos::MAX - 1)).collect()
}

/// Bytes that the trace lets pass between two times since it began.
fn capacity(trace: &Trace, from: Nanos, to: Nanos) -> f64 {
    let moments = trace.moments().take_while(|moment| moment.since < to);
    let passed = |since: Nanos, until: Nanos| until.min(to).saturating_sub(since.max(from)) as f64;
    moments.map(|m| m.step.rate.bytes_per_s() * passed(m.since, m.until) / 1e9).sum()
}

fn any_trace() -> impl Strategy<Value = Arc<Trace>> {
    let rate = prop_oneof![1 => Just(0u64), 3 => 8u64..50_000];
    (prop::collection::vec((10u64..400, rate), 1..12), any::<bool>()).prop_filter_map(
        "an outage",
        |(parts, looped)| {
            let (mut at, mut steps) = (0, Vec::new());
            for (lasts_ms, kbit) in parts {
                steps.push(step(at, kbit));
                at += lasts_ms * MS;
            }
            Trace::new("any".into(), looped, steps, at).ok().map(Arc::new)
        },
    )
}

proptest! {
    #[test]
    fn no_window_carries_more_than_the_trace_and_a_packet(
        trace in any_trace(), began in 0u64..5 * S, packets in prop::collection::vec((0u64..30 * MS, 60u32..=1514), 1..200),
    ) {
        let shape = shape(0, Queue::Packets(100_000), trace.clone());
        let mut link = played(&shape, began);
        let mut now = began;
        for (id, (gap, bytes)) in packets.iter().enumerate() {
            now += gap;
            link.arrive(now, id as u32, *bytes).unwrap();
        }
        let departed = drain(&mut link);
        let ends_dead = !trace.looped() && trace.steps().last().unwrap().rate.bits_per_s() == 0;
        prop_assert!(departed.len() == packets.len() || ends_dead);
        for first in 0..departed.len() {
            let mut bytes = 0.0;
            for packet in &departed[first..] {
                bytes += f64::from(packet.bytes);
                let (from, to) = (departed[first].at - began, packet.at - began);
                let most = capacity(&trace, from, to + 1) + f64::from(packet.bytes);
                prop_assert!(bytes <= most + 1.0, "{bytes} bytes from {from} to {to}, at most {most}");
            }
        }
        for pair in departed.windows(2) {
            prop_assert!(pair[0].id < pair[1].id && pair[0].at <= pair[1].at);
        }
    }

    /// A link that never idles carries all that the trace lets pass.
    #[test]
    fn a_busy_link_loses_nothing_of_the_trace(trace in any_trace(), began in 0u64..5 * S) {
        let mut link = played(&shape(0, Queue::Packets(1_000_000), trace.clone()), began);
        (0..3000).for_each(|id| { link.arrive(began, id, 1000).unwrap(); });
        let mut sent = 0.0;
        for packet in drain(&mut link) {
            let carried = capacity(&trace, 0, packet.at - began);
            prop_assert!((sent - carried).abs() < 1.0, "{sent} bytes before the packet, {carried} by the trace");
            sent += 1000.0;
        }
    }
}

#[test]
fn in_an_outage_packets_wait_and_are_dropped_when_the_queue_is_full() {
    let trace = trace(true, vec![step(0, 10_000), step(S, 0)], 3 * S);
    // 100 ms at 10 Mbit/s are 125 000 bytes.
    let mut link = played(&shape(0, Queue::Time(Delay::from_millis(100)), trace), 0);
    let during = 2 * S;
    let taken = (0..200).filter(|id| link.arrive(during, *id, 1250).is_ok()).count();
    assert_eq!(taken, 100);
    let tally = link.tally(during);
    assert_eq!((tally.held_bytes, tally.dropped_queue), (125_000, 100));
    assert_eq!(link.arrive(during, 200, 60), Err(Cause::QueueFull));
    let departed = drain(&mut link);
    assert_eq!((departed[0].at, departed[99].at), (3 * S, 3 * S + 99 * MS));
}

#[test]
fn what_is_queued_when_a_trace_begins_is_served_at_its_rates() {
    let trace = trace(false, vec![step(0, 1_000), step(S, 0), step(2 * S, 10_000)], 4 * S);
    let shape = shape(0, Queue::Packets(1000), trace);
    let mut link = LinkModel::new(&shape, 1, LinkId::A, Direction::Down);
    // Until then 1250 bytes take 1 ms.
    (0..300).for_each(|id| {
        link.arrive(0, id, 1250).unwrap();
    });
    let began = 100 * MS;
    while link.take_due(began - 1).is_some() {}
    assert_eq!(link.held(), 200);
    link.play(began, &shape);
    let at: Vec<Nanos> = drain(&mut link).iter().map(|packet| packet.at - began).collect();
    // Ten milliseconds each for a second; the hundred-first waits for the end of the outage.
    assert_eq!((at[0], at[1], at[99], at[100], at[199]), (0, 10 * MS, 990 * MS, 2 * S, 2 * S + 99 * MS));
}

#[test]
fn an_outage_without_end_holds_until_the_link_is_changed() {
    let dies = shape(0, Queue::Packets(1000), trace(false, vec![step(0, 1_000), step(S, 0)], 2 * S));
    let mut link = played(&dies, 0);
    assert_eq!(link.arrive(5 * S, 0, 1250), Ok(Nanos::MAX));
    assert_eq!(link.take_due(500 * S), None);
    link.change(500 * S, &Shape { trace: None, ..dies });
    assert_eq!(link.next_event(), Some(500 * S));
}

#[test]
fn delay_and_loss_follow_the_trace_too() {
    let with = |at, delay_ms, loss: f64| TraceStep {
        delay: Some(Delay::from_millis(delay_ms)),
        loss: Some(Percent::new(loss)),
        ..step(at, 10_000)
    };
    let trace = trace(true, vec![with(0, 100, 0.0), with(S, 20, 50.0)], 2 * S);
    let shape = shape(50, Queue::Packets(10_000), trace);
    assert_eq!(shape.greatest_delay(), Delay(Duration::from_millis(100)));
    let mut link = played(&shape, 0);
    assert_eq!(link.arrive(0, 0, 1000), Ok(100 * MS));
    let lost = (1..1001).filter(|id| link.arrive(S, *id, 60) == Err(Cause::Loss)).count();
    assert!((430..570).contains(&lost), "{lost} of 1000 lost");
    let at = 2 * S - MS;
    assert_eq!(
        (link.arrive(at, 1001, 60) != Ok(at + 100 * MS), link.arrive(2 * S, 1002, 60)),
        (true, Ok(2 * S + 100 * MS))
    );
}

#[test]
fn traces_of_the_checkout_are_those_that_their_program_makes() {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/netem/traces/make.py");
    let output = std::process::Command::new("python3").args([program, "--check"]).output().unwrap();
    assert!(output.status.success(), "{}", crate::support::stderr(&output));
}
