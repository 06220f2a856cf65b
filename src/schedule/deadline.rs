//! `inorder`: segments for playback, in the order of their deadlines.
//!
//! **Rule.** The player starts when its first segments are there. From then on segment k (from 0) is
//! due at t_play + k·d, with d the time that a segment plays; where the player stands still t_play
//! moves with it. Before the start, the first segments are overdue, and the others are due as if the
//! start were when both links together have brought the first ones.
//! - *Which*: a link that runs low takes the earliest waiting segment that it can finish in time, so
//!   that a slow link takes later ones and leaves the next to the other.
//! - *Splitting*: a waiting segment that neither link can finish in time alone is split between both in
//!   proportion to what they can bring; of one that comes late on the other link, the end is
//!   stolen, unless something waits that is due as early.
//! - *In time* means with a quarter of the time to spare.
//! - Everything else is as with [`adaptive`](super::adaptive): how far ahead is asked, how long parts
//!   are, that a link without a share of the rest yields, and how the end is shared out.
//!
//! **Source.** Each segment by one of two paths, under a deadline for each: Elgabli, Liu and Aggarwal,
//! "Optimized Preference-Aware Multi-path Video Streaming with Scalable Video Coding",
//! arXiv:1801.01980; the deadlines are theirs, the choice is not: they optimize over qualities, of
//! which there is one here. That a link takes the earliest that it can finish, the quarter to spare and
//! when to split are this project's judgement.
//!
//! **Worst case.** Links that together carry less than the media plays: every segment is overdue, so every
//! one is split, and requests are many and short; the player then stands still for as long as the
//! bytes take, which no order avoids. A link that collapses right after it took a segment that is due
//! soon holds its beginning; only the end of it moves, until the link counts as stalled.

use std::time::Duration;

use super::adaptive::{LinkView, least_part, share};
use super::ahead::AHEAD_UNKNOWN;
use super::{ConnectionId, PartRequest, Schedule, Scheduler};
use crate::qoe::Rule;
use crate::units::{LinkId, PerLink};

/// How much of the time that a link needs for a segment is to be spared besides.
const TO_SPARE: f64 = 0.25;

/// How media is cut into segments, and when its player starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MediaTimeline {
    /// How long a segment plays.
    pub segment: Duration,
    /// How many segments the player waits for.
    pub startup: usize,
    /// The number of init segments, which come first.
    pub init_segments: usize,
}

impl Default for MediaTimeline {
    fn default() -> MediaTimeline {
        let Rule { segment_duration_ms, startup_segments } = Rule::default();
        let segment = Duration::from_secs_f64(segment_duration_ms / 1e3);
        MediaTimeline { segment, startup: startup_segments as usize, init_segments: 0 }
    }
}

/// A player in the middle of the media, as far as the scheduler sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Playhead {
    /// The number of complete files from the first on.
    ready: usize,
    /// The time (s) at which segment 0 began to play, moved by the stalls.
    began_s: Option<f64>,
}

impl Playhead {
    /// Brings it up to date.
    fn update(&mut self, timeline: &MediaTimeline, complete: &[bool], now_s: f64) {
        let duration_s = timeline.segment.as_secs_f64();
        let played_s = |ready: usize| ready.saturating_sub(timeline.init_segments) as f64 * duration_s;
        if let Some(began_s) = &mut self.began_s {
            *began_s = began_s.max(now_s - played_s(self.ready));
        }
        self.ready += complete[self.ready..].iter().take_while(|&&complete| complete).count();
        let startup = timeline.init_segments + timeline.startup.max(1);
        if self.began_s.is_none() && self.ready >= startup.min(complete.len()) {
            self.began_s = Some(now_s);
        }
    }

    /// When a segment is due (s), where playback begins at `begins_s` if it has not.
    fn due_s(&self, timeline: &MediaTimeline, segment: usize, begins_s: f64) -> f64 {
        let k = segment.saturating_sub(timeline.init_segments);
        if self.began_s.is_none() && k < timeline.startup.max(1) {
            return 0.0;
        }
        self.began_s.unwrap_or(begins_s) + k as f64 * timeline.segment.as_secs_f64()
    }
}

impl Scheduler {
    /// Which of the waiting parts `link` should look at, by its place, and the most that it should ask
    /// for of it; `None` where it had better leave all to the other.
    pub(super) fn pick_in_time(
        &mut self,
        link: LinkId,
        views: &PerLink<LinkView>,
        now: Duration,
    ) -> Option<(usize, Option<u64>)> {
        let Schedule::Inorder(timeline) = self.plan else { return Some((0, None)) };
        if self.pool.has_own(link) {
            return Some((0, None));
        }
        let (now_s, begins_s) = (now.as_secs_f64(), self.begins_s(&timeline, views, now));
        let [mine, other] = [link, link.other()].map(|link| views[link]);
        let least = least_part(mine.rate);
        let unknown = self.link_states[link].rate(now).is_none().then_some(AHEAD_UNKNOWN / 4);
        for (place, part) in self.pool.shared().enumerate() {
            let bytes = self.sizes.estimate(part);
            let due_s = self.player.due_s(&timeline, part.segment, begins_s);
            let in_time = |view: LinkView| {
                let takes_s = view.starts_s + bytes as f64 / view.rate;
                now_s + (1.0 + TO_SPARE) * takes_s <= due_s
            };
            if in_time(mine) {
                return Some((place, unknown));
            }
            let most = share(link, views, bytes);
            if !in_time(other) && most >= (least / 2.0).min(bytes as f64 / 2.0) {
                return Some((place, Some((most.max(least) as u64).min(unknown.unwrap_or(u64::MAX)))));
            }
        }
        None
    }

    /// The end of what comes late on the other link, where a connection had better fetch it before anything
    /// that waits.
    pub(super) fn late_elsewhere(
        &mut self,
        id: ConnectionId,
        views: &PerLink<LinkView>,
        now: Duration,
    ) -> Option<PartRequest> {
        let Schedule::Inorder(timeline) = self.plan else { return None };
        let (now_s, begins_s) = (now.as_secs_f64(), self.begins_s(&timeline, views, now));
        let due_s = |segment| self.player.due_s(&timeline, segment, begins_s);
        let next_due_s = self.pool.first(id.link).map_or(f64::INFINITY, |(part, _)| due_s(part.segment));
        let link = id.link.other();
        self.link_states[link].rate(now)?;
        for (index, theirs) in self.link_states[link].connections.iter().enumerate() {
            let from = ConnectionId { link, index };
            let rate = self.view_of(from, views, now).rate.max(1.0);
            let mut before = 0;
            for asked in &theirs.asked {
                let owed = before + asked.useful_outstanding(&self.sizes);
                let due_s = due_s(asked.part.segment);
                if due_s >= next_due_s {
                    break;
                }
                let late = now_s + owed as f64 / rate > due_s;
                if let Some(part) = late.then(|| self.end_of(id, (from, asked), owed, views, now)).flatten() {
                    return Some(part);
                }
                before += asked.outstanding(&self.sizes);
            }
        }
        None
    }

    /// When playback begins (s), as far as it can be seen now; keeps the player up to date.
    fn begins_s(&mut self, timeline: &MediaTimeline, views: &PerLink<LinkView>, now: Duration) -> f64 {
        self.player.update(timeline, &self.complete, now.as_secs_f64());
        let first = 0..(timeline.init_segments + timeline.startup.max(1)).min(self.complete.len());
        let missing = |segment: usize| {
            let have = self.open.get(&segment).into_iter().flat_map(super::ranges::Ranges::iter);
            let have: u64 = have.map(|(from, to)| to - from).sum();
            self.sizes.estimate(&PartRequest::whole(segment)).saturating_sub(have)
        };
        let bytes: u64 = first.filter(|&segment| !self.complete[segment]).map(missing).sum();
        now.as_secs_f64() + bytes as f64 / (views.a.rate + views.b.rate).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_begin_with_the_player_and_move_when_it_stands_still() {
        let timeline = MediaTimeline { segment: Duration::from_secs(4), startup: 2, init_segments: 1 };
        let (mut player, mut complete) = (Playhead::default(), vec![false; 9]);
        player.update(&timeline, &complete, 1.0);
        assert_eq!([0, 1, 2, 3].map(|file| player.due_s(&timeline, file, 5.0)), [0.0, 0.0, 0.0, 13.0]);
        complete[..3].fill(true);
        player.update(&timeline, &complete, 6.0);
        assert_eq!([3, 4].map(|file| player.due_s(&timeline, file, 0.0)), [14.0, 18.0]);
        // Two segments play for 8 s; nothing follows them until 16 s.
        player.update(&timeline, &complete, 16.0);
        assert_eq!([3, 4].map(|file| player.due_s(&timeline, file, 0.0)), [16.0, 20.0]);
    }
}
