//! A sender's timer: the probe of a tail (RFC 8985), the time that reordering is given, the time-out
//! (RFC 6298).

use super::acknowledgement::Sum;
use super::rtt::LEAST_RTO;
use super::window::ControlState;
use super::{LEAST_TIMER, Recovery, Segment, Sender, Timer};
use crate::emulate::tcp::receiver::Acknowledgement;
use crate::units::Nanos;

impl Sender {
    /// Sets the timer: a probe where all is in order, else the time-out.
    pub(super) fn arm(&mut self, now: Nanos) {
        let Some(first) = self.segments.front() else {
            (self.timer, self.timer_at) = (Timer::None, Nanos::MAX);
            return;
        };
        if matches!(self.state, ControlState::Open | ControlState::Reduced) {
            let extra = if self.segments.len() == 1 { LEAST_RTO } else { LEAST_TIMER };
            let probe = now + 2 * self.rtt.smoothed + extra;
            let timeout = first.at + self.rtt.timeout();
            (self.timer, self.timer_at) = (Timer::Probe, probe.min(timeout.max(now + LEAST_TIMER)));
        } else {
            (self.timer, self.timer_at) = (Timer::Timeout, now + self.rtt.timeout());
        }
    }

    /// The timer is over.
    pub(crate) fn on_time(&mut self, now: Nanos) -> Option<Segment> {
        if now < self.timer_at {
            return None;
        }
        match std::mem::replace(&mut self.timer, Timer::None) {
            Timer::None => {
                self.timer_at = Nanos::MAX;
                None
            }
            Timer::Probe => Some(self.probe(now)),
            Timer::Reorder => {
                (self.timer, self.timer_at) = (Timer::Timeout, now + self.rtt.timeout());
                let before = self.lost_total;
                self.find_losses(now);
                if self.lost_total > before {
                    if self.state < ControlState::Recovery {
                        self.enter_recovery();
                    }
                    if self.algorithm.bbr().is_none() && self.state == ControlState::Recovery {
                        let sum = Sum::default();
                        self.reduce_in_proportion(&sum, 1, 1);
                    }
                }
                None
            }
            Timer::Timeout => {
                self.time_out(now);
                let segment = self.put_out(now, self.first, false);
                (self.timer, self.timer_at) = (Timer::Timeout, now + self.rtt.timeout());
                Some(segment)
            }
        }
    }

    /// Sends something new, or the last segment again, so that an acknowledgement tells of a lost tail.
    pub(super) fn probe(&mut self, now: Nanos) -> Segment {
        let is_new = self.may_send_new();
        let number = if is_new { self.push_new(now) } else { self.next_number() - 1 };
        self.probing = (!is_new).then_some(number + 1);
        let segment = self.put_out(now, number, is_new);
        // Not before the next acknowledgement is another probe sent.
        let first = self.segments.front().map_or(now, |sent| sent.at);
        let timeout = (first + self.rtt.timeout()).max(now + LEAST_TIMER);
        (self.timer, self.timer_at) = (Timer::Timeout, timeout);
        segment
    }

    /// A tail probe that repaired a loss hides it from the other signals; this reduces the window for it.
    pub(super) fn judge_probe(&mut self, ack: &Acknowledgement) {
        if ack.repeated {
            self.probing = None;
        }
        if self.probing.take_if(|probe| ack.next > *probe).is_some() && self.state < ControlState::Reduced {
            self.reduce(ControlState::Reduced);
            self.end_reduction();
            self.state = ControlState::Open;
        }
    }

    pub(super) fn time_out(&mut self, now: Nanos) {
        let fresh = self.state < ControlState::Recovery;
        // Segments sent less than an RTT ago may still arrive.
        let (rtt, first) = (self.rack.rtt, self.first);
        for number in first..self.next_number() {
            let at = self.segments[(number - first) as usize].at;
            if number == first || at + rtt <= now {
                self.lose(number);
            }
        }
        if self.state <= ControlState::Disorder
            || self.first >= self.recovery.high
            || (self.state == ControlState::Loss && self.timeouts == 0)
        {
            let next = self.next_number();
            self.recovery = Recovery {
                prior_window: self.window.segments,
                prior_ssthresh: self.window.ssthresh,
                may_undo: true,
                high: next,
                ..Recovery::default()
            };
            self.window.ssthresh = self.algorithm.after_loss(&self.window);
            self.algorithm.timed_out();
        }
        self.recovery.frto = fresh || self.timeouts > 0;
        self.recovery.high = self.next_number();
        self.window.segments = self.in_flight() + 1;
        self.window.counted = 0;
        self.state = ControlState::Loss;
        self.probing = None;
        self.timeouts += 1;
        self.rtt.back_off();
        self.burst_left = 0;
    }
}
