//! The verdict in words, from what was compared. Pure: the same sentences go to the terminal, the page
//! and the summary.

use super::model::Split;
use super::model::{ConditionResults, EntrantResults, MedianThroughput};
use super::numbers::{digits, mbit, seconds, short};
use super::run::{LoggedRun, drops};
use super::stats::{Difference, Estimate};
use super::worth::{self, judged};
use crate::log::outcome::Outcome;
use crate::log::schema::{Fault, Link};
use crate::units::LinkId;

/// The verdict on the runs of a condition.
pub(crate) struct Verdict {
    pub said: Vec<String>,
    /// How sure it is.
    pub worth: Vec<String>,
}

impl Verdict {
    /// Returns all of its sentences.
    pub(crate) fn sentences(self) -> impl Iterator<Item = String> {
        self.said.into_iter().chain(self.worth)
    }
}

/// Says in a line how a run went: schedule, links, time, and its distance from the bound.
pub(crate) fn headline(run: &LoggedRun) -> String {
    let schedule = run.start.as_ref().map_or("a run", |start| &start.schedule);
    let [a, b] = LinkId::BOTH.map(|link| run.profile(link));
    let over = if run.shares_channel() { "on one channel, " } else { "" };
    let crossed =
        run.links.iter().filter_map(|link| link.data.asked.as_ref()).any(|asked| asked.cross.is_some());
    let beside = if crossed { ", beside traffic of others" } else { "" };
    let took = match &run.end {
        None => "it never ended".into(),
        Some(end) if end.exit != Outcome::Ok => {
            format!("it failed: {}", end.exit.to_string().replace('_', " "))
        }
        Some(end) => match (end.elapsed_ms, end.bound_ms) {
            (Some(elapsed), Some(bound)) if bound > 0.0 && elapsed.is_finite() => format!(
                "{}, {:.1} % above the fastest possible {}",
                seconds(elapsed),
                (elapsed / bound - 1.0) * 100.0,
                seconds(bound)
            ),
            (Some(elapsed), _) => seconds(elapsed),
            (None, _) => "nothing was left to fetch".into(),
        },
    };
    format!("{schedule} over {a} + {b}{beside}: {over}{took}")
}

/// Says how a link was shaped at the start of a run, in the down direction.
pub(crate) fn shaping(link: &Link) -> String {
    let profile = link.profile.as_deref().unwrap_or("no profile");
    let Some(asked) = &link.asked else { return profile.into() };
    let mut said = vec![profile.to_string()];
    said.extend((asked.rate_kbit > 0.0).then(|| format!("{} Mbit/s", mbit(asked.rate_kbit))));
    said.push(format!("{} ms one way", short(asked.delay_ms)));
    said.extend((asked.jitter_ms > 0.0).then(|| format!("jitter {} ms", short(asked.jitter_ms))));
    said.extend((asked.loss_pct > 0.0).then(|| format!("loss {:.2} %", asked.loss_pct)));
    said.extend((asked.queue_ms > 0.0).then(|| format!("queue of {} ms", short(asked.queue_ms))));
    said.join(", ")
}

/// Returns the verdict on the runs of a condition.
pub(crate) fn verdict(place: &ConditionResults) -> Verdict {
    let (mut said, mut worth) = (Vec::new(), Vec::new());
    if let Some(best) = place.best {
        said.push(winner(place, &place.cells[best]));
        worth.extend(worth::power(place));
        said.extend(place.split.as_ref().zip(place.throughput.as_ref()).map(|(s, t)| ratio(place, s, t)));
    } else {
        let without = if place.cells.iter().any(|cell| cell.left_out > 0) { " without a fault" } else { "" };
        said.push(format!("No run here fetched everything{without}, so there is nothing to compare."));
    }
    said.extend(broken(place));
    said.extend(faulty(place));
    let runs: Vec<&LoggedRun> = place.cells.iter().flat_map(EntrantResults::all_runs).collect();
    worth.extend(worth::systematic(&runs));
    Verdict { said, worth }
}

fn winner(place: &ConditionResults, best: &EntrantResults) -> String {
    let mut text = time(best);
    if let Some(efficiency) = best.efficiency.filter(|efficiency| efficiency.is_finite()) {
        text += &format!(", efficiency {efficiency:.3}");
    }
    let mut others: Vec<(&EntrantResults, &Difference)> =
        place.cells.iter().filter_map(|cell| Some((cell, cell.against_best.as_ref()?))).collect();
    others.sort_by(|x, y| x.1.pct.median.total_cmp(&y.1.pct.median));
    let Some((next, by)) = others.first() else {
        let rest = match place.cells.len() {
            1 => "nothing else was tried here",
            _ => "of the others no run is left to compare",
        };
        return format!("{} took {text}; {rest}.", best.label);
    };
    let (first, second, longer) = (&best.label, &next.label, span(by));
    text = match by.significant {
        Some(true) => {
            format!(
                "Best is {first}: {text}. It was {} as fast as the next, {second}, {}.",
                times(by),
                judged(by)
            )
        }
        shown => {
            let why = match shown {
                Some(_) => "the interval includes zero".into(),
                None => worth::too_few(by, others.len()),
            };
            format!(
                "No difference is shown between the two least medians, {first} and {second}: {why}. {first} took \
                 {text}; {second} took {longer} longer."
            )
        }
    };
    let programs: Vec<String> = others[1..]
        .iter()
        .filter(|(cell, _)| cell.is_program())
        .map(|(cell, by)| format!("{} took {} longer", cell.label, span(by)))
        .collect();
    if !programs.is_empty() {
        text += &format!(" Of the programs, {}.", programs.join("; "));
    }
    // Only what was repeated often enough can be like the best.
    let alike: Vec<&str> = others[1..]
        .iter()
        .filter(|(_, by)| by.significant == Some(false))
        .map(|(cell, _)| cell.label.as_str())
        .collect();
    if !alike.is_empty() {
        text += &format!(" These cannot be told from the best: {}.", alike.join("; "));
    }
    text
}

fn broken(place: &ConditionResults) -> Option<String> {
    let broken: Vec<String> = place
        .cells
        .iter()
        .filter(|cell| cell.failures > 0)
        .map(|cell| {
            let (label, all) = (&cell.label, cell.failures + cell.runs.len());
            format!("{label} ({} of {all}: {})", cell.failures, why(cell))
        })
        .collect();
    (!broken.is_empty()).then(|| format!("Runs without every file, left out: {}.", broken.join("; ")))
}

/// Returns the reasons why a cell's runs failed: each word, its count where there are several, and the first
/// message.
fn why(cell: &EntrantResults) -> String {
    let several = cell.reasons.len() > 1;
    let said = cell.reasons.iter().map(|reason| {
        let times = if several { format!("{} × ", reason.runs) } else { String::new() };
        let summary = reason.summary.trim_end_matches('.');
        let summary = if summary.is_empty() { String::new() } else { format!(", \"{summary}\"") };
        format!("{times}{}{summary}", reason.exit)
    });
    said.collect::<Vec<_>>().join("; ")
}

/// How many runs met faults, and the first of them.
fn faulty(place: &ConditionResults) -> Option<String> {
    let runs = || place.cells.iter().flat_map(|cell| cell.all_runs().map(move |run| (cell, run)));
    let met = || runs().filter(|(_, run)| !run.faults.is_empty());
    // A run's name begins with its time.
    let (cell, run) = met().min_by_key(|(_, run)| &run.name)?;
    let (met, all, first) = (met().count(), runs().count(), what(&run.faults[0].data));
    let left_out: usize = place.cells.iter().map(|cell| cell.left_out).sum();
    let apart = match left_out {
        0 => String::new(),
        1 => " One that fetched everything is left out of all figures; --with-faulty counts it.".into(),
        some => {
            format!(" {some} that fetched everything are left out of all figures; --with-faulty counts them.")
        }
    };
    let without = place.cells.iter().filter(|cell| cell.runs.is_empty() && cell.left_out > 0);
    let without: Vec<&str> = without.map(|cell| cell.label.as_str()).collect();
    let none = match &without[..] {
        [] => String::new(),
        some => format!(" No figure is left of {}, of which every run met faults.", some.join(", ")),
    };
    Some(format!("{met} of {all} runs logged faults; the first, under {}: {first}.{apart}{none}", cell.label))
}

/// A fault, and what was done about it.
pub(crate) fn fault(fault: &Fault) -> String {
    format!("{}; {}", what(fault), fault.action)
}

fn what(fault: &Fault) -> String {
    let link = fault.link.map_or(String::new(), |link| format!("link {link}: "));
    format!("{link}{}", fault.what)
}

/// The course's second question.
fn ratio(place: &ConditionResults, split: &Split, throughput: &MedianThroughput) -> String {
    let alone = &throughput.alone_kbit;
    let how = if throughput.source == "alone" { "Measured alone" } else { "Probed" };
    let mut text = format!(
        "{how}, link a carries {} and link b {} Mbit/s: {} to 1. Of the ratios tried, {} is the nearest to \
         that",
        mbit(alone.a),
        mbit(alone.b),
        short(split.throughput_ratio),
        split.named
    );
    match &split.regret {
        None => text += ", and it is the best of them: regret 0 %.",
        Some(by) => {
            text += &format!(" and {} the best: regret {}, {}.", split.best, span(by), judged(by));
        }
    }
    if let Some(exact) = &split.exact {
        text += &format!(
            " {}, whose split is computed from what was measured, took {} longer than {}, {}.",
            exact.schedule,
            span(&exact.regret),
            split.best,
            judged(&exact.regret)
        );
    }
    text + &reason(place, split, throughput)
}

/// Why the throughputs' ratio is, or is not, where the least time is.
fn reason(place: &ConditionResults, split: &Split, throughput: &MedianThroughput) -> String {
    let straight = split.line.filter(|line| line.r_squared > 0.9);
    if place.channel != "shared" {
        let later = split.a_ends_later_ms.filter(|_| split.regret.is_some());
        let Some(later) = later else {
            return " On independent links the time is that of the link that ends last, least where both \
                    end together: at the ratio of what they carry."
                .into();
        };
        let last = if later > 0.0 { "a" } else { "b" };
        let why = if (split.wanted_a_pct - split.named_a_pct).abs() > 3.0 {
            format!(
                "the throughputs ask for {:.1} % of the files from a, {} gives {:.1} %, and no ratio tried is \
                 closer",
                split.wanted_a_pct, split.named, split.named_a_pct
            )
        } else {
            "it carried less in the run than when it was measured".into()
        };
        return format!(
            " On independent links the time is that of the link that ends last; with {} that is link \
             {last}, {} after the other: {why}.",
            split.named,
            seconds(later.abs())
        );
    }
    let mut text = String::new();
    if let (Some(adds_up), Some(together)) = (split.adds_up, &throughput.together_kbit) {
        let sum = mbit(together.a + together.b);
        text += &format!(" Together they carry {sum} Mbit/s, {} times the better one alone", short(adds_up));
        text += if adds_up < 1.1 { ": one channel, shared." } else { "." };
        if adds_up >= 1.1 {
            return text
                + " So something other than the channel caps a station, and the best split lies where that \
                   station is full and the other takes the rest, not at the ratio of the throughputs.";
        }
    }
    text += " The channel is shared: while either station sends the channel is busy, so the time is linear in \
             the split, and least at an end, with the link whose bytes need less airtime";
    if !split.end_tried {
        text += ", which was not tried here";
    }
    text + &match (straight, split.line) {
        (Some(line), _) => {
            let end = if line.slope < 0.0 { "more" } else { "fewer" };
            format!(
                " (a straight line explains {:.1} % here; {end} files from a is faster).",
                line.r_squared * 100.0
            )
        }
        (None, Some(line)) => format!(
            ". Here a straight line explains only {:.1} % of it: something else acts too.",
            line.r_squared * 100.0
        ),
        (None, None) => ".".into(),
    }
}

/// Where the time of a single run went, beyond its summary.
pub(crate) fn explain(run: &LoggedRun) -> Vec<String> {
    let Some(end) = &run.end else {
        let mut said = vec![format!("The run never ended; {} segments came.", run.segments.len())];
        said.extend(faults(run));
        return said;
    };
    let mut said = vec![end.summary.clone()];
    if end.exit != Outcome::Ok {
        said.push(format!("Exit: {}.", end.exit));
    }
    if !end.summary.contains(" fault") {
        said.extend(faults(run));
    }
    let (Some(elapsed), Some(a), Some(b)) =
        (end.elapsed_ms, end.links.a.last_byte_ms, end.links.b.last_byte_ms)
    else {
        return said;
    };
    let (first, last, gap) = if a < b { ("a", "b", b - a) } else { ("b", "a", a - b) };
    // A link that yields is told of in the summary.
    if end.coupling.is_some_and(|found| found.coupled) {
        return said;
    }
    if gap <= elapsed * 0.01 {
        said.push("Both links were busy to the end.".into());
    } else {
        let link = if first == "a" { LinkId::A } else { LinkId::B };
        let gap_s = seconds(gap);
        let share = share_of(gap, elapsed, 0).map_or(String::new(), |share| format!(", {share} of the run"));
        said.push(match run.outage(link) {
            Some((at_ms, fault)) => format!(
                "Link {first} was out: {} at {}, and it brought nothing in the last {gap_s}{share}.",
                fault.what,
                seconds(at_ms)
            ),
            None => format!("Link {first} had nothing left to do {gap_s} before link {last} ended{share}."),
        });
    }
    if let (Some(bound), true) = (end.bound_ms, gap < elapsed) {
        let lost = elapsed - bound;
        if lost > 0.0 {
            let share =
                share_of(lost, elapsed, 1).map_or(String::new(), |share| format!(", {share} of the run"));
            said.push(format!("Against the bound {} were lost{share}.", seconds(lost)));
        }
    }
    if let Some(qoe) = end.qoe.as_ref().filter(|_| run.is_film()) {
        said.push(match (qoe.startup_delay_ms, qoe.rebuffer_count) {
            (Some(startup), 0) => {
                format!("A viewer would have waited {} and seen no stall.", seconds(startup))
            }
            (Some(startup), count) => format!(
                "A viewer would have waited {}, then met {count} stall{}, {} in all.",
                seconds(startup),
                if count == 1 { "" } else { "s" },
                seconds(qoe.rebuffer_ms)
            ),
            (None, _) => "A viewer would have seen nothing.".into(),
        });
    }
    let drops: Vec<String> = LinkId::BOTH.into_iter().filter_map(|link| dropped(run, link)).collect();
    said.extend(
        (!drops.is_empty()).then(|| format!("Packets dropped in the down direction: {}.", drops.join(", "))),
    );
    let marked = |link| Some((link, end.links[link].marked.filter(|&count| count > 0)?));
    let marks: Vec<String> = LinkId::BOTH
        .into_iter()
        .filter_map(marked)
        .map(|(link, count)| format!("{count} on link {link}"))
        .collect();
    said.extend(
        (!marks.is_empty()).then(|| {
            format!("Packets that the queue marked (ECN) in place of a drop: {}.", marks.join(", "))
        }),
    );
    said.extend(worth::systematic(&[run]));
    said
}

/// A part of a time in percent; none where it is no share of it.
fn share_of(part: f64, whole: f64, digits: usize) -> Option<String> {
    let share = part / whole * 100.0;
    (part <= whole && share.is_finite()).then(|| format!("{share:.digits$} %"))
}

/// How many faults a single run met, and the first of them.
fn faults(run: &LoggedRun) -> Option<String> {
    let first = what(&run.faults.first()?.data);
    Some(match run.faults.len() {
        1 => format!("One fault: {first}."),
        count => format!("{count} faults; the first: {first}."),
    })
}

/// The drops of the transfer. The shaper counts from when the link was set, so what it had dropped
/// before, a probe's packets, stands in the sample that was taken as the transfer began.
fn dropped(run: &LoggedRun, link: LinkId) -> Option<String> {
    let first_request_ms = run.first_request_ms()?;
    let of_link = || run.samples.iter().filter(|sample| sample.data.link == link);
    let before =
        of_link().take_while(|sample| sample.at_ms <= first_request_ms).last().or(of_link().next())?;
    let last = of_link().rfind(|sample| sample.data.down.is_some())?;
    let count = drops(&last.data).saturating_sub(drops(&before.data));
    Some(format!("{count} on link {link}"))
}

/// A cell's time with its interval.
fn time(cell: &EntrantResults) -> String {
    let Some(Estimate { n, median, low, high, coverage_pct }) = cell.elapsed_ms else {
        return "no time".into();
    };
    if n < 2 {
        return seconds(median);
    }
    let digits = digits(median / 1e3);
    format!(
        "{} ({coverage_pct:.1} % interval {:.digits$} to {:.digits$})",
        seconds(median),
        low / 1e3,
        high / 1e3
    )
}

/// How many times as fast the other one was, with its interval.
fn times(by: &Difference) -> String {
    let Estimate { median, low, high, .. } = by.pct;
    let times = |pct: f64| format!("{:.*}", if median < 10.0 { 3 } else { 2 }, 1.0 + pct / 100.0);
    format!("{} times ({} to {})", times(median), times(low), times(high))
}

/// A difference in percent, with its interval where it has one.
fn span(by: &Difference) -> String {
    let Estimate { n, median, low, high, .. } = by.pct;
    if n < 2 { format!("{median:.1} %") } else { format!("{median:.1} % ({low:.1} to {high:.1})") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::schema::{PerLink, Qoe, RunEnd, RunStart};
    use crate::report::stats;
    use crate::report::stats::LineFit;

    fn place(channel: &str) -> ConditionResults<'static> {
        ConditionResults {
            on_both: false,
            condition: "near".into(),
            channel: channel.into(),
            cells: Vec::new(),
            best: None,
            throughput: None,
            split: None,
        }
    }

    fn split(adds_up: f64, r_squared: f64) -> Split {
        Split {
            throughput_ratio: 2.0,
            wanted_a_pct: 66.7,
            named: "ratio=2:1".into(),
            named_a_pct: 66.7,
            best: "ratio=1:0".into(),
            regret: stats::paired(&[(1.3, 1.0); 6]),
            exact: None,
            line: Some(LineFit { slope: -1.0, r_squared }),
            end_tried: true,
            adds_up: Some(adds_up),
            a_ends_later_ms: Some(-500.0),
        }
    }

    fn throughput(together: f64) -> MedianThroughput {
        MedianThroughput {
            source: "alone",
            alone_kbit: PerLink { a: 40e3, b: 20e3 },
            together_kbit: Some(PerLink { a: together / 2.0, b: together / 2.0 }),
            n: 5,
        }
    }

    #[test]
    fn a_condition_on_both_kinds_of_channel_is_named_with_its_kind() {
        assert_eq!(
            [place("shared"), place("independent")].map(|p| p.name()),
            ["near, shared channel", "near"]
        );
        let apart = ConditionResults { on_both: true, ..place("independent") };
        assert_eq!(apart.name(), "near, independent links");
    }

    #[test]
    fn marks_are_said_and_a_viewer_only_of_a_film() {
        let mut end =
            RunEnd { summary: "It took 1 s.".into(), elapsed_ms: Some(1000.0), ..RunEnd::default() };
        (end.links.a.last_byte_ms, end.links.b.last_byte_ms) = (Some(1000.0), Some(1000.0));
        end.links.b.marked = Some(7);
        end.qoe = Some(Qoe {
            startup_delay_ms: Some(300.0),
            rebuffer_count: 0,
            rebuffer_ms: 0.0,
            rebuffer_ratio: None,
            stall_per_media: None,
            segment_duration_ms: 2000.0,
            startup_segments: 2,
        });
        let mut run = LoggedRun { end: Some(end), start: Some(RunStart::default()), ..LoggedRun::default() };
        let start = |run: &mut LoggedRun, ms| {
            run.start = Some(RunStart { segment_duration_ms: ms, ..RunStart::default() });
            explain(run).join(" ")
        };
        let said = start(&mut run, 4000.0);
        assert!(
            said.contains("marked (ECN) in place of a drop: 7 on link b.") && !said.contains("viewer"),
            "{said}"
        );
        let said = start(&mut run, 2000.0);
        assert!(said.contains("A viewer would have waited 0.300 s and seen no stall."), "{said}");
    }

    #[test]
    fn the_reason_is_the_channel_a_cap_or_what_a_link_carried() {
        let shared = ratio(&place("shared"), &split(0.7, 0.999), &throughput(28e3));
        assert!(shared.contains("regret 30.0 % (30.0 to 30.0), significant"), "{shared}");
        assert!(shared.contains("one channel, shared") && shared.contains("explains 99.9 %"), "{shared}");
        assert!(shared.contains("more files from a is faster"), "{shared}");
        let bent = ratio(&place("shared"), &split(0.7, 0.5), &throughput(28e3));
        assert!(bent.contains("something else acts too"), "{bent}");
        let capped = ratio(&place("shared"), &split(1.4, 0.5), &throughput(56e3));
        assert!(capped.contains("other than the channel caps a station"), "{capped}");
        let apart = ratio(&place("independent"), &split(1.5, 0.5), &throughput(60e3));
        assert!(apart.contains("that is link b, 0.500 s after the other: it carried less"), "{apart}");
    }
}
