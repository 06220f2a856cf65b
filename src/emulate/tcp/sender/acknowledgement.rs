//! Processes an acknowledgement: the segments that arrived, the RTT, and the new window.

use super::control::Algorithm;
use super::window::{Ack, ControlState, RateSample};
use super::{Sender, Sent, Timer};
use crate::emulate::tcp::receiver::Acknowledgement;
use crate::emulate::tcp::receiver::MSS;
use crate::units::Nanos;

impl Sender {
    /// Takes an acknowledgement.
    pub(crate) fn acked(&mut self, now: Nanos, ack: &Acknowledgement) {
        self.room_until = self.room_until.max(ack.window_end);
        let mut sum = Sum { prior_in_flight: self.in_flight(), next: self.next_number(), ..Sum::default() };
        let (prior_delivered, prior_lost) = (self.delivered, self.lost_total);
        let prior_highest = self.highest_sacked;
        self.take_in_order(now, ack.next, &mut sum);
        self.take_blocks(now, ack, &mut sum);
        if !sum.advanced && sum.newly == 0 {
            return;
        }
        self.rack.reordered |= sum.earliest_in_order.is_some_and(|number| number < prior_highest);
        if sum.advanced {
            self.timeouts = 0;
        }
        if let Some(rtt) = sum.rtt.or(sum.sack_rtt) {
            self.rtt.measured(rtt, self.first, sum.next);
        }
        if let Some(rtt) = sum.last_rtt.or(sum.sack_rtt) {
            self.rtt.least = self.rtt.least.min(rtt);
            let paced = self.pacing_rate.is_some();
            self.algorithm.measured(now, rtt, (self.first, sum.next), paced, &mut self.window);
        }
        self.judge_probe(ack);
        self.judge_losses(now, ack, &sum);
        let acked = (self.delivered - prior_delivered) as u32;
        let losses = (self.lost_total - prior_lost) as u32;
        if self.app_limited_until > 0 && self.delivered > self.app_limited_until {
            self.app_limited_until = 0;
        }
        self.size_window(now, &sum, acked, losses);
        if sum.advanced && self.timer != Timer::Reorder || self.segments.is_empty() {
            self.arm(now);
        }
    }

    pub(super) fn take_in_order(&mut self, now: Nanos, next: u32, sum: &mut Sum) {
        while self.first < next {
            let Some(sent) = self.segments.pop_front() else { break };
            let number = self.first;
            self.first += 1;
            sum.advanced = true;
            self.lost -= u32::from(sent.lost);
            self.again -= u32::from(sent.again);
            if sent.sacked {
                self.sacked -= 1;
                continue;
            }
            if !sent.ever_again {
                sum.rtt.get_or_insert(now - sent.at);
                sum.last_rtt = Some(now - sent.at);
                sum.original |= number < self.recovery.high;
                sum.earliest_in_order.get_or_insert(number);
            }
            self.came(now, number, &sent, sum);
        }
    }

    pub(super) fn take_blocks(&mut self, now: Nanos, ack: &Acknowledgement, sum: &mut Sum) {
        let known = self.known_blocks;
        for (place, block) in ack.blocks.iter().enumerate() {
            let (from, to) = (block.from.max(self.first), block.to.min(self.next_number()));
            self.known_blocks[place] = (from, to);
            let mut number = from;
            while number < to {
                // Skip the segments that the last acknowledgement named too.
                if let Some(old) =
                    known.iter().find(|old| old.0 <= number && number < old.1 && old.0 >= block.from)
                {
                    number = old.1;
                    continue;
                }
                self.take_block(now, number, sum);
                number += 1;
            }
            self.highest_sacked = self.highest_sacked.max(to);
        }
    }

    pub(super) fn take_block(&mut self, now: Nanos, number: u32, sum: &mut Sum) {
        let sent = &mut self.segments[(number - self.first) as usize];
        if sent.sacked {
            return;
        }
        sent.sacked = true;
        self.lost -= u32::from(sent.lost);
        self.again -= u32::from(sent.again);
        (sent.lost, sent.again) = (false, false);
        let sent = *sent;
        self.sacked += 1;
        if !sent.ever_again {
            sum.sack_rtt = Some(now - sent.at);
            sum.original |= number < self.recovery.high;
            let earliest = sum.earliest_in_order.unwrap_or(number);
            sum.earliest_in_order = Some(earliest.min(number));
        }
        self.came(now, number, &sent, sum);
    }

    /// A segment came for the first time.
    pub(super) fn came(&mut self, now: Nanos, number: u32, sent: &Sent, sum: &mut Sum) {
        self.delivered += 1;
        self.delivered_at = now;
        sum.newly += 1;
        let later = sum.sample.is_none_or(|(at, _, _)| (sent.at, number) > (at.0, at.1));
        if later {
            let sample = RateSample {
                prior_delivered: sent.delivered,
                delivered: 0,
                interval: sent.at - sent.first_at,
                app_limited: sent.app_limited,
            };
            sum.sample = Some(((sent.at, number), sample, sent.delivered_at));
            self.first_at = sent.at;
        }
        let rtt = now - sent.at;
        if sent.ever_again && rtt < self.rtt.least {
            return;
        }
        if (sent.at, number) > (self.rack.at, self.rack.number) {
            (self.rack.at, self.rack.number, self.rack.rtt) = (sent.at, number, rtt);
        }
    }

    pub(super) fn size_window(&mut self, now: Nanos, sum: &Sum, acked: u32, losses: u32) {
        let in_flight = self.in_flight();
        if let Algorithm::Bbr(bbr) = &mut self.algorithm {
            let rate = sum.sample.and_then(|((..), sample, prior_at)| {
                let interval = sample.interval.max(self.delivered_at - prior_at);
                let delivered = self.delivered - sample.prior_delivered;
                (interval >= self.rtt.least && interval > 0).then_some(RateSample {
                    delivered,
                    interval,
                    ..sample
                })
            });
            let ack = Ack {
                now,
                rtt: sum.last_rtt.or(sum.sack_rtt),
                acked,
                losses,
                prior_in_flight: sum.prior_in_flight,
                in_flight,
                delivered: self.delivered,
                lost: self.lost_total,
                rate,
                state: self.state,
                paced_until: self.paced_until,
            };
            bbr.acked(&ack, &mut self.window);
            self.pacing_rate = Some(bbr.pacing_rate());
            if bbr.probes_rtt() {
                self.app_limited_until = (self.delivered + u64::from(in_flight)).max(1);
            }
            return;
        }
        match self.state {
            ControlState::Reduced | ControlState::Recovery => self.reduce_in_proportion(sum, acked, losses),
            _ if sum.advanced => self.algorithm.grow(now, acked, &mut self.window),
            _ => {}
        }
        if self.pacing_rate.is_some() {
            let gain = if self.window.segments < self.window.ssthresh / 2 { 2.0 } else { 1.2 };
            let segments = self.window.segments.max(self.segments.len() as u32);
            let bytes = f64::from(segments) * MSS as f64;
            self.pacing_rate = Some(gain * bytes * 1e9 / self.rtt.smoothed as f64);
        }
    }
}

/// The sum of one acknowledgement.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    pub(super) prior_in_flight: u32,
    /// The next new segment's number.
    pub(super) next: u32,
    pub(super) advanced: bool,
    pub(super) newly: u32,
    /// Of the first and the last segment that came in order and was sent once.
    pub(super) rtt: Option<Nanos>,
    pub(super) last_rtt: Option<Nanos>,
    pub(super) sack_rtt: Option<Nanos>,
    /// Something came that was sent before the time-out, and only then.
    pub(super) original: bool,
    /// The first that was sent once.
    pub(super) earliest_in_order: Option<u32>,
    /// Of the segment that was sent last: its sending, the sample, and when the last before it came.
    pub(super) sample: Option<((Nanos, u32), RateSample, Nanos)>,
}
