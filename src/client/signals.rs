//! The signals that end a run, listened for from one place, so that none is lost between two runs.

use anyhow::{Result, anyhow};

use super::transfer::Failure;
use crate::log::outcome::Outcome;
use crate::runtime::EndingSignals;

pub(crate) struct Signals(EndingSignals);

impl Signals {
    /// Listens from now on; the signals no longer end the process by themselves.
    pub(crate) fn listen() -> Result<Signals> {
        EndingSignals::listen().map(Signals)
    }

    /// Waits for the next signal, and says how it ends a run. One that came earlier counts.
    pub(crate) async fn next(&mut self) -> Failure {
        let signal = self.0.next().await;
        Failure::new(Outcome::Interrupted, anyhow!("interrupted by {signal}"))
    }
}
