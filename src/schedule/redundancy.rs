//! The limit on what comes twice: 2 % of the payload whose size is known.
//!
//! An answer cannot be shortened, so what one link takes over from the other may come on both. *At
//! risk* is what the other link brings, as fast as it is, until everything is there. Where that and
//! what has come twice already would pass the limit, less is taken over, or nothing. A link may become
//! faster than it was; so a connection that is about to pass the limit with bytes of no use is closed.
//!
//! Work that is taken from a link that is silent, or that holds up the end by as long as counts as a
//! stall, is recovery and not at risk; what of it comes twice after all is waste like any other.

use std::time::Duration;

use super::Scheduler;
use super::adaptive::LinkView;
use super::link_state::LEAST_STALL;
use crate::units::LinkId;

/// The share of the payload that may come twice.
const MOST_SHARE: f64 = 0.02;
/// The redundant bytes allowed for any payload: about the bytes in flight on a link whose work is stolen.
const ALWAYS: u64 = 64 * 1024;
/// A connection is closed when it would pass the limit in this time (s).
const SOON_S: f64 = 0.05;

impl Scheduler {
    /// How much may come twice in all.
    pub(super) fn waste_limit(&self) -> u64 {
        ((self.sizes.known_bytes() as f64 * MOST_SHARE) as u64).max(ALWAYS)
    }

    /// The most that may be taken over from a link that holds up the end by `gain_s` if nothing is;
    /// `None` for any amount.
    pub(super) fn most_at_risk(
        &self,
        from: LinkId,
        views: &[LinkView; 2],
        gain_s: f64,
        now: Duration,
    ) -> Option<u64> {
        let wanted: u64 = self.flows.iter().map(|flow| flow.wanted(&self.sizes)).sum();
        let rest = (wanted + self.pool.bytes_for(from, &self.sizes)) as f64;
        let rest_s = rest / (views[0].rate + views[1].rate).max(1.0);
        let left = self.waste_limit().saturating_sub(self.wasted);
        let silent = now.saturating_sub(self.flows[from.index()].last_byte) >= LEAST_STALL / 2;
        let recovery = silent || gain_s >= LEAST_STALL.as_secs_f64();
        (!recovery && views[from.index()].rate * rest_s > left as f64).then_some(left)
    }

    /// Whether what comes on `link` now is there already and about to pass the limit. A server that
    /// sends files whole cannot be made to send less.
    pub(super) fn wastes_too_much(&self, link: LinkId, now: Duration) -> bool {
        let flow = &self.flows[link.index()];
        let Some(first) = flow.asked.front().filter(|_| flow.ranges) else {
            return false;
        };
        let have = self.open.get(&first.part.segment).map_or(0, |have| have.covered_from(first.at));
        let have = if self.complete[first.part.segment] { u64::MAX } else { have };
        let soon = (flow.rate(now).unwrap_or_default() * SOON_S) as u64;
        let useless = first.coming(&self.sizes).min(have).min(soon);
        useless > 0 && self.wasted + useless > self.waste_limit()
    }
}
