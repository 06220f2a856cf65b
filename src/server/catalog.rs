//! The table of names that can be requested, built once at start from the files of one folder.
//!
//! After that, no text of a request reaches the file system: a name is looked up here, and the path that is
//! opened is the one found at start. `manifest::folder` selects the files of a folder.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::file::ServedFile;
use crate::manifest::SUMS;
use crate::manifest::folder::{FolderFile, is_playlist, list, read_list, sort};
use crate::segments::hex;

/// The files that a server serves.
pub struct Catalog {
    folder: PathBuf,
    entries: Vec<CatalogEntry>,
    by_name: HashMap<String, usize>,
    sums: CatalogEntry,
}

/// One file, with the header values that go with each answer about it.
pub struct CatalogEntry {
    pub name: String,
    pub len: u64,
    pub content: CatalogContent,
    pub content_type: &'static str,
    pub digest: [u8; 32],
    pub etag: String,
    /// RFC 9530: of the whole representation, whatever part of it an answer carries.
    pub repr_digest: String,
}

pub enum CatalogContent {
    File(ServedFile),
    Memory(Vec<u8>),
}

impl CatalogEntry {
    fn new(name: String, len: u64, content: CatalogContent, digest: [u8; 32]) -> CatalogEntry {
        let content_type = content_type(&name);
        CatalogEntry {
            name,
            len,
            content,
            content_type,
            digest,
            etag: format!("\"{}\"", hex(&digest)),
            repr_digest: format!("sha-256=:{}:", STANDARD.encode(digest)),
        }
    }
}

impl Catalog {
    /// Returns the table of `data`, or of `samples` where `data` holds no servable file.
    ///
    /// # Errors
    /// Neither holds one, or a file cannot be read.
    pub fn choose(data: &Path, samples: Option<&Path>) -> Result<Catalog> {
        if let Some(table) = Catalog::build(data)? {
            return Ok(table);
        }
        let Some(samples) = samples else {
            bail!(
                "nothing to serve: {} holds no servable file and no --samples folder is given; put files \
                 there, name another folder with --data, or make a set with `twinlink segments DIR`",
                data.display()
            );
        };
        tracing::info!("{} holds no servable file: serving the samples", data.display());
        Catalog::build(samples)?.with_context(|| {
            format!(
                "nothing to serve: neither {} nor {} holds a servable file; make a set with \
                 `twinlink segments DIR`",
                data.display(),
                samples.display()
            )
        })
    }

    /// Returns the table of one folder; `None` where it is missing or holds no servable file.
    ///
    /// # Errors
    /// The folder or a file in it cannot be read.
    pub fn build(folder: &Path) -> Result<Option<Catalog>> {
        let mut found = list(folder)?;
        if found.is_empty() {
            return Ok(None);
        }
        let listed = read_list(folder);
        sort(&mut found, &listed);
        let started = Instant::now();
        let entries = hash_all(found)?;
        if entries.is_empty() {
            return Ok(None);
        }
        let bytes: u64 = entries.iter().map(|entry| entry.len).sum();
        tracing::info!(
            files = entries.len(),
            bytes,
            elapsed_ms = started.elapsed().as_millis() as u64,
            "computed the digests of {}",
            folder.display()
        );
        compare(&entries, &listed, folder);
        Ok(Some(Catalog::new(folder.to_path_buf(), entries)))
    }

    fn new(folder: PathBuf, entries: Vec<CatalogEntry>) -> Catalog {
        let listed = entries.iter().filter(|entry| !is_playlist(&entry.name));
        let text: String = listed.map(|entry| format!("{}  {}\n", hex(&entry.digest), entry.name)).collect();
        let digest = Sha256::digest(text.as_bytes()).into();
        let len = text.len() as u64;
        let sums =
            CatalogEntry::new(SUMS.to_string(), len, CatalogContent::Memory(text.into_bytes()), digest);
        let by_name = entries.iter().enumerate().map(|(at, entry)| (entry.name.clone(), at)).collect();
        Catalog { folder, entries, by_name, sums }
    }

    /// The file of that name, or the list of digests.
    pub fn get(&self, name: &str) -> Option<&CatalogEntry> {
        if name == SUMS {
            return Some(&self.sums);
        }
        self.by_name.get(name).map(|at| &self.entries[*at])
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The files in the order of the list of digests.
    pub fn entries(&self) -> &[CatalogEntry] {
        &self.entries
    }

    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.len).sum()
    }
}

/// Reports differences between the folder's own list and the files. The server serves the files as they are.
fn compare(entries: &[CatalogEntry], listed: &[(String, String)], folder: &Path) {
    let digests: HashMap<&str, String> =
        entries.iter().map(|entry| (entry.name.as_str(), hex(&entry.digest))).collect();
    let differ = |(name, digest): &&(String, String)| digests.get(name.as_str()).is_some_and(|d| d != digest);
    let missing = |(name, _): &&(String, String)| !digests.contains_key(name.as_str());
    let list = folder.join(SUMS);
    let (list, count) =
        (list.display(), |n: usize| if n == 1 { "1 file".into() } else { format!("{n} files") });
    if let Some((first, _)) = listed.iter().find(differ) {
        let n = count(listed.iter().filter(differ).count());
        tracing::warn!("{n} differ from what {list} says, {first} first: served as they are");
    }
    if let Some((first, _)) = listed.iter().find(missing) {
        let n = count(listed.iter().filter(missing).count());
        tracing::warn!("{n} of {list} are not there or not served, {first} first");
    }
}

/// Computes all digests, in as many threads as there are cores and the system grants.
fn hash_all(found: Vec<FolderFile>) -> Result<Vec<CatalogEntry>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(found.len()));
    let work = || {
        while let Some(file) = found.get(next.fetch_add(1, Relaxed)) {
            let entry = hash(file);
            done.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
        }
    };
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get).min(found.len());
    thread::scope(|scope| {
        for _ in 1..threads {
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut entries = done.into_iter().filter_map(Result::transpose).collect::<Result<Vec<_>>>()?;
    let place: HashMap<&str, usize> =
        found.iter().enumerate().map(|(at, file)| (file.name.as_str(), at)).collect();
    entries.sort_by_key(|entry| place[entry.name.as_str()]);
    Ok(entries)
}

/// Nothing, with a warning, where the file has gone or is still being written.
fn hash(found: &FolderFile) -> Result<Option<CatalogEntry>> {
    match ServedFile::hash(&found.path) {
        Ok(file) => {
            let (len, digest) = (file.len(), file.digest());
            Ok(Some(CatalogEntry::new(found.name.clone(), len, CatalogContent::File(file), digest)))
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ResourceBusy) => {
            tracing::warn!("{} is not served: {error}", found.name);
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| {
            let path = found.path.display();
            format!("cannot read {path}: make it readable for the user that the server runs as, or remove it")
        }),
    }
}

fn content_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    match extension.as_str() {
        "m4s" | "cmfv" => "video/iso.segment",
        "mp4" | "m4v" => "video/mp4",
        "m4a" | "cmfa" => "audio/mp4",
        "ts" => "video/mp2t",
        "webm" => "video/webm",
        "mpd" => "application/dash+xml",
        "m3u8" => "application/vnd.apple.mpegurl",
        _ if name == SUMS => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    fn names(table: &Catalog) -> Vec<&str> {
        table.entries().iter().map(|entry| entry.name.as_str()).collect()
    }

    #[test]
    fn only_plain_files_meant_for_it_are_served() {
        let dir = folder(&[
            ("b.m4s", "b"),
            ("ReadMe.md", "x"),
            ("manifest.json", "x"),
            ("Manifest.mpd", "m"),
            ("q1.m3u8", "q"),
            (".hidden", "x"),
            ("cut.sh", "x"),
            ("healthz", "x"),
            ("a\nb", "x"),
            ("with space.mp4", "s"),
        ]);
        fs::create_dir(dir.path().join("folder")).unwrap();
        let outside = folder(&[("secret", "x")]);
        std::os::unix::fs::symlink(outside.path().join("secret"), dir.path().join("out.m4s")).unwrap();
        std::os::unix::fs::symlink("b.m4s", dir.path().join("in.m4s")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("broken.m4s")).unwrap();
        let table = Catalog::build(dir.path()).unwrap().unwrap();
        assert_eq!(names(&table), ["Manifest.mpd", "b.m4s", "in.m4s", "q1.m3u8", "with space.mp4"]);
        assert_eq!(table.bytes(), 5);
        let CatalogContent::Memory(sums) = &table.get(SUMS).unwrap().content else { panic!("not in memory") };
        let sums = String::from_utf8(sums.clone()).unwrap();
        let listed: Vec<&str> = sums.lines().map(|line| &line[66..]).collect();
        assert_eq!(listed, ["b.m4s", "in.m4s", "with space.mp4"], "playlists are served, and not listed");
    }

    #[test]
    fn the_folders_own_list_gives_the_order_and_the_rest_follows() {
        let line = |content: &str, name: &str| format!("{}  {name}\n", hex(&Sha256::digest(content)));
        let dir = folder(&[("init.mp4", "i"), ("s10.m4s", "10"), ("s2.m4s", "2"), ("z1", "1"), ("a9", "9")]);
        let list = line("i", "init.mp4") + "nonsense\n" + &line("wrong", "z1") + &line("x", "gone");
        fs::write(dir.path().join(SUMS), list).unwrap();
        let table = Catalog::build(dir.path()).unwrap().unwrap();
        assert_eq!(names(&table), ["init.mp4", "z1", "a9", "s2.m4s", "s10.m4s"]);
        let CatalogContent::Memory(sums) = &table.get(SUMS).unwrap().content else { panic!("not in memory") };
        let text = String::from_utf8(sums.clone()).unwrap();
        let expected = [("i", "init.mp4"), ("1", "z1"), ("9", "a9"), ("2", "s2.m4s"), ("10", "s10.m4s")];
        assert_eq!(text, expected.map(|(content, name)| line(content, name)).concat());
    }

    #[test]
    fn samples_are_served_only_where_there_is_nothing_else() {
        let (empty, samples) = (folder(&[("README.md", "x")]), folder(&[("s001.m4s", "sample")]));
        let mine = folder(&[("mine.mp4", "m")]);
        let chosen = |data: &Path| Catalog::choose(data, Some(samples.path())).unwrap();
        assert_eq!(names(&chosen(empty.path())), ["s001.m4s"]);
        assert_eq!(names(&chosen(mine.path())), ["mine.mp4"]);
        assert_eq!(names(&chosen(&mine.path().join("missing"))), ["s001.m4s"]);
        for samples in [None, Some(empty.path())] {
            let error = Catalog::choose(empty.path(), samples).err().unwrap();
            assert!(error.to_string().contains("twinlink segments"), "{error:#}");
        }
        let error = Catalog::build(&mine.path().join("mine.mp4")).err().unwrap();
        assert!(format!("{error:#}").contains("cannot read the folder"), "{error:#}");
    }
}
