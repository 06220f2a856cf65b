//! A sandbox for a program that nobody vouches for: its own view of the file system, a disk of limited size, no
//! privilege, and no other process in sight. Its network is that of the process that starts it.
//!
//! The run makes the disk ([`Disk`]), a file system in memory that ends with the lab's mounts. The program is
//! started by way of this binary ([`enter`]), which builds the view, gives up every privilege, and waits as the
//! first process of a pid namespace, so that the kernel ends with it whatever the program leaves.

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, pipe2, pivot_root};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use super::image::UnpackedImage;
use crate::units::ByteCount;

/// Where the program finds things, whatever the machine calls them.
pub(crate) const SUBMISSION: &str = "/submission";
pub(crate) const OUT: &str = "/out";
pub(crate) const LISTS: &str = "/lists";
const TMP: &str = "/tmp";

/// Folders of the machine that every program may read: programs, libraries and their settings.
pub(crate) const SYSTEM: [&str; 9] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt", "/nix"];
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The most files on the disk: each costs memory of the kernel beside its content.
const MOST_FILES: u64 = 50_000;
const MOST_OPEN_FILES: u64 = 1024;
/// Threads of the run itself may count as those of the program's user.
const OWN_THREADS: u64 = 128;
/// The processes that keep a sandbox.
pub(crate) const OWN_PROCESSES: u64 = 2;

/// A sandbox, before it is made.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    /// The program's own folder. It sees a copy, as [`SUBMISSION`]; without one, an empty folder.
    pub folder: Option<PathBuf>,
    /// The system that it sees in the place of the machine's.
    pub image: Option<UnpackedImage>,
    /// Further folders that it may read.
    pub visible: Vec<PathBuf>,
    /// Holds that copy, `OUT` and `/tmp`.
    pub disk: ByteCount,
    pub processes: u64,
    pub memory: ByteCount,
    /// The copy may be changed.
    pub builds: bool,
}

impl Sandbox {
    /// A sandbox for a program of an image that the user vouches for: its limits are far away.
    pub(crate) fn of_image(image: UnpackedImage, memory: Option<ByteCount>) -> Sandbox {
        Sandbox {
            folder: None,
            image: Some(image),
            visible: Vec::new(),
            disk: ByteCount(8_000_000_000),
            processes: 10_000,
            memory: memory.unwrap_or(ByteCount(1 << 40)),
            builds: false,
        }
    }
}

/// A mounted disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts an empty disk at a folder, and copies the program's own folder onto it.
    ///
    /// # Errors
    /// The kernel refuses to mount, or the folder cannot be copied, as where it does not fit.
    pub(crate) fn new(sandbox: &Sandbox, at: &Path) -> Result<Disk> {
        let options = format!("size={},nr_inodes={MOST_FILES},mode=755", sandbox.disk.0);
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options.as_str()))
            .context("cannot mount the program's disk")?;
        let disk = Disk { path: at.to_path_buf() };
        let uid = uid();
        for folder in [OUT, TMP] {
            let made = disk.at(folder);
            fs::create_dir(&made).and_then(|()| chown(&made, uid, uid)).context("cannot use the disk")?;
        }
        match &sandbox.folder {
            Some(folder) => copy_folder(folder, &disk.at(SUBMISSION), uid)?,
            None => fs::create_dir(disk.at(SUBMISSION)).context("cannot use the disk")?,
        }
        Ok(disk)
    }

    /// Returns the place outside the sandbox of something that the program sees at `path`.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    /// Returns true where nothing more can be written.
    pub(crate) fn is_full(&self) -> bool {
        rustix::fs::statvfs(&self.path).is_ok_and(|stat| stat.f_bfree == 0 || stat.f_ffree == 0)
    }
}

/// Returns the user that the program runs as, who is nobody else: the network namespace's number is in no other's
/// use. `None` where this process cannot be another user, as in the lab of an ordinary user.
fn uid() -> Option<u32> {
    let all = fs::read_to_string("/proc/self/uid_map").ok()?;
    let number = fs::metadata("/proc/self/ns/net").ok()?.ino() as u32;
    let mapped: u64 = all.split_whitespace().nth(2)?.parse().ok()?;
    (mapped > u64::from(u32::MAX >> 1)).then_some(1 << 30 | number & ((1 << 30) - 1))
}

/// Copies a folder with its files, folders and symbolic links; leaves out everything else. Each becomes `uid`'s.
///
/// # Errors
/// One of them cannot be read, or not be written.
pub(crate) fn copy_folder(from: &Path, to: &Path, uid: Option<u32>) -> Result<()> {
    let cannot = || format!("cannot copy {}", from.display());
    fs::create_dir(to).with_context(cannot)?;
    for entry in fs::read_dir(from).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().with_context(cannot)?;
        let copied = if kind.is_dir() {
            copy_folder(&path, &copy, uid)?;
            continue;
        } else if kind.is_symlink() {
            fs::read_link(&path)
                .and_then(|target| symlink(target, &copy))
                .and_then(|()| std::os::unix::fs::lchown(&copy, uid, uid))
        } else if kind.is_file() {
            fs::copy(&path, &copy).and_then(|_| chown(&copy, uid, uid))
        } else {
            Ok(())
        };
        copied.with_context(|| format!("cannot copy {}", path.display()))?;
    }
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(to, mode).and_then(|()| chown(to, uid, uid)).with_context(cannot)
}

/// The description that [`enter`] is given.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entrance {
    /// The disk, and the folder of lists.
    disk: PathBuf,
    lists: PathBuf,
    /// The root of the system that it sees; the machine's own where there is none.
    system: Option<PathBuf>,
    visible: Vec<PathBuf>,
    builds: bool,
    uid: Option<u32>,
    processes: u64,
    disk_bytes: u64,
    memory_bytes: u64,
}

impl Sandbox {
    /// Returns the command that starts `words` in the sandbox, without the caller's environment.
    ///
    /// # Errors
    /// This program does not find itself.
    pub(crate) fn command(&self, disk: &Disk, lists: &Path, words: &[String]) -> Result<Command> {
        let entrance = Entrance {
            disk: disk.path.clone(),
            lists: lists.to_path_buf(),
            system: self.image.as_ref().map(|image| image.root.clone()),
            visible: self.visible.clone(),
            builds: self.builds,
            uid: uid(),
            processes: self.processes,
            disk_bytes: self.disk.0,
            memory_bytes: self.memory.0,
        };
        let mut command = Command::new(std::env::current_exe().context("cannot find the program itself")?);
        let tools = self.visible.iter().map(|folder| format!("{}/bin:", folder.display()));
        command
            .env_clear()
            .env("PATH", tools.collect::<String>() + PATH)
            .envs(self.image.iter().flat_map(UnpackedImage::variables))
            .env("HOME", TMP)
            .env("TMPDIR", TMP)
            .env("LANG", "C.UTF-8")
            .arg("sandbox")
            .arg(serde_json::to_string(&entrance)?)
            .args(words);
        Ok(command)
    }
}

/// The code with which a program ends that cannot be started, as a shell has it.
const NOT_STARTED: i32 = 127;

/// Starts a program in a sandbox and ends as it ends. The process has one thread.
///
/// # Errors
/// The kernel refuses a part of the sandbox.
pub(crate) fn enter(entrance: &Entrance, words: &[OsString]) -> Result<ExitCode> {
    ensure!(!words.is_empty(), "cannot start a program: none is named");
    let (mut told, tell) =
        pipe2(nix::fcntl::OFlag::O_CLOEXEC).map(|(r, w)| (File::from(r), File::from(w)))?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC)
        .context("cannot make the sandbox's namespaces")?;
    // SAFETY: the process has one thread.
    match unsafe { fork() }.context("cannot start the sandbox's first process")? {
        ForkResult::Parent { child } => {
            drop(tell);
            // SAFETY: ignoring a signal runs no code of ours. The program is asked to end, not this process.
            unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }?;
            waitpid(child, None).context("cannot wait for the sandbox")?;
            let mut status = [0; 4];
            told.read_exact(&mut status).context("the sandbox ended without a word")?;
            end_as(i32::from_ne_bytes(status))
        }
        ForkResult::Child => {
            drop(told);
            let status = match first_process(entrance, words) {
                Ok(status) => status,
                Err(error) => {
                    eprintln!("{error:#}");
                    NOT_STARTED << 8
                }
            };
            let _ = (&tell).write_all(&status.to_ne_bytes());
            std::process::exit(0);
        }
    }
}

/// Ends this process with a status of the kernel's: by an exit code, or by a signal.
fn end_as(status: i32) -> Result<ExitCode> {
    let number = status & 0x7f;
    if number == 0 {
        return Ok(ExitCode::from((status >> 8) as u8));
    }
    if let Ok(own) = Signal::try_from(number) {
        // SAFETY: the default disposition runs no code of ours.
        let _ = unsafe { signal(own, SigHandler::SigDfl) };
        let _ = kill(getpid(), own);
    }
    bail!("cannot end by the signal {number}")
}

/// Builds the view, gives up privileges, runs the program and collects what it leaves; returns its status.
fn first_process(entrance: &Entrance, words: &[OsString]) -> Result<i32> {
    build_view(entrance)?;
    give_up_privileges(entrance)?;
    // SAFETY: a plain system call. A change of the user would undo it.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // SAFETY: the process has one thread.
    let program = match unsafe { fork() }.context("cannot start a process")? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let error = Command::new(&words[0]).args(&words[1..]).exec();
            eprintln!("cannot run {}: {error}", words[0].to_string_lossy());
            std::process::exit(NOT_STARTED);
        }
    };
    wait_for(program)
}

fn wait_for(program: Pid) -> Result<i32> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == program => return Ok(code << 8),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => return Ok(signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for the program"),
        }
    }
}

/// Makes the file system that the program sees, and moves into it.
fn build_view(entrance: &Entrance) -> Result<()> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context("cannot keep the sandbox's mounts to itself")?;
    let root = entrance.disk.join("root");
    fs::create_dir_all(&root).context("cannot make the sandbox's root")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), &root, Some("tmpfs"), flags, Some("size=1m,mode=755"))
        .context("cannot mount the sandbox's root")?;
    for (from, path) in system(entrance.system.as_deref())? {
        match from.symlink_metadata() {
            Err(_) => {}
            Ok(data) if data.is_symlink() => symlink(fs::read_link(&from)?, inside(&root, &path))?,
            Ok(data) if data.is_dir() => show(&from, &root, &path, true)?,
            Ok(_) => {}
        }
    }
    // The names of the lab's hosts.
    let hosts = Path::new("/etc/hosts");
    if entrance.system.is_some() && inside(&root, hosts).is_file() {
        mount(Some(hosts), &inside(&root, hosts), None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .context("cannot show /etc/hosts")?;
    }
    for folder in &entrance.visible {
        show(folder, &root, folder, true)?;
    }
    show(&entrance.lists, &root, Path::new(LISTS), true)?;
    let own = |path: &str| entrance.disk.join(path.trim_start_matches('/'));
    show(&own(SUBMISSION), &root, Path::new(SUBMISSION), !entrance.builds)?;
    for folder in [OUT, TMP] {
        show(&own(folder), &root, Path::new(folder), false)?;
    }
    let dev = root.join("dev");
    fs::create_dir(&dev)?;
    for device in DEVICES {
        let place = dev.join(device);
        File::create(&place)?;
        let bind = MsFlags::MS_BIND;
        mount(Some(&Path::new("/dev").join(device)), &place, None::<&str>, bind, None::<&str>)
            .with_context(|| format!("cannot show /dev/{device}"))?;
    }
    symlink("/proc/self/fd", dev.join("fd"))?;
    for (number, name) in ["stdin", "stdout", "stderr"].into_iter().enumerate() {
        symlink(format!("/proc/self/fd/{number}"), dev.join(name))?;
    }
    symlink(TMP, dev.join("shm"))?;
    let proc = root.join("proc");
    fs::create_dir(&proc)?;
    // Where the kernel allows no new one there is none: an old one would show other processes.
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    let _ = mount(Some("proc"), &proc, Some("proc"), plain, None::<&str>);
    std::env::set_current_dir(&root)?;
    pivot_root(".", ".").context("cannot change the sandbox's root")?;
    umount2(".", MntFlags::MNT_DETACH).context("cannot leave the old root")?;
    seal(Path::new("/"), false)?;
    std::env::set_current_dir(if entrance.builds { SUBMISSION } else { OUT })?;
    Ok(())
}

/// Returns the folders of a system, each with the path where the program sees it. An image's leave out what every
/// sandbox has of its own.
fn system(image: Option<&Path>) -> Result<Vec<(PathBuf, PathBuf)>> {
    let Some(root) = image else {
        return Ok(SYSTEM.map(|folder| (folder.into(), folder.into())).to_vec());
    };
    let own = ["dev", "proc", "sys", "run", "tmp", "out", "lists", "submission"];
    let mut found = Vec::new();
    for entry in fs::read_dir(root).with_context(|| format!("cannot read {}", root.display()))? {
        let name = entry?.file_name();
        if own.iter().all(|own| name != *own) {
            found.push((root.join(&name), Path::new("/").join(name)));
        }
    }
    Ok(found)
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Shows a folder of the machine under a path of the sandbox.
fn show(from: &Path, root: &Path, path: &Path, read_only: bool) -> Result<()> {
    let cannot = || format!("cannot show {} in the sandbox", from.display());
    let place = inside(root, path);
    fs::create_dir_all(&place).with_context(cannot)?;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from), &place, None::<&str>, bind, None::<&str>).with_context(cannot)?;
    if read_only { seal(&place, true).with_context(cannot) } else { Ok(()) }
}

/// Makes a mount read-only, with those below it where `all` says so.
fn seal(path: &Path, all: bool) -> Result<()> {
    let attr_set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID;
    let attributes = libc::mount_attr { attr_set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let flags = if all { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path has its end, and the attributes are as long as is said.
    let sealed = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if sealed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error()).context("it cannot be made read-only (Linux 5.12 or newer can)")
    }
}

/// Sets the limits, and gives up users, groups, capabilities and open files.
fn give_up_privileges(entrance: &Entrance) -> Result<()> {
    let limits = [
        (Resource::Nproc, entrance.processes + OWN_THREADS),
        (Resource::Fsize, entrance.disk_bytes),
        (Resource::Data, entrance.memory_bytes),
        (Resource::Nofile, MOST_OPEN_FILES),
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
    ];
    for (resource, most) in limits {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, limit).with_context(|| format!("cannot limit {resource:?}"))?;
    }
    // SAFETY: plain system calls.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        for capability in 0..64 {
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
        }
    }
    if let Some(uid) = entrance.uid {
        let (user, group) = (nix::unistd::Uid::from_raw(uid), nix::unistd::Gid::from_raw(uid));
        nix::unistd::setgroups(&[]).context("cannot leave the groups")?;
        nix::unistd::setresgid(group, group, group).context("cannot change the group")?;
        nix::unistd::setresuid(user, user, user).context("cannot change the user")?;
    }
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, none).context("cannot give up capabilities")?;
    rustix::thread::set_no_new_privs(true).context("cannot give up new privileges")
}
