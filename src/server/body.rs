//! Answers' bodies: from memory, from a small file through a buffer, or from a larger one with
//! sendfile, by way of the connection's outbox.
//!
//! Either way a piece is handled on the worker thread just before it is sent, from the page cache to
//! the socket: no thread is changed, and nothing of a larger file is ever copied into this program. A
//! file that is not in the page cache makes its worker wait for the disk; that is the price, and for a
//! lab's segments a small one. hyper asks for the next piece only when the last one is with the
//! kernel, so a connection holds one piece at a time, whatever the size of the file.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::body::{Frame, SizeHint};

use super::file::OpenFile;
use super::journal::InFlight;
use super::outbox::{Outbox, STRETCH, stand_in};

/// The body of an answer: exactly `left` bytes more, or an error.
pub struct Body {
    source: Source,
    left: u64,
    in_flight: Arc<InFlight>,
}

enum Source {
    Memory(Bytes),
    File { file: Arc<OpenFile>, at: u64, through: Through, outbox: Arc<Outbox> },
}

/// How the bytes of a file get to the socket.
#[derive(Clone, Copy)]
enum Through {
    Buffer,
    Sendfile,
}

/// Up to this many bytes, reading them and writing them together with the head costs less than
/// sending them apart from it.
const SMALL: u64 = 64 * 1024;

impl Body {
    pub fn empty(in_flight: Arc<InFlight>) -> Body {
        Body::memory(Bytes::new(), in_flight)
    }

    pub fn memory(bytes: Bytes, in_flight: Arc<InFlight>) -> Body {
        Body { left: bytes.len() as u64, source: Source::Memory(bytes), in_flight }
    }

    /// The bytes of `file` from `from` up to and without `to`.
    pub fn file(file: OpenFile, from: u64, to: u64, outbox: Arc<Outbox>, in_flight: Arc<InFlight>) -> Body {
        let left = to - from;
        let through = if left <= SMALL { Through::Buffer } else { Through::Sendfile };
        Body { source: Source::File { file: Arc::new(file), at: from, through, outbox }, left, in_flight }
    }

    fn next_piece(&mut self) -> io::Result<Content> {
        match &mut self.source {
            Source::Memory(bytes) => {
                self.left = 0;
                Ok(Content::Memory(std::mem::take(bytes)))
            }
            Source::File { file, at, through, outbox } => {
                let (piece, len) = match through {
                    Through::Buffer => {
                        let bytes = file.read(*at, self.left, &outbox.pool)?;
                        let len = bytes.len();
                        (Content::Memory(bytes), len)
                    }
                    Through::Sendfile => {
                        let len = self.left.min(STRETCH as u64) as usize;
                        (Content::Stretch { left: len, outbox: outbox.clone() }, len)
                    }
                };
                self.left -= len as u64;
                if self.left == 0 {
                    // The last piece completes the answer, so it goes out only when the file is
                    // still the one whose digest was promised.
                    file.check_unchanged()?;
                }
                if let Content::Stretch { .. } = piece {
                    outbox.put(file.clone(), *at, len);
                }
                *at += len as u64;
                Ok(piece)
            }
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Piece;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context) -> Poll<Option<io::Result<Frame<Piece>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = self.next_piece().map(|content| {
            let in_flight = self.in_flight.clone();
            Frame::data(Piece { content, in_flight })
        });
        if let Err(error) = &piece {
            tracing::error!("an answer was cut off: {error}");
        }
        Poll::Ready(Some(piece))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A piece of a body on its way to the kernel; it tells its request how much of it arrived there.
pub struct Piece {
    content: Content,
    in_flight: Arc<InFlight>,
}

enum Content {
    Memory(Bytes),
    /// So many bytes of a file, which the outbox knows.
    Stretch {
        left: usize,
        outbox: Arc<Outbox>,
    },
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        match &self.content {
            Content::Memory(bytes) => bytes.len(),
            Content::Stretch { left, .. } => *left,
        }
    }

    fn chunk(&self) -> &[u8] {
        match &self.content {
            Content::Memory(bytes) => bytes,
            Content::Stretch { left, .. } => stand_in(*left),
        }
    }

    fn advance(&mut self, n: usize) {
        match &mut self.content {
            Content::Memory(bytes) => bytes.advance(n),
            Content::Stretch { left, outbox } => {
                outbox.taken(n);
                *left -= n;
            }
        }
        self.in_flight.sent(n as u64);
    }
}

/// Buffers that are used again, so that none has to be zeroed or mapped for each piece.
pub struct Pool {
    size: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

/// Buffers kept for later. More may be in use at a time; those are given back to the system.
const KEPT: usize = 16;

impl Pool {
    /// Buffers of `size` bytes.
    pub fn new(size: usize) -> Arc<Pool> {
        Arc::new(Pool { size, free: Mutex::new(Vec::with_capacity(KEPT)) })
    }

    pub fn take(self: &Arc<Pool>) -> PooledBuffer {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = free.unwrap_or_else(|| vec![0; self.size]);
        PooledBuffer { bytes, filled: 0, pool: self.clone() }
    }
}

pub struct PooledBuffer {
    pub bytes: Vec<u8>,
    pub filled: usize,
    pool: Arc<Pool>,
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}
