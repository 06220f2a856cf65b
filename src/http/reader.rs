//! Reads answers out of a stream of bytes.
//!
//! [`Answers`] is fed bytes as they come and says what they mean, for any number of answers one
//! after another on a connection. It reads bodies of a stated length, and to the end of the
//! connection where an old server states none; it does not read chunked bodies. However the bytes are
//! cut, they mean the same.

use super::answer::{AnswerHead, MAX_BLANK_BYTES, MAX_INTERIM, NotHttp, after_blank_lines, parse_answer};

/// The most that the head of an answer may take, in bytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// The meaning of the next bytes of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AnswerEvent<'a> {
    Head(Box<AnswerHead>),
    Body(&'a [u8]),
    /// The answer is complete.
    End,
    /// Everything fed so far has been used.
    NeedMore,
}

#[derive(Debug)]
enum ReaderState {
    Head(Vec<u8>),
    Body { left: Option<u64> },
}

/// Reads answers out of a stream of bytes.
#[derive(Debug)]
pub(crate) struct Answers {
    state: ReaderState,
    /// Interim answers since the last one that counted.
    interim: u32,
}

impl Default for Answers {
    fn default() -> Self {
        Answers { state: ReaderState::Head(Vec::new()), interim: 0 }
    }
}

impl Answers {
    /// Takes what it can from the front of `input` and moves `input` past it.
    ///
    /// `head_only` says that the answer under way has no body (it answers a HEAD).
    ///
    /// # Errors
    /// When the bytes cannot be the answer that is due. The connection is of no more use then.
    pub(crate) fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
        head_only: bool,
    ) -> Result<AnswerEvent<'a>, NotHttp> {
        loop {
            return match &mut self.state {
                ReaderState::Body { left: Some(0) } => {
                    self.state = ReaderState::Head(Vec::new());
                    Ok(AnswerEvent::End)
                }
                _ if input.is_empty() => Ok(AnswerEvent::NeedMore),
                ReaderState::Body { left } => {
                    let take = left.map_or(input.len(), |left| left.min(input.len() as u64) as usize);
                    let (body, rest) = input.split_at(take);
                    *input = rest;
                    if let Some(left) = left {
                        *left -= take as u64;
                    }
                    Ok(AnswerEvent::Body(body))
                }
                ReaderState::Head(seen) => {
                    // Nearly always the whole head is in `input`; only one that was cut is kept.
                    let before = seen.len();
                    let room = (MAX_HEAD_BYTES + 1).saturating_sub(before).min(input.len());
                    let parsed = if before == 0 {
                        parse_answer(&input[..room])?
                    } else {
                        seen.extend_from_slice(&input[..room]);
                        parse_answer(seen)?
                    };
                    let Some(head) = parsed else {
                        if before == 0 {
                            seen.extend_from_slice(&input[..room]);
                        }
                        if seen.len() > MAX_HEAD_BYTES {
                            return Err(NotHttp::HeadTooLong);
                        }
                        *input = &[];
                        return Ok(AnswerEvent::NeedMore);
                    };
                    *input = &input[head.head_bytes - before..];
                    if head.status < 200 {
                        // An interim answer: the one that counts follows.
                        self.interim += 1;
                        if self.interim > MAX_INTERIM {
                            return Err(NotHttp::Interim);
                        }
                        self.state = ReaderState::Head(Vec::new());
                        continue;
                    }
                    self.interim = 0;
                    let bodiless = head_only || matches!(head.status, 204 | 304);
                    self.state = ReaderState::Body { left: if bodiless { Some(0) } else { head.length } };
                    Ok(AnswerEvent::Head(Box::new(head)))
                }
            };
        }
    }

    /// Takes bytes that come while no answer is due: empty lines, which some servers send after a body.
    ///
    /// # Errors
    /// When they are anything else.
    pub(crate) fn idle(&mut self, input: &[u8]) -> Result<(), NotHttp> {
        let ReaderState::Head(seen) = &mut self.state else { return Err(NotHttp::Unasked) };
        seen.extend_from_slice(&input[..input.len().min(MAX_BLANK_BYTES + 1)]);
        let rest = after_blank_lines(seen).map_err(|_| NotHttp::Unasked)?;
        if rest.is_empty() || rest == b"\r" { Ok(()) } else { Err(NotHttp::Unasked) }
    }

    /// How many bytes of a body of a stated length are still to come.
    pub(crate) fn body_left(&self) -> u64 {
        match self.state {
            ReaderState::Body { left } => left.unwrap_or(0),
            ReaderState::Head(_) => 0,
        }
    }

    /// Notes that the next `bytes` of the body, at most `body_left`, went another way.
    pub(crate) fn skip_body(&mut self, bytes: u64) {
        if let ReaderState::Body { left: Some(left) } = &mut self.state {
            *left = left.saturating_sub(bytes);
        }
    }

    /// The connection has ended. Was the answer under way complete, having no stated length?
    pub(crate) fn ended_well(&self) -> bool {
        matches!(self.state, ReaderState::Body { left: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The head of an answer, what came of its body, and whether it ended.
    type Answered = (AnswerHead, Vec<u8>, bool);

    /// Feeds `wire` in these pieces and collects the statuses and bodies.
    fn read_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Answered>, Option<NotHttp>) {
        let mut answers = Answers::default();
        let mut read: Vec<Answered> = Vec::new();
        for chunk in pieces {
            let mut input = chunk;
            loop {
                match answers.next(&mut input, false) {
                    Ok(AnswerEvent::Head(head)) => read.push((*head, Vec::new(), false)),
                    Ok(AnswerEvent::Body(body)) => read.last_mut().unwrap().1.extend_from_slice(body),
                    Ok(AnswerEvent::End) => read.last_mut().unwrap().2 = true,
                    Ok(AnswerEvent::NeedMore) => break,
                    Err(error) => return (read, Some(error)),
                }
            }
        }
        (read, None)
    }

    fn read_all(wire: &[u8], piece: usize) -> Result<Vec<(u16, Vec<u8>)>, NotHttp> {
        let (read, error) = read_pieces(wire.chunks(piece));
        error.map_or(Ok(()), Err)?;
        Ok(read
            .into_iter()
            .map(|(head, body, complete)| (assert!(complete), (head.status, body)).1)
            .collect())
    }

    const WIRES: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\nHTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-6/7\r\ncontent-length: 2\r\n\r\nfg",
        b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na\r\n\r\nHTTP/1.1 200\r\nContent-Length: 1\r\n\r\nb",
        b"\nHTTP/1.1 200 OK\nContent-Length: 1\n\nb",
        b"\r\n\r\n\r\n\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"\rHTTP/1.1 200 OK\r\n\r\n",
        b" HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\nHTTP/1.1 204 No Content\r\n\r\nHTTP/1.0 200 OK\r\n\r\nto the end",
        b"HTTP/1.1  200  OK\r\nContent-Length : 2\r\nX-Folded: a\r\n b\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\nX: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ];

    #[test]
    fn answers_mean_the_same_however_they_are_cut() {
        let endless: Vec<u8> = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(20);
        for wire in WIRES.iter().copied().chain([&endless[..]]) {
            let kind = |error: Option<NotHttp>| error.map(|error| std::mem::discriminant(&error));
            let (whole, error) = read_pieces([wire]);
            let expected = (whole, kind(error));
            let same = |(read, error)| assert_eq!((read, kind(error)), expected, "{}", wire.escape_ascii());
            for cut in 0..=wire.len() {
                let (start, rest) = wire.split_at(cut);
                same(read_pieces([start, rest]));
            }
            for piece in 1..wire.len() {
                same(read_pieces(wire.chunks(piece)));
            }
        }
    }

    #[test]
    fn pipelined_answers_are_told_apart() {
        let expected = vec![(200, b"abc".to_vec()), (404, vec![]), (206, b"fg".to_vec())];
        assert_eq!(read_all(WIRES[0], 400).unwrap(), expected);
        assert_eq!(read_all(WIRES[1], 400).unwrap(), [(200, b"a".to_vec()), (200, b"b".to_vec())]);
        assert_eq!(read_all(WIRES[6], 400).unwrap(), [(200, b"ok".to_vec())]);
        assert_eq!(read_all(WIRES[8], 400).unwrap(), [(200, b"ok".to_vec())]);
        assert_eq!(read_all(WIRES[9], 400).unwrap(), [(200, b"ok".to_vec())]);
    }

    #[test]
    fn lengths_that_no_file_has_are_malformed() {
        for wire in &WIRES[10..14] {
            let refused = matches!(read_all(wire, 400), Err(NotHttp::Malformed(_) | NotHttp::TooLarge(_)));
            assert!(refused, "{}", wire.escape_ascii());
        }
    }

    #[test]
    fn empty_lines_between_answers_are_taken() {
        for pieces in [&[&b"\r\n"[..]][..], &[b"\r", b"\n"], &[b"\n", b"\r"], &[b""]] {
            let mut answers = Answers::default();
            pieces.iter().for_each(|piece| answers.idle(piece).unwrap());
        }
        let mut answers = Answers::default();
        assert_eq!(answers.idle(b"\r\nHTTP"), Err(NotHttp::Unasked));
        let mut answers = Answers::default();
        assert_eq!((0..9).try_for_each(|_| answers.idle(b"\r\n")), Err(NotHttp::Unasked));
        let mut answers = Answers::default();
        answers.idle(b"\r").unwrap();
        let mut input = &b"\nHTTP/1.1 204 No\r\n\r\n"[..];
        assert!(matches!(answers.next(&mut input, false), Ok(AnswerEvent::Head(_))));
        assert!(input.is_empty());
    }

    #[test]
    fn interim_answers_are_bounded() {
        let interim = |count| {
            let mut wire = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(count);
            wire.extend_from_slice(b"HTTP/1.1 204 No Content\r\n\r\n");
            read_all(&wire, 7)
        };
        assert_eq!(interim(8), Ok(vec![(204, vec![])]));
        assert_eq!(interim(9), Err(NotHttp::Interim));
    }

    #[test]
    fn a_body_may_go_another_way() {
        let mut answers = Answers::default();
        let mut input = &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"[..];
        assert_eq!(answers.body_left(), 0);
        assert!(matches!(answers.next(&mut input, false), Ok(AnswerEvent::Head(_))));
        assert_eq!(answers.next(&mut input, false), Ok(AnswerEvent::Body(b"abc")));
        answers.skip_body(4);
        assert_eq!(answers.body_left(), 2);
        let mut input = &b"hi"[..];
        assert_eq!(answers.next(&mut input, false), Ok(AnswerEvent::Body(b"hi")));
        assert_eq!(answers.next(&mut input, false), Ok(AnswerEvent::End));
        assert_eq!(answers.body_left(), 0);
    }

    #[test]
    fn other_protocols_are_named_at_once() {
        for wire in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"220 mail", b"\x16\x03\x01\x02\x00"] {
            assert!(matches!(read_all(wire, wire.len()), Err(NotHttp::Garbage(_))), "{wire:?}");
        }
    }

    #[test]
    fn endless_heads_and_chunks_are_refused() {
        let mut wire = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
        wire.extend(vec![b'a'; 40_000]);
        assert_eq!(read_all(&wire, 1000), Err(NotHttp::HeadTooLong));
        let wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(read_all(wire, 10), Err(NotHttp::Chunked));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(wire in prop::collection::vec(any::<u8>(), 0..400), piece in 1usize..50) {
            let mut answers = Answers::default();
            'wire: for chunk in wire.chunks(piece) {
                let mut input = chunk;
                loop {
                    match answers.next(&mut input, false) {
                        Err(_) => break 'wire,
                        Ok(AnswerEvent::NeedMore) => break,
                        Ok(_) => {}
                    }
                }
            }
        }
    }
}
