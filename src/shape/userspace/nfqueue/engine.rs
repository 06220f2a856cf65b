//! The thread that holds packets: takes them in as the kernel queues them, asks the model when they
//! depart, and gives each verdict when its time has come. It alone reads the clock.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::capture::{CaptureTap, SNAP_BYTES};
use super::clock;
use super::detach;
use super::header;
use super::lateness::{Lateness, LatenessSummary};
use super::netlink::{COPY_ALL, COPY_LITTLE, NetlinkSocket, Queued, check};
use super::{queue_number, way_of};
use crate::config::profile::{Profile, Queue};
use crate::emulate::delay_line::ETHERNET_HEADER;
use crate::emulate::emulator::{Arrived, Emulator, WAYS, Way, index_of};
use crate::emulate::link::{ArrivingPacket, Cause, Departure, Tally};
use crate::units::Nanos;
use crate::units::{Direction, LinkId};

/// The owner's commands to the thread. Each is answered when it is done.
pub(crate) enum EngineCommand {
    Set(LinkId, Box<Profile>, Sender<()>),
    /// Play the link's traces; the answer is when they began.
    Play(LinkId, Box<Profile>, Sender<Instant>),
    Remove(LinkId, Sender<()>),
    Read(Sender<EngineReading>),
    Stop,
}

/// The thread's counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct EngineReading {
    /// By [`index_of`]; none for a way that is not modelled.
    pub tallies: [Option<Tally>; 4],
    /// Since the last reading.
    pub lateness: [LatenessSummary; 4],
    /// Airtime since the start, by station; empty without a shared channel.
    pub busy: Vec<(&'static str, Nanos)>,
    /// When this was read, on the thread's clock.
    pub at: Nanos,
}

/// The state of one queue.
#[derive(Default)]
struct Tap {
    lateness: Lateness,
    /// Whether packets leave in the order in which they came, so that one verdict can release many.
    in_order: bool,
    /// Whether packets may be corrupted or marked, so that their bytes are kept.
    keeps_bytes: bool,
    /// How much of each packet the kernel copies.
    copied: u32,
    /// Packets that are released with bytes from here, by the model's number of them.
    kept: HashMap<u32, Kept>,
    /// Packets that go through the queue once more (see [`detach`]) and are not back yet.
    away: HashSet<u32>,
    /// A packet that is due and away.
    next: Option<Departure>,
    /// Held now, as far as verdicts go.
    held: u64,
    /// The packet that came last; ids rise.
    last: u32,
}

/// A packet whose bytes are kept.
struct Kept {
    /// The kernel's number of it, which is not the model's once it has gone through the queue again.
    id: u32,
    bytes: Box<[u8]>,
}

/// A verdict that is given as soon as the batch is read.
enum Ruling {
    Accept,
    Drop,
    Requeue(Vec<u8>),
}

pub(crate) struct Engine {
    socket: NetlinkSocket,
    emulator: Emulator,
    taps: [Tap; 4],
    capture: Option<CaptureTap>,
    commands: Receiver<EngineCommand>,
    /// Becomes readable when there is a command.
    wake: Arc<OwnedFd>,
    /// When the last round began.
    round_at: Nanos,
}

/// How far apart rounds begin while many packets are held: each then moves several packets for the
/// price of one wake-up, and none is later by more than this.
const ROUND: Nanos = 100_000;

/// The number of held packets from which rounds apply: an idle link holds fewer, and waits for nothing.
const MANY: u64 = 16;

/// Makes this thread wake in time: exact timers, and a real-time priority where that is permitted.
fn hurry() {
    // SAFETY: plain system calls about the calling thread; the structure lives through its call.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
        let mut priority: libc::sched_param = std::mem::zeroed();
        priority.sched_priority = 10;
        // A child process must not inherit it.
        libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &priority);
    }
}

impl Engine {
    pub(crate) fn new(
        socket: NetlinkSocket,
        emulator: Emulator,
        capture: Option<CaptureTap>,
        commands: Receiver<EngineCommand>,
        wake: Arc<OwnedFd>,
    ) -> Engine {
        Engine { socket, emulator, taps: Default::default(), capture, commands, wake, round_at: 0 }
    }

    /// Runs until it is told to stop, or its owner is gone.
    ///
    /// # Errors
    /// The kernel's, where it can no longer receive or give verdicts.
    pub(crate) fn run(mut self) -> Result<()> {
        hurry();
        loop {
            self.rest();
            self.release(clock())?;
            if !self.obey()? {
                return Ok(());
            }
            if self.take_in()? == 0 {
                // The kernel sends a packet back before it takes the next verdict, or never.
                self.taps.iter_mut().for_each(|tap| tap.away.clear());
                self.wait()?;
            }
        }
    }

    /// Keeps rounds [`ROUND`] apart while many packets are held.
    fn rest(&mut self) {
        let early = (self.round_at + ROUND).saturating_sub(clock());
        if early > 0 && self.taps.iter().map(|tap| tap.held).sum::<u64>() >= MANY {
            std::thread::sleep(Duration::from_nanos(early));
        }
        self.round_at = clock();
    }

    /// Sleeps until a packet comes, a command comes, or the next thing happens in the model.
    fn wait(&self) -> Result<()> {
        let left = self.emulator.next_event().map(|at| at.saturating_sub(clock()));
        let timeout = left.map(|left| libc::timespec {
            tv_sec: (left / 1_000_000_000) as libc::time_t,
            tv_nsec: (left % 1_000_000_000) as libc::c_long,
        });
        let watch = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut watched = [watch(self.socket.as_raw_fd()), watch(self.wake.as_raw_fd())];
        let timeout = timeout.as_ref().map_or(std::ptr::null(), |timeout| timeout as *const _);
        // SAFETY: the array and the timeout live through the call; no signal mask is given.
        let woken = check(unsafe { libc::ppoll(watched.as_mut_ptr(), 2, timeout, std::ptr::null()) });
        if watched[1].revents != 0 {
            // Before the commands are looked at, so that none can come unnoticed in between, and
            // nowhere else, so that a counter that rises late does not keep this from sleeping.
            self.quiet_wake();
        }
        match woken {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                Err(error).context("cannot wait for packets")
            }
            _ => Ok(()),
        }
    }

    /// Takes in what the kernel has queued, at most one batch, so that departures are never far.
    fn take_in(&mut self) -> Result<usize> {
        let now = clock();
        let (emulator, taps, capture) = (&mut self.emulator, &mut self.taps, &mut self.capture);
        // Verdicts go out on the socket that is being read, so they are gathered first.
        let mut rulings: Vec<(u16, u32, Ruling)> = Vec::new();
        let received = self.socket.receive(|packet| {
            let Some(way) = way_of(packet.queue) else { return };
            if let Some(ruling) = take_packet(emulator, capture, &mut taps[index_of(way)], now, way, &packet)
            {
                rulings.push((packet.queue, packet.id, ruling));
            }
        });
        let received = received.context("cannot receive packets from the kernel")?;
        for (queue, id, ruling) in rulings {
            match ruling {
                Ruling::Accept => self.socket.accept(queue, id),
                Ruling::Drop => self.socket.drop_packet(queue, id),
                Ruling::Requeue(bytes) => self.socket.requeue(queue, id, &bytes),
            }
            .context("cannot give the kernel a verdict")?;
        }
        self.drop_lost()?;
        self.socket.flush().context("cannot give the kernel a verdict")?;
        Ok(received)
    }

    /// Drops what the channel has lost after it was taken in.
    fn drop_lost(&mut self) -> Result<()> {
        let lost: Vec<_> = self.emulator.take_lost().collect();
        for (link, direction, id) in lost {
            let way = (link, direction);
            if let Some(capture) = &mut self.capture {
                let on_channel = self.emulator.is_on_channel(link);
                capture.drops(
                    way,
                    id,
                    clock(),
                    if on_channel { "lost on the channel" } else { "by the queue" },
                );
            }
            let tap = &mut self.taps[index_of(way)];
            tap.held = tap.held.saturating_sub(1);
            // One that is away is dropped when it comes.
            tap.away.remove(&id);
            let id = tap.kept.remove(&id).map_or(id, |kept| kept.id);
            self.socket.drop_packet(queue_number(way), id).context("cannot give the kernel a verdict")?;
        }
        Ok(())
    }

    /// Releases every packet whose time has come.
    fn release(&mut self, now: Nanos) -> Result<()> {
        self.emulator.advance(now);
        self.drop_lost()?;
        for way in WAYS {
            self.release_way(now, way).context("cannot give the kernel a verdict")?;
        }
        self.socket.flush().context("cannot give the kernel a verdict")
    }

    fn release_way(&mut self, now: Nanos, way: Way) -> std::io::Result<()> {
        let (tap, queue) = (&mut self.taps[index_of(way)], queue_number(way));
        let mut up_to = None;
        while let Some(departure) = tap.next.take().or_else(|| self.emulator.take_due(now, way)) {
            if tap.away.contains(&departure.id) {
                tap.next = Some(departure);
                break;
            }
            tap.lateness.record(now.saturating_sub(departure.at));
            if let Some(capture) = &mut self.capture {
                capture.releases(way, now, &departure);
            }
            tap.held = tap.held.saturating_sub(1);
            let changes = departure.marked || departure.corrupt.is_some();
            let kept = tap.kept.remove(&departure.id);
            if let Some(Kept { id, mut bytes }) = kept.filter(|kept| changes || kept.id != departure.id) {
                if departure.marked {
                    header::mark(&mut bytes);
                }
                if let Some(place) = departure.corrupt {
                    corrupt(&mut bytes, place);
                }
                if let Some(before) = up_to.take() {
                    self.socket.accept_up_to(queue, before)?;
                }
                self.socket.accept_changed(queue, id, &bytes)?;
            } else if tap.in_order {
                up_to = Some(departure.id);
            } else {
                self.socket.accept(queue, departure.id)?;
            }
        }
        match up_to {
            Some(id) => self.socket.accept_up_to(queue, id),
            None => Ok(()),
        }
    }

    /// Does what the owner asks; false if that is to stop.
    fn obey(&mut self) -> Result<bool> {
        loop {
            let command = match self.commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Empty) => return Ok(true),
                // The owner went away without a word.
                Err(TryRecvError::Disconnected) => EngineCommand::Stop,
            };
            // An answer that nobody waits for any more is no error.
            match command {
                EngineCommand::Set(link, profile, done) => {
                    self.set(link, &profile)?;
                    let _ = done.send(());
                }
                EngineCommand::Play(link, profile, began) => {
                    self.emulator.play(clock(), link, &profile);
                    let _ = began.send(Instant::now());
                }
                EngineCommand::Remove(link, done) => {
                    self.let_go(link)?;
                    let _ = done.send(());
                }
                EngineCommand::Read(answer) => {
                    let _ = answer.send(self.read());
                }
                EngineCommand::Stop => {
                    LinkId::BOTH.into_iter().try_for_each(|link| self.let_go(link))?;
                    return Ok(false);
                }
            }
        }
    }

    /// Reads the wake-up counter down to 0.
    fn quiet_wake(&self) {
        let mut count = [0u8; 8];
        // SAFETY: the buffer is as long as is said. The descriptor does not block; nothing to read
        // is as good as something.
        unsafe { libc::read(self.wake.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }

    fn set(&mut self, link: LinkId, profile: &Profile) -> Result<()> {
        self.emulator.set(clock(), link, profile);
        for direction in Direction::BOTH {
            let way = (link, direction);
            let shape = profile.shape(direction);
            let tap = &mut self.taps[index_of(way)];
            // Packets that already overtake others keep their places, so one verdict for many must wait.
            tap.in_order = self.emulator.keeps_order(way) && (tap.in_order || tap.held == 0);
            tap.keeps_bytes =
                !shape.corrupt.is_zero() || matches!(shape.queue, Queue::CoDel(codel) if codel.ecn);
            let copied = match &self.capture {
                _ if tap.keeps_bytes || direction == Direction::Up => COPY_ALL,
                Some(_) => SNAP_BYTES as u32,
                None => COPY_LITTLE,
            };
            if copied != tap.copied {
                self.socket.copy(queue_number(way), copied).context("cannot change what is copied")?;
                tap.copied = copied;
            }
        }
        Ok(())
    }

    /// Takes a link's model away, and releases what it holds, at once and in order. Its rules are
    /// gone by now, so nothing more comes; what still did is released too.
    fn let_go(&mut self, link: LinkId) -> Result<()> {
        while self.take_in()? > 0 {}
        self.emulator.remove(link);
        for direction in Direction::BOTH {
            let way = (link, direction);
            self.capture.iter_mut().for_each(|capture| capture.forget(way));
            let (tap, queue) = (std::mem::take(&mut self.taps[index_of(way)]), queue_number(way));
            let mut kept: Vec<Kept> = tap.kept.into_values().collect();
            kept.sort_by_key(|kept| kept.id);
            kept.iter().try_for_each(|kept| self.socket.accept_changed(queue, kept.id, &kept.bytes))?;
            if tap.held > 0 {
                self.socket.accept_up_to(queue, tap.last)?;
            }
        }
        self.socket.flush().context("cannot release what is held")
    }

    fn read(&mut self) -> EngineReading {
        let at = clock();
        EngineReading {
            tallies: WAYS.map(|way| self.emulator.tally(at, way)),
            lateness: std::array::from_fn(|index| self.taps[index].lateness.take()),
            busy: self.emulator.busy(),
            at,
        }
    }
}

/// Asks the model about one packet. Gives its verdict, where that is decided at once.
fn take_packet(
    emulator: &mut Emulator,
    capture: &mut Option<CaptureTap>,
    tap: &mut Tap,
    now: Nanos,
    way: Way,
    packet: &Queued,
) -> Option<Ruling> {
    let up = way.1 == Direction::Up;
    if up && let Some((id, bytes)) = detach::own(packet.payload) {
        tap.last = packet.id;
        if !tap.away.remove(&id) {
            return Some(Ruling::Drop);
        }
        tap.kept.insert(id, Kept { id: packet.id, bytes: bytes.into() });
        return None;
    }
    let (flow, ect) = header::flow_and_ect(packet.payload);
    let incoming = ArrivingPacket { id: packet.id, bytes: packet.ip_bytes + ETHERNET_HEADER, flow, ect };
    match emulator.arrive(now, way, incoming) {
        Ok(Arrived::Held) => {
            if !tap.in_order && tap.held == 0 {
                tap.in_order = emulator.keeps_order(way);
            }
            tap.held += 1;
            tap.last = packet.id;
            if let Some(capture) = capture {
                capture.holds(way, packet.id, now, packet.ip_bytes, packet.payload);
            }
            if up && let Some(bytes) = detach::padded(packet.payload, packet.id) {
                tap.away.insert(packet.id);
                return Some(Ruling::Requeue(bytes));
            }
            if tap.keeps_bytes && packet.payload.len() == packet.ip_bytes as usize {
                tap.kept.insert(packet.id, Kept { id: packet.id, bytes: packet.payload.into() });
            }
            None
        }
        Ok(Arrived::NotModelled) => Some(Ruling::Accept),
        Err(cause) => {
            if let Some(capture) = capture {
                let cause = if cause == Cause::Loss { "lost" } else { "the queue is full" };
                capture.refuses(way, now, packet.ip_bytes, packet.payload, cause);
            }
            Some(Ruling::Drop)
        }
    }
}

/// Flips one bit behind the IP header, so that the packet still gets there and its checksum is wrong.
fn corrupt(packet: &mut [u8], place: u64) {
    let header = match packet.first().map(|byte| byte >> 4) {
        Some(4) => usize::from(packet[0] & 0x0f) * 4,
        _ => 40,
    };
    if let Some(rest) = packet.get_mut(header..).filter(|rest| !rest.is_empty()) {
        let bit = place % (rest.len() as u64 * 8);
        rest[(bit / 8) as usize] ^= 1 << (bit % 8);
    }
}

/// How long the owner waits for an answer of the thread before it takes it for dead.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corrupt_spares_the_header_and_flips_one_bit() {
        let mut packet = vec![0u8; 60];
        packet[0] = 0x45;
        for place in [0, 7, 8, 319, 320, u64::MAX] {
            let mut corrupted = packet.clone();
            corrupt(&mut corrupted, place);
            let bits: u32 = corrupted.iter().zip(&packet).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!(bits, 1);
            assert_eq!(corrupted[..20], packet[..20]);
        }
        let mut empty = [0x45];
        corrupt(&mut empty, 3);
        assert_eq!(empty, [0x45]);
    }
}
