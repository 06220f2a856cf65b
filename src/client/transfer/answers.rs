//! Holds an answer to what is known of its file: size, version, digest, encoding, and its place in the order.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use anyhow::anyhow;

use super::in_flight::InFlight;
use super::{Failure, Transfer, TransferState, Unfinished};
use crate::log::outcome::Outcome;
use crate::manifest::digest::Digest;
use crate::schedule::ConnectionId;
use crate::units::{LinkId, PerLink};

/// The most restarts of a file because a server reports another version.
pub(super) const MOST_RESTARTS: u32 = 3;

/// Whether the answers of a server fit the requests that they come for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AnswerOrder {
    /// Nothing has shown it yet: one request at a time.
    #[default]
    Unknown,
    /// A size that was known before has shown it.
    SizesFit,
    /// A digest has shown it.
    DigestsFit,
    /// One did not, behind another: one request at a time from then on.
    Fails,
}

/// The facts of a body from an answer's head.
#[derive(Debug)]
pub(crate) struct BodyFacts {
    pub from: u64,
    pub length: Option<u64>,
    pub total_bytes: Option<u64>,
    pub etag: Option<String>,
    pub promised: Option<Digest>,
}

impl Transfer {
    /// The answer to the first request of a connection begins. Returns whether anything of it is of use; if not,
    /// that server is not asked for the segment again.
    ///
    /// # Errors
    /// No file can be made for it.
    pub(crate) fn begin(
        &self,
        id: impl Into<ConnectionId>,
        request: &mut InFlight,
        body: BodyFacts,
        anew: bool,
    ) -> Result<bool, Failure> {
        let id = id.into();
        let link = id.link;
        let mut guard = self.state();
        let state = &mut *guard;
        let segment = request.part.segment;
        let has_come = state.scheduler.is_complete(segment) || state.checking.contains(&segment);
        if !has_come && let Some(problem) = self.contradiction(state, link, segment, &body) {
            // The list's digest is right, so the version that is being fetched is not.
            let right = body.promised.is_some() && body.promised == self.segments[segment].digest;
            if !right {
                state.contradicted.insert((link, segment));
                drop(guard);
                self.exclude(link, segment, Failure::new(Outcome::FilesChanged, anyhow!("{problem}")));
                return Ok(false);
            }
            state.drop_version(segment);
            match body.from {
                0 => state.scheduler.begins_anew(id),
                _ => state.scheduler.restart(segment, None),
            }
        } else if anew && !has_come {
            if state.restarted(link, segment) {
                drop(guard);
                self.reject(link, segment, self.too_many_versions(link, segment));
                return Ok(false);
            }
            state.drop_version(segment);
            state.scheduler.begins_anew(id);
        }
        let name = &self.segments[segment].name;
        let known = state.scheduler.size(segment);
        if !has_come && known.zip(body.total_bytes).is_some_and(|(known, said)| known != said) {
            // The size came of a HEAD, which is a hint.
            match body.from {
                0 => state.scheduler.begins_anew(id),
                _ => state.scheduler.restart(segment, None),
            }
        }
        state.scheduler.head(id, body.from, body.length, body.total_bytes);
        if has_come {
            return Ok(true);
        }
        let unfinished = match state.unfinished.entry(segment) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let incoming = match state.left.remove(&segment) {
                    Some(had) => self.store.go_on(name, had),
                    None => self.store.begin(name),
                };
                entry.insert(Unfinished {
                    incoming: Arc::new(incoming.map_err(|error| Failure::new(Outcome::Store, error))?),
                    total_bytes: None,
                    etags: PerLink::default(),
                    promised: None,
                    parts: Vec::new(),
                    sized_by: None,
                })
            }
        };
        if unfinished.total_bytes.is_none() && body.total_bytes.is_some() {
            (unfinished.total_bytes, unfinished.sized_by) = (body.total_bytes, Some(link));
        }
        unfinished.etags[link] = body.etag;
        unfinished.promised = unfinished.promised.or(body.promised);
        request.total_bytes = unfinished.total_bytes;
        request.incoming = Some(unfinished.incoming.clone());
        Ok(true)
    }

    /// Says how an answer contradicts what is known of a segment that is being fetched.
    fn contradiction(
        &self,
        state: &TransferState,
        link: LinkId,
        segment: usize,
        body: &BodyFacts,
    ) -> Option<String> {
        let name = &self.segments[segment].name;
        let unfinished = state.unfinished.get(&segment);
        if let (Some(had), Some(said)) = (unfinished.and_then(|had| had.promised), body.promised)
            && had != said
        {
            return Some(format!(
                "server {link} says that {name} has the digest {said}, and it had {had} before"
            ));
        }
        let had = match unfinished {
            Some(unfinished) => unfinished.total_bytes,
            None => state.left.get(&segment).and_then(|_| state.scheduler.size(segment)),
        };
        let (had, said) = had.zip(body.total_bytes).filter(|(had, said)| had != said)?;
        let by = match unfinished.and_then(|unfinished| unfinished.sized_by) {
            Some(by) if by == link => "it said itself before".to_string(),
            Some(by) => format!("server {by} says"),
            None => "an earlier run was told".to_string(),
        };
        Some(format!(
            "server {link} says that {name} has {said} bytes, and {by} {had}: they are not the same file"
        ))
    }

    /// The server of `link` has another version of a segment than the one that came so far, which is of
    /// no use then. A server that has yet another one each time is not asked for it again.
    pub(crate) fn version_changed(&self, link: LinkId, segment: usize) {
        let mut state = self.state();
        if state.scheduler.is_complete(segment) || state.checking.contains(&segment) {
            return;
        }
        if state.restarted(link, segment) {
            drop(state);
            return self.reject(link, segment, self.too_many_versions(link, segment));
        }
        state.drop_version(segment);
        state.scheduler.restart(segment, None);
    }

    fn too_many_versions(&self, link: LinkId, segment: usize) -> Failure {
        let name = &self.segments[segment].name;
        let error = anyhow!(
            "server {link} says that {name} is another version each time it is asked (by its ETag), \
             {MOST_RESTARTS} times"
        );
        Failure::new(Outcome::FilesChanged, error)
    }

    /// The server of `link` cannot bring a segment, and what came of it may be wrong: the other server
    /// brings all of it.
    pub(crate) fn reject(&self, link: LinkId, segment: usize, reason: Failure) {
        self.exclude(link, segment, reason);
        let mut state = self.state();
        let over = state.scheduler.is_complete(segment) || state.checking.contains(&segment);
        if !over && !state.scheduler.abandoned().contains(&segment) {
            state.drop_version(segment);
            state.scheduler.restart(segment, None);
        }
    }

    /// Whether the answers of a server fit the requests that they come for.
    pub(crate) fn order(&self, link: LinkId) -> AnswerOrder {
        self.state().order[link]
    }

    /// An answer of a server fitted its request, as `by` says.
    pub(crate) fn order_fits(&self, link: LinkId, by: AnswerOrder) {
        let mut state = self.state();
        let order = &mut state.order[link];
        let better = matches!(
            (*order, by),
            (AnswerOrder::Unknown, _) | (AnswerOrder::SizesFit, AnswerOrder::DigestsFit)
        );
        if better {
            *order = by;
            drop(state);
            self.changed.notify_waiters();
        }
    }

    /// An answer of a server did not fit its request, which was not the only one: the server is asked one
    /// request at a time.
    pub(crate) fn order_fails(&self, link: LinkId) {
        self.state().order[link] = AnswerOrder::Fails;
    }

    /// Notes that a server sends a segment with a Content-Encoding. Returns whether its digest may yet
    /// show that this changed nothing.
    pub(crate) fn may_be_encoded(&self, link: LinkId, segment: usize, encoding: &str) -> bool {
        let mut state = self.state();
        let may = self.segments[segment].digest.is_some() && self.store.verifies();
        may && !state.encodes[link] && {
            state.encoded.insert((link, segment), encoding.to_string());
            true
        }
    }

    /// The Content-Encoding with which a server said that it sends a segment.
    pub(crate) fn encoding(&self, link: LinkId, segment: usize) -> Option<String> {
        self.state().encoded.get(&(link, segment)).cloned()
    }

    /// Whether the size of a segment, where it is known, is known from a HEAD alone.
    pub(crate) fn size_is_hint(&self, segment: usize) -> bool {
        let state = self.state();
        let told = state.unfinished.get(&segment).is_some_and(|had| had.total_bytes.is_some());
        !told && !state.left.contains_key(&segment)
    }

    /// A server says that a segment ends before the bytes that it was asked for, whose size was a hint.
    /// Returns whether the segment is to be fetched anew because of that.
    pub(crate) fn drop_hint(&self, segment: usize) -> bool {
        if !self.size_is_hint(segment) {
            return false;
        }
        let mut state = self.state();
        if state.scheduler.size(segment).is_none() || state.scheduler.is_complete(segment) {
            return false;
        }
        state.drop_version(segment);
        state.scheduler.restart(segment, None);
        true
    }

    /// Whether a segment can be asked for behind others on a connection, since its answer says what it
    /// is of: by a digest, or by a size that is none of theirs.
    pub(crate) fn may_follow(
        &self,
        link: LinkId,
        segment: usize,
        others: impl Iterator<Item = usize>,
    ) -> bool {
        let state = self.state();
        let by_digest = state.order[link] == AnswerOrder::DigestsFit || self.store.verifies();
        if by_digest && self.segments[segment].digest.is_some() {
            return true;
        }
        let size = |segment| state.scheduler.size(segment);
        let Some(own) = size(segment) else { return false };
        others.into_iter().all(|other| size(other).is_some_and(|size| size != own))
    }
}
