//! The traces that links follow: which step is in force, which steps came when, and what went wrong.
//!
//! Bookkeeping that all backends share; what plays a trace is the backend's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::active_shaping::ActiveShaping;
use crate::config::profile::Shape;
use crate::config::trace::{Trace, TraceStep};
use crate::units::Nanos;
use crate::units::{Direction, LinkId};

/// A trace that is being played.
#[derive(Clone, Debug)]
pub(crate) struct FollowedTrace {
    pub link: LinkId,
    pub direction: Direction,
    pub trace: Arc<Trace>,
    pub began: Instant,
    /// When the next step that was not returned yet begins, since the trace did.
    next: Nanos,
    ended: bool,
}

/// A step that a backend has made take effect.
#[derive(Clone, Copy, Debug)]
pub struct AppliedStep {
    pub link: LinkId,
    pub direction: Direction,
    /// The number of the step since the trace began.
    pub number: u64,
    pub at: Instant,
}

/// A step of a trace that has begun.
#[derive(Clone, Copy, Debug)]
pub struct StartedStep {
    pub link: LinkId,
    pub direction: Direction,
    pub step: TraceStep,
    /// How long it is in force; none for the last step of a trace that is played once.
    pub lasts: Option<Duration>,
    /// When it was to begin.
    pub planned: Instant,
    /// How late it took effect; none where it was left out because it was over by then.
    pub late: Option<Duration>,
}

impl FollowedTrace {
    pub(crate) fn new(
        link: LinkId,
        direction: Direction,
        trace: &Arc<Trace>,
        began: Instant,
    ) -> FollowedTrace {
        FollowedTrace { link, direction, trace: Arc::clone(trace), began, next: 0, ended: false }
    }

    /// Returns the step in force at a time.
    pub(crate) fn step(&self, now: Instant) -> TraceStep {
        self.trace.at(now.saturating_duration_since(self.began).as_nanos() as Nanos).step
    }

    /// Puts the trace and its rate of a moment into a row.
    pub(crate) fn show(&self, row: &mut ActiveShaping, now: Instant) {
        row.trace = Some(self.trace.file().to_string());
        row.counters.rate_kbit = Some(self.step(now).rate.kbit());
    }

    /// A shape as it is in force at a time, but for its rate, which stays the profile's own.
    pub(crate) fn shape(&self, shape: &Shape, now: Instant) -> Shape {
        Shape { rate: shape.rate, trace: None, ..shape.during(&self.step(now)) }
    }

    /// The steps that have begun since the last call. `done` are those that took effect, where that is
    /// known; in the model they do so by themselves, in time.
    pub(crate) fn take_steps(&mut self, now: Instant, done: Option<&[AppliedStep]>) -> Vec<StartedStep> {
        let elapsed = now.saturating_duration_since(self.began).as_nanos() as Nanos;
        let ours = |done: &&AppliedStep| (done.link, done.direction) == (self.link, self.direction);
        let mut steps = Vec::new();
        while self.next <= elapsed && self.next < Nanos::MAX {
            let moment = self.trace.at(self.next);
            let planned = self.began + Duration::from_nanos(moment.since);
            let late = match done {
                None => Some(Duration::ZERO),
                Some(done) => {
                    let newest = done.iter().filter(ours).map(|done| done.number).max();
                    if newest.is_none_or(|newest| newest < moment.number) {
                        // It is about to take effect; a later call returns it.
                        break;
                    }
                    let took = done.iter().filter(ours).find(|done| done.number == moment.number);
                    took.map(|done| done.at.saturating_duration_since(planned))
                }
            };
            let lasts =
                (moment.until < Nanos::MAX).then(|| Duration::from_nanos(moment.until - moment.since));
            let (link, direction, step) = (self.link, self.direction, moment.step);
            steps.push(StartedStep { link, direction, step, lasts, planned, late });
            self.next = moment.until;
        }
        steps
    }

    /// Says once that a trace that is played once is over.
    pub(crate) fn take_end(&mut self, now: Instant) -> Option<String> {
        let length = Duration::from_nanos(self.trace.length());
        if self.ended || self.trace.looped() || now < self.began + length {
            return None;
        }
        self.ended = true;
        let last = self.step(now).rate;
        Some(format!(
            "{}: the trace {} is over after {}; its last rate of {last} holds from now on",
            self.direction,
            self.trace.file(),
            crate::text::duration(length)
        ))
    }
}

/// The fault of a step that came too late, or not at all.
pub(crate) fn lateness_fault(started: &StartedStep) -> Option<String> {
    let (direction, rate) = (started.direction, started.step.rate);
    match (started.late, started.lasts) {
        (None, _) => Some(format!(
            "{direction}: a step of the trace to {rate} was left out: it was over before it was its turn"
        )),
        (Some(late), Some(lasts)) if late > lasts => Some(format!(
            "{direction}: a step of the trace to {rate} came {:.1} ms late",
            late.as_secs_f64() * 1e3
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Rate;

    const S: Nanos = 1_000_000_000;

    fn link_trace(looped: bool) -> FollowedTrace {
        let step = |at, kbit: u64| TraceStep {
            at,
            rate: Rate::from_bits_per_s(kbit * 1000),
            delay: None,
            loss: None,
        };
        let trace =
            Trace::new("t".into(), looped, vec![step(0, 100), step(S, 0), step(2 * S, 200)], 3 * S).unwrap();
        FollowedTrace::new(LinkId::A, Direction::Down, &Arc::new(trace), Instant::now())
    }

    fn after(trace: &FollowedTrace, ms: u64) -> Instant {
        trace.began + Duration::from_millis(ms)
    }

    #[test]
    fn steps_are_told_once_and_a_missed_one_is_a_fault() {
        let mut trace = link_trace(true);
        let (link, direction) = (trace.link, trace.direction);
        let did = |number, at| AppliedStep { link, direction, number, at };
        let first = did(0, after(&trace, 2));
        let steps = trace.take_steps(after(&trace, 900), Some(&[first]));
        assert_eq!(steps.len(), 1);
        assert_eq!(steps[0].late, Some(Duration::from_millis(2)));
        assert_eq!(lateness_fault(&steps[0]), None);
        // The second is due, but nobody has said that it took effect.
        assert!(trace.take_steps(after(&trace, 1001), Some(&[])).is_empty());
        let third = did(2, after(&trace, 2004));
        let steps = trace.take_steps(after(&trace, 2500), Some(&[third]));
        assert_eq!(
            steps.iter().map(|step| step.late).collect::<Vec<_>>(),
            [None, Some(Duration::from_millis(4))]
        );
        assert!(lateness_fault(&steps[0]).unwrap().contains("left out"));
        let late = StartedStep { late: Some(Duration::from_millis(1500)), ..steps[1] };
        assert!(lateness_fault(&late).unwrap().contains("1500.0 ms late"));
        assert_eq!(trace.take_end(after(&trace, 60_000)), None);
    }

    #[test]
    fn a_model_s_steps_come_in_time_and_the_end_is_told_once() {
        let mut trace = link_trace(false);
        assert_eq!(trace.take_end(after(&trace, 2999)), None);
        let steps = trace.take_steps(after(&trace, 10_000), None);
        assert_eq!(steps.len(), 3);
        assert_eq!((steps[2].lasts, steps[2].late), (None, Some(Duration::ZERO)));
        assert!(trace.take_steps(after(&trace, 20_000), None).is_empty());
        assert!(trace.take_end(after(&trace, 3000)).unwrap().contains("200kbit holds"));
        assert_eq!(trace.take_end(after(&trace, 3001)), None);
    }
}
