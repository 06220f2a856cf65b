//! Plays traces on the netem backend: a thread that gives tbf and netem each step at its time.
//!
//! Times are absolute, counted from when a trace began, so that nothing drifts; a step that is missed is left
//! out, not made up for. [`TracePlayer::take_done`] returns the steps taken and their times.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::tc::render::{self, Child};
use super::tc::run::needs_table;
use super::tc::session::Session;
use crate::config::profile::Shape;
use crate::config::trace::{Moment, Trace, TraceStep, is_outage};
use crate::shape::active_trace::AppliedStep;
use crate::units::Nanos;
use crate::units::{Direction, LinkId};

/// One direction of a link whose trace is played.
#[derive(Clone, Debug)]
pub(crate) struct Track {
    pub link: LinkId,
    pub direction: Direction,
    pub ifb: String,
    /// The shape in force until the trace begins; its queue stays.
    pub shape: Shape,
    pub child: Child,
    pub seed: Option<u64>,
    pub trace: Arc<Trace>,
    pub began: Instant,
}

#[derive(Default)]
struct PlayState {
    stop: bool,
    done: Vec<AppliedStep>,
    failure: Option<String>,
}

#[derive(Default)]
struct PlayerState {
    state: Mutex<PlayState>,
    wake: Condvar,
}

impl PlayerState {
    fn state(&self) -> MutexGuard<'_, PlayState> {
        self.state.lock().expect("nobody panics while holding the player's state")
    }

    /// Waits until a time; false if it is to stop.
    fn wait_until(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.state();
        while !state.stop {
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => Duration::from_secs(3600),
            };
            if left.is_zero() {
                return true;
            }
            state = self.wake.wait_timeout(state, left).expect("nobody panics while holding it").0;
        }
        false
    }
}

/// The thread that plays; it ends when this is dropped. The qdiscs then stay as they are.
pub(crate) struct TracePlayer {
    shared: Arc<PlayerState>,
    thread: Option<JoinHandle<()>>,
}

impl TracePlayer {
    /// Plays these tracks; those that began before go on where they are by now.
    pub(crate) fn start(tracks: Vec<Track>) -> Result<TracePlayer> {
        let shared = Arc::new(PlayerState::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("traces".into()).spawn(move || {
            if let Err(error) = play(tracks, &theirs) {
                theirs.state().failure = Some(format!("{error:#}"));
            }
        });
        Ok(TracePlayer { shared, thread: Some(thread.context("cannot start the thread that plays traces")?) })
    }

    /// The steps that have taken effect since the last call.
    pub(crate) fn take_done(&self) -> Vec<AppliedStep> {
        std::mem::take(&mut self.shared.state().done)
    }

    /// Ends, and tells the steps that have taken effect since the last call.
    pub(crate) fn finish(self) -> Vec<AppliedStep> {
        let shared = Arc::clone(&self.shared);
        drop(self);
        std::mem::take(&mut shared.state().done)
    }

    /// Why nothing is played any more, if that is so.
    pub(crate) fn failed(&self) -> Option<String> {
        self.shared.state().failure.clone()
    }
}

impl Drop for TracePlayer {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A track on its way.
struct Running {
    track: Track,
    /// When its next step is due, since its trace began.
    next: Nanos,
    /// The step in force; none before the first one.
    last: Option<TraceStep>,
}

impl Running {
    fn due(&self) -> Option<Instant> {
        (self.next < Nanos::MAX).then(|| self.track.began + Duration::from_nanos(self.next))
    }
}

fn play(tracks: Vec<Track>, shared: &PlayerState) -> Result<()> {
    let mut sessions = [None, None];
    let mut running: Vec<Running> =
        tracks.into_iter().map(|track| Running { track, next: 0, last: None }).collect();
    while shared.wait_until(running.iter().filter_map(Running::due).min()) {
        for each in &mut running {
            let now = Instant::now();
            if each.due().is_none_or(|due| due > now) {
                continue;
            }
            let elapsed = now.saturating_duration_since(each.track.began);
            let moment = each.track.trace.at(elapsed.as_nanos() as Nanos);
            apply(each, &moment, &mut sessions)?;
            let (link, direction) = (each.track.link, each.track.direction);
            shared.state().done.push(AppliedStep {
                link,
                direction,
                number: moment.number,
                at: Instant::now(),
            });
            each.next = moment.until;
        }
    }
    Ok(())
}

/// Makes the kernel be as a step says, where that differs from what it was.
fn apply(running: &mut Running, moment: &Moment, sessions: &mut [Option<Session>; 2]) -> Result<()> {
    let (track, step, last) = (&running.track, &moment.step, running.last.replace(moment.step));
    let was = last.unwrap_or(TraceStep { at: 0, rate: track.shape.rate, delay: None, loss: None });
    let mut lines = Vec::new();
    if step.rate != was.rate || last.is_none() {
        let lasts_s = moment.until.saturating_sub(moment.since) as f64 / 1e9;
        lines.push(render::tbf_step(&track.ifb, &track.shape, step.rate, lasts_s));
    }
    if track.child == Child::Netem && (step.delay, step.loss) != (was.delay, was.loss) {
        // Every change begins the losses anew, and they must not be the same in every step.
        let seed = track.seed.map(|seed| seed.wrapping_add(moment.number << 8));
        lines.push(render::netem_step(&track.ifb, &track.shape, step, seed));
    }
    if lines.is_empty() {
        return Ok(());
    }
    let uniform = lines.iter().any(|line| needs_table(line));
    let session = match &mut sessions[usize::from(uniform)] {
        Some(session) => session,
        none => none.insert(Session::start(uniform)?),
    };
    session.run(&track.ifb, &lines).context("cannot play a trace")?;
    if step.rate > was.rate || is_outage(was.rate) {
        wake(&track.ifb).with_context(|| format!("cannot wake {} after a step of its trace", track.ifb))?;
    }
    Ok(())
}

/// Makes a tbf look at its queue. Its timer still counts by the old rate after a change: what waited
/// through an outage would wait on until a packet comes. This one has nothing in it and no way to
/// travel: an ifb drops what was not redirected to it.
pub(crate) fn wake(ifb: &str) -> std::io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: the name lives through the call, and its length is what is said.
    let bound = unsafe {
        let name = ifb.as_ptr().cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name, ifb.len() as u32)
    };
    if bound != 0 {
        return Err(std::io::Error::last_os_error());
    }
    match socket.send_to(&[], "192.0.2.1:9") {
        // The queue is full: it was looked at all the same.
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
        sent => sent.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_player_that_ends_tells_what_nobody_has_asked_for_yet() {
        let player = TracePlayer::start(Vec::new()).unwrap();
        let done = AppliedStep { link: LinkId::B, direction: Direction::Up, number: 7, at: Instant::now() };
        player.shared.state().done.push(done);
        assert_eq!(player.finish().iter().map(|done| done.number).collect::<Vec<_>>(), [7]);
    }
}
