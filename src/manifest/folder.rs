//! The files of a folder to serve, and the order and digests that its own `SHA256SUMS` gives. Reads names and
//! that one list; no content of a file.
//!
//! Not served: subfolders, dotfiles, `README*`, `manifest*` but for `manifest.mpd`, `*.sh` (all in any case), and
//! `SHA256SUMS` itself, which the server makes anew. Playlists are served and not listed: a player asks for them, and
//! nobody fetches them as files of the set. A symbolic link is served when it leads to a
//! regular file inside the folder; one that leads outside is left out, with a warning, because a
//! folder handed over by someone else must not be able to publish more than itself.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::manifest::SUMS;
use crate::manifest::name;

/// Names that the server answers itself.
const RESERVED: [&str; 2] = ["healthz", "sink"];

/// The most of a folder's own list that is read, bytes.
const LONGEST_LIST: u64 = 64 << 20;

/// A file to serve: the name it goes by, and where it truly is.
pub(crate) struct FolderFile {
    pub name: String,
    pub path: PathBuf,
}

/// Reads a small text file: at most `limit` bytes of a regular file.
///
/// # Errors
/// When it cannot be read, is no regular file, or is longer.
fn read_small(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it is longer than {limit} bytes")));
    }
    Ok(bytes)
}

/// The servable files of a folder; none where there is no such folder.
pub(crate) fn list(folder: &Path) -> Result<Vec<FolderFile>> {
    let attempt = || format!("cannot read the folder {}", folder.display());
    let inside = match fs::canonicalize(folder) {
        Ok(inside) => inside,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            tracing::warn!("folder {} not found: nothing in it is served", folder.display());
            return Ok(Vec::new());
        }
        Err(error) => return Err(error).with_context(attempt),
    };
    let mut found = Vec::new();
    for item in fs::read_dir(&inside).with_context(attempt)? {
        let item = item.with_context(attempt)?;
        let name = match item.file_name().into_string() {
            Ok(name) if is_served(&name) => name,
            Ok(_) => continue,
            Err(name) => {
                tracing::warn!("{} is not served: its name is not UTF-8", name.to_string_lossy());
                continue;
            }
        };
        let path = match fs::canonicalize(item.path()) {
            Ok(path) => path,
            Err(error) => {
                tracing::warn!("{name} is not served: it leads nowhere ({error})");
                continue;
            }
        };
        match path.metadata() {
            Ok(metadata) if metadata.is_file() => {}
            Ok(metadata) => {
                if !metadata.is_dir() {
                    tracing::warn!("{name} is not served: it is not a regular file");
                }
                continue;
            }
            Err(error) => {
                tracing::warn!("{name} is not served: {error}");
                continue;
            }
        }
        if !path.starts_with(&inside) {
            tracing::warn!("{name} is not served: it leads out of the folder, to {}", path.display());
        } else if let Err(problem) = name::check_name(&name) {
            tracing::warn!("{name:?} is not served: {problem}");
        } else if name.contains('\\') {
            tracing::warn!("{name:?} is not served: no line of {SUMS} could hold its name as it is");
        } else if RESERVED.contains(&name.as_str()) {
            tracing::warn!("{name} is not served: the server answers that name itself");
        } else {
            found.push(FolderFile { name, path });
        }
    }
    Ok(found)
}

/// Puts files into the order in which the server lists them: that of `listed`, the folder's own list,
/// then as people count.
pub(crate) fn sort(found: &mut [FolderFile], listed: &[(String, String)]) {
    let place: HashMap<&str, usize> =
        listed.iter().enumerate().map(|(at, (name, _))| (name.as_str(), at)).collect();
    found.sort_by(|a, b| {
        let at = |name: &str| place.get(name).copied().unwrap_or(usize::MAX);
        at(&a.name).cmp(&at(&b.name)).then_with(|| natural(&a.name, &b.name))
    });
}

/// Whether a name is meant to be served, without a word where it is not.
fn is_served(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    !(lower.starts_with('.')
        || lower.starts_with("readme")
        || lower.starts_with("manifest") && lower != "manifest.mpd"
        || lower.ends_with(".sh")
        || name == SUMS)
}

/// Returns true for a playlist, of HLS or DASH.
pub(crate) fn is_playlist(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    [".m3u8", ".mpd"].iter().any(|extension| lower.ends_with(extension))
}

/// The folder's own list of digests, in its order: names and, in lower case, their digests. Lines that
/// name no file, and a list that cannot be read, are left out with a warning: the list gives the order
/// alone.
pub(crate) fn read_list(folder: &Path) -> Vec<(String, String)> {
    let path = folder.join(SUMS);
    let text = match read_small(&path, LONGEST_LIST) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(
                "cannot read {}: {error}; the files are served in the order of their names",
                path.display()
            );
            return Vec::new();
        }
    };
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let mut seen = HashSet::new();
    let mut list = Vec::new();
    let (mut ignored, mut first) = (0, 0);
    for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii().is_empty() {
            continue;
        }
        match str::from_utf8(line).ok().and_then(read_line) {
            Some((name, _)) if seen.contains(&name) => {}
            Some((name, digest)) => {
                seen.insert(name.clone());
                list.push((name, digest));
            }
            None => {
                first = if ignored == 0 { at + 1 } else { first };
                ignored += 1;
            }
        }
    }
    if ignored > 0 {
        let lines = if ignored == 1 { "1 line" } else { &format!("{ignored} lines") };
        tracing::warn!(
            "{lines} of {} hold no digest and UTF-8 name, line {first} first: ignored",
            path.display()
        );
    }
    list
}

/// `<64 hex digits>  name`, or with `*` before the name, as `sha256sum` writes in binary mode.
fn read_line(line: &str) -> Option<(String, String)> {
    let (digest, rest) = line.split_at_checked(64)?;
    let name = rest.strip_prefix("  ").or_else(|| rest.strip_prefix(" *"))?;
    let name = name.strip_prefix("./").unwrap_or(name);
    let is_digest = digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_digest && !name.is_empty()).then(|| (name.to_string(), digest.to_ascii_lowercase()))
}

/// The order of people: `s2` before `s10`. Runs of digits compare as numbers, the rest as text.
pub(crate) fn natural(a: &str, b: &str) -> Ordering {
    fn runs(text: &str) -> impl Iterator<Item = (bool, &str)> {
        let mut rest = text;
        std::iter::from_fn(move || {
            let digits = rest.chars().next()?.is_ascii_digit();
            let end = rest.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(rest.len());
            let (run, tail) = rest.split_at(end);
            rest = tail;
            Some((digits, run))
        })
    }
    let (mut left, mut right) = (runs(a), runs(b));
    loop {
        let order = match (left.next(), right.next()) {
            // Names that differ only in leading zeros still need an order.
            (None, None) => return a.cmp(b),
            (Some((true, a)), Some((true, b))) => {
                let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
                a.len().cmp(&b.len()).then_with(|| a.cmp(b))
            }
            (left, right) => left.map(|(_, run)| run).cmp(&right.map(|(_, run)| run)),
        };
        if order.is_ne() {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn list_is_read_whatever_its_bytes_are() {
        let dir = tempfile::tempdir().unwrap();
        let digest = "0".repeat(64);
        let read = |bytes: &[u8]| {
            fs::write(dir.path().join(SUMS), bytes).unwrap();
            read_list(dir.path()).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        let good = format!("{digest}  b\r\n{digest} *./a\n");
        assert_eq!(read(good.as_bytes()), ["b", "a"]);
        assert_eq!(read(&[b"\xef\xbb\xbf", good.as_bytes()].concat()), ["b", "a"]);
        let latin1 = [digest.as_bytes(), b"  caf\xe9\n", good.as_bytes(), b"\xff\xfe\0"].concat();
        assert_eq!(read(&latin1), ["b", "a"]);
        let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(read(&utf16).is_empty());
        fs::remove_file(dir.path().join(SUMS)).unwrap();
        fs::create_dir(dir.path().join(SUMS)).unwrap();
        assert!(read_list(dir.path()).is_empty());
    }

    #[test]
    fn names_sort_as_people_count() {
        let mut names = ["s10", "s9", "S1", "s09", "t", "s", "s9a", "s1000000000000000000000000"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["S1", "s", "s09", "s9", "s9a", "s10", "s1000000000000000000000000", "t"]);
    }

    proptest! {
        #[test]
        fn the_natural_order_is_an_order(a in "[a0-2.é]{0,6}", b in "[a0-2.é]{0,6}", c in "[a0-2.é]{0,6}") {
            prop_assert_eq!(natural(&a, &b), natural(&b, &a).reverse());
            prop_assert_eq!(natural(&a, &b).is_eq(), a == b);
            if natural(&a, &b).is_le() && natural(&b, &c).is_le() {
                prop_assert!(natural(&a, &c).is_le());
            }
        }
    }

    #[test]
    fn small_file_is_neither_a_device_nor_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_small(Path::new("/dev/zero"), 10).is_err());
        assert!(read_small(dir.path(), 10).is_err());
        let path = dir.path().join("list");
        fs::write(&path, "0123456789").unwrap();
        assert_eq!(read_small(&path, 10).unwrap(), b"0123456789");
        assert_eq!(read_small(&path, 9).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }
}
