//! Folders of results: each file in them is made new or put whole in the place of an old one, and
//! belongs to the owner of the folder.
//!
//! In a container, root writes into a folder of a user on the host. That user may put a symbolic link
//! wherever root is about to write, so everything goes through [`Folder`], which is held open: names are
//! looked up in it, no link is followed, and ownership is set on what was opened. Knows nothing of
//! what is written there, apart from the name of a run's log.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{self as sys, AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// The log in a run's folder.
pub(crate) const LOG: &str = "log.jsonl";
/// The folder of an experiment that holds its runs.
pub(crate) const RUNS: &str = "runs";
/// The log of an experiment, in its folder.
pub(crate) const SWEEP_LOG: &str = "sweep.jsonl";

/// The page beside a run's log.
pub(crate) const PAGE: &str = "report.html";

/// The path of the page in `folder` as a person finds it.
pub(crate) fn page_for_people(folder: &Path) -> String {
    for_people(folder).join(PAGE).display().to_string()
}

/// A path as a person finds it: in a container, `$TWINLINK_RESULTS_HOST` says where the host has what is mounted at
/// `$TWINLINK_RESULTS`.
pub(crate) fn for_people(path: &Path) -> PathBuf {
    let setting = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let outside =
        setting("TWINLINK_RESULTS").zip(setting("TWINLINK_RESULTS_HOST")).and_then(|(inside, host)| {
            let below = path.strip_prefix(inside).ok()?;
            Some(host.join(below))
        });
    outside.unwrap_or_else(|| path.into())
}

/// The line that names the page in `folder` to a person; empty where it has none.
pub(crate) fn page_line(folder: &Path) -> String {
    let is_there = folder.join(PAGE).is_file();
    if is_there { format!("The page: {}\n", page_for_people(folder)) } else { String::new() }
}

const FILE_MODE: Mode = Mode::from_raw_mode(0o666);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o777);

/// A folder that is held open to write in.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: OwnedFd,
    path: PathBuf,
    /// To whom what is made here is to be given; `None` where it belongs to the right user already.
    owner: Option<(sys::Uid, sys::Gid)>,
}

/// Whether this user may give files to others. In a user namespace that maps one user, as that of
/// `twinlink lab` does, root is an ordinary user by another name.
fn is_root() -> bool {
    let maps_one = |map: String| map.trim().ends_with(" 1");
    let map = std::fs::read_to_string("/proc/self/uid_map");
    rustix::process::geteuid().is_root() && !map.is_ok_and(maps_one)
}

/// Refuses a path on which root would follow a link of another user.
fn refuse_foreign_links(path: &Path) -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    for part in path.ancestors().filter(|part| !part.as_os_str().is_empty()) {
        let Ok(meta) = part.symlink_metadata() else { continue };
        ensure!(
            !meta.is_symlink() || meta.uid() == 0,
            "{} is a symbolic link of another user, which root does not follow: name the folder itself",
            part.display()
        );
    }
    Ok(())
}

impl Folder {
    /// Opens a folder that the user has named.
    ///
    /// # Errors
    /// It cannot be opened, or root would follow another user's link on the way to it.
    pub(crate) fn open(path: &Path) -> Result<Folder> {
        refuse_foreign_links(path)?;
        let named = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let dir = sys::open(named, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("cannot open the folder {}", path.display()))?;
        Folder::held(dir, path.to_path_buf())
    }

    /// Opens a folder that the user has named, and makes it, and those that lead to it, where it is
    /// missing.
    ///
    /// # Errors
    /// It cannot be opened or made.
    pub(crate) fn make(path: &Path) -> Result<Folder> {
        let missing = path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        match (path.parent(), path.components().next_back()) {
            (Some(parent), Some(Component::Normal(name))) if missing => {
                Folder::make(parent)?.child(name.as_ref())
            }
            _ => Folder::open(path),
        }
    }

    fn held(dir: OwnedFd, path: PathBuf) -> Result<Folder> {
        let stat = sys::fstat(&dir).with_context(|| format!("cannot examine {}", path.display()))?;
        let owner = (is_root() && (stat.st_uid, stat.st_gid) != (0, 0))
            .then(|| (sys::Uid::from_raw(stat.st_uid), sys::Gid::from_raw(stat.st_gid)));
        Ok(Folder { dir, path, owner })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of something in it, for messages and for reading.
    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Gives what was just made here to the folder's owner.
    fn give(&self, made: impl AsFd, name: &Path) -> Result<()> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        sys::fchown(made, Some(uid), Some(gid)).with_context(|| {
            let (made, folder) = (self.join(name), self.path.display());
            format!("cannot give {} to the owner of {folder}; add CAP_CHOWN", made.display())
        })
    }

    /// Opens a folder in this one, made where it is missing.
    ///
    /// # Errors
    /// It cannot be made, or it is something else, such as a link.
    pub(crate) fn child(&self, name: &Path) -> Result<Folder> {
        match sys::mkdirat(&self.dir, name, FOLDER_MODE) {
            Ok(()) => self.opened(name, true),
            Err(Errno::EXIST) => self.opened(name, false),
            Err(error) => Err(error).with_context(|| self.cannot("make the folder", name)),
        }
    }

    /// Makes a folder in this one that must not be there yet.
    ///
    /// # Errors
    /// It is there, or cannot be made.
    pub(crate) fn new_child(&self, name: &Path) -> Result<Folder> {
        sys::mkdirat(&self.dir, name, FOLDER_MODE).with_context(|| self.cannot("make the folder", name))?;
        self.opened(name, true)
    }

    fn opened(&self, name: &Path, new: bool) -> Result<Folder> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match sys::openat(&self.dir, name, flags, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP) => bail!(
                "{} is not a folder but a file or a symbolic link: remove it, or name another folder",
                self.join(name).display()
            ),
            opened => opened.with_context(|| self.cannot("open the folder", name))?,
        };
        if new {
            self.give(&dir, name)?;
        }
        Folder::held(dir, self.join(name))
    }

    fn cannot(&self, attempt: &str, name: &Path) -> String {
        format!("cannot {attempt} {}", self.join(name).display())
    }

    /// Makes a file that must not be there yet.
    ///
    /// # Errors
    /// Something is there under this name, a link among others, or the file cannot be made.
    pub(crate) fn create_new(&self, name: impl AsRef<Path>) -> Result<File> {
        self.create(name.as_ref(), OFlags::WRONLY)
    }

    fn create(&self, name: &Path, access: OFlags) -> Result<File> {
        let flags = access | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            sys::openat(&self.dir, name, flags, FILE_MODE).with_context(|| self.cannot("create", name))?;
        self.give(&file, name)?;
        Ok(File::from(file))
    }

    /// The same, to be read back too.
    ///
    /// # Errors
    /// As [`Folder::create_new`].
    pub(crate) fn create_new_to_read(&self, name: impl AsRef<Path>) -> Result<File> {
        self.create(name.as_ref(), OFlags::RDWR)
    }

    /// Opens a file that is there, as `flags` say; a link, or anything else that is not an
    /// ordinary file of this folder alone, is refused. `None` where there is none.
    ///
    /// # Errors
    /// It cannot be opened, or is no such file.
    pub(crate) fn open_file(&self, name: impl AsRef<Path>, flags: OFlags) -> Result<Option<File>> {
        let name = name.as_ref();
        // A FIFO that nobody reads must not hold this up.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match sys::openat(&self.dir, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => bail!("{} is a symbolic link: remove it", self.join(name).display()),
            Err(error) => return Err(error).with_context(|| self.cannot("open", name)),
        };
        let stat = sys::fstat(&file).with_context(|| self.cannot("examine", name))?;
        let ordinary = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        ensure!(ordinary, "{} is not an ordinary file: remove it", self.join(name).display());
        ensure!(
            stat.st_nlink == 1 || self.owner.is_none(),
            "{} has another name elsewhere (a hard link), which root does not write to: remove it",
            self.join(name).display()
        );
        Ok(Some(File::from(file)))
    }

    /// Opens a file to add to it, made where it is missing.
    ///
    /// # Errors
    /// It cannot be opened or made.
    pub(crate) fn append(&self, name: impl AsRef<Path>) -> Result<File> {
        let name = name.as_ref();
        match self.open_file(name, OFlags::WRONLY | OFlags::APPEND)? {
            Some(file) => Ok(file),
            None => self.create_new(name),
        }
    }

    /// Writes a whole file and puts it in the place of an old one, so that nobody ever reads half of it.
    ///
    /// # Errors
    /// It cannot be written; what was there stays then.
    pub(crate) fn replace(
        &self,
        name: impl AsRef<Path>,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<()> {
        let name = name.as_ref();
        let fresh = PathBuf::from(format!(".{}.{}.new", name.display(), std::process::id()));
        // One that a killed process of the same number has left is nobody's.
        self.remove(&fresh)?;
        let mut out = BufWriter::new(self.create_new(&fresh)?);
        let written = write(&mut out).and_then(|()| out.flush()).with_context(|| self.cannot("write", name));
        let done = written.and_then(|()| self.rename(&fresh, name));
        if done.is_err() {
            // It is the failure to write that is told.
            let _ = self.remove(&fresh);
        }
        done
    }

    /// Gives a file another name in this folder; what had that name is gone.
    ///
    /// # Errors
    /// There is no such file, or the name is a folder's.
    pub(crate) fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        sys::renameat(&self.dir, from, &self.dir, to).with_context(|| self.cannot("write", to))
    }

    /// Gives a file a name in another folder of the same file system; what had that name is gone.
    ///
    /// # Errors
    /// There is no such file, or the name is a folder's.
    pub(crate) fn move_to(
        &self,
        from: impl AsRef<Path>,
        folder: &Folder,
        to: impl AsRef<Path>,
    ) -> Result<()> {
        let to = to.as_ref();
        sys::renameat(&self.dir, from.as_ref(), &folder.dir, to).with_context(|| folder.cannot("write", to))
    }

    /// The same, but nothing may have that name.
    ///
    /// # Errors
    /// As [`Folder::move_to`], and something has that name.
    pub(crate) fn move_new(
        &self,
        from: impl AsRef<Path>,
        folder: &Folder,
        to: impl AsRef<Path>,
    ) -> Result<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        match sys::renameat_with(&self.dir, from, &folder.dir, to, sys::RenameFlags::NOREPLACE) {
            // Not every file system knows how.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if !folder.has(to)? => {
                self.move_to(from, folder, to)
            }
            moved => moved.with_context(|| folder.cannot("write", to)),
        }
    }

    fn stat(&self, name: &Path) -> Result<Option<sys::Stat>> {
        match sys::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error).with_context(|| self.cannot("examine", name)),
        }
    }

    /// Returns whether anything has this name, a link that leads nowhere among others.
    ///
    /// # Errors
    /// The folder cannot be searched.
    pub(crate) fn has(&self, name: impl AsRef<Path>) -> Result<bool> {
        Ok(self.stat(name.as_ref())?.is_some())
    }

    /// Returns whether this name is that of an open file.
    ///
    /// # Errors
    /// The folder cannot be searched.
    pub(crate) fn is_named(&self, name: impl AsRef<Path>, file: &File) -> Result<bool> {
        let name = name.as_ref();
        let open = sys::fstat(file).with_context(|| self.cannot("examine", name))?;
        let named = self.stat(name)?;
        Ok(named.is_some_and(|named| (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino)))
    }

    /// Returns the longest name that the file system allows, in bytes.
    ///
    /// # Errors
    /// The file system does not answer.
    pub(crate) fn longest_name(&self) -> Result<usize> {
        let stat = sys::fstatvfs(&self.dir)
            .with_context(|| format!("cannot examine the file system of {}", self.path.display()))?;
        Ok(usize::try_from(stat.f_namemax).unwrap_or(usize::MAX))
    }

    /// Returns whether it belongs to the user of this process.
    pub(crate) fn is_own(&self) -> bool {
        sys::fstat(&self.dir).is_ok_and(|stat| stat.st_uid == rustix::process::geteuid().as_raw())
    }

    /// Locks the folder for as long as this `Folder` lives. The kernel lets go of it when the process ends,
    /// however that ends.
    ///
    /// # Errors
    /// Another process holds it, which is named as far as the kernel tells, or the folder has just been
    /// removed.
    pub(crate) fn lock(&self) -> Result<()> {
        match sys::flock(&self.dir, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                bail!("{} is in use by {}: wait until that ends", self.path.display(), self.holder())
            }
            // A file system that knows no locks, as some that are shared with a host do not.
            Err(error) => tracing::debug!("{} cannot be locked: {error}", self.path.display()),
            Ok(()) => {}
        }
        let stat =
            sys::fstat(&self.dir).with_context(|| format!("cannot examine {}", self.path.display()))?;
        ensure!(stat.st_nlink > 0, "{} has just been removed", self.path.display());
        Ok(())
    }

    /// Names the process that holds the lock, in words.
    fn holder(&self) -> String {
        let unknown = || "another process".to_string();
        let Ok(stat) = sys::fstat(&self.dir) else { return unknown() };
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        let inode = format!(":{}", stat.st_ino);
        let pid = locks.lines().filter(|line| !line.contains("->")).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let &[_, "FLOCK", _, _, pid, file, ..] = fields.as_slice() else { return None };
            file.ends_with(&inode).then(|| pid.parse::<u32>().ok()).flatten()
        });
        pid.filter(|&pid| pid > 0).map_or_else(unknown, |pid| format!("process {pid}"))
    }

    /// Removes a folder in this one if it is empty.
    pub(crate) fn remove_empty(&self, name: impl AsRef<Path>) {
        // One that is not empty stays; nothing depends on an empty one.
        let _ = sys::unlinkat(&self.dir, name.as_ref(), AtFlags::REMOVEDIR);
    }

    /// Removes a file, or a link, if it is there.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub(crate) fn remove(&self, name: impl AsRef<Path>) -> Result<()> {
        match sys::unlinkat(&self.dir, name.as_ref(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error).with_context(|| self.cannot("remove", name.as_ref())),
        }
    }
}

/// Makes `parent`/`name`, and `parent` too where it is missing.
///
/// # Errors
/// When it exists, for a folder is never used twice, or cannot be made or given to its owner.
pub(crate) fn new_folder(parent: &Path, name: &str) -> Result<Folder> {
    Folder::make(parent)?.new_child(name.as_ref())
}

/// Makes a new file that the user has named.
///
/// # Errors
/// It exists, or cannot be made.
pub(crate) fn create_named(path: &Path) -> Result<File> {
    let name = path.file_name().with_context(|| format!("cannot create {}: name a file", path.display()))?;
    Folder::open(path.parent().unwrap_or(Path::new(".")))?.create_new(name)
}

/// Writes a file that the user has named. In a folder of another user root follows no link to it.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write_named(path: &Path, content: &[u8]) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    match (Folder::open(parent)?, path.file_name()) {
        (folder @ Folder { owner: Some(_), .. }, Some(name)) => {
            folder.replace(name, |out| out.write_all(content))
        }
        _ => std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A folder with a victim beside it, both of another user where this runs as root.
    fn places() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (results, victim) = (dir.path().join("results"), dir.path().join("victim"));
        fs::create_dir(&results).unwrap();
        fs::write(&victim, "precious").unwrap();
        if is_root() {
            std::os::unix::fs::chown(&results, Some(65534), Some(65534)).unwrap();
        }
        (dir, results, victim)
    }

    fn owner_of(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().uid()
    }

    #[test]
    fn links_in_a_folder_are_never_followed() {
        let (_dir, results, victim) = places();
        let before = owner_of(&victim);
        let folder = Folder::open(&results).unwrap();
        let link = results.join("x");
        symlink(&victim, &link).unwrap();
        assert!(folder.create_new("x").is_err());
        assert!(folder.append("x").is_err());
        assert!(folder.child("x".as_ref()).is_err());
        folder.replace("x", |out| out.write_all(b"new")).unwrap();
        assert!(link.symlink_metadata().unwrap().is_file());
        assert_eq!(fs::read_to_string(&link).unwrap(), "new");
        // A folder that is a link is not written in, nor is its target given away.
        symlink(victim.parent().unwrap(), results.join("csv")).unwrap();
        assert!(folder.child("csv".as_ref()).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(owner_of(&victim), before);
    }

    #[test]
    fn files_and_folders_belong_to_the_owner_of_the_folder() {
        let (_dir, results, _) = places();
        let folder = new_folder(&results.join("more"), "run").unwrap();
        folder.create_new(LOG).unwrap();
        folder.replace("page", |out| out.write_all(b"1")).unwrap();
        folder.replace("page", |out| out.write_all(b"2")).unwrap();
        for made in ["more", "more/run", "more/run/log.jsonl", "more/run/page"] {
            assert_eq!(owner_of(&results.join(made)), owner_of(&results), "{made}");
        }
        let names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(new_folder(&results.join("more"), "run").is_err(), "a folder is never used twice");
    }

    #[test]
    fn root_follows_no_link_of_another_user_to_a_folder() {
        let (dir, results, _) = places();
        let link = dir.path().join("link");
        symlink(&results, &link).unwrap();
        assert!(Folder::open(&link).is_ok(), "a link of one's own is followed");
        if is_root() {
            std::os::unix::fs::lchown(&link, Some(65534), Some(65534)).unwrap();
            assert!(Folder::open(&link).is_err());
            assert!(Folder::make(&link.join("new")).is_err());
        }
    }

    #[test]
    fn files_with_another_name_are_not_written_by_root() {
        let (_dir, results, victim) = places();
        fs::hard_link(&victim, results.join("sweep.jsonl")).unwrap();
        let folder = Folder::open(&results).unwrap();
        assert_eq!(folder.append("sweep.jsonl").is_err(), is_root());
    }
}
