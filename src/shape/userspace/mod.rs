//! The links that this process holds itself, as the shaper sees them: what is in force and what it
//! counted. The packets are [`self::nfqueue`]'s.

pub mod nfqueue;

use std::time::Instant;

use anyhow::Result;

use self::nfqueue::{Busy, QueueCounts, Userspace};
use super::control::client::{Owner, Row};
use super::{ActiveShaping, Backend, Counters, ShapingRequest};
use crate::config::channel::ChannelConfig;
use crate::units::{Direction, LinkId};

/// The links held in userspace; costs nothing while there are none.
#[derive(Default)]
pub struct UserspaceLinks {
    packets: Option<Userspace>,
    wanted: Vec<(ShapingRequest, String)>,
    channel: Option<ChannelConfig>,
    seed: u64,
    /// How busy the stations were at the last reading.
    busy: Vec<Busy>,
    /// Faults that nobody has asked for yet.
    faults: Vec<(LinkId, String)>,
}

impl UserspaceLinks {
    pub fn new(channel: Option<&ChannelConfig>, seed: u64) -> UserspaceLinks {
        UserspaceLinks { channel: channel.cloned(), seed, ..UserspaceLinks::default() }
    }

    pub fn has(&self, link: LinkId) -> bool {
        self.wanted.iter().any(|(wanted, _)| wanted.link == link)
    }

    /// Whether a link is on the shared channel, and so keeps to its channel file.
    pub fn on_channel(&self, link: LinkId) -> bool {
        self.channel.as_ref().is_some_and(|channel| channel.link(link).is_some())
    }

    /// Sets links up or changes them in place, and notes why they are held here.
    pub fn set(&mut self, wanted: &[ShapingRequest], why: &str) -> Result<()> {
        match &mut self.packets {
            Some(packets) => packets.set(wanted)?,
            None => self.packets = Some(Userspace::start(wanted, self.channel.as_ref(), self.seed)?),
        }
        for wanted in wanted {
            self.wanted.retain(|(other, _)| other.link != wanted.link);
            self.wanted.push((wanted.clone(), why.to_string()));
        }
        self.wanted.sort_by_key(|(wanted, _)| wanted.link);
        let profiles: Vec<_> = self.wanted.iter().map(|(wanted, _)| &wanted.profile).collect();
        if let Some(warning) = nfqueue::beyond_measured(&profiles) {
            tracing::warn!("{warning}");
        }
        Ok(())
    }

    /// Plays the traces of a link from now on, and says when they began; none where it is not held here.
    pub fn play(&mut self, link: LinkId) -> Result<Option<Instant>> {
        let wanted = self.wanted.iter().find(|(wanted, _)| wanted.link == link);
        match (&mut self.packets, wanted) {
            (Some(packets), Some((wanted, _))) => packets.play(wanted).map(Some),
            _ => Ok(None),
        }
    }

    pub fn remove(&mut self, link: LinkId) -> Result<()> {
        if let Some(packets) = &mut self.packets {
            packets.clear_link(link)?;
        }
        self.wanted.retain(|(wanted, _)| wanted.link != link);
        if self.wanted.is_empty() {
            self.packets = None;
        }
        Ok(())
    }

    /// Gives up all links.
    pub fn clear(&mut self) {
        self.wanted.clear();
        self.packets = None;
    }

    pub fn applied(&self) -> Vec<ActiveShaping> {
        let row = |(wanted, why): &(ShapingRequest, String), direction| ActiveShaping {
            link: wanted.link,
            direction,
            backend: Backend::Userspace,
            why: why.clone(),
            profile: wanted.profile.name.clone(),
            asked: wanted.profile.shape(direction).clone(),
            kernel: serde_json::Value::Null,
        };
        self.wanted.iter().flat_map(|held| Direction::BOTH.map(|direction| row(held, direction))).collect()
    }

    /// Reads everything, and gathers the faults that show.
    fn read(&mut self) -> Result<Vec<QueueCounts>> {
        let Some(packets) = &mut self.packets else { return Ok(Vec::new()) };
        let (counts, busy) = packets.read()?;
        self.busy = busy;
        let faults = nfqueue::overload(&counts).into_iter();
        self.faults.extend(faults.map(|((link, direction), what)| (link, format!("{direction}: {what}"))));
        Ok(counts)
    }

    pub fn counters(&mut self) -> Result<Vec<(LinkId, Direction, Counters)>> {
        let counts = self.read()?;
        Ok(counts.iter().map(|row| (row.way.0, row.way.1, self.counters_of(row))).collect())
    }

    fn counters_of(&self, counts: &QueueCounts) -> Counters {
        let (link, direction) = counts.way;
        let held = self.wanted.iter().find(|(wanted, _)| wanted.link == link);
        let tally = &counts.tally;
        Counters {
            packets: tally.packets,
            bytes: tally.bytes,
            dropped_queue: tally.dropped_queue,
            dropped_loss: Some(tally.dropped_loss),
            queue_packets: tally.held_packets,
            queue_bytes: tally.held_bytes,
            queue_packets_max: Some(tally.held_packets_max),
            packet_bytes: (tally.packets > 0).then(|| tally.bytes as f64 / tally.packets as f64),
            rate_kbit: held.map(|(wanted, _)| wanted.profile.shape(direction).rate.kbit()),
            lateness_ms: Some(counts.lateness.max_ms),
            lateness_p50_ms: Some(counts.lateness.p50_ms),
            lateness_p99_ms: Some(counts.lateness.p99_ms),
        }
    }

    pub fn rows(&mut self) -> Result<Vec<Row>> {
        let counts = self.read()?;
        let applied = self.applied();
        let rows = counts.iter().filter_map(|counts| {
            let (link, direction) = counts.way;
            let is_row = |row: &&ActiveShaping| row.link == link && row.direction == direction;
            let applied = applied.iter().find(is_row)?;
            let server = self.wanted.iter().find(|(wanted, _)| wanted.link == link)?.0.server;
            Some(Row {
                link,
                direction,
                backend: Backend::Userspace,
                why: Some(applied.why.clone()),
                profile: applied.profile.clone(),
                server: Some(server.to_canonical()),
                owner: Owner::Run,
                shape: applied.asked.without_trace(),
                trace: None,
                kernel: serde_json::Value::Null,
                counters: self.counters_of(counts),
                airtimes: self.on_channel(link).then(|| self.busy.clone()),
            })
        });
        Ok(rows.collect())
    }

    /// How busy the shared channel's stations were at the last reading; empty without one.
    pub fn busy(&self) -> &[Busy] {
        &self.busy
    }

    /// The shared channel, if there is one.
    pub fn channel(&self) -> Option<&ChannelConfig> {
        self.channel.as_ref()
    }

    /// The faults since the last call.
    pub fn take_faults(&mut self) -> Vec<(LinkId, String)> {
        std::mem::take(&mut self.faults)
    }
}
