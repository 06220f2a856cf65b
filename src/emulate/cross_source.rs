//! The senders of a link's cross traffic, in virtual time. Pure.
//!
//! Datagrams fill a frame each, and come as a Poisson process. Connections are TCP's model (`super::tcp`) with an
//! answer that never ends; their round trip is twice the direction's delay, and their acknowledgements meet no
//! queue. Packets that have passed the bottleneck are thrown away.

use std::collections::{HashMap, VecDeque};

use super::egress_queue::ArrivingPacket;
use super::rng::{Purpose, Stream};
use super::tcp::connection::{CLIENT, ConnectionConfig, SERVER, TcpConnection, TcpPacket};
use crate::config::profile::{FRAME, Shape};
use crate::config::traffic::{Control, Cross};
use crate::units::{Direction, LinkId, Nanos};

/// The keys of its flows begin here: lower ones are those of a simulated client.
const FIRST_FLOW: u32 = 16;

#[derive(Clone, Debug)]
enum Senders {
    /// The mean time between two, and when the next one comes.
    Datagrams {
        gap: f64,
        stream: Box<Stream>,
        next: Nanos,
    },
    Connections(Vec<TcpConnection>),
}

#[derive(Clone, Debug)]
pub(crate) struct CrossSource {
    senders: Senders,
    rtt: Nanos,
    next_id: u32,
    /// Segments in the queue, by their ids.
    queued: HashMap<u32, TcpPacket>,
    /// Segments behind the bottleneck, and when their receivers' acknowledgements are back.
    passed: VecDeque<(Nanos, TcpPacket)>,
}

impl CrossSource {
    /// Returns the cross traffic of a shape that has any, from `now` on. Ids go on behind those of the one before.
    pub(crate) fn new(
        shape: &Shape,
        seed: u64,
        (link, direction): (LinkId, Direction),
        now: Nanos,
        before: Option<&CrossSource>,
    ) -> Option<CrossSource> {
        let rtt = 2 * shape.delay.0.as_nanos() as Nanos;
        let senders = match shape.cross? {
            Cross::Datagrams(rate) => {
                let gap = FRAME as f64 * 8e9 / rate.bits_per_s() as f64;
                Senders::Datagrams {
                    gap,
                    stream: Box::new(Stream::new(seed, link, direction, Purpose::Cross)),
                    next: now,
                }
            }
            Cross::Connections(count, control) => {
                let open = |n| {
                    let paced = control == Control::Bbr;
                    let config = ConnectionConfig { server: control, paced, seed: seed.wrapping_add(n) };
                    let mut connection = TcpConnection::closed(link, config);
                    connection.establish(now, rtt);
                    connection.ask(now, 1, u64::MAX / 4);
                    connection
                };
                Senders::Connections((1..=u64::from(count)).map(open).collect())
            }
        };
        let next_id = before.map_or(0, |before| before.next_id);
        let mut source =
            CrossSource { senders, rtt, next_id, queued: HashMap::new(), passed: VecDeque::new() };
        if let Senders::Connections(connections) = &mut source.senders {
            // The request of each needs no time: the first segments leave at once.
            for (index, connection) in connections.iter_mut().enumerate() {
                let mut requests = Vec::new();
                connection.send(now, CLIENT, &mut |packet| {
                    requests.push(TcpPacket { connection: index, ..packet });
                });
                source.passed.extend(requests.into_iter().map(|packet| (now, packet)));
            }
        }
        Some(source)
    }

    /// When a sender does something next.
    pub(crate) fn next(&self) -> Nanos {
        match &self.senders {
            Senders::Datagrams { next, .. } => *next,
            Senders::Connections(connections) => {
                let passed = self.passed.front().map_or(Nanos::MAX, |passed| passed.0);
                connections.iter().map(TcpConnection::next).fold(passed, Nanos::min)
            }
        }
    }

    /// Returns what is sent at this time, which must be that of [`CrossSource::next`].
    pub(crate) fn send(&mut self, now: Nanos) -> Vec<ArrivingPacket> {
        match &mut self.senders {
            Senders::Datagrams { gap, stream, next } => {
                // Exponential, so that they come at random times.
                *next = now + (-*gap * (1.0 - stream.unit()).ln()) as Nanos + 1;
                self.next_id = self.next_id.wrapping_add(1);
                vec![ArrivingPacket { id: self.next_id, bytes: FRAME as u32, flow: FIRST_FLOW, ect: false }]
            }
            Senders::Connections(connections) => {
                let mut sent = Vec::new();
                while self.passed.front().is_some_and(|passed| passed.0 <= now)
                    && let Some((_, packet)) = self.passed.pop_front()
                {
                    deliver(&mut connections[packet.connection], now, packet, &mut sent);
                }
                for (index, connection) in connections.iter_mut().enumerate() {
                    if connection.next() <= now {
                        let mut packets = Vec::new();
                        connection.on_time(now, &mut |packet| {
                            packets.push(TcpPacket { connection: index, ..packet });
                        });
                        packets.into_iter().for_each(|packet| pass_on(connection, now, packet, &mut sent));
                    }
                }
                sent.into_iter()
                    .map(|packet| {
                        self.next_id = self.next_id.wrapping_add(1);
                        self.queued.insert(self.next_id, packet);
                        let flow = FIRST_FLOW + packet.connection as u32;
                        ArrivingPacket { id: self.next_id, bytes: packet.frame(), flow, ect: false }
                    })
                    .collect()
            }
        }
    }

    /// Notes that a packet leaves the bottleneck then. Packets leave in the order of these calls.
    pub(crate) fn passes(&mut self, id: u32, out: Nanos) {
        let packet = self.queued.remove(&id);
        self.passed.extend(packet.map(|packet| (out.saturating_add(self.rtt), packet)));
    }

    /// Notes that a packet was dropped.
    pub(crate) fn loses(&mut self, id: u32) {
        self.queued.remove(&id);
    }
}

/// Sends a packet: one to the client goes to `sent`, one to the server is there at once.
fn pass_on(connection: &mut TcpConnection, now: Nanos, packet: TcpPacket, sent: &mut Vec<TcpPacket>) {
    match packet.to_client {
        true => sent.push(packet),
        false => deliver(connection, now, packet, sent),
    }
}

/// Lets an end have a packet, and send its answers.
fn deliver(connection: &mut TcpConnection, now: Nanos, packet: TcpPacket, sent: &mut Vec<TcpPacket>) {
    let index = packet.connection;
    let end = if packet.to_client { CLIENT } else { SERVER };
    let mut answers = Vec::new();
    let mut keep = |packet| answers.push(TcpPacket { connection: index, ..packet });
    connection.take(now, &packet, &mut keep);
    connection.send(now, end, &mut keep);
    answers.into_iter().for_each(|packet| pass_on(connection, now, packet, sent));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulate::link::LinkModel;

    const MS: Nanos = 1_000_000;

    /// 10 Mbit/s and 10 ms with such a queue and cross traffic, which plays from 0 on.
    fn link(queue: &str, cross: &str) -> LinkModel {
        let text = format!("rate = \"10mbit\"\ndelay = \"10ms\"\nqueue = {queue}\n{cross}");
        let shape: Shape = toml::from_str(&text).unwrap();
        let mut link = LinkModel::new(&shape, 3, LinkId::A, Direction::Down);
        link.play(0, &shape);
        link
    }

    /// Offers a full frame every `us` for ten seconds, and looks at the link every `look`. Returns when each packet
    /// departed, and the Mbit/s of its own and of cross traffic in the last eight.
    fn load(mut link: LinkModel, us: u64, look: Nanos) -> (Vec<(u32, Nanos)>, f64, f64) {
        let (mut departed, mut before) = (Vec::new(), 0);
        let mut arrivals = (0..10_000_000 / us).map(|n| (n * us * 1000, n as u32)).peekable();
        for now in (0..10_000 * MS).step_by(look as usize) {
            while let Some((at, id)) = arrivals.next_if(|arrival| arrival.0 <= now) {
                let _ = link.take_in(at, ArrivingPacket { id, bytes: 1514, flow: 0, ect: false });
            }
            departed.extend(std::iter::from_fn(|| link.take_due(now)).map(|packet| (packet.id, packet.at)));
            link.take_lost().for_each(drop);
            if now == 2_000 * MS {
                before = link.tally(now).cross_bytes;
            }
        }
        let mbit = |bytes: f64| bytes * 8.0 / 8e6;
        let own = departed.iter().filter(|packet| packet.1 > 2_000 * MS).count() as f64 * 1514.0;
        let cross = (link.tally(10_000 * MS).cross_bytes - before) as f64;
        (departed, mbit(own), mbit(cross))
    }

    const FIFO: &str = "\"100ms\"";
    const FAIR: &str = "{ kind = \"fq_codel\", limit = \"100ms\" }";

    #[test]
    fn datagrams_take_their_rate_and_leave_the_rest() {
        // A load that leaves room for them, and one that has not, beside which their own queue keeps them.
        for (queue, us, expected) in [(FIFO, 2000, 6.06), (FAIR, 1300, 7.0)] {
            let (_, own, cross) = load(link(queue, "cross = \"3mbit\""), us, MS);
            assert!((2.8..3.2).contains(&cross), "{cross} with {queue}");
            assert!((own - expected).abs() < 0.2, "{own} with {queue}");
        }
    }

    #[test]
    fn connections_fill_a_link_that_nobody_else_uses() {
        for (queue, least) in [(FIFO, 9.9), (FAIR, 9.0)] {
            for cross in ["cross = \"2 x cubic\"", "cross = \"1 x reno\"", "cross = \"3 x bbr\""] {
                let cross_mbit = load(link(queue, cross), 10_000_000, MS).2;
                assert!((least..10.01).contains(&cross_mbit), "{cross_mbit} of {cross} with {queue}");
            }
        }
    }

    #[test]
    fn each_connection_has_its_share_where_flows_have_queues() {
        let (_, own, cross) = load(link(FAIR, "cross = \"2 x cubic\""), 1000, MS);
        assert!((own - 10.0 / 3.0).abs() < 0.4 && (own + cross - 10.0).abs() < 0.02, "{own} and {cross}");
    }

    #[test]
    fn it_matters_not_how_often_the_link_is_looked_at() {
        for queue in [FIFO, FAIR] {
            for cross in ["cross = \"3mbit\"", "cross = \"2 x cubic\""] {
                let seen = |look| load(link(queue, cross), 2000, look).0;
                let (often, seldom) = (seen(MS / 10), seen(100 * MS));
                assert!(often.len() > 1000);
                assert!(often.iter().take(seldom.len()).eq(&seldom), "{cross} with {queue}");
            }
        }
    }

    #[test]
    fn others_move_no_packets_losses() {
        let fates = |cross: &str| {
            let (departed, ..) = load(link("\"1s\"", &format!("loss = \"5%\"\n{cross}")), 5000, MS);
            departed.into_iter().map(|packet| packet.0).collect::<Vec<_>>()
        };
        let (alone, beside) = (fates(""), fates("cross = \"2mbit\""));
        assert!(alone.len() < 1950);
        let common = alone.len().min(beside.len());
        assert_eq!(alone[..common], beside[..common]);
    }
}
