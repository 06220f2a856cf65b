//! Whether the two links of a run get in each other's way, as two stations of one shared channel do.
//!
//! **Theory.** A station sends at its own rate while it has the channel: link i alone carries Rᵢ, and both at
//! work rₐ and r_b. While a station has something to send the channel is never idle, so rₐ/Rₐ + r_b/R_b = 1 (the
//! shares of airtime), and n bytes of which x come on b take (n − x)/Rₐ + x/R_b: linear in x, least at an end. A
//! slow station takes as many turns as a fast one, so that it costs the fast one most of its rate (Heusse, Rousseau,
//! Berger-Sabbatel and Duda, "Performance anomaly of 802.11b", INFOCOM 2003). Of independent links rᵢ = Rᵢ.
//!
//! **Rule.** The link that brings less *pauses*: it is asked for nothing until all that it owes has come, and for
//! 60 ms more. Where the other gains half of its rate or more meanwhile, it *yields*: it stays away, and goes on
//! doing so where the other alone brings what both did. Both rates are taken while both links are busy and neither
//! is in slow start, over 120 ms or two round trips and until the pause.
//! - *No pause* where the other link brings what it is shaped to, or is shaped to no more than both bring.
//! - *Cost*: a pause costs independent links the held one's rate over both rates of the time. All pauses together
//!   may cost 0.7 % of the run; the next one comes after 1 s, 2 s, 4 s and so on.
//! - *Chance*: the standard error of the other link's rate is deducted from what it gains. One that is held for
//!   nothing works again as soon as the other brings less than both did.
//! - *Looking again*: a link that yields brings one small part after a fifth of the run that is left, and then after
//!   twice that. Where that costs the other nothing, the other had become faster by itself.
//! - *Small parts*: before the first pause a near link that is shaped is asked for little at a time, and for no more than the
//!   beginning of a file of unknown size, so that it soon owes nothing.
//!
//! **Source.** Rubenstein, Kurose and Towsley, "Detecting shared congestion of flows via end-to-end measurement",
//! IEEE/ACM Trans. Networking 2002, correlate losses and delays of two flows; a pause asks the same of the one figure
//! that a client both changes and sees. The thresholds are this project's judgement.
//!
//! **Worst case.** A run so short that a pause would cost too much: its links stay coupled. A link that becomes faster
//! by itself just as the other pauses: that one stays away until it is looked at.

use std::collections::VecDeque;
use std::time::Duration;

use crate::units::{LinkId, PerLink};

/// The relation of two links, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Coupling {
    #[default]
    Unknown,
    Independent,
    /// One channel: the other link alone brings `gain` times what both do.
    Coupled {
        gain: f64,
    },
}

/// A link at one moment, as the estimator has to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkActivity {
    /// Something was asked for that has not come.
    pub busy: bool,
    /// It has a connection and brings what is due.
    pub up: bool,
    pub rtt: Duration,
    /// The most payload that it can bring, bytes/s; infinite where it is not known.
    pub most: f64,
}

/// How often the bytes that came are noted, and how many notes are kept.
const MARK_EVERY: Duration = Duration::from_millis(5);
const MARKS: usize = 512;
/// The time over which the rates with both links at work are taken, at least.
const BASE: Duration = Duration::from_millis(120);
/// The slices of it by which chance is told.
const SLICE: Duration = Duration::from_millis(20);
/// The length of a pause, and how much of its beginning does not count.
const PAUSE: Duration = Duration::from_millis(60);
const SETTLE: Duration = Duration::from_millis(5);
/// A pause that has decided nothing lasts this many times as long.
const LONGEST_PAUSE: u32 = 3;
/// A link that brings this share of what it can carry is not held up by the other.
const ITS_OWN: f64 = 0.9;
/// The share of a run that pauses may cost.
const MOST_COST: f64 = 0.007;
/// A rate has levelled off where its two halves differ by no more than this share.
const LEVEL: f64 = 0.15;
/// The same of the link that pauses, which may still be in slow start.
const ABOUT_LEVEL: f64 = 0.35;
/// A link yields on trial where the other one gains this share of its rate, as one channel would have it.
const YIELD_ON_TRIAL: f64 = 0.5;
/// Where the other one gains at least this share, it may be the one that had better yield.
const MUTUAL: f64 = 0.15;
/// The rate of a link still rises where its second half is more than the mean by this share.
const RISING: f64 = 0.01;
/// A link goes on yielding where the other alone brings as much as both did, but for this share.
const LITTLE: f64 = 0.03;
/// The first repetition of a pause that found nothing.
const AGAIN: Duration = Duration::from_secs(1);
/// How long it may bring less before that ends, once it has brought as much: a sender with BBR hardly sends for
/// 200 ms now and then, to learn the round trip.
const PATIENCE: Duration = Duration::from_millis(500);
/// A part of a link that yields still costs the other one something where that loses this share of what it had gained.
const DIP: f64 = 0.25;
/// A link that yields is looked at again after this share of what is left of a run, and then after twice that.
const LOOK_AFTER: f64 = 0.2;
/// It is asked for so much then (s, bytes).
const LOOK: Duration = Duration::from_millis(80);
const LEAST_LOOK_BYTES: f64 = 8e3;
/// The first pause is expected before this time.
const NEW: Duration = Duration::from_millis(500);
/// The most that a link is asked for at once (s) while it may have to pause.
const BRIEF_PART_S: f64 = 0.05;
const LEAST_BRIEF_BYTES: f64 = 16e3;
/// The same before its rate is known, and while the size of its file is not.
pub(super) const FIRST_PART_BYTES: u64 = 64 * 1024;

/// The rates (bytes/s) with both links at work, and the standard error of the faster one's.
#[derive(Clone, Copy, Debug)]
struct Base {
    rates: PerLink<f64>,
    error: f64,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Both links work; since when both have been busy.
    Watch { both_since: Option<Duration> },
    /// A link is asked for nothing, and owes something still.
    Drain { held: LinkId, since: Duration },
    /// Nothing comes on a link since then.
    Pause { held: LinkId, from: Duration, base: Base },
    /// It stays away.
    Yield(Yield),
}

/// A link that leaves the rest to the other.
#[derive(Clone, Copy, Debug)]
struct Yield {
    held: LinkId,
    from: Duration,
    base: Base,
    /// The rate of the other one lately (bytes/s).
    alone: f64,
    /// When it is to be seen whether the links are still coupled; `None` on trial.
    look_at: Option<Duration>,
    /// Since when that is done, and whether something was asked for.
    asked: Option<Duration>,
    came: bool,
    /// Since when the other one has brought too little.
    low_since: Option<Duration>,
}

/// Finds out in the course of a run whether its links are coupled. Pure: it is told the time.
#[derive(Clone, Debug)]
pub(crate) struct CouplingEstimator {
    came: PerLink<u64>,
    marks: VecDeque<(Duration, PerLink<u64>)>,
    phase: Phase,
    verdict: Coupling,
    next_pause: Duration,
    again: Duration,
    /// Pauses have cost so much so far (s).
    spent_s: f64,
    /// The link that pauses next, where it is not the slower one.
    hold_next: Option<LinkId>,
}

impl Default for CouplingEstimator {
    fn default() -> CouplingEstimator {
        CouplingEstimator {
            came: PerLink::of(|_| 0),
            marks: VecDeque::new(),
            phase: Phase::Watch { both_since: None },
            verdict: Coupling::Unknown,
            next_pause: Duration::ZERO,
            again: AGAIN,
            spent_s: 0.0,
            hold_next: None,
        }
    }
}

impl CouplingEstimator {
    /// `bytes` of payload came on `link`.
    pub(crate) fn received(&mut self, link: LinkId, now: Duration, bytes: u64) {
        if self.marks.back().is_none_or(|&(at, _)| now >= at + MARK_EVERY) {
            self.marks.push_back((now, self.came));
            if self.marks.len() > MARKS {
                self.marks.pop_front();
            }
        }
        self.came[link] += bytes;
    }

    /// Returns what is known so far.
    pub(crate) fn verdict(&self) -> Coupling {
        self.verdict
    }

    /// Returns true if `link` is to be asked for nothing.
    pub(crate) fn holds(&self, link: LinkId) -> bool {
        match self.phase {
            Phase::Watch { .. } => false,
            Phase::Drain { held, .. } | Phase::Pause { held, .. } => held == link,
            Phase::Yield(stay) => stay.held == link && (stay.asked.is_none() || stay.came),
        }
    }

    /// Returns the most bytes that a link of this rate (bytes/s) is to be asked for at once while it may have to pause.
    pub(crate) fn most_at_once(&self, link: LinkId, rate: f64, now: Duration) -> Option<u64> {
        match self.phase {
            Phase::Yield(Yield { held, base, .. }) if held == link => {
                Some((base.rates[link] * LOOK.as_secs_f64()).max(LEAST_LOOK_BYTES) as u64)
            }
            _ if self.is_new(now) => Some((rate * BRIEF_PART_S).max(LEAST_BRIEF_BYTES) as u64),
            _ => None,
        }
    }

    /// Returns true while the first pause is near.
    pub(crate) fn is_new(&self, now: Duration) -> bool {
        self.verdict == Coupling::Unknown && now < NEW
    }

    /// Returns true if `link` leaves the rest of the run to the other, as far as is known.
    pub(crate) fn yields(&self, link: LinkId) -> bool {
        matches!(self.phase, Phase::Yield(stay) if stay.held == link && stay.asked.is_none())
    }

    /// Takes the next step. `rest` bytes are still to come.
    pub(crate) fn update(&mut self, now: Duration, links: &PerLink<LinkActivity>, rest: u64) {
        if !(links.a.up && links.b.up) {
            self.phase = Phase::Watch { both_since: None };
            return;
        }
        match self.phase {
            Phase::Watch { both_since } => self.watch(now, links, rest, both_since),
            Phase::Drain { held, since } => self.drain(now, links, held, since),
            Phase::Pause { held, from, base } => self.pause(now, links, held, from, base),
            Phase::Yield(stay) => self.stay_away(now, links, rest, stay),
        }
    }

    fn watch(
        &mut self,
        now: Duration,
        links: &PerLink<LinkActivity>,
        rest: u64,
        both_since: Option<Duration>,
    ) {
        let busy = links.a.busy && links.b.busy;
        let since = busy.then(|| both_since.unwrap_or(now));
        self.phase = Phase::Watch { both_since: since };
        let span = base_span(links);
        let Some(from) = now.checked_sub(span).filter(|&from| since.is_some_and(|since| since <= from))
        else {
            return;
        };
        if now < self.next_pause {
            return;
        }
        let base = self.base(from, now);
        let slower = if base.rates.a < base.rates.b { LinkId::A } else { LinkId::B };
        let held = self.hold_next.unwrap_or(slower);
        let (mine, theirs) = (base.rates[held], base.rates[held.other()]);
        let both = mine + theirs;
        if mine <= 0.0
            || !self.is_level(held.other(), LEVEL, from, now)
            || !self.is_level(held, ABOUT_LEVEL, from, now)
        {
            return;
        }
        // A link that carries all that it can is not held up; one that cannot carry more than both do is of no use alone.
        if theirs >= ITS_OWN * links[held.other()].most {
            self.verdict = Coupling::Independent;
            self.next_pause = Duration::MAX;
            return;
        }
        if links[held.other()].most <= both {
            self.verdict = Coupling::Independent;
            self.next_pause = now + AGAIN;
            return;
        }
        let run_s = now.as_secs_f64() + rest as f64 / both;
        let cost_s = pause_cost_s(links, &base, held, PAUSE);
        if self.spent_s + cost_s <= MOST_COST * run_s {
            self.phase = Phase::Drain { held, since: now };
        }
    }

    fn drain(&mut self, now: Duration, links: &PerLink<LinkActivity>, held: LinkId, since: Duration) {
        if !links[held.other()].busy {
            self.phase = Phase::Watch { both_since: None };
        } else if !links[held].busy {
            let from = now.saturating_sub(base_span(links).max(now.saturating_sub(since)));
            self.phase = Phase::Pause { held, from: now, base: self.base(from, now) };
        }
    }

    fn pause(
        &mut self,
        now: Duration,
        links: &PerLink<LinkActivity>,
        held: LinkId,
        from: Duration,
        base: Base,
    ) {
        let length = now.saturating_sub(from);
        if length < PAUSE {
            return;
        }
        let (mine, theirs) = (base.rates[held], base.rates[held.other()]);
        let alone = self.rate(held.other(), from + SETTLE, now).min(links[held.other()].most);
        // Of what chance may have done, a standard error is deducted; what is gained by chance does not last.
        let gained = alone - base.error - theirs;
        if gained >= YIELD_ON_TRIAL * mine {
            let stay =
                Yield { held, from, base, alone, look_at: None, asked: None, came: false, low_since: None };
            self.phase = Phase::Yield(stay);
            return;
        }
        if gained > 0.0 && length < PAUSE * LONGEST_PAUSE {
            return;
        }
        self.spent_s += pause_cost_s(links, &base, held, length);
        // The one that is left took some of what the other had: that one may be the better of the two.
        let mutual = gained >= MUTUAL * mine && self.hold_next.is_none();
        self.leave_off(now);
        self.hold_next = mutual.then_some(held.other());
        if mutual {
            self.next_pause = now;
        } else {
            self.verdict = Coupling::Independent;
        }
    }

    fn stay_away(&mut self, now: Duration, links: &PerLink<LinkActivity>, rest: u64, mut stay: Yield) {
        let Yield { held, from, base, .. } = stay;
        let (mine, both) = (base.rates[held], base.rates.a + base.rates.b);
        let lately = 2 * base_span(links);
        if let Some(asked) = stay.asked {
            // One part of its has come back to see whether it still costs the other anything.
            if !links[held].busy && now >= asked + LOOK {
                let alone = stay.alone;
                let beside = self.rate(held.other(), asked + links[held].rtt, now);
                if beside > alone - DIP * (alone - base.rates[held.other()]) {
                    (self.verdict, self.again) = (Coupling::Unknown, AGAIN);
                    self.phase = Phase::Watch { both_since: None };
                    return;
                }
                self.again *= 2;
                (stay.asked, stay.from, stay.look_at) = (None, now, Some(now + self.again));
            } else if links[held].busy {
                stay.came = true;
            }
            self.phase = Phase::Yield(stay);
            return;
        }
        if now < from + lately {
            return;
        }
        let alone = self.rate(held.other(), now - lately, now);
        if alone < both - (LITTLE * both + base.error).min(YIELD_ON_TRIAL * mine) {
            // A sender that had half of a channel may need a while for the whole of it.
            let rises = self.rate(held.other(), now - lately / 2, now) > (1.0 + RISING) * alone;
            let since = *stay.low_since.get_or_insert(now);
            self.phase = Phase::Yield(stay);
            let patience = if stay.look_at.is_some() { PATIENCE } else { Duration::ZERO };
            if !(rises && now < from + 3 * lately) && now >= since + patience {
                self.spent_s += pause_cost_s(links, &base, held, now - from);
                self.verdict = Coupling::Independent;
                self.leave_off(now);
            }
            return;
        }
        self.verdict = Coupling::Coupled { gain: alone / both };
        stay.low_since = None;
        stay.alone = alone;
        match stay.look_at {
            None => {
                self.again = Duration::from_secs_f64((LOOK_AFTER * rest as f64 / alone).max(1.0));
                stay.look_at = Some(now + self.again);
            }
            Some(at) if now >= at => (stay.asked, stay.came) = (Some(now), false),
            Some(_) => {}
        }
        self.phase = Phase::Yield(stay);
    }

    /// Both links work again, for twice as long as the last time.
    fn leave_off(&mut self, now: Duration) {
        self.phase = Phase::Watch { both_since: None };
        self.hold_next = None;
        self.next_pause = now + self.again;
        self.again *= 2;
    }

    /// Returns what came on a link from one time to another, bytes/s.
    fn rate(&self, link: LinkId, from: Duration, to: Duration) -> f64 {
        let span_s = to.saturating_sub(from).as_secs_f64();
        if span_s <= 0.0 { 0.0 } else { (self.came_by(link, to) - self.came_by(link, from)) / span_s }
    }

    /// Returns the bytes that had come on a link by a time, interpolated between two notes.
    fn came_by(&self, link: LinkId, at: Duration) -> f64 {
        let after = self.marks.partition_point(|(noted, _)| *noted <= at);
        let Some((first_at, first)) = after.checked_sub(1).map(|before| self.marks[before]) else {
            return self.marks.front().map_or(0.0, |(_, came)| came[link] as f64);
        };
        let Some((next_at, next)) = self.marks.get(after) else { return self.came[link] as f64 };
        let share = (at - first_at).as_secs_f64() / (*next_at - first_at).as_secs_f64();
        first[link] as f64 + share * (next[link] - first[link]) as f64
    }

    fn base(&self, from: Duration, to: Duration) -> Base {
        let rates = PerLink::of(|link| self.rate(link, from, to));
        let faster = if rates.a < rates.b { LinkId::B } else { LinkId::A };
        let slices = ((to - from).as_secs_f64() / SLICE.as_secs_f64()).max(1.0) as u32;
        let slice = (to - from) / slices;
        let square =
            |n: u32| (self.rate(faster, from + slice * n, from + slice * (n + 1)) - rates[faster]).powi(2);
        let variance = (0..slices).map(square).sum::<f64>() / f64::from(slices.max(2) - 1);
        Base { rates, error: (variance / f64::from(slices)).sqrt() }
    }

    /// Returns true if the second half of a time brought about as much as the first.
    fn is_level(&self, link: LinkId, within: f64, from: Duration, to: Duration) -> bool {
        let middle = from + (to - from) / 2;
        let (first, second) = (self.rate(link, from, middle), self.rate(link, middle, to));
        (second - first).abs() <= within * first.max(second)
    }
}

/// The time over which both links' rates are taken.
fn base_span(links: &PerLink<LinkActivity>) -> Duration {
    BASE.max(2 * links.a.rtt.max(links.b.rtt))
}

/// Returns what a pause of `held` costs independent links: its bytes, at the rate of both (s).
fn pause_cost_s(links: &PerLink<LinkActivity>, base: &Base, held: LinkId, length: Duration) -> f64 {
    (length + links[held].rtt).as_secs_f64() * base.rates[held] / (base.rates.a + base.rates.b).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Two links in steps of 1 ms. A link that is held owes something for 50 ms more, and one that is looked at
    /// is asked for what it brings in 80 ms.
    struct Links {
        estimator: CouplingEstimator,
        now: Duration,
        owes_until: PerLink<Duration>,
        most: f64,
        /// How long each link had nothing to do.
        idle: PerLink<Duration>,
    }

    impl Links {
        fn new(most: f64) -> Links {
            let (now, zero) = (Duration::ZERO, PerLink::of(|_| Duration::ZERO));
            Links { estimator: CouplingEstimator::default(), now, owes_until: zero, most, idle: zero }
        }

        /// Lets some time pass, in which the links bring `rates` (bytes/s) as far as they are at work.
        fn run(&mut self, time: Duration, rates: impl Fn(Duration, PerLink<bool>) -> PerLink<f64>) {
            let end = self.now + time;
            while self.now < end {
                self.now += ms(1);
                for link in LinkId::BOTH {
                    if !self.estimator.holds(link) {
                        let looked_at = self.estimator.most_at_once(link, 0.0, self.now).is_some_and(
                            |_| matches!(self.estimator.phase, Phase::Yield(stay) if stay.held == link),
                        );
                        self.owes_until[link] = self.now + if looked_at { LOOK } else { ms(50) };
                    }
                }
                let busy = PerLink::of(|link| self.owes_until[link] > self.now);
                let rates = rates(self.now, busy);
                for link in LinkId::BOTH.into_iter().filter(|&link| busy[link]) {
                    self.estimator.received(link, self.now, (rates[link] / 1e3) as u64);
                }
                for link in LinkId::BOTH.into_iter().filter(|&link| !busy[link]) {
                    self.idle[link] += ms(1);
                }
                let links = PerLink::of(|link| LinkActivity {
                    busy: busy[link],
                    up: true,
                    rtt: ms(4),
                    most: self.most,
                });
                self.estimator.update(self.now, &links, 80_000_000);
            }
        }
    }

    /// Stations of one channel, which bring these rates alone and take turns of the same length.
    fn channel(alone: [f64; 2]) -> impl Fn(Duration, PerLink<bool>) -> PerLink<f64> {
        move |_, busy| {
            let shares = if busy.a && busy.b { 0.5 } else { 1.0 };
            PerLink { a: alone[0] * shares, b: alone[1] * shares }
        }
    }

    fn independent(rates: [f64; 2]) -> impl Fn(Duration, PerLink<bool>) -> PerLink<f64> {
        move |_, _| PerLink { a: rates[0], b: rates[1] }
    }

    #[test]
    fn slower_station_of_a_channel_yields_within_half_a_second() {
        for (rates, slower) in [([6e6, 0.6e6], LinkId::B), ([2e6, 6e6], LinkId::A), ([6e6, 5.9e6], LinkId::B)]
        {
            let mut links = Links::new(f64::INFINITY);
            links.run(ms(500), channel(rates));
            assert!(links.estimator.yields(slower), "{rates:?}: {:?}", links.estimator.phase);
            links.run(ms(9_500), channel(rates));
            let Coupling::Coupled { gain } = links.estimator.verdict() else {
                panic!("{rates:?}: {:?}", links.estimator.verdict())
            };
            assert!(gain > 0.97 && gain < 2.0, "{rates:?}: {gain}");
            assert!(links.estimator.holds(slower) && links.idle[slower.other()].is_zero());
        }
    }

    #[test]
    fn independent_links_are_told_apart_at_little_cost() {
        for rates in [[6e6, 6e6], [6e6, 0.6e6], [1e6, 9e6]] {
            let mut links = Links::new(f64::INFINITY);
            links.run(ms(1_000), independent(rates));
            assert_eq!(links.estimator.verdict(), Coupling::Independent, "{rates:?}");
            links.run(ms(9_000), independent(rates));
            let lost: f64 =
                LinkId::BOTH.map(|link| links.idle[link].as_secs_f64() * rates[link.index()]).iter().sum();
            assert!(lost / 10.0 / (rates[0] + rates[1]) <= 0.01, "{rates:?}: {:?}", links.idle);
        }
    }

    #[test]
    fn link_that_carries_its_own_rate_never_pauses() {
        let mut links = Links::new(6e6);
        links.run(ms(10_000), independent([5.9e6, 3e6]));
        assert!(links.idle.a.is_zero() && links.idle.b.is_zero());
        assert_eq!(links.estimator.verdict(), Coupling::Independent);
    }

    #[test]
    fn link_whose_pause_fell_together_with_a_rise_comes_back() {
        let mut links = Links::new(f64::INFINITY);
        while !matches!(links.estimator.phase, Phase::Pause { .. }) {
            links.run(ms(1), independent([3e6, 1e6]));
        }
        links.run(ms(1_000), independent([9e6, 1e6]));
        assert!(links.estimator.yields(LinkId::B));
        links.run(ms(4_000), independent([9e6, 1e6]));
        assert!(!links.estimator.holds(LinkId::B), "{:?}", links.estimator.phase);
        assert_eq!(links.estimator.verdict(), Coupling::Independent);
    }

    #[test]
    fn link_works_again_when_the_other_is_away_or_slower_than_both() {
        for away in [false, true] {
            let mut links = Links::new(f64::INFINITY);
            links.run(ms(2_000), channel([6e6, 2e6]));
            assert!(links.estimator.yields(LinkId::B));
            if away {
                let down = LinkActivity { busy: false, up: false, rtt: ms(4), most: f64::INFINITY };
                links.estimator.update(
                    links.now,
                    &PerLink { a: down, b: LinkActivity { up: true, ..down } },
                    1,
                );
            } else {
                links.run(ms(1_200), independent([1e6, 2e6]));
            }
            assert!(!links.estimator.holds(LinkId::B), "{:?}", links.estimator.phase);
        }
    }
}
