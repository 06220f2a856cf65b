//! The server's side of `Twinlink-Sender`: chooses a connection's congestion control and reports its TCP
//! state. `sender_report` is the header's text, `tcp` the socket's options.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::sender_report::Sender;
use crate::{sender_report, tcp};

/// The least time between two reports: where files are small, a report in each answer would be a
/// part of the traffic that it reports on.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// The reports on one connection's sending.
#[derive(Default)]
pub(crate) struct Congestion {
    reported: Option<Instant>,
    logged: Option<Instant>,
}

impl Congestion {
    /// Does what the value of a request's header asks for and returns the value for its answer, if one is due.
    ///
    /// # Errors
    /// The value that refuses the choice.
    pub(crate) fn obey(&mut self, socket: &TcpStream, asked: Option<&str>) -> Result<Option<String>, String> {
        let Some(asked) = asked else { return Ok(None) };
        let choice = sender_report::asked(asked);
        if let Some(name) = choice.filter(|name| tcp::congestion_control(socket).as_deref() != Some(name)) {
            let known = tcp::CONGESTION_CONTROLS.contains(&name);
            if !known || tcp::set_congestion_control(socket, name).is_err() {
                return Err(sender_report::refuse(&tcp::usable().unwrap_or_default()));
            }
        }
        Ok(self.report(socket))
    }

    /// Returns the connection's state for the log, if it is due.
    pub(crate) fn log(&mut self, socket: &TcpStream) -> Option<Sender> {
        if self.logged.is_some_and(|at| at.elapsed() < REPORT_EVERY) {
            return None;
        }
        self.logged = Some(Instant::now());
        tcp::read_sender(socket).ok()
    }

    fn report(&mut self, socket: &TcpStream) -> Option<String> {
        if self.reported.is_some_and(|at| at.elapsed() < REPORT_EVERY) {
            return None;
        }
        let report = tcp::read_sender(socket).ok()?;
        self.reported = Some(Instant::now());
        Some(sender_report::render(&report))
    }
}
