//! Files on disk: written apart, in any order, verified, renamed. No network and no schedule in it.
//!
//! Writes go to the page cache from whoever received the bytes; nothing is flushed to the disk
//! unless `--sync` asks for it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::splice::Pipe;
use crate::manifest::digest::Digest;
use crate::results::Folder;
use crate::schedule::Ranges;

/// The folder inside `--out` where files stand until they are complete and checked. No list can name it.
pub(crate) const WORK: &str = crate::manifest::name::WORK_FOLDER;

/// The largest note that is read, bytes: some hundred thousand ranges.
const LARGEST_NOTE: u64 = 4 << 20;

/// Says that a temporary folder is one, and of this program: only those are ever swept.
const TEMPORARY: &str = ".twinlink-temporary";

/// Stores the files of a run.
///
/// A file is written as `.twinlink/parts/NAME`; `.twinlink/notes/NAME` says which of its bytes are there.
/// Only what is complete and right gets its name in the folder itself, and never in the place of
/// something else.
#[derive(Debug)]
pub(crate) struct Store {
    /// Held locked, so that two runs never write to one folder.
    out: Folder,
    work: Folder,
    parts: Folder,
    notes: Folder,
    verify: bool,
    /// Held while a note is written, and while a file begins or ends, so that no note outlives its part.
    noting: Mutex<()>,
    /// Ends what hashes.
    cancelled: AtomicBool,
    /// Deletes the files at the end of a run without `--out`.
    temporary: Option<tempfile::TempDir>,
}

impl Store {
    /// Opens the folder `out`, created if missing, or a temporary one.
    ///
    /// # Errors
    /// When it cannot be written, another process writes to it, or it already holds one of the files `new`:
    /// nothing is ever overwritten.
    pub(crate) fn open<'a>(
        out: Option<&Path>,
        verify: bool,
        new: impl IntoIterator<Item = &'a str>,
    ) -> Result<Store> {
        let (out, temporary) = match out {
            Some(path) => {
                let out = Folder::make(path)?;
                out.lock().context("cannot store files; give another folder with --out")?;
                (out, None)
            }
            None => {
                let (out, temporary) = temporary()
                    .context("cannot make a temporary folder for the files; set TMPDIR or give --out")?;
                (out, Some(temporary))
            }
        };
        let unusable =
            || format!("cannot write to the folder {}; give another with --out", out.path().display());
        let work = out.child(WORK.as_ref()).with_context(unusable)?;
        let parts = work.child("parts".as_ref()).with_context(unusable)?;
        let notes = work.child("notes".as_ref()).with_context(unusable)?;
        // One that a killed run was writing; this also shows whether files can be made here.
        work.remove(NEW_NOTE).and_then(|()| work.create_new(NEW_NOTE)).with_context(unusable)?;
        work.remove(NEW_NOTE)?;
        for name in new {
            if out.has(name)? {
                bail!(
                    "{} already holds {name}, and nothing is overwritten; give an empty folder with --out, or go on with --resume",
                    out.path().display()
                );
            }
        }
        let (noting, cancelled) = Default::default();
        Ok(Store { out, work, parts, notes, verify, noting, cancelled, temporary })
    }

    /// Checks that the folder can hold files of all these names beside one another.
    ///
    /// # Errors
    /// A name is longer than its file system allows, or two names are one to it.
    pub(crate) fn check_names<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let out = self.out.path().display();
        let longest = self.out.longest_name()?;
        // The working folder is there; a file system that finds it under this name too folds case.
        let folds = self.out.has(WORK.to_uppercase())?;
        let mut seen = HashMap::new();
        for name in names {
            ensure!(
                name.len() <= longest,
                "the name {name} has {} bytes, and the file system of {out} allows {longest}; give another --out",
                name.len()
            );
            if folds && let Some(first) = seen.insert(name.to_lowercase(), name) {
                bail!("{first} and {name} are one name to the file system of {out}; give another --out");
            }
        }
        Ok(())
    }

    /// Ends what hashes, for the run is over.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Starts a file, and replaces the unfinished part of an earlier run. A writer that still has that part
    /// open does no harm.
    pub(crate) fn begin(&self, name: &str) -> Result<Incoming> {
        let _noting = self.noting();
        // The note goes first: it must never speak of bytes that are not there.
        self.notes.remove(name)?;
        self.parts.remove(name)?;
        Ok(self.incoming(self.parts.create_new_to_read(name)?, self.parts.join(name), 0))
    }

    /// Goes on with a file of which an earlier run has left `had` bytes.
    pub(crate) fn go_on(&self, name: &str, had: u64) -> Result<Incoming> {
        let path = self.parts.join(name);
        let file = self.parts.open_file(name, OFlags::RDWR)?;
        let file = file.with_context(|| format!("cannot go on with {}: it is gone", path.display()))?;
        Ok(self.incoming(file, path, had))
    }

    fn incoming(&self, file: File, path: PathBuf, had: u64) -> Incoming {
        Incoming::new(file, path, self.verify, had)
    }

    fn noting(&self) -> MutexGuard<'_, ()> {
        self.noting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what an earlier run has left of a file. One that is complete is checked again.
    ///
    /// # Errors
    /// When it cannot be read, or is another file than the one to fetch.
    pub(crate) fn earlier(&self, name: &str, expected: Option<Digest>) -> Result<Earlier> {
        if let Some(file) = self.out.open_file(name, OFlags::RDONLY)? {
            let path = self.out.join(name);
            let cannot = || format!("cannot read {}, which an earlier run left", path.display());
            let bytes = file.metadata().with_context(cannot)?.len();
            if let Some(expected) = expected.filter(|_| self.verify)
                && self.digest(&self.incoming(file, path.clone(), bytes))? != expected
            {
                bail!("{} is not the file to fetch; move it away, or give another --out", path.display());
            }
            self.notes.remove(name)?;
            self.parts.remove(name)?;
            return Ok(Earlier::Complete(bytes));
        }
        let Some(part) = self.parts.open_file(name, OFlags::RDWR)? else { return Ok(Earlier::Nothing) };
        let there = part.metadata().with_context(|| format!("cannot examine the part of {name}"))?.len();
        let Some(Note { bytes, ranges }) = self.read_note(name)?.filter(|note| note.fits(there)) else {
            return Ok(Earlier::Nothing);
        };
        if there > bytes {
            part.set_len(bytes).with_context(|| format!("cannot cut the part of {name} to its length"))?;
        }
        if ranges != [(0, bytes)] {
            return Ok(Earlier::Part(bytes, ranges.into_iter().collect()));
        }
        // The run was killed between the last byte of the file and its check.
        match self.finish(&self.incoming(part, self.parts.join(name), bytes), name, expected)? {
            FileVerdict::Wrong { .. } => Ok(Earlier::Nothing),
            FileVerdict::Right | FileVerdict::Unchecked => Ok(Earlier::Complete(bytes)),
        }
    }

    /// Reads a note; `None` where there is none, or one that cannot be understood.
    fn read_note(&self, name: &str) -> Result<Option<Note>> {
        let Some(file) = self.notes.open_file(name, OFlags::RDONLY)? else { return Ok(None) };
        let mut text = Vec::new();
        let read = file.take(LARGEST_NOTE).read_to_end(&mut text);
        read.with_context(|| format!("cannot read {}", self.notes.join(name).display()))?;
        Ok(serde_json::from_slice(&text).ok())
    }

    /// Notes which ranges of a file are there, for a run that goes on after this one was killed. A file
    /// that has been finished, or begun anew, gets no note.
    /// The note is replaced in one step, so that there is a whole one at every instant.
    ///
    /// # Errors
    /// It cannot be written, for example to a full disk; the note that was there before stays.
    pub(crate) fn note(&self, name: &str, incoming: &Incoming, bytes: u64, ranges: &Ranges) -> Result<()> {
        if self.temporary.is_some() {
            return Ok(());
        }
        let note = Note { bytes, ranges: ranges.iter().collect() };
        let text = serde_json::to_vec(&note).context("cannot render a note")?;
        let _noting = self.noting();
        if !self.parts.is_named(name, &incoming.file)? {
            return Ok(());
        }
        let written = self.work.create_new(NEW_NOTE).and_then(|mut file| Ok(file.write_all(&text)?));
        let written = written.and_then(|()| self.work.move_to(NEW_NOTE, &self.notes, name));
        if written.is_err() {
            // It is the failure to write that is told.
            let _ = self.work.remove(NEW_NOTE);
        }
        written.with_context(|| {
            let path = self.notes.join(name);
            format!("cannot write {}", path.display())
        })
    }

    /// Whether digests are checked.
    pub(crate) fn verifies(&self) -> bool {
        self.verify
    }

    /// Puts a complete file under its name. Returns whether its digest was right, if one was due.
    ///
    /// A file with the wrong digest stays where it is: see [`Store::part`].
    ///
    /// # Errors
    /// It cannot be read or renamed, or something of its name has appeared in the folder.
    pub(crate) fn finish(
        &self,
        incoming: &Incoming,
        name: &str,
        expected: Option<Digest>,
    ) -> Result<FileVerdict> {
        let verdict = self.check(incoming, expected)?;
        if !matches!(verdict, FileVerdict::Wrong { .. }) {
            self.give_name(incoming, name)?;
        }
        Ok(verdict)
    }

    /// Returns whether the digest of a complete file is right, if one is due.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn check(&self, incoming: &Incoming, expected: Option<Digest>) -> Result<FileVerdict> {
        let Some(expected) = expected.filter(|_| self.verify) else { return Ok(FileVerdict::Unchecked) };
        let actual = self.digest(incoming)?;
        Ok(if actual == expected { FileVerdict::Right } else { FileVerdict::Wrong { expected, actual } })
    }

    /// Puts a complete file under its name.
    ///
    /// # Errors
    /// It cannot be renamed, or something of its name has appeared in the folder.
    pub(crate) fn give_name(&self, incoming: &Incoming, name: &str) -> Result<()> {
        let _noting = self.noting();
        let another = || format!("cannot finish {name}: {} is another file now", incoming.part.display());
        ensure!(self.parts.is_named(name, &incoming.file)?, another());
        self.notes.remove(name)?;
        self.parts.move_new(name, &self.out, name)?;
        // A name that led elsewhere in between is not this file.
        ensure!(self.out.is_named(name, &incoming.file)?, another());
        Ok(())
    }

    fn digest(&self, incoming: &Incoming) -> Result<Digest> {
        incoming.digest(&self.cancelled)
    }

    /// Where a file stands that is not complete or not right.
    pub(crate) fn part(&self, name: &str) -> PathBuf {
        self.parts.join(name)
    }

    /// Forces the named files and their folder to the disk.
    pub(crate) fn sync<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
        for path in names.into_iter().map(|name| self.out.join(name)).chain([self.out.path().to_path_buf()]) {
            File::open(&path)
                .and_then(|file| file.sync_all())
                .with_context(|| format!("cannot flush {} to the disk", path.display()))?;
        }
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // A folder that is not empty stays, for --resume.
        for (folder, name) in [(&self.work, "parts"), (&self.work, "notes"), (&self.out, WORK)] {
            folder.remove_empty(name);
        }
    }
}

/// A note that is being written, in the working folder.
const NEW_NOTE: &str = "note.new";

/// Makes a temporary folder, and removes those of clients that were killed: nobody holds their lock.
fn temporary() -> Result<(Folder, tempfile::TempDir)> {
    let parent = std::env::temp_dir();
    sweep_temporary(&parent);
    loop {
        let dir = tempfile::Builder::new().prefix("twinlink-").tempdir_in(&parent)?;
        let folder = Folder::open(dir.path())?;
        // Another client may have taken it for an abandoned one before it was locked.
        if folder.lock().is_ok() && folder.create_new(TEMPORARY).is_ok() {
            return Ok((folder, dir));
        }
    }
}

/// Removes temporary folders that nobody holds.
fn sweep_temporary(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with("twinlink-")
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
            && path.join(TEMPORARY).symlink_metadata().is_ok_and(|mark| mark.is_file());
        if !ours {
            continue;
        }
        if let Ok(folder) = Folder::open(&path)
            && folder.is_own()
            && folder.lock().is_ok()
            && let Err(error) = fs::remove_dir_all(&path)
        {
            tracing::debug!("cannot remove {}, which a killed client left: {error}", path.display());
        }
    }
}

/// The state of a file before a run that goes on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Earlier {
    Nothing,
    /// All of it, so many bytes.
    Complete(u64),
    /// These ranges of so many bytes.
    Part(u64, Ranges),
}

/// Says which bytes of a file are there.
#[derive(Serialize, Deserialize)]
struct Note {
    /// The size of the whole file.
    bytes: u64,
    ranges: Vec<(u64, u64)>,
}

impl Note {
    /// Returns whether it can be true of a part of so many bytes: its ranges are in order, apart, and inside.
    fn fits(&self, there: u64) -> bool {
        let inside = self.ranges.iter().all(|&(from, to)| from < to && to <= there.min(self.bytes));
        inside && self.ranges.is_sorted_by(|one, next| one.1 < next.0)
    }
}

/// The verdict on a complete file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileVerdict {
    Right,
    Wrong {
        expected: Digest,
        actual: Digest,
    },
    /// There was nothing to check it against, or `--no-verify`.
    Unchecked,
}

impl FileVerdict {
    /// For the log: null where nothing was checked.
    pub(crate) fn ok(self) -> Option<bool> {
        match self {
            FileVerdict::Right => Some(true),
            FileVerdict::Wrong { .. } => Some(false),
            FileVerdict::Unchecked => None,
        }
    }
}

/// A file that is being received, by any number of writers that never write the same byte.
///
/// It is hashed from the file, behind its writers: the check covers the bytes on file.
pub(crate) struct Incoming {
    file: File,
    part: PathBuf,
    written: AtomicU64,
    /// Up to here everything is on file, as far as it came in order.
    in_order: AtomicU64,
    /// `None` with `--no-verify`.
    hashed: Option<Mutex<Hashed>>,
    /// Up to here it is hashed.
    hashed_to: AtomicU64,
    /// Somebody is at it.
    hashing: AtomicBool,
}

/// The digest of a file's beginning.
struct Hashed {
    hasher: Sha256,
    /// For one step at most.
    buffer: Vec<u8>,
}

/// The bytes hashed in one step: many compared with the cost of a step, few enough for a core's cache and for
/// callers that wait.
pub(crate) const HASH_STEP_BYTES: u64 = 256 * 1024;

impl Incoming {
    fn new(file: File, part: PathBuf, verify: bool, written: u64) -> Incoming {
        let hashed = verify.then(|| Mutex::new(Hashed { hasher: Sha256::new(), buffer: Vec::new() }));
        Incoming {
            file,
            part,
            written: AtomicU64::new(written),
            in_order: AtomicU64::new(0),
            hashed,
            hashed_to: AtomicU64::new(0),
            hashing: AtomicBool::new(false),
        }
    }

    /// Bytes on file.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Writes bytes that are not there yet at their place. Returns how many are on file then, so that
    /// exactly one writer sees the whole file.
    pub(crate) fn write_at(&self, at: u64, bytes: &[u8]) -> Result<u64> {
        self.file.write_all_at(bytes, at).with_context(|| self.cannot_write())?;
        Ok(self.wrote(at, bytes.len() as u64))
    }

    /// The same with bytes that a pipe holds.
    pub(crate) fn write_piped(&self, at: u64, pipe: &mut Pipe, bytes: usize) -> Result<u64> {
        pipe.drain(&self.file, at, bytes).with_context(|| self.cannot_write())?;
        Ok(self.wrote(at, bytes as u64))
    }

    fn wrote(&self, at: u64, bytes: u64) -> u64 {
        // Bytes out of order are hashed when the file is complete.
        let _ = self.in_order.compare_exchange(at, at + bytes, Ordering::AcqRel, Ordering::Relaxed);
        self.written.fetch_add(bytes, Ordering::AcqRel) + bytes
    }

    fn cannot_write(&self) -> String {
        format!("cannot write {}", self.part.display())
    }

    /// Bytes of the complete file that are to be hashed still.
    pub(crate) fn left_to_hash(&self) -> u64 {
        self.hashed.as_ref().map_or(0, |_| self.written() - self.hashed_to.load(Ordering::Acquire))
    }

    /// Returns true, to one caller at a time, if enough contiguous data is on file to hash; that caller must
    /// then call [`Incoming::hash`].
    pub(crate) fn may_hash(&self) -> bool {
        self.hashed.is_some() && self.can_step() && !self.hashing.swap(true, Ordering::AcqRel)
    }

    fn can_step(&self) -> bool {
        let in_order = self.in_order.load(Ordering::Acquire);
        in_order.saturating_sub(self.hashed_to.load(Ordering::Acquire)) >= HASH_STEP_BYTES
    }

    /// Hashes the contiguous data. A failed read is an error of [`Store::finish`], which tries again.
    pub(crate) fn hash(&self) {
        while self.can_step() && self.hash_step().is_ok_and(|any| any) {}
        self.hashing.store(false, Ordering::Release);
    }

    /// Hashes as much as is there of one step more; returns whether anything was.
    fn hash_step(&self) -> io::Result<bool> {
        let mut hashed = self.hashed()?;
        let Hashed { hasher, buffer } = &mut *hashed;
        let at = self.hashed_to.load(Ordering::Acquire);
        buffer.resize(self.written().saturating_sub(at).min(HASH_STEP_BYTES) as usize, 0);
        let read = self.file.read_at(buffer, at)?;
        hasher.update(&buffer[..read]);
        self.hashed_to.store(at + read as u64, Ordering::Release);
        Ok(read > 0)
    }

    fn hashed(&self) -> io::Result<MutexGuard<'_, Hashed>> {
        let hashed = self.hashed.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        Ok(hashed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The digest of the whole file, which is complete.
    fn digest(&self, cancelled: &AtomicBool) -> Result<Digest> {
        let cannot = || format!("cannot read {} back to check it", self.part.display());
        while self.hash_step().with_context(cannot)? {
            ensure!(!cancelled.load(Ordering::Relaxed), "cannot check {}: the run ends", self.part.display());
        }
        let mut hasher = self.hashed().with_context(cannot)?.hasher.clone();
        // A file that goes on is not the one whose bytes were counted; so much of it shows that.
        let mut more = [0];
        let read = self.file.read_at(&mut more, self.written()).with_context(cannot)?;
        hasher.update(&more[..read]);
        Ok(Digest(hasher.finalize().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha256(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn names_that_look_like_working_files_are_names_like_others() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mine.part"), "mine").unwrap();
        let long = "n".repeat(crate::manifest::name::LONGEST_NAME_BYTES);
        let all = ["x", "x.part", "x.part.json", "x.part.json.a", "parts", "note.new", &long];
        let store = Store::open(Some(dir.path()), true, all).unwrap();
        store.check_names(all).unwrap();
        let begun: Vec<_> = all.iter().map(|name| store.begin(name).unwrap()).collect();
        for (name, incoming) in all.iter().zip(&begun) {
            incoming.write_at(0, name.as_bytes()).unwrap();
            store.note(name, incoming, name.len() as u64, &[(0, 1)].into_iter().collect()).unwrap();
        }
        for (name, incoming) in all.iter().zip(&begun) {
            let right = Some(sha256(name.as_bytes()));
            assert_eq!(store.finish(incoming, name, right).unwrap(), FileVerdict::Right);
        }
        drop(store);
        for name in all {
            assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), name);
        }
        assert_eq!(fs::read_to_string(dir.path().join("mine.part")).unwrap(), "mine");
        assert_eq!(names(dir.path()).len(), all.len() + 1);
    }

    #[test]
    fn nothing_is_left_of_a_note_that_races_with_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path()), false, []).unwrap();
        for round in 0..500 {
            let name = format!("x{round}");
            let incoming = store.begin(&name).unwrap();
            incoming.write_at(0, b"hello").unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    store.note(&name, &incoming, 5, &[(0, 5)].into_iter().collect()).unwrap();
                });
                store.finish(&incoming, &name, None).unwrap();
            });
        }
        assert_eq!(names(&dir.path().join(".twinlink/notes")), [""; 0]);
        drop(store);
        assert_eq!(names(dir.path()).len(), 500);
    }

    #[test]
    fn a_note_is_not_written_of_a_file_that_was_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path()), false, []).unwrap();
        let old = store.begin("x").unwrap();
        old.write_at(0, b"hello").unwrap();
        let _new = store.begin("x").unwrap();
        store.note("x", &old, 5, &[(0, 5)].into_iter().collect()).unwrap();
        assert_eq!(store.earlier("x", None).unwrap(), Earlier::Nothing);
    }

    #[test]
    fn damaged_notes_are_no_notes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path()), true, []).unwrap();
        store.begin("x").unwrap().write_at(0, b"hello world").unwrap();
        let note = dir.path().join(".twinlink/notes/x");
        for ranges in [
            "[[5,2]]",
            "[[0,0]]",
            "[[0,12]]",
            "[[4,6],[0,2]]",
            "[[0,5],[3,8]]",
            "[[0,5],[5,8]]",
            "[[0,18446744073709551615]]",
            "[[-1,5]]",
            "[[0,5]",
        ] {
            fs::write(&note, format!("{{\"bytes\":11,\"ranges\":{ranges}}}")).unwrap();
            assert_eq!(store.earlier("x", None).unwrap(), Earlier::Nothing, "{ranges}");
        }
        fs::write(&note, "{\"bytes\":11,\"ranges\":[[0,5],[6,8]]}").unwrap();
        assert!(matches!(store.earlier("x", None).unwrap(), Earlier::Part(11, _)));
        fs::remove_file(&note).unwrap();
        std::process::Command::new("mkfifo").arg(&note).status().unwrap();
        let error = store.earlier("x", None).unwrap_err();
        assert!(error.to_string().contains("not an ordinary file"), "{error}");
    }

    #[test]
    fn links_and_folders_under_a_name_are_refused() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let (out, victim) = (dir.path().join("out"), dir.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        fs::create_dir(&out).unwrap();
        fs::create_dir(out.join("folder")).unwrap();
        symlink(dir.path().join("nowhere"), out.join("dangling")).unwrap();
        for name in ["folder", "dangling"] {
            let error = Store::open(Some(&out), true, [name]).unwrap_err();
            assert!(error.to_string().contains("already holds"), "{error}");
            let store = Store::open(Some(&out), true, []).unwrap();
            assert!(store.earlier(name, None).is_err(), "{name}");
            // It appeared while the run went on.
            let incoming = store.begin(name).unwrap();
            assert!(store.finish(&incoming, name, None).is_err(), "{name}");
        }
        let store = Store::open(Some(&out), true, []).unwrap();
        symlink(&victim, store.part("x")).unwrap();
        assert!(store.earlier("x", None).is_err());
        assert!(store.go_on("x", 0).is_err());
        store.begin("x").unwrap().write_at(0, b"new").unwrap();
        drop(store);
        fs::remove_dir_all(out.join(WORK)).unwrap();
        symlink(dir.path(), out.join(WORK)).unwrap();
        assert!(Store::open(Some(&out), true, []).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn a_part_longer_than_its_note_is_cut_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path()), true, []).unwrap();
        let begun = store.begin("x").unwrap();
        begun.write_at(0, b"hello world").unwrap();
        store.note("x", &begun, 11, &[(0, 11)].into_iter().collect()).unwrap();
        // A byte a system call, this took minutes.
        begun.file.set_len(1 << 30).unwrap();
        assert_eq!(store.earlier("x", Some(sha256(b"hello world"))).unwrap(), Earlier::Complete(11));
        assert_eq!(fs::read(dir.path().join("x")).unwrap(), b"hello world");
    }

    #[test]
    fn a_file_that_goes_on_behind_its_end_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path()), true, []).unwrap();
        let incoming = store.begin("x").unwrap();
        incoming.write_at(0, b"hello").unwrap();
        incoming.file.set_len(1 << 30).unwrap();
        let verdict = store.finish(&incoming, "x", Some(sha256(b"hello"))).unwrap();
        assert!(matches!(verdict, FileVerdict::Wrong { .. }));
    }

    #[test]
    fn checks_end_when_they_are_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x"), "hello").unwrap();
        let store = Store::open(Some(dir.path()), true, []).unwrap();
        store.cancel();
        let error = store.earlier("x", Some(sha256(b"hello"))).unwrap_err();
        assert!(error.to_string().contains("the run ends"), "{error}");
    }

    #[test]
    fn a_second_run_in_one_folder_is_told_who_writes_there() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(Some(dir.path()), true, []).unwrap();
        let error = format!("{:#}", Store::open(Some(dir.path()), true, []).unwrap_err());
        assert!(error.contains("is in use by"), "{error}");
        drop(first);
        Store::open(Some(dir.path()), true, []).unwrap();
    }

    #[test]
    fn temporary_folders_are_swept_where_nobody_holds_them() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let dir = parent.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("s001.m4s"), "big").unwrap();
            dir
        };
        let (killed, alive, own) = (make("twinlink-killed"), make("twinlink-alive"), make("twinlink-mine"));
        fs::write(killed.join(TEMPORARY), "").unwrap();
        fs::write(alive.join(TEMPORARY), "").unwrap();
        let held = Folder::open(&alive).unwrap();
        held.lock().unwrap();
        sweep_temporary(parent.path());
        assert_eq!([&killed, &alive, &own].map(|dir| dir.exists()), [false, true, true]);
    }

    #[test]
    fn names_that_the_file_system_cannot_hold_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path()), true, []).unwrap();
        store.check_names(["a", "A"]).unwrap();
        let error = store.check_names([&*"n".repeat(256)]).unwrap_err().to_string();
        assert!(error.contains("allows 255"), "{error}");
        // As a file system that folds case shows itself.
        fs::create_dir(dir.path().join(".TWINLINK")).unwrap();
        let error = store.check_names(["a", "A"]).unwrap_err().to_string();
        assert!(error.contains("a and A are one name"), "{error}");
    }

    #[test]
    fn a_file_appears_under_its_name_only_when_it_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path()), true, []).unwrap();
        let incoming = store.begin("x").unwrap();
        assert_eq!(incoming.write_at(6, b"wor").unwrap(), 3);
        assert_eq!(incoming.write_at(0, b"hello ").unwrap(), 9);
        assert_eq!(incoming.write_at(9, b"ld").unwrap(), 11);
        assert!(!dir.path().join("x").exists());
        assert_eq!(store.finish(&incoming, "x", Some(sha256(b"hello world"))).unwrap(), FileVerdict::Right);
        assert_eq!(fs::read(dir.path().join("x")).unwrap(), b"hello world");

        let incoming = store.begin("y").unwrap();
        incoming.write_at(0, b"spoiled").unwrap();
        let verdict = store.finish(&incoming, "y", Some(sha256(b"right"))).unwrap();
        assert!(matches!(verdict, FileVerdict::Wrong { .. }));
        assert!(!dir.path().join("y").exists());
        assert!(store.part("y").exists());
    }

    #[test]
    fn starting_again_forgets_what_came() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path()), true, []).unwrap();
        let early = store.begin("x").unwrap();
        early.write_at(0, b"half").unwrap();
        let incoming = store.begin("x").unwrap();
        early.write_at(4, b"late").unwrap();
        assert_eq!(incoming.write_at(0, b"whole").unwrap(), 5);
        assert_eq!(store.finish(&incoming, "x", Some(sha256(b"whole"))).unwrap(), FileVerdict::Right);
        assert_eq!(fs::read(dir.path().join("x")).unwrap(), b"whole");
    }

    #[test]
    fn what_an_earlier_run_left_is_found_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path()), true, []).unwrap();
        let digest = Some(sha256(b"hello world"));
        assert_eq!(store.earlier("x", digest).unwrap(), Earlier::Nothing);
        let begun = store.begin("x").unwrap();
        begun.write_at(6, b"world").unwrap();
        assert_eq!(store.earlier("x", digest).unwrap(), Earlier::Nothing);
        let ranges: Ranges = [(6, 11)].into_iter().collect();
        store.note("x", &begun, 11, &ranges).unwrap();
        assert_eq!(store.earlier("x", digest).unwrap(), Earlier::Part(11, ranges));
        let incoming = store.go_on("x", 5).unwrap();
        assert_eq!(incoming.write_at(0, b"hello ").unwrap(), 11);
        assert_eq!(store.finish(&incoming, "x", digest).unwrap(), FileVerdict::Right);
        assert_eq!(store.earlier("x", digest).unwrap(), Earlier::Complete(11));
        assert!(store.earlier("x", Some(sha256(b"another"))).is_err());
        drop(store);
        assert_eq!(names(dir.path()), ["x"]);
    }

    #[test]
    fn a_file_whose_run_was_killed_before_its_check_is_checked_and_kept_where_it_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path()), true, []).unwrap();
        for (name, kept) in [("right", Earlier::Complete(11)), ("wrong", Earlier::Nothing)] {
            let begun = store.begin(name).unwrap();
            begun.write_at(0, b"hello world").unwrap();
            store.note(name, &begun, 11, &[(0, 11)].into_iter().collect()).unwrap();
            let expected = sha256(if name == "right" { b"hello world" } else { b"other words" });
            assert_eq!(store.earlier(name, Some(expected)).unwrap(), kept);
        }
        assert_eq!(fs::read(dir.path().join("right")).unwrap(), b"hello world");
        assert!(!dir.path().join("wrong").exists());
        // A wrong file is fetched from its beginning.
        let again = store.begin("wrong").unwrap();
        assert_eq!(again.write_at(0, b"other words").unwrap(), 11);
        let verdict = store.finish(&again, "wrong", Some(sha256(b"other words"))).unwrap();
        assert_eq!(verdict, FileVerdict::Right);
        drop(store);
        assert_eq!(names(dir.path()), ["right", "wrong"]);
    }

    #[test]
    fn what_comes_in_order_is_hashed_before_the_file_is_complete_and_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path()), true, []).unwrap();
        let step = HASH_STEP_BYTES as usize;
        let bytes: Vec<u8> = (0..5 * step / 2).map(|i| ((i * i) >> 7) as u8).collect();
        let incoming = store.begin("x").unwrap();
        incoming.write_at(0, &bytes[..step / 2]).unwrap();
        assert!(!incoming.may_hash(), "that is too little");
        // The end comes before the middle.
        incoming.write_at(2 * step as u64, &bytes[2 * step..]).unwrap();
        assert!(!incoming.may_hash());
        incoming.write_at(step as u64 / 2, &bytes[step / 2..3 * step / 2]).unwrap();
        assert!(incoming.may_hash());
        assert!(!incoming.may_hash(), "somebody does already");
        incoming.hash();
        assert_eq!(incoming.left_to_hash(), step as u64, "a whole step of what came in order is hashed");
        incoming.write_at(3 * step as u64 / 2, &bytes[3 * step / 2..2 * step]).unwrap();
        assert_eq!(store.finish(&incoming, "x", Some(sha256(&bytes))).unwrap(), FileVerdict::Right);
        assert_eq!(incoming.left_to_hash(), 0);
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x"), "mine").unwrap();
        let error = Store::open(Some(dir.path()), true, ["x"]).unwrap_err();
        assert!(error.to_string().contains("already holds x"), "{error}");
    }

    #[test]
    fn a_temporary_folder_goes_with_the_store() {
        let store = Store::open(None, true, []).unwrap();
        let dir = store.out.path().to_path_buf();
        store.begin("x").unwrap().write_at(0, b"1").unwrap();
        assert!(store.part("x").exists());
        drop(store);
        assert!(!dir.exists());
    }

    #[test]
    fn digests_are_read_from_hex_and_base64() {
        let digest = sha256(b"");
        assert_eq!(Digest::from_hex(&digest.to_string()), Some(digest));
        assert_eq!(Digest::from_base64("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="), Some(digest));
        assert_eq!(Digest::from_hex("é3"), None);
        assert_eq!(Digest::from_base64("AAAA"), None);
    }
}
