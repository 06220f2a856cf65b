//! The netem backend: keeps the kernel's tbf and netem in step with the shapes that are asked for.
//!
//! It applies all of a request or nothing, reads back what the kernel made of it, and takes away only
//! what the lab put there. Whether it may act at all is for [`super::guard`] to say.

pub(crate) mod check;
pub(crate) mod cleanup;
pub(crate) mod tc;
pub(crate) mod trace_player;

use std::time::Instant;

use anyhow::{Context, Result, bail};

use self::tc::read;
use self::tc::read::{Alias, Device};
use self::tc::render;
use self::tc::render::{Child, DeviceDirection};
use self::tc::run;
use self::tc::run::Tool;
use self::tc::stats;
use self::trace_player::{TracePlayer, Track};
use super::active_shaping::{ActiveShaping, Counters, Owner};
use super::active_trace::AppliedStep;
use super::backend::{Backend, Fit, Refusal, ShapingRequest};
use super::guard;
use super::kernel_support::{self, Feature};
use crate::config::profile::Shape;
use crate::units::{Direction, LinkId, Rate};
use check::explain;
use cleanup::{in_force, remove_devices, repair};

/// One direction of a link that is in force.
#[derive(Clone, Debug)]
pub(crate) struct NetemDirection {
    pub place: DeviceDirection,
    pub alias: Alias,
    pub shape: Shape,
    pub child: Child,
    pub why: Option<String>,
    pub report: serde_json::Value,
}

impl NetemDirection {
    fn row(&self, owner: Owner, counters: Counters) -> ActiveShaping {
        let shape = &self.shape;
        let fastest = Shape { rate: shape.greatest_rate(), ..shape.clone() };
        ActiveShaping {
            link: self.place.link,
            direction: self.place.direction,
            backend: NAME.into(),
            why: self.why.clone(),
            profile: self.alias.profile.clone(),
            server: self.place.server.parse().ok(),
            owner,
            shape: shape.clone(),
            trace: None,
            delay_line_ms: shape.delay.ms() + shape.jitter.ms(),
            burst_bytes: Some(render::burst_bytes(&fastest)),
            kernel: self.report.clone(),
            counters,
            airtimes: None,
            channel_error: None,
        }
    }
}

pub(crate) const NAME: &str = "netem";

/// The links that the kernel's qdiscs carry for this process.
#[derive(Default)]
pub(crate) struct Netem {
    /// Of everything random, where the kernel heeds one.
    seed: u64,
    lanes: Vec<NetemDirection>,
    /// The traces that are being played, and what plays them.
    tracks: Vec<Track>,
    player: Option<TracePlayer>,
    /// Steps of players that have ended, not yet taken by the caller.
    done: Vec<AppliedStep>,
}

impl Backend for Netem {
    fn name(&self) -> &'static str {
        NAME
    }

    fn features(&self) -> &'static [Feature] {
        &check::FEATURES
    }

    fn check(&self, requests: &[ShapingRequest], on_channel: bool) -> Result<Fit, Refusal> {
        check::check(requests, on_channel)
    }

    fn set(&mut self, requests: &[ShapingRequest], whys: &[String]) -> Result<()> {
        let (known, new): (Vec<_>, Vec<_>) = requests.iter().zip(whys).partition(|(request, _)| {
            let server = request.server.to_canonical().to_string();
            self.lanes.iter().any(|lane| lane.place.link == request.link && lane.place.server == server)
        });
        self.add(&new)?;
        known.into_iter().try_for_each(|(request, why)| self.change(request, why))
    }

    fn clear(&mut self, link: Option<LinkId>) -> Result<()> {
        self.remove(|lane| link.is_none_or(|link| link == lane.place.link))
    }

    fn play(&mut self, link: LinkId) -> Result<Instant> {
        let (began, seed) = (Instant::now(), self.tc_seed());
        let of_link = self.lanes.iter().filter(|lane| lane.place.link == link);
        let track = |lane: &NetemDirection| {
            let (link, direction) = (lane.place.link, lane.place.direction);
            let (ifb, shape, child) = (lane.place.ifb(), lane.shape.clone(), lane.child);
            let seed = seed.map(|seed| render::seed_of(seed, link, direction));
            let trace = shape.trace.clone()?;
            Some(Track { link, direction, ifb, shape, child, seed, trace, began })
        };
        let tracks: Vec<Track> = of_link.filter_map(track).collect();
        self.tracks.retain(|track| track.link != link);
        self.tracks.extend(tracks);
        self.restart_player(|over| over == link)?;
        Ok(began)
    }

    fn take_applied_steps(&mut self) -> Option<Vec<AppliedStep>> {
        let mut done = std::mem::take(&mut self.done);
        done.extend(self.player.as_ref().map(TracePlayer::take_done).unwrap_or_default());
        Some(done)
    }

    fn rows(&self) -> Vec<ActiveShaping> {
        self.lanes.iter().map(|lane| lane.row(Owner::Run, Counters::default())).collect()
    }

    fn read(&mut self) -> Result<Vec<ActiveShaping>> {
        if let Some(failure) = self.player.as_ref().and_then(TracePlayer::failed) {
            bail!("the traces are played no more: {failure}");
        }
        counted(&self.lanes, Owner::Run)
    }

    fn in_force(&self) -> Result<Vec<ActiveShaping>> {
        let lanes = in_force()?;
        // A process that shapes holds the lock.
        let dead = !lanes.is_empty() && guard::lock().is_ok();
        counted(&lanes, if dead { Owner::Dead } else { Owner::Run })
    }

    fn has_leftovers(&self) -> bool {
        read::devices().is_ok_and(|devices| !devices.is_empty())
    }

    fn clean_up(&self, devs: &[String]) -> Result<()> {
        let removed = repair(devs).context("cannot remove what an earlier run left")?;
        if removed > 0 {
            tracing::warn!("removed {removed} devices that an earlier run had left shaped");
        }
        Ok(())
    }
}

impl Netem {
    pub(crate) fn new(seed: u64) -> Netem {
        Netem { seed, ..Netem::default() }
    }

    /// The seed to hand to netem, where it heeds one.
    fn tc_seed(&self) -> Option<u64> {
        kernel_support::can_seed().then_some(self.seed)
    }

    /// Sets links up anew, in the place of whatever they were: all of them, or none.
    fn add(&mut self, requests: &[(&ShapingRequest, &String)]) -> Result<()> {
        let mut lanes = Vec::new();
        for (request, why) in requests {
            self.clear(Some(request.link))?;
            for direction in Direction::BOTH {
                lanes.push(lane(request, direction, why)?);
            }
        }
        if let Err(error) = make(&mut lanes, self.tc_seed()) {
            // A half-made link must not stay; the first error is the one that counts.
            let made: Vec<Device> = read::devices().unwrap_or_default();
            let ours = |device: &Device| lanes.iter().any(|lane| lane.place.ifb() == device.name);
            let _ = remove_devices(&made.into_iter().filter(|device| ours(device)).collect::<Vec<_>>());
            return Err(error);
        }
        self.lanes.append(&mut lanes);
        Ok(())
    }

    /// Plays a link's traces no more. The qdiscs stay as they are.
    fn stop(&mut self, stops: impl Fn(LinkId) -> bool) -> Result<()> {
        if self.tracks.iter().any(|track| stops(track.link)) {
            self.tracks.retain(|track| !stops(track.link));
            self.restart_player(stops)?;
        }
        Ok(())
    }

    /// Starts the player anew for the links' current traces. Times are absolute, so a trace that goes on
    /// loses nothing. Keeps the steps taken, but for links `over` names.
    fn restart_player(&mut self, over: impl Fn(LinkId) -> bool) -> Result<()> {
        self.done.extend(self.player.take().map(TracePlayer::finish).unwrap_or_default());
        self.done.retain(|done| !over(done.link));
        if !self.tracks.is_empty() {
            self.player = Some(TracePlayer::start(self.tracks.clone())?);
        }
        Ok(())
    }

    /// Gives both directions of a link another shape in place. When that fails the old one is put back.
    fn change(&mut self, request: &ShapingRequest, why: &str) -> Result<()> {
        let seed = self.tc_seed();
        self.stop(|link| link == request.link)?;
        let of_link = |lane: &&mut NetemDirection| lane.place.link == request.link;
        let before: Vec<NetemDirection> =
            self.lanes.iter_mut().filter(of_link).map(|lane| lane.clone()).collect();
        let result = self.lanes.iter_mut().filter(of_link).try_for_each(|lane| {
            let to = request.profile.shape(lane.place.direction).clone();
            lane.why = Some(why.to_string());
            reshape(lane, to, &request.profile.name, seed)
        });
        let Err(error) = result else { return Ok(()) };
        for (lane, old) in self.lanes.iter_mut().filter(of_link).zip(before) {
            lane.why = old.why;
            if let Err(second) = reshape(lane, old.shape, &old.alias.profile, seed) {
                return Err(error
                    .context(format!("cannot put the old shape of {} back: {second:#}", lane.place.ifb())));
            }
        }
        Err(error)
    }

    /// Takes away the lanes that are picked.
    fn remove(&mut self, pick: impl Fn(&NetemDirection) -> bool) -> Result<()> {
        let names: Vec<String> =
            self.lanes.iter().filter(|lane| pick(lane)).map(|lane| lane.place.ifb()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let links: Vec<LinkId> =
            self.lanes.iter().filter(|lane| pick(lane)).map(|lane| lane.place.link).collect();
        self.stop(|link| links.contains(&link))?;
        let devices: Vec<Device> =
            read::devices()?.into_iter().filter(|device| names.contains(&device.name)).collect();
        remove_devices(&devices)?;
        self.lanes.retain(|lane| !names.contains(&lane.place.ifb()));
        Ok(())
    }
}

/// The rows of lanes with their counters, with one question to the kernel.
///
/// tbf counts what left the bottleneck and what waits in it. A loss of netem's and a full queue are
/// one number there, so where packets could get lost at any time they are one here.
fn counted(lanes: &[NetemDirection], owner: Owner) -> Result<Vec<ActiveShaping>> {
    if lanes.is_empty() {
        return Ok(Vec::new());
    }
    let by_device = stats::read()?;
    let sizes = stats::packet_bytes()?;
    let row = |lane: &NetemDirection| {
        let ifb = lane.place.ifb();
        let found = stats::index_of(&ifb).and_then(|index| by_device.get(&index));
        let found = found.with_context(|| format!("cannot read the counters of {ifb}: it is gone"))?;
        let counters = Counters {
            packets: found.packets,
            bytes: found.bytes,
            dropped_queue: found.drops,
            marked: found.marked,
            dropped_loss: if lane.alias.lossy { None } else { Some(0) },
            queue_packets: found.queue_packets,
            queue_bytes: found.queue_bytes,
            packet_bytes: sizes.get(&ifb).copied(),
            rate_kbit: Some(lane.shape.rate.kbit()),
            ..Counters::default()
        };
        Ok(lane.row(owner, counters))
    };
    lanes.iter().map(row).collect()
}

fn lane(request: &ShapingRequest, direction: Direction, why: &str) -> Result<NetemDirection> {
    let ShapingRequest { link, server, profile } = request;
    let dev = read::route_dev(*server)?;
    let place = DeviceDirection::new(*link, direction, &dev, *server);
    let shape = profile.shape(direction).clone();
    let alias = alias(&place, &shape, &profile.name, std::process::id(), own_clsact(&dev)?);
    let (child, why) = (Child::needed_by(&shape), Some(why.to_string()));
    Ok(NetemDirection { place, alias, shape, child, why, report: serde_json::Value::Null })
}

pub(crate) fn alias(
    place: &DeviceDirection,
    shape: &Shape,
    profile: &str,
    pid: u32,
    own_clsact: bool,
) -> Alias {
    let (dev, server) = (place.dev.clone(), place.server.clone());
    Alias { pid, dev, server, own_clsact, lossy: shape.can_lose(), profile: profile.to_string() }
}

/// Returns whether the interface's clsact is, or will be, the lab's. Devices of the lab that are already
/// there know; else it is where there is none yet, or one without a filter: that does nothing, and is
/// what a process leaves that is killed while it sets up or cleans up.
fn own_clsact(dev: &str) -> Result<bool> {
    let known = read::devices()?
        .into_iter()
        .filter_map(|device| device.alias)
        .find(|alias| alias.dev == dev)
        .map(|alias| alias.own_clsact);
    match known {
        Some(own) => Ok(own),
        None => match read::ingress_kind(dev)?.as_deref() {
            None => Ok(true),
            Some("clsact") => Ok(read::has_no_filter(dev)?),
            Some(other) => bail!(
                "cannot shape {dev}: it has the qdisc {other} from elsewhere, which leaves no room for \
                 clsact: remove it with \"tc qdisc del dev {dev} {other}\""
            ),
        },
    }
}

fn make(lanes: &mut [NetemDirection], seed: Option<u64>) -> Result<()> {
    for lane in lanes.iter() {
        refuse_foreign_filter(&lane.place)?;
    }
    let devices: Vec<String> =
        lanes.iter().flat_map(|lane| render::make_ifb(&lane.place, &lane.alias.render())).collect();
    run::batch(Tool::Ip, &devices).map_err(explain)?;
    let mut lines = Vec::new();
    for lane in lanes.iter() {
        let seed = seed.map(|seed| render::seed_of(seed, lane.place.link, lane.place.direction));
        lines.extend(render::set_up(&lane.place, &lane.shape, lane.child, seed));
    }
    let mut devs: Vec<&str> = lanes.iter().map(|lane| lane.place.dev.as_str()).collect();
    devs.sort_unstable();
    devs.dedup();
    for dev in devs {
        if read::ingress_kind(dev)?.is_none() {
            lines.push(render::add_clsact(dev));
        }
    }
    // Packets are sent to an ifb only when it is ready for them.
    lines.extend(lanes.iter().map(|lane| render::redirect(&lane.place)));
    run::batch(Tool::Tc, &lines).map_err(explain)?;
    read_back(lanes)
}

/// Fails where something else holds the preference that the lab's filter would take.
fn refuse_foreign_filter(place: &DeviceDirection) -> Result<()> {
    if read::ingress_kind(&place.dev)?.is_none() {
        return Ok(());
    }
    let taken = read::filters(&place.dev, place.direction)?
        .into_iter()
        .any(|filter| filter.pref == render::pref(place.link, place.direction));
    if taken {
        bail!(
            "cannot shape {}: a filter from elsewhere has the preference {} at its {}: remove it first",
            place.dev,
            render::pref(place.link, place.direction),
            render::hook(place.direction)
        );
    }
    Ok(())
}

fn reshape(lane: &mut NetemDirection, to: Shape, profile: &str, seed: Option<u64>) -> Result<()> {
    let ifb = lane.place.ifb();
    let seed = seed.map(|seed| render::seed_of(seed, lane.place.link, lane.place.direction));
    // A trace may have left any rate there.
    let rate = if lane.shape.trace.is_some() { Rate::from_bits_per_s(0) } else { lane.shape.rate };
    let from = Shape { rate, ..lane.shape.clone() };
    let (lines, child) = render::change(&ifb, &from, lane.child, &to, seed);
    if !lines.is_empty() {
        run::batch(Tool::Tc, &lines).map_err(explain)?;
    }
    if to.rate > from.rate
        && let Err(error) = trace_player::wake(&ifb)
    {
        tracing::warn!("what waits in {ifb} meets its new rate late: cannot wake it: {error}");
    }
    lane.child = child;
    lane.alias.lossy |= to.can_lose();
    lane.shape = to;
    lane.alias.profile = profile.to_string();
    run::batch(Tool::Ip, &[render::set_alias(&ifb, &lane.alias.render())])?;
    read_back(std::slice::from_mut(lane))
}

/// Reads back what the kernel made of the lanes; a difference is an error, never a silent half.
fn read_back(lanes: &mut [NetemDirection]) -> Result<()> {
    let qdiscs = read::qdiscs()?;
    for lane in lanes {
        let ifb = lane.place.ifb();
        let found = qdiscs.get(&ifb).cloned().unwrap_or_default();
        if let Some(difference) = found.differs_from(&lane.shape, lane.child) {
            bail!("cannot shape link {} {}: {ifb} has {difference}", lane.place.link, lane.place.direction);
        }
        lane.report = found.report();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_is_played_on_keeps_its_steps_when_another_is_played_anew() {
        let done = |link| AppliedStep { link, direction: Direction::Down, number: 3, at: Instant::now() };
        let player = TracePlayer::start(Vec::new()).unwrap();
        let earlier = vec![done(LinkId::A), done(LinkId::B)];
        let mut netem = Netem { player: Some(player), done: earlier, ..Netem::default() };
        netem.play(LinkId::A).unwrap();
        assert_eq!(
            netem.take_applied_steps().unwrap().iter().map(|done| done.link).collect::<Vec<_>>(),
            [LinkId::B]
        );
        assert!(netem.take_applied_steps().unwrap().is_empty());
    }
}
