//! Files on disk: written as `.part`, in any order, verified, renamed. No network and no schedule in it.
//!
//! Writes go to the page cache from whoever received the bytes; nothing is flushed to the disk
//! unless `--sync` asks for it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

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
        let hashed = self.verify.then(|| Mutex::new(Hashed { hasher: Sha256::new(), upto: 0 }));
        Ok(Incoming { file, part, hashed, written: AtomicU64::new(0) })
    }

    /// Goes on with a file of which an earlier run has left `had` bytes.
    pub fn go_on(&self, name: &str, had: u64) -> Result<Incoming> {
        let part = self.part(name);
        let file = OpenOptions::new().read(true).write(true).open(&part);
        let file = file.with_context(|| format!("cannot go on with {}", part.display()))?;
        let hashed = self.verify.then(|| Mutex::new(Hashed { hasher: Sha256::new(), upto: 0 }));
        Ok(Incoming { file, part, hashed, written: AtomicU64::new(had) })
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
            if let Some(expected) = expected.filter(|_| self.verify) {
                let file = File::open(&path).with_context(cannot)?;
                if hash_on(&file, Sha256::new(), 0).with_context(cannot)? != expected {
                    bail!("{} is not the file to fetch; move it away, or give another --out", path.display());
                }
            }
            let bytes = fs::metadata(&path).with_context(cannot)?.len();
            remove(&self.sidecar(name))?;
            return Ok(Earlier::Complete(bytes));
        }
        let note =
            fs::read(self.sidecar(name)).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
        let there = fs::metadata(self.part(name)).map_or(0, |part| part.len());
        match note.filter(|note| note.ranges.iter().all(|&(_, to)| to <= there.min(note.bytes))) {
            Some(note) => Ok(Earlier::Part(note.bytes, note.ranges.into_iter().collect())),
            None => Ok(Earlier::Nothing),
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
pub struct Incoming {
    file: File,
    part: PathBuf,
    /// What is hashed as it comes; `None` with `--no-verify`.
    hashed: Option<Mutex<Hashed>>,
    written: AtomicU64,
}

/// The digest of a file's beginning.
struct Hashed {
    hasher: Sha256,
    upto: u64,
}

impl Incoming {
    /// Bytes on file.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Writes bytes that are not there yet at their place. Returns how many are on file then, so that
    /// exactly one writer sees the whole file. What continues the beginning is hashed at once; the
    /// rest is when the file is complete.
    pub fn write_at(&self, at: u64, bytes: &[u8]) -> Result<u64> {
        self.file.write_all_at(bytes, at).with_context(|| self.cannot_write())?;
        if let Some(hashed) = &self.hashed {
            let mut hashed = hashed.lock().expect("nobody panics while hashing");
            if hashed.upto == at {
                hashed.hasher.update(bytes);
                hashed.upto += bytes.len() as u64;
            }
        }
        Ok(self.wrote(bytes.len()))
    }

    /// The same with bytes that a pipe holds. They are not hashed: if they have to be, that is when the
    /// file is complete.
    pub fn write_piped(&self, at: u64, pipe: &mut Pipe, bytes: usize) -> Result<u64> {
        pipe.drain(&self.file, at, bytes).with_context(|| self.cannot_write())?;
        Ok(self.wrote(bytes))
    }

    fn wrote(&self, bytes: usize) -> u64 {
        self.written.fetch_add(bytes as u64, Ordering::AcqRel) + bytes as u64
    }

    fn cannot_write(&self) -> String {
        format!("cannot write {}; free some space or give another --out", self.part.display())
    }

    /// Whether what comes in order is hashed as it comes, for which it has to be seen.
    pub fn is_hashed(&self) -> bool {
        self.hashed.is_some()
    }

    /// The digest of the whole file, which is complete.
    fn digest(&self) -> Result<Digest> {
        let hashed = self.hashed.as_ref().context("a digest is asked for that was not to be computed")?;
        let hashed = hashed.lock().expect("nobody panics while hashing");
        hash_on(&self.file, hashed.hasher.clone(), hashed.upto)
            .with_context(|| format!("cannot read {} back to check it", self.part.display()))
    }
}

/// The digest of a file whose beginning, up to `at`, has been hashed.
fn hash_on(file: &File, mut hasher: Sha256, mut at: u64) -> io::Result<Digest> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = file.read_at(&mut buffer, at)?;
        if read == 0 {
            return Ok(Digest(hasher.finalize().into()));
        }
        hasher.update(&buffer[..read]);
        at += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest_of(bytes: &[u8]) -> Digest {
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
        assert_eq!(store.finish(&incoming, "x", Some(digest_of(b"hello world"))).unwrap(), Verdict::Right);
        assert_eq!(fs::read(dir.path().join("x")).unwrap(), b"hello world");

        let incoming = store.begin("y").unwrap();
        incoming.write_at(0, b"spoiled").unwrap();
        let verdict = store.finish(&incoming, "y", Some(digest_of(b"right"))).unwrap();
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
        assert_eq!(store.finish(&incoming, "x", Some(digest_of(b"whole"))).unwrap(), Verdict::Right);
        assert_eq!(fs::read(dir.path().join("x")).unwrap(), b"whole");
    }

    #[test]
    fn what_an_earlier_run_left_is_found_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path()), true, []).unwrap();
        let digest = Some(digest_of(b"hello world"));
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
        assert!(store.earlier("x", Some(digest_of(b"another"))).is_err());
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
        let digest = digest_of(b"");
        assert_eq!(Digest::from_hex(&digest.to_string()), Some(digest));
        assert_eq!(Digest::from_base64("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="), Some(digest));
        assert_eq!(Digest::from_hex("é3"), None);
        assert_eq!(Digest::from_base64("AAAA"), None);
    }
}
