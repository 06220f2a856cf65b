//! Writes the log: a file that is never overwritten, and stdout. What a record holds is the parent's.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result};

use super::{Event, Fault, Record, SCHEMA};

/// Writes records as they happen: all of them to the file, those that `stdout` lets through there.
pub struct Log {
    run: String,
    started: Instant,
    /// The same instant by the wall clock.
    started_at: SystemTime,
    sinks: Mutex<Sinks>,
}

struct Sinks {
    file: Option<File>,
    stdout: Stdout,
    /// The last record of a run has been written.
    closed: bool,
    /// How many faults were written, and the first of them.
    faults: (u64, Option<Fault>),
}

/// Which records a log repeats on stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdout {
    Nothing,
    AllButSamples,
    Everything,
}

impl Log {
    /// A log whose clock starts now. `file` must be new: a log is never overwritten.
    pub fn new(run: String, file: Option<File>, stdout: Stdout) -> Log {
        let sinks = Mutex::new(Sinks { file, stdout, closed: false, faults: (0, None) });
        Log { run, started: Instant::now(), started_at: SystemTime::now(), sinks }
    }

    pub fn run(&self) -> &str {
        &self.run
    }

    /// The instant that `t_ns` counts from.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The time of day at `t_ns` 0, UTC, RFC 3339 with milliseconds.
    pub fn wall_clock(&self) -> String {
        rfc3339(self.started_at)
    }

    /// How many faults it has, and the first of them.
    pub fn faults(&self) -> (u64, Option<Fault>) {
        self.sinks.lock().expect("no writer of the log panics").faults.clone()
    }

    /// An instant as milliseconds on the log's clock.
    pub fn ms(&self, at: Instant) -> f64 {
        // Dividing whole nanoseconds keeps the printed number as short as it is exact.
        at.saturating_duration_since(self.started).as_nanos() as f64 / 1e6
    }

    /// Writes one record, whole, with one write to each sink. After a run's last record nothing is
    /// written: a task that was cut off may still be busy with a file on another thread.
    ///
    /// # Errors
    /// When the file or stdout cannot be written; the record may then be in one of the two.
    pub fn write(&self, event: Event) -> Result<()> {
        self.write_at(Instant::now(), event)
    }

    /// Writes a record of something that happened earlier, as where another thread writes the log.
    ///
    /// # Errors
    /// As `write`.
    pub fn write_at(&self, at: Instant, event: Event) -> Result<()> {
        // A trace's steps come as often as samples do.
        let is_sample = match &event {
            Event::Sample(_) => true,
            Event::Link(link) => link.action == "step",
            _ => false,
        };
        let is_last = matches!(event, Event::RunEnd(_));
        let fault = if let Event::Fault(fault) = &event { Some(fault.clone()) } else { None };
        let record = Record {
            schema: SCHEMA.to_string(),
            t_ns: at.saturating_duration_since(self.started).as_nanos() as u64,
            run: self.run.clone(),
            event,
        };
        let mut line = serde_json::to_vec(&record).context("cannot render a log record")?;
        line.push(b'\n');
        let mut sinks = self.sinks.lock().expect("no writer of the log panics");
        if sinks.closed {
            return Ok(());
        }
        sinks.closed = is_last;
        if let Some(fault) = fault {
            sinks.faults.0 += 1;
            sinks.faults.1.get_or_insert(fault);
        }
        if let Some(file) = &mut sinks.file {
            file.write_all(&line).context("cannot write to the log file")?;
        }
        let to_stdout = match sinks.stdout {
            Stdout::Nothing => false,
            Stdout::AllButSamples => !is_sample,
            Stdout::Everything => true,
        };
        if to_stdout {
            let mut out = io::stdout().lock();
            out.write_all(&line).and_then(|()| out.flush()).context("cannot write a log record to stdout")?;
        }
        Ok(())
    }
}

/// Creates a log file that must not exist yet.
pub fn create_log_file(path: &Path) -> Result<File> {
    File::options().write(true).create_new(true).open(path).with_context(|| {
        let hint =
            if path.exists() { ": it exists, and a log is never overwritten; name another" } else { "" };
        format!("cannot create the log {}{hint}", path.display())
    })
}

fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// A name for a run that sorts by time and does not repeat: `20261123T141503Z-9f3a`.
pub fn new_run_id() -> String {
    let now = SystemTime::now();
    let stamp: String = humantime::format_rfc3339_seconds(now)
        .to_string()
        .chars()
        .filter(|c| !matches!(c, '-' | ':'))
        .collect();
    let nanos = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    // The process id and the nanoseconds tell apart what starts in the same second.
    let tail = (nanos ^ (nanos >> 16) ^ std::process::id().wrapping_mul(0x9e37)) & 0xffff;
    format!("{stamp}-{tail:04x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_after_the_end_of_a_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let log = Log::new("r".into(), Some(create_log_file(&path).unwrap()), Stdout::Nothing);
        let fault = || Fault { link: None, segment: None, what: "w".into(), action: "a".into() };
        for event in [Event::Fault(fault()), Event::RunEnd(Box::default()), Event::Fault(fault())] {
            log.write(event).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().last().unwrap().contains("run_end"), "{text}");
    }

    #[test]
    fn a_log_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        create_log_file(&path).unwrap();
        let error = create_log_file(&path).unwrap_err();
        assert!(format!("{error:#}").contains("never overwritten"), "{error:#}");
    }
}
