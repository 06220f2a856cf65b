//! Do the application's bytes and the shaper's agree? Pure.
//!
//! A link's shaper counts Ethernet frames in the down direction: payload, headers and retransmissions. The
//! application counts payload: bodies and the heads of answers. The difference
//!
//! unexplained = frames − headers × packets − received
//!
//! is the bytes that TCP discarded as received before. It is below 0 only for packets with shorter headers
//! (no timestamps), or if bytes passed beside the shaper. It is above 0 by retransmissions (as often as
//! packets were dropped, corrupted, duplicated or overtaken, and as the server reports), and by the bytes in flight when
//! a connection was closed.

use crate::log::schema::Reconciled;

/// Ethernet, IPv4 or IPv6, and TCP with timestamps, bytes of a full segment.
const HEADERS: (u64, u64) = (14 + 20 + 32, 14 + 40 + 32);
/// The timestamps' part of these; a SYN's answer has more, and an ACK alone has no payload.
const TIMESTAMPS: u64 = 12;
/// Handshakes and connections that end: bytes that belong to no payload, each way of counting.
const SPARE_BYTES: u64 = 64 * 1024;
/// The share of segments sent again without a loss (a time-out that was too short).
const SPURIOUS: f64 = 0.01;

/// One link's counts over a transfer, on the way down.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Bodies and heads that the application received, thrown away or not.
    pub received_bytes: u64,
    /// Frames that left the shaper.
    pub shaper_bytes: u64,
    pub shaper_packets: u64,
    /// Dropped by the shaper, for whatever cause.
    pub dropped_packets: u64,
    /// Sent again, as the server tells; 0 where it does not.
    pub retransmits: u64,
    /// The share of packets that the profile damages, doubles or lets overtake, 0 to 1.
    pub spoilt: f64,
    /// Payload of a full segment.
    pub mss_bytes: u64,
    pub ipv6: bool,
    /// The bytes that the link and its queue hold, for each connection.
    pub in_flight_bytes: u64,
    pub connections: u64,
}

pub(crate) fn reconcile(counts: &Counts) -> Reconciled {
    let headers = if counts.ipv6 { HEADERS.1 } else { HEADERS.0 };
    let payload = counts.shaper_bytes as i64 - (headers * counts.shaper_packets) as i64;
    let unexplained = payload - counts.received_bytes as i64;
    let again = counts.dropped_packets.max(counts.retransmits) * counts.mss_bytes;
    let share = SPURIOUS + 2.0 * counts.spoilt;
    let most = again
        + (counts.received_bytes as f64 * share) as u64
        + counts.in_flight_bytes * counts.connections
        + SPARE_BYTES;
    let least = -((TIMESTAMPS * counts.shaper_packets + SPARE_BYTES) as i64);
    Reconciled {
        received_bytes: counts.received_bytes,
        shaper_bytes: counts.shaper_bytes,
        shaper_packets: counts.shaper_packets,
        unexplained_bytes: unexplained,
        allowed_least_bytes: least,
        allowed_most_bytes: most as i64,
        ok: (least..=most as i64).contains(&unexplained),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 MB in full segments on one connection, with nothing sent twice.
    fn clean() -> Counts {
        let packets = 69_061;
        Counts {
            received_bytes: 100_000_000,
            shaper_bytes: 100_000_000 + 66 * packets,
            shaper_packets: packets,
            mss_bytes: 1448,
            in_flight_bytes: 200_000,
            connections: 1,
            ..Counts::default()
        }
    }

    #[test]
    fn what_is_payload_and_headers_leaves_nothing_unexplained() {
        let found = reconcile(&clean());
        assert_eq!(found.unexplained_bytes, 0);
        assert!(found.ok);
        let six = Counts { ipv6: true, shaper_bytes: clean().shaper_bytes + 20 * 69_061, ..clean() };
        assert_eq!(reconcile(&six).unexplained_bytes, 0);
    }

    #[test]
    fn packets_without_timestamps_are_no_mismatch() {
        assert!(reconcile(&Counts { shaper_bytes: clean().shaper_bytes - 12 * 69_061, ..clean() }).ok);
    }

    #[test]
    fn bytes_that_went_past_the_shaper_are() {
        let past = Counts { shaper_bytes: 50_000_000, shaper_packets: 34_530, ..clean() };
        assert!(!reconcile(&past).ok);
    }

    #[test]
    fn what_was_lost_may_come_twice_and_no_more() {
        let twice = |packets: u64| Counts {
            shaper_bytes: clean().shaper_bytes + 1514 * packets,
            shaper_packets: 69_061 + packets,
            ..clean()
        };
        assert!(!reconcile(&twice(5000)).ok);
        assert!(reconcile(&Counts { dropped_packets: 5000, ..twice(5000) }).ok);
        assert!(reconcile(&Counts { retransmits: 5000, ..twice(5000) }).ok);
        assert!(reconcile(&Counts { spoilt: 0.05, ..twice(5000) }).ok);
    }
}
