//! Signals as events: blocked, then read one after another with who sent them.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::runtime::is_ignored;

/// Signals that a lab passes on to its command, unless it was started with them ignored.
const PASSED_ON: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

pub(crate) struct LabSignals {
    file: SignalFd,
}

pub(crate) struct ReceivedSignal {
    pub signal: Signal,
    /// The kernel sent it to all of the terminal's foreground processes.
    pub from_terminal: bool,
}

impl LabSignals {
    /// Blocks the signals, here and in every child process that is not [`reset`].
    pub(crate) fn block() -> Result<LabSignals> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        PASSED_ON.into_iter().filter(|&signal| !is_ignored(signal)).for_each(|signal| set.add(signal));
        set.thread_block().context("cannot block signals")?;
        let file = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        Ok(LabSignals { file: file.context("cannot listen for signals")? })
    }

    /// Returns the next signal; `None` after `limit`. Without a limit it waits as long as it takes.
    pub(crate) fn wait(&self, limit: Option<Duration>) -> Result<Option<ReceivedSignal>> {
        let timeout = limit.map_or(PollTimeout::NONE, |limit| {
            PollTimeout::try_from(limit.as_millis()).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for signals"),
        }
        let Some(info) = self.file.read_signal().context("cannot read a signal")? else { return Ok(None) };
        let signal = Signal::try_from(info.ssi_signo as i32).context("cannot tell which signal came")?;
        Ok(Some(ReceivedSignal { signal, from_terminal: info.ssi_code == libc::SI_KERNEL }))
    }
}

/// Gives a program that is about to be started no blocked signal, and the usual dispositions, whatever
/// the lab was started with.
///
/// # Errors
/// The kernel refuses, which it does not.
pub(crate) fn reset() -> std::io::Result<()> {
    for each in [Signal::SIGINT, Signal::SIGQUIT] {
        // SAFETY: the default disposition runs no code of ours.
        unsafe { signal(each, SigHandler::SigDfl) }?;
    }
    Ok(SigSet::empty().thread_set_mask()?)
}
