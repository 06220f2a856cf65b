//! A folder for temporary files, and the process that deletes it however this one ends: a lab's, or a grading's.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid};

use super::registry;

/// Exists as long as this process or one that it forks holds it: the pipe ends with the last one.
pub(crate) struct Scratch {
    path: PathBuf,
    _held: OwnedFd,
}

impl Scratch {
    /// Makes the folder and starts the process that deletes it.
    ///
    /// # Errors
    /// `$TMPDIR` cannot be written.
    pub(crate) fn new() -> Result<Scratch> {
        let path = tempfile::Builder::new()
            .prefix("twinlink-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir()
            .context("cannot make a temporary folder; set TMPDIR to a folder that can be written")?
            .keep();
        let (end, held) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
        // SAFETY: no other thread runs, so the child may go on as any program.
        match unsafe { fork() }.context("cannot start the process that cleans up")? {
            ForkResult::Parent { .. } => Ok(Scratch { path, _held: held }),
            ForkResult::Child => {
                drop(held);
                delete_at_the_end(end, &path);
                std::process::exit(0);
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Deletes the folder, so that it is gone when the lab returns.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Waits until those processes have ended, then deletes the folder and a lab's entry. Holds no file, terminal or folder
/// of whoever started them.
fn delete_at_the_end(end: OwnedFd, path: &Path) {
    let _ = setsid();
    let _ = chdir("/");
    if let Ok(nothing) = open("/dev/null", OFlag::O_RDWR, Mode::empty()) {
        let _ = dup2_stdin(&nothing);
        let _ = dup2_stdout(&nothing);
        let _ = dup2_stderr(&nothing);
    }
    let mut end = fs::File::from(end);
    let mut piece = [0; 8];
    while !matches!(end.read(&mut piece), Ok(0)) {}
    // Removes the entries of processes that have ended.
    let _ = registry::running();
    // The kernel may still be ending processes that write there; after a while of that, something
    // else holds the folder.
    for _ in 0..600 {
        match fs::remove_dir_all(path) {
            Ok(()) => return,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
