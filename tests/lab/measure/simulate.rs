//! A simulation predicts the time of a run within 3 %, where the links are steady; and `twinlink simulate` says beforehand
//! the same as the run's last record. Whatever holds the machine up only adds to the time of a run, so one run may be
//! longer, but not the median of all.

use crate::fixture::{Lab, between, number};

const RUNS: [[&str; 3]; 7] = [
    ["rate-20", "rate-80", "ratio=1:4"],
    ["rate-20", "rate-80", "greedy"],
    ["rate-20", "rate-80", "rates=20000:80000"],
    ["rate-20", "rate-80", "adaptive"],
    ["wifi-near", "lte-medium", "greedy"],
    ["wifi-near", "lte-medium", "adaptive"],
    ["wifi-near", "lte-medium", "ratio=4:1"],
];

#[test]
fn prediction_agrees_with_the_time_of_runs() {
    let Some(lab) = Lab::serving(100, "500KB").enter() else { return };
    let mut all_off = Vec::new();
    for (index, [a, b, schedule]) in RUNS.into_iter().enumerate() {
        let what = format!("{a} and {b}, {schedule}");
        let links = ["--link-a", a, "--link-b", b, "--schedule", schedule];
        let data = lab.data.to_str().unwrap();
        let simulated = lab.json(&[&["simulate"], &links[..], &["--data", data, "--json"]].concat());
        let log = lab.client(&index.to_string(), &links).well();
        assert!(
            log.end()["predicted_ms"].is_f64(),
            "a build for debugging predicts too slowly: set TWINLINK_BIN"
        );
        let (predicted, elapsed) = (number(&log.end()["predicted_ms"]), number(&log.end()["elapsed_ms"]));
        let off = (predicted / elapsed - 1.0) * 100.0;
        between(&format!("{what}: predicted against measured, %"), off, -20.0, 3.0);
        all_off.push(off);
        // Beforehand the senders' congestion control is not known, which the run's own prediction uses.
        let before = number(&simulated["elapsed_ms"]);
        between(&format!("{what}: simulated beforehand, ms"), before, predicted * 0.97, predicted * 1.03);
    }
    all_off.sort_by(f64::total_cmp);
    between("median of all, predicted against measured, %", all_off[RUNS.len() / 2], -3.0, f64::INFINITY);
}
