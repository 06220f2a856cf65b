//! Watches the folder that a program stores files in, and notes when each was last written or renamed there.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// How often the watching thread looks whether it should end (ms).
const LOOK_MS: u16 = 50;

/// A folder under watch.
pub(crate) struct Arrivals {
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    /// When each name was last closed after writing, renamed to, or linked.
    times: Mutex<HashMap<OsString, Instant>>,
    files: AtomicUsize,
    ends: AtomicBool,
}

impl Arrivals {
    /// Begins to watch a folder.
    ///
    /// # Errors
    /// The kernel refuses an inotify instance, as beyond `fs.inotify.max_user_instances`.
    pub(crate) fn watch(folder: &Path) -> Result<Arrivals> {
        let cannot = || format!("cannot watch {}", folder.display());
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).with_context(cannot)?;
        let events = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
        inotify.add_watch(folder, events).with_context(cannot)?;
        let seen = Arc::new(Seen::default());
        let (folder, noted) = (folder.to_path_buf(), seen.clone());
        let thread = std::thread::Builder::new()
            .name("arrivals".into())
            .spawn(move || noted.follow(&inotify, &folder))
            .with_context(cannot)?;
        Ok(Arrivals { seen, thread: Some(thread) })
    }

    /// Returns how many names have been written so far.
    pub(crate) fn count(&self) -> usize {
        self.seen.files.load(Ordering::Relaxed)
    }

    /// Ends the watch; returns when each name was last written.
    pub(crate) fn finish(mut self) -> HashMap<OsString, Instant> {
        self.end();
        std::mem::take(&mut *self.seen.times.lock().expect("the watching thread does not panic"))
    }

    fn end(&mut self) {
        self.seen.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.end();
    }
}

impl Seen {
    fn follow(&self, inotify: &Inotify, folder: &Path) {
        loop {
            let ends = self.ends.load(Ordering::Relaxed);
            // Events that came before the end are read once more.
            match inotify.read_events() {
                Ok(events) => {
                    let now = Instant::now();
                    for event in events {
                        self.note(event.mask, event.name, folder, now);
                    }
                    continue;
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => {
                    tracing::warn!("{} is no longer watched: {error}", folder.display());
                    return;
                }
            }
            if ends {
                return;
            }
            let mut waited = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut waited, PollTimeout::from(LOOK_MS));
        }
    }

    fn note(&self, mask: AddWatchFlags, name: Option<OsString>, folder: &Path, now: Instant) {
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            tracing::warn!(
                "events of {} were lost: their files count from their times of change",
                folder.display()
            );
        }
        let Some(name) = name else { return };
        // A new name counts at once where it is another name of a file that is there already.
        let linked = || {
            use std::os::unix::fs::MetadataExt;
            folder.join(&name).symlink_metadata().is_ok_and(|data| data.is_file() && data.nlink() > 1)
        };
        if mask.contains(AddWatchFlags::IN_CREATE) && !linked() {
            return;
        }
        let mut times = self.times.lock().expect("nobody panics while holding the times");
        if times.insert(name, now).is_none() {
            self.files.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_when_written_renamed_or_linked() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let arrivals = Arrivals::watch(dir.path()).unwrap();
        std::fs::write(at("written"), "x").unwrap();
        std::fs::write(at("part"), "x").unwrap();
        std::fs::rename(at("part"), at("renamed")).unwrap();
        std::fs::hard_link(at("written"), at("linked")).unwrap();
        let open = std::fs::File::create(at("open")).unwrap();
        let times = arrivals.finish();
        drop(open);
        let mut names: Vec<_> = times.keys().map(|name| name.to_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["linked", "part", "renamed", "written"]);
    }

    #[test]
    fn later_write_of_a_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let arrivals = Arrivals::watch(dir.path()).unwrap();
        std::fs::write(&path, "half").unwrap();
        while arrivals.count() == 0 {
            std::thread::yield_now();
        }
        let between = Instant::now();
        std::fs::write(&path, "whole").unwrap();
        assert!(arrivals.finish()["file".as_ref() as &std::ffi::OsStr] >= between);
    }
}
