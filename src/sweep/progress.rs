//! How far an experiment is: a bar with the time that is left, for a person at a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::record::{Cell, CellEnd};

/// Whether a person is looking.
pub fn on_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// The time that is left, from the time that runs took so far. Pure.
#[derive(Clone, Debug, Default)]
pub struct Eta {
    taken: Duration,
    done: u32,
}

impl Eta {
    /// A run took this long, all in all.
    pub fn took(&mut self, time: Duration) {
        self.taken += time;
        self.done += 1;
    }

    /// What `left` more runs will take if they are like those before; none before the first.
    pub fn left(&self, left: u64) -> Option<Duration> {
        (self.done > 0).then(|| (self.taken / self.done).mul_f64(left as f64))
    }
}

/// The bar.
pub struct Progress {
    bar: ProgressBar,
    eta: Eta,
}

impl Progress {
    /// A bar for an experiment of `cells` runs of which `done` are complete; hidden where nobody looks.
    pub fn new(cells: u64, done: u64) -> Progress {
        let target =
            if on_terminal() { ProgressDrawTarget::stderr_with_hz(4) } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("[{bar:30}] {pos}/{len} runs  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(Some(cells), target).with_style(style).with_position(done);
        Progress { bar, eta: Eta::default() }
    }

    /// What is being done now.
    pub fn now(&self, what: &str, cell: &Cell) {
        let left = self.bar.length().unwrap_or_default().saturating_sub(self.bar.position());
        let left = self.eta.left(left).map_or(String::new(), |left| {
            format!(", about {} left", humantime::format_duration(Duration::from_secs(left.as_secs())))
        });
        self.bar.set_message(format!("{what}{} ({}){left}", cell.condition, cell.channel));
    }

    /// A run is over.
    pub fn ended(&mut self, end: &CellEnd, took: Duration) {
        self.eta.took(took);
        let (cell, outcome) = (&end.cell, &end.summary);
        self.bar.println(format!("{:>4}  {} ({}): {outcome}", cell.index, cell.condition, cell.channel));
        self.bar.inc(1);
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_that_of_the_mean_run() {
        let mut eta = Eta::default();
        assert_eq!(eta.left(10), None);
        eta.took(Duration::from_secs(1));
        eta.took(Duration::from_secs(3));
        assert_eq!(eta.left(10), Some(Duration::from_secs(20)));
        assert_eq!(eta.left(0), Some(Duration::ZERO));
    }
}
