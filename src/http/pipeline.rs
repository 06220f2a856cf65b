//! A client's connection: requests go out behind one another, answers come back in their order.
//!
//! It neither decides what to ask for nor judges what comes, and keeps no time: its callers do.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::reader::Answers;
use super::request::OutgoingRequest;

pub(crate) struct PipelinedConnection {
    pub stream: Arc<TcpStream>,
    pub answers: Answers,
    to_send: Vec<u8>,
}

impl PipelinedConnection {
    pub(crate) fn new(stream: Arc<TcpStream>) -> PipelinedConnection {
        PipelinedConnection { stream, answers: Answers::default(), to_send: Vec::new() }
    }

    /// Queues a request.
    pub(crate) fn ask(&mut self, request: &OutgoingRequest) {
        request.render(&mut self.to_send);
    }

    /// Queues bytes of any kind.
    pub(crate) fn queue(&mut self, bytes: &[u8]) {
        self.to_send.extend_from_slice(bytes);
    }

    /// Sends what is queued as far as the socket takes it now; several requests go out in one write.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while !self.to_send.is_empty() {
            match self.stream.try_write(&self.to_send) {
                Ok(written) => drop(self.to_send.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends all that is queued.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) async fn sent(&mut self) -> io::Result<()> {
        loop {
            self.flush()?;
            if self.to_send.is_empty() {
                return Ok(());
            }
            self.stream.writable().await?;
        }
    }

    /// Waits until there is something to read, and sends what is queued meanwhile. Nothing is lost where
    /// the wait is dropped.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) async fn readable(&mut self) -> io::Result<()> {
        loop {
            self.flush()?;
            let unsent = !self.to_send.is_empty();
            let interest = if unsent { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            if self.stream.ready(interest).await?.is_readable() {
                return Ok(());
            }
        }
    }

    /// Reads what is there, once: the bytes that came, none at the end of the connection, or `None` where
    /// nothing is there yet.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn read<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
        match self.stream.try_read(buffer) {
            Ok(read) => Ok(Some(&buffer[..read])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}
