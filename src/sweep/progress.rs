//! How far an experiment is: a bar with the time that is left, for a person at a terminal.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::log::schema::{Cell, CellEnd};
use crate::text::{duration, visible};

/// Whether a person is looking.
pub(crate) fn on_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// The time that is left where `done` runs took this long in all, what was measured between them included;
/// none before the first is over.
fn time_left(elapsed: Duration, done: u64, left: u64) -> Option<Duration> {
    (done > 0).then(|| elapsed.mul_f64(left as f64 / done as f64))
}

/// The bar.
pub(crate) struct Progress {
    bar: ProgressBar,
    began: Instant,
    /// Runs that were complete before.
    before: u64,
    /// How long the others take, as far as that is known before they are done.
    expected: Option<Duration>,
}

impl Progress {
    /// A bar for an experiment of `cells` runs of which `done` are complete; hidden where nobody looks.
    pub(crate) fn new(cells: u64, done: u64, expected: Option<Duration>) -> Progress {
        let target =
            if on_terminal() { ProgressDrawTarget::stderr_with_hz(4) } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("[{bar:30}] {pos}/{len} runs  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(Some(cells), target).with_style(style).with_position(done);
        Progress { bar, began: Instant::now(), before: done, expected }
    }

    /// Shows the current step.
    pub(crate) fn now(&self, what: &str, cell: &Cell) {
        let done = self.bar.position();
        let left = self.bar.length().unwrap_or_default().saturating_sub(done);
        let left = time_left(self.began.elapsed(), done - self.before, left)
            .or(self.expected)
            .map_or(String::new(), |left| format!(", about {} left", duration(left)));
        let line = format!("{what}{} ({}){left}", cell.condition, cell.channel);
        self.bar.set_message(visible(&line).into_owned());
    }

    /// Prints a line above the bar.
    pub(crate) fn say(&self, line: &str) {
        self.bar.println(visible(line));
    }

    /// A run is over.
    pub(crate) fn ended(&self, end: &CellEnd) {
        let (cell, outcome) = (&end.cell, &end.summary);
        self.say(&format!("{:>4}  {} ({}): {outcome}", cell.index, cell.condition, cell.channel));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_that_of_the_mean_run() {
        let seconds = Duration::from_secs;
        assert_eq!(time_left(seconds(1), 0, 10), None);
        assert_eq!(time_left(seconds(4), 2, 10), Some(seconds(20)));
        assert_eq!(time_left(seconds(4), 2, 0), Some(Duration::ZERO));
    }
}
