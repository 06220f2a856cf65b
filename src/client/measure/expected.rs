//! How long measuring links takes, by their profiles. Pure. Losses, and a congestion control that is long in
//! finding its rate, make it longer.

use std::time::Duration;

use super::meter::{Meter, SEGMENT_BYTES};
use super::{HANDSHAKE_TIME, HANDSHAKES};
use crate::config::profile::{Profile, Shape};
use crate::shape::setup::LinkSetup;

/// A connection begins with ten segments (RFC 6928).
const FIRST_WINDOW: f64 = 10.0;

/// Idle round trip of a link, s.
pub(crate) fn rtt_s(profile: &Profile) -> f64 {
    profile.down.delay.0.as_secs_f64() + profile.up.delay.0.as_secs_f64()
}

/// Time that a bulk transfer takes to find its rate, to be measured, and to drain from the link, s.
fn bulk_s(profile: Option<&Profile>, shape: impl Fn(&Profile) -> &Shape, span: Option<Duration>) -> f64 {
    let meter = |rtt_s| match span {
        Some(span) => Meter::lasting(rtt_s, SEGMENT_BYTES, span.as_secs_f64()),
        None => Meter::new(rtt_s, SEGMENT_BYTES),
    };
    let Some(profile) = profile else { return meter(0.0).expected_s(f64::INFINITY) };
    let (rtt_s, shape) = (rtt_s(profile), shape(profile));
    let rate = shape.trace.as_ref().map_or(shape.rate.bytes_per_s(), |trace| trace.mean_kbit() * 125.0);
    let doublings = (rate * rtt_s / (FIRST_WINDOW * SEGMENT_BYTES)).log2().max(0.0);
    let drain_s = rtt_s + shape.queue_time().as_secs_f64() / 2.0;
    (1.0 + doublings) * rtt_s + meter(rtt_s).expected_s(rate) + drain_s
}

/// Time that the idle round trips of a link take, s.
fn round_trips_s(profile: Option<&Profile>) -> f64 {
    let Some(profile) = profile else { return 0.0 };
    let jitter_s = profile.down.jitter.0.as_secs_f64() + profile.up.jitter.0.as_secs_f64();
    let one_s = rtt_s(profile) + 2.0 * jitter_s;
    let (least, most) = (HANDSHAKES.0 as f64 * one_s, HANDSHAKES.1 as f64 * one_s);
    if jitter_s > 0.0 { most.min(HANDSHAKE_TIME.as_secs_f64().max(least)) } else { least }
}

/// Time that a probe of both links takes before a run, s.
pub(crate) fn probe_s(asked: &LinkSetup) -> f64 {
    let [a, b] = asked.profiles.each_ref().map(|profile| {
        let profile = profile.as_ref();
        let both_ways = bulk_s(profile, |p| &p.down, None) + bulk_s(profile, |p| &p.up, None);
        (round_trips_s(profile), both_ways)
    });
    match &asked.channel {
        // Links that share a channel are not alone together.
        Some(_) => a.0 + a.1 + b.0 + b.1,
        None => a.0.max(b.0) + a.1.max(b.1),
    }
}

/// Time that measuring what each link carries takes, alone and together, for `span` each, s.
pub(crate) fn throughput_s(asked: &LinkSetup, span: Duration) -> f64 {
    let [a, b] = asked.profiles.each_ref().map(|p| bulk_s(p.as_ref(), |p| &p.down, Some(span)));
    a + b + a.max(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::profile::load;
    use crate::units::LinkId;

    fn asked(names: [&str; 2]) -> LinkSetup {
        let profiles = names.map(|name| Some(load::load(name, LinkId::A).unwrap()));
        LinkSetup { profiles, channel: None, script: None, capture: None }
    }

    /// Both ways of these took so long in the lab with userspace links, from 3.3 to 10.3 s in all.
    #[test]
    fn probes_take_about_what_they_took() {
        for (names, took_s) in
            [(["wifi-near"; 2], 3.3), (["wifi-near", "lte-medium"], 5.0), (["wifi-far", "lte-weak"], 10.3)]
        {
            let expected_s = probe_s(&asked(names));
            assert!((expected_s / took_s - 1.0).abs() < 0.25, "{names:?}: {expected_s} s");
        }
    }

    #[test]
    fn throughputs_take_their_span_three_times_and_more() {
        let links = asked(["wifi-near", "lte-medium"]);
        let [short, long] = [2, 10].map(|s| throughput_s(&links, Duration::from_secs(s)));
        assert!(short > 6.0 && short < 10.0, "{short}");
        assert!((long - short - 24.0).abs() < 1e-9, "{long}");
    }
}
