//! The control socket: `twinlink link set|show|clear` reach the process here that shapes, a client or
//! `twinlink link hold`, so that a change is made, and logged, by the links' one owner.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::control::{self, Reply, Request, Row};

const PATIENCE: Duration = Duration::from_secs(5);

/// Listens until it is dropped, then removes the socket.
pub struct Control {
    path: PathBuf,
    listener: UnixListener,
}

impl Control {
    /// Opens the socket. One that a killed process left behind is replaced; a live one is an error.
    pub fn open() -> Result<Control> {
        let path = control::path();
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
        if path.exists() {
            std::fs::remove_file(&path)
                .with_context(|| format!("cannot remove the old socket {}", path.display()))?;
        }
        let listener = UnixListener::bind(&path).with_context(|| {
            format!("cannot listen on {}; set TWINLINK_CONTROL to another path", path.display())
        })?;
        Ok(Control { path, listener })
    }

    /// Answers requests, one connection at a time; never ends by itself. `act` does what is asked and
    /// tells what is in force then; it may block.
    pub async fn serve<A>(self, act: A)
    where
        A: Fn(Request) -> Result<Vec<Row>> + Send + Sync + 'static,
    {
        let act = Arc::new(act);
        loop {
            let Ok((stream, _)) = self.listener.accept().await else { continue };
            match timeout(PATIENCE, answer(stream, act.clone())).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("a request on the control socket failed: {error:#}"),
                Err(_) => tracing::warn!("a request on the control socket took too long"),
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Nothing can be done about a socket that is already gone.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer<A>(mut stream: UnixStream, act: Arc<A>) -> Result<()>
where
    A: Fn(Request) -> Result<Vec<Row>> + Send + Sync + 'static,
{
    let (reading, mut writing) = stream.split();
    let mut line = String::new();
    BufReader::new(reading.take(control::LONGEST)).read_line(&mut line).await?;
    if line.is_empty() {
        // Whoever only looked whether somebody listens waits for no answer.
        return Ok(());
    }
    let reply = match serde_json::from_str(&line) {
        // Shaping blocks on tc, so it is kept off the threads that move packets.
        Ok(request) => tokio::task::spawn_blocking(move || act(request)).await?.map(Reply::done),
        Err(error) => Err(anyhow::anyhow!("the request is not understood: {error}")),
    };
    let reply = reply.unwrap_or_else(|error| Reply::failed(&error));
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    writing.write_all(&text).await?;
    Ok(())
}
