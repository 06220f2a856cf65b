//! The threads of a role, and the signals that end it. tokio panics where the system refuses a thread or a
//! descriptor while its runtime starts, so both are tried first, and a refusal is an error with its cause.

use std::fs::File;
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{self, SignalKind};

/// Descriptors that the runtime, its signal handlers and a listener take, with some to spare.
const DESCRIPTORS: usize = 16;
/// Threads beside the workers: the log's writer and one for blocking calls.
const OTHER_THREADS: usize = 2;
/// How long a thread for blocking calls stays without work: longer than any run.
const KEPT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Starts a runtime with that many worker threads.
///
/// # Errors
/// When the system refuses its threads or descriptors.
pub(crate) fn multi_thread(workers: usize) -> Result<Runtime> {
    try_descriptors(DESCRIPTORS)
        .context("cannot start: too few descriptors are left; raise the limit (ulimit -n)")?;
    try_threads(workers + OTHER_THREADS).context(
        "cannot start the threads: raise the limit on address space (ulimit -v) or processes (ulimit -u)",
    )?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_keep_alive(KEPT)
        .enable_all()
        .build()
        .context("cannot start the threads")?;
    // One thread for blocking calls is there from now on, so that none waits for a thread that the
    // system refuses.
    runtime.block_on(runtime.spawn_blocking(|| ())).context("cannot start a thread for blocking calls")?;
    Ok(runtime)
}

/// The signals that ask a role to end. All end it in the same way.
pub(crate) struct EndingSignals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    /// The terminal is gone; `None` under nohup.
    hang_up: Option<unix::Signal>,
    quit: unix::Signal,
}

impl EndingSignals {
    /// Listens from now on; the signals no longer end the process by themselves.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub(crate) fn listen() -> Result<EndingSignals> {
        let listen = |kind| unix::signal(kind).context("cannot listen for signals");
        Ok(EndingSignals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: (!is_ignored(Signal::SIGHUP)).then(|| listen(SignalKind::hangup())).transpose()?,
            quit: listen(SignalKind::quit())?,
        })
    }

    /// Waits for the next signal. One that came earlier counts.
    pub(crate) async fn next(&mut self) -> Signal {
        let hang_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = hang_up => Signal::SIGHUP,
            _ = self.quit.recv() => Signal::SIGQUIT,
        }
    }
}

/// Returns true where this process was started with the signal ignored and has not changed that.
pub(crate) fn is_ignored(wanted: Signal) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: this only asks for the disposition, and the kernel fills in the whole struct.
    unsafe {
        libc::sigaction(wanted as i32, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Opens that many descriptors and closes them again.
fn try_descriptors(count: usize) -> io::Result<()> {
    let opened: io::Result<Vec<File>> = (0..count).map(|_| File::open("/dev/null")).collect();
    opened.map(|_| ())
}

/// Starts that many threads at once and ends them again. libc keeps their stacks for those to come.
fn try_threads(count: usize) -> io::Result<()> {
    thread::scope(|scope| {
        let mut waiting = Vec::with_capacity(count);
        for _ in 0..count {
            let (end, ended) = mpsc::channel::<()>();
            thread::Builder::new().spawn_scoped(scope, move || ended.recv())?;
            waiting.push(end);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_starts_where_nothing_is_refused() {
        assert_eq!(multi_thread(2).unwrap().block_on(async { 7 }), 7);
    }
}
