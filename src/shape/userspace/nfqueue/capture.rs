//! The end of each packet at the links, as a pcapng file (draft-ietf-opsawg-pcapng) for Wireshark: an interface for each
//! direction of a link, and a comment on each packet that says how long it waited or why it was dropped.
//!
//! A thread of its own writes the file. The thread that holds packets hands them over and never waits: a packet for
//! which there is no room is left out, as is what comes when the file is full, and the file's last blocks count these.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::clock;
use crate::emulate::emulator::{WAYS, Way, index_of};
use crate::emulate::link::Departure;
use crate::units::{Direction, Nanos};

/// The bytes kept of each packet: the longest headers of IP and TCP without most options.
pub(crate) const SNAP_BYTES: usize = 96;

/// The size at which no packet is added to the file any more.
const FILE_BYTES: u64 = 256 << 20;

/// How many packets may wait for the writer; 100 ms at the rate that was measured to work.
const WAITING: usize = 32_768;

/// The end of a packet at a link.
#[derive(Clone, Copy, Debug, PartialEq)]
enum PacketEnd {
    Released { queue: Nanos, delay_line: Nanos, late: Nanos, marked: bool, corrupted: bool },
    Dropped { cause: &'static str, after: Nanos },
}

impl std::fmt::Display for PacketEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let ms = |nanos: Nanos| nanos as f64 / 1e6;
        match *self {
            PacketEnd::Dropped { cause, after: 0 } => write!(f, "dropped: {cause}"),
            PacketEnd::Dropped { cause, after } => write!(f, "dropped: {cause}, after {:.3} ms", ms(after)),
            PacketEnd::Released { queue, delay_line, late, marked, corrupted } => {
                let (queue, delay_line, late) = (ms(queue), ms(delay_line), ms(late));
                write!(f, "queue {queue:.3} ms, delay line {delay_line:.3} ms, late {late:.3} ms")?;
                f.write_str(if marked { ", marked" } else { "" })?;
                f.write_str(if corrupted { ", corrupted" } else { "" })
            }
        }
    }
}

/// A packet whose end is known, for the writer.
struct CapturedPacket {
    interface: usize,
    at: Nanos,
    packet: HeldPacket,
    end: PacketEnd,
}

/// A packet as it came.
#[derive(Clone, Copy)]
struct HeldPacket {
    came: Nanos,
    ip_bytes: u32,
    copied: usize,
    bytes: [u8; SNAP_BYTES],
}

/// By [`index_of`]: packets whose end was seen, and those of them that the file lacks.
#[derive(Default)]
struct PacketCounts {
    seen: [AtomicU64; 4],
    left_out: [AtomicU64; 4],
}

/// A capture file and its writer. The file is complete when this and its taps are dropped.
pub(crate) struct Capture {
    sender: Option<SyncSender<CapturedPacket>>,
    counts: Arc<PacketCounts>,
    writer: Option<JoinHandle<io::Result<()>>>,
}

impl Capture {
    /// Starts the writer.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn start(file: File) -> Result<Capture> {
        let (sender, packets) = sync_channel(WAITING);
        let counts = Arc::new(PacketCounts::default());
        let (counting, out) = (counts.clone(), BufWriter::new(file));
        let writer = std::thread::Builder::new()
            .name("capture".into())
            .spawn(move || write_all(out, &packets, &counting, FILE_BYTES))
            .context("cannot start the thread that writes the capture")?;
        Ok(Capture { sender: Some(sender), counts, writer: Some(writer) })
    }

    /// Returns the end that the thread which holds packets has of it.
    pub(crate) fn tap(&self) -> Option<CaptureTap> {
        let sender = self.sender.clone()?;
        Some(CaptureTap { sender, counts: self.counts.clone(), held: Default::default() })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.sender = None;
        match self.writer.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => return tracing::error!("the capture is not complete: {error}"),
            Some(Err(_)) => return tracing::error!("the capture is not complete: its writer panicked"),
            _ => {}
        }
        let left_out: u64 = self.counts.left_out.iter().map(|count| count.load(Relaxed)).sum();
        if left_out > 0 {
            tracing::warn!(
                "the capture lacks {left_out} packets: it has room for {} MiB, or was not written fast enough",
                FILE_BYTES >> 20
            );
        }
    }
}

/// Follows packets from their arrival to their end.
pub(crate) struct CaptureTap {
    sender: SyncSender<CapturedPacket>,
    counts: Arc<PacketCounts>,
    held: [HashMap<u32, HeldPacket>; 4],
}

impl CaptureTap {
    /// Notes a packet that the model has taken in, by the model's number of it.
    pub(crate) fn holds(&mut self, way: Way, id: u32, came: Nanos, ip_bytes: u32, payload: &[u8]) {
        self.held[index_of(way)].insert(id, HeldPacket::new(came, ip_bytes, payload));
    }

    /// Records a packet that the model has refused.
    pub(crate) fn refuses(
        &mut self,
        way: Way,
        at: Nanos,
        ip_bytes: u32,
        payload: &[u8],
        cause: &'static str,
    ) {
        self.record(way, at, HeldPacket::new(at, ip_bytes, payload), PacketEnd::Dropped { cause, after: 0 });
    }

    /// Records the drop of a packet that was taken in.
    pub(crate) fn drops(&mut self, way: Way, id: u32, at: Nanos, cause: &'static str) {
        if let Some(packet) = self.held[index_of(way)].remove(&id) {
            self.record(way, at, packet, PacketEnd::Dropped { cause, after: at.saturating_sub(packet.came) });
        }
    }

    /// Records a packet that is released now.
    pub(crate) fn releases(&mut self, way: Way, at: Nanos, departure: &Departure) {
        let Some(packet) = self.held[index_of(way)].remove(&departure.id) else { return };
        let end = PacketEnd::Released {
            queue: departure.out.saturating_sub(packet.came),
            delay_line: departure.at.saturating_sub(departure.out),
            late: at.saturating_sub(departure.at),
            marked: departure.marked,
            corrupted: departure.corrupt.is_some(),
        };
        self.record(way, at, packet, end);
    }

    /// Forgets the packets of a way that is not modelled any more.
    pub(crate) fn forget(&mut self, way: Way) {
        self.held[index_of(way)].clear();
    }

    fn record(&mut self, way: Way, at: Nanos, packet: HeldPacket, end: PacketEnd) {
        let interface = index_of(way);
        self.counts.seen[interface].fetch_add(1, Relaxed);
        if self.sender.try_send(CapturedPacket { interface, at, packet, end }).is_err() {
            self.counts.left_out[interface].fetch_add(1, Relaxed);
        }
    }
}

impl HeldPacket {
    fn new(came: Nanos, ip_bytes: u32, payload: &[u8]) -> HeldPacket {
        let copied = payload.len().min(ip_bytes as usize).min(SNAP_BYTES);
        let mut bytes = [0; SNAP_BYTES];
        bytes[..copied].copy_from_slice(&payload[..copied]);
        HeldPacket { came, ip_bytes, copied, bytes }
    }
}

/// Writes the file until nobody sends packets any more. After an error it goes on to take packets, and counts them.
fn write_all(
    mut out: impl Write,
    packets: &Receiver<CapturedPacket>,
    counts: &PacketCounts,
    most: u64,
) -> io::Result<()> {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as Nanos);
    let epoch = since_epoch.saturating_sub(clock());
    let mut failed = out.write_all(&head());
    let mut written: u64 = 0;
    for packet in packets {
        let block = packet_block(&packet, epoch);
        written += block.len() as u64;
        if written > most || failed.is_err() {
            counts.left_out[packet.interface].fetch_add(1, Relaxed);
        } else {
            failed = out.write_all(&block);
        }
    }
    failed?;
    for interface in 0..WAYS.len() {
        let [seen, left_out] = [&counts.seen, &counts.left_out].map(|of| of[interface].load(Relaxed));
        out.write_all(&statistics_block(interface, epoch + clock(), seen, left_out))?;
    }
    out.flush()
}

/// Numbers of blocks and options, as the draft has them.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
const COMMENT: u16 = 1;
const APPLICATION: u16 = 4;
const NAME: u16 = 2;
const RESOLUTION: u16 = 9;
const FLAGS: u16 = 2;
const RECEIVED: u16 = 4;
const DROPPED: u16 = 5;
/// Packets without a link layer: LINKTYPE_RAW.
const RAW_IP: u16 = 101;

/// Frames a body as a block, with its length before and behind it.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = body.len() as u32 + 12;
    [&kind.to_ne_bytes()[..], &length.to_ne_bytes(), body, &length.to_ne_bytes()].concat()
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4), 0);
    padded
}

/// Lists options, and ends the list.
fn options(list: &[(u16, &[u8])]) -> Vec<u8> {
    let one = |(code, value): &(u16, &[u8])| {
        [&code.to_ne_bytes()[..], &(value.len() as u16).to_ne_bytes(), &padded(value)].concat()
    };
    let mut bytes: Vec<u8> = list.iter().flat_map(one).collect();
    bytes.extend([0; 4]);
    bytes
}

fn moment(at: Nanos) -> [u8; 8] {
    let [high, low] = [(at >> 32) as u32, at as u32].map(u32::to_ne_bytes);
    [high, low].concat().try_into().expect("two words")
}

/// The section's head and an interface for each way.
fn head() -> Vec<u8> {
    let application = concat!("twinlink ", env!("CARGO_PKG_VERSION"));
    let mut body = 0x1a2b_3c4d_u32.to_ne_bytes().to_vec();
    // Version 1.0, of a length that is not known.
    body.extend([1u16, 0].map(u16::to_ne_bytes).concat());
    body.extend(u64::MAX.to_ne_bytes());
    body.extend(options(&[(APPLICATION, application.as_bytes())]));
    let mut head = block(SECTION, &body);
    for (link, direction) in WAYS {
        let mut body = [RAW_IP, 0].map(u16::to_ne_bytes).concat();
        body.extend((SNAP_BYTES as u32).to_ne_bytes());
        let name = format!("link-{link}-{direction}");
        // Times in 10^-9 s.
        body.extend(options(&[(NAME, name.as_bytes()), (RESOLUTION, &[9])]));
        head.extend(block(INTERFACE, &body));
    }
    head
}

fn packet_block(packet: &CapturedPacket, epoch: Nanos) -> Vec<u8> {
    let HeldPacket { ip_bytes, copied, bytes, .. } = &packet.packet;
    let mut body = (packet.interface as u32).to_ne_bytes().to_vec();
    body.extend(moment(epoch + packet.at));
    body.extend([*copied as u32, *ip_bytes].map(u32::to_ne_bytes).concat());
    body.extend(padded(&bytes[..*copied]));
    // Inbound or outbound, as the client sees it.
    let flags: u32 = if WAYS[packet.interface].1 == Direction::Down { 1 } else { 2 };
    body.extend(options(&[(COMMENT, packet.end.to_string().as_bytes()), (FLAGS, &flags.to_ne_bytes())]));
    block(PACKET, &body)
}

fn statistics_block(interface: usize, at: Nanos, seen: u64, left_out: u64) -> Vec<u8> {
    let mut body = (interface as u32).to_ne_bytes().to_vec();
    body.extend(moment(at));
    let comment = format!("{left_out} of {seen} packets are left out of this file");
    let counts = [seen, left_out].map(u64::to_ne_bytes);
    body.extend(options(&[(COMMENT, comment.as_bytes()), (RECEIVED, &counts[0]), (DROPPED, &counts[1])]));
    block(STATISTICS, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The blocks of a file: kind and body. Both lengths of each must agree.
    fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word = |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let mut found = Vec::new();
        while !file.is_empty() {
            let length = word(file, 4) as usize;
            assert_eq!((length % 4, word(file, length - 4) as usize), (0, length));
            found.push((word(file, 0), file[8..length - 4].to_vec()));
            file = &file[length..];
        }
        found
    }

    fn tapped(room: usize) -> (CaptureTap, Receiver<CapturedPacket>, Arc<PacketCounts>) {
        let (sender, receiver) = sync_channel(room);
        let counts = Arc::new(PacketCounts::default());
        (CaptureTap { sender, counts: counts.clone(), held: Default::default() }, receiver, counts)
    }

    fn departure(id: u32, out: Nanos, at: Nanos) -> Departure {
        Departure { id, bytes: 114, out, at, corrupt: None, marked: false }
    }

    #[test]
    fn each_packet_says_what_the_link_did_to_it() {
        let (mut tap, packets, counts) = tapped(9);
        let ms = 1_000_000;
        tap.holds(WAYS[0], 7, 0, 100, &[0x45; 100]);
        tap.releases(WAYS[0], 33 * ms, &departure(7, 12 * ms, 32 * ms));
        tap.refuses(WAYS[1], 5, 40, &[0x45; 40], "the queue is full");
        tap.holds(WAYS[3], 7, ms, 41, &[0x45; 41]);
        tap.drops(WAYS[3], 7, 3 * ms, "by the queue");
        tap.drops(WAYS[3], 7, 3 * ms, "by the queue");
        drop(tap);
        let mut file = Vec::new();
        write_all(&mut file, &packets, &counts, FILE_BYTES).unwrap();
        let blocks = blocks(&file);
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [&[SECTION][..], &[INTERFACE; 4], &[PACKET; 3], &[STATISTICS; 4]].concat());
        let text = |index: usize| String::from_utf8_lossy(&blocks[index].1).into_owned();
        assert!(text(5).contains("queue 12.000 ms, delay line 20.000 ms, late 1.000 ms"), "{}", text(5));
        assert!(text(6).contains("dropped: the queue is full\0"), "{}", text(6));
        assert!(text(7).contains("dropped: by the queue, after 2.000 ms"), "{}", text(7));
        // 100 bytes of IP, of which 96 are kept; 41, which end in the middle of a word.
        let words = |index: usize| blocks[index].1[12..20].to_vec();
        assert_eq!(words(5), [96u32, 100].map(u32::to_ne_bytes).concat());
        assert_eq!(words(7), [41u32, 41].map(u32::to_ne_bytes).concat());
    }

    #[test]
    fn packets_without_room_are_left_out_and_counted() {
        let (mut tap, packets, counts) = tapped(3);
        (0..5).for_each(|at| tap.refuses(WAYS[0], at, 40, &[0x45; 40], "loss"));
        drop(tap);
        let mut file = Vec::new();
        write_all(&mut file, &packets, &counts, 250).unwrap();
        let blocks = blocks(&file);
        assert_eq!(blocks.iter().filter(|(kind, _)| *kind == PACKET).count(), 2);
        let last = |nth: usize| String::from_utf8_lossy(&blocks[blocks.len() - 4 + nth].1).into_owned();
        assert!(last(0).contains("3 of 5 packets are left out of this file"), "{}", last(0));
        assert!(last(1).contains("0 of 0 packets are left out"), "{}", last(1));
    }
}
