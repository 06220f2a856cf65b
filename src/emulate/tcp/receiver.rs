//! A receiver: puts segments in order, acknowledges them as Linux does, and opens its window. Pure.

use crate::units::Nanos;

/// Payload of a full segment at MTU 1500 with TCP's timestamps, bytes.
pub(crate) const MSS: u64 = 1448;
/// Blocks in an acknowledgement: three fit beside the timestamps (RFC 2018).
pub(crate) const BLOCKS: usize = 3;
/// A lone segment is acknowledged after this time.
const DELAYED_ACK: Nanos = 40_000_000;
/// The number of acknowledgements of a new connection that are not delayed.
const QUICK_ACKS: u32 = 16;
/// Segments out of order are acknowledged at once so often; those after them share an acknowledgement
/// for a twentieth of a round trip, 1 ms at most.
const DUPLICATE_ACKS: u32 = 3;
const SHARED_ACK: Nanos = 1_000_000;
const MOST_SHARED: u32 = 44;
/// The first window and the greatest one, bytes: what the buffers of Linux's `tcp_rmem` hold.
const FIRST_WINDOW: u64 = 65_535;
const GREATEST_WINDOW: u64 = 16 << 20;

/// Segments that came ahead of others: numbers, and where the last one ends in the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    pub from: u32,
    pub to: u32,
    end: u64,
}

/// An acknowledgement.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Acknowledgement {
    /// The first segment that has not come.
    pub next: u32,
    pub blocks: [Block; BLOCKS],
    /// Where in the stream its window ends.
    pub window_end: u64,
    /// When the segment that this acknowledges was sent.
    pub echo: Nanos,
    /// Something came twice (RFC 2883).
    pub repeated: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    next: u32,
    /// Bytes in order.
    pub received: u64,
    /// The latest first.
    ahead: Vec<Block>,
    echo: Nanos,
    acknowledged: u32,
    acknowledged_bytes: u64,
    quick: u32,
    /// It sends soon after it receives, so that acknowledgements may wait for that.
    interactive: bool,
    last_rx: Option<Nanos>,
    due: bool,
    repeated: bool,
    pub delayed_until: Nanos,
    pub shared_until: Nanos,
    shared: u32,
    duplicates: (u32, u32),
    window: Autotune,
}

/// The window grows to twice the bytes received in the last round trip, and more where that grows (Linux's
/// dynamic right-sizing).
#[derive(Clone, Debug)]
struct Autotune {
    open: u64,
    most: u64,
    space: u64,
    rtt: Option<Nanos>,
    since: Nanos,
    copied: u64,
}

impl Receiver {
    pub(crate) fn new() -> Receiver {
        Receiver {
            next: 0,
            received: 0,
            ahead: Vec::new(),
            echo: 0,
            acknowledged: 0,
            acknowledged_bytes: 0,
            quick: QUICK_ACKS,
            interactive: false,
            last_rx: None,
            due: false,
            repeated: false,
            delayed_until: Nanos::MAX,
            shared_until: Nanos::MAX,
            shared: 0,
            duplicates: (0, 0),
            window: Autotune {
                open: FIRST_WINDOW,
                most: FIRST_WINDOW,
                space: 10 * MSS,
                rtt: None,
                since: 0,
                copied: 0,
            },
        }
    }

    /// Takes a segment of `bytes` in that ends at `end` of the stream and was sent at `sent`, in answer to
    /// something that was sent at `answers`.
    pub(crate) fn take(
        &mut self,
        now: Nanos,
        number: u32,
        end: u64,
        bytes: u64,
        sent: Nanos,
        answers: Option<Nanos>,
    ) {
        self.last_rx = Some(now);
        if number <= self.acknowledged {
            self.echo = sent;
        }
        if number < self.next || self.ahead.iter().any(|block| (block.from..block.to).contains(&number)) {
            (self.due, self.repeated) = (true, true);
            return;
        }
        if number > self.next {
            self.keep(number, end);
            self.tell_ahead(now);
            return;
        }
        self.next += 1;
        self.received = end;
        let filled = !self.ahead.is_empty();
        while let Some(place) = self.ahead.iter().position(|block| block.from == self.next) {
            let block = self.ahead.swap_remove(place);
            (self.next, self.received) = (block.to, block.end);
        }
        self.window.grow(now, self.received, answers);
        if self.received - self.acknowledged_bytes > MSS
            || self.quick > 0 && !self.interactive
            || filled && self.ahead.is_empty()
        {
            self.due = true;
        } else if filled {
            self.tell_ahead(now);
        } else if bytes < MSS && !self.interactive {
            // The end of what was written is acknowledged when it is read.
            self.due = true;
        } else {
            self.delayed_until = self.delayed_until.min(now + DELAYED_ACK);
        }
    }

    /// Notes an acknowledgement without data that was sent at `sent`.
    pub(crate) fn hear(&mut self, sent: Nanos) {
        self.echo = sent;
    }

    fn keep(&mut self, number: u32, end: u64) {
        let mut block = Block { from: number, to: number + 1, end };
        self.ahead.retain(|other| {
            let joins = other.to == block.from || other.from == block.to;
            if other.to == block.from {
                block.from = other.from;
            } else if other.from == block.to {
                (block.to, block.end) = (other.to, other.end);
            }
            !joins
        });
        self.ahead.insert(0, block);
    }

    fn tell_ahead(&mut self, now: Nanos) {
        if self.duplicates.0 != self.next {
            self.duplicates = (self.next, 0);
        }
        if self.duplicates.1 < DUPLICATE_ACKS || self.shared >= MOST_SHARED {
            self.duplicates.1 += 1;
            self.due = true;
            return;
        }
        self.shared += 1;
        if self.shared_until == Nanos::MAX {
            let rtt = self.window.rtt.unwrap_or(0);
            self.shared_until = now + (rtt / 20).min(SHARED_ACK);
        }
    }

    /// When an acknowledgement is due though nothing comes.
    pub(crate) fn next(&self) -> Nanos {
        self.delayed_until.min(self.shared_until)
    }

    pub(crate) fn on_time(&mut self, now: Nanos) {
        if self.delayed_until <= now {
            self.interactive = false;
        }
        self.due |= self.next() <= now;
    }

    pub(crate) fn is_due(&self) -> bool {
        self.due
    }

    /// Returns the acknowledgement to send now; `with_data` if it travels with new data.
    pub(crate) fn acknowledge(&mut self, now: Nanos, with_data: bool) -> Acknowledgement {
        if with_data {
            self.interactive |= self.last_rx.is_some_and(|last_rx| now - last_rx < DELAYED_ACK);
        }
        if self.acknowledged != self.next || self.due {
            self.quick = self.quick.saturating_sub(1);
        }
        self.due = false;
        (self.delayed_until, self.shared_until, self.shared) = (Nanos::MAX, Nanos::MAX, 0);
        (self.acknowledged, self.acknowledged_bytes) = (self.next, self.received);
        let mut blocks = [Block::default(); BLOCKS];
        blocks.iter_mut().zip(&self.ahead).for_each(|(place, block)| *place = *block);
        let repeated = std::mem::take(&mut self.repeated);
        let window_end = self.received + self.window.open;
        Acknowledgement { next: self.next, blocks, window_end, echo: self.echo, repeated }
    }
}

impl Autotune {
    fn grow(&mut self, now: Nanos, received: u64, answers: Option<Nanos>) {
        if let Some(rtt) = answers.map(|answers| now.saturating_sub(answers)).filter(|&rtt| rtt > 0) {
            self.rtt = Some(self.rtt.map_or(rtt, |known| (known * 7 + rtt) / 8));
        }
        self.open = (self.open + 2 * MSS).min(self.most);
        let Some(rtt) = self.rtt else { return };
        if now - self.since < rtt {
            return;
        }
        let copied = received - self.copied;
        if copied > self.space {
            let window = 2 * copied + 16 * MSS;
            let more = window * (copied - self.space) / self.space;
            self.most = self.most.max(window + 2 * more).min(GREATEST_WINDOW);
            self.space = copied;
        }
        (self.since, self.copied) = (now, received);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    fn full(receiver: &mut Receiver, now: Nanos, number: u32) {
        receiver.take(now, number, u64::from(number + 1) * MSS, MSS, now, None);
    }

    #[test]
    fn receiver_acknowledges_every_second_segment_after_the_first_sixteen() {
        let mut receiver = Receiver::new();
        let mut acks = 0;
        for number in 0..100 {
            full(&mut receiver, u64::from(number) * MS, number);
            if receiver.is_due() {
                receiver.acknowledge(u64::from(number) * MS, false);
                acks += 1;
            }
        }
        assert_eq!(acks, 16 + 42);
        full(&mut receiver, 100 * MS, 100);
        assert_eq!(receiver.next(), 140 * MS, "a lone segment waits 40 ms");
    }

    #[test]
    fn receiver_names_what_came_ahead_and_delivers_it_when_the_hole_is_filled() {
        let mut receiver = Receiver::new();
        for number in [0, 2, 3, 6, 5] {
            full(&mut receiver, MS, number);
        }
        let ack = receiver.acknowledge(MS, false);
        assert_eq!((ack.next, receiver.received), (1, MSS));
        assert_eq!(ack.blocks.map(|block| (block.from, block.to)), [(5, 7), (2, 4), (0, 0)]);
        full(&mut receiver, 2 * MS, 1);
        assert_eq!((receiver.acknowledge(2 * MS, false).next, receiver.received), (4, 4 * MSS));
        full(&mut receiver, 3 * MS, 4);
        assert_eq!(receiver.received, 7 * MSS);
    }

    #[test]
    fn window_opens_ahead_of_slow_start() {
        let mut receiver = Receiver::new();
        let (mut number, mut now, mut window) = (0, 0, 10u32);
        for _ in 0..8 {
            now += 500 * MS;
            for at in 0..window {
                let (now, sent) = (now + u64::from(at), now - 500 * MS);
                receiver.take(now, number, u64::from(number + 1) * MSS, MSS, sent, Some(sent));
                number += 1;
            }
            window *= 2;
            let ack = receiver.acknowledge(now, false);
            let room = ack.window_end - receiver.received;
            assert!(room >= u64::from(window).min(40) * MSS, "{room} bytes for {window} segments");
        }
    }
}
