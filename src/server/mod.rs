//! The server: the files of one folder over HTTP/1.1.
//!
//! `catalog` is the table of files (`manifest::folder` selects them), `respond` turns a request into an
//! answer, `file` tells whether a file is still the one that was hashed, `socket` sends, large files with
//! sendfile, and gives up on peers that make no progress, `places` bounds the connections, `congestion`
//! chooses how TCP sends and reports on it, `connection` combines these, and `access_log` writes the log.
//! Nothing here shapes traffic or knows the client.

pub(crate) mod access_log;
pub(crate) mod catalog;
pub(crate) mod congestion;
pub(crate) mod connection;
pub(crate) mod fault;
pub(crate) mod file;
pub(crate) mod places;
pub(crate) mod respond;
pub(crate) mod socket;

use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::server_fault::ServerFault;
use crate::log::schema;
use crate::log::schema::{Event, Log, ServeStart, Stdout};
use crate::runtime::EndingSignals;
use access_log::{AccessLog, ConnectionLog};
pub use catalog::Catalog;
use connection::ServerState;
use fault::ActiveFault;
use places::Places;

#[derive(Clone, Debug, clap::Args)]
pub struct ServerArgs {
    /// Folder whose files are served; where it holds none, the samples are
    #[arg(long, env = "TWINLINK_DATA", default_value = "/data", value_name = "DIR")]
    pub data: PathBuf,
    /// Folder of sample segments, served when --data holds no file
    #[arg(long, env = "TWINLINK_SAMPLES", value_name = "DIR")]
    pub samples: Option<PathBuf>,
    /// Address and port to listen on
    #[arg(long, env = "TWINLINK_LISTEN", default_value = "0.0.0.0:4455", value_name = "ADDR:PORT", value_parser = address_and_port)]
    pub listen: String,
    /// A fault that the server has on purpose: dies, trickles, corrupts or busy, after some bytes as in dies@200KB
    #[arg(long, value_name = "FAULT")]
    pub fault: Option<ServerFault>,
}

fn address_and_port(text: &str) -> Result<String, String> {
    let port =
        text.rsplit_once(':').filter(|(address, _)| !address.is_empty()).map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) => Ok(text.into()),
        _ => Err(format!("\"{text}\" is not an address and a port: write it as 0.0.0.0:4455 or [::]:4455")),
    }
}

/// The limits on time, bytes and connections.
#[derive(Clone, Debug)]
pub struct Limits {
    /// From the first byte of a request's head to its last. Generous, because a link of the lab may
    /// lose the packet with the rest of a head and then be down for 10 s.
    pub head: Duration,
    /// Without a request, after the last answer has been acknowledged.
    pub idle: Duration,
    /// Without a byte taken of an answer, or brought of a request's body.
    pub stall: Duration,
    /// After the last answer, for the peer to close its side.
    pub linger: Duration,
    /// For what is in flight when the server is told to end.
    pub finish: Duration,
    /// One `PUT /sink`.
    pub sink_time: Duration,
    pub sink_bytes: u64,
    /// The head of a request; more is answered with 431.
    pub head_bytes: usize,
    /// Connections at a time. Above that an idle one is closed, or the new one is answered with 503.
    pub connections: usize,
    /// A fault that the server has on purpose.
    pub fault: Option<ServerFault>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            linger: Duration::from_secs(2),
            finish: Duration::from_secs(5),
            sink_time: Duration::from_secs(60),
            sink_bytes: 1 << 30,
            head_bytes: 16 * 1024,
            connections: 256,
            fault: None,
        }
    }
}

/// Serves until a signal asks it to end.
pub fn main(args: ServerArgs) -> Result<()> {
    let table = Catalog::choose(&args.data, args.samples.as_deref())?;
    let log = Arc::new(Log::new(schema::new_run_id(), None, Stdout::Samples)?);
    let runtime =
        crate::runtime::multi_thread(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))?;
    runtime.block_on(async {
        let mut signals = EndingSignals::listen()?;
        let listener = TcpListener::bind(&args.listen).await.with_context(|| {
            format!("cannot listen on {}: name a free address and port with --listen", args.listen)
        })?;
        let limits = Limits { fault: args.fault, ..Limits::default() };
        run(listener, table, limits, log, async { signals.next().await.as_str() }).await
    })
}

/// Serves `table` on a bound listener until `shutdown` resolves, to the reason that the log's last record
/// gives. Then it accepts no more connections, and busy ones have `limits.finish` to end.
///
/// # Errors
/// The listener has no address. A later failure concerns one connection and ends in the log.
pub async fn run(
    listener: TcpListener,
    table: Catalog,
    limits: Limits,
    log: Arc<Log>,
    shutdown: impl Future<Output = &'static str>,
) -> Result<()> {
    let wall_clock = log.wall_clock();
    let access_log = AccessLog::start(log);
    access_log.write(Event::ServeStart(ServeStart {
        version: env!("CARGO_PKG_VERSION").to_string(),
        listen: listener.local_addr().context("cannot tell the address of the listener")?.to_string(),
        data: table.folder().display().to_string(),
        files: table.entries().len() as u64,
        bytes: table.bytes(),
        wall_clock,
    }));
    let finish = limits.finish;
    let fault = limits.fault.map(ActiveFault::new);
    let shared = Arc::new(ServerState { table, limits, fault });
    let limits = &shared.limits;
    let (stop, stopping) = watch::channel(false);
    let mut acceptor = Acceptor {
        places: Places::new(limits.connections),
        refusals: Arc::new(Semaphore::new(limits.connections)),
        shared: shared.clone(),
        access_log: access_log.clone(),
        stopping,
        tasks: JoinSet::new(),
        accepted: 0,
        starved: false,
    };
    let mut shutdown = std::pin::pin!(shutdown);
    let (reason, finish) = loop {
        tokio::select! {
            reason = &mut shutdown => break (reason, finish),
            () = died(shared.fault.as_ref()) => break ("its fault: it died", Duration::ZERO),
            accepted = listener.accept() => match accepted {
                Ok((tcp, peer)) => acceptor.take(tcp, peer),
                Err(error) => acceptor.recover(&error).await,
            },
            Some(ended) = acceptor.tasks.join_next() => report_panic(ended),
        }
    };
    drop(listener);
    // All receivers are in connections; when there is none, nobody has to be told.
    let _ = stop.send(true);
    let cut = acceptor.finish(finish).await;
    access_log.end(reason, cut);
    Ok(())
}

/// Waits until a server dies of its fault: for ever, where it has none.
async fn died(fault: Option<&ActiveFault>) {
    match fault {
        Some(fault) => fault.died.notified().await,
        None => std::future::pending().await,
    }
}

/// Accepts connections and keeps them.
struct Acceptor {
    places: Arc<Places>,
    refusals: Arc<Semaphore>,
    shared: Arc<ServerState>,
    access_log: Arc<AccessLog>,
    stopping: watch::Receiver<bool>,
    tasks: JoinSet<()>,
    accepted: u64,
    /// The last connection could not be accepted.
    starved: bool,
}

impl Acceptor {
    /// Serves the connection, or answers 503 where every place is busy. Above as many refusals at once
    /// it closes without an answer.
    fn take(&mut self, tcp: TcpStream, peer: SocketAddr) {
        self.accepted += 1;
        self.starved = false;
        let stop = self.stopping.clone();
        let connection = Arc::new(ConnectionLog::new(peer, self.accepted, self.access_log.clone()));
        if let Some(place) = self.places.take(connection.clone()) {
            let shared = self.shared.clone();
            self.tasks.spawn(async move {
                connection::serve(tcp, connection, shared, stop).await;
                drop(place);
            });
            return;
        }
        let before = self.access_log.refused_connections.fetch_add(1, Relaxed);
        if before == 0 {
            tracing::warn!("too many connections are busy: others get 503, and are counted in serve_end");
        }
        if let Ok(permit) = self.refusals.clone().try_acquire_owned() {
            let limit = self.shared.limits.linger;
            self.tasks.spawn(async move {
                connection::refuse(tcp, limit, stop).await;
                drop(permit);
            });
        }
    }

    /// Called after a connection that could not be accepted. Without a free descriptor the next try
    /// fails at once, so this closes an idle connection and waits a moment. A connection that was reset
    /// while it waited needs nothing.
    async fn recover(&mut self, error: &std::io::Error) {
        if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) {
            return;
        }
        if !std::mem::replace(&mut self.starved, true) {
            tracing::warn!("cannot accept connections: {error}; idle ones are closed to make room");
        }
        self.places.make_room();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    /// Waits for the connections to end and cuts those that take too long; returns how many.
    async fn finish(mut self, limit: Duration) -> u64 {
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                report_panic(ended);
            }
        };
        if timeout(limit, all).await.is_ok() {
            return 0;
        }
        let cut = self.tasks.len() as u64;
        self.tasks.shutdown().await;
        cut
    }
}

fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!("a connection was lost to a mistake in this program: {error}");
    }
}
