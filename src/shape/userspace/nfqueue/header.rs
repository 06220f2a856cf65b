//! The headers of a held packet: its flow, and the bits of ECN. Pure.

use std::hash::{DefaultHasher, Hasher};

/// Returns the key of a packet's flow, from its addresses, its protocol and its ports, and whether its sender
/// understands marks. A fragment has no ports, nor has a protocol without.
pub(crate) fn flow_and_ect(packet: &[u8]) -> (u32, bool) {
    const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];
    let mut hasher = DefaultHasher::new();
    let (protocol, transport, ecn) = match packet {
        [first, tos, ..] if first >> 4 == 4 && packet.len() >= 20 => {
            hasher.write(&packet[12..20]);
            let is_fragment = packet[6] & 0x3f != 0 || packet[7] != 0;
            let header = usize::from(first & 0x0f) * 4;
            (packet[9], if is_fragment { packet.len() } else { header }, tos & 3)
        }
        [first, second, ..] if first >> 4 == 6 && packet.len() >= 40 => {
            hasher.write(&packet[8..40]);
            (packet[6], 40, second >> 4 & 3)
        }
        _ => return (0, false),
    };
    hasher.write_u8(protocol);
    if let Some(ports) = packet.get(transport..transport + 4).filter(|_| WITH_PORTS.contains(&protocol)) {
        hasher.write(ports);
    }
    (hasher.finish() as u32, ecn != 0)
}

/// Sets the mark "congestion experienced" (RFC 3168, 5), and mends IPv4's checksum (RFC 1624).
pub(crate) fn mark(packet: &mut [u8]) {
    match packet {
        [first, tos, _, _, _, _, _, _, _, _, high, low, ..] if *first >> 4 == 4 => {
            let before = u16::from_be_bytes([*first, *tos]);
            *tos |= 3;
            let sum = u32::from(!u16::from_be_bytes([*high, *low]))
                + u32::from(!before)
                + u32::from(u16::from_be_bytes([*first, *tos]));
            let sum = (sum & 0xffff) + (sum >> 16);
            [*high, *low] = (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes();
        }
        [first, second, ..] if *first >> 4 == 6 => *second |= 0x30,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IPv4 with 20 bytes of header from 10.0.0.1 to 10.0.0.2, and two ports.
    fn ipv4(tos: u8, protocol: u8, port: u8) -> Vec<u8> {
        let mut packet = vec![0x45, tos, 0, 24, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend([1, 2, 3, port]);
        let checksum = !sum(&packet);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    fn ipv6(ecn: u8, port: u8) -> Vec<u8> {
        let mut packet = vec![0x60, ecn << 4, 0, 0, 0, 4, 6, 64];
        packet.extend([7; 32]);
        packet.extend([1, 2, 3, port]);
        packet
    }

    /// The one's complement sum of the header; all ones where it has the right checksum.
    fn sum(packet: &[u8]) -> u16 {
        let words = packet[..20].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let sum = words.sum::<u32>();
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    #[test]
    fn a_mark_keeps_the_checksum_right_and_all_else_as_it_was() {
        for tos in 0..=255 {
            let (mut packet, before) = (ipv4(tos, 6, 4), ipv4(tos, 6, 4));
            mark(&mut packet);
            assert_eq!((packet[1], sum(&packet)), (tos | 3, 0xffff));
            assert_eq!(
                (&packet[..1], &packet[2..10], &packet[12..]),
                (&before[..1], &before[2..10], &before[12..])
            );
        }
        let mut packet = ipv6(2, 4);
        mark(&mut packet);
        assert_eq!(packet, ipv6(3, 4));
    }

    #[test]
    fn flows_are_told_by_ports_where_there_are_any() {
        let key = |packet: Vec<u8>| flow_and_ect(&packet).0;
        assert_eq!(key(ipv4(0, 6, 4)), key(ipv4(2, 6, 4)));
        assert_ne!(key(ipv4(0, 6, 4)), key(ipv4(0, 6, 5)));
        assert_ne!(key(ipv4(0, 6, 4)), key(ipv4(0, 17, 4)));
        assert_eq!(key(ipv4(0, 1, 4)), key(ipv4(0, 1, 5)), "an echo has no ports");
        assert_ne!(key(ipv6(0, 4)), key(ipv6(0, 5)));
        let mut fragment = ipv4(0, 17, 4);
        fragment[6] = 0x20;
        let mut next = ipv4(0, 17, 9);
        next[7] = 3;
        assert_eq!(key(fragment), key(next));
    }

    #[test]
    fn ecn_is_read_and_short_packets_are_no_trouble() {
        for ecn in 0..4 {
            assert_eq!(flow_and_ect(&ipv4(0xb8 | ecn, 6, 4)).1, ecn != 0);
            assert_eq!(flow_and_ect(&ipv6(ecn, 4)).1, ecn != 0);
        }
        for length in 0..24 {
            let mut packet = ipv4(2, 6, 4);
            packet.truncate(length);
            flow_and_ect(&packet);
            mark(&mut packet);
        }
    }
}
