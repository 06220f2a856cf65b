//! The path behind a bottleneck: the delay line, and the packets on it. Pure.
//!
//! Keeps packets in order of departure, and counts those that a direction holds.

use std::collections::VecDeque;

use super::delay_line::{DelayLine, Draw};
use crate::config::profile::Shape;
use crate::units::Nanos;
use crate::units::{Direction, LinkId};

/// A packet as it comes to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrivingPacket {
    /// The caller's number of the packet.
    pub id: u32,
    /// As Ethernet frame.
    pub bytes: u32,
    /// The same for all packets of a connection's direction: where each flow has a queue this one chooses it.
    pub flow: u32,
    /// Whether its sender understands marks (RFC 3168).
    pub ect: bool,
}

impl ArrivingPacket {
    /// A packet of the flow 0, whose sender understands no marks.
    pub fn plain(id: u32, bytes: u32) -> ArrivingPacket {
        ArrivingPacket { id, bytes, flow: 0, ect: false }
    }
}

/// A packet that departs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// The caller's number of the packet.
    pub id: u32,
    pub bytes: u32,
    /// When it left the bottleneck, or the channel.
    pub out: Nanos,
    /// When it should leave.
    pub at: Nanos,
    /// A random number that chooses the bit to flip, where the packet is corrupted.
    pub corrupt: Option<u64>,
    /// Whether the queue marked it, in place of dropping it.
    pub marked: bool,
}

/// A packet between its arrival and its departure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub id: u32,
    pub bytes: u32,
    pub flow: u32,
    pub ect: bool,
    pub marked: bool,
    /// Whether it is cross traffic: it is thrown away behind the bottleneck.
    pub is_cross: bool,
    pub arrived: Nanos,
    /// Leaves the bottleneck; nobody knows while a queue waits that chooses whom it serves.
    pub out: Nanos,
    /// Departs.
    due: Nanos,
    draw: Draw,
    corrupt: Option<u64>,
}

impl Packet {
    pub(crate) fn new(packet: ArrivingPacket, arrived: Nanos, draw: Draw, corrupt: Option<u64>) -> Packet {
        let ArrivingPacket { id, bytes, flow, ect } = packet;
        let (out, due) = (arrived, arrived);
        Packet { id, bytes, flow, ect, marked: false, is_cross: false, arrived, out, due, draw, corrupt }
    }
}

/// The delay line of one direction and the packets in it and in front of it.
#[derive(Clone, Debug)]
pub(crate) struct EgressQueue {
    line: DelayLine,
    /// By departure.
    packets: VecDeque<Packet>,
    bytes: u64,
}

impl EgressQueue {
    pub(crate) fn new(shape: &Shape, seed: u64, link: LinkId, direction: Direction) -> EgressQueue {
        let line = DelayLine::new(shape, seed, link, direction);
        EgressQueue { line, packets: VecDeque::new(), bytes: 0 }
    }

    pub(crate) fn draw(&mut self) -> Draw {
        self.line.draw()
    }

    /// Sends a packet down the line when it leaves the bottleneck; gives its departure.
    pub(crate) fn file(&mut self, mut packet: Packet) -> Nanos {
        packet.due = self.line.pass(packet.out, packet.draw);
        let place = self.packets.partition_point(|other| other.due <= packet.due);
        self.packets.insert(place, packet);
        self.bytes += u64::from(packet.bytes);
        packet.due
    }

    /// Whether what enters from now on leaves in its order.
    pub(crate) fn keeps_order(&self) -> bool {
        self.line.keeps_order()
    }

    /// How many packets this direction holds, its delay line included.
    pub(crate) fn inside(&self, now: Nanos) -> u64 {
        (self.packets.len() - self.packets.partition_point(|packet| packet.due <= now)) as u64
    }

    /// Their bytes.
    pub(crate) fn bytes_inside(&self, now: Nanos) -> u64 {
        let due = self.packets.iter().take_while(|packet| packet.due <= now);
        self.bytes - due.map(|packet| u64::from(packet.bytes)).sum::<u64>()
    }

    pub(crate) fn next_departure(&self) -> Option<Nanos> {
        self.packets.front().map(|packet| packet.due)
    }

    pub(crate) fn take_due(&mut self, now: Nanos) -> Option<Departure> {
        if self.next_departure()? > now {
            return None;
        }
        let Packet { id, bytes, out, due, corrupt, marked, .. } = self.packets.pop_front()?;
        self.bytes -= u64::from(bytes);
        Some(Departure { id, bytes, out, at: due, corrupt, marked })
    }

    /// Changes the line for packets that have not entered it yet, and returns these in order; the caller
    /// gives them new places in the bottleneck and files them again. With `began` the shape's trace is
    /// played from that time on.
    pub(crate) fn change(&mut self, now: Nanos, shape: &Shape, began: Option<Nanos>) -> Vec<Packet> {
        let mut waiting: Vec<Packet> =
            self.packets.iter().copied().filter(|packet| packet.out > now).collect();
        waiting.sort_by_key(|packet| packet.out);
        self.packets.retain(|packet| packet.out <= now);
        self.bytes = self.packets.iter().map(|packet| u64::from(packet.bytes)).sum();
        self.line.rewind(self.packets.back().map_or(0, |packet| packet.due));
        self.line.change(shape, began);
        waiting
    }

    /// How many packets have not departed yet.
    pub(crate) fn held(&self) -> usize {
        self.packets.len()
    }
}
