//! The labs of this user that run: a file for each, in a folder that only this user can write. It names the
//! lab, and says where its control socket is seen from outside.
//!
//! A lab's processes hold the file's lock, which the kernel releases with the last of them: an entry
//! whose lock is free belongs to a lab that was killed, and whoever looks next removes it.

use std::fs::{self, DirBuilder, File};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// The name of a lab: letters, digits, `.`, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LabName(String);

impl std::str::FromStr for LabName {
    type Err = String;

    fn from_str(text: &str) -> Result<LabName, String> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !starts_well || text.len() > 64 || !text.chars().all(is_plain) {
            return Err(
                "a lab's name has at most 64 letters, digits, \".\", \"_\" and \"-\", and begins with a \
                        letter or a digit"
                    .into(),
            );
        }
        Ok(LabName(text.into()))
    }
}

impl std::fmt::Display for LabName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The content of an entry's file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct LabNote {
    /// The folder of the control socket, as it is seen from outside.
    control: PathBuf,
    /// The command line.
    command: String,
}

/// The entry of this lab, held as long as one of its processes lives.
pub(crate) struct Entry {
    folder: File,
    name: String,
    _held: File,
}

impl Entry {
    /// Enters a lab under its name, or under the first of lab-1, lab-2 … that is free.
    ///
    /// # Errors
    /// A lab of that name runs, or no folder for entries can be made.
    pub(crate) fn new(name: Option<&LabName>, control: &Path, command: &str) -> Result<Entry> {
        let (path, folder) = make_folder()?;
        sweep_folder(&folder)?;
        let names: Box<dyn Iterator<Item = String>> = match name {
            Some(name) => Box::new(std::iter::once(name.0.clone())),
            None => Box::new((1..).map(|number| format!("lab-{number}"))),
        };
        for name in names {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let mut file = match openat(&folder, &name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => File::from(file),
                Err(Errno::EXIST) => continue,
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot enter the lab in {}", path.display()));
                }
            };
            flock(&file, FlockOperation::LockExclusive).context("cannot lock the lab's entry")?;
            let note = LabNote { control: control.into(), command: command.into() };
            let written = file.write_all(&serde_json::to_vec(&note)?);
            written.with_context(|| format!("cannot write the lab's entry in {}", path.display()))?;
            flock(&folder, FlockOperation::Unlock).context("cannot release the folder of labs")?;
            return Ok(Entry { folder, name, _held: file });
        }
        let name = name.map(LabName::to_string).unwrap_or_default();
        bail!("cannot name this lab {name}: another lab of this name runs: choose another with --name")
    }

    /// Removes the entry. Its folder may be hidden by the lab's own mounts, so it goes by what is open.
    pub(crate) fn remove(&self) {
        let _ = flock(&self.folder, FlockOperation::LockExclusive);
        let _ = unlinkat(&self.folder, &self.name, AtFlags::empty());
        let _ = flock(&self.folder, FlockOperation::Unlock);
    }
}

/// A lab that runs.
#[derive(Debug)]
pub(crate) struct RunningLab {
    pub name: String,
    pub command: String,
    control: PathBuf,
}

impl RunningLab {
    /// Opens the folder of the control socket. The path returned beside it is short enough for a socket's
    /// address, whatever the folder's is, and good as long as the folder is open.
    ///
    /// # Errors
    /// The folder is gone: the lab has just ended.
    pub(crate) fn control(&self) -> Result<(OwnedFd, PathBuf)> {
        let folder = rustix::fs::open(
            &self.control,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .with_context(|| format!("cannot reach the lab {}: it has ended", self.name))?;
        let socket = format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), super::CONTROL_SOCKET);
        Ok((folder, socket.into()))
    }
}

/// Returns the labs of this user that run, by name, and removes the entries of those that were killed.
///
/// # Errors
/// A folder of entries cannot be read.
pub(crate) fn running() -> Result<Vec<RunningLab>> {
    let mut found = Vec::new();
    for path in folders() {
        let folder = match lock_folder(&path) {
            Ok(Some(folder)) => folder,
            Ok(None) => continue,
            Err(error) => {
                tracing::debug!("{error:#}");
                continue;
            }
        };
        for (name, mut file) in sweep_folder(&folder)? {
            let mut text = String::new();
            file.rewind()
                .and_then(|()| file.read_to_string(&mut text))
                .context("cannot read a lab's entry")?;
            // A lab that is about to write its entry has not begun.
            let Ok(note) = serde_json::from_str::<LabNote>(&text) else { continue };
            found.push(RunningLab { name, command: note.command, control: note.control });
        }
        // Only an empty one goes, and not one that the user chose.
        if std::env::var_os(FOLDER).is_none() {
            let _ = fs::remove_dir(&path);
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Returns the lab of that name, or the only one. None where no name is given and no lab runs.
///
/// # Errors
/// No lab has the name, or several run and none is named; the error lists them.
pub(crate) fn find(name: Option<&LabName>) -> Result<Option<RunningLab>> {
    let mut labs = running()?;
    if let Some(name) = name {
        let Some(index) = labs.iter().position(|lab| lab.name == name.0) else {
            let others = if labs.is_empty() {
                "no lab of this user runs: start one with twinlink lab".into()
            } else {
                format!("the labs that run are:\n{}", table(&labs))
            };
            bail!("cannot find a lab named {name}: {others}")
        };
        return Ok(Some(labs.swap_remove(index)));
    }
    ensure!(
        labs.len() < 2,
        "cannot choose between {} labs: name one with --lab NAME:\n{}",
        labs.len(),
        table(&labs)
    );
    Ok(labs.pop())
}

/// A line for each lab: its name, and the command line that started it.
pub(crate) fn table(labs: &[RunningLab]) -> String {
    let width = labs.iter().map(|lab| lab.name.len()).max().unwrap_or_default();
    let lines: Vec<String> = labs.iter().map(|lab| format!("{:width$}  {}", lab.name, lab.command)).collect();
    lines.join("\n")
}

/// The variable of the folder that the user chose.
const FOLDER: &str = "TWINLINK_LABS";

/// Where labs may be entered, the best first: `$TWINLINK_LABS` alone, else the user's runtime folders, and
/// at last one beside the temporary files.
fn folders() -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os(FOLDER) {
        return vec![path.into()];
    }
    let user = rustix::process::geteuid().as_raw();
    let is_ours =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|there| there.is_dir() && there.uid() == user);
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let own = named.into_iter().chain([format!("/run/user/{user}").into()]);
    let mut folders: Vec<PathBuf> = own.filter(is_ours).map(|path| path.join("twinlink")).collect();
    folders.dedup();
    if user == 0 {
        folders.insert(0, "/run/twinlink/labs".into());
    }
    folders.push(std::env::temp_dir().join(format!("twinlink-labs-{user}")));
    folders
}

/// Makes and locks the first folder of [`folders`] that can be made.
fn make_folder() -> Result<(PathBuf, File)> {
    let mut first = None;
    for path in folders() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        let opened = made.map_err(anyhow::Error::from).and_then(|()| lock_folder(&path));
        match opened {
            Ok(Some(folder)) => return Ok((path, folder)),
            // It has just been removed, empty; the next round makes it anew.
            Ok(None) => return make_folder(),
            Err(error) => drop(first.get_or_insert(error.context(format!("cannot use {}", path.display())))),
        }
    }
    let error = first.unwrap_or_else(|| anyhow::anyhow!("there is no folder to use"));
    Err(error.context(
        "cannot enter the lab among those that run; set TWINLINK_LABS to a folder that can be written",
    ))
}

/// Opens and locks a folder of entries; none where there is none.
fn lock_folder(path: &Path) -> Result<Option<File>> {
    let attempt = || format!("cannot read the folder of labs {}", path.display());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(folder) => File::from(folder),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error).with_context(attempt),
    };
    let opened = folder.metadata().with_context(attempt)?;
    ensure!(
        opened.uid() == rustix::process::geteuid().as_raw(),
        "cannot use the folder of labs {}: it belongs to another user (uid {}): set TWINLINK_LABS to another",
        path.display(),
        opened.uid()
    );
    flock(&folder, FlockOperation::LockExclusive).with_context(attempt)?;
    // Meanwhile somebody may have removed it, empty.
    let is_there =
        fs::metadata(path).is_ok_and(|there| there.ino() == opened.ino() && there.dev() == opened.dev());
    Ok(is_there.then_some(folder))
}

/// Removes the entries of killed labs from a locked folder; returns the others.
fn sweep_folder(folder: &File) -> Result<Vec<(String, File)>> {
    let mut alive = Vec::new();
    let entries = rustix::fs::Dir::read_from(folder).context("cannot read a folder of labs")?;
    for entry in entries {
        let entry = entry.context("cannot read a folder of labs")?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if name.parse::<LabName>().is_err() {
            continue;
        }
        let Ok(file) = openat(folder, name, flags, Mode::empty()).map(File::from) else { continue };
        // In a folder that others may write too, theirs count for nothing.
        if file.metadata().is_ok_and(|there| there.uid() != rustix::process::geteuid().as_raw()) {
            continue;
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => drop(unlinkat(folder, name, AtFlags::empty())),
            Err(_) => alive.push((name.to_string(), file)),
        }
    }
    Ok(alive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_lab_is_a_plain_file_name() {
        for good in ["lab-1", "a", "Mine_2.b"] {
            assert_eq!(good.parse::<LabName>().unwrap().to_string(), good);
        }
        for bad in ["", ".", "..", "../x", "a/b", "-x", "a b", "ä", &"a".repeat(65)] {
            assert!(bad.parse::<LabName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn folder_of_another_user_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        assert!(lock_folder(dir.path()).unwrap().is_some());
        assert!(lock_folder(&dir.path().join("none")).unwrap().is_none());
        // Only root can give one away.
        if std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).is_ok() {
            let error = lock_folder(dir.path()).unwrap_err().to_string();
            assert!(error.contains("another user (uid 65534)"), "{error}");
        }
    }
}
