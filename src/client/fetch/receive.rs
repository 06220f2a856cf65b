//! What comes in on a connection: answers become files and log records.

use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::anyhow;

use super::super::http::{Event, Head, NotHttp};
use super::super::job::{Failure, Partial};
use super::super::peer::Peer;
use super::super::store::{Digest, Verdict};
use super::{Broken, Connection, Fetcher, InFlight};
use crate::{record, sender};

impl Fetcher {
    /// Works through the bytes of one read.
    pub(super) fn take(&mut self, connection: &mut Connection, bytes: &[u8]) -> Result<(), Broken> {
        let now = Instant::now();
        let mut input = bytes;
        let mut payload = 0;
        loop {
            if connection.in_flight.is_empty() {
                if !input.is_empty() {
                    return Err(NotHttp::Unasked.into());
                }
                break;
            }
            match connection.answers.next(&mut input, false)? {
                Event::Head(head) => self.on_head(connection, head, now)?,
                Event::Body(body) => {
                    payload += body.len() as u64;
                    if on_body(connection, body)? {
                        self.last_progress = now;
                    }
                }
                Event::End => {
                    self.on_end(connection)?;
                    self.last_progress = now;
                    if connection.closing {
                        return Err(Broken::Closed);
                    }
                }
                Event::NeedMore => break,
            }
        }
        if payload > 0 {
            self.job.gauge(self.peer.link).bytes.fetch_add(payload, Ordering::Relaxed);
            self.goodput.received(now, payload);
        }
        if connection.in_flight.is_empty() {
            self.goodput.idle();
        }
        Ok(())
    }

    fn on_head(&mut self, connection: &mut Connection, head: Head, now: Instant) -> Result<(), Broken> {
        let job = &self.job;
        job.received_head(head.head_bytes);
        if let Some(sender) = head.sender.as_deref().and_then(sender::parse) {
            *job.gauge(self.peer.link).sender() = Some((now, sender));
        }
        let Some(request) = connection.in_flight.front_mut() else { return Err(NotHttp::Unasked.into()) };
        let segment = &job.segments[request.part.segment];
        request.first_byte = Some(now);
        connection.closing = head.closes;
        if head.closes {
            // What was asked for behind this answer will not come: ask for one at a time from now on.
            self.keeps_alive = false;
        }
        check_status(&self.peer, &segment.name, head.status)?;
        let mut partial = match request.partial.take() {
            Some(partial) => partial,
            None => Partial {
                incoming: job.store.begin(&segment.name).map_err(|error| Failure::new("store", error))?,
                total_bytes: None,
                etag: None,
                parts: Vec::new(),
                most_bytes: 0,
            },
        };
        let total = if head.status == 200 {
            job.wasted(partial.incoming.received());
            start_again(&mut partial)?;
            request.began_at = 0;
            head.length
        } else {
            let had = partial.incoming.received();
            let (first, total) = head.range.unwrap_or((0, None));
            if first != had {
                let problem = format!("it sent {} from byte {first}, not from {had}", segment.name);
                request.partial = Some(partial);
                return Err(Broken::Peer(problem));
            }
            total.or(head.length.map(|length| had + length))
        };
        let known = partial.total_bytes;
        partial.total_bytes = total.or(known);
        partial.etag = head.etag.clone();
        request.partial = Some(partial);
        request.head = Some(head);
        if known.is_some() && total.is_some() && known != total {
            let error = anyhow!(
                "{} says that {} has another size than before; the files changed during the run",
                self.peer,
                segment.name
            );
            return Err(Failure::new("files_changed", error).into());
        }
        Ok(())
    }

    /// An answer is complete: the file is checked and gets its name.
    fn on_end(&mut self, connection: &mut Connection) -> Result<(), Broken> {
        let Some(mut request) = connection.in_flight.pop_front() else { return Err(NotHttp::Unasked.into()) };
        let now = Instant::now();
        let link = self.peer.link;
        let part = self.part_record(&request, now);
        let segment = &self.job.segments[request.part.segment];
        let Some(mut partial) = request.partial.take() else { return Err(NotHttp::Unasked.into()) };
        let bytes = partial.incoming.received();
        partial.parts.extend(part);
        if partial.total_bytes.is_some_and(|total| total != bytes) {
            request.partial = Some(partial);
            connection.in_flight.push_front(request);
            return Err(Broken::Peer(format!(
                "{} ended after {bytes} bytes, before its stated end",
                segment.name
            )));
        }
        let promised =
            request.head.as_ref().and_then(|head| Digest::from_base64(head.sha256_base64.as_deref()?));
        let expected = segment.digest.or(promised);
        let Partial { incoming, parts, .. } = partial;
        let verdict = self
            .job
            .store
            .finish(incoming, &segment.name, expected)
            .map_err(|error| Failure::new("store", error))?;
        if let Verdict::Wrong { expected, actual } = verdict {
            self.job.wasted(bytes);
            let error = anyhow!(
                "{} sent {} with the digest {actual}, expected {expected}; what came is kept as {}.part",
                self.peer,
                segment.name,
                segment.name
            );
            return Err(Failure::new("digest", error).into());
        }
        let done = Instant::now();
        self.job.completed(link, request.part.segment, &parts, done);
        self.log_segment(&request, parts, bytes, verdict, done)
    }

    fn log_segment(
        &self,
        request: &InFlight,
        parts: Vec<record::Part>,
        bytes: u64,
        verdict: Verdict,
        done: Instant,
    ) -> Result<(), Broken> {
        let log = &self.job.log;
        let requested_ms = parts.first().map_or(log.ms(request.requested), |part| part.requested_ms);
        let first_byte_ms = parts.first().map_or(log.ms(done), |part| part.first_byte_ms);
        let done_ms = log.ms(done);
        let span_ms = done_ms - first_byte_ms;
        let segment = record::Segment {
            name: self.job.segments[request.part.segment].name.clone(),
            index: request.part.segment as u64,
            link: self.peer.link,
            bytes,
            parts,
            requested_ms,
            first_byte_ms,
            done_ms,
            goodput_kbit: (span_ms > 0.0).then(|| bytes as f64 * 8.0 / span_ms),
            digest_ok: verdict.ok(),
        };
        log.write(record::Event::Segment(segment)).map_err(|error| Failure::new("log", error).into())
    }

    /// What a request brought, for the log; `None` where that is nothing.
    pub(super) fn part_record(&self, request: &InFlight, done: Instant) -> Option<record::Part> {
        let to_byte = request.partial.as_ref()?.incoming.received();
        let log = &self.job.log;
        let first_byte = request.first_byte?;
        Some(record::Part {
            link: self.peer.link,
            from_byte: request.began_at,
            to_byte,
            requested_ms: log.ms(request.requested),
            first_byte_ms: log.ms(first_byte),
            done_ms: log.ms(done),
        })
    }

    /// The server ended the connection.
    pub(super) fn ended(&mut self, connection: &mut Connection) -> Result<(), Broken> {
        if connection.answers.ended_well() {
            // A body without a stated length ends with its connection.
            self.on_end(connection)?;
            self.last_progress = Instant::now();
            return Err(Broken::Closed);
        }
        Err(Broken::Peer(match connection.in_flight.front() {
            Some(request) if request.head.is_some() => {
                let name = &self.job.segments[request.part.segment].name;
                let received = request.partial.as_ref().map_or(0, |partial| partial.incoming.received());
                format!("{} closed the connection after byte {received} of {name}", self.peer)
            }
            _ => format!("{} closed the connection without an answer", self.peer),
        }))
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

/// A whole file is coming: what had come of it before is of no use, because the server cannot send
/// ranges, or has another version now.
fn start_again(partial: &mut Partial) -> Result<(), Broken> {
    if partial.incoming.received() > 0 {
        partial.incoming.restart().map_err(|error| Failure::new("store", error))?;
        partial.parts.clear();
        partial.total_bytes = None;
    }
    Ok(())
}

/// Writes a piece of a body. Returns whether it is new: a server that sends the same beginning again
/// and again makes no progress.
fn on_body(connection: &mut Connection, body: &[u8]) -> Result<bool, Broken> {
    let partial = connection.in_flight.front_mut().and_then(|request| request.partial.as_mut());
    let Some(partial) = partial else { return Err(NotHttp::Unasked.into()) };
    partial.incoming.write(body).map_err(|error| Failure::new("store", error))?;
    let received = partial.incoming.received();
    let is_new = received > partial.most_bytes;
    partial.most_bytes = partial.most_bytes.max(received);
    Ok(is_new)
}
