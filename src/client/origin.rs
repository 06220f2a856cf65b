//! One server as the client sees it: its address, and connections to it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::net::{TcpSocket, TcpStream};

use super::running;
use crate::http::answer::AnswerHead;
use crate::http::request::OutgoingRequest;
use crate::tcp;
use crate::text::duration;
use crate::units::LinkId;

/// The port of a server that is named without one.
pub(crate) const DEFAULT_PORT: u16 = 4455;

/// A server that has been looked up.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub link: LinkId,
    pub address: SocketAddr,
    /// All that its name stands for, that one first.
    pub addresses: Vec<SocketAddr>,
    /// For the Host header.
    pub host: String,
    pub congestion: Option<String>,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "server {} ({})", self.link, self.host)
    }
}

impl Origin {
    /// Looks a server up. IPv4 addresses are preferred where there are both.
    pub(crate) async fn resolve(link: LinkId, name: &str, congestion: Option<String>) -> Result<Origin> {
        let host = with_port(name)?;
        let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host(&host)
            .await
            .with_context(|| {
                format!("cannot find server {link}: the host of \"{name}\" does not resolve; check its name")
            })?
            .collect();
        addresses.sort_by_key(|address| !address.is_ipv4());
        let address = *addresses
            .first()
            .with_context(|| format!("cannot find server {link}: \"{name}\" has no address"))?;
        Ok(Origin { link, address, addresses, host, congestion })
    }

    /// Opens a connection.
    pub(crate) async fn connect(&self, give_up: Duration) -> Result<Arc<TcpStream>> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.context("cannot make a socket")?;
        if let Some(name) = &self.congestion {
            tcp::set_congestion_control(&socket, name)
                .with_context(|| format!("cannot use the congestion control {name}"))?;
        }
        let stream = match running::timeout(give_up, socket.connect(self.address)).await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => return Err(self.not_connected(&error)),
            None => bail!("cannot connect to {self}: no answer for {}", duration(give_up)),
        };
        stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        Ok(Arc::new(stream))
    }

    /// A request for the whole of a file.
    pub(crate) fn request<'a>(&'a self, method: &'a str, path: &'a str) -> OutgoingRequest<'a> {
        let congestion = self.congestion.as_deref();
        OutgoingRequest { method, host: &self.host, path, from: 0, to: None, if_range: None, congestion }
    }

    fn not_connected(&self, error: &io::Error) -> anyhow::Error {
        let hint = match error.kind() {
            io::ErrorKind::ConnectionRefused => "; is a server running there?",
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                "; check its address and the network"
            }
            _ => "",
        };
        anyhow!("cannot connect to {self}: {error}{hint}")
    }
}

/// The least round trip that the kernel has seen on a connection.
pub(crate) fn rtt_of(stream: &TcpStream) -> Option<Duration> {
    let info = tcp::read(stream).ok()?;
    Some(Duration::from_secs_f64(info.min_rtt_ms.unwrap_or(info.rtt_ms) / 1e3))
}

/// `host`, `host:port`, `1.2.3.4`, `::1` or `[::1]:80`, completed with the default port.
pub(crate) fn with_port(name: &str) -> Result<String> {
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '/') {
        bail!("\"{name}\" is not a server; write host or host:port");
    }
    let bare_v6 = name.parse::<std::net::Ipv6Addr>().is_ok();
    if bare_v6 {
        return Ok(format!("[{name}]:{DEFAULT_PORT}"));
    }
    match name.rsplit_once(':') {
        Some((_, port)) if !name.ends_with(']') => {
            let valid = port.parse::<u16>().is_ok_and(|port| port > 0);
            if !valid {
                bail!("\"{port}\" in \"{name}\" is not a port; write host:port with a port from 1 to 65535");
            }
            Ok(name.to_string())
        }
        _ => Ok(format!("{name}:{DEFAULT_PORT}")),
    }
}

/// Returns a busy server's wish to wait, for messages.
pub(crate) fn busy(head: &AnswerHead) -> String {
    head.retry_after
        .map_or_else(String::new, |wait| format!(" and asks to wait {} (Retry-After)", duration(wait)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_with_or_without_a_port() {
        assert_eq!(with_port("server-a").unwrap(), "server-a:4455");
        assert_eq!(with_port("10.0.0.1:80").unwrap(), "10.0.0.1:80");
        assert_eq!(with_port("::1").unwrap(), "[::1]:4455");
        assert_eq!(with_port("[::1]").unwrap(), "[::1]:4455");
        assert_eq!(with_port("[::1]:80").unwrap(), "[::1]:80");
        for bad in ["", "host:http", "host:0", "host:70000", "http://host", "a b"] {
            assert!(with_port(bad).is_err(), "{bad}");
        }
    }
}
