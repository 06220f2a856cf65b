//! The state that the two links of a run share: the files, the scheduler, unfinished files, totals.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};

use super::running;
use super::store::{Earlier, Incoming, Store};
use crate::log::outcome::Outcome;
use crate::log::schema;
use crate::log::schema::{Event, Log};
use crate::manifest::ManifestEntry;
use crate::manifest::digest::Digest;
use crate::schedule::{Claim, Next, Outlook, PartRequest, Ranges, Scheduler};
use crate::units::LinkId;

/// The most files that are checked at a time beside the tasks that receive; beyond it, receiving waits for
/// hashing.
const MOST_CHECKS: usize = 4;
/// The answers of one server that bring nothing new of a file before it is not asked for it again.
const MOST_STRIKES: u32 = 3;
/// The most restarts of a file because a server reports another version.
const MOST_RESTARTS: u32 = 3;
/// The most files that an error names.
const MOST_NAMED: usize = 10;

/// A server that contradicts what is known of so many files, and has brought none right between them, holds
/// other files than its list says.
const MOST_CONTRADICTIONS: usize = 2;

/// Why a run cannot go on.
#[derive(Debug)]
pub struct Failure {
    /// The word for it in `run_end`.
    pub exit: Outcome,
    pub error: anyhow::Error,
}

impl Failure {
    pub fn new(exit: Outcome, error: impl Into<anyhow::Error>) -> Failure {
        Failure { exit, error: error.into() }
    }
}

/// A segment of which something is coming.
struct Unfinished {
    incoming: Arc<Incoming>,
    /// The size of the whole file, where a server said it.
    total_bytes: Option<u64>,
    /// The ETag of each server's version of the file.
    etags: [Option<String>; 2],
    /// The digest that a server promised.
    promised: Option<Digest>,
    parts: Vec<schema::Part>,
    /// The server that said its size first; `None` where an earlier run did.
    sized_by: Option<LinkId>,
}

/// Whether the answers of a server fit the requests that they come for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerOrder {
    /// Nothing has shown it yet: one request at a time.
    #[default]
    Unknown,
    /// A size that was known before has shown it.
    SizesFit,
    /// A digest has shown it.
    DigestsFit,
    /// One did not, behind another: one request at a time from then on.
    Fails,
}

/// A segment of which everything has come.
pub struct Finished {
    pub incoming: Arc<Incoming>,
    pub promised: Option<Digest>,
    pub parts: Vec<schema::Part>,
}

/// A request that has been sent, or is about to be.
pub struct InFlight {
    pub part: PartRequest,
    /// The version that a range was asked of.
    pub etag: Option<String>,
    pub requested: Instant,
    pub first_byte: Option<Instant>,
    /// Where the answer's bytes go; none before its head, nor where they are of no use.
    pub incoming: Option<Arc<Incoming>>,
    /// The size of the whole file, where the answer said it.
    pub total_bytes: Option<u64>,
    /// It was asked for without a range.
    pub whole: bool,
    /// The answer does not say how long its body is. It has to end here at the latest, as far as its head
    /// says.
    pub unstated: bool,
    pub ends: Option<u64>,
    /// Nothing of the answer is of use.
    pub passed_over: bool,
    /// Which of the segment's part records it adds to.
    record: Option<usize>,
}

impl InFlight {
    fn new(part: PartRequest, etag: Option<String>, whole: bool, now: Instant) -> InFlight {
        InFlight {
            part,
            etag,
            requested: now,
            first_byte: None,
            incoming: None,
            total_bytes: None,
            whole,
            unstated: false,
            ends: None,
            passed_over: false,
            record: None,
        }
    }
}

/// A way in which a server's answers may fail to bring a segment; so many are counted of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Strike {
    /// The connection broke before the answer began.
    NoAnswer,
    /// The answer brought nothing new of what was wanted.
    NothingNew,
    /// It came too slowly.
    Slow,
}

/// The facts of a body from an answer's head.
#[derive(Debug)]
pub struct BodyFacts {
    pub from: u64,
    pub length: Option<u64>,
    pub total_bytes: Option<u64>,
    pub etag: Option<String>,
    pub promised: Option<Digest>,
}

/// The metrics of a link that other tasks read while it runs.
#[derive(Default)]
pub struct LinkMetrics {
    /// Payload received.
    pub bytes: AtomicU64,
    /// Heads of answers received.
    pub head_bytes: AtomicU64,
    pub files: AtomicU64,
    pub in_flight: AtomicU64,
    pub connections: AtomicU64,
    pub socket: Mutex<Option<Arc<TcpStream>>>,
    /// The server's last report on its end of that socket, and its time.
    pub sender: Mutex<Option<(Instant, schema::Sender)>>,
    /// Payload of a full segment, as negotiated; 0 until it was read.
    pub mss: AtomicU64,
    /// Whether TCP goes without timestamps, so that more of a frame is payload.
    pub no_timestamps: AtomicBool,
}

impl LinkMetrics {
    pub fn socket(&self) -> MutexGuard<'_, Option<Arc<TcpStream>>> {
        self.socket.lock().expect("nobody panics while holding a socket")
    }

    pub fn sender(&self) -> MutexGuard<'_, Option<(Instant, schema::Sender)>> {
        self.sender.lock().expect("nobody panics while holding a report")
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn mss_bytes(&self) -> f64 {
        self.mss.load(Ordering::Relaxed) as f64
    }
}

/// The work of a run.
pub struct Transfer {
    pub segments: Vec<ManifestEntry>,
    pub store: Store,
    pub log: Arc<Log>,
    pub give_up: Duration,
    pub gauges: [LinkMetrics; 2],
    /// Told when a waiting link may find something to do.
    pub changed: Notify,
    /// Permits to check files beside the tasks that receive.
    pub checks: Arc<Semaphore>,
    /// The scheduler's time counts from here.
    began: Duration,
    board: Mutex<TransferState>,
}

struct TransferState {
    scheduler: Scheduler,
    unfinished: HashMap<usize, Unfinished>,
    /// Segments of which everything has come, and which have no name yet.
    checking: HashSet<usize>,
    /// Segments that came wrong once.
    wrong: HashSet<usize>,
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
    order: [AnswerOrder; 2],
    /// Segments of which a server says another size than the one that is being fetched.
    contradicted: HashSet<(LinkId, usize)>,
    /// Segments of which each server contradicted what is known, since it last brought one right.
    changed: [HashSet<usize>; 2],
    /// Segments that a server sends with a Content-Encoding, and servers of which one came wrong then.
    encoded: HashMap<(LinkId, usize), String>,
    encodes: [bool; 2],
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
        self.changed[link.index()].len() >= MOST_CONTRADICTIONS
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
pub struct Totals {
    pub files: u64,
    pub bytes: u64,
    pub wasted_bytes: u64,
    /// Heads of answers, on the wire.
    pub head_bytes: u64,
    pub first_request: Option<Instant>,
    pub last_file: Option<Instant>,
    /// When each link's last new byte came.
    pub last_byte: [Option<Instant>; 2],
    pub link_bytes: [u64; 2],
    /// Places in the list of what is complete, and when it was.
    pub arrivals: Vec<(usize, Instant)>,
    /// The progress of an earlier run: complete files, and bytes of these and of others.
    pub resumed_files: u64,
    pub resumed_bytes: u64,
}

impl Transfer {
    pub fn new(
        segments: Vec<ManifestEntry>,
        scheduler: Scheduler,
        store: Store,
        log: Arc<Log>,
        give_up: Duration,
    ) -> Transfer {
        let board = TransferState {
            scheduler,
            unfinished: HashMap::new(),
            checking: HashSet::new(),
            wrong: HashSet::new(),
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
            encodes: [false; 2],
        };
        let gauges = Default::default();
        Transfer {
            segments,
            store,
            log,
            give_up,
            gauges,
            changed: Notify::new(),
            checks: Arc::new(Semaphore::new(MOST_CHECKS)),
            began: running::now(),
            board: Mutex::new(board),
        }
    }

    fn board(&self) -> Board<'_> {
        let state = self.board.lock().expect("nobody panics while holding the board");
        Board { changes: state.scheduler.changes(), state, waiting: &self.changed }
    }

    pub fn gauge(&self, link: LinkId) -> &LinkMetrics {
        &self.gauges[link.index()]
    }

    /// Finds what an earlier run has left, so that it is not fetched again.
    ///
    /// # Errors
    /// When a file is there that is not the one to fetch.
    pub fn resume(&self) -> anyhow::Result<()> {
        let mut left = Vec::new();
        let mut board = self.board();
        for (index, segment) in self.segments.iter().enumerate() {
            match self.store.earlier(&segment.name, segment.digest)? {
                Earlier::Nothing => {}
                Earlier::Complete(bytes) => {
                    board.totals.resumed_files += 1;
                    board.totals.resumed_bytes += bytes;
                    left.push((index, bytes, None));
                }
                Earlier::Part(bytes, ranges) => {
                    let had = ranges.iter().map(|(from, to)| to - from).sum();
                    board.totals.resumed_bytes += had;
                    board.left.insert(index, had);
                    left.push((index, bytes, Some(ranges)));
                }
            }
        }
        board.scheduler.resume(left);
        Ok(())
    }

    /// Notes what has come of a segment by requests that are over, for a run that goes on after this
    /// one was killed.
    pub fn note(&self, link: LinkId, segment: usize) -> Result<(), Failure> {
        let Some((incoming, size, ranges)) = self.settled(link, segment) else { return Ok(()) };
        let name = &self.segments[segment].name;
        self.store.note(name, &incoming, size, &ranges).map_err(|error| Failure::new(Outcome::Store, error))
    }

    /// Returns an unfinished segment, its size, and which ranges of it no request but of `link` brings.
    fn settled(&self, link: LinkId, segment: usize) -> Option<(Arc<Incoming>, u64, Ranges)> {
        let board = self.board();
        let size = board.scheduler.size(segment).filter(|_| !board.scheduler.is_complete(segment))?;
        let incoming = board.unfinished.get(&segment)?.incoming.clone();
        Some((incoming, size, board.scheduler.settled(segment, link.other())))
    }

    /// Notes that all of a segment has come, which is yet to be checked.
    pub fn note_whole(&self, segment: usize, incoming: &Incoming) -> Result<(), Failure> {
        let bytes = incoming.written();
        let whole = [(0, bytes)].into_iter().collect();
        let name = &self.segments[segment].name;
        self.store.note(name, incoming, bytes, &whole).map_err(|error| Failure::new(Outcome::Store, error))
    }

    /// Asks the scheduler something, or tells it something, with the time on its clock.
    pub fn schedule<T>(&self, ask: impl FnOnce(&mut Scheduler, Duration) -> T) -> T {
        let now = self.now();
        ask(&mut self.board().scheduler, now)
    }

    /// The scheduler's time: that in which this process ran.
    pub fn now(&self) -> Duration {
        running::now().saturating_sub(self.began)
    }

    /// A moment on the scheduler's clock as one on this machine's.
    pub fn moment(&self, at: Duration) -> Instant {
        Instant::now() + at.saturating_sub(self.now())
    }

    /// Returns the next step of `link`: a request with the facts that are known of it, or why there is none.
    pub fn next(&self, link: LinkId, now: Instant) -> Result<InFlight, Next> {
        let mut board = self.board();
        let next = board.scheduler.next(link, self.now());
        let Next::Request(part) = next else { return Err(next) };
        board.totals.first_request.get_or_insert(now);
        let unfinished = board.unfinished.get(&part.segment);
        let etag = unfinished.and_then(|unfinished| unfinished.etags[link.index()].clone());
        let whole = (part.from == 0 && part.to.is_none()) || !board.scheduler.ranges(link);
        Ok(InFlight::new(part, etag, whole, now))
    }

    /// The answer to the first request of `link` begins. Returns whether anything of it is of use; if not,
    /// that server is not asked for the segment again.
    ///
    /// # Errors
    /// No file can be made for it.
    pub fn begin(
        &self,
        link: LinkId,
        request: &mut InFlight,
        body: BodyFacts,
        anew: bool,
    ) -> Result<bool, Failure> {
        let mut guard = self.board();
        let board = &mut *guard;
        let segment = request.part.segment;
        let has_come = board.scheduler.is_complete(segment) || board.checking.contains(&segment);
        if !has_come && let Some(problem) = self.contradiction(board, link, segment, &body) {
            // The list's digest is right, so the version that is being fetched is not.
            let right = body.promised.is_some() && body.promised == self.segments[segment].digest;
            if !right {
                board.contradicted.insert((link, segment));
                drop(guard);
                self.exclude(link, segment, Failure::new(Outcome::FilesChanged, anyhow!("{problem}")));
                return Ok(false);
            }
            board.drop_version(segment);
            match body.from {
                0 => board.scheduler.begins_anew(link),
                _ => board.scheduler.restart(segment, None),
            }
        } else if anew && !has_come {
            if board.restarted(link, segment) {
                drop(guard);
                self.reject(link, segment, self.too_many_versions(link, segment));
                return Ok(false);
            }
            board.drop_version(segment);
            board.scheduler.begins_anew(link);
        }
        let name = &self.segments[segment].name;
        let known = board.scheduler.size(segment);
        if !has_come && known.zip(body.total_bytes).is_some_and(|(known, said)| known != said) {
            // The size came of a HEAD, which is a hint.
            match body.from {
                0 => board.scheduler.begins_anew(link),
                _ => board.scheduler.restart(segment, None),
            }
        }
        board.scheduler.head(link, body.from, body.length, body.total_bytes);
        if has_come {
            return Ok(true);
        }
        let unfinished = match board.unfinished.entry(segment) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let incoming = match board.left.remove(&segment) {
                    Some(had) => self.store.go_on(name, had),
                    None => self.store.begin(name),
                };
                entry.insert(Unfinished {
                    incoming: Arc::new(incoming.map_err(|error| Failure::new(Outcome::Store, error))?),
                    total_bytes: None,
                    etags: [None, None],
                    promised: None,
                    parts: Vec::new(),
                    sized_by: None,
                })
            }
        };
        if unfinished.total_bytes.is_none() && body.total_bytes.is_some() {
            (unfinished.total_bytes, unfinished.sized_by) = (body.total_bytes, Some(link));
        }
        unfinished.etags[link.index()] = body.etag;
        unfinished.promised = unfinished.promised.or(body.promised);
        request.total_bytes = unfinished.total_bytes;
        request.incoming = Some(unfinished.incoming.clone());
        Ok(true)
    }

    /// Says how an answer contradicts what is known of a segment that is being fetched.
    fn contradiction(
        &self,
        board: &TransferState,
        link: LinkId,
        segment: usize,
        body: &BodyFacts,
    ) -> Option<String> {
        let name = &self.segments[segment].name;
        let unfinished = board.unfinished.get(&segment);
        if let (Some(had), Some(said)) = (unfinished.and_then(|had| had.promised), body.promised)
            && had != said
        {
            return Some(format!(
                "server {link} says that {name} has the digest {said}, and it had {had} before"
            ));
        }
        let had = match unfinished {
            Some(unfinished) => unfinished.total_bytes,
            None => board.left.get(&segment).and_then(|_| board.scheduler.size(segment)),
        };
        let (had, said) = had.zip(body.total_bytes).filter(|(had, said)| had != said)?;
        let by = match unfinished.and_then(|unfinished| unfinished.sized_by) {
            Some(by) if by == link => "it said itself before".to_string(),
            Some(by) => format!("server {by} says"),
            None => "an earlier run was told".to_string(),
        };
        Some(format!(
            "server {link} says that {name} has {said} bytes, and {by} {had}: they are not the same file"
        ))
    }

    /// The server of `link` has another version of a segment than the one that came so far, which is of
    /// no use then. A server that has yet another one each time is not asked for it again.
    pub fn version_changed(&self, link: LinkId, segment: usize) {
        let mut board = self.board();
        if board.scheduler.is_complete(segment) || board.checking.contains(&segment) {
            return;
        }
        if board.restarted(link, segment) {
            drop(board);
            return self.reject(link, segment, self.too_many_versions(link, segment));
        }
        board.drop_version(segment);
        board.scheduler.restart(segment, None);
    }

    fn too_many_versions(&self, link: LinkId, segment: usize) -> Failure {
        let name = &self.segments[segment].name;
        let error = anyhow!(
            "server {link} says that {name} is another version each time it is asked (by its ETag), \
             {MOST_RESTARTS} times"
        );
        Failure::new(Outcome::FilesChanged, error)
    }

    /// The server of `link` cannot bring a segment, and what came of it may be wrong: the other server
    /// brings all of it.
    pub fn reject(&self, link: LinkId, segment: usize, reason: Failure) {
        self.exclude(link, segment, reason);
        let mut board = self.board();
        let over = board.scheduler.is_complete(segment) || board.checking.contains(&segment);
        if !over && !board.scheduler.abandoned().contains(&segment) {
            board.drop_version(segment);
            board.scheduler.restart(segment, None);
        }
    }

    /// Whether the answers of a server fit the requests that they come for.
    pub fn order(&self, link: LinkId) -> AnswerOrder {
        self.board().order[link.index()]
    }

    /// An answer of a server fitted its request, as `by` says.
    pub fn order_fits(&self, link: LinkId, by: AnswerOrder) {
        let mut board = self.board();
        let order = &mut board.order[link.index()];
        let better = matches!(
            (*order, by),
            (AnswerOrder::Unknown, _) | (AnswerOrder::SizesFit, AnswerOrder::DigestsFit)
        );
        if better {
            *order = by;
            drop(board);
            self.changed.notify_waiters();
        }
    }

    /// An answer of a server did not fit its request, which was not the only one: the server is asked one
    /// request at a time.
    pub fn order_fails(&self, link: LinkId) {
        self.board().order[link.index()] = AnswerOrder::Fails;
    }

    /// Notes that a server sends a segment with a Content-Encoding. Returns whether its digest may yet
    /// show that this changed nothing.
    pub fn may_be_encoded(&self, link: LinkId, segment: usize, encoding: &str) -> bool {
        let mut board = self.board();
        let may = self.segments[segment].digest.is_some() && self.store.verifies();
        may && !board.encodes[link.index()] && {
            board.encoded.insert((link, segment), encoding.to_string());
            true
        }
    }

    /// The Content-Encoding with which a server said that it sends a segment.
    pub fn encoding(&self, link: LinkId, segment: usize) -> Option<String> {
        self.board().encoded.get(&(link, segment)).cloned()
    }

    /// Whether the size of a segment, where it is known, is known from a HEAD alone.
    pub fn size_is_hint(&self, segment: usize) -> bool {
        let board = self.board();
        let told = board.unfinished.get(&segment).is_some_and(|had| had.total_bytes.is_some());
        !told && !board.left.contains_key(&segment)
    }

    /// A server says that a segment ends before the bytes that it was asked for, whose size was a hint.
    /// Returns whether the segment is to be fetched anew because of that.
    pub fn drop_hint(&self, segment: usize) -> bool {
        if !self.size_is_hint(segment) {
            return false;
        }
        let mut board = self.board();
        if board.scheduler.size(segment).is_none() || board.scheduler.is_complete(segment) {
            return false;
        }
        board.drop_version(segment);
        board.scheduler.restart(segment, None);
        true
    }

    /// Whether a segment can be asked for behind others on a connection, since its answer says what it
    /// is of: by a digest, or by a size that is none of theirs.
    pub fn may_follow(&self, link: LinkId, segment: usize, others: impl Iterator<Item = usize>) -> bool {
        let board = self.board();
        let by_digest = board.order[link.index()] == AnswerOrder::DigestsFit || self.store.verifies();
        if by_digest && self.segments[segment].digest.is_some() {
            return true;
        }
        let size = |segment| board.scheduler.size(segment);
        let Some(own) = size(segment) else { return false };
        others.into_iter().all(|other| size(other).is_some_and(|size| size != own))
    }

    /// Splits the next `bytes` of the answer on `link` into known and new ones. The caller must write the new
    /// ones.
    pub fn claim(&self, link: LinkId, request: &mut InFlight, bytes: u64) -> Claim {
        let mut board = self.board();
        let board = &mut *board;
        let claim = board.scheduler.claim(link, bytes);
        board.totals.wasted_bytes += claim.stale;
        let Some(unfinished) = board.unfinished.get_mut(&request.part.segment).filter(|_| claim.fresh > 0)
        else {
            return claim;
        };
        let now = Instant::now();
        let (from_byte, now_ms) = (claim.at + claim.stale, self.log.ms(now));
        board.totals.last_byte[link.index()] = Some(now);
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
    pub fn take_finished(&self, segment: usize, whole: &Arc<Incoming>) -> Option<Finished> {
        let mut board = self.board();
        board.unfinished.get(&segment).filter(|unfinished| Arc::ptr_eq(&unfinished.incoming, whole))?;
        let Unfinished { incoming, promised, parts, .. } = board.unfinished.remove(&segment)?;
        board.checking.insert(segment);
        Some(Finished { incoming, promised, parts })
    }

    /// The names of segments that came wrong and are not there yet.
    pub fn came_wrong(&self) -> Vec<&str> {
        let board = self.board();
        let wrong = board.wrong.iter().filter(|&&segment| !board.scheduler.is_complete(segment));
        let mut wrong: Vec<&str> = wrong.map(|&segment| self.segments[segment].name.as_str()).collect();
        wrong.sort_unstable();
        wrong
    }

    /// A segment came with the wrong digest. Returns the link that is to fetch it again: once, and not
    /// the one that brought most of it, unless the other server is away.
    /// A digest that only the first server promised does not bind the other.
    pub fn fetch_again(&self, segment: usize, finished: &Finished) -> Option<LinkId> {
        let mut board = self.board();
        let bytes: u64 = finished.parts.iter().map(|part| part.to_byte - part.from_byte).sum();
        board.totals.wasted_bytes += bytes;
        board.checking.remove(&segment);
        let of_a = finished.parts.iter().filter(|part| part.link == LinkId::A);
        let from_a = 2 * of_a.map(|part| part.to_byte - part.from_byte).sum::<u64>() > bytes;
        let other = if from_a { LinkId::B } else { LinkId::A };
        if board.contradicted.remove(&(other, segment)) {
            // It was right to say that it has another file.
            board.scheduler.readmit(other, segment);
        }
        if board.encoded.contains_key(&(other.other(), segment)) {
            board.encodes[other.other().index()] = true;
        }
        let link = if board.scheduler.is_up(other) { other } else { other.other() };
        if !board.wrong.insert(segment) {
            return None;
        }
        board.scheduler.restart(segment, Some(link));
        Some(link)
    }

    /// A connection is gone: what it still owed is to be fetched still.
    pub fn lost(&self, link: LinkId) {
        self.schedule(|scheduler, _| scheduler.lost(link));
    }

    /// The server of `link` cannot bring a segment, for the reason given: it is not asked for it again. The
    /// other server brings it; if it cannot, the run ends with that reason after all other files. The bytes
    /// on file stay; [`Transfer::begin`] or the caller restarts a segment whose content is wrong. A server
    /// that turns out to hold other files than its list is not asked for any that the other may bring, and is
    /// told of once.
    pub fn exclude(&self, link: LinkId, segment: usize, reason: Failure) {
        let mut guard = self.board();
        let board = &mut *guard;
        let had_changed = board.has_changed(link);
        if reason.exit == Outcome::FilesChanged {
            board.changed[link.index()].insert(segment);
        }
        let may_come = board.scheduler.exclude(link, segment);
        let changed = board.has_changed(link);
        if changed && !had_changed {
            for other in 0..self.segments.len() {
                if board.scheduler.may_bring(link.other(), other) {
                    board.scheduler.exclude(link, other);
                }
            }
        }
        let what = format!("{:#}", reason.error);
        board.refused.insert(segment, reason);
        drop(guard);
        let other = link.other();
        let action = match may_come {
            true if changed => format!(
                "it holds other files than its list says, so it is not asked for any more; server {other} brings them"
            ),
            true => format!("not asked for it again; server {other} brings it"),
            false => "no server can bring it; the others are fetched".to_string(),
        };
        if !had_changed {
            self.fault(link, what, action);
        }
    }

    /// No server brings a segment, for the reason given: it is left, and the run ends with that reason
    /// after all other files.
    pub fn abandon(&self, link: LinkId, segment: usize, reason: Failure) {
        let mut board = self.board();
        board.scheduler.abandon(segment);
        let what = format!("{:#}", reason.error);
        board.refused.insert(segment, reason);
        drop(board);
        self.fault(link, what, "it is left; the others are fetched".to_string());
    }

    /// An answer with a segment broke off, and brought nothing new of what is wanted of it: the segment
    /// comes after all others. A server whose answers (`answered`) do so three times is not asked for
    /// it again.
    pub fn broke_off(&self, link: LinkId, request: &InFlight, answered: bool, problem: &str) {
        let segment = request.part.segment;
        if request.record.is_some() {
            return;
        }
        let mut board = self.board();
        let due = board.scheduler.due(link).is_some_and(|(due, _, wanted)| due == segment && wanted > 0);
        if !due || board.scheduler.is_whole(segment) || board.checking.contains(&segment) {
            return;
        }
        let strike = if answered { Strike::NothingNew } else { Strike::NoAnswer };
        let strikes = board.strike(link, segment, strike);
        // A server that was killed in the middle, once, is no reason to change the order.
        if strikes > 1 {
            board.scheduler.defer(segment);
        }
        if !answered || strikes < MOST_STRIKES {
            return;
        }
        drop(board);
        let name = &self.segments[segment].name;
        let error =
            anyhow!("{MOST_STRIKES} answers of server {link} brought nothing new of {name}: {problem}");
        self.exclude(link, segment, Failure::new(Outcome::ServerAway, error));
    }

    /// The answer with a segment that is due comes too slowly. Where the other server may bring the
    /// segment, this one is not asked for it again; else it is, twice. Returns whether it is not.
    pub fn too_slow(&self, link: LinkId, segment: usize, problem: &str) -> bool {
        let mut board = self.board();
        let wanted = board.scheduler.due(link).is_some_and(|(due, _, wanted)| due == segment && wanted > 0);
        if !wanted || board.scheduler.is_whole(segment) || board.checking.contains(&segment) {
            return false;
        }
        let fixed_elsewhere = !board.scheduler.may_bring(link.other(), segment);
        if board.strike(link, segment, Strike::Slow) < MOST_STRIKES && fixed_elsewhere {
            return false;
        }
        drop(board);
        let error = anyhow!("{problem} (--least-rate)");
        self.exclude(link, segment, Failure::new(Outcome::ServerAway, error));
        true
    }

    /// Why files are missing of which no server brings what is missing; none while there are others.
    pub fn unobtainable(&self) -> Option<Failure> {
        let mut board = self.board();
        let abandoned = board.scheduler.abandoned().clone();
        let first = *abandoned.first()?;
        let done = board.totals.files + board.totals.resumed_files;
        if done + (abandoned.len() as u64) < self.segments.len() as u64 {
            return None;
        }
        let names: Vec<&str> = abandoned.iter().map(|&index| self.segments[index].name.as_str()).collect();
        let what = match names.len() {
            all if all == self.segments.len() => "cannot fetch any file".to_string(),
            few if few <= MOST_NAMED => {
                format!("cannot fetch {}: all other files are there", names.join(", "))
            }
            many => format!(
                "cannot fetch {} and {} more: all other files are there",
                names[..MOST_NAMED].join(", "),
                many - MOST_NAMED
            ),
        };
        let Failure { exit, error } = board.refused.remove(&first).unwrap_or_else(|| {
            Failure::new(Outcome::ServerAway, anyhow!("the one server that could bring it was given up"))
        });
        Some(Failure { exit, error: error.context(what) })
    }

    /// Ends the run, from outside of the tasks that fetch.
    pub fn fail(&self, failure: Failure) {
        self.board().failure.get_or_insert(failure);
        self.changed.notify_waiters();
    }

    /// Waits until every file is there.
    ///
    /// # Errors
    /// What [`Transfer::fail`] was told.
    pub async fn all_done(&self) -> Result<(), Failure> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(failure) = self.board().failure.take() {
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
    pub fn give_up(&self, link: LinkId) -> bool {
        self.board().scheduler.give_up(link)
    }

    /// Waits until there is something for `link` to fetch, or until there will not be.
    pub async fn work_left(&self, link: LinkId) -> bool {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Being told of a change counts from before the question, so that none is missed.
            changed.as_mut().enable();
            let outlook = self.board().scheduler.outlook(link);
            match outlook {
                Outlook::Work => return true,
                Outlook::Nothing => return false,
                Outlook::Perhaps => changed.await,
            }
        }
    }

    /// The file at `index` is under its name; `parts` says which link brought what of it.
    pub fn completed(&self, link: LinkId, index: usize, parts: &[schema::Part], at: Instant) {
        let mut board = self.board();
        board.scheduler.completed(index);
        board.checking.remove(&index);
        if !board.has_changed(link) && parts.iter().all(|part| part.link == link) {
            board.changed[link.index()].clear();
        }
        let totals = &mut board.totals;
        for part in parts {
            let bytes = part.to_byte - part.from_byte;
            totals.bytes += bytes;
            totals.link_bytes[part.link.index()] += bytes;
        }
        totals.files += 1;
        totals.arrivals.push((index, at));
        totals.last_file = Some(at);
        drop(board);
        self.gauge(link).files.fetch_add(1, Ordering::Relaxed);
    }

    pub fn received_head(&self, bytes: usize) {
        self.board().totals.head_bytes += bytes as u64;
    }

    pub fn wasted(&self, bytes: u64) {
        self.board().totals.wasted_bytes += bytes;
    }

    /// How many files are not there yet.
    pub fn missing(&self) -> u64 {
        let board = self.board();
        let totals = &board.totals;
        self.segments.len() as u64 - totals.files - totals.resumed_files
    }

    pub fn totals(&self) -> Totals {
        self.board().totals.clone()
    }

    /// Writes a fault to the log; a log that cannot be written ends the run by itself elsewhere.
    pub fn fault(&self, link: LinkId, what: String, action: String) {
        let fault = schema::Fault { link: Some(link), segment: None, what, action };
        if let Err(error) = self.log.write(Event::Fault(fault)) {
            tracing::warn!("cannot log a fault: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::schema::Stdout;
    use crate::manifest;
    use crate::schedule::{Pipeline, Schedule};

    /// A job of one file, with connections on these links.
    fn job(up: &[LinkId]) -> Transfer {
        job_of("x0", up)
    }

    fn job_of(pattern: &str, up: &[LinkId]) -> Transfer {
        let segments = manifest::expand(pattern).unwrap();
        let mut scheduler = Scheduler::new(&Schedule::Greedy, Pipeline::Auto, vec![None; segments.len()]);
        up.iter().for_each(|&link| scheduler.opened(link, Duration::ZERO, Duration::ZERO));
        let store = Store::open(None, true, []).unwrap();
        let log = Arc::new(Log::new("test".into(), None, Stdout::Nothing).unwrap());
        Transfer::new(segments, scheduler, store, log, Duration::from_secs(1))
    }

    /// Asks for the file on `link` and has so many of its 5 bytes come.
    fn bring(job: &Transfer, link: LinkId, bytes: u64) -> InFlight {
        let mut request = job.next(link, Instant::now()).unwrap();
        let body = BodyFacts { from: 0, length: Some(5), total_bytes: Some(5), etag: None, promised: None };
        job.begin(link, &mut request, body, false).unwrap();
        assert_eq!(job.claim(link, &mut request, bytes).fresh, bytes);
        request
    }

    #[test]
    fn who_has_seen_a_file_come_wrong_does_not_end_it_before_it_has_come_again() {
        let job = job(&LinkId::BOTH);
        let wrong = bring(&job, LinkId::A, 5).incoming.unwrap();
        let finished = job.take_finished(0, &wrong).unwrap();
        assert_eq!(job.fetch_again(0, &finished), Some(LinkId::B));
        let right = bring(&job, LinkId::B, 2).incoming.unwrap();
        assert!(job.take_finished(0, &wrong).is_none());
        assert!(job.take_finished(0, &right).is_some());
    }

    #[test]
    fn what_is_being_checked_is_not_begun_again_by_an_answer_that_comes_late() {
        let job = job(&LinkId::BOTH);
        let mut late = job.next(LinkId::A, Instant::now()).unwrap();
        job.lost(LinkId::A);
        let whole = bring(&job, LinkId::B, 5).incoming.unwrap();
        job.schedule(|scheduler, now| scheduler.opened(LinkId::A, now, Duration::ZERO));
        assert!(job.take_finished(0, &whole).is_some());
        for anew in [false, true] {
            let body =
                BodyFacts { from: 0, length: Some(5), total_bytes: Some(5), etag: None, promised: None };
            job.begin(LinkId::A, &mut late, body, anew).unwrap();
            assert!(late.incoming.is_none());
        }
    }

    #[test]
    fn a_server_with_other_files_is_dropped_once_that_is_known() {
        let changed = |name: &str| Failure::new(Outcome::FilesChanged, anyhow!("{name} differs"));
        // Of four files: b lies about one, brings one right, lies about one again, then about a third.
        let job = job_of("x{0..3}", &LinkId::BOTH);
        job.exclude(LinkId::B, 0, changed("x0"));
        job.completed(LinkId::B, 1, &[], Instant::now());
        job.exclude(LinkId::B, 2, changed("x2"));
        assert!(job.board().scheduler.may_bring(LinkId::B, 3), "one lie between right files is one file's");
        job.exclude(LinkId::B, 3, changed("x3"));
        assert_eq!(job.log.faults().0, 3);

        let job = job_of("x{0..39}", &LinkId::BOTH);
        (0..40).for_each(|segment| job.exclude(LinkId::B, segment, changed("it")));
        assert_eq!(job.log.faults().0, 2);
        assert!((0..40).all(|segment| job.board().scheduler.may_bring(LinkId::A, segment)));
        assert!(job.next(LinkId::B, Instant::now()).is_err() && job.next(LinkId::A, Instant::now()).is_ok());

        // Files that the other server cannot bring are still asked for, one by one.
        let job = job_of("x{0..39}", &LinkId::BOTH);
        job.give_up(LinkId::A);
        (0..2).for_each(|segment| job.exclude(LinkId::B, segment, changed("it")));
        assert!(job.next(LinkId::B, Instant::now()).is_ok());
    }

    #[test]
    fn a_wrong_file_is_asked_of_the_same_server_where_the_other_is_away_and_only_once() {
        let job = job(&[LinkId::A]);
        for again in [Some(LinkId::A), None] {
            let wrong = bring(&job, LinkId::A, 5).incoming.unwrap();
            let finished = job.take_finished(0, &wrong).unwrap();
            assert_eq!(job.fetch_again(0, &finished), again);
            assert_eq!(job.came_wrong(), ["x0"]);
            job.schedule(|scheduler, _| scheduler.ended(LinkId::A));
        }
    }

    #[test]
    fn work_that_comes_back_wakes_the_link_that_waits() {
        type ComesBack = fn(&Transfer);
        fn gone() -> Failure {
            Failure::new(Outcome::MissingFile, anyhow!("it is not there"))
        }
        let cases: [(&str, ComesBack); 6] = [
            ("passed over", |job| job.schedule(|scheduler, _| scheduler.passed_over(LinkId::A))),
            ("lost", |job| job.lost(LinkId::A)),
            ("another version", |job| job.version_changed(LinkId::A, 0)),
            ("excluded", |job| job.exclude(LinkId::A, 0, gone())),
            ("given up", |job| assert!(job.give_up(LinkId::A))),
            ("abandoned", |job| job.abandon(LinkId::A, 0, gone())),
        ];
        for (name, comes_back) in cases {
            let job = job(&LinkId::BOTH);
            job.next(LinkId::A, Instant::now()).unwrap();
            assert!(job.next(LinkId::B, Instant::now()).is_err(), "{name}: there is one file");
            let mut waiting = std::pin::pin!(job.changed.notified());
            assert!(!waiting.as_mut().enable(), "{name}");
            comes_back(&job);
            assert!(waiting.as_mut().enable(), "{name}: nobody is told");
        }
    }
}
