//! From a shape to the lines that `tc -batch` and `ip -batch` take. Pure: nothing here runs anything.
//!
//! Each link and direction is one ifb device: `tbf` at its root is the bottleneck, and `netem`, its
//! child, delays and loses. Packets come there by a redirect from the lab's interface. Why the values
//! are as they are is told where they are computed.

use std::net::IpAddr;

use crate::config::profile::{CoDelKind, Distribution, FRAME, Loss, Queue, Shape};
use crate::config::trace;
use crate::config::trace::TraceStep;
use crate::units::{Direction, LinkId, Rate};

/// One direction of a link, as far as its packets and its device are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceDirection {
    pub link: LinkId,
    pub direction: Direction,
    /// The interface that leads to the server.
    pub dev: String,
    /// The server's address; text, since a plan may have a placeholder.
    pub server: String,
    pub ipv6: bool,
}

impl DeviceDirection {
    pub(crate) fn new(link: LinkId, direction: Direction, dev: &str, server: IpAddr) -> DeviceDirection {
        // An IPv4 server on an IPv6 socket is still sent IPv4 packets.
        let server = server.to_canonical();
        DeviceDirection {
            link,
            direction,
            dev: dev.into(),
            server: server.to_string(),
            ipv6: server.is_ipv6(),
        }
    }

    /// The name of the device that carries this direction.
    pub(crate) fn ifb(&self) -> String {
        ifb(self.link, self.direction)
    }

    fn hook(&self) -> &'static str {
        hook(self.direction)
    }
}

pub(crate) fn ifb(link: LinkId, direction: Direction) -> String {
    format!("{IFB_PREFIX}{link}-{direction}")
}

/// The prefix of all the lab's devices.
pub(crate) const IFB_PREFIX: &str = "twl-";

/// The prefix of the devices for trials of the kernel; a process id follows.
pub(crate) const TRIAL_PREFIX: &str = "twl-p";

/// The link and direction that an ifb's name stands for.
pub(crate) fn ifb_meaning(name: &str) -> Option<(LinkId, Direction)> {
    LinkId::BOTH
        .into_iter()
        .flat_map(|link| Direction::BOTH.map(|direction| (link, direction)))
        .find(|(link, direction)| ifb(*link, *direction) == name)
}

/// Where packets of a direction are caught.
pub(crate) fn hook(direction: Direction) -> &'static str {
    match direction {
        Direction::Down => "ingress",
        Direction::Up => "egress",
    }
}

/// The preference of a direction's filter: high, so that others come first, and another at each hook,
/// since the kernel lists u32 filters of both hooks together where they are equal.
pub(crate) fn pref(link: LinkId, direction: Direction) -> u32 {
    44551 + 2 * link.index() as u32 + direction as u32
}

/// The qdisc below tbf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Child {
    /// tbf's own fifo, bounded in bytes: enough for a rate and a queue, on any kernel.
    Fifo,
    Netem,
}

impl Child {
    /// Returns the child that a shape needs when it is set up anew.
    pub(crate) fn needed_by(shape: &Shape) -> Child {
        if shape.is_rate_only() { Child::Fifo } else { Child::Netem }
    }
}

/// Returns the bucket of tbf (bytes): the bytes that it may send at once, and the largest packet that it
/// leaves whole.
///
/// 250 µs at the rate keeps fast links fast on slow machines. Below 3 028 bytes no packet of two segments
/// passes uncut, so 3 000 keeps packets at wire size. Random loss, reordering, duplication and corruption
/// need packets at wire size, so for these the small bucket holds up to 160 Mbit/s, where it still lasts 150
/// µs.
pub(crate) fn burst_bytes(shape: &Shape) -> u64 {
    let by_chance = [shape.loss.mean(), shape.reorder, shape.duplicate, shape.corrupt];
    if by_chance.iter().any(|share| !share.is_zero()) && shape.rate.bits_per_s() <= 160_000_000 {
        return 3_000;
    }
    ((shape.rate.bytes_per_s() * 250e-6) as u64).clamp(3_000, 16 * 1024)
}

/// The bytes that tbf's own fifo holds: the queue at the rate, and never less than one frame.
pub(crate) fn fifo_limit_bytes(shape: &Shape) -> u64 {
    // tbf keeps its limit in 32 bits.
    shape.queue_bytes().min(u64::from(u32::MAX))
}

/// The packets that netem holds. It delays before the bottleneck and its limit is the only one that
/// binds, so it must hold the delay line and the queue: greatest rate × (delay + queue) in full frames.
/// Smaller packets fill it sooner than the profile's queue ([`crate::shape::netem::difference`]).
pub(crate) fn netem_limit_packets(shape: &Shape) -> u64 {
    shape.held_packets()
}

/// netem's own rate, far above the bottleneck's: with a rate netem never lets a packet depart before
/// the one ahead of it, and so jitter and live changes of the delay keep the order.
pub(crate) fn netem_rate(shape: &Shape) -> &'static str {
    if shape.greatest_rate().bits_per_s() <= 1_000_000_000 { "10gbit" } else { "100gbit" }
}

/// Lines for `ip -batch` that make a direction's device. The alias comes before anything that could
/// send packets there, so that whatever exists can be told to be the lab's. An MTU below IPv6's least
/// keeps the kernel's own IPv6 from sending through the device; redirected packets do not heed it.
pub(crate) fn make_ifb(place: &DeviceDirection, alias: &str) -> Vec<String> {
    let ifb = place.ifb();
    vec![
        format!("link add dev {ifb} mtu 1279 type ifb"),
        set_alias(&ifb, alias),
        format!("link set dev {ifb} up"),
    ]
}

pub(crate) fn set_alias(ifb: &str, alias: &str) -> String {
    format!("link set dev {ifb} alias \"{alias}\"")
}

pub(crate) fn remove_ifb(ifb: &str) -> String {
    format!("link del dev {ifb}")
}

pub(crate) fn add_clsact(dev: &str) -> String {
    format!("qdisc add dev {dev} clsact")
}

pub(crate) fn remove_clsact(dev: &str) -> String {
    format!("qdisc del dev {dev} clsact")
}

/// The filter that sends a direction's packets to its ifb.
pub(crate) fn redirect(place: &DeviceDirection) -> String {
    let (protocol, family, prefix) = if place.ipv6 { ("ipv6", "ip6", 128) } else { ("ip", "ip", 32) };
    let side = match place.direction {
        Direction::Down => "src",
        Direction::Up => "dst",
    };
    format!(
        "filter add dev {} {} pref {} protocol {protocol} u32 match {family} {side} {}/{prefix} \
         action mirred egress redirect dev {}",
        place.dev,
        place.hook(),
        pref(place.link, place.direction),
        place.server,
        place.ifb()
    )
}

pub(crate) fn remove_redirect(dev: &str, link: LinkId, direction: Direction) -> String {
    format!("filter del dev {dev} {} pref {}", hook(direction), pref(link, direction))
}

/// The root of an ifb. `verb` is add or change; change keeps the child and what is queued, but
/// refills the bucket.
pub(crate) fn tbf(verb: &str, ifb: &str, shape: &Shape) -> String {
    format!(
        "qdisc {verb} dev {ifb} root handle 1: tbf rate {} burst {} limit {}",
        shape.rate,
        burst_bytes(shape),
        fifo_limit_bytes(shape)
    )
}

/// The least that tbf can be given: it has no rate of 0. A kilobit is one full packet in 12 s.
const OUTAGE: (&str, u64) = ("1kbit", 1_600);

/// tbf while a step of a trace is in force, for `lasts_s` seconds; the queue stays the profile's.
///
/// A change refills the bucket, which under load lets `burst` bytes pass that the rate does not know
/// of, but for the half packet on average that was in it. The rate is lower by as much, so that a busy
/// link carries the trace's bytes. An outage is a rate at which nothing that matters passes.
pub(crate) fn tbf_step(ifb: &str, nominal: &Shape, rate: Rate, lasts_s: f64) -> String {
    let limit = fifo_limit_bytes(nominal);
    let line = |rate: &str, burst: u64| {
        format!("qdisc change dev {ifb} root handle 1: tbf rate {rate} burst {burst} limit {limit}")
    };
    if trace::is_outage(rate) {
        return line(OUTAGE.0, OUTAGE.1);
    }
    let burst = burst_bytes(&Shape { rate, ..nominal.clone() });
    let refill = (burst - FRAME / 2) as f64 * 8.0 / lasts_s;
    let bits = (rate.bits_per_s() as f64 - refill).max(trace::RATES.0 as f64);
    line(&Rate::from_bits_per_s(bits as u64).to_string(), burst)
}

/// Whether tbf's bucket is small beside what a step carries, so that its refill can be made up for.
pub(crate) fn can_step(nominal: &Shape, rate: Rate, lasts_s: f64) -> bool {
    let burst = burst_bytes(&Shape { rate, ..nominal.clone() });
    trace::is_outage(rate) || burst as f64 * 4.0 <= rate.bytes_per_s() * lasts_s
}

/// netem while a step of a trace is in force. Its limit stays: a lower one would not evict.
pub(crate) fn netem_step(ifb: &str, nominal: &Shape, step: &TraceStep, seed: Option<u64>) -> String {
    let shape = Shape { rate: nominal.rate, ..nominal.during(step) };
    netem_limited("change", ifb, &shape, netem_limit_packets(nominal), seed)
}

/// tbf's child.
pub(crate) fn netem(verb: &str, ifb: &str, shape: &Shape, seed: Option<u64>) -> String {
    netem_limited(verb, ifb, shape, netem_limit_packets(shape), seed)
}

/// Every option is written, zeros included, because change keeps what a line leaves out.
fn netem_limited(verb: &str, ifb: &str, shape: &Shape, limit: u64, seed: Option<u64>) -> String {
    let mut line = format!(
        "qdisc {verb} dev {ifb} parent 1:1 handle 10: netem limit {limit} delay {} {}",
        shape.delay, shape.jitter
    );
    if !shape.jitter.is_zero() {
        // A table stays until another takes its place, hence the uniform one is named too.
        line += match shape.distribution {
            None | Some(Distribution::Uniform) => " distribution uniform",
            Some(Distribution::Normal) => " distribution normal",
            Some(Distribution::Pareto) => " distribution pareto",
            Some(Distribution::ParetoNormal) => " distribution paretonormal",
        };
    }
    line += &match shape.loss {
        Loss::Random(share) => format!(" loss random {share}"),
        Loss::GilbertElliott(ge) => format!(" loss gemodel {} {} {} {}", ge.p, ge.r, ge.bad, ge.good),
    };
    line += &format!(
        " duplicate {} corrupt {} reorder {} rate {}",
        shape.duplicate,
        shape.corrupt,
        shape.reorder,
        netem_rate(shape)
    );
    if let Some(seed) = seed {
        line += &format!(" seed {seed}");
    }
    line
}

/// The packets that a queue below netem holds.
pub(crate) fn managed_limit_packets(shape: &Shape) -> u64 {
    shape.queue_bytes().div_ceil(FRAME)
}

/// The queue below netem, which has done its delay by then, where it is one that drops before it is full.
fn managed(ifb: &str, shape: &Shape) -> Option<String> {
    let Queue::CoDel(queue) = shape.queue else { return None };
    let ecn = if queue.ecn { "ecn" } else { "noecn" };
    let mut line = format!(
        "qdisc add dev {ifb} parent 10:1 handle 20: {} limit {} target {} interval {} {ecn}",
        shape.queue.kind(),
        managed_limit_packets(shape),
        queue.target,
        queue.interval
    );
    if queue.kind == CoDelKind::FqCoDel {
        line += &format!(" flows {} quantum {}", queue.flows(), queue.quantum_bytes());
    }
    Some(line)
}

/// The qdiscs of a new ifb.
pub(crate) fn set_up(place: &DeviceDirection, shape: &Shape, child: Child, seed: Option<u64>) -> Vec<String> {
    let ifb = place.ifb();
    let mut lines = vec![tbf("add", &ifb, shape)];
    if child == Child::Netem {
        lines.push(netem("add", &ifb, shape, seed));
    }
    lines.extend(managed(&ifb, shape));
    lines
}

/// Returns the lines that turn one shape into another in place, and the child afterwards.
///
/// Queued packets stay, with two exceptions: netem taking the fifo's place drops those of the fifo, and another queue
/// below netem those of the one before.
pub(crate) fn change(
    ifb: &str,
    from: &Shape,
    child: Child,
    to: &Shape,
    seed: Option<u64>,
) -> (Vec<String>, Child) {
    let mut lines = Vec::new();
    let fifo_differs = child == Child::Fifo && fifo_limit_bytes(from) != fifo_limit_bytes(to);
    if from.rate != to.rate || fifo_differs {
        lines.push(tbf("change", ifb, to));
    }
    let child = match (child, Child::needed_by(to)) {
        (Child::Fifo, Child::Fifo) => return (lines, Child::Fifo),
        (Child::Fifo, Child::Netem) => {
            lines.push(netem("add", ifb, to, seed));
            Child::Netem
        }
        (Child::Netem, _) => {
            lines.push(netem("change", ifb, to, seed));
            Child::Netem
        }
    };
    let (before, after) = (managed(ifb, from), managed(ifb, to));
    if before != after {
        lines.extend(before.map(|_| format!("qdisc del dev {ifb} parent 10:1")));
        lines.extend(after);
    }
    (lines, child)
}

/// The seed of one direction: each has its own stream, and the same run has the same ones.
pub(crate) fn seed_of(seed: u64, link: LinkId, direction: Direction) -> u64 {
    seed.wrapping_mul(4).wrapping_add(link.index() as u64 * 2 + direction as u64)
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
