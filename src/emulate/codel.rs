//! CoDel (RFC 8289): drops packets as they leave a queue in which all have waited for longer than a target, ever
//! faster, until one has not. Pure.

use crate::config::profile::{CoDelQueue, FRAME};
use crate::units::Nanos;

/// The state of one queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct CoDel {
    /// When packets will have waited too long for an interval; none where the last one did not.
    first_above: Option<Nanos>,
    dropping: bool,
    drop_next: Nanos,
    /// Drops since dropping began, and what it was when it began the last time.
    count: u32,
    last_count: u32,
}

impl CoDel {
    /// Decides whether a packet that leaves now, and has waited since `since`, tells its sender to slow down: by
    /// being dropped, or marked. `behind_bytes` of the queue stay behind it.
    pub(crate) fn signals(
        &mut self,
        queue: &CoDelQueue,
        now: Nanos,
        since: Nanos,
        behind_bytes: u64,
    ) -> bool {
        let interval = queue.interval.0.as_nanos() as Nanos;
        let above = self.is_above(queue, now, since, behind_bytes);
        if self.dropping {
            self.dropping = above;
            if !above || now < self.drop_next {
                return false;
            }
            self.count += 1;
            self.drop_next = self.after(self.drop_next, interval);
            return true;
        }
        if !above {
            return false;
        }
        self.dropping = true;
        // Where it dropped until recently it goes on at that pace.
        let pace = self.count.saturating_sub(self.last_count);
        let recent = now.saturating_sub(self.drop_next) < 16 * interval;
        self.count = if pace > 1 && recent { pace } else { 1 };
        self.last_count = self.count;
        self.drop_next = self.after(now, interval);
        true
    }

    /// Returns true where packets have waited for longer than the target during an interval, and more than a
    /// packet is left to send.
    fn is_above(&mut self, queue: &CoDelQueue, now: Nanos, since: Nanos, behind_bytes: u64) -> bool {
        if now.saturating_sub(since) < queue.target.0.as_nanos() as Nanos || behind_bytes <= FRAME {
            self.first_above = None;
            return false;
        }
        let interval = queue.interval.0.as_nanos() as Nanos;
        now >= *self.first_above.get_or_insert(now.saturating_add(interval))
    }

    /// The next drop after one: the interval over the root of the count.
    fn after(&self, time: Nanos, interval: Nanos) -> Nanos {
        time.saturating_add((interval as f64 / f64::from(self.count).sqrt()) as Nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::profile::CoDelKind;
    use crate::units::Delay;

    const MS: Nanos = 1_000_000;

    /// Whether each of packets that leave in these milliseconds, after so long a wait, is dropped.
    fn dropped(codel: &mut CoDel, leaves: std::ops::Range<Nanos>, waits: Nanos, behind: u64) -> Vec<Nanos> {
        let queue = CoDelQueue::new(CoDelKind::CoDel, Delay::from_millis(1000));
        leaves.filter(|ms| codel.signals(&queue, ms * MS, (ms - waits) * MS, behind)).collect()
    }

    #[test]
    fn drops_come_after_an_interval_and_then_ever_faster() {
        // 100 ms after the first that waited too long, then by 100 / √n, each rounded up to a packet.
        let mut codel = CoDel::default();
        assert_eq!(&dropped(&mut codel, 100..700, 20, 30_000)[..5], [200, 300, 371, 429, 479]);
    }

    #[test]
    fn short_waits_end_dropping_and_it_comes_back_at_its_pace() {
        let mut codel = CoDel::default();
        // The 27th comes (1 + 1/√2 + … + 1/√26) × 100 ms after the first, which are 884.
        assert_eq!(dropped(&mut codel, 100..1100, 20, 30_000).len(), 27);
        assert!(dropped(&mut codel, 1100..1400, 4, 30_000).is_empty());
        let again = dropped(&mut codel, 1400..1600, 20, 30_000);
        assert_eq!(again[0], 1500);
        assert!(again.len() > 4, "the pace of before goes on: {again:?}");
    }

    #[test]
    fn packets_of_a_link_so_slow_that_one_is_too_long_are_spared() {
        assert!(dropped(&mut CoDel::default(), 50..5000, 50, 1514).is_empty());
    }
}
