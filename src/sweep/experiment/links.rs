//! The links of a condition: a shared channel, or profiles with a few values changed.

use std::path::Path;

use anyhow::{Result, anyhow, bail, ensure};
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer};

use crate::config::channel::ChannelConfig;
use crate::config::profile::load;
use crate::config::profile::{Loss, Profile, Queue, Shape};
use crate::config::script::{Change, Script, To};
use crate::config::traffic::Cross;
use crate::shape::setup::LinkSetup;
use crate::units::{Delay, LinkId, Rate};

/// A link as a condition describes it: a profile, and values that take the place of its own in both
/// directions.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Changed {
    profile: String,
    rate: Option<Rate>,
    /// One way.
    delay: Option<Delay>,
    jitter: Option<Delay>,
    loss: Option<Loss>,
    queue: Option<Queue>,
    cross: Option<Cross>,
}

/// The same, which may also be written as the profile's name alone.
#[derive(Clone, Debug)]
pub(crate) struct LinkChoice(Changed);

// By hand: an untagged enum would answer every mistake with "did not match any variant".
impl<'de> Deserialize<'de> for LinkChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LinkVisitor;
        impl<'de> serde::de::Visitor<'de> for LinkVisitor {
            type Value = LinkChoice;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str(
                    "a profile such as \"wifi-near\" or a table such as \
                     { profile = \"wifi-near\", delay = \"50ms\" }",
                )
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<LinkChoice, E> {
                Ok(LinkChoice(Changed { profile: name.to_string(), ..Changed::default() }))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<LinkChoice, A::Error> {
                Changed::deserialize(MapAccessDeserializer::new(map)).map(LinkChoice)
            }
        }
        deserializer.deserialize_any(LinkVisitor)
    }
}

/// A change of a link in the middle of a run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimedChange {
    after: Delay,
    link: String,
    profile: LinkChoice,
}

/// Loads what a condition names. A link without a profile that is on no channel is not shaped. With
/// `independent`, a channel's links keep what each of them carries alone on the channel, and no longer
/// share it: the control for what sharing does.
///
/// # Errors
/// Nothing is named, something that is named cannot be loaded, or a link on the channel has a
/// profile too.
pub(crate) fn load(
    channel: Option<&str>,
    independent: bool,
    links: [Option<LinkChoice>; 2],
    changes: Vec<TimedChange>,
    folder: &Path,
) -> Result<LinkSetup> {
    let channel = channel.map(|name| ChannelConfig::load(&beside(folder, name))).transpose()?;
    ensure!(
        channel.is_some() || !independent,
        "independent = true is for the links of a shared channel; those with profiles are independent"
    );
    ensure!(
        channel.is_some() || links.iter().any(Option::is_some),
        "it names neither profiles (link_a, link_b) nor a channel (channel)"
    );
    let mut profiles = [None, None];
    for (link, wanted) in LinkId::BOTH.into_iter().zip(links) {
        let on_channel = channel.as_ref().and_then(|channel| channel.profile(link));
        ensure!(
            on_channel.is_none() || wanted.is_none(),
            "link {link} is on the shared channel, so it has no profile of its own: leave link_{link} out"
        );
        profiles[link.index()] = match wanted {
            Some(wanted) => {
                Some(wanted.0.load(folder, link).map_err(|error| anyhow!("link_{link}: {error:#}"))?)
            }
            None if independent => on_channel
                .map(|profile| Profile { name: format!("{} link {link} alone", profile.name), ..profile }),
            None => on_channel,
        };
    }
    let channel = channel.filter(|_| !independent);
    let mut changes: Vec<Change> =
        changes.into_iter().map(|change| change.load(folder)).collect::<Result<_>>()?;
    changes.sort_by_key(|change| change.after);
    let script = (!changes.is_empty()).then_some(Script { changes });
    if let Some(link) = script.iter().flat_map(Script::links).find(|link| {
        profiles[link.index()].is_none() || channel.as_ref().is_some_and(|c| c.link(*link).is_some())
    }) {
        bail!("at changes link {link}, which has no profile of its own: give it link_{link}");
    }
    Ok(LinkSetup { profiles, channel, script, capture: None })
}

impl TimedChange {
    fn load(self, folder: &Path) -> Result<Change> {
        let link: LinkId = self.link.parse().map_err(|error: String| anyhow!("at: {error}"))?;
        let profile = self.profile.0.load(folder, link);
        let profile = profile.map_err(|error| anyhow!("at {} on link {link}: {error:#}", self.after))?;
        Ok(Change { after: self.after, link, to: To::Profile(Box::new(profile)) })
    }
}

impl Changed {
    fn load(self, folder: &Path, link: LinkId) -> Result<Profile> {
        let mut profile = load::load(&beside(folder, &self.profile), link)?;
        let changes = [
            self.rate.map(|rate| format!(", rate {rate}")),
            self.delay.map(|delay| format!(", delay {delay}")),
            self.jitter.map(|jitter| format!(", jitter {jitter}")),
            self.loss.map(|loss| format!(", loss {}", loss.mean())),
            self.queue.map(|queue| format!(", queue {queue}")),
            self.cross.map(|cross| format!(", cross {cross}")),
        ];
        for shape in [&mut profile.down, &mut profile.up] {
            if let Some(key) = self.key_of_trace(shape) {
                bail!(
                    "{key}: the profile {} takes it from its trace, step by step: leave {key} out",
                    self.profile
                );
            }
            self.apply(shape);
        }
        profile.name.extend(changes.into_iter().flatten());
        profile.check().map_err(|problem| anyhow!("the profile {}: {problem}", profile.name))?;
        Ok(profile)
    }

    /// Returns a key of this change that a shape's trace would overrule.
    fn key_of_trace(&self, shape: &Shape) -> Option<&'static str> {
        let steps = shape.trace.as_ref()?.steps();
        let delay = self.delay.is_some() && steps.iter().any(|step| step.delay.is_some());
        let loss = self.loss.is_some() && steps.iter().any(|step| step.loss.is_some());
        let keys = [("rate", self.rate.is_some()), ("delay", delay), ("loss", loss)];
        keys.into_iter().find_map(|(key, overruled)| overruled.then_some(key))
    }

    fn apply(&self, shape: &mut Shape) {
        shape.rate = self.rate.unwrap_or(shape.rate);
        shape.delay = self.delay.unwrap_or(shape.delay);
        shape.jitter = self.jitter.unwrap_or(shape.jitter);
        if shape.jitter.is_zero() {
            shape.distribution = None;
        }
        shape.loss = self.loss.unwrap_or(shape.loss);
        shape.queue = self.queue.unwrap_or(shape.queue);
        shape.cross = self.cross.or(shape.cross);
    }
}

/// A path starts at the experiment's folder; a name stays a name.
fn beside(folder: &Path, wanted: &str) -> String {
    if wanted.contains('/') || wanted.ends_with(".toml") {
        return folder.join(wanted).to_string_lossy().into_owned();
    }
    wanted.to_string()
}
