//! The frames of one turn of a station: MPDUs, A-MPDUs, and the exchanges that carry them. Pure.
//!
//! An exchange is `[RTS, SIFS, CTS, SIFS,] PPDU, SIFS, ACK or block ack`. A turn (TXOP) is one exchange, or
//! with a TXOP limit as many as fit, a SIFS apart.

use super::access::{Access, AccessCategory};
use super::phy::{ACK, Phy, Standard, Timing};
use crate::units::{Nanos, Percent};

/// The header that Ethernet puts before an IP packet; 802.11 carries it as addresses and LLC/SNAP.
const ETHERNET_HEADER: u64 = 14;
/// MAC header with three addresses (9.3.2.1), QoS control field, FCS, and LLC/SNAP with the type.
const MAC_HEADER: u64 = 24;
const QOS_CONTROL: u64 = 2;
const FCS: u64 = 4;
const LLC_SNAP: u64 = 8;
/// MPDU delimiter of an A-MPDU, whose subframes but the last are padded to four bytes (9.7.1).
pub(super) const DELIMITER: u64 = 4;

/// Control frames with their FCS: 9.3.1.2 to 9.3.1.4 and 9.3.1.6 to 9.3.1.8, with the compressed block ack.
const RTS: u64 = 20;
const CTS: u64 = 14;
const CF_END: u64 = 20;
const BLOCK_ACK_REQUEST: u64 = 24;
const BLOCK_ACK: u64 = 32;

/// The longest HT and VHT PPDU (aPPDUMaxTime: tables 19-25, 21-29).
pub(super) const LONGEST_PPDU: Nanos = 5_484_000;

/// The most MPDUs that a compressed block ack acknowledges (9.3.1.8.2).
pub const BLOCK_ACK_WINDOW: u32 = 64;

/// The longest A-MPDU of HT and of VHT in bytes (9.4.2.55.3, 9.4.2.157.2).
const LONGEST_HT_AMPDU: u64 = 65_535;
const LONGEST_VHT_AMPDU: u64 = 1_048_575;

/// The limits of a turn on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnLimits {
    /// The most MPDUs in an A-MPDU; 1 for none.
    pub frames: u32,
    /// The longest A-MPDU in bytes; none for what the PHY allows.
    pub bytes: Option<u64>,
    /// How long a turn may last; without it a turn is one exchange.
    pub txop: Option<Nanos>,
    /// Whether each turn begins with RTS and CTS.
    pub rts_cts: bool,
    /// How often a frame is sent before it is dropped (dot11ShortRetryLimit, 10.3.4.4).
    pub transmissions: u32,
}

/// A radio with all that decides how long its turns last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transmitter {
    phy: Phy,
    pub access: Access,
    pub timing: Timing,
    pub limits: TurnLimits,
    /// The share of its MPDUs that arrive damaged.
    pub retry: Percent,
}

/// The MPDUs of one PPDU, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aggregate {
    pub frames: u32,
    /// Bytes of all subframes but the last, padded.
    padded: u64,
    /// The last MPDU, bytes.
    last: u64,
}

/// How long the parts of an exchange last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// RTS, CTS and the SIFS after each, if there are any.
    pub before: Nanos,
    pub data: Nanos,
    /// SIFS and the ACK or block ack.
    pub reply: Nanos,
    /// The part that a collision takes: the RTS, or the data.
    pub exposed: Nanos,
}

impl Exchange {
    pub fn time(&self) -> Nanos {
        self.before + self.data + self.reply
    }
}

/// A turn of a station that always has full queues.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FullTurn {
    pub frames: u32,
    /// MPDUs of the first exchange, on whose failure the turn ends.
    pub first_frames: u32,
    pub time: Nanos,
    /// The time that a collision takes.
    pub exposed: Nanos,
    /// Whether its failure makes the next turn ask for the block ack.
    pub asked_for: bool,
    /// How long the others still wait when the sender's turn is over (see [`Transmitter::closing`]).
    pub reserved: Nanos,
}

/// The end of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// SIFS and CF-End, where one is sent.
    pub time: Nanos,
    /// How long the others still wait after it.
    pub reserved: Nanos,
}

impl Transmitter {
    pub fn new(
        phy: Phy,
        category: Option<AccessCategory>,
        limits: TurnLimits,
        retry: Percent,
    ) -> Transmitter {
        Transmitter { phy, access: Access::new(&phy, category), timing: phy.timing(), limits, retry }
    }

    pub fn phy(&self) -> &Phy {
        &self.phy
    }

    /// The MPDU of a frame of so many bytes, Ethernet header included.
    pub fn mpdu(&self, frame_bytes: u32) -> u64 {
        let msdu = u64::from(frame_bytes).saturating_sub(ETHERNET_HEADER);
        msdu + LLC_SNAP + MAC_HEADER + FCS + if self.access.qos { QOS_CONTROL } else { 0 }
    }

    /// An A-MPDU subframe in bytes, padded.
    pub fn subframe(&self, frame_bytes: u32) -> u64 {
        (DELIMITER + self.mpdu(frame_bytes)).next_multiple_of(4)
    }

    /// Whether more than one MPDU may go in a PPDU.
    pub fn aggregates(&self) -> bool {
        self.phy.aggregates() && self.limits.frames > 1
    }

    /// The most bytes in an A-MPDU.
    pub fn most_bytes(&self) -> u64 {
        let phy = if self.phy.standard() == Standard::Ac { LONGEST_VHT_AMPDU } else { LONGEST_HT_AMPDU };
        self.limits.bytes.map_or(phy, |bytes| bytes.min(phy))
    }

    /// The aggregate with one more frame; none where the limits or the time that is left forbid it. The
    /// first frame passes whatever its size if `left` is none.
    pub fn extend(&self, aggregate: Aggregate, frame_bytes: u32, left: Option<Nanos>) -> Option<Aggregate> {
        let before = if aggregate.frames == 0 { 0 } else { (DELIMITER + aggregate.last).next_multiple_of(4) };
        let more = Aggregate {
            frames: aggregate.frames + 1,
            padded: aggregate.padded + before,
            last: self.mpdu(frame_bytes),
        };
        let in_time = |more| left.is_none_or(|left| self.exchange(more, false).time() <= left);
        if aggregate.frames == 0 {
            return in_time(more).then_some(more);
        }
        let fits = self.aggregates()
            && more.frames <= self.limits.frames.min(BLOCK_ACK_WINDOW)
            && self.psdu(more) <= self.most_bytes()
            && self.phy.ppdu(self.psdu(more)) <= LONGEST_PPDU
            && in_time(more);
        fits.then_some(more)
    }

    /// The bytes of a PPDU. A lone MPDU is sent as it is by HT, and in an A-MPDU by VHT (9.7.1).
    fn psdu(&self, aggregate: Aggregate) -> u64 {
        match aggregate.frames {
            1 if self.phy.standard() != Standard::Ac => aggregate.last,
            _ => aggregate.padded + DELIMITER + aggregate.last,
        }
    }

    /// The exchange of an aggregate; the first of a turn has the RTS.
    pub fn exchange(&self, aggregate: Aggregate, first: bool) -> Exchange {
        let sifs = self.timing.sifs;
        let data = self.phy.ppdu(self.psdu(aggregate));
        let ack = if aggregate.frames > 1 { BLOCK_ACK } else { ACK };
        let reply = sifs + self.phy.control_frame(ack);
        let rts = self.phy.control_frame(RTS);
        if self.limits.rts_cts && first {
            let before = rts + sifs + self.phy.control_frame(CTS) + sifs;
            return Exchange { before, data, reply, exposed: rts };
        }
        Exchange { before: 0, data, reply, exposed: data }
    }

    /// The time for the first exchange of a turn without its RTS and CTS; none where nothing limits it.
    pub fn first_left(&self) -> Option<Nanos> {
        let before = self.exchange(Aggregate { frames: 1, padded: 0, last: 0 }, true).before;
        self.limits.txop.map(|txop| txop.saturating_sub(before))
    }

    /// The time for another exchange, when the turn has lasted for `used`; none where no more may follow.
    pub fn left(&self, used: Nanos) -> Option<Nanos> {
        self.limits.txop?.checked_sub(used + self.timing.sifs)
    }

    /// Returns the end of a turn that has lasted for `used`. All frames announce the whole TXOP, so the others wait
    /// until its end, unless the rest is long enough for a CF-End, which gives the channel back (10.23.2.10).
    pub fn closing(&self, used: Nanos) -> Closing {
        let rest = self.limits.txop.map_or(0, |txop| txop.saturating_sub(used));
        let cf_end = self.timing.sifs + self.phy.lowest_control_frame(CF_END);
        if rest >= cf_end {
            Closing { time: cf_end, reserved: 0 }
        } else {
            Closing { time: 0, reserved: rest }
        }
    }

    /// SIFS and the longest reply to a PPDU.
    pub fn longest_reply(&self) -> Nanos {
        self.timing.sifs + self.phy.control_frame(BLOCK_ACK)
    }

    /// The frames of so many bytes in a second of full PPDUs, one right after the other.
    pub fn most_frames_per_s(&self, frame_bytes: u32) -> f64 {
        let aggregate = self.fill(frame_bytes, None).expect("without a limit a frame fits");
        f64::from(aggregate.frames) * 1e9 / self.exchange(aggregate, false).data as f64
    }

    /// The exchange that asks for a block ack that did not come: who sent an A-MPDU does not know whether it
    /// arrived (10.25.6.7 permits that, and repeating the frames).
    pub fn request(&self) -> Exchange {
        let data = self.phy.control_frame(BLOCK_ACK_REQUEST);
        Exchange { before: 0, data, reply: self.longest_reply(), exposed: data }
    }

    /// The turn of a queue that never runs empty of frames of so many bytes.
    pub fn full_turn(&self, frame_bytes: u32) -> FullTurn {
        // One frame may last longer than the limit.
        let aggregate = self
            .fill(frame_bytes, self.first_left())
            .or_else(|| self.extend(Aggregate::default(), frame_bytes, None))
            .expect("without a limit a frame fits");
        self.turn_from(self.exchange(aggregate, true), aggregate.frames, frame_bytes)
    }

    /// The turn of such a queue whose last block ack did not come.
    pub fn request_turn(&self, frame_bytes: u32) -> FullTurn {
        self.turn_from(self.request(), 0, frame_bytes)
    }

    /// As many frames as fit; none where not even one does.
    fn fill(&self, frame_bytes: u32, left: Option<Nanos>) -> Option<Aggregate> {
        let mut aggregate = Aggregate::default();
        while let Some(more) = self.extend(aggregate, frame_bytes, left) {
            aggregate = more;
        }
        (aggregate.frames > 0).then_some(aggregate)
    }

    /// The turn that begins with an exchange.
    fn turn_from(&self, first: Exchange, first_frames: u32, frame_bytes: u32) -> FullTurn {
        let (mut frames, mut used) = (first_frames, first.time());
        while let Some(next) = self.left(used).and_then(|left| self.fill(frame_bytes, Some(left))) {
            frames += next.frames;
            used += self.timing.sifs + self.exchange(next, false).time();
        }
        let closing = self.closing(used);
        FullTurn {
            frames,
            first_frames,
            time: used + closing.time,
            exposed: first.exposed,
            asked_for: first_frames > 1 && first.before == 0,
            reserved: closing.reserved,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wifi::phy::US;

    const PLAIN: TurnLimits =
        TurnLimits { frames: 64, bytes: None, txop: None, rts_cts: false, transmissions: 7 };

    fn transmitter(name: &str, limits: TurnLimits) -> Transmitter {
        let phy = Phy::all().find(|phy| phy.to_string() == name).unwrap();
        Transmitter::new(phy, None, limits, Percent::ZERO)
    }

    fn turn(name: &str, limits: TurnLimits) -> (u32, Nanos) {
        let turn = transmitter(name, limits).full_turn(1514);
        (turn.frames, turn.time)
    }

    #[test]
    fn a_packet_of_1500_bytes_grows_by_its_headers() {
        assert_eq!(transmitter("802.11a/54", PLAIN).mpdu(1514), 1536);
        let ht = transmitter("802.11n/20MHz/MCS7", PLAIN);
        assert_eq!((ht.mpdu(1514), ht.subframe(1514)), (1538, 1544));
    }

    #[test]
    fn a_turn_is_as_long_as_its_parts() {
        assert_eq!(turn("802.11a/54", PLAIN), (1, (248 + 16 + 28) * US));
        let single = TurnLimits { frames: 1, ..PLAIN };
        // 12 326 bits in 48 symbols of 260.
        assert_eq!(turn("802.11n/20MHz/MCS7", single), (1, (36 + 48 * 4 + 16 + 28) * US));
        // 28 subframes are 5360 µs, a 29th would pass 5484.
        assert_eq!(turn("802.11n/20MHz/MCS7", PLAIN), (28, (36 + 1331 * 4 + 16 + 32) * US));
        assert_eq!(turn("802.11n/20MHz/MCS3", PLAIN).0, 11);
        let bytes = TurnLimits { bytes: Some(16_000), ..PLAIN };
        assert_eq!(turn("802.11n/20MHz/MCS7", bytes).0, 10);
        // A byte more or less than ten subframes, the last one without padding.
        for (bytes, frames) in [(9 * 1544 + 1542, 10), (9 * 1544 + 1541, 9)] {
            assert_eq!(turn("802.11n/20MHz/MCS7", TurnLimits { bytes: Some(bytes), ..PLAIN }).0, frames);
        }
        assert_eq!(turn("802.11ac/160MHz/MCS9/x4/SGI", PLAIN).0, 64);
    }

    #[test]
    fn a_txop_ends_with_a_cf_end_where_it_fits() {
        let limits = TurnLimits { txop: Some(4096 * US), ..PLAIN };
        // 21 frames use 4076 of 4096 µs: too little is left for a CF-End, and the others wait for it.
        let full = transmitter("802.11n/20MHz/MCS7", limits).full_turn(1514);
        assert_eq!((full.frames, full.time, full.reserved), (21, 4076 * US, 20 * US));
        // 8 frames use 3888 µs; SIFS and CF-End take 68 and free the channel.
        let full = transmitter("802.11n/20MHz/MCS3", limits).full_turn(1514);
        assert_eq!((full.frames, full.time, full.reserved), (8, (3888 + 68) * US, 0));
    }

    #[test]
    fn a_txop_holds_several_exchanges_without_aggregates() {
        let limits = TurnLimits { txop: Some(1504 * US), ..PLAIN };
        // An exchange takes 292 µs, and each further one a SIFS more: 4 × 292 + 3 × 16 = 1216, and a fifth
        // would end at 1524. The rest is long enough for a CF-End.
        let full = transmitter("802.11a/54", limits).full_turn(1514);
        assert_eq!((full.frames, full.first_frames, full.time), (4, 1, (1216 + 68) * US));
    }

    #[test]
    fn a_missing_block_ack_is_asked_for() {
        let radio = transmitter("802.11n/20MHz/MCS7", PLAIN);
        assert_eq!(radio.request().time(), (32 + 16 + 32) * US);
        assert_eq!(radio.request_turn(1514).frames, 0);
        // With a TXOP frames follow in the same turn: 80 µs are gone, and 20 frames fit in the rest.
        let radio = transmitter("802.11n/20MHz/MCS7", TurnLimits { txop: Some(4096 * US), ..PLAIN });
        assert_eq!(radio.request_turn(1514).frames, 20);
    }

    #[test]
    fn one_frame_may_last_longer_than_the_txop() {
        let limits = TurnLimits { txop: Some(1504 * US), ..PLAIN };
        assert_eq!(turn("802.11a/6", limits).0, 1);
    }

    #[test]
    fn rts_and_cts_come_before_the_data_and_are_what_collides() {
        let turn = transmitter("802.11a/54", TurnLimits { rts_cts: true, ..PLAIN }).full_turn(1514);
        assert_eq!((turn.time, turn.exposed), ((28 + 16 + 28 + 16 + 248 + 16 + 28) * US, 28 * US));
    }
}
