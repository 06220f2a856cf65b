//! The shared channel against other models of 802.11: the figures of `wifi-truth.csv`, which say where they are
//! from, beside the closed form and the emulator in virtual time.
//!
//! The errors stand in `docs/limitations.md`; `UPDATE_DOCS=1 cargo test --test loopback channel_truth` writes them there.

use std::path::Path;

use twinlink::config::channel::{ChannelConfig, Fair};
use twinlink::emulate::channel::SharedChannel;
use twinlink::emulate::channel::medium::Medium;
use twinlink::emulate::link::ArrivingPacket;
use twinlink::emulate::rng::{Purpose, Stream};
use twinlink::units::{Direction, LinkId, Nanos};
use twinlink::wifi::exchange::Transmitter;
use twinlink::wifi::saturation::{Saturated, frames_per_s};

/// An Ethernet frame with 1500 bytes of IP packet.
const FRAME: u32 = 1514;
/// How long the emulator runs, seconds.
const SECONDS: u64 = 30;

/// A line of the file.
struct Row {
    id: String,
    standard: String,
    rates: Vec<String>,
    ampdu_bytes: u64,
    txop_us: u64,
    /// Mbit/s by station; empty where only the sum is known.
    each: Vec<f64>,
    sum: f64,
    source: String,
}

fn rows() -> Vec<Row> {
    let text = include_str!("wifi-truth.csv");
    let lines = text.lines().filter(|line| !line.starts_with('#')).skip(1);
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        let words: Vec<&str> = fields[2].split(' ').collect();
        let rates = match words[..] {
            [rate, count] if count.starts_with('x') => vec![rate; count[1..].parse().unwrap()],
            _ => words,
        };
        Row {
            id: fields[0].into(),
            standard: fields[1].into(),
            rates: rates.into_iter().map(String::from).collect(),
            ampdu_bytes: fields[3].parse().unwrap(),
            txop_us: fields[4].parse().unwrap(),
            each: fields[5].split_whitespace().map(|each| each.parse().unwrap()).collect(),
            sum: fields[6].parse().unwrap(),
            source: fields[7].into(),
        }
    };
    let rows: Vec<Row> = lines.map(row).collect();
    assert_eq!(rows.len(), 38);
    rows
}

impl Row {
    /// The name of a radio at a rate in Mbit/s.
    fn phy(&self, rate: &str) -> String {
        if self.standard != "802.11n" {
            return format!("{}/{rate}", self.standard);
        }
        let rates = ["6.5", "13", "19.5", "26", "39", "52", "58.5", "65"];
        let mcs = rates.iter().position(|known| *known == rate).unwrap();
        format!("802.11n/20MHz/MCS{mcs}")
    }

    /// A channel with the first stations as servers.
    fn channel(&self, rates: &[String]) -> ChannelConfig {
        let mut keys = match (self.standard.as_str(), self.ampdu_bytes) {
            ("802.11n", 0) => "ampdu = 1\n".to_string(),
            (_, 0) => String::new(),
            (_, bytes) => format!("ampdu_bytes = \"{bytes}B\"\n"),
        };
        if self.txop_us > 0 {
            keys += &format!("txop = \"{}us\"\n", self.txop_us);
        }
        if self.source == "bianchi" {
            // Bianchi's stations repeat a frame for ever.
            keys += "transmissions = 255\n";
        }
        let link = |(name, rate): (&str, &String)| {
            format!("[link.{name}]\nphy = \"{}\"\nqueue = \"300p\"\n", self.phy(rate))
        };
        let links: String = ["a", "b"].into_iter().zip(rates).map(link).collect();
        ChannelConfig::parse("truth", &format!("description = \"\"\n[channel]\n{keys}{links}")).unwrap()
    }

    fn radios(&self) -> Vec<Transmitter> {
        let radio = |rate: &String| {
            self.channel(std::slice::from_ref(rate)).hops(LinkId::A, Direction::Down)[0].radio
        };
        self.rates.iter().map(radio).collect()
    }

    /// Bytes that count of a frame: the UDP payload, or what Bianchi's model counts, the MSDU.
    fn payload(&self) -> f64 {
        if self.source == "bianchi" { 1500.0 } else { 1472.0 }
    }

    fn mbit(&self, frames_per_s: f64) -> f64 {
        frames_per_s * self.payload() * 8.0 / 1e6
    }

    /// Mbit/s by station in closed form.
    fn closed_form(&self) -> Vec<f64> {
        let saturated = |transmitter| Saturated { transmitter, frame_bytes: FRAME };
        let stations: Vec<Saturated> = self.radios().into_iter().map(saturated).collect();
        frames_per_s(&stations).into_iter().map(|frames| self.mbit(frames)).collect()
    }

    /// Mbit/s by station through the emulator.
    fn emulated(&self) -> Vec<f64> {
        let frames = if self.rates.len() <= 2 { self.through_links() } else { self.through_medium() };
        frames.into_iter().map(|frames| self.mbit(frames as f64 / SECONDS as f64)).collect()
    }

    /// Frames over links whose servers always have something to send.
    fn through_links(&self) -> Vec<u64> {
        let mut channel = SharedChannel::new(&self.channel(&self.rates), 1);
        let links = &LinkId::BOTH[..self.rates.len()];
        let (mut come, mut now, mut id) = (vec![0; links.len()], 0, 0);
        while now < SECONDS * 1_000_000_000 {
            for (&link, come) in links.iter().zip(&mut come) {
                while channel.take_due(now, link, Direction::Down).is_some() {
                    *come += 1;
                }
                while channel.tally(now, link, Direction::Down).waiting_packets < 200 {
                    id += 1;
                    channel.arrive(now, (link, Direction::Down), ArrivingPacket::plain(id, FRAME)).unwrap();
                }
            }
            channel.take_lost().for_each(drop);
            now = channel.next_event().unwrap();
            channel.advance(now);
        }
        come
    }

    /// Frames of more stations than there are links.
    fn through_medium(&self) -> Vec<u64> {
        let radios = self.radios();
        let stream = |purpose| Stream::new(1, LinkId::A, Direction::Down, purpose);
        let (backoffs, errors) = (stream(Purpose::Turn), stream(Purpose::Retry));
        let mut medium = Medium::new(radios[0].timing, Fair::Turns, backoffs, errors);
        let (mut come, mut now): (Vec<u64>, Nanos) = (vec![0; radios.len()], 0);
        for (station, radio) in radios.into_iter().enumerate() {
            let device = medium.add_device();
            let queue = medium.add_queue(device, radio);
            (0..200).for_each(|_| medium.push(now, queue, station, FRAME));
        }
        while now < SECONDS * 1_000_000_000 {
            now = medium.next_event().unwrap();
            medium.step(now);
            let outcomes: Vec<_> = medium.take_outcomes().collect();
            for outcome in outcomes {
                come[outcome.item] += u64::from(outcome.delivered);
                medium.push(now, outcome.from, outcome.item, FRAME);
            }
        }
        come
    }

    /// How far found values are off, in percent: the sum, and the station that is off the most.
    fn errors(&self, found: &[f64]) -> (f64, f64) {
        let off = |found: f64, expected: f64| (found / expected - 1.0) * 100.0;
        let each = found.iter().zip(&self.each).map(|(found, expected)| off(*found, *expected));
        let worst = each.fold(0.0, |worst: f64, off| if off.abs() > worst.abs() { off } else { worst });
        (off(found.iter().sum(), self.sum), worst)
    }

    /// The errors that are allowed, in percent: of a sum, and of a station.
    fn bars(&self) -> (f64, f64) {
        if self.rates.len() == 1 { (2.0, 2.0) } else { (5.0, 12.0) }
    }
}

#[test]
fn channel_is_near_other_models_of_802_11() {
    let rows = rows();
    let found: Vec<[Vec<f64>; 2]> = std::thread::scope(|scope| {
        let run = |row| scope.spawn(move || [Row::closed_form(row), Row::emulated(row)]);
        let running: Vec<_> = rows.iter().map(run).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut table = String::from(
        "| case | stations | source | sum, Mbit/s | closed form: sum, station | emulator: sum, station |\n\
         |---|---|---|---|---|---|\n",
    );
    let mut broken = Vec::new();
    for (row, ways) in rows.iter().zip(&found) {
        let errors = ways.each_ref().map(|found| row.errors(found));
        let (sum_bar, station_bar) = row.bars();
        for ((sum, station), way) in errors.iter().zip(["closed form", "emulator"]) {
            if sum.abs() > sum_bar || station.abs() > station_bar {
                broken.push(format!("{}, {way}: sum {sum:+.1} %, station {station:+.1} %", row.id));
            }
        }
        table += &row.line(errors);
    }
    assert!(broken.is_empty(), "{broken:#?}\n{table}");
    hold_in_docs(&table);
    hold_in_program(&rows, &found);
}

impl Row {
    fn line(&self, errors: [(f64, f64); 2]) -> String {
        let stations = match &self.rates[..] {
            [first, rest @ ..] if rest.len() > 2 => format!("{} × {}", rest.len() + 1, self.phy(first)),
            rates => rates.iter().map(|rate| self.phy(rate)).collect::<Vec<_>>().join(", "),
        };
        let limits = match (self.ampdu_bytes, self.txop_us) {
            (0, _) => "",
            (_, 0) => ", A-MPDU",
            _ => ", A-MPDU, TXOP 4096 µs",
        };
        let error = |(sum, station): (f64, f64)| match self.each.len() {
            0 | 1 => format!("{sum:+.1} %"),
            _ => format!("{sum:+.1} %, {station:+.1} %"),
        };
        let [closed, emulated] = errors.map(error);
        let (id, sum, source) = (&self.id, self.sum, &self.source);
        format!("| {id} | {stations}{limits} | {source} | {sum} | {closed} | {emulated} |\n")
    }
}

/// Compares the emulator's errors with those that reports tell, or writes them there.
fn hold_in_program(rows: &[Row], found: &[[Vec<f64>; 2]]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wifi/errors.csv");
    let mut table = String::from("standard,stations,unlike,aggregates,txop,sum_pct,station_pct\n");
    for (row, [_, emulated]) in rows.iter().zip(found) {
        let says = |is| if is { "yes" } else { "no" };
        let unlike = says(row.rates.iter().any(|rate| *rate != row.rates[0]));
        let (aggregates, txop) = (says(row.ampdu_bytes > 0), says(row.txop_us > 0));
        let (sum, station) = row.errors(emulated);
        let station = if row.each.len() > 1 { format!("{station:.1}") } else { String::new() };
        let (standard, stations) = (&row.standard, row.rates.len());
        table += &format!("{standard},{stations},{unlike},{aggregates},{txop},{sum:.1},{station}\n");
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, table).unwrap();
    } else {
        let known = std::fs::read_to_string(&path).unwrap();
        assert_eq!(known, table, "run UPDATE_DOCS=1 cargo test --test loopback channel_truth");
    }
}

/// Compares the table with that of the docs, or writes it there.
fn hold_in_docs(table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/limitations.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- errors of the channel: begin -->\n", "<!-- errors of the channel: end -->");
    let (before, rest) = text.split_once(begin).expect("limitations.md marks where the errors begin");
    let (inside, after) = rest.split_once(end).expect("limitations.md marks where the errors end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{begin}{table}{end}{after}")).unwrap();
    } else {
        assert_eq!(inside, table, "run UPDATE_DOCS=1 cargo test --test loopback channel_truth");
    }
}
