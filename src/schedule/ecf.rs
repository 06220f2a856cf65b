//! `ecf`, earliest completion first: the far link takes nothing that would come earlier by waiting for the near one.
//!
//! **Rule.** Pieces as under [`min_rtt`](super::min_rtt). Where the near link has no room, the far one waits for it
//! if (1) the near link brings all that waits in t_f, and t_f < (1 + β·w)·t_s, where t_s is when the far link would
//! have brought its piece; and (2) the far link alone would need two near round trips or more for all that waits.
//! β is 0.25, and w is 1 while the far link waits already and else 0.
//!
//! **Source.** Lim, Nahum, Towsley and Gibbens, "ECF: An MPTCP path scheduler to manage heterogeneous paths",
//! CoNEXT 2017. The paper counts windows of a round trip each (t_f = RTT_f + k/CWND_f · RTT_f); here CWND/RTT is
//! the link's rate, and RTT_f + k/CWND_f · RTT_f the time until all that it was asked for and all that waits has
//! come. Its margin δ, the deviation of the round trip, is 0: only the least round trip is known.
//!
//! **Worst case.** A near link whose rate falls while the far one waits: that waits until the near link's rate,
//! averaged over 1 s, says so. A link that collapses keeps what it was asked for.

use std::time::Duration;

use super::adaptive::LinkView;
use super::{PartRequest, Scheduler};
use crate::units::LinkId;

/// How much longer a link that waits goes on waiting.
const BETA: f64 = 0.25;

impl Scheduler {
    pub(super) fn pick_ecf(&mut self, link: LinkId, now: Duration) -> Option<(usize, PartRequest)> {
        let other = link.other();
        if self.pool.has_own(link) || !self.is_nearer(other, link) {
            return self.next_piece(link);
        }
        if self.has_room(other, now) {
            return None;
        }
        let (place, piece) = self.next_piece(link)?;
        let views = self.views(now);
        let rest = self.pool.bytes_for(link, &self.sizes) as f64;
        let bytes = self.sizes.estimate(&piece) as f64;
        let near_rtt_s = self.link_states[other].rtt.as_secs_f64();
        let (near, far) = (views[other], views[link]);
        self.far_link_waits = is_worth_waiting(near, far, rest, bytes, near_rtt_s, self.far_link_waits);
        (!self.far_link_waits).then_some((place, piece))
    }
}

/// Returns true if all that waits (`rest` bytes) comes earlier without the far link's piece of so many bytes.
fn is_worth_waiting(
    near: LinkView,
    far: LinkView,
    rest: f64,
    piece: f64,
    near_rtt_s: f64,
    waits: bool,
) -> bool {
    let near_s = near.starts_s + rest / near.rate;
    let far_s = far.starts_s + piece / far.rate;
    let patience = if waits { 1.0 + BETA } else { 1.0 };
    near_s < patience * far_s && rest / far.rate >= 2.0 * near_rtt_s
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(rate: f64, starts_s: f64) -> LinkView {
        LinkView { rate, starts_s }
    }

    #[test]
    fn far_link_waits_only_at_the_end() {
        let (near, far) = (view(10e6, 0.2), view(1e6, 0.2));
        let waits = |rest| is_worth_waiting(near, far, rest, 256e3, 0.02, false);
        // The near link brings 1 MB in 0.3 s, the far one its piece in 0.46 s; 100 MB take it 10.2 s.
        assert!(waits(1e6) && !waits(100e6));
        // Little enough for two round trips of the near link is not waited for.
        assert!(!waits(0.03e6));
    }

    #[test]
    fn link_that_waits_goes_on_waiting_a_little_longer() {
        let (near, far) = (view(10e6, 0.2), view(1e6, 0.2));
        let waits = |waits| is_worth_waiting(near, far, 3e6, 256e3, 0.02, waits);
        assert!(!waits(false) && waits(true));
    }
}
