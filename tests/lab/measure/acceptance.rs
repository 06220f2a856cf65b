//! Rate, round trip and loss of profiles whose packets are held in userspace, on two links at once, against the profile's own
//! words. `tests/acceptance.py` says what is measured and within which range.

use serde_json::Value;

use crate::fixture::{Lab, stdout_of, words};

fn expect_profile(name: &str) {
    let Some(lab) = Lab::bare().enter() else { return };
    let program = lab.helper("acceptance.py");
    let bare = stdout_of(&mut lab.command("python3", &[&program, "idle"]));
    println!("round trip with nothing shaped: {bare} ms");
    let profiles = lab.json(&["link", "list", "--json"]);
    let listed = profiles.as_array().unwrap().iter().find(|profile| profile["name"] == name).unwrap();
    let mut profile = listed["profile"].clone();
    profile["name"] = Value::from(name);
    let file = lab.write("profile.json", &profile.to_string());
    let links = ["--link-a", name, "--link-b", name, "--backend", "userspace", "--counters", "counters.json"];
    let mut hold =
        lab.twinlink(&[&["link", "hold"], &links[..], &["--", "python3", &program, &file]].concat());
    let output = hold.env("ACCEPTANCE_BARE_MS", bare).output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
    println!("{}", words(&output));
}

macro_rules! profiles {
    ($($(#[$attribute:meta])? $name:ident: $profile:literal,)*) => {$(
        $(#[$attribute])?
        #[test]
        fn $name() {
            expect_profile($profile);
        }
    )*};
}

// To take every wireless profile, and the time that their losses need:
// ACCEPTANCE_LONGEST_S=150 cargo nextest run acceptance --run-ignored all
profiles! {
    wifi_far: "wifi-far",
    lte_medium: "lte-medium",
    edge: "edge",
    fast_5g_mid: "5g-mid",
    #[ignore = "all of them take 15 minutes"]
    wifi_near: "wifi-near",
    #[ignore = "all of them take 15 minutes"]
    wifi_mid: "wifi-mid",
    #[ignore = "all of them take 15 minutes"]
    lte_strong: "lte-strong",
    #[ignore = "all of them take 15 minutes"]
    lte_weak: "lte-weak",
    #[ignore = "all of them take 15 minutes"]
    umts_3g: "3g",
    #[ignore = "all of them take 15 minutes"]
    geo: "geo",
}
