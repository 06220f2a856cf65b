//! Gathers the rows of a trace file into steps: as they are, or averaged over steps of one length.

use super::{MOST_STEPS, SHORTEST_STEP, Trace, TraceStep, too_many};
use crate::units::Nanos;
use crate::units::{Delay, Percent, Rate};

const S: u128 = 1_000_000_000;

/// How long the only row of a file lasts.
const LONE_ROW: Nanos = S as Nanos;

/// The steps of one direction, and where they end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Steps {
    pub steps: Vec<TraceStep>,
    pub length: Nanos,
    /// The file's own time of the first row.
    pub began: Nanos,
    /// The number of rows, and the longest time between two of them: since the first row, and how long.
    pub rows: u64,
    pub longest_gap: (Nanos, Nanos),
}

/// The content of a trace file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ParsedTrace {
    /// One rate, for whichever direction the profile says.
    One(Steps),
    /// A rate for each direction.
    Both { down: Steps, up: Steps },
    /// A rate for each link.
    Links { a: Steps, b: Steps },
}

impl Steps {
    pub(crate) fn into_trace(self, file: &str, looped: bool) -> Result<Trace, String> {
        Trace::new(file.to_string(), looped, self.steps, self.length)
    }
}

pub(crate) struct Builder {
    /// The first row's time; steps count from it.
    origin: Option<Nanos>,
    /// The last row, and how long the one before it lasted.
    last: Option<TraceStep>,
    lasted: Nanos,
    steps: Vec<TraceStep>,
    bins: Option<Bins>,
    rows: u64,
    longest_gap: (Nanos, Nanos),
}

/// The bits of each step that rates are averaged over.
struct Bins {
    step: Nanos,
    bins: Vec<Bin>,
}

#[derive(Clone, Copy, Default)]
struct Bin {
    /// In bits × 10⁹, so that a rate × nanoseconds needs no rounding.
    work: u128,
    delay: Option<Delay>,
    loss: Option<Percent>,
}

impl Bins {
    fn bin(&mut self, at: Nanos) -> Result<&mut Bin, String> {
        let index = (at / self.step) as usize;
        if index >= MOST_STEPS {
            return Err(too_many());
        }
        if self.bins.len() <= index {
            self.bins.resize(index + 1, Bin::default());
        }
        Ok(&mut self.bins[index])
    }

    /// Spreads a row over the steps that it lies in. Delay and loss are those that a step begins with.
    fn spread(&mut self, row: &TraceStep, end: Nanos) -> Result<(), String> {
        let mut from = row.at;
        while from < end {
            let (step, until) = (self.step, end.min((from / self.step + 1) * self.step));
            let bin = self.bin(from)?;
            bin.work += u128::from(row.rate.bits_per_s()) * u128::from(until - from);
            if from.is_multiple_of(step) || bin.delay.is_none() && bin.loss.is_none() {
                (bin.delay, bin.loss) = (row.delay, row.loss);
            }
            from = until;
        }
        Ok(())
    }

    fn into_steps(mut self, length: Nanos) -> (Vec<TraceStep>, Nanos) {
        let whole = (length / self.step) as usize;
        self.bins.resize(length.div_ceil(self.step) as usize, Bin::default());
        // A last step that is cut off short would have a random rate.
        let cut_off = length % self.step;
        if whole > 0 && cut_off > 0 && cut_off < self.step / 2 {
            let cut_off = self.bins.pop().unwrap_or_default();
            self.bins[whole - 1].work += cut_off.work;
        }
        let count = self.bins.len();
        let mut steps: Vec<TraceStep> = Vec::new();
        for (index, bin) in self.bins.into_iter().enumerate() {
            let at = index as Nanos * self.step;
            let end = if index + 1 == count { length } else { at + self.step };
            let bits = (bin.work / u128::from(end - at)) as u64;
            let bits = if bits < super::RATES.0 { 0 } else { bits };
            let step = TraceStep { at, rate: Rate::from_bits_per_s(bits), delay: bin.delay, loss: bin.loss };
            if !steps.last().is_some_and(|last| last.same_values(&step)) {
                steps.push(step);
            }
        }
        // One rate for ever: how long its lap is tells nothing.
        let length = if steps.len() == 1 { length.max(self.step) } else { length };
        (steps, length)
    }
}

impl Builder {
    /// Keeps rows as they are, or averages over steps of that length.
    pub(crate) fn new(step: Option<Nanos>) -> Builder {
        let bins = step.map(|step| Bins { step, bins: Vec::new() });
        Builder {
            origin: None,
            last: None,
            lasted: LONE_ROW,
            steps: Vec::new(),
            bins,
            rows: 0,
            longest_gap: (0, 0),
        }
    }

    pub(crate) fn averaging(step: Nanos) -> Builder {
        Builder::new(Some(step))
    }

    /// Adds bits that may pass at a time.
    pub(crate) fn add(&mut self, at: Nanos, bits: u64) -> Result<(), String> {
        let Some(bins) = &mut self.bins else { return Ok(()) };
        bins.bin(at)?.work += u128::from(bits) * S;
        self.rows += 1;
        Ok(())
    }

    /// Adds a row, which holds until the next one.
    pub(crate) fn push(&mut self, row: TraceStep) -> Result<(), String> {
        let origin = *self.origin.get_or_insert(row.at);
        let seconds = |ns: Nanos| ns as f64 / 1e9;
        let late =
            |last: Nanos| format!("{} s comes after {} s: times must rise", seconds(row.at), seconds(last));
        let row = TraceStep { at: row.at.checked_sub(origin).ok_or_else(|| late(origin))?, ..row };
        if let Some(last) = self.last {
            if row.at <= last.at {
                return Err(late(last.at + origin));
            }
            self.close(&last, row.at)?;
            self.lasted = row.at - last.at;
            if self.lasted > self.longest_gap.1 {
                self.longest_gap = (last.at, self.lasted);
            }
        }
        self.rows += 1;
        self.last = Some(row);
        Ok(())
    }

    /// The same, where of rows with one time the last counts.
    pub(crate) fn push_or_replace(&mut self, row: TraceStep) -> Result<(), String> {
        let same = self.origin.zip(self.last).is_some_and(|(origin, last)| row.at == origin + last.at);
        if same {
            self.last = self.last.map(|last| TraceStep { at: last.at, ..row });
            return Ok(());
        }
        self.push(row)
    }

    /// Takes a row whose end is known.
    fn close(&mut self, row: &TraceStep, end: Nanos) -> Result<(), String> {
        if let Some(bins) = &mut self.bins {
            return bins.spread(row, end);
        }
        if end - row.at < SHORTEST_STEP {
            let ms = (end - row.at) as f64 / 1e6;
            return Err(format!(
                "a step of {ms} ms is too fine, the least is 10 ms: average over longer ones, as in step = \"100ms\""
            ));
        }
        if self.steps.last().is_some_and(|last| last.same_values(row)) {
            return Ok(());
        }
        if self.steps.len() == MOST_STEPS {
            return Err(too_many());
        }
        self.steps.push(*row);
        Ok(())
    }

    /// Ends with the last row, which lasts as long as the one before it.
    pub(crate) fn end(mut self) -> Result<Steps, String> {
        let Some(last) = self.last else { return Err("it is empty: write one step at least".into()) };
        let length = last.at + self.lasted;
        self.close(&last, length)?;
        self.finish(length)
    }

    /// Ends at a time.
    pub(crate) fn finish(self, length: Nanos) -> Result<Steps, String> {
        let (steps, length) = match self.bins {
            Some(bins) => bins.into_steps(length),
            None => (self.steps, length),
        };
        let (rows, longest_gap) = (self.rows, self.longest_gap);
        Ok(Steps { steps, length, began: self.origin.unwrap_or(0), rows, longest_gap })
    }
}
