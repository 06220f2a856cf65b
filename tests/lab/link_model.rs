//! The link model on real packets, held in userspace and measured by stamped datagrams: bursts of loss last a time,
//! reordering overtakes, a trace's peak is carried, and small packets fill the queue by their bytes. Only counts and
//! ratios are compared.

use serde_json::Value;

use crate::fixture::{CLIENT, Inside, Lab, between, number, stdout_of, within};

pub(crate) const CLEAN: &str = "rate = \"50mbit\"\nqueue = \"10s\"";

/// Datagrams down link a: at a pace, so many, in frames of so many bytes.
pub(crate) struct Datagrams(pub(crate) f64, pub(crate) u32, pub(crate) u32);

impl Inside {
    /// Returns what the sink saw of datagrams down link a, which has this profile.
    pub(crate) fn measured(&self, profile: &str, Datagrams(mbit, count, frame): Datagrams) -> Value {
        let [mbit, count, frame] = [mbit.to_string(), count.to_string(), frame.to_string()];
        let traffic = self.traffic("a", &["delays", CLIENT, &mbit, &count, &frame]);
        let mut hold = self.twinlink(&["link", "hold", "--link-a", profile, "--backend", "userspace", "--"]);
        hold.arg(traffic.get_program()).args(traffic.get_args());
        let seen = stdout_of(&mut hold);
        println!("{count} frames of {frame} bytes at {mbit} Mbit/s: {seen}");
        serde_json::from_str(&seen).unwrap()
    }
}

#[test]
fn reordering_overtakes() {
    let Some(lab) = Lab::bare().once().enter() else { return };
    lab.start_sink("client", CLIENT);
    let down = format!("{CLEAN}\ndelay = \"40ms\"\nreorder = \"10%\"");
    let profile = lab.profile("reorder", &down, &format!("{CLEAN}\ndelay = \"10ms\""), "");
    let seen = lab.measured(&profile, Datagrams(4.0, 4000, 500));
    assert_eq!(seen["came"], 4000);
    within("overtakers of 4000 at 10 %", number(&seen["overtakers"]), 400.0, 30.0);
}

#[test]
fn peak_of_a_trace_is_carried() {
    let Some(lab) = Lab::bare().once().enter() else { return };
    lab.start_sink("client", CLIENT);
    lab.write("peak.txt", "0 4\n1 40\n2 40\n");
    let down = "rate = \"4mbit\"\nqueue = \"200ms\"\ndelay = \"50ms\"";
    let profile = lab.profile("peak", down, CLEAN, "[trace]\nfile = \"peak.txt\"\nloop = false");
    // A queue for 4 Mbit/s holds 66 full frames; 50 ms at 40 Mbit/s hold 165.
    let seen = lab.measured(&profile, Datagrams(30.0, 6000, 1514));
    between("datagrams that came of 6000", number(&seen["came"]), 3000.0, 6000.0);
}

#[test]
fn small_packets_fill_the_queue_by_their_bytes() {
    let Some(lab) = Lab::bare().once().enter() else { return };
    lab.start_sink("client", CLIENT);
    let down = "rate = \"1mbit\"\nqueue = \"400ms\"\ndelay = \"250ms\"";
    let profile = lab.profile("small", down, CLEAN, "");
    // 23 % of the rate; counted as packets 61 % of them had no room.
    assert_eq!(lab.measured(&profile, Datagrams(0.23, 1500, 60))["came"], 1500);
}

/// A full frame takes 6 ms, so a burst lasts 30 ms whatever is sent. Bursts of five packets would be ten
/// where a frame comes every 2 ms and less than two where one comes every 40 ms.
const BURSTS: &str = "rate = \"2mbit\"\nqueue = \"10s\"\ndelay = \"1ms\"\nloss = { p = \"2%\", r = \"20%\" }";

fn lost_in_a_burst(seen: &Value) -> f64 {
    number(&seen["lost_in_bursts"]) / number(&seen["bursts"])
}

#[test]
fn burst_of_loss_takes_many_packets_that_come_often() {
    let Some(lab) = Lab::bare().once().enter() else { return };
    lab.start_sink("client", CLIENT);
    let seen = lab.measured(&lab.profile("bursts", BURSTS, CLEAN, ""), Datagrams(0.4, 4000, 100));
    between("lost in a burst", lost_in_a_burst(&seen), 7.0, f64::INFINITY);
}

#[test]
fn burst_of_loss_takes_few_packets_that_come_seldom() {
    let Some(lab) = Lab::bare().once().enter() else { return };
    lab.start_sink("client", CLIENT);
    let seen = lab.measured(&lab.profile("bursts", BURSTS, CLEAN, ""), Datagrams(0.02, 300, 100));
    between("lost in a burst", lost_in_a_burst(&seen), 0.0, 3.0);
}
