//! Detects losses: a segment is lost if it was sent a while before one that has arrived (RACK, RFC 8985).

use std::cmp::Reverse;

use super::window::ControlState;
use super::{LEAST_TIMER, Sender, Timer};
use crate::units::Nanos;

/// The number of segments out of order that show that one before them is lost.
const DUPLICATES: u32 = 3;

impl Sender {
    /// How long reordering is given.
    pub(super) fn reordering(&self) -> Nanos {
        if !self.rack.reordered && (self.state >= ControlState::Recovery || self.sacked >= DUPLICATES) {
            return 0;
        }
        (self.rtt.least / 4).min(self.rtt.smoothed)
    }

    /// Marks what is lost because what was sent later has come.
    pub(super) fn find_losses(&mut self, now: Nanos) {
        let wait = self.rack.rtt + self.reordering();
        while let Some(&(at, number)) = self.sendings.front() {
            let is_current = number >= self.first && {
                let sent = &self.segments[(number - self.first) as usize];
                sent.at == at && !sent.sacked && (sent.again || !sent.lost)
            };
            if is_current {
                if (at, number) >= (self.rack.at, self.rack.number) {
                    break;
                }
                let due = at + wait;
                if due > now {
                    (self.timer, self.timer_at) = (Timer::Reorder, due.max(now) + LEAST_TIMER);
                    return;
                }
                self.lose(number);
            }
            self.sendings.pop_front();
        }
        if self.timer == Timer::Reorder {
            (self.timer, self.timer_at) = (Timer::Timeout, now + self.rtt.timeout());
        }
    }

    pub(super) fn lose(&mut self, number: u32) {
        let sent = &mut self.segments[(number - self.first) as usize];
        if sent.sacked || (sent.lost && !sent.again) {
            return;
        }
        self.lost_total += 1;
        if sent.again {
            sent.again = false;
            self.again -= 1;
        } else {
            sent.lost = true;
            self.lost += 1;
        }
        self.to_repeat.push(Reverse(number));
    }
}
