//! The display of a run on a terminal: a bar for each server, then a short summary.

use std::io::IsTerminal;
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::origin::Origin;
use super::transfer::Transfer;
use crate::log::schema::{PerLink, RunEnd};
use crate::shape::active_shaping::ActiveShaping;
use crate::text::tell;
use crate::text::visible;
use crate::units::{Direction, LinkId};

/// Whether a person is looking.
pub(crate) fn on_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Tells a person, on stderr, what carries each link, and why that does.
pub(crate) fn tell_links(applied: &[ActiveShaping]) {
    for row in applied.iter().filter(|row| row.direction == Direction::Down) {
        let why = row.why.as_deref().unwrap_or_default();
        tell(&format!("link {}: {}, carried by {}: {why}", row.link, row.profile, row.backend));
    }
}

/// One bar for each server, on stderr.
pub(crate) struct Bars {
    bars: [ProgressBar; 2],
}

impl Bars {
    /// Bars for a run of `files` segments; hidden ones where nobody is looking, or unless `shown`.
    pub(crate) fn new(
        shown: bool,
        origins: &PerLink<&Origin>,
        files: u64,
        profiles: [Option<&str>; 2],
    ) -> Bars {
        let shown = shown && on_terminal();
        let target =
            if shown { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
        let all = MultiProgress::with_draw_target(target);
        let style = ProgressStyle::with_template("{prefix:28} [{bar:30}] {pos:>4}/{len} files  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bars = LinkId::BOTH.map(|link| {
            let bar = all.add(ProgressBar::new(files).with_style(style.clone()));
            let profile = profiles[link.index()].unwrap_or("unshaped");
            let prefix = format!("{link} {} ({profile})", origins[link].name);
            bar.set_prefix(visible(&prefix).into_owned());
            bar
        });
        Bars { bars }
    }

    /// Shows how far each link has come.
    pub(crate) fn update(&self, transfer: &Transfer, goodput_kbit: [f64; 2]) {
        for link in LinkId::BOTH {
            let metrics = transfer.metrics(link);
            let bar = &self.bars[link.index()];
            bar.set_position(metrics.files());
            bar.set_message(format!(
                "{:>8.1} MB  {:>8.2} Mbit/s",
                metrics.bytes() as f64 / 1e6,
                goodput_kbit[link.index()] / 1e3
            ));
        }
    }

    pub(crate) fn finish(&self) {
        for bar in &self.bars {
            bar.abandon();
        }
    }
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

/// The summary of a run for a person.
pub(crate) fn summary(end: &RunEnd, origins: &PerLink<String>, profiles: [Option<&str>; 2]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "link",
        "server",
        "profile",
        "files",
        "MB",
        "share",
        "goodput Mbit/s",
        "RTT ms, busy",
        "last byte s",
    ]);
    for column in 3..9 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for link in LinkId::BOTH {
        let totals = &end.links[link];
        let number =
            |value: Option<f64>, digits: usize| value.map_or("-".to_string(), |v| format!("{v:.digits$}"));
        let share = (end.bytes > 0).then(|| totals.bytes as f64 * 100.0 / end.bytes as f64);
        table.add_row([
            link.to_string(),
            origins[link].clone(),
            profiles[link.index()].unwrap_or("unshaped").to_string(),
            totals.files.to_string(),
            format!("{:.2}", totals.bytes as f64 / 1e6),
            number(share, 1) + " %",
            number(totals.goodput_kbit.map(|kbit| kbit / 1e3), 2),
            format!("{}, {}", number(totals.idle_rtt_ms, 0), number(totals.busy_rtt_ms, 0)),
            number(totals.last_byte_ms.map(|ms| ms / 1e3), 2),
        ]);
    }
    format!("{table}\n{}", end.summary)
}

/// How often the bars move and the samples are taken.
pub(crate) const SAMPLE_EVERY: Duration = Duration::from_millis(100);
