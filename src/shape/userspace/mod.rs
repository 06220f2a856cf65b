//! The userspace backend: this process holds the packets of its links. They are [`self::nfqueue`]'s;
//! `emulate` says when each departs.

pub(crate) mod nfqueue;

use std::time::Instant;

use anyhow::{Context, Result};

use self::nfqueue::capture::Capture;
use self::nfqueue::{QueueCounts, Userspace};
use super::active_shaping::{ActiveShaping, Counters, Owner};
use super::backend::{Backend, Fit, Refusal, ShapingRequest};
use super::guard;
use super::kernel_support::{self, Feature};
use crate::config::channel::ChannelConfig;
use crate::config::profile::{Profile, Shape};
use crate::units::{Direction, LinkId};

static FEATURES: [Feature; 1] = [Feature {
    name: "nfqueue",
    modules: &["xt_NFQUEUE", "nfnetlink_queue"],
    advice: "the userspace backend and shared channels need it: a kernel with xt_NFQUEUE and \
             nfnetlink_queue, and iptables",
    on_ifb: false,
    attempt: nfqueue::attempt,
}];

/// The links held in userspace; costs nothing while there are none.
pub(crate) struct UserspaceLinks {
    packets: Option<Userspace>,
    /// Dropped behind `packets`, whose tap it waits for.
    capture: Option<Capture>,
    /// Each with the reason why it is held here, by link.
    links: Vec<(ShapingRequest, String)>,
    channel: Option<ChannelConfig>,
    seed: u64,
    /// Faults that nobody has asked for yet.
    faults: Vec<(LinkId, String)>,
}

impl Backend for UserspaceLinks {
    fn name(&self) -> &'static str {
        "userspace"
    }

    fn features(&self) -> &'static [Feature] {
        &FEATURES
    }

    fn check(&self, requests: &[ShapingRequest], on_channel: bool) -> Result<Fit, Refusal> {
        let refusal = |error| Refusal { why: "userspace cannot do all of a profile".into(), error };
        requests.iter().try_for_each(|request| nfqueue::check(&request.profile)).map_err(refusal)?;
        let why = match on_channel {
            true => "a shared channel is modelled in userspace",
            false => "packets are held in userspace",
        };
        Ok(Fit::Exactly(why.into()))
    }

    fn is_proven(&self, requests: &[ShapingRequest]) -> bool {
        let profiles: Vec<&Profile> = requests.iter().map(|request| &request.profile).collect();
        nfqueue::beyond_measured(&profiles).is_none()
            && kernel_support::missing(&FEATURES).is_ok_and(|missing| missing.is_empty())
    }

    fn set(&mut self, requests: &[ShapingRequest], whys: &[String]) -> Result<()> {
        match &mut self.packets {
            Some(packets) => packets.set(requests),
            None => Userspace::start(requests, self.channel.as_ref(), self.seed, self.capture.as_ref())
                .map(|packets| self.packets = Some(packets)),
        }
        .with_context(|| format!("cannot hold the links in userspace ({})", whys.join("; ")))?;
        for (request, why) in requests.iter().zip(whys) {
            self.links.retain(|(carried, _)| carried.link != request.link);
            self.links.push((request.clone(), why.clone()));
        }
        let profiles: Vec<_> = self.links.iter().map(|(carried, _)| &carried.profile).collect();
        if let Some(warning) = nfqueue::beyond_measured(&profiles) {
            tracing::warn!("{warning}");
        }
        Ok(())
    }

    fn clear(&mut self, link: Option<LinkId>) -> Result<()> {
        if let (Some(packets), Some(link)) = (&mut self.packets, link) {
            packets.clear_link(link)?;
        }
        self.links.retain(|(carried, _)| link.is_some_and(|link| link != carried.link));
        if self.links.is_empty() {
            self.packets = None;
        }
        Ok(())
    }

    fn play(&mut self, link: LinkId) -> Result<Instant> {
        let carried = self.links.iter().find(|(carried, _)| carried.link == link);
        let (packets, (carried, _)) =
            self.packets.as_mut().zip(carried).context("the link is not held here")?;
        packets.play(carried)
    }

    fn rows(&self) -> Vec<ActiveShaping> {
        let both = |carried| Direction::BOTH.map(|direction| self.row(carried, direction));
        self.links.iter().flat_map(both).collect()
    }

    fn read(&mut self) -> Result<Vec<ActiveShaping>> {
        let Some(packets) = &mut self.packets else { return Ok(Vec::new()) };
        let (counts, stations) = packets.read()?;
        let faults = nfqueue::overload(&counts).into_iter();
        self.faults.extend(faults.map(|((link, direction), what)| (link, format!("{direction}: {what}"))));
        let mut rows = self.rows();
        for row in &mut rows {
            if let Some(found) = counts.iter().find(|found| found.way == (row.link, row.direction)) {
                row.counters = counters(found, &row.shape);
            }
            row.airtimes = self.on_channel(row.link).then(|| stations.clone());
        }
        Ok(rows)
    }

    fn take_faults(&mut self) -> Vec<(LinkId, String)> {
        std::mem::take(&mut self.faults)
    }

    fn has_leftovers(&self) -> bool {
        guard::is_own_namespace() && nfqueue::has_left_rules()
    }

    fn clean_up(&self, _devs: &[String]) -> Result<()> {
        // They drop all that they catch.
        if nfqueue::repair()? {
            tracing::warn!("removed the packet rules that an earlier run had left");
        }
        Ok(())
    }
}

impl UserspaceLinks {
    pub(crate) fn new(
        channel: Option<&ChannelConfig>,
        seed: u64,
        capture: Option<Capture>,
    ) -> UserspaceLinks {
        let channel = channel.cloned();
        UserspaceLinks { packets: None, capture, links: Vec::new(), channel, seed, faults: Vec::new() }
    }

    fn on_channel(&self, link: LinkId) -> bool {
        self.channel.as_ref().is_some_and(|channel| channel.link(link).is_some())
    }

    fn row(&self, (carried, why): &(ShapingRequest, String), direction: Direction) -> ActiveShaping {
        let shape = carried.profile.shape(direction);
        let channel = self.channel.as_ref().filter(|_| self.on_channel(carried.link));
        ActiveShaping {
            link: carried.link,
            direction,
            backend: self.name().into(),
            why: Some(why.clone()),
            profile: carried.profile.name.clone(),
            server: Some(carried.server.to_canonical()),
            owner: Owner::Run,
            shape: shape.clone(),
            trace: None,
            delay_line_ms: shape.delay.ms() + shape.jitter.ms(),
            burst_bytes: None,
            kernel: serde_json::Value::Null,
            counters: Counters::default(),
            airtimes: None,
            channel_error: channel.map(ChannelConfig::model_error),
        }
    }
}

fn counters(found: &QueueCounts, shape: &Shape) -> Counters {
    let (tally, late) = (&found.tally, &found.lateness);
    Counters {
        packets: tally.packets,
        bytes: tally.bytes,
        dropped_queue: tally.dropped_queue,
        dropped_loss: Some(tally.dropped_loss),
        marked: Some(tally.marked),
        cross_bytes: tally.cross_bytes,
        queue_packets: tally.held_packets,
        queue_bytes: tally.held_bytes,
        queue_packets_max: Some(tally.held_packets_max),
        packet_bytes: (tally.packets > 0).then(|| tally.bytes as f64 / tally.packets as f64),
        rate_kbit: Some(shape.rate.kbit()),
        lateness_ms: Some(late.max_ms),
        lateness_p50_ms: Some(late.p50_ms),
        lateness_p99_ms: Some(late.p99_ms),
        ..Counters::default()
    }
}
