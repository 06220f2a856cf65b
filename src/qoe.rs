//! The quality for a viewer who plays the segments in order as they arrive. Pure: a fold over arrival times;
//! it reads no clock, and knows nothing of links, sockets or files.
//!
//! The viewer's player starts when the first segments are there, plays in order, stops where the next segment
//! is missing, and goes on as soon as that one has come. It never skips, and its buffer has no upper end. An
//! initialization segment (`init.mp4`) carries no media time: it only has to be there first.

use serde::{Deserialize, Serialize};

/// The quality for a viewer who plays the segments in order as they arrive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Qoe {
    /// From the first request until the first frame plays; null if it never would.
    pub startup_delay_ms: Option<f64>,
    pub rebuffer_count: u64,
    pub rebuffer_ms: f64,
    /// CTA-2066: stall time over stall and play time.
    pub rebuffer_ratio: Option<f64>,
    /// In the style of ITU-T P.1203: stall time over media time.
    pub stall_per_media: Option<f64>,
    pub segment_duration_ms: f64,
    pub startup_segments: u64,
}

/// The duration of a segment, and when the player starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rule {
    /// How long a segment plays.
    pub segment_duration_ms: f64,
    /// How many segments the player waits for before it starts; all where there are fewer.
    pub startup_segments: u64,
}

impl Default for Rule {
    /// Two segments of four seconds: what the log's keys mean where a run did not say.
    fn default() -> Rule {
        Rule { segment_duration_ms: 4000.0, startup_segments: 2 }
    }
}

/// When a segment came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Arrival {
    /// Its place in the media, from 0.
    pub index: u64,
    /// When it was there, whole; on any clock, the same for all.
    pub done_ms: f64,
    /// Whether it carries media; an initialization segment does not.
    pub media: bool,
}

/// Returns true if a file of this name carries media.
pub(crate) fn is_media(name: &str) -> bool {
    !name.starts_with("init.") && !name.contains("-init.")
}

/// A moment that a player itself tells of, as HTML's media elements name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MediaEvent {
    /// Playback begins, or goes on.
    Playing,
    /// Playback stands still for want of media.
    Waiting,
    /// Playback has come to the end of the media.
    Ended,
}

/// Rates what a player told, each event with its time (ms, on the clock of `start_ms`); `None` where it never played.
/// Only a stall that was over counts.
pub(crate) fn watched(events: &[(f64, MediaEvent)], start_ms: f64, rule: Rule) -> Option<Qoe> {
    let mut events = events.iter().skip_while(|(_, event)| *event != MediaEvent::Playing);
    let begin_ms = events.next()?.0;
    let (mut end_ms, mut waits_from, mut stalls) = (begin_ms, None, Vec::new());
    for &(at_ms, event) in events {
        match (event, waits_from) {
            (MediaEvent::Waiting, None) => waits_from = Some(at_ms),
            (MediaEvent::Playing | MediaEvent::Ended, Some(from_ms)) => {
                stalls.push(at_ms - from_ms);
                waits_from = None;
            }
            _ => {}
        }
        end_ms = at_ms;
        if event == MediaEvent::Ended {
            break;
        }
    }
    let rebuffer_ms = stalls.iter().fold(0.0, |sum, stall| sum + stall);
    let spent_ms = end_ms - begin_ms;
    let share_of = |whole: f64| (whole > 0.0).then(|| rebuffer_ms / whole);
    Some(Qoe {
        startup_delay_ms: Some(begin_ms - start_ms),
        rebuffer_count: stalls.len() as u64,
        rebuffer_ms,
        rebuffer_ratio: share_of(spent_ms),
        stall_per_media: share_of(spent_ms - rebuffer_ms),
        segment_duration_ms: rule.segment_duration_ms,
        startup_segments: rule.startup_segments,
    })
}

/// The player stood still, waiting for a segment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stall {
    pub from_ms: f64,
    pub to_ms: f64,
}

/// The playback of the segments.
#[derive(Clone, Debug)]
pub(crate) struct Playback {
    pub qoe: Qoe,
    pub stalls: Vec<Stall>,
    /// Moments and the contiguous media in the buffer, both in ms; straight lines
    /// between them. Two points at one moment are a step: a segment that fills a gap.
    pub buffer: Vec<(f64, f64)>,
}

/// Plays what has come from `start_ms` on; `None` where no media came. Where a segment never came, the
/// media ends before it: the length of a stall without an end is not known.
pub(crate) fn play(
    arrivals: impl IntoIterator<Item = Arrival>,
    start_ms: f64,
    rule: Rule,
) -> Option<Playback> {
    let ready = in_order(arrivals);
    let needed = (rule.startup_segments.max(1) as usize).min(ready.len());
    let begin_ms = *ready.get(needed.checked_sub(1)?)?;
    let duration = rule.segment_duration_ms;

    let mut stalls = Vec::new();
    // When the buffer runs empty if nothing more comes.
    let mut runs_out_ms = begin_ms + duration * needed as f64;
    for &at_ms in &ready[needed..] {
        if at_ms > runs_out_ms {
            stalls.push(Stall { from_ms: runs_out_ms, to_ms: at_ms });
            runs_out_ms = at_ms;
        }
        runs_out_ms += duration;
    }

    // A sum of nothing would be −0, and be written so.
    let rebuffer_ms = stalls.iter().fold(0.0, |sum, stall| sum + (stall.to_ms - stall.from_ms));
    let media_ms = duration * ready.len() as f64;
    let share_of = |whole: f64| (whole > 0.0).then(|| rebuffer_ms / whole);
    let qoe = Qoe {
        startup_delay_ms: Some(begin_ms - start_ms),
        rebuffer_count: stalls.len() as u64,
        rebuffer_ms,
        rebuffer_ratio: share_of(rebuffer_ms + media_ms),
        stall_per_media: share_of(media_ms),
        segment_duration_ms: duration,
        startup_segments: rule.startup_segments,
    };
    let buffer = buffer(&ready, begin_ms, start_ms, duration);
    Some(Playback { qoe, stalls, buffer })
}

/// When each segment could be played: when it and all before it were there. Ends at the first
/// that never came.
fn in_order(arrivals: impl IntoIterator<Item = Arrival>) -> Vec<f64> {
    let mut arrivals: Vec<Arrival> = arrivals.into_iter().collect();
    arrivals.sort_by_key(|arrival| arrival.index);
    arrivals.dedup_by_key(|arrival| arrival.index);
    let mut whole_ms = f64::NEG_INFINITY;
    let mut ready = Vec::new();
    for (expected, arrival) in (0..).zip(arrivals) {
        if arrival.index != expected {
            break;
        }
        whole_ms = whole_ms.max(arrival.done_ms);
        if arrival.media {
            ready.push(whole_ms);
        }
    }
    ready
}

/// The buffer level over time. It falls by a millisecond a millisecond while the player plays.
fn buffer(ready: &[f64], begin_ms: f64, start_ms: f64, duration: f64) -> Vec<(f64, f64)> {
    let mut points = vec![(start_ms, 0.0)];
    let (mut at, mut level, mut playing) = (start_ms, 0.0, false);
    let mut arrived = ready.iter().copied().peekable();
    while let Some(moment) = arrived.next() {
        if playing {
            if at + level < moment {
                points.push((at + level, 0.0));
            }
            level = (level - (moment - at)).max(0.0);
        }
        points.push((moment, level));
        level += duration;
        // Arrivals at the same moment are one step.
        while arrived.next_if_eq(&moment).is_some() {
            level += duration;
        }
        points.push((moment, level));
        at = moment;
        playing |= moment >= begin_ms;
    }
    points.push((at + level, 0.0));
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULE: Rule = Rule { segment_duration_ms: 1000.0, startup_segments: 2 };

    fn arrivals(done_ms: &[f64]) -> Vec<Arrival> {
        (0..).zip(done_ms).map(|(index, &done_ms)| Arrival { index, done_ms, media: true }).collect()
    }

    #[test]
    fn media_that_comes_in_time_never_stops() {
        let played = play(arrivals(&[150.0, 300.0, 900.0, 2000.0]), 100.0, RULE).unwrap();
        assert_eq!(played.qoe.startup_delay_ms, Some(200.0));
        assert_eq!(played.qoe.rebuffer_count, 0);
        assert_eq!(played.qoe.rebuffer_ratio, Some(0.0));
        assert!(played.qoe.rebuffer_ms.is_sign_positive());
        assert_eq!(played.buffer.last(), Some(&(4300.0, 0.0)));
    }

    #[test]
    fn a_late_segment_is_a_stall_and_both_ratios_count_it() {
        // Plays from 200 to 2200 ms, waits for the third until 3200, then plays two seconds.
        let played = play(arrivals(&[100.0, 200.0, 3200.0, 3300.0]), 0.0, RULE).unwrap();
        assert_eq!(played.stalls, [Stall { from_ms: 2200.0, to_ms: 3200.0 }]);
        assert_eq!(played.qoe.rebuffer_ms, 1000.0);
        assert_eq!(played.qoe.rebuffer_ratio, Some(0.2));
        assert_eq!(played.qoe.stall_per_media, Some(0.25));
        let expected = [
            (0.0, 0.0),
            (100.0, 0.0),
            (100.0, 1000.0),
            (200.0, 1000.0),
            (200.0, 2000.0),
            (2200.0, 0.0),
            (3200.0, 0.0),
            (3200.0, 1000.0),
            (3300.0, 900.0),
            (3300.0, 1900.0),
            (5200.0, 0.0),
        ];
        assert_eq!(played.buffer, expected);
    }

    #[test]
    fn what_comes_out_of_order_counts_when_the_gap_before_it_is_filled() {
        let played = play(arrivals(&[500.0, 100.0, 100.0]), 0.0, RULE).unwrap();
        assert_eq!(played.qoe.startup_delay_ms, Some(500.0));
        assert_eq!(played.buffer[1..3], [(500.0, 0.0), (500.0, 3000.0)]);
    }

    #[test]
    fn an_initialization_segment_holds_up_and_plays_no_time() {
        let mut arrived = arrivals(&[700.0, 100.0, 200.0]);
        arrived[0].media = is_media("init.mp4");
        let played = play(arrived, 0.0, RULE).unwrap();
        assert_eq!(played.qoe.startup_delay_ms, Some(700.0));
        assert_eq!(played.buffer.last(), Some(&(2700.0, 0.0)));
    }

    #[test]
    fn the_media_ends_before_a_segment_that_never_came() {
        let mut arrived = arrivals(&[1.0, 2.0, 3.0, 4.0]);
        arrived.remove(2);
        assert_eq!(play(arrived, 0.0, RULE).unwrap().buffer.last(), Some(&(2002.0, 0.0)));
        assert!(play([], 0.0, RULE).is_none());
        assert!(play(arrivals(&[1.0])[1..].to_vec(), 0.0, RULE).is_none());
    }

    #[test]
    fn a_player_that_tells_is_rated_by_what_it_told() {
        use MediaEvent::{Ended, Playing, Waiting};
        let told = [
            (5.0, Waiting),
            (300.0, Playing),
            (1300.0, Waiting),
            (1500.0, Waiting),
            (1800.0, Playing),
            (4800.0, Ended),
            (9000.0, Waiting),
        ];
        let qoe = watched(&told, 100.0, RULE).unwrap();
        assert_eq!((qoe.startup_delay_ms, qoe.rebuffer_count, qoe.rebuffer_ms), (Some(200.0), 1, 500.0));
        assert_eq!((qoe.rebuffer_ratio, qoe.stall_per_media), (Some(500.0 / 4500.0), Some(0.125)));
        assert_eq!(watched(&told[..1], 100.0, RULE), None);
        let open = watched(&told[..3], 100.0, RULE).unwrap();
        assert_eq!(
            (open.rebuffer_count, open.stall_per_media),
            (0, Some(0.0)),
            "nobody knows how long it is"
        );
    }

    #[test]
    fn media_shorter_than_the_startup_plays_when_it_is_whole() {
        let rule = Rule { startup_segments: 9, ..RULE };
        assert_eq!(play(arrivals(&[10.0, 30.0]), 0.0, rule).unwrap().qoe.startup_delay_ms, Some(30.0));
    }

    proptest! {
        /// The viewer is done when the media and all waiting are over, however it came.
        #[test]
        fn time_adds_up(done in prop::collection::vec(0f64..60e3, 1..50), startup in 1u64..6) {
            let rule = Rule { startup_segments: startup, ..RULE };
            let played = play(arrivals(&done), 0.0, rule).unwrap();
            let (end_ms, rest) = *played.buffer.last().unwrap();
            let spent = played.qoe.startup_delay_ms.unwrap() + played.qoe.rebuffer_ms + 1000.0 * done.len() as f64;
            prop_assert!(rest == 0.0 && (end_ms - spent).abs() < 1e-6, "{end_ms} {spent}");
            prop_assert!(played.buffer.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[1].1 >= 0.0));
        }

        /// A segment that comes earlier makes nothing worse, for a player that starts at the same time.
        #[test]
        fn earlier_is_never_worse(done in prop::collection::vec(0f64..60e3, 2..50), which in 0usize..50, by in 0f64..1.0) {
            let rule = Rule { startup_segments: 1, ..RULE };
            let mut earlier = done.clone();
            let which = 1 + which % (done.len() - 1);
            earlier[which] *= by;
            let (late, early) = (play(arrivals(&done), 0.0, rule).unwrap(), play(arrivals(&earlier), 0.0, rule).unwrap());
            prop_assert!(early.qoe.rebuffer_ms <= late.qoe.rebuffer_ms + 1e-6);
        }
    }
}
