//! `adaptive`: both links finish at the same moment, whatever they carry.
//!
//! **Rule.** Link i carries rᵢ bytes/s ([`Ewma`](super::ewma)) and can begin on a new request after
//! eᵢ = max(bytes to come / rᵢ, round trip). With R bytes that nobody was asked for, the time in which
//! all is done at the earliest is T with Σ rᵢ·(T − eᵢ)⁺ = R, and link i's share is rᵢ·(T − eᵢ)⁺.
//! - *Depth*: how far ahead a link is asked is the rule of every schedule ([`ahead`](super::ahead)).
//! - *Size*: the next whole part while that is at most half of the link's share; else half of the
//!   share, so that parts shrink geometrically towards the end (guided self-scheduling: Polychronopoulos
//!   and Kuck, IEEE Trans. Computers 1987), down to what the link brings in 20 ms.
//! - *Yielding*: a link without a share takes nothing: the other drains everything before it could
//!   bring a byte of use (earliest completion first: Lim et al., CoNEXT 2017). Nor does one take a part
//!   that cannot be divided, of a server without ranges or of unknown size, if the other is done before.
//! - *Stealing*: when nothing is left to ask for, a link that runs dry takes the end of the part
//!   that the other finishes last, in proportion to both rates, if that ends the run earlier by more
//!   than 30 ms and a tenth of what is left. The other's answer cannot be shortened: what of it comes
//!   twice is waste, and the first copy counts. [The budget](super::redundancy) for it is 2 %.
//! - *Dropping*: a connection that owes nothing of use for longer than three round trips + 50 ms is
//!   closed when there is work.
//!
//! **Worst case.** Rates that change faster than 1 s, the time that they are averaged over, in opposite
//! directions right before the end: each link then holds at most what it was asked for ahead, two
//! round trips + 150 ms at its rate, and the other takes that over. A link that stops costs
//! max(1 s, 4 round trips) of its own rate before its work moves. One of r/1000 of the other's rate
//! holds one part until the end and loses all but the beginning of it.

use std::time::Duration;

use super::connection::OutstandingRequest;
use super::coupling::{FIRST_PART_BYTES, LinkActivity};
use super::link_state::LinkState;
use super::{ConnectionId, Next, PartRequest, Pipeline, Schedule, Scheduler};
use crate::units::{LinkId, PerLink};

/// A part takes at least this long (s), within bounds in bytes.
const LEAST_PART_S: f64 = 0.02;
const LEAST_PART_BYTES: (f64, f64) = (8e3, 256e3);
/// The least gain of stealing work (s), and as a share of the remaining time.
const LEAST_GAIN_S: f64 = 0.03;
const LEAST_GAIN_SHARE: f64 = 0.1;
/// The payload of a full TCP segment, as a share of its Ethernet frame.
pub(super) const PAYLOAD_SHARE: f64 = 1448.0 / 1514.0;
/// The rate of a link of which nothing is known (bytes/s).
const FIRST_RATE: f64 = 1e6;
/// How often a link with nothing to do looks again.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One link, as the rule sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkView {
    pub rate: f64,
    /// When it could begin with something new (s from now).
    pub starts_s: f64,
}

impl Scheduler {
    pub(super) fn next_adaptive(&mut self, id: ConnectionId, now: Duration) -> Next {
        if self.exceeds_budget(id, now) {
            return Next::Drop;
        }
        let look_again = Next::Wait(Some(now + LOOK_AGAIN));
        let link = id.link;
        self.prune(link);
        self.watch_coupling(now);
        let views = self.views(now);
        let (state, connection) = (&self.link_states[link], self.connection(id));
        if !connection.asked.is_empty() && connection.useful_outstanding(&self.sizes) == 0 {
            let rate = self.view_of(id, &views, now).rate;
            let useless_s = connection.outstanding(&self.sizes) as f64 / rate;
            let work = !self.pool.is_empty() || self.worth_taking(id, &views, now).is_some();
            let reopening_s = 3.0 * state.rtt.as_secs_f64() + 0.05;
            return if work && useless_s > reopening_s { Next::Drop } else { look_again };
        }
        if !state.may_pipeline(id.index, self.pipeline)
            || (!connection.asked.is_empty() && !self.runs_low(id, now))
        {
            return Next::Wait(None);
        }
        if self.coupling.holds(link) && !self.pool.has_own(link) {
            return look_again;
        }
        if let Some(part) = self.late_elsewhere(id, &views, now) {
            return self.take_over(id, part, now);
        }
        if self.pool.first(link).is_some() {
            let Some((place, most)) = self.pick_in_time(link, &views, now) else { return look_again };
            if self.asks_for_beginning(link, place) {
                return self.ask_for_beginning(id, place, now);
            }
            return self
                .sized(id, place, most, &views, now)
                .map_or(look_again, |part| self.ask_for(id, place, part, now));
        }
        match self.worth_taking(id, &views, now) {
            Some(part) => self.take_over(id, part, now),
            None => look_again,
        }
    }

    /// Tells the estimator of coupled links how both stand.
    fn watch_coupling(&mut self, now: Duration) {
        let links = PerLink::of(|link| {
            let state = &self.link_states[link];
            LinkActivity {
                busy: !state.is_idle(),
                up: !state.dead && state.active_since(now).is_some(),
                rtt: state.rtt,
                most: state.shaped_rate * PAYLOAD_SHARE,
            }
        });
        let waits = self.pool.bytes_for(LinkId::A, &self.sizes);
        let rest =
            waits + self.link_states.iter().map(|state| state.useful_outstanding(&self.sizes)).sum::<u64>();
        self.coupling.update(now, &links, rest);
    }

    /// Returns the rate and the next free time of both links. An unknown rate counts as the other link's, or
    /// as that of its own first burst where that is more; a link without a connection has rate 0.
    pub(super) fn views(&self, now: Duration) -> PerLink<LinkView> {
        let known = PerLink::of(|link| self.link_states[link].rate(now));
        PerLink::of(|link| {
            let state = &self.link_states[link];
            let as_other =
                known[link.other()].map(|rate| rate.max(state.mean_rate.burst().unwrap_or_default()));
            let guess = known[link].or(as_other).unwrap_or(FIRST_RATE).max(1.0);
            let works = state.is_up() && !state.dead && !self.coupling.yields(link);
            let rate = if works { guess } else { 0.0 };
            let busy_s = state.outstanding(&self.sizes) as f64 / guess;
            LinkView { rate, starts_s: busy_s.max(state.rtt.as_secs_f64()) }
        })
    }

    /// Returns the same of one connection: its share of the link's rate.
    pub(super) fn view_of(&self, id: ConnectionId, views: &PerLink<LinkView>, now: Duration) -> LinkView {
        let (link, state) = (views[id.link], &self.link_states[id.link]);
        if link.rate <= 0.0 || state.connections.len() < 2 {
            return link;
        }
        let rate = link.rate * state.share_of(id.index, now);
        let busy_s = self.connection(id).outstanding(&self.sizes) as f64 / rate;
        LinkView { rate, starts_s: busy_s.max(state.rtt.as_secs_f64()) }
    }

    /// Returns the piece of the part at `place` that a connection should ask for, of at most `most` bytes; `None`
    /// where another link serves it better.
    fn sized(
        &self,
        id: ConnectionId,
        place: usize,
        most: Option<u64>,
        views: &PerLink<LinkView>,
        now: Duration,
    ) -> Option<PartRequest> {
        let link = id.link;
        let (mine, (part, own)) = (views[link], self.pool.get(link, place)?);
        if own {
            return Some(part);
        }
        let Some(end) = self.sizes.end(&part).filter(|_| self.link_states[link].ranges) else {
            return self.is_worth_it_whole(link, &part, views).then_some(part);
        };
        let rest = self.pool.bytes_for(link, &self.sizes);
        let (size, share) = (end.saturating_sub(part.from), share(link, views, rest));
        let least = least_part(mine.rate);
        // One of the two has at least half of the rest, so that one of them takes it.
        if most.is_none() && share < (least / 2.0).min(rest as f64 / 2.0) {
            return None;
        }
        // Each connection of the link takes its part of that.
        let connections =
            self.link_states[link].connections.iter().filter(|connection| connection.up).count();
        let half = share / 2.0 / connections.max(1) as f64;
        let state = &self.link_states[link];
        let free =
            self.pipeline == Pipeline::Auto && self.plan == Schedule::Adaptive && state.is_near_shaped();
        let rate = state.rate(now).or_else(|| state.mean_rate.burst()).unwrap_or(FIRST_RATE);
        let at_once = self.coupling.most_at_once(link, rate, now).filter(|_| free).unwrap_or(size);
        let most = most.unwrap_or(size).min(at_once).min(half.max(least) as u64).min(size);
        // A rest that is not worth a request of its own goes with it.
        if size as f64 - most as f64 <= least / 2.0 {
            return Some(part);
        }
        Some(PartRequest { to: Some(part.from + most), ..part })
    }

    /// Returns true if a part is a file of unknown size, of which a near link of unknown rate is asked for the
    /// beginning alone.
    fn asks_for_beginning(&self, link: LinkId, place: usize) -> bool {
        let state = &self.link_states[link];
        let whole =
            self.pool.get(link, place).is_some_and(|(part, own)| !own && self.sizes.end(&part).is_none());
        whole && state.ranges && state.is_near_shaped() && state.received_bytes() == 0
    }

    /// Asks a connection for the beginning of a file. [`Scheduler::head`] puts back the rest as soon as there is known to be
    /// one.
    fn ask_for_beginning(&mut self, id: ConnectionId, place: usize, now: Duration) -> Next {
        let link = id.link;
        let Some((part, own)) = self.pool.take(link, place, &self.sizes) else { return Next::Wait(None) };
        let to = Some(part.from + FIRST_PART_BYTES);
        let request =
            OutstandingRequest { ends: to, beginning: true, ..OutstandingRequest::new(part, own, now) };
        self.link_state(link).ask(id.index, request);
        Next::Request(PartRequest { to, ..part })
    }

    /// Whether `link` should take a part that cannot be divided: not where the other brings all that waits
    /// before that. That holds of one of the two at most, since all that waits is not less than the part.
    pub(super) fn is_worth_it_whole(
        &self,
        link: LinkId,
        part: &PartRequest,
        views: &PerLink<LinkView>,
    ) -> bool {
        let (mine, other) = (views[link], views[link.other()]);
        let rest = self.pool.bytes_for(link.other(), &self.sizes) as f64;
        let done_s = mine.starts_s + self.sizes.estimate(part) as f64 / mine.rate;
        other.rate <= 0.0 || done_s <= other.starts_s + rest / other.rate
    }

    /// Takes `wanted` out of what waits at `place`.
    pub(super) fn ask_for(
        &mut self,
        id: ConnectionId,
        place: usize,
        wanted: PartRequest,
        now: Duration,
    ) -> Next {
        let link = id.link;
        let Some((whole, own)) = self.pool.take(link, place, &self.sizes) else { return Next::Wait(None) };
        if let Some(to) = wanted.to.filter(|_| wanted.to != whole.to) {
            self.pool.put_back(PartRequest { from: to, ..whole }, own.then_some(link), &self.sizes);
        }
        if wanted.from > whole.from {
            let before = PartRequest { to: Some(wanted.from), ..whole };
            self.pool.put_back(before, own.then_some(link), &self.sizes);
        }
        self.ask(id, wanted, own, now)
    }

    /// The end of the last part of the connection that is done last, where all is done earlier if `id` fetches it.
    fn worth_taking(
        &self,
        id: ConnectionId,
        views: &PerLink<LinkView>,
        now: Duration,
    ) -> Option<PartRequest> {
        let others = self.connections().filter(|(other, _)| *other != id);
        let done_last = others.filter_map(|(other, state)| {
            let owed = state.useful_outstanding(&self.sizes);
            let last = state.asked.iter().rev().find(|asked| asked.useful_outstanding(&self.sizes) > 0)?;
            // Of one that has hardly begun it is not known that it is slow; if it is silent, it stalls.
            self.link_states[other.link].rate(now)?;
            if other.link == id.link {
                state.rate(now)?;
            }
            let done_s = owed as f64 / self.view_of(other, views, now).rate.max(1.0);
            Some((done_s, other, last, owed))
        });
        let (_, other, last, owed) = done_last.max_by(|a, b| a.0.total_cmp(&b.0))?;
        self.end_of(id, (other, last), owed, views, now)
    }

    /// The end of a part that another connection was asked for and of which `owed` bytes with those before
    /// them are to come, where that is all here earlier if `id` fetches the end.
    pub(super) fn end_of(
        &self,
        id: ConnectionId,
        (from, part): (ConnectionId, &OutstandingRequest),
        owed: u64,
        views: &PerLink<LinkView>,
        now: Duration,
    ) -> Option<PartRequest> {
        let [mine, other] = [id, from].map(|id| self.view_of(id, views, now));
        let (state, owed) = (&self.link_states[id.link], owed as f64);
        let (end, most) = (self.sizes.end(&part.part)?, part.useful_outstanding(&self.sizes));
        if part.own || !state.ranges || !self.may_bring(id.link, part.part.segment) || most == 0 {
            return None;
        }
        let alone_s = owed / other.rate.max(1.0);
        let shared_s = (owed + mine.rate * mine.starts_s) / (mine.rate + other.rate);
        let gain_s = alone_s - shared_s;
        if gain_s < LEAST_GAIN_S.max(LEAST_GAIN_SHARE * alone_s) {
            return None;
        }
        let least = least_part(mine.rate) as u64;
        let wanted = ((mine.rate * (shared_s - mine.starts_s)) as u64).max(least);
        let taken = if wanted + least >= most { most } else { wanted };
        // More than this link's share may be no gain; two links would take it from each other without end.
        if mine.starts_s + taken as f64 / mine.rate >= alone_s {
            return None;
        }
        let allowed = self.most_to_steal(from, other.rate, views, gain_s, now).unwrap_or(taken);
        let taken = taken.min(allowed);
        if taken < least.min(most) {
            return None;
        }
        Some(PartRequest { from: end - taken, ..part.part })
    }

    /// Asks a connection for the end of what another one was asked for.
    fn take_over(&mut self, id: ConnectionId, part: PartRequest, now: Duration) -> Next {
        let sizes = &self.sizes;
        // A part stolen whole is empty, and may end where another part does.
        let same = |asked: &&mut OutstandingRequest| {
            (asked.part.segment, asked.part.to) == (part.segment, part.to)
                && asked.useful_outstanding(sizes) > 0
        };
        if let Some(asked) = self.link_states.iter_mut().flat_map(LinkState::asked_mut).find(same) {
            asked.part.to = Some(part.from);
        }
        self.ask(id, part, false, now)
    }
}

/// The least that a link of this rate is asked for (bytes/s, bytes).
pub(super) fn least_part(rate: f64) -> f64 {
    (rate * LEAST_PART_S).clamp(LEAST_PART_BYTES.0, LEAST_PART_BYTES.1)
}

/// How many of `rest` bytes `link` brings by the time in which both together have brought them all.
pub(super) fn share(link: LinkId, views: &PerLink<LinkView>, rest: u64) -> f64 {
    let (mine, other) = (views[link], views[link.other()]);
    let rest = rest as f64;
    if other.rate <= 0.0 {
        return rest;
    }
    // T with both at work, and the link's part of it; where that is negative one of them has none.
    let both_s = (rest + mine.rate * mine.starts_s + other.rate * other.starts_s) / (mine.rate + other.rate);
    (mine.rate * (both_s - mine.starts_s)).clamp(0.0, rest)
}
