//! One connection: requests in, answers out, in order, until one side ends it.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, timeout, timeout_at};

use super::Limits;
use super::access_log::{ConnectionLog, RequestLog};
use super::catalog::Catalog;
use super::congestion::Congestion;
use super::fault::{ActiveFault, TRICKLE};
use super::file::OpenFile;
use super::respond::{self, Answer, Body, Resource, Sunk};
use super::socket::{Socket, Wait, unacknowledged};
use crate::config::server_fault::FaultKind;
use crate::http::body::{BadChunk, BodyReader, Framing, Taken};
use crate::http::head::{HEAD_TOO_LARGE, RefusedRequest, RequestHead, parse_request};
use crate::sender_report;

/// How often a closing connection looks whether the server is about to end.
const GLANCE: Duration = Duration::from_millis(20);
/// Up to this many bytes, reading a file and writing it together with the head costs less than sending
/// it apart from it.
const SMALL_BYTES: u64 = 64 * 1024;
/// Reads an unwanted body to its end up to this size, so that the connection is kept.
const UNWANTED_BYTES: u64 = 64 * 1024;
/// The size of one read of a request's body.
const BODY_READ_BYTES: usize = 64 * 1024;
/// A closing connection drops at most this many bytes of a peer that goes on sending.
const LINGER_BYTES: usize = 64 << 20;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The state that all connections share.
pub(crate) struct ServerState {
    pub table: Catalog,
    pub limits: Limits,
    pub fault: Option<ActiveFault>,
}

/// Serves one connection until it ends. When `stop` turns true, it finishes the answer in flight and answers
/// nothing more.
pub(crate) async fn serve(
    tcp: TcpStream,
    connection: Arc<ConnectionLog>,
    shared: Arc<ServerState>,
    stop: watch::Receiver<bool>,
) {
    // An answer's last packet must not wait for an acknowledgement. That this fails only on a
    // connection that is gone already is found out soon enough.
    let _ = tcp.set_nodelay(true);
    let limits = &shared.limits;
    let socket = Socket::new(tcp, connection.peer, limits.clone());
    let mut conversation = Conversation {
        socket,
        input: Vec::with_capacity(limits.head_bytes),
        used: 0,
        congestion: Congestion::default(),
        connection: &connection,
        shared: &shared,
        stop,
    };
    match conversation.run().await {
        Ok(RequestEnd::Said) => {
            let Conversation { socket, stop, .. } = conversation;
            let mut tcp = socket.into_inner();
            if tcp.shutdown().await.is_ok() {
                linger(tcp, limits.linger, &stop).await;
            }
        }
        Ok(RequestEnd::MadeRoom) => {
            tracing::debug!(peer = %connection.peer, "an idle connection is closed: its place is needed");
        }
        Err(error) => tracing::debug!(peer = %connection.peer, "a connection broke: {error}"),
    }
}

/// Why a connection ends.
enum RequestEnd {
    /// All has been said.
    Said,
    /// Another connection needs its place.
    MadeRoom,
}

/// The next message of a client.
enum Next {
    Request(RequestHead),
    Refused(RefusedRequest),
    End(RequestEnd),
}

struct Conversation<'a> {
    socket: Socket,
    /// Bytes received, of which `used` are consumed.
    input: Vec<u8>,
    used: usize,
    congestion: Congestion,
    connection: &'a Arc<ConnectionLog>,
    shared: &'a ServerState,
    stop: watch::Receiver<bool>,
}

impl Conversation<'_> {
    async fn run(&mut self) -> io::Result<RequestEnd> {
        loop {
            let request = match self.next_request().await? {
                Next::Request(request) => request,
                Next::End(end) => return Ok(end),
                Next::Refused(RefusedRequest { status, why }) => {
                    let mut in_flight = self.connection.begin(None, false);
                    let answer = Answer::plain(status, why).closing();
                    self.send(&answer, 1, false, &mut in_flight).await?;
                    return Ok(RequestEnd::Said);
                }
            };
            if let Some(end) = self.answer(&request).await? {
                return Ok(end);
            }
            // A client whose requests are all here already leaves time for others.
            consume_budget().await;
        }
    }

    async fn next_request(&mut self) -> io::Result<Next> {
        let mut began = None;
        loop {
            let unused = &self.input[self.used..];
            if !unused.is_empty() {
                match parse_request(unused) {
                    Ok(Some((head, bytes))) => {
                        self.used += bytes;
                        return Ok(Next::Request(head));
                    }
                    Ok(None) if unused.len() < self.shared.limits.head_bytes => {}
                    Ok(None) => return Ok(Next::Refused(HEAD_TOO_LARGE)),
                    Err(refusal) => return Ok(Next::Refused(refusal)),
                }
                began.get_or_insert_with(Instant::now);
            }
            let wait = began.map_or(Wait::Request, Wait::Head);
            match self.read_more(self.shared.limits.head_bytes, wait).await? {
                Ok(0) if began.is_some() => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(0) => return Ok(Next::End(RequestEnd::Said)),
                Ok(_) => {}
                Err(end) => return Ok(Next::End(end)),
            }
        }
    }

    /// Reads more, up to `bytes` in all, while no request is being answered: the connection may have to end.
    async fn read_more(&mut self, bytes: usize, wait: Wait) -> io::Result<Result<usize, RequestEnd>> {
        self.make_room(bytes);
        tokio::select! {
            biased;
            read = self.socket.read(&mut self.input, wait) => read.map(Ok),
            () = stopped(&mut self.stop) => Ok(Err(RequestEnd::Said)),
            () = self.connection.close.notified() => Ok(Err(RequestEnd::MadeRoom)),
        }
    }

    /// Drops what is used, and makes room for as much in all as `bytes`.
    fn make_room(&mut self, bytes: usize) {
        self.input.drain(..self.used);
        self.used = 0;
        self.input.reserve_exact(bytes.saturating_sub(self.input.len()).max(1));
    }

    /// Answers a request; returns why the connection ends after it, if it does.
    async fn answer(&mut self, request: &RequestHead) -> io::Result<Option<RequestEnd>> {
        let shared = self.shared;
        let (resource, report) = match self.congestion.obey(self.socket.tcp(), request.sender.as_deref()) {
            Ok(report) => (respond::resource(&shared.table, request), report),
            Err(refusal) => (Resource::Bad("this congestion control is unavailable"), Some(refusal)),
        };
        let mut in_flight = self.connection.begin(Some(request), matches!(resource, Resource::Health));
        let mut body = BodyReader::new(request.framing);
        let mut answer = match resource {
            Resource::Entry(entry) => {
                let answer = respond::entry(entry, request);
                match self.fault() {
                    Some(FaultKind::Busy) if matches!(answer.body, Body::File(..)) => respond::busy(),
                    Some(FaultKind::Corrupts) => answer.corrupted()?,
                    _ => answer,
                }
            }
            Resource::Sink => {
                let (outcome, bytes) = self.sink(request, &mut body, &mut in_flight).await?;
                respond::sink(outcome, bytes, in_flight.elapsed().as_secs_f64() * 1e3)
            }
            other => respond::other(&other),
        };
        if let Some(report) = report {
            answer = answer.header(sender_report::HEADER, report);
        }
        if request.has_origin {
            answer = answer.for_every_origin();
        }
        answer.closes |= request.closes || *self.stop.borrow() || body.left() > UNWANTED_BYTES;
        // A client that was not told to go on may send its body or leave it out.
        answer.closes |= request.expects_continue && body.left() > 0;
        let (closes, head_only) = (answer.closes, request.method == "HEAD");
        let sent = self.send(&answer, request.minor_version, head_only, &mut in_flight).await;
        in_flight.sent(self.congestion.log(self.socket.tcp()));
        sent?;
        drop((answer, in_flight));
        if closes { Ok(Some(RequestEnd::Said)) } else { self.skip(&mut body).await }
    }

    /// Returns the fault that the server has now.
    fn fault(&self) -> Option<FaultKind> {
        self.shared.fault.as_ref()?.now()
    }

    /// Sends a file as its server's fault has it.
    async fn send_with_fault(
        &mut self,
        fault: &ActiveFault,
        (file, from, to): (&OpenFile, u64, u64),
        taken: &mut u64,
    ) -> io::Result<()> {
        if let Some(left) = fault.promise(to - from) {
            self.socket.send_file(file, from, from + left, taken).await?;
            fault.died.notify_one();
            return std::future::pending().await;
        }
        if fault.now() != Some(FaultKind::Trickles) {
            return self.socket.send_file(file, from, to, taken).await;
        }
        let (bytes, pause) = TRICKLE;
        for at in (from..to).step_by(bytes) {
            let mut piece = vec![0; bytes.min((to - at) as usize)];
            file.read_exact_at(&mut piece, at)?;
            self.socket.write_all(&piece, false, taken).await?;
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    async fn send(
        &mut self,
        answer: &Answer<'_>,
        minor_version: u8,
        head_only: bool,
        in_flight: &mut RequestLog,
    ) -> io::Result<()> {
        let mut head = answer.head(minor_version).into_bytes();
        let bytes = if head_only { 0 } else { answer.body.len() };
        in_flight.answered(answer.status, head.len() as u64, bytes);
        let taken = &mut in_flight.taken;
        let sent = match &answer.body {
            _ if bytes == 0 => self.socket.write_all(&head, false, taken).await,
            Body::File(file, from, to) if self.shared.fault.is_some() => {
                let fault = self.shared.fault.as_ref().expect("it was seen");
                self.socket.write_all(&head, true, taken).await?;
                self.send_with_fault(fault, (file, *from, *to), taken).await
            }
            Body::File(file, from, _) if bytes <= SMALL_BYTES => {
                let start = head.len();
                head.resize(start + bytes as usize, 0);
                let read =
                    file.read_exact_at(&mut head[start..], *from).and_then(|()| file.check_unchanged());
                match read {
                    Ok(()) => self.socket.write_all(&head, false, taken).await,
                    Err(error) => Err(error),
                }
            }
            Body::File(file, from, to) => {
                self.socket.write_all(&head, true, taken).await?;
                self.socket.send_file(file, *from, *to, taken).await
            }
            Body::Owned(_) | Body::Memory(_) | Body::Empty => {
                let body: &[u8] = match &answer.body {
                    Body::Owned(bytes) => bytes,
                    Body::Memory(bytes) => bytes,
                    _ => &[],
                };
                self.socket.write_all(&head, true, taken).await?;
                self.socket.write_all(body, false, taken).await
            }
        };
        if let Err(error) = &sent
            && error.kind() == ErrorKind::InvalidData
        {
            tracing::error!("an answer was cut off: {error}");
        }
        sent
    }

    /// Reads a body and forgets it, up to the limits on its size and on its time. Returns how that went and
    /// how many bytes came.
    async fn sink(
        &mut self,
        request: &RequestHead,
        body: &mut BodyReader,
        in_flight: &mut RequestLog,
    ) -> io::Result<(Sunk, u64)> {
        let limits = &self.shared.limits;
        if matches!(request.framing, Framing::Length(bytes) if bytes > limits.sink_bytes) {
            return Ok((Sunk::TooLarge, 0));
        }
        if request.expects_continue && request.framing != Framing::NONE {
            self.socket.write_all(CONTINUE, false, &mut 0).await?;
        }
        let end = Instant::now() + limits.sink_time;
        let mut bytes = 0;
        loop {
            match self.take(body) {
                Ok(Taken::Content(some)) => {
                    in_flight.received(some);
                    bytes += some;
                    if bytes > limits.sink_bytes {
                        return Ok((Sunk::TooLarge, bytes));
                    }
                }
                Ok(Taken::End) => return Ok((Sunk::Whole, bytes)),
                Err(BadChunk) => return Ok((Sunk::Broken, bytes)),
                Ok(Taken::NeedMore) => {
                    self.make_room(BODY_READ_BYTES);
                    match timeout_at(end, self.socket.read(&mut self.input, Wait::Body)).await {
                        Ok(Ok(0)) => return Ok((Sunk::Broken, bytes)),
                        Ok(Ok(_)) => consume_budget().await,
                        Ok(Err(error)) if error.kind() == ErrorKind::TimedOut => {
                            return Ok((Sunk::TooSlow, bytes));
                        }
                        Ok(Err(error)) => return Err(error),
                        Err(_) => return Ok((Sunk::TooSlow, bytes)),
                    }
                }
            }
        }
    }

    /// Reads past a body that nobody wants; returns why the connection ends, if it does.
    async fn skip(&mut self, body: &mut BodyReader) -> io::Result<Option<RequestEnd>> {
        let mut left = UNWANTED_BYTES;
        loop {
            match self.take(body) {
                Ok(Taken::End) => return Ok(None),
                Ok(Taken::Content(bytes)) if bytes <= left => left -= bytes,
                Ok(Taken::Content(_)) | Err(BadChunk) => return Ok(Some(RequestEnd::Said)),
                Ok(Taken::NeedMore) => match self.read_more(BODY_READ_BYTES, Wait::Body).await? {
                    Ok(0) => return Ok(Some(RequestEnd::Said)),
                    Ok(_) => {}
                    Err(end) => return Ok(Some(end)),
                },
            }
        }
    }

    /// Takes what came of a request's body.
    fn take(&mut self, body: &mut BodyReader) -> Result<Taken, BadChunk> {
        let mut unused = &self.input[self.used..];
        let taken = body.next(&mut unused);
        self.used = self.input.len() - unused.len();
        taken
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Turns a connection away: there are too many.
pub(crate) async fn refuse(mut tcp: TcpStream, limit: Duration, stop: watch::Receiver<bool>) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n\
        Content-Type: text/plain; charset=utf-8\r\nContent-Length: 41\r\n\r\n\
        the server is busy: ask again in a while\n";
    let answered = timeout(limit, async {
        tcp.write_all(ANSWER).await?;
        tcp.shutdown().await
    });
    if let Ok(Ok(())) = answered.await {
        linger(tcp, limit, &stop).await;
    }
}

/// Waits for the peer to close a connection on which all has been said.
///
/// A socket that is closed while bytes from the peer are unread resets the connection, and a reset
/// may overtake the last answer; so what still comes is read and dropped, up to a time and a number of
/// bytes. When the server is about to end, this waits instead until the peer has acknowledged all: in a
/// container the network ends with the server, and what the kernel still had to send would be lost.
async fn linger(mut tcp: TcpStream, limit: Duration, stop: &watch::Receiver<bool>) {
    let end = Instant::now() + limit;
    let mut piece = [0; 4096];
    let mut dropped = 0;
    loop {
        let result = timeout(GLANCE, tcp.read(&mut piece)).await;
        if let Ok(Ok(bytes)) = result {
            dropped += bytes;
        }
        let over = match result {
            Ok(Ok(0) | Err(_)) => true,
            _ if dropped >= LINGER_BYTES => true,
            _ if *stop.borrow() => unacknowledged(&tcp) == 0,
            _ => Instant::now() >= end,
        };
        if over {
            return;
        }
    }
}
