//! The client of a simulation: the client's own scheduler, driven as the client's links drive it. Pure;
//! time is handed in, in seconds.

use std::collections::VecDeque;
use std::time::Duration;

use crate::client::schedule::{Next, Outlook, Pipeline, Schedule, Scheduler};
use crate::units::LinkId;

/// The head of an answer of twinlink's server, bytes.
pub const ANSWER_HEAD_BYTES: u64 = 470;

/// How long a connection that stalled is left alone.
const BACKOFF_S: f64 = 0.1;
/// No two looks at the scheduler are nearer to each other where only time has passed.
const LEAST_WAIT_S: f64 = 1e-6;

/// A request that is not answered in full.
#[derive(Clone, Copy, Debug)]
struct Asked {
    segment: usize,
    from: u64,
    length: u64,
    head_left: u64,
    left: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Open,
    /// Closed, and opened again when there is work, not before this time (s).
    Closed(f64),
    /// Open from this time on (s).
    Opening(f64),
}

/// One link's side.
#[derive(Clone, Debug)]
pub struct Side {
    asked: VecDeque<Asked>,
    state: State,
    rtt_s: f64,
    /// When the scheduler wants to be asked again (s).
    wake_s: f64,
    pub bytes: u64,
    pub files: u64,
    pub last_byte_s: Option<f64>,
}

/// What a link wants of the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wish {
    /// A request whose answer has so many bytes.
    Ask(u64),
    /// The connection is closed; what is on its way is lost.
    Close,
    /// A new connection, not begun before this time (s).
    Open(f64),
}

#[derive(Debug)]
pub struct Client<'a> {
    scheduler: Scheduler,
    sizes: &'a [u64],
    /// When the scheduler is told the files' sizes (s).
    learns_s: Option<f64>,
    pub sides: [Side; 2],
    pub wasted_bytes: u64,
}

fn clock(now_s: f64) -> Duration {
    Duration::from_secs_f64(now_s)
}

impl<'a> Client<'a> {
    /// A client with an open connection to each server.
    pub fn new(schedule: &Schedule, pipeline: Pipeline, sizes: &'a [u64], rtt_s: [f64; 2]) -> Client<'a> {
        let told = |size: &u64| matches!(schedule, Schedule::Rates { .. }).then_some(*size);
        let mut scheduler = Scheduler::new(schedule, pipeline, sizes.iter().map(told).collect());
        for link in LinkId::BOTH {
            scheduler.opened(link, Duration::ZERO, clock(rtt_s[link.index()]));
        }
        let side = |rtt_s| Side {
            asked: VecDeque::new(),
            state: State::Open,
            rtt_s,
            wake_s: f64::INFINITY,
            bytes: 0,
            files: 0,
            last_byte_s: None,
        };
        // Sizes are asked for on a connection of their own to server a, while the transfer begins.
        let learns_s = scheduler.needs_sizes().then_some(2.0 * rtt_s[0]);
        Client { scheduler, sizes, learns_s, sides: rtt_s.map(side), wasted_bytes: 0 }
    }

    /// Whether every file is complete.
    pub fn is_done(&self) -> bool {
        self.sides.iter().map(|side| side.files).sum::<u64>() == self.sizes.len() as u64
    }

    /// When the client does something though nothing came (s).
    pub fn next_s(&self, now_s: f64) -> f64 {
        let of = |link: LinkId| {
            let side = &self.sides[link.index()];
            let stalls = self.scheduler.stalls_at(link).map(|at| at.as_secs_f64()).filter(|&at| at > now_s);
            match side.state {
                State::Open => side.wake_s.min(stalls.unwrap_or(f64::INFINITY)),
                State::Closed(until) if until > now_s => until,
                State::Closed(_) => f64::INFINITY,
                State::Opening(at) => at,
            }
        };
        of(LinkId::A).min(of(LinkId::B)).min(self.learns_s.unwrap_or(f64::INFINITY))
    }

    /// What a link wants now, if anything; to be asked again until it is nothing.
    pub fn wish(&mut self, link: LinkId, now_s: f64) -> Option<Wish> {
        if self.learns_s.take_if(|at| *at <= now_s).is_some() {
            let sizes: Vec<Option<u64>> = self.sizes.iter().copied().map(Some).collect();
            self.scheduler.learn_sizes(&sizes);
        }
        let (side, now) = (&mut self.sides[link.index()], clock(now_s));
        match side.state {
            State::Opening(at) if at <= now_s => {
                side.state = State::Open;
                self.scheduler.opened(link, now, clock(side.rtt_s));
            }
            State::Opening(_) => return None,
            State::Closed(until) => {
                let wanted = until <= now_s && self.scheduler.outlook(link) == Outlook::Work;
                return wanted.then_some(Wish::Open(now_s));
            }
            State::Open => {}
        }
        side.wake_s = f64::INFINITY;
        if self.scheduler.is_stalled(link, now) {
            return Some(self.close(link, now_s + BACKOFF_S));
        }
        match self.scheduler.next(link, now) {
            Next::Request(part) => {
                let length = part.to.unwrap_or(self.sizes[part.segment]) - part.from;
                let (segment, from, head_left) = (part.segment, part.from, ANSWER_HEAD_BYTES);
                self.sides[link.index()].asked.push_back(Asked {
                    segment,
                    from,
                    length,
                    head_left,
                    left: length,
                });
                Some(Wish::Ask(head_left + length))
            }
            Next::Wait(at) => {
                let at_s = at.map_or(f64::INFINITY, |at| at.as_secs_f64().max(now_s + LEAST_WAIT_S));
                self.sides[link.index()].wake_s = at_s;
                None
            }
            Next::Drop => Some(self.close(link, now_s)),
            Next::Done => None,
        }
    }

    fn close(&mut self, link: LinkId, until_s: f64) -> Wish {
        self.scheduler.lost(link);
        let side = &mut self.sides[link.index()];
        side.asked.clear();
        side.state = State::Closed(until_s);
        Wish::Close
    }

    /// The connection that was wished for is open from `at_s` on.
    pub fn opens(&mut self, link: LinkId, at_s: f64) {
        self.sides[link.index()].state = State::Opening(at_s);
    }

    /// `bytes` of answers came.
    pub fn received(&mut self, link: LinkId, now_s: f64, mut bytes: u64) {
        let mut payload = 0;
        while let Some(asked) = self.sides[link.index()].asked.front_mut() {
            let head = asked.head_left.min(bytes);
            asked.head_left -= head;
            if asked.head_left > 0 {
                break;
            }
            let body = asked.left.min(bytes - head);
            asked.left -= body;
            bytes -= head + body;
            let Asked { segment, from, length, left, .. } = *asked;
            if head > 0 {
                self.scheduler.head(link, from, Some(length), Some(self.sizes[segment]));
            }
            payload += body;
            self.claim(link, body);
            if left == 0 {
                self.scheduler.ended(link);
                self.sides[link.index()].asked.pop_front();
            }
            if !self.scheduler.is_complete(segment) && self.scheduler.is_whole(segment) {
                self.scheduler.completed(segment);
                self.sides[link.index()].files += 1;
            }
            if left > 0 {
                break;
            }
        }
        if payload > 0 {
            self.sides[link.index()].last_byte_s = Some(now_s);
            self.scheduler.received(link, clock(now_s), payload);
        }
    }

    /// Tells new bytes from such as have come already.
    fn claim(&mut self, link: LinkId, mut bytes: u64) {
        while bytes > 0 {
            let claim = self.scheduler.claim(link, bytes);
            self.sides[link.index()].bytes += claim.fresh;
            self.wasted_bytes += claim.stale;
            bytes -= claim.stale + claim.fresh;
        }
    }
}
