//! A socket that gives up on a peer that makes no progress.
//!
//! Four things can stand still, and each has its own limit: a connection on which nothing was asked,
//! a head that has begun and does not end, a request body that stops coming, and an answer that the
//! peer does not take. The lab's links may be slower than any fixed total allows for, so the limits
//! but that on the head count from the last progress, and bytes that wait in the kernel count as
//! progress while their number falls: at 30 KB/s a full send buffer takes minutes to drain, during
//! which no write succeeds although all is well.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Limits;
use super::journal::Connection;
use super::outbox::Outbox;

pub struct Watched {
    io: TokioIo<TcpStream>,
    connection: Arc<Connection>,
    outbox: Arc<Outbox>,
    limits: Limits,
    /// Since when a read has waited for bytes.
    reading: Option<Instant>,
    /// Since when a write has waited for room.
    writing: Option<Instant>,
    /// When the first bytes came that no request has been made of, and how many requests there were.
    head: Option<(Instant, u64)>,
    /// Bytes in the kernel that the peer had not acknowledged when this was last looked at.
    unsent: u32,
    timer: Pin<Box<Sleep>>,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Request,
    Head,
    Body,
    Room,
}

impl Watched {
    pub fn new(tcp: TcpStream, connection: Arc<Connection>, outbox: Arc<Outbox>, limits: Limits) -> Watched {
        let timer = Box::pin(sleep_until(Instant::now() + limits.idle));
        Watched {
            io: TokioIo::new(tcp),
            connection,
            outbox,
            limits,
            reading: None,
            writing: None,
            head: None,
            unsent: 0,
            timer,
        }
    }

    pub fn into_inner(self) -> TcpStream {
        self.io.into_inner()
    }

    /// What is waited for, and until when.
    fn wait(&self) -> Option<(Wait, Instant)> {
        if let Some(since) = self.writing {
            return Some((Wait::Room, since + self.limits.stall));
        }
        let since = self.reading?;
        if self.connection.busy.load(Relaxed) > 0 {
            return Some((Wait::Body, since + self.limits.stall));
        }
        match self.head {
            Some((began, requests)) if requests == self.connection.requests.load(Relaxed) => {
                Some((Wait::Head, began + self.limits.head))
            }
            _ => Some((Wait::Request, since + self.limits.idle)),
        }
    }

    /// Called when a read or a write has to wait: an error when it has waited for too long.
    ///
    /// The timer is not set anew for each wait, which would cost more than the wait itself; when it
    /// fires too early it is set for the rest.
    fn check(&mut self, cx: &mut Context) -> Poll<io::Error> {
        while let Some((wait, deadline)) = self.wait() {
            if deadline < self.timer.deadline() {
                self.timer.as_mut().reset(deadline);
            }
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            if now < deadline {
                self.timer.as_mut().reset(deadline);
            } else if wait != Wait::Head && self.drained() {
                self.reading = self.reading.map(|_| now);
                self.writing = self.writing.map(|_| now);
            } else {
                return Poll::Ready(self.give_up(wait));
            }
        }
        Poll::Pending
    }

    /// Whether the peer has acknowledged anything since the last look.
    fn drained(&mut self) -> bool {
        let before = std::mem::replace(&mut self.unsent, unacknowledged(self.io.inner()));
        self.unsent != before
    }

    fn give_up(&self, wait: Wait) -> io::Error {
        let what = match wait {
            Wait::Request => "it asked for nothing for too long",
            Wait::Head => "its request's head did not end in time",
            Wait::Body => "its request's body stopped coming",
            Wait::Room => "it stopped taking its answer",
        };
        tracing::debug!(peer = %self.connection.peer, "a connection is closed: {what}");
        if wait == Wait::Room {
            // Closing it in the usual way would leave the kernel trying to send for minutes. That
            // this fails only where the connection is gone already makes no difference.
            let _ = self.io.inner().set_zero_linger();
        }
        io::Error::new(io::ErrorKind::TimedOut, what)
    }

    fn poll_outbox(&self, cx: &mut Context, pieces: &[io::IoSlice]) -> Poll<io::Result<usize>> {
        let tcp = self.io.inner();
        loop {
            ready!(tcp.poll_write_ready(cx))?;
            match self.outbox.write(tcp, pieces) {
                // The socket is not ready after all, which it remembers.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn wrote(&mut self, cx: &mut Context, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if result.is_ready() {
            self.writing = None;
            return result;
        }
        if self.writing.is_none() {
            self.writing = Some(Instant::now());
            self.unsent = unacknowledged(self.io.inner());
        }
        self.check(cx).map(Err)
    }
}

impl Read for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context, into: ReadBufCursor) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_read(cx, into);
        if result.is_pending() {
            if self.reading.is_none() {
                self.reading = Some(Instant::now());
                self.unsent = unacknowledged(self.io.inner());
            }
            return self.check(cx).map(Err);
        }
        self.reading = None;
        // What comes while a request is being answered is its body, or comes early; neither may be
        // taken for the slow beginning of a head.
        let requests = self.connection.requests.load(Relaxed);
        let idle = self.connection.busy.load(Relaxed) == 0;
        if idle && self.head.is_none_or(|(_, before)| before != requests) {
            self.head = Some((Instant::now(), requests));
        }
        result
    }
}

impl Write for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        pieces: &[io::IoSlice],
    ) -> Poll<io::Result<usize>> {
        let result = if self.outbox.concerns(pieces) {
            self.poll_outbox(cx, pieces)
        } else {
            Pin::new(&mut self.io).poll_write_vectored(cx, pieces)
        };
        self.wrote(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Bytes written to a socket that the peer has not acknowledged yet (tcp(7), `SIOCOUTQ`).
pub fn unacknowledged(tcp: &TcpStream) -> u32 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open while `tcp` is borrowed, and the request writes one int.
    let result = unsafe { libc::ioctl(tcp.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
    if result == 0 { u32::try_from(bytes).unwrap_or(0) } else { 0 }
}
