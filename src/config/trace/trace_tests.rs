use proptest::prelude::*;

use crate::config::trace::*;

const S: Nanos = 1_000_000_000;

fn step(at_s: u64, mbit: u64) -> TraceStep {
    TraceStep { at: at_s * S, rate: Rate::from_bits_per_s(mbit * 1_000_000), delay: None, loss: None }
}

fn trace(looped: bool) -> Trace {
    Trace::new("t".into(), looped, vec![step(0, 10), step(2, 0), step(3, 5)], 5 * S).unwrap()
}

#[test]
fn the_last_step_holds_or_the_first_comes_again() {
    let once = trace(false);
    assert_eq!(once.at(2 * S - 1).step, step(0, 10));
    assert_eq!(once.at(2 * S).step, step(2, 0));
    let last = once.at(100 * S);
    assert_eq!((last.step, last.since, last.until, last.number), (step(3, 5), 3 * S, Nanos::MAX, 2));
    let again = trace(true).at(12 * S);
    assert_eq!((again.step, again.since, again.until, again.number), (step(2, 0), 12 * S, 13 * S, 7));
    assert_eq!(once.moments().count(), 3);
    assert_eq!(trace(true).moments().nth(7), Some(again));
    assert!((once.mean_kbit() - 6_000.0).abs() < 1e-9);
}

#[test]
fn an_offset_skips_or_turns() {
    let once = trace(false).skip(2 * S + 1).unwrap();
    assert_eq!(once.steps()[0], TraceStep { at: 0, ..step(0, 0) });
    assert_eq!((once.steps()[1].at, once.length()), (S - 1, 3 * S - 1));
    assert!(trace(false).skip(5 * S).unwrap_err().contains("leaves nothing"));
    assert!(trace(false).skip(2 * S).unwrap().skip(3 * S).is_err());
}

#[test]
fn what_makes_no_trace_is_refused() {
    let of = |steps: Vec<TraceStep>, length| Trace::new("t".into(), true, steps, length).unwrap_err();
    assert!(of(vec![], S).contains("no step"));
    assert!(of(vec![step(1, 1)], 2 * S).contains("no step at its beginning"));
    assert!(of(vec![step(0, 1), step(0, 2)], S).contains("do not rise"));
    assert!(of(vec![step(0, 1)], 0).contains("do not rise"));
    assert!(of(vec![step(0, 20_000)], S).contains("out of range"));
    assert!(of(vec![step(0, 0)], S).contains("outage from its beginning"));
    assert!(of((0..60_000).map(|at| step(at, 1)).collect(), 60_000 * S).contains("more than 50000"));
}

/// Any trace that is valid.
pub(super) fn any_trace() -> impl Strategy<Value = Trace> {
    let rate = prop_oneof![1 => Just(0u64), 4 => 8_000u64..200_000_000];
    let step =
        (10_000_000u64..2_000_000_000, rate, prop::option::of(0u64..50), prop::option::of(0.0..20.0f64));
    (prop::collection::vec(step, 1..20), any::<bool>()).prop_filter_map("all outage", |(parts, looped)| {
        let mut at = 0;
        let mut steps = Vec::new();
        for (lasts, bits, delay, loss) in parts {
            let delay = delay.map(Delay::from_millis);
            steps.push(TraceStep {
                at,
                rate: Rate::from_bits_per_s(bits),
                delay,
                loss: loss.map(Percent::new),
            });
            at += lasts;
        }
        Trace::new("any".into(), looped, steps, at).ok()
    })
}

proptest! {
    #[test]
    fn a_trace_travels_as_it_is(trace in any_trace()) {
        let text = serde_json::to_string(&trace).unwrap();
        prop_assert_eq!(serde_json::from_str::<Trace>(&text).unwrap(), trace);
    }

    #[test]
    fn moments_join_and_agree_with_at(trace in any_trace(), t in 0u64..100_000_000_000) {
        let moment = trace.at(t);
        prop_assert!(moment.since <= t && t < moment.until);
        prop_assert_eq!(trace.at(moment.since), moment);
        let walked: Vec<Moment> = trace.moments().take(50).collect();
        for pair in walked.windows(2) {
            prop_assert_eq!(pair[0].until, pair[1].since);
            prop_assert_eq!(pair[0].number + 1, pair[1].number);
        }
    }

    #[test]
    fn an_offset_is_a_later_start(trace in any_trace(), offset in 0u64..40_000_000_000, t in 0u64..60_000_000_000) {
        if let Ok(later) = trace.clone().skip(offset) {
            prop_assert!(later.at(t).step.same_values(&trace.at(t + offset).step));
        }
    }
}
