//! The radio channel of one access point: who sends when, for how long, and what is lost. Pure; time is
//! handed in, and must not run backwards.
//!
//! Contention is DCF's and EDCA's (802.11-2020, 10.3.4 and 10.23.2), with counters. A contender with frames
//! waits for its interframe space and then for as many idle slots as it drew from its window; while the
//! channel is busy its counter stands still. Counters that end together are a collision: the channel is busy for
//! the longest of the frames, each sender notices by a time-out, and all others wait for EIFS. A failure
//! doubles the window and repeats the frame, up to the limit of transmissions; then the frame is lost. A
//! turn without a collision loses each MPDU by the chance that its radio has; if it loses all there is
//! no reply, which is a failure too. The sender of an A-MPDU without a block ack asks for it in its next
//! turn, and repeats the frames then.
//!
//! The medium knows no links: it carries items from queues, and tells their outcome.

use std::collections::VecDeque;

use crate::config::channel::Fair;
use crate::emulate::rng::Stream;
use crate::units::Nanos;
use crate::wifi::exchange::{Aggregate, BLOCK_ACK_WINDOW, Exchange, Transmitter};
use crate::wifi::phy::Timing;

/// Where a queue is: which contender's, and which of its queues.
pub type QueuePosition = (usize, usize);

/// A frame that is done: it came through, or it was lost.
#[derive(Clone, Copy, Debug)]
pub struct FrameOutcome<T> {
    pub item: T,
    pub from: QueuePosition,
    pub delivered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waiting,
    Delivered,
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct QueuedFrame<T> {
    item: T,
    bytes: u32,
    transmissions: u32,
    fate: Fate,
}

/// The frames that one radio has for another, in order.
#[derive(Clone, Debug)]
struct TransmitQueue<T> {
    radio: Transmitter,
    frames: VecDeque<QueuedFrame<T>>,
    /// Whether a block ack did not come, so that the next turn asks for it.
    asks: bool,
    /// Time on the channel so far, for sharing it out evenly.
    airtime: Nanos,
}

/// A station, or an access category of the access point; it has one backoff for all of its queues.
#[derive(Clone, Debug)]
struct Contender<T> {
    device: usize,
    queues: Vec<TransmitQueue<T>>,
    /// The queue that had the last turn.
    last_queue: usize,
    /// Failures in a row.
    failures: u32,
    /// When its counter begins to count, or began.
    counts_from: Nanos,
    /// Slots that are left to count from then.
    slots: u32,
    /// Whether the counter had run out, with nothing to send, when the channel became busy.
    rested: bool,
}

/// The transmission on the channel, until `ends`.
#[derive(Clone, Debug)]
struct OnAir {
    ends: Nanos,
    what: Transmission,
}

#[derive(Clone, Debug)]
enum Transmission {
    /// An exchange, up to the end of its data.
    Data(Sending),
    Reply(Sending),
    /// The end of a turn, with a CF-End if there is one, after which the others wait for what it reserved.
    Closing {
        sender: usize,
        reserved: Nanos,
    },
    Collision(Vec<Sending>),
}

/// A contender's part in a transmission.
#[derive(Clone, Debug)]
struct Sending {
    from: QueuePosition,
    /// Which of the queue's frames it carries; none where it asks for a block ack.
    frames: Vec<usize>,
    turn_began: Nanos,
    began: Nanos,
    exchange: Exchange,
}

impl Sending {
    /// When its data has been sent.
    fn data_ends(&self) -> Nanos {
        self.began + self.exchange.before + self.exchange.data
    }

    /// When it falls silent in a collision.
    fn exposed_ends(&self) -> Nanos {
        self.began + self.exchange.exposed
    }
}

/// The channel and all that contend for it.
#[derive(Clone, Debug)]
pub struct Medium<T> {
    timing: Timing,
    fair: Fair,
    contenders: Vec<Contender<T>>,
    /// Time on the channel by device, what is under way included.
    busy: Vec<Nanos>,
    on_air: Option<OnAir>,
    backoffs: Stream,
    errors: Stream,
    outcomes: Vec<FrameOutcome<T>>,
}

impl<T: Copy> Medium<T> {
    pub fn new(timing: Timing, fair: Fair, backoffs: Stream, errors: Stream) -> Medium<T> {
        Medium {
            timing,
            fair,
            contenders: Vec::new(),
            busy: Vec::new(),
            on_air: None,
            backoffs,
            errors,
            outcomes: Vec::new(),
        }
    }

    /// Adds a device and gives its number.
    pub fn add_device(&mut self) -> usize {
        self.busy.push(0);
        self.busy.len() - 1
    }

    /// Adds a queue to a device. Queues of one device with the same access parameters share a backoff.
    pub fn add_queue(&mut self, device: usize, radio: Transmitter) -> QueuePosition {
        let same = |c: &Contender<T>| c.device == device && c.queues[0].radio.access == radio.access;
        let contender = self.contenders.iter().position(same).unwrap_or_else(|| {
            self.contenders.push(Contender::new(device));
            self.contenders.len() - 1
        });
        let queues = &mut self.contenders[contender].queues;
        queues.push(TransmitQueue { radio, frames: VecDeque::new(), asks: false, airtime: 0 });
        (contender, queues.len() - 1)
    }

    /// How long a device has been on the channel since the start.
    pub fn busy(&self, device: usize) -> Nanos {
        self.busy[device]
    }

    /// Gives a queue another frame of so many bytes, Ethernet header included. All that happens before `now` must
    /// have been played.
    pub fn push(&mut self, now: Nanos, to: QueuePosition, item: T, bytes: u32) {
        let contender = &mut self.contenders[to.0];
        if !contender.has_work() {
            if self.on_air.is_some() {
                // A busy channel means a backoff, unless one is left (10.3.4.2).
                if contender.rested {
                    contender.draw(&mut self.backoffs);
                }
            } else if contender.starts(self.timing.slot) <= now {
                // A channel that is idle for long enough is free at once.
                (contender.counts_from, contender.slots) = (now, 0);
            }
            contender.rested = false;
        }
        let frame = QueuedFrame { item, bytes, transmissions: 0, fate: Fate::Waiting };
        contender.queues[to.1].frames.push_back(frame);
    }

    /// When something happens next: someone begins to send, or ends.
    pub fn next_event(&self) -> Option<Nanos> {
        if let Some(on_air) = &self.on_air {
            return Some(on_air.ends);
        }
        let working = self.contenders.iter().filter(|contender| contender.has_work());
        working.map(|contender| contender.starts(self.timing.slot)).min()
    }

    /// Plays what [`Medium::next_event`] has announced for this time.
    pub fn step(&mut self, now: Nanos) {
        match self.on_air.take().map(|on_air| on_air.what) {
            None => self.begin(now),
            Some(Transmission::Data(sending)) => self.end_data(now, sending),
            Some(Transmission::Reply(sending)) => self.end_exchange(now, &sending),
            Some(Transmission::Closing { sender, reserved }) => self.end_turn(now, sender, reserved),
            Some(Transmission::Collision(senders)) => self.end_collision(now, senders),
        }
    }

    /// Hands out what is done since the last call, in order.
    pub fn take_outcomes(&mut self) -> std::vec::Drain<'_, FrameOutcome<T>> {
        self.outcomes.drain(..)
    }

    /// Lets those send whose counters end now. Others whose counters end before they can have noticed that
    /// collide with them.
    fn begin(&mut self, now: Nanos) {
        let Timing { slot, assessment, .. } = self.timing;
        let mut senders = Vec::new();
        for (of, contender) in self.contenders.iter_mut().enumerate() {
            if contender.has_work() && contender.starts(slot) < now + assessment {
                senders.push(of);
            } else {
                contender.freeze(now, slot);
            }
        }
        self.settle_within_devices(&mut senders);
        let mut sendings: Vec<Sending> = senders.into_iter().map(|of| self.start(of)).collect();
        self.on_air = if sendings.len() == 1 {
            let sending = sendings.remove(0);
            self.spend(&sending, sending.exchange.time());
            Some(OnAir { ends: sending.data_ends(), what: Transmission::Data(sending) })
        } else {
            sendings.iter().for_each(|sending| self.spend(sending, sending.exchange.exposed));
            let ends = sendings.iter().map(Sending::exposed_ends).max().unwrap_or(now);
            Some(OnAir { ends, what: Transmission::Collision(sendings) })
        };
    }

    /// Of the access categories of one device whose counters end together, the one that waits least sends; the
    /// others draw again as after a collision (10.23.2.4).
    fn settle_within_devices(&mut self, senders: &mut Vec<usize>) {
        senders.sort_by_key(|&of| {
            let access = &self.contenders[of].queues[0].radio.access;
            (self.contenders[of].device, access.aifsn, access.cw_min)
        });
        let mut last = None;
        senders.retain(|&of| {
            let first = last.replace(self.contenders[of].device) != Some(self.contenders[of].device);
            if !first {
                self.contenders[of].fail(&mut self.backoffs);
            }
            first
        });
    }

    /// Chooses what a contender sends first in its turn.
    fn start(&mut self, of: usize) -> Sending {
        let began = self.contenders[of].starts(self.timing.slot);
        let queue = self.contenders[of].next_queue(self.fair);
        self.contenders[of].last_queue = queue;
        let queue_of = &self.contenders[of].queues[queue];
        let (frames, exchange) = if queue_of.asks {
            (Vec::new(), queue_of.radio.request())
        } else {
            let left = queue_of.radio.first_left();
            // One frame may last longer than the limit of a turn.
            let (frames, aggregate) = queue_of.gather(left).unwrap_or_else(|| queue_of.gather_one());
            (frames, queue_of.radio.exchange(aggregate, true))
        };
        Sending { from: (of, queue), frames, turn_began: began, began, exchange }
    }

    /// Counts time on the channel.
    fn spend(&mut self, sending: &Sending, time: Nanos) {
        let contender = &mut self.contenders[sending.from.0];
        contender.queues[sending.from.1].airtime += time;
        self.busy[contender.device] += time;
    }

    /// The data of a turn has been sent: some of its frames came through, unless all were damaged.
    fn end_data(&mut self, now: Nanos, sending: Sending) {
        let queue = &mut self.contenders[sending.from.0].queues[sending.from.1];
        let (mut answered, timeout) = (sending.frames.is_empty(), queue.radio.timing.reply_timeout());
        for &index in &sending.frames {
            let failed = self.errors.happens(queue.radio.retry);
            queue.frames[index].sent(!failed, queue.radio.limits.transmissions);
            answered |= !failed;
        }
        queue.asks = !answered && sending.frames.len() > 1;
        self.hand_out(sending.from);
        if answered {
            let ends = now + sending.exchange.reply;
            self.on_air = Some(OnAir { ends, what: Transmission::Reply(sending) });
            return;
        }
        self.contenders[sending.from.0].fail(&mut self.backoffs);
        let noticed = now + timeout;
        self.release(now + self.timing.after_error, &[(sending.from.0, noticed)]);
    }

    /// An exchange is over: the turn goes on while its limit allows, or it ends.
    fn end_exchange(&mut self, now: Nanos, sending: &Sending) {
        let used = now - sending.turn_began;
        let queue = &self.contenders[sending.from.0].queues[sending.from.1];
        let began = now + self.timing.sifs;
        if let Some((frames, aggregate)) = queue.radio.left(used).and_then(|left| queue.gather(Some(left))) {
            let exchange = queue.radio.exchange(aggregate, false);
            let next = Sending { frames, began, exchange, ..sending.clone() };
            self.spend(&next, exchange.time());
            self.on_air = Some(OnAir { ends: next.data_ends(), what: Transmission::Data(next) });
            return;
        }
        let (sender, closing) = (sending.from.0, queue.radio.closing(used));
        self.contenders[sender].succeed(&mut self.backoffs);
        if closing.time == 0 {
            return self.end_turn(now, sender, closing.reserved);
        }
        self.spend(sending, closing.time);
        let what = Transmission::Closing { sender, reserved: closing.reserved };
        self.on_air = Some(OnAir { ends: now + closing.time, what });
    }

    fn end_turn(&mut self, now: Nanos, sender: usize, reserved: Nanos) {
        self.release(now + reserved, &[(sender, now)]);
    }

    /// A collision is over: who was in it has waited for a reply in vain.
    fn end_collision(&mut self, now: Nanos, senders: Vec<Sending>) {
        let mut idle = Vec::new();
        for sending in senders {
            let contender = &mut self.contenders[sending.from.0];
            let queue = &mut contender.queues[sending.from.1];
            for &index in &sending.frames {
                queue.frames[index].sent(false, queue.radio.limits.transmissions);
            }
            // With RTS no data has been sent that could have arrived.
            queue.asks |= sending.frames.len() > 1 && sending.exchange.before == 0;
            // The sender of a shorter frame waits for the end of the longer one, which it has not heard begin.
            let noticed = sending.exposed_ends() + queue.radio.timing.reply_timeout();
            contender.fail(&mut self.backoffs);
            idle.push((sending.from.0, noticed.max(now)));
            self.hand_out(sending.from);
        }
        self.release(now + self.timing.after_error, &idle);
    }

    /// Leaves the channel idle: for these contenders from the times given, for all others from `others`.
    fn release(&mut self, others: Nanos, senders: &[(usize, Nanos)]) {
        for (of, contender) in self.contenders.iter_mut().enumerate() {
            let own = senders.iter().find(|sender| sender.0 == of).map(|sender| sender.1);
            let space = contender.queues[0].radio.access.interframe_space(&self.timing);
            contender.counts_from = own.unwrap_or(others) + space;
        }
    }

    /// Hands out the frames at the head of a queue that are done; what is behind a frame that must be sent
    /// again waits for it, so that order is kept.
    fn hand_out(&mut self, from: QueuePosition) {
        let frames = &mut self.contenders[from.0].queues[from.1].frames;
        let done = frames.iter().take_while(|frame| frame.fate != Fate::Waiting).count();
        self.outcomes.extend(frames.drain(..done).map(|frame| FrameOutcome {
            item: frame.item,
            from,
            delivered: frame.fate == Fate::Delivered,
        }));
    }
}

impl<T> QueuedFrame<T> {
    /// Notes a transmission, after which the frame has arrived, is lost, or is to be sent again.
    fn sent(&mut self, arrived: bool, most: u32) {
        self.transmissions += 1;
        if arrived {
            self.fate = Fate::Delivered;
        } else if self.transmissions >= most {
            self.fate = Fate::Lost;
        }
    }
}

impl<T> TransmitQueue<T> {
    /// Which frames go in one PPDU within the time that is left; none where not even one fits.
    fn gather(&self, left: Option<Nanos>) -> Option<(Vec<usize>, Aggregate)> {
        let (mut chosen, mut aggregate) = (Vec::new(), Aggregate::default());
        // A block ack tells of so many frames from the first that is to be sent again.
        for (index, frame) in self.frames.iter().take(BLOCK_ACK_WINDOW as usize).enumerate() {
            if frame.fate == Fate::Waiting {
                let Some(more) = self.radio.extend(aggregate, frame.bytes, left) else { break };
                aggregate = more;
                chosen.push(index);
            }
        }
        (!chosen.is_empty()).then_some((chosen, aggregate))
    }

    /// The first frame alone, whatever its size.
    fn gather_one(&self) -> (Vec<usize>, Aggregate) {
        let first = self.frames.front().expect("a queue with a turn has something to send");
        let alone = self.radio.extend(Aggregate::default(), first.bytes, None);
        (vec![0], alone.expect("without a limit a frame fits"))
    }
}

impl<T> Contender<T> {
    fn new(device: usize) -> Contender<T> {
        Contender {
            device,
            queues: Vec::new(),
            last_queue: 0,
            failures: 0,
            counts_from: 0,
            slots: 0,
            rested: true,
        }
    }

    fn has_work(&self) -> bool {
        self.queues.iter().any(|queue| !queue.frames.is_empty())
    }

    /// When its counter ends if the channel stays idle.
    fn starts(&self, slot: Nanos) -> Nanos {
        self.counts_from + Nanos::from(self.slots) * slot
    }

    /// Stops the counter, since the channel is busy from now on.
    fn freeze(&mut self, now: Nanos, slot: Nanos) {
        // DCF counts at the end of an idle slot, EDCA at its beginning, so also where a turn begins (10.23.2.4).
        let ahead = Nanos::from(self.queues[0].radio.access.qos);
        let counted = now.checked_sub(self.counts_from).map_or(0, |idle| idle / slot + ahead);
        let left = Nanos::from(self.slots).saturating_sub(counted);
        self.rested = left == 0 && !self.has_work();
        self.slots = left as u32;
    }

    fn draw(&mut self, backoffs: &mut Stream) {
        let window = self.queues[0].radio.access.window(self.failures);
        self.slots = backoffs.below(window as usize + 1) as u32;
    }

    fn succeed(&mut self, backoffs: &mut Stream) {
        self.failures = 0;
        self.draw(backoffs);
    }

    /// Doubles the window, or takes the least one again where the limit of transmissions is reached.
    fn fail(&mut self, backoffs: &mut Stream) {
        self.failures += 1;
        if self.failures >= self.queues[0].radio.limits.transmissions {
            self.failures = 0;
        }
        self.draw(backoffs);
    }

    /// The queue that the next turn serves; there must be one with something to send.
    fn next_queue(&mut self, fair: Fair) -> usize {
        let count = self.queues.len();
        let working = |index: &usize| !self.queues[*index].frames.is_empty();
        let in_turn = (1..=count).map(|step| (self.last_queue + step) % count).filter(working);
        let chosen = match fair {
            Fair::Turns => in_turn.into_iter().next(),
            // The first of those with the least, so that equals still take turns.
            Fair::Airtime => in_turn.min_by_key(|&index| self.queues[index].airtime),
        }
        .expect("a contender with a turn has something to send");
        // A queue that had nothing to send saves nothing up: it is counted from where the least is.
        let least = self.queues[chosen].airtime;
        for queue in self.queues.iter_mut().filter(|queue| queue.frames.is_empty()) {
            queue.airtime = queue.airtime.max(least);
        }
        chosen
    }
}
