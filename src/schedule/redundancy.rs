//! The redundancy budget: at most 2 % of the payload whose size is known may come twice.
//!
//! An answer cannot be shortened, so work that one link steals from the other may come on both. The other link
//! brings, at its current rate, some of it before everything is there. Where that and the bytes that came twice
//! already would exceed the budget, the link steals less, or nothing. A link may become faster than it was; so a
//! connection that is about to exceed the budget with useless bytes is closed.
//!
//! Work that is stolen from a link that is silent, or that delays the end by as long as counts as a stall, is
//! recovery and needs no budget; its bytes that come twice after all are waste like any other.

use std::time::Duration;

use super::adaptive::LinkView;
use super::link_state::LEAST_STALL;
use super::{ConnectionId, Scheduler};
use crate::units::{LinkId, PerLink};

/// The share of the payload that may come twice.
const MOST_SHARE: f64 = 0.02;
/// The redundant bytes allowed for any payload: about the bytes in flight on a link whose work is stolen.
const ALWAYS: u64 = 64 * 1024;
/// A connection is closed when it would pass the limit in this time (s).
const SOON_S: f64 = 0.05;

impl Scheduler {
    /// Returns the bytes that may come twice in all.
    pub(super) fn redundancy_budget(&self) -> u64 {
        ((self.sizes.known_bytes() as f64 * MOST_SHARE) as u64).max(ALWAYS)
    }

    /// Returns the most bytes to steal from a connection of this rate (bytes/s) that otherwise delays the end by
    /// `gain_s`; `None` for any amount.
    pub(super) fn most_to_steal(
        &self,
        from: ConnectionId,
        rate: f64,
        views: &PerLink<LinkView>,
        gain_s: f64,
        now: Duration,
    ) -> Option<u64> {
        let wanted: u64 = self.link_states.iter().map(|state| state.useful_outstanding(&self.sizes)).sum();
        let rest = (wanted + self.pool.bytes_for(from.link, &self.sizes)) as f64;
        let rest_s = rest / (views.a.rate + views.b.rate).max(1.0);
        let left = self.redundancy_budget().saturating_sub(self.wasted);
        let silent = now.saturating_sub(self.connection(from).last_byte) >= LEAST_STALL / 2;
        let recovery = silent || gain_s >= LEAST_STALL.as_secs_f64();
        (!recovery && rate * rest_s > left as f64).then_some(left)
    }

    /// Returns true if the bytes that a connection receives now are there already and, with those of the others, about
    /// to exceed the budget. A server that sends whole files cannot be made to send less.
    pub(super) fn exceeds_budget(&self, id: ConnectionId, now: Duration) -> bool {
        if self.useless_soon(id, now) == 0 {
            return false;
        }
        let of_link = |link: LinkId| {
            let indices = 0..self.link_states[link].connections.len();
            indices.map(move |index| self.useless_soon(ConnectionId { link, index }, now)).sum::<u64>()
        };
        self.wasted + LinkId::BOTH.map(of_link).iter().sum::<u64>() > self.redundancy_budget()
    }

    /// Returns the bytes in the next moment of a connection that are there already.
    fn useless_soon(&self, id: ConnectionId, now: Duration) -> u64 {
        let state = &self.link_states[id.link];
        let Some(first) = self.connection(id).asked.front().filter(|_| state.ranges) else { return 0 };
        let have = self.open.get(&first.part.segment).map_or(0, |have| have.covered_from(first.at));
        let have = if self.complete[first.part.segment] { u64::MAX } else { have };
        let rate = state.rate(now).unwrap_or_default() * state.share_of(id.index, now);
        first.outstanding(&self.sizes).min(have).min((rate * SOON_S) as u64)
    }
}
