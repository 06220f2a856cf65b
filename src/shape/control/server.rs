//! The control socket: `twinlink link set|show|clear` reach the process here that shapes, a client or
//! `twinlink link hold`, so that a change is made, and logged, by the links' one owner.

use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::client;
use super::client::{ControlRequest, Reply};
use crate::shape::active_shaping::ActiveShaping;

/// How long one connection may take to send its request, or to take the answer. The act between has no limit:
/// what was changed has to be told.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);

/// Listens until it is dropped, then removes the socket.
pub(crate) struct ControlServer {
    path: PathBuf,
    listener: UnixListener,
}

impl ControlServer {
    /// Opens the socket. One that a killed process left behind is replaced; a live one is an error.
    pub(crate) fn open() -> Result<ControlServer> {
        let path = client::path();
        // One of another user may leave whoever connects waiting.
        client::check_owner(&path).context("cannot listen for changes of links")?;
        if StdUnixStream::connect(&path).is_ok() {
            anyhow::bail!(
                "cannot listen on {}: another process that shapes is running here; end it, or set TWINLINK_CONTROL to another path",
                path.display()
            );
        }
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot make the folder {}", dir.display()))?;
        }
        remove_abandoned(&path)?;
        let listener = UnixListener::bind(&path).with_context(|| {
            format!("cannot listen on {}; set TWINLINK_CONTROL to another path", path.display())
        })?;
        Ok(ControlServer { path, listener })
    }

    /// Answers requests, one connection at a time; never ends by itself. `act` does what is asked and
    /// tells what is in force then; it may block.
    pub(crate) async fn serve<A>(self, act: A)
    where
        A: Fn(ControlRequest) -> Result<Vec<ActiveShaping>> + Send + Sync + 'static,
    {
        let act = Arc::new(act);
        loop {
            let Ok((stream, _)) = self.listener.accept().await else { continue };
            if let Err(error) = answer(stream, act.clone()).await {
                tracing::warn!("a request on the control socket failed: {error:#}");
            }
        }
    }
}

/// Removes a socket that nobody answers; anything else that is there is somebody's.
fn remove_abandoned(path: &Path) -> Result<()> {
    let Ok(there) = path.symlink_metadata() else { return Ok(()) };
    ensure!(
        there.file_type().is_socket(),
        "cannot listen on {}: a file that is not a socket is there; set TWINLINK_CONTROL to another path",
        path.display()
    );
    std::fs::remove_file(path).with_context(|| format!("cannot remove the old socket {}", path.display()))
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        // Nothing can be done about a socket that is already gone.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer<A>(mut stream: UnixStream, act: Arc<A>) -> Result<()>
where
    A: Fn(ControlRequest) -> Result<Vec<ActiveShaping>> + Send + Sync + 'static,
{
    let (reading, mut writing) = stream.split();
    let mut line = String::new();
    let mut reading = BufReader::new(reading.take(client::LONGEST));
    timeout(PEER_TIMEOUT, reading.read_line(&mut line)).await.context("no request came")??;
    if line.is_empty() {
        // A connection that only checks for a listener waits for no answer.
        return Ok(());
    }
    let reply = match serde_json::from_str(&line) {
        // Shaping blocks on tc, so it is kept off the threads that move packets.
        Ok(request) => match ControlRequest::check(&request) {
            Ok(()) => tokio::task::spawn_blocking(move || act(request)).await?.map(Reply::done),
            Err(problem) => Err(anyhow::anyhow!("the request is invalid: {problem}")),
        },
        Err(error) => Err(anyhow::anyhow!("cannot parse the request: {error}")),
    };
    let reply = reply.unwrap_or_else(|error| Reply::failed(&error));
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    timeout(PEER_TIMEOUT, writing.write_all(&text)).await.context("nobody takes the answer")??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "precious").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link, &dir.path().to_path_buf()] {
            let error = remove_abandoned(path).unwrap_err().to_string();
            assert!(error.contains("not a socket"), "{error}");
            assert!(path.symlink_metadata().is_ok());
        }
        let socket = dir.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        remove_abandoned(&socket).unwrap();
        assert!(!socket.exists());
        remove_abandoned(&socket).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn slow_change_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let server = ControlServer { path: path.clone(), listener: UnixListener::bind(&path).unwrap() };
        let (begun, is_begun) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel();
        let released = std::sync::Mutex::new(released);
        tokio::spawn(server.serve(move |_| {
            begun.send(()).unwrap();
            released.lock().unwrap().recv().unwrap();
            Ok(Vec::new())
        }));
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"{\"op\":\"show\"}\n").await.unwrap();
        tokio::task::spawn_blocking(move || is_begun.recv().unwrap()).await.unwrap();
        tokio::time::advance(10 * PEER_TIMEOUT).await;
        release.send(()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("\"ok\":true"), "{answer}");
    }
}
