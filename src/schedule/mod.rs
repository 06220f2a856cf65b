//! Which link fetches what next. Pure: no socket, no clock, no tokio.
//!
//! The caller reports events to a [`Scheduler`] (a connection opens, an answer begins, bytes arrive, a
//! connection is lost, a link is given up), with the time since the run's start; the scheduler decides the
//! next request of each link and its time. It counts every byte: a byte is new exactly once, and waste after
//! that. `twinlink client` drives it with sockets and `twinlink simulate` with a model of the links.
//!
//! A link has one connection or more, each with a number ([`ConnectionId`]). For each request of a connection, in
//! this order: [`Scheduler::next`] gives it, [`Scheduler::head`], any number
//! of [`Scheduler::claim`] (which bytes are new) and [`Scheduler::received`] (how many came in one read),
//! then [`Scheduler::ended`]. Answers come in the order of the requests. The caller that writes a file's last
//! byte calls [`Scheduler::completed`].

pub(crate) mod adaptive;
pub(crate) mod ahead;
pub(crate) mod connection;
pub(crate) mod connections;
pub(crate) mod coupling;
pub(crate) mod deadline;
pub(crate) mod dems;
pub(crate) mod ecf;
pub(crate) mod ewma;
pub(crate) mod exec;
pub(crate) mod greedy;
pub(crate) mod link_state;
pub(crate) mod min_rtt;
pub(crate) mod pipeline;
pub(crate) mod policy;
pub(crate) mod pool;
pub(crate) mod ranges;
pub(crate) mod rates;
pub(crate) mod ratio;
pub(crate) mod redundancy;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use crate::units::{LinkId, PerLink};
pub(crate) use connection::ConnectionId;
use connection::{ConnectionState, OutstandingRequest};
use connections::ConnectionCount;
pub(crate) use connections::{Connections, TcpReading};
pub(crate) use coupling::Coupling;
use coupling::CouplingEstimator;
use deadline::Playhead;
use exec::{Advice, Adviser};
pub(crate) use link_state::LEAST_STALL;
use link_state::LinkState;
pub(crate) use pipeline::Pipeline;
pub(crate) use policy::{HELP, NAMES, Schedule};
use pool::{PartPool, Sizes};
pub(crate) use ranges::Ranges;

/// Bytes of one segment to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartRequest {
    /// Place in the list of segments, from 0.
    pub segment: usize,
    /// The first byte wanted.
    pub from: u64,
    /// One past the last byte wanted; `None` for the end of the file.
    pub to: Option<u64>,
}

impl PartRequest {
    pub(crate) fn whole(segment: usize) -> PartRequest {
        PartRequest { segment, from: 0, to: None }
    }
}

/// The next step of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Request(PartRequest),
    /// Wait for an event, or until this time where there is one.
    Wait(Option<Duration>),
    /// Close the connection: its outstanding bytes are useless, and there is other work.
    Drop,
    /// The link's work is done.
    Done,
}

/// The work that a link without a connection can expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outlook {
    Work,
    /// The other link may give something back.
    Perhaps,
    Nothing,
}

/// Bytes that come, told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Where in the file they begin.
    pub at: u64,
    /// The number of bytes that are on file already.
    pub stale: u64,
    /// The number of new bytes after them; the caller must write these.
    pub fresh: u64,
}

/// The state of a schedule in the middle of a run.
#[derive(Debug)]
pub(crate) struct Scheduler {
    plan: Schedule,
    /// The link of each segment; `None` where the link with room takes it.
    owners: Vec<Option<LinkId>>,
    pipeline: Pipeline,
    sizes: Sizes,
    pool: PartPool,
    link_states: PerLink<LinkState>,
    counts: PerLink<ConnectionCount>,
    player: Playhead,
    /// Bytes received twice or in vain.
    wasted: u64,
    /// The received ranges of incomplete segments.
    open: HashMap<usize, Ranges>,
    complete: Vec<bool>,
    completed: usize,
    /// Segments that a link is not asked for any more.
    excluded: PerLink<HashSet<usize>>,
    /// Segments that no link can bring.
    abandoned: BTreeSet<usize>,
    /// A link that brings less than this share of what the other carries is slow.
    least_share: f64,
    /// Segments that come last: an answer with them broke off.
    deferred: HashSet<usize>,
    changes: u64,
    /// Whether the links get in each other's way.
    coupling: CouplingEstimator,
    /// Under `ecf`, the link with the longer round trip waits for the other.
    far_link_waits: bool,
    /// Under `exec`, the program that decides, why it cannot be followed, and since when both links have had
    /// nothing to do.
    adviser: Option<Box<dyn Adviser>>,
    advice_failure: Option<String>,
    idle_since: Option<Duration>,
}

impl Scheduler {
    /// A scheduler for as many files as there are `sizes`, which are `None` where not known.
    pub(crate) fn new(schedule: &Schedule, pipeline: Pipeline, sizes: Vec<Option<u64>>) -> Scheduler {
        let segments = sizes.len();
        let owners = schedule.owners(&sizes);
        let sizes = Sizes::new(sizes);
        let mut pool = PartPool::default();
        for (segment, &owner) in owners.iter().enumerate() {
            pool.push_back(PartRequest::whole(segment), owner, &sizes);
        }
        Scheduler {
            plan: schedule.clone(),
            owners,
            pipeline,
            sizes,
            pool,
            link_states: Default::default(),
            counts: Default::default(),
            player: Playhead::default(),
            wasted: 0,
            open: HashMap::new(),
            complete: vec![false; segments],
            completed: 0,
            excluded: Default::default(),
            abandoned: BTreeSet::new(),
            least_share: 0.0,
            deferred: HashSet::new(),
            changes: 0,
            coupling: CouplingEstimator::default(),
            far_link_waits: false,
            adviser: None,
            advice_failure: None,
            idle_since: None,
        }
    }

    /// Returns the number of events so far after which a link that waits may find work, or need not wait any
    /// longer. A caller that sees it grow asks [`Scheduler::next`] for the links that wait.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Sets the share of the other link's rate below which a link counts as slow; 0 for no such share.
    pub(crate) fn set_least_share(&mut self, share: f64) {
        self.least_share = share;
    }

    /// `link` is shaped to this rate, bytes/s; `None` where it is not shaped.
    pub(crate) fn set_shaped_rate(&mut self, link: LinkId, rate: Option<f64>) {
        self.link_state(link).shaped_rate = rate.unwrap_or(f64::INFINITY);
    }

    /// Whether it decides by the files' sizes, so that it is to be told them.
    pub(crate) fn needs_sizes(&self) -> bool {
        self.plan.divides_files()
    }

    /// The sizes of files, as far as they have become known; one that is known already stays.
    pub(crate) fn learn_sizes(&mut self, sizes: &[Option<u64>]) {
        for (segment, size) in sizes.iter().enumerate() {
            size.iter().for_each(|&size| self.sizes.learn(segment, size));
        }
        self.pool.recount(&self.sizes);
    }

    /// A connection is open, with this round trip (least seen so far).
    pub(crate) fn opened(&mut self, id: impl Into<ConnectionId>, now: Duration, rtt: Duration) {
        let id = id.into();
        let shaped_rate = self.link_states[id.link].shaped_rate;
        self.counts[id.link].begins(rtt, shaped_rate);
        self.link_state(id.link).opened(id.index, now, rtt);
    }

    /// Whether the server of `link` keeps a connection open after the first answer on it.
    pub(crate) fn keeps_alive(&mut self, link: LinkId, keeps_alive: bool) {
        self.link_state(link).keeps_alive = keeps_alive;
    }

    /// Returns the next step of a connection, which is open.
    pub(crate) fn next(&mut self, id: impl Into<ConnectionId>, now: Duration) -> Next {
        if self.is_done() {
            return Next::Done;
        }
        let id = id.into();
        let link = id.link;
        if id.index >= self.wanted_connections(link) {
            return if self.connection(id).asked.is_empty() { Next::Done } else { Next::Wait(None) };
        }
        let state = &self.link_states[link];
        debug_assert!(!state.dead, "a dead link asks for nothing");
        if self.is_adaptive() {
            return self.next_adaptive(id, now);
        }
        if !state.may_pipeline(id.index, self.pipeline) {
            return Next::Wait(None);
        }
        let auto = self.pipeline == Pipeline::Auto;
        if auto && !state.connections[id.index].asked.is_empty() && !self.runs_low(id, now) {
            return Next::Wait(None);
        }
        self.prune(link);
        let Some((part, own)) = self.pool.first(link) else { return Next::Wait(None) };
        let look_again = Next::Wait(Some(now + adaptive::LOOK_AGAIN));
        let picked = match self.plan {
            Schedule::MinRtt => self.pick_min_rtt(link, now),
            Schedule::Ecf => self.pick_ecf(link, now),
            Schedule::Dems => self.pick_dems(link),
            Schedule::Exec(_) => match self.pick_advised(link, now) {
                Advice::Part(place, part) => Some((place, part)),
                Advice::Wait(time) => return Next::Wait(Some(now + time)),
            },
            _ if auto && !own && self.leaves_to_other(link, &part, now) => None,
            _ => Some((0, part)),
        };
        picked.map_or(look_again, |(place, part)| self.ask_for(id, place, part, now))
    }

    /// Forgets what waits first and has come meanwhile, from a request that was thought lost or slow.
    fn prune(&mut self, link: LinkId) {
        while let Some((part, _)) = self.pool.first(link) {
            let covered = self.open.get(&part.segment).map_or(0, |have| have.covered_from(part.from));
            let come = covered > 0 && self.sizes.end(&part).is_some_and(|end| part.from + covered >= end);
            if !come && !self.complete[part.segment] {
                return;
            }
            self.pool.take(link, 0, &self.sizes);
        }
    }

    fn ask(&mut self, id: ConnectionId, part: PartRequest, own: bool, now: Duration) -> Next {
        self.link_state(id.link).ask(id.index, OutstandingRequest::new(part, own, now));
        Next::Request(part)
    }

    /// The answer that is due on a connection begins with byte `from` of a file of `total` bytes, and its
    /// body is `length` bytes long, as far as the head says.
    pub(crate) fn head(
        &mut self,
        id: impl Into<ConnectionId>,
        from: u64,
        length: Option<u64>,
        total: Option<u64>,
    ) {
        let id = id.into();
        let connections = &mut self.link_states[id.link].connections;
        let Some(asked) = connections[id.index].asked.front_mut() else { return };
        if let Some(total) = total.filter(|_| !asked.cancelled) {
            self.sizes.learn(asked.part.segment, total);
        }
        let asked_to = asked.ends.or(total);
        asked.at = from;
        asked.ends = length.map(|length| from.saturating_add(length));
        asked.answering = true;
        let beyond = asked.ends.zip(asked_to).is_some_and(|(ends, asked_to)| ends > asked_to);
        let ranges = from == asked.part.from && !beyond;
        let beginning = std::mem::take(&mut asked.beginning) && ranges;
        let more = beginning && asked.ends == asked_to && asked.ends != total;
        if let Some(to) = asked.ends.filter(|_| more) {
            let part = asked.part;
            asked.part.to = Some(to);
            self.pool.put_back(PartRequest { from: to, ..part }, None, &self.sizes);
            self.changes += 1;
        }
        if !ranges {
            // It sends files whole, whatever is asked for.
            self.link_state(id.link).ranges = false;
        }
    }

    /// The server of `link` is not to be asked for ranges any more: it does not answer with them.
    pub(crate) fn sends_whole(&mut self, link: LinkId) {
        self.link_state(link).ranges = false;
    }

    /// Whether the server of `link` may be asked for ranges.
    pub(crate) fn ranges(&self, link: LinkId) -> bool {
        self.link_states[link].ranges
    }

    /// Of the next `bytes` that came on a connection: how many are there already, and how many after those
    /// are new. Both together may be less than `bytes`; then ask again for the rest.
    pub(crate) fn claim(&mut self, id: impl Into<ConnectionId>, bytes: u64) -> Claim {
        let id = id.into();
        let Some(asked) = self.link_states[id.link].connections[id.index].asked.front_mut() else {
            return Claim { at: 0, stale: bytes, fresh: 0 };
        };
        let at = asked.at;
        if asked.cancelled || self.complete[asked.part.segment] {
            asked.at += bytes;
            self.wasted += if asked.cancelled { 0 } else { bytes };
            return Claim { at, stale: bytes, fresh: 0 };
        }
        let have = self.open.entry(asked.part.segment).or_default();
        let (stale, fresh) = have.split(at, bytes);
        have.insert(at + stale, at + stale + fresh);
        asked.at += stale + fresh;
        self.wasted += stale;
        Claim { at, stale, fresh }
    }

    /// One read brought `bytes` of payload on a connection.
    pub(crate) fn received(&mut self, id: impl Into<ConnectionId>, now: Duration, bytes: u64) {
        let id = id.into();
        self.coupling.received(id.link, now, bytes);
        self.link_state(id.link).received(id.index, now, bytes);
    }

    /// Returns whether the links get in each other's way, as far as it is known.
    pub(crate) fn coupling(&self) -> Coupling {
        self.coupling.verdict()
    }

    /// Ends the current answer on a connection. Its missing bytes go back to the pool.
    pub(crate) fn ended(&mut self, id: impl Into<ConnectionId>) {
        let id = id.into();
        let Some(asked) = self.connection_mut(id).asked.pop_front() else { return };
        if asked.part.to.is_none() && !asked.cancelled {
            self.sizes.learn(asked.part.segment, asked.at);
        }
        self.put_back(id.link, &asked);
    }

    /// The answer under way on a connection is over, and nothing of it was of use.
    pub(crate) fn passed_over(&mut self, id: impl Into<ConnectionId>) {
        let id = id.into();
        if let Some(asked) = self.connection_mut(id).asked.pop_front() {
            self.put_back(id.link, &asked);
        }
    }

    /// A connection is lost: what it still owed is to be fetched still.
    pub(crate) fn lost(&mut self, id: impl Into<ConnectionId>) {
        let id = id.into();
        self.changes += 1;
        let asked = self.link_state(id.link).closed(id.index);
        for asked in asked.iter().rev() {
            self.put_back(id.link, asked);
        }
    }

    /// Puts what is missing of a request back.
    fn put_back(&mut self, link: LinkId, asked: &OutstandingRequest) {
        let PartRequest { segment, from, to } = asked.part;
        if asked.cancelled || self.complete[segment] {
            return;
        }
        let none = Ranges::default();
        let have = self.open.get(&segment).unwrap_or(&none);
        let owner = self.owner_of(segment, asked.own.then_some(link));
        let last = self.deferred.contains(&segment);
        for (from, to) in have.gaps(from, to.or(self.sizes.of(segment))).into_iter().rev() {
            let to = to.filter(|&to| Some(to) != self.sizes.of(segment));
            let part = PartRequest { segment, from, to };
            self.changes += 1;
            if last {
                self.pool.push_back(part, owner, &self.sizes);
            } else {
                self.pool.put_back(part, owner, &self.sizes);
            }
        }
    }

    /// Returns the one link that may fetch a segment, which is `owner` unless a link is excluded.
    fn owner_of(&self, segment: usize, owner: Option<LinkId>) -> Option<LinkId> {
        let excluded = |link: &LinkId| self.excluded[*link].contains(&segment);
        LinkId::BOTH.into_iter().find(excluded).map(LinkId::other).or(owner)
    }

    /// Whether the server of `link` may be asked for a segment.
    pub(crate) fn may_bring(&self, link: LinkId, segment: usize) -> bool {
        let fixed_to_other = self.owners[segment].is_some_and(|owner| owner != link);
        let excluded = self.excluded[link].contains(&segment);
        !(fixed_to_other || excluded || self.link_states[link].dead)
    }

    /// The server of `link` cannot bring a segment: it is not asked for it again, and what it still
    /// sends of it is of no use. Returns whether the other server may bring it. If not, the segment is
    /// abandoned, and the others are fetched.
    pub(crate) fn exclude(&mut self, link: LinkId, segment: usize) -> bool {
        if self.complete[segment] || self.abandoned.contains(&segment) {
            return self.complete[segment];
        }
        self.excluded[link].insert(segment);
        if self.owners[segment] == Some(link) || !self.may_bring(link.other(), segment) {
            self.abandon(segment);
            return false;
        }
        let asked = self.link_states[link].asked_mut();
        let asked = asked.filter(|asked| asked.part.segment == segment && !asked.cancelled);
        let owed: Vec<_> = asked.map(|asked| (asked.clone(), asked.cancelled = true).0).collect();
        owed.iter().for_each(|asked| self.put_back(link, asked));
        self.pool.hand_over(|part| part.segment == segment, link.other(), &self.sizes);
        self.changes += 1;
        true
    }

    /// The server of `link` may be asked for a segment again.
    pub(crate) fn readmit(&mut self, link: LinkId, segment: usize) {
        self.excluded[link].remove(&segment);
    }

    /// Gives a segment up: it is fetched from nowhere.
    pub(crate) fn abandon(&mut self, segment: usize) {
        self.pool.retain(|part| part.segment != segment, &self.sizes);
        for asked in self.link_states.iter_mut().flat_map(LinkState::asked_mut) {
            asked.cancelled |= asked.part.segment == segment;
        }
        self.open.remove(&segment);
        self.abandoned.insert(segment);
        self.changes += 1;
    }

    /// Returns the segments that no link can bring.
    pub(crate) fn abandoned(&self) -> &BTreeSet<usize> {
        &self.abandoned
    }

    /// An answer with a segment broke off: the segment is asked for again after all others.
    pub(crate) fn defer(&mut self, segment: usize) {
        self.deferred.insert(segment);
        self.pool.move_last(segment, &self.sizes);
    }

    /// A segment is on disk under its name.
    pub(crate) fn completed(&mut self, segment: usize) {
        if !std::mem::replace(&mut self.complete[segment], true) {
            self.completed += 1;
            self.open.remove(&segment);
            self.changes += u64::from(self.is_done());
        }
    }

    /// Whether every byte of a segment has come.
    pub(crate) fn is_whole(&self, segment: usize) -> bool {
        let Some(size) = self.sizes.of(segment) else { return false };
        let covered = self.open.get(&segment).map_or(0, |have| have.covered_from(0));
        self.complete[segment] || covered >= size
    }

    /// Returns the received ranges of an incomplete segment, without those of outstanding requests on other
    /// connections than `id`, whose last bytes may not be written yet.
    pub(crate) fn settled(&self, segment: usize, id: impl Into<ConnectionId>) -> Ranges {
        let id = id.into();
        let mut settled = self.open.get(&segment).cloned().unwrap_or_default();
        let others = self.connections().filter(|(other, _)| *other != id).flat_map(|(_, state)| &state.asked);
        for asked in others.filter(|asked| asked.part.segment == segment) {
            settled = settled
                .iter()
                .flat_map(|(from, to)| {
                    [(from, to.min(asked.part.from)), (from.max(asked.at.max(asked.part.from)), to)]
                })
                .collect();
        }
        settled
    }

    /// An earlier run has left these segments whole (without ranges) or in part. With their sizes.
    pub(crate) fn resume(&mut self, left: Vec<(usize, u64, Option<Ranges>)>) {
        for (segment, size, _) in &left {
            self.sizes.learn(*segment, *size);
        }
        let there: HashSet<usize> = left.iter().map(|(segment, ..)| *segment).collect();
        self.pool.retain(|part| !there.contains(&part.segment), &self.sizes);
        for (segment, size, have) in left.into_iter().rev() {
            let Some(have) = have else {
                self.completed(segment);
                continue;
            };
            for (from, to) in have.gaps(0, Some(size)).into_iter().rev() {
                let to = to.filter(|&to| to != size);
                self.pool.put_back(PartRequest { segment, from, to }, self.owners[segment], &self.sizes);
            }
            self.open.insert(segment, have);
        }
    }

    /// Discards the received ranges of a segment, which is fetched again whole, by `only` where that is
    /// given. Outstanding answers for it no longer count.
    pub(crate) fn restart(&mut self, segment: usize, only: Option<LinkId>) {
        self.open.remove(&segment);
        self.sizes.forget(segment);
        self.pool.retain(|part| part.segment != segment, &self.sizes);
        for asked in self.link_states.iter_mut().flat_map(LinkState::asked_mut) {
            asked.cancelled |= asked.part.segment == segment;
        }
        let only = self.owner_of(segment, only.or(self.owners[segment]));
        self.pool.put_back(PartRequest::whole(segment), only, &self.sizes);
        self.changes += 1;
    }

    /// Discards the received ranges of the segment that is being answered on a connection; the answer brings all of
    /// it anew.
    pub(crate) fn begins_anew(&mut self, id: impl Into<ConnectionId>) {
        let id = id.into();
        let Some((segment, ..)) = self.due(id) else { return };
        let had = self.open.get(&segment).into_iter().flat_map(Ranges::iter);
        self.wasted += had.map(|(from, to)| to - from).sum::<u64>();
        self.restart(segment, None);
        self.pool.retain(|part| part.segment != segment, &self.sizes);
        if let Some(asked) = self.connection_mut(id).asked.front_mut() {
            (asked.part, asked.cancelled) = (PartRequest::whole(segment), false);
        }
    }

    pub(crate) fn is_complete(&self, segment: usize) -> bool {
        self.complete[segment]
    }

    /// Returns the work that `link` can expect, without a request.
    pub(crate) fn outlook(&mut self, link: LinkId) -> Outlook {
        self.prune(link);
        if self.is_done() {
            Outlook::Nothing
        } else if self.pool.first(link).is_some()
            || (self.is_adaptive() && !self.link_states[link.other()].is_idle())
        {
            Outlook::Work
        } else {
            Outlook::Perhaps
        }
    }

    /// `link` has been given up. Returns whether the rest can still be fetched, but for segments that
    /// the other server cannot bring, which are abandoned.
    pub(crate) fn give_up(&mut self, link: LinkId) -> bool {
        self.link_state(link).dead = true;
        (0..self.link_states[link].connections.len())
            .for_each(|index| self.lost(ConnectionId { link, index }));
        let other = link.other();
        let own = self.pool.own(link);
        if self.is_done() {
            return true;
        }
        if self.link_states[other].dead || own.iter().any(|&segment| self.owners[segment].is_some()) {
            return false;
        }
        for segment in own {
            if self.may_bring(other, segment) {
                self.pool.hand_over(|part| part.segment == segment, other, &self.sizes);
            } else {
                self.abandon(segment);
            }
        }
        true
    }

    /// Whether `link` has a connection.
    pub(crate) fn is_up(&self, link: LinkId) -> bool {
        self.link_states[link].is_up()
    }

    /// Returns true if one link may do the work of the other, so that a server that is away need not end the
    /// run, and may come back.
    pub(crate) fn outlives_a_link(&self) -> bool {
        self.is_adaptive()
    }

    /// When a connection is to be asked about with [`Scheduler::is_stalled`] if nothing comes before.
    pub(crate) fn stalls_at(&self, id: impl Into<ConnectionId>) -> Option<Duration> {
        let id = id.into();
        self.link_states[id.link].stalls_at(id.index).filter(|_| self.is_adaptive())
    }

    /// Since when nothing has come on a connection although something is due; `None` where nothing is.
    pub(crate) fn silent_since(&self, id: impl Into<ConnectionId>) -> Option<Duration> {
        let connection = self.connection(id.into());
        (connection.up && !connection.asked.is_empty()).then_some(connection.last_byte)
    }

    /// The first segment that is due on a connection, the next byte of it, and how many are wanted.
    pub(crate) fn due(&self, id: impl Into<ConnectionId>) -> Option<(usize, u64, u64)> {
        let first = self.connection(id.into()).asked.front()?;
        Some((first.part.segment, first.at, first.useful_outstanding(&self.sizes)))
    }

    /// Whether nothing has come on a connection for the longer of 1 s and 4 round trips although something
    /// was due, while the other link moved or had nothing to wait for, or its own link moved. Silence on both at
    /// once is an outage, which is not the fault of this connection.
    pub(crate) fn is_stalled(&self, id: impl Into<ConnectionId>, now: Duration) -> bool {
        let id = id.into();
        let (state, other) = (&self.link_states[id.link], &self.link_states[id.link.other()]);
        let stall_timeout = state.stall_timeout();
        let Some(at) = self.stalls_at(id).filter(|&at| now >= at) else { return false };
        let since = other.active_since(now);
        since.is_some_and(|since| now >= since + stall_timeout) || state.last_rx + stall_timeout / 2 >= at
    }

    /// Returns the new bytes that are progress of the server of `link`, before which it counts as silent: what
    /// its link brings in 1 s at 8 kB/s, or at a tenth of the rate that it is shaped to. Without a least share,
    /// any byte is.
    pub(crate) fn least_progress(&self, link: LinkId) -> u64 {
        match self.least_share > 0.0 {
            true => (self.link_states[link].trickle_rate() as u64).max(1),
            false => 1,
        }
    }

    /// `bytes` of what came on `link` are new. Returns whether its server got on.
    pub(crate) fn brought_new(&mut self, link: LinkId, now: Duration, bytes: u64) -> bool {
        let least = self.least_progress(link);
        self.link_state(link).brought_new(now, bytes, least)
    }

    /// The server of `link` got on, however few bytes came: a file is whole.
    pub(crate) fn progressed(&mut self, link: LinkId, now: Duration) {
        self.link_state(link).progressed(now);
    }

    /// When the server of `link` last got on.
    pub(crate) fn last_progress(&self, link: LinkId) -> Duration {
        self.link_states[link].last_progress
    }

    /// Whether `link` brings what is due so slowly that its answer counts as a silent one: for 5 s less
    /// than the least share of what the other link carries, or carried when it last carried anything. Where rates decide and the link carried more
    /// before, 1.5 s (4 round trips on a long way) are enough.
    pub(crate) fn is_slow(&self, link: LinkId, now: Duration) -> bool {
        let other = &self.link_states[link.other()];
        let at_once = || other.is_done_at_once().then_some(f64::INFINITY);
        let theirs = other.rate(now).or_else(|| other.mean_rate()).or_else(at_once);
        let theirs = theirs.filter(|_| other.is_up() && !other.dead && self.least_share > 0.0);
        let state = &self.link_states[link];
        theirs.is_some_and(|rate| state.is_slow(self.least_share * rate, self.is_adaptive(), now))
    }

    /// The size of a segment, where it is known.
    pub(crate) fn size(&self, segment: usize) -> Option<u64> {
        self.sizes.of(segment)
    }

    fn is_adaptive(&self) -> bool {
        self.plan.is_adaptive()
    }

    /// Whether every segment is complete or abandoned.
    pub(crate) fn is_done(&self) -> bool {
        self.completed + self.abandoned.len() == self.sizes.count()
    }

    fn link_state(&mut self, link: LinkId) -> &mut LinkState {
        &mut self.link_states[link]
    }

    fn connection(&self, id: ConnectionId) -> &ConnectionState {
        &self.link_states[id.link].connections[id.index]
    }

    fn connection_mut(&mut self, id: ConnectionId) -> &mut ConnectionState {
        &mut self.link_states[id.link].connections[id.index]
    }

    /// Returns all connections of both links.
    fn connections(&self) -> impl Iterator<Item = (ConnectionId, &ConnectionState)> {
        LinkId::BOTH.into_iter().flat_map(|link| {
            let of_link = self.link_states[link].connections.iter().enumerate();
            of_link.map(move |(index, state)| (ConnectionId { link, index }, state))
        })
    }
}
