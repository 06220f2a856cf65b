//! `--connections`: how many connections a link has.
//!
//! **Rule of `auto`.** A link begins with one connection, or on a round trip from 80 ms on with one for each 10 ms of
//! it, up to 16: n connections in slow start bring n times ten segments in the first round trip, which saves log₂ n
//! of them. Where the link's rate is known, those bring no more than half of what fills it. It gets more where losses, not the bottleneck, limit its TCP. A loss-based TCP with a share p of its
//! packets lost carries MSS/RTT·√(3/2)/√p at most (Mathis, Semke, Mahdavi and Ott, ACM CCR 27(3), 1997), so n of them
//! carry n times as much. At that limit the queue at the bottleneck is empty although packets are lost; a TCP that
//! the bottleneck limits keeps a queue there. A link gets four
//! times as many connections, up to 16, where
//! - packets were lost in the last 2 s, the first of them one of these spans ago or longer, and
//! - the smoothed round trip has been less than 5/4 of the least one + 10 ms for the longer of 200 ms and four round
//!   trips, all of them with as many connections as it has now.
//!
//! This is a trial: where the link does not carry a tenth more than before the first step when as long again has passed,
//! and once more, in which that is measured, all new connections are closed after what they owe, and the next trial
//! comes after 2 s, 4 s and so on. Where the link then carries a fifth less than in the trial, they are opened again:
//! the rate before it was that of slow start. A server that refuses a connection, or says that it is busy, is not
//! asked for more than it holds; one that closes each connection after an answer has one.
//!
//! **Worst case.** A server whose TCP ignores losses (BBR) beside random loss, where the first trial brings nothing.
//! It has four times the connections for eight round trips or 0.4 s, and 16 of them if its queue stays empty.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{ConnectionId, Schedule, Scheduler};
use crate::units::LinkId;

/// The most connections that `auto` opens to a server.
const MOST_AUTO: usize = 16;
/// The most connections of any choice.
const MOST: usize = 64;
/// From this round trip on a link begins with more than one connection: one for each of these spans.
const LONG_RTT: Duration = Duration::from_millis(80);
const RTT_PER_CONNECTION: Duration = Duration::from_millis(10);
/// The bytes of a connection in its first round trip: ten full segments (RFC 6928).
const FIRST_WINDOW_BYTES: f64 = 14_480.0;
/// The factor of a trial's next step.
const STEP: usize = 4;
/// How long a loss explains a rate.
const LOSS_COUNTS: Duration = Duration::from_secs(2);
/// The least time before and after a trial in which the rate is measured.
const LEAST_WINDOW: Duration = Duration::from_millis(200);
/// A trial that brings less is undone.
const LEAST_GAIN: f64 = 1.1;
/// A link that carries less than this share of what it did in a trial misses the connections of the trial.
const LEAST_WITHOUT: f64 = 0.8;
/// The time to the next trial after one that brought nothing, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(2);

/// The user's choice of how many connections a link has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connections {
    Auto,
    Count(usize),
}

impl Connections {
    /// Returns the choice, or the schedule's own without one: `auto` where work moves between the links by their
    /// rates, 1 elsewhere.
    pub(crate) fn chosen(choice: Option<Connections>, schedule: &Schedule) -> Connections {
        let own = if schedule.is_adaptive() { Connections::Auto } else { Connections::Count(1) };
        choice.unwrap_or(own)
    }
}

impl FromStr for Connections {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s.parse() {
            _ if s == "auto" => Ok(Connections::Auto),
            Ok(count) if (1..=MOST).contains(&count) => Ok(Connections::Count(count)),
            _ => Err(format!(
                "\"{s}\" is not a number of connections: write auto, or a number from 1 to {MOST}"
            )),
        }
    }
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Connections::Auto => f.write_str("auto"),
            Connections::Count(count) => count.fmt(f),
        }
    }
}

/// The state of the TCP of all connections of a link, at one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpReading {
    /// The packets that were lost so far, or another count that grows with each loss.
    pub losses: u64,
    /// The mean of the smoothed round trips.
    pub rtt: Duration,
}

/// The reason for a link's number of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionsReason {
    /// The user chose it, or the schedule means one.
    Chosen,
    /// One carries what there is.
    OneIsEnough,
    LongRoundTrip,
    /// Losses limit its TCP.
    Losses,
    /// More were tried and carried no more.
    NoGain,
    /// The server takes no more.
    Refused,
}

/// How many connections a link is to have, and why.
#[derive(Clone, Debug)]
pub(super) struct ConnectionCount {
    choice: Connections,
    reason: ConnectionsReason,
    has_begun: bool,
    pub wanted: usize,
    /// The most that its server takes.
    most: usize,
    losses: u64,
    last_loss: Option<Duration>,
    /// The first loss with as many connections as now.
    first_loss: Option<Duration>,
    /// Since when its queue has been empty.
    empty_since: Option<Duration>,
    trial: Option<ConnectionTrial>,
    undone: Option<UndoneTrial>,
    next_trial: Duration,
    pause: Duration,
}

/// A trial that brought nothing over the rate before it.
#[derive(Clone, Copy, Debug)]
struct UndoneTrial {
    /// From when on the link is without its connections.
    over_at: Duration,
    connections: usize,
    /// The rate of the link with them (bytes/s).
    rate: f64,
}

/// A try whether more connections carry more.
#[derive(Clone, Copy, Debug)]
struct ConnectionTrial {
    /// When it is judged; `None` once it was.
    judge_at: Option<Duration>,
    /// The connections and the rate (bytes/s) before it.
    base: (usize, f64),
}

impl Default for ConnectionCount {
    fn default() -> ConnectionCount {
        ConnectionCount {
            choice: Connections::Count(1),
            reason: ConnectionsReason::Chosen,
            has_begun: false,
            wanted: 1,
            most: MOST,
            losses: 0,
            last_loss: None,
            first_loss: None,
            empty_since: None,
            trial: None,
            undone: None,
            next_trial: Duration::ZERO,
            pause: FIRST_PAUSE,
        }
    }
}

impl fmt::Display for ConnectionsReason {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            ConnectionsReason::Chosen => "chosen",
            ConnectionsReason::OneIsEnough => "one is enough",
            ConnectionsReason::LongRoundTrip => "long round trip",
            ConnectionsReason::Losses => "losses",
            ConnectionsReason::NoGain => "more carry no more",
            ConnectionsReason::Refused => "refused",
        })
    }
}

impl ConnectionCount {
    fn new(choice: Connections) -> ConnectionCount {
        let (wanted, reason) = match choice {
            Connections::Auto => (1, ConnectionsReason::OneIsEnough),
            Connections::Count(count) => (count, ConnectionsReason::Chosen),
        };
        ConnectionCount { choice, wanted, reason, ..ConnectionCount::default() }
    }

    fn most_auto(&self) -> usize {
        MOST_AUTO.min(self.most)
    }

    /// A connection is open, with this round trip, of a link that is shaped to this rate (bytes/s; infinite where it is
    /// not); the first one decides how many the link begins with.
    pub(super) fn begins(&mut self, rtt: Duration, shaped_rate: f64) {
        let begins = !std::mem::replace(&mut self.has_begun, true);
        if begins && self.choice == Connections::Auto && rtt >= LONG_RTT {
            let count = (rtt.as_nanos() / RTT_PER_CONNECTION.as_nanos()) as usize;
            let half_full = (shaped_rate * rtt.as_secs_f64() / 2.0 / FIRST_WINDOW_BYTES) as usize;
            let wanted = count.min(half_full).min(self.most_auto());
            if wanted > 1 {
                (self.wanted, self.reason) = (wanted, ConnectionsReason::LongRoundTrip);
            }
        }
    }

    /// The server takes no more than so many connections.
    fn limit(&mut self, most: usize) {
        self.most = self.most.min(most.max(1));
        if self.wanted > self.most {
            (self.wanted, self.reason) = (self.most, ConnectionsReason::Refused);
        }
        (self.trial, self.undone) = (None, None);
    }

    /// Takes a reading of a link with this least round trip; `rate` tells the bytes/s that it carried over a time
    /// until now, and `busy` whether it has work enough to carry more.
    fn read(
        &mut self,
        reading: TcpReading,
        least_rtt: Duration,
        rate: impl Fn(Duration) -> f64,
        busy: bool,
        now: Duration,
    ) {
        if reading.losses > self.losses {
            self.last_loss = Some(now);
            self.first_loss.get_or_insert(now);
        }
        self.losses = reading.losses;
        let empty = reading.rtt <= least_rtt * 5 / 4 + Duration::from_millis(10);
        self.empty_since = self.empty_since.or(Some(now)).filter(|_| empty && busy);
        let window = LEAST_WINDOW.max(4 * least_rtt);
        let for_a_window = |since: Option<Duration>| since.is_some_and(|since| now >= since + window);
        // The rate before the first loss is not limited by losses.
        let lossy = for_a_window(self.first_loss) && self.last_loss.is_some_and(|at| now < at + LOSS_COUNTS);
        // On a long way a queue is a small part of the round trip, and hard to tell.
        let limited = least_rtt < LONG_RTT && lossy && for_a_window(self.empty_since);
        let is_missed = |undone: &UndoneTrial| {
            busy && now >= undone.over_at && rate(2 * window) < LEAST_WITHOUT * undone.rate
        };
        if let Some(missed) = self.undone.filter(is_missed) {
            (self.wanted, self.reason) = (missed.connections, ConnectionsReason::Losses);
            (self.empty_since, self.first_loss, self.undone) = (Some(now), None, None);
            return;
        }
        let more = (STEP * self.wanted).min(self.most_auto());
        if self.choice == Connections::Auto && limited && now >= self.next_trial && more > self.wanted {
            let base = self.trial.map_or((self.wanted, rate(window)), |trial| trial.base);
            self.trial = Some(ConnectionTrial { judge_at: Some(now + 2 * window), base });
            (self.wanted, self.reason) = (more, ConnectionsReason::Losses);
            (self.empty_since, self.first_loss, self.undone) = (Some(now), None, None);
            return;
        }
        let Some(trial) = self.trial.as_mut().filter(|trial| trial.judge_at.is_some_and(|at| now >= at))
        else {
            return;
        };
        trial.judge_at = None;
        let (count, rate_before) = trial.base;
        // Without work, nothing can be measured.
        let rate_within = rate(window);
        if busy && rate_within < LEAST_GAIN * rate_before {
            let over_at = now + 3 * window;
            self.undone = Some(UndoneTrial { over_at, connections: self.wanted, rate: rate_within });
            (self.wanted, self.reason) = (count, ConnectionsReason::NoGain);
            (self.trial, self.first_loss) = (None, None);
            self.next_trial = now + self.pause;
            self.pause *= 2;
        }
    }
}

impl Scheduler {
    /// Sets how many connections each link has.
    pub(crate) fn set_connections(&mut self, choice: Connections) {
        self.counts.iter_mut().for_each(|count| *count = ConnectionCount::new(choice));
    }

    /// Returns how many connections `link` is to have now: those with a lower index. One with a higher index is told
    /// [`super::Next::Done`] when it owes nothing.
    pub(crate) fn wanted_connections(&self, link: LinkId) -> usize {
        match &self.link_states[link] {
            state if state.dead => 0,
            state if !state.keeps_alive => 1,
            _ => self.counts[link].wanted,
        }
    }

    /// Returns the reason for that.
    pub(crate) fn connections_reason(&self, link: LinkId) -> ConnectionsReason {
        self.counts[link].reason
    }

    /// Returns the connections that `link` is to have and that are not open.
    pub(crate) fn missing_connections(&self, link: LinkId) -> Vec<ConnectionId> {
        let open = |index: usize| self.link_states[link].connections.get(index).is_some_and(|state| state.up);
        let missing = (0..self.wanted_connections(link)).filter(|&index| !open(index));
        missing.map(|index| ConnectionId { link, index }).collect()
    }

    /// The server of `link` refused a further connection, or says that it is busy: it is asked for no more than it
    /// holds.
    pub(crate) fn connection_refused(&mut self, link: LinkId) {
        let up = self.link_states[link].connections.iter().filter(|state| state.up).count();
        self.counts[link].limit(up);
    }

    /// The TCP of the connections of `link` is in this state. To be told every 100 ms or so.
    pub(crate) fn read_tcp(&mut self, link: LinkId, reading: TcpReading, now: Duration) {
        let state = &self.link_states[link];
        let busy = self.pool.first(link).is_some() && !state.is_idle();
        let rate = |window: Duration| state.rate_since(now.saturating_sub(window), now);
        let count = &mut self.counts[link];
        let before = count.wanted;
        count.read(reading, state.rtt, rate, busy, now);
        self.changes += u64::from(count.wanted != before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(20);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Reads a link every 100 ms until `until_ms`, with so many losses a second, this smoothed round trip and the rate
    /// that `rate` tells for a number of connections. Returns how many it has each time.
    fn counts(losses_per_s: u64, rtt_ms: u64, rate: fn(usize, u64) -> f64, until_ms: u64) -> Vec<usize> {
        let mut count = ConnectionCount::new(Connections::Auto);
        count.begins(RTT, f64::INFINITY);
        let read = |at: u64| {
            let reading = TcpReading { losses: losses_per_s * at / 1000, rtt: ms(rtt_ms) };
            let wanted = count.wanted;
            count.read(reading, RTT, |_| rate(wanted, at), true, ms(at));
            count.wanted
        };
        (0..=until_ms).step_by(100).map(read).collect()
    }

    #[test]
    fn losses_beside_an_empty_queue_open_connections() {
        let more = counts(10, 22, |count, _| count as f64, 2000);
        assert_eq!((more.first(), more.last()), (Some(&1), Some(&MOST_AUTO)));
        assert!(more.contains(&STEP) && more.is_sorted(), "{more:?}");
    }

    #[test]
    fn bottleneck_with_a_queue_keeps_one_connection() {
        assert_eq!(counts(10, 70, |count, _| count as f64, 5000).last(), Some(&1));
        assert_eq!(counts(0, 20, |count, _| count as f64, 5000).last(), Some(&1));
    }

    #[test]
    fn connections_that_bring_nothing_are_closed_for_a_while() {
        let tried = counts(10, 22, |_, _| 1.0, 9000);
        assert_eq!(tried.iter().max(), Some(&MOST_AUTO));
        assert!(tried[12..28].iter().all(|&count| count == 1), "{tried:?}");
        assert!(counts(10, 22, |_, _| 1.0, 20_000)[90..].iter().any(|&count| count > 1));
    }

    #[test]
    fn connections_that_are_missed_are_opened_again() {
        // Slow start still carries what fills the link when the trial begins.
        let rate = |count: usize, at: u64| if at < 800 { 30.0 } else { (2.0 * count as f64).min(30.0) };
        let wanted = counts(10, 22, rate, 3000);
        let closed = wanted.iter().rposition(|&count| count == 1).unwrap();
        assert!(wanted[..closed].contains(&MOST_AUTO), "{wanted:?}");
        assert!(wanted[closed + 1..].iter().all(|&count| count == MOST_AUTO), "{wanted:?}");
        assert_eq!(wanted.last(), Some(&MOST_AUTO));
    }

    #[test]
    fn long_round_trip_begins_with_several() {
        for (rtt_ms, begins) in [(79, 1), (80, 8), (120, 12), (600, MOST_AUTO)] {
            let mut count = ConnectionCount::new(Connections::Auto);
            count.begins(ms(rtt_ms), f64::INFINITY);
            count.begins(ms(1000), f64::INFINITY);
            assert_eq!(count.wanted, begins, "{rtt_ms} ms");
        }
        // 6 Mbit/s are filled by few, 1 Mbit/s by one.
        for (bytes_per_s, begins) in [(12.5e6, 10), (0.75e6, 2), (0.125e6, 1)] {
            let mut count = ConnectionCount::new(Connections::Auto);
            count.begins(ms(100), bytes_per_s);
            assert_eq!(count.wanted, begins, "{bytes_per_s} bytes/s");
        }
        let mut one = ConnectionCount::new(Connections::Count(1));
        one.begins(ms(600), f64::INFINITY);
        assert_eq!(one.wanted, 1);
    }

    #[test]
    fn server_that_refuses_keeps_what_it_has() {
        let mut scheduler =
            Scheduler::new(&Schedule::Adaptive, crate::schedule::Pipeline::Auto, vec![Some(1 << 30)]);
        scheduler.set_connections(Connections::Count(8));
        (0..3).for_each(|index| {
            scheduler.opened(ConnectionId { link: LinkId::A, index }, Duration::ZERO, RTT);
        });
        assert_eq!(scheduler.missing_connections(LinkId::A).len(), 5);
        scheduler.connection_refused(LinkId::A);
        assert_eq!(scheduler.wanted_connections(LinkId::A), 3);
        assert!(scheduler.missing_connections(LinkId::A).is_empty());
        scheduler.keeps_alive(LinkId::A, false);
        let third = ConnectionId { link: LinkId::A, index: 2 };
        assert_eq!(scheduler.next(third, Duration::ZERO), crate::schedule::Next::Done);
    }

    #[test]
    fn connections_are_auto_or_a_number() {
        assert_eq!("auto".parse(), Ok(Connections::Auto));
        assert_eq!("64".parse(), Ok(Connections::Count(64)));
        for bad in ["0", "-1", "many", "", "65"] {
            assert!(bad.parse::<Connections>().is_err(), "{bad}");
        }
    }
}
