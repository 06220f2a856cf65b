//! One server as the client sees it: its address, connecting to it, and what it says of itself
//! before the transfer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::exchange::{receive, send};
use super::http::{Answers, Event, Head, Request};
use super::listing::{self, Segment};
use super::reach;
use crate::units::LinkId;
use crate::{record, sender, tcp};

/// The port of a server that is named without one.
pub const DEFAULT_PORT: u16 = 4455;
/// A list of a million files is below this.
const MAX_LIST_BYTES: usize = 256 * 1024 * 1024;

/// A server that has been looked up.
#[derive(Clone, Debug)]
pub struct Peer {
    pub link: LinkId,
    /// As it was written on the command line.
    pub name: String,
    pub address: SocketAddr,
    /// All that its name stands for, that one first.
    pub addresses: Vec<SocketAddr>,
    /// For the Host header.
    pub host: String,
    pub congestion: Option<String>,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "server {} ({})", self.link, self.host)
    }
}

/// What a server said of itself before the transfer.
#[derive(Clone, Debug)]
pub struct Introduction {
    pub software: Option<String>,
    pub http_version: String,
    /// Whether the connection stays open between answers, so that requests can be pipelined.
    pub keeps_alive: bool,
    pub list: Option<Vec<Segment>>,
    pub rtt: Option<Duration>,
    /// Of this end of the connection.
    pub congestion_control: Option<String>,
    /// Of the server's end; null where it tells nothing.
    pub sender: Option<record::Sender>,
}

impl Peer {
    /// Looks a server up. IPv4 addresses are preferred where there are both.
    pub async fn resolve(link: LinkId, name: &str, congestion: Option<String>) -> Result<Peer> {
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
        Ok(Peer { link, name: name.to_string(), address, addresses, host, congestion })
    }

    /// Opens a connection.
    pub async fn connect(&self, patience: Duration) -> Result<Arc<TcpStream>> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.context("cannot make a socket")?;
        if let Some(name) = &self.congestion {
            tcp::set_congestion_control(&socket, name)
                .with_context(|| format!("cannot use the congestion control {name}"))?;
        }
        let stream = match timeout(patience, socket.connect(self.address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.not_connected(&error)),
            Err(_) => bail!("could not connect to {self}: no answer for {} s", patience.as_secs_f64()),
        };
        stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        Ok(Arc::new(stream))
    }

    fn not_connected(&self, error: &io::Error) -> anyhow::Error {
        let hint = match error.kind() {
            io::ErrorKind::ConnectionRefused => "; is a server running there?",
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                "; check its address and the network"
            }
            _ => "",
        };
        anyhow!("could not connect to {self}: {error}{hint}")
    }

    /// Asks a server for its list, which also shows whether it speaks HTTP at all, and whether its
    /// kernel lets it send with the congestion control that was chosen.
    ///
    /// # Errors
    /// `Refused` where it does not.
    pub async fn introduce(&self, patience: Duration) -> Result<Introduction> {
        let stream = reach::await_server(self, patience).await?;
        let rtt = rtt_of(&stream);
        let congestion_control = tcp::congestion_control(stream.as_ref());
        let (head, body) = get(&stream, self, "/SHA256SUMS", patience)
            .await
            .with_context(|| format!("{self} cannot be used"))?;
        let told = head.sender.as_deref();
        if let Some(allowed) = told.and_then(sender::allowed).filter(|_| head.status == 400) {
            return Err(self.refused(&allowed).into());
        }
        let list = match head.status {
            200 => {
                let text = String::from_utf8(body).map_err(|_| anyhow!("its SHA256SUMS is not text"));
                let list = text.and_then(|text| listing::parse_sums(&text));
                Some(list.with_context(|| format!("{self} cannot be used"))?)
            }
            // Servers without a list say so in different ways.
            403 | 404 | 405 | 410 => None,
            status => bail!("{self} cannot be used: it answered {status} to GET /SHA256SUMS"),
        };
        Ok(Introduction {
            software: head.server,
            http_version: format!("1.{}", head.minor_version),
            keeps_alive: !head.closes,
            list,
            rtt,
            congestion_control,
            sender: told.and_then(sender::parse),
        })
    }

    /// Asks for the sizes of files, all in one go. What cannot be learned is `None`: the transfer will
    /// show whether that is a fault. The bytes of the answers are added to `heads`.
    pub async fn sizes(
        &self,
        segments: &[Segment],
        patience: Duration,
        heads: &AtomicU64,
    ) -> Vec<Option<u64>> {
        let mut sizes = Vec::with_capacity(segments.len());
        if let Err(error) = self.ask_sizes(segments, patience, heads, &mut sizes).await {
            tracing::debug!("{self} does not say how large its files are: {error:#}");
        }
        sizes.resize(segments.len(), None);
        sizes
    }

    async fn ask_sizes(
        &self,
        segments: &[Segment],
        patience: Duration,
        heads: &AtomicU64,
        sizes: &mut Vec<Option<u64>>,
    ) -> Result<()> {
        let stream = self.connect(patience).await?;
        // So few that neither side's buffers fill while the other waits.
        for some in segments.chunks(64) {
            let mut out = Vec::new();
            for segment in some {
                let (host, path) = (self.host.as_str(), segment.path.as_str());
                let congestion = self.congestion.as_deref();
                Request { method: "HEAD", host, path, from: 0, to: None, if_range: None, congestion }
                    .render(&mut out);
            }
            send(&stream, &out).await?;
            let (mut answers, mut due) = (Answers::default(), some.len());
            let all = receive(&stream, &mut answers, true, patience, |event| {
                match event {
                    Event::Head(head) => {
                        heads.fetch_add(head.head_bytes as u64, Ordering::Relaxed);
                        sizes.push(head.length.filter(|_| head.status == 200));
                    }
                    Event::End => due -= 1,
                    Event::Body(_) | Event::NeedMore => {}
                }
                Ok(due == 0)
            });
            if !all.await? {
                bail!("it closed the connection");
            }
        }
        Ok(())
    }

    fn refused(&self, allowed: &[&str]) -> Refused {
        Refused {
            by: self.to_string(),
            name: self.congestion.clone().unwrap_or_default(),
            allowed: list(allowed),
        }
    }
}

/// A congestion control that a kernel does not let a program use.
#[derive(Debug, thiserror::Error)]
#[error("{by} cannot use the congestion control {name}: its kernel allows it {allowed}")]
pub struct Refused {
    by: String,
    name: String,
    allowed: String,
}

/// Whether this program may use a congestion control on its own sockets.
///
/// # Errors
/// `Refused`, or when sockets cannot be made at all.
pub fn may_use(congestion: &str) -> Result<()> {
    let allowed = tcp::usable().context("cannot make a socket")?;
    if allowed.contains(&congestion) {
        return Ok(());
    }
    Err(Refused { by: "the client".into(), name: congestion.into(), allowed: list(&allowed) }.into())
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none of those that can be chosen".into() } else { names.join(", ") }
}

/// The least round trip that the kernel has seen on a connection.
pub fn rtt_of(stream: &TcpStream) -> Option<Duration> {
    let info = tcp::read(stream).ok()?;
    Some(Duration::from_secs_f64(info.min_rtt_ms.unwrap_or(info.rtt_ms) / 1e3))
}

/// `host`, `host:port`, `1.2.3.4`, `::1` or `[::1]:80`, completed with the default port.
fn with_port(name: &str) -> Result<String> {
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

/// One GET, whole in memory.
async fn get(stream: &TcpStream, peer: &Peer, path: &str, patience: Duration) -> Result<(Head, Vec<u8>)> {
    let mut out = Vec::new();
    let congestion = peer.congestion.as_deref();
    Request { method: "GET", host: &peer.host, path, from: 0, to: None, if_range: None, congestion }
        .render(&mut out);
    send(stream, &out).await?;
    let (mut answers, mut head, mut body) = (Answers::default(), None, Vec::new());
    let whole = receive(stream, &mut answers, false, patience, |event| {
        match event {
            Event::Head(found) => head = Some(found),
            Event::Body(bytes) => body.extend_from_slice(bytes),
            Event::End => return Ok(true),
            Event::NeedMore => {}
        }
        if body.len() > MAX_LIST_BYTES {
            bail!("its list is longer than {MAX_LIST_BYTES} bytes");
        }
        Ok(false)
    });
    let whole = whole.await?;
    match head {
        Some(head) if whole || answers.ended_well() => Ok((head, body)),
        Some(_) => bail!("it closed the connection in the middle of its list"),
        None => bail!("it closed the connection without an answer"),
    }
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
