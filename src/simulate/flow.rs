//! A server's end of a connection: what it has to send, and how much of that its window lets go.
//! Pure; time is handed in, in seconds.
//!
//! Counts bytes and not their places: what is lost is sent again as soon as its loss is seen, one
//! round trip after it was sent, and what comes meanwhile counts at once. A time-out never happens.

use std::collections::VecDeque;

use super::window::{Acked, Control, Window};

/// A window is sent in so many trains at least.
const TRAINS_IN_A_WINDOW: f64 = 8.0;

/// Segments that were sent at once.
#[derive(Clone, Copy, Debug)]
pub struct Train {
    pub bytes: u64,
    sent_s: f64,
    arrived_before: u64,
    limited: bool,
}

/// A connection's sender.
#[derive(Clone, Debug)]
pub struct Flow {
    window: Window,
    mss: f64,
    /// The least and the most that a train has where the window allows it, bytes.
    least_train: f64,
    most_train: f64,
    backlog: u64,
    in_flight: VecDeque<Train>,
    in_flight_bytes: u64,
    arrived: u64,
    reduced_s: f64,
}

impl Flow {
    /// Trains have at least `least_train` bytes where the window allows it, for fewer events with a
    /// large payload, and at most `most_train`, for what a client sees of its progress.
    pub fn new(control: Control, mss: f64, least_train: f64, most_train: f64) -> Flow {
        Flow {
            window: Window::new(control, mss),
            mss,
            least_train: least_train.max(mss),
            most_train: most_train.max(least_train).max(mss),
            backlog: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            arrived: 0,
            reduced_s: f64::NEG_INFINITY,
        }
    }

    /// The server has an answer of `bytes` to send.
    pub fn offer(&mut self, bytes: u64) {
        self.backlog += bytes;
    }

    /// The next train that may go now, if one may.
    pub fn next_train(&mut self, now_s: f64) -> Option<Train> {
        let window = self.window.bytes();
        let room = window - self.in_flight_bytes as f64;
        let rest = self.backlog as f64;
        if self.backlog == 0 || room < self.mss.min(rest) {
            return None;
        }
        // A window of fewer than four trains would stop and go.
        let most = (window / TRAINS_IN_A_WINDOW).max(self.least_train.min(window / 4.0));
        let most = most.min(self.most_train).min(room);
        let whole = if most < rest { (most / self.mss).floor() * self.mss } else { rest };
        let bytes = (whole.max(self.mss.min(rest)) as u64).max(1);
        self.backlog -= bytes;
        self.in_flight_bytes += bytes;
        // The kernel lets a window in its slow start grow once half of it is used.
        let limited = self.backlog > 0 || self.in_flight_bytes as f64 * 2.0 > window;
        let train = Train { bytes, sent_s: now_s, arrived_before: self.arrived, limited };
        self.in_flight.push_back(train);
        Some(train)
    }

    /// The oldest train is acknowledged; `lost` of its bytes are not, and are to be sent again.
    pub fn acked(&mut self, now_s: f64, lost: u64) {
        let Some(train) = self.in_flight.pop_front() else { return };
        let arrived = train.bytes - lost;
        self.in_flight_bytes -= train.bytes;
        self.arrived += arrived;
        self.backlog += lost;
        if lost > 0 && train.sent_s > self.reduced_s {
            self.window.lost();
            self.reduced_s = now_s;
        }
        let rtt_s = now_s - train.sent_s;
        if arrived == 0 || rtt_s <= 0.0 {
            return;
        }
        let arrival_bytes_per_s = (self.arrived - train.arrived_before) as f64 / rtt_s;
        let bytes = arrived as f64;
        self.window.acked(now_s, Acked { bytes, rtt_s, arrival_bytes_per_s, limited: train.limited });
    }
}
