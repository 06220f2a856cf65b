//! The service rate of a bottleneck over time: constant, or of a trace that is being played. Pure: the caller
//! gives the time.

use std::sync::Arc;

use crate::config::trace::{Trace, TraceStep, is_outage};
use crate::units::Nanos;
use crate::units::Rate;

/// A trace and the moment at which it began. Every time is counted from there, so that nothing drifts.
#[derive(Clone, Debug)]
pub(crate) struct ActiveTrace {
    trace: Arc<Trace>,
    began: Nanos,
}

impl ActiveTrace {
    pub(crate) fn new(trace: &Arc<Trace>, began: Nanos) -> ActiveTrace {
        ActiveTrace { trace: Arc::clone(trace), began }
    }

    /// Returns the step in force at a time, and its end.
    pub(crate) fn at(&self, now: Nanos) -> (TraceStep, Nanos) {
        let moment = self.trace.at(now.saturating_sub(self.began));
        (moment.step, self.began.saturating_add(moment.until))
    }
}

#[derive(Clone, Debug)]
pub(crate) enum ServiceRate {
    Steady(Rate),
    Played(ActiveTrace),
}

impl ServiceRate {
    /// The rate at a time, and until when it holds.
    pub(crate) fn at(&self, now: Nanos) -> (Rate, Nanos) {
        match self {
            ServiceRate::Steady(rate) => (*rate, Nanos::MAX),
            ServiceRate::Played(trace) => {
                let (step, until) = trace.at(now);
                (step.rate, until)
            }
        }
    }

    /// The first time from `now` on at which anything is served; [`Nanos::MAX`] if none is.
    pub(crate) fn open_from(&self, mut now: Nanos) -> Nanos {
        while now < Nanos::MAX {
            let (rate, until) = self.at(now);
            if !is_outage(rate) {
                break;
            }
            now = until;
        }
        now
    }

    /// Returns the work that can be served between two times, in bits × 10⁹.
    pub(crate) fn work(&self, from: Nanos, to: Nanos) -> u128 {
        let (mut now, mut work) = (from, 0);
        while now < to {
            let (rate, until) = self.at(now);
            let until = until.min(to);
            work += u128::from(rate.bits_per_s()) * u128::from(until - now);
            now = until;
        }
        work
    }

    /// Returns when work that begins at `from` is done, and the remainder of the whole nanoseconds.
    pub(crate) fn finish(&self, from: Nanos, mut work: u128) -> (Nanos, u128) {
        let mut now = from;
        while now < Nanos::MAX {
            let (rate, until) = self.at(now);
            let rate = u128::from(rate.bits_per_s());
            let most = rate * u128::from(until - now);
            if work < most {
                return (now + (work / rate) as Nanos, work % rate);
            }
            work -= most;
            now = until;
        }
        (now, 0)
    }
}
