//! The rule of `--pipeline auto`, for every schedule: a link is asked ahead, before it runs dry.
//!
//! **Rule.** A link is asked for more while its outstanding bytes take less than two round trips + 150 ms at
//! its present rate, so that neither its server waits for a request nor the queue at the bottleneck runs
//! empty. TCP's slow start brings that much while a request travels, since each round trip brings twice as
//! much as the one before. The present rate is the mean over 1 s, or over 100 ms where that is more: in slow
//! start the longer mean is behind.
//! - *Never less* than the bandwidth-delay product of the best rate that the link has held: a link brings
//!   less for a while after a loss, and would never bring more again if it were asked for no more.
//! - *Fixed shares* (ratio, rates) take no work from the other link, so that there a second takes the place
//!   of the 150 ms.
//! - *Greedy* binds whole files to a link whatever becomes of it, and asks for no more than TCP's slow start
//!   brings in the next round trip.
//! - *Before a rate is known* a link is asked for 256 KB; a fixed share for 16 files, if those are more or of
//!   unknown sizes.
//!
//! The round trip is the least one seen: the queue at the bottleneck keeps the link busy while a request
//! travels. The 150 ms, the second, the 16 files and the 256 KB are this project's judgement.
//!
//! **Worst case.** A link that collapses owes two round trips + 150 ms of its former rate. `adaptive` and
//! `inorder` move that to the other link; `greedy` waits for it.

use std::time::Duration;

use super::{ConnectionId, Schedule, Scheduler};

/// The time that is asked ahead beside two round trips, where the other link could do the work (s).
const AHEAD_S: f64 = 0.15;
/// The same for a near link that may soon have to pause (s).
const AHEAD_BRIEF_S: f64 = 0.05;
/// The same where only this link may do it (s).
const AHEAD_FIXED_S: f64 = 1.0;
/// The bytes outstanding while a link's rate is unknown.
pub(super) const AHEAD_UNKNOWN: u64 = 256 * 1024;
/// The least files outstanding then, where only this link may bring them.
const FILES_AHEAD_UNKNOWN: usize = 16;

impl Scheduler {
    /// Returns true if the outstanding bytes of a connection arrive so soon that it should be asked for more. Of
    /// several connections of a link each has its share of the link's bytes.
    pub(super) fn runs_low(&self, id: ConnectionId, now: Duration) -> bool {
        let state = &self.link_states[id.link];
        let fixed = self.plan.is_fixed();
        let outstanding = self.connection(id).outstanding(&self.sizes) as f64 / state.share_of(id.index, now);
        let most = if self.plan == Schedule::Greedy { state.next_window() } else { f64::INFINITY };
        match state.latest_rate(now) {
            Some(rate) => {
                let brief =
                    self.plan == Schedule::Adaptive && state.is_near_shaped() && self.coupling.is_new(now);
                let beside_s = if fixed {
                    AHEAD_FIXED_S
                } else if brief {
                    AHEAD_BRIEF_S
                } else {
                    AHEAD_S
                };
                let ahead = rate * (2.0 * state.rtt.as_secs_f64() + beside_s);
                outstanding <= ahead.max(state.best_in_flight()).min(most)
            }
            None if fixed && state.asked().count() < FILES_AHEAD_UNKNOWN => true,
            // Playback cannot start without the bytes that a slow link owes.
            None if matches!(self.plan, Schedule::Inorder(_)) => outstanding < AHEAD_UNKNOWN as f64 / 4.0,
            // Nor can one of two coupled links pause.
            None if self.is_adaptive() && state.is_near_shaped() => outstanding < AHEAD_UNKNOWN as f64 / 4.0,
            None => outstanding < most.min(AHEAD_UNKNOWN as f64),
        }
    }
}
