//! Answers that are read for as long as a time allows: single requests before a transfer and beside it, and
//! measurements.

use std::time::Duration;

use anyhow::{Context, Result};

use super::running;
use crate::http::pipeline::PipelinedConnection;
use crate::http::reader::AnswerEvent;
use crate::text::duration;

/// The time that answers may take.
#[derive(Debug)]
pub(crate) struct Allowance {
    kind: AllowanceKind,
    began: Duration,
    give_up: Duration,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AllowanceKind {
    /// As long as a server may be silent, and more for what comes.
    OneShot,
    /// For ever, as long as a server is not silent.
    Stream,
}

/// A one-shot request goes on with at least this many bytes a second: each byte that came adds its share of the time.
const LEAST_BYTES_PER_S: u64 = 16 * 1024;
/// No one-shot request may take longer than this many times a server's silence.
const MOST_SILENCES: u32 = 30;
/// A server that sends less than this for as long as it may be silent is silent.
const LEAST_BYTES: u64 = 1024;

/// The time that was allowed is used up.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TooSlow(String);

impl Allowance {
    /// For one request to a server that may be silent for `give_up`.
    pub(crate) fn new(give_up: Duration) -> Allowance {
        Allowance { kind: AllowanceKind::OneShot, began: running::now(), give_up, bytes: 0 }
    }

    /// For as many answers as come from a server that may be silent for `give_up`.
    pub(crate) fn endless(give_up: Duration) -> Allowance {
        Allowance { kind: AllowanceKind::Stream, ..Allowance::new(give_up) }
    }

    fn came(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.kind == AllowanceKind::Stream && self.bytes >= LEAST_BYTES {
            (self.began, self.bytes) = (running::now(), 0);
        }
    }

    fn left(&self) -> Duration {
        let allowed = match self.kind {
            AllowanceKind::Stream => self.give_up,
            AllowanceKind::OneShot => {
                let earned = Duration::from_secs_f64(self.bytes as f64 / LEAST_BYTES_PER_S as f64);
                self.give_up.saturating_add(earned).min(self.give_up.saturating_mul(MOST_SILENCES))
            }
        };
        self.began.saturating_add(allowed).saturating_sub(running::now())
    }

    fn used_up(&self) -> TooSlow {
        let give_up = duration(self.give_up);
        TooSlow(match (self.kind, self.bytes) {
            (AllowanceKind::Stream, _) => format!("it sent less than {LEAST_BYTES} bytes in {give_up}"),
            (_, 0) => format!("it accepted the connection and then did not answer for {give_up}"),
            (_, bytes) => {
                let took = duration(running::now().saturating_sub(self.began));
                format!("it sent {bytes} bytes in {took} and its answer is not complete")
            }
        })
    }
}

/// Sends what is queued and hands what comes to `take` until that says that it has had enough; `take` may
/// ask for more. Returns whether it had enough before the server ended the connection.
///
/// # Errors
/// `TooSlow`, or the connection broke, what came is not HTTP, or `take` fails.
pub(crate) async fn receive(
    pipeline: &mut PipelinedConnection,
    head_only: bool,
    allowance: &mut Allowance,
    mut take: impl FnMut(&mut PipelinedConnection, AnswerEvent) -> Result<bool>,
) -> Result<bool> {
    const BROKE: &str = "it broke the connection";
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let readable = running::timeout(allowance.left(), pipeline.readable()).await;
        readable.ok_or_else(|| allowance.used_up())?.context(BROKE)?;
        let mut input = match pipeline.read(&mut buffer).context(BROKE)? {
            Some([]) => return Ok(false),
            Some(bytes) => bytes,
            None => continue,
        };
        allowance.came(input.len());
        loop {
            let event = pipeline.answers.next(&mut input, head_only)?;
            if event == AnswerEvent::NeedMore {
                break;
            }
            if take(pipeline, event)? {
                return Ok(true);
            }
        }
    }
}
