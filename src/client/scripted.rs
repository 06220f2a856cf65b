//! Plays a script during a run: each change at its time, counted from the first request.
//!
//! [`super::links`] makes and logs a change; this module keeps the time, and logs a fault for a late change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};

use super::blocking;
use super::links::Links;
use super::transfer::{Failure, Transfer};
use crate::config::script::{Change, Script};

/// A change that takes effect later than this is a fault.
const LATE: Duration = Duration::from_millis(100);
/// How often it is looked whether the first request has been made.
const GLANCE: Duration = Duration::from_millis(1);

/// Plays the script until it is dropped; returns only when a change failed.
pub(crate) async fn play(script: Script, transfer: Arc<Transfer>, links: Arc<Links>) -> Failure {
    for change in script.changes {
        let due = first_request(&transfer).await + change.after.0;
        sleep_until(due.into()).await;
        if let Err(failure) = apply(&change, due, &transfer, &links).await {
            return failure;
        }
    }
    std::future::pending().await
}

async fn first_request(transfer: &Transfer) -> Instant {
    loop {
        if let Some(at) = transfer.totals().first_request {
            return at;
        }
        sleep(GLANCE).await;
    }
}

async fn apply(
    change: &Change,
    due: Instant,
    transfer: &Transfer,
    links: &Arc<Links>,
) -> Result<(), Failure> {
    let (links, link, asked) = (links.clone(), change.link, change.clone());
    blocking(move || links.apply(&asked)).await?;
    let late = due.elapsed();
    if late > LATE {
        let what = format!(
            "the script's change of link {link} after {} took effect {:.0} ms late",
            change.after,
            late.as_secs_f64() * 1e3
        );
        transfer.fault(link, what, "the run goes on; this change was not when the script says".into());
    }
    Ok(())
}
