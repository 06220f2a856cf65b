//! CoDel (RFC 8289): drops packets as they leave a queue in which all have waited for longer than a target, ever
//! faster, until one has not. Pure.
//!
//! The bottleneck knows on arrival when a packet's service begins, so its fate is decided then: a dropped packet
//! takes no service, and the next one is judged at the same moment, as in the RFC's loop. One thing is not known on
//! arrival: whether anything comes behind it. The RFC spares what leaves less than a packet behind; here that is what
//! finds no packet waiting.

use crate::config::profile::{CoDelQueue, Queue, Shape};
use crate::units::Nanos;

/// The state of one queue.
#[derive(Clone, Debug)]
pub(crate) struct CoDel {
    target: Nanos,
    interval: Nanos,
    /// When packets will have waited too long for an interval; none where the last one did not.
    first_above: Option<Nanos>,
    dropping: bool,
    drop_next: Nanos,
    /// Drops since dropping began, and what it was when it began the last time.
    count: u32,
    last_count: u32,
}

impl CoDel {
    /// Returns CoDel where a shape asks for it, in the state of the one before.
    pub(crate) fn of(shape: &Shape, before: Option<CoDel>) -> Option<CoDel> {
        let Queue::CoDel(CoDelQueue { target, interval, .. }) = shape.queue else { return None };
        let fresh = CoDel {
            target: 0,
            interval: 0,
            first_above: None,
            dropping: false,
            drop_next: 0,
            count: 0,
            last_count: 0,
        };
        let (target, interval) = (target.0.as_nanos() as Nanos, interval.0.as_nanos() as Nanos);
        Some(CoDel { target, interval, ..before.unwrap_or(fresh) })
    }

    /// Decides a packet that comes now, whose service begins at `begins` behind so many waiting bytes.
    pub(crate) fn drops(&mut self, now: Nanos, begins: Nanos, waiting_bytes: u64) -> bool {
        let above = self.is_above(begins, begins.saturating_sub(now), waiting_bytes);
        if self.dropping {
            self.dropping = above;
            if !above || begins < self.drop_next {
                return false;
            }
            self.count += 1;
            self.drop_next = self.after(self.drop_next);
            return true;
        }
        if !above {
            return false;
        }
        self.dropping = true;
        // Where it dropped until recently it goes on at that pace.
        let pace = self.count.saturating_sub(self.last_count);
        let recent = begins.saturating_sub(self.drop_next) < 16 * self.interval;
        self.count = if pace > 1 && recent { pace } else { 1 };
        self.last_count = self.count;
        self.drop_next = self.after(begins);
        true
    }

    /// Returns true where packets have waited for longer than the target during an interval.
    fn is_above(&mut self, begins: Nanos, waits: Nanos, waiting_bytes: u64) -> bool {
        if waits < self.target || waiting_bytes == 0 {
            self.first_above = None;
            return false;
        }
        begins >= *self.first_above.get_or_insert(begins.saturating_add(self.interval))
    }

    /// The next drop after one: the interval over the root of the count.
    fn after(&self, time: Nanos) -> Nanos {
        time.saturating_add((self.interval as f64 / f64::from(self.count).sqrt()) as Nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::profile::Shape;
    use crate::emulate::link::{Cause, DelayStage, LinkModel};
    use crate::units::{Delay, Direction, LinkId, Rate};

    const MS: Nanos = 1_000_000;

    fn codel() -> CoDel {
        let shape = Shape::plain(
            Rate::from_bits_per_s(10_000_000),
            Queue::CoDel(CoDelQueue::new(Delay::from_millis(1000))),
        );
        CoDel::of(&shape, None).unwrap()
    }

    #[test]
    fn drops_come_after_an_interval_and_then_ever_faster() {
        let mut codel = codel();
        // A packet leaves each millisecond and has waited for 20.
        let dropped: Vec<Nanos> =
            (100..700).filter(|ms| codel.drops((ms - 20) * MS, ms * MS, 30_000)).collect();
        // 100 ms after the first that waited too long, then by 100 / √n, each rounded up to a packet.
        assert_eq!(&dropped[..5], [200, 300, 371, 429, 479]);
    }

    #[test]
    fn short_waits_end_dropping_and_it_comes_back_at_its_pace() {
        let mut codel = codel();
        let dropped = |codel: &mut CoDel, from: Nanos, to: Nanos, waits: Nanos| -> Vec<Nanos> {
            (from..to).filter(|ms| codel.drops((ms - waits) * MS, ms * MS, 30_000)).collect()
        };
        // The 27th comes (1 + 1/√2 + … + 1/√26) × 100 ms after the first, which are 884.
        assert_eq!(dropped(&mut codel, 100, 1100, 20).len(), 27);
        assert!(dropped(&mut codel, 1100, 1400, 4).is_empty());
        let again = dropped(&mut codel, 1400, 1600, 20);
        assert_eq!(again[0], 1500);
        assert!(again.len() > 4, "the pace of before goes on: {again:?}");
    }

    #[test]
    fn lone_packets_of_a_slow_link_are_spared() {
        let mut codel = codel();
        assert!((0..50).all(|n| !codel.drops(n * 100 * MS, (n * 100 + 50) * MS, 0)));
    }

    #[test]
    fn paced_overload_keeps_the_queue_far_below_its_limit() {
        // 12 Mbit/s into 10 with a limit of a second; a sender that answers no drops.
        let rate = Rate::from_bits_per_s(10_000_000);
        let waits = |queue: Queue| {
            let shape = Shape::plain(rate, queue);
            let mut link = LinkModel::new(&shape, DelayStage::Here, 1, LinkId::A, Direction::Down);
            let (mut longest, mut dropped) = (0, 0);
            for n in 0..30_000 {
                let now = n * 1_009_333;
                match link.arrive(now, n as u32, 1514) {
                    Ok(due) if n > 20_000 => longest = longest.max(due - now),
                    Ok(_) => {}
                    Err(cause) => {
                        assert_eq!(cause, Cause::QueueFull);
                        dropped += 1;
                    }
                }
                while link.take_due(now).is_some() {}
            }
            assert!((4_000..6_000).contains(&dropped), "{dropped}: what is too much is dropped either way");
            longest
        };
        let full = waits(Queue::Time(Delay::from_millis(1000)));
        let short = waits(Queue::CoDel(CoDelQueue::new(Delay::from_millis(1000))));
        assert!(full > 990 * MS && short < 200 * MS, "{full} and {short}");
    }
}
