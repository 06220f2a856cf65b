//! One link's way down as a fluid: a bottleneck with a queue, and a delay behind it. Pure; time is
//! handed in, in seconds, and must not run backwards.
//!
//! What comes in are trains, any number of full segments sent at once. A train is served at the rate
//! in force, whatever that becomes while it is served; what finds the queue full is lost, and of the
//! rest each segment meets the link's own loss process ([`LossProcess`]), the one that the shaper of
//! the lab draws from. Jitter, reordering, duplicates and damage are left out.

use std::collections::VecDeque;

use crate::bound;
use crate::link::chance::{LossProcess, Purpose, Stream};
use crate::link::profile::{Loss, Profile};
use crate::units::{Direction, LinkId};

/// What a link is from a time (s) on: another profile, whose traces begin then.
#[derive(Clone, Debug)]
pub struct Stage {
    pub from_s: f64,
    pub profile: Profile,
}

/// What is in force at a moment.
struct Force {
    /// Down, in bytes a second; 0 in an outage.
    rate: f64,
    delay_s: f64,
    loss: Loss,
    /// Until when (s); infinite for good.
    until_s: f64,
}

/// A link's way down.
#[derive(Clone, Debug)]
pub struct Pipe {
    /// The first from time 0 on; ascending.
    stages: Vec<Stage>,
    free_at_s: f64,
    /// When what waits or is served will be through, and its bytes of frames.
    queue: VecDeque<(f64, f64)>,
    queued_bytes: f64,
    /// The latest arrival so far: a shorter delay does not let what is sent later overtake.
    last_arrival_s: f64,
    loss: LossProcess,
    loss_in_force: Loss,
    share: f64,
    mss: f64,
}

/// What became of a train.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Passed {
    /// Payload that arrives, and payload that was lost.
    pub arrived: u64,
    pub lost: u64,
    /// When the last of it arrives (s); infinite if it never does.
    pub at_s: f64,
}

impl Pipe {
    /// A way down whose frames carry `mss` bytes of payload.
    pub fn new(link: LinkId, stages: Vec<Stage>, mss: f64, seed: u64) -> Pipe {
        let down = &stages[0].profile.down;
        Pipe {
            loss: LossProcess::new(down, Stream::new(seed, link, Direction::Down, Purpose::Loss)),
            loss_in_force: down.loss,
            stages,
            free_at_s: 0.0,
            queue: VecDeque::new(),
            queued_bytes: 0.0,
            last_arrival_s: 0.0,
            share: bound::payload_share(mss, false),
            mss,
        }
    }

    /// The profile in force, since when (s), and when the next one is.
    fn stage(&self, now_s: f64) -> (&Profile, f64, f64) {
        let next = self.stages.partition_point(|stage| stage.from_s <= now_s).max(1);
        let until_s = self.stages.get(next).map_or(f64::INFINITY, |stage| stage.from_s);
        (&self.stages[next - 1].profile, self.stages[next - 1].from_s, until_s)
    }

    fn in_force(&self, now_s: f64) -> Force {
        let (profile, from_s, until_s) = self.stage(now_s);
        let down = &profile.down;
        let (rate, delay_s) = (down.rate.bytes_per_s(), down.delay.0.as_secs_f64());
        let Some(trace) = &down.trace else { return Force { rate, delay_s, loss: down.loss, until_s } };
        // Rounding makes the end of a step, which this gave as seconds before, its end again.
        let moment = trace.at(((now_s - from_s) * 1e9).round().max(0.0) as u64);
        let ends_s =
            if moment.until == u64::MAX { f64::INFINITY } else { from_s + moment.until as f64 / 1e9 };
        let shape = down.during(&moment.step);
        Force {
            rate: shape.rate.bytes_per_s(),
            delay_s: shape.delay.0.as_secs_f64(),
            loss: shape.loss,
            until_s: until_s.min(ends_s),
        }
    }

    /// When `bytes` are through that are begun at `from_s`; infinite if never.
    pub fn through_s(&self, from_s: f64, bytes: f64) -> f64 {
        let (mut now_s, mut left) = (from_s, bytes);
        while now_s.is_finite() {
            let force = self.in_force(now_s);
            if left <= force.rate * (force.until_s - now_s) {
                return now_s + left / force.rate;
            }
            left -= if force.rate > 0.0 { force.rate * (force.until_s - now_s) } else { 0.0 };
            now_s = force.until_s;
        }
        f64::INFINITY
    }

    /// How long a frame of `bytes` takes up to the server on an idle way (s), at the profile's rate.
    pub fn up_s(&self, now_s: f64, bytes: f64) -> f64 {
        let (profile, ..) = self.stage(now_s);
        profile.up.delay.0.as_secs_f64() + bytes / profile.up.rate.bytes_per_s()
    }

    /// How many bytes wait at most.
    fn queue_bytes(&self, now_s: f64) -> f64 {
        let (profile, ..) = self.stage(now_s);
        profile.down.queue_bytes() as f64
    }

    /// Sends a train of `payload` bytes.
    pub fn pass(&mut self, now_s: f64, payload: u64) -> Passed {
        let force = self.in_force(now_s);
        if force.loss != self.loss_in_force {
            self.loss.change(force.loss);
            self.loss_in_force = force.loss;
        }
        while let Some((_, bytes)) = self.queue.front().filter(|train| train.0 <= now_s) {
            self.queued_bytes -= bytes;
            self.queue.pop_front();
        }
        let segments = (payload as f64 / self.mss).ceil();
        // A bottleneck that is idle takes a segment, however small its queue.
        let least = if self.queue.is_empty() { self.mss / self.share } else { 0.0 };
        let room = (self.queue_bytes(now_s) - self.queued_bytes).max(least);
        let fits = (room * self.share / self.mss).floor().min(segments).max(0.0) as u64;
        let mut lost = payload.saturating_sub((fits as f64 * self.mss).round() as u64);
        let mut arrived = payload - lost;
        let frame = (self.mss / self.share).round() as u32;
        for _ in 0..fits {
            if self.loss.loses_next((now_s * 1e9) as u64, frame) {
                let bytes = arrived.min(self.mss as u64);
                lost += bytes;
                arrived -= bytes;
            }
        }
        let frames = arrived as f64 / self.share;
        self.free_at_s = self.through_s(self.free_at_s.max(now_s), frames);
        if arrived > 0 {
            self.queue.push_back((self.free_at_s, frames));
            self.queued_bytes += frames;
        }
        self.last_arrival_s = self.last_arrival_s.max(self.free_at_s + force.delay_s);
        Passed { arrived, lost, at_s: self.last_arrival_s }
    }
}
