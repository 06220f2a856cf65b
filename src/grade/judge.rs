//! Holds what was seen of a trial against what is required, and gives points. Pure.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::assignment::GradedCondition;
use crate::log::outcome::Outcome;
use crate::program::account;
use crate::program::requests::ServedRequest;
use crate::schedule::ratio;
use crate::units::{LinkId, PerLink};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Observation {
    pub name: String,
    pub expected: String,
    pub came: String,
    pub ok: bool,
}

impl Observation {
    pub(crate) fn new(
        name: &str,
        expected: impl Into<String>,
        came: impl Into<String>,
        ok: bool,
    ) -> Observation {
        Observation { name: name.into(), expected: expected.into(), came: came.into(), ok }
    }

    /// Says what came. Of a hidden seed it says no more than whether that was right: sizes and names of files
    /// would tell the seed.
    pub(crate) fn shown(&self, hidden: bool) -> &str {
        match (hidden, self.ok) {
            (false, _) => &self.came,
            (true, true) => "as expected",
            (true, false) => "not shown for a hidden seed",
        }
    }
}

/// A trial that has been judged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TrialVerdict {
    pub exit: Outcome,
    /// False where the trial failed for a reason that is not the submission's.
    pub graded: bool,
    pub checks: Vec<Observation>,
    /// The share of the condition's points, 0 to 1.
    pub share: f64,
    pub elapsed_ms: Option<f64>,
    pub bound_ms: Option<f64>,
    pub efficiency: Option<f64>,
    /// Why there are not all points, in one sentence; empty where there are.
    pub reason: String,
    /// The last line that the program printed on standard error.
    pub printed: String,
}

/// Returns true where the program answers for how its run ended.
pub(crate) fn is_the_programs(exit: Outcome) -> bool {
    use Outcome::{DiskLimit, Incomplete, MemoryLimit, Ok, ProcessLimit, Program, TimeLimit};
    matches!(exit, Ok | Program | Incomplete | TimeLimit | MemoryLimit | ProcessLimit | DiskLimit)
}

/// More than the bound allows: not all bytes can have come over the links.
const GREATEST_EFFICIENCY: f64 = 1.02;

/// Holds an efficiency against the points that it is worth. Returns the share of them, and what was seen.
pub(crate) fn efficiency(condition: &GradedCondition, efficiency: Option<f64>) -> (f64, Observation) {
    let (share, came) = match efficiency.filter(|efficiency| efficiency.is_finite()) {
        None => (0.0, "not measured: no request was seen before the last file was there".into()),
        Some(much) if much > GREATEST_EFFICIENCY => {
            (0.0, format!("{much:.3}, faster than the links carry: not all files came over them"))
        }
        Some(some) => (share(condition, some), format!("{some:.3}")),
    };
    let expected = format!("all points from {}, none up to {}", condition.full_from, condition.none_below);
    (share, Observation::new("efficiency", expected, came, share >= 1.0))
}

/// Checks that the servers sent each file of these sizes, which a program could have made by itself.
fn sent(files: &[(String, u64)], served: &[ServedRequest]) -> Observation {
    let bytes = account::sent_bytes(served);
    let sent = |name: &str| bytes.get(name).copied().unwrap_or(0);
    let short = files.iter().find(|(name, size)| sent(name) < *size);
    let came = short.map_or("they did".into(), |(name, size)| {
        format!("of {name} they sent {} of {size} bytes", sent(name))
    });
    Observation::new("transfer", "the servers send every byte of each file", came, short.is_none())
}

/// Checks how the program asked for the files, each with its size. `rtt_ms` are the links' least round trips.
pub(crate) fn behaviour(
    condition: &GradedCondition,
    files: &[(String, u64)],
    served: &[ServedRequest],
    rtt_ms: &PerLink<f64>,
) -> Vec<Observation> {
    let index: HashMap<&str, usize> = files.iter().enumerate().map(|(at, (name, _))| (&**name, at)).collect();
    let mut checks = vec![sent(files, served)];
    if let Some(most) = condition.require.connections {
        let used = LinkId::BOTH.map(|link| {
            let of = served.iter().filter(|request| request.link == link);
            of.map(|request| request.connection).collect::<HashSet<_>>().len() as u64
        });
        checks.push(Observation::new(
            "connections",
            format!("at most {most} to each server"),
            format!("{} to a, {} to b", used[0], used[1]),
            used.iter().all(|&used| used <= most),
        ));
    }
    let fetches: PerLink<Vec<&ServedRequest>> = PerLink::of(|link| {
        let mine = |request: &&ServedRequest| {
            request.link == link && request.method == "GET" && index.contains_key(&*request.name)
        };
        let mut of: Vec<_> = served.iter().filter(mine).collect();
        of.sort_by(|x, y| x.read_ms.total_cmp(&y.read_ms));
        of
    });
    if condition.require.sequential == Some(true) {
        let early = LinkId::BOTH.into_iter().find_map(|link| early(&fetches[link], rtt_ms[link]));
        checks.push(Observation::new(
            "sequential",
            "of each server one file after another",
            early.clone().unwrap_or_else(|| "one after another".into()),
            early.is_none(),
        ));
    }
    if let (Some(true), Some((a, b))) = (condition.require.order, condition.ratio) {
        let wrong = LinkId::BOTH.into_iter().find_map(|link| {
            let of = fetches[link].iter().map(|request| (&*request.name, index[&*request.name]));
            out_of_order(link, (a, b), of)
        });
        checks.push(Observation::new(
            "order",
            format!("in turn {a} of server a, {b} of server b"),
            wrong.clone().unwrap_or_else(|| "in turn".into()),
            wrong.is_none(),
        ));
    }
    checks
}

/// Says of which file a server was asked before it had brought the one before. A request that was sent when all had
/// come is read a round trip after the answer's last byte was sent; half of that tells it from one sent before.
fn early(fetches: &[&ServedRequest], rtt_ms: f64) -> Option<String> {
    let mut pairs = fetches.windows(2);
    let pair = pairs.find(|pair| pair[1].read_ms - pair[0].sent_ms < rtt_ms / 2.0)?;
    Some(format!("{} was asked for before {} had come", pair[1].name, pair[0].name))
}

/// Says which file was asked of the wrong server, or before one that comes earlier. `of` are those of one server.
fn out_of_order<'a>(
    link: LinkId,
    (a, b): (u32, u32),
    of: impl Iterator<Item = (&'a str, usize)>,
) -> Option<String> {
    let mut before: Option<(&str, usize)> = None;
    for (name, at) in of {
        if ratio::owner(a, b, at) != link {
            return Some(format!("{name} was asked of server {link}; it is server {}'s turn", link.other()));
        }
        if let Some((last, _)) = before.filter(|&(_, last)| last >= at) {
            return Some(format!("{name} was asked of server {link} after {last}"));
        }
        before = Some((name, at));
    }
    None
}

/// Gives the share of a condition's points that an efficiency is worth: none below one value, all from another.
fn share(condition: &GradedCondition, efficiency: f64) -> f64 {
    let span = condition.full_from - condition.none_below;
    ((efficiency - condition.none_below) / span).clamp(0.0, 1.0)
}

/// Renders points with as many decimals as they need, two at most.
pub(crate) fn points(points: f64) -> String {
    // A sum of nothing is -0.
    let text = format!("{:.2}", points + 0.0);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::super::assignment::Requirements;
    use super::*;
    use crate::shape::setup::LinkSetup;

    fn condition(require: Requirements) -> GradedCondition {
        GradedCondition {
            name: "c".into(),
            points: 10.0,
            full_from: 0.8,
            none_below: 0.3,
            ratio: Some((1, 2)),
            require,
            links: LinkSetup { profiles: [None, None], channel: None, script: None, capture: None },
            faults: [None, None],
        }
    }

    const ALL: Requirements =
        Requirements { connections: Some(1), sequential: Some(true), order: Some(true) };

    fn get(link: LinkId, connection: u64, number: usize, ms: std::ops::Range<f64>) -> ServedRequest {
        ServedRequest {
            link,
            connection,
            name: format!("s{number:03}"),
            from_byte: 0,
            to_byte: 9,
            method: "GET".into(),
            status: 200,
            read_ms: ms.start,
            sent_ms: ms.end,
            sender: None,
        }
    }

    /// Returns the checks that fail, as name and what came.
    fn failed(served: &[ServedRequest]) -> Vec<(String, String)> {
        let files: Vec<(String, u64)> = (1..=6).map(|number| (format!("s{number:03}"), 9)).collect();
        let checks = behaviour(&condition(ALL), &files, served, &PerLink { a: 20.0, b: 20.0 });
        assert_eq!(checks.len(), 4);
        checks.into_iter().skip(1).filter(|check| !check.ok).map(|check| (check.name, check.came)).collect()
    }

    #[test]
    fn course_order_passes() {
        use LinkId::{A, B};
        let served = [
            get(A, 1, 1, 0.0..10.0),
            get(A, 1, 4, 30.0..40.0),
            get(B, 7, 2, 0.0..10.0),
            get(B, 7, 3, 30.5..40.0),
            get(B, 7, 5, 61.0..70.0),
            get(B, 7, 6, 91.0..99.0),
        ];
        assert_eq!(failed(&served), []);
    }

    #[test]
    fn pipelined_requests_are_early_and_a_second_connection_counts() {
        use LinkId::{A, B};
        let pipelined = [get(B, 7, 2, 0.0..10.0), get(B, 7, 3, 10.1..40.0)];
        assert_eq!(
            failed(&pipelined),
            [("sequential".into(), "s003 was asked for before s002 had come".into())]
        );
        let two = [get(A, 1, 1, 0.0..10.0), get(A, 2, 4, 30.0..40.0)];
        assert_eq!(failed(&two), [("connections".into(), "2 to a, 0 to b".into())]);
    }

    #[test]
    fn other_servers_files_and_going_back_are_named() {
        use LinkId::{A, B};
        let other = [get(A, 1, 2, 0.0..10.0)];
        assert_eq!(
            failed(&other),
            [("order".into(), "s002 was asked of server a; it is server b's turn".into())]
        );
        let back = [get(B, 1, 3, 0.0..10.0), get(B, 1, 2, 40.0..50.0)];
        assert_eq!(failed(&back), [("order".into(), "s002 was asked of server b after s003".into())]);
    }

    #[test]
    fn a_file_of_which_the_servers_sent_less_than_all_is_named() {
        let files = [("s001".to_string(), 9), ("s002".to_string(), 12)];
        let both = [get(LinkId::A, 1, 1, 0.0..10.0), get(LinkId::B, 1, 2, 0.0..10.0)];
        assert_eq!(sent(&files, &both).came, "of s002 they sent 9 of 12 bytes");
        assert!(!sent(&files, &[]).ok && sent(&files[..1], &both).ok);
        let head = ServedRequest { method: "HEAD".into(), ..both[0].clone() };
        assert_eq!(sent(&files, &[head]).came, "of s001 they sent 0 of 9 bytes");
    }

    #[test]
    fn nothing_is_faster_than_the_links() {
        let condition = condition(Requirements::default());
        for odd in [None, Some(17.8), Some(f64::NAN), Some(f64::INFINITY)] {
            let (share, seen) = efficiency(&condition, odd);
            assert!(share == 0.0 && !seen.ok && seen.came.len() > 10, "{odd:?}: {seen:?}");
        }
        assert_eq!(efficiency(&condition, Some(1.01)).0, 1.0);
    }

    #[test]
    fn points_lie_between_the_two_efficiencies() {
        let condition = condition(Requirements::default());
        for (efficiency, expected) in [(0.2, 0.0), (0.3, 0.0), (0.55, 0.5), (0.8, 1.0), (0.97, 1.0)] {
            assert!((share(&condition, efficiency) - expected).abs() < 1e-9, "{efficiency}");
        }
        assert_eq!([points(17.0), points(2.5), points(0.333), points(-0.0)], ["17", "2.5", "0.33", "0"]);
    }
}
