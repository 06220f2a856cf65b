//! Turns the answers on a connection into files and log records.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use tokio::io::Interest;

use super::{Broken, Connection, Fetcher, PIPED_BYTES};
use crate::client::origin::busy;
use crate::client::splice::Pipe;
use crate::client::store::Incoming;
use crate::client::transfer::Failure;
use crate::client::transfer::answers::{AnswerOrder, BodyFacts};
use crate::client::transfer::in_flight::InFlight;
use crate::client::verify;
use crate::client::verify::Check;
use crate::http::answer::{AnswerHead, MOST_REDIRECTS, NotHttp};
use crate::http::range::Placed;
use crate::http::reader::AnswerEvent;
use crate::log::outcome::Outcome;
use crate::manifest::digest::Digest;
use crate::sender_report;

/// A body of no use is read to its end up to this size, so that the connection can be kept.
const PASSED_OVER_BYTES: u64 = 64 * 1024;

impl Fetcher {
    /// Works through the bytes of one read.
    pub(super) fn take(&mut self, connection: &mut Connection, bytes: &[u8]) -> Result<(), Broken> {
        let mut payload = 0;
        let outcome = self.take_all(connection, bytes, &mut payload);
        // Bytes that came count, also where the connection has just ended.
        if payload > 0 {
            self.received(payload);
        }
        outcome
    }

    fn take_all(
        &mut self,
        connection: &mut Connection,
        mut input: &[u8],
        payload: &mut u64,
    ) -> Result<(), Broken> {
        let now = Instant::now();
        loop {
            if connection.in_flight.is_empty() {
                return Ok(connection.http.answers.idle(input)?);
            }
            match connection.http.answers.next(&mut input, false)? {
                AnswerEvent::Head(head) => self.on_head(connection, &head, now)?,
                AnswerEvent::Body(body) => {
                    *payload += body.len() as u64;
                    let new = self.on_body(connection, BodyPiece::Read(body))?;
                    self.brought_new(new);
                }
                AnswerEvent::End => {
                    self.on_end(connection)?;
                    if connection.closing {
                        return Err(Broken::Closed);
                    }
                }
                AnswerEvent::NeedMore => return Ok(()),
            }
        }
    }

    /// Counts payload.
    fn received(&self, bytes: u64) {
        self.transfer.metrics(self.origin.link).bytes.fetch_add(bytes, Ordering::Relaxed);
        self.transfer.schedule(|scheduler, now| scheduler.received(self.id, now, bytes));
    }

    /// Moves what is there of a body from the socket into its file without a copy of it in this program,
    /// where that is worth it; `None` where it has to be read.
    pub(super) fn pull(&mut self, connection: &mut Connection) -> Option<Result<(), Broken>> {
        let left = connection.http.answers.body_left();
        connection.in_flight.front()?.incoming.as_ref()?;
        if left < PIPED_BYTES {
            return None;
        }
        // A pipe with something left in it is of no use any more; there is none after an error.
        let mut pipe = self.pipe.take().or_else(|| Pipe::new().ok())?;
        let outcome = self.pull_through(&mut pipe, connection, left);
        self.pipe = Some(pipe).filter(|pipe| pipe.held() == 0);
        Some(outcome)
    }

    fn pull_through(
        &mut self,
        pipe: &mut Pipe,
        connection: &mut Connection,
        left: u64,
    ) -> Result<(), Broken> {
        let stream = &connection.http.stream;
        let bytes = match stream.try_io(Interest::READABLE, || pipe.fill(stream, left)) {
            Ok(0) => return self.ended(connection),
            Ok(bytes) => bytes as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(self.lost(connection, &error)),
        };
        connection.http.answers.skip_body(bytes);
        let new = self.on_body(connection, BodyPiece::Piped(pipe))?;
        self.brought_new(new);
        self.received(bytes);
        // Where that was the last of it, the answer has ended.
        self.take(connection, &[])
    }

    fn on_head(
        &mut self,
        connection: &mut Connection,
        head: &AnswerHead,
        now: Instant,
    ) -> Result<(), Broken> {
        let transfer = &self.transfer;
        transfer.received_head(head.head_bytes);
        transfer.metrics(self.origin.link).head_bytes.fetch_add(head.head_bytes as u64, Ordering::Relaxed);
        let mut open = transfer.metrics(self.origin.link).open();
        if let Some(open) = open.get_mut(&self.id.index)
            && let Some(sender) = head.sender.as_deref().and_then(sender_report::parse)
        {
            open.sender = Some((now, sender));
        }
        drop(open);
        let Some(request) = connection.in_flight.front_mut() else { return Err(NotHttp::Unasked.into()) };
        request.first_byte = Some(now);
        connection.closing = head.closes;
        self.answered = true;
        if !std::mem::replace(&mut connection.answered, true) {
            // Of a server that closes after the first answer already, nothing is asked for behind it.
            transfer.schedule(|scheduler, _| scheduler.keeps_alive(self.origin.link, !head.closes));
        }
        let placed = match self.judge(connection, head)? {
            ReceivedAnswer::Body(placed) => placed,
            ReceivedAnswer::PassOver => return pass_over(connection, head),
        };
        let Some(request) = connection.in_flight.front_mut() else { return Err(NotHttp::Unasked.into()) };
        let Placed { from, to, total_bytes } = placed;
        (request.unstated, request.ends) = (head.length.is_none(), to);
        let segment = request.part.segment;
        if request.unstated && total_bytes.is_none() {
            self.ask_other_for_size(segment);
        }
        // A server that sends a whole file where a range of one version was asked for has another one,
        // unless it says that it is the same: then it cannot send ranges.
        let anew = head.status == 200 && request.etag.is_some() && request.etag != head.etag;
        let promised = promised(head);
        let length = to.map(|to| to - from);
        let body = BodyFacts { from, length, total_bytes, etag: head.etag.clone(), promised };
        match self.transfer.begin(self.id, request, body, anew)? {
            true => Ok(()),
            false => pass_over(connection, head),
        }
    }

    /// Decides what an answer is good for, by its head.
    fn judge(&mut self, connection: &mut Connection, head: &AnswerHead) -> Result<ReceivedAnswer, Broken> {
        let Some(request) = connection.in_flight.front() else { return Err(NotHttp::Unasked.into()) };
        let (link, index) = (self.origin.link, request.part.segment);
        let transfer = self.transfer.clone();
        let (origin, name, listed) =
            (&self.origin, transfer.segments[index].name.as_str(), transfer.segments[index].digest);
        let refuse = |exit, what: String| {
            transfer.exclude(link, index, Failure::new(exit, anyhow!("{origin} {what}")));
            Ok(ReceivedAnswer::PassOver)
        };
        if head.is_busy() {
            // That is no fault of the file.
            connection.excused = true;
            let what = format!("{origin} answered {} for {name}{}", head.status, busy(head));
            return Err(Broken::Busy(what, head.retry_after));
        }
        if head.is_redirect() {
            let (path, hops) = self.path_of(index);
            match head.redirected(&origin.host, &path) {
                Ok(_) if hops == MOST_REDIRECTS => {
                    return refuse(Outcome::MissingFile, format!("redirects {name} more than {hops} times"));
                }
                Ok(led) => drop(self.redirects.insert(index, (led, hops + 1))),
                Err(place) => {
                    return refuse(
                        Outcome::MissingFile,
                        format!("redirects {name} {place}, which is not followed"),
                    );
                }
            }
            return Ok(ReceivedAnswer::PassOver);
        }
        match head.status {
            200 | 206 => {}
            416 if !request.whole && transfer.drop_hint(index) => {
                transfer.fault(
                    link,
                    format!("{origin} says that {name} is shorter than a HEAD said"),
                    "its size is learned anew".into(),
                );
                return Ok(ReceivedAnswer::PassOver);
            }
            // A status that is no file's may be a limit of connections: the first one asks for the file again.
            status @ 400..500 if self.id.index > 0 && ![404, 410].contains(&status) => {
                connection.excused = true;
                return Err(Broken::Busy(format!("{origin} answered {status} for {name}"), None));
            }
            500.. => return Err(Broken::Origin(format!("it answered {} for {name}", head.status))),
            status => {
                return refuse(
                    Outcome::MissingFile,
                    format!("answered {status} for {name}; does it hold that file?"),
                );
            }
        }
        let known = transfer.schedule(|scheduler, _| scheduler.size(index));
        let placed = match self.place(request, head, known) {
            Ok(placed) => placed,
            Err(what) => {
                // Only a server that was asked for whole files already is to blame for this one.
                connection.excused = !request.whole;
                transfer.schedule(|scheduler, _| scheduler.sends_whole(link));
                return Err(Broken::Origin(what));
            }
        };
        let promised = promised(head);
        let other_digest = listed.zip(promised).filter(|(listed, promised)| listed != promised);
        // A size that a HEAD said is a hint; where there is a digest, that decides.
        let decided_later = listed.is_some() && (listed == promised || transfer.store.verifies());
        let other_size = known.zip(placed.total_bytes).filter(|(known, said)| known != said);
        let other_size = other_size.filter(|_| !(decided_later && transfer.size_is_hint(index)));
        if connection.pipelined && (other_digest.is_some() || other_size.is_some()) {
            transfer.order_fails(link);
            connection.excused = true;
            return Err(Broken::Origin(format!(
                "{origin} answers a request for {name} with something else; it is asked for one file at a time from now on"
            )));
        }
        if let Some((listed, promised)) = other_digest.filter(|_| transfer.store.verifies()) {
            let what = format!("says that {name} has the digest {promised}, and the list says {listed}");
            return refuse(Outcome::FilesChanged, what);
        }
        let same = listed.is_some() && listed == promised;
        if same {
            transfer.order_fits(link, AnswerOrder::DigestsFit);
        } else if known.is_some() && known == placed.total_bytes {
            transfer.order_fits(link, AnswerOrder::SizesFit);
        }
        if let Some(encoding) = &head.encoding
            && !same
            && (head.status != 200 || other_size.is_some() || !transfer.may_be_encoded(link, index, encoding))
        {
            let what = format!("sends {name} with the Content-Encoding {encoding}, which was not asked for");
            return refuse(Outcome::Encoded, what);
        }
        if listed.is_none() && head.media_type.as_deref() == Some("text/html") && !is_page(name) {
            return refuse(
                Outcome::MissingFile,
                format!("sends an HTML page for {name}; does it hold that file?"),
            );
        }
        // By If-Range, a range is of the version that was asked for.
        if head.status == 206 && request.etag.is_some() && head.etag.is_some() && request.etag != head.etag {
            transfer.version_changed(link, index);
            connection.excused = true;
            return Err(Broken::Origin(format!(
                "{origin} sent a range of another version of {name} (by its ETag)"
            )));
        }
        Ok(ReceivedAnswer::Body(placed))
    }

    /// Finds where the body of an answer lies in its file, or says why it is not what was asked for.
    fn place(&self, request: &InFlight, head: &AnswerHead, known: Option<u64>) -> Result<Placed, String> {
        let (origin, name) = (&self.origin, &self.transfer.segments[request.part.segment].name);
        let (from, to) = if request.whole { (0, None) } else { (request.part.from, request.part.to) };
        head.place(from, to, known).map_err(|found| match request.whole {
            true => format!("{origin} answered a request for all of {name} with {found}"),
            false => {
                let last = to.map_or(String::new(), |to| (to - 1).to_string());
                format!(
                    "{origin} answered a request for the bytes {from}-{last} of {name} with {found}; it is \
                     asked for whole files from now on"
                )
            }
        })
    }

    /// Has the size of a file, of which a server does not say how long it is, learned from the other one,
    /// so that what is endless is noticed.
    fn ask_other_for_size(&self, segment: usize) {
        if self.transfer.schedule(|scheduler, _| scheduler.size(segment)).is_some() {
            return;
        }
        let (transfer, other) = (self.transfer.clone(), self.other.clone());
        tokio::spawn(async move {
            let one = std::slice::from_ref(&transfer.segments[segment]);
            let size = other.sizes(one, transfer.give_up, &transfer.metrics(other.link).head_bytes).await;
            let mut sizes = vec![None; transfer.segments.len()];
            sizes[segment] = size.first().copied().flatten();
            transfer.schedule(|scheduler, _| scheduler.learn_sizes(&sizes));
        });
    }

    /// Writes what is new of a piece of a body. Returns how many bytes are: a server that sends the same
    /// beginning again and again makes no progress.
    fn on_body(&self, connection: &mut Connection, mut piece: BodyPiece) -> Result<u64, Broken> {
        let Some(request) = connection.in_flight.front_mut() else { return Err(NotHttp::Unasked.into()) };
        if request.passed_over {
            self.transfer.wasted(piece.len() as u64);
            let bytes = piece.len();
            piece.discard(bytes).map_err(|error| Failure::new(Outcome::Store, error))?;
            return Ok(0);
        }
        if request.unstated {
            self.check_end(request, piece.len() as u64)?;
        }
        let mut new = 0;
        while piece.len() > 0 {
            let claim = self.transfer.claim(self.id, request, piece.len() as u64);
            let (stale, fresh) = (claim.stale as usize, claim.fresh as usize);
            let store = |error| Failure::new(Outcome::Store, error);
            piece.discard(stale).map_err(store)?;
            let Some(incoming) = request.incoming.as_ref().filter(|_| fresh > 0) else {
                piece.discard(fresh).map_err(store)?;
                continue;
            };
            let written = piece.write(incoming, claim.at + claim.stale, fresh).map_err(store)?;
            verify::hash_behind(incoming);
            new += claim.fresh;
            if request.total_bytes == Some(written) {
                self.finish(request.part.segment, incoming)?;
            }
        }
        Ok(new)
    }

    /// Settles an answer of unstated length whose connection is gone, now that the file's size may be known:
    /// it may be complete, or have gone on beyond its end.
    pub(super) fn settle_unstated(&self, request: &InFlight) -> Result<(), Broken> {
        let segment = request.part.segment;
        let Some(incoming) = request.incoming.as_ref().filter(|_| request.unstated) else { return Ok(()) };
        match self.check_end(request, 0) {
            Err(Broken::Closed) => return Ok(()),
            outcome => outcome?,
        }
        if self.transfer.schedule(|scheduler, _| scheduler.size(segment)) == Some(incoming.written()) {
            self.finish(segment, incoming)?;
        }
        Ok(())
    }

    /// Refuses bytes beyond the end of a file, or of a range, in an answer that does not say how long it is.
    /// The earlier bytes of the file may be wrong then.
    fn check_end(&self, request: &InFlight, bytes: u64) -> Result<(), Broken> {
        let (link, segment) = (self.origin.link, request.part.segment);
        let (at, size) = self.transfer.schedule(|scheduler, _| {
            (scheduler.due(self.id).map_or(0, |(_, at, _)| at), scheduler.size(segment))
        });
        let Some(end) = request.ends.or(size).filter(|&end| at.saturating_add(bytes) > end) else {
            return Ok(());
        };
        let name = &self.transfer.segments[segment].name;
        self.transfer.schedule(|scheduler, _| scheduler.sends_whole(link));
        let what = format!(
            "{} sends {name} beyond byte {end}, where it ends; it is asked for whole files from now on",
            self.origin
        );
        self.transfer.reject(link, segment, Failure::new(Outcome::FilesChanged, anyhow!(what)));
        Err(Broken::Closed)
    }

    /// An answer is complete.
    fn on_end(&mut self, connection: &mut Connection) -> Result<(), Broken> {
        let Some(request) = connection.in_flight.pop_front() else { return Err(NotHttp::Unasked.into()) };
        let segment = request.part.segment;
        if request.passed_over {
            self.transfer.schedule(|scheduler, _| scheduler.passed_over(self.id));
            return Ok(());
        }
        self.transfer.broke_off(self.id, &request, true, "its answers end early");
        let total = self.transfer.schedule(|scheduler, _| {
            scheduler.ended(self.id);
            scheduler.size(segment)
        });
        // An empty file has no body to finish it, nor has one that ended with its connection a size.
        match request.incoming.filter(|incoming| Some(incoming.written()) == total) {
            Some(whole) => {
                self.completed_file();
                self.finish(segment, &whole)
            }
            None => Ok(self.transfer.note(self.id, segment)?),
        }
    }

    /// Has a file that is complete checked and given its name.
    fn finish(&self, index: usize, whole: &Arc<Incoming>) -> Result<(), Broken> {
        let Some(finished) = self.transfer.take_finished(index, whole) else { return Ok(()) };
        Ok(Check::new(&self.transfer, &self.origin, index, finished).start()?)
    }

    /// The server ended the connection.
    pub(super) fn ended(&mut self, connection: &mut Connection) -> Result<(), Broken> {
        if connection.http.answers.ended_well() {
            // A body without a stated length ends with its connection.
            self.on_end(connection)?;
            return Err(Broken::Closed);
        }
        Err(Broken::Origin(match connection.in_flight.front() {
            Some(request) if request.first_byte.is_some() => {
                let name = &self.transfer.segments[request.part.segment].name;
                let received = request.incoming.as_ref().map_or(0, |incoming| incoming.written());
                format!("{} closed the connection after byte {received} of {name}", self.origin)
            }
            _ => format!("{} closed the connection without an answer", self.origin),
        }))
    }
}

/// A piece of a body that has come, in memory or in the kernel.
enum BodyPiece<'a> {
    Read(&'a [u8]),
    Piped(&'a mut Pipe),
}

impl BodyPiece<'_> {
    fn len(&self) -> usize {
        match self {
            BodyPiece::Read(bytes) => bytes.len(),
            BodyPiece::Piped(pipe) => pipe.held(),
        }
    }

    /// Drops its first `bytes`.
    fn discard(&mut self, bytes: usize) -> Result<()> {
        match self {
            BodyPiece::Read(all) => *all = &all[bytes..],
            BodyPiece::Piped(pipe) if bytes > 0 => pipe.discard(bytes).context("cannot read a pipe")?,
            BodyPiece::Piped(_) => {}
        }
        Ok(())
    }

    /// Moves its first `bytes` into a file. Returns how many are on file then.
    fn write(&mut self, incoming: &Incoming, at: u64, bytes: usize) -> Result<u64> {
        match self {
            BodyPiece::Read(all) => {
                let (first, rest) = all.split_at(bytes);
                *all = rest;
                incoming.write_at(at, first)
            }
            BodyPiece::Piped(pipe) => incoming.write_piped(at, pipe, bytes),
        }
    }
}

/// The use of an answer.
enum ReceivedAnswer {
    Body(Placed),
    /// Nothing; its body, if short, is read and thrown away.
    PassOver,
}

/// Has the body of an answer thrown away; a long one ends with its connection.
fn pass_over(connection: &mut Connection, head: &AnswerHead) -> Result<(), Broken> {
    let Some(request) = connection.in_flight.front_mut() else { return Err(NotHttp::Unasked.into()) };
    request.passed_over = true;
    match head.length {
        Some(length) if length <= PASSED_OVER_BYTES => Ok(()),
        _ => Err(Broken::Closed),
    }
}

/// The digest of the whole file that an answer's head promises.
fn promised(head: &AnswerHead) -> Option<Digest> {
    head.sha256_base64.as_deref().and_then(Digest::from_base64)
}

/// Whether a file of this name is an HTML page.
fn is_page(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [".html", ".htm", ".xhtml"].iter().any(|end| name.ends_with(end))
}
