//! The counters of qdiscs, straight from the kernel.
//!
//! Ten times a second and for as long as a run lasts, starting `tc` would cost more processor time
//! than the links themselves; a netlink dump takes microseconds. Nothing here sets anything.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcFqCodelXstats, TcMessage, TcStats2, TcXstats};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The counters of one device: what left it is its root's, what it dropped is counted at the root or
/// at the child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub packets: u64,
    pub bytes: u64,
    pub queue_packets: u64,
    pub queue_bytes: u64,
    pub drops: u64,
    /// Packets that a CoDel below has marked (ECN); none where there is none that counts them.
    pub marked: Option<u64>,
}

/// The index of a network device in this namespace; `None` where there is no such device.
pub(crate) fn index_of(dev: &str) -> Option<i32> {
    let name = CString::new(dev).ok()?;
    // SAFETY: `name` is a C string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    i32::try_from(index).ok().filter(|index| *index > 0)
}

/// The counters of every device of this namespace that has a qdisc, by device index.
///
/// # Errors
/// When the kernel does not answer a dump of its qdiscs.
pub(crate) fn read() -> Result<HashMap<i32, Stats>> {
    let mut by_device = HashMap::new();
    for message in dump().context("cannot read the counters of the qdiscs from the kernel")? {
        let entry: &mut Stats = by_device.entry(message.header.index).or_default();
        add(entry, &message);
    }
    Ok(by_device)
}

/// The mean size (bytes) of what each device of this namespace took in, by name. An ifb takes in what its
/// qdisc lets go; the qdisc's own counters cannot tell, since they count the segments of a super-packet.
///
/// # Errors
/// When /proc/self/net/dev cannot be read.
pub(crate) fn packet_bytes() -> Result<HashMap<String, f64>> {
    let text = std::fs::read_to_string("/proc/self/net/dev").context("cannot read /proc/self/net/dev")?;
    Ok(parse_packet_bytes(&text))
}

/// Lines of "name: bytes packets …" below two lines of header.
fn parse_packet_bytes(text: &str) -> HashMap<String, f64> {
    let size = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let mut numbers = numbers.split_whitespace().map_while(|number| number.parse::<u64>().ok());
        let (bytes, packets) = (numbers.next()?, numbers.next().filter(|&packets| packets > 0)?);
        Some((name.trim().to_string(), bytes as f64 / packets as f64))
    };
    text.lines().filter_map(size).collect()
}

/// Adds one qdisc to its device: the root (its parent is the device) says what left and what waits;
/// a drop at the child is counted by the root too, so the larger of the two is the number of drops.
fn add(stats: &mut Stats, message: &TcMessage) {
    const ROOT: u32 = u32::MAX;
    let is_root = u32::from(message.header.parent) == ROOT;
    for attribute in &message.attributes {
        let TcAttribute::Stats2(parts) = attribute else { continue };
        for part in parts {
            match part {
                TcStats2::Basic(basic) if is_root => {
                    stats.packets = basic.packets.into();
                    stats.bytes = basic.bytes;
                }
                TcStats2::Queue(queue) => {
                    if is_root {
                        stats.queue_packets = queue.qlen.into();
                        stats.queue_bytes = queue.backlog.into();
                    }
                    stats.drops = stats.drops.max(queue.drops.into());
                }
                TcStats2::App(xstats) => stats.marked = marked(message, xstats).or(stats.marked),
                _ => {}
            }
        }
    }
}

/// Returns the marks that a qdisc of CoDel's counts.
fn marked(message: &TcMessage, xstats: &TcXstats) -> Option<u64> {
    let is_codel =
        message.attributes.iter().any(|one| matches!(one, TcAttribute::Kind(kind) if kind == "codel"));
    match xstats {
        TcXstats::FqCodel(TcFqCodelXstats::Qdisc(counts)) => Some(counts.ecn_mark.into()),
        // The seventh number of tc_codel_xstats (linux/pkt_sched.h).
        TcXstats::Other(numbers) if is_codel => {
            let number = numbers.get(24..28)?.try_into().ok()?;
            Some(u32::from_ne_bytes(number).into())
        }
        _ => None,
    }
}

fn dump() -> Result<Vec<TcMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(request));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut messages = Vec::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        if collect(&answer, &mut messages)? {
            return Ok(messages);
        }
    }
}

/// Takes the messages out of one answer. Returns whether it was the last.
fn collect(mut answer: &[u8], messages: &mut Vec<TcMessage>) -> Result<bool> {
    while !answer.is_empty() {
        let length = NetlinkBuffer::new_checked(&answer)?.length() as usize;
        if length == 0 || length > answer.len() {
            bail!("its answer is cut off");
        }
        // A qdisc that the decoder does not know is none of the lab's.
        if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer[..length]) {
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) => {
                    let code = error.code.map_or(0, |code| -code.get());
                    return Err(io::Error::from_raw_os_error(code).into());
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewQueueDiscipline(qdisc)) => {
                    messages.push(qdisc);
                }
                _ => {}
            }
        }
        // Messages are aligned to four bytes.
        answer = &answer[((length + 3) & !3).min(answer.len())..];
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::tc::{TcFqCodelQdStats, TcStatsBasic, TcStatsQueue};

    fn qdisc(parent: u32, packets: u32, bytes: u64, waiting: (u32, u32), drops: u32) -> TcMessage {
        let (mut basic, mut queue) = (TcStatsBasic::default(), TcStatsQueue::default());
        (basic.packets, basic.bytes) = (packets, bytes);
        (queue.qlen, queue.backlog, queue.drops) = (waiting.0, waiting.1, drops);
        let mut message = TcMessage::default();
        message.header.parent = parent.into();
        let stats = vec![TcStats2::Basic(basic), TcStats2::Queue(queue)];
        message.attributes.push(TcAttribute::Stats2(stats));
        message
    }

    #[test]
    fn counters_are_of_the_bottleneck_and_drops_are_counted_once() {
        let mut stats = Stats::default();
        add(&mut stats, &qdisc(u32::MAX, 3, 4542, (1, 1514), 2));
        add(&mut stats, &qdisc(0x1_0001, 9, 9999, (7, 7777), 2));
        let expected =
            Stats { packets: 3, bytes: 4542, queue_packets: 1, queue_bytes: 1514, drops: 2, marked: None };
        assert_eq!(stats, expected);
    }

    #[test]
    fn marks_are_those_of_the_codel_below() {
        let below = |kind: &str, xstats: TcXstats| {
            let mut message = qdisc(0x1_0001, 9, 9999, (0, 0), 0);
            message.attributes.push(TcAttribute::Kind(kind.into()));
            message.attributes.push(TcAttribute::Stats2(vec![TcStats2::App(xstats)]));
            let mut stats = Stats::default();
            add(&mut stats, &message);
            add(&mut stats, &qdisc(u32::MAX, 3, 4542, (0, 0), 0));
            stats.marked
        };
        let codel: Vec<u8> = (1..10u32).flat_map(u32::to_ne_bytes).collect();
        assert_eq!(below("codel", TcXstats::Other(codel.clone())), Some(7));
        assert_eq!(below("codel", TcXstats::Other(codel[..26].to_vec())), None);
        assert_eq!(below("netem", TcXstats::Other(codel)), None);
        let mut counts = TcFqCodelQdStats::default();
        counts.ecn_mark = 5;
        assert_eq!(below("fq_codel", TcXstats::FqCodel(TcFqCodelXstats::Qdisc(counts))), Some(5));
    }

    #[test]
    fn the_size_of_packets_is_the_device_s() {
        let text = "Inter-|   Receive\n face |bytes    packets errs\n    lo:       0       0    0\n\
                    twl-a-down: 3028 2 0 0 0\n";
        let sizes = parse_packet_bytes(text);
        assert_eq!(sizes, HashMap::from([("twl-a-down".to_string(), 1514.0)]));
    }

    #[test]
    fn this_machine_s_qdiscs_can_be_read_without_a_privilege() {
        let stats = read().unwrap();
        let loopback = index_of("lo").expect("every namespace has a loopback device");
        // Where loopback has a qdisc at all, it has sent as many bytes as packets at least.
        if let Some(stats) = stats.get(&loopback) {
            assert!(stats.bytes >= stats.packets);
        }
        assert_eq!(index_of("no-such-device"), None);
    }
}
