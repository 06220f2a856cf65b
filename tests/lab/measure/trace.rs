//! A trace of 20 s in ten steps with an outage, while more is offered than they take: each second carries what the trace
//! says, by the kernel's counters and by a capture; the end of the trace is told.

use std::time::Duration;

use crate::fixture::{CLIENT, Inside, Lab, server, stdout_of, words};

const STEPS: [(u32, u32); 10] =
    [(0, 8), (2, 4), (4, 12), (6, 2), (8, 0), (10, 6), (12, 10), (14, 3), (16, 5), (18, 8)];
const METER: &str = "trace-meter.py";

/// The readings of a link on which the trace was played.
struct Played {
    readings: String,
    /// The trace's begin (s).
    began: f64,
}

impl Inside {
    fn write_steps(&self) -> String {
        let steps: String = STEPS.iter().map(|(at, mbit)| format!("{at} {mbit}\n")).collect();
        self.write("steps.txt", &steps);
        let plain = "rate = \"8mbit\"\nqueue = \"100ms\"";
        self.profile(
            "steps",
            plain,
            plain,
            "[trace]\nfile = \"steps.txt\"\ndirection = \"both\"\nloop = false",
        )
    }

    /// Plays the trace on link a while both a flood passes in this direction and these counters are read.
    fn play(&self, direction: &str, backend: &str, interface: &str, counter: &str) -> Played {
        let profile = self.write_steps();
        let readings = self.path(direction).display().to_string();
        let mut meter = self
            .command("python3", &[&self.helper(METER), "watch", &readings, "26", interface, counter])
            .spawn()
            .unwrap();
        let (from, to) = if direction == "down" { ("a", CLIENT) } else { ("client", server("a")) };
        let mut flood = self.traffic(from, &["flood", to, "16", "26"]).spawn().unwrap();
        // The flood is on its way, and the meter has read something.
        std::thread::sleep(Duration::from_millis(1500));
        // The trace begins just before the command does, whose start the kernel has noted in ticks.
        let line = "cut -d' ' -f22 /proc/$$/stat >began; sleep 21.5";
        let hold = ["link", "hold", "--link-a", &profile, "--backend", backend, "--", "bash", "-c", line];
        let held = self.twinlink(&hold).output().unwrap();
        assert!(held.status.success() && meter.wait().unwrap().success() && flood.wait().unwrap().success());
        let said = words(&held);
        assert!(said.contains("the trace steps.txt is over after 20 s"), "{said}");
        let ticks: f64 = self.sh("cat began").parse().unwrap();
        let per_second: f64 = self.sh("getconf CLK_TCK").parse().unwrap();
        // Ticks are cut off, so that it was half of one later on average.
        Played { readings, began: (ticks + 0.5) / per_second }
    }

    /// Compares each second by a column of the readings.
    fn compare(&self, played: &Played, column: u32, what: &str) {
        let (began, column) = (played.began.to_string(), column.to_string());
        println!("== by {what}");
        let steps = self.path("steps.txt");
        let args =
            [&self.helper(METER), "compare", &played.readings, &began, steps.to_str().unwrap(), &column];
        println!("{}", stdout_of(&mut self.command("python3", &args)));
    }
}

#[test]
fn tbf_carries_each_second_of_a_trace() {
    let Some(lab) = Lab::bare().enter() else { return };
    let played = lab.play("down", "netem", "twl-a-down", "/sys/class/net/twl-a-down/statistics/rx_bytes");
    lab.compare(&played, 1, "the ifb's bytes");
    lab.compare(&played, 2, "a capture");
}

#[test]
fn userspace_carries_each_second_of_a_trace_up() {
    let Some(lab) = Lab::bare().enter() else { return };
    lab.start_sink("client", CLIENT);
    let played = lab.play("up", "userspace", "eth0", "/sys/class/net/eth0/statistics/tx_bytes");
    lab.compare(&played, 1, "the interface's bytes");
    lab.compare(&played, 2, "a capture");
}

#[test]
fn userspace_carries_each_second_of_a_trace_down() {
    let Some(lab) = Lab::bare().enter() else { return };
    lab.start_sink("client", CLIENT);
    let played = lab.play("down", "userspace", "eth0", "delivers");
    lab.compare(&played, 1, "the packets that the kernel delivered");
}
