//! The shared channel: one access point, its stations, and the links between them. Pure; time is handed
//! in, and must not run backwards.
//!
//! - [`medium`] decides who sends when, and what is lost: contention, collisions, aggregates, repeats.
//! - A packet between two stations crosses twice: once in its sender's turn, once in the access
//!   point's. Requests, ACKs and data all take airtime.
//! - A direction's queue counts what waits at both crossings, and drops before the first.
//!
//! Not modelled: rate adaptation, interference, hidden stations, beacons, power saving.

pub mod medium;

use std::collections::VecDeque;

use super::delay_line::Bottleneck;
use super::delay_line::Draw;
use super::egress_queue::{ArrivingPacket, EgressQueue, Packet};
use super::link::{Cause, Departure, Limit, Tally};
use super::rng::{Purpose, Stream};
use crate::config::channel::{ChannelConfig, Hop, Node};
use crate::units::Nanos;
use crate::units::{Direction, LinkId};
use medium::{Medium, QueuePosition};

/// A packet between its arrival and the end of its last crossing.
#[derive(Clone, Copy, Debug)]
struct Frame {
    flow: usize,
    id: u32,
    bytes: u32,
    draw: Draw,
    /// The number of crossings behind it.
    crossed: usize,
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
    medium: Medium<Frame>,
    /// By their number on the medium.
    devices: Vec<Node>,
    /// By [`flow_index`].
    flows: [Option<ChannelFlow>; 4],
    /// Packets that were lost on the channel and that the caller has not taken yet.
    lost: Vec<(LinkId, Direction, u32)>,
}

fn flow_index(link: LinkId, direction: Direction) -> usize {
    link.index() * 2 + direction as usize
}

fn flow_of(index: usize) -> (LinkId, Direction) {
    (LinkId::BOTH[index / 2], Direction::BOTH[index % 2])
}

/// The queues of the medium by their ends.
type Queues = Vec<((Node, Node), QueuePosition)>;

impl SharedChannel {
    pub fn new(config: &ChannelConfig, seed: u64) -> SharedChannel {
        let stream = |purpose| Stream::new(seed, LinkId::A, Direction::Down, purpose);
        let (backoffs, retries) = (stream(Purpose::Turn), stream(Purpose::Retry));
        let mut channel = SharedChannel {
            medium: Medium::new(config.timing(), config.channel.fair, backoffs, retries),
            devices: Vec::new(),
            flows: [None, None, None, None],
            lost: Vec::new(),
        };
        let mut queues = Queues::new();
        for link in LinkId::BOTH {
            for direction in Direction::BOTH {
                let hops = config.hops(link, direction);
                if hops.is_empty() {
                    continue;
                }
                let path = hops.iter().map(|hop| channel.queue(&mut queues, hop)).collect();
                channel.flows[flow_index(link, direction)] =
                    Some(ChannelFlow::new(config, link, direction, path, seed));
            }
        }
        channel
    }

    /// Gives the queue of a hop, which all links that take it share.
    fn queue(&mut self, queues: &mut Queues, hop: &Hop) -> QueuePosition {
        let ends = (hop.from, hop.to);
        if let Some((_, known)) = queues.iter().find(|(known, _)| *known == ends) {
            return *known;
        }
        let device = self.devices.iter().position(|device| *device == hop.from).unwrap_or_else(|| {
            self.devices.push(hop.from);
            self.medium.add_device()
        });
        let position = self.medium.add_queue(device, hop.radio);
        queues.push((ends, position));
        position
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
        let draw = flow.egress_queue.draw();
        if !flow.limit.has_room(flow.waiting, bytes) {
            flow.tally.dropped_queue += 1;
            return Err(Cause::QueueFull);
        }
        let frame = Frame { flow: index, id, bytes, draw, crossed: 0 };
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
            // Packets that their cap has released come before what they may take part in.
            if !self.admit(at) {
                self.medium.step(at);
                self.move_on(at);
            }
        }
    }

    /// When something happens on the channel, or a cap releases a packet.
    fn next_on_channel(&self) -> Option<Nanos> {
        let released = self.flows.iter().flatten().filter_map(|f| f.entry.front()).map(|entry| entry.0);
        released.chain(self.medium.next_event()).min()
    }

    /// Lets packets that their cap has released contend. Returns true if there were any.
    fn admit(&mut self, now: Nanos) -> bool {
        let mut admitted = false;
        for flow in self.flows.iter_mut().flatten() {
            while flow.entry.front().is_some_and(|entry| entry.0 <= now) {
                let Some((_, frame)) = flow.entry.pop_front() else { break };
                self.medium.push(now, flow.path[0], frame, frame.bytes);
                admitted = true;
            }
        }
        admitted
    }

    /// Sends frames that have crossed on to their next crossing, or down their line; or reports their loss.
    fn move_on(&mut self, now: Nanos) {
        let outcomes: Vec<_> = self.medium.take_outcomes().collect();
        for outcome in outcomes {
            let mut frame = outcome.item;
            let flow = self.flows[frame.flow].as_mut().expect("a frame's flow exists");
            frame.crossed += 1;
            if let Some(&next) = flow.path.get(frame.crossed).filter(|_| outcome.delivered) {
                self.medium.push(now, next, frame, frame.bytes);
                continue;
            }
            flow.waiting.0 -= 1;
            flow.waiting.1 -= u64::from(frame.bytes);
            if outcome.delivered {
                let packet = ArrivingPacket::plain(frame.id, frame.bytes);
                flow.egress_queue.file(Packet::new(packet, now, frame.draw, None));
            } else {
                flow.tally.dropped_loss += 1;
                let (link, direction) = flow_of(frame.flow);
                self.lost.push((link, direction, frame.id));
            }
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

    /// Returns how long each station and the access point have been on the channel since the start.
    pub fn busy(&self) -> impl Iterator<Item = (&'static str, Nanos)> + '_ {
        self.devices.iter().enumerate().map(|(number, device)| (device.name(), self.medium.busy(number)))
    }
}

impl ChannelFlow {
    fn new(
        config: &ChannelConfig,
        link: LinkId,
        direction: Direction,
        path: Vec<QueuePosition>,
        seed: u64,
    ) -> ChannelFlow {
        let shape = config.shape(link).expect("the link is on the channel");
        ChannelFlow {
            path,
            cap: config.link(link).and_then(|on_channel| on_channel.cap).map(Bottleneck::new),
            entry: VecDeque::new(),
            waiting: (0, 0),
            egress_queue: EgressQueue::new(&shape, seed, link, direction),
            limit: Limit::of(&shape),
            tally: Tally::default(),
        }
    }

    /// Packets in this direction, its delay line included.
    fn held(&mut self, now: Nanos) -> u64 {
        self.waiting.0 + self.egress_queue.inside(now)
    }
}
