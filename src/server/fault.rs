//! The fault that a server has on purpose, and how far it is from it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::server_fault::{FaultKind, ServerFault};

/// A server that trickles sends so many bytes, and then none for such a time: 10 kB/s.
pub(crate) const TRICKLE: (usize, Duration) = (1000, Duration::from_millis(100));

/// A server's fault, with the bytes of files that it has promised so far.
pub(crate) struct ActiveFault {
    fault: ServerFault,
    promised: AtomicU64,
    /// Told when the server is to end.
    pub died: Notify,
}

impl ActiveFault {
    pub(crate) fn new(fault: ServerFault) -> ActiveFault {
        ActiveFault { fault, promised: AtomicU64::new(0), died: Notify::new() }
    }

    /// Returns the fault that the next answer has.
    pub(crate) fn now(&self) -> Option<FaultKind> {
        (self.promised.load(Relaxed) >= self.fault.after.0).then_some(self.fault.kind)
    }

    /// Notes an answer of so many bytes. Returns how many of them go out before the server dies, if it does.
    pub(crate) fn promise(&self, bytes: u64) -> Option<u64> {
        let before = self.promised.fetch_add(bytes, Relaxed);
        let left = self.fault.after.0.saturating_sub(before);
        (self.fault.kind == FaultKind::Dies && bytes > left).then_some(left)
    }
}
