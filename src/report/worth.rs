//! Says what a result is worth: the differences that its runs can tell, the correction for the number of
//! comparisons, and the systematic errors, which no repetition takes away. Pure.

use super::model::ConditionResults;
use super::numbers::short;
use super::run::LoggedRun;
use super::stats::{self, Difference};
use crate::log::schema::{ChannelError, Probe};

/// How many runs of each an experiment should have.
const ADVISED: usize = 10;

/// The difference that a reader may want to see, in percent.
const WANTED_PCT: f64 = 1.0;

/// Whether a difference is significant, by itself and with Holm's correction for all of its condition.
pub(crate) fn judged(by: &Difference) -> &'static str {
    match (by.significant, by.significant_of_all) {
        (Some(true), Some(false)) => "significant alone",
        (Some(true), _) => "significant",
        (Some(false), _) => "not significant",
        (None, _) => "too few runs",
    }
}

/// Says which differences from the best the runs of a condition can tell from none.
pub(crate) fn power(place: &ConditionResults) -> Option<String> {
    let compared = || place.cells.iter().filter_map(|cell| cell.against_best.as_ref());
    let comparisons = compared().count();
    let next = compared().min_by(|x, y| x.pct.median.total_cmp(&y.pct.median))?;
    let (enough, blocks) = (stats::runs_for(1, next.paired), stats::runs_for(comparisons, next.paired));
    let most = place.cells.iter().map(|cell| cell.runs.len()).max()?;
    let Some(least_pct) = next.least_seen_pct() else {
        let runs = if most == 1 { "One run".into() } else { format!("At most {most} runs") };
        return Some(format!(
            "{runs} of each: with fewer than {enough} no difference is called significant, and {blocks} are the least \
             for {}; {ADVISED} are advised.",
            counted(comparisons)
        ));
    };
    let of = if next.paired { "blocks" } else { "runs of each" };
    let mut text = format!(
        "With {} {of}, a difference from the best of less than {} % cannot be seen",
        next.pct.n,
        short(least_pct)
    );
    if let Some(needed) = next.blocks_to_see(WANTED_PCT).filter(|needed| *needed > next.pct.n) {
        text += &format!("; about {needed} are needed to see {WANTED_PCT} %");
    }
    if next.paired && blocks > next.pct.n {
        text += &format!("; {} need {blocks} with Holm's correction", counted(comparisons));
    }
    Some(text + ".")
}

/// Says how many runs of each a difference has, and how many it needs beside the others of its condition.
pub(crate) fn too_few(by: &Difference, comparisons: usize) -> String {
    let (runs, needed) = (by.pct.n, stats::runs_for(comparisons, by.paired));
    let runs = if runs == 1 { "one run of each is".into() } else { format!("{runs} runs of each are") };
    format!("{runs} too few, {needed} are needed")
}

fn counted(comparisons: usize) -> String {
    if comparisons == 1 { "one comparison".into() } else { format!("{comparisons} comparisons") }
}

/// Says by how much these runs, of one condition, may all be off in the same way.
pub(crate) fn systematic(runs: &[&LoggedRun]) -> Option<String> {
    let several = runs.len() > 1;
    let runs = || runs.iter().copied();
    let mut said = Vec::new();
    if let Some(late_ms) = stats::median(runs().filter_map(lateness_ms)) {
        said.push(format!("99 % of the packets left the shaper at most {late_ms:.2} ms late"));
    }
    let off = |of: fn(&Probe) -> Option<f64>| {
        let probes = runs().flat_map(|run| &run.probes);
        stats::median(probes.filter_map(of))
    };
    let rate = off(|probe| Some((probe.rate_kbit? / probe.rate_expected_kbit? - 1.0) * 100.0));
    let rtt = off(|probe| Some(probe.rtt_ms? - probe.rtt_expected_ms?));
    match (rate, rtt) {
        (Some(rate), Some(rtt)) => {
            said.push(format!(
                "probes found rates {rate:+.1} % and round trips {rtt:+.2} ms off the profiles"
            ));
        }
        (Some(rate), None) => said.push(format!("probes found rates {rate:+.1} % off the profiles")),
        (None, Some(rtt)) => said.push(format!("probes found round trips {rtt:+.2} ms off the profiles")),
        (None, None) => {}
    }
    let channel = runs().flat_map(|run| &run.links).find_map(|link| link.data.channel_error.as_ref());
    said.extend(channel.map(of_channel));
    let whose =
        if several { "Systematic errors, the same in all runs" } else { "Systematic errors of this run" };
    (!said.is_empty()).then(|| format!("{whose}: {}.", said.join("; ")))
}

/// Says by how much the model of a channel is off in the cases most like it.
fn of_channel(error: &ChannelError) -> String {
    let cases = if error.cases == 1 { "the case".into() } else { format!("the {} cases", error.cases) };
    let mut text = format!("the channel's model is {:.1} % off other models' sum", error.sum_pct);
    if let Some(station_pct) = error.station_pct {
        text += &format!(" and {station_pct:.1} % off a station's share");
    }
    text += &format!(" at most, in {cases} most like it");
    if !error.not_compared.is_empty() {
        text += &format!("; {} had no case", error.not_compared.join(" and "));
    }
    text
}

/// The lateness of 99 of 100 packets of the down directions, median of the samples of a run.
fn lateness_ms(run: &LoggedRun) -> Option<f64> {
    let down = run.samples.iter().filter_map(|sample| sample.data.down.as_ref()?.lateness_p99_ms);
    stats::median(down)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_channel_says_what_was_not_compared() {
        let lacks = vec!["RTS/CTS".into(), "repeats".into()];
        let two = ChannelError { sum_pct: 1.94, station_pct: Some(3.1), cases: 1, not_compared: lacks };
        assert_eq!(
            of_channel(&two),
            "the channel's model is 1.9 % off other models' sum and 3.1 % off a station's share at most, in the case \
             most like it; RTS/CTS and repeats had no case"
        );
        let one = ChannelError { sum_pct: 0.5, station_pct: None, cases: 8, not_compared: Vec::new() };
        assert_eq!(
            of_channel(&one),
            "the channel's model is 0.5 % off other models' sum at most, in the 8 cases most like it"
        );
    }
}
