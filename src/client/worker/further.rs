//! The connections of a link beside its first.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Broken, Fetcher, LEAST_OPENING};
use crate::client::origin::rtt_of;
use crate::client::prepare::Ready;
use crate::client::reach;
use crate::client::transfer::Failure;
use crate::log::outcome::Outcome;
use crate::schedule::{ConnectionId, Outlook};
use crate::units::LinkId;

/// The time between a connection that broke and the next in its place.
const PAUSE: Duration = Duration::from_millis(100);

/// The end of a further connection.
enum FurtherEnd {
    /// It broke, or is not wanted any more.
    Over,
    /// The server does not take it.
    Refused,
}

impl Fetcher {
    /// Works on a further connection of the link until that breaks or is not wanted any more.
    async fn run_further(
        mut self,
        id: ConnectionId,
        open: Option<Arc<TcpStream>>,
    ) -> Result<FurtherEnd, Failure> {
        self.id = id;
        let open = match open {
            Some(open) => Ok(open),
            None => reach::open(&self.origin, LEAST_OPENING).await,
        };
        let Ok(open) = open else { return Ok(FurtherEnd::Refused) };
        let end = match self.attempt(Some(open)).await {
            Ok(()) | Err(Broken::Closed | Broken::Moved(..)) => FurtherEnd::Over,
            Err(Broken::Origin(_)) if self.answered => FurtherEnd::Over,
            Err(Broken::Origin(_) | Broken::Busy(..)) => FurtherEnd::Refused,
            Err(Broken::Fatal(failure)) => return Err(failure),
        };
        sleep(PAUSE).await;
        Ok(end)
    }
}

/// Opens the further connections that both links begin with.
pub(crate) async fn open_first(ready: &Ready) -> Vec<(ConnectionId, Arc<TcpStream>)> {
    let mut opening = JoinSet::new();
    for link in LinkId::BOTH {
        for id in ready.transfer.schedule(|scheduler, _| scheduler.missing_connections(link)) {
            let origin = ready.origins[link].clone();
            opening.spawn(async move { (id, reach::open(&origin, LEAST_OPENING).await) });
        }
    }
    let mut opened = Vec::new();
    while let Some(joined) = opening.join_next().await {
        let Ok((id, Ok(stream))) = joined else { continue };
        let rtt = rtt_of(&stream).unwrap_or_default();
        ready.transfer.schedule(|scheduler, now| scheduler.opened(id, now, rtt));
        opened.push((id, stream));
    }
    for link in LinkId::BOTH {
        ready.transfer.schedule(|scheduler, _| {
            if !scheduler.missing_connections(link).is_empty() {
                scheduler.connection_refused(link);
            }
        });
    }
    opened
}

/// Keeps as many connections open as the scheduler wants, beginning with these; the first of each link is not its
/// affair. Returns only when the run cannot go on.
pub(crate) async fn keep(ready: &Ready, open: Vec<(ConnectionId, Arc<TcpStream>)>) -> Failure {
    let transfer = &ready.transfer;
    let (mut at_work, mut held) = (JoinSet::new(), Vec::new());
    let mut to_start: Vec<_> = open.into_iter().map(|(id, stream)| (id, Some(stream))).collect();
    loop {
        let changed = transfer.changed.notified();
        tokio::pin!(changed);
        // Being told of a change counts from before the question, so that none is missed.
        changed.as_mut().enable();
        for (id, stream) in to_start.drain(..) {
            let [origin, other] = [id.link, id.link.other()].map(|link| ready.origins[link].clone());
            let fetcher = Fetcher::new(transfer.clone(), origin, other, &ready.capabilities[id.link]);
            held.push(id);
            at_work.spawn(async move { (id, fetcher.run_further(id, stream).await) });
        }
        tokio::select! {
            Some(joined) = at_work.join_next() => match joined {
                Ok((id, Ok(end))) => {
                    held.retain(|&other| other != id);
                    if let FurtherEnd::Refused = end {
                        transfer.schedule(|scheduler, _| scheduler.connection_refused(id.link));
                    }
                }
                Ok((_, Err(failure))) => return failure,
                Err(error) => return Failure::new(Outcome::Internal, error),
            },
            () = changed => {}
        }
        transfer.schedule(|scheduler, _| {
            for link in LinkId::BOTH {
                if scheduler.is_up(link) && scheduler.outlook(link) == Outlook::Work {
                    let missing = scheduler.missing_connections(link).into_iter();
                    to_start
                        .extend(missing.filter(|id| id.index > 0 && !held.contains(id)).map(|id| (id, None)));
                }
            }
        });
    }
}
