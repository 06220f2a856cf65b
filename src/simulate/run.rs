//! A run in virtual time: two servers, two links, the client. Pure and deterministic.
//!
//! The links are the lab's own model of them ([`Emulator`]), with a virtual clock in place of the shaper's
//! thread. Nothing moves but at events: a packet leaves a link, a timer of a connection is over, the
//! client looks again, a link changes.

use std::time::Duration;

use super::client::{Client, LinkAction};
use super::lookup::Lookup;
use crate::config::profile::Profile;
use crate::emulate::emulator::{Arrived, Emulator, WAYS, Way};
use crate::emulate::link::ArrivingPacket;
use crate::emulate::tcp::connection::{
    CLIENT, ClientEvent, ConnectionConfig, SERVER, TcpConnection, TcpPacket,
};
use crate::emulate::tcp::sender::Sender;
use crate::schedule::{ConnectionId, TcpReading};
use crate::units::Nanos;
use crate::units::{Direction, LinkId};

/// A link becomes another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkChange<'a> {
    pub at: Nanos,
    pub link: LinkId,
    pub profile: &'a Profile,
}

/// Packets between a sender and their departure from a link, by the ids that the links know them by.
#[derive(Debug, Default)]
struct PacketsInFlight {
    packets: Vec<TcpPacket>,
    free: Vec<u32>,
}

impl PacketsInFlight {
    fn keep(&mut self, packet: TcpPacket) -> u32 {
        match self.free.pop() {
            Some(id) => {
                self.packets[id as usize] = packet;
                id
            }
            None => {
                self.packets.push(packet);
                self.packets.len() as u32 - 1
            }
        }
    }

    fn forget(&mut self, id: u32) {
        self.free.push(id);
    }

    fn take(&mut self, id: u32) -> TcpPacket {
        self.forget(id);
        self.packets[id as usize]
    }
}

/// The network: what packets go through.
struct SimulatedNetwork {
    emulator: Emulator,
    in_flight: PacketsInFlight,
}

impl SimulatedNetwork {
    fn send(&mut self, now: Nanos, link: LinkId, connection: usize, packet: TcpPacket) {
        let way = (link, if packet.to_client { Direction::Down } else { Direction::Up });
        let bytes = packet.frame();
        let id = self.in_flight.keep(TcpPacket { connection, ..packet });
        // Linux asks for ECN only where it is told to (tcp_ecn=2), so no segment is ECN-capable.
        let incoming = ArrivingPacket { id, bytes, flow: connection as u32, ect: false };
        match self.emulator.arrive(now, way, incoming) {
            Ok(Arrived::Held) => {}
            // A lost packet is gone; every link of a run is modelled.
            Ok(Arrived::NotModelled) | Err(_) => self.in_flight.forget(id),
        }
    }
}

/// The purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionPurpose {
    Transfer(ConnectionId),
    /// Sizes are looked up on it.
    Lookup,
}

/// The whole of it.
pub(crate) struct SimulatedRun<'a> {
    network: SimulatedNetwork,
    connections: Vec<TcpConnection>,
    purposes: Vec<ConnectionPurpose>,
    /// The places of each link's connections among them.
    places: [Vec<usize>; 2],
    /// The bytes of answers that came at one time, by connection.
    came: Vec<Option<u64>>,
    config: [ConnectionConfig; 2],
    /// The losses on connections that are closed.
    past_losses: [u64; 2],
    lookup: Option<Lookup>,
    pub client: Client<'a>,
    changes: Vec<LinkChange<'a>>,
    /// By link, while its server has something in flight.
    pub samples: [Vec<LinkSample>; 2],
    next_sample: Nanos,
    pub now: Nanos,
}

/// How often a run's samples are taken.
const SAMPLE_EVERY: Nanos = 100_000_000;

/// The state of a link, as a run's samples have it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkSample {
    /// The server's smoothed round trip.
    pub rtt: Nanos,
    /// Held on the way down, the delay line included.
    pub held_bytes: u64,
}

impl<'a> SimulatedRun<'a> {
    /// A run that begins with these profiles, each link's connection open with its idle round trip.
    /// `changes` are in the order of their times.
    pub(crate) fn new(
        mut emulator: Emulator,
        profiles: [&Profile; 2],
        mut changes: Vec<LinkChange<'a>>,
        client: Client<'a>,
        config: [ConnectionConfig; 2],
        rtt: [Nanos; 2],
    ) -> SimulatedRun<'a> {
        for link in LinkId::BOTH {
            emulator.set(0, link, profiles[link.index()]);
            emulator.play(0, link, profiles[link.index()]);
        }
        changes.reverse();
        let network = SimulatedNetwork { emulator, in_flight: PacketsInFlight::default() };
        let mut run = SimulatedRun {
            network,
            connections: Vec::new(),
            purposes: Vec::new(),
            places: Default::default(),
            came: Vec::new(),
            config,
            past_losses: [0; 2],
            lookup: None,
            client,
            changes,
            samples: Default::default(),
            next_sample: 0,
            now: 0,
        };
        for link in LinkId::BOTH {
            run.add_connections(link);
            for &place in &run.places[link.index()] {
                run.connections[place].establish(0, rtt[link.index()]);
            }
        }
        run
    }

    /// Adds what is missing of a link's connections, which are closed.
    fn add_connections(&mut self, link: LinkId) {
        let places = &mut self.places[link.index()];
        for index in places.len()..self.client.connections(link) {
            places.push(self.connections.len());
            let config = self.config[link.index()];
            let seed = config.seed.wrapping_add((index as u64) << 48);
            self.connections.push(TcpConnection::closed(link, ConnectionConfig { seed, ..config }));
            self.purposes.push(ConnectionPurpose::Transfer(ConnectionId { link, index }));
        }
    }

    fn ids(&self) -> impl Iterator<Item = ConnectionId> + use<> {
        let counts = self.places.each_ref().map(Vec::len);
        LinkId::BOTH
            .into_iter()
            .flat_map(move |link| (0..counts[link.index()]).map(move |index| ConnectionId { link, index }))
    }

    /// Has the sizes of so many files looked up on a connection of its own to server a.
    pub(crate) fn look_up(&mut self, files: usize, config: ConnectionConfig) {
        let mut connection = TcpConnection::closed(LinkId::A, config);
        connection.open(0);
        self.connections.push(connection);
        self.purposes.push(ConnectionPurpose::Lookup);
        self.lookup = Some(Lookup::new(files));
    }

    /// Plays until every file is complete. Returns the time of the last byte; none where what is missing
    /// never comes, or where `goes_on` says no, which is asked now and then.
    pub(crate) fn play(&mut self, goes_on: &impl Fn() -> bool) -> Option<Nanos> {
        self.ids().for_each(|id| self.ask(id));
        for round in 0u64.. {
            if self.client.is_done() {
                return Some(self.now);
            }
            if round % 4096 == 4095 && !goes_on() {
                return None;
            }
            let next = self.next();
            if next == Nanos::MAX {
                return None;
            }
            self.now = self.now.max(next);
            self.happen();
            self.sample();
        }
        None
    }

    /// Returns the bytes of cross traffic that have passed a link on the way down.
    pub(crate) fn cross_bytes(&mut self, link: LinkId) -> u64 {
        let tally = self.network.emulator.tally(self.now, (link, Direction::Down));
        tally.map_or(0, |tally| tally.cross_bytes)
    }

    fn sample(&mut self) {
        let now = self.now;
        if now < self.next_sample {
            return;
        }
        self.next_sample = now + SAMPLE_EVERY;
        for link in LinkId::BOTH {
            let places = self.places[link.index()].iter();
            let senders = || places.clone().map(|&place| &self.connections[place].ends[SERVER].sender);
            let busy = || senders().filter(|sender| sender.in_flight() > 0);
            let count = busy().count() as Nanos;
            if count == 0 {
                continue;
            }
            let rtt = busy().map(Sender::smoothed_rtt).sum::<Nanos>() / count;
            let losses = self.past_losses[link.index()] + senders().map(Sender::losses).sum::<u64>();
            if let Some(tally) = self.network.emulator.tally(now, (link, Direction::Down)) {
                self.samples[link.index()].push(LinkSample { rtt, held_bytes: tally.held_bytes });
            }
            let reading = TcpReading { losses, rtt: Duration::from_nanos(rtt) };
            self.client.read_tcp(link, reading, now);
            self.add_connections(link);
        }
    }

    fn next(&self) -> Nanos {
        let departure = self.network.emulator.next_event().unwrap_or(Nanos::MAX);
        let client = self.ids().map(|id| self.client.next(id)).min().unwrap_or(Nanos::MAX);
        let change = self.changes.last().map_or(Nanos::MAX, |change| change.at);
        let timers = self.connections.iter().map(TcpConnection::next);
        timers.fold(departure.min(change).min(client), Nanos::min)
    }

    /// Lets all that is due now happen.
    fn happen(&mut self) {
        let now = self.now;
        while let Some(change) = self.changes.pop_if(|change| change.at <= now) {
            self.network.emulator.set(now, change.link, change.profile);
            self.network.emulator.play(now, change.link, change.profile);
        }
        let SimulatedNetwork { emulator, in_flight, .. } = &mut self.network;
        emulator.advance(now);
        emulator.take_lost().for_each(|(.., id)| in_flight.forget(id));
        for way in WAYS {
            let mut came = std::mem::take(&mut self.came);
            came.clear();
            came.resize(self.connections.len(), None);
            while let Some(departure) = self.network.emulator.take_due(now, way) {
                let packet = self.network.in_flight.take(departure.id);
                // The receiver drops a corrupted packet.
                if departure.corrupt.is_none() {
                    *came[packet.connection].get_or_insert(0) += self.arrive(way.0, &packet);
                }
            }
            for (index, bytes) in came.iter().enumerate() {
                if let Some(bytes) = bytes {
                    self.answer(index, way, *bytes);
                }
            }
            self.came = came;
        }
        for index in 0..self.connections.len() {
            if self.connections[index].next() <= now {
                let (connection, network) = (&mut self.connections[index], &mut self.network);
                let link = connection.link;
                connection.on_time(now, &mut |packet| network.send(now, link, index, packet));
            }
        }
        for id in self.ids() {
            if self.client.next(id) <= now {
                self.ask(id);
            }
        }
    }

    /// Takes a packet; returns how many bytes of answers it brings the client.
    fn arrive(&mut self, link: LinkId, packet: &TcpPacket) -> u64 {
        let (now, index) = (self.now, packet.connection);
        let (connection, network) = (&mut self.connections[index], &mut self.network);
        match connection.take(now, packet, &mut |packet| network.send(now, link, index, packet)) {
            ClientEvent::Bytes(bytes) => bytes,
            ClientEvent::Open(rtt) => {
                if let ConnectionPurpose::Transfer(id) = self.purposes[index] {
                    self.client.opened(id, now, rtt);
                }
                0
            }
        }
    }

    /// Answers what came on a connection at one time: a server with what it may send, the client with
    /// requests and acknowledgements.
    fn answer(&mut self, index: usize, (_, direction): Way, bytes: u64) {
        if direction == Direction::Up {
            return self.send(index, SERVER);
        }
        let ConnectionPurpose::Transfer(id) = self.purposes[index] else {
            return self.looked_up(index, bytes);
        };
        if bytes > 0 {
            self.client.received(id, self.now, bytes);
        }
        self.ask(id);
    }

    /// Takes the client's actions on a connection, and acknowledges the bytes that it has read.
    fn ask(&mut self, id: ConnectionId) {
        let (now, index) = (self.now, self.places[id.link.index()][id.index]);
        while let Some(action) = self.client.next_action(id, now) {
            let connection = &mut self.connections[index];
            match action {
                LinkAction::Ask(request, answer) => connection.ask(now, request, answer),
                LinkAction::Close => {
                    self.past_losses[id.link.index()] += connection.ends[SERVER].sender.losses();
                    connection.close();
                }
                LinkAction::Open => connection.open(now),
            }
        }
        self.send(index, CLIENT);
        if std::mem::take(&mut self.client.changed) {
            self.ids().filter(|&other| other != id).for_each(|other| self.ask(other));
        }
    }

    fn send(&mut self, index: usize, end: usize) {
        let (now, network) = (self.now, &mut self.network);
        let connection = &mut self.connections[index];
        let link = connection.link;
        connection.send(now, end, &mut |packet| network.send(now, link, index, packet));
    }

    /// Answers with sizes came, or the connection for them is open.
    fn looked_up(&mut self, index: usize, bytes: u64) {
        let now = self.now;
        if let Some(lookup) = &mut self.lookup {
            for (request, answer) in lookup.came(bytes) {
                self.connections[index].ask(now, request, answer);
            }
            if lookup.is_done() {
                self.lookup = None;
                self.client.learn_sizes();
            }
        }
        self.send(index, CLIENT);
    }
}
