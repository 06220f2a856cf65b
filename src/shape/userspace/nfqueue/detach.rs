//! Frees a sender of the packets that wait in its own host. Pure.
//!
//! A packet that is held at the output hook stays charged to its socket, so that TCP (its small queues) and UDP
//! (its send buffer) would stop sending. The kernel makes a packet anew, and charges it to nobody, where a verdict
//! gives it more bytes than its memory has room for (`nfqnl_mangle`). A packet with payload gets a long padding
//! and goes through the same queue once more; its release gives it its own bytes again.

/// More than the spare room of a packet of this length (bytes): the kernel's allocator rounds up to a power of two.
fn room(ip_bytes: usize) -> usize {
    ip_bytes + 2048
}

/// The longest message to the kernel (bytes) besides its headers.
const LONGEST: usize = 65_000;

/// Returns the length that an IP packet's header tells, and the length of that header with TCP's, where it is TCP.
fn lengths(packet: &[u8]) -> Option<(usize, Option<usize>)> {
    let number = |at: usize| Some(usize::from(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?])));
    let (whole, header, protocol) = match packet.first()? >> 4 {
        4 => (number(2)?, usize::from(packet[0] & 0x0f) * 4, *packet.get(9)?),
        6 => (40 + number(4)?, 40, *packet.get(6)?),
        _ => return None,
    };
    let tcp = || Some(header + usize::from(*packet.get(header + 12)? >> 4) * 4);
    Some((whole, (protocol == 6).then(tcp).flatten()))
}

/// Returns the bytes with which a packet goes through its queue once more, the last four of them its number;
/// none where it need not: TCP charges nothing for a bare acknowledgement.
pub(crate) fn padded(packet: &[u8], id: u32) -> Option<Vec<u8>> {
    let (whole, headers) = lengths(packet)?;
    let long = whole + room(whole);
    if whole != packet.len() || headers == Some(whole) || long > LONGEST {
        return None;
    }
    let mut padded = Vec::with_capacity(long);
    padded.extend(packet);
    padded.resize(long - 4, 0);
    padded.extend(id.to_be_bytes());
    Some(padded)
}

/// Returns the number and the own bytes of a packet that [`padded`] made; none for any other.
pub(crate) fn own(packet: &[u8]) -> Option<(u32, &[u8])> {
    let (whole, _) = lengths(packet)?;
    if packet.len() != whole + room(whole) {
        return None;
    }
    let (_, id) = packet.split_last_chunk()?;
    Some((u32::from_be_bytes(*id), &packet[..whole]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IP packet of this many bytes; TCP with 32 bytes of header, or UDP.
    fn packet(version: u8, tcp: bool, bytes: u16) -> Vec<u8> {
        let mut packet = vec![7; usize::from(bytes)];
        let protocol = if tcp { 6 } else { 17 };
        let header = if version == 4 { 20 } else { 40 };
        if version == 4 {
            packet[0] = 0x45;
            packet[2..4].copy_from_slice(&bytes.to_be_bytes());
            packet[9] = protocol;
        } else {
            packet[0] = 0x60;
            packet[4..6].copy_from_slice(&(bytes - 40).to_be_bytes());
            packet[6] = protocol;
        }
        if tcp {
            packet[header + 12] = 0x80;
        }
        packet
    }

    #[test]
    fn a_packet_with_payload_comes_back_with_its_number() {
        for (version, tcp) in [(4, true), (4, false), (6, true), (6, false)] {
            for bytes in [73, 200, 1500, 9000] {
                let whole = packet(version, tcp, bytes);
                let padded = padded(&whole, 4_000_000_000).unwrap();
                assert!(padded.len() > whole.len() + 2048);
                assert_eq!(own(&padded), Some((4_000_000_000, &whole[..])));
                assert_eq!(own(&whole), None);
            }
        }
    }

    #[test]
    fn a_bare_acknowledgement_and_what_is_no_packet_stay() {
        assert_eq!(padded(&packet(4, true, 52), 1), None);
        assert_eq!(padded(&packet(6, true, 72), 1), None);
        assert_eq!(padded(&packet(4, false, 40_000), 1), None);
        let whole = packet(4, true, 100);
        for len in 0..whole.len() {
            assert_eq!(padded(&whole[..len], 1), None);
            assert_eq!(own(&whole[..len]), None);
        }
    }
}
