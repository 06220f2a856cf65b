//! A link that follows a trace: `link show` has the trace and the rate of the moment, and why the link is where it is;
//! `link probe` holds it against no rate, and the other links as ever.

use serde_json::Value;

use crate::fixture::{Lab, number, stdout_of};

fn row<'a>(rows: &'a Value, link: &str, direction: &str) -> &'a Value {
    let of = |row: &&Value| row["link"] == link && row["direction"] == direction;
    rows.as_array().unwrap().iter().find(of).unwrap()
}

fn expect_trace_is_told_on(backend: &str) {
    let Some(lab) = Lab::serving(8, "500KB").enter() else { return };
    lab.write("steps.txt", "0 8\n1 4\n");
    let plain = "rate = \"20mbit\"\nqueue = \"100ms\"";
    let steps = lab.profile("steps", plain, plain, "[trace]\nfile = \"steps.txt\"\ndirection = \"down\"");
    let look = "\"$TWINLINK_BIN\" link show >words
                \"$TWINLINK_BIN\" link show --json >rows
                \"$TWINLINK_BIN\" link probe --json >probe";
    let links = ["link", "hold", "--link-a", &steps, "--link-b", "rate-20", "--backend", backend];
    stdout_of(&mut lab.twinlink(&[&links[..], &["--", "bash", "-ec", look]].concat()));
    let rows: Value = serde_json::from_str(&lab.sh("cat rows")).unwrap();
    let rows = &rows["links"];
    let a_down = row(rows, "a", "down");
    assert_eq!(a_down["trace"], "steps.txt");
    assert!([8000.0, 4000.0].contains(&number(&a_down["counters"]["rate_kbit"])), "{a_down}");
    assert_eq!(a_down["shape"]["rate"], "20mbit");
    assert_eq!(rows.as_array().unwrap().iter().filter(|row| !row["trace"].is_null()).count(), 1);
    let words = lab.sh("cat words");
    assert!(words.contains("link a down follows the trace steps.txt"), "{words}");
    assert!(words.contains(&format!("link a is on {backend}: asked for")), "{words}");
    let probes: Value = serde_json::from_str(&lab.sh("cat probe")).unwrap();
    let a_down = row(&probes, "a", "down");
    assert!(a_down["rate_expected_kbit"].is_null(), "{a_down}");
    assert!(a_down["verdict"].as_str().unwrap().contains("follows a trace"), "{a_down}");
    for (link, direction) in [("a", "up"), ("b", "down"), ("b", "up")] {
        assert_eq!(row(&probes, link, direction)["ok"], true, "{}", row(&probes, link, direction));
    }
}

#[test]
fn trace_on_netem_is_told() {
    expect_trace_is_told_on("netem");
}

#[test]
fn trace_on_userspace_is_told() {
    expect_trace_is_told_on("userspace");
}
