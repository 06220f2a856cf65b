//! Reads files that people write: regular files of bounded size, as text.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

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
