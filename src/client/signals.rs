//! SIGINT, SIGTERM and SIGHUP, listened for from one place, so that none is lost between two runs.

use anyhow::{Context, Result, anyhow};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::transfer::Failure;
use crate::log::outcome::Outcome;

pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// The terminal is gone.
    hang_up: Signal,
}

impl Signals {
    /// Listens from now on; the signals no longer end the process by themselves.
    pub fn listen() -> Result<Signals> {
        let listen = |kind, name| signal(kind).with_context(|| format!("cannot listen for {name}"));
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt(), "SIGINT")?,
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
            hang_up: listen(SignalKind::hangup(), "SIGHUP")?,
        })
    }

    /// Waits for the next signal, and says how it ends a run. One that came earlier counts.
    pub async fn next(&mut self) -> Failure {
        let name = tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hang_up.recv() => "SIGHUP",
        };
        Failure::new(Outcome::Interrupted, anyhow!("interrupted by {name}; what was received so far is kept"))
    }
}
