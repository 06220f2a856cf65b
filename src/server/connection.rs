//! One connection: requests in, answers out, in order, until one side has had enough.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Buf;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::CONTENT_LENGTH;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::Limits;
use super::body::{Body, Pool};
use super::journal::{Connection, InFlight};
use super::outbox::Outbox;
use super::respond::{self, Resource, Sunk};
use super::sending::{SENDER, Sending};
use super::table::Table;
use super::watch::{Watched, unacknowledged};

/// How often a closing connection looks whether the server is about to end.
const GLANCE: Duration = Duration::from_millis(20);

/// What all connections share.
pub struct Shared {
    pub table: Table,
    pub limits: Limits,
    pub pool: Arc<Pool>,
}

/// Serves one connection until it ends. When `stop` turns true, what is in flight is finished and
/// nothing more is answered.
pub async fn serve(
    tcp: TcpStream,
    connection: Arc<Connection>,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    let limits = shared.limits.clone();
    // An answer's last packet must not wait for an acknowledgement. That this fails only on a
    // connection that is gone already is found out soon enough.
    let _ = tcp.set_nodelay(true);
    let sending = match Sending::new(&tcp) {
        Ok(sending) => Arc::new(sending),
        Err(error) => {
            tracing::warn!(peer = %connection.peer, "a connection is answered with 503: {error}");
            refuse(tcp, limits.linger, stop).await;
            return;
        }
    };
    let outbox = Outbox::new(shared.pool.clone());
    let io = Watched::new(tcp, connection.clone(), outbox.clone(), limits.clone());
    let service = service_fn(|request| {
        Box::pin(handle(request, connection.clone(), sending.clone(), outbox.clone(), shared.clone()))
    });
    let mut http = http1::Builder::new()
        // Time limits are the socket's, which can tell an idle connection from a slow head.
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        // A client may close its sending side once it has asked for all it wants.
        .half_close(true)
        .max_header_size(limits.head_bytes)
        .max_buf_size(limits.piece_bytes.max(8 * 1024))
        .serve_connection(io, service);
    let ended = tokio::select! {
        result = &mut http => Some(result),
        () = stopped(&mut stop) => None,
        () = connection.close.notified() => {
            if connection.busy.load(Relaxed) == 0 {
                tracing::debug!(peer = %connection.peer, "an idle connection is closed: its place is needed");
                return;
            }
            // A request came in the same moment: it is answered first.
            None
        }
    };
    let result = match ended {
        Some(result) => result,
        None => {
            Pin::new(&mut http).graceful_shutdown();
            (&mut http).await
        }
    };
    match result {
        Ok(()) => {}
        // hyper has answered this itself; an HTTP/2 preface it cannot answer.
        Err(error) if error.is_parse() && !error.is_parse_version_h2() => {
            let status = if error.is_parse_too_large() {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            } else {
                StatusCode::BAD_REQUEST
            };
            connection.malformed(status.as_u16());
        }
        Err(error) => {
            tracing::debug!(peer = %connection.peer, "a connection broke: {error}");
            return;
        }
    }
    linger(http.into_parts().io.into_inner(), limits.linger, &stop).await;
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn handle(
    request: Request<Incoming>,
    connection: Arc<Connection>,
    sending: Arc<Sending>,
    outbox: Arc<Outbox>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, Infallible> {
    let (resource, report) = match sending.obey(request.headers()) {
        Ok(report) => (respond::resource(&shared.table, &request), report),
        Err(refusal) => (Resource::Bad("this congestion control cannot be had here"), Some(refusal)),
    };
    let in_flight = InFlight::begin(&connection, &request, matches!(resource, Resource::Health));
    let mut answer = match resource {
        Resource::Entry(entry) => {
            respond::entry(entry, request.method(), request.headers(), &outbox, in_flight)
        }
        Resource::Sink => {
            let (outcome, bytes) = sink(request, &shared.limits, &in_flight).await;
            respond::sink(&outcome, bytes, in_flight)
        }
        other => respond::other(&other, request.method(), in_flight),
    };
    if let Some(report) = report {
        answer.headers_mut().insert(SENDER, report);
    }
    Ok(answer)
}

/// Reads a body and forgets it, up to the limits on its size and on its time.
async fn sink(request: Request<Incoming>, limits: &Limits, in_flight: &InFlight) -> (Sunk, u64) {
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: u64| bytes > limits.sink_bytes) {
        return (Sunk::TooLarge, 0);
    }
    let end = Instant::now() + limits.sink_time;
    let mut body = request.into_body();
    let mut bytes = 0;
    loop {
        match timeout_at(end, body.frame()).await {
            Err(_) => return (Sunk::TooSlow, bytes),
            Ok(None) => return (Sunk::Whole, bytes),
            Ok(Some(Err(_))) => return (Sunk::Broken, bytes),
            Ok(Some(Ok(frame))) => {
                let n = frame.data_ref().map_or(0, |data| data.remaining() as u64);
                in_flight.received(n);
                bytes += n;
                if bytes > limits.sink_bytes {
                    return (Sunk::TooLarge, bytes);
                }
            }
        }
    }
}

/// Turns a connection away: there are too many.
pub async fn refuse(mut tcp: TcpStream, limit: Duration, stop: watch::Receiver<bool>) {
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
/// may overtake the last answer; so what still comes is read and dropped, for a while. When the
/// server is about to end, this waits instead until the peer has acknowledged all: in a container
/// the network ends with the server, and what the kernel still had to send would be lost.
async fn linger(mut tcp: TcpStream, limit: Duration, stop: &watch::Receiver<bool>) {
    let end = Instant::now() + limit;
    let mut dropped = [0; 4096];
    loop {
        let result = timeout(GLANCE, tcp.read(&mut dropped)).await;
        let over = match result {
            Ok(Ok(0) | Err(_)) => true,
            _ if *stop.borrow() => unacknowledged(&tcp) == 0,
            _ => Instant::now() >= end,
        };
        if over {
            return;
        }
    }
}
