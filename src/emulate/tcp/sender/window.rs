//! The congestion window, and the acknowledgements by which a congestion control changes it.

use crate::units::Nanos;

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
