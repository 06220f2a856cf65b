//! One direction of a link as a state machine: a packet goes in, its departure or its drop comes out. No
//! clock, no socket, no thread: the caller gives the time, which must not run backwards.
//!
//! The stages, which the netem backend has in the same order as far as packets can tell:
//!
//! 1. **Loss** comes first: a lost packet takes neither queue nor rate.
//! 2. **Queue.** A packet is dropped where those that wait at the bottleneck fill the queue, counted in
//!    bytes, or in packets where the profile says packets. The delay line has no limit. With [`CoDel`] a packet is
//!    dropped also where it would wait too long for too long.
//! 3. **Bottleneck**, then 4. **delay line** with jitter; see [`super::delay_line`].
//!
//! It duplicates no packets: no backend that holds a kernel's packets can.

use super::codel::CoDel;
use super::delay_line::Bottleneck;
pub use super::egress_queue::{DelayStage, Departure};
use super::egress_queue::{EgressQueue, Packet};
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
    codel: Option<CoDel>,
    tally: Tally,
}

impl LinkModel {
    pub fn new(shape: &Shape, delay: DelayStage, seed: u64, link: LinkId, direction: Direction) -> LinkModel {
        LinkModel {
            loss: LossProcess::new(shape, Stream::new(seed, link, direction, Purpose::Loss)),
            bottleneck: Bottleneck::new(shape.rate),
            egress_queue: EgressQueue::new(shape, delay, seed, link, direction),
            loss_trace: None,
            corrupt: shape.corrupt,
            corrupt_stream: Stream::new(seed, link, direction, Purpose::Corrupt),
            limit: Limit::of(shape),
            codel: CoDel::of(shape, None),
            tally: Tally::default(),
        }
    }

    /// Takes a packet of `bytes` (as Ethernet frame) in, and says when it will depart if nothing
    /// changes.
    ///
    /// # Errors
    /// The cause, where the packet is dropped; the model has then forgotten it.
    pub fn arrive(&mut self, now: Nanos, id: u32, bytes: u32) -> Result<Nanos, Cause> {
        if let Some(loss) = self.loss_trace.as_ref().and_then(|trace| trace.at(now).0.loss) {
            self.loss.change(Loss::Random(loss));
        }
        // Everything is drawn for every packet, so that none of its fates moves another's.
        let lost = self.loss.loses_next(now, bytes);
        let draws = self.egress_queue.draw();
        let corrupted = self.corrupt_stream.happens(self.corrupt);
        let place = self.corrupt_stream.below(usize::MAX) as u64;
        if lost {
            self.tally.dropped_loss += 1;
            return Err(Cause::Loss);
        }
        let waiting = self.bottleneck.waiting(now);
        let begins = self.bottleneck.begins(now);
        let full = !self.limit.has_room(waiting, bytes);
        if full || self.codel.as_mut().is_some_and(|codel| codel.drops(now, begins, waiting.1)) {
            self.tally.dropped_queue += 1;
            return Err(Cause::QueueFull);
        }
        let out = self.bottleneck.pass(now, bytes);
        let due = self.egress_queue.file(Packet::new(id, bytes, out, draws, corrupted.then_some(place)));
        self.tally.held_packets_max = self.tally.held_packets_max.max(self.egress_queue.inside(now));
        Ok(due)
    }

    /// Whether packets leave in the order in which they came.
    pub fn keeps_order(&self) -> bool {
        self.egress_queue.keeps_order()
    }

    /// When the next packet departs.
    pub fn next_departure(&self) -> Option<Nanos> {
        self.egress_queue.next_departure()
    }

    /// Hands out the next packet whose time has come.
    pub fn take_due(&mut self, now: Nanos) -> Option<Departure> {
        let departure = self.egress_queue.take_due(now)?;
        self.tally.packets += 1;
        self.tally.bytes += u64::from(departure.bytes);
        Some(departure)
    }

    /// Adopts another profile. Queued packets stay and are served at the new rate; packets behind the
    /// bottleneck keep their departures; a lowered limit drops nothing.
    pub fn change(&mut self, now: Nanos, shape: &Shape, other: Option<&Shape>) {
        self.put(now, shape, other, None);
    }

    /// Adopts the profile as [`LinkModel::change`] does, and plays the traces of the two shapes from now on:
    /// every step takes effect at its own time, without a call. Queued packets meet the rates of their time.
    pub fn play(&mut self, now: Nanos, shape: &Shape, other: Option<&Shape>) {
        self.put(now, shape, other, Some(now));
    }

    fn put(&mut self, now: Nanos, shape: &Shape, other: Option<&Shape>, began: Option<Nanos>) {
        let active_trace =
            shape.trace.as_ref().zip(began).map(|(trace, began)| ActiveTrace::new(trace, began));
        self.loss.reshape(shape);
        self.loss_trace =
            active_trace.clone().filter(|_| shape.trace.as_ref().is_some_and(|t| t.changes_loss()));
        self.corrupt = shape.corrupt;
        self.limit = Limit::of(shape);
        self.codel = CoDel::of(shape, self.codel.take());
        let waiting = self.egress_queue.change(now, shape, other, began);
        let service_rate = active_trace.map_or(ServiceRate::Steady(shape.rate), ServiceRate::Played);
        self.bottleneck.change(now, service_rate, waiting.first().map(|packet| packet.out));
        for mut packet in waiting {
            packet.out = self.bottleneck.pass(now, packet.bytes);
            self.egress_queue.file(packet);
        }
    }

    /// Counts so far, and what is held now.
    pub fn tally(&mut self, now: Nanos) -> Tally {
        let (waiting_packets, waiting_bytes) = self.bottleneck.waiting(now);
        let (held_packets, held_bytes) = (self.egress_queue.inside(now), self.egress_queue.bytes_inside(now));
        Tally { held_packets, held_bytes, waiting_packets, waiting_bytes, ..self.tally }
    }

    /// How many packets have not departed yet.
    pub fn held(&self) -> usize {
        self.egress_queue.held()
    }
}
