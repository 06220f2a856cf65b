//! The scheduler against a small model of two links: bytes in order, at a rate, a round trip after
//! they were asked for.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::adaptive::{PAYLOAD_SHARE, least_part, share};
use crate::qoe;
use crate::schedule::*;

const STEP: Duration = Duration::from_millis(5);
/// How long a segment plays.
const PLAYS: Duration = Duration::from_millis(150);

#[derive(Clone, Debug)]
struct TestLink {
    bytes_per_s: f64,
    rtt: Duration,
    /// Parts on their way: what is left of each, when its first byte may come, whether it has begun.
    asked: VecDeque<(PartRequest, u64, Duration, bool)>,
    credit: f64,
    /// How long nothing was coming on it although there was work that it should have done, in all and
    /// since something last came.
    idle: [Duration; 2],
}

/// A run in virtual time.
struct TestRun {
    scheduler: Scheduler,
    sizes: Vec<u64>,
    lines: [TestLink; 2],
    now: Duration,
    seen: Vec<Vec<bool>>,
    /// When each segment was complete (ms).
    done_ms: Vec<f64>,
    waste: u64,
    /// How often each link counted as stalled.
    stalls: [u32; 2],
}

fn run(schedule: &str, sizes: &[u64], lines: [(f64, u64); 2], known: bool) -> TestRun {
    let told = sizes.iter().map(|&size| known.then_some(size)).collect();
    let schedule = schedule.parse::<Schedule>().unwrap().for_playback(PLAYS, 2, 0);
    let mut scheduler = Scheduler::new(&schedule, Pipeline::Auto, told);
    let lines = lines.map(|(bytes_per_s, rtt_ms)| TestLink {
        bytes_per_s,
        rtt: Duration::from_millis(rtt_ms),
        asked: VecDeque::new(),
        credit: 0.0,
        idle: [Duration::ZERO; 2],
    });
    for link in LinkId::BOTH {
        let line = &lines[link.index()];
        scheduler.opened(link, Duration::ZERO, line.rtt);
        scheduler.set_shaped_rate(link, Some(line.bytes_per_s / PAYLOAD_SHARE));
    }
    let seen = sizes.iter().map(|&size| vec![false; size as usize]).collect();
    TestRun {
        scheduler,
        sizes: sizes.to_vec(),
        lines,
        now: Duration::ZERO,
        seen,
        done_ms: vec![f64::INFINITY; sizes.len()],
        waste: 0,
        stalls: [0; 2],
    }
}

impl TestRun {
    fn is_done(&self) -> bool {
        (0..self.sizes.len()).all(|segment| self.scheduler.is_complete(segment))
    }

    fn ask(&mut self, link: LinkId) {
        loop {
            match self.scheduler.next(link, self.now) {
                Next::Request(part) => {
                    let size = self.sizes[part.segment];
                    // A beginning of a file of unknown size may be all of it.
                    let known = self.scheduler.size(part.segment).is_some();
                    let to = part.to.map_or(size, |to| if known { to } else { to.min(size) });
                    assert!(part.from <= to && to <= size, "{part:?}");
                    let line = &mut self.lines[link.index()];
                    line.asked.push_back((part, to - part.from, self.now + line.rtt, false));
                }
                Next::Drop => self.lose(link),
                Next::Wait(_) | Next::Done => return,
            }
        }
    }

    fn lose(&mut self, link: LinkId) {
        self.scheduler.lost(link);
        let line = &mut self.lines[link.index()];
        line.asked.clear();
        (line.credit, line.idle[1]) = (0.0, Duration::ZERO);
        self.scheduler.opened(link, self.now, line.rtt);
    }

    fn bring(&mut self, link: LinkId) {
        let index = link.index();
        self.lines[index].credit += self.lines[index].bytes_per_s * STEP.as_secs_f64();
        let mut payload = 0;
        while let Some(&mut (part, left, begins, ref mut begun)) = self.lines[index].asked.front_mut() {
            if begins > self.now {
                self.lines[index].credit = 0.0;
                break;
            }
            let size = self.sizes[part.segment];
            self.lines[index].idle[1] = Duration::ZERO;
            if !std::mem::replace(begun, true) {
                self.scheduler.head(link, part.from, Some(left), Some(size));
            }
            let bytes = left.min(self.lines[index].credit as u64);
            self.take(link, part.segment, bytes);
            payload += bytes;
            self.lines[index].credit -= bytes as f64;
            if bytes < left {
                self.lines[index].asked[0].1 -= bytes;
                break;
            }
            self.lines[index].asked.pop_front();
            self.scheduler.ended(link);
            self.complete(part.segment);
        }
        if payload > 0 {
            self.scheduler.received(link, self.now, payload);
        } else if self.lines[index].asked.front().is_none_or(|first| first.2 > self.now) {
            self.lines[index].credit = 0.0;
            self.idle(link);
        }
    }

    /// Nothing comes on a link. Where it has a share of what waits, that is for a round trip or two at most.
    fn idle(&mut self, link: LinkId) {
        let views = self.scheduler.views(self.now);
        let Scheduler { plan, pool, sizes, link_states, .. } = &self.scheduler;
        let share = share(link, &views, pool.bytes_for(link, sizes));
        let divisible = pool.first(link).is_some_and(|(part, _)| sizes.end(&part).is_some());
        // A link that pauses does so on purpose: others look at what that costs.
        let divisible = divisible && link_states[link].ranges && !self.scheduler.coupling.holds(link);
        if *plan == Schedule::Adaptive && divisible && share > least_part(views[link].rate) {
            let line = &mut self.lines[link.index()];
            line.idle.iter_mut().for_each(|idle| *idle += STEP);
            assert!(line.idle[1] <= 2 * line.rtt + 2 * STEP, "{link} has a share of {share} and is idle");
        }
    }

    fn take(&mut self, link: LinkId, segment: usize, mut bytes: u64) {
        while bytes > 0 {
            let claim = self.scheduler.claim(link, bytes);
            for at in claim.at + claim.stale..claim.at + claim.stale + claim.fresh {
                let seen = std::mem::replace(&mut self.seen[segment][at as usize], true);
                assert!(!seen, "byte {at} of {segment} was new twice");
            }
            self.waste += claim.stale;
            bytes -= claim.stale + claim.fresh;
            assert!(claim.stale + claim.fresh > 0);
        }
        self.complete(segment);
    }

    fn complete(&mut self, segment: usize) {
        if self.scheduler.is_whole(segment) && !self.scheduler.is_complete(segment) {
            self.scheduler.completed(segment);
            self.done_ms[segment] = self.now.as_secs_f64() * 1e3;
        }
    }

    /// Returns the quality for a viewer.
    fn qoe(&self) -> crate::log::schema::Qoe {
        let arrivals = self.done_ms.iter().zip(0..).map(|(&done_ms, index)| qoe::Arrival {
            index,
            done_ms,
            media: true,
        });
        let rule = qoe::Rule { segment_duration_ms: PLAYS.as_secs_f64() * 1e3, startup_segments: 2 };
        qoe::play(arrivals, 0.0, rule).unwrap().qoe
    }

    /// Goes on until everything is there, or `limit` has passed.
    fn until(&mut self, limit: Duration) {
        while !self.is_done() && self.now < limit {
            LinkId::BOTH.into_iter().for_each(|link| self.ask(link));
            self.now += STEP;
            for link in LinkId::BOTH {
                self.bring(link);
                if self.scheduler.is_stalled(link, self.now) {
                    self.stalls[link.index()] += 1;
                    self.lose(link);
                }
            }
        }
    }

    fn seconds(&self) -> f64 {
        self.now.as_secs_f64()
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// 40 files, 10 MB in all, of sizes between 150 and 350 KB.
fn media() -> Vec<u64> {
    (0..40).map(|i| 150_000 + (i * 7919 % 41) * 5_000).collect()
}

#[test]
fn adaptive_is_at_the_bound_on_steady_links() {
    let bytes: u64 = media().iter().sum();
    for (rates, rtts) in [([4e6, 1e6], [0, 0]), ([2e6, 2e6], [20, 80]), ([3e6, 5e4], [10, 100])] {
        let mut run = run("adaptive", &media(), [(rates[0], rtts[0]), (rates[1], rtts[1])], true);
        run.until(MINUTE);
        let waits: f64 = (0..2).map(|i| rates[i] * rtts[i] as f64 / 1e3).sum();
        let bound = (bytes as f64 + waits) / (rates[0] + rates[1]);
        assert!(run.is_done() && run.seconds() < 1.01 * bound + 0.02, "{} of {bound}", run.seconds());
        assert!(run.waste < bytes / 50, "{} wasted", run.waste);
    }
}

#[test]
fn a_link_that_nearly_stops_is_relieved_of_its_work() {
    let mut run = run("adaptive", &media(), [(2e6, 20), (2e6, 20)], true);
    run.until(Duration::from_millis(1500));
    run.lines[1].bytes_per_s = 2e4;
    run.until(MINUTE);
    let bound = 1.5 + (run.sizes.iter().sum::<u64>() as f64 - 6e6) / 2.02e6;
    assert!(run.is_done() && run.seconds() < 1.03 * bound, "{} of {bound}", run.seconds());
}

#[test]
fn a_link_that_stops_counts_as_stalled_and_the_other_does_its_work() {
    let mut run = run("adaptive", &media(), [(2e6, 20), (2e6, 20)], true);
    run.until(Duration::from_millis(1500));
    run.lines[1].bytes_per_s = 0.0;
    run.until(MINUTE);
    let bound = 1.5 + (run.sizes.iter().sum::<u64>() as f64 - 6e6) / 2e6;
    assert!(run.is_done() && run.seconds() < 1.05 * bound, "{} of {bound}", run.seconds());
}

/// Lets both lines be silent for a while from 1.5 s on: until these times (ms).
fn outage(run: &mut TestRun, until_ms: [u64; 2]) {
    run.until(Duration::from_millis(1500));
    let rates = [0, 1].map(|index| std::mem::take(&mut run.lines[index].bytes_per_s));
    let [first, last] = if until_ms[0] <= until_ms[1] { [0, 1] } else { [1, 0] };
    for index in [first, last] {
        run.until(Duration::from_millis(until_ms[index]));
        run.lines[index].bytes_per_s = rates[index];
    }
}

#[test]
fn an_outage_of_both_links_costs_neither_its_connection() {
    for until_ms in [[2700, 2700], [2700, 2550], [2550, 2700]] {
        let mut run = run("adaptive", &media(), [(2e6, 20), (1e6, 20)], true);
        outage(&mut run, until_ms);
        run.until(MINUTE);
        assert!(run.is_done());
        assert_eq!(run.stalls, [0, 0], "{until_ms:?}");
    }
}

#[test]
fn a_link_that_stays_silent_after_an_outage_counts_as_stalled() {
    let mut run = run("adaptive", &media(), [(2e6, 20), (1e6, 20)], true);
    outage(&mut run, [2700, 10_000]);
    // A second after the other has come back.
    assert!(run.stalls[1] > 0 && run.stalls[0] == 0, "{:?}", run.stalls);
    run.until(MINUTE);
    let bound = 2.7 + (run.sizes.iter().sum::<u64>() as f64 - 4.5e6) / 2e6;
    assert!(run.is_done() && run.seconds() < 1.05 * bound, "{} of {bound}", run.seconds());
}

#[test]
fn a_slow_link_takes_a_segment_that_it_can_finish_in_time() {
    let sizes = [250_000; 40];
    let mut run = run("inorder", &sizes, [(2e6, 20), (1e5, 20)], true);
    // The rates are known after the start, and the player has begun.
    run.until(Duration::from_millis(1500));
    let theirs = |run: &TestRun, link: LinkId| run.lines[link.index()].asked.back().map(|asked| asked.0);
    run.lose(LinkId::B);
    run.ask(LinkId::B);
    let slow = theirs(&run, LinkId::B).unwrap();
    let fast = theirs(&run, LinkId::A).unwrap();
    assert!(slow.segment > fast.segment + 3, "{slow:?} on the slow link, {fast:?} on the other");
}

#[test]
fn inorder_starts_early_and_plays_through_if_links_carry_it() {
    for rates in [[2e6, 1e5], [1.6e6, 4e5], [1e6, 1e6]] {
        let lines = [(rates[0], 20), (rates[1], 60)];
        let mut inorder = run("inorder", &media(), lines, true);
        inorder.until(MINUTE);
        let qoe = inorder.qoe();
        let first: u64 = media()[..2].iter().sum();
        let startup_ms = qoe.startup_delay_ms.unwrap();
        let bound_ms = first as f64 / (rates[0] + rates[1]) * 1e3;
        // Until rates are known, each link is given half; what the slow one holds then is stolen
        // behind what the other was asked for ahead, two round trips + 150 ms.
        assert!(startup_ms < 1.5 * bound_ms + 250.0, "{rates:?}: {startup_ms} ms of {bound_ms} ms");
        assert!(qoe.rebuffer_ms < 60.0, "{rates:?}: {} ms", qoe.rebuffer_ms);
        let mut adaptive = run("adaptive", &media(), lines, true);
        adaptive.until(MINUTE);
        assert!(
            inorder.seconds() < 1.03 * adaptive.seconds(),
            "{} of {}",
            inorder.seconds(),
            adaptive.seconds()
        );
    }
}

#[test]
fn what_comes_late_on_a_link_that_nearly_stops_is_split() {
    let stalled_ms = ["inorder", "greedy"].map(|schedule| {
        let mut run = run(schedule, &media(), [(2e6, 20), (1e6, 20)], true);
        run.until(Duration::from_millis(1000));
        run.lines[1].bytes_per_s = 2e4;
        run.until(MINUTE);
        assert!(run.is_done());
        run.qoe().rebuffer_ms
    });
    assert!(stalled_ms[0] < 200.0 && stalled_ms[0] < stalled_ms[1] / 4.0, "{stalled_ms:?} ms");
}

#[test]
fn without_budget_only_from_a_silent_link_is_stolen() {
    // Both links have all that is left, and the second becomes slower than it was when it was asked.
    let stolen = |wasted: bool, slower: f64| {
        let mut run = run("adaptive", &[1_000_000; 8], [(4e6, 20), (1e6, 20)], true);
        run.until(Duration::from_millis(1200));
        run.lines[1].bytes_per_s *= slower;
        run.scheduler.wasted = if wasted { run.scheduler.redundancy_budget() } else { 0 };
        let (mut before, mut taken) = (0, 0);
        while !run.is_done() && run.now < MINUTE {
            let next = run.now + STEP;
            run.until(next);
            let state = &run.scheduler.link_states[LinkId::B];
            let useless =
                state.outstanding(&run.scheduler.sizes) - state.useful_outstanding(&run.scheduler.sizes);
            taken += useless.saturating_sub(before);
            before = useless;
        }
        assert!(run.is_done());
        (taken, run.waste)
    };
    assert!(stolen(false, 0.3).0 > 10_000);
    assert_eq!(stolen(true, 0.3), (0, 0));
    let (taken, waste) = stolen(true, 0.01);
    assert!(taken > 10_000 && waste < 2_000, "{taken} stolen, {waste} came twice");
}

#[test]
fn a_greedy_link_does_what_a_dead_one_owed() {
    let mut scheduler = Scheduler::new(&Schedule::Greedy, Pipeline::Depth(1), vec![None; 2]);
    let next = |scheduler: &mut Scheduler, link| scheduler.next(link, Duration::ZERO);
    assert_eq!(next(&mut scheduler, LinkId::A), Next::Request(PartRequest::whole(0)));
    assert_eq!(next(&mut scheduler, LinkId::B), Next::Request(PartRequest::whole(1)));
    scheduler.head(LinkId::B, 0, Some(1000), Some(1000));
    assert_eq!(scheduler.claim(LinkId::B, 700), Claim { at: 0, stale: 0, fresh: 700 });
    scheduler.lost(LinkId::B);
    assert!(scheduler.give_up(LinkId::B));
    assert_eq!(next(&mut scheduler, LinkId::A), Next::Wait(None));
    scheduler.head(LinkId::A, 0, Some(0), Some(0));
    scheduler.ended(LinkId::A);
    scheduler.completed(0);
    assert_eq!(
        next(&mut scheduler, LinkId::A),
        Next::Request(PartRequest { segment: 1, from: 700, to: None })
    );
}

#[test]
fn a_ratio_cannot_go_on_without_a_server_that_has_work_left() {
    let schedule = Schedule::Ratio { a: 1, b: 1 };
    let mut scheduler = Scheduler::new(&schedule, Pipeline::Auto, vec![None; 2]);
    assert_eq!(scheduler.next(LinkId::B, Duration::ZERO), Next::Request(PartRequest::whole(1)));
    scheduler.lost(LinkId::B);
    assert!(!scheduler.give_up(LinkId::B));
}

#[test]
fn a_link_in_its_slow_start_does_not_run_dry() {
    let mut run = run("adaptive", &[100_000; 200], [(7e4, 200), (1e5, 20)], true);
    // Ten segments in the first round trip, twice as many in each further one.
    for _ in 0..8 {
        let until = run.now + run.lines[0].rtt;
        run.until(until);
        run.lines[0].bytes_per_s *= 2.0;
    }
    run.until(MINUTE);
    assert!(run.is_done());
    // But for the wait for its first byte.
    assert!(run.lines[0].idle[0] <= Duration::from_millis(210), "{:?}", run.lines[0].idle);
}

/// Small files over a slow, far link and a quicker, near one; no size is known before.
fn small_files(schedule: &str) -> TestRun {
    let mut run = run(schedule, &[37_500; 160], [(3.6e5, 500), (1.3e6, 40)], false);
    run.until(MINUTE);
    assert!(run.is_done());
    run
}

#[test]
fn fixed_shares_of_small_files_cost_one_round_trip() {
    for (schedule, files) in [("ratio=1:4", [32.0, 128.0]), ("rates=3000:11000", [34.0, 126.0])] {
        let run = small_files(schedule);
        let bound = (files[0] * 37_500.0 / 3.6e5 + 0.5_f64).max(files[1] * 37_500.0 / 1.3e6 + 0.04);
        assert!(run.seconds() < 1.02 * bound, "{schedule}: {} of {bound}", run.seconds());
    }
}

#[test]
fn a_slow_link_leaves_the_last_greedy_files_to_the_other() {
    let run = small_files("greedy");
    // A slow start of 10, 20, 40 and 80 segments loses so much of the four round trips, in bytes.
    let slow_start = 4.0 * 0.5 * 3.6e5 - 150.0 * 1448.0;
    let bound = (160.0 * 37_500.0 + slow_start + 0.5 * 3.6e5 + 0.04 * 1.3e6) / (3.6e5 + 1.3e6);
    assert!(run.seconds() < 1.02 * bound, "{} of {bound}", run.seconds());
}

#[test]
fn a_far_link_is_asked_for_hundreds_of_tiny_files() {
    // Greedy asks for as much as a slow start brings, which takes five round trips to get there.
    for (schedule, after_ms) in
        [("adaptive", 1000), ("greedy", 2200), ("ratio=1:1", 1000), ("rates=1:1", 1000)]
    {
        let mut run = run(schedule, &[1000; 3000], [(1e6, 400), (1e6, 400)], true);
        run.until(Duration::from_millis(after_ms));
        // A bandwidth-delay product of 400 files.
        let asked = run.lines[0].asked.len();
        assert!((400..=1000).contains(&asked), "{schedule}: {asked} outstanding");
        run.until(MINUTE);
        let most_s = 1.9 + (after_ms - 1000) as f64 / 1e3;
        assert!(run.is_done() && run.seconds() < 1.2 * most_s, "{schedule}: {} s", run.seconds());
    }
}

/// A scheduler whose link a brought 375 kB/s of 25 kB files for 3 s, every 10 ms; and a function that brings
/// more bytes at a time (ms).
fn steady_link(schedule: &str) -> (Scheduler, impl Fn(&mut Scheduler, u64, u64)) {
    let mut scheduler = Scheduler::new(&schedule.parse().unwrap(), Pipeline::Auto, vec![Some(25_000); 4000]);
    for link in LinkId::BOTH {
        scheduler.opened(link, Duration::ZERO, Duration::from_millis(200));
    }
    let bring = |scheduler: &mut Scheduler, ms: u64, mut bytes: u64| {
        let (now, all) = (Duration::from_millis(ms), bytes);
        while bytes > 0 {
            let Some((segment, at, _)) = scheduler.due(LinkId::A) else { break };
            scheduler.head(LinkId::A, 0, Some(25_000), Some(25_000));
            let read = bytes.min(25_000 - at);
            scheduler.claim(LinkId::A, read);
            if at + read == 25_000 {
                scheduler.ended(LinkId::A);
                scheduler.completed(segment);
            }
            bytes -= read;
        }
        scheduler.received(LinkId::A, now, all - bytes);
        while let Next::Request(_) = scheduler.next(LinkId::A, now) {}
    };
    while let Next::Request(_) = scheduler.next(LinkId::A, Duration::ZERO) {}
    (1..300).for_each(|tick| bring(&mut scheduler, 10 * tick, 3_750));
    (scheduler, bring)
}

#[test]
fn a_burst_behind_a_lost_packet_is_no_fast_link() {
    for schedule in ["adaptive", "greedy", "ratio=1:0"] {
        let (mut scheduler, bring) = steady_link(schedule);
        let before = scheduler.link_states[LinkId::A].asked().count();
        // A round trip and a half for a lost packet, and all that came behind it at once, in three reads.
        (0..3).for_each(|ms| bring(&mut scheduler, 3_290 + ms, 37_500));
        let after = scheduler.link_states[LinkId::A].asked().count();
        assert!(after <= 4 * before, "{schedule}: {before} requests outstanding, and then {after}");
    }
}

#[test]
fn a_greedy_link_asks_for_what_its_slow_start_brings() {
    let mut scheduler = Scheduler::new(&Schedule::Greedy, Pipeline::Auto, vec![Some(10_000); 400]);
    let rtt = Duration::from_millis(500);
    LinkId::BOTH.into_iter().for_each(|link| scheduler.opened(link, Duration::ZERO, rtt));
    let outstanding = |scheduler: &mut Scheduler, now| {
        while let Next::Request(_) = scheduler.next(LinkId::A, now) {}
        scheduler.link_states[LinkId::A].outstanding(&scheduler.sizes)
    };
    // Ten segments of 1448 bytes, and a file.
    let first = outstanding(&mut scheduler, Duration::ZERO);
    assert!((14_480..=24_480).contains(&first), "{first}");
    // They come within 40 ms, and twenty will follow.
    for at in (510..=550).step_by(10) {
        scheduler.head(LinkId::A, 0, Some(10_000), Some(10_000));
        scheduler.claim(LinkId::A, 2_896);
        scheduler.received(LinkId::A, Duration::from_millis(at), 2_896);
    }
    let second = outstanding(&mut scheduler, Duration::from_millis(550));
    assert!((28_960..=38_960).contains(&second), "{second}");
}

#[test]
fn a_greedy_link_takes_the_last_file_of_a_silent_one() {
    let mut run = run("greedy", &[100_000; 30], [(5e4, 20), (2e6, 20)], true);
    run.until(Duration::from_millis(1000));
    run.lines[1].bytes_per_s = 0.0;
    run.until(Duration::from_millis(20_000));
    // All but what b holds.
    let held = run.lines[1].asked.len();
    let missing = (0..30).filter(|&segment| !run.scheduler.is_complete(segment)).count();
    assert_eq!(missing, held);
}

#[test]
fn a_link_after_a_loss_is_asked_for_its_best_rate() {
    for schedule in ["adaptive", "greedy", "ratio=1:0"] {
        let (mut scheduler, bring) = steady_link(schedule);
        // A fiftieth of its rate for ten seconds.
        (300..1300).for_each(|tick| bring(&mut scheduler, 10 * tick, 75));
        // 375 kB/s for a round trip of 200 ms are three files.
        let outstanding = scheduler.link_states[LinkId::A].outstanding(&scheduler.sizes);
        assert!(outstanding >= 75_000, "{schedule}: {outstanding} bytes are to come");
    }
}

#[test]
fn a_slow_link_does_not_take_a_last_file_that_cannot_be_divided() {
    let sizes = [vec![20_000; 40], vec![1_000_000; 8]].concat();
    let mut run = run("adaptive", &sizes, [(2e6, 20), (1e5, 20)], true);
    run.scheduler.link_states.iter_mut().for_each(|state| state.ranges = false);
    run.until(MINUTE);
    let alone = sizes.iter().sum::<u64>() as f64 / 2e6;
    assert!(run.is_done() && run.seconds() < 1.03 * alone, "{} of {alone}", run.seconds());
    assert_eq!(run.waste, 0);
}

#[test]
fn a_connection_that_brings_nothing_of_use_is_dropped_also_where_one_request_is_all_it_may_have() {
    let mut run = run("adaptive", &[2_000_000; 8], [(1e6, 20), (1e6, 20)], true);
    run.scheduler.pipeline = Pipeline::Depth(1);
    run.until(Duration::from_millis(300));
    assert_eq!(run.scheduler.next(LinkId::A, run.now), Next::Wait(None));
    let asked = &mut run.scheduler.link_states[LinkId::A].connections[0].asked[0];
    asked.part.to = Some(asked.at);
    assert_eq!(run.scheduler.next(LinkId::A, run.now), Next::Drop);
}

#[test]
fn what_an_earlier_run_left_is_not_asked_for_again() {
    let mut run = run("adaptive", &[1000, 1000], [(1e6, 1), (1e6, 1)], true);
    run.scheduler.resume(vec![(0, 1000, Some([(0, 300), (600, 1000)].into_iter().collect()))]);
    run.seen[0][0..300].fill(true);
    run.seen[0][600..].fill(true);
    run.until(MINUTE);
    assert!(run.is_done());
    assert_eq!(run.waste, 0);
}

#[test]
fn a_segment_that_came_wrong_is_fetched_by_the_other_link() {
    let mut scheduler = Scheduler::new(&Schedule::Greedy, Pipeline::Auto, vec![None; 1]);
    assert_eq!(scheduler.next(LinkId::A, Duration::ZERO), Next::Request(PartRequest::whole(0)));
    scheduler.head(LinkId::A, 0, Some(5), Some(5));
    scheduler.claim(LinkId::A, 5);
    scheduler.restart(0, Some(LinkId::B));
    scheduler.ended(LinkId::A);
    assert_eq!(scheduler.next(LinkId::A, Duration::ZERO), Next::Wait(None));
    assert_eq!(scheduler.next(LinkId::B, Duration::ZERO), Next::Request(PartRequest::whole(0)));
}

fn any_schedule() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("greedy".to_string()),
        Just("adaptive".to_string()),
        Just("inorder".to_string()),
        prop_oneof![Just("min-rtt"), Just("ecf"), Just("dems")].prop_map(str::to_string),
        (0u32..5, 1u32..5).prop_map(|(a, b)| format!("ratio={a}:{b}")),
        (0u32..90_000, 1u32..90_000).prop_map(|(a, b)| format!("rates={a}:{b}")),
    ]
}

/// After how many steps something happens to a link, and what.
fn any_events() -> impl Strategy<Value = Vec<(u16, bool, u8)>> {
    prop::collection::vec((0u16..200, any::<bool>(), 0u8..8), 0..25)
}

/// Plays a run in which links change and break, after so many steps each, and checks that it ends.
fn every_byte_comes_once(
    schedule: &str,
    sizes: &[u64],
    lines: [(f64, u64); 2],
    known: bool,
    events: &[(u16, bool, u8)],
) {
    let mut run = run(schedule, sizes, lines, known);
    for &(steps, first, what) in events {
        let until = run.now + STEP * u32::from(steps);
        run.until(until);
        let link = if first { LinkId::A } else { LinkId::B };
        match what {
            0..=2 => run.lose(link),
            3 => run.lines[link.index()].bytes_per_s /= 10.0,
            4 => run.lines[link.index()].bytes_per_s = 1e6,
            5 if !sizes.is_empty() => {
                let segment = usize::from(steps) % sizes.len();
                if !run.scheduler.is_complete(segment) {
                    run.seen[segment].fill(false);
                    run.scheduler.restart(segment, None);
                }
            }
            6 => {
                let told: Vec<_> = sizes.iter().copied().map(Some).collect();
                run.scheduler.learn_sizes(&told);
            }
            _ => {}
        }
    }
    for line in &mut run.lines {
        line.bytes_per_s = line.bytes_per_s.max(1e4);
    }
    let limit = run.now + 10 * MINUTE;
    run.until(limit);
    assert!(run.is_done(), "it did not end: {:?}", run.scheduler);
    assert!(run.seen.iter().flatten().all(|&seen| seen));
    assert_eq!(run.scheduler.next(LinkId::A, run.now), Next::Done);
}

#[test]
fn two_links_do_not_take_the_same_part_from_each_other_without_end() {
    let sizes = [
        22221, 22589, 37578, 59046, 1281, 9091, 51403, 36316, 13028, 36541, 46235, 36959, 49257, 32908,
        11613, 10425, 55404,
    ];
    let events = [
        (100, false, 6),
        (87, true, 3),
        (193, false, 3),
        (72, true, 2),
        (143, true, 1),
        (158, true, 2),
        (23, false, 5),
        (91, false, 1),
    ];
    every_byte_comes_once("inorder", &sizes, [(225_144.6, 61), (116_545.5, 78)], false, &events);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// However the links change and break, it ends, and each byte is new exactly once.
    #[test]
    fn every_byte_is_fetched_once(
        schedule in any_schedule(),
        sizes in prop::collection::vec(0u64..60_000, 0..25),
        rates in [1e4f64..1e6, 1e4f64..1e6],
        rtts in [0u64..100, 0u64..100],
        known: bool,
        events in any_events(),
    ) {
        every_byte_comes_once(&schedule, &sizes, [(rates[0], rtts[0]), (rates[1], rtts[1])], known, &events);
    }

    /// However often the rates change, no more comes twice than may; but for what comes in a step or
    /// two on each link, before it is asked again whether it wastes too much.
    #[test]
    fn what_comes_twice_is_limited(
        schedule in prop_oneof![Just("adaptive"), Just("inorder")],
        count in 2u64..20, mean in 20_000u64..400_000,
        rtts in [0u64..100, 0u64..100],
        changes in prop::collection::vec((1u32..100, any::<bool>(), 1e4f64..2e6), 0..40),
    ) {
        let sizes: Vec<u64> = (0..count).map(|i| mean / 2 + i * 7919 % mean).collect();
        let mut run = run(schedule, &sizes, [(1e6, rtts[0]), (3e5, rtts[1])], true);
        for (steps, first, rate) in changes {
            let until = run.now + STEP * steps;
            run.until(until);
            run.lines[usize::from(first)].bytes_per_s = rate;
        }
        run.until(10 * MINUTE);
        prop_assert!(run.is_done());
        let most = run.scheduler.redundancy_budget() + (4.0 * 2e6 * STEP.as_secs_f64()) as u64;
        prop_assert!(run.waste <= most, "{} of {}", run.waste, sizes.iter().sum::<u64>());
        prop_assert_eq!(run.scheduler.wasted, run.waste);
    }

    /// On steady links, neither is idle but for its round trips while there is work that it could do,
    /// and next to nothing comes twice.
    #[test]
    fn adaptive_keeps_both_links_busy(
        count in 5u64..40, mean in 20_000u64..200_000,
        rates in [1e5f64..2e6, 1e5f64..2e6],
        rtts in [0u64..100, 0u64..100],
    ) {
        let sizes: Vec<u64> = (0..count).map(|i| mean / 2 + i * 7919 % mean).collect();
        let mut run = run("adaptive", &sizes, [(rates[0], rtts[0]), (rates[1], rtts[1])], true);
        run.until(10 * MINUTE);
        prop_assert!(run.is_done());
        let bytes: u64 = sizes.iter().sum();
        let waits: f64 = (0..2).map(|i| rates[i] * rtts[i] as f64 / 1e3).sum();
        let alone = (0..2).map(|i| bytes as f64 / rates[i] + rtts[i] as f64 / 1e3).fold(f64::MAX, f64::min);
        let bound = alone.min((bytes as f64 + waits) / (rates[0] + rates[1]));
        let lost_s = rtts.iter().max().map_or(0.0, |&rtt| rtt as f64 / 1e3);
        for line in &run.lines {
            prop_assert!(line.idle[0] <= 2 * line.rtt + 2 * STEP, "{line:?}");
        }
        prop_assert!(run.seconds() <= 1.03 * bound + lost_s + 0.08, "{} of {bound}", run.seconds());
    }
}

#[test]
fn a_link_that_was_done_in_one_burst_takes_over_all_of_one_that_dribbles() {
    let mut scheduler = Scheduler::new(&Schedule::Adaptive, Pipeline::Auto, vec![Some(300_000); 4]);
    for link in LinkId::BOTH {
        scheduler.opened(link, Duration::ZERO, Duration::ZERO);
    }
    let bring = |scheduler: &mut Scheduler, part: PartRequest, now: Duration| {
        let to = part.to.unwrap_or(300_000);
        scheduler.head(LinkId::A, part.from, Some(to - part.from), Some(300_000));
        let half = (to - part.from) / 2;
        scheduler.claim(LinkId::A, half);
        scheduler.received(LinkId::A, now, half);
        scheduler.claim(LinkId::A, to - part.from - half);
        scheduler.ended(LinkId::A);
        // As the client does: the read that ends an answer is counted when it has been worked through.
        scheduler.received(LinkId::A, now + Duration::from_micros(500), to - part.from - half);
    };
    let Next::Request(slow) = scheduler.next(LinkId::B, Duration::ZERO) else { panic!("b is asked") };
    let slow_to = slow.to.unwrap_or(300_000);
    scheduler.head(LinkId::B, slow.from, Some(slow_to - slow.from), Some(300_000));
    // Link a brings its parts in an instant; a byte arrives on b now and then.
    for tick in 0..100 {
        let now = Duration::from_millis(100 * tick);
        scheduler.claim(LinkId::B, 1);
        scheduler.received(LinkId::B, now, 1);
        while let Next::Request(part) = scheduler.next(LinkId::A, now) {
            bring(&mut scheduler, part, now);
        }
    }
    assert!((0..4).all(|segment| scheduler.is_whole(segment)), "b was waited for");
}

#[test]
fn an_excluded_segment_comes_over_the_other_link() {
    for schedule in ["greedy", "adaptive", "inorder", "min-rtt", "ecf", "dems"] {
        let mut run = run(schedule, &media(), [(2e6, 20), (1e6, 20)], true);
        run.until(Duration::from_millis(200));
        // One that has been asked for, and one that waits.
        let asked = run.lines[0].asked.back().map(|asked| asked.0.segment).unwrap();
        for segment in [asked, 39] {
            assert!(run.scheduler.exclude(LinkId::A, segment), "{schedule}");
        }
        run.lose(LinkId::A);
        while !run.is_done() && run.now < MINUTE {
            let next = run.now + STEP;
            run.until(next);
            let again = run.lines[0].asked.iter().any(|line| [asked, 39].contains(&line.0.segment));
            assert!(!again, "{schedule} asks for it again");
        }
        assert!(run.is_done(), "{schedule}");
    }
}

#[test]
fn a_segment_that_no_link_brings_is_abandoned_alone() {
    for schedule in ["greedy", "adaptive", "inorder", "min-rtt", "ecf", "dems", "ratio=1:1"] {
        let mut run = run(schedule, &media(), [(2e6, 20), (1e6, 20)], true);
        run.until(Duration::from_millis(100));
        // The schedule's own server is enough where it has one.
        let may_come = run.scheduler.exclude(LinkId::A, 30);
        assert_eq!(may_come, schedule != "ratio=1:1", "{schedule}");
        assert!(!run.scheduler.exclude(LinkId::B, 30) || schedule == "ratio=1:1", "{schedule}");
        while !run.scheduler.is_done() && run.now < MINUTE {
            let next = run.now + STEP;
            run.until(next);
        }
        let missing: Vec<_> = (0..40).filter(|&segment| !run.scheduler.is_complete(segment)).collect();
        assert_eq!(missing, [30], "{schedule}");
        assert!(run.scheduler.is_done(), "{schedule}");
    }
}

#[test]
fn a_deferred_segment_is_asked_for_after_all_others() {
    let mut scheduler = Scheduler::new(&Schedule::Greedy, Pipeline::Depth(1), vec![Some(10); 3]);
    scheduler.defer(0);
    for segment in [1, 2, 0] {
        assert_eq!(scheduler.next(LinkId::A, Duration::ZERO), Next::Request(PartRequest::whole(segment)));
        scheduler.head(LinkId::A, 0, Some(10), Some(10));
        scheduler.claim(LinkId::A, 10);
        scheduler.ended(LinkId::A);
        scheduler.completed(segment);
    }
}

/// How long link b is asked before it counts as slow, where it carried `before` and then `after` bytes/s,
/// in reads every 100 ms with a silence of `silent_ms` between the two; the other carries 3.75 MB/s.
fn slow_after(schedule: &str, before: u64, silent_ms: u64, after: u64) -> Option<u64> {
    let schedule = schedule.parse().unwrap();
    let mut scheduler = Scheduler::new(&schedule, Pipeline::Depth(1), vec![Some(100_000_000); 4]);
    scheduler.set_least_share(0.01);
    let rtt = Duration::from_millis(10);
    for link in LinkId::BOTH {
        scheduler.opened(link, Duration::ZERO, rtt);
        assert!(matches!(scheduler.next(link, Duration::ZERO), Next::Request(_)));
    }
    for ms in (100..60_000).step_by(100) {
        let now = Duration::from_millis(ms);
        scheduler.received(LinkId::A, now, 375_000);
        match ms {
            ..3000 => scheduler.received(LinkId::B, now, before / 10),
            _ if ms < 3000 + silent_ms => {}
            _ => scheduler.received(LinkId::B, now, after / 10),
        }
        if scheduler.is_slow(LinkId::B, now) {
            return Some(ms.saturating_sub(3000 + silent_ms));
        }
    }
    None
}

#[test]
fn a_slow_answer_is_told_from_a_slow_link_and_a_silence() {
    for schedule in ["ratio=1:1", "greedy", "rates=30000:10000"] {
        let at = slow_after(schedule, 1_250_000, 0, 2_500).unwrap();
        assert!((4_800..5_400).contains(&at), "{schedule}: {at} ms");
        // It was slow from the beginning: 5 s, of which 3 are before.
        assert_eq!(slow_after(schedule, 2_500, 0, 2_500), Some(2_000), "{schedule}");
    }
    for schedule in ["adaptive", "inorder"] {
        let at = slow_after(schedule, 1_250_000, 0, 2_500).unwrap();
        assert!(at <= 2_000, "{schedule}: {at} ms");
    }
    for schedule in ["ratio=1:1", "greedy", "adaptive", "inorder"] {
        // EDGE beside 30 Mbit/s is slow by nature.
        assert_eq!(slow_after(schedule, 30_000, 0, 29_000), None, "{schedule}");
        // A link that is back after an outage begins with little.
        assert_eq!(slow_after(schedule, 1_250_000, 8_500, 60_000), None, "{schedule}");
    }
}

#[test]
fn published_schedules_end_near_the_bound_on_like_links() {
    let sizes = vec![500_000; 40];
    for schedule in ["min-rtt", "ecf", "dems"] {
        // 20 MB at 3 MB/s.
        let mut run = run(schedule, &sizes, [(2e6, 20), (1e6, 40)], true);
        run.until(MINUTE);
        assert!(run.is_done() && run.waste == 0, "{schedule}: {} bytes twice", run.waste);
        let done_ms = run.done_ms.iter().copied().fold(0.0, f64::max);
        assert!(done_ms < 1.1 * 6667.0, "{schedule}: {done_ms} ms");
    }
}

#[test]
fn far_slow_link_is_left_alone_by_ecf_at_the_end() {
    let sizes = vec![500_000; 20];
    let [min_rtt, ecf] = ["min-rtt", "ecf"].map(|schedule| {
        let mut run = run(schedule, &sizes, [(4e6, 20), (3e5, 200)], true);
        run.until(MINUTE);
        assert!(run.is_done(), "{schedule}");
        run.done_ms.iter().copied().fold(0.0, f64::max)
    });
    // 10 MB at 4.3 MB/s.
    let bound = 2326.0;
    assert!(ecf < 1.05 * bound && min_rtt > 1.1 * bound, "min-rtt {min_rtt} ms, ecf {ecf} ms");
}

/// Returns whether link b ever counts as slow that brings `bytes_per_s` of a large file, shaped to `shaped` bytes/s;
/// the other link has brought a small file, at once, and has no more to do.
fn is_slow_beside_a_link_that_is_done(schedule: &str, bytes_per_s: u64, shaped: Option<f64>) -> bool {
    let sizes = vec![Some(20_000), Some(100_000_000)];
    let mut scheduler = Scheduler::new(&schedule.parse().unwrap(), Pipeline::Depth(1), sizes);
    scheduler.set_least_share(0.01);
    scheduler.set_shaped_rate(LinkId::B, shaped);
    for link in LinkId::BOTH {
        scheduler.opened(link, Duration::ZERO, Duration::from_millis(1));
        assert!(matches!(scheduler.next(link, Duration::ZERO), Next::Request(_)));
    }
    scheduler.head(LinkId::A, 0, Some(20_000), Some(20_000));
    scheduler.claim(LinkId::A, 20_000);
    scheduler.received(LinkId::A, Duration::from_millis(2), 20_000);
    scheduler.ended(LinkId::A);
    scheduler.completed(0);
    (1..100).any(|tick| {
        let now = Duration::from_millis(200) * tick;
        scheduler.received(LinkId::B, now, bytes_per_s / 5);
        scheduler.is_slow(LinkId::B, now)
    })
}

#[test]
fn a_trickle_is_slow_beside_a_link_that_was_too_fast_to_measure() {
    for schedule in ["ratio=1:1", "greedy", "adaptive", "inorder"] {
        let is_slow = |rate, shaped| is_slow_beside_a_link_that_is_done(schedule, rate, shaped);
        assert!(is_slow(5, None) && is_slow(1_000, None), "{schedule}");
        assert!(
            is_slow(5, Some(1_000.0)) && is_slow(500, Some(1e6)),
            "{schedule}: below a tenth of its link"
        );
        // Links of 64 and of 8 kbit/s are slow by nature.
        assert!(!is_slow(7_500, Some(8_000.0)) && !is_slow(900, Some(1_000.0)), "{schedule}");
        assert!(!is_slow(30_000, None), "{schedule}");
    }
}

#[test]
fn a_trickle_is_no_progress() {
    let gets_on = |least_share: f64, shaped: Option<f64>, bytes: u64| {
        let mut scheduler = Scheduler::new(&Schedule::Greedy, Pipeline::Auto, vec![None; 2]);
        scheduler.set_least_share(least_share);
        scheduler.set_shaped_rate(LinkId::B, shaped);
        (1..=10).any(|second| scheduler.brought_new(LinkId::B, Duration::from_secs(second), bytes))
    };
    assert!(!gets_on(0.01, None, 5) && !gets_on(0.01, None, 700) && !gets_on(0.01, Some(1_000.0), 5));
    assert!(gets_on(0.01, None, 1_000), "8 kB within 10 s");
    assert!(gets_on(0.01, Some(1_000.0), 100), "a link of 8 kbit/s");
    assert!(gets_on(0.0, None, 1), "any server is waited for");
}
