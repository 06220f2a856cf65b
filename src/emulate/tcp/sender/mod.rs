//! A TCP sender, segment by segment: what may go out, what is lost, and what is sent again. Pure; time is
//! handed in.
//!
//! As Linux has it: selective acknowledgements (RFC 6675), losses by time (RACK-TLP, RFC 8985), a window
//! reduced in proportion (RFC 6937), time-outs that are found to be spurious (RFC 5682, RFC 4015).

pub(crate) mod acknowledgement;
pub(crate) mod bbr;
pub(crate) mod control;
pub(crate) mod cubic;
pub(crate) mod losses;
pub(crate) mod recovery;
pub(crate) mod reno;
pub(crate) mod rtt;
#[cfg(test)]
mod tests;
pub(crate) mod timers;
pub(crate) mod window;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::receiver::{BLOCKS, MSS};
use crate::units::Nanos;
use control::{Algorithm, Control};
use rtt::Rtt;
use window::{ControlState, Window};

/// Linux's timers for losses are no shorter: two ticks of 250 Hz.
const LEAST_TIMER: Nanos = 8_000_000;

/// The first segments of a connection are not paced.
const UNPACED: u64 = 10;

/// A segment that was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    end: u64,
    bytes: u16,
    sacked: bool,
    lost: bool,
    /// Sent again, and not known to be lost again.
    again: bool,
    ever_again: bool,
    app_limited: bool,
    at: Nanos,
    /// The state when it was last sent: segments delivered, the time of the last delivery, and the sending
    /// time of the segment that began its flight.
    delivered: u64,
    delivered_at: Nanos,
    first_at: Nanos,
}

/// A segment to put on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub number: u32,
    /// Where it ends in the stream.
    pub end: u64,
    pub bytes: u16,
    /// It was not sent before.
    pub is_new: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    None,
    Timeout,
    /// A tail loss probe.
    Probe,
    /// Reordering has had its time.
    Reorder,
}

#[derive(Clone, Debug)]
pub(crate) struct Sender {
    algorithm: Algorithm,
    /// Bytes a second at which segments may go out; none where nothing paces them.
    pacing_rate: Option<f64>,
    window: Window,
    state: ControlState,
    rtt: Rtt,
    /// Bytes of the stream that there are to send, that were sent, and up to which the receiver has room.
    offered: u64,
    sent: u64,
    room_until: u64,
    /// The first segment that is not acknowledged; those from it on.
    first: u32,
    segments: VecDeque<Sent>,
    sacked: u32,
    lost: u32,
    again: u32,
    /// Each sending, in the order of time.
    sendings: VecDeque<(Nanos, u32)>,
    to_repeat: BinaryHeap<Reverse<u32>>,
    /// Blocks that the last acknowledgement named.
    known_blocks: [(u32, u32); BLOCKS],
    highest_sacked: u32,
    rack: Rack,
    recovery: Recovery,
    timer: Timer,
    pub timer_at: Nanos,
    probing: Option<u32>,
    timeouts: u32,
    delivered: u64,
    delivered_at: Nanos,
    lost_total: u64,
    first_at: Nanos,
    app_limited_until: u64,
    last_sent: Nanos,
    /// Something went out since the window's use was last noted.
    sent_some: bool,
    paced_until: Nanos,
    burst_left: u32,
    sendings_total: u64,
    usage: Usage,
}

/// The latest sending that came.
#[derive(Clone, Copy, Debug, Default)]
struct Rack {
    at: Nanos,
    number: u32,
    rtt: Nanos,
    reordered: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Recovery {
    /// It ends when the segments before this one are acknowledged.
    high: u32,
    prior_window: u32,
    prior_ssthresh: u32,
    delivered: u32,
    sent: u32,
    /// When something was first sent again.
    repeated_at: Option<Nanos>,
    may_undo: bool,
    /// The time-out may have been spurious.
    frto: bool,
    /// New data rather than old is sent now, to find that out.
    send_new: bool,
}

/// Whether the window was the limit in the last flight (RFC 7661).
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    most: u32,
    until: u32,
    limited: bool,
    full_at: Nanos,
    used: u32,
}

impl Sender {
    /// A sender on a connection whose handshake took `rtt`. BBR is paced in any case; so are the others
    /// on a socket that began with BBR.
    pub(crate) fn new(control: Control, paced: bool, seed: u64, now: Nanos, rtt: Nanos) -> Sender {
        let paced = paced || control == Control::Bbr;
        Sender {
            algorithm: Algorithm::new(control, seed, rtt),
            pacing_rate: paced.then(|| bbr::first_pacing_rate(rtt)),
            window: Window::new(),
            state: ControlState::Open,
            rtt: Rtt::new(rtt.max(1)),
            offered: 0,
            sent: 0,
            room_until: 65_535,
            first: 0,
            segments: VecDeque::new(),
            sacked: 0,
            lost: 0,
            again: 0,
            sendings: VecDeque::new(),
            to_repeat: BinaryHeap::new(),
            known_blocks: [(0, 0); BLOCKS],
            highest_sacked: 0,
            rack: Rack::default(),
            recovery: Recovery::default(),
            timer: Timer::None,
            timer_at: Nanos::MAX,
            probing: None,
            timeouts: 0,
            delivered: 0,
            delivered_at: now,
            lost_total: 0,
            first_at: now,
            app_limited_until: 0,
            last_sent: now,
            sent_some: false,
            paced_until: 0,
            burst_left: 0,
            sendings_total: 0,
            usage: Usage { full_at: now, ..Usage::default() },
        }
    }

    /// There are `bytes` more to send.
    pub(crate) fn offer(&mut self, now: Nanos, bytes: u64) {
        if self.segments.is_empty() && self.sent == self.offered {
            let idle = now.saturating_sub(self.last_sent);
            if self.delivered > 0 {
                self.algorithm.restarts(now, self.last_sent, self.app_limited_until > 0);
                self.shrink_after(idle);
            }
        }
        self.offered += bytes;
    }

    /// An idle window shrinks by half in each time-out (RFC 2861).
    fn shrink_after(&mut self, idle: Nanos) {
        if self.algorithm.bbr().is_some() || idle <= self.rtt.timeout() {
            return;
        }
        let halves = (idle / self.rtt.timeout()).min(31) as u32;
        let ssthresh = self.window.ssthresh.max(self.window.segments / 4 * 3);
        let restart = window::FIRST_WINDOW.min(self.window.segments);
        self.window.ssthresh = ssthresh;
        self.window.segments = (self.window.segments >> halves).max(restart);
        self.usage.full_at = self.last_sent + idle;
    }

    fn next_number(&self) -> u32 {
        self.first + self.segments.len() as u32
    }

    pub(crate) fn smoothed_rtt(&self) -> Nanos {
        self.rtt.smoothed
    }

    /// Returns the segments that it took for lost so far.
    pub(crate) fn losses(&self) -> u64 {
        self.lost_total
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.segments.len() as u32 - self.sacked - self.lost + self.again
    }

    #[cfg(test)]
    pub(crate) fn window(&self) -> u32 {
        self.window.segments
    }

    /// When to call [`Sender::next_segment`] though nothing comes: pacing holds something back.
    pub(crate) fn paced_until(&self) -> Nanos {
        if self.burst_left == 0 && self.has_something() { self.paced_until } else { Nanos::MAX }
    }

    fn has_something(&self) -> bool {
        let room = self.window.segments > self.in_flight();
        room && (self.lost > self.again || self.may_send_new())
    }

    fn may_send_new(&self) -> bool {
        let bytes = (self.offered - self.sent).min(MSS);
        bytes > 0 && self.sent + bytes <= self.room_until
    }

    /// The next segment to go out now, if one may.
    pub(crate) fn next_segment(&mut self, now: Nanos) -> Option<Segment> {
        if self.in_flight() >= self.window.segments {
            self.note_usage(true);
            return None;
        }
        if !self.pacing_allows(now) {
            return None;
        }
        let (number, is_new) = match self.next_to_repeat().filter(|_| !self.recovery.send_new) {
            Some(number) => (number, false),
            None if self.may_send_new() => (self.push_new(now), true),
            None => {
                if self.sent == self.offered {
                    let in_flight = u64::from(self.in_flight());
                    self.app_limited_until = (self.delivered + in_flight).max(1);
                }
                if self.sent_some {
                    self.note_usage(false);
                }
                return None;
            }
        };
        Some(self.put_out(now, number, is_new))
    }

    fn pacing_allows(&mut self, now: Nanos) -> bool {
        let Some(rate) = self.pacing_rate else { return true };
        if self.burst_left > 0 {
            return true;
        }
        if now < self.paced_until {
            return false;
        }
        let least = self.algorithm.bbr().map_or(2, |bbr| bbr.burst());
        let mut bytes = rate / 1024.0;
        let shift = (self.rtt.least / 1000) >> 9;
        if shift < 32 {
            bytes += (65_536u64 >> shift) as f64;
        }
        self.burst_left = ((bytes.min(65_000.0) as u64 / MSS) as u32).max(least);
        true
    }

    fn next_to_repeat(&mut self) -> Option<u32> {
        while let Some(&Reverse(number)) = self.to_repeat.peek() {
            if number >= self.first {
                let sent = &self.segments[(number - self.first) as usize];
                if sent.lost && !sent.again && !sent.sacked {
                    return Some(number);
                }
            }
            self.to_repeat.pop();
        }
        None
    }

    fn push_new(&mut self, now: Nanos) -> u32 {
        let bytes = (self.offered - self.sent).min(MSS);
        self.sent += bytes;
        if self.segments.is_empty() {
            (self.first_at, self.delivered_at) = (now, now);
        }
        let number = self.next_number();
        self.segments.push_back(Sent {
            end: self.sent,
            bytes: bytes as u16,
            sacked: false,
            lost: false,
            again: false,
            ever_again: false,
            app_limited: false,
            at: now,
            delivered: 0,
            delivered_at: 0,
            first_at: 0,
        });
        number
    }

    /// Notes that a segment goes out, for the first time or again.
    fn put_out(&mut self, now: Nanos, number: u32, is_new: bool) -> Segment {
        let (delivered, delivered_at, first_at) = (self.delivered, self.delivered_at, self.first_at);
        let app_limited = self.app_limited_until > 0;
        let sent = &mut self.segments[(number - self.first) as usize];
        (sent.at, sent.delivered, sent.delivered_at, sent.first_at) =
            (now, delivered, delivered_at, first_at);
        sent.app_limited = app_limited;
        if !is_new {
            if sent.lost && !sent.again {
                sent.again = true;
                self.again += 1;
            }
            sent.ever_again = true;
            self.recovery.sent += 1;
            self.recovery.repeated_at.get_or_insert(now);
        } else if self.state == ControlState::Recovery || self.state == ControlState::Reduced {
            self.recovery.sent += 1;
        }
        let segment = Segment { number, end: sent.end, bytes: sent.bytes, is_new };
        self.sendings.push_back((now, number));
        (self.last_sent, self.sent_some) = (now, true);
        self.sendings_total += 1;
        if let Some(rate) = self.pacing_rate.filter(|_| self.sendings_total >= UNPACED) {
            // Lateness shortens the wait by half of it at most.
            let wait = (f64::from(segment.bytes) * 1e9 / rate.max(1.0)) as Nanos;
            let credit = now.saturating_sub(self.paced_until);
            self.paced_until = self.paced_until.max(now) + wait - credit.min(wait / 2);
            self.burst_left = self.burst_left.saturating_sub(1);
        }
        if self.timer == Timer::None
            || (is_new && matches!(self.state, ControlState::Open | ControlState::Reduced))
        {
            self.arm(now);
        } else if !is_new && number == self.first {
            (self.timer, self.timer_at) = (Timer::Timeout, now + self.rtt.timeout());
        }
        segment
    }

    fn note_usage(&mut self, limited: bool) {
        self.sent_some = false;
        let packets = self.segments.len() as u32;
        let usage = &mut self.usage;
        if self.first >= usage.until || limited || (!usage.limited && packets > usage.most) {
            (usage.limited, usage.most) = (limited, packets);
            usage.until = self.first + packets;
        }
        self.window.limits =
            usage.limited || (self.window.in_slow_start() && self.window.segments < 2 * usage.most);
        if self.window.limits {
            (usage.used, usage.full_at) = (0, self.last_sent);
            return;
        }
        usage.used = usage.used.max(packets);
        // A window that was not used for a time-out says nothing of the link (RFC 2861).
        if self.last_sent.saturating_sub(usage.full_at) >= self.rtt.timeout()
            && self.state == ControlState::Open
        {
            let used = usage.used.max(window::FIRST_WINDOW);
            (usage.used, usage.full_at) = (0, self.last_sent);
            if used < self.window.segments && self.algorithm.bbr().is_none() {
                self.window.ssthresh = self.window.ssthresh.max(self.window.segments / 4 * 3);
                self.window.segments = (self.window.segments + used) / 2;
            }
        }
    }
}
