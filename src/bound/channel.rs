//! Bounds a run on a shared channel: the least time for a payload over links that share
//! airtime. Pure; knows nothing of files.
//!
//! On a shared channel capacities never add. With xᵢ the payload that link i brings, this is the
//! least T for which some split satisfies
//!
//! - Σ xᵢ = B, the payload and what must come with it;
//! - Σ aᵢ xᵢ ≤ T − e, the channel, with aᵢ the least airtime for a byte of payload over all its
//!   crossings, ACKs included, and e the least delay behind the channel;
//! - 0 ≤ xᵢ ≤ what the link itself carries by T.

use super::{Path, first_time};
use crate::config::channel::ChannelConfig;
use crate::units::LinkId;

/// A link that shares the channel with others.
#[derive(Clone, Debug)]
pub struct Sharer {
    /// Least airtime for a byte of payload, in seconds; 0 for a link that is not on the channel.
    pub airtime_per_byte_s: f64,
    /// The most that the link carries, whatever the channel allows.
    pub path: Path,
}

/// The most payload that can have arrived by `time_s`, where the channel serves for `channel_s` of it.
/// Cheapest first: a byte on the link with the least airtime leaves the most channel for the others, so
/// no other split brings more.
fn most_bytes(sharers: &[Sharer], channel_s: f64, time_s: f64) -> f64 {
    let mut by_price: Vec<&Sharer> = sharers.iter().collect();
    by_price.sort_by(|a, b| a.airtime_per_byte_s.total_cmp(&b.airtime_per_byte_s));
    let mut channel_s = channel_s.max(0.0);
    let mut bytes = 0.0;
    for sharer in by_price {
        let own = sharer.path.delivered(time_s);
        if sharer.airtime_per_byte_s == 0.0 {
            bytes += own;
            continue;
        }
        let taken = own.min(channel_s / sharer.airtime_per_byte_s);
        channel_s -= taken * sharer.airtime_per_byte_s;
        bytes += taken;
    }
    bytes
}

/// The least time (s) in which `bytes` of payload can have arrived, where what the channel carries comes
/// `behind_s` later; `None` where no link can ever bring them.
pub fn least_time_s(sharers: &[Sharer], behind_s: f64, bytes: f64) -> Option<f64> {
    first_time(bytes, |t| most_bytes(sharers, t - behind_s, t))
}

/// The links of a channel, for so many bytes over both. Every second segment is acknowledged, as TCP
/// does at least. Also gives the least delay behind the channel.
pub fn sharers(channel: &ChannelConfig, paths: &[Path], bytes: f64) -> (Vec<Sharer>, f64) {
    let mut least_behind_s = f64::INFINITY;
    let sharer = |(link, path): (LinkId, &Path)| {
        if channel.link(link).is_none() {
            return Sharer { airtime_per_byte_s: 0.0, path: path.clone() };
        }
        let behind_s = path.first_byte_s() - path.opens_s;
        least_behind_s = least_behind_s.min(behind_s);
        let segments = bytes / path.mss_bytes;
        Sharer {
            airtime_per_byte_s: channel.least_airtime_per_payload_byte_s(
                link,
                path.mss_bytes as u64,
                0.5,
                segments,
            ),
            path: path.clone(),
        }
    };
    let sharers = LinkId::BOTH.into_iter().zip(paths).map(sharer).collect();
    (sharers, if least_behind_s.is_finite() { least_behind_s } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bound::link::{ShaperFacts, Stage, path};
    use crate::bound::{Capacity, TcpSegments, bounds_s};
    use crate::emulate::emulator::Emulator;
    use crate::units::Direction;
    use proptest::prelude::*;

    fn sharer(airtime_per_byte_s: f64, bytes_per_s: f64, starts_s: f64) -> Sharer {
        let path = Path {
            capacity: Capacity::constant(bytes_per_s),
            opens_s: starts_s,
            credit_bytes: 0.0,
            rtt_s: 0.0,
            mss_bytes: 1448.0,
        };
        Sharer { airtime_per_byte_s, path }
    }

    fn close(got: Option<f64>, expected: f64) {
        let got = got.unwrap();
        assert!((got - expected).abs() < 1e-9 * expected.max(1.0), "{got} instead of {expected}");
    }

    #[test]
    fn without_caps_the_cheapest_link_alone_is_the_bound() {
        let links = [sharer(2e-7, 1e12, 0.0), sharer(1e-6, 1e12, 0.0)];
        close(least_time_s(&links, 0.01, 80e6), 0.01 + 16.0);
    }

    #[test]
    fn a_cap_on_the_cheap_link_leaves_air_for_the_other() {
        // In T seconds the cheap one brings 10⁶ T with 0.2 T of channel, and 0.8 T of channel bring 0.8·10⁶ T.
        let links = [sharer(2e-7, 1e6, 0.0), sharer(1e-6, 1e12, 0.0)];
        close(least_time_s(&links, 0.0, 18e6), 10.0);
    }

    #[test]
    fn links_that_are_off_the_air_add_up() {
        let links = [sharer(0.0, 1e6, 1.0), sharer(0.0, 3e6, 0.0)];
        close(least_time_s(&links, 0.0, 7e6), 2.0);
    }

    #[test]
    fn what_can_never_arrive_has_no_bound() {
        assert_eq!(least_time_s(&[], 0.0, 1.0), None);
        assert_eq!(least_time_s(&[sharer(1e-6, 0.0, 0.0)], 0.0, 1.0), None);
        assert_eq!(least_time_s(&[], 0.0, 0.0), Some(0.0));
    }

    /// When (s) the modelled channel has brought so many bytes over both links, where there is always
    /// something to bring and every second packet is acknowledged.
    fn fastest(channel: &ChannelConfig, bytes: f64, seed: u64) -> f64 {
        let mut emulator = Emulator::new(Some(channel), seed);
        let (mut come, mut sent, mut heard) = (0.0, 0, [0; 2]);
        let mut waiting = [0; 2];
        let mut now = 0;
        loop {
            for link in LinkId::BOTH {
                // Enough for whole aggregates, and no more than the queue takes.
                while waiting[link.index()] < 200 {
                    emulator.arrive(now, (link, Direction::Down), sent, 1514).unwrap();
                    (sent, waiting[link.index()]) = (sent + 1, waiting[link.index()] + 1);
                }
            }
            now = emulator.next_event().unwrap();
            emulator.advance(now);
            emulator.take_lost().for_each(drop);
            for link in LinkId::BOTH {
                while emulator.take_due(now, (link, Direction::Down)).is_some() {
                    come += 1448.0;
                    waiting[link.index()] -= 1;
                    heard[link.index()] += 1;
                    if heard[link.index()] % 2 == 0 {
                        emulator.arrive(now, (link, Direction::Up), sent, 66).unwrap();
                        sent += 1;
                    }
                }
                while emulator.take_due(now, (link, Direction::Up)).is_some() {}
            }
            if come >= bytes {
                return now as f64 / 1e9;
            }
        }
    }

    #[test]
    fn bound_is_below_what_a_shared_channel_brings() {
        for (retry, delay, cap) in [("0%", "0ms", "1gbit"), ("20%", "3ms", "1gbit"), ("10%", "60ms", "9mbit")]
        {
            let text = format!(
                "description = \"\"\n[channel]\noverhead = \"200us\"\nampdu = 16\n\
                 [link.a]\nphy = \"54mbit\"\nretry = \"{retry}\"\ndelay = \"{delay}\"\ncap = \"{cap}\"\n\
                 queue = \"100000p\"\n\
                 [link.b]\nphy = \"24mbit\"\ndelay = \"{delay}\"\nqueue = \"100000p\"\n"
            );
            let channel = ChannelConfig::parse("test", &text).unwrap();
            let paths = LinkId::BOTH.map(|link| {
                let mut profile = channel.profile(link).unwrap();
                profile.down.rate = channel.most(link).unwrap();
                let (down, up) = (profile.down, profile.up);
                let shaper = ShaperFacts::Model;
                let stage = Stage { from_s: 0.0, began_s: 0.0, down, up, played: false, shaper };
                path(&[stage], TcpSegments::USUAL).unwrap()
            });
            for bytes in [1000.0, 20_000.0, 400_000.0, 4e6] {
                let bound = bounds_s(&paths, Some(&channel), bytes).unwrap().0;
                for seed in 1..=5 {
                    let fastest = fastest(&channel, bytes, seed);
                    assert!(
                        bound <= fastest,
                        "{bytes} bytes at {retry}: {bound} s, and the channel took {fastest}"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_split_beats_the_bound(
            prices in prop::collection::vec(1e-8f64..1e-5, 2), caps in prop::collection::vec(1e4f64..1e7, 2),
            starts in prop::collection::vec(0.0f64..1.0, 2), bytes in 1e5f64..1e8, share in 0.0f64..=1.0,
        ) {
            let links: Vec<Sharer> = (0..2).map(|i| sharer(prices[i], caps[i], starts[i])).collect();
            let channel_starts = starts[0].min(starts[1]);
            let bound = least_time_s(&links, channel_starts, bytes).unwrap();
            // The time that this split needs: the channel for both, and each link for its own.
            let split = [bytes * share, bytes * (1.0 - share)];
            let channel = channel_starts + split[0] * prices[0] + split[1] * prices[1];
            let own = (0..2).map(|i| if split[i] > 0.0 { starts[i] + split[i] / caps[i] } else { 0.0 });
            let needs = own.fold(channel, f64::max);
            prop_assert!(bound <= needs * (1.0 + 1e-9), "{bound} s against {needs} s");
        }
    }
}
