//! Records of links, made from what the shaper tells of them.

use super::schema::{Airtime, Link, LinkShape, LinkTrace};
use crate::config::profile::{Loss, Shape};
use crate::shape::active_shaping::{ActiveShaping, StationLoad};
use crate::shape::active_trace::StartedStep;
use crate::units::{Direction, LinkId};

impl Link {
    /// The record of a direction that is shaped.
    pub fn shaped(row: &ActiveShaping, action: &str) -> Link {
        Link {
            backend: row.backend.clone(),
            why: row.why.clone().unwrap_or_default(),
            profile: Some(row.profile.clone()),
            asked: Some(LinkShape::from(&row.shape)),
            kernel: row.kernel.clone(),
            channel_error: row.channel_error.clone(),
            ..Link::unshaped(row.link, row.direction, action, "")
        }
    }

    /// The record of a direction that is not shaped.
    pub fn unshaped(link: LinkId, direction: Direction, action: &str, why: &str) -> Link {
        Link {
            link,
            direction,
            backend: "none".into(),
            why: why.into(),
            profile: None,
            asked: None,
            kernel: serde_json::Value::Null,
            channel_error: None,
            action: action.to_string(),
            planned_ms: None,
            late_ms: None,
        }
    }

    /// The record of a step of the trace that a direction follows, which was to begin at `planned_ms`.
    pub fn step(row: &ActiveShaping, step: &StartedStep, planned_ms: f64) -> Link {
        let during = row.shape.during(&step.step);
        Link {
            why: "a step of its trace".into(),
            // The queue stays what it is in bytes, so its time is that at the profile's own rate.
            asked: Some(LinkShape {
                rate_kbit: during.rate.kbit(),
                delay_ms: during.delay.ms(),
                jitter_ms: during.jitter.ms(),
                loss_pct: during.loss.mean().percent(),
                trace: None,
                ..LinkShape::from(&row.shape)
            }),
            kernel: serde_json::Value::Null,
            planned_ms: Some(planned_ms),
            late_ms: step.late.map(|late| late.as_secs_f64() * 1e3),
            ..Link::shaped(row, "step")
        }
    }
}

impl From<&Shape> for LinkShape {
    fn from(shape: &Shape) -> LinkShape {
        let loss_model = match shape.loss {
            Loss::Random(share) if share.is_zero() => None,
            Loss::Random(_) => Some("random"),
            Loss::GilbertElliott(_) => Some("gilbert-elliott"),
        };
        let distribution = shape.distribution.and_then(|d| serde_json::to_value(d).ok());
        LinkShape {
            rate_kbit: shape.rate.kbit(),
            delay_ms: shape.delay.ms(),
            jitter_ms: shape.jitter.ms(),
            distribution: distribution.and_then(|value| value.as_str().map(str::to_string)),
            loss_pct: shape.loss.mean().percent(),
            loss_model: loss_model.map(str::to_string),
            queue_ms: shape.queue_time().as_secs_f64() * 1e3,
            cross: shape.cross.map(|cross| cross.to_string()),
            queue_kind: shape.queue.kind().into(),
            reorder_pct: shape.reorder.percent(),
            duplicate_pct: shape.duplicate.percent(),
            corrupt_pct: shape.corrupt.percent(),
            trace: shape.trace.as_ref().map(|trace| LinkTrace {
                file: trace.file().to_string(),
                looped: trace.looped(),
                steps: trace.steps().len() as u64,
                length_ms: trace.length() as f64 / 1e6,
                mean_rate_kbit: trace.mean_kbit(),
                shortest_step_ms: trace.shortest_step() as f64 / 1e6,
            }),
        }
    }
}

impl From<&StationLoad> for Airtime {
    fn from(load: &StationLoad) -> Airtime {
        Airtime { station: load.station.clone(), busy_pct: load.share * 100.0 }
    }
}
