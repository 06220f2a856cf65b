//! Files on disk: written as `.part`, in any order, verified, renamed. No network and no schedule in it.
//!
//! Writes go to the page cache from whoever received the bytes; nothing is flushed to the disk
//! unless `--sync` asks for it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use base64::Engine;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::pipe::Pipe;
use super::schedule::Ranges;
use crate::units::LinkId;

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// From 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Digest> {
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(Digest(bytes))
    }

    /// From the value of a `Repr-Digest` (RFC 9530).
    pub fn from_base64(text: &str) -> Option<Digest> {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
        bytes.try_into().ok().map(Digest)
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// Where the files of a run land.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    verify: bool,
    /// Deletes the files at the end of a run without `--out`.
    temporary: Option<tempfile::TempDir>,
}

impl Store {
    /// Opens the folder `out`, created if missing, or a temporary one.
    ///
    /// # Errors
    /// When it cannot be written, or already holds one of the files `new`: nothing is ever overwritten.
    pub fn open<'a>(
        out: Option<&Path>,
        verify: bool,
        new: impl IntoIterator<Item = &'a str>,
    ) -> Result<Store> {
        let (dir, temporary) = match out {
            Some(dir) => (dir.to_path_buf(), None),
            None => {
                let dir = tempfile::Builder::new()
                    .prefix("twinlink-")
                    .tempdir()
                    .context("cannot make a temporary folder for the files; set TMPDIR or give --out")?;
                (dir.path().to_path_buf(), Some(dir))
            }
        };
        fs::create_dir_all(&dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        tempfile::tempfile_in(&dir).with_context(|| {
            format!("cannot write to the folder {}; give another with --out", dir.display())
        })?;
        let store = Store { dir, verify, temporary };
        for name in new {
            if store.dir.join(name).exists() {
                bail!(
                    "{} already holds {name}, and nothing is overwritten; give an empty folder with --out, or go on with --resume",
                    store.dir.display()
                );
            }
            store.remove_begun_notes(name)?;
        }
        Ok(store)
    }

    /// Starts a file. What an earlier run left of it unfinished is replaced; whoever still writes to
    /// that writes to nowhere.
    pub fn begin(&self, name: &str) -> Result<Incoming> {
        let part = self.part(name);
        // The note goes first: it must never speak of bytes that are not there.
        remove(&self.sidecar(name))?;
        remove(&part)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&part);
        let file = file.with_context(|| format!("cannot create {}", part.display()))?;
        Ok(Incoming::new(file, part, self.verify, 0))
    }

    /// Goes on with a file of which an earlier run has left `had` bytes.
    pub fn go_on(&self, name: &str, had: u64) -> Result<Incoming> {
        let part = self.part(name);
        let file = OpenOptions::new().read(true).write(true).open(&part);
        let file = file.with_context(|| format!("cannot go on with {}", part.display()))?;
        Ok(Incoming::new(file, part, self.verify, had))
    }

    /// What an earlier run has left of a file. One that is complete is checked again.
    ///
    /// # Errors
    /// When it cannot be read, or is another file than the one to fetch.
    pub fn earlier(&self, name: &str, expected: Option<Digest>) -> Result<Earlier> {
        self.remove_begun_notes(name)?;
        let path = self.dir.join(name);
        if path.exists() {
            let cannot = || format!("cannot read {}, which an earlier run left", path.display());
            let bytes = fs::metadata(&path).with_context(cannot)?.len();
            if let Some(expected) = expected.filter(|_| self.verify) {
                let file = File::open(&path).with_context(cannot)?;
                if Incoming::new(file, path.clone(), true, bytes).digest()? != expected {
                    bail!("{} is not the file to fetch; move it away, or give another --out", path.display());
                }
            }
            remove(&self.sidecar(name))?;
            return Ok(Earlier::Complete(bytes));
        }
        let note =
            fs::read(self.sidecar(name)).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
        let there = fs::metadata(self.part(name)).map_or(0, |part| part.len());
        let note = note.filter(|note| note.ranges.iter().all(|&(_, to)| to <= there.min(note.bytes)));
        let Some(Note { bytes, ranges }) = note else { return Ok(Earlier::Nothing) };
        if ranges != [(0, bytes)] {
            return Ok(Earlier::Part(bytes, ranges.into_iter().collect()));
        }
        // The run was killed between the last byte of the file and its check.
        match self.finish(&self.go_on(name, bytes)?, name, expected)? {
            Verdict::Wrong { .. } => Ok(Earlier::Nothing),
            Verdict::Right | Verdict::Unchecked => Ok(Earlier::Complete(bytes)),
        }
    }

    /// Notes beside a `.part` what of it is there, for a run that goes on after this one was killed.
    /// The note is replaced in one step, so that there is a whole one at every instant; `by` tells
    /// apart who writes at the same time.
    pub fn note(&self, name: &str, by: LinkId, bytes: u64, ranges: &Ranges) -> Result<()> {
        if self.temporary.is_some() {
            return Ok(());
        }
        let note = Note { bytes, ranges: ranges.iter().collect() };
        let (path, next) = (self.sidecar(name), self.begun_note(name, by));
        let text = serde_json::to_vec(&note).context("cannot render a note")?;
        fs::write(&next, text)
            .and_then(|()| fs::rename(&next, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn part(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.part"))
    }

    fn sidecar(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.part.json"))
    }

    fn begun_note(&self, name: &str, by: LinkId) -> PathBuf {
        self.dir.join(format!("{name}.part.json.{by}"))
    }

    /// Removes what a run has left that was killed while it wrote a note.
    fn remove_begun_notes(&self, name: &str) -> Result<()> {
        LinkId::BOTH.into_iter().try_for_each(|by| remove(&self.begun_note(name, by)))
    }

    /// Puts a complete file under its name. Returns whether its digest was right, if one was due.
    ///
    /// A file with the wrong digest keeps its `.part` name.
    pub fn finish(&self, incoming: &Incoming, name: &str, expected: Option<Digest>) -> Result<Verdict> {
        let verdict = match expected.filter(|_| self.verify) {
            Some(expected) => {
                let actual = incoming.digest()?;
                if actual != expected {
                    return Ok(Verdict::Wrong { expected, actual });
                }
                Verdict::Right
            }
            _ => Verdict::Unchecked,
        };
        let path = self.dir.join(name);
        fs::rename(&incoming.part, &path)
            .with_context(|| format!("cannot rename {} to {}", incoming.part.display(), path.display()))?;
        remove(&self.sidecar(name))?;
        Ok(verdict)
    }

    /// Forces the named files and their folder to the disk.
    pub fn sync<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
        for path in names.into_iter().map(|name| self.dir.join(name)).chain([self.dir.clone()]) {
            File::open(&path)
                .and_then(|file| file.sync_all())
                .with_context(|| format!("cannot flush {} to the disk", path.display()))?;
        }
        Ok(())
    }
}

/// What is there of a file before a run that goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Earlier {
    Nothing,
    /// All of it, so many bytes.
    Complete(u64),
    /// These ranges of so many bytes.
    Part(u64, Ranges),
}

/// What stands beside a `.part`.
#[derive(Serialize, Deserialize)]
struct Note {
    /// The size of the whole file.
    bytes: u64,
    ranges: Vec<(u64, u64)>,
}

/// Removes a file that need not be there.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// What a complete file turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Right,
    Wrong {
        expected: Digest,
        actual: Digest,
    },
    /// There was nothing to check it against, or `--no-verify`.
    Unchecked,
}

impl Verdict {
    /// For the log: null where nothing was checked.
    pub fn ok(self) -> Option<bool> {
        match self {
            Verdict::Right => Some(true),
            Verdict::Wrong { .. } => Some(false),
            Verdict::Unchecked => None,
        }
    }
}

/// A file that is being received, by any number of writers that never write the same byte.
///
/// What has come is hashed from the file, behind those who write it: what is checked is what is on file.
pub struct Incoming {
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

/// So much is hashed at a time: much beside what a step costs, little enough for a core's cache, and for
/// whoever waits for it.
pub const HASH_STEP_BYTES: u64 = 256 * 1024;

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
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Writes bytes that are not there yet at their place. Returns how many are on file then, so that
    /// exactly one writer sees the whole file.
    pub fn write_at(&self, at: u64, bytes: &[u8]) -> Result<u64> {
        self.file.write_all_at(bytes, at).with_context(|| self.cannot_write())?;
        Ok(self.wrote(at, bytes.len() as u64))
    }

    /// The same with bytes that a pipe holds.
    pub fn write_piped(&self, at: u64, pipe: &mut Pipe, bytes: usize) -> Result<u64> {
        pipe.drain(&self.file, at, bytes).with_context(|| self.cannot_write())?;
        Ok(self.wrote(at, bytes as u64))
    }

    fn wrote(&self, at: u64, bytes: u64) -> u64 {
        // What comes out of order is hashed when the file is complete.
        let _ = self.in_order.compare_exchange(at, at + bytes, Ordering::AcqRel, Ordering::Relaxed);
        self.written.fetch_add(bytes, Ordering::AcqRel) + bytes
    }

    fn cannot_write(&self) -> String {
        format!("cannot write {}; free some space or give another --out", self.part.display())
    }

    /// Bytes of the complete file that are to be hashed still.
    pub fn left_to_hash(&self) -> u64 {
        self.hashed.as_ref().map_or(0, |_| self.written() - self.hashed_to.load(Ordering::Acquire))
    }

    /// Whether enough has come in order to go on hashing, and nobody does. Who is told so does, with
    /// [`Incoming::hash`].
    pub fn may_hash(&self) -> bool {
        self.hashed.is_some() && self.can_step() && !self.hashing.swap(true, Ordering::AcqRel)
    }

    fn can_step(&self) -> bool {
        let in_order = self.in_order.load(Ordering::Acquire);
        in_order.saturating_sub(self.hashed_to.load(Ordering::Acquire)) >= HASH_STEP_BYTES
    }

    /// Hashes what has come in order. What cannot be read back is an error of [`Store::finish`], which
    /// tries again.
    pub fn hash(&self) {
        while self.can_step() && self.hash_step().is_ok_and(|any| any) {}
        self.hashing.store(false, Ordering::Release);
    }

    /// Hashes as much as is there of one step more; returns whether anything was.
    fn hash_step(&self) -> io::Result<bool> {
        let hashed = self.hashed.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let mut hashed = hashed.lock().expect("nobody panics while hashing");
        let Hashed { hasher, buffer } = &mut *hashed;
        let at = self.hashed_to.load(Ordering::Acquire);
        // One byte more than there should be shows a file that goes on.
        buffer.resize(self.written().saturating_sub(at).clamp(1, HASH_STEP_BYTES) as usize, 0);
        let read = self.file.read_at(buffer, at)?;
        hasher.update(&buffer[..read]);
        self.hashed_to.store(at + read as u64, Ordering::Release);
        Ok(read > 0)
    }

    /// The digest of the whole file, which is complete.
    fn digest(&self) -> Result<Digest> {
        let cannot = || format!("cannot read {} back to check it", self.part.display());
        while self.hash_step().with_context(cannot)? {}
        let hashed = self.hashed.as_ref().context("a digest is asked for that was not to be computed")?;
        let hashed = hashed.lock().expect("nobody panics while hashing");
        Ok(Digest(hashed.hasher.clone().finalize().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha256(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
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
        assert_eq!(store.finish(&incoming, "x", Some(sha256(b"hello world"))).unwrap(), Verdict::Right);
        assert_eq!(fs::read(dir.path().join("x")).unwrap(), b"hello world");

        let incoming = store.begin("y").unwrap();
        incoming.write_at(0, b"spoiled").unwrap();
        let verdict = store.finish(&incoming, "y", Some(sha256(b"right"))).unwrap();
        assert!(matches!(verdict, Verdict::Wrong { .. }));
        assert!(!dir.path().join("y").exists());
        assert!(dir.path().join("y.part").exists());
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
        assert_eq!(store.finish(&incoming, "x", Some(sha256(b"whole"))).unwrap(), Verdict::Right);
        assert_eq!(fs::read(dir.path().join("x")).unwrap(), b"whole");
    }

    #[test]
    fn what_an_earlier_run_left_is_found_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path()), true, []).unwrap();
        let digest = Some(sha256(b"hello world"));
        assert_eq!(store.earlier("x", digest).unwrap(), Earlier::Nothing);
        store.begin("x").unwrap().write_at(6, b"world").unwrap();
        assert_eq!(store.earlier("x", digest).unwrap(), Earlier::Nothing);
        let ranges: Ranges = [(6, 11)].into_iter().collect();
        store.note("x", LinkId::A, 11, &ranges).unwrap();
        fs::write(dir.path().join("x.part.json.b"), "{\"by").unwrap();
        assert_eq!(store.earlier("x", digest).unwrap(), Earlier::Part(11, ranges));
        let incoming = store.go_on("x", 5).unwrap();
        assert_eq!(incoming.write_at(0, b"hello ").unwrap(), 11);
        assert_eq!(store.finish(&incoming, "x", digest).unwrap(), Verdict::Right);
        assert_eq!(store.earlier("x", digest).unwrap(), Earlier::Complete(11));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(store.earlier("x", Some(sha256(b"another"))).is_err());
    }

    #[test]
    fn a_file_whose_run_was_killed_before_its_check_is_checked_and_kept_where_it_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path()), true, []).unwrap();
        for (name, kept) in [("right", Earlier::Complete(11)), ("wrong", Earlier::Nothing)] {
            store.begin(name).unwrap().write_at(0, b"hello world").unwrap();
            store.note(name, LinkId::A, 11, &[(0, 11)].into_iter().collect()).unwrap();
            let expected = sha256(if name == "right" { b"hello world" } else { b"other words" });
            assert_eq!(store.earlier(name, Some(expected)).unwrap(), kept);
        }
        assert_eq!(fs::read(dir.path().join("right")).unwrap(), b"hello world");
        assert!(!dir.path().join("wrong").exists());
        // What is wrong is fetched from its beginning.
        let again = store.begin("wrong").unwrap();
        assert_eq!(again.write_at(0, b"other words").unwrap(), 11);
        let verdict = store.finish(&again, "wrong", Some(sha256(b"other words"))).unwrap();
        assert_eq!(verdict, Verdict::Right);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
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
        assert_eq!(store.finish(&incoming, "x", Some(sha256(&bytes))).unwrap(), Verdict::Right);
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
    fn atemporary_folder_goes_with_the_store() {
        let store = Store::open(None, true, []).unwrap();
        let dir = store.dir.clone();
        store.begin("x").unwrap().write_at(0, b"1").unwrap();
        assert!(dir.join("x.part").exists());
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
