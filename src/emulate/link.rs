//! One direction of a link as a state machine: a packet goes in, its departure or its drop comes out. No
//! clock, no socket, no thread: the caller gives the time, which must not run backwards.
//!
//! The stages, which the netem backend has in the same order as far as packets can tell:
//!
//! 1. **Loss** comes first: a lost packet takes neither queue nor rate.
//! 2. **Queue.** A packet is dropped where those that wait at the bottleneck fill the queue, counted in
//!    bytes, or in packets where the profile says packets. The delay line has no limit. A [`ManagedQueue`] drops
//!    or marks also what has waited too long for too long, and may serve one packet before another.
//! 3. **Bottleneck**, then 4. **delay line** with jitter; see [`super::delay_line`].
//!
//! It duplicates no packets: no backend that holds a kernel's packets can.

use std::collections::VecDeque;

use super::cross_source::CrossSource;
use super::delay_line::{Bottleneck, Draw};
pub use super::egress_queue::{ArrivingPacket, Departure};
use super::egress_queue::{EgressQueue, Packet};
use super::managed_queue::ManagedQueue;
use super::rng::{LossProcess, Purpose, Stream};
use super::service_rate::{ActiveTrace, ServiceRate};
use crate::config::profile::{Loss, Queue, Shape};
use crate::units::Nanos;
use crate::units::{Direction, LinkId, Percent};

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Loss,
    QueueFull,
}

/// The counters of a direction since it was set up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets and bytes that departed.
    pub packets: u64,
    pub bytes: u64,
    pub dropped_loss: u64,
    pub dropped_queue: u64,
    /// Packets that the queue marked, in place of dropping them.
    pub marked: u64,
    /// Bytes of cross traffic that the bottleneck has served.
    pub cross_bytes: u64,
    /// Held now, delay line included.
    pub held_packets: u64,
    pub held_bytes: u64,
    /// Waiting for the bottleneck now.
    pub waiting_packets: u64,
    pub waiting_bytes: u64,
    /// The most that were held at once.
    pub held_packets_max: u64,
}

/// When the queue at a bottleneck is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Packets(u64),
    Bytes(u64),
}

impl Limit {
    pub fn of(shape: &Shape) -> Limit {
        match shape.queue {
            Queue::Packets(packets) => Limit::Packets(u64::from(packets)),
            Queue::Time(_) | Queue::CoDel(_) => Limit::Bytes(shape.queue_bytes()),
        }
    }

    /// Returns true if another packet of `bytes` has room beside those that wait.
    pub fn has_room(self, (packets, waiting_bytes): (u64, u64), bytes: u32) -> bool {
        match self {
            Limit::Packets(most) => packets < most,
            Limit::Bytes(most) => waiting_bytes + u64::from(bytes) <= most,
        }
    }
}

/// One direction of a link.
#[derive(Clone, Debug)]
pub struct LinkModel {
    loss: LossProcess,
    bottleneck: Bottleneck,
    egress_queue: EgressQueue,
    /// The trace, where the loss changes with time.
    loss_trace: Option<ActiveTrace>,
    corrupt: Percent,
    corrupt_stream: Stream,
    limit: Limit,
    /// Where packets wait whose turn is chosen as they are served.
    managed: Option<ManagedQueue>,
    /// The cross traffic, once it is played, its losses, and in a fifo its packets that wait: when each is
    /// served, and its bytes.
    cross: Option<CrossSource>,
    cross_loss: LossProcess,
    cross_waiting: VecDeque<(Nanos, u32)>,
    /// The seed of the cross traffic, and the direction.
    seed: u64,
    way: (LinkId, Direction),
    /// When the last packet came.
    came: Nanos,
    /// Packets that were dropped after they were taken in, and that the caller has not taken yet.
    lost: Vec<Packet>,
    tally: Tally,
}

impl LinkModel {
    pub fn new(shape: &Shape, seed: u64, link: LinkId, direction: Direction) -> LinkModel {
        LinkModel {
            loss: LossProcess::new(shape, Stream::new(seed, link, direction, Purpose::Loss)),
            bottleneck: Bottleneck::new(shape.rate),
            egress_queue: EgressQueue::new(shape, seed, link, direction),
            loss_trace: None,
            corrupt: shape.corrupt,
            corrupt_stream: Stream::new(seed, link, direction, Purpose::Corrupt),
            limit: Limit::of(shape),
            managed: ManagedQueue::of(shape),
            cross: None,
            cross_loss: LossProcess::new(shape, Stream::new(seed, link, direction, Purpose::CrossLoss)),
            cross_waiting: VecDeque::new(),
            seed,
            way: (link, direction),
            came: 0,
            lost: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Takes a packet of `bytes` (as Ethernet frame) in, as [`LinkModel::take_in`] does.
    ///
    /// # Errors
    /// The cause, where the packet is dropped.
    pub fn arrive(&mut self, now: Nanos, id: u32, bytes: u32) -> Result<Nanos, Cause> {
        self.take_in(now, ArrivingPacket::plain(id, bytes))
    }

    /// Takes a packet in, and says when it will depart if nothing changes; [`Nanos::MAX`] where a queue chooses
    /// whom it serves, and may drop the packet yet ([`LinkModel::take_lost`]).
    ///
    /// # Errors
    /// The cause, where the packet is dropped; the model has then forgotten it.
    pub fn take_in(&mut self, now: Nanos, incoming: ArrivingPacket) -> Result<Nanos, Cause> {
        let bytes = incoming.bytes;
        self.advance(now);
        self.came = now;
        if let Some(loss) = self.loss_trace.as_ref().and_then(|trace| trace.at(now).0.loss) {
            self.loss.change(Loss::Random(loss));
        }
        // Everything is drawn for every packet, so that none of its fates moves another's.
        let lost = self.loss.loses_next(now, bytes);
        let draw = self.egress_queue.draw();
        let corrupted = self.corrupt_stream.happens(self.corrupt);
        let place = self.corrupt_stream.below(usize::MAX) as u64;
        if lost {
            self.tally.dropped_loss += 1;
            return Err(Cause::Loss);
        }
        let mut packet = Packet::new(incoming, now, draw, corrupted.then_some(place));
        let due = if let Some(queue) = &mut self.managed {
            let lost = self.lost.len();
            queue.push(packet, &mut self.lost);
            self.sort_lost(lost);
            if self.lost.pop_if(|last| last.id == packet.id).is_some() {
                return Err(Cause::QueueFull);
            }
            self.advance(now);
            Nanos::MAX
        } else {
            if !self.limit.has_room(self.bottleneck.waiting(now), bytes) {
                self.tally.dropped_queue += 1;
                return Err(Cause::QueueFull);
            }
            packet.out = self.bottleneck.pass(now, bytes);
            self.egress_queue.file(packet)
        };
        let held = self.egress_queue.inside(now) + self.in_queue().0;
        self.tally.held_packets_max = self.tally.held_packets_max.max(held);
        Ok(due)
    }

    /// When the queue chooses its next packet.
    fn next_service(&self) -> Option<Nanos> {
        self.managed.as_ref().filter(|queue| queue.waiting().0 > 0).map(|_| self.bottleneck.begins(self.came))
    }

    /// Plays what happens up to now: cross traffic comes, and the queue chooses whom it serves.
    pub fn advance(&mut self, now: Nanos) {
        loop {
            let service = self.next_service().unwrap_or(Nanos::MAX);
            let cross = self.cross.as_ref().map_or(Nanos::MAX, CrossSource::next);
            match service.min(cross) {
                at if at > now => break,
                Nanos::MAX if self.next_service().is_none() => break,
                at if service <= cross => self.serve(at),
                at => self.take_cross(at),
            }
        }
        while let Some(&(_, bytes)) = self.cross_waiting.front().filter(|waiting| waiting.0 <= now) {
            self.cross_waiting.pop_front();
            self.tally.cross_bytes += u64::from(bytes);
        }
    }

    /// Serves the packet that the queue chooses.
    fn serve(&mut self, at: Nanos) {
        let Some(queue) = &mut self.managed else { return };
        let lost = self.lost.len();
        let served = queue.serve(at, &mut self.lost);
        self.sort_lost(lost);
        let Some(mut packet) = served else { return };
        packet.out = self.bottleneck.pass(at, packet.bytes);
        if packet.is_cross {
            self.tally.cross_bytes += u64::from(packet.bytes);
            self.cross.iter_mut().for_each(|cross| cross.passes(packet.id, at));
        } else {
            self.tally.marked += u64::from(packet.marked);
            self.egress_queue.file(packet);
        }
    }

    /// Takes the cross traffic in that is sent at this time.
    fn take_cross(&mut self, at: Nanos) {
        let Some(mut cross) = self.cross.take() else { return };
        self.came = at;
        let lost = self.lost.len();
        for sent in cross.send(at) {
            let mut packet = Packet::new(sent, at, Draw::default(), None);
            packet.is_cross = true;
            if self.cross_loss.loses_next(at, packet.bytes) {
                cross.loses(packet.id);
            } else if let Some(queue) = &mut self.managed {
                queue.push(packet, &mut self.lost);
            } else if self.limit.has_room(self.bottleneck.waiting(at), packet.bytes) {
                let out = self.bottleneck.pass(at, packet.bytes);
                self.cross_waiting.push_back((out, packet.bytes));
                cross.passes(packet.id, out);
            } else {
                cross.loses(packet.id);
            }
        }
        self.cross = Some(cross);
        self.sort_lost(lost);
    }

    /// Counts the packets that the queue has dropped, from a place on, and keeps those for the caller that are its.
    fn sort_lost(&mut self, from: usize) {
        let dropped = self.lost.split_off(from);
        for packet in dropped {
            if packet.is_cross {
                self.cross.iter_mut().for_each(|cross| cross.loses(packet.id));
            } else {
                self.tally.dropped_queue += 1;
                self.lost.push(packet);
            }
        }
    }

    /// Hands out the packets that were dropped after they were taken in.
    pub fn take_lost(&mut self) -> impl Iterator<Item = u32> + '_ {
        self.lost.drain(..).map(|packet| packet.id)
    }

    /// Whether packets leave in the order in which they came.
    pub fn keeps_order(&self) -> bool {
        self.egress_queue.keeps_order() && self.managed.as_ref().is_none_or(ManagedQueue::keeps_order)
    }

    /// When something happens next: a packet departs, or the queue chooses one.
    pub fn next_event(&self) -> Option<Nanos> {
        // A queue of cross traffic alone is played when somebody looks.
        let own = self.managed.as_ref().is_some_and(ManagedQueue::holds_own);
        let service = self.next_service().filter(|_| own);
        self.egress_queue.next_departure().into_iter().chain(service).min()
    }

    /// Hands out the next packet whose time has come.
    pub fn take_due(&mut self, now: Nanos) -> Option<Departure> {
        self.advance(now);
        let departure = self.egress_queue.take_due(now)?;
        self.tally.packets += 1;
        self.tally.bytes += u64::from(departure.bytes);
        Some(departure)
    }

    /// Adopts another profile. Queued packets stay and are served at the new rate; packets behind the
    /// bottleneck keep their departures; a lowered limit drops nothing.
    pub fn change(&mut self, now: Nanos, shape: &Shape) {
        self.put(now, shape, None);
    }

    /// Adopts the profile as [`LinkModel::change`] does, and plays its trace from now on:
    /// every step takes effect at its own time, without a call. Queued packets meet the rates of their time.
    pub fn play(&mut self, now: Nanos, shape: &Shape) {
        self.put(now, shape, Some(now));
    }

    fn put(&mut self, now: Nanos, shape: &Shape, began: Option<Nanos>) {
        self.advance(now);
        let active_trace =
            shape.trace.as_ref().zip(began).map(|(trace, began)| ActiveTrace::new(trace, began));
        self.loss.reshape(shape);
        self.loss_trace =
            active_trace.clone().filter(|_| shape.trace.as_ref().is_some_and(|t| t.changes_loss()));
        self.corrupt = shape.corrupt;
        self.limit = Limit::of(shape);
        let mut waiting = self.egress_queue.change(now, shape, began);
        let next = waiting.first().map(|packet| packet.out).or(self.next_service());
        let service_rate = active_trace.map_or(ServiceRate::Steady(shape.rate), ServiceRate::Played);
        self.bottleneck.change(now, service_rate, next);
        let (managed, homeless) = ManagedQueue::change(self.managed.take(), shape);
        self.managed = managed;
        waiting.extend(homeless);
        self.cross_loss.reshape(shape);
        self.cross_waiting.clear();
        self.cross =
            began.and_then(|now| CrossSource::new(shape, self.seed, self.way, now, self.cross.as_ref()));
        waiting.retain(|packet| !packet.is_cross);
        for mut packet in waiting {
            if let Some(queue) = &mut self.managed {
                queue.insert(packet);
            } else {
                packet.out = self.bottleneck.pass(now, packet.bytes);
                self.egress_queue.file(packet);
            }
        }
        self.advance(now);
    }

    /// The packets that wait in a queue which chooses whom it serves, and their bytes.
    fn in_queue(&self) -> (u64, u64) {
        self.managed.as_ref().map_or((0, 0), ManagedQueue::waiting)
    }

    /// Counts so far, and what is held now.
    pub fn tally(&mut self, now: Nanos) -> Tally {
        self.advance(now);
        let (in_queue, waiting) = (self.in_queue(), self.bottleneck.waiting(now));
        let cross_bytes: u64 = self.cross_waiting.iter().map(|waiting| u64::from(waiting.1)).sum();
        Tally {
            held_packets: self.egress_queue.inside(now) + in_queue.0 + self.cross_waiting.len() as u64,
            held_bytes: self.egress_queue.bytes_inside(now) + in_queue.1 + cross_bytes,
            waiting_packets: waiting.0 + in_queue.0,
            waiting_bytes: waiting.1 + in_queue.1,
            ..self.tally
        }
    }

    /// How many packets have not departed yet.
    pub fn held(&self) -> usize {
        self.egress_queue.held() + self.in_queue().0 as usize
    }
}
