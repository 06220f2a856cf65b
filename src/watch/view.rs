//! The state of a run as its records tell it so far, as text for a terminal.

use std::fmt::Write;
use std::time::Duration;

use super::follow::News;
use crate::log::say::say;
use crate::log::schema::{Event, PerLink, Record};
use crate::text::{TERMINAL_COLUMNS, count, duration, visible};
use crate::units::Direction;

#[derive(Default)]
struct WatchedLink {
    profile: String,
    bytes: u64,
    goodput_kbit: f64,
    rate_kbit: Option<f64>,
    queue_ms: Option<f64>,
}

/// How far a run, and the experiment around it, have come.
#[derive(Default)]
pub(crate) struct View {
    experiment: Option<(u64, u64, String)>,
    start: String,
    at_ms: f64,
    files: Option<u64>,
    done: u64,
    links: PerLink<WatchedLink>,
    segment: String,
    faults: u64,
    last_fault: String,
    end: Option<String>,
    has_ended: bool,
}

impl View {
    /// Returns whether the run, or the experiment, is over.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended
    }

    pub(crate) fn take(&mut self, news: &News) {
        match news {
            News::Run => *self = View { experiment: self.experiment.take(), ..View::default() },
            News::Record(record) => self.record(record),
        }
    }

    fn record(&mut self, record: &Record) {
        let said = || say(&record.event, None);
        match &record.event {
            Event::SweepStart(start) => {
                self.experiment = Some((start.skipped, start.cells, said()));
                self.has_ended = false;
            }
            Event::CellEnd(_) => {
                if let Some((done, _, last)) = &mut self.experiment {
                    (*done, *last) = (*done + 1, said());
                }
            }
            Event::SweepEnd(_) => (self.end, self.has_ended) = (Some(said()), true),
            Event::RunStart(start) => (self.files, self.start) = (start.files, said()),
            Event::Link(link) if link.direction == Direction::Down => {
                let view = &mut self.links[link.link];
                view.profile = link.profile.clone().unwrap_or_default();
                view.rate_kbit = link.asked.as_ref().map(|asked| asked.rate_kbit);
            }
            Event::Sample(sample) => {
                self.at_ms = record.t_ns as f64 / 1e6;
                let view = &mut self.links[sample.link];
                (view.bytes, view.goodput_kbit) = (sample.bytes, sample.goodput_kbit);
                if let Some(down) = &sample.down {
                    (view.queue_ms, view.rate_kbit) = (down.queue_ms, down.rate_kbit.or(view.rate_kbit));
                }
            }
            Event::Segment(_) => (self.done, self.segment) = (self.done + 1, said()),
            Event::Fault(_) => (self.faults, self.last_fault) = (self.faults + 1, said()),
            Event::RunEnd(_) => {
                self.end = Some(said());
                self.has_ended = self.experiment.is_none();
            }
            _ => {}
        }
    }

    /// Returns the lines that show it, each within 80 columns.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |words: &str| {
            let words: String = visible(words).chars().take(TERMINAL_COLUMNS.into()).collect();
            let _ = writeln!(text, "{}", words.replace('\n', " "));
        };
        if let Some((done, all, last)) = &self.experiment {
            line(&format!("{done} of {all} runs done. {last}"));
        }
        if self.start.is_empty() {
            line("Waiting for a run.");
            return text;
        }
        line(&self.start);
        let files = self.files.map_or(String::new(), |files| format!(" of {files}"));
        let at = duration(Duration::from_secs_f64((self.at_ms / 1e3).max(0.0)));
        line(&format!("{}{files} files after {at}, {}", self.done, count(self.faults, "fault")));
        for (name, link) in [("a", &self.links.a), ("b", &self.links.b)] {
            let rate = link.rate_kbit.map_or(String::new(), |kbit| format!(" of {:.2}", kbit / 1e3));
            let queue = link.queue_ms.map_or(String::new(), |ms| format!(", queue {ms:.0} ms"));
            let (mb, mbit) = (link.bytes as f64 / 1e6, link.goodput_kbit / 1e3);
            line(&format!("  {name} {:<22.22} {mb:>8.2} MB {mbit:>8.2}{rate} Mbit/s{queue}", link.profile));
        }
        [&self.segment, &self.last_fault]
            .into_iter()
            .filter(|said| !said.is_empty())
            .for_each(|said| line(said));
        self.end.iter().flat_map(|end| wrapped(end)).for_each(|part| line(&part));
        text
    }
}

/// Returns a text in lines that fit a terminal.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is one from the beginning");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + word.chars().count() < TERMINAL_COLUMNS.into() {
            *line += &format!(" {word}");
        } else {
            lines.push(word.to_string());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::schema::{Fault, RunEnd, RunStart, SCHEMA};

    fn news(event: Event) -> News {
        News::Record(Box::new(Record { schema: SCHEMA.into(), t_ns: 2_000_000_000, run: "r".into(), event }))
    }

    #[test]
    fn a_run_is_shown_from_its_start_to_its_end_in_80_columns() {
        let mut view = View::default();
        assert_eq!(view.text(), "Waiting for a run.\n");
        let start = RunStart { schedule: "adaptive".into(), files: Some(160), ..RunStart::default() };
        view.take(&news(Event::RunStart(Box::new(start))));
        let what = "the connection was lost ".repeat(9);
        view.take(&news(Event::Fault(Fault {
            link: None,
            segment: None,
            what,
            action: "asked again".into(),
        })));
        assert!(!view.has_ended());
        let end = RunEnd { summary: format!("{}It took 9.111 s.", "word ".repeat(40)), ..RunEnd::default() };
        view.take(&news(Event::RunEnd(Box::new(end))));
        let text = view.text();
        assert!(
            text.starts_with("adaptive fetches 160 files") && text.ends_with("It took 9.111 s.\n"),
            "{text}"
        );
        assert!(text.contains("0 of 160 files after 0 s, 1 fault"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(view.has_ended());
        view.take(&News::Run);
        assert_eq!(view.text(), "Waiting for a run.\n");
    }
}
