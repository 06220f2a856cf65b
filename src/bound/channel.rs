//! Bounds a run on a shared channel: the least time for a payload over links that share
//! airtime. Pure; knows nothing of files.
//!
//! On a shared channel capacities never add. With xᵢ the payload that link i brings, this is the
//! least T for which some split satisfies
//!
//! - Σ xᵢ = B, the payload and what must come with it;
//! - 0 ≤ xᵢ ≤ what the link itself carries by T;
//! - Σ pᵢ xᵢ ≤ T − e + c for each price p of a byte and its credit c, with e the least delay behind the channel.
//!
//! The first price is airtime: every turn as full as it can be, with its interframe space, preamble and reply, over
//! all crossings, ACKs included, and no packet repeated. Contention enters by a price for each station, airtime and
//! its own backoffs: its counters count idle slots, which are not airtime, and with EDCA the beginnings of others'
//! turns; two stations may count the same ones, so only the sum of one station's is certain. Collisions are not in
//! it: with luck there are none. Repeats and backoffs are those of the mean, with a credit of five standard
//! deviations of their sums.

use super::{Path, first_time};
use crate::config::channel::{ChannelConfig, Hop, Node};
use crate::config::profile::FRAME;
use crate::units::{Direction, LinkId};
use crate::wifi::access::Access;

/// An ACK without data, as Ethernet frame: IPv4 and TCP headers, with timestamps.
const ACK_FRAME: u32 = 66;

/// ACKs for each segment at least: TCP acknowledges every second one.
const ACKS: f64 = 0.5;

/// The ACKs for what the last so many turns brought may still be waiting when the last byte comes. In as many
/// turns of others every backoff ends, that of a doubled window too.
const UNANSWERED_TURNS: f64 = 16.0;

/// How many standard deviations below its mean a sum of chances is taken.
const DEVIATIONS: f64 = 5.0;

/// A limit that the links have in common: the time that their bytes take together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Price {
    /// By [`LinkId::index`], in seconds for a byte of payload; 0 for a link that is not on the channel.
    pub per_byte_s: [f64; 2],
    /// The time that may be missing.
    pub credit_s: f64,
}

/// The links of a channel.
#[derive(Clone, Debug)]
pub(crate) struct Sharers {
    /// The most that each link carries, whatever the channel allows.
    pub paths: [Path; 2],
    pub prices: Vec<Price>,
    /// The least delay behind the channel (s).
    pub behind_s: f64,
}

impl Sharers {
    /// The most payload that can have arrived by `time_s`. The limits are straight lines in the two links'
    /// bytes, so the most is where two of them meet.
    fn most_bytes(&self, time_s: f64) -> f64 {
        let own = [0, 1].map(|link: usize| self.paths[link].delivered(time_s));
        let channel_s = time_s - self.behind_s;
        // Each limit is a·x + b·y ≤ c, in bytes.
        let mut limits = vec![(1.0, 0.0, own[0]), (0.0, 1.0, own[1]), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)];
        for price in &self.prices {
            let [a, b] = price.per_byte_s;
            let scale = a.max(b);
            if scale > 0.0 {
                limits.push((a / scale, b / scale, (channel_s + price.credit_s).max(0.0) / scale));
            }
        }
        let within =
            |x: f64, y: f64| limits.iter().all(|(a, b, c)| a * x + b * y <= c + 1e-6 + 1e-9 * c.abs());
        let mut most: f64 = 0.0;
        for (index, (a, b, c)) in limits.iter().enumerate() {
            for (d, e, f) in &limits[index + 1..] {
                let determinant = a * e - b * d;
                let (x, y) = ((c * e - b * f) / determinant, (a * f - c * d) / determinant);
                if determinant != 0.0 && within(x, y) {
                    most = most.max(x + y);
                }
            }
        }
        most
    }

    /// The least time (s) in which `bytes` of payload can have arrived; `None` where no link can ever bring them.
    pub(crate) fn least_time_s(&self, bytes: f64) -> Option<f64> {
        first_time(bytes, |time_s| self.most_bytes(time_s))
    }
}

/// One kind of frame of a link on one hop.
struct Crossing {
    link: LinkId,
    hop: Hop,
    /// Frames for a byte of payload.
    per_byte: f64,
    frame_bytes: u32,
}

impl Crossing {
    fn airtime_s(&self) -> f64 {
        self.hop.radio.least_cost(self.frame_bytes).airtime_s
    }

    /// Turns for a byte of payload.
    fn turns(&self) -> f64 {
        self.per_byte * self.hop.radio.least_cost(self.frame_bytes).turns
    }

    /// Transmissions of a frame on average.
    fn transmissions(&self) -> f64 {
        1.0 / (1.0 - self.hop.radio.retry.probability())
    }

    /// Returns the owner of the backoffs: a device, or one of its access categories.
    fn contender(&self) -> (Node, Access) {
        (self.hop.from, self.hop.radio.access)
    }
}

/// Everything that a byte of payload on a link makes cross the channel.
fn crossings(channel: &ChannelConfig, link: LinkId, mss_bytes: f64) -> Vec<Crossing> {
    let of = |direction, frame_bytes, frames: f64| {
        let hops = channel.hops(link, direction).into_iter();
        hops.map(move |hop| Crossing { link, hop, per_byte: frames / mss_bytes, frame_bytes })
    };
    of(Direction::Down, FRAME as u32, 1.0).chain(of(Direction::Up, ACK_FRAME, ACKS)).collect()
}

/// The prices of crossings, for so many bytes over both links.
fn prices(crossings: &[Crossing], bytes: f64) -> Vec<Price> {
    let seconds = |time| time as f64 / 1e9;
    let data = |crossing: &&Crossing| crossing.frame_bytes == FRAME as u32;
    // The space before the first turn and the reply of the last; and ACKs that are not there yet.
    let edge = |crossing: &Crossing| {
        let radio = &crossing.hop.radio;
        seconds(radio.access.interframe_space(&radio.timing)) + seconds(radio.longest_reply())
    };
    let acks = |crossing: &Crossing| {
        let own = crossings.iter().filter(data).filter(|data| data.link == crossing.link);
        let a_turn = own.map(|data| 1.0 / data.turns()).fold(0.0, f64::max);
        UNANSWERED_TURNS * a_turn * crossing.per_byte * crossing.airtime_s()
    };
    let late: f64 = crossings.iter().filter(|crossing| !data(crossing)).map(acks).sum();
    let edges = crossings.iter().map(edge).fold(0.0, f64::max) + late;
    let lucky = price(crossings, edges, |crossing| crossing.per_byte * crossing.airtime_s());

    // Transmissions of n frames are n / (1 − r) on average and deviate by √(n r) / (1 − r).
    let luck_s = |crossing: &Crossing| {
        let repeats = (bytes * crossing.per_byte * crossing.hop.radio.retry.probability()).sqrt();
        DEVIATIONS * repeats * crossing.transmissions() * crossing.airtime_s()
    };
    let mean_airtime =
        |crossing: &Crossing| crossing.per_byte * crossing.airtime_s() * crossing.transmissions();
    let mean_credit_s = edges + crossings.iter().map(luck_s).sum::<f64>();

    let mut found = vec![lucky, price(crossings, mean_credit_s, mean_airtime)];
    let mut contenders: Vec<(Node, Access)> = Vec::new();
    for crossing in crossings {
        if !contenders.contains(&crossing.contender()) {
            contenders.push(crossing.contender());
        }
    }
    for contender in contenders {
        let own = |crossing: &Crossing| crossing.contender() == contender;
        let window = f64::from(contender.1.cw_min) + 1.0;
        let slot_s = |crossing: &Crossing| seconds(crossing.hop.radio.timing.slot);
        // The first turn needs no backoff. A draw is spread evenly over its window.
        let turns: f64 = crossings.iter().filter(|c| own(c)).map(|c| bytes * c.turns()).sum();
        let deviation = (turns * (window * window - 1.0) / 12.0).sqrt();
        let slot = crossings.iter().find(|c| own(c)).map_or(0.0, slot_s);
        let credit_s = mean_credit_s + ((window - 1.0) / 2.0 + DEVIATIONS * deviation) * slot;
        found.push(price(crossings, credit_s, |crossing| {
            // EDCA counts a slot where another's turn begins.
            let counted = if contender.1.qos { -1.0 } else { 0.0 };
            let slots = if own(crossing) { (window - 1.0) / 2.0 } else { counted };
            mean_airtime(crossing) + crossing.turns() * slots * slot
        }));
    }
    found
}

fn price(crossings: &[Crossing], credit_s: f64, per_byte_s: impl Fn(&Crossing) -> f64) -> Price {
    let mut price = Price { per_byte_s: [0.0; 2], credit_s };
    for crossing in crossings {
        price.per_byte_s[crossing.link.index()] += per_byte_s(crossing);
    }
    price
}

/// The links of a channel, for so many bytes over both.
pub(crate) fn sharers(channel: &ChannelConfig, paths: [Path; 2], bytes: f64) -> Sharers {
    let on_channel: Vec<LinkId> = LinkId::BOTH.into_iter().filter(|&l| channel.link(l).is_some()).collect();
    let path = |link: LinkId| &paths[link.index()];
    let behind = on_channel.iter().map(|&link| path(link).first_byte_s() - path(link).opens_s);
    let behind_s = behind.fold(f64::INFINITY, f64::min);
    let of = |&link: &LinkId| crossings(channel, link, path(link).mss_bytes);
    let crossings: Vec<Crossing> = on_channel.iter().flat_map(of).collect();
    Sharers {
        paths,
        prices: prices(&crossings, bytes),
        behind_s: if behind_s.is_finite() { behind_s } else { 0.0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bound::capacity::Course;
    use crate::bound::link::{ShaperFacts, Stage, path};
    use crate::bound::{Capacity, TcpSegments, bounds_s};
    use crate::emulate::emulator::Emulator;
    use crate::emulate::link::ArrivingPacket;
    use crate::units::Direction;
    use proptest::prelude::*;

    fn link(bytes_per_s: f64, starts_s: f64) -> Path {
        Path {
            capacity: Capacity::from(Course::steady(bytes_per_s, 0.0)),
            opens_s: starts_s,
            credit_bytes: 0.0,
            rtt_s: 0.0,
            mss_bytes: 1448.0,
        }
    }

    fn sharing(paths: [Path; 2], prices: &[[f64; 2]], behind_s: f64) -> Sharers {
        let price = |per_byte_s: &[f64; 2]| Price { per_byte_s: *per_byte_s, credit_s: 0.0 };
        Sharers { paths, prices: prices.iter().map(price).collect(), behind_s }
    }

    fn close(got: Option<f64>, expected: f64) {
        let got = got.unwrap();
        assert!((got - expected).abs() < 1e-9 * expected.max(1.0), "{got} instead of {expected}");
    }

    #[test]
    fn without_caps_the_cheapest_link_alone_is_the_bound() {
        let links = sharing([link(1e12, 0.0), link(1e12, 0.0)], &[[2e-7, 1e-6]], 0.01);
        close(links.least_time_s(80e6), 0.01 + 16.0);
    }

    #[test]
    fn a_cap_on_the_cheap_link_leaves_air_for_the_other() {
        // In T seconds the cheap one brings 10⁶ T with 0.2 T of channel, and 0.8 T of channel bring 0.8·10⁶ T.
        let links = sharing([link(1e6, 0.0), link(1e12, 0.0)], &[[2e-7, 1e-6]], 0.0);
        close(links.least_time_s(18e6), 10.0);
    }

    #[test]
    fn two_prices_are_met_where_both_are_used_up() {
        // 10 s at 2:1 and at 1:2 µs a byte carry 3.33 MB over each, and 5 MB over one alone.
        let links = sharing([link(1e12, 0.0), link(1e12, 0.0)], &[[2e-6, 1e-6], [1e-6, 2e-6]], 0.0);
        close(links.least_time_s(20e6 / 3.0), 10.0);
    }

    #[test]
    fn links_that_are_off_the_air_add_up() {
        let links = sharing([link(1e6, 1.0), link(3e6, 0.0)], &[[0.0, 0.0]], 0.0);
        close(links.least_time_s(7e6), 2.0);
    }

    #[test]
    fn what_can_never_arrive_has_no_bound() {
        let dead = || sharing([link(0.0, 0.0), link(0.0, 0.0)], &[[1e-6, 1e-6]], 0.0);
        assert_eq!(dead().least_time_s(1.0), None);
        assert_eq!(dead().least_time_s(0.0), Some(0.0));
    }

    /// The links of a channel as the bound sees them.
    fn paths_of(channel: &ChannelConfig) -> [Path; 2] {
        LinkId::BOTH.map(|link| {
            let mut profile = channel.profile(link).unwrap();
            profile.down.rate = channel.most(link).unwrap();
            let (down, up) = (profile.down, profile.up);
            let stage =
                Stage { from_s: 0.0, began_s: 0.0, down, up, played: false, shaper: ShaperFacts::Model };
            path(&[stage], TcpSegments::USUAL).unwrap()
        })
    }

    /// When (s) the modelled channel has brought so many bytes over both links, where there is always
    /// something to bring and every second packet is acknowledged.
    fn fastest(channel: &ChannelConfig, bytes: f64, seed: u64) -> f64 {
        let mut emulator = Emulator::new(Some(channel), seed);
        let (mut come, mut sent, mut heard) = (0.0, 0, [0; 2]);
        let mut waiting = [0; 2];
        // Whether a request has got to its server.
        let mut asked = [false; 2];
        let mut now = 0;
        for link in LinkId::BOTH {
            emulator.arrive(now, (link, Direction::Up), ArrivingPacket::plain(0, 74)).unwrap();
        }
        loop {
            for link in LinkId::BOTH {
                // Enough for whole aggregates, and no more than the queue takes.
                while asked[link.index()] && waiting[link.index()] < 200 {
                    emulator.arrive(now, (link, Direction::Down), ArrivingPacket::plain(sent, 1514)).unwrap();
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
                        emulator.arrive(now, (link, Direction::Up), ArrivingPacket::plain(sent, 66)).unwrap();
                        sent += 1;
                    }
                }
                while emulator.take_due(now, (link, Direction::Up)).is_some() {
                    asked[link.index()] = true;
                }
            }
            if come >= bytes {
                return now as f64 / 1e9;
            }
        }
    }

    #[test]
    fn bound_is_below_what_a_shared_channel_brings() {
        let n = "802.11n/20MHz/MCS7";
        let cases = [
            ("", n, "802.11a/24", "0%", "0ms", "1gbit"),
            ("", n, "802.11a/24", "20%", "3ms", "1gbit"),
            ("ampdu = 1", n, n, "0%", "0ms", "1gbit"),
            ("txop = \"4096us\"", "802.11n/20MHz/MCS7/SGI", "802.11a/24", "10%", "60ms", "9mbit"),
            ("rts_cts = true", "802.11ac/80MHz/MCS9/x2", "802.11a/24", "0%", "0ms", "1gbit"),
            ("", "802.11a/54", "802.11a/24", "5%", "0ms", "1gbit"),
        ];
        for (keys, phy, other, retry, delay, cap) in cases {
            let text = format!(
                "description = \"\"\n[channel]\n{keys}\n\
                 [link.a]\nphy = \"{phy}\"\nretry = \"{retry}\"\ndelay = \"{delay}\"\ncap = \"{cap}\"\n\
                 queue = \"100000p\"\n\
                 [link.b]\nphy = \"{other}\"\ndelay = \"{delay}\"\nqueue = \"100000p\"\n"
            );
            let channel = ChannelConfig::parse("test", &text).unwrap();
            let paths = paths_of(&channel);
            for bytes in [1000.0, 20_000.0, 400_000.0, 4e6] {
                let bound = bounds_s(&paths, Some(&channel), bytes).unwrap().0;
                for seed in 1..=5 {
                    let fastest = fastest(&channel, bytes, seed);
                    assert!(
                        bound <= fastest,
                        "{bytes} bytes over {phy} at {retry}: {bound} s, and the channel took {fastest}"
                    );
                }
            }
        }
    }

    #[test]
    fn bound_of_one_station_is_near_what_its_channel_brings() {
        let text = "description = \"\"\n[channel]\n[link.a]\nphy = \"802.11n/20MHz/MCS7\"\nqueue = \"100000p\"\n\
                    [link.b]\nphy = \"802.11n/20MHz/MCS0\"\nqueue = \"100000p\"\ncap = \"1bit\"\n";
        let channel = ChannelConfig::parse("test", text).unwrap();
        let bound = bounds_s(&paths_of(&channel), Some(&channel), 40e6).unwrap().0;
        let fastest = fastest(&channel, 40e6, 1);
        // Two stations contend: its own, and the access point for the ACKs.
        assert!(bound <= fastest && bound > 0.9 * fastest, "{bound} of {fastest}");
    }

    proptest! {
        #[test]
        fn no_split_beats_the_bound(
            prices in prop::collection::vec(1e-8f64..1e-5, 2), caps in prop::collection::vec(1e4f64..1e7, 2),
            starts in prop::collection::vec(0.0f64..1.0, 2), bytes in 1e5f64..1e8, share in 0.0f64..=1.0,
        ) {
            let links = sharing([link(caps[0], starts[0]), link(caps[1], starts[1])], &[[prices[0], prices[1]]], 0.0);
            let bound = links.least_time_s(bytes).unwrap();
            // The time that this split needs: the channel for both, and each link for its own.
            let split = [bytes * share, bytes * (1.0 - share)];
            let channel = split[0] * prices[0] + split[1] * prices[1];
            let own = (0..2).map(|i| if split[i] > 0.0 { starts[i] + split[i] / caps[i] } else { 0.0 });
            let needs = own.fold(channel, f64::max);
            prop_assert!(bound <= needs * (1.0 + 1e-9), "{bound} s against {needs} s");
        }
    }
}
