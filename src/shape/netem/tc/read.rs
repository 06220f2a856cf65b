//! Reads the lab's devices from `tc -j` and `ip -j`, and compares them with the request.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::render::{self, Child, IFB_PREFIX};
use super::run::{self, Tool};
use crate::config::profile::{CoDelKind, CoDelQueue, FRAME, GilbertElliott, Loss, Queue, Shape};
use crate::units::{Delay, Direction, LinkId, Percent, Rate};

/// The qdiscs of one ifb.
#[derive(Clone, Debug, Default)]
pub(crate) struct Qdiscs {
    pub tbf: Option<Value>,
    pub netem: Option<Value>,
    /// CoDel or fq_codel, below netem.
    pub managed: Option<Value>,
}

/// The qdiscs of every ifb of the lab, by device name: one call.
pub(crate) fn qdiscs() -> Result<BTreeMap<String, Qdiscs>> {
    Ok(sort(&run::json(Tool::Tc, &["-j", "qdisc", "show"])?))
}

fn sort(list: &Value) -> BTreeMap<String, Qdiscs> {
    let mut sorted: BTreeMap<String, Qdiscs> = BTreeMap::new();
    for qdisc in list.as_array().into_iter().flatten() {
        let dev = qdisc["dev"].as_str().unwrap_or_default();
        if !dev.starts_with(IFB_PREFIX) {
            continue;
        }
        let entry = sorted.entry(dev.to_string()).or_default();
        match qdisc["kind"].as_str() {
            Some("tbf") => entry.tbf = Some(qdisc.clone()),
            Some("netem") => entry.netem = Some(qdisc.clone()),
            Some("codel" | "fq_codel") => entry.managed = Some(qdisc.clone()),
            _ => {}
        }
    }
    sorted
}

impl Qdiscs {
    pub(crate) fn child(&self) -> Child {
        if self.netem.is_some() { Child::Netem } else { Child::Fifo }
    }

    /// Returns the kernel's report for the log: the qdiscs as tc prints them, without counters.
    pub(crate) fn report(&self) -> Value {
        let options = |qdisc: &Option<Value>| qdisc.as_ref().map(|q| q["options"].clone());
        let mut report = serde_json::json!({ "tbf": options(&self.tbf), "netem": options(&self.netem) });
        if let Some(managed) = &self.managed {
            report[managed["kind"].as_str().unwrap_or_default()] = managed["options"].clone();
        }
        report
    }

    pub(crate) fn rate(&self) -> Option<Rate> {
        let bytes = self.tbf.as_ref()?["options"]["rate"].as_u64()?;
        Some(Rate::from_bits_per_s(bytes * 8))
    }

    /// The shape that is in force, as far as the kernel tells: a distribution's name it does not.
    pub(crate) fn shape(&self) -> Option<Shape> {
        let rate = self.rate()?;
        let netem = self.netem.as_ref().map_or(&Value::Null, |netem| &netem["options"]);
        let seconds = |value: &Value| {
            let seconds = value.as_f64().unwrap_or_default().max(0.0);
            Delay(Duration::from_micros((seconds * 1e6).round() as u64))
        };
        let share = |value: &Value| Percent::new(value.as_f64().unwrap_or_default() * 100.0);
        let delay = seconds(&netem["delay"]["delay"]);
        let loss = match &netem["loss-gemodel"] {
            Value::Null => Loss::Random(share(&netem["loss-random"]["loss"])),
            ge => Loss::GilbertElliott(GilbertElliott {
                p: share(&ge["p"]),
                r: share(&ge["r"]),
                bad: share(&ge["1-h"]),
                good: share(&ge["1-k"]),
            }),
        };
        let queue = match netem["limit"].as_u64() {
            _ if self.managed.is_some() => Queue::CoDel(self.codel(rate)?),
            Some(limit) => {
                let line = rate.bytes_per_s() * delay.0.as_secs_f64() / FRAME as f64;
                Queue::Packets((limit as f64 - line).round().max(1.0) as u32)
            }
            // tbf tells its limit as the time beyond the bucket.
            None => {
                let options = &self.tbf.as_ref()?["options"];
                let beyond = options["lat"].as_f64().unwrap_or_default() / 1e6;
                let bucket = options["burst"].as_f64().unwrap_or_default() / rate.bytes_per_s();
                Queue::Time(Delay(Duration::from_micros(((beyond + bucket).max(0.0) * 1e6).round() as u64)))
            }
        };
        Some(Shape {
            delay,
            jitter: seconds(&netem["delay"]["jitter"]),
            loss,
            reorder: share(&netem["reorder"]["reorder"]),
            duplicate: share(&netem["duplicate"]["duplicate"]),
            corrupt: share(&netem["corrupt"]["corrupt"]),
            ..Shape::plain(rate, queue)
        })
    }

    /// The queue below netem.
    fn codel(&self, rate: Rate) -> Option<CoDelQueue> {
        let managed = self.managed.as_ref()?;
        let options = &managed["options"];
        let kind = if managed["kind"] == "codel" { CoDelKind::CoDel } else { CoDelKind::FqCoDel };
        let micros = |key: &str| Some(Delay(Duration::from_micros(options[key].as_u64()?)));
        let limit = Delay(rate.time_for(options["limit"].as_u64()? * FRAME));
        let mut queue = CoDelQueue::new(kind, limit);
        (queue.target, queue.interval) = (micros("target")?, micros("interval")?);
        queue.ecn = options["ecn"].as_bool().unwrap_or_default();
        Some(queue)
    }

    /// Compares the shape in force with the requested one, and returns the first difference, if any.
    pub(crate) fn differs_from(&self, asked: &Shape, child: Child) -> Option<String> {
        let Some(shape) = self.shape() else { return Some("no tbf".into()) };
        if self.child() != child {
            return Some(format!("tbf's child is {:?}, not {child:?}", self.child()));
        }
        let rate_off = shape.rate.bits_per_s().abs_diff(asked.rate.bits_per_s());
        // tc keeps rates in bytes per second.
        if rate_off > 8 {
            return Some(format!("rate {} instead of {}", shape.rate, asked.rate));
        }
        match &self.netem {
            None => fifo_difference(&shape, asked),
            Some(netem) => {
                let limit = netem["options"]["limit"].as_u64();
                let expected = render::netem_limit_packets(asked);
                if limit != Some(expected) {
                    return Some(format!("limit {limit:?} instead of {expected}"));
                }
                netem_difference(&shape, asked).or_else(|| self.managed_difference(asked))
            }
        }
    }
}

impl Qdiscs {
    fn managed_difference(&self, asked: &Shape) -> Option<String> {
        let (there, asked_queue) = match (&self.managed, asked.queue) {
            (None, Queue::Time(_) | Queue::Packets(_)) => return None,
            (Some(managed), Queue::CoDel(queue)) if managed["kind"] == asked.queue.kind() => (managed, queue),
            (there, _) => {
                let there = there.as_ref().map_or("none", |there| there["kind"].as_str().unwrap_or_default());
                return Some(format!("the queue {there} instead of {}", asked.queue.kind()));
            }
        };
        let options = &there["options"];
        // The kernel counts in 1.024 µs, and rounds down.
        let time = |key: &str, asked: Delay| {
            let off = options[key].as_u64().is_none_or(|there| there.abs_diff(asked.micros()) > 2);
            off.then(|| format!("{key} {} µs instead of {asked}", options[key]))
        };
        let limit = render::managed_limit_packets(asked);
        (options["limit"].as_u64() != Some(limit))
            .then(|| format!("a queue of {} packets instead of {limit}", options["limit"]))
            .or_else(|| time("target", asked_queue.target))
            .or_else(|| time("interval", asked_queue.interval))
    }
}

/// A millisecond covers what tc rounds in the conversion to a latency and back.
fn fifo_difference(shape: &Shape, asked: &Shape) -> Option<String> {
    let expected = render::fifo_limit_bytes(asked) as f64 / asked.rate.bytes_per_s();
    let there = shape.queue_time().as_secs_f64();
    let off = (there - expected).abs();
    // A bucket that takes longer than the queue shows as a latency below zero, which tc cannot print.
    let bucket = render::burst_bytes(asked) as f64 / asked.rate.bytes_per_s();
    (off > 1e-3 + expected * 1e-3 && expected > bucket)
        .then(|| format!("a queue of {:.1} ms instead of {:.1} ms", there * 1e3, expected * 1e3))
}

fn netem_difference(shape: &Shape, asked: &Shape) -> Option<String> {
    // netem counts in ticks of 64 ns, tc prints six digits.
    let time = |what: &str, there: Delay, asked: Delay| {
        let off = there.0.abs_diff(asked.0);
        (off > Duration::from_micros(2) + asked.0 / 100_000)
            .then(|| format!("{what} {there} instead of {asked}"))
    };
    let share = |what: &str, there: Percent, asked: Percent| {
        let off = (there.percent() - asked.percent()).abs();
        (off > 1e-6 + asked.percent() * 1e-4).then(|| format!("{what} {there} instead of {asked}"))
    };
    let loss = match (shape.loss, asked.loss) {
        (Loss::Random(there), Loss::Random(asked)) => share("loss", there, asked),
        (Loss::GilbertElliott(there), Loss::GilbertElliott(asked)) => share("loss p", there.p, asked.p)
            .or_else(|| share("loss r", there.r, asked.r))
            .or_else(|| share("loss bad", there.bad, asked.bad))
            .or_else(|| share("loss good", there.good, asked.good)),
        (there, asked) => Some(format!("loss model {there:?} instead of {asked:?}")),
    };
    time("delay", shape.delay, asked.delay)
        .or_else(|| time("jitter", shape.jitter, asked.jitter))
        .or(loss)
        .or_else(|| share("reorder", shape.reorder, asked.reorder))
        .or_else(|| share("duplicate", shape.duplicate, asked.duplicate))
        .or_else(|| share("corrupt", shape.corrupt, asked.corrupt))
}

/// The content of an ifb's alias, for later processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alias {
    /// The process that made it.
    pub pid: u32,
    pub dev: String,
    pub server: String,
    /// Whether the lab made the interface's clsact, and so may remove it.
    pub own_clsact: bool,
    /// Whether any of the profiles that the device has had could lose packets: the kernel counts their
    /// losses and full queues as one, and goes on counting when the profile is changed.
    pub lossy: bool,
    pub profile: String,
}

impl Alias {
    /// The text is at most 255 bytes, which is what an alias holds, and has no quotes in it.
    pub(crate) fn render(&self) -> String {
        let clsact = if self.own_clsact { "own" } else { "found" };
        let lossy = if self.lossy { "yes" } else { "no" };
        let profile: String = self
            .profile
            .chars()
            .map(|c| if c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\' | '#') { c } else { '_' })
            .take(120)
            .collect();
        format!(
            "twinlink pid={} dev={} server={} clsact={clsact} lossy={lossy} profile={profile}",
            self.pid, self.dev, self.server
        )
    }

    pub(crate) fn parse(text: &str) -> Option<Alias> {
        let fields: BTreeMap<&str, &str> =
            text.strip_prefix("twinlink ")?.split(' ').filter_map(|field| field.split_once('=')).collect();
        Some(Alias {
            pid: fields.get("pid")?.parse().ok()?,
            dev: fields.get("dev")?.to_string(),
            server: fields.get("server")?.to_string(),
            own_clsact: *fields.get("clsact")? == "own",
            // An alias without this field may belong to a lossy device.
            lossy: fields.get("lossy") != Some(&"no"),
            profile: fields.get("profile")?.to_string(),
        })
    }
}

/// A device of the lab that exists.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub name: String,
    pub link: LinkId,
    pub direction: Direction,
    /// Nothing where the process that made it was stopped before it could say.
    pub alias: Option<Alias>,
}

/// The lab's devices in this network namespace.
pub(crate) fn devices() -> Result<Vec<Device>> {
    let list = run::json(Tool::Ip, &["-d", "-j", "link", "show", "type", "ifb"])?;
    let found = list.as_array().into_iter().flatten().filter_map(|device| {
        let name = device["ifname"].as_str()?;
        let (link, direction) = render::ifb_meaning(name)?;
        let alias = device["ifalias"].as_str().and_then(Alias::parse);
        Some(Device { name: name.to_string(), link, direction, alias })
    });
    Ok(found.collect())
}

/// The names of devices that are neither a link's nor any use: trials that were killed.
pub(crate) fn trials() -> Result<Vec<String>> {
    let list = run::json(Tool::Ip, &["-j", "link", "show", "type", "ifb"])?;
    let names = list.as_array().into_iter().flatten().filter_map(|device| device["ifname"].as_str());
    Ok(names.filter(|name| name.starts_with(render::TRIAL_PREFIX)).map(String::from).collect())
}

/// A filter at one of an interface's two hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub pref: u32,
    /// The device that it redirects to, if it redirects.
    pub to: Option<String>,
}

/// The filters at a hook, one entry a preference.
pub(crate) fn filters(dev: &str, direction: Direction) -> Result<Vec<Filter>> {
    let list = run::json(Tool::Tc, &["-j", "filter", "show", "dev", dev, render::hook(direction)])?;
    let mut found: BTreeMap<u32, Option<String>> = BTreeMap::new();
    for filter in list.as_array().into_iter().flatten() {
        let Some(pref) = filter["pref"].as_u64() else { continue };
        let to = filter["options"]["actions"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|action| action["to_dev"].as_str().map(String::from));
        let entry = found.entry(pref as u32).or_default();
        *entry = entry.take().or(to);
    }
    Ok(found.into_iter().map(|(pref, to)| Filter { pref, to }).collect())
}

/// Returns the qdisc at an interface's ingress: "clsact", "ingress", or none.
pub(crate) fn ingress_kind(dev: &str) -> Result<Option<String>> {
    let list = run::json(Tool::Tc, &["-j", "qdisc", "show", "dev", dev])?;
    let found = list.as_array().into_iter().flatten().find_map(|qdisc| {
        let kind = qdisc["kind"].as_str()?;
        matches!(kind, "clsact" | "ingress").then(|| kind.to_string())
    });
    Ok(found)
}

/// Returns whether nothing filters at an interface's clsact, in either direction.
pub(crate) fn has_no_filter(dev: &str) -> Result<bool> {
    Ok(filters(dev, Direction::Down)?.is_empty() && filters(dev, Direction::Up)?.is_empty())
}

/// The interface that packets to an address leave by.
pub(crate) fn route_dev(server: std::net::IpAddr) -> Result<String> {
    let route = run::json(Tool::Ip, &["-j", "route", "get", &server.to_canonical().to_string()])
        .with_context(|| format!("cannot find the interface that leads to {server}"))?;
    route[0]["dev"]
        .as_str()
        .map(String::from)
        .with_context(|| format!("cannot find the interface that leads to {server}: the route names none"))
}

/// Returns `ip`'s description of an interface.
pub(crate) fn interface(dev: &str) -> Result<Value> {
    let list = run::json(Tool::Ip, &["-d", "-j", "link", "show", "dev", dev])?;
    Ok(list[0].clone())
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
