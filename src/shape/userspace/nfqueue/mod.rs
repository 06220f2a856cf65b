//! The userspace backend: the kernel hands the packets of shaped links to this process (NFQUEUE),
//! and a thread holds each until the model says that it departs.
//!
//! The only module that knows of NFQUEUE and of iptables. Rules stand in the raw table, in chains of
//! their own; they are removed when the owner goes, and what a killed process left is repaired at the
//! next start. If the thread dies the kernel drops what it held and all that follows: nothing passes
//! unshaped, and [`Userspace::failed`] says why.
//!
//! It judges neither privilege nor namespace: the caller does, before it starts this.

pub(crate) mod capture;
pub(crate) mod detach;
pub(crate) mod engine;
pub(crate) mod header;
pub(crate) mod lateness;
pub(crate) mod netlink;
pub(crate) mod queues;
pub(crate) mod rules;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use crate::config::channel::ChannelConfig;
use crate::config::profile::{Profile, Shape};
use crate::emulate::emulator::{Emulator, WAYS, Way, index_of};
use crate::shape::active_shaping::StationLoad;
use crate::shape::backend::ShapingRequest;
use crate::units::{Direction, LinkId, Nanos};
use capture::Capture;
use engine::{Engine, EngineCommand, EngineReading, PATIENCE};
pub(crate) use lateness::LatenessSummary as Lateness;
use queues::{KernelQueue, bind, kernel_queues, open_socket};
use rules::Tapped;
pub(crate) use rules::{attempt, version as iptables_version};

/// The first of four queue numbers, after the lab's port. They belong to a network namespace.
const FIRST_QUEUE: u16 = 4450;

/// The socket's receive buffer (bytes) for while the thread is busy; a packet takes about 1 KB of it.
const RECEIVE_BUFFER: usize = 64 << 20;

/// Below this, bursts are lost in the kernel.
const SMALL_BUFFER: usize = 4 << 20;

/// Frames per second, over all ways, that two cores were measured to carry; see docs/backends.md.
pub(crate) const MEASURED_FRAMES_PER_S: f64 = 370_000.0;

/// A departure that is later than this is a fault: the link is then the thread's, not the profile's.
const OVERLOAD_MS: f64 = 20.0;

/// Nanoseconds on the monotonic clock.
fn clock() -> Nanos {
    // SAFETY: the structure is a local that lives through the call, which cannot fail for this clock.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time);
        time
    };
    time.tv_sec as Nanos * 1_000_000_000 + time.tv_nsec as Nanos
}

/// The queue's number for one direction of a link.
fn queue_number(way: Way) -> u16 {
    FIRST_QUEUE + index_of(way) as u16
}

fn way_of(queue: u16) -> Option<Way> {
    WAYS.get(usize::from(queue.checked_sub(FIRST_QUEUE)?)).copied()
}

/// Returns the keys of a profile that this backend cannot do; empty if it can do all of it.
pub(crate) fn refusals(profile: &Profile) -> Vec<String> {
    let mut refusals = Vec::new();
    for direction in Direction::BOTH {
        if !profile.shape(direction).duplicate.is_zero() {
            refusals.push(format!(
                "{direction}.duplicate: a verdict releases a packet once, and cannot make two of it"
            ));
        }
    }
    refusals
}

/// A warning where links together ask for more than was measured to work. Counted is what comes down at its
/// fastest, × 1.5: every second segment is acknowledged on the way up. That is a download, as it was measured;
/// an upload beside it would come on top.
pub(crate) fn beyond_measured(profiles: &[&Profile]) -> Option<String> {
    let frames = |shape: &Shape| shape.greatest_rate().bytes_per_s() / crate::config::profile::FRAME as f64;
    let total: f64 = profiles.iter().map(|profile| frames(&profile.down) * 1.5).sum();
    (total > MEASURED_FRAMES_PER_S).then(|| {
        format!(
            "the links ask for {total:.0} packets a second; more than {MEASURED_FRAMES_PER_S:.0} \
             were not measured to work in userspace on two cores, and what does not is a fault"
        )
    })
}

/// Removes what a killed process left. True if there was anything.
///
/// # Errors
/// Another process holds the queues, or the rules cannot be removed.
pub(crate) fn repair() -> Result<bool> {
    if let Some(row) = held_queue() {
        bail!("{}", queues::taken(row));
    }
    rules::remove_all()
}

/// Whether rules stand that hand packets to nobody.
pub(crate) fn has_left_rules() -> bool {
    held_queue().is_none() && rules::any()
}

/// One of our queues that a process has.
fn held_queue() -> Option<KernelQueue> {
    kernel_queues().into_iter().find(|row| way_of(row.queue).is_some())
}

/// Counts of one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueCounts {
    pub way: Way,
    pub tally: crate::emulate::link::Tally,
    pub lateness: Lateness,
    /// Packets that the kernel dropped before the model saw them, since the last reading.
    pub kernel_dropped: u64,
}

/// Owns the thread, the queues and the rules.
pub(crate) struct Userspace {
    commands: Sender<EngineCommand>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<Result<()>>>,
    /// Why the thread ended, once it has.
    failure: Option<String>,
    links: Vec<Tapped>,
    kernel_dropped: [u64; 4],
    last_busy: (u64, Vec<(&'static str, u64)>),
}

impl Userspace {
    /// Takes over the packets of these links. A link that the channel carries follows it, and its
    /// profile is what the channel file says of it.
    ///
    /// # Errors
    /// Another program on the queues, no NFQUEUE, no iptables, no privilege, or a profile with
    /// something that this backend cannot do.
    pub(crate) fn start(
        requests: &[ShapingRequest],
        channel: Option<&ChannelConfig>,
        seed: u64,
        capture: Option<&Capture>,
    ) -> Result<Userspace> {
        requests.iter().try_for_each(|request| check(&request.profile))?;
        if repair().context("cannot start the userspace backend")? {
            tracing::warn!("removed the packet rules that an earlier run had left");
        }
        let mut socket = open_socket()?;
        let buffer = socket.set_receive_buffer(RECEIVE_BUFFER).context("cannot set a receive buffer")?;
        if buffer < SMALL_BUFFER {
            tracing::warn!("the kernel gives a receive buffer of {buffer} bytes only: bursts may be lost");
        }
        WAYS.into_iter().try_for_each(|way| bind(&mut socket, queue_number(way)))?;
        let (commands, receiver) = mpsc::channel();
        let wake = Arc::new(event_counter().context("cannot make an event counter")?);
        let (emulator, tap) = (Emulator::new(channel, seed), capture.and_then(Capture::tap));
        let engine = Engine::new(socket, emulator, tap, receiver, Arc::clone(&wake));
        let thread = std::thread::Builder::new()
            .name("links".into())
            .spawn(move || engine.run())
            .context("cannot start the thread that holds packets")?;
        let mut userspace = Userspace {
            commands,
            wake,
            thread: Some(thread),
            failure: None,
            links: Vec::new(),
            kernel_dropped: [0; 4],
            last_busy: Default::default(),
        };
        userspace.set(requests)?;
        Ok(userspace)
    }

    /// Sets links up or changes them in place; what is queued stays queued.
    ///
    /// # Errors
    /// As for [`Userspace::start`]; the links are then as they were.
    pub(crate) fn set(&mut self, requests: &[ShapingRequest]) -> Result<()> {
        requests.iter().try_for_each(|request| check(&request.profile))?;
        for request in requests {
            let profile = Box::new(request.profile.clone());
            self.ask(|done| EngineCommand::Set(request.link, profile, done))?;
        }
        // The models come first: a packet must never find its queue without one.
        let mut links = self.links.clone();
        for request in requests {
            links.retain(|link| link.link != request.link);
            links.push(Tapped { link: request.link, server: request.server });
        }
        links.sort_by_key(|link| link.link);
        if links != self.links {
            self.tap(links)?;
        }
        Ok(())
    }

    /// Plays the traces of a link from now on, and says when they began.
    ///
    /// # Errors
    /// The thread has ended; with its reason.
    pub(crate) fn play(&mut self, request: &ShapingRequest) -> Result<Instant> {
        let profile = Box::new(request.profile.clone());
        self.ask(|began| EngineCommand::Play(request.link, profile, began))
    }

    /// Takes the shaping of a link away, and releases what it holds.
    pub(crate) fn clear_link(&mut self, link: LinkId) -> Result<()> {
        let links: Vec<Tapped> = self.links.iter().copied().filter(|tapped| tapped.link != link).collect();
        if links.len() == self.links.len() {
            return Ok(());
        }
        self.tap(links)?;
        self.ask(|done| EngineCommand::Remove(link, done))
    }

    /// Makes the rules be those of these links; when that fails, those that stood are put back.
    fn tap(&mut self, links: Vec<Tapped>) -> Result<()> {
        if let Err(error) = rules::apply(&links) {
            // The first error is the one that counts.
            let _ = rules::apply(&self.links);
            return Err(error);
        }
        self.links = links;
        Ok(())
    }

    /// Counts of every direction, and the airtimes. Cheap enough for ten times a second.
    ///
    /// # Errors
    /// The thread has ended; with its reason.
    pub(crate) fn read(&mut self) -> Result<(Vec<QueueCounts>, Vec<StationLoad>)> {
        let reading: EngineReading = self.ask(EngineCommand::Read)?;
        let kernel = kernel_queues();
        let mut counts = Vec::new();
        for way in WAYS.into_iter().filter(|way| self.links.iter().any(|link| link.link == way.0)) {
            let index = index_of(way);
            let Some(tally) = reading.tallies[index] else { continue };
            let row = kernel.iter().find(|row| row.queue == queue_number(way));
            let total = row.map_or(0, |row| row.dropped);
            let kernel_dropped = total.saturating_sub(self.kernel_dropped[index]);
            self.kernel_dropped[index] = total;
            counts.push(QueueCounts { way, tally, lateness: reading.lateness[index], kernel_dropped });
        }
        Ok((counts, self.busy_shares(reading)))
    }

    fn busy_shares(&mut self, reading: EngineReading) -> Vec<StationLoad> {
        let (before, last) = std::mem::replace(&mut self.last_busy, (reading.at, reading.busy.clone()));
        let passed = if before == 0 { 0 } else { reading.at - before };
        let share = |(station, busy): (&'static str, u64)| {
            let earlier = last.iter().find(|row| row.0 == station).map_or(0, |row| row.1);
            let share = if passed > 0 { (busy - earlier) as f64 / passed as f64 } else { 0.0 };
            // A turn is booked when it begins, so a reading may see one that is not over.
            StationLoad { station: station.into(), seconds: busy as f64 / 1e9, share: share.min(1.0) }
        };
        reading.busy.into_iter().map(share).collect()
    }

    /// Hands the thread a command and waits for its answer.
    fn ask<T>(&mut self, command: impl FnOnce(Sender<T>) -> EngineCommand) -> Result<T> {
        let (sender, answer) = mpsc::channel();
        let _ = self.commands.send(command(sender));
        self.wake_thread();
        let problem = match answer.recv_timeout(PATIENCE) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Timeout) => "it does not answer".into(),
            Err(RecvTimeoutError::Disconnected) => self.join(),
        };
        Err(anyhow!(problem)).context("the thread that holds the links' packets has failed")
    }

    fn wake_thread(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is as long as is said. A counter that is full wakes the thread as well.
        unsafe { libc::write(self.wake.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Returns the reason for which the thread ended, if it has.
    #[cfg(test)]
    fn failed(&mut self) -> Option<String> {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            self.join();
        }
        self.failure.clone()
    }

    /// Waits for the thread, which is at its end, and gives its reason.
    fn join(&mut self) -> String {
        let reason = match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => format!("{error:#}"),
            Some(Err(_)) => "it panicked".into(),
            Some(Ok(Ok(()))) | None => "it has ended".into(),
        };
        self.failure.get_or_insert(reason).clone()
    }
}

impl Drop for Userspace {
    fn drop(&mut self) {
        // Rules go first, so that nothing more comes; then the thread releases what it holds.
        if !self.links.is_empty()
            && let Err(error) = rules::remove_all()
        {
            tracing::error!("{error:#}");
        }
        let _ = self.commands.send(EngineCommand::Stop);
        self.wake_thread();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The faults that a reading shows: what the kernel dropped, and departures that came far too late.
pub(crate) fn overload(counts: &[QueueCounts]) -> Vec<(Way, String)> {
    let mut faults = Vec::new();
    for row in counts {
        if row.kernel_dropped > 0 {
            let dropped = row.kernel_dropped;
            faults.push((
                row.way,
                format!("overload: the kernel dropped {dropped} packets before the link's model saw them"),
            ));
        }
        if row.lateness.max_ms > OVERLOAD_MS {
            faults.push((
                row.way,
                format!(
                    "overload: packets left up to {:.0} ms late (99 % within {:.1} ms)",
                    row.lateness.max_ms, row.lateness.p99_ms
                ),
            ));
        }
    }
    faults
}

/// Fails where this backend cannot do all of a profile.
pub(crate) fn check(profile: &Profile) -> Result<()> {
    let refusals = refusals(profile);
    if refusals.is_empty() {
        return Ok(());
    }
    bail!("cannot do all of the profile {} in userspace: {}", profile.name, refusals.join("; "))
}

fn event_counter() -> std::io::Result<OwnedFd> {
    // SAFETY: a plain system call; the descriptor it returns is owned from here on.
    unsafe {
        let fd = netlink::check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::trace::{Trace, TraceStep};
    use crate::emulate::link::Tally;
    use crate::units::{Percent, Rate};

    fn profile(rate: &str) -> Profile {
        toml::from_str(&format!(
            "description = \"\"\n[down]\nrate = \"{rate}\"\nqueue = \"100ms\"\n[up]\nrate = \"{rate}\"\nqueue = \"100ms\"\n"
        ))
        .unwrap()
    }

    #[test]
    fn queues_and_ways_belong_together() {
        for way in WAYS {
            assert_eq!(way_of(queue_number(way)), Some(way));
        }
        assert_eq!(way_of(FIRST_QUEUE - 1), None);
        assert_eq!(way_of(FIRST_QUEUE + 4), None);
    }

    #[test]
    fn what_verdicts_cannot_do_is_refused_by_name() {
        let mut wanted = profile("10mbit");
        assert!(refusals(&wanted).is_empty());
        wanted.down.reorder = Percent::new(1.0);
        wanted.up.reorder = Percent::new(1.0);
        wanted.down.corrupt = Percent::new(1.0);
        assert!(refusals(&wanted).is_empty());
        wanted.down.duplicate = Percent::new(1.0);
        let words = check(&wanted).unwrap_err().to_string();
        assert!(words.contains("down.duplicate"), "{words}");
    }

    #[test]
    fn a_profile_beyond_what_was_measured_is_warned_of() {
        assert_eq!(beyond_measured(&[&profile("100mbit"), &profile("100mbit")]), None);
        assert!(beyond_measured(&[&profile("2gbit"), &profile("2gbit")]).is_some());
        let step = |at, gbit: u64| {
            let rate = Rate::from_bits_per_s(gbit * 1_000_000_000);
            TraceStep { at, rate, delay: None, loss: None }
        };
        let trace = Trace::new("t".into(), true, vec![step(0, 1), step(1_000_000_000, 4)], 2_000_000_000);
        let mut traced = profile("100mbit");
        traced.down.trace = Some(trace.unwrap().into());
        assert!(beyond_measured(&[&traced]).is_some());
    }

    #[test]
    fn a_thread_that_dies_is_an_error_that_says_why() {
        let (commands, receiver) = mpsc::channel();
        let dies = move || -> Result<()> {
            // It dies at the first command, as it would when the kernel takes its socket away.
            drop(receiver.recv()?);
            bail!("cannot receive packets from the kernel")
        };
        let mut userspace = Userspace {
            commands,
            wake: Arc::new(event_counter().unwrap()),
            thread: Some(std::thread::spawn(dies)),
            failure: None,
            links: Vec::new(),
            kernel_dropped: [0; 4],
            last_busy: Default::default(),
        };
        assert_eq!(userspace.failed(), None);
        let error = format!("{:#}", userspace.read().unwrap_err());
        assert!(error.contains("thread") && error.contains("cannot receive packets"), "{error}");
        assert!(userspace.failed().unwrap().contains("cannot receive packets"));
        assert!(userspace.read().is_err(), "it stays an error");
    }

    #[test]
    fn late_departures_and_kernel_drops_are_faults() {
        let row = |late, dropped| QueueCounts {
            way: WAYS[0],
            tally: Tally::default(),
            lateness: Lateness { max_ms: late, ..Lateness::default() },
            kernel_dropped: dropped,
        };
        assert!(overload(&[row(1.0, 0)]).is_empty());
        assert!(overload(&[row(1.0, 3)])[0].1.contains("dropped 3 packets"));
        assert!(overload(&[row(50.0, 0)])[0].1.contains("50 ms late"));
    }
}
