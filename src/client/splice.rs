//! Bytes from a socket to a file by way of a pipe of the kernel (splice(2)), so that they are copied once,
//! into the file, and never into this program. Code that needs their content must read them instead.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// The capacity that a user without privileges may give a pipe (pipe(7), `pipe-max-size`).
const CAPACITY: libc::c_int = 1 << 20;

pub(crate) struct Pipe {
    out: File,
    into: OwnedFd,
    held: usize,
}

impl Pipe {
    /// # Errors
    /// When there is no file descriptor left.
    pub(crate) fn new() -> io::Result<Pipe> {
        let mut ends = [0; 2];
        // SAFETY: the kernel writes two descriptors into `ends`.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both descriptors are new and nobody else's.
        let (out, into) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        // A small pipe works too; it only takes more calls.
        // SAFETY: this passes no pointers.
        unsafe { libc::fcntl(into.as_raw_fd(), libc::F_SETPIPE_SZ, CAPACITY) };
        Ok(Pipe { out: out.into(), into, held: 0 })
    }

    /// Bytes in the pipe.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Takes up to `most` bytes from a socket that does not block, into the empty pipe. 0 is its end.
    ///
    /// # Errors
    /// `WouldBlock` where there is nothing to take.
    pub(crate) fn fill(&mut self, socket: &impl AsFd, most: u64) -> io::Result<usize> {
        self.held = splice(socket, &self.into, None, most.min(CAPACITY as u64) as usize)?;
        Ok(self.held)
    }

    /// Moves `bytes`, no more than are held, into `file` from the offset `at` on.
    ///
    /// # Errors
    /// When they cannot be written; what is left in the pipe is of no use then.
    pub(crate) fn drain(&mut self, file: &File, mut at: u64, bytes: usize) -> io::Result<()> {
        let mut left = bytes;
        while left > 0 {
            let moved = match splice(&self.out, file, Some(at), left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(moved) => moved,
                // Not every file system can; then the bytes pass through here after all.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    file.write_all_at(&self.read(left)?, at)?;
                    left
                }
                Err(error) => return Err(error),
            };
            at += moved as u64;
            left -= moved;
        }
        self.held -= bytes;
        Ok(())
    }

    /// Throws away `bytes`, no more than are held.
    pub(crate) fn discard(&mut self, bytes: usize) -> io::Result<()> {
        self.read(bytes)?;
        self.held -= bytes;
        Ok(())
    }

    fn read(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; bytes];
        self.out.read_exact(&mut buffer)?;
        Ok(buffer)
    }
}

fn splice(from: &impl AsFd, to: &impl AsFd, at: Option<u64>, bytes: usize) -> io::Result<usize> {
    let mut offset = at.unwrap_or_default() as libc::loff_t;
    let offset = at.map_or(std::ptr::null_mut(), |_| &raw mut offset);
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    // SAFETY: both descriptors are open while they are borrowed; the offset, where there is one, lives
    // until the call returns.
    let moved = unsafe { libc::splice(from, std::ptr::null_mut(), to, offset, bytes, libc::SPLICE_F_MOVE) };
    if moved < 0 { Err(io::Error::last_os_error()) } else { Ok(moved as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn bytes_go_from_a_socket_into_a_file_at_an_offset() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut far = listener.accept().unwrap().0;
        let file = tempfile::tempfile().unwrap();
        let mut pipe = Pipe::new().unwrap();
        near.set_nonblocking(true).unwrap();
        assert_eq!(pipe.fill(&near, 10).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        near.set_nonblocking(false).unwrap();
        far.write_all(b"0123456789").unwrap();
        assert_eq!(pipe.fill(&near, 4).unwrap(), 4);
        pipe.drain(&file, 3, 4).unwrap();
        assert_eq!(pipe.fill(&near, 4).unwrap(), 4);
        pipe.discard(2).unwrap();
        assert_eq!(pipe.held(), 2);
        pipe.drain(&file, 9, 2).unwrap();
        assert_eq!(pipe.held(), 0);
        let mut content = [1; 11];
        file.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(&content, b"\0\0\x000123\0\x0067");
        assert_eq!(pipe.fill(&near, 10).unwrap(), 2);
        pipe.discard(2).unwrap();
        drop(far);
        assert_eq!(pipe.fill(&near, 10).unwrap(), 0, "the end of the connection");
    }
}
