//! A TCP connection between the client and a server: two ends, each a sender and a receiver. Pure: the caller
//! gives the time.

use std::collections::VecDeque;

use super::receiver::{Acknowledgement, Receiver};
use super::sender::Sender;
use crate::config::traffic::Control;
use crate::units::LinkId;
use crate::units::Nanos;

/// Headers of a segment as Ethernet frame: Ethernet's 14 bytes, IPv4's 20, TCP's 32 with timestamps.
const HEADER_BYTES: u32 = 66;
/// The frame of a SYN, and of its answer.
const SYN_BYTES: u32 = 74;
/// A SYN is sent again after this time, and then after twice as long.
const SYN_TIMEOUT: Nanos = 1_000_000_000;

/// The content of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content {
    Syn,
    /// Data, if any, and the acknowledgement for its receiver.
    Segment {
        number: u32,
        end: u64,
        bytes: u16,
        ack: Acknowledgement,
    },
}

/// A packet of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpPacket {
    /// Which of the run's connections, and how often that was opened before.
    pub connection: usize,
    pub generation: u32,
    pub to_client: bool,
    pub sent: Nanos,
    pub content: Content,
}

impl TcpPacket {
    /// Bytes as Ethernet frame.
    pub(crate) fn frame(&self) -> u32 {
        match self.content {
            Content::Syn => SYN_BYTES,
            Content::Segment { bytes, .. } => HEADER_BYTES + u32::from(bytes),
        }
    }
}

/// One end.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionEnd {
    pub sender: Sender,
    receiver: Receiver,
    /// The latest sending time that an acknowledgement echoed.
    last_echo: Nanos,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum SenderState {
    Closed,
    /// The SYN goes out again at this time, and after that in so long.
    Opening(Nanos, Nanos),
    Open,
}

/// The parameters of a link's connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionConfig {
    pub server: Control,
    /// Sockets begin with BBR, and are paced from then on whatever is chosen.
    pub paced: bool,
    pub seed: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct TcpConnection {
    pub link: LinkId,
    pub generation: u32,
    config: ConnectionConfig,
    state: SenderState,
    began: Nanos,
    pub ends: [ConnectionEnd; 2],
    /// Requests: where each ends in the client's stream, and how long its answer is.
    requests: VecDeque<(u64, u64)>,
    asked: u64,
    /// Bytes of answers that the client has read.
    read: u64,
}

/// The client's end among [`TcpConnection::ends`], and the server's.
pub(crate) const CLIENT: usize = 0;
pub(crate) const SERVER: usize = 1;

impl ConnectionEnd {
    fn new(control: Control, config: ConnectionConfig, seed: u64, now: Nanos, rtt: Nanos) -> ConnectionEnd {
        let sender = Sender::new(control, config.paced, seed, now, rtt);
        ConnectionEnd { sender, receiver: Receiver::new(), last_echo: 0 }
    }

    fn next(&self) -> Nanos {
        self.sender.timer_at.min(self.sender.paced_until()).min(self.receiver.next())
    }
}

impl TcpConnection {
    pub(crate) fn closed(link: LinkId, config: ConnectionConfig) -> TcpConnection {
        let ends = [CLIENT, SERVER].map(|_| ConnectionEnd::new(config.server, config, config.seed, 0, 1));
        TcpConnection {
            link,
            generation: 0,
            config,
            state: SenderState::Closed,
            began: 0,
            ends,
            requests: VecDeque::new(),
            asked: 0,
            read: 0,
        }
    }

    /// Opens at once, with a handshake that took `rtt`.
    pub(crate) fn establish(&mut self, now: Nanos, rtt: Nanos) {
        let config = self.config;
        let seed = config.seed.wrapping_add(u64::from(self.generation) << 32);
        // The client sends so little that its congestion control does not matter.
        self.ends =
            [Control::Reno, config.server].map(|control| ConnectionEnd::new(control, config, seed, now, rtt));
        self.state = SenderState::Open;
    }

    /// Begins to open.
    pub(crate) fn open(&mut self, now: Nanos) {
        self.began = now;
        self.state = SenderState::Opening(now, SYN_TIMEOUT);
    }

    /// Forgets the connection; its packets in flight are ignored.
    pub(crate) fn close(&mut self) {
        self.generation += 1;
        self.requests.clear();
        (self.asked, self.read) = (0, 0);
        self.state = SenderState::Closed;
    }

    /// The client asks for something whose answer has so many bytes.
    pub(crate) fn ask(&mut self, now: Nanos, request: u64, answer: u64) {
        self.asked += request;
        self.requests.push_back((self.asked, answer));
        self.ends[CLIENT].sender.offer(now, request);
    }

    /// When something happens though nothing comes.
    pub(crate) fn next(&self) -> Nanos {
        match self.state {
            SenderState::Closed => Nanos::MAX,
            SenderState::Opening(at, _) => at,
            SenderState::Open => self.ends[CLIENT].next().min(self.ends[SERVER].next()),
        }
    }

    fn packet(&self, to_client: bool, sent: Nanos, content: Content) -> TcpPacket {
        TcpPacket { connection: 0, generation: self.generation, to_client, sent, content }
    }

    /// Plays timers that are over.
    pub(crate) fn on_time(&mut self, now: Nanos, send: &mut impl FnMut(TcpPacket)) {
        match self.state {
            SenderState::Closed => {}
            SenderState::Opening(at, wait) if at <= now => {
                self.state = SenderState::Opening(now + wait, wait * 2);
                send(self.packet(false, now, Content::Syn));
            }
            SenderState::Opening(..) => {}
            SenderState::Open => {
                for end in [CLIENT, SERVER] {
                    if self.ends[end].next() > now {
                        continue;
                    }
                    self.ends[end].receiver.on_time(now);
                    if let Some(segment) = self.ends[end].sender.on_time(now) {
                        send(self.segment(now, end, segment));
                    }
                    self.send(now, end, send);
                }
            }
        }
    }

    fn segment(&mut self, now: Nanos, end: usize, segment: super::sender::Segment) -> TcpPacket {
        let ack = self.ends[end].receiver.acknowledge(now, segment.is_new);
        let super::sender::Segment { number, end: ends, bytes, .. } = segment;
        self.packet(end == SERVER, now, Content::Segment { number, end: ends, bytes, ack })
    }

    /// Sends what one end may send now.
    pub(crate) fn send(&mut self, now: Nanos, end: usize, send: &mut impl FnMut(TcpPacket)) {
        if self.state != SenderState::Open {
            return;
        }
        while let Some(segment) = self.ends[end].sender.next_segment(now) {
            send(self.segment(now, end, segment));
        }
        if self.ends[end].receiver.is_due() {
            let ack = self.ends[end].receiver.acknowledge(now, false);
            send(self.packet(end == SERVER, now, Content::Segment { number: 0, end: 0, bytes: 0, ack }));
        }
    }

    /// Takes a packet that arrived. The caller then calls [`TcpConnection::send`] once for all packets that
    /// arrived together, so that one acknowledgement covers them.
    pub(crate) fn take(
        &mut self,
        now: Nanos,
        packet: &TcpPacket,
        send: &mut impl FnMut(TcpPacket),
    ) -> ClientEvent {
        if packet.generation != self.generation {
            return ClientEvent::Bytes(0);
        }
        let (number, ends_at, bytes, ack) = match packet.content {
            Content::Syn if !packet.to_client => {
                if self.state != SenderState::Open {
                    send(self.packet(true, now, Content::Syn));
                }
                return ClientEvent::Bytes(0);
            }
            Content::Syn => {
                if !matches!(self.state, SenderState::Opening(..)) {
                    return ClientEvent::Bytes(0);
                }
                let rtt = now - self.began;
                self.establish(now, rtt);
                return ClientEvent::Open(rtt);
            }
            Content::Segment { number, end, bytes, ack } => (number, end, bytes, ack),
        };
        if self.state != SenderState::Open {
            return ClientEvent::Bytes(0);
        }
        let at = if packet.to_client { CLIENT } else { SERVER };
        let end = &mut self.ends[at];
        let answers = (ack.echo > end.last_echo).then_some(ack.echo);
        end.last_echo = end.last_echo.max(ack.echo);
        if bytes > 0 {
            end.receiver.take(now, number, ends_at, u64::from(bytes), packet.sent, answers);
        } else {
            end.receiver.hear(packet.sent);
        }
        end.sender.acked(now, &ack);
        let received = end.receiver.received;
        let mut came = 0;
        if packet.to_client {
            came = received - std::mem::replace(&mut self.read, received);
        } else {
            while let Some(&(_, answer)) = self.requests.front().filter(|request| request.0 <= received) {
                self.requests.pop_front();
                self.ends[SERVER].sender.offer(now, answer);
            }
        }
        ClientEvent::Bytes(came)
    }
}

/// The event at the client that a packet caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientEvent {
    Bytes(u64),
    /// The connection is open; its handshake took so long.
    Open(Nanos),
}
