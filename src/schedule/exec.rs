//! `exec=PROGRAM`: a program of the user's says which part each link fetches.
//!
//! **Rule.** A link with room ([`ahead`](super::ahead)) is a question: one line of JSON, with the state of both links
//! and the parts that wait. The program answers with one line: a part of these, or for how long the link waits.
//! The questions and answers are in docs/schedules.md. This module makes and reads the lines; an [`Adviser`] carries
//! them.
//!
//! **Worst case.** The program decides. Work that a link was asked for is not moved; a program that keeps both links
//! waiting for 10 s with nothing on its way ends the run.

use std::fmt::Debug;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{PartRequest, Scheduler};
use crate::units::{LinkId, PerLink};

/// The most parts that a question lists.
const MOST_LISTED: usize = 100;
/// The longest time in which both links may have nothing to do.
const LONGEST_IDLE: Duration = Duration::from_secs(10);

/// Carries lines to a program and back.
pub(crate) trait Adviser: Send + Debug {
    /// Returns the answer to a line.
    ///
    /// # Errors
    /// The program has ended, or does not answer in time; the error is a sentence.
    fn ask(&mut self, line: &str) -> Result<String, String>;
}

/// A file, as the first line names it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AdvisedFile<'a> {
    pub name: &'a str,
    /// `None` where the server does not tell.
    pub bytes: Option<u64>,
}

/// A line for the program.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Question<'a> {
    /// The files, before the first request. The answer may be any line.
    Start { files: Vec<AdvisedFile<'a>> },
    /// `link` has room.
    Next {
        link: LinkId,
        now_ms: f64,
        links: PerLink<AdvisedLink>,
        /// The first parts that the link may be asked for, in the order of the list, and the bytes of them all.
        waiting: Vec<WaitingPart>,
        waiting_bytes: u64,
    },
}

/// The state of a link.
#[derive(Debug, Serialize)]
pub(crate) struct AdvisedLink {
    /// It has a connection.
    up: bool,
    /// The least round trip seen.
    rtt_ms: f64,
    /// Over the last second or so; `None` before it is known.
    rate_kbit: Option<f64>,
    received_bytes: u64,
    /// Asked for, and yet to come.
    outstanding_bytes: u64,
}

/// Bytes of a file that no link was asked for.
#[derive(Debug, Serialize)]
pub(crate) struct WaitingPart {
    file: usize,
    from: u64,
    /// One past the last byte; `None` for the end of a file of unknown size.
    to: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AdviserAnswer {
    wait_ms: Option<f64>,
    file: Option<usize>,
    from: Option<u64>,
    to: Option<u64>,
}

impl Scheduler {
    /// Sets the program that decides under `exec`.
    pub(crate) fn set_adviser(&mut self, adviser: Box<dyn Adviser>) {
        self.adviser = Some(adviser);
    }

    /// Returns, once, why the program's advice can be followed no longer.
    pub(crate) fn take_advice_failure(&mut self) -> Option<String> {
        self.advice_failure.take()
    }

    pub(super) fn pick_advised(&mut self, link: LinkId, now: Duration) -> Advice {
        // Without a program, the run is about to end.
        let Some(mut adviser) = self.adviser.take() else { return Advice::Wait(LONGEST_IDLE) };
        match self.advice(&mut *adviser, link, now) {
            Ok(advice) => {
                self.adviser = Some(adviser);
                advice
            }
            Err(problem) => {
                self.advice_failure = Some(problem);
                Advice::Wait(LONGEST_IDLE)
            }
        }
    }

    fn advice(&mut self, adviser: &mut dyn Adviser, link: LinkId, now: Duration) -> Result<Advice, String> {
        let question = serde_json::to_string(&self.question(link, now)).map_err(|error| error.to_string())?;
        let line = adviser.ask(&question)?;
        let shown = || line.trim_end().chars().take(200).collect::<String>();
        let answer: AdviserAnswer =
            serde_json::from_str(&line).map_err(|error| format!("it answered {}: {error}", shown()))?;
        match answer {
            AdviserAnswer { wait_ms: Some(ms), file: None, from: None, to: None }
                if (1.0..=1e5).contains(&ms) =>
            {
                let busy = self.link_states.iter().any(|state| !state.is_idle());
                let since = *self.idle_since.insert(self.idle_since.filter(|_| !busy).unwrap_or(now));
                if now > since + LONGEST_IDLE {
                    return Err(format!("it keeps both links waiting for {} s", LONGEST_IDLE.as_secs()));
                }
                Ok(Advice::Wait(Duration::from_secs_f64(ms / 1e3)))
            }
            AdviserAnswer { wait_ms: None, file: Some(segment), from, to } => {
                let found = self.waiting_part(link, segment, from, to);
                let (place, part) =
                    found.ok_or_else(|| format!("it answered {}: no such part waits", shown()))?;
                Ok(Advice::Part(place, part))
            }
            _ => Err(format!("it answered {}: expected a file, or wait_ms from 1 to 100000", shown())),
        }
    }

    fn question(&self, link: LinkId, now: Duration) -> Question<'static> {
        let links = PerLink::of(|link| {
            let state = &self.link_states[link];
            AdvisedLink {
                up: state.is_up() && !state.dead,
                rtt_ms: state.rtt.as_secs_f64() * 1e3,
                rate_kbit: state.rate(now).map(|rate| rate * 8e-3),
                received_bytes: state.received_bytes(),
                outstanding_bytes: state.outstanding(&self.sizes),
            }
        });
        let parts = (0..MOST_LISTED).map_while(|place| self.pool.get(link, place));
        Question::Next {
            link,
            now_ms: now.as_secs_f64() * 1e3,
            links,
            waiting: parts
                .map(|(part, _)| WaitingPart {
                    file: part.segment,
                    from: part.from,
                    to: self.sizes.end(&part),
                })
                .collect(),
            waiting_bytes: self.pool.bytes_for(link, &self.sizes),
        }
    }

    /// Returns the part of a file that waits for `link`, and its place. Without `from` or `to` it begins or ends
    /// where the first part of that file does. It is the whole part if the server knows no ranges.
    fn waiting_part(
        &self,
        link: LinkId,
        segment: usize,
        from: Option<u64>,
        to: Option<u64>,
    ) -> Option<(usize, PartRequest)> {
        let parts = (0..).map_while(|place| Some((place, self.pool.get(link, place)?.0)));
        let end = |part: &PartRequest| self.sizes.end(part);
        let holds = |part: &PartRequest| {
            let (from, to) = (from.unwrap_or(part.from), to.or(end(part)));
            let ends = to.zip(end(part)).is_none_or(|(to, end)| to <= end);
            part.segment == segment && from >= part.from && ends && to.is_none_or(|to| from < to)
        };
        let (place, part) = parts.into_iter().find(|(_, part)| holds(part))?;
        if !self.link_states[link].ranges {
            return Some((place, part));
        }
        let to = to.filter(|&to| Some(to) != end(&part)).or(part.to);
        Some((place, PartRequest { segment, from: from.unwrap_or(part.from), to }))
    }
}

/// The program's decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Advice {
    /// A part of that which waits at a place.
    Part(usize, PartRequest),
    Wait(Duration),
}

#[cfg(test)]
mod tests {
    use super::super::{Next, Pipeline, Schedule};
    use super::*;

    /// Answers with these lines, and checks the questions.
    #[derive(Debug)]
    struct Scripted(Vec<Result<String, String>>);

    impl Adviser for Scripted {
        fn ask(&mut self, line: &str) -> Result<String, String> {
            let question: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!((&question["event"], &question["link"]), (&"next".into(), &"a".into()), "{line}");
            assert!(question["links"]["b"]["rtt_ms"].as_f64() == Some(7.0) && question["waiting"].is_array());
            self.0.remove(0)
        }
    }

    fn advised(answers: &[&str]) -> Scheduler {
        let schedule = Schedule::Exec("x".into());
        let mut scheduler = Scheduler::new(&schedule, Pipeline::Depth(9), vec![Some(1000), Some(500)]);
        scheduler.opened(LinkId::A, Duration::ZERO, Duration::from_millis(3));
        scheduler.opened(LinkId::B, Duration::ZERO, Duration::from_millis(7));
        scheduler.set_adviser(Box::new(Scripted(answers.iter().map(|line| Ok((*line).into())).collect())));
        scheduler
    }

    fn asked(scheduler: &mut Scheduler) -> (usize, u64, Option<u64>) {
        match scheduler.next(LinkId::A, Duration::ZERO) {
            Next::Request(part) => (part.segment, part.from, part.to),
            other => panic!("{other:?}: {:?}", scheduler.take_advice_failure()),
        }
    }

    #[test]
    fn parts_are_taken_from_anywhere_in_what_waits() {
        let middle = r#"{"file":0,"from":200,"to":300}"#;
        let mut scheduler = advised(&[r#"{"file":1}"#, middle, r#"{"file":0,"from":900}"#, r#"{"file":0}"#]);
        assert_eq!(asked(&mut scheduler), (1, 0, None));
        assert_eq!(asked(&mut scheduler), (0, 200, Some(300)));
        assert_eq!(asked(&mut scheduler), (0, 900, None));
        assert_eq!(asked(&mut scheduler), (0, 0, Some(200)));
    }

    #[test]
    fn answers_that_cannot_be_followed_are_named() {
        for (answer, words) in [
            ("soon", "it answered soon"),
            (r#"{"file":7}"#, "no such part waits"),
            (r#"{"file":0,"from":5,"to":5}"#, "no such part waits"),
            (r#"{"file":0,"from":0,"to":1001}"#, "no such part waits"),
            (r#"{"wait_ms":0}"#, "expected a file, or wait_ms"),
            (r#"{"part":0}"#, "unknown field"),
        ] {
            let mut scheduler = advised(&[answer]);
            assert!(matches!(scheduler.next(LinkId::A, Duration::ZERO), Next::Wait(Some(_))), "{answer}");
            let failure = scheduler.take_advice_failure().unwrap();
            assert!(failure.contains(words), "{failure}");
        }
    }

    #[test]
    fn program_that_lets_both_links_idle_is_named() {
        let mut scheduler = advised(&[r#"{"wait_ms":50}"#; 3]);
        for (second, fails) in [(0, false), (9, false), (11, true)] {
            let now = Duration::from_secs(second);
            assert!(matches!(scheduler.next(LinkId::A, now), Next::Wait(Some(_))));
            assert_eq!(scheduler.take_advice_failure().is_some(), fails, "{second} s");
        }
    }
}
