//! What comes in on a connection: answers become files and log records.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use tokio::io::Interest;

use super::super::http::{Event, Head, NotHttp};
use super::super::job::{Body, Failure};
use super::super::peer::Peer;
use super::super::pipe::Pipe;
use super::super::store::{Digest, Incoming};
use super::check::{self, Check};
use super::{Broken, Connection, Fetcher, PIPED_BYTES};
use crate::sender;

impl Fetcher {
    /// Works through the bytes of one read.
    pub(super) fn take(&mut self, connection: &mut Connection, bytes: &[u8]) -> Result<(), Broken> {
        let mut payload = 0;
        let outcome = self.take_all(connection, bytes, &mut payload);
        // What came has come, also where the connection has just ended.
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
                return if input.is_empty() { Ok(()) } else { Err(NotHttp::Unasked.into()) };
            }
            match connection.answers.next(&mut input, false)? {
                Event::Head(head) => self.on_head(connection, head, now)?,
                Event::Body(body) => {
                    *payload += body.len() as u64;
                    if self.on_body(connection, Piece::Read(body))? {
                        self.progressed();
                    }
                }
                Event::End => {
                    self.on_end(connection)?;
                    if connection.closing {
                        return Err(Broken::Closed);
                    }
                }
                Event::NeedMore => return Ok(()),
            }
        }
    }

    /// Counts payload.
    fn received(&self, bytes: u64) {
        self.job.gauge(self.peer.link).bytes.fetch_add(bytes, Ordering::Relaxed);
        self.job.schedule(|scheduler, now| scheduler.received(self.peer.link, now, bytes));
    }

    /// Moves what is there of a body from the socket into its file without a copy of it in this program,
    /// where that is worth it; `None` where it has to be read.
    pub(super) fn pull(&mut self, connection: &mut Connection) -> Option<Result<(), Broken>> {
        let left = connection.answers.body_left();
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
        let stream = &connection.stream;
        let bytes = match stream.try_io(Interest::READABLE, || pipe.fill(stream, left)) {
            Ok(0) => return self.ended(connection),
            Ok(bytes) => bytes as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(self.lost(connection, &error)),
        };
        connection.answers.skip_body(bytes);
        if self.on_body(connection, Piece::Piped(pipe))? {
            self.progressed();
        }
        self.received(bytes);
        // Where that was the last of it, the answer has ended.
        self.take(connection, &[])
    }

    fn on_head(&mut self, connection: &mut Connection, head: Head, now: Instant) -> Result<(), Broken> {
        let job = &self.job;
        job.received_head(head.head_bytes);
        job.gauge(self.peer.link).head_bytes.fetch_add(head.head_bytes as u64, Ordering::Relaxed);
        if let Some(sender) = head.sender.as_deref().and_then(sender::parse) {
            *job.gauge(self.peer.link).sender() = Some((now, sender));
        }
        let Some(request) = connection.in_flight.front_mut() else { return Err(NotHttp::Unasked.into()) };
        let segment = &job.segments[request.part.segment];
        request.first_byte = Some(now);
        connection.closing = head.closes;
        // A server that is busy is asked again; that is no fault of the file.
        connection.excused = matches!(head.status, 429 | 503);
        if let Err(refused) = check_status(&self.peer, &segment.name, head.status) {
            let Broken::Fatal(failure) = refused else { return Err(refused) };
            job.exclude(self.peer.link, request.part.segment, failure);
            return Err(Broken::Closed);
        }
        if !std::mem::replace(&mut connection.answered, true) {
            // Of a server that closes after the first answer already, nothing is asked for behind it.
            job.schedule(|scheduler, _| scheduler.keeps_alive(self.peer.link, !head.closes));
        }
        let (from, total_bytes) = match (head.status, head.range) {
            (206, Some((first, total))) => (first, total),
            (206, None) => (request.part.from, None),
            _ => (0, head.length),
        };
        let asked_from = request.part.from;
        if head.status == 206 && from != asked_from {
            let name = &segment.name;
            return Err(Broken::Peer(format!("it sent {name} from byte {from}, not from {asked_from}")));
        }
        if let (Some(length), Some(total)) = (head.length, total_bytes)
            && from.saturating_add(length) > total
        {
            let name = &segment.name;
            return Err(Broken::Peer(format!(
                "it announces {length} bytes of {name} from byte {from}, and says that it has {total}"
            )));
        }
        // A server that sends a whole file where a range of one version was asked for has another one,
        // unless it says that it is the same: then it cannot send ranges.
        let anew = head.status == 200 && request.etag.is_some() && request.etag != head.etag;
        let promised = head.sha256_base64.as_deref().and_then(Digest::from_base64);
        let body = Body { from, length: head.length, total_bytes, etag: head.etag, promised };
        Ok(job.begin(self.peer.link, request, body, anew)?)
    }

    /// Writes what is new of a piece of a body. Returns whether anything was: a server that sends the
    /// same beginning again and again makes no progress.
    fn on_body(&self, connection: &mut Connection, mut piece: Piece) -> Result<bool, Broken> {
        let Some(request) = connection.in_flight.front_mut() else { return Err(NotHttp::Unasked.into()) };
        let mut any_new = false;
        while piece.len() > 0 {
            let claim = self.job.claim(self.peer.link, request, piece.len() as u64);
            let (stale, fresh) = (claim.stale as usize, claim.fresh as usize);
            let store = |error| Failure::new("store", error);
            piece.discard(stale).map_err(store)?;
            let Some(incoming) = request.incoming.as_ref().filter(|_| fresh > 0) else {
                piece.discard(fresh).map_err(store)?;
                continue;
            };
            let written = piece.write(incoming, claim.at + claim.stale, fresh).map_err(store)?;
            check::hash_behind(incoming);
            any_new = true;
            if request.total_bytes == Some(written) {
                self.finish(request.part.segment, incoming)?;
            }
        }
        Ok(any_new)
    }

    /// An answer is complete.
    fn on_end(&mut self, connection: &mut Connection) -> Result<(), Broken> {
        let Some(request) = connection.in_flight.pop_front() else { return Err(NotHttp::Unasked.into()) };
        let segment = request.part.segment;
        self.job.broke_off(self.peer.link, &request, true, "its answers end early");
        let total = self.job.schedule(|scheduler, _| {
            scheduler.ended(self.peer.link);
            scheduler.size(segment)
        });
        // An empty file has no body to finish it, nor has one that ended with its connection a size.
        match request.incoming.filter(|incoming| Some(incoming.written()) == total) {
            Some(whole) => {
                self.progressed();
                self.finish(segment, &whole)
            }
            None => Ok(self.job.note(self.peer.link, segment)?),
        }
    }

    /// Has a file that is complete checked and given its name.
    fn finish(&self, index: usize, whole: &Arc<Incoming>) -> Result<(), Broken> {
        let Some(finished) = self.job.take_finished(index, whole) else { return Ok(()) };
        Ok(Check::new(&self.job, &self.peer, index, finished).start()?)
    }

    /// The server ended the connection.
    pub(super) fn ended(&mut self, connection: &mut Connection) -> Result<(), Broken> {
        if connection.answers.ended_well() {
            // A body without a stated length ends with its connection.
            self.on_end(connection)?;
            return Err(Broken::Closed);
        }
        Err(Broken::Peer(match connection.in_flight.front() {
            Some(request) if request.first_byte.is_some() => {
                let name = &self.job.segments[request.part.segment].name;
                let received = request.incoming.as_ref().map_or(0, |incoming| incoming.written());
                format!("{} closed the connection after byte {received} of {name}", self.peer)
            }
            _ => format!("{} closed the connection without an answer", self.peer),
        }))
    }
}

/// A piece of a body that has come, in memory or in the kernel.
enum Piece<'a> {
    Read(&'a [u8]),
    Piped(&'a mut Pipe),
}

impl Piece<'_> {
    fn len(&self) -> usize {
        match self {
            Piece::Read(bytes) => bytes.len(),
            Piece::Piped(pipe) => pipe.held(),
        }
    }

    /// Drops its first `bytes`.
    fn discard(&mut self, bytes: usize) -> Result<()> {
        match self {
            Piece::Read(all) => *all = &all[bytes..],
            Piece::Piped(pipe) if bytes > 0 => pipe.discard(bytes).context("cannot read a pipe")?,
            Piece::Piped(_) => {}
        }
        Ok(())
    }

    /// Moves its first `bytes` into a file. Returns how many are on file then.
    fn write(&mut self, incoming: &Incoming, at: u64, bytes: usize) -> Result<u64> {
        match self {
            Piece::Read(all) => {
                let (first, rest) = all.split_at(bytes);
                *all = rest;
                incoming.write_at(at, first)
            }
            Piece::Piped(pipe) => incoming.write_piped(at, pipe, bytes),
        }
    }
}

/// Tells answers with a file in them from those that may yet get better and those that will not.
fn check_status(peer: &Peer, name: &str, status: u16) -> Result<(), Broken> {
    match status {
        200 | 206 => Ok(()),
        429 | 500.. => Err(Broken::Peer(format!("it answered {status} for {name}"))),
        _ => {
            let error = anyhow!("{peer} answered {status} for {name}; does it hold that file?");
            Err(Failure::new("missing_file", error).into())
        }
    }
}
