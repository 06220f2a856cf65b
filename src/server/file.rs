//! One served file on disk: opening it, hashing it, and telling whether it is still what was hashed.
//!
//! A file counts as unchanged while its device, inode, size, mtime and ctime are. The ctime tells a
//! change that puts size and mtime back; no call sets it. Where only these differ and not the content
//! (a `touch`, a `chmod`, a copy put in its place), the file is hashed again and served on.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

/// Tries to hash a file that changes meanwhile.
const HASH_TRIES: u32 = 3;

/// The metadata that changes with a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A file, its digest, and its metadata as they were when it last had that digest.
pub struct ServedFile {
    path: PathBuf,
    len: u64,
    digest: [u8; 32],
    stamp: Mutex<Stamp>,
}

impl ServedFile {
    /// Reads the file and computes its digest.
    ///
    /// # Errors
    /// When the file cannot be read, is no regular file, or changes while it is read.
    pub fn hash(path: &Path) -> io::Result<ServedFile> {
        let (file, _) = open(path)?;
        for _ in 0..HASH_TRIES {
            let before = stamp(&file)?;
            let (digest, len) = digest(&file)?;
            let after = stamp(&file)?;
            if before == after && len == after.len {
                return Ok(ServedFile { path: path.into(), len, digest, stamp: Mutex::new(after) });
            }
        }
        Err(io::Error::new(ErrorKind::ResourceBusy, "it changes while it is read"))
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// # Errors
    /// When the file cannot be opened, or its content has changed.
    pub fn open(&self) -> io::Result<OpenFile> {
        let (file, now) = open(&self.path)?;
        let mut known = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        if now != *known {
            let same = now.len == self.len && digest(&file)? == (self.digest, self.len);
            if !same || stamp(&file)? != now {
                return Err(changed(&self.path));
            }
            *known = now;
        }
        Ok(OpenFile { file, stamp: now, path: self.path.as_path().into() })
    }
}

/// A file that had the digest of its table entry when it was opened.
pub struct OpenFile {
    file: File,
    stamp: Stamp,
    path: Box<Path>,
}

impl OpenFile {
    /// # Errors
    /// When the file has changed since it was opened.
    pub fn check_unchanged(&self) -> io::Result<()> {
        if stamp(&self.file)? == self.stamp { Ok(()) } else { Err(self.changed()) }
    }

    pub fn descriptor(&self) -> &File {
        &self.file
    }

    pub fn changed(&self) -> io::Error {
        changed(&self.path)
    }

    /// Fills `into` with the bytes from `at` on.
    ///
    /// # Errors
    /// When they cannot be read, or the file has become shorter.
    pub fn read_exact_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(into, at).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => self.changed(),
            _ => error,
        })
    }
}

/// Opens a regular file. A pipe, a device or a link in its place is an error, and never blocks.
fn open(path: &Path) -> io::Result<(File, Stamp)> {
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let stamp = stamp(&file)?;
    Ok((file, stamp))
}

fn stamp(file: &File) -> io::Result<Stamp> {
    let metadata = file.metadata()?;
    if metadata.is_file() {
        Ok(Stamp::of(&metadata))
    } else {
        Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// The digest of the content and its length in bytes.
fn digest(file: &File) -> io::Result<([u8; 32], u64)> {
    let mut digest = Sha256::new();
    let mut piece = vec![0; 256 * 1024];
    let mut at = 0;
    loop {
        match file.read_at(&mut piece, at) {
            Ok(0) => return Ok((digest.finalize().into(), at)),
            Ok(n) => {
                digest.update(&piece[..n]);
                at += n as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn changed(path: &Path) -> io::Error {
    let path = path.display();
    io::Error::new(
        ErrorKind::InvalidData,
        format!("{path} has changed since the server started: start the server again"),
    )
}

/// Whether the system refused a file for want of descriptors or memory, which may pass.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::SystemTime;

    fn served(content: &str) -> (tempfile::TempDir, PathBuf, ServedFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, content).unwrap();
        let served = ServedFile::hash(&path).unwrap();
        (dir, path, served)
    }

    fn set_mtime(path: &Path, to: SystemTime) {
        File::options().write(true).open(path).unwrap().set_modified(to).unwrap();
    }

    #[test]
    fn other_content_of_same_size_and_mtime_is_a_change() {
        let (dir, path, served) = served("before");
        let mtime = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "behind").unwrap();
        set_mtime(&path, mtime);
        assert_eq!(served.open().err().unwrap().kind(), ErrorKind::InvalidData);
        // The same for a file that is moved into its place.
        let other = dir.path().join("other");
        fs::write(&other, "beyond").unwrap();
        set_mtime(&other, mtime);
        fs::rename(&other, &path).unwrap();
        assert_eq!(served.open().err().unwrap().kind(), ErrorKind::InvalidData);
        fs::write(&path, "before").unwrap();
        assert!(served.open().is_ok(), "the content is again what was hashed");
    }

    #[test]
    fn metadata_alone_is_no_change() {
        let (dir, path, served) = served("content");
        set_mtime(&path, SystemTime::UNIX_EPOCH);
        served.open().unwrap();
        fs::hard_link(&path, dir.path().join("link")).unwrap();
        served.open().unwrap();
        let copy = dir.path().join("copy");
        fs::copy(&path, &copy).unwrap();
        fs::rename(&copy, &path).unwrap();
        let open = served.open().unwrap();
        open.check_unchanged().unwrap();
        fs::write(&path, "CONTENT").unwrap();
        assert!(open.check_unchanged().is_err());
    }

    #[test]
    fn pipe_or_link_in_its_place_is_an_error() {
        let (_dir, path, served) = served("content");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert!(served.open().is_err());
        fs::remove_file(&path).unwrap();
        make_pipe(&path);
        assert!(served.open().is_err());
        assert!(ServedFile::hash(&path).is_err());
    }

    fn make_pipe(path: &Path) {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: `path` is a C string for the time of the call.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o644) }, 0);
    }
}
