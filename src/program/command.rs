//! The user's program: its arguments and environment, its limits, and what it used.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp};
use tokio::sync::watch;

use crate::text::fill_in;

/// The names of [`Surroundings`] that every program has.
pub(crate) const PLACEHOLDERS: [&str; 7] =
    ["server_a", "server_b", "ip_a", "ip_b", "files", "manifest", "out"];

/// Names and values that a program finds in its arguments as `{name}`, and in its environment in capitals.
pub(crate) struct Surroundings(pub Vec<(&'static str, String)>);

impl Surroundings {
    /// Returns words with the values filled in.
    ///
    /// # Errors
    /// A placeholder is unknown.
    pub(crate) fn words(&self, command: &[String]) -> Result<Vec<String>> {
        let values: Vec<(&str, &str)> = self.0.iter().map(|(name, value)| (*name, &**value)).collect();
        command.iter().map(|word| fill_in(word, &values).map_err(anyhow::Error::msg)).collect()
    }

    /// Returns the command of a program that starts in a folder; in the current one if that is empty.
    ///
    /// # Errors
    /// A placeholder is unknown.
    pub(crate) fn command(&self, words: &[String], folder: &Path) -> Result<Command> {
        let words = self.words(words)?;
        let mut command = Command::new(&words[0]);
        command.current_dir(if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
        command.args(&words[1..]);
        Ok(command)
    }
}

/// How a program ended, and what it and the children that it waited for used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProgramUse {
    pub status: ExitStatus,
    pub cpu_user: Duration,
    pub cpu_system: Duration,
    /// The greatest resident set of one of its processes (bytes).
    pub peak_memory_bytes: u64,
    pub ended: Instant,
}

/// A program that runs in a process group of its own.
pub(crate) struct RunningProgram {
    pid: Pid,
    used: watch::Receiver<Option<ProgramUse>>,
}

impl Drop for RunningProgram {
    /// A run that is interrupted leaves no process.
    fn drop(&mut self) {
        self.end_all();
    }
}

impl RunningProgram {
    /// Starts a program, whose environment gets the surroundings too.
    ///
    /// # Errors
    /// It is not found or may not be run, or the process cannot adopt what the program leaves behind.
    pub(crate) fn start(
        mut command: Command,
        surroundings: &Surroundings,
        stdout: File,
        stderr: File,
    ) -> Result<RunningProgram> {
        // Processes that the program leaves behind become children of this process, which ends them.
        nix::sys::prctl::set_child_subreaper(true).context("cannot adopt processes of the program")?;
        let child = command
            .envs(surroundings.0.iter().map(|(name, value)| (name.to_ascii_uppercase(), value)))
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .spawn();
        let child = child.map_err(|error| {
            let name = command.get_program().to_string_lossy();
            match error.kind() {
                io::ErrorKind::NotFound => {
                    anyhow::anyhow!("cannot run {name}: no such program; check its name, or give its path")
                }
                _ => anyhow::Error::new(error).context(format!("cannot run {name}")),
            }
        })?;
        let pid = Pid::from_raw(child.id() as i32);
        let (tell, used) = watch::channel(None);
        std::thread::Builder::new()
            .name("program".into())
            .spawn(move || {
                // A run that was interrupted asks no more.
                let _ = tell.send(wait(pid));
            })
            .context("cannot wait for the program")?;
        Ok(RunningProgram { pid, used })
    }

    /// Waits until the program itself has ended; may be asked again.
    ///
    /// # Errors
    /// The system does not tell how it ended.
    pub(crate) async fn ended(&mut self) -> Result<ProgramUse> {
        let used = self.used.wait_for(Option::is_some).await.ok().and_then(|used| *used);
        used.context("cannot wait for the program")
    }

    /// Returns how many processes it has.
    pub(crate) fn count(&self) -> u64 {
        self.processes().len() as u64
    }

    /// Returns the memory of all its processes (bytes): what is resident, and files in memory (`memfd_create`), which
    /// belong to no process.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let page = rustix::param::page_size() as u64;
        let resident = |pid: &Pid| -> Option<u64> {
            let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
            statm.split(' ').nth(1)?.parse::<u64>().ok()
        };
        let processes = self.processes();
        let files: HashMap<u64, u64> = processes.iter().flat_map(memory_files).collect();
        processes.iter().filter_map(resident).sum::<u64>() * page + files.values().sum::<u64>()
    }

    /// Asks the program's group to end.
    pub(crate) fn terminate(&self) {
        let _ = kill(Pid::from_raw(-self.pid.as_raw()), Signal::SIGTERM);
    }

    /// Ends every process that the program has left, and returns how many those were.
    pub(crate) fn end_all(&self) -> usize {
        let mut ended = std::collections::HashSet::new();
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let left = self.processes();
            if left.is_empty() || Instant::now() > until {
                return ended.len();
            }
            for pid in left {
                // Only orphans that became children of this process are waited for; the program's own is by a
                // thread. One that had ended already was not left.
                let waited = (pid != self.pid).then(|| waitpid(pid, Some(WaitPidFlag::WNOHANG)));
                if waited.is_some_and(|waited| waited.is_ok_and(|status| status != WaitStatus::StillAlive)) {
                    continue;
                }
                let _ = kill(pid, Signal::SIGKILL);
                ended.insert(pid);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The program's processes: those of its group, and all that descend from this process in other groups than
    /// its own.
    fn processes(&self) -> Vec<Pid> {
        let all = processes();
        let (own, group) = (nix::unistd::getpid(), getpgrp());
        let mut found: Vec<Pid> = Vec::new();
        let mut parents = vec![own];
        while let Some(parent) = parents.pop() {
            for process in all.iter().filter(|process| process.parent == parent) {
                // Tools of this program itself (tc, ip) share its group.
                if parent == own && process.group == group {
                    continue;
                }
                parents.push(process.pid);
                found.push(process.pid);
            }
        }
        found
    }
}

/// Returns the files in memory (`memfd:`) that a process holds open: each one's inode and bytes. The kernel keeps
/// all of them in one file system, so that an inode is one file.
fn memory_files(pid: &Pid) -> Vec<(u64, u64)> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let is_memory = |path: &PathBuf| {
        std::fs::read_link(path).is_ok_and(|target| target.as_os_str().as_bytes().starts_with(b"/memfd:"))
    };
    let held = |path: PathBuf| std::fs::metadata(path).map(|data| (data.ino(), data.blocks() * 512)).ok();
    open.map(|entry| entry.path()).filter(is_memory).filter_map(held).collect()
}

struct Process {
    pid: Pid,
    parent: Pid,
    group: Pid,
}

/// Every process in sight.
fn processes() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let of = |entry: io::Result<std::fs::DirEntry>| -> Option<Process> {
        let path: PathBuf = entry.ok()?.path();
        let pid: i32 = path.file_name()?.to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(path.join("stat")).ok()?;
        // The name in parentheses may hold anything.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(1);
        let mut next = || fields.next()?.parse().ok().map(Pid::from_raw);
        Some(Process { pid: Pid::from_raw(pid), parent: next()?, group: next()? })
    };
    entries.filter_map(of).collect()
}

/// Waits for a child; `None` if it cannot be waited for.
fn wait(pid: Pid) -> Option<ProgramUse> {
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    loop {
        // SAFETY: both places are valid for the length of the call, and all zeros is a valid rusage.
        let waited = unsafe { libc::wait4(pid.as_raw(), &raw mut status, 0, usage.as_mut_ptr()) };
        if waited == pid.as_raw() {
            break;
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
    // SAFETY: zeroed above, and filled in by the kernel.
    let usage = unsafe { usage.assume_init() };
    let time = |of: libc::timeval| Duration::new(of.tv_sec as u64, of.tv_usec as u32 * 1000);
    Some(ProgramUse {
        status: ExitStatus::from_raw(status),
        cpu_user: time(usage.ru_utime),
        cpu_system: time(usage.ru_stime),
        peak_memory_bytes: usage.ru_maxrss as u64 * 1024,
        ended: Instant::now(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;

    /// A process may run one program at a time, since it ends whatever descends from it.
    static ONE: Mutex<()> = Mutex::new(());

    fn one() -> MutexGuard<'static, ()> {
        ONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(line: &str) -> Result<RunningProgram> {
        let file = || tempfile::tempfile().unwrap();
        let words: Vec<String> = ["sh", "-c", line].map(String::from).to_vec();
        let around = Surroundings(vec![("out", "/x".into())]);
        RunningProgram::start(around.command(&words, Path::new(""))?, &around, file(), file())
    }

    fn ended(mut program: RunningProgram) -> ProgramUse {
        crate::runtime::multi_thread(1).unwrap().block_on(program.ended()).unwrap()
    }

    #[test]
    fn program_reports_its_exit_and_its_use() {
        let _one = one();
        let program = start("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exit 7").unwrap();
        let used = ended(program);
        assert_eq!(used.status.code(), Some(7));
        assert!(
            used.peak_memory_bytes > 100_000 && used.cpu_user + used.cpu_system > Duration::ZERO,
            "{used:?}"
        );
    }

    #[test]
    fn program_whose_run_is_given_up_is_ended() {
        let _one = one();
        let program = start("setsid sleep 300 & sleep 300").unwrap();
        let mut used = program.used.clone();
        drop(program);
        let used = crate::runtime::multi_thread(1)
            .unwrap()
            .block_on(async { *used.wait_for(Option::is_some).await.unwrap() });
        assert_eq!(used.unwrap().status.signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn missing_program_is_named() {
        let file = || tempfile::tempfile().unwrap();
        let words = ["/none/such".to_string()];
        let nothing = Surroundings(Vec::new());
        let command = nothing.command(&words, Path::new("")).unwrap();
        let error = RunningProgram::start(command, &nothing, file(), file()).map(drop).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot run /none/such: no such program; check its name, or give its path"
        );
    }

    #[test]
    fn processes_that_left_the_group_are_ended_too() {
        let _one = one();
        let program = start("setsid sleep 300 & setsid sh -c 'sleep 300 & sleep 300' & sleep 300").unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while program.processes().len() < 5 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(program.end_all() >= 5);
        assert!(program.processes().is_empty());
        assert_eq!(ended(program).status.signal(), Some(libc::SIGKILL));
    }
}
