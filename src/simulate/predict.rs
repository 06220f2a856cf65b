//! Predicts a run: builds the model, plays it under one or more seeds, sums it up. Pure but for the threads
//! on which several seeds are played.

use serde::Serialize;

use super::client::{ANSWER_HEAD_BYTES, Client};
use super::run::{LinkChange, SimulatedRun};
use crate::bound;
use crate::bound::{Path, TcpSegments};
use crate::config::channel::ChannelConfig;
use crate::config::profile::{Profile, Shape};
use crate::config::script;
use crate::config::script::To;
use crate::config::traffic::Control;
use crate::emulate::emulator::Emulator;
use crate::emulate::tcp::connection::ConnectionConfig;
use crate::schedule::{Connections, Pipeline, Schedule};
use crate::units::LinkId;
use crate::units::Nanos;
use crate::units::PerLink;

/// The input of a prediction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup<'a> {
    /// By [`LinkId::index`]; of a link on the channel, the profile of the channel file.
    pub profiles: &'a [Option<Profile>; 2],
    pub channel: Option<&'a ChannelConfig>,
    /// Changes during the run, in the order of their times.
    pub changes: &'a [script::Change],
    pub schedule: &'a Schedule,
    pub pipeline: Pipeline,
    pub connections: Connections,
    /// The files' sizes in bytes, in the order of the list.
    pub sizes: &'a [u64],
    /// The congestion control of each server.
    pub congestion: [Control; 2],
    /// The congestion control of new sockets of the servers: BBR leaves them paced.
    pub kernel: Control,
    /// Of the links' losses.
    pub seed: u64,
}

/// A predicted run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Prediction {
    /// From the first request to the last byte; of several seeds, the median's.
    pub elapsed_ms: f64,
    /// The least and the most of the seeds that were played.
    pub least_ms: f64,
    pub most_ms: f64,
    /// The number of seeds played: several where losses or jitter decide.
    pub seeds: usize,
    /// The bound (see `crate::bound`), without and with slow start.
    pub bound_ms: f64,
    pub bound_tcp_ms: f64,
    /// `bound_ms` / `elapsed_ms`.
    pub efficiency: f64,
    pub files: u64,
    pub bytes: u64,
    pub wasted_bytes: u64,
    pub links: PerLink<Share>,
}

/// The part of the payload that one link brings.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Share {
    pub bytes: u64,
    pub files: u64,
    /// The connections that it had.
    pub connections: usize,
    pub share_pct: f64,
    pub goodput_kbit: Option<f64>,
    pub last_byte_ms: Option<f64>,
    /// While the server sends, every 100 ms: the medians of its smoothed round trip, and of what is held on the way
    /// down, the delay line included, in time at the profile's rate.
    pub busy_rtt_ms: Option<f64>,
    pub queue_ms: Option<f64>,
}

/// After so many seeds no more are played where all are alike to this share.
const FIRST_SEEDS: usize = 3;
const ALIKE: f64 = 0.02;

/// Predicts a run. Where chance decides, it plays up to `seeds` runs, under the setup's seed and those
/// after it, as long as `goes_on` says yes, and returns the median's. `None` where a link has no rate or
/// loses it, where the files can never all arrive, where a program decides, or where not even one run came to its
/// end.
pub(crate) fn predict(
    setup: &Setup,
    seeds: usize,
    goes_on: &(impl Fn() -> bool + Sync),
) -> Option<Prediction> {
    if let Schedule::Exec(_) = setup.schedule {
        return None;
    }
    let seeds = if is_chance(setup) { seeds.max(1) as u64 } else { 1 };
    let play = |more| predict_one(&Setup { seed: setup.seed.wrapping_add(more), ..*setup }, goes_on);
    let first = seeds.min(FIRST_SEEDS as u64);
    // No more at once than there are cores: where the time is short, the first are done in it.
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let together = |from: u64, to: u64| -> Vec<Prediction> {
        std::thread::scope(|scope| {
            let spawn = |more| std::thread::Builder::new().spawn_scoped(scope, move || play(more));
            let others: Vec<_> = (from + 1..to).map(|more| (more, spawn(more))).collect();
            let own = play(from);
            // Where the system refuses a thread, this one does its work.
            let others = others.into_iter().map(|(more, thread)| match thread {
                Ok(thread) => thread.join().expect("no prediction panics"),
                Err(_) => play(more),
            });
            std::iter::once(own).chain(others).map_while(|run| run).collect()
        })
    };
    let mut runs: Vec<Prediction> = Vec::new();
    for from in (0..first).step_by(cores as usize) {
        runs.extend(together(from, first.min(from + cores)));
    }
    for more in first..seeds {
        if runs.len() < FIRST_SEEDS || agree(&runs) {
            break;
        }
        let Some(run) = play(more) else { break };
        runs.push(run);
    }
    // Of an even number none is in the middle.
    runs.truncate(runs.len().saturating_sub(1) / 2 * 2 + 1);
    runs.sort_by(|a, b| a.elapsed_ms.total_cmp(&b.elapsed_ms));
    let (least_ms, most_ms, seeds) = (runs.first()?.elapsed_ms, runs.last()?.elapsed_ms, runs.len());
    Some(Prediction { least_ms, most_ms, seeds, ..runs.swap_remove(seeds / 2) })
}

/// Whether chance decides what a packet meets; on a shared channel it draws the backoffs.
fn is_chance(setup: &Setup) -> bool {
    let varies = |shape: &Shape| {
        let still = shape.jitter.is_zero() && shape.corrupt.is_zero() && shape.reorder.is_zero();
        shape.can_lose() || !still || shape.cross.is_some()
    };
    let first = setup.profiles.iter().flatten();
    let later = setup.changes.iter().filter_map(|change| match &change.to {
        To::Profile(profile) => Some(&**profile),
        To::Clear => None,
    });
    setup.channel.is_some() || first.chain(later).any(|profile| varies(&profile.down) || varies(&profile.up))
}

/// Whether the first runs are so near to each other that more of them would say the same.
fn agree(runs: &[Prediction]) -> bool {
    let times = || runs.iter().map(|run| run.elapsed_ms);
    let (least, most) = (times().fold(f64::INFINITY, f64::min), times().fold(0.0, f64::max));
    runs.len() == FIRST_SEEDS && most - least < ALIKE * least
}

fn predict_one(setup: &Setup, goes_on: &impl Fn() -> bool) -> Option<Prediction> {
    let [a, b] = LinkId::BOTH.map(|link| stages(setup, link));
    let stages = [a?, b?];
    let config = |link: LinkId| ConnectionConfig {
        server: setup.congestion[link.index()],
        paced: setup.kernel == Control::Bbr,
        seed: setup.seed,
    };
    let profiles = stages.each_ref().map(|stages| stages[0].1);
    let rtt = profiles.map(|Profile { down, up, .. }| (down.delay.0 + up.delay.0).as_nanos() as Nanos);
    let mut changes: Vec<LinkChange> = LinkId::BOTH
        .iter()
        .flat_map(|&link| {
            stages[link.index()][1..].iter().map(move |&(at, profile)| LinkChange { at, link, profile })
        })
        .collect();
    changes.sort_by_key(|change| change.at);
    let shaped = profiles.map(|profile| profile.down.greatest_rate().bytes_per_s());
    let client = Client::new(setup.schedule, (setup.pipeline, setup.connections), setup.sizes, rtt, shaped);
    let looks_up = client.needs_sizes();
    let emulator = Emulator::new(setup.channel, setup.seed);
    let mut run = SimulatedRun::new(emulator, profiles, changes, client, LinkId::BOTH.map(config), rtt);
    if looks_up {
        run.look_up(setup.sizes.len(), config(LinkId::A));
    }
    let elapsed_ms = run.play(goes_on)? as f64 / 1e6;
    let mut cross_bits_per_s = |link| run.cross_bytes(link) as f64 * 8.0 / (elapsed_ms / 1e3).max(1e-3);
    let [path_a, path_b] =
        LinkId::BOTH.map(|link| path(setup, link, &stages[link.index()], cross_bits_per_s(link)));
    let paths = [path_a?, path_b?];
    let bytes: u64 = setup.sizes.iter().sum();
    let heads = ANSWER_HEAD_BYTES * setup.sizes.len() as u64;
    let (bound_s, bound_tcp_s) = bound::bounds_s(&paths, setup.channel, (bytes + heads) as f64)?;
    let share = |id: LinkId| {
        let side = &run.client.sides[id.index()];
        let samples = &run.samples[id.index()];
        let rate = profiles[id.index()].down.rate;
        let last_byte_ms = side.last_byte.map(|at| at as f64 / 1e6);
        Share {
            bytes: side.bytes,
            files: side.files,
            connections: run.client.connections(id),
            share_pct: side.bytes as f64 * 100.0 / bytes.max(1) as f64,
            goodput_kbit: last_byte_ms.filter(|&ms| ms > 0.0).map(|ms| side.bytes as f64 * 8.0 / ms),
            last_byte_ms,
            busy_rtt_ms: median(samples.iter().map(|sample| sample.rtt as f64 / 1e6)),
            queue_ms: median(samples.iter().map(|sample| sample.held_bytes as f64 * 8.0 / rate.kbit())),
        }
    };
    Some(Prediction {
        elapsed_ms,
        least_ms: elapsed_ms,
        most_ms: elapsed_ms,
        seeds: 1,
        bound_ms: bound_s * 1e3,
        bound_tcp_ms: bound_tcp_s * 1e3,
        efficiency: if elapsed_ms > 0.0 { bound_s * 1e3 / elapsed_ms } else { 1.0 },
        files: setup.sizes.len() as u64,
        bytes,
        wasted_bytes: run.client.wasted_bytes,
        links: PerLink { a: share(LinkId::A), b: share(LinkId::B) },
    })
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// A profile and the time from which on it is in force.
type LinkStage<'a> = (Nanos, &'a Profile);

/// Returns a link's profiles, one after another; `None` where it has no rate at first or is cleared later.
fn stages<'a>(setup: &Setup<'a>, link: LinkId) -> Option<Vec<LinkStage<'a>>> {
    let first = (0, setup.profiles[link.index()].as_ref()?);
    let later = setup.changes.iter().filter(|change| change.link == link).map(|change| match &change.to {
        To::Profile(profile) => Some((change.after.0.as_nanos() as Nanos, &**profile)),
        To::Clear => None,
    });
    std::iter::once(Some(first)).chain(later).collect()
}

/// The link as the bound sees it, on the userspace backend.
fn path(setup: &Setup, link: LinkId, stages: &[LinkStage], cross_bits_per_s: f64) -> Option<Path> {
    let most = setup.channel.and_then(|channel| channel.most(link));
    let mut stages: Vec<_> = stages
        .iter()
        .map(|&(at, profile)| {
            let Profile { down, up, .. } = profile.clone();
            bound::link::Stage {
                from_s: at as f64 / 1e9,
                began_s: at as f64 / 1e9,
                down: Shape { rate: most.unwrap_or(down.rate), ..down },
                up,
                played: true,
                shaper: bound::link::ShaperFacts::Model,
            }
        })
        .collect();
    bound::link::leave_out_datagrams(&mut stages, cross_bits_per_s);
    bound::link::path(&stages, TcpSegments::USUAL)
}

#[cfg(test)]
#[path = "predict_tests.rs"]
mod tests;
