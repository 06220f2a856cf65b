//! `dems`: both links fetch each file from its two ends towards its middle.
//!
//! **Rule.** Link a takes the next 128 KiB from the front of the first file that is not asked for in full, link b
//! from its end, each when it has room ([`ahead`](super::ahead)). Where they meet is decided by how fast they are;
//! the one that finds nothing left of a file goes on to the next, whatever the other still owes. A server without
//! ranges, or a file of unknown size, is asked for what is left of it.
//!
//! **Source.** Guo, Nikravesh, Mao, Qian and Sen, "Accelerating multipath transport through balanced subflow
//! completion" (DEMS), MobiCom 2017. Its reinjection of the packets around the middle is left out: an answer cannot
//! be shortened, so that what is asked for twice comes twice.
//!
//! **Worst case.** Of the last file, a slow link holds what it was asked for ahead, two round trips + 150 ms at its
//! rate and one piece of 128 KiB; a link that collapses holds it for as long as it takes.

use super::{PartRequest, Scheduler};
use crate::units::LinkId;

/// The most that one request asks for (bytes).
const PIECE_BYTES: u64 = 128 * 1024;

impl Scheduler {
    pub(super) fn pick_dems(&self, link: LinkId) -> Option<(usize, PartRequest)> {
        let (first, _) = self.pool.first(link)?;
        let of_file = |place: &usize| {
            self.pool.get(link, *place).is_some_and(|(part, _)| part.segment == first.segment)
        };
        let place = if link == LinkId::A { 0 } else { (0..).take_while(of_file).last()? };
        let (part, _) = self.pool.get(link, place)?;
        let Some(end) = self
            .sizes
            .end(&part)
            .filter(|end| self.link_states[link].ranges && end.saturating_sub(part.from) > PIECE_BYTES)
        else {
            return Some((place, part));
        };
        let piece = match link {
            LinkId::A => PartRequest { to: Some(part.from + PIECE_BYTES), ..part },
            LinkId::B => PartRequest { from: end - PIECE_BYTES, ..part },
        };
        Some((place, piece))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Next, Pipeline, Schedule};
    use super::*;

    #[test]
    fn links_meet_within_each_file() {
        let size = 3 * PIECE_BYTES + 1000;
        let mut scheduler = Scheduler::new(&Schedule::Dems, Pipeline::Depth(10), vec![Some(size); 2]);
        let mut ask = |link| match scheduler.next(link, Duration::ZERO) {
            Next::Request(part) => (part.segment, part.from, part.to),
            other => panic!("{other:?}"),
        };
        let piece = PIECE_BYTES;
        assert_eq!(ask(LinkId::A), (0, 0, Some(piece)));
        assert_eq!(ask(LinkId::B), (0, size - piece, None));
        assert_eq!(ask(LinkId::B), (0, size - 2 * piece, Some(size - piece)));
        // Less than a piece is left between both.
        assert_eq!(ask(LinkId::A), (0, piece, Some(size - 2 * piece)));
        assert_eq!(ask(LinkId::B), (1, size - piece, None));
        assert_eq!(ask(LinkId::A), (1, 0, Some(piece)));
    }

    #[test]
    fn file_of_unknown_size_is_fetched_whole() {
        let mut scheduler = Scheduler::new(&Schedule::Dems, Pipeline::Depth(10), vec![None; 2]);
        assert_eq!(scheduler.next(LinkId::B, Duration::ZERO), Next::Request(PartRequest::whole(0)));
    }
}
