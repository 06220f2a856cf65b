//! The least that a frame costs on the channel: the share of a turn that is as full as it can be. Pure.

use super::exchange::{Aggregate, BLOCK_ACK_WINDOW, DELIMITER, LONGEST_PPDU, Transmitter};

/// A frame's share of a full turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeastCost {
    /// Airtime (s): its bits, and its share of preamble, reply, interframe space, RTS and CTS.
    pub airtime_s: f64,
    /// Turns, each of which has a backoff.
    pub turns: f64,
}

impl Transmitter {
    /// Returns the least cost of a frame of so many bytes, whatever else is in its turns. Nothing is rounded or
    /// padded, and where 28.7 frames would fill a PPDU each has that share, since 28 and a smaller one may do so.
    pub fn least_cost(&self, frame_bytes: u32) -> LeastCost {
        let seconds = |time| time as f64 / 1e9;
        let one = self.extend(Aggregate::default(), frame_bytes, None).expect("without a limit a frame fits");
        let exchange = self.exchange(one, true);
        let space_s = seconds(self.access.interframe_space(&self.timing) + exchange.before);
        let reply_s = seconds(exchange.reply);
        let txop_s = self.limits.txop.map(seconds);
        let phy = self.phy();
        let lone_s = phy.least_ppdu_s(self.mpdu(frame_bytes) as f64) + reply_s;
        let (cost_s, in_ppdu) = if self.aggregates() {
            let bytes = (DELIMITER + self.mpdu(frame_bytes)) as f64;
            let around_s = phy.least_ppdu_s(0.0);
            let frame_s = phy.least_ppdu_s(bytes) - around_s;
            let longest_s =
                txop_s.map_or(f64::INFINITY, |txop_s| txop_s - reply_s).min(seconds(LONGEST_PPDU));
            let most = [
                (longest_s - around_s) / frame_s,
                self.most_bytes() as f64 / bytes,
                f64::from(self.limits.frames.min(BLOCK_ACK_WINDOW)),
            ];
            let in_ppdu = most.into_iter().fold(f64::INFINITY, f64::min).max(1.0);
            // A lone MPDU has no delimiter.
            (lone_s.min(frame_s + (around_s + reply_s) / in_ppdu), in_ppdu)
        } else {
            (lone_s, 1.0)
        };
        let in_turn = txop_s.map_or(in_ppdu, |txop_s| (txop_s / cost_s).max(1.0));
        LeastCost { airtime_s: cost_s + space_s / in_turn, turns: 1.0 / in_turn }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Percent;
    use crate::wifi::exchange::TurnLimits;
    use crate::wifi::phy::Phy;
    use proptest::prelude::*;

    fn radios() -> impl Strategy<Value = Transmitter> {
        let phys: Vec<Phy> = Phy::all().collect();
        let txop = prop::option::of(500_000u64..6_000_000);
        (prop::sample::select(phys), 1u32..=64, prop::option::of(1000u64..70_000), txop, any::<bool>())
            .prop_map(|(phy, frames, bytes, txop, rts_cts)| {
                let limits = TurnLimits { frames, bytes, txop, rts_cts, transmissions: 7 };
                Transmitter::new(phy, None, limits, Percent::ZERO)
            })
    }

    proptest! {
        #[test]
        fn no_full_turn_is_cheaper_than_the_least_cost(radio in radios(), bytes in 60u32..=1514) {
            let (turn, least) = (radio.full_turn(bytes), radio.least_cost(bytes));
            let time = turn.time + radio.access.interframe_space(&radio.timing);
            let a_frame_s = time as f64 / 1e9 / f64::from(turn.frames);
            prop_assert!(least.airtime_s <= a_frame_s * (1.0 + 1e-9), "{} and {a_frame_s}", least.airtime_s);
            prop_assert!(least.turns <= 1.0 / f64::from(turn.frames) + 1e-9);
            // Nor is it far below, but for what a TXOP has left over at its end and for aggregates cut short.
            let spare = radio.limits.txop.is_some() || turn.frames < 8;
            prop_assert!(spare || least.airtime_s > 0.85 * a_frame_s, "{} and {a_frame_s}", least.airtime_s);
        }

        #[test]
        fn small_frames_cost_no_less_a_byte(radio in radios(), bytes in 100u32..1514) {
            let (small, full) = (radio.least_cost(bytes), radio.least_cost(1514));
            let share = f64::from(bytes - 66) / 1448.0;
            prop_assert!(small.airtime_s >= full.airtime_s * share * (1.0 - 1e-9));
        }
    }
}
