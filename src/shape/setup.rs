//! The links as people ask for them: options of the command line, and the profiles, channel and script that they name.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::backend::{BackendChoice, ShapingRequest};
use super::netem;
use crate::config::channel;
use crate::config::channel::ChannelConfig;
use crate::config::profile::Profile;
use crate::config::script::{Script, To};
use crate::units::{LinkId, seed};

/// The options that each command has that shapes links.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LinkOptions {
    /// Profile of the link to server a: a name or a .toml file; without one the link is not shaped
    #[arg(long, env = "TWINLINK_LINK_A", help_heading = "Links", value_name = "PROFILE")]
    pub link_a: Option<String>,
    /// Profile of the link to server b
    #[arg(long, env = "TWINLINK_LINK_B", help_heading = "Links", value_name = "PROFILE")]
    pub link_b: Option<String>,
    /// A wireless channel that both links share, by name or as a .toml file; they need no profile then
    #[arg(long, env = "TWINLINK_CHANNEL", help_heading = "Links", value_name = "CHANNEL")]
    pub channel: Option<String>,
    /// Backend that shapes the links
    #[arg(long, env = "TWINLINK_BACKEND", help_heading = "Links", default_value = "auto")]
    pub backend: BackendChoice,
    /// Seed of everything random in the links, at most 2^53
    #[arg(long, env = "TWINLINK_SEED", help_heading = "Links", default_value_t = 1, value_parser = seed, allow_hyphen_values = true)]
    pub seed: u64,
}

impl LinkOptions {
    /// Returns true if they say how the links are, even that nothing shapes them.
    pub(crate) fn are_given(&self) -> bool {
        let named = [&self.link_a, &self.link_b, &self.channel].iter().any(|name| name.is_some());
        named || self.backend == BackendChoice::None
    }

    /// Loads the links' profiles and channel, and the script of their changes.
    ///
    /// # Errors
    /// One of them is not found or invalid, or the script changes a link that cannot be changed.
    pub(crate) fn load(&self, script: Option<&Path>) -> Result<LinkSetup> {
        let channel = self.channel.as_deref().map(ChannelConfig::load).transpose()?;
        let profiles = channel::profiles(channel.as_ref(), [self.link_a.as_deref(), self.link_b.as_deref()])?;
        let script = script.map(Script::load).transpose()?;
        let changed = script.iter().flat_map(Script::links);
        for link in changed {
            if self.backend == BackendChoice::None {
                bail!("the script changes link {link}, and --backend none shapes nothing: leave one out");
            }
            if channel.as_ref().is_some_and(|channel| channel.link(link).is_some()) {
                bail!("the script changes link {link}, which is on the channel and follows its channel file");
            }
        }
        let setup = LinkSetup { profiles, channel, script, capture: None };
        setup.check(self.backend)?;
        Ok(setup)
    }
}

/// How the links are to be shaped. Bad profiles are errors before anything is touched.
#[derive(Clone, Debug)]
pub(crate) struct LinkSetup {
    pub profiles: [Option<Profile>; 2],
    pub channel: Option<ChannelConfig>,
    /// The changes during the run.
    pub script: Option<Script>,
    /// The new file in which the shaper says what became of each packet.
    pub capture: Option<PathBuf>,
}

impl LinkSetup {
    /// Adds the file of a capture.
    ///
    /// # Errors
    /// Nothing is shaped, or by another backend than the one that sees each packet.
    pub(crate) fn with_capture(self, file: Option<&Path>, backend: BackendChoice) -> Result<LinkSetup> {
        if file.is_some() && !self.shapes() {
            bail!("cannot capture: no link is shaped; name a profile with --link-a or --link-b");
        }
        if file.is_some() && !matches!(backend, BackendChoice::Auto | BackendChoice::Named("userspace")) {
            bail!("cannot capture: only the userspace backend sees each packet; leave --backend out");
        }
        Ok(LinkSetup { capture: file.map(Path::to_path_buf), ..self })
    }

    /// Refuses what the backend that was asked for can do on no kernel.
    fn check(&self, backend: BackendChoice) -> Result<()> {
        if backend != BackendChoice::Named(netem::NAME) {
            return Ok(());
        }
        let changes = self.script.iter().flat_map(|script| &script.changes);
        let changed = changes.filter_map(|change| match &change.to {
            To::Profile(profile) => Some(&**profile),
            To::Clear => None,
        });
        let profiles = self.profiles.iter().flatten().chain(changed);
        netem::check::check_config(profiles, self.channel.is_some()).map_err(|refusal| refusal.error)
    }

    /// Returns true if a link is to be shaped.
    pub(crate) fn shapes(&self) -> bool {
        self.profiles.iter().any(Option::is_some)
    }

    /// Returns the profiles' names.
    pub(crate) fn names(&self) -> [Option<String>; 2] {
        self.profiles.each_ref().map(|profile| profile.as_ref().map(|profile| profile.name.clone()))
    }

    /// Returns the links to shape, each with the address of its server.
    ///
    /// # Errors
    /// `server` fails for one of them.
    pub(crate) fn requests(&self, server: impl Fn(LinkId) -> Result<IpAddr>) -> Result<Vec<ShapingRequest>> {
        let shaped = LinkId::BOTH.into_iter().zip(&self.profiles);
        let shaped = shaped.filter_map(|(link, profile)| Some((link, profile.clone()?)));
        shaped.map(|(link, profile)| Ok(ShapingRequest { link, server: server(link)?, profile })).collect()
    }
}
