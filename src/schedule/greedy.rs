//! `greedy`: the link with room takes the next file, whole, and keeps it.
//!
//! **Rule.** Files go out in the order of the list, as far ahead as [`ahead`](super::ahead) says. With
//! `--pipeline auto` a link leaves a file to the other link where that one brings all waiting files before
//! this link would have brought the file, so that the end of a run does not wait for the slow link. The rate
//! of a link counts for that as no more than TCP's slow start brings in its next round trip, and as 0 while
//! the link pauses.
//!
//! **Source.** Earliest completion first: Lim et al., CoNEXT 2017.
//!
//! **Worst case.** A link that collapses keeps its outstanding files, and the run waits for them.

use std::time::Duration;

use super::adaptive::LinkView;
use super::{PartRequest, Scheduler};
use crate::units::{LinkId, PerLink};

impl Scheduler {
    /// Returns true if `link` should leave `part` to the other link. This never holds for both at once.
    pub(super) fn leaves_to_other(&self, link: LinkId, part: &PartRequest, now: Duration) -> bool {
        let rates = self.views(now).map(|view| view.rate);
        let views = PerLink::of(|link| {
            let state = &self.link_states[link];
            let rtt_s = state.rtt.as_secs_f64();
            let rate = rates[link].min(state.next_window() / rtt_s);
            let rate = if state.active_since(now).is_some() { rate } else { 0.0 };
            let busy_s = state.outstanding(&self.sizes) as f64 / rate;
            LinkView { rate, starts_s: busy_s.max(rtt_s) }
        });
        !self.is_worth_it_whole(link, part, &views)
    }
}
