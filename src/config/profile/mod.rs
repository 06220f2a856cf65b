//! Link profiles: the content of a `.toml` file in `netem/profiles`, and which values are valid.
//!
//! [`load`] finds and reads the files. This module knows nothing of tc, packets or the kernel.

pub mod load;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::trace::{Trace, TraceStep};
use super::traffic::Cross;
use crate::units::{ByteCount, Delay, Percent, Rate};

/// Both directions of a link, as a profile file describes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The name that it was asked for by. It travels over the control socket, but is no key of a file.
    #[serde(default)]
    pub name: String,
    pub description: String,
    pub down: Shape,
    pub up: Shape,
}

/// One direction of a link: a bottleneck with a queue, and a delay before or behind it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// In Ethernet frames (IP length + 14 bytes).
    pub rate: Rate,
    /// One way, on an idle link.
    #[serde(default)]
    pub delay: Delay,
    #[serde(default)]
    pub jitter: Delay,
    /// The correlation time of the jitter: 5 times the jitter by default, which keeps mean and spread at any
    /// load. At 0 each packet draws anew, as with netem; since order is kept, the delay on a busy link then
    /// stays near its upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<Delay>,
    /// The distribution of the jitter; uniform by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distribution: Option<Distribution>,
    #[serde(default)]
    pub loss: Loss,
    pub queue: Queue,
    /// Traffic of others through the same queue, from when a trace would be played.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cross: Option<Cross>,
    /// The share of packets that skip the delay, and so overtake others.
    #[serde(default)]
    pub reorder: Percent,
    #[serde(default)]
    pub duplicate: Percent,
    #[serde(default)]
    pub corrupt: Percent,
    /// The rate over time, with delay and loss where the trace has them. Before it is played the values above
    /// are in force. The queue is measured by the greatest rate of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Arc<Trace>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    Uniform,
    Normal,
    Pareto,
    ParetoNormal,
}

/// How packets get lost, apart from a full queue.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Loss {
    /// Each packet by itself with this probability.
    Random(Percent),
    GilbertElliott(GilbertElliott),
}

impl Default for Loss {
    fn default() -> Self {
        Loss::Random(Percent::ZERO)
    }
}

impl Loss {
    /// The share of packets lost in the long run.
    pub fn mean(self) -> Percent {
        match self {
            Loss::Random(share) => share,
            Loss::GilbertElliott(ge) => ge.mean(),
        }
    }
}

// By hand: an untagged enum would answer every mistake with "did not match any variant".
impl<'de> Deserialize<'de> for Loss {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ProfileVisitor;
        impl<'de> serde::de::Visitor<'de> for ProfileVisitor {
            type Value = Loss;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a percentage such as \"1%\" or a table such as { p = \"0.1%\", r = \"20%\" }")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Loss, E> {
                text.parse().map(Loss::Random).map_err(E::custom)
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Loss, A::Error> {
                GilbertElliott::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    .map(Loss::GilbertElliott)
            }
        }
        deserializer.deserialize_any(ProfileVisitor)
    }
}

/// Bursty loss: a two-state Markov chain (Gilbert 1960, Elliott 1963) that steps once in the time that
/// a full frame takes at the profile's rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GilbertElliott {
    /// From the good state to the bad one, per step.
    pub p: Percent,
    /// From the bad state back to the good one, per step.
    pub r: Percent,
    /// Probability of loss in the bad state.
    #[serde(default = "all")]
    pub bad: Percent,
    /// Probability of loss in the good state.
    #[serde(default)]
    pub good: Percent,
}

impl GilbertElliott {
    /// Probability of the bad state so many steps later: π + (now − π) (1 − p − r)ⁿ with π = p / (p + r),
    /// the n-step transition of a two-state chain.
    pub fn bad_after(self, in_bad: bool, steps: u64) -> f64 {
        let (p, r) = (self.p.probability(), self.r.probability());
        let now = f64::from(u8::from(in_bad));
        if p + r == 0.0 {
            return now;
        }
        let settled = p / (p + r);
        settled + (now - settled) * (1.0 - p - r).powi(i32::try_from(steps).unwrap_or(i32::MAX - 1))
    }

    /// The share of packets lost in the long run: the chain is in the bad state p / (p + r) of the time.
    pub fn mean(self) -> Percent {
        let (p, r) = (self.p.probability(), self.r.probability());
        if p + r == 0.0 {
            return self.good;
        }
        let in_bad = p / (p + r);
        Percent::new(100.0 * (in_bad * self.bad.probability() + (1.0 - in_bad) * self.good.probability()))
    }
}

fn all() -> Percent {
    Percent::new(100.0)
}

/// How much a bottleneck holds before it drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// As long as these bytes take at the rate.
    Time(Delay),
    Packets(u32),
    CoDel(CoDelQueue),
}

/// A queue that drops before it is full, so that packets wait for about `target`: CoDel (RFC 8289), or a queue
/// for each flow with CoDel in it (FQ-CoDel, RFC 8290).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoDelQueue {
    pub kind: CoDelKind,
    /// The queue that is full whatever CoDel says, in time at the rate.
    pub limit: Delay,
    /// Packets may wait so long.
    #[serde(default = "usual_target")]
    pub target: Delay,
    /// For so long packets must have waited longer before the first is dropped: about a round trip.
    #[serde(default = "usual_interval")]
    pub interval: Delay,
    /// Marks packets whose sender understands it, in place of dropping them (RFC 3168).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ecn: bool,
    /// The queues that flows are spread over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    flows: Option<u32>,
    /// The bytes (frames) that a flow may send in its turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quantum: Option<ByteCount>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CoDelKind {
    #[serde(rename = "codel")]
    CoDel,
    #[serde(rename = "fq_codel")]
    FqCoDel,
}

/// The most queues of flows.
const MOST_FLOWS: u32 = 65_536;

/// RFC 8289, 4.2 and 4.3.
fn usual_target() -> Delay {
    Delay::from_millis(5)
}

fn usual_interval() -> Delay {
    Delay::from_millis(100)
}

impl CoDelQueue {
    /// With the usual target and interval.
    pub fn new(kind: CoDelKind, limit: Delay) -> CoDelQueue {
        let (target, interval) = (usual_target(), usual_interval());
        CoDelQueue { kind, limit, target, interval, ecn: false, flows: None, quantum: None }
    }

    /// The number of its queues: RFC 8290's 1024 (5.2.6) if not said, and one for CoDel alone.
    pub fn flows(&self) -> usize {
        match self.kind {
            CoDelKind::CoDel => 1,
            CoDelKind::FqCoDel => self.flows.unwrap_or(1024) as usize,
        }
    }

    /// A turn's bytes: a full frame if not said (RFC 8290, 5.2.4).
    pub fn quantum_bytes(&self) -> u64 {
        self.quantum.map_or(FRAME, |quantum| quantum.0)
    }

    fn check(&self) -> Result<(), String> {
        if self.limit > LONGEST || self.interval > LONGEST {
            return Err(format!("queue: limit and interval are at most {LONGEST}"));
        }
        if self.target.is_zero() || self.target > self.interval {
            let target = self.target;
            return Err(format!("queue.target: {target} is out of range: more than 0, at most the interval"));
        }
        if self.limit <= self.target {
            return Err(format!("queue.limit: {} is not above the target: give a longer one", self.limit));
        }
        if self.kind == CoDelKind::CoDel && (self.flows.is_some() || self.quantum.is_some()) {
            return Err(
                "queue: codel has one queue for all: flows and quantum are for kind = \"fq_codel\"".into()
            );
        }
        if self.flows.is_some_and(|flows| flows == 0 || flows > MOST_FLOWS) {
            return Err(format!("queue.flows: {} is out of range: 1 to {MOST_FLOWS}", self.flows()));
        }
        if !(64..=1 << 20).contains(&self.quantum_bytes()) {
            return Err(format!("queue.quantum: {}B is out of range: 64B to 1MiB", self.quantum_bytes()));
        }
        Ok(())
    }
}

impl std::str::FromStr for Queue {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let text = s.trim();
        if let Some(count) = text.strip_suffix("packets").or_else(|| text.strip_suffix('p')) {
            return match count.trim().parse() {
                Ok(0) | Err(_) => {
                    Err(format!("\"{s}\" is not a queue: write 1p or more, or a time as in \"100ms\""))
                }
                Ok(packets) => Ok(Queue::Packets(packets)),
            };
        }
        let time: Delay = s.parse()?;
        if time.is_zero() {
            return Err(format!("\"{s}\" is a queue that holds nothing: give it some time, as in \"100ms\""));
        }
        Ok(Queue::Time(time))
    }
}

impl std::fmt::Display for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Queue::Time(time) => time.fmt(f),
            Queue::Packets(packets) => write!(f, "{packets}p"),
            Queue::CoDel(codel) => {
                write!(f, "{} {} of {}", self.kind(), codel.target, codel.limit)?;
                f.write_str(if codel.ecn { " with ECN" } else { "" })
            }
        }
    }
}

impl Queue {
    /// The name of the rule by which it drops, as the log has it.
    pub fn kind(&self) -> &'static str {
        match self {
            Queue::Time(_) | Queue::Packets(_) => "droptail",
            Queue::CoDel(codel) if codel.kind == CoDelKind::CoDel => "codel",
            Queue::CoDel(_) => "fq_codel",
        }
    }
}

impl Serialize for Queue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Queue::CoDel(codel) => codel.serialize(serializer),
            _ => serializer.collect_str(self),
        }
    }
}

// By hand, as for losses.
impl<'de> Deserialize<'de> for Queue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct QueueVisitor;
        impl<'de> serde::de::Visitor<'de> for QueueVisitor {
            type Value = Queue;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str(
                    "a queue such as \"100ms\" or a table such as { kind = \"codel\", limit = \"100ms\" }",
                )
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Queue, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Queue, A::Error> {
                CoDelQueue::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Queue::CoDel)
            }
        }
        deserializer.deserialize_any(QueueVisitor)
    }
}

/// The length of a full Ethernet frame at MTU 1500, in bytes: what a queue's packets are counted in.
pub const FRAME: u64 = 1514;

/// The slowest and the fastest rate that a profile may ask for. Below the first a full frame takes
/// more than a second and a half; the second is what netem's own rate has to stay above.
const RATES: (Rate, Rate) = (Rate::from_bits_per_s(8_000), Rate::from_bits_per_s(10_000_000_000));

/// The longest delay and the longest queue.
const LONGEST: Delay = Delay(Duration::from_secs(60));

/// The largest queue in packets.
const MOST_PACKETS: u32 = 1_000_000;

impl Profile {
    /// Says what is wrong with the values, if anything, each line starting with its key.
    pub fn check(&self) -> Result<(), String> {
        self.down.check().map_err(|problem| format!("down.{problem}"))?;
        self.up.check().map_err(|problem| format!("up.{problem}"))
    }

    pub fn has_trace(&self) -> bool {
        self.down.trace.is_some() || self.up.trace.is_some()
    }

    pub fn shape(&self, direction: crate::units::Direction) -> &Shape {
        match direction {
            crate::units::Direction::Down => &self.down,
            crate::units::Direction::Up => &self.up,
        }
    }
}

impl Shape {
    /// A rate and a queue and nothing else.
    pub fn plain(rate: Rate, queue: Queue) -> Shape {
        Shape {
            rate,
            delay: Delay::ZERO,
            jitter: Delay::ZERO,
            correlation: None,
            distribution: None,
            loss: Loss::default(),
            queue,
            cross: None,
            reorder: Percent::ZERO,
            duplicate: Percent::ZERO,
            corrupt: Percent::ZERO,
            trace: None,
        }
    }

    /// How long the jitter takes to become another; 0 where each packet draws anew.
    pub fn jitter_correlation(&self) -> Duration {
        self.correlation.map_or(self.jitter.0 * 5, |time| time.0)
    }

    /// Whether this is a rate and a queue and nothing else, so that tbf alone can do it.
    pub fn is_rate_only(&self) -> bool {
        !matches!(self.queue, Queue::CoDel(_))
            && self.cross.is_none()
            && self.delay.is_zero()
            && self.jitter.is_zero()
            && self.loss.mean().is_zero()
            && self.reorder.is_zero()
            && self.duplicate.is_zero()
            && self.corrupt.is_zero()
            && self.trace.as_ref().is_none_or(|trace| !trace.changes_delay() && !trace.changes_loss())
    }

    /// Whether packets can get lost, apart from a full queue, at any time of its trace.
    pub fn can_lose(&self) -> bool {
        let steps = self.trace.iter().flat_map(|trace| trace.steps());
        !self.loss.mean().is_zero() || steps.filter_map(|step| step.loss).any(|loss| !loss.is_zero())
    }

    /// The shape with a step of its trace in force. An outage has a rate of 0, which no profile has.
    pub fn during(&self, step: &TraceStep) -> Shape {
        Shape {
            rate: step.rate,
            delay: step.delay.unwrap_or(self.delay),
            // No packet can arrive before it was sent.
            jitter: self.jitter.min(step.delay.unwrap_or(self.delay)),
            loss: step.loss.map_or(self.loss, Loss::Random),
            ..self.clone()
        }
    }

    /// The fastest rate that it can have.
    pub fn greatest_rate(&self) -> Rate {
        let steps = self.trace.iter().flat_map(|trace| trace.steps());
        steps.map(|step| step.rate).fold(self.rate, Rate::max)
    }

    /// The longest delay that it can have, one way.
    pub fn greatest_delay(&self) -> Delay {
        self.trace.as_ref().and_then(|trace| trace.greatest_delay()).map_or(self.delay, |d| d.max(self.delay))
    }

    /// The full frames that a direction holds at most, its delay line included: greatest rate × (delay
    /// + queue).
    pub fn held_packets(&self) -> u64 {
        let frames = |seconds: f64| self.greatest_rate().bytes_per_s() * seconds / FRAME as f64;
        // A trace's delay line must hold what its longest delay holds.
        let delay = self.greatest_delay().0.as_secs_f64();
        let limit = match self.queue {
            Queue::Time(time) => frames(delay + time.0.as_secs_f64()).ceil() as u64,
            Queue::CoDel(codel) => frames(delay + codel.limit.0.as_secs_f64()).ceil() as u64,
            Queue::Packets(packets) => frames(delay).ceil() as u64 + u64::from(packets),
        };
        // With one place the bottleneck would stand idle while the next packet comes.
        limit.clamp(2, u64::from(u32::MAX))
    }

    /// The same without its trace's steps, where they would only take up room.
    pub fn without_trace(&self) -> Shape {
        Shape { trace: None, ..self.clone() }
    }

    /// The bytes that wait at the bottleneck at most: the queue at the greatest rate, and never less
    /// than one frame.
    pub fn queue_bytes(&self) -> u64 {
        let in_time =
            |time: Delay| (self.greatest_rate().bytes_per_s() * time.0.as_secs_f64()).round() as u64;
        let bytes = match self.queue {
            Queue::Time(time) => in_time(time),
            Queue::CoDel(codel) => in_time(codel.limit),
            Queue::Packets(packets) => u64::from(packets) * FRAME,
        };
        bytes.max(FRAME)
    }

    /// How long a full queue takes to drain at the rate.
    pub fn queue_time(&self) -> Duration {
        match self.queue {
            Queue::Time(time) => time.0,
            Queue::CoDel(codel) => codel.limit.0,
            Queue::Packets(packets) => self.rate.time_for(u64::from(packets) * FRAME),
        }
    }

    /// Checks that the values are such as a link may have.
    ///
    /// # Errors
    /// One is not; the error begins with its key.
    pub fn check(&self) -> Result<(), String> {
        if let Some(trace) = &self.trace {
            trace.check(LONGEST).map_err(|problem| format!("trace: {problem}"))?;
        }
        let (slowest, fastest) = RATES;
        if self.rate < slowest || self.rate > fastest {
            return Err(format!("rate: {} is out of range: {slowest} to {fastest}", self.rate));
        }
        if self.delay > LONGEST {
            return Err(format!("delay: {} is out of range: at most {LONGEST}", self.delay));
        }
        if self.jitter > self.delay {
            return Err(format!(
                "jitter: {} is more than the delay of {}: no packet can arrive before it was sent",
                self.jitter, self.delay
            ));
        }
        if self.distribution.is_some() && self.jitter.is_zero() {
            return Err("distribution: the jitter is 0: give a jitter".into());
        }
        if let Some(correlation) = self.correlation {
            if self.jitter.is_zero() {
                return Err("correlation: the jitter is 0: give a jitter".into());
            }
            if correlation > LONGEST {
                return Err(format!("correlation: {correlation} is out of range: at most {LONGEST}"));
            }
        }
        match self.queue {
            Queue::Time(time) if time > LONGEST => {
                return Err(format!("queue: {time} is out of range: at most {LONGEST}"));
            }
            Queue::CoDel(codel) => codel.check()?,
            Queue::Packets(packets) if packets > MOST_PACKETS => {
                return Err(format!("queue: {packets}p is out of range: at most {MOST_PACKETS}p"));
            }
            _ => {}
        }
        if let Some(Cross::Datagrams(cross)) = self.cross
            && cross >= self.rate
        {
            return Err(format!("cross: {cross} leaves nothing of {}: less than the rate", self.rate));
        }
        if self.held_packets() > u64::from(MOST_PACKETS) {
            return Err(format!(
                "queue: with the delay it holds {} full frames at the greatest rate of {}, and no backend holds \
                 more than {MOST_PACKETS}: give a shorter queue or delay, or a lower rate",
                self.held_packets(),
                self.greatest_rate()
            ));
        }
        if !self.reorder.is_zero() && self.delay.is_zero() {
            return Err("reorder: a packet overtakes by skipping the delay: give a delay".into());
        }
        for (key, share) in [("reorder", self.reorder), ("corrupt", self.corrupt)] {
            if share.percent() >= 100.0 {
                return Err(format!("{key}: {share} leaves no packet as it was: less than 100%"));
            }
        }
        self.check_loss()
    }

    fn check_loss(&self) -> Result<(), String> {
        if let Loss::GilbertElliott(ge) = self.loss
            && ge.r.is_zero()
            && !ge.p.is_zero()
        {
            return Err("loss.r: 0% never leaves the bad state: more than 0%".into());
        }
        let mean = self.loss.mean();
        if mean.percent() >= 100.0 {
            return Err(format!("loss: {mean} lets nothing pass: less than 100%"));
        }
        Ok(())
    }
}
