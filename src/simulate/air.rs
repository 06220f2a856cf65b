//! A shared channel as turns: who sends, how much fits, how long it takes. Pure; time is handed in,
//! in seconds.
//!
//! The same stations, lanes and limits as the lab's channel (`crate::link::air`), with what is chance
//! there at its mean: contenders take turns one after another instead of in equal odds, and a share
//! of repeated frames makes all of them cost more instead of some of them twice. A frame that fails
//! seven times is not lost here.

use std::collections::VecDeque;

use crate::link::profile::FRAME;
use crate::link::scenario::{ACK_FRAME, AirLink, Fair, Scenario, Station};
use crate::units::{Direction, LinkId};

/// What a cargo is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A train of an answer.
    Data,
    /// The acknowledgements of a train.
    Ack,
    /// A request.
    Ask,
}

/// Frames of one kind that cross together.
#[derive(Clone, Copy, Debug)]
pub struct Cargo {
    pub link: LinkId,
    pub kind: Kind,
    frames: f64,
    frame_bytes: f64,
    /// Of the crossing under way.
    left: f64,
    crossed: usize,
}

impl Cargo {
    /// `frames` may be a part of one: every second segment is acknowledged.
    pub fn new(link: LinkId, kind: Kind, frames: f64, frame_bytes: f64) -> Cargo {
        Cargo { link, kind, frames, frame_bytes, left: frames, crossed: 0 }
    }

    /// The acknowledgements of so many segments.
    pub fn acks(link: LinkId, segments: f64) -> Cargo {
        Cargo::new(link, Kind::Ack, segments / 2.0, ACK_FRAME as f64)
    }

    fn direction(&self) -> Direction {
        if self.kind == Kind::Data { Direction::Down } else { Direction::Up }
    }
}

#[derive(Clone, Debug)]
struct Lane {
    bytes_per_s: f64,
    /// The share of frames that pass at the first try.
    passing: f64,
    cargo: VecDeque<Cargo>,
    airtime_s: f64,
}

/// A contender's place, and its lane's.
type Place = (usize, usize);

/// The access point's place among the contenders; every other has one lane.
const ACCESS_POINT: usize = 0;

/// One direction of a link on the channel.
#[derive(Clone, Debug)]
struct Way {
    path: Vec<Place>,
    cap_bytes_per_s: f64,
    free_at_s: f64,
    /// Held back by the cap, with the time (s) of release.
    entry: VecDeque<(f64, Cargo)>,
    /// Data frames between entry and the end of the last crossing.
    held_frames: f64,
    limit_frames: f64,
    pub delay_s: f64,
}

/// The channel, its stations, and the links on it.
#[derive(Clone, Debug)]
pub struct Air {
    overhead_s: f64,
    ampdu: f64,
    txop_s: f64,
    fair: Fair,
    contenders: Vec<Vec<Lane>>,
    last_lane: usize,
    last_contender: usize,
    /// Ends at (s), and where, with the frames that it takes across.
    turn: Option<(f64, Place, f64)>,
    /// By link and direction; none for a link that is not on the channel.
    ways: [Option<[Way; 2]>; 2],
}

impl Air {
    pub fn new(scenario: &Scenario) -> Air {
        let channel = &scenario.channel;
        let mut air = Air {
            overhead_s: channel.overhead.0.as_secs_f64(),
            ampdu: f64::from(channel.ampdu),
            txop_s: channel.txop.0.as_secs_f64(),
            fair: channel.fair,
            contenders: vec![Vec::new()],
            last_lane: 0,
            last_contender: 0,
            turn: None,
            ways: [None, None],
        };
        let client = scenario.client.map(|station| air.add(station));
        for link in LinkId::BOTH {
            let Some(on_air) = scenario.link(link) else { continue };
            let server = on_air.server.map(|station| air.add(station));
            let to = |station: Option<Place>| station.map(|(_, lane)| (ACCESS_POINT, lane));
            let from = |station: Option<Place>| station.map(|(contender, _)| (contender, 0));
            let queue_bytes = scenario.shape(link).map_or(FRAME, |shape| shape.queue_bytes());
            let limit_frames = queue_bytes as f64 / FRAME as f64;
            let way = |path: [Option<Place>; 2]| Way::new(on_air, path, limit_frames);
            air.ways[link.index()] = Some([way([from(server), to(client)]), way([from(client), to(server)])]);
        }
        air
    }

    /// Gives a station its own lane, and the access point's lane to it.
    fn add(&mut self, station: Station) -> Place {
        let lane = Lane {
            bytes_per_s: station.phy.bytes_per_s(),
            passing: 1.0 - station.retry.probability(),
            cargo: VecDeque::new(),
            airtime_s: 0.0,
        };
        self.contenders.push(vec![lane.clone()]);
        self.contenders[ACCESS_POINT].push(lane);
        (self.contenders.len() - 1, self.contenders[ACCESS_POINT].len() - 1)
    }

    fn way(&mut self, cargo: &Cargo) -> Option<&mut Way> {
        Some(&mut self.ways[cargo.link.index()].as_mut()?[cargo.direction() as usize])
    }

    /// The delay behind the air (s), each way.
    pub fn delay_s(&self, link: LinkId) -> f64 {
        self.ways[link.index()].as_ref().map_or(0.0, |ways| ways[0].delay_s)
    }

    /// Takes a cargo in. Gives the share of it that found the queue full.
    pub fn offer(&mut self, now_s: f64, mut cargo: Cargo) -> f64 {
        let Some(way) = self.way(&cargo) else { return 0.0 };
        let fits = cargo.frames.min((way.limit_frames - way.held_frames).max(0.0).floor());
        let lost = if cargo.kind == Kind::Data { 1.0 - fits / cargo.frames } else { 0.0 };
        cargo.frames *= 1.0 - lost;
        cargo.left = cargo.frames;
        way.held_frames += if cargo.kind == Kind::Data { cargo.frames } else { 0.0 };
        let ready_s = way.free_at_s.max(now_s);
        way.free_at_s = ready_s + cargo.frames * cargo.frame_bytes / way.cap_bytes_per_s;
        way.entry.push_back((ready_s, cargo));
        self.admit(now_s);
        lost
    }

    /// When something happens next (s).
    pub fn next_s(&self) -> f64 {
        let ways = self.ways.iter().flatten().flatten();
        let entries = ways.filter_map(|way| way.entry.front()).map(|entry| entry.0);
        self.turn.iter().map(|turn| turn.0).chain(entries).fold(f64::INFINITY, f64::min)
    }

    /// Plays what happens up to now, and gives what has crossed all that it has to cross.
    pub fn advance(&mut self, now_s: f64) -> Vec<Cargo> {
        let mut through = Vec::new();
        if let Some((_, place, slots)) = self.turn.take_if(|turn| turn.0 <= now_s) {
            self.end_turn(place, slots, &mut through);
        }
        self.admit(now_s);
        through
    }

    fn admit(&mut self, now_s: f64) {
        for way in self.ways.iter_mut().flatten().flatten() {
            while let Some(&(_, cargo)) = way.entry.front().filter(|entry| entry.0 <= now_s) {
                way.entry.pop_front();
                let (contender, lane) = way.path[0];
                self.contenders[contender][lane].cargo.push_back(cargo);
            }
        }
        if self.turn.is_none() {
            self.start_turn(now_s);
        }
    }

    fn start_turn(&mut self, now_s: f64) {
        let count = self.contenders.len();
        let has_work = |lane: &Lane| !lane.cargo.is_empty();
        let in_turn = (1..=count).map(|step| (self.last_contender + step) % count);
        let Some(contender) = in_turn.into_iter().find(|&c| self.contenders[c].iter().any(has_work)) else {
            return;
        };
        self.last_contender = contender;
        let lanes = &self.contenders[contender];
        let after = if contender == ACCESS_POINT { self.last_lane } else { 0 };
        let mut working =
            (1..=lanes.len()).map(|step| (after + step) % lanes.len()).filter(|&l| has_work(&lanes[l]));
        let lane = match self.fair {
            Fair::Turns => working.next(),
            Fair::Airtime => working.min_by(|&a, &b| lanes[a].airtime_s.total_cmp(&lanes[b].airtime_s)),
        };
        let Some(lane) = lane else { return };
        if contender == ACCESS_POINT {
            self.last_lane = lane;
        }
        let (slots, time_s) = self.aggregate(&self.contenders[contender][lane]);
        self.contenders[contender][lane].airtime_s += time_s;
        self.turn = Some((now_s + time_s, (contender, lane), slots));
    }

    /// How many frames of a lane go in one turn, and how long the turn takes.
    fn aggregate(&self, lane: &Lane) -> (f64, f64) {
        let (mut slots, mut time_s) = (0.0, self.overhead_s);
        for cargo in &lane.cargo {
            let frame_s = cargo.frame_bytes / lane.bytes_per_s;
            let wanted = cargo.left / lane.passing;
            let room = (self.ampdu - slots).min((self.txop_s - time_s) / frame_s);
            let taken = if wanted <= room { wanted } else { room.floor().max(0.0) };
            let taken = if slots == 0.0 { taken.max(wanted.min(1.0)) } else { taken };
            slots += taken;
            time_s += taken * frame_s;
            if taken < wanted {
                break;
            }
        }
        (slots, time_s)
    }

    fn end_turn(&mut self, (contender, lane): Place, slots: f64, through: &mut Vec<Cargo>) {
        let lane = &mut self.contenders[contender][lane];
        let mut passed = slots * lane.passing;
        let mut done = Vec::new();
        while let Some(cargo) = lane.cargo.front_mut() {
            // What rounding leaves over of a cargo is not worth a turn of its own.
            if cargo.left > passed + 1e-6 {
                cargo.left -= passed;
                break;
            }
            passed = (passed - cargo.left).max(0.0);
            done.push(*cargo);
            lane.cargo.pop_front();
        }
        for mut cargo in done {
            cargo.crossed += 1;
            cargo.left = cargo.frames;
            let Some(way) = self.way(&cargo) else { continue };
            match way.path.get(cargo.crossed).copied() {
                Some((contender, lane)) => self.contenders[contender][lane].cargo.push_back(cargo),
                None => {
                    way.held_frames -= if cargo.kind == Kind::Data { cargo.frames } else { 0.0 };
                    through.push(cargo);
                }
            }
        }
    }
}

impl Way {
    fn new(on_air: &AirLink, path: [Option<Place>; 2], limit_frames: f64) -> Way {
        Way {
            path: path.into_iter().flatten().collect(),
            cap_bytes_per_s: on_air.cap.map_or(f64::INFINITY, |cap| cap.bytes_per_s()),
            free_at_s: 0.0,
            entry: VecDeque::new(),
            held_frames: 0.0,
            limit_frames,
            delay_s: on_air.delay.0.as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(text: &str) -> Scenario {
        let head = "description = \"test\"\n[channel]\noverhead = \"170us\"\n";
        Scenario::parse("test", &format!("{head}{text}")).unwrap()
    }

    /// Keeps these links backlogged for ten seconds, and gives the bit/s of frames of each.
    fn saturate(scenario: &Scenario, links: &[LinkId]) -> [f64; 2] {
        let mut air = Air::new(scenario);
        let full = |link| Cargo::new(link, Kind::Data, 1.0, 1514.0);
        for &link in links {
            for _ in 0..50 {
                air.offer(0.0, full(link));
            }
        }
        let mut frames = [0.0; 2];
        while air.next_s() < 10.0 {
            let now_s = air.next_s();
            for cargo in air.advance(now_s) {
                frames[cargo.link.index()] += cargo.frames;
                air.offer(now_s, full(cargo.link));
            }
        }
        frames.map(|count| count * 1514.0 * 8.0 / 10.0)
    }

    #[test]
    fn two_stations_get_what_the_performance_anomaly_says() {
        let two = scenario(
            "[link.a]\nphy = \"54mbit\"\nqueue = \"100p\"\n[link.b]\nphy = \"6mbit\"\nqueue = \"100p\"\n",
        );
        let bits = 1514.0 * 8.0;
        let time = |phy: f64| 170e-6 + bits / phy;
        let both = saturate(&two, &LinkId::BOTH);
        for rate in both {
            let expected = bits / (time(54e6) + time(6e6));
            assert!((rate / expected - 1.0).abs() < 0.01, "{rate} against {expected}");
        }
        let alone = saturate(&two, &[LinkId::A])[0];
        assert!((alone / (bits / time(54e6)) - 1.0).abs() < 0.01, "{alone}");
    }

    #[test]
    fn a_link_between_two_stations_crosses_twice() {
        let text = "[client]\nphy = \"24mbit\"\n[link.b]\nphy = \"6mbit\"\nqueue = \"100p\"\n";
        let bits = 1514.0 * 8.0;
        let expected = bits / (170e-6 + bits / 6e6 + 170e-6 + bits / 24e6);
        let rate = saturate(&scenario(text), &[LinkId::B])[1];
        assert!((rate / expected - 1.0).abs() < 0.01, "{rate} against {expected}");
    }

    #[test]
    fn repeated_frames_and_large_turns_cost_what_the_scenario_says() {
        let text =
            "ampdu = 32\ntxop = \"4ms\"\n[link.a]\nphy = \"65mbit\"\nretry = \"8%\"\nqueue = \"100p\"\n";
        let scenario = scenario(text);
        let expected = scenario.alone(LinkId::A).unwrap().bits_per_s() as f64;
        let rate = saturate(&scenario, &[LinkId::A])[0];
        assert!((rate / expected - 1.0).abs() < 0.02, "{rate} against {expected}");
    }
}
