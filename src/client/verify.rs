//! Checks complete files and renames them, away from the tasks that receive.

use std::sync::Arc;
use std::time::Instant;

use anyhow::anyhow;
use tokio::task::spawn_blocking;

use super::origin::Origin;
use super::store::{FileVerdict, HASH_STEP_BYTES, Incoming};
use super::transfer::answers::AnswerOrder;
use super::transfer::{Failure, Finished, Transfer};
use crate::log::outcome::Outcome;
use crate::log::schema;

/// Hashes what has come of a file in order, where it is enough, on a thread for what blocks.
pub(crate) fn hash_behind(incoming: &Arc<Incoming>) {
    if incoming.may_hash() {
        let incoming = incoming.clone();
        spawn_blocking(move || incoming.hash());
    }
}

/// A file of which everything has come, and the server that sent the last of it.
pub(crate) struct Check {
    transfer: Arc<Transfer>,
    origin: Origin,
    index: usize,
    finished: Finished,
}

impl Check {
    pub(crate) fn new(transfer: &Arc<Transfer>, origin: &Origin, index: usize, finished: Finished) -> Check {
        Check { transfer: transfer.clone(), origin: origin.clone(), index, finished }
    }

    /// Checks at once what takes a single step of hashing, and else on another thread, as soon as one is
    /// free; then a failure is the transfer's.
    pub(crate) fn start(self) -> Result<(), Failure> {
        let incoming = &self.finished.incoming;
        if incoming.left_to_hash() <= HASH_STEP_BYTES {
            return self.run();
        }
        // A run that goes on after this one was killed meanwhile need not fetch it again.
        self.transfer.note_whole(self.index, incoming)?;
        tokio::spawn(async move {
            let transfer = self.transfer.clone();
            // The semaphore is never closed.
            let permit = transfer.checks.clone().acquire_owned().await;
            spawn_blocking(move || {
                let _permit = permit;
                let transfer = self.transfer.clone();
                self.run().unwrap_or_else(|failure| transfer.fail(failure));
            });
        });
        Ok(())
    }

    fn run(self) -> Result<(), Failure> {
        let Check { transfer, origin, index, finished } = &self;
        let segment = &transfer.segments[*index];
        let expected = segment.digest.or(finished.promised);
        let verdict = transfer
            .store
            .check(&finished.incoming, expected)
            .map_err(|error| Failure::new(Outcome::Store, error))?;
        if let FileVerdict::Wrong { expected, actual } = verdict {
            let is_of_one = finished.is_of(origin.link);
            // Without a digest in its head, it may be the answer to another request.
            if finished.promised.is_none() && is_of_one {
                transfer.order_fails(origin.link);
            }
            let sender = if is_of_one { origin.to_string() } else { "both servers together".into() };
            let what =
                format!("{sender} sent {} with the digest {actual}, expected {expected}", segment.name);
            let what = match transfer.encoding(origin.link, *index) {
                Some(encoding) => {
                    format!("{what} (with the Content-Encoding {encoding}, which was not asked for)")
                }
                None => what,
            };
            if let Some(link) = transfer.fetch_again(*index, finished) {
                transfer.fault(origin.link, what, format!("fetching it again from server {link}"));
                return Ok(());
            }
            let error =
                anyhow!("{what}; what came is kept as {}", transfer.store.part(&segment.name).display());
            transfer.abandon(origin.link, *index, Failure::new(Outcome::Digest, error));
            return Ok(());
        }
        if verdict == FileVerdict::Right && finished.is_of(origin.link) {
            transfer.order_fits(origin.link, AnswerOrder::DigestsFit);
        }
        transfer.unless_over(|| {
            let named = transfer.store.give_name(&finished.incoming, &segment.name);
            named.map_err(|error| Failure::new(Outcome::Store, error))?;
            let done = Instant::now();
            self.log(verdict, done)?;
            transfer.completed(origin.link, *index, &finished.parts, done);
            Ok(())
        })
    }

    fn log(&self, verdict: FileVerdict, done: Instant) -> Result<(), Failure> {
        let log = &self.transfer.log;
        let (parts, done_ms) = (&self.finished.parts, log.ms(done));
        let earliest = |time: fn(&schema::Part) -> f64| parts.iter().map(time).fold(done_ms, f64::min);
        let (requested_ms, first_byte_ms) = (earliest(|p| p.requested_ms), earliest(|p| p.first_byte_ms));
        let (bytes, span_ms) = (self.finished.incoming.written(), done_ms - first_byte_ms);
        let segment = schema::Segment {
            name: self.transfer.segments[self.index].name.clone(),
            index: self.index as u64,
            link: Some(self.origin.link),
            bytes,
            parts: parts.clone(),
            requested_ms,
            first_byte_ms,
            done_ms,
            goodput_kbit: (span_ms > 0.0).then(|| bytes as f64 * 8.0 / span_ms),
            digest_ok: verdict.ok(),
        };
        log.write(schema::Event::Segment(segment)).map_err(|error| Failure::new(Outcome::Log, error))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::store::Store;
    use crate::client::transfer::answers::BodyFacts;
    use crate::log::schema::{Log, Stdout};
    use crate::manifest;
    use crate::schedule::{Pipeline, Schedule, Scheduler};
    use crate::units::LinkId;

    /// Returns a transfer into `out` of one file, and the check of that file, which has come.
    fn whole_file(out: &std::path::Path) -> (Arc<Transfer>, Check) {
        let mut scheduler = Scheduler::new(&Schedule::Greedy, Pipeline::Auto, vec![None]);
        scheduler.opened(LinkId::A, Duration::ZERO, Duration::ZERO);
        let store = Store::open(Some(out), true, []).unwrap();
        let log = Arc::new(Log::new("test".into(), None, Stdout::Nothing).unwrap());
        let segments = manifest::expand("x0").unwrap();
        let transfer = Arc::new(Transfer::new(segments, scheduler, store, log, Duration::from_secs(1)));
        let mut request = transfer.next(LinkId::A, Instant::now()).unwrap();
        let body = BodyFacts { from: 0, length: Some(5), total_bytes: Some(5), etag: None, promised: None };
        transfer.begin(LinkId::A, &mut request, body, false).unwrap();
        assert_eq!(transfer.claim(LinkId::A, &mut request, 5).fresh, 5);
        let incoming = request.incoming.unwrap();
        incoming.write_at(0, b"hello").unwrap();
        let finished = transfer.take_finished(0, &incoming).unwrap();
        let address = ([127, 0, 0, 1], 9).into();
        let host = "a".to_string();
        let addresses = vec![address];
        let origin = Origin { link: LinkId::A, address, addresses, host, congestion: None };
        let check = Check::new(&transfer, &origin, 0, finished);
        (transfer, check)
    }

    #[tokio::test]
    async fn a_file_gets_its_name_and_is_counted_or_neither() {
        for over in [false, true] {
            let out = tempfile::tempdir().unwrap();
            let (transfer, check) = whole_file(out.path());
            if over {
                transfer.end().await;
            }
            check.run().unwrap();
            assert_eq!(out.path().join("x0").exists(), !over);
            assert_eq!(transfer.totals().files, u64::from(!over));
        }
    }

    #[tokio::test]
    async fn the_end_of_a_run_waits_for_a_check_that_has_begun() {
        let out = tempfile::tempdir().unwrap();
        let (transfer, check) = whole_file(out.path());
        let permit = transfer.checks.clone().acquire_owned().await.unwrap();
        let checking = tokio::spawn(async move {
            tokio::task::yield_now().await;
            check.run().unwrap();
            drop(permit);
        });
        transfer.end().await;
        assert_eq!(transfer.totals().files, 1);
        assert!(out.path().join("x0").exists());
        checking.await.unwrap();
    }
}
