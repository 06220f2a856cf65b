//! A connection's socket: reads, writes and sendfile(2), given up where the peer makes no progress.
//!
//! Four things can stand still, and each has its own limit: a connection on which nothing was asked,
//! a head that has begun and does not end, a request body that stops coming, and an answer that the
//! peer does not take. The lab's links may be slower than any fixed total allows for, so the limits
//! but that on the head count from the last progress, and bytes that wait in the kernel count as
//! progress while their number falls: at 30 KB/s a full send buffer takes minutes to drain, during
//! which no write succeeds although all is well.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::pin::Pin;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Limits;
use super::file::OpenFile;

/// How much of a file is sent between two looks at it, bytes; the kernel takes less at a time anyway.
const STRETCH_BYTES: u64 = 1 << 20;
/// How much of a file is read at once on file systems without sendfile.
const PIECE_BYTES: u64 = 64 * 1024;

pub(crate) struct Socket {
    tcp: TcpStream,
    peer: SocketAddr,
    limits: Limits,
    /// Bytes in the kernel that the peer had not acknowledged when this was last looked at.
    unacknowledged: u32,
    /// Not set anew for each wait, which would cost more than the wait itself.
    timer: Pin<Box<Sleep>>,
}

/// The event that a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Request,
    /// The rest of a head that began at this time.
    Head(Instant),
    Body,
    Room,
}

impl Socket {
    pub(crate) fn new(tcp: TcpStream, peer: SocketAddr, limits: Limits) -> Socket {
        let timer = Box::pin(sleep_until(Instant::now() + limits.idle));
        Socket { tcp, peer, limits, unacknowledged: 0, timer }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub(crate) fn into_inner(self) -> TcpStream {
        self.tcp
    }

    /// Appends what is there to `into`, as much as it has room for; waits until there is something.
    /// Returns how many bytes that were, 0 at the end of the connection.
    ///
    /// # Errors
    /// `TimedOut` after the time that the wait is allowed, or that of the system.
    pub(crate) async fn read(&mut self, into: &mut Vec<u8>, wait: Wait) -> io::Result<usize> {
        loop {
            match self.tcp.try_read_buf(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.ready(wait).await?,
                read => return read,
            }
        }
    }

    /// Writes all of `bytes`, and adds to `taken` what the kernel has of them. `more` says that more
    /// follows, to share packets with it.
    pub(crate) async fn write_all(
        &mut self,
        mut bytes: &[u8],
        more: bool,
        taken: &mut u64,
    ) -> io::Result<()> {
        let flags = libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
        while !bytes.is_empty() {
            let tcp = &self.tcp;
            let send = || SockRef::from(tcp).send_with_flags(bytes, flags);
            match tcp.try_io(Interest::WRITABLE, send) {
                Ok(sent) => {
                    *taken += sent as u64;
                    bytes = &bytes[sent..];
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.ready(Wait::Room).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends the bytes of a file from `at` up to and without `end`, from the page cache to the socket:
    /// nothing of them is copied into this program. Adds to `taken` what the kernel has of them. A file
    /// that is not in the page cache makes the worker wait for the disk; for a lab's segments that is a
    /// small price.
    ///
    /// # Errors
    /// Also when the file is not any more what it was when it was opened; then its last bytes are not sent.
    pub(crate) async fn send_file(
        &mut self,
        file: &OpenFile,
        mut at: u64,
        end: u64,
        taken: &mut u64,
    ) -> io::Result<()> {
        while at < end {
            let stretch_end = end.min(at + STRETCH_BYTES);
            if stretch_end == end {
                // The last bytes complete the answer, so they go out only when the file is still the one
                // whose digest was promised.
                file.check_unchanged()?;
            }
            while at < stretch_end {
                let sent = self.send_some(file, at, stretch_end - at).await?;
                at += sent;
                *taken += sent;
            }
            consume_budget().await;
        }
        Ok(())
    }

    /// Sends from `at` on at least one byte and at most `most`; returns how many.
    async fn send_some(&mut self, file: &OpenFile, at: u64, most: u64) -> io::Result<u64> {
        loop {
            let tcp = &self.tcp;
            let length = NonZeroUsize::new(most as usize);
            let send = || SockRef::from(tcp).sendfile(file.descriptor(), at as usize, length);
            match tcp.try_io(Interest::WRITABLE, send) {
                Ok(0) => return Err(file.changed()),
                Ok(sent) => return Ok(sent as u64),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.ready(Wait::Room).await?,
                // Some file systems have no such way; then the bytes pass through here after all.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                    let mut piece = vec![0; most.min(PIECE_BYTES) as usize];
                    file.read_exact_at(&mut piece, at)?;
                    let mut sent = 0;
                    self.write_all(&piece, false, &mut sent).await?;
                    return Ok(sent);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until the socket can be read, or written to for `Room`.
    async fn ready(&mut self, wait: Wait) -> io::Result<()> {
        let interest = if wait == Wait::Room { Interest::WRITABLE } else { Interest::READABLE };
        let mut deadline = match wait {
            Wait::Request => Instant::now() + self.limits.idle,
            Wait::Head(began) => began + self.limits.head,
            Wait::Body | Wait::Room => Instant::now() + self.limits.stall,
        };
        self.unacknowledged = unacknowledged(&self.tcp);
        loop {
            if deadline < self.timer.deadline() {
                self.timer.as_mut().reset(deadline);
            }
            tokio::select! {
                biased;
                ready = self.tcp.ready(interest) => return ready.map(drop),
                () = &mut self.timer => {}
            }
            let now = Instant::now();
            if now >= deadline {
                if matches!(wait, Wait::Head(_)) || !self.drained() {
                    return Err(self.give_up(wait));
                }
                let limit = if wait == Wait::Request { self.limits.idle } else { self.limits.stall };
                deadline = now + limit;
            }
            self.timer.as_mut().reset(deadline);
        }
    }

    /// Whether the peer has acknowledged anything since the last look.
    fn drained(&mut self) -> bool {
        let before = std::mem::replace(&mut self.unacknowledged, unacknowledged(&self.tcp));
        self.unacknowledged != before
    }

    fn give_up(&self, wait: Wait) -> io::Error {
        let what = match wait {
            Wait::Request => "it asked for nothing for too long",
            Wait::Head(_) => "its request's head did not end in time",
            Wait::Body => "its request's body stopped coming",
            Wait::Room => "it stopped taking its answer",
        };
        tracing::debug!(peer = %self.peer, "a connection is closed: {what}");
        if wait == Wait::Room {
            // Closing it in the usual way would leave the kernel trying to send for minutes. That
            // this fails only where the connection is gone already makes no difference.
            let _ = self.tcp.set_zero_linger();
        }
        io::Error::new(ErrorKind::TimedOut, what)
    }
}

/// Bytes written to a socket that the peer has not acknowledged yet (tcp(7), `SIOCOUTQ`).
pub(crate) fn unacknowledged(tcp: &TcpStream) -> u32 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open while `tcp` is borrowed, and the request writes one int.
    let result = unsafe { libc::ioctl(tcp.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
    if result == 0 { u32::try_from(bytes).unwrap_or(0) } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::server::file::ServedFile;

    async fn pair() -> (Socket, std::net::TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, peer) = listener.accept().await.unwrap();
        (Socket::new(near, peer, Limits::default()), far)
    }

    fn file(dir: &tempfile::TempDir, content: &[u8]) -> OpenFile {
        let path = dir.path().join("f");
        std::fs::write(&path, content).unwrap();
        ServedFile::hash(&path).unwrap().open().unwrap()
    }

    #[tokio::test]
    async fn head_and_part_of_a_file_arrive_in_order() {
        let (mut near, mut far) = pair().await;
        let dir = tempfile::tempdir().unwrap();
        let (file, mut taken) = (file(&dir, b"0123456789"), 0);
        near.write_all(b"head ", true, &mut taken).await.unwrap();
        near.send_file(&file, 2, 7, &mut taken).await.unwrap();
        assert_eq!(taken, 10);
        drop(near);
        let mut text = String::new();
        far.read_to_string(&mut text).unwrap();
        assert_eq!(text, "head 23456");
    }

    #[tokio::test]
    async fn last_bytes_of_a_changed_file_are_not_sent() {
        let (mut near, _far) = pair().await;
        let dir = tempfile::tempdir().unwrap();
        for (content, from) in [(&b""[..], 0), (b"9876543210", 5)] {
            let (file, mut taken) = (file(&dir, b"0123456789"), 0);
            std::fs::write(dir.path().join("f"), content).unwrap();
            let error = near.send_file(&file, from, 10, &mut taken).await.unwrap_err();
            assert!(error.to_string().contains("has changed"), "{error}");
            assert_eq!(taken, 0);
        }
    }
}
