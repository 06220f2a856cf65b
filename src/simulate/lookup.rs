//! The look-up of files' sizes: HEAD requests on a connection of their own, the first alone, then many
//! at once. Pure.

use super::client::ANSWER_HEAD_BYTES;

/// The number of requests in one batch.
const TOGETHER: usize = 64;
/// A HEAD request, bytes.
const REQUEST_BYTES: u64 = 116;

#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    to_ask: usize,
    due: u64,
    is_first: bool,
}

impl Lookup {
    pub(crate) fn new(files: usize) -> Lookup {
        Lookup { to_ask: files, due: 0, is_first: true }
    }

    /// `bytes` of answers came, or the connection opened; returns the requests to make, and the bytes of
    /// their answers.
    pub(crate) fn came(&mut self, bytes: u64) -> impl Iterator<Item = (u64, u64)> + use<> {
        self.due = self.due.saturating_sub(bytes);
        let most = if std::mem::take(&mut self.is_first) { 1 } else { TOGETHER };
        let now = if self.due == 0 { self.to_ask.min(most) } else { 0 };
        self.to_ask -= now;
        self.due += now as u64 * ANSWER_HEAD_BYTES;
        std::iter::repeat_n((REQUEST_BYTES, ANSWER_HEAD_BYTES), now)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.to_ask == 0 && self.due == 0
    }
}
