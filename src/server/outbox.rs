//! Files from the page cache to a socket with sendfile(2), under hyper, which knows only memory.
//!
//! A body gives hyper a stand-in for a stretch of a file: blank memory of its length, which is never
//! read, while the outbox keeps what it stands for. When the stand-in reaches the socket, the kernel
//! is told to send that stretch. What hyper takes off a stand-in is held against what was sent this
//! way: had hyper copied the blank bytes anywhere, to send them from there, the connection would end
//! before they could go out. One outbox belongs to one connection and knows no HTTP.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::body::Pool;
use super::file::OpenFile;

/// The most that one stand-in stands for, bytes; the kernel takes less at a time anyway.
pub const STRETCH: usize = 1 << 20;

/// Zeroed by the kernel when it is first read, which is never: it takes no memory.
static BLANK: LazyLock<Box<[u8]>> = LazyLock::new(|| vec![0; STRETCH].into_boxed_slice());

/// The bytes that stand for `len` bytes of a file, at most `STRETCH`.
pub fn stand_in(len: usize) -> &'static [u8] {
    &BLANK[..len]
}

fn stands_in(slice: &IoSlice) -> bool {
    BLANK.as_ptr_range().contains(&slice.as_ptr())
}

pub struct Outbox {
    pub pool: Arc<Pool>,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    stretches: VecDeque<Stretch>,
    /// Sent, and not yet taken off its stand-in.
    sent: usize,
    copied: bool,
}

/// A part of a file that is to be sent; never empty.
struct Stretch {
    file: Arc<OpenFile>,
    at: u64,
    left: usize,
}

impl Outbox {
    pub fn new(pool: Arc<Pool>) -> Arc<Outbox> {
        Arc::new(Outbox { pool, pending: Mutex::default() })
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a stretch of a file, for which `stand_in(len)` has to come to `write` in its turn.
    pub fn put(&self, file: Arc<OpenFile>, at: u64, len: usize) {
        self.pending().stretches.push_back(Stretch { file, at, left: len });
    }

    /// Notes that hyper has taken bytes off a stand-in.
    pub fn taken(&self, bytes: usize) {
        let mut pending = self.pending();
        match pending.sent.checked_sub(bytes) {
            Some(sent) => pending.sent = sent,
            None => pending.copied = true,
        }
    }

    /// Whether `pieces` have to go through `write`: anything in them stands for a file, or may be a
    /// copy of what does.
    pub fn concerns(&self, pieces: &[IoSlice]) -> bool {
        pieces.iter().any(stands_in) || self.pending().copied
    }

    /// Writes the memory in front of the first stand-in, or else from the file that it stands for, as
    /// much as the socket takes at once.
    ///
    /// # Errors
    /// `WouldBlock` where it takes nothing; when the file has become shorter.
    pub fn write(&self, tcp: &TcpStream, pieces: &[IoSlice]) -> io::Result<usize> {
        let mut pending = self.pending();
        if pending.copied {
            return Err(io::Error::other(
                "a stand-in of a file was copied; this is a mistake in this program",
            ));
        }
        let memory = pieces.iter().position(stands_in).unwrap_or(pieces.len());
        if pieces[..memory].iter().any(|piece| !piece.is_empty()) {
            // The head of an answer waits for its body, to share packets with it.
            let more = if memory < pieces.len() { libc::MSG_MORE } else { 0 };
            let head = &pieces[..memory];
            return tcp
                .try_io(Interest::WRITABLE, || SockRef::from(tcp).send_vectored_with_flags(head, more));
        }
        let Some(stretch) = pending.stretches.front_mut() else {
            return Err(io::Error::other("a stand-in stands for no file; this is a mistake in this program"));
        };
        let sent = stretch.send(tcp, &self.pool)?;
        stretch.at += sent as u64;
        stretch.left -= sent;
        if stretch.left == 0 {
            pending.stretches.pop_front();
        }
        pending.sent += sent;
        Ok(sent)
    }
}

impl Stretch {
    /// Sends from the stretch's beginning; returns how many bytes the socket took, never 0.
    fn send(&self, tcp: &TcpStream, pool: &Arc<Pool>) -> io::Result<usize> {
        let sent = tcp.try_io(Interest::WRITABLE, || {
            SockRef::from(tcp).sendfile(
                self.file.descriptor(),
                self.at as usize,
                NonZeroUsize::new(self.left),
            )
        });
        match sent {
            Ok(0) => Err(self.file.changed()),
            // Some file systems have no such way; then the bytes pass through here after all.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                tcp.try_write(&self.file.read(self.at, self.left as u64, pool)?)
            }
            sent => sent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::file::ServedFile;
    use std::io::Read;

    async fn pair() -> (TcpStream, std::net::TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let near = listener.accept().await.unwrap().0;
        near.writable().await.unwrap();
        (near, far)
    }

    fn file(dir: &tempfile::TempDir, content: &[u8]) -> Arc<OpenFile> {
        let path = dir.path().join("f");
        std::fs::write(&path, content).unwrap();
        Arc::new(ServedFile::hash(&path).unwrap().open().unwrap())
    }

    #[tokio::test]
    async fn a_head_and_the_stretch_behind_it_arrive_in_order() {
        let (near, mut far) = pair().await;
        let dir = tempfile::tempdir().unwrap();
        let outbox = Outbox::new(Pool::new(4096));
        outbox.put(file(&dir, b"0123456789"), 2, 5);
        let pieces = [IoSlice::new(b"head "), IoSlice::new(stand_in(5))];
        assert!(outbox.concerns(&pieces));
        assert_eq!(outbox.write(&near, &pieces).unwrap(), 5);
        assert_eq!(outbox.write(&near, &pieces[1..]).unwrap(), 5);
        outbox.taken(5);
        drop(near);
        let mut text = String::new();
        far.read_to_string(&mut text).unwrap();
        assert_eq!(text, "head 23456");
    }

    #[tokio::test]
    async fn blank_bytes_that_were_copied_are_never_sent() {
        let (near, _far) = pair().await;
        let dir = tempfile::tempdir().unwrap();
        let outbox = Outbox::new(Pool::new(4096));
        outbox.put(file(&dir, b"0123456789"), 0, 10);
        outbox.taken(4);
        let copy = [IoSlice::new(&[0; 4])];
        assert!(outbox.concerns(&copy));
        assert!(outbox.write(&near, &copy).is_err());
    }

    #[tokio::test]
    async fn a_file_that_has_become_shorter_is_an_error() {
        let (near, _far) = pair().await;
        let dir = tempfile::tempdir().unwrap();
        let outbox = Outbox::new(Pool::new(4096));
        outbox.put(file(&dir, b"0123456789"), 0, 10);
        std::fs::write(dir.path().join("f"), b"").unwrap();
        let error = outbox.write(&near, &[IoSlice::new(stand_in(10))]).unwrap_err();
        assert!(error.to_string().contains("has changed"), "{error}");
    }
}
