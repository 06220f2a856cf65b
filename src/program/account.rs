//! Makes the records of a run out of what was seen from outside: files that arrived, and requests that servers
//! answered. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::requests::ServedRequest;
use crate::log::schema::{Part, ProgramConnection, Segment};
use crate::units::PerLink;

/// A file that was to be fetched, as it was found.
#[derive(Clone, Debug)]
pub(crate) struct FoundFile {
    pub name: String,
    pub state: FileState,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FileState {
    /// Stored under its name; `done_ms` is when it last changed, on the run's clock.
    Whole {
        bytes: u64,
        done_ms: f64,
        digest_ok: Option<bool>,
    },
    Missing,
}

/// The payload that a link's shaper let pass, as its counters say it from time to time. Counters that end or begin
/// anew, as when the link is cleared, no longer say it all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PassedBytes {
    bytes: Option<u64>,
    interrupted: bool,
}

impl PassedBytes {
    /// Notes a reading; `None` where nothing counts.
    pub(crate) fn note(&mut self, bytes: Option<u64>) {
        self.interrupted |= bytes < self.bytes;
        self.bytes = bytes;
    }

    /// Returns all that passed, if that is known.
    pub(crate) fn all(self) -> Option<u64> {
        self.bytes.filter(|_| !self.interrupted)
    }
}

/// The payload of one link, from both sides of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LinkAccount {
    /// Body bytes of the files to fetch that the server's kernel took.
    pub sent_bytes: u64,
    /// Connections, and requests of any kind, that the server answered.
    pub connections: u64,
    pub requests: u64,
    /// Files of which this link brought the last part.
    pub files: u64,
    /// When the last of these files was whole (ms on the run's clock).
    pub last_file_ms: Option<f64>,
}

/// Everything that can be said of a run from outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    pub segments: Vec<Segment>,
    /// `None` where the servers keep no log that is known.
    pub links: Option<PerLink<LinkAccount>>,
    /// When the first request for one of the files was read by its server (ms on the run's clock).
    pub first_request_ms: Option<f64>,
    pub last_file_ms: Option<f64>,
    pub missing: Vec<String>,
    pub wrong: Vec<String>,
    /// A missing file that is in another place, and one that nobody asked for, in words.
    pub elsewhere: Vec<String>,
    /// Payload of whole files whose digest is not wrong.
    pub bytes: u64,
}

/// Returns the bytes of each file that the servers sent.
pub(crate) fn sent_bytes(requests: &[ServedRequest]) -> HashMap<&str, u64> {
    let mut sent = HashMap::new();
    for request in requests.iter().filter(|request| request.fetches()) {
        *sent.entry(request.name.as_str()).or_default() += request.bytes();
    }
    sent
}

/// Returns true if these requests brought every byte of the files that are there.
pub(crate) fn tell_all(requests: &[ServedRequest], files: &[FoundFile]) -> bool {
    let sent = sent_bytes(requests);
    files.iter().all(|file| match file.state {
        FileState::Whole { bytes, .. } => sent.get(&*file.name).copied().unwrap_or(0) >= bytes,
        FileState::Missing => true,
    })
}

/// Takes the files of which a server sent something for fetched, as far as it was sent, and leaves out the others: a
/// player stores nothing, and chooses what it needs.
pub(crate) fn count_as_fetched(files: &mut Vec<FoundFile>, requests: &[ServedRequest]) {
    files.retain_mut(|file| {
        let of = || requests.iter().filter(|request| request.fetches() && request.name == file.name);
        if let (FileState::Missing, Some(bytes)) = (&file.state, of().map(|request| request.to_byte).max()) {
            let done_ms = of().map(|request| request.sent_ms).fold(0.0, f64::max);
            file.state = FileState::Whole { bytes, done_ms, digest_ok: None };
        }
        file.state != FileState::Missing
    });
}

/// Accounts for a run. `requests` are those since the program began, or `None` where no server tells.
pub(crate) fn account(files: &[FoundFile], requests: Option<&[ServedRequest]>) -> Account {
    let mut account = Account::default();
    let names: HashSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let mut by_name: HashMap<&str, Vec<&ServedRequest>> = HashMap::new();
    for request in requests.into_iter().flatten() {
        if request.fetches() && names.contains(request.name.as_str()) {
            by_name.entry(&request.name).or_default().push(request);
        }
    }
    for requests in by_name.values_mut() {
        requests.sort_by(|a, b| a.read_ms.total_cmp(&b.read_ms));
    }
    account.first_request_ms = by_name.values().map(|of| of[0].read_ms).min_by(f64::total_cmp);
    for (index, file) in files.iter().enumerate() {
        let FileState::Whole { bytes, done_ms, digest_ok } = file.state else {
            account.missing.push(file.name.clone());
            continue;
        };
        let of = by_name.get(file.name.as_str()).map_or(&[][..], Vec::as_slice);
        let done_ms = done_ms.max(least_done_ms(of, bytes));
        if digest_ok == Some(false) {
            account.wrong.push(file.name.clone());
        } else {
            account.bytes += bytes;
            account.last_file_ms = Some(account.last_file_ms.map_or(done_ms, |last: f64| last.max(done_ms)));
        }
        account.segments.push(segment(index as u64, &file.name, (bytes, done_ms, digest_ok), of));
    }
    account.segments.sort_by(|a, b| a.done_ms.total_cmp(&b.done_ms));
    account.links = requests.map(|requests| per_link(requests, &names, &account.segments));
    account
}

/// Returns the least time at which all of a file can have come: the last byte of each answer did not before the
/// server sent it, unless another answer has that byte too. A program that writes to memory that is mapped changes its
/// file without a trace.
fn least_done_ms(requests: &[&ServedRequest], bytes: u64) -> f64 {
    let sent_ms = |last: u64| {
        let with = requests.iter().filter(|request| (request.from_byte..request.to_byte).contains(&last));
        with.map(|request| if request.to_byte == last + 1 { request.sent_ms } else { request.read_ms })
            .fold(f64::INFINITY, f64::min)
    };
    let answers = requests.iter().filter(|request| request.bytes() > 0 && request.to_byte <= bytes);
    answers.map(|request| sent_ms(request.to_byte - 1)).fold(0.0, f64::max)
}

fn segment(
    index: u64,
    name: &str,
    (bytes, done_ms, digest_ok): (u64, f64, Option<bool>),
    requests: &[&ServedRequest],
) -> Segment {
    let last =
        requests.iter().filter(|request| request.bytes() > 0).max_by(|a, b| a.sent_ms.total_cmp(&b.sent_ms));
    let requested_ms = requests.first().map_or(done_ms, |first| first.read_ms.min(done_ms));
    let parts = requests.iter().filter(|request| request.bytes() > 0).map(|request| Part {
        link: request.link,
        from_byte: request.from_byte,
        to_byte: request.to_byte.min(bytes.max(request.from_byte)),
        requested_ms: request.read_ms,
        first_byte_ms: request.read_ms,
        done_ms: request.sent_ms.min(done_ms).max(request.read_ms),
    });
    let took_ms = done_ms - requested_ms;
    Segment {
        name: name.to_string(),
        index,
        link: last.map(|request| request.link),
        bytes,
        parts: parts.collect(),
        requested_ms,
        first_byte_ms: requested_ms,
        done_ms,
        goodput_kbit: (took_ms > 0.0).then(|| bytes as f64 * 8.0 / took_ms),
        digest_ok,
    }
}

fn per_link(requests: &[ServedRequest], names: &HashSet<&str>, segments: &[Segment]) -> PerLink<LinkAccount> {
    PerLink::of(|link| {
        let mine = || requests.iter().filter(move |request| request.link == link);
        let files = || segments.iter().filter(move |segment| segment.link == Some(link));
        LinkAccount {
            sent_bytes: mine()
                .filter(|request| names.contains(&*request.name))
                .map(ServedRequest::bytes)
                .sum(),
            connections: mine().map(|request| request.connection).collect::<HashSet<_>>().len() as u64,
            requests: mine().count() as u64,
            files: files().count() as u64,
            last_file_ms: files().map(|segment| segment.done_ms).max_by(f64::total_cmp),
        }
    })
}

/// Returns the connections of all requests, each server's in the order of its count.
pub(crate) fn connections(requests: &[ServedRequest]) -> Vec<ProgramConnection> {
    let mut found: BTreeMap<(usize, u64), ProgramConnection> = BTreeMap::new();
    for request in requests {
        let (link, connection) = (request.link, request.connection);
        let new = ProgramConnection { link, connection, requests: 0, bytes: 0, sender: None };
        let of = found.entry((link.index(), connection)).or_insert(new);
        of.requests += 1;
        of.bytes += request.bytes();
        of.sender = request.sender.clone().or(of.sender.take());
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::LinkId;

    fn whole(name: &str, bytes: u64, done_ms: f64, digest_ok: Option<bool>) -> FoundFile {
        FoundFile { name: name.into(), state: FileState::Whole { bytes, done_ms, digest_ok } }
    }

    fn served(
        link: LinkId,
        name: &str,
        bytes: std::ops::Range<u64>,
        ms: std::ops::Range<f64>,
    ) -> ServedRequest {
        ServedRequest {
            link,
            connection: 1,
            name: name.into(),
            from_byte: bytes.start,
            to_byte: bytes.end,
            method: "GET".into(),
            status: 206,
            read_ms: ms.start,
            sent_ms: ms.end,
            sender: None,
        }
    }

    #[test]
    fn logs_tell_all_once_they_have_every_byte_of_a_file() {
        let file = [whole("s1", 300, 1.0, Some(true))];
        let parts = [served(LinkId::A, "s1", 100..300, 0.0..1.0), served(LinkId::B, "s1", 0..100, 0.0..1.0)];
        assert!(!tell_all(&parts[..1], &file) && tell_all(&parts, &file));
        assert!(tell_all(&[], &[FoundFile { name: "s2".into(), state: FileState::Missing }]));
    }

    #[test]
    fn counters_that_begin_anew_do_not_say_it_all() {
        let all = |readings: &[Option<u64>]| {
            let mut passed = PassedBytes::default();
            readings.iter().for_each(|&reading| passed.note(reading));
            passed.all()
        };
        assert_eq!(all(&[None, Some(0), Some(7)]), Some(7));
        assert_eq!(all(&[Some(7), None]), None);
        assert_eq!(all(&[Some(7), None, Some(9)]), None);
        assert_eq!(all(&[Some(7), Some(2), Some(9)]), None);
    }

    #[test]
    fn file_of_two_parts_is_of_the_link_that_sent_last() {
        let requests =
            [served(LinkId::A, "x", 0..600, 10.0..50.0), served(LinkId::B, "x", 600..1000, 12.0..70.0)];
        let found = account(&[whole("x", 1000, 80.0, Some(true))], Some(&requests));
        let segment = &found.segments[0];
        assert_eq!((segment.link, segment.parts.len()), (Some(LinkId::B), 2));
        assert_eq!((segment.requested_ms, segment.done_ms), (10.0, 80.0));
        assert_eq!((found.first_request_ms, found.last_file_ms, found.bytes), (Some(10.0), Some(80.0), 1000));
        let links = found.links.unwrap();
        assert_eq!((links.a.sent_bytes, links.b.sent_bytes, links.b.files), (600, 400, 1));
    }

    #[test]
    fn no_file_is_done_before_its_bytes_were_sent() {
        use LinkId::{A, B};
        let done = |requests: &[ServedRequest]| {
            account(&[whole("x", 1000, 5.0, Some(true))], Some(requests)).last_file_ms.unwrap()
        };
        assert_eq!(done(&[served(A, "x", 0..600, 0.0..50.0), served(B, "x", 600..1000, 0.0..70.0)]), 70.0);
        // The other server brought the end of what one sends twice.
        assert_eq!(done(&[served(A, "x", 0..1000, 0.0..90.0), served(B, "x", 600..1000, 0.0..70.0)]), 70.0);
        // An answer that breaks off brought bytes that came elsewhere.
        assert_eq!(done(&[served(A, "x", 0..600, 0.0..90.0), served(B, "x", 0..1000, 3.0..70.0)]), 70.0);
        assert_eq!(done(&[]), 5.0);
    }

    #[test]
    fn missing_and_wrong_files_are_named_and_do_not_count() {
        let missing = FoundFile { name: "m".into(), state: FileState::Missing };
        let files = [missing, whole("w", 5, 9.0, Some(false)), whole("x", 7, 4.0, Some(true))];
        let found = account(&files, None);
        assert_eq!((found.missing, found.wrong), (vec!["m".to_string()], vec!["w".to_string()]));
        assert_eq!((found.bytes, found.last_file_ms), (7, Some(4.0)));
        assert!(found.links.is_none() && found.first_request_ms.is_none());
        assert!(found.segments.iter().all(|segment| segment.link.is_none()));
    }

    #[test]
    fn files_that_a_player_was_sent_count_as_fetched() {
        let requests = [
            served(LinkId::A, "x", 0..7, 1.0..4.0),
            served(LinkId::B, "x", 7..9, 2.0..3.0),
            ServedRequest { method: "HEAD".into(), ..served(LinkId::A, "y", 0..0, 1.0..2.0) },
        ];
        let missing = |name: &str| FoundFile { name: name.into(), state: FileState::Missing };
        let mut files = vec![missing("y"), missing("x"), whole("z", 3, 9.0, Some(true))];
        count_as_fetched(&mut files, &requests);
        let found: Vec<_> = files.iter().map(|file| (file.name.as_str(), &file.state)).collect();
        let x = FileState::Whole { bytes: 9, done_ms: 4.0, digest_ok: None };
        assert_eq!(found, [("x", &x), ("z", &whole("z", 3, 9.0, Some(true)).state)]);
    }

    #[test]
    fn requests_of_other_files_do_not_start_the_clock() {
        let requests = [
            served(LinkId::A, "SHA256SUMS", 0..10, 1.0..2.0),
            ServedRequest { method: "HEAD".into(), ..served(LinkId::A, "x", 0..0, 3.0..3.5) },
            served(LinkId::A, "x", 0..7, 5.0..8.0),
        ];
        let found = account(&[whole("x", 7, 9.0, None)], Some(&requests));
        assert_eq!(found.first_request_ms, Some(5.0));
        let links = found.links.unwrap();
        assert_eq!((links.a.requests, links.a.sent_bytes), (3, 7));
    }
}
