//! From a run's options to how long it takes: builds the model, plays it, adds it up. Pure.

use serde::Serialize;

use super::air::Air;
use super::client::{ANSWER_HEAD_BYTES, Client};
use super::flow::Flow;
use super::pipe::{Pipe, Stage};
use super::run::{Link, Run};
use super::window::Control;
use crate::bound::{self, Path, Segment};
use crate::client::schedule::{Pipeline, Schedule};
use crate::link::profile::{Profile, Shape};
use crate::link::scenario::Scenario;
use crate::link::script::{Change, To};
use crate::record::PerLink;
use crate::units::LinkId;

/// Payload of a full segment at MTU 1500 with TCP's timestamps.
const MSS_BYTES: f64 = 1448.0;
/// A payload is sent in at most about so many trains, however large it is, so that a prediction takes
/// milliseconds.
const MOST_TRAINS: f64 = 50_000.0;

/// A train takes its link no longer than this, so that the client sees its bytes come as they do.
const LONGEST_TRAIN_S: f64 = 0.002;

/// What is to be predicted.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// By [`LinkId::index`]; those of links on the air are what the scenario says.
    pub profiles: &'a [Option<Profile>; 2],
    pub air: Option<&'a Scenario>,
    /// What changes during the run, in the order of its times.
    pub changes: &'a [Change],
    pub schedule: &'a Schedule,
    pub pipeline: Pipeline,
    /// The files' sizes in bytes, in the order of the list.
    pub sizes: &'a [u64],
    /// What each server sends with.
    pub congestion: [Control; 2],
    /// Of the links' losses.
    pub seed: u64,
}

/// How a run goes.
#[derive(Clone, Debug, Serialize)]
pub struct Prediction {
    /// From the first request to the last byte.
    pub elapsed_ms: f64,
    /// The least that physics allows (see `crate::bound`).
    pub bound_ms: f64,
    pub bound_tcp_ms: f64,
    /// `bound_ms` / `elapsed_ms`.
    pub efficiency: f64,
    pub files: u64,
    pub bytes: u64,
    pub wasted_bytes: u64,
    pub links: PerLink<Share>,
}

/// What one link brings.
#[derive(Clone, Debug, Serialize)]
pub struct Share {
    pub bytes: u64,
    pub files: u64,
    pub share_pct: f64,
    pub goodput_kbit: Option<f64>,
    pub last_byte_ms: Option<f64>,
}

/// Predicts a run. None where a link has no rate or loses it, or where the files can never all arrive.
pub fn predict(setup: &Setup) -> Option<Prediction> {
    let [a, b] = LinkId::BOTH.map(|link| stages(setup, link));
    let stages = [a?, b?];
    let [path_a, path_b] = LinkId::BOTH.map(|link| path(setup, link, &stages[link.index()]));
    let paths = [path_a?, path_b?];
    let bytes: u64 = setup.sizes.iter().sum();
    let heads = ANSWER_HEAD_BYTES * setup.sizes.len() as u64;
    let (bound_s, bound_tcp_s) = bound::bounds_s(&paths, setup.air, (bytes + heads) as f64)?;
    let least_train = (bytes as f64 / MOST_TRAINS).ceil();
    let link = |id: LinkId| {
        let most_train = paths[id.index()].capacity.highest() * LONGEST_TRAIN_S;
        let flow = Flow::new(setup.congestion[id.index()], MSS_BYTES, least_train, most_train);
        let on_air = setup.air.is_some_and(|air| air.link(id).is_some());
        let stages = stages[id.index()].clone();
        let pipe = (!on_air).then(|| Pipe::new(id, stages, MSS_BYTES, setup.seed));
        Link::new(flow, pipe, MSS_BYTES)
    };
    let rtt_s = stages.each_ref().map(|stages| {
        let Profile { down, up, .. } = &stages[0].profile;
        (down.delay.0 + up.delay.0).as_secs_f64()
    });
    let mut run = Run {
        links: LinkId::BOTH.map(link),
        air: setup.air.map(Air::new),
        client: Client::new(setup.schedule, setup.pipeline, setup.sizes, rtt_s),
        rtt_s,
        now_s: 0.0,
    };
    let elapsed_s = run.play()?;
    let share = |id: LinkId| {
        let side = &run.client.sides[id.index()];
        Share {
            bytes: side.bytes,
            files: side.files,
            share_pct: side.bytes as f64 * 100.0 / bytes.max(1) as f64,
            goodput_kbit: side.last_byte_s.map(|at_s| side.bytes as f64 * 8.0 / 1e3 / at_s),
            last_byte_ms: side.last_byte_s.map(|at_s| at_s * 1e3),
        }
    };
    Some(Prediction {
        elapsed_ms: elapsed_s * 1e3,
        bound_ms: bound_s * 1e3,
        bound_tcp_ms: bound_tcp_s * 1e3,
        efficiency: if elapsed_s > 0.0 { bound_s / elapsed_s } else { 1.0 },
        files: setup.sizes.len() as u64,
        bytes,
        wasted_bytes: run.client.wasted_bytes,
        links: PerLink { a: share(LinkId::A), b: share(LinkId::B) },
    })
}

/// What a link is one after another; none where it has no rate at first or is cleared later.
fn stages(setup: &Setup, link: LinkId) -> Option<Vec<Stage>> {
    let first = Stage { from_s: 0.0, profile: setup.profiles[link.index()].clone()? };
    let later = setup.changes.iter().filter(|change| change.link == link).map(|change| match &change.to {
        To::Profile(profile) => {
            Some(Stage { from_s: change.after.0.as_secs_f64(), profile: (**profile).clone() })
        }
        To::Clear => None,
    });
    std::iter::once(Some(first)).chain(later).collect()
}

/// The link as the bound sees it, on the userspace backend.
fn path(setup: &Setup, link: LinkId, stages: &[Stage]) -> Option<Path> {
    let most = setup.air.and_then(|air| air.most(link));
    let stages: Vec<_> = stages
        .iter()
        .map(|stage| {
            let Profile { down, up, .. } = stage.profile.clone();
            bound::link::Stage {
                from_s: stage.from_s,
                began_s: stage.from_s,
                down: Shape { rate: most.unwrap_or(down.rate), ..down },
                up,
                played: true,
                shaper: bound::link::Shaper::Model,
            }
        })
        .collect();
    bound::link::path(&stages, Segment::USUAL)
}

#[cfg(test)]
#[path = "predict_tests.rs"]
mod tests;
