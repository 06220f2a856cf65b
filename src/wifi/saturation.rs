//! The throughput of stations that always have something to send, in closed form. Pure.
//!
//! Time is cut into slots as by Bianchi ("Performance analysis of the IEEE 802.11 distributed coordination
//! function", IEEE JSAC 18(3), 2000): a slot is idle, or it holds a turn or a collision. Station i sends in
//! a slot with probability τᵢ and then fails with probability pᵢ, both constant; τᵢ follows from pᵢ by the mean of
//! its backoffs, pᵢ from the τ of all others, and both are found by iteration. Three refinements:
//!
//! - DCF counts at the end of an idle slot, so after a turn only its own sender may send at once, with
//!   probability 1/W (Tinnirello, Bianchi, Xiao: "Refinements on IEEE 802.11 distributed coordination
//!   function modeling approaches", IEEE TVT 59(3), 2010). EDCA counts at the beginning of a slot, be it
//!   idle or busy (10.23.2.4), as Bianchi's slots do; beside it DCF loses the busy slots of others.
//! - Stations do not begin to count at the same time: the interframe space differs, after a collision those
//!   wait longer whose frame ended last or who could not read it (EIFS), and a TXOP may be reserved beyond
//!   its end. The slots that station i cannot count are a share λᵢ of all, and its backoffs take
//!   the others: τᵢ = hᵢ (1 − λᵢ), with hᵢ its chance of sending in a slot that it counts.
//! - A frame is dropped after so many failures, and the window is then as at first. A failed A-MPDU takes two
//!   turns more: one that asks for the block ack, with the larger windows, and then, with the least window, one that
//!   repeats it. That some collisions are those of requests, which are short, is left out.
//!
//! A collision costs the longest of its frames, so that stations of unequal rates are told apart (Heusse,
//! Rousseau, Berger-Sabbatel, Duda: "Performance anomaly of 802.11b", INFOCOM 2003).

use super::exchange::{BLOCK_ACK_WINDOW, FullTurn, Transmitter};

/// A station whose queue never runs empty.
#[derive(Clone, Copy, Debug)]
pub struct Saturated {
    pub transmitter: Transmitter,
    /// Its frames, Ethernet header included.
    pub frame_bytes: u32,
}

/// Iterations at most; some tens are enough to settle.
const ROUNDS: usize = 500;

/// A station as the fixed point sees it, in seconds.
struct State {
    turn: FullTurn,
    /// The turn that asks for a block ack.
    request: FullTurn,
    exposed_s: f64,
    reserved_s: f64,
    space_s: f64,
    timeout_s: f64,
    after_error_s: f64,
    slot_s: f64,
    /// Whether it contends by EDCA.
    qos: bool,
    /// W: the values of a first backoff.
    window: f64,
    /// The share of its MPDUs that arrive damaged.
    retry: f64,
    /// The chance that a turn without a collision gets no reply.
    unanswered: f64,
    /// The chance to send again at once after a turn.
    at_once: f64,
    /// h: the chance to send in a slot that it counts.
    hazard: f64,
    /// The share of its turns that begin with a request.
    asks: f64,
    /// λ: the share of slots that it cannot count.
    lost: f64,
}

impl State {
    fn new(station: &Saturated, least_aifsn: u32, edca: bool) -> State {
        let Saturated { transmitter, frame_bytes } = station;
        let retry = transmitter.retry.probability();
        let mut in_window = *transmitter;
        in_window.limits.frames = transmitter.limits.frames.min(frames_in_window(retry));
        let turn = in_window.full_turn(*frame_bytes);
        let (access, timing) = (&transmitter.access, &transmitter.timing);
        let unanswered = retry.powi(turn.first_frames as i32);
        let window = f64::from(access.cw_min) + 1.0;
        State {
            request: in_window.request_turn(*frame_bytes),
            asks: 0.0,
            exposed_s: turn.exposed as f64 / 1e9,
            reserved_s: turn.reserved as f64 / 1e9,
            space_s: access.interframe_space(timing) as f64 / 1e9,
            timeout_s: timing.reply_timeout() as f64 / 1e9,
            after_error_s: timing.after_error as f64 / 1e9,
            slot_s: timing.slot as f64 / 1e9,
            qos: access.qos,
            window,
            turn,
            retry,
            unanswered,
            // A station that waits longer than others has no slot to itself, nor has one beside EDCA.
            at_once: if !edca && access.aifsn == least_aifsn { (1.0 - unanswered) / window } else { 0.0 },
            hazard: 2.0 / (window + 1.0),
            lost: 0.0,
        }
    }

    /// τ: the chance to send in a slot.
    fn sends(&self) -> f64 {
        self.hazard * (1.0 - self.lost)
    }

    /// The chance that this station sends in a slot that another one counts. A station that counts fewer
    /// slots counts none that the other does not.
    fn meets(&self, other: &State) -> f64 {
        self.hazard * ((1.0 - self.lost) / (1.0 - other.lost)).min(1.0)
    }

    /// The frames of a turn, and its time (s).
    fn frames_and_time(&self) -> (f64, f64) {
        let mean = |full: f64, request: f64| full * (1.0 - self.asks) + request * self.asks;
        let frames = mean(f64::from(self.turn.frames), f64::from(self.request.frames));
        (frames, mean(self.turn.time as f64, self.request.time as f64) / 1e9)
    }

    /// The hazard that follows from the chance of a failure: transmissions until one succeeds or the limit is
    /// reached, over these and the slots of their backoffs. After a failed aggregate they are requests.
    fn hazard_at(&self, station: &Saturated, failure: f64) -> f64 {
        let access = &station.transmitter.access;
        let slots = |failures: u32| {
            // Of a first backoff the value 0 is the turn at once.
            let at_once = f64::from(u8::from(failures == 0 && self.at_once > 0.0));
            (f64::from(access.window(failures)) - at_once) / 2.0
        };
        let (mut sent, mut backoff, mut reached) = (0.0, 0.0, 1.0);
        for failures in 0..station.transmitter.limits.transmissions {
            backoff += reached * slots(failures);
            sent += reached;
            reached *= failure;
        }
        sent / (sent + backoff)
    }
}

/// The frames that a turn carries on average where nothing but the block-ack window limits it.
///
/// The window moves on by A frames a turn, up to the first that is missing. A frame i places behind its start has
/// been sent ⌈(64 − i) / A⌉ times, so A = Σⱼ Πᵢ≤ⱼ (1 − r^⌈(64 − i) / A⌉); and each frame is sent 1 / (1 − r) times.
fn frames_in_window(retry: f64) -> u32 {
    let window = f64::from(BLOCK_ACK_WINDOW);
    let mut moves = window;
    for _ in 0..50 {
        let (mut in_order, mut next) = (1.0, 0.0);
        for place in 0..BLOCK_ACK_WINDOW {
            let times = ((window - f64::from(place)) / moves).ceil();
            in_order *= 1.0 - retry.powi(times as i32);
            next += in_order;
        }
        moves = (moves + next) / 2.0;
    }
    ((moves / (1.0 - retry)).floor() as u32).clamp(1, BLOCK_ACK_WINDOW)
}

/// A sender in a busy slot: how long it waits after it before its interframe space (s), and its chance to send in the
/// slot that it counts then, of the window that it has just drawn from.
struct SlotSender {
    of: usize,
    wait_s: f64,
    hazard: f64,
}

/// When stations begin to count after the channel was busy (s), and how many of them send in a slot.
struct Start {
    after_s: f64,
    hazard: f64,
}

/// Returns the slots that go by, on average, before `after_s`, while those who began earlier count: with EDCA the
/// one in which somebody sends is among them.
fn slots_before(starts: &[Start], after_s: f64, slot_s: f64, edca: bool) -> f64 {
    let first = starts.iter().map(|start| start.after_s).fold(after_s, f64::min);
    let (mut at, mut idle, mut slots) = (first, 1.0, 0.0);
    while after_s - at > 1e-9 && idle > 1e-6 {
        let step = (after_s - at).min(slot_s);
        let counting = starts.iter().filter(|start| start.after_s <= at + 1e-9);
        let quiet = counting.map(|start| 1.0 - start.hazard).product::<f64>();
        slots += if edca { idle } else { idle * quiet } * step / slot_s;
        idle *= quiet;
        at += step;
    }
    slots
}

/// The results of one round of the fixed point.
struct Found {
    /// Mean length of a slot (s).
    slot_s: f64,
    /// Turns a slot, by station.
    turns: Vec<f64>,
    failure: Vec<f64>,
    lost: Vec<f64>,
}

/// The frames per second that each station brings, in the order given. All are on one channel.
pub fn frames_per_s(stations: &[Saturated]) -> Vec<f64> {
    let least_aifsn = stations.iter().map(|s| s.transmitter.access.aifsn).min().unwrap_or(0);
    let edca = stations.iter().any(|station| station.transmitter.access.qos);
    let mut states: Vec<State> =
        stations.iter().map(|station| State::new(station, least_aifsn, edca)).collect();
    for _ in 0..ROUNDS {
        let found = round(&states);
        let mut moved: f64 = 0.0;
        for (index, station) in stations.iter().enumerate() {
            let hazard = states[index].hazard_at(station, found.failure[index]);
            let (by_hazard, by_lost) =
                (hazard - states[index].hazard, found.lost[index] - states[index].lost);
            moved = moved.max(by_hazard.abs()).max(by_lost.abs());
            states[index].hazard += by_hazard / 2.0;
            states[index].lost += by_lost / 2.0;
            states[index].asks = if states[index].turn.asked_for { found.failure[index] } else { 0.0 };
        }
        if moved < 1e-10 {
            break;
        }
    }
    let found = round(&states);
    let share = |(state, turns): (&State, &f64)| {
        let frames = state.frames_and_time().0 * (1.0 - state.retry);
        turns * frames / (1.0 - state.at_once) / found.slot_s
    };
    states.iter().zip(&found.turns).map(share).collect()
}

/// Takes the hazards and lost slots as they are, and finds what follows from them.
fn round(states: &[State]) -> Found {
    let count = states.len();
    let meets = |other: usize, of: usize| states[other].meets(&states[of]);
    let quiet = |of: usize, others: &mut dyn Iterator<Item = usize>| -> f64 {
        others.filter(|&other| other != of).map(|other| 1.0 - meets(other, of)).product()
    };
    let alone: Vec<f64> = (0..count).map(|of| quiet(of, &mut (0..count))).collect();
    let turns: Vec<f64> = (0..count).map(|of| states[of].sends() * alone[of]).collect();
    let failure: Vec<f64> = (0..count).map(|of| 1.0 - alone[of] * (1.0 - states[of].unanswered)).collect();
    let mut slots = Slots::new(states);
    for (of, chance) in turns.iter().enumerate() {
        slots.add_turn(of, *chance);
    }
    let mut by_length: Vec<usize> = (0..count).collect();
    by_length.sort_by(|&a, &b| states[b].exposed_s.total_cmp(&states[a].exposed_s));
    for (place, &longest) in by_length.iter().enumerate() {
        let (longer, shorter) = (&by_length[..place], &by_length[place + 1..]);
        let none_longer = quiet(longest, &mut longer.iter().copied());
        let none_shorter = quiet(longest, &mut shorter.iter().copied());
        let chance = states[longest].sends() * none_longer * (1.0 - none_shorter);
        // The others in it: where there are several, each counts by its share.
        let all: f64 = shorter.iter().map(|&other| meets(other, longest)).sum();
        for &other in shorter {
            slots.add_collision(longest, other, chance * meets(other, longest) / all);
        }
    }
    let collides: Vec<f64> = (0..count).map(|of| states[of].sends() * (1.0 - alone[of])).collect();
    let (busy, busy_s, lost) = (slots.busy, slots.busy_s, slots.lost(&collides));
    Found { slot_s: busy_s + (1.0 - busy) * states[0].slot_s, turns, failure, lost }
}

/// Adds up what busy slots cost: time, and slots that stations cannot count after them.
struct Slots<'a> {
    states: &'a [State],
    /// Whether a station contends by EDCA.
    edca: bool,
    /// Stations by their interframe space: the space (s) and the chance that none of them sends in a slot.
    classes: Vec<(f64, f64)>,
    /// The chance that a slot is busy, and the time that busy slots add to the mean.
    busy: f64,
    busy_s: f64,
    /// Lost slots by class, and what single stations lose beyond their class after turns.
    class_lost: Vec<f64>,
    own_lost: Vec<f64>,
    /// The same after collisions, and the chance of the collisions that were looked at.
    collided: Vec<(f64, f64)>,
}

impl<'a> Slots<'a> {
    fn new(states: &'a [State]) -> Slots<'a> {
        let mut classes: Vec<(f64, f64)> = Vec::new();
        for state in states {
            match classes.iter_mut().find(|class| class.0 == state.space_s) {
                Some(class) => class.1 *= 1.0 - state.hazard,
                None => classes.push((state.space_s, 1.0 - state.hazard)),
            }
        }
        let class_lost = vec![0.0; classes.len()];
        let (own_lost, collided) = (vec![0.0; states.len()], vec![(0.0, 0.0); states.len()]);
        Slots {
            states,
            edca: states.iter().any(|s| s.qos),
            classes,
            busy: 0.0,
            busy_s: 0.0,
            class_lost,
            own_lost,
            collided,
        }
    }

    /// Returns the lost slots by station, whose chances of a collision are given: of three that collide only two
    /// have been looked at.
    fn lost(&self, collides: &[f64]) -> Vec<f64> {
        let of = |(index, state): (usize, &State)| {
            let (lost, looked_at) = self.collided[index];
            let mean = if looked_at > 0.0 { lost / looked_at } else { 0.0 };
            self.class_lost[self.class_of(state)] + self.own_lost[index] + collides[index] * mean
        };
        self.states.iter().enumerate().map(of).collect()
    }

    fn class_of(&self, state: &State) -> usize {
        self.classes.iter().position(|class| class.0 == state.space_s).expect("each station has a class")
    }

    /// Adds a turn, with the turns at once after it and the slot in which only its sender may go on. The sender
    /// counts from its end; all others from when what it has reserved is over.
    fn add_turn(&mut self, of: usize, chance: f64) {
        let state = &self.states[of];
        let again = state.at_once / (1.0 - state.at_once);
        let turn_s = state.frames_and_time().1;
        let answered = turn_s + again * (turn_s + state.space_s);
        let unanswered = state.exposed_s + state.timeout_s;
        let time_s = answered * (1.0 - state.unanswered) + unanswered * state.unanswered;
        let others_s = (state.after_error_s - state.timeout_s) * state.unanswered;
        let next_s = if self.edca { 0.0 } else { state.slot_s };
        let sender = SlotSender { of, wait_s: 0.0, hazard: 1.0 / state.window };
        self.add(chance, time_s + next_s, &[sender], state.reserved_s + others_s);
    }

    /// Adds a collision of two. The sender of the longer frame waits for its reply in vain, that of the shorter
    /// one has done so by then, all others could not read what they heard.
    fn add_collision(&mut self, longest: usize, other: usize, chance: f64) {
        let (long, short) = (&self.states[longest], &self.states[other]);
        let short_wait_s = (short.timeout_s - (long.exposed_s - short.exposed_s)).max(0.0);
        let senders = [
            // Both draw from a window that is twice as large.
            SlotSender { of: longest, wait_s: long.timeout_s, hazard: 0.5 / long.window },
            SlotSender { of: other, wait_s: short_wait_s, hazard: 0.5 / short.window },
        ];
        self.add(chance, long.exposed_s, &senders, long.after_error_s);
    }

    /// Adds a busy slot of `time_s`, after which its senders wait as they say, and all others `others_s`.
    fn add(&mut self, chance: f64, time_s: f64, senders: &[SlotSender], others_s: f64) {
        let slot_s = self.states[0].slot_s;
        let start = |sender: &SlotSender| Start {
            after_s: sender.wait_s + self.states[sender.of].space_s,
            hazard: sender.hazard,
        };
        let mut starts: Vec<Start> = senders.iter().map(start).collect();
        for (class, &(space_s, quiet)) in self.classes.iter().enumerate() {
            let own = senders.iter().filter(|sender| self.class_of(&self.states[sender.of]) == class);
            let others = own.fold(quiet, |quiet, sender| quiet / (1.0 - self.states[sender.of].hazard));
            starts.push(Start { after_s: others_s + space_s, hazard: 1.0 - others });
        }
        // A class of which all are senders has nobody who could begin.
        let begins = starts.iter().filter(|start| start.hazard > 1e-9).map(|start| start.after_s);
        self.busy += chance;
        self.busy_s += chance * (time_s + begins.fold(f64::INFINITY, f64::min));
        let lost: Vec<f64> =
            starts.iter().map(|s| slots_before(&starts, s.after_s, slot_s, self.edca)).collect();
        // Beside EDCA a station of DCF counts no slot that is busy with others.
        for (of, state) in self.states.iter().enumerate() {
            if self.edca && !state.qos && senders.iter().all(|sender| sender.of != of) {
                self.own_lost[of] += chance;
            }
        }
        let (of_senders, of_classes) = lost.split_at(senders.len());
        for (class, lost) in of_classes.iter().enumerate() {
            self.class_lost[class] += chance * lost;
        }
        for (sender, lost) in senders.iter().zip(of_senders) {
            let more = chance * (lost - of_classes[self.class_of(&self.states[sender.of])]);
            if senders.len() > 1 {
                self.collided[sender.of].0 += more;
                self.collided[sender.of].1 += chance;
            } else {
                self.own_lost[sender.of] += more;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Percent;
    use crate::wifi::access::AccessCategory;
    use crate::wifi::exchange::TurnLimits;
    use crate::wifi::phy::Phy;

    const LIMITS: TurnLimits =
        TurnLimits { frames: 64, bytes: None, txop: None, rts_cts: false, transmissions: 7 };

    fn station(name: &str, category: Option<AccessCategory>, limits: TurnLimits, retry: f64) -> Saturated {
        let phy = Phy::all().find(|phy| phy.to_string() == name).unwrap();
        let transmitter = Transmitter::new(phy, category, limits, Percent::new(retry));
        Saturated { transmitter, frame_bytes: 1514 }
    }

    fn close(got: f64, expected: f64, share: f64) {
        assert!((got / expected - 1.0).abs() < share, "{got} instead of {expected}");
    }

    #[test]
    fn one_station_takes_its_turn_and_half_a_window() {
        let found = frames_per_s(&[station("802.11a/54", None, LIMITS, 0.0)]);
        // 248 µs, SIFS 16, ACK 28, DIFS 34, and 7.5 slots of 9 µs.
        close(found[0], 1.0 / (248e-6 + 16e-6 + 28e-6 + 34e-6 + 67.5e-6), 1e-6);
    }

    #[test]
    fn equal_stations_get_equal_shares_and_less_the_more_they_are() {
        let sum = |count: usize| {
            let found = frames_per_s(&vec![station("802.11a/54", None, LIMITS, 0.0); count]);
            found.iter().for_each(|one| close(*one, found[0], 0.001));
            found.iter().sum::<f64>()
        };
        assert!(sum(2) > sum(1), "two stations leave fewer idle slots than one");
        assert!(sum(20) < sum(10) && sum(10) < sum(5), "collisions cost more and more");
    }

    #[test]
    fn a_slow_station_drags_a_fast_one_down() {
        let stations = [station("802.11a/54", None, LIMITS, 0.0), station("802.11a/6", None, LIMITS, 0.0)];
        let found = frames_per_s(&stations);
        close(found[0], found[1], 0.1);
        let alone = frames_per_s(&stations[..1])[0];
        assert!(found[0] < alone / 6.0, "{} of {alone}", found[0]);
    }

    #[test]
    fn rts_costs_time_alone_and_saves_it_where_many_collide() {
        let rts = TurnLimits { rts_cts: true, ..LIMITS };
        let sum = |limits, count: usize| {
            frames_per_s(&vec![station("802.11a/6", None, limits, 0.0); count]).iter().sum::<f64>()
        };
        assert!(sum(rts, 1) < sum(LIMITS, 1));
        assert!(sum(rts, 50) > sum(LIMITS, 50));
    }

    #[test]
    fn retries_cost_their_share_and_longer_backoffs() {
        let single = TurnLimits { frames: 1, ..LIMITS };
        let of = |retry| frames_per_s(&[station("802.11n/20MHz/MCS7", None, single, retry)])[0];
        assert!(of(20.0) < 0.8 * of(0.0) && of(20.0) > 0.7 * of(0.0), "{} of {}", of(20.0), of(0.0));
        // Of an aggregate the block ack comes as long as one frame does, so the windows stay.
        let of = |retry| frames_per_s(&[station("802.11n/20MHz/MCS7", None, LIMITS, retry)])[0];
        close(of(20.0), 0.8 * of(0.0), 1e-6);
    }

    #[test]
    fn a_smaller_window_wins_more_turns() {
        let voice = station("802.11n/20MHz/MCS7", Some(AccessCategory::Voice), LIMITS, 0.0);
        let background = station("802.11n/20MHz/MCS7", Some(AccessCategory::Background), LIMITS, 0.0);
        let found = frames_per_s(&[voice, background]);
        assert!(found[0] > 10.0 * found[1], "{found:?}");
    }
}
