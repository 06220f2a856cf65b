//! Writes the log: a file that is never overwritten and loses nothing, and stdout. The parent module defines
//! the records. Logging never waits for a reader: each sink has a thread of its own.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use super::say::say;
use super::schema::{Event, Fault, Record, RunEnd, SCHEMA};
use super::spool::Spool;
use crate::output::is_text;
use crate::text::{visible, visible_json};

/// Writes records as they happen: all of them to the file, those that `stdout` lets through there.
pub struct Log {
    run: String,
    started: Instant,
    /// The same instant by the wall clock.
    started_at: SystemTime,
    /// Where the report will stand, as whoever reads stdout finds it.
    page: Option<String>,
    sinks: Mutex<Sinks>,
}

struct Sinks {
    file: Option<Spool>,
    stdout: Option<Spool>,
    shows: Stdout,
    /// The last record of a run has been written.
    closed: bool,
    /// How many faults were written, and the first of them.
    faults: (u64, Option<Fault>),
}

/// Which records a log repeats on stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Stdout {
    Nothing,
    /// All but those of segments and samples.
    Records,
    /// All but samples and the steps of traces, which come as often.
    Segments,
    /// All of them.
    Samples,
}

/// A file that holds whole records only: a line that does not fit is cut off again.
struct WholeLines {
    file: File,
    whole_bytes: u64,
}

impl Write for WholeLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.file.write_all(line) {
            Ok(()) => {
                self.whole_bytes += line.len() as u64;
                Ok(line.len())
            }
            Err(error) => {
                // The first error tells what is wrong; a second one adds nothing.
                let _ = self.file.set_len(self.whole_bytes);
                Err(error)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// A log whose clock starts now. `file` must be new: a log is never overwritten.
    ///
    /// # Errors
    /// The system has no thread for a sink.
    pub fn new(run: String, file: Option<File>, shows: Stdout) -> Result<Log> {
        let file = file.map(|mut file| {
            let whole_bytes = file.stream_position()?;
            Spool::start("log-file", WholeLines { file, whole_bytes })
        });
        let file = file.transpose().context("cannot start the writer of the log")?;
        let stdout = (shows > Stdout::Nothing).then(|| Spool::start("log-stdout", io::stdout()));
        let stdout = stdout.transpose().context("cannot start the writer of stdout")?;
        let sinks = Mutex::new(Sinks { file, stdout, shows, closed: false, faults: (0, None) });
        Ok(Log { run, started: Instant::now(), started_at: SystemTime::now(), page: None, sinks })
    }

    /// The same, whose last line on stdout names the report's page.
    pub fn with_page(mut self, page: Option<String>) -> Log {
        self.page = page;
        self
    }

    /// Records that stdout has not got, because nobody read it.
    pub fn dropped(&self) -> u64 {
        let sinks = self.sinks.lock().expect("no writer of the log panics");
        sinks.stdout.as_ref().map_or(0, Spool::dropped)
    }

    /// The time of day at `t_ns` 0, UTC, RFC 3339 with milliseconds.
    pub fn wall_clock(&self) -> String {
        rfc3339(self.started_at)
    }

    /// How many faults it has, and the first of them.
    pub fn faults(&self) -> (u64, Option<Fault>) {
        self.sinks.lock().expect("no writer of the log panics").faults.clone()
    }

    /// The time of day at `t_ns` 0.
    pub fn epoch(&self) -> SystemTime {
        self.started_at
    }

    /// The instant at so many milliseconds on the log's clock.
    pub fn at(&self, ms: f64) -> Instant {
        self.started + Duration::from_secs_f64(ms.max(0.0) / 1e3)
    }

    /// An instant as milliseconds on the log's clock.
    pub fn ms(&self, at: Instant) -> f64 {
        // Dividing whole nanoseconds keeps the printed number as short as it is exact.
        at.saturating_duration_since(self.started).as_nanos() as f64 / 1e6
    }

    /// Writes one record, whole, with one write to each sink. After a run's last record nothing is
    /// written: a task that was cut off may still be busy with a file on another thread. The last record
    /// returns when all is in the file, and on stdout if somebody reads there.
    ///
    /// # Errors
    /// When the file cannot be written, or stdout where that is all there is. The file then holds whole
    /// records up to the one that failed; the last record is on stdout all the same, and says it.
    pub fn write(&self, event: Event) -> Result<()> {
        self.write_at(Instant::now(), event)
    }

    /// Writes a run's last record; where the log has failed, so has the run, and the record says so.
    ///
    /// # Errors
    /// As `write`.
    pub fn end(&self, end: &mut RunEnd) -> Result<()> {
        let mut record = self.record(Instant::now(), Event::RunEnd(Box::new(std::mem::take(end))));
        let written = self.put(&mut record);
        if let Event::RunEnd(record) = record.event {
            *end = *record;
        }
        written
    }

    /// Writes a record of something that happened earlier, as where another thread writes the log.
    ///
    /// # Errors
    /// As `write`.
    pub fn write_at(&self, at: Instant, event: Event) -> Result<()> {
        self.put(&mut self.record(at, event))
    }

    fn record(&self, at: Instant, event: Event) -> Record {
        Record {
            schema: SCHEMA.to_string(),
            t_ns: at.saturating_duration_since(self.started).as_nanos() as u64,
            run: self.run.clone(),
            event,
        }
    }

    fn put(&self, record: &mut Record) -> Result<()> {
        let detail = match &record.event {
            Event::Sample(_) => Stdout::Samples,
            Event::Link(link) if link.action == "step" => Stdout::Samples,
            Event::Segment(_) => Stdout::Segments,
            _ => Stdout::Records,
        };
        let is_last = matches!(record.event, Event::RunEnd(_) | Event::SweepEnd(_) | Event::ServeEnd(_));
        let mut sinks = self.sinks.lock().expect("no writer of the log panics");
        if sinks.closed {
            return Ok(());
        }
        sinks.closed = is_last;
        if let Event::Fault(fault) = &record.event {
            sinks.faults.0 += 1;
            sinks.faults.1.get_or_insert_with(|| fault.clone());
        }
        let dropped = sinks.stdout.as_ref().map_or(0, Spool::dropped);
        match &mut record.event {
            Event::RunEnd(end) => end.dropped_records = dropped,
            Event::ServeEnd(end) => end.dropped_records = dropped,
            _ => {}
        }
        // A person reads a table after the last record, which has its sentence.
        let in_table = is_text() && matches!(record.event, Event::RunEnd(_) | Event::SweepEnd(_));
        let shown = sinks.stdout.as_ref().filter(|_| detail <= sinks.shows && !in_table);
        let mut line = line(record)?;
        if let Some(file) = &sinks.file {
            file.insist(line.clone());
            if is_last {
                file.flush();
                if let Some(cause) = file.error() {
                    record.event.incomplete_log(&cause);
                    line = self::line(record)?;
                }
            }
        }
        if let Some(stdout) = shown {
            let said = say(&record.event, self.page.as_deref());
            let spoken = spoken(&said, &line)?;
            if is_last { stdout.insist(spoken) } else { stdout.offer(spoken) }
        }
        if let Some(stdout) = sinks.stdout.as_ref().filter(|_| is_last) {
            stdout.flush();
        }
        match (&sinks.file, &sinks.stdout) {
            (Some(file), _) => {
                file.error().map_or(Ok(()), |cause| bail!("cannot write to the log file: {cause}"))
            }
            (None, Some(stdout)) => {
                stdout.error().map_or(Ok(()), |cause| bail!("cannot write a log record to stdout: {cause}"))
            }
            (None, None) => Ok(()),
        }
    }
}

/// Returns a record as standard output has it: its sentence for a person, else the record that begins with it.
fn spoken(said: &str, line: &[u8]) -> Result<Vec<u8>> {
    let said = visible(said);
    if is_text() {
        return Ok(format!("{said}\n").into_bytes());
    }
    let mut spoken = b"{\"say\":".to_vec();
    serde_json::to_writer(&mut spoken, &said).context("cannot render a log record")?;
    spoken.push(b',');
    spoken.extend(&line[1..]);
    Ok(spoken)
}

fn line(record: &Record) -> Result<Vec<u8>> {
    let json = serde_json::to_string(record).context("cannot render a log record")?;
    Ok((visible_json(&json).into_owned() + "\n").into_bytes())
}

impl Drop for Log {
    fn drop(&mut self) {
        let Ok(sinks) = self.sinks.get_mut() else { return };
        if !sinks.closed {
            [&sinks.file, &sinks.stdout].into_iter().flatten().for_each(Spool::flush);
        }
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
        let log = Log::new("r".into(), Some(create_log_file(&path).unwrap()), Stdout::Nothing).unwrap();
        let fault = || Fault { link: None, segment: None, what: "w".into(), action: "a".into() };
        for event in [Event::Fault(fault()), Event::RunEnd(Box::default()), Event::Fault(fault())] {
            log.write(event).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().last().unwrap().contains("run_end"), "{text}");
    }

    #[test]
    fn no_record_holds_what_a_terminal_obeys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let log = Log::new("r".into(), Some(create_log_file(&path).unwrap()), Stdout::Nothing).unwrap();
        let what = "\u{1b}]0;title\u{7}\u{9b}2J\u{7f}\u{85}\u{2028}\u{2029}\u{202e}\u{2066} ü";
        let fault = Fault { link: None, segment: Some(what.into()), what: what.into(), action: "a".into() };
        log.write(Event::Fault(fault)).unwrap();
        drop(log);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(visible(&text), text);
        let record: Record = serde_json::from_str(&text).unwrap();
        assert!(matches!(record.event, Event::Fault(fault) if fault.what == what));
    }

    #[test]
    fn a_full_disk_leaves_whole_records() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let mut file = WholeLines { file: create_log_file(&path).unwrap(), whole_bytes: 0 };
        file.write_all(b"{\"first\":1}\n").unwrap();
        // A full disk leaves the beginning of a record.
        std::fs::write(&path, "{\"first\":1}\n{\"sec").unwrap();
        file.file = File::open(&path).unwrap();
        assert!(file.write_all(b"{\"second\":2}\n").is_err(), "the file is open for reading only");
        let file = WholeLines { file: File::options().write(true).open(&path).unwrap(), ..file };
        file.file.set_len(file.whole_bytes).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"first\":1}\n");
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
