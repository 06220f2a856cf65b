//! The media events of a player, which stores no files: lines of JSON in `$OUT/events.jsonl`.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

use serde::Deserialize;

use crate::qoe::MediaEvent;
use crate::text::count;

/// The file's name.
pub(crate) const EVENTS: &str = "events.jsonl";

/// The most of it that is read, bytes.
const LONGEST: u64 = 4 << 20;

/// A line: the event, and its time in ms since 1970 (UTC), as JavaScript's `Date.now()` tells it.
#[derive(Deserialize)]
struct EventLine {
    event: MediaEvent,
    time_ms: f64,
}

/// Reads the events, in order of time, with times in ms since `epoch`; `None` where there is no such file. Lines that
/// hold no event are passed over, and with a warning those whose event is not before `until_ms`.
pub(crate) fn read(out: &Path, epoch: SystemTime, until_ms: f64) -> Option<Vec<(f64, MediaEvent)>> {
    let path = out.join(EVENTS);
    // A program may have put a link in its place.
    path.symlink_metadata().ok().filter(std::fs::Metadata::is_file)?;
    let mut text = Vec::new();
    File::open(path).ok()?.take(LONGEST).read_to_end(&mut text).ok()?;
    let epoch_ms = epoch.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3;
    let lines =
        text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<EventLine>(line).ok());
    let all = lines.map(|line| (line.time_ms - epoch_ms, line.event));
    let (mut events, strange): (Vec<_>, Vec<_>) = all.partition(|(ms, _)| (0.0..=until_ms).contains(ms));
    if let Some((ms, _)) = strange.first() {
        tracing::warn!(
            "{} of $OUT/{EVENTS} outside of this run's time, the first {ms:.0} ms from its start: passed over; give \
             times in ms since 1970, as Date.now() does",
            count(strange.len() as u64, "event")
        );
    }
    events.sort_by(|x, y| x.0.total_cmp(&y.0));
    Some(events)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    #[test]
    fn events_are_read_on_the_clock_of_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(read(dir.path(), epoch, 1e4), None);
        let text = "{\"event\":\"ended\",\"time_ms\":1000900}\nnonsense\n{\"event\":\"seeked\",\"time_ms\":1}\n\
                    {\"event\":\"playing\",\"time_ms\":1000250.5,\"more\":1}\n";
        fs::write(dir.path().join(EVENTS), text).unwrap();
        let expected = vec![(250.5, MediaEvent::Playing), (900.0, MediaEvent::Ended)];
        assert_eq!(read(dir.path(), epoch, 1e4), Some(expected));
        // Neither before the run nor after it.
        for text in ["{\"event\":\"playing\",\"time_ms\":-5}", "{\"event\":\"ended\",\"time_ms\":9e9}"] {
            fs::write(dir.path().join(EVENTS), text).unwrap();
            assert_eq!(read(dir.path(), epoch, 1e4), Some(Vec::new()));
        }
        fs::remove_file(dir.path().join(EVENTS)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join(EVENTS)).unwrap();
        assert_eq!(read(dir.path(), epoch, 1e4), None);
    }
}
