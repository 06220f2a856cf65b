//! Which link fetches what next. Pure: no socket, no clock, no tokio.
//!
//! A [`Scheduler`] hands out [`Part`]s to whoever asks for a link's next request, takes back what a
//! broken connection still owed, and is told when a link has been given up. Each byte is handed out
//! once, unless it was given back.

mod greedy;
mod ratio;

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use crate::units::LinkId;

/// Bytes of one segment to ask for: from `from` to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Place in the list of segments, from 0.
    pub segment: usize,
    /// The first byte wanted; not 0 where a broken connection had brought the beginning.
    pub from: u64,
}

impl Part {
    pub fn whole(segment: usize) -> Part {
        Part { segment, from: 0 }
    }
}

/// What a link should do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Request(Part),
    /// Nothing now; but the other link may give something back.
    Wait,
    /// Nothing any more.
    Done,
}

/// What a link without a connection may look forward to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    Work,
    /// The other link may give something back.
    Perhaps,
    Nothing,
}

/// The user's choice of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// `a` files from server a, then `b` from server b, and so on through the list.
    Ratio { a: u32, b: u32 },
    /// The connection with room takes the next segment.
    Greedy,
}

impl FromStr for Schedule {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        if s == "greedy" {
            return Ok(Schedule::Greedy);
        }
        let Some(ratio) = s.strip_prefix("ratio=") else {
            return Err(format!("\"{s}\" is not a schedule: write ratio=NA:NB (as in ratio=1:4) or greedy"));
        };
        let expected = "a ratio is two whole numbers of files, as in ratio=1:4";
        let (a, b) = ratio.split_once(':').ok_or_else(|| format!("\"{s}\": {expected}"))?;
        let number =
            |text: &str| text.parse::<u32>().map_err(|_| format!("\"{text}\" in \"{s}\": {expected}"));
        let (a, b) = (number(a)?, number(b)?);
        if a == 0 && b == 0 {
            return Err(format!("\"{s}\" gives no server anything to do; one of the two must be 1 or more"));
        }
        Ok(Schedule::Ratio { a, b })
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Schedule::Ratio { a, b } => write!(f, "ratio={a}:{b}"),
            Schedule::Greedy => f.write_str("greedy"),
        }
    }
}

/// The state of a schedule in the middle of a run.
#[derive(Clone, Debug)]
pub struct Scheduler {
    plan: Plan,
    dead: [bool; 2],
    /// Segments handed out and not completed, so that a waiting link knows whether to hope.
    open: usize,
}

#[derive(Clone, Debug)]
enum Plan {
    Ratio(ratio::Ratio),
    Greedy(greedy::Greedy),
}

impl Scheduler {
    /// A scheduler for `segments` files.
    pub fn new(schedule: &Schedule, segments: usize) -> Scheduler {
        let plan = match *schedule {
            Schedule::Ratio { a, b } => Plan::Ratio(ratio::Ratio::new(a, b, segments)),
            Schedule::Greedy => Plan::Greedy(greedy::Greedy::new(segments)),
        };
        Scheduler { plan, dead: [false; 2], open: 0 }
    }

    /// What `link` should ask for now. It must not be asked for a link that was given up.
    pub fn next(&mut self, link: LinkId) -> Next {
        debug_assert!(!self.dead[link.index()], "a dead link asks for nothing");
        if let Some(part) = self.queue(link).pop_front() {
            self.open += 1;
            return Next::Request(part);
        }
        if self.outlook(link) == Outlook::Perhaps { Next::Wait } else { Next::Done }
    }

    /// What asking for `link` would bring, without asking.
    pub fn outlook(&mut self, link: LinkId) -> Outlook {
        if !self.queue(link).is_empty() {
            Outlook::Work
        } else if self.open > 0 && self.shares_work() {
            Outlook::Perhaps
        } else {
            Outlook::Nothing
        }
    }

    /// A segment is on disk under its name.
    pub fn completed(&mut self) {
        self.open -= 1;
    }

    /// `link` lost its connection and still owed these parts, in the order of its requests.
    pub fn give_back(&mut self, link: LinkId, parts: &[Part]) {
        self.open -= parts.len();
        let queue = self.queue(link);
        for part in parts.iter().rev() {
            queue.push_front(*part);
        }
    }

    /// `link` has been given up. Returns whether the rest can still be fetched.
    pub fn give_up(&mut self, link: LinkId) -> bool {
        self.dead[link.index()] = true;
        if self.dead[link.other().index()] {
            return self.open == 0 && self.queue(link).is_empty();
        }
        self.shares_work() || self.queue(link).is_empty()
    }

    /// Whether what one link leaves the other may take.
    fn shares_work(&self) -> bool {
        matches!(self.plan, Plan::Greedy(_))
    }

    fn queue(&mut self, link: LinkId) -> &mut VecDeque<Part> {
        match &mut self.plan {
            Plan::Ratio(ratio) => ratio.queue(link),
            Plan::Greedy(greedy) => greedy.queue(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ratios_are_read_and_nonsense_is_refused() {
        assert_eq!("ratio=1:4".parse(), Ok(Schedule::Ratio { a: 1, b: 4 }));
        assert_eq!("ratio=1:0".parse(), Ok(Schedule::Ratio { a: 1, b: 0 }));
        assert_eq!("ratio=0:1".parse(), Ok(Schedule::Ratio { a: 0, b: 1 }));
        assert_eq!("greedy".parse(), Ok(Schedule::Greedy));
        for bad in ["ratio=0:0", "ratio=1:-2", "ratio=a:b", "ratio=1", "ratio=1:2:3", "ratio=", "fast", ""] {
            assert!(bad.parse::<Schedule>().is_err(), "{bad} was taken for a schedule");
        }
    }

    #[test]
    fn a_greedy_link_takes_over_what_a_dead_one_owed() {
        let mut scheduler = Scheduler::new(&Schedule::Greedy, 2);
        assert_eq!(scheduler.next(LinkId::A), Next::Request(Part::whole(0)));
        assert_eq!(scheduler.next(LinkId::B), Next::Request(Part::whole(1)));
        assert_eq!(scheduler.next(LinkId::A), Next::Wait);
        scheduler.give_back(LinkId::B, &[Part { segment: 1, from: 700 }]);
        assert!(scheduler.give_up(LinkId::B));
        assert_eq!(scheduler.next(LinkId::A), Next::Request(Part { segment: 1, from: 700 }));
    }

    #[test]
    fn a_ratio_cannot_go_on_without_a_server_that_has_work_left() {
        let mut scheduler = Scheduler::new(&Schedule::Ratio { a: 1, b: 1 }, 2);
        assert_eq!(scheduler.next(LinkId::B), Next::Request(Part::whole(1)));
        scheduler.give_back(LinkId::B, &[Part::whole(1)]);
        assert!(!scheduler.give_up(LinkId::B));
    }

    #[test]
    fn a_ratio_needs_nothing_more_from_a_server_that_has_done_its_share() {
        let mut scheduler = Scheduler::new(&Schedule::Ratio { a: 1, b: 1 }, 2);
        assert_eq!(scheduler.next(LinkId::B), Next::Request(Part::whole(1)));
        scheduler.completed();
        assert_eq!(scheduler.next(LinkId::B), Next::Done);
        assert!(scheduler.give_up(LinkId::B));
    }

    fn any_schedule() -> impl Strategy<Value = Schedule> {
        prop_oneof![
            Just(Schedule::Greedy),
            (0u32..9, 0u32..9)
                .prop_filter("one of them must be above 0", |(a, b)| a + b > 0)
                .prop_map(|(a, b)| Schedule::Ratio { a, b }),
        ]
    }

    proptest! {
        /// However the links take turns and break, every segment is completed exactly once.
        #[test]
        fn every_segment_is_fetched_once(
            schedule in any_schedule(),
            segments in 0usize..200,
            events in prop::collection::vec((any::<bool>(), 0u8..10), 0..600),
        ) {
            let mut scheduler = Scheduler::new(&schedule, segments);
            let mut in_flight: [Vec<Part>; 2] = Default::default();
            let mut completed = vec![0u32; segments];
            // After the random events, both links work through what is left.
            let steps = events.into_iter().chain((0..4 * segments + 8).map(|i| (i % 2 == 0, 9)));
            for (first, what) in steps {
                let link = if first { LinkId::A } else { LinkId::B };
                let mine = &mut in_flight[link.index()];
                match what {
                    0 => {
                        let parts = std::mem::take(mine);
                        scheduler.give_back(link, &parts);
                    }
                    1..=4 => if let Next::Request(part) = scheduler.next(link) { mine.push(part) },
                    _ => {
                        if mine.is_empty() && let Next::Request(part) = scheduler.next(link) {
                            mine.push(part);
                        }
                        if !mine.is_empty() {
                            completed[mine.remove(0).segment] += 1;
                            scheduler.completed();
                        }
                    }
                }
            }
            for link in LinkId::BOTH {
                for part in in_flight[link.index()].drain(..) {
                    completed[part.segment] += 1;
                    scheduler.completed();
                }
            }
            prop_assert!(completed.iter().all(|&times| times == 1), "{completed:?}");
            prop_assert_eq!(scheduler.next(LinkId::A), Next::Done);
            prop_assert_eq!(scheduler.next(LinkId::B), Next::Done);
        }
    }
}
