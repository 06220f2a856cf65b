//! Reads files that people write: regular files of bounded size, as text.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;

/// Opens a file that is a `kind` of at most `largest` bytes.
///
/// # Errors
/// It cannot be opened, is larger, or is no regular file: a pipe or a device has no end.
pub(crate) fn open(path: &Path, kind: &str, largest: u64) -> Result<impl Read> {
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
pub(crate) fn read(path: &Path, kind: &str, largest: u64) -> Result<String> {
    let cannot = || format!("cannot read the {kind} {}", path.display());
    let mut bytes = Vec::new();
    open(path, kind, largest)?.read_to_end(&mut bytes).with_context(cannot)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        anyhow!("line {line} is not UTF-8: save the file as UTF-8")
    });
    let text = text.with_context(cannot)?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_string(),
        None => text,
    })
}

/// Returns the folder of the user's own profiles, `$TWINLINK_PROFILES`; `None` where that is not set.
///
/// # Errors
/// It is no folder.
pub(crate) fn profiles_folder() -> Result<Option<PathBuf>> {
    let named = std::env::var_os("TWINLINK_PROFILES").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    match named {
        Some(dir) if !dir.is_dir() => bail!(
            "cannot look for profiles in {}: it is no folder; change or unset TWINLINK_PROFILES",
            dir.display()
        ),
        named => Ok(named),
    }
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
pub(crate) struct Library {
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
    pub(crate) fn find(&self, wanted: &Path, folders: &[PathBuf]) -> Result<(String, FileSource)> {
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
    pub(crate) fn own_names(&self, folders: &[PathBuf]) -> Vec<String> {
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

/// Parses a file's text as TOML.
///
/// # Errors
/// The text is not TOML, or a key is unknown, missing or of another type: in one line, with the line and the key.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| anyhow!(explain(text, &error)))
}

/// Turns the parser's several lines into one: line, key, problem.
fn explain(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', " ");
    let at = error.span().map_or(text.len(), |span| span.start.min(text.len()));
    let at = (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let line = text[..at].matches('\n').count() + 1;
    let (table, mut key) = key_at(text, at);
    let inner = inline_key_at(text, at);
    let last = inner.unwrap_or(&key).to_string();
    key.extend(inner.into_iter().flat_map(|inner| [".", inner]));
    let quoted = |prefix: &str| {
        message.strip_prefix(prefix).and_then(|rest| rest.split('`').nth(1)).map(str::to_string)
    };
    if let Some(unknown) = quoted("unknown field") {
        // A direction has a trace, but its file names it in a table of its own.
        let known = message.split('`').skip(3).step_by(2).filter(|key| *key != "trace" || table.is_empty());
        let known: Vec<&str> = known.collect();
        let guess = did_you_mean(&unknown, known.iter().copied(), "\"");
        let place = if key.is_empty() || key == unknown { table } else { format!("{table}.{key}") };
        let place = if place.is_empty() { "the file".into() } else { format!("[{place}]") };
        return format!(
            "line {line}: {place} has the unknown key \"{unknown}\": {guess}the keys are {}",
            known.join(", ")
        );
    }
    if let Some(missing) = quoted("missing field") {
        let what = match missing.as_str() {
            "down" | "up" => format!("table [{missing}] not found: both [down] and [up] are needed"),
            "file" if table == "trace" => {
                "[trace] has no file: write file = \"../traces/mine.csv\"".to_string()
            }
            "description" => "description not found: start the file with description = \"…\"".to_string(),
            _ if key.is_empty() && table.is_empty() => format!("{missing} not found{}", example(&missing)),
            _ if key.is_empty() => format!("[{table}] has no {missing}{}", example(&missing)),
            _ => format!("{table}.{key} has no {missing}{}", example(&missing)),
        };
        return what;
    }
    if key == "trace" && !table.is_empty() {
        return format!(
            "line {line}, {table}.trace: a trace has a table of its own: write [trace] with file = \"…\""
        );
    }
    let key_path = match (table.as_str(), key.as_str()) {
        ("", "") => String::new(),
        ("", key) => format!("{key}: "),
        (table, "") => format!("[{table}]: "),
        (table, key) => format!("{table}.{key}: "),
    };
    let hint = if message.starts_with("invalid type") && !message.contains("percentage") {
        example(&last)
    } else {
        String::new()
    };
    format!("line {line}, {key_path}{message}{hint}")
}

/// Returns an example value of the key, for error messages.
fn example(key: &str) -> String {
    let value = match key {
        "rate" => "37mbit",
        "delay" | "jitter" | "limit" | "target" | "interval" => "30ms",
        "quantum" => "1514B",
        "queue" => "100ms",
        "loss" | "reorder" | "duplicate" | "corrupt" | "p" | "r" | "bad" | "good" => "0.1%",
        "distribution" => "normal",
        _ => return String::new(),
    };
    format!(": write {key} = \"{value}\"")
}

/// The table and the key that a place in the text belongs to, as far as the lines above tell.
fn key_at(text: &str, at: usize) -> (String, String) {
    let end = text[at..].find('\n').map_or(text.len(), |offset| at + offset);
    let mut table = String::new();
    let mut key = String::new();
    for line in text[..end].lines() {
        let line = line.trim();
        key.clear();
        if let Some(header) = line.strip_prefix('[') {
            table = header.trim_start_matches('[').split(']').next().unwrap_or_default().trim().to_string();
        } else if let Some((name, _)) = line.split_once('=')
            && !line.starts_with('#')
        {
            key = name.trim().to_string();
        }
    }
    (table, key)
}

/// The key of an inline table whose value begins at a place in the text.
fn inline_key_at(text: &str, at: usize) -> Option<&str> {
    let line = text[..at].lines().next_back().filter(|_| !text[..at].ends_with('\n'))?;
    let (_, inside) = line.rsplit_once('{')?;
    let last = inside.rsplit(',').next()?;
    let (key, value) = last.split_once('=')?;
    value.trim().is_empty().then_some(key.trim())
}

/// Asks whether the nearest of the known words was meant, between two of `quote`; empty where none is near.
pub(crate) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>, quote: &str) -> String {
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
