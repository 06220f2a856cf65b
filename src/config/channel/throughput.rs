//! The throughput of links on a channel in closed form.

use super::{ChannelConfig, Hop};
use crate::config::profile::FRAME;
use crate::units::{Direction, LinkId, Rate};
use crate::wifi::saturation::{Saturated, frames_per_s};

impl ChannelConfig {
    /// Returns the rate in frames that a link carries down when it is alone on the channel, at most its cap.
    ///
    /// Between two stations its server and the access point contend for the channel, and each carries
    /// what the other does: no more packets a turn than fit in the shorter of both.
    pub fn alone(&self, link: LinkId) -> Option<Rate> {
        let cap = self.link(link)?.cap;
        let hops = self.hops(link, Direction::Down);
        let frames = hops.iter().map(|hop| hop.radio.full_turn(FRAME as u32).frames).min()?;
        let rates = frames_per_s(&hops.iter().map(|hop| saturated(hop, frames)).collect::<Vec<_>>());
        let least = rate(rates.into_iter().fold(f64::INFINITY, f64::min));
        Some(cap.map_or(least, |cap| cap.min(least)))
    }

    /// Returns a rate that a link never exceeds one way, in frames: that of its bits in a full PPDU, without
    /// contention, replies and failures.
    pub fn most(&self, link: LinkId) -> Option<Rate> {
        let cap = self.link(link)?.cap;
        let hops = self.hops(link, Direction::Down).into_iter();
        let most = hops.map(|hop| hop.radio.most_frames_per_s(FRAME as u32)).fold(f64::INFINITY, f64::min);
        Some(cap.map_or(rate(most), |cap| cap.min(rate(most))))
    }
}

/// A hop whose queue never runs empty of full frames, with so many of them a turn at most.
fn saturated(hop: &Hop, frames: u32) -> Saturated {
    let mut transmitter = hop.radio;
    transmitter.limits.frames = frames;
    Saturated { transmitter, frame_bytes: FRAME as u32 }
}

fn rate(frames_per_s: f64) -> Rate {
    Rate::from_bits_per_s(((frames_per_s * FRAME as f64 * 8.0) as u64).max(1))
}
