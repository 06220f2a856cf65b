//! `min-rtt`: of the links that have room, the one with the least round trip fetches what is next.
//!
//! **Rule.** A link with room takes the next piece of the list, 256 KiB at most, unless the other link has room
//! too and a shorter round trip. A link has room while it is asked ahead ([`ahead`](super::ahead)), which stands
//! for TCP's congestion window; a server without ranges, or a file of unknown size, is asked for whole files.
//!
//! **Source.** The default scheduler of Multipath TCP: Paasch, Ferlin, Alay and Bonaventure, "Experimental
//! evaluation of multipath TCP schedulers", CSWS 2014. There the unit is a TCP segment and the round trip the
//! smoothed one; here it is a piece, and the least round trip.
//!
//! **Worst case.** The link with the longer round trip takes the last piece as soon as the other has no room, and
//! the run waits for it: a link of r/100 of the other's rate holds its pieces for 100 times as long.

use std::time::Duration;

use super::{ConnectionId, PartRequest, Scheduler};
use crate::units::LinkId;

/// The most that one request asks for (bytes).
const PIECE_BYTES: u64 = 256 * 1024;

impl Scheduler {
    pub(super) fn pick_min_rtt(&self, link: LinkId, now: Duration) -> Option<(usize, PartRequest)> {
        let other = link.other();
        if self.pool.has_own(link) || !self.is_nearer(other, link) || !self.has_room(other, now) {
            return self.next_piece(link);
        }
        None
    }

    /// Returns true if `link` has a connection, and a shorter round trip than `other`.
    pub(super) fn is_nearer(&self, link: LinkId, other: LinkId) -> bool {
        let [link, other] = [link, other].map(|link| &self.link_states[link]);
        link.is_up() && !link.dead && link.rtt < other.rtt
    }

    /// Returns true if `link` would be asked for more now.
    pub(super) fn has_room(&self, link: LinkId, now: Duration) -> bool {
        let auto = self.pipeline == super::Pipeline::Auto;
        self.link_states[link].connections.iter().enumerate().any(|(index, connection)| {
            let may = connection.up && self.link_states[link].may_pipeline(index, self.pipeline);
            may && (!auto || connection.asked.is_empty() || self.runs_low(ConnectionId { link, index }, now))
        })
    }

    /// Returns the beginning of the first part of `link`'s queue, and its place there.
    pub(super) fn next_piece(&self, link: LinkId) -> Option<(usize, PartRequest)> {
        let (part, _) = self.pool.first(link)?;
        let to = part.from + PIECE_BYTES;
        let divisible = self.link_states[link].ranges && self.sizes.end(&part).is_some_and(|end| to < end);
        Some((0, if divisible { PartRequest { to: Some(to), ..part } } else { part }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Next, Pipeline, Schedule};
    use super::*;

    fn opened(rtts_ms: [u64; 2]) -> Scheduler {
        let mut scheduler = Scheduler::new(&Schedule::MinRtt, Pipeline::Depth(1), vec![Some(1_000_000); 2]);
        for link in LinkId::BOTH {
            scheduler.opened(link, Duration::ZERO, Duration::from_millis(rtts_ms[link.index()]));
        }
        scheduler
    }

    #[test]
    fn far_link_waits_while_the_near_one_has_room() {
        let mut scheduler = opened([10, 50]);
        assert!(matches!(scheduler.next(LinkId::B, Duration::ZERO), Next::Wait(Some(_))));
        let piece = PartRequest { segment: 0, from: 0, to: Some(PIECE_BYTES) };
        assert_eq!(scheduler.next(LinkId::A, Duration::ZERO), Next::Request(piece));
        let next = PartRequest { segment: 0, from: PIECE_BYTES, to: Some(2 * PIECE_BYTES) };
        assert_eq!(scheduler.next(LinkId::B, Duration::ZERO), Next::Request(next));
    }

    #[test]
    fn link_that_is_away_is_not_waited_for() {
        let mut scheduler = opened([10, 50]);
        scheduler.lost(LinkId::A);
        assert!(matches!(scheduler.next(LinkId::B, Duration::ZERO), Next::Request(_)));
    }
}
