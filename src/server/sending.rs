//! The server's side of `Twinlink-Sender`: chooses a connection's congestion control and tells how
//! its TCP is doing. The header's text is `sender`'s business, the socket's options are `tcp`'s.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

use crate::{sender, tcp};

pub const SENDER: HeaderName = HeaderName::from_static(sender::HEADER);

/// The least time between two reports: where files are small, a report in each answer would be a
/// part of the traffic that it reports on.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// One connection's socket, for its options alone.
pub struct Sending {
    socket: OwnedFd,
    reported: Mutex<Option<Instant>>,
}

impl Sending {
    /// # Errors
    /// When there is no file descriptor left.
    pub fn new(socket: &impl AsFd) -> io::Result<Sending> {
        Ok(Sending { socket: socket.as_fd().try_clone_to_owned()?, reported: Mutex::new(None) })
    }

    /// Does what a request's header asks for and returns the header for its answer, if one is due.
    ///
    /// # Errors
    /// The header that refuses the choice.
    pub fn obey(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, HeaderValue> {
        let Some(asked) = headers.get(SENDER) else { return Ok(None) };
        let choice = asked.to_str().ok().and_then(sender::asked);
        if let Some(name) =
            choice.filter(|name| tcp::congestion_control(&self.socket).as_deref() != Some(name))
        {
            self.choose(name)?;
        }
        Ok(self.report())
    }

    fn choose(&self, name: &str) -> Result<(), HeaderValue> {
        let known = tcp::CONGESTION_CONTROLS.contains(&name);
        if known && tcp::set_congestion_control(&self.socket, name).is_ok() {
            return Ok(());
        }
        let usable = tcp::usable().unwrap_or_default();
        Err(HeaderValue::try_from(sender::refuse(&usable)).expect("names of the list are header text"))
    }

    fn report(&self) -> Option<HeaderValue> {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.is_some_and(|at| at.elapsed() < REPORT_EVERY) {
            return None;
        }
        let report = tcp::read_sender(&self.socket).ok()?;
        *reported = Some(Instant::now());
        HeaderValue::try_from(sender::render(&report)).ok()
    }
}
