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

use super::delay_line::Bottleneck;
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
            self.tally.dropped_queue += (self.lost.len() - lost) as u64;
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

    /// Serves what the queue chooses up to now.
    pub fn advance(&mut self, now: Nanos) {
        while let Some(at) = self.next_service().filter(|&at| at <= now)
            && let Some(queue) = &mut self.managed
        {
            let lost = self.lost.len();
            let served = queue.serve(at, &mut self.lost);
            self.tally.dropped_queue += (self.lost.len() - lost) as u64;
            if let Some(mut packet) = served {
                self.tally.marked += u64::from(packet.marked);
                packet.out = self.bottleneck.pass(at, packet.bytes);
                self.egress_queue.file(packet);
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
        self.egress_queue.next_departure().into_iter().chain(self.next_service()).min()
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
        Tally {
            held_packets: self.egress_queue.inside(now) + in_queue.0,
            held_bytes: self.egress_queue.bytes_inside(now) + in_queue.1,
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
