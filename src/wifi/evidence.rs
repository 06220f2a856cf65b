//! How far the model of the channel is from other models, in the cases nearest to a channel. Pure.
//!
//! `errors.csv` has the errors of the emulator in each case of `tests/loopback/wifi-truth.csv`, saturated stations
//! that send to an access point; the test that compares them writes it.

use serde::{Deserialize, Serialize};

use super::phy::Standard;

/// The kind of a channel, as far as cases tell kinds apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ChannelKind {
    /// A stands for g and N for ac, of which there are no cases.
    pub standard: Standard,
    /// How many contend with data.
    pub stations: usize,
    /// Whether their rates differ.
    pub unlike: bool,
    pub aggregates: bool,
    /// Whether turns have a limit of their own.
    pub txop: bool,
}

/// The greatest error of the channel's model in the cases nearest to a channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ChannelError {
    /// Of the goodput of all stations together.
    pub sum_pct: f64,
    /// Of one station's; null where the cases have one station or tell only sums.
    pub station_pct: Option<f64>,
    pub cases: u64,
    /// Properties of the channel that no case has.
    pub not_compared: Vec<String>,
}

struct ErrorCase {
    kind: ChannelKind,
    sum_pct: f64,
    station_pct: Option<f64>,
}

fn cases() -> Vec<ErrorCase> {
    let case = |line: &str| {
        let mut fields = line.split(',');
        let mut next = || fields.next().expect("each line has seven fields");
        let standard = match next() {
            "802.11a" => Standard::A,
            "802.11b" => Standard::B,
            _ => Standard::N,
        };
        let stations = next().parse().expect("a number of stations");
        let [unlike, aggregates, txop] = std::array::from_fn(|_| next() == "yes");
        let kind = ChannelKind { standard, stations, unlike, aggregates, txop };
        ErrorCase { kind, sum_pct: next().parse().expect("an error"), station_pct: next().parse().ok() }
    };
    include_str!("errors.csv").lines().skip(1).map(case).collect()
}

/// Returns the greatest errors of the cases that are most like a channel: of its standard, then as near as there
/// are in stations, aggregation, limits of turns, and likeness of rates, in this order.
pub(crate) fn nearest(kind: ChannelKind) -> ChannelError {
    let mut cases = cases();
    cases.retain(|case| case.kind.standard == kind.standard);
    let far = |case: &ErrorCase| case.kind.stations.abs_diff(kind.stations);
    let least = cases.iter().map(far).min();
    cases.retain(|case| Some(far(case)) == least);
    let like: [fn(&ChannelKind) -> bool; 3] = [|kind| kind.aggregates, |kind| kind.txop, |kind| kind.unlike];
    for of in like {
        if cases.iter().any(|case| of(&case.kind) == of(&kind)) {
            cases.retain(|case| of(&case.kind) == of(&kind));
        }
    }
    let station_pct = cases.iter().filter_map(|case| case.station_pct.map(f64::abs)).reduce(f64::max);
    ChannelError {
        sum_pct: cases.iter().map(|case| case.sum_pct.abs()).fold(0.0, f64::max),
        station_pct: station_pct.filter(|_| kind.stations > 1),
        cases: cases.len() as u64,
        not_compared: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_cases_and_the_nearest_are_taken() {
        assert_eq!(cases().len(), 38);
        let kind = |standard, stations, unlike, aggregates, txop| ChannelKind {
            standard,
            stations,
            unlike,
            aggregates,
            txop,
        };
        let one = |id| nearest(id).cases;
        // n7-3-txop alone, n7-3 alone, n7-3-plain alone; b11-5 and b11-1; bianchi's fifty stations.
        assert_eq!(one(kind(Standard::N, 2, true, true, true)), 1);
        assert_eq!(one(kind(Standard::N, 2, true, true, false)), 1);
        assert_eq!(one(kind(Standard::N, 2, true, false, false)), 1);
        assert_eq!(one(kind(Standard::B, 2, true, false, false)), 2);
        assert_eq!(one(kind(Standard::A, 60, false, false, false)), 1);
        let alone = nearest(kind(Standard::N, 1, false, true, false));
        assert!(alone.sum_pct < 1.0 && alone.station_pct.is_none(), "{alone:?}");
        let two = nearest(kind(Standard::N, 2, true, true, false));
        assert!(two.station_pct.is_some_and(|pct| pct >= two.sum_pct), "{two:?}");
    }
}
