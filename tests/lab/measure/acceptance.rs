//! Links on the userspace backend as a sender and a receiver see them that share no code with the shaper:
//! `tests/acceptance.py` says what is measured, within which range, and why.

use crate::fixture::{Lab, words};

/// Two profiles; `tests/acceptance-table.sh` takes twenty.
#[test]
fn drawn_profiles_are_as_they_say() {
    let Some(lab) = Lab::bare().enter() else { return };
    let measured =
        lab.command("python3", &[&lab.helper("acceptance.py"), "run", "userspace", "1", "2"]).output();
    let measured = measured.unwrap();
    assert!(measured.status.success(), "{}", words(&measured));
    println!("{}", words(&measured));
}

#[test]
fn links_of_a_pair_of_traces_go_together() {
    let Some(lab) = Lab::bare().enter() else { return };
    // Where one link fades the other is at its best, but for one tunnel that both go through.
    let second = |second: u32| {
        let at = f64::from(second) / 3.0;
        let (a, b) = match second {
            12..15 => (1.5, 2.5),
            _ => (9.0 + 6.0 * at.sin(), 14.0 - 8.0 * (at + 0.4).sin()),
        };
        format!("{second},{a:.2},{b:.2}\n")
    };
    let pair = lab.write("pair.csv", &(0..20).map(second).collect::<String>());
    let plain = "rate = \"8mbit\"\nqueue = \"100ms\"";
    let profile = lab.profile("pair", plain, plain, "[trace]\npair = \"pair.csv\"");
    let links = ["link", "hold", "--link-a", &profile, "--link-b", &profile, "--backend", "userspace", "--"];
    let program = lab.helper("acceptance.py");
    let measured =
        lab.twinlink(&[&links[..], &["python3", &program, "pair", &pair]].concat()).output().unwrap();
    assert!(measured.status.success(), "{}", words(&measured));
    println!("{}", words(&measured));
}
