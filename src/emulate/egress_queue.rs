//! The path behind a bottleneck: the delay lines, and the packets on them. Pure.
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
    /// When it should leave.
    pub at: Nanos,
    /// A random number that chooses the bit to flip, where the packet is corrupted.
    pub corrupt: Option<u64>,
    /// Whether the queue marked it, in place of dropping it.
    pub marked: bool,
}

/// Where a direction's packets spend their delay.
#[derive(Clone, Copy, Debug)]
pub enum DelayStage<'a> {
    /// In this direction, as in nature.
    Here,
    /// In the other direction: a packet leaves when it has passed the bottleneck. Packets held back on the
    /// sender's host count against its socket buffer, and TCP would send too little.
    Elsewhere,
    /// Here, and the other direction's delay after it, so that the round trip is right.
    HereAnd(&'a Shape),
}

/// A packet's random numbers for this direction's line, and for the other direction's behind it.
pub(crate) type Draws = (Draw, Option<Draw>);

/// A packet between its arrival and its departure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub id: u32,
    pub bytes: u32,
    pub flow: u32,
    pub ect: bool,
    pub marked: bool,
    pub arrived: Nanos,
    /// Leaves the bottleneck; nobody knows while a queue waits that chooses whom it serves.
    pub out: Nanos,
    /// Leaves this direction's delay line, wherever that is.
    through: Nanos,
    /// Departs.
    due: Nanos,
    draws: Draws,
    corrupt: Option<u64>,
}

impl Packet {
    pub(crate) fn new(packet: ArrivingPacket, arrived: Nanos, draws: Draws, corrupt: Option<u64>) -> Packet {
        let ArrivingPacket { id, bytes, flow, ect } = packet;
        let (out, through, due) = (arrived, arrived, arrived);
        Packet { id, bytes, flow, ect, marked: false, arrived, out, through, due, draws, corrupt }
    }
}

/// The delay lines of one direction and the packets in them and in front of them.
#[derive(Clone, Debug)]
pub(crate) struct EgressQueue {
    own: DelayLine,
    other: Option<DelayLine>,
    delay_elsewhere: bool,
    /// By departure.
    packets: VecDeque<Packet>,
    /// When each packet leaves this direction's delay line, and its bytes, in order; counts what is
    /// inside.
    exits: VecDeque<(Nanos, u32)>,
    bytes_inside: u64,
}

impl EgressQueue {
    pub(crate) fn new(
        shape: &Shape,
        delay: DelayStage,
        seed: u64,
        link: LinkId,
        direction: Direction,
    ) -> EgressQueue {
        let other = match delay {
            DelayStage::HereAnd(other) => {
                let back = if direction == Direction::Down { Direction::Up } else { Direction::Down };
                Some(DelayLine::new(other, seed, link, back))
            }
            DelayStage::Here | DelayStage::Elsewhere => None,
        };
        EgressQueue {
            own: DelayLine::new(shape, seed, link, direction),
            other,
            delay_elsewhere: matches!(delay, DelayStage::Elsewhere),
            packets: VecDeque::new(),
            exits: VecDeque::new(),
            bytes_inside: 0,
        }
    }

    pub(crate) fn draw(&mut self) -> Draws {
        (self.own.draw(), self.other.as_mut().map(DelayLine::draw))
    }

    /// Sends a packet down the line when it leaves the bottleneck; gives its departure.
    pub(crate) fn file(&mut self, mut packet: Packet) -> Nanos {
        packet.through = self.own.pass(packet.out, packet.draws.0);
        packet.due = match (&mut self.other, packet.draws.1) {
            (Some(line), Some(draw)) if packet.draws.0.overtakes() => line.pass_ahead(packet.through, draw),
            (Some(line), Some(draw)) => line.pass(packet.through, draw),
            _ if self.delay_elsewhere => packet.out,
            _ => packet.through,
        };
        let place = self.exits.partition_point(|exit| exit.0 <= packet.through);
        self.exits.insert(place, (packet.through, packet.bytes));
        self.bytes_inside += u64::from(packet.bytes);
        let place = self.packets.partition_point(|other| other.due <= packet.due);
        self.packets.insert(place, packet);
        packet.due
    }

    /// Whether what enters from now on leaves in its order.
    pub(crate) fn keeps_order(&self) -> bool {
        self.own.keeps_order()
    }

    /// How many packets this direction holds, its delay line included.
    pub(crate) fn inside(&mut self, now: Nanos) -> u64 {
        while let Some(&(exit, bytes)) = self.exits.front()
            && exit <= now
        {
            self.exits.pop_front();
            self.bytes_inside -= u64::from(bytes);
        }
        self.exits.len() as u64
    }

    /// Their bytes.
    pub(crate) fn bytes_inside(&mut self, now: Nanos) -> u64 {
        self.inside(now);
        self.bytes_inside
    }

    pub(crate) fn next_departure(&self) -> Option<Nanos> {
        self.packets.front().map(|packet| packet.due)
    }

    pub(crate) fn take_due(&mut self, now: Nanos) -> Option<Departure> {
        if self.next_departure()? > now {
            return None;
        }
        let packet = self.packets.pop_front()?;
        let Packet { id, bytes, due, corrupt, marked, .. } = packet;
        Some(Departure { id, bytes, at: due, corrupt, marked })
    }

    /// Changes the lines for packets that have not entered them yet, and returns these in order; the caller
    /// gives them new places in the bottleneck and files them again. With `began` the shapes' traces are
    /// played from that time on.
    pub(crate) fn change(
        &mut self,
        now: Nanos,
        shape: &Shape,
        other: Option<&Shape>,
        began: Option<Nanos>,
    ) -> Vec<Packet> {
        let mut packets: Vec<Packet> = std::mem::take(&mut self.packets).into();
        packets.sort_by_key(|packet| packet.out);
        let waiting = packets.split_off(packets.partition_point(|packet| packet.out <= now));
        self.forget_planned(&waiting);
        let last = |time: fn(&Packet) -> Nanos| packets.iter().map(time).max().unwrap_or(0);
        // In a direction whose delay is elsewhere only the exits still know the last departure.
        self.own.rewind(self.exits.back().map_or(0, |exit| exit.0).max(last(|packet| packet.through)));
        self.own.change(shape, began);
        if let (Some(line), Some(other)) = (&mut self.other, other) {
            line.rewind(last(|packet| packet.due));
            line.change(other, began);
        }
        packets.sort_by_key(|packet| packet.due);
        self.packets = packets.into();
        waiting
    }

    /// Removes the planned exits of these packets.
    fn forget_planned(&mut self, packets: &[Packet]) {
        let mut planned: Vec<(Nanos, u32)> = packets.iter().map(|p| (p.through, p.bytes)).collect();
        planned.sort_unstable();
        let mut planned = planned.into_iter().peekable();
        self.exits.make_contiguous().sort_unstable();
        self.exits.retain(|exit| planned.next_if_eq(exit).is_none());
        self.bytes_inside = self.exits.iter().map(|exit| u64::from(exit.1)).sum();
    }

    /// How many packets have not departed yet.
    pub(crate) fn held(&self) -> usize {
        self.packets.len()
    }
}
