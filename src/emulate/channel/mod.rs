//! The shared channel: one access point, its stations, and the links between them. Pure; time is handed
//! in, and must not run backwards.
//!
//! - [`medium`] decides who sends when, and what is lost: contention, collisions, aggregates, repeats.
//! - A packet between two stations crosses twice: once in its sender's turn, once in the access
//!   point's. Requests, ACKs and data all take airtime.
//! - A direction's queue counts what waits at both crossings, and drops before the first. One that chooses whom it
//!   serves ([`ManagedQueue`]) stands before each crossing, and hands on what two turns send, as access points
//!   with fq_codel do: what it has handed on waits unseen.
//!
//! Not modelled: rate adaptation, interference, hidden stations, beacons, power saving.

pub mod medium;

use std::collections::VecDeque;

use super::delay_line::Bottleneck;
use super::egress_queue::{ArrivingPacket, EgressQueue, Packet};
use super::link::{Cause, Departure, Limit, Tally};
use super::managed_queue::ManagedQueue;
use super::rng::{Purpose, Stream};
use crate::config::channel::{ChannelConfig, Hop, Node};
use crate::config::profile::{FRAME, Shape};
use crate::units::Nanos;
use crate::units::{Direction, LinkId};
use medium::{Medium, QueuePosition};

/// A packet between its arrival and the end of its last crossing.
#[derive(Clone, Copy, Debug)]
struct Frame {
    flow: usize,
    packet: Packet,
    /// The number of crossings behind it.
    crossed: usize,
}

/// The way into a queue of the medium.
#[derive(Clone, Debug)]
struct ManagedHop {
    position: QueuePosition,
    /// Where packets wait whose turn is chosen as they are handed on.
    managed: Option<ManagedQueue>,
    /// Packets handed on that have not crossed, and the most of them.
    ahead: u32,
    most_ahead: u32,
}

/// One direction of a link that crosses the channel.
#[derive(Clone, Debug)]
struct ChannelFlow {
    path: Vec<ManagedHop>,
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
    /// Packets that a queue has just dropped.
    dropped: Vec<Packet>,
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
            dropped: Vec::new(),
        };
        let mut queues = Queues::new();
        for link in LinkId::BOTH {
            for direction in Direction::BOTH {
                let hops = config.hops(link, direction);
                if hops.is_empty() {
                    continue;
                }
                let shape = config.shape(link).expect("the link is on the channel");
                let crossing = |hop: &Hop| ManagedHop {
                    position: channel.queue(&mut queues, hop),
                    managed: ManagedQueue::of(&shape),
                    ahead: 0,
                    most_ahead: 2 * hop.radio.full_turn(FRAME as u32).frames,
                };
                let path = hops.iter().map(crossing).collect();
                channel.flows[flow_index(link, direction)] =
                    Some(ChannelFlow::new(config, &shape, link, direction, path, seed));
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

    /// Takes a packet in, after all that happens before it.
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
        incoming: ArrivingPacket,
    ) -> Result<(), Cause> {
        self.advance(now);
        let index = flow_index(link, direction);
        let flow = self.flow(link, direction);
        let packet = Packet::new(incoming, now, flow.egress_queue.draw(), None);
        if flow.path[0].managed.is_none() && !flow.limit.has_room(flow.waiting, packet.bytes) {
            flow.tally.dropped_queue += 1;
            return Err(Cause::QueueFull);
        }
        flow.waiting.0 += 1;
        flow.waiting.1 += u64::from(packet.bytes);
        self.approach(now, Frame { flow: index, packet, crossed: 0 });
        if self.lost.pop_if(|last| *last == (link, direction, packet.id)).is_some() {
            return Err(Cause::QueueFull);
        }
        let flow = self.flow(link, direction);
        flow.tally.held_packets_max = flow.tally.held_packets_max.max(flow.held(now));
        self.advance(now);
        Ok(())
    }

    /// Brings a packet before its next crossing.
    fn approach(&mut self, now: Nanos, mut frame: Frame) {
        let flow = self.flows[frame.flow].as_mut().expect("a frame's flow exists");
        frame.packet.arrived = now;
        match &mut flow.path[frame.crossed].managed {
            Some(queue) => queue.push(frame.packet, &mut self.dropped),
            None => self.hand_on(now, frame),
        }
        self.serve(now, frame.flow, frame.crossed);
    }

    /// Lets the queue before a crossing hand on as much as may be ahead of it.
    fn serve(&mut self, now: Nanos, index: usize, crossed: usize) {
        loop {
            let flow = self.flows[index].as_mut().expect("the caller's flow exists");
            // A cap sends one packet at a time, so that the queue stands before it too.
            let is_paced = crossed == 0 && flow.cap.is_some() && !flow.entry.is_empty();
            let crossing = &mut flow.path[crossed];
            let Some(queue) = crossing.managed.as_mut().filter(|_| !is_paced) else { break };
            if crossing.ahead >= crossing.most_ahead {
                break;
            }
            let Some(packet) = queue.serve(now, &mut self.dropped) else { break };
            self.hand_on(now, Frame { flow: index, packet, crossed });
        }
        let flow = self.flows[index].as_mut().expect("the caller's flow exists");
        let (link, direction) = flow_of(index);
        for packet in self.dropped.drain(..) {
            flow.waiting.0 -= 1;
            flow.waiting.1 -= u64::from(packet.bytes);
            flow.tally.dropped_queue += 1;
            self.lost.push((link, direction, packet.id));
        }
    }

    /// Has a packet contend for its next crossing, for the first one as soon as the cap releases it.
    fn hand_on(&mut self, now: Nanos, frame: Frame) {
        let flow = self.flows[frame.flow].as_mut().expect("a frame's flow exists");
        let crossing = &mut flow.path[frame.crossed];
        crossing.ahead += 1;
        if frame.crossed == 0 {
            let ready = flow.cap.as_mut().map_or(now, |cap| cap.pass(now, frame.packet.bytes));
            flow.entry.push_back((ready, frame));
        } else {
            self.medium.push(now, crossing.position, frame, frame.packet.bytes);
        }
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
        for index in 0..self.flows.len() {
            while let Some(flow) = &mut self.flows[index]
                && let Some((_, frame)) = flow.entry.front().copied().filter(|entry| entry.0 <= now)
            {
                flow.entry.pop_front();
                self.medium.push(now, flow.path[0].position, frame, frame.packet.bytes);
                self.serve(now, index, 0);
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
            flow.path[frame.crossed].ahead -= 1;
            self.serve(now, frame.flow, frame.crossed);
            let flow = self.flows[frame.flow].as_mut().expect("a frame's flow exists");
            frame.crossed += 1;
            if outcome.delivered && frame.crossed < flow.path.len() {
                self.approach(now, frame);
                continue;
            }
            flow.waiting.0 -= 1;
            flow.waiting.1 -= u64::from(frame.packet.bytes);
            if outcome.delivered {
                flow.tally.marked += u64::from(frame.packet.marked);
                frame.packet.out = now;
                flow.egress_queue.file(frame.packet);
            } else {
                flow.tally.dropped_loss += 1;
                let (link, direction) = flow_of(frame.flow);
                self.lost.push((link, direction, frame.packet.id));
            }
        }
    }

    /// Whether a direction's packets leave in the order in which they came.
    pub fn keeps_order(&self, link: LinkId, direction: Direction) -> bool {
        let mut crossings = self.flows[flow_index(link, direction)].iter().flat_map(|flow| &flow.path);
        crossings.all(|crossing| crossing.managed.as_ref().is_none_or(ManagedQueue::keeps_order))
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
        shape: &Shape,
        link: LinkId,
        direction: Direction,
        path: Vec<ManagedHop>,
        seed: u64,
    ) -> ChannelFlow {
        ChannelFlow {
            path,
            cap: config.link(link).and_then(|on_channel| on_channel.cap).map(Bottleneck::new),
            entry: VecDeque::new(),
            waiting: (0, 0),
            egress_queue: EgressQueue::new(shape, seed, link, direction),
            limit: Limit::of(shape),
            tally: Tally::default(),
        }
    }

    /// Packets in this direction, its delay line included.
    fn held(&mut self, now: Nanos) -> u64 {
        self.waiting.0 + self.egress_queue.inside(now)
    }
}
