//! A queue that decides whom it serves, and whom it drops, as it serves: CoDel (RFC 8289), alone or for each flow
//! with fair queueing (FQ-CoDel, RFC 8290). Pure; time is handed in.
//!
//! FQ-CoDel spreads flows over queues by their key, and serves these in turn, a quantum of bytes each. A queue that
//! was empty comes before those that are busy, for one quantum: a flow that sends little waits for no one. When all
//! of it is full the longest queue loses half of its packets, 64 at most, from its head. CoDel alone is one queue
//! for all, and a packet that finds it full is dropped.

use std::collections::VecDeque;

use super::codel::CoDel;
use super::egress_queue::Packet;
use crate::config::profile::{CoDelKind, CoDelQueue, Queue, Shape};
use crate::units::Nanos;

/// The packets that the longest queue loses at most when all is full (RFC 8290, 4.1).
const MOST_DROPPED: usize = 64;

/// The queue of one flow, or of several that share it by chance.
#[derive(Clone, Debug, Default)]
struct FlowQueue {
    packets: VecDeque<Packet>,
    bytes: u64,
    /// The bytes that it may still send in its turn.
    credit: i64,
    /// Whether it is among those that are served.
    is_listed: bool,
    codel: CoDel,
}

#[derive(Clone, Debug)]
pub(crate) struct ManagedQueue {
    config: CoDelQueue,
    limit_bytes: u64,
    flows: Vec<FlowQueue>,
    /// The flows that were empty, and the ones that have had a turn since.
    new: VecDeque<usize>,
    old: VecDeque<usize>,
    packets: u64,
    bytes: u64,
    /// Packets that are no cross traffic.
    own: u64,
}

impl ManagedQueue {
    /// Returns the queue of a shape that asks for one.
    pub(crate) fn of(shape: &Shape) -> Option<ManagedQueue> {
        let Queue::CoDel(config) = shape.queue else { return None };
        Some(ManagedQueue {
            config,
            limit_bytes: shape.queue_bytes(),
            flows: vec![FlowQueue::default(); config.flows()],
            new: VecDeque::new(),
            old: VecDeque::new(),
            packets: 0,
            bytes: 0,
            own: 0,
        })
    }

    /// Returns the queue of another shape, which is the one before where that has as many flows; else the packets
    /// that wait come back too, in the order in which they came.
    pub(crate) fn change(before: Option<ManagedQueue>, shape: &Shape) -> (Option<ManagedQueue>, Vec<Packet>) {
        match (before, ManagedQueue::of(shape)) {
            (Some(before), Some(after)) if before.flows.len() == after.flows.len() => {
                let ManagedQueue { config, limit_bytes, .. } = after;
                (Some(ManagedQueue { config, limit_bytes, ..before }), Vec::new())
            }
            (before, after) => {
                let flows = before.into_iter().flat_map(|queue| queue.flows);
                let mut packets: Vec<Packet> = flows.flat_map(|flow| flow.packets).collect();
                packets.sort_by_key(|packet| packet.arrived);
                (after, packets)
            }
        }
    }

    /// Returns the number of waiting packets, and their bytes.
    pub(crate) fn waiting(&self) -> (u64, u64) {
        (self.packets, self.bytes)
    }

    pub(crate) fn holds_own(&self) -> bool {
        self.own > 0
    }

    pub(crate) fn keeps_order(&self) -> bool {
        self.config.kind == CoDelKind::CoDel
    }

    /// Takes a packet in; those that it then holds no longer go to `dropped`, which may be this one.
    pub(crate) fn push(&mut self, packet: Packet, dropped: &mut Vec<Packet>) {
        let is_full = self.bytes + u64::from(packet.bytes) > self.limit_bytes;
        match self.config.kind {
            CoDelKind::CoDel if is_full => dropped.push(packet),
            CoDelKind::CoDel => self.insert(packet),
            CoDelKind::FqCoDel => {
                self.insert(packet);
                while self.bytes > self.limit_bytes {
                    self.shorten_longest(dropped);
                }
            }
        }
    }

    /// Takes a packet in though it may be full.
    pub(crate) fn insert(&mut self, packet: Packet) {
        let index = packet.flow as usize % self.flows.len();
        let flow = &mut self.flows[index];
        flow.bytes += u64::from(packet.bytes);
        self.packets += 1;
        self.own += u64::from(!packet.is_cross);
        self.bytes += u64::from(packet.bytes);
        flow.packets.push_back(packet);
        if !flow.is_listed {
            flow.is_listed = true;
            flow.credit = self.config.quantum_bytes() as i64;
            self.new.push_back(index);
        }
    }

    fn shorten_longest(&mut self, dropped: &mut Vec<Packet>) {
        let longest = (0..self.flows.len()).max_by_key(|&index| self.flows[index].bytes).unwrap_or(0);
        let half = self.flows[longest].packets.len().div_ceil(2).min(MOST_DROPPED);
        dropped.extend((0..half).map_while(|_| self.pop(longest)));
    }

    fn pop(&mut self, index: usize) -> Option<Packet> {
        let flow = &mut self.flows[index];
        let packet = flow.packets.pop_front()?;
        flow.bytes -= u64::from(packet.bytes);
        self.packets -= 1;
        self.own -= u64::from(!packet.is_cross);
        self.bytes -= u64::from(packet.bytes);
        Some(packet)
    }

    /// Chooses the packet whose service begins now. Packets that CoDel drops on the way go to `dropped`.
    pub(crate) fn serve(&mut self, now: Nanos, dropped: &mut Vec<Packet>) -> Option<Packet> {
        loop {
            let is_new = !self.new.is_empty();
            let list = if is_new { &mut self.new } else { &mut self.old };
            let index = list.pop_front()?;
            if self.flows[index].credit <= 0 {
                self.flows[index].credit += self.config.quantum_bytes() as i64;
                self.old.push_back(index);
                continue;
            }
            if let Some(packet) = self.pop_judged(index, now, dropped) {
                self.flows[index].credit -= i64::from(packet.bytes);
                let list = if is_new { &mut self.new } else { &mut self.old };
                list.push_front(index);
                return Some(packet);
            }
            // A queue that is new again at once would starve the others.
            if is_new && !self.old.is_empty() {
                self.old.push_back(index);
            } else {
                self.flows[index].is_listed = false;
            }
        }
    }

    /// The first packet of a flow that CoDel lets pass, as it is or marked.
    fn pop_judged(&mut self, index: usize, now: Nanos, dropped: &mut Vec<Packet>) -> Option<Packet> {
        while let Some(mut packet) = self.pop(index) {
            let flow = &mut self.flows[index];
            if !flow.codel.signals(&self.config, now, packet.arrived, flow.bytes) {
                return Some(packet);
            }
            if self.config.ecn && packet.ect {
                packet.marked = true;
                return Some(packet);
            }
            dropped.push(packet);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulate::egress_queue::EgressQueue;
    use crate::emulate::link::{ArrivingPacket, Cause, Departure, LinkModel};
    use crate::units::{Direction, LinkId, Rate};

    const MS: Nanos = 1_000_000;

    /// 10 Mbit/s, which sends a full frame in 1.2112 ms, with such a queue.
    fn shape(queue: &str) -> Shape {
        let table: toml::Table = toml::from_str(&format!("queue = {{ {queue} }}")).unwrap();
        Shape::plain(Rate::from_bits_per_s(10_000_000), table["queue"].clone().try_into().unwrap())
    }

    fn link(shape: &Shape) -> LinkModel {
        LinkModel::new(shape, 1, LinkId::A, Direction::Down)
    }

    /// Plays packets of (time, flow, bytes), in the order of their times and numbered by it. Returns those that
    /// departed, and the numbers of those that were dropped.
    fn play(
        link: &mut LinkModel,
        mut packets: Vec<(Nanos, u32, u32)>,
        ect: bool,
    ) -> (Vec<Departure>, Vec<u32>) {
        packets.sort();
        let mut dropped = Vec::new();
        for (id, &(at, flow, bytes)) in (0..).zip(&packets) {
            match link.take_in(at, ArrivingPacket { id, bytes, flow, ect }) {
                Ok(_) => {}
                Err(cause) => {
                    assert_eq!(cause, Cause::QueueFull);
                    dropped.push(id);
                }
            }
        }
        let departed: Vec<Departure> = std::iter::from_fn(|| link.take_due(Nanos::MAX)).collect();
        dropped.extend(link.take_lost());
        assert_eq!(departed.len() + dropped.len(), packets.len());
        (departed, dropped)
    }

    /// A packet every so many microseconds, until `ms`.
    fn every(us: u64, ms: u64, flow: u32, bytes: u32) -> impl Iterator<Item = (Nanos, u32, u32)> {
        (0..ms * 1000 / us).map(move |n| (n * us * 1000, flow, bytes))
    }

    /// The longest wait of a flow's packets, and how many bytes of it departed until a time.
    fn waits(packets: &[(Nanos, u32, u32)], departed: &[Departure], flow: u32) -> Nanos {
        let of_flow = departed.iter().filter(|packet| packets[packet.id as usize].1 == flow);
        of_flow.map(|packet| packet.at - packets[packet.id as usize].0).max().unwrap()
    }

    fn bytes_of(packets: &[(Nanos, u32, u32)], departed: &[Departure], flow: u32, until: Nanos) -> u64 {
        let of_flow =
            departed.iter().filter(|packet| packets[packet.id as usize].1 == flow && packet.at < until);
        of_flow.map(|packet| u64::from(packet.bytes)).sum()
    }

    #[test]
    fn paced_overload_is_kept_far_below_the_limit() {
        // 12 Mbit/s into 10 with a limit of a second, from a sender that answers no drops.
        let packets: Vec<_> = every(1009, 30_000, 0, 1514).collect();
        for queue in ["kind = \"codel\", limit = \"1s\"", "kind = \"fq_codel\", limit = \"1s\""] {
            let (departed, dropped) = play(&mut link(&shape(queue)), packets.clone(), false);
            let share = dropped.len() as f64 / packets.len() as f64;
            assert!((0.13..0.18).contains(&share), "{share}: what is too much is dropped");
            let late: Vec<Departure> =
                departed.into_iter().filter(|packet| packet.at > 20_000 * MS).collect();
            let longest = waits(&packets, &late, 0);
            assert!(longest < 200 * MS, "{longest} with {queue}");
        }
    }

    #[test]
    fn a_flow_that_sends_little_waits_for_one_packet() {
        let mut packets: Vec<_> = every(500, 2000, 1, 1514).chain(every(20_000, 2000, 2, 100)).collect();
        packets.sort();
        let fair =
            play(&mut link(&shape("kind = \"fq_codel\", limit = \"100ms\"")), packets.clone(), false).0;
        let fifo = play(&mut link(&shape("kind = \"codel\", limit = \"100ms\"")), packets.clone(), false).0;
        let (fair, fifo) = (waits(&packets, &fair, 2), waits(&packets, &fifo, 2));
        assert!(fair <= 1_211_200 && fifo > 50 * MS, "{fair} and {fifo}");
    }

    #[test]
    fn busy_flows_share_bytes_whatever_their_packets_and_rates() {
        let mut packets: Vec<_> = every(300, 3000, 1, 1514).chain(every(200, 3000, 2, 300)).collect();
        packets.sort();
        let departed =
            play(&mut link(&shape("kind = \"fq_codel\", limit = \"100ms\"")), packets.clone(), false).0;
        let [first, second] = [1, 2].map(|flow| bytes_of(&packets, &departed, flow, 3000 * MS) as f64);
        assert!((first / second - 1.0).abs() < 0.02, "{first} and {second}");
        let quantum = "kind = \"fq_codel\", limit = \"100ms\", quantum = \"300B\"";
        assert!(play(&mut link(&shape(quantum)), packets, false).0.len() > 3000);
    }

    #[test]
    fn a_full_queue_costs_the_longest_flow_packets_from_its_head() {
        // 100 packets have room. Flow 1 brings 99 at once, flow 2 five.
        let shape = shape("kind = \"fq_codel\", limit = \"121.12ms\"");
        let mut queue = ManagedQueue::of(&shape).unwrap();
        assert_eq!(queue.limit_bytes, 100 * 1514);
        let mut egress = EgressQueue::new(&shape, 1, LinkId::A, Direction::Down);
        let mut dropped = Vec::new();
        let mut take = |queue: &mut ManagedQueue, flow, id| {
            let incoming = ArrivingPacket { id, bytes: 1514, flow, ect: false };
            queue.push(Packet::new(incoming, 0, egress.draw(), None), &mut dropped);
        };
        (0..99).for_each(|id| take(&mut queue, 1, id));
        (100..105).for_each(|id| take(&mut queue, 2, id));
        let dropped: Vec<u32> = dropped.iter().map(|packet| packet.id).collect();
        assert_eq!(dropped, (0..50).collect::<Vec<_>>(), "half of the longest, oldest first");
        assert_eq!(queue.waiting(), (54, 54 * 1514));
    }

    #[test]
    fn packets_of_senders_that_understand_are_marked_and_not_dropped() {
        // 11 Mbit/s into 10 for a second, for which the limit has room.
        let packets: Vec<_> = every(1101, 1000, 0, 1514).collect();
        for kind in ["codel", "fq_codel"] {
            let shape = shape(&format!("kind = \"{kind}\", limit = \"1s\", ecn = true"));
            let mut link = link(&shape);
            let (departed, dropped) = play(&mut link, packets.clone(), true);
            let marked = departed.iter().filter(|packet| packet.marked).count() as u64;
            assert!(marked > 5 && dropped.is_empty(), "{marked} marked, {dropped:?} dropped");
            let tally = link.tally(Nanos::MAX);
            assert_eq!((tally.marked, tally.dropped_queue), (marked, 0));
            let mut link = self::link(&shape);
            let (departed, dropped) = play(&mut link, packets.clone(), false);
            assert!(dropped.len() > 5 && departed.iter().all(|packet| !packet.marked), "others are dropped");
        }
    }

    #[test]
    fn a_changed_queue_keeps_what_waits() {
        let mut link = link(&shape("kind = \"fq_codel\", limit = \"1s\""));
        for id in 0..100 {
            link.take_in(0, ArrivingPacket { id, bytes: 1514, flow: id % 3, ect: false }).unwrap();
        }
        let queues = ["kind = \"codel\", limit = \"1s\"", "kind = \"fq_codel\", limit = \"20ms\", flows = 7"];
        for (n, queue) in (1..).zip(queues) {
            link.change(n * MS, &shape(queue));
            assert_eq!(link.held(), 100);
        }
        link.change(3 * MS, &Shape::plain(Rate::from_bits_per_s(10_000_000), Queue::Packets(9)));
        let departed: Vec<Departure> = std::iter::from_fn(|| link.take_due(Nanos::MAX)).collect();
        assert_eq!(departed.len(), 100);
        assert!(departed.windows(2).all(|pair| pair[1].at - pair[0].at == 1_211_200));
    }
}
