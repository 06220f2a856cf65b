//! Channel files: the shared channel that a `.toml` file in `netem/channels` describes, strictly validated.
//!
//! A channel file names the stations of one access point. A link has one wireless crossing where one of
//! its ends is a station, and two where both are, for then the access point passes it on. Knows
//! nothing of packets or of the kernel.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::file::{FileSource, Library};
use super::profile::load;
use super::profile::{FRAME, Loss, Profile, Queue, Shape};
use crate::units::{Delay, LinkId, Percent, Rate};

/// An ACK without data, as Ethernet frame: IPv4 and TCP headers, with timestamps.
pub const ACK_FRAME: u64 = 66;

/// A shared channel and what is on it.
#[derive(Clone, Debug, PartialEq, Serialize)]
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

/// The cost of a turn on the channel, and how turns are shared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// Once a turn: contention, preamble and acknowledgement.
    pub overhead: Delay,
    /// The most packets in a turn (A-MPDU).
    #[serde(default = "one")]
    pub ampdu: u32,
    /// The longest turn; a single packet may pass it.
    #[serde(default = "long_txop")]
    pub txop: Delay,
    /// How the access point shares its own turns among the stations that it sends to.
    #[serde(default)]
    pub fair: Fair,
}

fn one() -> u32 {
    1
}

/// 802.11's limit on the time of one aggregate is 5.484 ms.
fn long_txop() -> Delay {
    Delay(std::time::Duration::from_micros(5484))
}

/// The quantity that the access point's downlink shares evenly: turns or airtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fair {
    #[default]
    Turns,
    Airtime,
}

/// A radio: the rate at which it and the access point send to each other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Station {
    pub phy: Rate,
    /// The share of transmissions that fail and are repeated.
    #[serde(default)]
    pub retry: Percent,
}

/// A link on the channel: its server's radio, and the path behind the channel.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    client: Option<Station>,
    #[serde(default)]
    link: BTreeMap<String, FileLink>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLink {
    phy: Option<Rate>,
    retry: Option<Percent>,
    cap: Option<Rate>,
    #[serde(default)]
    delay: Delay,
    #[serde(default)]
    jitter: Delay,
    queue: Queue,
}

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../netem/channels/", $name, ".toml")))),*]
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
fn folders() -> Vec<PathBuf> {
    let profiles = std::env::var_os("TWINLINK_PROFILES").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let beside = profiles.and_then(|dir| Some(dir.parent()?.join("channels")));
    beside.into_iter().chain([PathBuf::from("netem/channels")]).filter(|dir| dir.is_dir()).collect()
}

impl ChannelConfig {
    /// Loads a channel by its name or the path of its file.
    ///
    /// # Errors
    /// Nothing of that name, a file that cannot be read, or anything in it that is invalid; the
    /// error names the file and the key.
    pub fn load(wanted: &str) -> Result<ChannelConfig> {
        let (text, source) = CHANNELS.find(Path::new(wanted), &folders())?;
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
    /// Unknown keys and links, rates of 0, and values out of range.
    pub fn parse(name: &str, text: &str) -> Result<ChannelConfig> {
        let file: ChannelFile = toml::from_str(text)?;
        let mut config = ChannelConfig {
            name: name.to_string(),
            description: file.description,
            channel: file.channel,
            client: file.client,
            links: [None, None],
        };
        if config.channel.ampdu == 0 || config.channel.ampdu > 64 {
            bail!("channel.ampdu is {}: a turn carries 1 to 64 packets", config.channel.ampdu);
        }
        if config.channel.txop.is_zero() {
            bail!("channel.txop is 0: give a turn some time, as in \"4ms\"");
        }
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
        Ok(config)
    }

    pub fn link(&self, link: LinkId) -> Option<&ChannelLink> {
        self.links[link.index()].as_ref()
    }

    /// The radios that a link crosses, the server's first.
    pub fn crossings(&self, link: LinkId) -> Vec<Station> {
        let Some(on_channel) = self.link(link) else { return Vec::new() };
        on_channel.server.into_iter().chain(self.client).collect()
    }

    /// The airtime that a frame of `bytes` takes over all its crossings when every turn
    /// carries as many such frames as it may: Σ (overhead / n + bits / phy) / (1 − retry).
    ///
    /// A turn costs its overhead once and each frame its bits over the radio's rate (Heusse,
    /// Rousseau, Berger-Sabbatel, Duda: "Performance anomaly of 802.11b", INFOCOM 2003); n is
    /// bound by the aggregate's limit and by the time of a turn.
    pub fn least_airtime_s(&self, link: LinkId, bytes: u64) -> f64 {
        self.airtime_s(link, bytes, |station| 1.0 / (1.0 - station.retry.probability()))
    }

    /// The same with another number of transmissions a frame.
    fn airtime_s(&self, link: LinkId, bytes: u64, tries: impl Fn(Station) -> f64) -> f64 {
        let overhead = self.channel.overhead.0.as_secs_f64();
        let txop = self.channel.txop.0.as_secs_f64();
        let crossing = |station: Station| {
            let frame_s = bytes as f64 / station.phy.bytes_per_s();
            let fit = ((txop - overhead) / frame_s).floor().clamp(1.0, f64::from(self.channel.ampdu));
            (overhead / fit + frame_s) * tries(station)
        };
        self.crossings(link).into_iter().map(crossing).sum()
    }

    /// Returns the least airtime (seconds) for a byte of payload: a full segment with `payload` bytes in a
    /// full frame, and its ACKs, `acks` a segment (0.5 with delayed ACKs).
    ///
    /// Chance can repeat fewer of `segments` than the mean. Their transmissions are n / (1 − r) on average
    /// with a deviation of √(n·r) / (1 − r) (negative binomial); the result uses five deviations below the
    /// mean.
    pub fn least_airtime_per_payload_byte_s(
        &self,
        link: LinkId,
        payload: u64,
        acks: f64,
        segments: f64,
    ) -> f64 {
        let tries = |station: Station| {
            let retry = station.retry.probability();
            ((1.0 - 5.0 * (retry / segments.max(1.0)).sqrt()) / (1.0 - retry)).max(1.0)
        };
        let airtime = |bytes| self.airtime_s(link, bytes, tries);
        (airtime(FRAME) + acks * airtime(ACK_FRAME)) / payload as f64
    }

    /// Returns the highest rate that a link can carry one way, in frames, if no transmission fails.
    pub fn most(&self, link: LinkId) -> Option<Rate> {
        let cap = self.link(link)?.cap;
        let most = Rate::from_bits_per_s((FRAME as f64 * 8.0 / self.airtime_s(link, FRAME, |_| 1.0)) as u64);
        Some(cap.map_or(most, |cap| cap.min(most)))
    }

    /// Returns the rate in frames that a link carries one way when it is alone on the channel: bits over
    /// airtime, at most its cap.
    pub fn alone(&self, link: LinkId) -> Option<Rate> {
        let on_channel = self.link(link)?;
        let bits_per_s = FRAME as f64 * 8.0 / self.least_airtime_s(link, FRAME);
        let most = Rate::from_bits_per_s((bits_per_s as u64).max(1));
        Some(on_channel.cap.map_or(most, |cap| cap.min(most)))
    }

    /// Returns a link on the channel as a shape, for logs and for the path behind the channel. Its rate is
    /// [`ChannelConfig::alone`].
    pub fn shape(&self, link: LinkId) -> Option<Shape> {
        let on_channel = self.link(link)?;
        Some(Shape {
            rate: self.alone(link)?,
            delay: on_channel.delay,
            jitter: on_channel.jitter,
            distribution: None,
            loss: Loss::default(),
            queue: on_channel.queue,
            reorder: Percent::ZERO,
            duplicate: Percent::ZERO,
            corrupt: Percent::ZERO,
            correlation: None,
            trace: None,
        })
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
        (None, Some(name)) => load::load(name).map(Some),
        (on_channel, None) => Ok(on_channel),
    };
    Ok([of(LinkId::A)?, of(LinkId::B)?])
}

impl FileLink {
    fn checked(self, key: &str, client_is_wireless: bool) -> Result<ChannelLink> {
        let server = match (self.phy, self.retry) {
            (Some(phy), retry) => Some(Station { phy, retry: retry.unwrap_or_default() }),
            (None, Some(_)) => {
                bail!("link.{key}.retry is given without link.{key}.phy: a wired server repeats nothing")
            }
            (None, None) => None,
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
        overhead = "170us"
        [link.a]
        phy = "54mbit"
        queue = "100p"
        [link.b]
        phy = "6mbit"
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
        assert_eq!(config.channel.ampdu, 1);
        assert_eq!(config.channel.fair, Fair::Turns);
        let b = config.link(LinkId::B).unwrap();
        assert_eq!(b.server.unwrap().phy.to_string(), "6mbit");
        assert_eq!(b.queue.to_string(), "100ms");
        assert_eq!(config.alone(LinkId::B).unwrap().to_string(), "3mbit");
        assert_eq!(config.crossings(LinkId::A).len(), 1);
    }

    #[test]
    fn an_invalid_value_is_refused_by_its_name() {
        let cases = [
            (GOOD.replace("[link.b]", "[link.c]"), "link.c"),
            (GOOD.replace("\"6mbit\"", "\"0mbit\""), "rate of 0"),
            (GOOD.replace("phy = \"54mbit\"", ""), "link.a crosses no channel"),
            (GOOD.replace("phy = \"6mbit\"", ""), "link.b.retry"),
            (GOOD.replace("overhead", "overhed"), "overhed"),
            (GOOD.replace("phy = \"54mbit\"", "pyh = \"54mbit\""), "pyh"),
            (GOOD.replace("\"5%\"", "\"95%\""), "link.b.retry"),
            (GOOD.replace("\"5%\"", "\"5\""), "unit"),
            (GOOD.replace("\"170us\"", "\"170us\"\nampdu = 0"), "channel.ampdu"),
            (GOOD.replace("\"170us\"", "\"170us\"\nfair = \"luck\""), "luck"),
            (GOOD.split("[link.a]").next().unwrap().to_string(), "no link on the channel"),
        ];
        for (text, word) in cases {
            let refusal = refusal(&text);
            assert!(refusal.contains(word), "expected {word} in: {refusal}");
        }
    }

    #[test]
    fn the_least_airtime_is_the_formula() {
        let config = ChannelConfig::parse("x", GOOD).unwrap();
        let expected = 170e-6 + 1514.0 * 8.0 / 54e6;
        assert!((config.least_airtime_s(LinkId::A, 1514) - expected).abs() < 1e-9);
        let many = GOOD.replace("\"170us\"", "\"170us\"\nampdu = 32\ntxop = \"4ms\"");
        let config = ChannelConfig::parse("x", &many).unwrap();
        // 3.83 ms hold 17 frames of 224.3 µs, fewer than the aggregate's 32.
        let expected = 170e-6 / 17.0 + 1514.0 * 8.0 / 54e6;
        assert!((config.least_airtime_s(LinkId::A, 1514) - expected).abs() < 1e-9);
        let both = many.replace("[link.a]", "[client]\nphy = \"54mbit\"\n[link.a]");
        let config = ChannelConfig::parse("x", &both).unwrap();
        assert!((config.least_airtime_s(LinkId::A, 1514) - 2.0 * expected).abs() < 1e-9);
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
