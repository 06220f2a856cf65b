//! Rates that an experiment measures of its links, before their runs.

use serde_json::Value;

use crate::fixture::{between, number, stdout_of};
use crate::sweep::{LINKS, lab_with_experiment};

#[test]
fn links_on_one_channel_carry_less_together_than_alone() {
    let Some(lab) = lab_with_experiment() else { return };
    // Its runs are of no interest here.
    let few = LINKS.replace("[\"greedy\", \"ratio=1:2\"]", "[\"greedy\"]\nfiles = \"s{001..002}.m4s\"");
    lab.write("few.toml", &few);
    stdout_of(&mut lab.sweep("few.toml", &[]));
    let log = lab.sweep_log();
    // On the shared channel the two together carry less than the sum of both alone, and on
    // channels of their own about as much.
    let share = |condition: &str, channel: &str| {
        let of = |data: &&Value| data["condition"] == condition && data["channel"] == channel;
        let both = |rates: &Value| number(&rates["a"]) + number(&rates["b"]);
        let measured = log.of("throughput").into_iter().filter(of);
        let shares: Vec<f64> =
            measured.map(|data| both(&data["together_kbit"]) / both(&data["alone_kbit"])).collect();
        shares.iter().sum::<f64>() / shares.len() as f64
    };
    between("together over alone, shared", share("wifi", "shared"), 0.0, 0.7499);
    between("together over alone, independent", share("wifi", "independent"), 0.7501, 9.0);
    between("together over alone, rates", share("rates", "independent"), 0.7501, 9.0);
}
