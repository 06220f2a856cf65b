//! Reads files that people write: regular files of bounded size, as text.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Opens a file that is a `kind` of at most `largest` bytes.
///
/// # Errors
/// It cannot be opened, is larger, or is no regular file: a pipe or a device has no end.
pub fn open(path: &Path, kind: &str, largest: u64) -> Result<impl Read> {
    opened(path, largest).with_context(|| format!("cannot read the {kind} {}", path.display()))
}

fn opened(path: &Path, largest: u64) -> Result<impl Read + use<>> {
    // A FIFO that nobody writes to must not hold this up.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    let kind = meta.file_type();
    if !kind.is_file() {
        let found = if kind.is_dir() {
            "a folder"
        } else if kind.is_fifo() {
            "a pipe"
        } else if kind.is_char_device() || kind.is_block_device() {
            "a device"
        } else {
            "no file"
        };
        bail!("it is {found}: name a regular file");
    }
    if meta.len() > largest {
        bail!("{} bytes are more than it may have, {largest}", meta.len());
    }
    // It may grow while it is read.
    Ok(file.take(largest))
}

/// Reads a file of text. A byte-order mark at its beginning is left out.
///
/// # Errors
/// As [`open`], and it is not UTF-8.
pub fn read(path: &Path, kind: &str, largest: u64) -> Result<String> {
    let cannot = || format!("cannot read the {kind} {}", path.display());
    let mut bytes = Vec::new();
    open(path, kind, largest)?.read_to_end(&mut bytes).with_context(cannot)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        anyhow::anyhow!("line {line} is not UTF-8: save the file as UTF-8")
    });
    let text = text.with_context(cannot)?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_string(),
        None => text,
    })
}

/// Where a file was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileSource {
    File(PathBuf),
    BuiltIn,
}

impl std::fmt::Display for FileSource {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            FileSource::File(path) => path.display().fmt(f),
            FileSource::BuiltIn => f.write_str("built in"),
        }
    }
}

/// Files of one kind that have names: those in folders, and copies that are built in, so that the program works
/// without its repository beside it.
pub struct Library {
    /// As errors call it.
    pub kind: &'static str,
    /// The largest file that is read, bytes.
    pub largest: u64,
    /// Name and text of each.
    pub built_in: &'static [(&'static str, &'static str)],
}

impl Library {
    /// Finds a file by its path, or by its name in the first of `folders` that has it or among those built in, and
    /// returns its text.
    ///
    /// # Errors
    /// Nothing has that name, which suggests another, or the file cannot be read.
    pub fn find(&self, wanted: &Path, folders: &[PathBuf]) -> Result<(String, FileSource)> {
        let name = wanted.to_string_lossy();
        let in_folder =
            || folders.iter().map(|dir| dir.join(format!("{name}.toml"))).find(|file| file.is_file());
        let is_path = name.contains('/') || name.ends_with(".toml");
        if let Some(path) = if is_path { Some(wanted.to_path_buf()) } else { in_folder() } {
            return Ok((read(&path, self.kind, self.largest)?, FileSource::File(path)));
        }
        if let Some((_, text)) = self.built_in.iter().find(|(known, _)| *known == name) {
            return Ok((text.to_string(), FileSource::BuiltIn));
        }
        let mut names = self.own_names(folders);
        names.extend(self.built_in.iter().map(|(name, _)| name.to_string()));
        names.sort();
        names.dedup();
        let (kind, guess) = (self.kind, did_you_mean(&name, names.iter().map(String::as_str), ""));
        bail!(
            "{kind} \"{name}\" not found: {guess}name one of {}, or the path of a .toml file",
            names.join(", ")
        )
    }

    /// Returns the names of files in these folders, sorted.
    pub fn own_names(&self, folders: &[PathBuf]) -> Vec<String> {
        let entries = folders.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".toml").map(String::from))
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Asks whether the nearest of the known words was meant, between two of `quote`; empty where none is near.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>, quote: &str) -> String {
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&word.to_lowercase(), &known.to_lowercase()), known))
        .min()
        .filter(|(distance, nearest)| *distance <= 1 + nearest.len() / 3)
        .map_or(String::new(), |(_, nearest)| format!("did you mean {quote}{nearest}{quote}? "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let error = |path: &Path| format!("{:#}", read(path, "script", 10).unwrap_err());
        assert!(error(dir.path()).contains("it is a folder"));
        assert!(error(Path::new("/dev/zero")).contains("it is a device"));
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .unwrap();
        assert!(error(&fifo).contains("it is a pipe"));
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(error(&socket).contains("cannot read the script"));
        let file = dir.path().join("file");
        std::fs::write(&file, "12345678901").unwrap();
        assert!(error(&file).contains("more than it may have"), "{}", error(&file));
        assert!(error(&dir.path().join("none")).contains("cannot read the script"));
    }

    #[test]
    fn text_is_utf_8_with_or_without_a_mark() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "\u{feff}a = 1\n").unwrap();
        assert_eq!(read(&file, "script", 100).unwrap(), "a = 1\n");
        std::fs::write(&file, b"a = 1\nb = \"\xff\"\n").unwrap();
        let error = format!("{:#}", read(&file, "script", 100).unwrap_err());
        assert!(error.contains("line 2 is not UTF-8"), "{error}");
    }
}
