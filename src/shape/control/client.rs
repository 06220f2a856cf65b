//! The control socket's two lines: a command's request to a running client, and its reply.
//!
//! One JSON object a line, one line in each direction, then the connection ends. The client listens; this
//! module is the asking side and the types of both.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::config::profile::Profile;
use crate::shape::active_shaping::ActiveShaping;
use crate::units::LinkId;

/// A command's request to a running client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum ControlRequest {
    /// Give a link this profile, in place.
    Set {
        link: LinkId,
        profile: Box<Profile>,
    },
    Show,
    /// Removes the shaping of one link, or of both.
    Clear {
        link: Option<LinkId>,
    },
}

impl ControlRequest {
    /// Checks the request's profile as a file's is checked.
    ///
    /// # Errors
    /// A value is invalid; the text names it.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            ControlRequest::Set { profile, .. } => profile.check(),
            ControlRequest::Show | ControlRequest::Clear { .. } => Ok(()),
        }
    }
}

/// The client's reply.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub ok: bool,
    /// The links in force after the request, a row per link and direction.
    #[serde(default)]
    pub links: Vec<ActiveShaping>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Reply {
    pub(crate) fn done(links: Vec<ActiveShaping>) -> Reply {
        Reply { ok: true, links, error: None }
    }

    pub(crate) fn failed(error: &anyhow::Error) -> Reply {
        Reply { ok: false, links: Vec::new(), error: Some(format!("{error:#}")) }
    }
}

/// The longest request or answer, so that neither side can be filled up. A profile carries its trace's
/// steps.
pub(crate) const LONGEST: u64 = 4 * 1024 * 1024;

/// How long to wait for an answer: `tc` takes seconds for a change on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Where a running client listens: `$TWINLINK_CONTROL`, else `/run/twinlink/control.sock`.
pub(crate) fn path() -> PathBuf {
    std::env::var_os("TWINLINK_CONTROL").map_or("/run/twinlink/control.sock".into(), PathBuf::from)
}

/// Checks that what is at `path` belongs to root or to this user, so that nobody else answers for a client.
///
/// # Errors
/// It belongs to another user.
pub(crate) fn check_owner(path: &Path) -> Result<()> {
    let Ok(there) = path.symlink_metadata() else { return Ok(()) };
    ensure!(
        [0, rustix::process::geteuid().as_raw()].contains(&there.uid()),
        "{} belongs to another user (uid {}): remove it, or set TWINLINK_CONTROL to another path",
        path.display(),
        there.uid()
    );
    Ok(())
}

/// Asks the running client. `None` where none listens.
///
/// # Errors
/// It was there but did not answer as it should, or its answer is a refusal.
pub(crate) fn ask(request: &ControlRequest) -> Result<Option<Vec<ActiveShaping>>> {
    ask_at(&path(), request)
}

/// Asks whoever listens at `path`, as [`ask`] does.
///
/// # Errors
/// As those of [`ask`].
pub(crate) fn ask_at(path: &Path, request: &ControlRequest) -> Result<Option<Vec<ActiveShaping>>> {
    let shown = path.display().to_string();
    check_owner(path).context("cannot reach the running client")?;
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        // A socket file whose client is dead refuses.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot reach the running client at {shown}"));
        }
    };
    let line =
        exchange(stream, request).with_context(|| format!("cannot talk to the running client at {shown}"))?;
    let reply: Reply = serde_json::from_str(&line)
        .with_context(|| format!("cannot understand the answer of the running client at {shown}"))?;
    match reply.error {
        None if reply.ok => Ok(Some(reply.links)),
        error => bail!("the running client refused: {}", error.unwrap_or_else(|| "it gave no reason".into())),
    }
}

fn exchange(mut stream: UnixStream, request: &ControlRequest) -> Result<String> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut answer)?;
    if answer.is_empty() {
        bail!("it closed the connection without an answer");
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_written_as_documented() {
        let clear = serde_json::to_value(ControlRequest::Clear { link: None }).unwrap();
        assert_eq!(clear, serde_json::json!({ "op": "clear", "link": null }));
        let show: ControlRequest = serde_json::from_str(r#"{"op":"show"}"#).unwrap();
        assert_eq!(show, ControlRequest::Show);
        let profile = Box::new(crate::config::profile::load::load("wifi-near", LinkId::A).unwrap());
        let set = ControlRequest::Set { link: LinkId::A, profile };
        let text = serde_json::to_string(&set).unwrap();
        assert!(text.starts_with(r#"{"op":"set","link":"a","profile":{"name":"wifi-near""#), "{text}");
        assert_eq!(serde_json::from_str::<ControlRequest>(&text).unwrap(), set);
    }

    #[test]
    fn values_are_checked_as_those_of_a_file_are() {
        let profile = Box::new(crate::config::profile::load::load("wifi-walk", LinkId::A).unwrap());
        let good = serde_json::to_value(ControlRequest::Set { link: LinkId::A, profile }).unwrap();
        let check = |value: &serde_json::Value| {
            let request =
                serde_json::from_value::<ControlRequest>(value.clone()).map_err(|error| error.to_string());
            request.and_then(|request| request.check())
        };
        assert_eq!(check(&good), Ok(()));
        let down = "/profile/down";
        for (place, bad) in [
            ("rate", serde_json::json!("1bit")),
            ("delay", serde_json::json!("1000s")),
            (
                "trace/steps",
                serde_json::json!([
                    [0, 1_000_000, null, null],
                    [1, 9_000, null, null],
                    [2, 9_000, null, null],
                    [3, 9_000, null, null]
                ]),
            ),
            ("trace/steps", serde_json::json!([[0, 1_000_000, 1_000_000_000_000_000u64, null]])),
            ("trace/length_ns", serde_json::json!(u64::MAX)),
        ] {
            let mut request = good.clone();
            *request.pointer_mut(&format!("{down}/{place}")).expect(place) = bad;
            assert!(check(&request).is_err(), "{place}");
        }
    }

    #[test]
    fn a_socket_of_another_user_is_not_talked_to() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        check_owner(&socket).unwrap();
        let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        check_owner(&socket).unwrap();
        // Only root can make one of another user.
        if std::os::unix::fs::lchown(&socket, Some(65534), Some(65534)).is_ok() {
            let error = check_owner(&socket).unwrap_err().to_string();
            assert!(error.contains("another user (uid 65534)"), "{error}");
            std::fs::remove_file(&socket).unwrap();
            std::os::unix::fs::symlink(dir.path().join("nothing"), &socket).unwrap();
            std::os::unix::fs::lchown(&socket, Some(65534), Some(65534)).unwrap();
            assert!(check_owner(&socket).is_err(), "a link of another user is followed");
        }
    }

    #[test]
    fn an_answer_is_one_line_and_a_closed_connection_is_an_error() {
        let (here, there) = UnixStream::pair().unwrap();
        let answering = std::thread::spawn(move || {
            let mut line = String::new();
            let mut reader = BufReader::new(there);
            reader.read_line(&mut line).unwrap();
            reader.get_mut().write_all(b"{\"ok\":true}\nrest").unwrap();
            line
        });
        assert_eq!(exchange(here, &ControlRequest::Show).unwrap(), "{\"ok\":true}\n");
        assert_eq!(answering.join().unwrap(), "{\"op\":\"show\"}\n");
        let (here, there) = UnixStream::pair().unwrap();
        drop(there);
        assert!(exchange(here, &ControlRequest::Show).is_err());
    }
}
