//! Servers that cannot bring a segment: who is not asked for it again, and which files are missing in the end.

use anyhow::anyhow;

use super::in_flight::InFlight;
use super::{Failure, Transfer};
use crate::log::outcome::Outcome;
use crate::schedule::ConnectionId;
use crate::units::LinkId;

/// The answers of one server that bring nothing new of a file before it is not asked for it again.
const MOST_STRIKES: u32 = 3;
/// The most files that an error names.
const MOST_NAMED: usize = 10;

/// A way in which a server's answers may fail to bring a segment; so many are counted of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Strike {
    /// The connection broke before the answer began.
    NoAnswer,
    /// The answer brought nothing new of what was wanted.
    NothingNew,
    /// It came too slowly.
    Slow,
}

impl Transfer {
    /// The server of `link` cannot bring a segment, for the reason given: it is not asked for it again. The
    /// other server brings it; if it cannot, the run ends with that reason after all other files. The bytes
    /// on file stay; [`Transfer::begin`] or the caller restarts a segment whose content is wrong. A server
    /// that turns out to hold other files than its list is not asked for any that the other may bring, and is
    /// told of once.
    pub(crate) fn exclude(&self, link: LinkId, segment: usize, reason: Failure) {
        let mut guard = self.state();
        let state = &mut *guard;
        let had_changed = state.has_changed(link);
        if reason.exit == Outcome::FilesChanged {
            state.changed[link].insert(segment);
        }
        let may_come = state.scheduler.exclude(link, segment);
        let changed = state.has_changed(link);
        if changed && !had_changed {
            for other in 0..self.segments.len() {
                if state.scheduler.may_bring(link.other(), other) {
                    state.scheduler.exclude(link, other);
                }
            }
        }
        let what = format!("{:#}", reason.error);
        state.refused.insert(segment, reason);
        drop(guard);
        let other = link.other();
        let action = match may_come {
            true if changed => format!(
                "it holds other files than its list says, so it is not asked for any more; server {other} brings them"
            ),
            true => format!("not asked for it again; server {other} brings it"),
            false => "no server can bring it; the others are fetched".to_string(),
        };
        if !had_changed {
            self.fault(link, what, action);
        }
    }

    /// No server brings a segment, for the reason given: it is left, and the run ends with that reason
    /// after all other files.
    pub(crate) fn abandon(&self, link: LinkId, segment: usize, reason: Failure) {
        let mut state = self.state();
        state.scheduler.abandon(segment);
        let what = format!("{:#}", reason.error);
        state.refused.insert(segment, reason);
        drop(state);
        self.fault(link, what, "it is left; the others are fetched".to_string());
    }

    /// An answer with a segment broke off, and brought nothing new of what is wanted of it: the segment
    /// comes after all others. A server whose answers (`answered`) do so three times is not asked for
    /// it again.
    pub(crate) fn broke_off(&self, id: ConnectionId, request: &InFlight, answered: bool, problem: &str) {
        let (link, segment) = (id.link, request.part.segment);
        if request.record.is_some() {
            return;
        }
        let mut state = self.state();
        let due = state.scheduler.due(id).is_some_and(|(due, _, wanted)| due == segment && wanted > 0);
        if !due || state.scheduler.is_whole(segment) || state.checking.contains(&segment) {
            return;
        }
        let strike = if answered { Strike::NothingNew } else { Strike::NoAnswer };
        let strikes = state.strike(link, segment, strike);
        // A server that was killed in the middle, once, is no reason to change the order.
        if strikes > 1 {
            state.scheduler.defer(segment);
        }
        if !answered || strikes < MOST_STRIKES {
            return;
        }
        drop(state);
        let name = &self.segments[segment].name;
        let error =
            anyhow!("{MOST_STRIKES} answers of server {link} brought nothing new of {name}: {problem}");
        self.exclude(link, segment, Failure::new(Outcome::ServerAway, error));
    }

    /// The answer with a segment that is due comes too slowly. Where the other server may bring the
    /// segment, this one is not asked for it again; else it is, twice. Returns whether it is not.
    pub(crate) fn too_slow(&self, id: ConnectionId, segment: usize, problem: &str) -> bool {
        let link = id.link;
        let mut state = self.state();
        let wanted = state.scheduler.due(id).is_some_and(|(due, _, wanted)| due == segment && wanted > 0);
        if !wanted || state.scheduler.is_whole(segment) || state.checking.contains(&segment) {
            return false;
        }
        let fixed_elsewhere = !state.scheduler.may_bring(link.other(), segment);
        if state.strike(link, segment, Strike::Slow) < MOST_STRIKES && fixed_elsewhere {
            return false;
        }
        drop(state);
        let error = anyhow!("{problem} (--least-rate)");
        self.exclude(link, segment, Failure::new(Outcome::ServerAway, error));
        true
    }

    /// Why files are missing of which no server brings what is missing; none while there are others.
    pub(crate) fn unobtainable(&self) -> Option<Failure> {
        let mut state = self.state();
        let abandoned = state.scheduler.abandoned().clone();
        let first = *abandoned.first()?;
        let done = state.totals.files + state.totals.resumed_files;
        if done + (abandoned.len() as u64) < self.segments.len() as u64 {
            return None;
        }
        let names: Vec<&str> = abandoned.iter().map(|&index| self.segments[index].name.as_str()).collect();
        let what = match names.len() {
            all if all == self.segments.len() => "cannot fetch any file".to_string(),
            few if few <= MOST_NAMED => {
                format!("cannot fetch {}: all other files are there", names.join(", "))
            }
            many => format!(
                "cannot fetch {} and {} more: all other files are there",
                names[..MOST_NAMED].join(", "),
                many - MOST_NAMED
            ),
        };
        let Failure { exit, error } = state.refused.remove(&first).unwrap_or_else(|| {
            Failure::new(Outcome::ServerAway, anyhow!("the one server that could bring it was given up"))
        });
        Some(Failure { exit, error: error.context(what) })
    }
}
