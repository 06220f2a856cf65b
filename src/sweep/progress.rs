//! How far an experiment is: a bar with the time that is left, for a person at a terminal.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::client::progress::time_left;
use crate::log::schema::{Cell, CellEnd};
use crate::output::on_terminal;
use crate::text::{duration, visible};

/// The condition of a cell, and its channel where both links share one.
fn place(cell: &Cell) -> String {
    let shared = if cell.channel == "shared" { " (shared channel)" } else { "" };
    format!("{}{shared}", cell.condition)
}

/// The bar.
pub(crate) struct Progress {
    bar: ProgressBar,
    began: Instant,
    /// Runs that were complete before.
    before: u64,
    /// How long the others take, as far as that is known before they are done.
    expected: Option<Duration>,
    /// The least time of each condition so far (ms), and whose it is.
    best: HashMap<String, (f64, String)>,
}

impl Progress {
    /// A bar for an experiment of `cells` runs of which `done` are complete; hidden where nobody looks.
    pub(crate) fn new(cells: u64, done: u64, expected: Option<Duration>) -> Progress {
        let target =
            if on_terminal() { ProgressDrawTarget::stderr_with_hz(4) } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("[{bar:20}] run {pos} of {len} done, {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(Some(cells), target).with_style(style).with_position(done);
        Progress { bar, began: Instant::now(), before: done, expected, best: HashMap::new() }
    }

    /// Shows the current step.
    pub(crate) fn now(&self, what: &str, cell: &Cell) {
        let done = self.bar.position();
        let left = self.bar.length().unwrap_or_default().saturating_sub(done);
        let left = time_left(self.began.elapsed(), done - self.before, left)
            .or(self.expected)
            .map_or(String::new(), |left| format!("about {} left", duration(left)));
        let place = place(cell);
        let best = self.best.get(&place).map_or(String::new(), |(ms, schedule)| {
            format!("\n  best so far under {place}: {schedule}, {:.2} s", ms / 1e3)
        });
        self.bar.set_message(visible(&format!("{left}\n  now: {what}{place}{best}")).into_owned());
    }

    /// Prints a line above the bar.
    pub(crate) fn say(&self, line: &str) {
        self.bar.println(visible(line));
    }

    /// A run is over.
    pub(crate) fn ended(&mut self, end: &CellEnd) {
        let (cell, outcome) = (&end.cell, &end.summary);
        self.say(&format!("{:>4}  {}: {outcome}", cell.index + 1, place(cell)));
        if let Some(ms) = end.elapsed_ms {
            let best = self.best.entry(place(cell)).or_insert_with(|| (ms, cell.schedule.clone()));
            if ms < best.0 {
                *best = (ms, cell.schedule.clone());
            }
        }
        self.bar.inc(1);
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// How many kinds of runs are predicted, on stderr; hidden where nobody looks.
pub(crate) struct Predicting(ProgressBar);

impl Predicting {
    pub(crate) fn new() -> Predicting {
        let target = ProgressDrawTarget::stderr_with_hz(10);
        let style = ProgressStyle::with_template("[{bar:30}] {pos}/{len} kinds of runs predicted")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        Predicting(ProgressBar::with_draw_target(None, target).with_style(style))
    }

    pub(crate) fn done(&self, done: usize, all: usize) {
        self.0.set_length(all as u64);
        self.0.set_position(done as u64);
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
