//! Checks a profile against the kernel's own qdiscs, and the kernel against the profile.

use anyhow::{Result, anyhow, bail};

use super::tc::render;
use super::tc::run;
use super::tc::run::Tool;
use crate::config::profile::{Loss, Profile, Shape};
use crate::shape::backend::{Fit, Refusal, ShapingRequest};
use crate::shape::kernel_support;
use crate::shape::kernel_support::Feature;
use crate::units::Direction;

const NEEDED: &str = "the netem backend needs it: use a kernel that has it, or NFQUEUE (--backend userspace)";

/// All that this backend needs; netem itself, the last, not for a rate and a queue.
pub(crate) static FEATURES: [Feature; 4] = [
    Feature {
        name: "ifb",
        modules: &["ifb"],
        advice: NEEDED,
        on_ifb: true,
        // The device itself was the trial.
        attempt: |_| Ok(()),
    },
    Feature {
        name: "tbf",
        modules: &["sch_tbf"],
        advice: NEEDED,
        on_ifb: true,
        attempt: |dev| tc(format!("qdisc replace dev {dev} root tbf rate 1mbit burst 3000 limit 3000")),
    },
    Feature {
        name: "redirect (clsact, u32, mirred)",
        modules: &["sch_ingress", "cls_u32", "act_mirred"],
        advice: NEEDED,
        on_ifb: true,
        attempt: |dev| {
            tc(format!("qdisc add dev {dev} clsact"))?;
            tc(format!(
                "filter add dev {dev} ingress pref 1 protocol ip u32 match ip src 192.0.2.1/32 \
                 action mirred egress redirect dev {dev}"
            ))
        },
    },
    Feature {
        name: "netem",
        modules: &["sch_netem"],
        advice: "delay, jitter and loss need it, or NFQUEUE: to have it, install the module sch_netem (Ubuntu: \
                 linux-modules-extra-$(uname -r); Fedora: kernel-modules-extra)",
        on_ifb: true,
        attempt: |dev| tc(format!("qdisc replace dev {dev} root netem limit 1")),
    },
];

/// The queues below netem that drop before they are full, by the names of their kinds.
static QUEUES: [Feature; 2] = [
    Feature {
        name: "codel",
        modules: &["sch_codel"],
        advice: NEEDED,
        on_ifb: true,
        attempt: |dev| tc(format!("qdisc replace dev {dev} root codel")),
    },
    Feature {
        name: "fq_codel",
        modules: &["sch_fq_codel"],
        advice: NEEDED,
        on_ifb: true,
        attempt: |dev| tc(format!("qdisc replace dev {dev} root fq_codel")),
    },
];

fn tc(line: String) -> Result<()> {
    run::batch(Tool::Tc, &[line])
}

/// Says how well the kernel's own qdiscs would carry these links.
///
/// # Errors
/// A shared channel, a trace that is too fine for tbf, or a kernel that lacks something.
pub(crate) fn check(requests: &[ShapingRequest], on_channel: bool) -> Result<Fit, Refusal> {
    check_config(requests.iter().map(|request| &request.profile), on_channel)?;
    requests.iter().try_for_each(|request| check_kernel(&request.profile))?;
    let difference = requests.iter().find_map(|request| difference(&request.profile));
    Ok(difference.map_or(Fit::Exactly("a rate and a queue need only tbf".into()), |difference| {
        Fit::Nearly(difference.into())
    }))
}

/// Fails where no kernel's own qdiscs can do these links.
///
/// # Errors
/// A shared channel, cross traffic, or a trace that is too fine for tbf.
pub(crate) fn check_config<'a>(
    profiles: impl IntoIterator<Item = &'a Profile>,
    on_channel: bool,
) -> Result<(), Refusal> {
    if on_channel {
        let error = anyhow!("cannot do a shared channel with netem: use --backend auto or userspace");
        return Err(Refusal { why: "a shared channel is modelled in userspace".into(), error });
    }
    profiles.into_iter().try_for_each(|profile| {
        if difference(profile) == Some(NO_CROSS) {
            let error = anyhow!("{NO_CROSS}: use --backend auto or userspace");
            return Err(refusal(profile, format!("of netem, {NO_CROSS}"), error));
        }
        check_trace(profile)
            .map_err(|error| refusal(profile, "tbf cannot follow the steps of a trace".into(), error))
    })
}

const NO_CROSS: &str = "it has no traffic of others";

fn refusal(profile: &Profile, why: String, error: anyhow::Error) -> Refusal {
    Refusal { why, error: error.context(format!("cannot do all of the profile {} with netem", profile.name)) }
}

/// Fails where this kernel lacks what a profile needs.
fn check_kernel(profile: &Profile) -> Result<(), Refusal> {
    let missing = missing([&profile.down, &profile.up])
        .map_err(|error| refusal(profile, "what netem needs of the kernel cannot be tried".into(), error))?;
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = missing.iter().map(|feature| feature.with_modules()).collect();
    Err(refusal(profile, format!("this kernel lacks {}", names.join(", ")), lacks(&missing)))
}

/// Fails where tbf cannot follow a profile's trace: its bucket, refilled at each step, would carry too
/// much of what the step does.
fn check_trace(profile: &Profile) -> Result<()> {
    for direction in Direction::BOTH {
        let shape = profile.shape(direction);
        let Some(trace) = &shape.trace else { continue };
        let lasts_s = |ns: u64| ns as f64 / 1e9;
        let fine = trace.steps().iter().zip(trace.durations());
        if let Some((step, lasts)) =
            fine.into_iter().find(|(s, d)| !render::can_step(shape, s.rate, lasts_s(*d)))
        {
            bail!(
                "the trace {} has a step of {} s at {}, which is too fine for its rate: tbf's bucket holds more than \
                 a quarter of it; average over longer steps, as in step = \"1s\"",
                trace.file(),
                lasts_s(lasts),
                step.rate
            );
        }
    }
    Ok(())
}

/// The first thing of a profile that netem does not do, or only nearly, if there is any; docs/backends.md has the
/// sizes.
pub(crate) fn difference(profile: &Profile) -> Option<&'static str> {
    let any = |differs: fn(&Shape) -> bool| [&profile.down, &profile.up].into_iter().any(differs);
    if any(|shape| shape.cross.is_some()) {
        Some(NO_CROSS)
    } else if any(|shape| matches!(shape.loss, Loss::GilbertElliott(_)) && shape.can_lose()) {
        Some("its bursts of loss last for packets, not for a time")
    } else if any(|shape| !shape.jitter_correlation().is_zero()) {
        Some("its jitter on a busy link stays near the upper end")
    } else if any(|shape| !shape.is_rate_only()) {
        Some("its queue counts packets of any size, those in the delay line too")
    } else {
        None
    }
}

/// Adds what to do about it to an error that a kernel without the module gives.
pub(crate) fn explain(error: anyhow::Error) -> anyhow::Error {
    let text = format!("{error:#}");
    let unknown =
        ["qdisc kind is unknown", "Unknown device type", "No such file or directory", "not supported"]
            .iter()
            .any(|sign| text.contains(sign));
    if !unknown {
        return error;
    }
    let module =
        [("netem", "sch_netem"), ("type ifb", "ifb"), (" tbf ", "sch_tbf"), ("clsact", "sch_ingress")]
            .iter()
            .find(|(word, _)| text.contains(word))
            .map_or("a module", |(_, module)| module);
    if module == "sch_netem" {
        no_netem()
    } else {
        anyhow!("{text}: the kernel lacks {module}; see \"twinlink doctor\"")
    }
}

/// Returns the features that a kernel lacks for these shapes.
///
/// # Errors
/// A feature cannot be tried.
fn missing(shapes: [&Shape; 2]) -> Result<Vec<&'static Feature>> {
    let rate_only = shapes.iter().all(|shape| shape.is_rate_only());
    let mut missing = kernel_support::missing(if rate_only { &FEATURES[..3] } else { &FEATURES })?;
    // Without an ifb the others cannot be tried, so it is named alone.
    if missing.first().is_some_and(|first| first.name == FEATURES[0].name) {
        missing.truncate(1);
        return Ok(missing);
    }
    for queue in QUEUES.iter().filter(|queue| shapes.iter().any(|shape| shape.queue.kind() == queue.name)) {
        missing.extend(kernel_support::missing(std::slice::from_ref(queue))?);
    }
    Ok(missing)
}

/// Returns the error for a kernel that lacks features of a profile.
fn lacks(missing: &[&Feature]) -> anyhow::Error {
    if missing.iter().all(|feature| feature.name == "netem") {
        return no_netem();
    }
    let names: Vec<String> = missing.iter().map(|feature| feature.with_modules()).collect();
    anyhow!("the kernel lacks {}; see \"twinlink doctor\"", names.join(", "))
}

/// Returns the error for a kernel without netem.
fn no_netem() -> anyhow::Error {
    anyhow!(
        "the kernel has no netem (module sch_netem), which delay, jitter and loss need: install it where \
         the kernel comes from (Ubuntu: linux-modules-extra-$(uname -r); Fedora: kernel-modules-extra) and \
         run \"modprobe sch_netem\" on the host, or use profiles with a rate and a queue only, such as \
         rate-20 and rate-80"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::profile::{Loss, load};
    use crate::config::trace::{Trace, TraceStep};
    use crate::units::LinkId;
    use crate::units::{Percent, Rate};

    /// rate-20, 20 Mbit/s with nothing but a queue, with a trace of two steps of 1 s.
    fn rate_20_with(second: TraceStep) -> Shape {
        let shape = load::load("rate-20", LinkId::A).unwrap().down;
        let first = TraceStep { at: 0, rate: shape.rate, delay: None, loss: None };
        let second = TraceStep { at: 1_000_000_000, ..second };
        let trace = Trace::new("t".into(), true, vec![first, second], 2_000_000_000).unwrap();
        Shape { trace: Some(trace.into()), ..shape }
    }

    #[test]
    fn what_could_lose_packets_once_cannot_tell_the_causes_of_drops() {
        let step = |loss| TraceStep { at: 0, rate: Rate::from_bits_per_s(1_000_000), delay: None, loss };
        let plain = rate_20_with(step(None));
        assert!(!plain.can_lose() && !rate_20_with(step(Some(Percent::ZERO))).can_lose());
        assert!(rate_20_with(step(Some(Percent::new(1.0)))).can_lose());
        assert!(Shape { loss: Loss::Random(Percent::new(0.1)), ..plain }.can_lose());
    }

    #[test]
    fn a_trace_with_a_step_that_is_too_fine_for_its_rate_is_refused_with_what_to_do() {
        let profile = |bits| {
            let rate = Rate::from_bits_per_s(bits);
            let down = rate_20_with(TraceStep { at: 0, rate, delay: None, loss: None });
            Profile { down, ..load::load("rate-20", LinkId::A).unwrap() }
        };
        assert!(check_trace(&load::load("rate-20", LinkId::A).unwrap()).is_ok());
        assert!(check_trace(&profile(1_000_000)).is_ok());
        assert!(check_trace(&profile(0)).is_ok(), "an outage");
        // A second at 8 kbit/s is 1000 bytes, and the bucket alone holds 3000.
        let words = check_trace(&profile(8_000)).unwrap_err().to_string();
        assert!(words.contains("a step of 1 s at 8kbit") && words.contains("step = \"1s\""), "{words}");
    }
}
