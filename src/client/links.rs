//! The links of a run: shaped before it, changed during it, cleared after it, and all of that logged.
//!
//! Owns the run's [`Shaper`] and the history of rates that the bound is computed from.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::bound;
use crate::bound::link::Stage;
use crate::bound::{Path, TcpSegments};
use crate::config::channel::ChannelConfig;
use crate::config::profile::{Profile, Shape};
use crate::config::script::{Change, To};
use crate::log::schema;
use crate::log::schema::{Airtime, Event, Fault, Log};
use crate::results;
use crate::shape::Shaper;
use crate::shape::active_shaping::{ActiveShaping, Counters};
use crate::shape::active_trace::StartedStep;
use crate::shape::backend::{BackendChoice, ShapingRequest};
use crate::shape::control::client::ControlRequest;
use crate::shape::setup::LinkSetup;
use crate::units::{Delay, Direction, LinkId, Percent};

pub(crate) struct Links {
    shaper: Mutex<Shaper>,
    servers: [IpAddr; 2],
    log: Arc<Log>,
    history: Mutex<[History; 2]>,
    /// The bytes that had come down each link when its counters were read last.
    passed: Mutex<[Option<PassedDown>; 2]>,
    /// Nanoseconds.
    latest_step: AtomicU64,
}

/// One reading of all counters.
pub(crate) struct CounterReading(Vec<ActiveShaping>);

impl CounterReading {
    pub(crate) fn counters(&self, link: LinkId, direction: Direction) -> Option<&Counters> {
        self.row(link, direction).map(|row| &row.counters)
    }

    fn row(&self, link: LinkId, direction: Direction) -> Option<&ActiveShaping> {
        self.0.iter().find(|row| (row.link, row.direction) == (link, direction))
    }

    /// Returns the greatest rate on the way down, bytes/s; `None` for an unshaped link.
    pub(crate) fn shaped_rate(&self, link: LinkId) -> Option<f64> {
        self.row(link, Direction::Down).map(|row| row.shape.greatest_rate().bytes_per_s())
    }

    /// How busy the shared channel is, for a link that is on one.
    pub(crate) fn airtimes(&self, link: LinkId) -> Option<Vec<Airtime>> {
        Some(self.row(link, Direction::Down)?.airtimes.as_ref()?.iter().map(Airtime::from).collect())
    }
}

/// The frames that came down a link until then, where it has cross traffic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PassedDown {
    at: Instant,
    own_bytes: u64,
    pub cross_bytes: u64,
}

impl PassedDown {
    /// The share of the cross traffic, %.
    pub(crate) fn cross_pct(&self) -> f64 {
        self.cross_bytes as f64 * 100.0 / (self.cross_bytes + self.own_bytes).max(1) as f64
    }
}

/// The states of a link, one after another.
type History = Vec<Past>;

#[derive(Clone, Debug)]
struct Past {
    /// The change took effect between these two, or, where traces began to be played, at both.
    from: Instant,
    by: Instant,
    /// `None` for unshaped.
    shapes: Option<Shapes>,
}

#[derive(Clone, Debug)]
struct Shapes {
    down: Shape,
    up: Shape,
    /// When their traces began to be played, so that the rates are the trace's.
    played: Option<Instant>,
    /// The bytes that pass the bottleneck at once; `None` where it times every packet.
    burst_bytes: Option<u64>,
}

impl Shapes {
    fn both(&self) -> [&Shape; 2] {
        [&self.down, &self.up]
    }

    /// As a profile that nobody has named.
    fn profile(&self) -> Profile {
        let (down, up) = (self.down.clone(), self.up.clone());
        Profile { name: String::new(), description: String::new(), down, up }
    }

    /// As the bound sees them, in force from a moment on.
    fn stage(&self, from: Instant, first_request: Instant) -> Stage {
        let shaper = match self.burst_bytes {
            None => bound::link::ShaperFacts::Model,
            Some(bytes) => bound::link::ShaperFacts::Tbf { burst_bytes: bytes as f64 },
        };
        let since_first = |at: Instant| seconds_between(first_request, at);
        let from_s = since_first(from);
        let began_s = self.played.map_or(from_s, since_first);
        let (down, up) = (self.down.clone(), self.up.clone());
        Stage { from_s, began_s, down, up, played: self.played.is_some(), shaper }
    }
}

impl Links {
    /// Shapes both links, or those for which there is a profile. Logs nothing yet.
    pub(crate) fn start(
        asked: LinkSetup,
        servers: [IpAddr; 2],
        choice: BackendChoice,
        seed: u64,
        log: Arc<Log>,
    ) -> Result<Links> {
        let wanted = asked.requests(|link| Ok(servers[link.index()]))?;
        let capture = asked.capture.as_deref().map(results::create_named).transpose()?;
        let shaper = Shaper::start(&wanted, asked.channel.as_ref(), choice, seed, capture);
        let shaper = shaper.context("cannot shape the links")?;
        let links = Links {
            shaper: Mutex::new(shaper),
            servers,
            log,
            history: Mutex::default(),
            passed: Mutex::default(),
            latest_step: AtomicU64::new(0),
        };
        links.remember();
        Ok(links)
    }

    fn shaper(&self) -> MutexGuard<'_, Shaper> {
        self.shaper.lock().expect("nobody panics while holding the shaper")
    }

    /// Everything in force, a row per link and direction.
    pub(crate) fn applied(&self) -> Vec<ActiveShaping> {
        self.shaper().rows().to_vec()
    }

    /// Adds what is in force now to the history.
    fn remember(&self) {
        self.remember_from(Instant::now());
    }

    /// Adds what is in force since a change that began then.
    fn remember_from(&self, began: Instant) {
        let now = Instant::now();
        let applied = self.applied();
        let mut history = self.history.lock().expect("nobody panics while holding the history");
        for link in LinkId::BOTH {
            // A trace counts from its own beginning.
            let played = self.shaper().began(link);
            let row = |direction| applied.iter().find(|a| a.link == link && a.direction == direction);
            let shapes = row(Direction::Down).zip(row(Direction::Up)).map(|(down, up)| Shapes {
                down: down.shape.clone(),
                up: up.shape.clone(),
                played,
                burst_bytes: down.burst_bytes,
            });
            let history = &mut history[link.index()];
            // Each change is of both links, whichever of them was changed.
            let same = |before: &Past| {
                let before = before.shapes.as_ref();
                before.map(|b| (b.both(), b.played)) == shapes.as_ref().map(|s| (s.both(), s.played))
            };
            if !history.last().is_some_and(same) {
                let (from, by) = (played.unwrap_or(began), played.unwrap_or(now));
                history.push(Past { from, by, shapes });
            }
        }
    }

    /// Logs every link as it is: the records at the beginning of a run.
    pub(crate) fn log_all(&self) -> Result<()> {
        let applied = self.applied();
        let unshaped = self.shaper().unshaped_because();
        for link in LinkId::BOTH {
            for direction in Direction::BOTH {
                match applied.iter().find(|a| a.link == link && a.direction == direction) {
                    Some(applied) => self.log_applied(applied, "set")?,
                    None => self.log_unshaped(link, direction, "set", unshaped)?,
                }
            }
        }
        Ok(())
    }

    /// Logs a step of a trace. Steps too short for a record each are in the samples alone.
    fn log_step(&self, step: &StartedStep) -> Result<()> {
        let late = step.late.unwrap_or_default().as_nanos() as u64;
        self.latest_step.fetch_max(late, Ordering::Relaxed);
        if step.lasts.is_some_and(|lasts| lasts < SHORTEST_LOGGED) {
            return Ok(());
        }
        let applied = self.applied();
        let of_direction = |row: &&ActiveShaping| (row.link, row.direction) == (step.link, step.direction);
        let Some(applied) = applied.iter().find(of_direction) else { return Ok(()) };
        let at = step.planned + step.late.unwrap_or_default();
        let record = schema::Link::step(applied, step, self.log.ms(step.planned));
        self.log.write_at(at, Event::Link(Box::new(record)))
    }

    /// Plays the links' traces from now on: the transfer's clock is about to start.
    pub(crate) fn play(&self) -> Result<()> {
        self.shaper().play().context("cannot play the links' traces")?;
        self.remember();
        Ok(())
    }

    fn log_applied(&self, applied: &ActiveShaping, action: &str) -> Result<()> {
        self.log.write(Event::Link(Box::new(schema::Link::shaped(applied, action))))
    }

    fn log_unshaped(&self, link: LinkId, direction: Direction, action: &str, why: &str) -> Result<()> {
        self.log.write(Event::Link(Box::new(schema::Link::unshaped(link, direction, action, why))))
    }

    /// Puts another profile on a link while the run goes on.
    pub(crate) fn change(&self, link: LinkId, profile: Profile) -> Result<Vec<ActiveShaping>> {
        let wanted = ShapingRequest { link, server: self.servers[link.index()], profile };
        let began = Instant::now();
        let changed = self.shaper().change(&wanted)?;
        self.remember_from(began);
        for applied in &changed {
            self.log_applied(applied, "changed")?;
        }
        Ok(changed)
    }

    /// Takes the shaping of one link, or of both, away while the run goes on.
    pub(crate) fn clear(&self, link: Option<LinkId>) -> Result<()> {
        let began = Instant::now();
        for link in LinkId::named(link) {
            self.shaper().clear_link(link)?;
            for direction in Direction::BOTH {
                self.log_unshaped(link, direction, "cleared", "its shaping was cleared")?;
            }
        }
        self.remember_from(began);
        Ok(())
    }

    /// Makes a change of a script.
    ///
    /// # Errors
    /// The shaper cannot do it.
    pub(crate) fn apply(&self, change: &Change) -> Result<()> {
        match &change.to {
            To::Profile(profile) => self.change(change.link, (**profile).clone()).map(drop),
            To::Clear => self.clear(Some(change.link)),
        }
        .with_context(|| {
            format!("cannot do what the script says of link {} after {}", change.link, change.after)
        })
    }

    /// Takes all shaping away at the end of a run.
    pub(crate) fn finish(&self) -> Result<()> {
        self.shaper().clear().context("cannot take the shaping away")
    }

    /// Does what a command asks over the control socket, and tells what is in force then.
    pub(crate) fn act(&self, request: ControlRequest) -> Result<Vec<ActiveShaping>> {
        match request {
            ControlRequest::Set { link, profile } => drop(self.change(link, *profile)?),
            ControlRequest::Show => {}
            ControlRequest::Clear { link } => self.clear(link)?,
        }
        self.rows()
    }

    /// The rows of `twinlink link show`.
    pub(crate) fn rows(&self) -> Result<Vec<ActiveShaping>> {
        self.shaper().show()
    }

    /// Reads all counters, and logs as faults what went wrong with the shaping since the last time.
    pub(crate) fn read(&self) -> Result<CounterReading> {
        let mut shaper = self.shaper();
        let reading = CounterReading(shaper.read()?.to_vec());
        *self.passed.lock().expect("nobody panics while holding what passed") = LinkId::BOTH.map(|link| {
            let row = reading.row(link, Direction::Down).filter(|row| row.shape.cross.is_some())?;
            let Counters { bytes: own_bytes, cross_bytes, .. } = row.counters;
            Some(PassedDown { at: Instant::now(), own_bytes, cross_bytes })
        });
        let steps = shaper.take_steps();
        let faults = shaper.take_faults();
        drop(shaper);
        steps.iter().try_for_each(|step| self.log_step(step))?;
        for (link, what) in faults {
            let action = "the run goes on; what it measured of this link is not the profile's".into();
            self.log.write(Event::Fault(Fault { link: Some(link), segment: None, what, action }))?;
        }
        Ok(reading)
    }

    /// Returns the limits of a link's shapes so far, for a reconciliation: the greatest share of packets that
    /// they corrupt, duplicate or let overtake, and the most bytes that link and queue hold. `None` if it ever was
    /// unshaped.
    pub(crate) fn spoilt_and_held(&self, link: LinkId) -> Option<(f64, u64)> {
        let history = self.history.lock().expect("nobody panics while holding the history");
        let (mut spoilt, mut held) = (0.0f64, 0.0f64);
        for past in &history[link.index()] {
            let Shapes { down, up, .. } = past.shapes.as_ref()?;
            let steps = down.trace.iter().flat_map(|trace| trace.steps()).map(|step| step.rate);
            let fastest = steps.fold(down.rate, Ord::max);
            let shares = [down.corrupt, down.duplicate, down.reorder].map(Percent::probability);
            spoilt = spoilt.max(shares.iter().sum());
            let held_s = (down.greatest_delay().0
                + down.jitter.0
                + up.greatest_delay().0
                + up.jitter.0
                + down.queue_time())
            .as_secs_f64();
            held = held.max(fastest.bytes_per_s() * held_s);
        }
        Some((spoilt, held as u64))
    }

    /// Returns what came down a link with cross traffic when it was read last.
    pub(crate) fn passed(&self, link: LinkId) -> Option<PassedDown> {
        self.passed.lock().expect("nobody panics while holding what passed")[link.index()]
    }

    /// The shared channel, if the links are on one.
    pub(crate) fn channel(&self) -> Option<ChannelConfig> {
        self.shaper().channel().cloned()
    }

    /// Returns the profiles in force at a time (`None` for an unshaped link), and the changes after it.
    pub(crate) fn profiles_from(&self, at: Instant) -> ([Option<Profile>; 2], Vec<Change>) {
        let history = self.history.lock().expect("nobody panics while holding the history");
        let mut changes = Vec::new();
        let profiles = LinkId::BOTH.map(|link| {
            let history = &history[link.index()];
            let first = history.iter().rposition(|past| past.by <= at)?;
            for past in &history[first + 1..] {
                let to =
                    past.shapes.as_ref().map_or(To::Clear, |shapes| To::Profile(Box::new(shapes.profile())));
                changes.push(Change { after: Delay(past.by.duration_since(at)), link, to });
            }
            history[first].shapes.as_ref().map(Shapes::profile)
        });
        changes.sort_by_key(|change| change.after);
        (profiles, changes)
    }

    /// The links as the bound sees them; `None` where one of them is or was unshaped.
    pub(crate) fn paths(&self, first_request: Instant, segments: [TcpSegments; 2]) -> Option<Vec<Path>> {
        let history = self.history.lock().expect("nobody panics while holding the history");
        let channel = self.channel();
        LinkId::BOTH
            .into_iter()
            .map(|link| {
                let mut stages = stages(&history[link.index()], first_request)?;
                // The channel is a limit of its own, and luck on it makes a link faster than the mean.
                if let Some(rate) = channel.as_ref().and_then(|channel| channel.most(link)) {
                    stages.iter_mut().for_each(|stage| stage.down.rate = rate);
                }
                if let Some(passed) = self.passed(link) {
                    let took_s = seconds_between(first_request, passed.at).max(1e-3);
                    let bits_per_s = passed.cross_bytes as f64 * 8.0 / took_s;
                    bound::link::leave_out_datagrams(&mut stages, bits_per_s);
                }
                bound::link::path(&stages, segments[link.index()])
            })
            .collect()
    }

    /// How late the latest step of a trace took effect (s).
    pub(crate) fn latest_step_s(&self) -> f64 {
        Duration::from_nanos(self.latest_step.load(Ordering::Relaxed)).as_secs_f64()
    }
}

/// A link's history as the bound sees it. While a change is made, whatever is better counts.
fn stages(history: &[Past], first_request: Instant) -> Option<Vec<Stage>> {
    let began = history.iter().rposition(|past| past.by <= first_request).unwrap_or(0);
    let mut stages: Vec<Stage> = Vec::new();
    for past in &history[began..] {
        let shapes = past.shapes.as_ref()?;
        let then = shapes.stage(past.by, first_request);
        if let Some(before) = stages.last().filter(|_| past.from < past.by) {
            let meanwhile = shapes.stage(past.from, first_request);
            stages.push(bound::link::better(before, meanwhile));
        }
        stages.push(then);
    }
    Some(stages)
}

/// Seconds from one time to another; negative where the other is earlier.
fn seconds_between(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() - from.saturating_duration_since(to).as_secs_f64()
}

/// Steps of a trace that are shorter than this have no record of their own.
const SHORTEST_LOGGED: Duration = Duration::from_millis(100);
