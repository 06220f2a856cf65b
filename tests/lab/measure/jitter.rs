//! Jitter on real packets, held in userspace and measured by stamped datagrams.

use crate::fixture::{CLIENT, Lab, number, within};
use crate::link_model::{CLEAN, Datagrams};

#[test]
fn jitter_has_its_mean_and_spread_on_a_busy_link() {
    let Some(lab) = Lab::bare().enter() else { return };
    lab.start_sink("client", CLIENT);
    let down =
        "rate = \"10mbit\"\nqueue = \"10s\"\ndelay = \"40ms\"\njitter = \"9ms\"\ndistribution = \"normal\"";
    let profile = lab.profile("jitter", down, CLEAN, "");
    let seen = lab.measured(&profile, Datagrams(9.0, 6000, 1514));
    within("jitter 40 ± 9 ms, busy: median in ms", number(&seen["median_ms"]), 40.0, 15.0);
    within("jitter 40 ± 9 ms, busy: spread in ms", number(&seen["sd_ms"]), 9.0, 40.0);
}
