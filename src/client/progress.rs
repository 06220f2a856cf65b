//! The display of a run on a terminal: a bar with a line for each link, then a short summary.

use std::path::Path;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::transfer::Transfer;
use crate::log::outcome::Outcome;
use crate::log::schema::{PerLink, RunEnd};
use crate::output::{self, on_terminal};
use crate::results::page_line;
use crate::shape::active_shaping::ActiveShaping;
use crate::text::{count, duration, fit, tell, visible};
use crate::units::{Direction, LinkId};

/// Tells a person, on stderr, what carries each link, and why that does.
pub(crate) fn tell_links(applied: &[ActiveShaping]) {
    for row in applied.iter().filter(|row| row.direction == Direction::Down) {
        let why = row.why.as_deref().unwrap_or_default();
        tell(&format!("link {}: {}, carried by {}: {why}", row.link, row.profile, row.backend));
    }
}

/// Tells a person that the links are measured, and how long that takes (s).
pub(crate) fn tell_probe(expected_s: f64) {
    let about = duration(Duration::from_secs_f64(expected_s.max(1.0).round()));
    let skip = if output::in_compose() { "TWINLINK_PROBE=off" } else { "--probe off" };
    tell(&format!("measuring both links (about {about}; {skip} skips it)"));
}

/// The state of a link at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LinkMoment {
    pub goodput_kbit: f64,
    pub queue_ms: Option<f64>,
}

/// A bar for the files, and a line for each link below it, on stderr.
pub(crate) struct Bars {
    total: ProgressBar,
    links: [ProgressBar; 2],
    began: Instant,
}

impl Bars {
    /// Bars for a run of `files` segments; hidden ones where nobody is looking, or unless `shown`.
    pub(crate) fn new(
        shown: bool,
        files: u64,
        servers: &PerLink<String>,
        profiles: [Option<&str>; 2],
    ) -> Bars {
        let target = if shown && on_terminal() {
            ProgressDrawTarget::stderr_with_hz(10)
        } else {
            ProgressDrawTarget::hidden()
        };
        let all = MultiProgress::with_draw_target(target);
        let style = |template| {
            let style = ProgressStyle::with_template(template);
            style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
        };
        let total = all.add(ProgressBar::new(files).with_style(style("[{bar:20}] {pos}/{len} files{msg}")));
        let links = LinkId::BOTH.map(|link| {
            let bar = all.add(ProgressBar::new(files).with_style(style("  {prefix:24!} {msg}")));
            let profile = profiles[link.index()].unwrap_or("unshaped");
            bar.set_prefix(visible(&format!("{link} {} ({profile})", servers[link])).into_owned());
            bar
        });
        Bars { total, links, began: Instant::now() }
    }

    /// Shows how far the run and each link have come.
    pub(crate) fn update(&self, transfer: &Transfer, now: [LinkMoment; 2]) {
        let bytes = LinkId::BOTH.map(|link| transfer.metrics(link).bytes());
        let all_bytes = bytes.iter().sum::<u64>().max(1) as f64;
        for link in LinkId::BOTH {
            let (moment, bytes) = (now[link.index()], bytes[link.index()] as f64);
            let queue = moment.queue_ms.map_or(String::new(), |ms| format!(", queue {ms:.0} ms"));
            self.links[link.index()].set_message(format!(
                "{:>4} files {:>6.1} MB {:>3.0} % {:>6.2} Mbit/s{queue}",
                transfer.metrics(link).files(),
                bytes / 1e6,
                bytes * 100.0 / all_bytes,
                moment.goodput_kbit / 1e3
            ));
        }
        self.show_files(transfer);
        let faults = match transfer.log.faults().0 {
            0 => String::new(),
            faults => format!(", {}", count(faults, "fault")),
        };
        let left = time_left(self.began.elapsed(), self.total.position(), transfer.missing());
        let left = left.map_or(String::new(), |left| format!(", {} left", duration(left)));
        let rate_kbit: f64 = now.iter().map(|moment| moment.goodput_kbit).sum();
        self.total.set_message(format!("  {:.2} Mbit/s{left}{faults}", rate_kbit / 1e3));
    }

    fn show_files(&self, transfer: &Transfer) {
        let files = self.total.length().unwrap_or_default();
        self.total.set_position(files.saturating_sub(transfer.missing()));
    }

    /// Leaves the bars as they are at the end of a run.
    pub(crate) fn finish(&self, transfer: &Transfer) {
        self.show_files(transfer);
        self.total.set_message("");
        [&self.total, &self.links[0], &self.links[1]].into_iter().for_each(ProgressBar::abandon);
    }
}

/// The time that is left where `done` of a number of equal parts took `elapsed`; `None` before the first is done.
pub(crate) fn time_left(elapsed: Duration, done: u64, left: u64) -> Option<Duration> {
    (done > 0).then(|| elapsed.mul_f64(left as f64 / done as f64))
}

/// A bar of files for a run of a program, on stderr; hidden where nobody is looking.
pub(crate) fn files_bar(files: u64) -> ProgressBar {
    let target =
        if on_terminal() { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("[{bar:30}] {pos:>4}/{len} files  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    ProgressBar::with_draw_target(Some(files), target).with_style(style)
}

/// The summary of a run for a person: a table, a sentence and, where its folder has a page, the page's path.
pub(crate) fn summary(
    end: &RunEnd,
    origins: &PerLink<String>,
    profiles: [Option<&str>; 2],
    folder: Option<&Path>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    fit(&mut table);
    table.set_header(["link", "server", "profile", "files", "MB", "Mbit/s", "RTT ms, busy", "last s"]);
    for column in 3..8 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for link in LinkId::BOTH {
        let totals = &end.links[link];
        let number =
            |value: Option<f64>, digits: usize| value.map_or("-".to_string(), |v| format!("{v:.digits$}"));
        table.add_row([
            link.to_string(),
            visible(&origins[link]).into_owned(),
            profiles[link.index()].unwrap_or("unshaped").to_string(),
            totals.files.to_string(),
            format!("{:.2}", totals.bytes as f64 / 1e6),
            number(totals.goodput_kbit.map(|kbit| kbit / 1e3), 2),
            format!("{}, {}", number(totals.idle_rtt_ms, 0), number(totals.busy_rtt_ms, 0)),
            number(totals.last_byte_ms.map(|ms| ms / 1e3), 2),
        ]);
    }
    let page = folder.map_or(String::new(), page_line);
    // The error of a run that failed is told as all errors are.
    let said = if end.exit == Outcome::Ok { format!("{}\n", end.summary) } else { String::new() };
    format!("{table}\n{said}{page}")
}

/// How often the bars move and the samples are taken.
pub(crate) const SAMPLE_EVERY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_that_of_the_mean_part() {
        let seconds = Duration::from_secs;
        assert_eq!(time_left(seconds(1), 0, 10), None);
        assert_eq!(time_left(seconds(4), 2, 10), Some(seconds(20)));
        assert_eq!(time_left(seconds(4), 2, 0), Some(Duration::ZERO));
    }

    #[test]
    fn the_summary_fits_80_columns() {
        let end = RunEnd { summary: "It took 9.111 s.".into(), files: 160, ..RunEnd::default() };
        let servers = PerLink::of(|_| "a-server-of-a-long-name.example.org:4455".to_string());
        let text = summary(&end, &servers, [Some("course-scenario-1-near"), None], None);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.ends_with("It took 9.111 s.\n"), "{text}");
    }
}
