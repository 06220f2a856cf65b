//! The parts that no link has been asked for yet, and their bytes.

use std::collections::{BTreeSet, VecDeque};

use super::PartRequest;
use crate::units::{LinkId, PerLink};

/// The sizes of the files, as far as they are known.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    sizes: Vec<Option<u64>>,
    known: u64,
    known_bytes: u64,
}

impl Sizes {
    pub(crate) fn new(sizes: Vec<Option<u64>>) -> Sizes {
        let known = sizes.iter().flatten().count() as u64;
        let known_bytes = sizes.iter().flatten().sum();
        Sizes { sizes, known, known_bytes }
    }

    pub(crate) fn of(&self, segment: usize) -> Option<u64> {
        self.sizes[segment]
    }

    pub(crate) fn count(&self) -> usize {
        self.sizes.len()
    }

    pub(crate) fn learn(&mut self, segment: usize, bytes: u64) {
        if self.sizes[segment].is_none() {
            self.known += 1;
            self.known_bytes += bytes;
            self.sizes[segment] = Some(bytes);
        }
    }

    /// Forgets the size of a segment: it was another file's.
    pub(crate) fn forget(&mut self, segment: usize) {
        if let Some(bytes) = self.sizes[segment].take() {
            self.known -= 1;
            self.known_bytes -= bytes;
        }
    }

    /// The sum of those that are known.
    pub(crate) fn known_bytes(&self) -> u64 {
        self.known_bytes
    }

    /// Where a part ends, if that is known.
    pub(crate) fn end(&self, part: &PartRequest) -> Option<u64> {
        part.to.or(self.of(part.segment))
    }

    /// The mean of the sizes that are known; a guess before there is one.
    pub(crate) fn typical(&self) -> u64 {
        self.known_bytes.checked_div(self.known).unwrap_or(1_000_000)
    }

    /// How much a part brings, guessed where its size is not known.
    pub(crate) fn estimate(&self, part: &PartRequest) -> u64 {
        self.end(part).unwrap_or(part.from + self.typical()).saturating_sub(part.from)
    }
}

/// Parts that wait to be asked for: such as either link may take, and such as are one link's own.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartPool {
    /// In the order of the list.
    shared: VecDeque<PartRequest>,
    own: PerLink<VecDeque<PartRequest>>,
    /// Bytes of the shared parts whose ends are known, and how many have none.
    shared_bytes: u64,
    shared_unknown: u64,
}

impl PartPool {
    /// Puts a part last; `owner` is the one link that may take it.
    pub(crate) fn push_back(&mut self, part: PartRequest, owner: Option<LinkId>, sizes: &Sizes) {
        match owner {
            Some(link) => self.own[link].push_back(part),
            None => {
                self.count(&part, sizes, true);
                self.shared.push_back(part);
            }
        }
    }

    /// Puts a part back: first of one link's own, and else where it stands in the list.
    pub(crate) fn put_back(&mut self, part: PartRequest, owner: Option<LinkId>, sizes: &Sizes) {
        match owner {
            Some(link) => self.own[link].push_front(part),
            None => {
                self.count(&part, sizes, true);
                let order = |part: &PartRequest| (part.segment, part.from);
                let place = self.shared.iter().position(|other| order(other) > order(&part));
                let place = place.unwrap_or(self.shared.len());
                self.shared.insert(place, part);
            }
        }
    }

    /// Returns the part at a place of `link`'s queue, and whether only it may take it: its own parts come
    /// first.
    pub(crate) fn get(&self, link: LinkId, place: usize) -> Option<(PartRequest, bool)> {
        let own = &self.own[link];
        let shared = || self.shared.get(place - own.len()).map(|part| (*part, false));
        own.get(place).map(|part| (*part, true)).or_else(shared)
    }

    /// Returns the first part of `link`'s queue.
    pub(crate) fn first(&self, link: LinkId) -> Option<(PartRequest, bool)> {
        self.get(link, 0)
    }

    /// Returns the parts that either link may take, in the order of the list.
    pub(crate) fn shared(&self) -> impl Iterator<Item = &PartRequest> {
        self.shared.iter()
    }

    /// Takes the part that [`PartPool::get`] named.
    pub(crate) fn take(&mut self, link: LinkId, place: usize, sizes: &Sizes) -> Option<(PartRequest, bool)> {
        let own = &mut self.own[link];
        if let Some(part) = own.remove(place) {
            return Some((part, true));
        }
        let part = self.shared.remove(place - own.len())?;
        self.count(&part, sizes, false);
        Some((part, false))
    }

    /// Bytes that either link may take, and such as only `link` may; guessed where sizes are not known.
    pub(crate) fn bytes_for(&self, link: LinkId, sizes: &Sizes) -> u64 {
        let own: u64 = self.own[link].iter().map(|part| sizes.estimate(part)).sum();
        self.shared_bytes + self.shared_unknown * sizes.typical() + own
    }

    pub(crate) fn has_own(&self, link: LinkId) -> bool {
        !self.own[link].is_empty()
    }

    /// Returns the segments of which only `link` may take something.
    pub(crate) fn own(&self, link: LinkId) -> BTreeSet<usize> {
        self.own[link].iter().map(|part| part.segment).collect()
    }

    /// Leaves the parts that `which` names to `link` alone, in their order.
    pub(crate) fn hand_over(&mut self, which: impl Fn(&PartRequest) -> bool, link: LinkId, sizes: &Sizes) {
        let theirs = &mut self.own[link.other()];
        let mut parts: Vec<PartRequest> =
            self.shared.iter().chain(&*theirs).filter(|part| which(part)).copied().collect();
        parts.sort_unstable_by_key(|part| part.from);
        theirs.retain(|part| !which(part));
        self.shared.retain(|part| !which(part));
        self.own[link].extend(parts);
        self.recount(sizes);
    }

    /// Moves what waits of a segment behind everything else.
    pub(crate) fn move_last(&mut self, segment: usize, sizes: &Sizes) {
        for parts in self.own.iter_mut().chain([&mut self.shared]) {
            let (last, first): (VecDeque<PartRequest>, _) =
                parts.drain(..).partition(|part| part.segment == segment);
            *parts = first;
            parts.extend(last);
        }
        self.recount(sizes);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.shared.is_empty() && self.own.iter().all(VecDeque::is_empty)
    }

    /// Forgets every part but those that `keep` names.
    pub(crate) fn retain(&mut self, keep: impl Fn(&PartRequest) -> bool, sizes: &Sizes) {
        self.own.iter_mut().for_each(|own| own.retain(&keep));
        self.shared.retain(&keep);
        self.recount(sizes);
    }

    /// Counts again what waits, after sizes have become known.
    pub(crate) fn recount(&mut self, sizes: &Sizes) {
        (self.shared_bytes, self.shared_unknown) = (0, 0);
        let shared = std::mem::take(&mut self.shared);
        shared.iter().for_each(|part| self.count(part, sizes, true));
        self.shared = shared;
    }

    fn count(&mut self, part: &PartRequest, sizes: &Sizes, add: bool) {
        // A size becomes known of what has been asked for, or with a new count: a part that waits is
        // counted out as it was counted in.
        match sizes.end(part) {
            Some(end) if add => self.shared_bytes += end.saturating_sub(part.from),
            Some(end) => self.shared_bytes -= end.saturating_sub(part.from),
            None if add => self.shared_unknown += 1,
            None => self.shared_unknown -= 1,
        }
    }
}
