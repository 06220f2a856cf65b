//! Reaching a server that may be away: fresh attempts, since a lost SYN is repeated after 1 s, 3 s, 7 s …
//! by the kernel, which is long after a short outage is over.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::allowance::{Allowance, receive};
use super::origin::Origin;
use super::running;
use crate::http::pipeline::PipelinedConnection;
use crate::http::reader::AnswerEvent;
use crate::http::request::OutgoingRequest;
use crate::text::duration;

/// How long after one attempt the next begins beside it.
const NEXT_ATTEMPT: Duration = Duration::from_millis(250);
/// How long one attempt may take, at least: longer than any round trip, short enough to bound how
/// many are under way.
const ATTEMPT: Duration = Duration::from_secs(3);
pub(crate) const FIRST_BACKOFF: Duration = Duration::from_millis(50);
pub(crate) const LONGEST_BACKOFF: Duration = Duration::from_millis(250);

/// Opens a connection, with a fresh attempt every 250 ms; the first that succeeds counts.
///
/// # Errors
/// An attempt was refused, or none succeeded within `give_up` of running time.
pub(crate) async fn open(origin: &Origin, give_up: Duration) -> Result<Arc<TcpStream>> {
    let mut attempts = JoinSet::new();
    let attempt = ATTEMPT.min(give_up);
    let opening = async {
        loop {
            let one = origin.clone();
            attempts.spawn(async move { running::timeout(attempt, one.connect(2 * ATTEMPT)).await });
            let again = sleep(NEXT_ATTEMPT);
            tokio::pin!(again);
            loop {
                let ended = tokio::select! {
                    Some(ended) = attempts.join_next() => ended,
                    () = &mut again => break,
                };
                if let Some(outcome) = ended.ok().flatten() {
                    return outcome;
                }
            }
        }
    };
    let silent = || anyhow!("cannot connect to {origin}: no answer for {}", duration(give_up));
    running::timeout(give_up, opening).await.unwrap_or_else(|| Err(silent()))
}

/// Picks the address of a server with several that answers first; each further one is tried 250 ms
/// after the one before (RFC 8305), all again with backoff.
///
/// # Errors
/// None answers within `give_up` of running time.
pub(crate) async fn pick_address(mut origin: Origin, give_up: Duration) -> Result<Origin> {
    if origin.addresses.len() < 2 {
        return Ok(origin);
    }
    let mut attempts = JoinSet::new();
    for (place, &address) in origin.addresses.iter().enumerate() {
        let one = Origin { address, ..origin.clone() };
        attempts.spawn(async move {
            sleep(NEXT_ATTEMPT * place as u32).await;
            (address, await_server(&one, give_up).await)
        });
    }
    let mut problem = anyhow!("{origin} has no address");
    while let Some(ended) = attempts.join_next().await {
        match ended? {
            (address, Ok(_)) => {
                origin.address = address;
                return Ok(origin);
            }
            (_, Err(error)) => problem = error,
        }
    }
    Err(problem)
}

/// Opens a connection to a server that may not be up yet; says once that it is waited for.
///
/// # Errors
/// No attempt succeeded within `give_up` of running time.
pub(crate) async fn await_server(origin: &Origin, give_up: Duration) -> Result<Arc<TcpStream>> {
    let deadline = running::now() + give_up;
    let (mut backoff, mut told) = (FIRST_BACKOFF, None);
    loop {
        let left = deadline.saturating_sub(running::now());
        let error = match open(origin, left).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        if running::now() + backoff >= deadline {
            // A moment is too short to judge a server by; it answered something before.
            return Err(told.filter(|_| left < NEXT_ATTEMPT).unwrap_or(error));
        }
        if told.is_none() {
            tracing::warn!("{error:#}; waiting for it for {} (--give-up)", duration(give_up));
        }
        told = Some(error);
        sleep(backoff).await;
        backoff = (2 * backoff).min(LONGEST_BACKOFF);
    }
}

/// Tries a server from which nothing comes by a second connection until it answers a request for one
/// byte, `at`, of a file; then opens the connection to go on with.
pub(crate) async fn second_connection(origin: Origin, path: String, at: u64) -> Arc<TcpStream> {
    let mut backoff = FIRST_BACKOFF;
    loop {
        if let Ok(()) = answers(&origin, &path, at).await
            && let Ok(stream) = open(&origin, ATTEMPT).await
        {
            return stream;
        }
        sleep(backoff).await;
        backoff = (2 * backoff).min(LONGEST_BACKOFF);
    }
}

async fn answers(origin: &Origin, path: &str, at: u64) -> Result<()> {
    let mut pipeline = PipelinedConnection::new(open(origin, ATTEMPT).await?);
    pipeline.ask(&OutgoingRequest { from: at, to: Some(at + 1), ..origin.request("GET", path) });
    let mut allowance = Allowance::new(Duration::from_secs(2));
    receive(&mut pipeline, false, &mut allowance, |_, event| Ok(matches!(event, AnswerEvent::Head(_))))
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::units::LinkId;

    #[tokio::test]
    async fn refusals_are_told_where_the_last_attempt_had_no_time_left() {
        let free: SocketAddr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let origin = Origin::resolve(LinkId::A, &free.to_string(), None).await.unwrap();
        for ms in [20, 90, 160, 310] {
            let error = await_server(&origin, Duration::from_millis(ms)).await.unwrap_err().to_string();
            assert!(error.contains("refused") && !error.contains("no answer"), "{ms} ms: {error}");
        }
        let error = open(&origin, Duration::ZERO).await.unwrap_err().to_string();
        assert!(!error.contains("0.0 s"), "{error}");
    }
}
