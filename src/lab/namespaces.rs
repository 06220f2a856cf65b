//! Moves this process into namespaces of the lab: as root directly, else in a user namespace, where an
//! ordinary user may make the others.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{getegid, geteuid, pipe2};

use super::CONTROL_FOLDER;
use crate::shape::guard;

const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Enters new network, mount and pid namespaces; the pid namespace begins with the next child.
///
/// # Errors
/// The kernel, or a policy, refuses; the error names the setting and the remedy. Nothing was changed.
pub(crate) fn enter() -> Result<()> {
    let own = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    let needed = CAP_NET_ADMIN | CAP_SYS_ADMIN;
    let (uid, gid) = (geteuid(), getegid());
    let is_rootless = guard::effective_capabilities().is_none_or(|set| set & needed != needed);
    if is_rootless {
        unshare(own | CloneFlags::CLONE_NEWUSER).map_err(refusal)?;
        // Without this the kernel lets no ordinary user map a group.
        let maps = [
            ("setgroups", "deny".to_string()),
            ("uid_map", format!("0 {uid} 1")),
            ("gid_map", format!("0 {gid} 1")),
        ];
        for (file, text) in maps {
            let path = format!("/proc/self/{file}");
            fs::write(&path, text).with_context(|| format!("cannot write {path}"))?;
        }
    } else {
        unshare(own).context("cannot make network, mount and pid namespaces")?;
    }
    // The first thing that needs a capability: a policy may allow the namespace and withhold those.
    match mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>) {
        Err(error @ (Errno::EPERM | Errno::EACCES)) if is_rootless => Err(refusal(error)),
        other => other.context("cannot keep the lab's mounts to itself"),
    }
}

/// Tries whether an ordinary user may make the lab's namespaces, in a process that ends at once.
///
/// # Errors
/// Not allowed; the error names the setting and the remedy.
pub(crate) fn attempt() -> Result<()> {
    let own = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let program = std::env::current_exe().context("cannot find the program itself")?;
    let mut command = std::process::Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let enter = move || {
        unshare(own)?;
        Ok(mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?)
    };
    // SAFETY: only system calls; nothing is allocated and no lock is taken.
    unsafe { command.pre_exec(enter) };
    match command.status() {
        Err(error) => Err(refusal(Errno::from_raw(error.raw_os_error().unwrap_or_default()))),
        Ok(_) => Ok(()),
    }
}

fn refusal(error: Errno) -> anyhow::Error {
    let value = |setting: &str| {
        fs::read_to_string(format!("/proc/sys/{}", setting.replace('.', "/")))
            .ok()
            .map(|text| text.trim().into())
    };
    anyhow!(explain(error, value))
}

/// Kernel settings that forbid namespaces to an ordinary user: the value that forbids, and one that allows.
const SETTINGS: [(&str, &str, &str); 6] = [
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ("user.max_user_namespaces", "0", "10000"),
    ("user.max_net_namespaces", "0", "10000"),
    ("user.max_mnt_namespaces", "0", "10000"),
    ("user.max_pid_namespaces", "0", "10000"),
];

/// Says why there is no user namespace and what to do. `value` reads a kernel setting.
fn explain(error: Errno, value: impl Fn(&str) -> Option<String>) -> String {
    let forbids = |(name, forbidding, allowing): &(&str, &str, &str)| {
        (value(name)? == *forbidding).then(|| {
            format!(
                "the kernel setting {name} is {forbidding}; to allow it: sudo sysctl -w {name}={allowing}"
            )
        })
    };
    let found: Vec<String> = SETTINGS.iter().filter_map(forbids).collect();
    let cause = match (found.is_empty(), error) {
        (false, _) => found.join("; "),
        (true, Errno::ENOSPC | Errno::EUSERS) => {
            "this user, or the machine, has as many as user.max_user_namespaces and its like allow".into()
        }
        (true, Errno::EINVAL | Errno::ENOSYS) => "this kernel was built without user namespaces".into(),
        (true, _) => {
            "no kernel setting that is known forbids it, so a security policy does (in a container, its \
             seccomp profile)"
                .into()
        }
    };
    format!(
        "cannot make a user namespace, which the lab needs without root: {}: {cause}. Else run the lab as \
         root (sudo), or in Docker (docker compose up)",
        error.desc()
    )
}

/// Ends the lab's first process when the process that started it ends, also by SIGKILL.
pub(crate) struct Lifeline {
    watched: OwnedFd,
    held: OwnedFd,
}

impl Lifeline {
    pub(crate) fn new() -> Result<Lifeline> {
        let (watched, held) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
        Ok(Lifeline { watched, held })
    }

    /// Called by the child.
    ///
    /// # Errors
    /// The parent has ended already.
    pub(crate) fn hold(self) -> Result<()> {
        drop(self.held);
        // SAFETY: plain system calls; the name is a string with its end.
        let asked = unsafe {
            libc::prctl(libc::PR_SET_NAME, c"twinlink-lab".as_ptr());
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)
        };
        if asked != 0 {
            return Err(Errno::last()).context("cannot ask for a signal at the parent's end");
        }
        // From here on its end is noticed; an earlier one shows as an end of the pipe.
        let mut watched = [PollFd::new(self.watched.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, PollTimeout::ZERO) {
            Ok(0) => Ok(()),
            _ => bail!("the process that started the lab has ended"),
        }
    }
}

/// Gives the lab its own `/proc`, and a `/run` for namespace names, locks and its control socket, which is in
/// `control` for those outside.
pub(crate) fn mount_own_folders(control: &Path) -> Result<()> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // In a container that hides parts of /proc the kernel allows no new one; the old one serves too.
    if let Err(error) = mount(Some("proc"), "/proc", Some("proc"), plain, None::<&str>) {
        tracing::debug!("cannot mount /proc: {error}");
    }
    let before = open("/run", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let before = before.context("cannot open /run")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), flags, Some("mode=755")).context("cannot mount a /run")?;
    keep(&before)?;
    for dir in ["/run/netns", CONTROL_FOLDER] {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {dir}"))?;
    }
    mount(Some(control), CONTROL_FOLDER, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot show {} in the lab", control.display()))
}

/// Entries of the machine's `/run` that the lab's does not have: namespaces, locks, control sockets, and
/// services that resolve names of the machine.
const LEFT_OUT: [&str; 5] = ["netns", "twinlink", "xtables.lock", "systemd", "nscd"];

/// Shows what stands in the machine's `/run` also in the lab's: users keep files there. Skips what cannot
/// be shown.
fn keep(before: &OwnedFd) -> Result<()> {
    let before = format!("/proc/self/fd/{}", before.as_raw_fd());
    let entries = fs::read_dir(&before).context("cannot read /run")?;
    for entry in entries.flatten().filter(|entry| LEFT_OUT.iter().all(|name| entry.file_name() != *name)) {
        let target = Path::new("/run").join(entry.file_name());
        if let Err(error) = show(&entry, &target) {
            tracing::debug!("cannot show {} in the lab: {error}", target.display());
        }
    }
    Ok(())
}

fn show(entry: &fs::DirEntry, target: &Path) -> std::io::Result<()> {
    let kind = entry.file_type()?;
    if kind.is_symlink() {
        return symlink(fs::read_link(entry.path())?, target);
    }
    if kind.is_dir() {
        fs::create_dir(target)?;
    } else {
        drop(fs::File::create(target)?);
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    Ok(mount(Some(&entry.path()), target, None::<&str>, flags, None::<&str>)?)
}

/// Has the lab's processes resolve its hosts.
///
/// # Errors
/// There is no `/etc/hosts` to put the lab's own over.
pub(crate) fn mount_hosts(text: &str) -> Result<()> {
    let path = &format!("{CONTROL_FOLDER}/hosts");
    fs::write(path, text).with_context(|| format!("cannot write {path}"))?;
    let bound = mount(Some(path.as_str()), "/etc/hosts", None::<&str>, MsFlags::MS_BIND, None::<&str>);
    match bound.map_err(std::io::Error::from) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("cannot give the lab host names: /etc/hosts not found: make an empty one")
        }
        other => other.context("cannot put the lab's /etc/hosts over the machine's"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_names_the_setting_that_forbids() {
        for (name, forbidding, allowing) in SETTINGS {
            let text = explain(Errno::EPERM, |asked| (asked == name).then(|| forbidding.to_string()));
            let remedy = format!("{name} is {forbidding}; to allow it: sudo sysctl -w {name}={allowing}");
            assert!(text.contains(&remedy) && text.contains("Docker"), "{text}");
            assert_eq!(text.matches("sysctl").count(), 1, "{text}");
        }
    }

    #[test]
    fn refusal_without_a_setting_names_the_policy_or_the_kernel() {
        let allowing =
            |asked: &str| Some(if asked.starts_with("user.") { "127000" } else { "none" }.to_string());
        assert!(explain(Errno::EPERM, allowing).contains("security policy"));
        assert!(explain(Errno::ENOSPC, |_| None).contains("user.max_user_namespaces"));
        assert!(explain(Errno::EINVAL, |_| None).contains("built without user namespaces"));
    }
}
