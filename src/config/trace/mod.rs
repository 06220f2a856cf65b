//! Traces: the rate of one direction over time, with delay and loss where the file has them.
//!
//! A trace is a list of steps from time 0 to its length, played once or in a loop. Its times count from the
//! moment at which playing begins, which the caller chooses. [`read`] turns files into steps, [`load`] finds
//! the files that profiles name. This module knows no packets, no clock and no kernel.

pub(crate) mod build;
pub(crate) mod csv;
pub(crate) mod line;
pub(crate) mod load;
pub(crate) mod read;

use serde::{Deserialize, Serialize};

use crate::units::Nanos;
use crate::units::{Delay, Percent, Rate};

/// From a moment on, until the next step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceStep {
    /// Since the trace began.
    pub at: Nanos,
    /// Of Ethernet frames. 0 is an outage: nothing passes.
    pub rate: Rate,
    /// One way, instead of the profile's.
    pub delay: Option<Delay>,
    /// Each packet by itself, instead of the profile's.
    pub loss: Option<Percent>,
}

impl TraceStep {
    /// Whether only the time differs.
    pub fn same_values(&self, other: &TraceStep) -> bool {
        (self.rate, self.delay, self.loss) == (other.rate, other.delay, other.loss)
    }
}

/// The step in force at a moment, and its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    pub step: TraceStep,
    /// The number of steps that began before this one, laps included.
    pub number: u64,
    /// When this step began and when the next one begins, since the trace began. The last step of a trace
    /// that is played once ends at [`Nanos::MAX`].
    pub since: Nanos,
    pub until: Nanos,
}

/// One direction's rate over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Trace {
    /// The file that it came from, as the profile names it.
    file: String,
    looped: bool,
    /// The first at 0; ascending.
    steps: Vec<TraceStep>,
    length: Nanos,
}

/// The most steps that a trace may have: an hour and a half of 100 ms.
pub const MOST_STEPS: usize = 50_000;

/// No step may be shorter. A kernel's or a thread's wake-up is late by up to a millisecond.
pub const SHORTEST_STEP: Nanos = 10_000_000;

/// A year: no lap's end comes near the end of the clock.
const LONGEST_TRACE: Nanos = 365 * 86_400 * 1_000_000_000;

/// The range of a rate that is not an outage, as for profiles.
pub const RATES: (u64, u64) = (8_000, 10_000_000_000);

impl Trace {
    /// Checks the steps: the first at 0, ascending, in range, at least one of them no outage.
    ///
    /// # Errors
    /// A step is invalid; the text names no file.
    pub fn new(file: String, looped: bool, steps: Vec<TraceStep>, length: Nanos) -> Result<Trace, String> {
        if steps.first().map(|step| step.at) != Some(0) {
            return Err("it has no step at its beginning".into());
        }
        if steps.len() > MOST_STEPS {
            return Err(too_many());
        }
        let ends = steps.iter().skip(1).map(|step| step.at).chain([length]);
        if steps.iter().zip(ends).any(|(step, end)| end <= step.at) {
            return Err("its steps do not rise, or its end is not behind them".into());
        }
        let (least, most) = RATES;
        let out_of_range = |bits: u64| bits != 0 && !(least..=most).contains(&bits);
        if let Some(step) = steps.iter().find(|step| out_of_range(step.rate.bits_per_s())) {
            return Err(format!("a rate of {} is out of range: 0, or 8kbit to 10gbit", step.rate));
        }
        if steps.iter().all(|step| is_outage(step.rate)) {
            return Err("it is an outage from its beginning to its end: nothing would ever pass".into());
        }
        Ok(Trace { file, looped, steps, length })
    }

    /// Checks that it can be played: its times and the values that steps have of their own.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self, longest_delay: Delay) -> Result<(), String> {
        // An offset may cut the first step short, and the end the last.
        let short = self.durations().filter(|&duration| duration < SHORTEST_STEP).count();
        if short > 2 || self.length < SHORTEST_STEP {
            return Err("it has steps that are too short: at least 10ms".into());
        }
        if self.length > LONGEST_TRACE {
            return Err("it is longer than a year".into());
        }
        if let Some(delay) = self.greatest_delay().filter(|delay| *delay > longest_delay) {
            return Err(format!("a delay of {delay} is out of range: at most {longest_delay}"));
        }
        let possible = |loss: &Percent| (0.0..=100.0).contains(&loss.percent());
        match self.steps.iter().filter_map(|step| step.loss).find(|loss| !possible(loss)) {
            Some(loss) => Err(format!("a loss of {loss} is out of range: 0% to 100%")),
            None => Ok(()),
        }
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    pub fn looped(&self) -> bool {
        self.looped
    }

    /// The steps of one lap.
    pub fn steps(&self) -> &[TraceStep] {
        &self.steps
    }

    /// How long one lap is.
    pub fn length(&self) -> Nanos {
        self.length
    }

    /// Returns the step in force `t` after the beginning. A trace that is not looped keeps its last step.
    pub fn at(&self, t: Nanos) -> Moment {
        let lap = if self.looped { t / self.length } else { 0 };
        let origin = lap * self.length;
        let index = self.steps.partition_point(|step| step.at <= t - origin) - 1;
        let until = match self.steps.get(index + 1) {
            Some(next) => origin.saturating_add(next.at),
            None if self.looped => origin.saturating_add(self.length),
            None => Nanos::MAX,
        };
        let step = self.steps[index];
        let number = lap * self.steps.len() as u64 + index as u64;
        Moment { step, number, since: origin + step.at, until }
    }

    /// Every moment from the beginning on; without end where the trace is looped.
    pub fn moments(&self) -> impl Iterator<Item = Moment> + '_ {
        let first = Some(self.at(0));
        std::iter::successors(first, |moment| (moment.until < Nanos::MAX).then(|| self.at(moment.until)))
    }

    /// How long each step of one lap lasts.
    pub fn durations(&self) -> impl Iterator<Item = Nanos> + '_ {
        let ends = self.steps.iter().skip(1).map(|step| step.at).chain([self.length]);
        self.steps.iter().zip(ends).map(|(step, end)| end - step.at)
    }

    pub fn shortest_step(&self) -> Nanos {
        self.durations().min().unwrap_or(self.length)
    }

    /// The mean rate of one lap, kbit/s.
    pub fn mean_kbit(&self) -> f64 {
        let work: f64 = self.steps.iter().zip(self.durations()).map(|(s, d)| s.rate.kbit() * d as f64).sum();
        work / self.length as f64
    }

    pub fn changes_delay(&self) -> bool {
        self.steps.iter().any(|step| step.delay.is_some())
    }

    pub fn changes_loss(&self) -> bool {
        self.steps.iter().any(|step| step.loss.is_some())
    }

    pub fn greatest_delay(&self) -> Option<Delay> {
        self.steps.iter().filter_map(|step| step.delay).max()
    }

    /// Returns the part of a lap from `from` on that lasts for `length`, which is played as the whole was.
    ///
    /// # Errors
    /// The part has no rate but 0.
    pub fn part(self, from: Nanos, length: Nanos) -> Result<Trace, String> {
        let first = TraceStep { at: 0, ..self.at(from).step };
        let inside = self.steps.iter().filter(|step| step.at > from && step.at < from + length);
        let steps = inside.map(|step| TraceStep { at: step.at - from, ..*step });
        let steps = std::iter::once(first).chain(steps).collect();
        Trace::new(self.file, self.looped, steps, length)
    }

    /// The trace from `offset` on. A looped one comes round to what was skipped.
    ///
    /// # Errors
    /// Nothing is left of one that is played once.
    pub fn skip(self, offset: Nanos) -> Result<Trace, String> {
        if offset == 0 {
            return Ok(self);
        }
        if !self.looped && offset >= self.length {
            let (offset_s, length_s) = (offset as f64 / 1e9, self.length as f64 / 1e9);
            return Err(format!("an offset of {offset_s} s leaves nothing of its {length_s} s"));
        }
        let offset = offset % self.length;
        let first = TraceStep { at: 0, ..self.at(offset).step };
        let later = |step: &&TraceStep| step.at > offset;
        let mut steps = vec![first];
        steps.extend(self.steps.iter().filter(later).map(|step| TraceStep { at: step.at - offset, ..*step }));
        if self.looped {
            let round = self.length - offset;
            let earlier = self.steps.iter().filter(|step| step.at < offset);
            steps.extend(earlier.map(|step| TraceStep { at: step.at + round, ..*step }));
        }
        let length = if self.looped { self.length } else { self.length - offset };
        Trace::new(self.file, self.looped, steps, length)
    }
}

pub fn is_outage(rate: Rate) -> bool {
    rate.bits_per_s() == 0
}

fn too_many() -> String {
    format!("it has more than {MOST_STEPS} steps: average it over longer ones, as in step = \"1s\"")
}

/// A trace as it travels over the control socket: nanoseconds and bits per second, so that nothing is
/// rounded on the way.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    file: String,
    #[serde(rename = "loop")]
    looped: bool,
    length_ns: Nanos,
    /// When, bit/s, delay in ns, loss in percent.
    steps: Vec<(Nanos, u64, Option<Nanos>, Option<f64>)>,
}

impl From<Trace> for Wire {
    fn from(trace: Trace) -> Wire {
        let step = |step: &TraceStep| {
            let delay = step.delay.map(|delay| delay.0.as_nanos() as Nanos);
            (step.at, step.rate.bits_per_s(), delay, step.loss.map(Percent::percent))
        };
        let steps = trace.steps.iter().map(step).collect();
        Wire { file: trace.file, looped: trace.looped, length_ns: trace.length, steps }
    }
}

impl TryFrom<Wire> for Trace {
    type Error = String;
    fn try_from(wire: Wire) -> Result<Trace, String> {
        let step = |(at, bits, delay, loss): (Nanos, u64, Option<Nanos>, Option<f64>)| TraceStep {
            at,
            rate: Rate::from_bits_per_s(bits),
            delay: delay.map(|ns| Delay(std::time::Duration::from_nanos(ns))),
            loss: loss.map(Percent::new),
        };
        Trace::new(wire.file, wire.looped, wire.steps.into_iter().map(step).collect(), wire.length_ns)
    }
}

#[cfg(test)]
#[path = "trace_tests.rs"]
mod tests;
