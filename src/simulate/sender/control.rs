//! The interface of a congestion control: its input, its state and its decisions.

use std::fmt;
use std::str::FromStr;

use super::bbr::Bbr;
use super::cubic::Cubic;
use super::reno;
use crate::units::Nanos;

/// How a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Control {
    Reno,
    Cubic,
    Bbr,
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Control::Reno => "reno",
            Control::Cubic => "cubic",
            Control::Bbr => "bbr",
        })
    }
}

impl FromStr for Control {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "reno" => Ok(Control::Reno),
            "cubic" => Ok(Control::Cubic),
            "bbr" => Ok(Control::Bbr),
            _ => Err(format!("\"{s}\" has no model: choose reno, cubic or bbr")),
        }
    }
}

/// Where a sender is with its losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ControlState {
    Open,
    /// Segments came out of order, or may be lost.
    Disorder,
    /// The window is reduced though nothing is to be sent again.
    Reduced,
    /// Lost segments are sent again.
    Recovery,
    /// The time-out was over.
    Loss,
}

/// The congestion window, in segments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub segments: u32,
    pub ssthresh: u32,
    /// Acknowledged segments that count towards the next growth in congestion avoidance.
    pub counted: u32,
    /// Whether the window, and not the data, was the limit.
    pub limits: bool,
}

/// The window that a connection starts with (RFC 6928).
pub(crate) const FIRST_WINDOW: u32 = 10;

impl Window {
    pub(crate) fn new() -> Window {
        Window { segments: FIRST_WINDOW, ssthresh: u32::MAX, counted: 0, limits: false }
    }

    pub(crate) fn in_slow_start(&self) -> bool {
        self.segments < self.ssthresh
    }

    /// Grows by a segment for each that was acknowledged, up to the threshold; returns those left over.
    pub(crate) fn slow_start(&mut self, acked: u32) -> u32 {
        let grown = self.segments.saturating_add(acked).min(self.ssthresh);
        let left = acked - (grown - self.segments);
        self.segments = grown;
        left
    }

    /// Grows by a segment for every `per` that were acknowledged.
    pub(crate) fn avoid_congestion(&mut self, per: u32, acked: u32) {
        if self.counted >= per {
            self.counted = 0;
            self.segments += 1;
        }
        self.counted += acked;
        if self.counted >= per {
            self.segments += self.counted / per;
            self.counted %= per;
        }
    }
}

/// The rate at which segments were delivered, over the time since one that has now come was sent
/// (Cheng et al., draft-cheng-iccrg-delivery-rate-estimation).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RateSample {
    pub prior_delivered: u64,
    pub delivered: u64,
    pub interval: Nanos,
    /// The sender had nothing more to send when that segment went out.
    pub app_limited: bool,
}

/// One acknowledgement, as a congestion control sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ack {
    pub now: Nanos,
    pub rtt: Option<Nanos>,
    /// Segments that were newly found to have come, in order or not.
    pub acked: u32,
    /// Segments that were newly found to be lost.
    pub losses: u32,
    pub prior_in_flight: u32,
    pub in_flight: u32,
    /// Segments delivered and lost since the connection began.
    pub delivered: u64,
    pub lost: u64,
    pub rate: Option<RateSample>,
    pub state: ControlState,
    /// When pacing lets the next segment go.
    pub paced_until: Nanos,
}

/// A congestion control with its state.
#[derive(Clone, Debug)]
pub(crate) enum Algorithm {
    Reno,
    Cubic(Cubic),
    Bbr(Box<Bbr>),
}

impl Algorithm {
    pub(crate) fn new(control: Control, seed: u64, rtt: Nanos) -> Algorithm {
        match control {
            Control::Reno => Algorithm::Reno,
            Control::Cubic => Algorithm::Cubic(Cubic::default()),
            Control::Bbr => Algorithm::Bbr(Box::new(Bbr::new(seed, rtt))),
        }
    }

    /// Whether it decides the window by itself, through losses too.
    pub(crate) fn bbr(&mut self) -> Option<&mut Bbr> {
        match self {
            Algorithm::Bbr(bbr) => Some(bbr),
            _ => None,
        }
    }

    /// The slow-start threshold after a loss.
    pub(crate) fn after_loss(&mut self, window: &Window) -> u32 {
        match self {
            Algorithm::Reno => reno::after_loss(window.segments),
            Algorithm::Cubic(cubic) => cubic.after_loss(window.segments),
            Algorithm::Bbr(bbr) => {
                bbr.save_window(window.segments);
                window.ssthresh
            }
        }
    }

    /// The time-out was over.
    pub(crate) fn timed_out(&mut self) {
        match self {
            Algorithm::Reno => {}
            Algorithm::Cubic(cubic) => cubic.reset(),
            Algorithm::Bbr(bbr) => bbr.timed_out(),
        }
    }

    /// A round trip was measured; all before the first of `acked` have come, those before the second are sent.
    pub(crate) fn measured(
        &mut self,
        now: Nanos,
        rtt: Nanos,
        acked: (u32, u32),
        paced: bool,
        window: &mut Window,
    ) {
        if let Algorithm::Cubic(cubic) = self {
            cubic.measured(now, rtt, acked, paced, window);
        }
    }

    /// Lets the window grow.
    pub(crate) fn grow(&mut self, now: Nanos, acked: u32, window: &mut Window) {
        match self {
            Algorithm::Reno => reno::grow(acked, window),
            Algorithm::Cubic(cubic) => cubic.grow(now, acked, window),
            Algorithm::Bbr(_) => {}
        }
    }

    /// Sending begins again after nothing was in flight since `last_sent`.
    pub(crate) fn restarts(&mut self, now: Nanos, last_sent: Nanos, app_limited: bool) {
        match self {
            Algorithm::Reno => {}
            Algorithm::Cubic(cubic) => cubic.restarts(now, last_sent),
            Algorithm::Bbr(bbr) if app_limited => bbr.restarts(now),
            Algorithm::Bbr(_) => {}
        }
    }

    /// The loss was none: the window is what it was.
    pub(crate) fn undone(&mut self, window: u32, prior: u32) -> u32 {
        if let Algorithm::Bbr(bbr) = self {
            bbr.undone();
            return window;
        }
        window.max(prior)
    }
}
