//! The interface of a congestion control: its input, its state and its decisions.

use super::bbr::Bbr;
use super::cubic::Cubic;
use super::reno;
use super::window::Window;
pub(crate) use crate::config::traffic::Control;
use crate::units::Nanos;

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
