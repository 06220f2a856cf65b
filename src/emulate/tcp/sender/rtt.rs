//! The round trip as a sender measures it, and the time-out that follows (RFC 6298, with the least
//! variance that Linux has).

use crate::units::Nanos;

/// The least time that the time-out leaves beyond the round trip.
pub(crate) const LEAST_RTO: Nanos = 200_000_000;
const LONGEST_RTO: Nanos = 120_000_000_000;

#[derive(Clone, Debug)]
pub(crate) struct Rtt {
    pub smoothed: Nanos,
    /// Four times the mean deviation, over a round trip its greatest.
    variance: Nanos,
    deviation: Nanos,
    greatest: Nanos,
    /// The round over which the greatest deviation counts ends with this segment.
    ends: u32,
    backoff: u32,
    pub least: Nanos,
}

impl Rtt {
    /// Starts with the round trip of the handshake.
    pub(crate) fn new(first: Nanos) -> Rtt {
        Rtt {
            smoothed: first,
            variance: (2 * first).max(LEAST_RTO),
            deviation: 2 * first,
            greatest: (2 * first).max(LEAST_RTO),
            ends: 0,
            backoff: 0,
            least: first,
        }
    }

    /// A segment that was sent once took `rtt`; all before `acked` have come, and those before `next`
    /// are sent.
    pub(crate) fn measured(&mut self, rtt: Nanos, acked: u32, next: u32) {
        let off = rtt as i64 - self.smoothed as i64;
        self.smoothed = (self.smoothed as i64 + off / 8).max(1) as Nanos;
        // Linux counts a deviation that a shorter round trip makes an eighth.
        let mut change = off.unsigned_abs() as i64 - self.deviation as i64 / 4;
        if off < 0 && change > 0 {
            change /= 8;
        }
        self.deviation = (self.deviation as i64 + change).max(0) as Nanos;
        if self.deviation > self.greatest {
            self.greatest = self.deviation;
            self.variance = self.variance.max(self.greatest);
        }
        if acked > self.ends {
            if self.greatest < self.variance {
                self.variance -= (self.variance - self.greatest) / 4;
            }
            self.ends = next;
            self.greatest = LEAST_RTO;
        }
        self.backoff = 0;
    }

    pub(crate) fn timeout(&self) -> Nanos {
        ((self.smoothed + self.variance) << self.backoff.min(12)).min(LONGEST_RTO)
    }

    pub(crate) fn back_off(&mut self) {
        self.backoff += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    #[test]
    fn timeout_of_a_steady_link_is_its_round_trip_and_200_ms() {
        let mut rtt = Rtt::new(50 * MS);
        (0..100).for_each(|ack| rtt.measured(50 * MS, ack, ack + 1));
        assert_eq!(rtt.timeout(), 250 * MS);
        rtt.back_off();
        rtt.back_off();
        assert_eq!(rtt.timeout(), 1000 * MS);
        rtt.measured(50 * MS, 101, 102);
        assert_eq!(rtt.timeout(), 250 * MS);
    }

    #[test]
    fn timeout_follows_a_round_trip_that_varies() {
        let mut rtt = Rtt::new(50 * MS);
        for ack in 0..200u32 {
            rtt.measured(if ack % 2 == 0 { 50 * MS } else { 450 * MS }, ack, ack + 10);
        }
        assert!(rtt.timeout() > 800 * MS, "{}", rtt.timeout());
    }
}
