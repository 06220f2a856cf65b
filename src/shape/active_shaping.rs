//! One direction of a link as it is in force: its settings, and what was counted.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::channel::ChannelError;
use crate::config::profile::Shape;
use crate::units::{Direction, LinkId};

/// One direction of a link in force; also a row of `twinlink link show`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActiveShaping {
    pub link: LinkId,
    pub direction: Direction,
    /// The name of the backend.
    pub backend: String,
    /// Why this backend, in a few words; null where another process decided.
    pub why: Option<String>,
    pub profile: String,
    /// The server's address.
    pub server: Option<IpAddr>,
    pub owner: Owner,
    /// The requested shape; read from the kernel where no process that shapes was asked. Its rate is the
    /// profile's also while a trace is played: the counters have the rate in force.
    pub shape: Shape,
    /// The file of the trace that is being played.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// The time that a packet may be held here without waiting for the bottleneck.
    pub delay_line_ms: f64,
    /// The bytes that pass the bottleneck at once, beyond its rate; null where it times every packet.
    pub burst_bytes: Option<u64>,
    /// The kernel's report when it is read back; null for a backend of this process.
    pub kernel: serde_json::Value,
    pub counters: Counters,
    /// The load of each station, for a link on a shared channel.
    #[serde(rename = "air", skip_serializing_if = "Option::is_none")]
    pub airtimes: Option<Vec<StationLoad>>,
    /// The error of the shared channel's model, for a link on one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_error: Option<ChannelError>,
}

/// Whether the process that shapes a link is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    Run,
    /// It was killed.
    Dead,
}

/// Counters of one direction since it was set up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Counters {
    pub packets: u64,
    pub bytes: u64,
    /// Dropped because the queue was full.
    pub dropped_queue: u64,
    /// Dropped by the loss model; null where the backend counts all drops as one.
    pub dropped_loss: Option<u64>,
    /// Marked by the queue (ECN), in place of being dropped; null where the backend does not say.
    #[serde(default)]
    pub marked: Option<u64>,
    /// Bytes of cross traffic that passed the bottleneck.
    #[serde(default)]
    pub cross_bytes: u64,
    /// Held now, the delay line included: the kernel counts both together.
    pub queue_packets: u64,
    pub queue_bytes: u64,
    /// The queue's bytes over the rate.
    pub queue_ms: Option<f64>,
    /// The most packets that were held at once so far; null where the kernel holds them.
    pub queue_packets_max: Option<u64>,
    /// Mean size of the packets that have left, as the device or the model handed them on: a super-packet
    /// that was not cut counts as one. Null while there were none.
    pub packet_bytes: Option<f64>,
    pub rate_kbit: Option<f64>,
    /// How much too late packets left, at worst since the last reading; null where the kernel sends them.
    pub lateness_ms: Option<f64>,
    /// The same for half of the packets, and for 99 of 100.
    pub lateness_p50_ms: Option<f64>,
    pub lateness_p99_ms: Option<f64>,
}

impl Counters {
    /// Computes the queue's time at the rate in force.
    pub fn set_queue_ms(&mut self) {
        let rate_kbit = self.rate_kbit.filter(|&rate| rate > 0.0);
        self.queue_ms = rate_kbit.map(|rate| self.queue_bytes as f64 * 8.0 / rate);
    }
}

/// A station's share of a shared channel's time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StationLoad {
    pub station: String,
    /// Since the start, in seconds.
    pub seconds: f64,
    /// Since the last reading, 0 to 1.
    pub share: f64,
}
