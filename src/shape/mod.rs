//! Links: the shaped paths between the client and each server.
//!
//! [`Shaper`] is the one owner of everything that a process shapes, and the one place that knows the
//! backends: [`netem`] on the kernel's own qdiscs, and [`userspace`], which holds packets itself. It
//! blocks; callers on tokio's pool wrap it. `config` says what a link is like, [`guard`] where shaping is
//! allowed, [`kernel_support`] what the kernel can do.

pub(crate) mod active_shaping;
pub(crate) mod active_trace;
pub mod backend;
pub(crate) mod control;
pub(crate) mod guard;
pub(crate) mod kernel_support;
pub(crate) mod netem;
pub(crate) mod setup;
pub(crate) mod userspace;

use std::fs::File;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::config::channel::ChannelConfig;
use crate::units::{Direction, LinkId};
use active_shaping::ActiveShaping;
use active_trace::{FollowedTrace, StartedStep, lateness_fault};
use backend::{Backend, BackendChoice, Fit, ShapingRequest};
use guard::Lock;
use kernel_support::Feature;
use netem::Netem;
use netem::tc::read;
use userspace::UserspaceLinks;
use userspace::nfqueue::capture::Capture;

/// Makes the backends, in the order in which `auto` tries them. Another one takes a line here.
fn backends(channel: Option<&ChannelConfig>, seed: u64, capture: Option<Capture>) -> Vec<Box<dyn Backend>> {
    vec![Box::new(Netem::new(seed)), Box::new(UserspaceLinks::new(channel, seed, capture))]
}

/// The names of the backends.
pub fn names() -> impl Iterator<Item = &'static str> {
    backends(None, 0, None).into_iter().map(|backend| backend.name())
}

/// Returns the features of the kernel that the backends need.
pub fn features() -> impl Iterator<Item = &'static Feature> {
    backends(None, 0, None).into_iter().flat_map(|backend| backend.features())
}

/// Owns the shaping of this network namespace for as long as it lives; clears it when dropped.
pub struct Shaper {
    backends: Vec<Box<dyn Backend>>,
    channel: Option<ChannelConfig>,
    choice: BackendChoice,
    /// The links in force, by link and direction, with the counters of the last reading.
    rows: Vec<ActiveShaping>,
    /// Taken with the first link: a process that shapes nothing locks nobody out.
    lock: Option<Lock>,
    /// Whether traces are played as soon as they are set, and those that are.
    plays: bool,
    traces: Vec<FollowedTrace>,
    /// Faults of traces that nobody has asked for yet.
    faults: Vec<(LinkId, String)>,
}

impl Shaper {
    /// Checks everything first, then shapes all the links or none of them.
    ///
    /// Links that a shared channel carries follow it, and their profiles are [`ChannelConfig::profile`]'s.
    /// With a file to capture in, the userspace backend carries them and says there what became of each packet.
    /// With no link to shape it removes what a process left that was killed.
    ///
    /// # Errors
    /// No privilege, no tc, a kernel that cannot do all of a profile, an interface that is not the
    /// lab's, or another process that already shapes here.
    pub fn start(
        requests: &[ShapingRequest],
        channel: Option<&ChannelConfig>,
        choice: BackendChoice,
        seed: u64,
        capture: Option<File>,
    ) -> Result<Shaper> {
        // No other sees each packet.
        let choice = if capture.is_some() { BackendChoice::Named("userspace") } else { choice };
        let mut shaper = Shaper {
            backends: backends(channel, seed, capture.map(Capture::start).transpose()?),
            channel: channel.cloned(),
            choice,
            rows: Vec::new(),
            lock: None,
            plays: false,
            traces: Vec::new(),
            faults: Vec::new(),
        };
        if requests.is_empty() || choice == BackendChoice::None {
            // A run that shapes nothing needs neither tc nor a privilege.
            if guard::has_net_admin() {
                clean_up_if_idle()?;
            }
            return Ok(shaper);
        }
        shaper.prepare(requests)?;
        let on_channel = requests.iter().any(|request| shaper.on_channel(request.link));
        let (index, whys) = choice.pick(&shaper.backends, requests, on_channel)?;
        shaper.set(index, requests, &whys)?;
        Ok(shaper)
    }

    /// Checks that these links may be shaped by this process, locks, and removes what a killed one left.
    fn prepare(&mut self, requests: &[ShapingRequest]) -> Result<()> {
        guard::check_privilege()?;
        guard::check_tools()?;
        refuse_same_server(requests)?;
        let devs: Vec<String> = requests.iter().map(device_of).collect::<Result<_>>()?;
        if self.lock.is_none() {
            self.lock = Some(guard::lock()?);
            remove_leftovers(&devs)?;
        }
        Ok(())
    }

    fn on_channel(&self, link: LinkId) -> bool {
        self.channel.as_ref().is_some_and(|channel| channel.link(link).is_some())
    }

    /// Sets links up by one backend; the others must not shape them too.
    fn set(&mut self, index: usize, requests: &[ShapingRequest], whys: &[String]) -> Result<()> {
        self.backends[index].set(requests, whys)?;
        for (_, other) in self.backends.iter_mut().enumerate().filter(|(other, _)| *other != index) {
            requests.iter().try_for_each(|request| other.clear(Some(request.link)))?;
        }
        self.note_rows();
        Ok(())
    }

    /// Says why a link is not shaped from the beginning.
    pub fn unshaped_because(&self) -> &'static str {
        if self.choice == BackendChoice::None { "asked for" } else { "no profile was asked for" }
    }

    fn note_rows(&mut self) {
        self.rows = self.backends.iter().flat_map(|backend| backend.rows()).collect();
        self.rows.sort_by_key(|row| (row.link, row.direction));
    }

    /// The place of the backend that carries a link.
    fn carrier(&self, link: LinkId) -> Option<usize> {
        self.backends.iter().position(|backend| backend.rows().iter().any(|row| row.link == link))
    }

    /// Replaces the profile of one link, in place and without emptying its queue where its backend does the
    /// new one exactly. A link that is not shaped yet is set up. Returns the rows of this link.
    ///
    /// # Errors
    /// As for [`Shaper::start`], or the link is on a shared channel.
    pub fn change(&mut self, request: &ShapingRequest) -> Result<Vec<ActiveShaping>> {
        let (link, requests) = (request.link, std::slice::from_ref(request));
        if self.choice == BackendChoice::None {
            bail!("cannot shape link {link}: this run shapes nothing (--backend none)");
        }
        if self.on_channel(link) {
            bail!("cannot change link {link}: it is on the channel, and follows its channel file");
        }
        let server = Some(request.server.to_canonical());
        if !self.rows.iter().any(|row| row.link == link && row.server == server) {
            self.prepare(requests)?;
        }
        let stays = self.carrier(link).and_then(|index| match self.backends[index].check(requests, false) {
            Ok(Fit::Exactly(why)) => Some((index, vec![self.choice.reason(why)])),
            _ => None,
        });
        let (index, whys) = match stays {
            Some(stays) => stays,
            None => self.choice.pick(&self.backends, requests, false)?,
        };
        self.set(index, requests, &whys)?;
        self.traces.retain(|trace| trace.link != link);
        if self.plays {
            self.play_link(link)?;
        }
        Ok(self.rows.iter().filter(|row| row.link == link).cloned().collect())
    }

    /// Removes the shaping of one link.
    pub fn clear_link(&mut self, link: LinkId) -> Result<()> {
        self.remove(Some(link))
    }

    /// Removes all shaping.
    pub fn clear(&mut self) -> Result<()> {
        self.remove(None)
    }

    /// Goes on to the next backend where one fails; the first error counts.
    fn remove(&mut self, link: Option<LinkId>) -> Result<()> {
        self.traces.retain(|trace| link.is_some_and(|link| link != trace.link));
        let results: Vec<Result<()>> = self.backends.iter_mut().map(|backend| backend.clear(link)).collect();
        self.note_rows();
        results.into_iter().collect()
    }

    /// Returns the links in force, a row per link and direction, with the counters of the last reading.
    pub fn rows(&self) -> &[ActiveShaping] {
        &self.rows
    }

    /// Reads the counters of every direction; cheap enough for ten times a second.
    ///
    /// # Errors
    /// The kernel's qdiscs are gone, or the thread that holds packets has ended: the run cannot go on.
    pub fn read(&mut self) -> Result<&[ActiveShaping]> {
        let mut rows = Vec::new();
        for backend in &mut self.backends {
            rows.extend(backend.read()?);
        }
        rows.sort_by_key(|row| (row.link, row.direction));
        let now = Instant::now();
        for row in &mut rows {
            if let Some(trace) = self.trace_on(row.link, row.direction) {
                trace.show(row, now);
            }
            row.counters.set_queue_ms();
        }
        self.rows = rows;
        Ok(&self.rows)
    }

    fn trace_on(&self, link: LinkId, direction: Direction) -> Option<&FollowedTrace> {
        self.traces.iter().find(|trace| (trace.link, trace.direction) == (link, direction))
    }

    /// Reads the rows of `twinlink link show`: where a trace is played, what is in force at this moment.
    ///
    /// # Errors
    /// As for [`Shaper::read`].
    pub fn show(&mut self) -> Result<Vec<ActiveShaping>> {
        let now = Instant::now();
        let rows = self.read()?.to_vec();
        let shown = rows.into_iter().map(|row| {
            let shape = match self.trace_on(row.link, row.direction) {
                Some(trace) => trace.shape(&row.shape, now),
                None => row.shape.without_trace(),
            };
            ActiveShaping { shape, ..row }
        });
        Ok(shown.collect())
    }

    /// The shared channel, if there is one.
    pub fn channel(&self) -> Option<&ChannelConfig> {
        self.channel.as_ref()
    }

    /// Returns the faults of the shaping since the last call (an overload), for the log. Reading the counters
    /// detects them.
    pub fn take_faults(&mut self) -> Vec<(LinkId, String)> {
        let mut faults = std::mem::take(&mut self.faults);
        self.backends.iter_mut().for_each(|backend| faults.extend(backend.take_faults()));
        faults
    }

    /// Plays the traces of all links from now on, and of those that are set later from then on. Until
    /// this is called a profile's own values are in force.
    ///
    /// # Errors
    /// Their player cannot be started.
    pub fn play(&mut self) -> Result<()> {
        self.plays = true;
        LinkId::BOTH.into_iter().try_for_each(|link| self.play_link(link))
    }

    fn play_link(&mut self, link: LinkId) -> Result<()> {
        let Some(index) = self.carrier(link) else { return Ok(()) };
        let rows = self.rows.iter().filter(|row| row.link == link);
        let traces: Vec<_> = rows.filter_map(|row| Some((row.direction, row.shape.trace.clone()?))).collect();
        if traces.is_empty() && !self.rows.iter().any(|row| row.link == link && row.shape.cross.is_some()) {
            return Ok(());
        }
        let began = self.backends[index].play(link)?;
        self.traces.retain(|trace| trace.link != link);
        let started =
            traces.iter().map(|(direction, trace)| FollowedTrace::new(link, *direction, trace, began));
        self.traces.extend(started);
        Ok(())
    }

    /// When the traces of a link began, if they are being played.
    pub fn began(&self, link: LinkId) -> Option<Instant> {
        self.traces.iter().find(|trace| trace.link == link).map(|trace| trace.began)
    }

    /// The steps of traces that have begun since the last call. One that came late by more than its
    /// own length is a fault, and so is the end of a trace.
    pub fn take_steps(&mut self) -> Vec<StartedStep> {
        let carriers = LinkId::BOTH.map(|link| self.carrier(link));
        let applied: Vec<_> = self.backends.iter_mut().map(|backend| backend.take_applied_steps()).collect();
        let now = Instant::now();
        let mut steps = Vec::new();
        for trace in &mut self.traces {
            let applied = carriers[trace.link.index()].and_then(|index| applied[index].as_deref());
            let started = trace.take_steps(now, applied);
            let problems = started.iter().filter_map(lateness_fault).chain(trace.take_end(now));
            self.faults.extend(problems.map(|what| (trace.link, what)));
            steps.extend(started);
        }
        steps.sort_by_key(|step| step.planned);
        steps
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::error!("cannot take the shaping away: {error:#}");
        }
    }
}

/// Returns the links in force as the kernel reports them, for `twinlink link show` where no process that
/// shapes answers.
///
/// # Errors
/// The kernel's state cannot be read.
pub fn in_force() -> Result<Vec<ActiveShaping>> {
    let rows: Result<Vec<_>> = backends(None, 0, None).iter().map(|backend| backend.in_force()).collect();
    Ok(rows?.concat())
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
    if !backends(None, 0, None).iter().any(|backend| backend.has_leftovers()) {
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

fn remove_leftovers(devs: &[String]) -> Result<()> {
    backends(None, 0, None).iter().try_for_each(|backend| backend.clean_up(devs))
}

/// The interface that leads to a link's server, if it is one that may be shaped.
fn device_of(request: &ShapingRequest) -> Result<String> {
    let dev =
        read::route_dev(request.server).with_context(|| format!("cannot shape link {}", request.link))?;
    guard::check_interface(&dev)?;
    Ok(dev)
}

/// Packets are told apart by the server's address, so two links need two.
fn refuse_same_server(requests: &[ShapingRequest]) -> Result<()> {
    if let [one, two] = requests
        && one.server.to_canonical() == two.server.to_canonical()
    {
        bail!(
            "cannot shape two links to the one address {}: their packets cannot be told apart; use two servers",
            one.server
        );
    }
    Ok(())
}
