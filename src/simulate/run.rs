//! A run in virtual time: two servers, two links, the client. Pure and deterministic.
//!
//! Nothing moves but at events: a request reaches its server, a train reaches the client, its
//! acknowledgement reaches the server, a turn on the air ends. At each, servers send what their
//! windows let go and the client asks for what its scheduler names.

use std::collections::VecDeque;

use super::air::{Air, Cargo, Kind};
use super::client::{Client, Wish};
use super::flow::Flow;
use super::pipe::Pipe;
use crate::bound;
use crate::link::profile::FRAME;
use crate::units::LinkId;

/// A request as Ethernet frame: about 160 bytes of head behind TCP's, IP's and Ethernet's headers.
const REQUEST_FRAME_BYTES: f64 = 230.0;

/// The first frame of a connection.
const SYN_BYTES: f64 = 74.0;
/// No connection opens faster (s).
const LEAST_OPENING_S: f64 = 0.001;

/// One link with its server.
#[derive(Clone, Debug)]
pub struct Link {
    /// The connection, and one as it is when it is new.
    flow: Flow,
    fresh: Flow,
    /// None for a link on the air.
    pipe: Option<Pipe>,
    mss: f64,
    /// Requests on their way up: when they reach the server (s), and the bytes of their answers.
    asks: VecDeque<(f64, u64)>,
    /// Trains on their way down: when they reach the client (s), and their bytes.
    trains: VecDeque<(f64, u64)>,
    /// Acknowledgements on their way up: when they reach the server (s), and what was lost.
    acks: VecDeque<(f64, u64)>,
    airborne: Airborne,
}

/// What is on the air, in the order in which it went, each with its connection's number: requests with
/// the bytes of their answers, trains with what arrives and what was lost, and those losses.
#[derive(Clone, Debug, Default)]
struct Airborne {
    connection: u32,
    asks: VecDeque<(u32, u64)>,
    trains: VecDeque<(u32, u64, u64)>,
    acks: VecDeque<(u32, u64)>,
}

impl Link {
    pub fn new(flow: Flow, pipe: Option<Pipe>, mss: f64) -> Link {
        Link {
            fresh: flow.clone(),
            flow,
            pipe,
            mss,
            asks: VecDeque::new(),
            trains: VecDeque::new(),
            acks: VecDeque::new(),
            airborne: Airborne::default(),
        }
    }

    fn next_s(&self) -> f64 {
        let next = |queue: &VecDeque<(f64, u64)>| queue.front().map_or(f64::INFINITY, |event| event.0);
        next(&self.asks).min(next(&self.trains)).min(next(&self.acks))
    }

    /// Forgets the connection. What is in the link's queue still takes its time there.
    fn close(&mut self) {
        self.flow = self.fresh.clone();
        self.asks.clear();
        self.trains.clear();
        self.acks.clear();
        self.airborne.connection += 1;
    }
}

/// The whole of it.
#[derive(Debug)]
pub struct Run<'a> {
    pub links: [Link; 2],
    pub air: Option<Air>,
    pub client: Client<'a>,
    /// Of an idle link.
    pub rtt_s: [f64; 2],
    pub now_s: f64,
}

impl Run<'_> {
    /// Plays until every file is complete. Gives the time (s) of the last byte, or none where what is
    /// missing never comes.
    pub fn play(&mut self) -> Option<f64> {
        loop {
            self.ask();
            self.send();
            if self.client.is_done() {
                return Some(self.now_s);
            }
            let air = self.air.as_ref().map_or(f64::INFINITY, Air::next_s);
            let client = self.client.next_s(self.now_s);
            let next = self.links.iter().map(Link::next_s).fold(air.min(client), f64::min);
            if !next.is_finite() {
                return None;
            }
            self.now_s = next;
            self.happen();
        }
    }

    /// Lets all that is due now happen.
    fn happen(&mut self) {
        let now_s = self.now_s;
        let crossed = self.air.as_mut().map_or(Vec::new(), |air| air.advance(now_s));
        for cargo in crossed {
            self.crossed(cargo);
        }
        for id in LinkId::BOTH {
            let link = &mut self.links[id.index()];
            let due = |queue: &mut VecDeque<(f64, u64)>| {
                let (_, bytes) = *queue.front().filter(|event| event.0 <= now_s)?;
                queue.pop_front();
                Some(bytes)
            };
            while let Some(bytes) = due(&mut link.asks) {
                link.flow.offer(bytes);
            }
            while let Some(lost) = due(&mut link.acks) {
                link.flow.acked(now_s, lost);
            }
            while let Some(bytes) = due(&mut link.trains) {
                self.client.received(id, now_s, bytes);
            }
        }
    }

    /// Something has crossed the air; what is behind the air delays it.
    fn crossed(&mut self, cargo: Cargo) {
        let Some(air) = &mut self.air else { return };
        let delay_s = air.delay_s(cargo.link);
        let at_s = self.now_s + delay_s;
        let link = &mut self.links[cargo.link.index()];
        let airborne = &mut link.airborne;
        let now = airborne.connection;
        match cargo.kind {
            Kind::Data => {
                let Some((_, bytes, lost)) = airborne.trains.pop_front().filter(|train| train.0 == now)
                else {
                    return;
                };
                link.trains.push_back((at_s, bytes));
                airborne.acks.push_back((now, lost));
                // The acknowledgements go up when the train has come; that delay is small beside a
                // turn, and is added to theirs.
                air.offer(self.now_s, Cargo::acks(cargo.link, bytes as f64 / link.mss));
            }
            Kind::Ack => {
                if let Some((_, lost)) = airborne.acks.pop_front().filter(|ack| ack.0 == now) {
                    link.acks.push_back((at_s + delay_s, lost));
                }
            }
            Kind::Ask => {
                if let Some((_, bytes)) = airborne.asks.pop_front().filter(|ask| ask.0 == now) {
                    link.asks.push_back((at_s, bytes));
                }
            }
        }
    }

    /// Does what the client wishes.
    fn ask(&mut self) {
        for id in LinkId::BOTH {
            while let Some(wish) = self.client.wish(id, self.now_s) {
                let link = &mut self.links[id.index()];
                match wish {
                    Wish::Ask(bytes) => self.request(id, bytes),
                    Wish::Close => link.close(),
                    Wish::Open(from_s) => {
                        let rtt_s = self.rtt_s[id.index()].max(LEAST_OPENING_S);
                        // A link that carries nothing now opens no connection before it does.
                        let carried_s =
                            link.pipe.as_ref().map_or(from_s, |pipe| pipe.through_s(from_s, SYN_BYTES));
                        self.client.opens(id, carried_s + rtt_s);
                    }
                }
            }
        }
    }

    fn request(&mut self, id: LinkId, bytes: u64) {
        let link = &mut self.links[id.index()];
        match (&link.pipe, &mut self.air) {
            (Some(pipe), _) => {
                let at_s = self.now_s + pipe.up_s(self.now_s, REQUEST_FRAME_BYTES);
                link.asks.push_back((at_s, bytes));
            }
            (None, Some(air)) => {
                link.airborne.asks.push_back((link.airborne.connection, bytes));
                air.offer(self.now_s, Cargo::new(id, Kind::Ask, 1.0, REQUEST_FRAME_BYTES));
            }
            (None, None) => {}
        }
    }

    /// Lets the servers send what their windows allow.
    fn send(&mut self) {
        for id in LinkId::BOTH {
            let link = &mut self.links[id.index()];
            while let Some(train) = link.flow.next_train(self.now_s) {
                match (&mut link.pipe, &mut self.air) {
                    (Some(pipe), _) => {
                        let passed = pipe.pass(self.now_s, train.bytes);
                        link.trains.push_back((passed.at_s, passed.arrived));
                        link.acks.push_back((passed.at_s + pipe.up_s(self.now_s, 0.0), passed.lost));
                    }
                    (None, Some(air)) => {
                        let frames = (train.bytes as f64 / link.mss).ceil();
                        let bytes = train.bytes as f64 / bound::payload_share(link.mss, false) / frames;
                        let share = air
                            .offer(self.now_s, Cargo::new(id, Kind::Data, frames, bytes.min(FRAME as f64)));
                        let lost = (train.bytes as f64 * share) as u64;
                        let airborne = &mut link.airborne;
                        airborne.trains.push_back((airborne.connection, train.bytes - lost, lost));
                    }
                    (None, None) => {}
                }
            }
        }
    }
}
