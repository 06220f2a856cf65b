//! The facts that a server tells of itself before the transfer: its list, its sizes, how it sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::allowance::{Allowance, receive};
use super::origin::{Origin, busy, rtt_of};
use super::reach::{self, LONGEST_BACKOFF};
use super::running;
use crate::http::answer::{AnswerHead, MOST_REDIRECTS};
use crate::http::pipeline::PipelinedConnection;
use crate::http::reader::AnswerEvent;
use crate::log::schema;
use crate::manifest;
use crate::manifest::ManifestEntry;
use crate::manifest::digest::Digest;
use crate::text::duration;
use crate::units::LinkId;
use crate::{sender_report, tcp};

const LIST_PATH: &str = "/SHA256SUMS";

/// A server's own words about itself, from before the transfer.
#[derive(Clone, Debug)]
pub(crate) struct ServerCapabilities {
    pub software: Option<String>,
    pub http_version: String,
    /// Whether the connection stays open between answers, so that requests can be pipelined.
    pub keeps_alive: bool,
    pub list: Option<Vec<ManifestEntry>>,
    /// Oddities of the server, a sentence each.
    pub notes: Vec<String>,
    /// The list's digest, which the server sent with it, is right: its answers say what they are of.
    pub fits: bool,
    pub rtt: Option<Duration>,
    /// Of this end of the connection.
    pub congestion_control: Option<String>,
    /// Of the server's end; null where it tells nothing.
    pub sender: Option<schema::Sender>,
}

impl ServerCapabilities {
    /// Returns the congestion control that the server sends with, as far as it tells.
    pub(crate) fn sending_congestion_control(&self) -> Option<String> {
        self.sender.as_ref()?.congestion_control.clone()
    }
}

/// Returns the sizes of the files that a server lists, or of those of them that are asked for.
///
/// # Errors
/// The server does not listen, it lists no files, or it does not tell all sizes.
pub(crate) async fn listed_sizes(server: &str, files: Option<&str>, give_up: Duration) -> Result<Vec<u64>> {
    let origin = Origin::resolve(LinkId::A, server, None).await?;
    // One that is yet to come is not waited for.
    origin.connect(give_up.min(Duration::from_secs(1))).await?;
    let list = origin.query_capabilities(give_up).await?.list;
    let files = manifest::agree(files, list.clone(), list)?;
    let sizes = origin.sizes(&files, give_up, &AtomicU64::new(0)).await;
    sizes.into_iter().collect::<Option<_>>().with_context(|| format!("{origin} does not tell all sizes"))
}

/// The answer to a GET: its body as far as it was read, and why that ended early.
struct Got {
    head: AnswerHead,
    body: Vec<u8>,
    problem: Option<anyhow::Error>,
}

impl Origin {
    /// Asks a server for its list, which also shows whether it speaks HTTP at all, and whether its
    /// kernel lets it send with the congestion control that was chosen. A server that is busy is asked
    /// again, for as long as it may be silent.
    ///
    /// # Errors
    /// `Refused` where it does not.
    pub(crate) async fn query_capabilities(&self, give_up: Duration) -> Result<ServerCapabilities> {
        let unusable = || format!("{self} cannot be used");
        let deadline = running::now() + give_up;
        let (mut path, mut redirects, mut notes) = (LIST_PATH.to_string(), 0, Vec::new());
        loop {
            let stream = reach::await_server(self, give_up).await?;
            let got = self.get(stream.clone(), &path, give_up).await.with_context(unusable)?;
            let head = &got.head;
            if head.is_busy() {
                let status = head.status;
                let wait = head.retry_after.unwrap_or_default().max(LONGEST_BACKOFF);
                let note = busy(head);
                if running::now() + wait >= deadline {
                    let give_up = duration(give_up);
                    bail!(
                        "{self} cannot be used: it answers {status} to GET {LIST_PATH}{note}, and --give-up is {give_up}"
                    );
                }
                if notes.is_empty() {
                    let what = format!("{self} answered {status} to GET {LIST_PATH}{note}");
                    tracing::warn!("{what}; it is asked again");
                    notes.push(what);
                }
                sleep(wait).await;
                continue;
            }
            if head.is_redirect() && redirects < MOST_REDIRECTS {
                match head.redirected(&self.host, &path) {
                    Ok(led) => {
                        (path, redirects) = (led, redirects + 1);
                        continue;
                    }
                    Err(place) => {
                        notes.push(format!("{self} redirects {LIST_PATH} {place}, which is not followed"));
                        return self.capabilities(&stream, got, None, notes);
                    }
                }
            }
            let told = head.sender.as_deref();
            if let Some(allowed) = told.and_then(sender_report::allowed).filter(|_| head.status == 400) {
                return Err(self.refused(&allowed).into());
            }
            let list = self.list_of(&got, &mut notes).with_context(unusable)?;
            return self.capabilities(&stream, got, list, notes);
        }
    }

    /// Reads the list in an answer; `None` where there is none, which is noted unless the server says
    /// so as servers do.
    fn list_of(&self, got: &Got, notes: &mut Vec<String>) -> Result<Option<Vec<ManifestEntry>>> {
        let (head, body) = (&got.head, &got.body);
        let is_list = manifest::begins_as_list(body);
        match head.status {
            200 if is_list && head.encoding.is_none() => {
                got.problem
                    .as_ref()
                    .map_or(Ok(()), |problem| bail!("its SHA256SUMS is too long: {problem}"))?;
                let text = std::str::from_utf8(body).map_err(|_| anyhow!("its SHA256SUMS is not text"))?;
                return manifest::parse_sums(text).map(Some);
            }
            // Servers without a list say so in different ways.
            403 | 404 | 405 | 410 => {}
            200 => {
                let html = head.media_type.as_deref() == Some("text/html") || body.starts_with(b"<");
                let what = match &head.encoding {
                    Some(encoding) => {
                        format!("with the Content-Encoding {encoding}, which was not asked for")
                    }
                    None if html => "with an HTML page, which is not a manifest".to_string(),
                    None => "with something that is not a manifest".to_string(),
                };
                notes.push(format!("{self} answers GET {LIST_PATH} {what}"));
            }
            status => notes.push(format!("{self} answered {status} to GET {LIST_PATH}")),
        }
        Ok(None)
    }

    fn capabilities(
        &self,
        stream: &TcpStream,
        got: Got,
        list: Option<Vec<ManifestEntry>>,
        notes: Vec<String>,
    ) -> Result<ServerCapabilities> {
        let Got { head, body, .. } = got;
        let promised = head.sha256_base64.as_deref().and_then(Digest::from_base64);
        Ok(ServerCapabilities {
            software: head.server,
            http_version: format!("1.{}", head.minor_version),
            keeps_alive: !head.closes,
            fits: promised == Some(Digest(Sha256::digest(&body).into())),
            list,
            notes,
            rtt: rtt_of(stream),
            congestion_control: tcp::congestion_control(stream),
            sender: head.sender.as_deref().and_then(sender_report::parse),
        })
    }

    /// Asks for the sizes of files: of the first alone, of the others many in one go. An unknown size is
    /// `None`: the transfer will show whether that is a fault. The bytes of the answers are added to `heads`.
    pub(crate) async fn sizes(
        &self,
        segments: &[ManifestEntry],
        give_up: Duration,
        heads: &AtomicU64,
    ) -> Vec<Option<u64>> {
        let mut sizes = Vec::with_capacity(segments.len());
        if let Err(error) = self.ask_sizes(segments, give_up, heads, &mut sizes).await {
            tracing::debug!("{self} does not say how large its files are: {error:#}");
        }
        sizes.resize(segments.len(), None);
        sizes
    }

    async fn ask_sizes(
        &self,
        segments: &[ManifestEntry],
        give_up: Duration,
        heads: &AtomicU64,
        sizes: &mut Vec<Option<u64>>,
    ) -> Result<()> {
        let mut pipeline = PipelinedConnection::new(self.connect(give_up).await?);
        let (first, others) = segments.split_at(segments.len().min(1));
        let mut allowance = Allowance::new(give_up);
        // Few enough that neither side's buffers fill while the other waits.
        for some in [first].into_iter().chain(others.chunks(64)).filter(|some| !some.is_empty()) {
            for segment in some {
                pipeline.ask(&self.request("HEAD", &segment.path));
            }
            let mut due = some.len();
            let all = receive(&mut pipeline, true, &mut allowance, |_, event| {
                match event {
                    AnswerEvent::Head(head) => {
                        heads.fetch_add(head.head_bytes as u64, Ordering::Relaxed);
                        sizes.push(head.length.filter(|_| head.status == 200 && head.encoding.is_none()));
                    }
                    AnswerEvent::End => due -= 1,
                    AnswerEvent::Body(_) | AnswerEvent::NeedMore => {}
                }
                Ok(due == 0)
            });
            if !all.await? {
                bail!("it closed the connection");
            }
        }
        Ok(())
    }

    /// One GET, whole in memory. Reading ends early where the body cannot be a list.
    async fn get(&self, stream: Arc<TcpStream>, path: &str, give_up: Duration) -> Result<Got> {
        let mut pipeline = PipelinedConnection::new(stream);
        pipeline.ask(&self.request("GET", path));
        let (mut found, mut body) = (None, Vec::new());
        let (mut growing, mut problem) = (manifest::Growing::default(), None);
        let mut allowance = Allowance::new(give_up);
        let whole = receive(&mut pipeline, false, &mut allowance, |_, event| {
            match event {
                // An answer with another status is of no use.
                AnswerEvent::Head(head) => {
                    let over = head.status != 200;
                    found = Some(*head);
                    return Ok(over);
                }
                AnswerEvent::Body(bytes) => {
                    body.extend_from_slice(bytes);
                    problem = growing.grow(bytes).err();
                }
                AnswerEvent::End => return Ok(true),
                AnswerEvent::NeedMore => {}
            }
            Ok(problem.is_some())
        });
        let whole = whole.await?;
        match found {
            Some(head) if whole || pipeline.answers.ended_well() => Ok(Got { head, body, problem }),
            Some(_) => bail!("it closed the connection in the middle of its list"),
            None => bail!("it closed the connection without an answer"),
        }
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
pub(crate) struct Refused {
    by: String,
    name: String,
    allowed: String,
}

/// Whether this program may use a congestion control on its own sockets.
///
/// # Errors
/// `Refused`, or when sockets cannot be made at all.
pub(crate) fn may_use(congestion: &str) -> Result<()> {
    let allowed = tcp::usable().context("cannot make a socket")?;
    if allowed.contains(&congestion) {
        return Ok(());
    }
    Err(Refused { by: "the client".into(), name: congestion.into(), allowed: list(&allowed) }.into())
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none of those that can be chosen".into() } else { names.join(", ") }
}
