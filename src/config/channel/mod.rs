//! Channel files: the shared channel that a `.toml` file in `netem/channels` describes, strictly validated.
//!
//! A channel file names the stations of one access point. A link has one wireless crossing where one of
//! its ends is a station, and two where both are, for then the access point passes it on. Knows
//! nothing of packets or of the kernel.

mod phy_name;
mod throughput;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::file::{self, FileSource, Library, profiles_folder};
use super::profile::load;
use super::profile::{Profile, Queue, Shape};
use crate::units::{ByteCount, Delay, Direction, LinkId, Nanos, Percent, Rate};
use crate::wifi::access::AccessCategory;
pub use crate::wifi::evidence::ChannelError;
use crate::wifi::evidence::{self, ChannelKind};
use crate::wifi::exchange::{BLOCK_ACK_WINDOW, Transmitter, TurnLimits};
use crate::wifi::phy::{Band, Phy, Standard, Timing};
use phy_name::PhyName;

/// A shared channel and what is on it.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelConfig {
    /// The name that it was asked for by.
    pub name: String,
    pub description: String,
    pub channel: Channel,
    /// The client as a station; none where it is wired to the access point.
    pub client: Option<Station>,
    /// By [`LinkId::index`]; none for a link that is not on the channel.
    pub links: [Option<ChannelLink>; 2],
}

/// The rules of the channel: the length of turns, and how they are shared.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// The most packets in an A-MPDU; 1 for no aggregation. Without it 64, or 1 with 802.11a, b and g.
    pub ampdu: Option<u32>,
    /// The longest A-MPDU; without it what the standard allows.
    pub ampdu_bytes: Option<ByteCount>,
    /// The longest turn; a single packet may pass it. Without it a turn is one exchange.
    pub txop: Option<Delay>,
    /// Whether each turn begins with RTS and CTS.
    #[serde(default)]
    pub rts_cts: bool,
    /// How often a packet is sent before it is lost.
    #[serde(default = "usual_transmissions")]
    pub transmissions: u32,
    /// The access category of all packets; without it best effort, or DCF with 802.11a, b and g.
    pub access: Option<AccessCategory>,
    /// How the access point shares its own turns among the stations that it sends to.
    #[serde(default)]
    pub fair: Fair,
}

/// 802.11's usual limit (dot11ShortRetryLimit, annex C).
fn usual_transmissions() -> u32 {
    7
}

/// The quantity that the access point's downlink shares evenly: turns or airtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fair {
    #[default]
    Turns,
    Airtime,
}

/// A sender or receiver on the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    AccessPoint,
    Client,
    Server(LinkId),
}

impl Node {
    /// Returns the name that logs use.
    pub fn name(self) -> &'static str {
        match self {
            Node::AccessPoint => "ap",
            Node::Client => "client",
            Node::Server(LinkId::A) => "server-a",
            Node::Server(LinkId::B) => "server-b",
        }
    }
}

/// One transmission of a packet on its way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hop {
    pub from: Node,
    pub to: Node,
    /// The sender's radio, at the rate that it uses for this receiver.
    pub radio: Transmitter,
}

/// A radio: how it and the access point send to each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Station {
    pub phy: Phy,
    /// The share of packets that arrive damaged and are repeated.
    pub retry: Percent,
    /// The access category of its packets, where it is not the channel's.
    pub access: Option<AccessCategory>,
}

/// A link on the channel: its server's radio, and the path behind the channel.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelLink {
    /// The server as a station; none where it is wired to the access point.
    pub server: Option<Station>,
    /// The most that the link carries in each direction, whatever the channel allows.
    pub cap: Option<Rate>,
    pub delay: Delay,
    pub jitter: Delay,
    pub queue: Queue,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChannelFile {
    description: String,
    channel: Channel,
    client: Option<FileStation>,
    #[serde(default)]
    link: BTreeMap<String, FileLink>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileStation {
    phy: PhyName,
    #[serde(default)]
    retry: Percent,
    access: Option<AccessCategory>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLink {
    phy: Option<PhyName>,
    retry: Option<Percent>,
    access: Option<AccessCategory>,
    cap: Option<Rate>,
    #[serde(default)]
    delay: Delay,
    #[serde(default)]
    jitter: Delay,
    queue: Queue,
}

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../netem/channels/", $name, ".toml")))),*]
    };
}

/// Name and text of every channel in `netem/channels`.
const BUILT_IN: &[(&str, &str)] = built_in![
    "course-scenario-1-near",
    "course-scenario-1-mid",
    "course-scenario-1-far",
    "course-scenario-2-near",
    "course-scenario-2-mid",
    "course-scenario-2-far",
];

const CHANNELS: Library = Library { kind: "channel", largest: 64 * 1024, built_in: BUILT_IN };

/// Where names are looked up: `channels` beside `$TWINLINK_PROFILES`, then `./netem/channels`.
fn folders() -> Result<Vec<PathBuf>> {
    let beside = profiles_folder()?.and_then(|dir| Some(dir.parent()?.join("channels")));
    let all = beside.into_iter().chain([PathBuf::from("netem/channels")]);
    Ok(all.filter(|dir| dir.is_dir()).collect())
}

/// Returns the names of all channels.
pub(crate) fn names() -> Vec<String> {
    let own = folders().map(|folders| CHANNELS.own_names(&folders)).unwrap_or_default();
    let mut names: Vec<String> =
        own.into_iter().chain(BUILT_IN.iter().map(|(name, _)| name.to_string())).collect();
    names.sort();
    names.dedup();
    names
}

impl ChannelConfig {
    /// Loads a channel by its name or the path of its file.
    ///
    /// # Errors
    /// Nothing of that name, a file that cannot be read, or anything in it that is invalid; the
    /// error names the file and the key.
    pub fn load(wanted: &str) -> Result<ChannelConfig> {
        let (text, source) = CHANNELS.find(Path::new(wanted), &folders()?)?;
        let (name, place) = match &source {
            FileSource::BuiltIn => (wanted.into(), format!("the built-in channel {wanted}")),
            FileSource::File(path) => {
                (path.file_stem().unwrap_or_default().to_string_lossy(), format!("the channel {source}"))
            }
        };
        ChannelConfig::parse(&name, &text).with_context(|| format!("{place} is invalid"))
    }

    /// Parses a channel file's text.
    ///
    /// # Errors
    /// Unknown keys, links and radios, stations that cannot share a channel, and values out of range.
    pub fn parse(name: &str, text: &str) -> Result<ChannelConfig> {
        let file: ChannelFile = file::parse(text)?;
        let mut config = ChannelConfig {
            name: name.to_string(),
            description: file.description,
            channel: file.channel,
            client: file.client.map(FileStation::station),
            links: [None, None],
        };
        if let Some(client) = &config.client {
            check_retry("client", client.retry)?;
        }
        for (key, link) in file.link {
            let id: LinkId =
                key.parse().map_err(|why: String| anyhow::anyhow!("the table [link.{key}]: {why}"))?;
            config.links[id.index()] = Some(link.checked(&key, config.client.is_some())?);
        }
        if config.links.iter().all(Option::is_none) {
            bail!("no link on the channel: write a table [link.a] or [link.b]");
        }
        config.channel.check()?;
        config.check_stations()?;
        for (id, link) in LinkId::BOTH.into_iter().zip(config.links.iter()) {
            let Some(ChannelLink { delay, jitter, queue, .. }) = *link else { continue };
            // The channel gives the rate, whatever it is.
            let shape = Shape { delay, jitter, ..Shape::plain(Rate::from_bits_per_s(1_000_000), queue) };
            shape.check().map_err(|problem| anyhow::anyhow!("link.{id}.{problem}"))?;
        }
        Ok(config)
    }

    /// Refuses stations that cannot share a channel, and aggregates that no radio has.
    fn check_stations(&self) -> Result<()> {
        let servers = LinkId::BOTH
            .into_iter()
            .filter_map(|link| Some((format!("link.{link}"), self.link(link)?.server?.phy)));
        let client = self.client.map(|client| ("client".to_string(), client.phy));
        let stations: Vec<(String, Phy)> = client.into_iter().chain(servers).collect();
        for (key, phy) in &stations[1..] {
            let (other_key, other) = &stations[0];
            if phy.band() != other.band() {
                let on = |phy: &Phy| if phy.band() == Band::Ghz2 { "2.4 GHz" } else { "5 GHz" };
                bail!(
                    "{other_key}.phy is on {} and {key}.phy on {}: stations of one access point share a \
                     channel. 802.11n has both bands, as in 802.11n/20MHz/MCS7/2.4GHz",
                    on(other),
                    on(phy)
                );
            }
            if (phy.standard() == Standard::B) != (other.standard() == Standard::B) {
                bail!(
                    "{other_key}.phy is {other} and {key}.phy is {phy}: 802.11b beside other stations needs \
                     protection, which is not modelled. Use 802.11b for all stations or for none"
                );
            }
        }
        let Channel { ampdu, ampdu_bytes, .. } = &self.channel;
        if (ampdu.is_some() || ampdu_bytes.is_some()) && !stations.iter().any(|(_, phy)| phy.aggregates()) {
            let key = if ampdu.is_some() { "ampdu" } else { "ampdu_bytes" };
            bail!("channel.{key} is for 802.11n and 802.11ac, and no station has such a radio: leave it out");
        }
        Ok(())
    }

    pub fn link(&self, link: LinkId) -> Option<&ChannelLink> {
        self.links[link.index()].as_ref()
    }

    /// Returns the transmissions that carry a packet of a link in a direction, in their order. A link that is
    /// not on the channel has none.
    pub fn hops(&self, link: LinkId, direction: Direction) -> Vec<Hop> {
        let Some(on_channel) = self.link(link) else { return Vec::new() };
        let server = on_channel.server.map(|server| (Node::Server(link), self.transmitter(&server)));
        let client = self.client.map(|client| (Node::Client, self.transmitter(&client)));
        let (sender, receiver) = match direction {
            Direction::Down => (server, client),
            Direction::Up => (client, server),
        };
        let first = sender.map(|(from, radio)| Hop { from, to: Node::AccessPoint, radio });
        let second = receiver.map(|(to, radio)| Hop { from: Node::AccessPoint, to, radio });
        first.into_iter().chain(second).collect()
    }

    /// Returns the times that all stations of the channel keep.
    pub fn timing(&self) -> Timing {
        let servers = self.links.iter().flatten().filter_map(|link| link.server);
        let station = self.client.into_iter().chain(servers).next();
        station.expect("a channel has a station").phy.timing()
    }

    fn transmitter(&self, station: &Station) -> Transmitter {
        let Channel { ampdu, ampdu_bytes, txop, rts_cts, transmissions, access, .. } = &self.channel;
        let limits = TurnLimits {
            frames: ampdu.unwrap_or(BLOCK_ACK_WINDOW),
            bytes: ampdu_bytes.map(|bytes| bytes.0),
            txop: txop.map(|txop| txop.0.as_nanos() as Nanos),
            rts_cts: *rts_cts,
            transmissions: *transmissions,
        };
        Transmitter::new(station.phy, station.access.or(*access), limits, station.retry)
    }

    /// Returns by how much the model of this channel may be off.
    pub(crate) fn model_error(&self) -> ChannelError {
        let mut senders: Vec<Node> = Vec::new();
        for hop in LinkId::BOTH.into_iter().flat_map(|link| self.hops(link, Direction::Down)) {
            if !senders.contains(&hop.from) {
                senders.push(hop.from);
            }
        }
        let servers = self.links.iter().flatten().filter_map(|link| link.server);
        let radios: Vec<Station> = self.client.into_iter().chain(servers).collect();
        let phy = radios.first().expect("a channel has a station").phy;
        let kind = ChannelKind {
            standard: match phy.standard() {
                Standard::A | Standard::G => Standard::A,
                Standard::B => Standard::B,
                Standard::N | Standard::Ac => Standard::N,
            },
            stations: senders.len(),
            unlike: radios.iter().any(|radio| radio.phy.rate() != phy.rate()),
            aggregates: phy.aggregates() && self.channel.ampdu != Some(1),
            txop: self.channel.txop.is_some(),
        };
        let access = radios.iter().filter_map(|radio| radio.access.or(self.channel.access));
        let lacks = [
            (phy.standard() == Standard::Ac, "802.11ac"),
            (phy.standard() == Standard::G, "802.11g"),
            (self.channel.rts_cts, "RTS/CTS"),
            (access.into_iter().any(|access| access != AccessCategory::BestEffort), "its access categories"),
            (radios.iter().any(|radio| !radio.retry.is_zero()), "repeats"),
            (
                LinkId::BOTH.into_iter().any(|link| self.hops(link, Direction::Down).len() > 1),
                "two crossings",
            ),
        ];
        let not_compared = lacks.into_iter().filter(|lack| lack.0).map(|lack| lack.1.into()).collect();
        ChannelError { not_compared, ..evidence::nearest(kind) }
    }

    /// Returns a link on the channel as a shape, for logs and for the path behind the channel. Its rate is
    /// [`ChannelConfig::alone`].
    pub fn shape(&self, link: LinkId) -> Option<Shape> {
        let on_channel = self.link(link)?;
        let (delay, jitter) = (on_channel.delay, on_channel.jitter);
        Some(Shape { delay, jitter, ..Shape::plain(self.alone(link)?, on_channel.queue) })
    }

    /// Returns the same as a profile, both directions alike.
    pub fn profile(&self, link: LinkId) -> Option<Profile> {
        let shape = self.shape(link)?;
        Some(Profile {
            name: self.name.clone(),
            description: self.description.clone(),
            down: shape.clone(),
            up: shape,
        })
    }
}

/// Returns the profiles of both links: the channel file's for a link on the channel, else the one named, if
/// any.
///
/// # Errors
/// A profile cannot be loaded, or is named for a link on the channel.
pub fn profiles(channel: Option<&ChannelConfig>, named: [Option<&str>; 2]) -> Result<[Option<Profile>; 2]> {
    let of = |link: LinkId| match (channel.and_then(|channel| channel.profile(link)), named[link.index()]) {
        (Some(_), Some(_)) => bail!(
            "link {link} is on the shared channel, so it has no profile of its own: leave \
             --link-{link} out"
        ),
        (None, Some(name)) => load::load(name, link).map(Some),
        (on_channel, None) => Ok(on_channel),
    };
    Ok([of(LinkId::A)?, of(LinkId::B)?])
}

impl Channel {
    /// Refuses values that no station can keep.
    fn check(&self) -> Result<()> {
        if let Some(ampdu) = self.ampdu.filter(|ampdu| !(1..=BLOCK_ACK_WINDOW).contains(ampdu)) {
            bail!("channel.ampdu is {ampdu}: an A-MPDU carries 1 to {BLOCK_ACK_WINDOW} packets");
        }
        if let Some(bytes) = self.ampdu_bytes.filter(|bytes| bytes.0 == 0) {
            bail!("channel.ampdu_bytes is {bytes}: give an A-MPDU some bytes, as in \"48KiB\"");
        }
        if self.txop.is_some_and(Delay::is_zero) {
            bail!("channel.txop is 0: leave it out for turns of one exchange, or write a time as in \"4ms\"");
        }
        if !(1..=255).contains(&self.transmissions) {
            bail!("channel.transmissions is {}: a packet is sent 1 to 255 times", self.transmissions);
        }
        Ok(())
    }
}

impl FileStation {
    fn station(self) -> Station {
        Station { phy: self.phy.0, retry: self.retry, access: self.access }
    }
}

impl FileLink {
    fn checked(self, key: &str, client_is_wireless: bool) -> Result<ChannelLink> {
        let server = match (self.phy, self.retry, self.access) {
            (Some(PhyName(phy)), retry, access) => {
                Some(Station { phy, retry: retry.unwrap_or_default(), access })
            }
            (None, Some(_), _) => {
                bail!("link.{key}.retry is given without link.{key}.phy: a wired server repeats nothing")
            }
            (None, None, Some(_)) => {
                bail!("link.{key}.access is given without link.{key}.phy: a wired server does not contend")
            }
            (None, None, None) => None,
        };
        if server.is_none() && !client_is_wireless {
            bail!(
                "link.{key} crosses no channel: give link.{key}.phy or a [client] with a phy, or leave \
                 the table out"
            );
        }
        if let Some(server) = &server {
            check_retry(&format!("link.{key}"), server.retry)?;
        }
        Ok(ChannelLink { server, cap: self.cap, delay: self.delay, jitter: self.jitter, queue: self.queue })
    }
}

fn check_retry(key: &str, retry: Percent) -> Result<()> {
    if retry.percent() > 90.0 {
        bail!("{key}.retry is {retry}: beyond 90% next to nothing would pass");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        description = "two stations"
        [channel]
        [link.a]
        phy = "802.11a/54"
        queue = "100p"
        [link.b]
        phy = "802.11a/6"
        retry = "5%"
        cap = "3mbit"
        delay = "1ms"
        queue = "100ms"
    "#;

    fn refusal(text: &str) -> String {
        format!("{:#}", ChannelConfig::parse("x", text).unwrap_err())
    }

    #[test]
    fn a_good_file_is_read_as_it_is_written() {
        let config = ChannelConfig::parse("x", GOOD).unwrap();
        assert_eq!(config.channel.fair, Fair::Turns);
        let b = config.link(LinkId::B).unwrap();
        assert_eq!(b.server.unwrap().phy.to_string(), "802.11a/6");
        assert_eq!(b.queue.to_string(), "100ms");
        assert_eq!(config.alone(LinkId::B).unwrap().to_string(), "3mbit");
        let hops = config.hops(LinkId::A, Direction::Down);
        assert_eq!((hops.len(), hops[0].radio.limits.transmissions), (1, 7));
        assert!(!hops[0].radio.access.qos);
    }

    #[test]
    fn a_link_between_stations_crosses_twice() {
        let text = GOOD.replace("[link.a]", "[client]\nphy = \"802.11a/24\"\n[link.a]");
        let config = ChannelConfig::parse("x", &text).unwrap();
        let names = |direction| -> Vec<(&str, &str, String)> {
            let hops = config.hops(LinkId::B, direction).into_iter();
            hops.map(|hop| (hop.from.name(), hop.to.name(), hop.radio.phy().to_string())).collect()
        };
        let (slow, fast) = ("802.11a/6".to_string(), "802.11a/24".to_string());
        assert_eq!(
            names(Direction::Down),
            [("server-b", "ap", slow.clone()), ("ap", "client", fast.clone())]
        );
        assert_eq!(names(Direction::Up), [("client", "ap", fast), ("ap", "server-b", slow)]);
    }

    #[test]
    fn invalid_files_are_refused_by_the_name_of_the_key() {
        let channel = |keys: &str| GOOD.replace("[channel]", &format!("[channel]\n{keys}"));
        let both = |a: &str, b: &str| GOOD.replace("802.11a/54", a).replace("802.11a/6", b);
        let cases = [
            (GOOD.replace("[link.b]", "[link.c]"), "link.c"),
            (GOOD.replace("802.11a/6", "802.11a/7"), "did you mean 802.11a/6"),
            (GOOD.replace("phy = \"802.11a/54\"", ""), "link.a crosses no channel"),
            (GOOD.replace("phy = \"802.11a/6\"", ""), "link.b.retry"),
            (GOOD.replace("phy = \"802.11a/54\"", "pyh = \"802.11a/54\""), "pyh"),
            (GOOD.replace("\"5%\"", "\"95%\""), "link.b.retry"),
            (GOOD.replace("\"5%\"", "\"5\""), "unit"),
            (GOOD.replace("\"100ms\"", "{ kind = \"codel\", limit = \"1ms\" }"), "queue.limit"),
            (channel("overhead = \"170us\""), "overhead"),
            (channel("ampdu = 4"), "channel.ampdu is for 802.11n"),
            (GOOD.replace("\"1ms\"", "\"90s\""), "delay: 90s is out of range"),
            (channel("txop = \"0ms\""), "channel.txop"),
            (channel("transmissions = 0"), "channel.transmissions"),
            (channel("access = \"bulk\""), "bulk"),
            (channel("fair = \"luck\""), "luck"),
            (both("802.11n/20MHz/MCS7", "802.11n/20MHz/MCS0/2.4GHz"), "on 5 GHz and link.b.phy on 2.4 GHz"),
            (both("802.11g/54", "802.11b/11"), "802.11b for all stations or for none"),
            (both("802.11n/20MHz/MCS7", "802.11a/6").replace("[channel]", "[channel]\nampdu = 65"), "ampdu"),
            (GOOD.split("[link.a]").next().unwrap().to_string(), "no link on the channel"),
        ];
        for (text, word) in cases {
            let refusal = refusal(&text);
            assert!(refusal.contains(word), "expected {word} in: {refusal}");
        }
    }

    #[test]
    fn access_of_a_station_replaces_that_of_the_channel() {
        let text = GOOD
            .replace("[channel]", "[channel]\naccess = \"video\"")
            .replace("retry = \"5%\"", "access = \"voice\"");
        let config = ChannelConfig::parse("x", &text).unwrap();
        let window = |link| config.hops(link, Direction::Down)[0].radio.access.cw_min;
        assert_eq!((window(LinkId::A), window(LinkId::B)), (7, 3));
    }

    #[test]
    fn every_scenario_that_ships_is_valid_and_says_where_its_numbers_are_from() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("netem/channels");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let config = ChannelConfig::load(path.to_str().unwrap()).unwrap();
            assert_eq!(ChannelConfig::load(&config.name).unwrap(), config, "not built in");
            let text = std::fs::read_to_string(&path).unwrap();
            for line in text.lines().filter(|line| line.starts_with("phy") || line.starts_with("retry")) {
                assert!(line.contains("judgement"), "{}: {line}", path.display());
            }
            seen += 1;
        }
        assert_eq!(seen, 6);
    }
}
