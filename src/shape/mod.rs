//! Links: the shaped paths between the client and each server.
//!
//! [`Shaper`] is the one owner of everything that a process shapes. It blocks; callers on tokio's
//! pool wrap it. `config` says what a link is like, [`guard`] where shaping is allowed, [`kernel_support`]
//! what the kernel can do; [`netem`] is the backend on the kernel's own qdiscs.
//!
//! [`userspace`] is the backend that holds packets itself: `emulate` says when they depart, and a thread of
//! [`userspace::nfqueue`] lets them go.

pub mod active_trace;
pub mod control;
pub mod guard;
pub mod kernel_support;
pub mod netem;
pub mod userspace;

use crate::shape::userspace::nfqueue;

use std::fmt;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::config::channel::ChannelConfig;
use crate::config::profile::{Profile, Shape};
use crate::units::{Direction, LinkId};
use active_trace::Playing;
use control::client::Row;
use guard::Lock;
use netem::tc::read;
use netem::{Netem, NetemLink};
use userspace::UserspaceLinks;

/// Which backend the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BackendChoice {
    /// Netem where it does the profile exactly, else userspace; where that cannot, netem nearly.
    Auto,
    Netem,
    Userspace,
    /// Shape nothing, even where profiles are named.
    None,
}

/// What carries a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    Netem,
    Userspace,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Backend::Netem => "netem",
            Backend::Userspace => "userspace",
        })
    }
}

/// A link to be shaped.
#[derive(Clone, Debug)]
pub struct ShapingRequest {
    pub link: LinkId,
    pub server: IpAddr,
    pub profile: Profile,
}

/// One direction of a link as it is now in force.
#[derive(Clone, Debug)]
pub struct ActiveShaping {
    pub link: LinkId,
    pub direction: Direction,
    pub backend: Backend,
    /// Why this backend, in a few words.
    pub why: String,
    pub profile: String,
    pub asked: Shape,
    /// What the kernel says when it is read back; null for userspace.
    pub kernel: serde_json::Value,
}

/// Counters of one direction since it was set up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    pub packets: u64,
    pub bytes: u64,
    /// Dropped because the queue was full.
    pub dropped_queue: u64,
    /// Dropped by the loss model; null where the backend counts all drops as one.
    pub dropped_loss: Option<u64>,
    /// Held now, those in the delay line included: the kernel can tell no other way.
    pub queue_packets: u64,
    pub queue_bytes: u64,
    /// The most packets that were held at once; null where the kernel holds them.
    #[serde(default)]
    pub queue_packets_max: Option<u64>,
    /// Mean size of the packets that have left, as the device or the model handed them on: a super-packet
    /// that was not cut counts as one. Null while there were none.
    #[serde(default)]
    pub packet_bytes: Option<f64>,
    /// The rate in force, kbit/s.
    pub rate_kbit: Option<f64>,
    /// How late departures were, worst since the last reading, ms; null where the kernel departs.
    pub lateness_ms: Option<f64>,
    /// The same for half of the packets, and for 99 of 100.
    #[serde(default)]
    pub lateness_p50_ms: Option<f64>,
    #[serde(default)]
    pub lateness_p99_ms: Option<f64>,
}

/// Owns the shaping of this network namespace for as long as it lives; clears it when dropped.
pub struct Shaper {
    netem: Netem,
    held: UserspaceLinks,
    applied: Vec<ActiveShaping>,
    choice: BackendChoice,
    seed: u64,
    /// Taken with the first link: who shapes nothing locks nobody out.
    lock: Option<Lock>,
    /// Whether traces are played as soon as they are set, and those that are.
    plays: bool,
    playing: Vec<Playing>,
    /// Faults of traces that nobody has asked for yet.
    faults: Vec<(LinkId, String)>,
}

impl Shaper {
    /// Checks everything first, then shapes all the links or none of them.
    ///
    /// Links that a shared channel carries follow it, and their profiles are [`ChannelConfig::profile`]'s.
    /// With no link wanted it removes what a process left that was killed.
    ///
    /// # Errors
    /// No privilege, no tc, a kernel that cannot do all of a profile, an interface that is not the
    /// lab's, or another process that already shapes here.
    pub fn start(
        wanted: &[ShapingRequest],
        channel: Option<&ChannelConfig>,
        choice: BackendChoice,
        seed: u64,
    ) -> Result<Shaper> {
        let mut shaper = Shaper {
            netem: Netem::default(),
            held: UserspaceLinks::new(channel, seed),
            applied: Vec::new(),
            choice,
            seed,
            lock: None,
            plays: false,
            playing: Vec::new(),
            faults: Vec::new(),
        };
        if wanted.is_empty() || choice == BackendChoice::None {
            // Whoever shapes nothing needs neither tc nor a privilege, so neither is missed.
            if guard::has_net_admin() {
                clean_up_if_idle()?;
            }
            return Ok(shaper);
        }
        guard::check_privilege()?;
        guard::check_tools()?;
        refuse_same_server(wanted)?;
        let devs: Vec<String> = wanted.iter().map(device_of).collect::<Result<_>>()?;
        shaper.take_over(&devs)?;
        shaper.set(wanted, &devs)?;
        Ok(shaper)
    }

    /// Locks, and removes what a killed process left.
    fn take_over(&mut self, devs: &[String]) -> Result<()> {
        if self.lock.is_none() {
            self.lock = Some(guard::lock()?);
            remove_leftovers(devs)?;
        }
        Ok(())
    }

    fn note_applied(&mut self) {
        self.applied = self.netem.applied();
        self.applied.extend(self.held.applied());
        self.applied.sort_by_key(|row| (row.link, row.direction));
    }

    /// Sets links up, all of them by one backend.
    fn set(&mut self, wanted: &[ShapingRequest], devs: &[String]) -> Result<()> {
        match self.decide(wanted)? {
            (Backend::Netem, why) => {
                let mut requests = Vec::new();
                for (wanted, dev) in wanted.iter().zip(devs) {
                    let (why, seed) = (why.clone(), self.tc_seed());
                    requests.push(NetemLink { wanted, dev: dev.clone(), why, seed });
                }
                self.netem.add(&requests)?;
            }
            (Backend::Userspace, why) => {
                self.held
                    .set(wanted, &why)
                    .with_context(|| format!("cannot hold the links in userspace ({why})"))?;
                // A link that was the kernel's until now must not be shaped twice.
                self.netem.remove(|lane| wanted.iter().any(|wanted| wanted.link == lane.place.link))?;
            }
        }
        self.note_applied();
        Ok(())
    }

    /// Which backend carries these links, and why.
    ///
    /// # Errors
    /// The backend that was asked for cannot do all of them, or none can; with what each lacks.
    fn decide(&self, wanted: &[ShapingRequest]) -> Result<(Backend, String)> {
        let on_channel = wanted.iter().any(|wanted| self.held.on_channel(wanted.link));
        let asked = if self.choice == BackendChoice::Auto { "" } else { "asked for; " };
        if self.choice != BackendChoice::Userspace && !on_channel {
            let reasons: Result<Vec<&str>, Refusal> =
                wanted.iter().map(|w| netem_reason(&w.profile)).collect();
            match reasons {
                Ok(reasons) => {
                    let why = reasons.last().copied().unwrap_or_default();
                    let Some(differs) = wanted.iter().find_map(|w| netem::difference(&w.profile)) else {
                        return Ok((Backend::Netem, format!("{asked}{why}")));
                    };
                    let nearly = format!("netem does it nearly: {differs}");
                    if self.choice == BackendChoice::Auto && userspace_can(wanted) {
                        return self.decide_userspace(wanted, &nearly);
                    }
                    return Ok((Backend::Netem, format!("{asked}{nearly}")));
                }
                Err(refusal) if self.choice == BackendChoice::Netem => return Err(refusal.error),
                Err(Refusal { why, error }) => {
                    return self.decide_userspace(wanted, &why).with_context(|| format!("{error:#}"));
                }
            }
        }
        if self.choice == BackendChoice::Netem {
            bail!("cannot do a shared channel with netem: use --backend auto or userspace");
        }
        let why = if on_channel {
            "a shared channel is modelled in userspace"
        } else {
            "packets are held in userspace"
        };
        self.decide_userspace(wanted, &format!("{asked}{why}"))
    }

    fn decide_userspace(&self, wanted: &[ShapingRequest], why: &str) -> Result<(Backend, String)> {
        for wanted in wanted {
            nfqueue::check(&wanted.profile)?;
        }
        Ok((Backend::Userspace, why.to_string()))
    }

    /// The seed to hand to netem, where it heeds one.
    fn tc_seed(&self) -> Option<u64> {
        kernel_support::can_seed().then_some(self.seed)
    }

    /// Replaces the profile of one link in place, without emptying its queue. A link that is not
    /// shaped yet is set up. Returns the rows of this link.
    pub fn change(&mut self, wanted: &ShapingRequest) -> Result<Vec<ActiveShaping>> {
        if self.choice == BackendChoice::None {
            bail!("cannot shape link {}: this run was told to shape nothing (--backend none)", wanted.link);
        }
        if self.held.on_channel(wanted.link) {
            bail!("cannot change link {}: it is on the channel, and follows its channel file", wanted.link);
        }
        let server = wanted.server.to_canonical().to_string();
        let lane = self.netem.lanes().iter().find(|lane| lane.place.link == wanted.link);
        let in_place = lane.is_some_and(|lane| lane.place.server == server)
            && self.decide(std::slice::from_ref(wanted))?.0 == Backend::Netem;
        if in_place {
            let seed = self.tc_seed();
            self.netem.change(wanted, seed)?;
        } else if self.held.has(wanted.link) {
            let (_, why) = self.decide_userspace(std::slice::from_ref(wanted), "held in userspace before")?;
            self.held.set(std::slice::from_ref(wanted), &why)?;
        } else {
            guard::check_privilege()?;
            guard::check_tools()?;
            let dev = device_of(wanted)?;
            self.take_over(std::slice::from_ref(&dev))?;
            self.set(std::slice::from_ref(wanted), &[dev])?;
        }
        self.note_applied();
        self.playing.retain(|playing| playing.link != wanted.link);
        if self.plays {
            self.play_link(wanted.link)?;
        }
        Ok(self.applied.iter().filter(|row| row.link == wanted.link).cloned().collect())
    }

    /// Takes the shaping of one link away, whoever put it there.
    pub fn clear_link(&mut self, link: LinkId) -> Result<()> {
        self.playing.retain(|playing| playing.link != link);
        let result = self.netem.remove(|lane| lane.place.link == link).and(self.held.remove(link));
        self.note_applied();
        result
    }

    /// Takes away all that this process put there.
    pub fn clear(&mut self) -> Result<()> {
        self.held.clear();
        self.playing.clear();
        let result = self.netem.remove(|_| true);
        self.note_applied();
        result
    }

    /// What is in force, a row per link and direction.
    pub fn applied(&self) -> &[ActiveShaping] {
        &self.applied
    }

    /// The rows of `twinlink link show`, for the control socket's answers.
    pub fn rows(&mut self) -> Result<Vec<Row>> {
        let mut rows = self.netem.rows()?;
        rows.extend(self.held.rows()?);
        let now = Instant::now();
        for row in &mut rows {
            if let Some(playing) = self.playing_on(row.link, row.direction) {
                playing.show(row, now);
            }
        }
        rows.sort_by_key(|row| (row.link, row.direction));
        Ok(rows)
    }

    /// Reads the counters of every direction; cheap enough for ten times a second.
    ///
    /// # Errors
    /// The kernel's qdiscs are gone, or the thread that holds packets has ended: the run cannot go on.
    pub fn counters(&mut self) -> Result<Vec<(LinkId, Direction, Counters)>> {
        let mut counters = self.netem.counters()?;
        counters.extend(self.held.counters()?);
        let now = Instant::now();
        for (link, direction, counters) in &mut counters {
            if let Some(playing) = self.playing_on(*link, *direction) {
                counters.rate_kbit = Some(playing.step(now).rate.kbit());
            }
        }
        counters.sort_by_key(|row| (row.0, row.1));
        Ok(counters)
    }

    fn playing_on(&self, link: LinkId, direction: Direction) -> Option<&Playing> {
        self.playing.iter().find(|playing| (playing.link, playing.direction) == (link, direction))
    }

    /// How busy the stations of a shared channel were when counters were last read.
    pub fn airtimes(&self) -> &[nfqueue::Busy] {
        self.held.busy()
    }

    /// The shared channel, if there is one.
    pub fn channel(&self) -> Option<&ChannelConfig> {
        self.held.channel()
    }

    /// What went wrong with the shaping since the last call (an overload), for the log. Seen when
    /// counters are read.
    pub fn take_faults(&mut self) -> Vec<(LinkId, String)> {
        let mut faults = std::mem::take(&mut self.faults);
        faults.extend(self.held.take_faults());
        faults
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::error!("cannot take the shaping away: {error:#}");
        }
    }
}

/// Removes what a process left that was killed; fails while another process shapes here.
///
/// # Errors
/// No privilege, or another process shapes here.
pub fn clean_up() -> Result<()> {
    guard::check_privilege()?;
    let _lock = guard::lock()?;
    remove_leftovers(&[])
}

/// Removes what a killed process left, unless a process shapes here: it repairs that itself, and a run that
/// shapes nothing leaves its links as they are.
fn clean_up_if_idle() -> Result<()> {
    let left = read::devices().is_ok_and(|devices| !devices.is_empty())
        || (guard::is_own_namespace() && nfqueue::has_left_rules());
    if !left {
        return Ok(());
    }
    match guard::lock() {
        Ok(_lock) => remove_leftovers(&[]),
        Err(_) => {
            tracing::info!("another process shapes the links here: they stay as they are");
            Ok(())
        }
    }
}

/// Removes devices and packet rules that a killed process left: the rules drop all that they catch. The
/// caller holds the lock.
fn remove_leftovers(devs: &[String]) -> Result<()> {
    let removed = netem::repair(devs).context("cannot remove what an earlier run left")?;
    if removed > 0 {
        tracing::warn!("removed {removed} devices that an earlier run had left shaped");
    }
    if nfqueue::repair()? {
        tracing::warn!("removed the packet rules that an earlier run had left");
    }
    Ok(())
}

/// The interface that leads to a link's server, if it is one that may be shaped.
fn device_of(wanted: &ShapingRequest) -> Result<String> {
    let dev = read::route_dev(wanted.server).with_context(|| format!("cannot shape link {}", wanted.link))?;
    guard::check_interface(&dev)?;
    Ok(dev)
}

/// Packets are told apart by the server's address, so two links need two.
fn refuse_same_server(wanted: &[ShapingRequest]) -> Result<()> {
    if let [one, two] = wanted
        && one.server.to_canonical() == two.server.to_canonical()
    {
        bail!(
            "cannot shape two links to the one address {}: their packets cannot be told apart; use two servers",
            one.server
        );
    }
    Ok(())
}

/// Whether the userspace backend is there and was measured to carry these links.
fn userspace_can(wanted: &[ShapingRequest]) -> bool {
    let profiles: Vec<&Profile> = wanted.iter().map(|wanted| &wanted.profile).collect();
    profiles.iter().all(|profile| nfqueue::check(profile).is_ok())
        && nfqueue::beyond_measured(&profiles).is_none()
        && kernel_support::missing(&[kernel_support::Feature::Nfqueue])
            .is_ok_and(|missing| missing.is_empty())
}

/// Why the kernel's own qdiscs cannot do a profile: in a few words, and in full.
struct Refusal {
    why: String,
    error: anyhow::Error,
}

/// Why the kernel's own qdiscs can do all of this profile.
fn netem_reason(profile: &Profile) -> Result<&'static str, Refusal> {
    let refusal = |why: String, error: anyhow::Error| Refusal {
        why,
        error: error.context(format!("cannot do all of the profile {} with netem", profile.name)),
    };
    netem::check_trace(profile)
        .map_err(|error| refusal("tbf cannot follow the steps of a trace".into(), error))?;
    let rate_only = Direction::BOTH.iter().all(|direction| profile.shape(*direction).is_rate_only());
    let missing = netem::missing(rate_only)
        .map_err(|error| refusal("what netem needs of the kernel cannot be tried".into(), error))?;
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(|feature| feature.with_modules()).collect();
        return Err(refusal(format!("this kernel lacks {}", names.join(", ")), netem::lacks(&missing)));
    }
    Ok(if rate_only { "a rate and a queue need only tbf" } else { "the kernel can do all of the profile" })
}
