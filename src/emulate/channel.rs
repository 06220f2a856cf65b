//! The shared channel: an airtime model of one access point and its stations. Pure; time is handed
//! in, and must not run backwards.
//!
//! Each turn occupies the channel for `overhead + Σ bits / phy`, and whoever has something to send
//! gets the next turn with equal chance, whatever its rate: so two stations that always have
//! something to send, with packets of L bits and rates r₁ and r₂, each get L / (t₁ + t₂) with
//! tᵢ = overhead + L / rᵢ, and the slow one drags the fast one down. (Heusse, Rousseau,
//! Berger-Sabbatel, Duda: "Performance anomaly of 802.11b", INFOCOM 2003.)
//!
//! - A packet between two stations crosses twice: once in its sender's turn, once in the access
//!   point's. Requests, ACKs and data all take airtime.
//! - A turn carries several packets to one receiver, bound by the aggregate's limit, the time of a
//!   turn and what is waiting. Packets that fail are sent again in a later turn, and those behind
//!   them wait for them: order is kept. After [`TRIES`] a packet is lost.
//! - Contention is drawn at random, as in 802.11, not dealt out in rounds: a uniform draw among
//!   those that wait is what "equal chance" says, and keeps the bursts that it makes.
//! - A direction's queue counts what waits at both crossings, and drops before the first.
//!
//! Not modelled: collisions, rate adaptation, interference, hidden stations, power saving.

use std::collections::VecDeque;

use super::delay_line::Bottleneck;
use super::egress_queue::{Draws, EgressQueue, Packet};
use super::link::{Cause, DelayStage, Departure, Limit, Tally};
use super::rng::{Purpose, Stream};
use crate::config::channel::{Channel, ChannelConfig, Fair, Station};
use crate::units::Nanos;
use crate::units::{Direction, LinkId, Percent, Rate};

/// How often a packet is sent before it is lost: 802.11's usual retry limit.
pub const TRIES: u32 = 7;

/// How far an aggregate reaches past a packet that is to be repeated (the block-ack window).
const WINDOW: usize = 64;

/// A packet between its arrival and the end of its last crossing.
#[derive(Clone, Copy, Debug)]
struct Frame {
    flow: usize,
    id: u32,
    bytes: u32,
    draws: Draws,
    /// The number of crossings behind it.
    crossed: usize,
    tries: u32,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waiting,
    Delivered,
    Lost,
}

/// The frames that one radio has for another, in order.
#[derive(Clone, Debug)]
struct TransmitQueue {
    phy: Rate,
    retry: Percent,
    frames: VecDeque<Frame>,
    /// The time on the channel so far (ns), for sharing it evenly.
    airtime: Nanos,
}

impl TransmitQueue {
    fn new(station: &Station) -> TransmitQueue {
        TransmitQueue { phy: station.phy, retry: station.retry, frames: VecDeque::new(), airtime: 0 }
    }

    fn has_work(&self) -> bool {
        !self.frames.is_empty()
    }
}

/// A contender for turns: a station with one lane, or the access point with a lane for each station.
#[derive(Clone, Debug)]
struct Contender {
    name: &'static str,
    lanes: Vec<TransmitQueue>,
    /// The lane that had the last turn.
    last_lane: usize,
    /// Time on the channel, turns that are under way included.
    busy: Nanos,
}

/// The index of a contender, and of one of its lanes.
type QueuePosition = (usize, usize);

/// The access point's place among the contenders.
const ACCESS_POINT: usize = 0;

#[derive(Clone, Debug)]
struct Turn {
    ends: Nanos,
    place: QueuePosition,
    /// Which of the lane's frames it carries.
    frames: Vec<usize>,
}

/// One direction of a link that crosses the channel.
#[derive(Clone, Debug)]
struct ChannelFlow {
    path: Vec<QueuePosition>,
    cap: Option<Bottleneck>,
    /// Held back by the cap, with the time of release.
    entry: VecDeque<(Nanos, Frame)>,
    /// Packets in `entry` and on the channel, and their bytes.
    waiting: (u64, u64),
    egress_queue: EgressQueue,
    limit: Limit,
    tally: Tally,
}

/// The channel, its stations, and the links on it.
#[derive(Clone, Debug)]
pub struct SharedChannel {
    channel: Channel,
    contenders: Vec<Contender>,
    /// By [`flow_index`].
    flows: [Option<ChannelFlow>; 4],
    turn: Option<Turn>,
    turns: Stream,
    retries: Stream,
    /// Packets that were lost on the channel and that the caller has not taken yet.
    lost: Vec<(LinkId, Direction, u32)>,
}

fn flow_index(link: LinkId, direction: Direction) -> usize {
    link.index() * 2 + direction as usize
}

fn flow_of(index: usize) -> (LinkId, Direction) {
    (LinkId::BOTH[index / 2], Direction::BOTH[index % 2])
}

impl SharedChannel {
    /// Sets the channel up. `split_delay` says that what goes up is held for the channel alone and that
    /// its delay is added to what comes down (see [`DelayStage::Elsewhere`]).
    pub fn new(config: &ChannelConfig, seed: u64, split_delay: bool) -> SharedChannel {
        let mut channel = SharedChannel {
            channel: config.channel.clone(),
            contenders: vec![Contender::new("ap")],
            flows: [None, None, None, None],
            turn: None,
            turns: Stream::new(seed, LinkId::A, Direction::Down, Purpose::Turn),
            retries: Stream::new(seed, LinkId::A, Direction::Down, Purpose::Retry),
            lost: Vec::new(),
        };
        let client = config.client.map(|station| channel.add_station("client", &station));
        for link in LinkId::BOTH {
            let Some(on_channel) = config.link(link) else { continue };
            let name = if link == LinkId::A { "server-a" } else { "server-b" };
            let server = on_channel.server.map(|station| channel.add_station(name, &station));
            // A station's way to the access point is its own turn, the way back the access point's.
            let down = [server.map(|s| (s.0, 0)), client.map(|c| (ACCESS_POINT, c.1))];
            let up = [client.map(|c| (c.0, 0)), server.map(|s| (ACCESS_POINT, s.1))];
            for (direction, path) in [(Direction::Down, down), (Direction::Up, up)] {
                let path = path.into_iter().flatten().collect();
                channel.flows[flow_index(link, direction)] =
                    Some(ChannelFlow::new(config, link, direction, path, seed, split_delay));
            }
        }
        channel
    }

    /// Gives the contender of a new station, and the access point's lane to it.
    fn add_station(&mut self, name: &'static str, station: &Station) -> (usize, usize) {
        let mut contender = Contender::new(name);
        contender.lanes.push(TransmitQueue::new(station));
        self.contenders.push(contender);
        let access_point = &mut self.contenders[ACCESS_POINT];
        access_point.lanes.push(TransmitQueue::new(station));
        (self.contenders.len() - 1, self.contenders[ACCESS_POINT].lanes.len() - 1)
    }

    pub fn carries(&self, link: LinkId) -> bool {
        self.flows[flow_index(link, Direction::Down)].is_some()
    }

    fn flow(&mut self, link: LinkId, direction: Direction) -> &mut ChannelFlow {
        self.flows[flow_index(link, direction)].as_mut().expect("the caller asks for links on the channel")
    }

    /// Takes a packet of `bytes` (as Ethernet frame) in, after all that happens before it.
    ///
    /// # Errors
    /// The cause, where the packet is dropped.
    ///
    /// # Panics
    /// If the link is not on the channel.
    pub fn arrive(
        &mut self,
        now: Nanos,
        (link, direction): (LinkId, Direction),
        id: u32,
        bytes: u32,
    ) -> Result<(), Cause> {
        self.advance(now);
        let index = flow_index(link, direction);
        let flow = self.flow(link, direction);
        let draws = flow.egress_queue.draw();
        if !flow.limit.has_room(flow.waiting, bytes) {
            flow.tally.dropped_queue += 1;
            return Err(Cause::QueueFull);
        }
        let frame = Frame { flow: index, id, bytes, draws, crossed: 0, tries: 0, fate: Fate::Waiting };
        let ready = flow.cap.as_mut().map_or(now, |cap| cap.pass(now, bytes));
        flow.entry.push_back((ready, frame));
        flow.waiting.0 += 1;
        flow.waiting.1 += u64::from(bytes);
        flow.tally.held_packets_max = flow.tally.held_packets_max.max(flow.held(now));
        self.advance(now);
        Ok(())
    }

    /// Plays everything that happens on the channel up to now.
    pub fn advance(&mut self, now: Nanos) {
        while let Some(at) = self.next_on_channel().filter(|&at| at <= now) {
            if let Some(turn) = self.turn.take_if(|turn| turn.ends <= at) {
                self.end_turn(turn);
            }
            self.admit(at);
            if self.turn.is_none() {
                self.start_turn(at);
            }
        }
    }

    /// When something happens on the channel: a turn ends, or a packet finds it idle.
    fn next_on_channel(&self) -> Option<Nanos> {
        match &self.turn {
            Some(turn) => Some(turn.ends),
            None => self.flows.iter().flatten().filter_map(|f| f.entry.front()).map(|e| e.0).min(),
        }
    }

    /// Lets packets that their cap has released contend.
    fn admit(&mut self, now: Nanos) {
        for flow in self.flows.iter_mut().flatten() {
            while flow.entry.front().is_some_and(|entry| entry.0 <= now) {
                let Some((_, frame)) = flow.entry.pop_front() else { break };
                let (contender, lane) = flow.path[0];
                self.contenders[contender].lanes[lane].frames.push_back(frame);
            }
        }
    }

    fn start_turn(&mut self, now: Nanos) {
        let waiting: Vec<usize> = (0..self.contenders.len())
            .filter(|&c| self.contenders[c].lanes.iter().any(TransmitQueue::has_work))
            .collect();
        if waiting.is_empty() {
            return;
        }
        let contender = waiting[self.turns.below(waiting.len())];
        let lane = self.contenders[contender].next_lane(self.channel.fair);
        let (frames, time) = self.aggregate(&self.contenders[contender].lanes[lane]);
        let sender = &mut self.contenders[contender];
        sender.last_lane = lane;
        sender.busy += time;
        sender.lanes[lane].airtime += time;
        self.turn = Some(Turn { ends: now + time, place: (contender, lane), frames });
    }

    /// Which of a lane's frames go in one turn, and how long the turn takes.
    fn aggregate(&self, lane: &TransmitQueue) -> (Vec<usize>, Nanos) {
        let overhead = self.channel.overhead.0.as_nanos() as Nanos;
        let txop = self.channel.txop.0.as_nanos() as Nanos;
        let (mut chosen, mut bytes, mut time) = (Vec::new(), 0, overhead);
        for (index, frame) in lane.frames.iter().take(WINDOW).enumerate() {
            if frame.fate != Fate::Waiting {
                continue;
            }
            let longer = overhead + lane.phy.time_for(bytes + u64::from(frame.bytes)).as_nanos() as Nanos;
            let full = chosen.len() as u32 >= self.channel.ampdu || longer > txop;
            if full && !chosen.is_empty() {
                break;
            }
            bytes += u64::from(frame.bytes);
            time = longer;
            chosen.push(index);
        }
        (chosen, time)
    }

    fn end_turn(&mut self, turn: Turn) {
        let (contender, lane) = turn.place;
        let lane = &mut self.contenders[contender].lanes[lane];
        for index in turn.frames {
            let frame = &mut lane.frames[index];
            frame.tries += 1;
            if !self.retries.happens(lane.retry) {
                frame.fate = Fate::Delivered;
            } else if frame.tries >= TRIES {
                frame.fate = Fate::Lost;
            }
        }
        let through = lane.frames.iter().take_while(|frame| frame.fate != Fate::Waiting).count();
        let through: Vec<Frame> = lane.frames.drain(..through).collect();
        for frame in through {
            self.leave_lane(turn.ends, frame);
        }
    }

    /// Sends a frame that has crossed on to its next crossing, or down its line; or reports its loss.
    fn leave_lane(&mut self, now: Nanos, mut frame: Frame) {
        let flow = self.flows[frame.flow].as_mut().expect("a frame's flow exists");
        frame.crossed += 1;
        if frame.fate == Fate::Delivered && frame.crossed < flow.path.len() {
            let (contender, lane) = flow.path[frame.crossed];
            frame.tries = 0;
            frame.fate = Fate::Waiting;
            self.contenders[contender].lanes[lane].frames.push_back(frame);
            return;
        }
        flow.waiting.0 -= 1;
        flow.waiting.1 -= u64::from(frame.bytes);
        if frame.fate == Fate::Lost {
            flow.tally.dropped_loss += 1;
            let (link, direction) = flow_of(frame.flow);
            self.lost.push((link, direction, frame.id));
        } else {
            flow.egress_queue.file(Packet::new(frame.id, frame.bytes, now, frame.draws, None));
        }
    }

    /// When to call [`SharedChannel::advance`] next.
    pub fn next_event(&self) -> Option<Nanos> {
        let departures = self.flows.iter().flatten().filter_map(|flow| flow.egress_queue.next_departure());
        departures.chain(self.next_on_channel()).min()
    }

    /// Hands out a direction's next packet whose time has come.
    ///
    /// # Panics
    /// If the link is not on the channel.
    pub fn take_due(&mut self, now: Nanos, link: LinkId, direction: Direction) -> Option<Departure> {
        let flow = self.flow(link, direction);
        let departure = flow.egress_queue.take_due(now)?;
        flow.tally.packets += 1;
        flow.tally.bytes += u64::from(departure.bytes);
        Some(departure)
    }

    /// Hands out the packets that were lost on the channel.
    pub fn take_lost(&mut self) -> std::vec::Drain<'_, (LinkId, Direction, u32)> {
        self.lost.drain(..)
    }

    /// A direction's counts so far, and what is held now.
    ///
    /// # Panics
    /// If the link is not on the channel.
    pub fn tally(&mut self, now: Nanos, link: LinkId, direction: Direction) -> Tally {
        self.advance(now);
        let flow = self.flow(link, direction);
        Tally {
            held_packets: flow.held(now),
            held_bytes: flow.waiting.1 + flow.egress_queue.bytes_inside(now),
            waiting_packets: flow.waiting.0,
            waiting_bytes: flow.waiting.1,
            ..flow.tally
        }
    }

    /// How long each station and the access point have been on the channel since the start.
    pub fn busy(&self) -> impl Iterator<Item = (&'static str, Nanos)> + '_ {
        self.contenders.iter().map(|contender| (contender.name, contender.busy))
    }
}

impl Contender {
    fn new(name: &'static str) -> Contender {
        Contender { name, lanes: Vec::new(), last_lane: 0, busy: 0 }
    }

    /// The lane that the next turn serves; there must be one with something to send.
    fn next_lane(&mut self, fair: Fair) -> usize {
        let count = self.lanes.len();
        let working = |index: &usize| self.lanes[*index].has_work();
        let in_turn = (1..=count).map(|step| (self.last_lane + step) % count).filter(working);
        let chosen = match fair {
            Fair::Turns => in_turn.into_iter().next(),
            // The first of those with the least, so that equals still take turns.
            Fair::Airtime => in_turn.min_by_key(|&index| self.lanes[index].airtime),
        }
        .expect("a contender with a turn has something to send");
        // A lane that had nothing to send saves nothing up: it counts from the least airtime.
        let least = self.lanes[chosen].airtime;
        for lane in self.lanes.iter_mut().filter(|lane| !lane.has_work()) {
            lane.airtime = lane.airtime.max(least);
        }
        chosen
    }
}

impl ChannelFlow {
    fn new(
        config: &ChannelConfig,
        link: LinkId,
        direction: Direction,
        path: Vec<QueuePosition>,
        seed: u64,
        split_delay: bool,
    ) -> ChannelFlow {
        let shape = config.shape(link).expect("the link is on the channel");
        let delay = match direction {
            _ if !split_delay => DelayStage::Here,
            Direction::Down => DelayStage::HereAnd(&shape),
            Direction::Up => DelayStage::Elsewhere,
        };
        ChannelFlow {
            path,
            cap: config.link(link).and_then(|on_channel| on_channel.cap).map(Bottleneck::new),
            entry: VecDeque::new(),
            waiting: (0, 0),
            egress_queue: EgressQueue::new(&shape, delay, seed, link, direction),
            limit: Limit::of(&shape),
            tally: Tally::default(),
        }
    }

    /// Packets in this direction, its delay line included.
    fn held(&mut self, now: Nanos) -> u64 {
        self.waiting.0 + self.egress_queue.inside(now)
    }
}
