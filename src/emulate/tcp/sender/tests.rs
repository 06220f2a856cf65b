//! A sender against a pipe in virtual time that delays, loses and limits as a test says.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::emulate::tcp::receiver::{Acknowledgement, Receiver};
use crate::emulate::tcp::sender::*;

const MS: Nanos = 1_000_000;

/// A sender, a receiver, and a pipe between them that carries `rate` segments a second with a queue of
/// `queue` of them, with a round trip of `rtt`.
struct Pipe {
    sender: Sender,
    receiver: Receiver,
    rate: u64,
    rtt: Nanos,
    queue: u64,
    now: Nanos,
    free_at: Nanos,
    /// Arrivals by time: segments with their time of sending, and acknowledgements.
    events: BTreeMap<(Nanos, u64), Event>,
    sent: u64,
    /// Sendings that are lost.
    losses: Vec<u64>,
}

enum Event {
    Data(Segment, Nanos),
    Ack(Acknowledgement),
}

impl Pipe {
    fn new(control: Control, rate: u64, rtt: Nanos, queue: u64) -> Pipe {
        let sender = Sender::new(control, false, 1, 0, rtt);
        let receiver = Receiver::new();
        let (events, losses) = (BTreeMap::new(), Vec::new());
        Pipe { sender, receiver, rate, rtt, queue, now: 0, free_at: 0, events, sent: 0, losses }
    }

    fn put(&mut self, segment: Segment) {
        self.sent += 1;
        let serve = 1_000_000_000 / self.rate;
        let waiting = self.free_at.saturating_sub(self.now) / serve;
        if self.losses.contains(&self.sent) || waiting >= self.queue {
            return;
        }
        self.free_at = self.free_at.max(self.now) + serve;
        self.events.insert((self.free_at + self.rtt, self.sent), Event::Data(segment, self.now));
    }

    fn tell(&mut self) {
        if self.receiver.is_due() {
            let ack = self.receiver.acknowledge(self.now, false);
            self.sent += 1;
            self.events.insert((self.now, self.sent), Event::Ack(ack));
        }
    }

    /// Plays until nothing is left to do, or until a time.
    fn play(&mut self, until: Nanos) {
        loop {
            while let Some(segment) = self.sender.next_segment(self.now) {
                self.put(segment);
            }
            let event = self.events.keys().next().map_or(Nanos::MAX, |key| key.0);
            let timers = self.sender.timer_at.min(self.sender.paced_until()).min(self.receiver.next());
            let next = event.min(timers);
            if next > until {
                return;
            }
            assert!(next >= self.now, "time runs backwards");
            self.now = next;
            if event <= next {
                match self.events.pop_first().unwrap().1 {
                    Event::Data(segment, sent) => {
                        let Segment { number, end, bytes, .. } = segment;
                        self.receiver.take(self.now, number, end, u64::from(bytes), sent, Some(sent));
                    }
                    Event::Ack(ack) => self.sender.acked(self.now, &ack),
                }
            }
            self.receiver.on_time(self.now);
            self.tell();
            if let Some(segment) = self.sender.on_time(self.now) {
                self.put(segment);
            }
        }
    }
}

#[test]
fn window_doubles_each_round_trip_of_slow_start() {
    for control in [Control::Reno, Control::Cubic, Control::Bbr] {
        let mut pipe = Pipe::new(control, 1_000_000, 100 * MS, 10_000);
        pipe.sender.offer(0, 100_000_000);
        pipe.play(50 * MS);
        assert_eq!(pipe.sender.window(), 10, "{control}");
        pipe.play(350 * MS);
        let window = pipe.sender.window();
        // BBR spreads its window over the round trip, so that half of the third is still to come.
        let expected = if control == Control::Bbr { 50..=82 } else { 76..=82 };
        assert!(expected.contains(&window), "{control}: {window}");
    }
}

#[test]
fn single_loss_halves_reno_and_is_sent_again_after_a_round_trip() {
    let mut pipe = Pipe::new(Control::Reno, 100_000, 100 * MS, 10_000);
    pipe.losses = vec![40];
    pipe.sender.offer(0, 1_000_000);
    pipe.play(10_000 * MS);
    assert_eq!(pipe.receiver.received, 1_000_000);
    let sent = 1_000_000u64.div_ceil(MSS);
    assert_eq!(pipe.sender.lost_total, 1);
    assert_eq!(pipe.sender.delivered, sent);
    assert!(pipe.sender.window.ssthresh < 60, "{:?}", pipe.sender.window);
}

#[test]
fn lost_tail_is_found_by_a_probe_and_not_by_the_timeout() {
    let mut pipe = Pipe::new(Control::Cubic, 100_000, 100 * MS, 10_000);
    pipe.losses = vec![10];
    pipe.sender.offer(0, 10 * MSS);
    pipe.play(10_000 * MS);
    assert_eq!((pipe.receiver.received, pipe.sender.timeouts), (10 * MSS, 0));
    // A probe two round trips after the last acknowledgement, and its own round trip.
    assert!(pipe.now < 520 * MS, "{}", pipe.now);
}

#[test]
fn lost_flight_waits_for_the_timeout() {
    let mut pipe = Pipe::new(Control::Reno, 100_000, 100 * MS, 10_000);
    pipe.losses = (1..=11).collect();
    pipe.sender.offer(0, 10 * MSS);
    pipe.play(300 * MS);
    assert_eq!(pipe.receiver.received, 0);
    pipe.play(60_000 * MS);
    assert_eq!(pipe.receiver.received, 10 * MSS);
    assert!(pipe.sender.rtt.timeout() >= 300 * MS);
}

#[test]
fn timeout_of_a_link_that_only_paused_is_undone() {
    let mut pipe = Pipe::new(Control::Reno, 10_000, 20 * MS, 10_000);
    pipe.sender.offer(0, 4_000_000);
    pipe.play(200 * MS);
    let before = pipe.sender.window();
    // Segments in flight arrive two seconds later.
    let late = std::mem::take(&mut pipe.events);
    let late = late.into_iter().map(|((at, number), event)| ((at + 2000 * MS, number), event));
    pipe.events = late.collect();
    pipe.free_at += 2000 * MS;
    pipe.play(2000 * MS);
    assert_eq!(pipe.sender.state, ControlState::Loss);
    pipe.play(2300 * MS);
    assert!(
        pipe.sender.state < ControlState::Recovery && pipe.sender.window() >= before,
        "{:?}",
        pipe.sender.state
    );
}

#[test]
fn bbr_carries_the_rate_with_two_products_in_flight_at_most() {
    let mut pipe = Pipe::new(Control::Bbr, 5_000, 40 * MS, 1_000);
    pipe.sender.offer(0, u64::MAX / 2);
    pipe.play(5_000 * MS);
    let before = pipe.sender.delivered;
    pipe.play(9_000 * MS);
    let rate = (pipe.sender.delivered - before) as f64 / 4.0;
    assert!((rate / 5_000.0 - 1.0).abs() < 0.02, "{rate}");
    assert!((200..=420).contains(&pipe.sender.in_flight()), "{}", pipe.sender.in_flight());
}

#[test]
fn bbr_loses_no_rate_to_random_losses() {
    let mut pipe = Pipe::new(Control::Bbr, 5_000, 40 * MS, 1_000);
    pipe.losses = (1..2_000).map(|n| n * 50).collect();
    pipe.sender.offer(0, u64::MAX / 2);
    pipe.play(2_000 * MS);
    let before = pipe.sender.delivered;
    pipe.play(8_000 * MS);
    let rate = (pipe.sender.delivered - before) as f64 / 6.0;
    assert!(rate > 4_500.0, "{rate}");
}

#[test]
fn gains_of_bbr_are_those_of_its_draft() {
    assert!((bbr::STARTUP_GAIN - 2.885).abs() < 0.001);
    assert_eq!(bbr::CYCLE, [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_byte_comes_once_whatever_is_lost(
        control in prop_oneof![Just(Control::Reno), Just(Control::Cubic), Just(Control::Bbr)],
        bytes in 1u64..2_000_000,
        losses in prop::collection::vec(1u64..3_000, 0..60),
        queue in 2u64..200,
        rtt_ms in 1u64..400,
    ) {
        let play = || {
            let mut pipe = Pipe::new(control, 2_000, rtt_ms * MS, queue);
            pipe.losses = losses.clone();
            pipe.sender.offer(0, bytes);
            pipe.play(3_600_000 * MS);
            pipe
        };
        let pipe = play();
        prop_assert_eq!(pipe.receiver.received, bytes);
        prop_assert_eq!(pipe.sender.delivered, bytes.div_ceil(MSS));
        let sender = &pipe.sender;
        prop_assert_eq!((sender.in_flight(), sender.sacked, sender.lost, sender.again), (0, 0, 0, 0));
        prop_assert_eq!(pipe.now, play().now);
    }
}
