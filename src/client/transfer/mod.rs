//! The state that the two links of a run share: the files, the scheduler, unfinished files, totals.

pub(crate) mod answers;
pub(crate) mod in_flight;
pub(crate) mod refusals;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use super::running;
use super::store::{Earlier, Incoming, Store};
use crate::log::outcome::Outcome;
use crate::log::schema;
use crate::log::schema::{Event, Log};
use crate::manifest::ManifestEntry;
use crate::manifest::digest::Digest;
use crate::schedule::{Claim, ConnectionId, Next, Outlook, Ranges, Scheduler};
use crate::units::{LinkId, PerLink};
use answers::{AnswerOrder, MOST_RESTARTS};
use in_flight::{InFlight, LinkMetrics};
use refusals::Strike;

/// The most files that are checked at a time beside the tasks that receive; beyond it, receiving waits for
/// hashing.
const MOST_CHECKS: usize = 4;
/// A segment that came wrong so often is not fetched again.
const MOST_WRONG: u32 = 4;
/// How long the end of a run waits for the files that are being checked.
const CHECKS_END: Duration = Duration::from_secs(2);
/// A server that contradicts what is known of so many files, and has brought none right between them, holds
/// other files than its list says.
const MOST_CONTRADICTIONS: usize = 2;

/// Why a run cannot go on.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The word for it in `run_end`.
    pub exit: Outcome,
    pub error: anyhow::Error,
}

impl Failure {
    pub(crate) fn new(exit: Outcome, error: impl Into<anyhow::Error>) -> Failure {
        Failure { exit, error: error.into() }
    }
}

/// A segment of which something is coming.
struct Unfinished {
    incoming: Arc<Incoming>,
    /// The size of the whole file, where a server said it.
    total_bytes: Option<u64>,
    /// The ETag of each server's version of the file.
    etags: PerLink<Option<String>>,
    /// The digest that a server promised.
    promised: Option<Digest>,
    parts: Vec<schema::Part>,
    /// The server that said its size first; `None` where an earlier run did.
    sized_by: Option<LinkId>,
}

/// A segment of which everything has come.
pub(crate) struct Finished {
    pub incoming: Arc<Incoming>,
    pub promised: Option<Digest>,
    pub parts: Vec<schema::Part>,
}

impl Finished {
    /// Returns how many of its bytes a link brought in this run.
    fn bytes_of(&self, link: LinkId) -> u64 {
        let of = self.parts.iter().filter(|part| part.link == link);
        of.map(|part| part.to_byte - part.from_byte).sum()
    }

    /// Returns true where no other link brought a part of it.
    pub(crate) fn is_of(&self, link: LinkId) -> bool {
        self.parts.iter().all(|part| part.link == link)
    }
}

/// How often a segment came with the wrong digest, and the links that brought all of it so.
#[derive(Debug, Default)]
struct WrongDigests {
    times: u32,
    alone: PerLink<bool>,
}

/// The work of a run.
pub(crate) struct Transfer {
    pub segments: Vec<ManifestEntry>,
    pub store: Store,
    pub log: Arc<Log>,
    pub give_up: Duration,
    pub metrics: PerLink<LinkMetrics>,
    /// Told when a waiting link may find something to do.
    pub changed: Notify,
    /// Permits to check files beside the tasks that receive.
    pub checks: Arc<Semaphore>,
    /// Whether the run is over, so that no file gets its name any more. Read-locked while one gets it.
    over: RwLock<bool>,
    /// The scheduler's time counts from here.
    began: Duration,
    state: Mutex<TransferState>,
}

struct TransferState {
    scheduler: Scheduler,
    unfinished: HashMap<usize, Unfinished>,
    /// Segments of which everything has come, and which have no name yet.
    checking: HashSet<usize>,
    /// Segments that came wrong.
    wrong: HashMap<usize, WrongDigests>,
    /// Bytes that an earlier run has left of segments that have not been begun in this one.
    left: HashMap<usize, u64>,
    totals: Totals,
    /// Why the run cannot go on, where that was found outside of the tasks that fetch.
    failure: Option<Failure>,
    /// Why a server could not bring a segment, the last reason for each.
    refused: BTreeMap<usize, Failure>,
    /// How many answers failed to bring a segment that was wanted.
    strikes: HashMap<(LinkId, usize, Strike), u32>,
    /// How often a segment was begun anew for a server.
    restarts: HashMap<(LinkId, usize), u32>,
    order: PerLink<AnswerOrder>,
    /// Segments of which a server says another size than the one that is being fetched.
    contradicted: HashSet<(LinkId, usize)>,
    /// Segments of which each server contradicted what is known, since it last brought one right.
    changed: PerLink<HashSet<usize>>,
    /// Segments that a server sends with a Content-Encoding, and servers of which one came wrong then.
    encoded: HashMap<(LinkId, usize), String>,
    encodes: PerLink<bool>,
}

/// The state of a transfer while one task holds it. Its release tells the links that wait, where the
/// scheduler's state has changed for them.
struct Board<'a> {
    state: MutexGuard<'a, TransferState>,
    waiting: &'a Notify,
    changes: u64,
}

impl Deref for Board<'_> {
    type Target = TransferState;

    fn deref(&self) -> &TransferState {
        &self.state
    }
}

impl DerefMut for Board<'_> {
    fn deref_mut(&mut self) -> &mut TransferState {
        &mut self.state
    }
}

impl Drop for Board<'_> {
    fn drop(&mut self) {
        if self.state.scheduler.changes() != self.changes {
            self.waiting.notify_waiters();
        }
    }
}

impl TransferState {
    /// Forgets what has come of a segment, which is of no use.
    fn drop_version(&mut self, segment: usize) {
        let gone = self.unfinished.remove(&segment).map_or(0, |gone| gone.incoming.written());
        self.totals.wasted_bytes += gone;
        self.left.remove(&segment);
    }

    /// Whether a server holds other files than its list says.
    fn has_changed(&self, link: LinkId) -> bool {
        self.changed[link].len() >= MOST_CONTRADICTIONS
    }

    /// Counts that a segment is begun anew for a server. Returns whether that was too often.
    fn restarted(&mut self, link: LinkId, segment: usize) -> bool {
        let restarts = self.restarts.entry((link, segment)).or_default();
        *restarts += 1;
        *restarts > MOST_RESTARTS
    }

    /// Counts a failure to bring a segment. Returns how many there have been of its kind.
    fn strike(&mut self, link: LinkId, segment: usize, strike: Strike) -> u32 {
        let strikes = self.strikes.entry((link, segment, strike)).or_default();
        *strikes += 1;
        *strikes
    }
}

/// How far a run has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub files: u64,
    pub bytes: u64,
    pub wasted_bytes: u64,
    /// Heads of answers, on the wire.
    pub head_bytes: u64,
    pub first_request: Option<Instant>,
    pub last_file: Option<Instant>,
    /// When each link's last new byte came.
    pub last_byte: PerLink<Option<Instant>>,
    pub link_bytes: PerLink<u64>,
    /// Places in the list of what is complete, and when it was.
    pub arrivals: Vec<(usize, Instant)>,
    /// The progress of an earlier run: complete files, and bytes of these and of others.
    pub resumed_files: u64,
    pub resumed_bytes: u64,
}

impl Transfer {
    pub(crate) fn new(
        segments: Vec<ManifestEntry>,
        scheduler: Scheduler,
        store: Store,
        log: Arc<Log>,
        give_up: Duration,
    ) -> Transfer {
        let state = TransferState {
            scheduler,
            unfinished: HashMap::new(),
            checking: HashSet::new(),
            wrong: HashMap::new(),
            left: HashMap::new(),
            totals: Totals::default(),
            failure: None,
            refused: BTreeMap::new(),
            strikes: HashMap::new(),
            restarts: HashMap::new(),
            order: Default::default(),
            contradicted: HashSet::new(),
            changed: Default::default(),
            encoded: HashMap::new(),
            encodes: PerLink::default(),
        };
        let metrics = Default::default();
        Transfer {
            segments,
            store,
            log,
            give_up,
            metrics,
            changed: Notify::new(),
            checks: Arc::new(Semaphore::new(MOST_CHECKS)),
            over: RwLock::new(false),
            began: running::now(),
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> Board<'_> {
        let state = self.state.lock().expect("nobody panics while holding the state");
        Board { changes: state.scheduler.changes(), state, waiting: &self.changed }
    }

    pub(crate) fn metrics(&self, link: LinkId) -> &LinkMetrics {
        &self.metrics[link]
    }

    /// Finds what an earlier run has left, so that it is not fetched again.
    ///
    /// # Errors
    /// When a file is there that is not the one to fetch.
    pub(crate) fn resume(&self) -> anyhow::Result<()> {
        let mut left = Vec::new();
        let mut state = self.state();
        for (index, segment) in self.segments.iter().enumerate() {
            match self.store.earlier(&segment.name, segment.digest)? {
                Earlier::Nothing => {}
                Earlier::Complete(bytes) => {
                    state.totals.resumed_files += 1;
                    state.totals.resumed_bytes += bytes;
                    left.push((index, bytes, None));
                }
                Earlier::Part(bytes, ranges) => {
                    let had = ranges.iter().map(|(from, to)| to - from).sum();
                    state.totals.resumed_bytes += had;
                    state.left.insert(index, had);
                    left.push((index, bytes, Some(ranges)));
                }
            }
        }
        state.scheduler.resume(left);
        Ok(())
    }

    /// Notes what has come of a segment by requests that are over, for a run that goes on after this
    /// one was killed.
    pub(crate) fn note(&self, id: ConnectionId, segment: usize) -> Result<(), Failure> {
        let Some((incoming, size, ranges)) = self.settled(id, segment) else { return Ok(()) };
        let name = &self.segments[segment].name;
        self.store.note(name, &incoming, size, &ranges).map_err(|error| Failure::new(Outcome::Store, error))
    }

    /// Returns an unfinished segment, its size, and which ranges of it no request of another connection brings.
    fn settled(&self, id: ConnectionId, segment: usize) -> Option<(Arc<Incoming>, u64, Ranges)> {
        let state = self.state();
        let size = state.scheduler.size(segment).filter(|_| !state.scheduler.is_complete(segment))?;
        let incoming = state.unfinished.get(&segment)?.incoming.clone();
        Some((incoming, size, state.scheduler.settled(segment, id)))
    }

    /// Notes that all of a segment has come, which is yet to be checked.
    pub(crate) fn note_whole(&self, segment: usize, incoming: &Incoming) -> Result<(), Failure> {
        let bytes = incoming.written();
        let whole = [(0, bytes)].into_iter().collect();
        let name = &self.segments[segment].name;
        self.store.note(name, incoming, bytes, &whole).map_err(|error| Failure::new(Outcome::Store, error))
    }

    /// Asks the scheduler something, or tells it something, with the time on its clock.
    pub(crate) fn schedule<T>(&self, ask: impl FnOnce(&mut Scheduler, Duration) -> T) -> T {
        let now = self.now();
        ask(&mut self.state().scheduler, now)
    }

    /// The scheduler's time: that in which this process ran.
    pub(crate) fn now(&self) -> Duration {
        running::now().saturating_sub(self.began)
    }

    /// A moment on the scheduler's clock as one on this machine's.
    pub(crate) fn moment(&self, at: Duration) -> Instant {
        Instant::now() + at.saturating_sub(self.now())
    }

    /// Returns the next step of a connection: a request with the facts that are known of it, or why there is none.
    pub(crate) fn next(&self, id: impl Into<ConnectionId>, now: Instant) -> Result<InFlight, Next> {
        let (id, mut state) = (id.into(), self.state());
        let link = id.link;
        let next = state.scheduler.next(id, self.now());
        if let Some(problem) = state.scheduler.take_advice_failure() {
            let error = anyhow!("cannot follow the program of --schedule exec: {problem}");
            state.failure.get_or_insert(Failure::new(Outcome::Scheduler, error));
            self.changed.notify_waiters();
        }
        let Next::Request(part) = next else { return Err(next) };
        state.totals.first_request.get_or_insert(now);
        let unfinished = state.unfinished.get(&part.segment);
        let etag = unfinished.and_then(|unfinished| unfinished.etags[link].clone());
        let whole = (part.from == 0 && part.to.is_none()) || !state.scheduler.ranges(link);
        Ok(InFlight::new(part, etag, whole, now))
    }

    /// Splits the next `bytes` of the answer on a connection into known and new ones. The caller must write the new
    /// ones.
    pub(crate) fn claim(&self, id: impl Into<ConnectionId>, request: &mut InFlight, bytes: u64) -> Claim {
        let (id, mut state) = (id.into(), self.state());
        let (link, state) = (id.link, &mut *state);
        let claim = state.scheduler.claim(id, bytes);
        state.totals.wasted_bytes += claim.stale;
        let Some(unfinished) = state.unfinished.get_mut(&request.part.segment).filter(|_| claim.fresh > 0)
        else {
            return claim;
        };
        let now = Instant::now();
        let (from_byte, now_ms) = (claim.at + claim.stale, self.log.ms(now));
        state.totals.last_byte[link] = Some(now);
        let parts = &mut unfinished.parts;
        let going_on =
            request.record.filter(|&index| parts.get(index).is_some_and(|p| p.to_byte == from_byte));
        let index = going_on.unwrap_or_else(|| {
            parts.push(schema::Part {
                link,
                from_byte,
                to_byte: from_byte,
                requested_ms: self.log.ms(request.requested),
                first_byte_ms: request.first_byte.map_or(now_ms, |at| self.log.ms(at)),
                done_ms: now_ms,
            });
            parts.len() - 1
        });
        parts[index].to_byte += claim.fresh;
        parts[index].done_ms = now_ms;
        request.record = Some(index);
        claim
    }

    /// Takes a segment of which everything has come into `whole`; none where it has been taken, and
    /// something else may be coming of it anew.
    pub(crate) fn take_finished(&self, segment: usize, whole: &Arc<Incoming>) -> Option<Finished> {
        let mut state = self.state();
        state.unfinished.get(&segment).filter(|unfinished| Arc::ptr_eq(&unfinished.incoming, whole))?;
        let Unfinished { incoming, promised, parts, .. } = state.unfinished.remove(&segment)?;
        state.checking.insert(segment);
        Some(Finished { incoming, promised, parts })
    }

    /// The names of segments that came wrong and are not there yet.
    pub(crate) fn came_wrong(&self) -> Vec<&str> {
        let state = self.state();
        let wrong = state.wrong.keys().filter(|&&segment| !state.scheduler.is_complete(segment));
        let mut wrong: Vec<&str> = wrong.map(|&segment| self.segments[segment].name.as_str()).collect();
        wrong.sort_unstable();
        wrong
    }

    /// A segment came with the wrong digest. Returns the link that is to fetch it again: first the one that brought
    /// less of it, unless its server is away; then the other, if both had brought it. None where each server that is
    /// there has brought all of it wrong.
    /// A digest that only the first server promised does not bind the other.
    pub(crate) fn fetch_again(&self, segment: usize, finished: &Finished) -> Option<LinkId> {
        let mut state = self.state();
        let from = PerLink::of(|link| finished.bytes_of(link));
        state.totals.wasted_bytes += from.a + from.b;
        state.checking.remove(&segment);
        let other = if from.a > from.b { LinkId::B } else { LinkId::A };
        if state.contradicted.remove(&(other, segment)) {
            // It was right to say that it has another file.
            state.scheduler.readmit(other, segment);
        }
        if state.encoded.contains_key(&(other.other(), segment)) {
            state.encodes[other.other()] = true;
        }
        let is_up = PerLink::of(|link| state.scheduler.is_up(link));
        let wrong = state.wrong.entry(segment).or_default();
        wrong.times += 1;
        if from[other] == 0 {
            wrong.alone[other.other()] = true;
        }
        let untried = [other, other.other()].into_iter().find(|&link| is_up[link] && !wrong.alone[link]);
        let last = (wrong.times == 1).then_some(other.other());
        let link = untried.or(last).filter(|_| wrong.times < MOST_WRONG)?;
        state.scheduler.restart(segment, Some(link));
        Some(link)
    }

    /// A connection is gone: what it still owed is to be fetched still.
    pub(crate) fn lost(&self, id: impl Into<ConnectionId>) {
        self.schedule(|scheduler, _| scheduler.lost(id));
    }

    /// Does `work`, which gives a file its name and records it, unless the run is over.
    pub(crate) fn unless_over(&self, work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let over = self.over.read().expect("nobody panics while a file gets its name");
        if *over { Ok(()) } else { work() }
    }

    /// Ends the run: waits up to 2 s for the files that are being checked. After that no file gets its name, so
    /// that the last record counts them all.
    pub(crate) async fn end(&self) {
        drop(timeout(CHECKS_END, self.checks.acquire_many(MOST_CHECKS as u32)).await);
        *self.over.write().expect("nobody panics while a file gets its name") = true;
        self.store.cancel();
    }

    /// Ends the run, from outside of the tasks that fetch.
    pub(crate) fn fail(&self, failure: Failure) {
        self.state().failure.get_or_insert(failure);
        self.changed.notify_waiters();
    }

    /// Waits until every file is there.
    ///
    /// # Errors
    /// The failure that [`Transfer::fail`] was told.
    pub(crate) async fn all_done(&self) -> Result<(), Failure> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(failure) = self.state().failure.take() {
                return Err(failure);
            }
            if let Some(failure) = self.unobtainable() {
                return Err(failure);
            }
            if self.missing() == 0 {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Gives a link up. Returns whether the rest can still be fetched.
    pub(crate) fn give_up(&self, link: LinkId) -> bool {
        self.state().scheduler.give_up(link)
    }

    /// Waits until there is something for `link` to fetch, or until there will not be.
    pub(crate) async fn work_left(&self, link: LinkId) -> bool {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Being told of a change counts from before the question, so that none is missed.
            changed.as_mut().enable();
            let outlook = self.state().scheduler.outlook(link);
            match outlook {
                Outlook::Work => return true,
                Outlook::Nothing => return false,
                Outlook::Perhaps => changed.await,
            }
        }
    }

    /// The file at `index` is under its name; `parts` says which link brought what of it.
    pub(crate) fn completed(&self, link: LinkId, index: usize, parts: &[schema::Part], at: Instant) {
        let mut state = self.state();
        state.scheduler.completed(index);
        state.checking.remove(&index);
        if !state.has_changed(link) && parts.iter().all(|part| part.link == link) {
            state.changed[link].clear();
        }
        let totals = &mut state.totals;
        for part in parts {
            let bytes = part.to_byte - part.from_byte;
            totals.bytes += bytes;
            totals.link_bytes[part.link] += bytes;
        }
        totals.files += 1;
        totals.arrivals.push((index, at));
        totals.last_file = Some(at);
        // Before the state is released, which may end the run.
        self.metrics(link).files.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn received_head(&self, bytes: usize) {
        self.state().totals.head_bytes += bytes as u64;
    }

    pub(crate) fn wasted(&self, bytes: u64) {
        self.state().totals.wasted_bytes += bytes;
    }

    /// How many files are not there yet.
    pub(crate) fn missing(&self) -> u64 {
        let state = self.state();
        let totals = &state.totals;
        self.segments.len() as u64 - totals.files - totals.resumed_files
    }

    pub(crate) fn totals(&self) -> Totals {
        self.state().totals.clone()
    }

    /// Writes a fault to the log; a log that cannot be written ends the run by itself elsewhere.
    pub(crate) fn fault(&self, link: LinkId, what: String, action: String) {
        let fault = schema::Fault { link: Some(link), segment: None, what, action };
        if let Err(error) = self.log.write(Event::Fault(fault)) {
            tracing::warn!("cannot log a fault: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::answers::BodyFacts;
    use super::*;
    use crate::log::schema::Stdout;
    use crate::manifest;
    use crate::schedule::{Pipeline, Schedule};

    /// A transfer of one file, with connections on these links.
    fn transfer(up: &[LinkId]) -> Transfer {
        transfer_of("x0", up)
    }

    fn transfer_of(pattern: &str, up: &[LinkId]) -> Transfer {
        let segments = manifest::expand(pattern).unwrap();
        let mut scheduler = Scheduler::new(&Schedule::Greedy, Pipeline::Auto, vec![None; segments.len()]);
        up.iter().for_each(|&link| scheduler.opened(link, Duration::ZERO, Duration::ZERO));
        let store = Store::open(None, true, []).unwrap();
        let log = Arc::new(Log::new("test".into(), None, Stdout::Nothing).unwrap());
        Transfer::new(segments, scheduler, store, log, Duration::from_secs(1))
    }

    /// Asks for the file on `link` and has so many of its 5 bytes come.
    fn bring(transfer: &Transfer, link: LinkId, bytes: u64) -> InFlight {
        let mut request = transfer.next(link, Instant::now()).unwrap();
        let body = BodyFacts { from: 0, length: Some(5), total_bytes: Some(5), etag: None, promised: None };
        transfer.begin(link, &mut request, body, false).unwrap();
        assert_eq!(transfer.claim(link, &mut request, bytes).fresh, bytes);
        request
    }

    #[test]
    fn who_has_seen_a_file_come_wrong_does_not_end_it_before_it_has_come_again() {
        let transfer = transfer(&LinkId::BOTH);
        let wrong = bring(&transfer, LinkId::A, 5).incoming.unwrap();
        let finished = transfer.take_finished(0, &wrong).unwrap();
        assert_eq!(transfer.fetch_again(0, &finished), Some(LinkId::B));
        let right = bring(&transfer, LinkId::B, 2).incoming.unwrap();
        assert!(transfer.take_finished(0, &wrong).is_none());
        assert!(transfer.take_finished(0, &right).is_some());
    }

    #[test]
    fn what_is_being_checked_is_not_begun_again_by_an_answer_that_comes_late() {
        let transfer = transfer(&LinkId::BOTH);
        let mut late = transfer.next(LinkId::A, Instant::now()).unwrap();
        transfer.lost(LinkId::A);
        let whole = bring(&transfer, LinkId::B, 5).incoming.unwrap();
        transfer.schedule(|scheduler, now| scheduler.opened(LinkId::A, now, Duration::ZERO));
        assert!(transfer.take_finished(0, &whole).is_some());
        for anew in [false, true] {
            let body =
                BodyFacts { from: 0, length: Some(5), total_bytes: Some(5), etag: None, promised: None };
            transfer.begin(LinkId::A, &mut late, body, anew).unwrap();
            assert!(late.incoming.is_none());
        }
    }

    #[test]
    fn a_server_with_other_files_is_dropped_once_that_is_known() {
        let changed = |name: &str| Failure::new(Outcome::FilesChanged, anyhow!("{name} differs"));
        // Of four files: b lies about one, brings one right, lies about one again, then about a third.
        let transfer = transfer_of("x{0..3}", &LinkId::BOTH);
        transfer.exclude(LinkId::B, 0, changed("x0"));
        transfer.completed(LinkId::B, 1, &[], Instant::now());
        transfer.exclude(LinkId::B, 2, changed("x2"));
        assert!(
            transfer.state().scheduler.may_bring(LinkId::B, 3),
            "one lie between right files is one file's"
        );
        transfer.exclude(LinkId::B, 3, changed("x3"));
        assert_eq!(transfer.log.faults().0, 3);

        let transfer = transfer_of("x{0..39}", &LinkId::BOTH);
        (0..40).for_each(|segment| transfer.exclude(LinkId::B, segment, changed("it")));
        assert_eq!(transfer.log.faults().0, 2);
        assert!((0..40).all(|segment| transfer.state().scheduler.may_bring(LinkId::A, segment)));
        assert!(
            transfer.next(LinkId::B, Instant::now()).is_err()
                && transfer.next(LinkId::A, Instant::now()).is_ok()
        );

        // Files that the other server cannot bring are still asked for, one by one.
        let transfer = transfer_of("x{0..39}", &LinkId::BOTH);
        transfer.give_up(LinkId::A);
        (0..2).for_each(|segment| transfer.exclude(LinkId::B, segment, changed("it")));
        assert!(transfer.next(LinkId::B, Instant::now()).is_ok());
    }

    #[test]
    fn a_wrong_file_is_asked_of_the_same_server_where_the_other_is_away_and_only_once() {
        let transfer = transfer(&[LinkId::A]);
        for again in [Some(LinkId::A), None] {
            let wrong = bring(&transfer, LinkId::A, 5).incoming.unwrap();
            let finished = transfer.take_finished(0, &wrong).unwrap();
            assert_eq!(transfer.fetch_again(0, &finished), again);
            assert_eq!(transfer.came_wrong(), ["x0"]);
            transfer.schedule(|scheduler, _| scheduler.ended(LinkId::A));
        }
    }

    #[test]
    fn a_wrong_file_that_both_brought_is_asked_of_each_alone() {
        let transfer = transfer(&LinkId::BOTH);
        let mut again = Some(LinkId::A);
        for (expected, mixed) in [(Some(LinkId::B), true), (Some(LinkId::A), false), (None, false)] {
            let link = again.unwrap();
            let wrong = bring(&transfer, link, 5).incoming.unwrap();
            let mut finished = transfer.take_finished(0, &wrong).unwrap();
            if mixed {
                finished.parts[0].to_byte = 3;
                let rest =
                    schema::Part { link: LinkId::B, from_byte: 3, to_byte: 5, ..finished.parts[0].clone() };
                finished.parts.push(rest);
            }
            again = transfer.fetch_again(0, &finished);
            assert_eq!(again, expected);
            transfer.schedule(|scheduler, _| scheduler.ended(link));
        }
    }

    #[test]
    fn work_that_comes_back_wakes_the_link_that_waits() {
        type ComesBack = fn(&Transfer);
        fn gone() -> Failure {
            Failure::new(Outcome::MissingFile, anyhow!("it is not there"))
        }
        let cases: [(&str, ComesBack); 6] = [
            ("passed over", |transfer| transfer.schedule(|scheduler, _| scheduler.passed_over(LinkId::A))),
            ("lost", |transfer| transfer.lost(LinkId::A)),
            ("another version", |transfer| transfer.version_changed(LinkId::A, 0)),
            ("excluded", |transfer| transfer.exclude(LinkId::A, 0, gone())),
            ("given up", |transfer| assert!(transfer.give_up(LinkId::A))),
            ("abandoned", |transfer| transfer.abandon(LinkId::A, 0, gone())),
        ];
        for (name, comes_back) in cases {
            let transfer = transfer(&LinkId::BOTH);
            transfer.next(LinkId::A, Instant::now()).unwrap();
            assert!(transfer.next(LinkId::B, Instant::now()).is_err(), "{name}: there is one file");
            let mut waiting = std::pin::pin!(transfer.changed.notified());
            assert!(!waiting.as_mut().enable(), "{name}");
            comes_back(&transfer);
            assert!(waiting.as_mut().enable(), "{name}: nobody is told");
        }
    }
}
