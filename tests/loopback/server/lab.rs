//! A server on a free port with files of its own, and a client that speaks HTTP by hand.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use twinlink::log::schema::{Event, Log, Record, Request, ServeEnd, Stdout, create_log_file};
use twinlink::server::{Catalog, Limits, run};

/// Far beyond what anything here takes: a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Lab {
    pub address: SocketAddr,
    pub dir: TempDir,
    stop: oneshot::Sender<()>,
    server: JoinHandle<anyhow::Result<()>>,
}

/// Bytes without a pattern that a mistake in an offset could hide behind.
pub(crate) fn content(len: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

impl Lab {
    pub(crate) async fn start(files: &[(&str, &[u8])]) -> Lab {
        Lab::with_limits(files, Limits::default()).await
    }

    pub(crate) async fn with_limits(files: &[(&str, &[u8])], limits: Limits) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join("data").join(name), content).unwrap();
        }
        let table = Catalog::build(&dir.path().join("data")).unwrap().unwrap();
        let log = create_log_file(&dir.path().join("log.jsonl")).unwrap();
        let log = Arc::new(Log::new("test".into(), Some(log), Stdout::Nothing).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            let _ = stopped.await;
            "test"
        };
        let server = tokio::spawn(run(listener, table, limits, log, shutdown));
        Lab { address, dir, stop, server }
    }

    pub(crate) fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("data").join(name)
    }

    pub(crate) async fn connect(&self) -> Client {
        Client { tcp: TcpStream::connect(self.address).await.unwrap(), ahead: Vec::new() }
    }

    /// A client whose kernel takes little ahead, so that an answer of some megabytes cannot hide in
    /// buffers.
    pub(crate) async fn connect_narrow(&self, buffer: u32) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(buffer).unwrap();
        Client { tcp: socket.connect(self.address).await.unwrap(), ahead: Vec::new() }
    }

    /// One GET on a connection of its own, with further header lines.
    pub(crate) async fn get(&self, target: &str, headers: &[&str]) -> Answer {
        self.ask("GET", target, headers).await
    }

    pub(crate) async fn ask(&self, method: &str, target: &str, headers: &[&str]) -> Answer {
        let mut client = self.connect().await;
        client.send(&request(method, target, headers)).await;
        client.answer(method).await
    }

    /// Tells the server to end without waiting for it.
    pub(crate) fn tell_to_end(self) -> Ending {
        self.stop.send(()).unwrap();
        Ending { server: self.server, dir: self.dir }
    }

    /// Returns the log of a server that ends by itself.
    pub(crate) async fn ended(self) -> Vec<Event> {
        let Lab { server, dir, stop: _stop, .. } = self;
        Ending { server, dir }.log().await
    }

    /// Ends the server and returns its log.
    pub(crate) async fn end(self) -> Vec<Event> {
        self.tell_to_end().log().await
    }
}

pub(crate) struct Ending {
    server: JoinHandle<anyhow::Result<()>>,
    dir: TempDir,
}

impl Ending {
    pub(crate) async fn log(self) -> Vec<Event> {
        let ended = timeout(PATIENCE, self.server).await.expect("the server does not end");
        ended.unwrap().unwrap();
        read_log(&self.dir.path().join("log.jsonl"))
    }
}

fn read_log(path: &Path) -> Vec<Event> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str::<Record>(line).expect(line).event).collect()
}

pub(crate) fn requests(log: &[Event]) -> Vec<&Request> {
    let requests = log.iter().filter_map(|event| match event {
        Event::Request(request) => Some(request),
        _ => None,
    });
    requests.collect()
}

pub(crate) fn serve_end(log: &[Event]) -> &ServeEnd {
    match log.last() {
        Some(Event::ServeEnd(end)) => end,
        other => panic!("the last record is {other:?}"),
    }
}

pub(crate) fn request(method: &str, target: &str, headers: &[&str]) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\nHost: lab\r\n{headers}\r\n")
}

pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) struct Client {
    pub tcp: TcpStream,
    /// Bytes that came after the last answer.
    ahead: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub version: String,
    pub status: u16,
    /// Names in lower case, in the order of arrival.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(header, _)| header == name);
        let first = found.next();
        assert!(found.next().is_none(), "{name} is there twice");
        first.map(|(_, value)| value.as_str())
    }
}

impl Client {
    pub(crate) async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.tcp.write_all(text.as_ref()).await.unwrap();
    }

    /// The same connection again, to send on it while answers are read.
    pub(crate) fn twin(&self) -> TcpStream {
        let socket = self.tcp.as_fd().try_clone_to_owned().unwrap();
        TcpStream::from_std(socket.into()).unwrap()
    }

    /// Reads one answer, which must have a length unless it can have no body.
    pub(crate) async fn answer(&mut self, method: &str) -> Answer {
        let mut answer = self.head().await;
        let bodiless = method == "HEAD" || answer.status == 304 || answer.status < 200;
        let len = answer.header("content-length").map_or(0, |len| len.parse().unwrap());
        let len = if bodiless { 0 } else { len };
        while self.ahead.len() < len {
            assert!(self.read_more().await > 0, "the body ended after {} of {len}", self.ahead.len());
        }
        answer.body = self.ahead.drain(..len).collect();
        answer
    }

    pub(crate) async fn head(&mut self) -> Answer {
        let end = loop {
            if let Some(end) = self.ahead.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end;
            }
            assert!(self.read_more().await > 0, "no head, but {:?}", String::from_utf8_lossy(&self.ahead));
        };
        let head = String::from_utf8(self.ahead.drain(..end + 4).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let (version, rest) = lines.next().unwrap().split_once(' ').unwrap();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_string())
        });
        Answer {
            version: version.to_string(),
            status: rest[..3].parse().unwrap(),
            headers: headers.collect(),
            body: Vec::new(),
        }
    }

    /// Whether the connection has ended and all that came has been read.
    pub(crate) async fn is_at_end(&mut self) -> bool {
        self.ahead.is_empty() && self.read_more().await == 0
    }

    async fn read_more(&mut self) -> usize {
        let read = timeout(PATIENCE, self.tcp.read_buf(&mut self.ahead));
        read.await.expect("the server neither answers nor closes").unwrap_or(0)
    }

    /// Reads to the end of the connection, whether it is closed or reset, and returns how many bytes
    /// came.
    pub(crate) async fn drain(&mut self) -> usize {
        while self.read_more().await > 0 {}
        std::mem::take(&mut self.ahead).len()
    }
}
