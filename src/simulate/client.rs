//! The client of a simulation: drives the client's own scheduler as the client's links drive it. Pure: the
//! caller gives the time.

use std::collections::VecDeque;
use std::time::Duration;

use crate::schedule::{ConnectionId, Connections, Next, Outlook, Pipeline, Schedule, Scheduler, TcpReading};
use crate::units::LinkId;
use crate::units::Nanos;

/// The head of an answer of twinlink's server, bytes.
pub(crate) const ANSWER_HEAD_BYTES: u64 = 470;
/// A request of the whole of a file, and of a part of one, bytes.
const REQUEST_BYTES: u64 = 115;
const RANGE_REQUEST_BYTES: u64 = 175;

/// The pause before a stalled connection is used again (ns).
const BACKOFF: Nanos = 100_000_000;
/// How often a link that could be a stalled one is looked at again.
const LOOK_AGAIN: Nanos = 100_000_000;
/// The least time between two calls of the scheduler where only time has passed (ns).
const LEAST_WAIT: Nanos = 1_000;

/// A request that is not answered in full.
#[derive(Clone, Copy, Debug)]
struct SimulatedRequest {
    segment: usize,
    from: u64,
    length: u64,
    head_left: u64,
    left: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum SimulatedState {
    Open,
    /// Closed; opened again for work, not before this time.
    Closed(Nanos),
    Opening,
}

/// The client's end of one connection.
#[derive(Clone, Debug)]
struct ClientEnd {
    asked: VecDeque<SimulatedRequest>,
    state: SimulatedState,
    /// When to ask the scheduler again though nothing came.
    wake: Nanos,
}

/// One link's side.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    /// By their index.
    ends: Vec<ClientEnd>,
    pub bytes: u64,
    pub files: u64,
    pub last_byte: Option<Nanos>,
}

/// The next action of a connection on the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LinkAction {
    /// A request of so many bytes, and the bytes of its answer.
    Ask(u64, u64),
    /// Closes the connection; packets in flight are lost.
    Close,
    /// Opens a new connection.
    Open,
}

#[derive(Debug)]
pub(crate) struct Client<'a> {
    scheduler: Scheduler,
    sizes: &'a [u64],
    pub sides: [Side; 2],
    pub wasted_bytes: u64,
    /// A link lost its connection, so that the other may have something to do.
    pub changed: bool,
}

fn clock(now: Nanos) -> Duration {
    Duration::from_nanos(now)
}

fn nanos(time: Duration) -> Nanos {
    time.as_nanos() as Nanos
}

impl<'a> Client<'a> {
    /// A client with the connections open that each link begins with; the links are shaped to these rates (bytes/s).
    pub(crate) fn new(
        schedule: &Schedule,
        (pipeline, connections): (Pipeline, Connections),
        sizes: &'a [u64],
        rtt: [Nanos; 2],
        shaped: [f64; 2],
    ) -> Client<'a> {
        let known = |size: &u64| schedule.needs_sizes().then_some(*size);
        let mut scheduler = Scheduler::new(schedule, pipeline, sizes.iter().map(known).collect());
        scheduler.set_connections(connections);
        let sides = LinkId::BOTH.map(|link| {
            let rtt = clock(rtt[link.index()]);
            scheduler.set_shaped_rate(link, Some(shaped[link.index()]));
            scheduler.opened(link, Duration::ZERO, rtt);
            for id in scheduler.missing_connections(link) {
                scheduler.opened(id, Duration::ZERO, rtt);
            }
            let end = ClientEnd { asked: VecDeque::new(), state: SimulatedState::Open, wake: 0 };
            let ends = vec![end; scheduler.wanted_connections(link)];
            Side { ends, bytes: 0, files: 0, last_byte: None }
        });
        Client { scheduler, sizes, sides, wasted_bytes: 0, changed: false }
    }

    /// Returns how many connections a link has, open or not.
    pub(crate) fn connections(&self, link: LinkId) -> usize {
        self.sides[link.index()].ends.len()
    }

    /// The TCP of a link is in this state. The link may get further connections, which are yet to be opened.
    pub(crate) fn read_tcp(&mut self, link: LinkId, reading: TcpReading, now: Nanos) {
        self.scheduler.read_tcp(link, reading, clock(now));
        let wanted = self.scheduler.wanted_connections(link);
        let ends = &mut self.sides[link.index()].ends;
        for end in ends.iter_mut().take(wanted).filter(|end| end.state == SimulatedState::Closed(Nanos::MAX))
        {
            (end.state, end.wake) = (SimulatedState::Closed(now), now);
        }
        let more = wanted.max(ends.len());
        let closed = ClientEnd { asked: VecDeque::new(), state: SimulatedState::Closed(now), wake: now };
        ends.resize(more, closed);
    }

    fn end(&mut self, id: ConnectionId) -> &mut ClientEnd {
        &mut self.sides[id.link.index()].ends[id.index]
    }

    /// Whether it asks for the files' sizes while the transfer begins.
    pub(crate) fn needs_sizes(&self) -> bool {
        self.scheduler.needs_sizes()
    }

    /// The files' sizes have become known.
    pub(crate) fn learn_sizes(&mut self) {
        let sizes: Vec<Option<u64>> = self.sizes.iter().copied().map(Some).collect();
        self.scheduler.learn_sizes(&sizes);
    }

    /// Whether every file is complete.
    pub(crate) fn is_done(&self) -> bool {
        self.sides.iter().map(|side| side.files).sum::<u64>() == self.sizes.len() as u64
    }

    /// When to ask a connection for its next action though nothing came.
    pub(crate) fn next(&self, id: ConnectionId) -> Nanos {
        self.sides[id.link.index()].ends[id.index].wake
    }

    /// Returns the next action of a connection, if any; the caller asks again until there is none.
    pub(crate) fn next_action(&mut self, id: ConnectionId, now: Nanos) -> Option<LinkAction> {
        let end = self.end(id);
        end.wake = Nanos::MAX;
        match end.state {
            SimulatedState::Opening => return None,
            SimulatedState::Closed(until) => {
                if until > now {
                    end.wake = until;
                    return None;
                }
                if self.scheduler.outlook(id.link) != Outlook::Work {
                    return None;
                }
                self.end(id).state = SimulatedState::Opening;
                return Some(LinkAction::Open);
            }
            SimulatedState::Open => {}
        }
        if self.scheduler.is_stalled(id, clock(now)) {
            return Some(self.close(id, now + BACKOFF));
        }
        let next = self.scheduler.next(id, clock(now));
        let stalls = self.scheduler.stalls_at(id).map_or(Nanos::MAX, nanos);
        let is_done = self.is_done();
        let end = &mut self.sides[id.link.index()].ends[id.index];
        end.wake = if stalls > now { stalls } else { now + LOOK_AGAIN };
        match next {
            Next::Request(part) => {
                let size = self.sizes[part.segment];
                let length = part.to.map_or(size, |to| to.min(size)) - part.from;
                let (segment, from, head_left) = (part.segment, part.from, ANSWER_HEAD_BYTES);
                end.asked.push_back(SimulatedRequest { segment, from, length, head_left, left: length });
                let whole = part.from == 0 && part.to.is_none();
                Some(LinkAction::Ask(
                    if whole { REQUEST_BYTES } else { RANGE_REQUEST_BYTES },
                    head_left + length,
                ))
            }
            Next::Wait(at) => {
                end.wake = end.wake.min(at.map_or(Nanos::MAX, |at| nanos(at).max(now + LEAST_WAIT)));
                None
            }
            Next::Drop => Some(self.close(id, now)),
            Next::Done if !is_done => Some(self.close(id, Nanos::MAX)),
            Next::Done => {
                end.wake = Nanos::MAX;
                None
            }
        }
    }

    fn close(&mut self, id: ConnectionId, until: Nanos) -> LinkAction {
        self.scheduler.lost(id);
        let end = self.end(id);
        end.asked.clear();
        (end.state, end.wake) = (SimulatedState::Closed(until), until);
        self.changed = true;
        LinkAction::Close
    }

    /// The new connection is open; its handshake took `rtt`.
    pub(crate) fn opened(&mut self, id: ConnectionId, now: Nanos, rtt: Nanos) {
        self.end(id).state = SimulatedState::Open;
        self.scheduler.opened(id, clock(now), clock(rtt));
    }

    /// `bytes` of answers came.
    pub(crate) fn received(&mut self, id: ConnectionId, now: Nanos, mut bytes: u64) {
        let mut payload = 0;
        while let Some(asked) = self.end(id).asked.front_mut() {
            let head = asked.head_left.min(bytes);
            asked.head_left -= head;
            if asked.head_left > 0 {
                break;
            }
            let body = asked.left.min(bytes - head);
            asked.left -= body;
            bytes -= head + body;
            let SimulatedRequest { segment, from, length, left, .. } = *asked;
            if head > 0 {
                self.scheduler.head(id, from, Some(length), Some(self.sizes[segment]));
            }
            payload += body;
            self.claim(id, body);
            if left == 0 {
                self.scheduler.ended(id);
                self.end(id).asked.pop_front();
            }
            if !self.scheduler.is_complete(segment) && self.scheduler.is_whole(segment) {
                self.scheduler.completed(segment);
                self.sides[id.link.index()].files += 1;
            }
            if left > 0 {
                break;
            }
        }
        if payload > 0 {
            self.sides[id.link.index()].last_byte = Some(now);
            self.scheduler.received(id, clock(now), payload);
        }
    }

    /// Tells new bytes from such as have come already.
    fn claim(&mut self, id: ConnectionId, mut bytes: u64) {
        while bytes > 0 {
            let claim = self.scheduler.claim(id, bytes);
            self.sides[id.link.index()].bytes += claim.fresh;
            self.wasted_bytes += claim.stale;
            bytes -= claim.stale + claim.fresh;
        }
    }
}
