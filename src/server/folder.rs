//! What a folder offers: the files to serve, and the order and digests that its own `SHA256SUMS`
//! gives. Reads names and that one list; no content of a file.
//!
//! Not served: subfolders, dotfiles, `README*`, `manifest*`, `*.sh` (all in any case), and
//! `SHA256SUMS` itself, which the server makes anew. A symbolic link is served when it leads to a
//! regular file inside the folder; one that leads outside is left out, with a warning, because a
//! folder handed over by someone else must not be able to publish more than itself.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::segments::SUMS;

/// Names that the server answers itself.
const RESERVED: [&str; 2] = ["healthz", "sink"];

/// A file to serve: the name it goes by, and where it truly is.
pub struct Found {
    pub name: String,
    pub path: PathBuf,
}

/// The servable files of a folder; none where there is no such folder.
pub fn list(folder: &Path) -> Result<Vec<Found>> {
    let attempt = || format!("cannot read the folder {}", folder.display());
    let inside = match fs::canonicalize(folder) {
        Ok(inside) => inside,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            tracing::warn!("there is no folder {}", folder.display());
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
        if !path.metadata().with_context(|| format!("cannot examine {}", path.display()))?.is_file() {
            continue;
        }
        if !path.starts_with(&inside) {
            tracing::warn!("{name} is not served: it leads out of the folder, to {}", path.display());
        } else if name.contains(|c: char| c.is_control() || c == '\\') {
            tracing::warn!("{name:?} is not served: no line of {SUMS} could hold its name as it is");
        } else if RESERVED.contains(&name.as_str()) {
            tracing::warn!("{name} is not served: the server answers that name itself");
        } else {
            found.push(Found { name, path });
        }
    }
    Ok(found)
}

/// Puts files into the order in which the server lists them: that of `listed`, the folder's own list,
/// then as people count.
pub fn sort(found: &mut [Found], listed: &[(String, String)]) {
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
        || lower.starts_with("manifest")
        || lower.ends_with(".sh")
        || name == SUMS)
}

/// The folder's own list of digests, in its order: names and, in lower case, their digests.
pub fn read_list(folder: &Path) -> Result<Vec<(String, String)>> {
    let path = folder.join(SUMS);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut seen = HashSet::new();
    let mut list = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let Some((name, digest)) = read_line(line) else {
            tracing::warn!("line {} of {} is not a digest and a name: ignored", at + 1, path.display());
            continue;
        };
        if seen.insert(name.clone()) {
            list.push((name, digest));
        }
    }
    Ok(list)
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
pub fn natural(a: &str, b: &str) -> Ordering {
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
}
