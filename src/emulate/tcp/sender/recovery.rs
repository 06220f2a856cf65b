//! Recovers from a loss: reduces the window in proportion (RFC 6937), or restores it where the loss was
//! spurious (RFC 4015, RFC 5682).

use super::acknowledgement::Sum;
use super::window::ControlState;
use super::{Recovery, Sender};
use crate::emulate::tcp::receiver::Acknowledgement;
use crate::units::Nanos;

impl Sender {
    pub(super) fn judge_losses(&mut self, now: Nanos, ack: &Acknowledgement, sum: &Sum) {
        self.recovery.send_new = false;
        if self.state == ControlState::Open {
            self.recovery.repeated_at = None;
        } else if self.first >= self.recovery.high {
            match self.state {
                ControlState::Recovery => {
                    self.try_undo(ack, sum);
                    self.end_reduction();
                    self.recover();
                }
                ControlState::Reduced => {
                    self.end_reduction();
                    self.state = ControlState::Open;
                }
                _ => {}
            }
        }
        if self.state == ControlState::Loss {
            self.judge_timeout(ack, sum);
            if self.state == ControlState::Loss {
                self.find_losses(now);
            }
            return;
        }
        if self.state == ControlState::Recovery && sum.advanced && self.try_undo(ack, sum) {
            self.recover();
        }
        if self.sacked > 0 || self.lost > 0 || self.state != ControlState::Open || self.again > 0 {
            self.find_losses(now);
        }
        if self.state < ControlState::Recovery {
            if self.lost > 0 {
                self.enter_recovery();
            } else if self.state != ControlState::Reduced {
                let disorder = self.sacked + self.again > 0;
                self.state = if disorder { ControlState::Disorder } else { ControlState::Open };
            }
        }
    }

    /// Whether what was sent again had not been lost: the receiver answers to something sent before.
    pub(super) fn try_undo(&mut self, ack: &Acknowledgement, sum: &Sum) -> bool {
        let recovery = &mut self.recovery;
        let spurious = recovery.may_undo
            && sum.advanced
            && recovery.repeated_at.is_some_and(|repeated| ack.echo < repeated);
        if spurious {
            recovery.may_undo = false;
            self.window.segments = self.algorithm.undone(self.window.segments, recovery.prior_window);
            self.window.ssthresh = self.window.ssthresh.max(recovery.prior_ssthresh);
        }
        spurious
    }

    pub(super) fn judge_timeout(&mut self, ack: &Acknowledgement, sum: &Sum) {
        let recovered = self.first >= self.recovery.high;
        let undone = self.try_undo(ack, sum)
            || (self.recovery.frto && sum.original && {
                self.recovery.may_undo = true;
                self.recovery.repeated_at = Some(Nanos::MAX);
                self.try_undo(ack, &Sum { advanced: true, ..*sum })
            });
        if undone {
            self.forget_losses();
            self.recover();
            return;
        }
        if recovered {
            self.recover();
            return;
        }
        if self.recovery.frto {
            if self.next_number() > self.recovery.high {
                self.recovery.frto &= sum.newly == 0 || sum.advanced;
            } else if sum.advanced && self.may_send_new() {
                self.recovery.high = self.next_number();
                self.recovery.send_new = true;
            } else {
                self.recovery.frto = false;
            }
        }
    }

    pub(super) fn forget_losses(&mut self) {
        for sent in self.segments.iter_mut().filter(|sent| sent.lost && !sent.again) {
            sent.lost = false;
            self.lost -= 1;
        }
    }

    pub(super) fn recover(&mut self) {
        self.state = if self.sacked + self.lost > 0 { ControlState::Disorder } else { ControlState::Open };
        self.recovery.may_undo = false;
        self.recovery.frto = false;
        self.recovery.repeated_at = None;
    }

    pub(super) fn reduce(&mut self, state: ControlState) {
        let next = self.next_number();
        self.recovery = Recovery {
            high: next,
            prior_window: self.window.segments,
            prior_ssthresh: self.window.ssthresh,
            may_undo: true,
            ..Recovery::default()
        };
        self.window.counted = 0;
        self.window.ssthresh = self.algorithm.after_loss(&self.window);
        self.state = state;
    }

    pub(super) fn enter_recovery(&mut self) {
        if self.state == ControlState::Reduced {
            self.state = ControlState::Recovery;
            self.recovery.high = self.next_number();
            return;
        }
        self.probing = None;
        self.reduce(ControlState::Recovery);
    }

    pub(super) fn end_reduction(&mut self) {
        if self.algorithm.bbr().is_none() && self.window.ssthresh < u32::MAX {
            let undone = self.state == ControlState::Recovery && !self.recovery.may_undo;
            if !undone {
                self.window.segments = self.window.ssthresh;
            }
        }
    }

    /// Proportional rate reduction (RFC 6937).
    pub(super) fn reduce_in_proportion(&mut self, sum: &Sum, acked: u32, losses: u32) {
        if acked == 0 || self.recovery.prior_window == 0 {
            return;
        }
        let in_flight = self.in_flight();
        let recovery = &mut self.recovery;
        recovery.delivered += acked;
        let ssthresh = self.window.ssthresh;
        let mut more = if in_flight > ssthresh {
            let share = u64::from(ssthresh) * u64::from(recovery.delivered);
            let share = share.div_ceil(u64::from(recovery.prior_window)) as u32;
            share.saturating_sub(recovery.sent)
        } else {
            let more = recovery.delivered.saturating_sub(recovery.sent).max(acked);
            (more + u32::from(sum.advanced && losses == 0)).min(ssthresh - in_flight)
        };
        // The first lost segment is sent again in any case.
        more = more.max(u32::from(recovery.sent == 0));
        self.window.segments = in_flight + more;
    }
}
