//! Bodies of requests: their end, and the number of bytes of content. Pure.

use std::fmt;

/// How the end of a request's body is told (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
}

impl Framing {
    pub(crate) const NONE: Framing = Framing::Length(0);
}

impl Default for Framing {
    fn default() -> Framing {
        Framing::NONE
    }
}

/// The most that chunk extensions and trailers of one body may take, bytes.
const MAX_BESIDE_BYTES: usize = 16 * 1024;
/// The length of a line with a chunk's size without extensions: 16 digits and its end.
const SIZE_LINE_BYTES: usize = 18;

/// Takes a body apart as it comes; its content goes nowhere.
#[derive(Debug)]
pub(crate) struct BodyReader {
    state: BodyState,
    /// The beginning of a line that is not complete.
    line: Vec<u8>,
    /// Bytes of extensions and trailers so far.
    beside: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    /// The bytes of the body that are left.
    Content(u64),
    /// The bytes of a chunk that are left.
    Chunk(u64),
    ChunkEnd,
    Size,
    Trailer,
    End,
}

/// The meaning of the next bytes of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Bytes of content.
    Content(u64),
    /// The body is complete.
    End,
    /// All that came has been used.
    NeedMore,
}

/// The chunks of a body are malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadChunk;

impl fmt::Display for BadChunk {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("the chunks of the request's body are malformed")
    }
}

impl BodyReader {
    pub(crate) fn new(framing: Framing) -> BodyReader {
        let state = match framing {
            Framing::Length(bytes) => BodyState::Content(bytes),
            Framing::Chunked => BodyState::Size,
        };
        BodyReader { state, line: Vec::new(), beside: 0 }
    }

    /// Returns the bytes of content that are known to be still to come.
    pub(crate) fn left(&self) -> u64 {
        match self.state {
            BodyState::Content(bytes) | BodyState::Chunk(bytes) => bytes,
            BodyState::Size | BodyState::ChunkEnd | BodyState::Trailer => 1,
            BodyState::End => 0,
        }
    }

    /// Takes what it can from the front of `input` and moves `input` past it.
    ///
    /// # Errors
    /// When a chunk is malformed (RFC 9112, section 7.1): where the body ends is not known then.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Result<Taken, BadChunk> {
        loop {
            match self.state {
                BodyState::End | BodyState::Content(0) => return Ok(Taken::End),
                BodyState::Chunk(0) => self.state = BodyState::ChunkEnd,
                _ if input.is_empty() => return Ok(Taken::NeedMore),
                BodyState::Content(left) | BodyState::Chunk(left) => {
                    let take = left.min(input.len() as u64);
                    *input = &input[take as usize..];
                    let chunked = matches!(self.state, BodyState::Chunk(_));
                    self.state =
                        if chunked { BodyState::Chunk(left - take) } else { BodyState::Content(left - take) };
                    return Ok(Taken::Content(take));
                }
                BodyState::ChunkEnd | BodyState::Size | BodyState::Trailer => {
                    let Some(line) = self.take_line(input)? else { return Ok(Taken::NeedMore) };
                    self.state = self.after(&line)?;
                }
            }
        }
    }

    /// Takes a line to its end, which is CRLF; nothing where that has not come yet.
    fn take_line(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, BadChunk> {
        let end = input.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
        let (some, rest) = input.split_at(end.unwrap_or(input.len()));
        self.line.extend_from_slice(some);
        *input = rest;
        let extra = self.line.len().saturating_sub(SIZE_LINE_BYTES);
        if self.beside + extra > MAX_BESIDE_BYTES {
            return Err(BadChunk);
        }
        if end.is_none() {
            return Ok(None);
        }
        self.beside += if self.state == BodyState::Trailer { self.line.len() } else { extra };
        let mut line = std::mem::take(&mut self.line);
        let text = |byte: &u8| *byte == b'\t' || !byte.is_ascii_control();
        match line.strip_suffix(b"\r\n") {
            Some(content) if content.iter().all(text) => line.truncate(line.len() - 2),
            _ => return Err(BadChunk),
        }
        Ok(Some(line))
    }

    /// Returns the state after a line.
    fn after(&self, line: &[u8]) -> Result<BodyState, BadChunk> {
        match self.state {
            BodyState::ChunkEnd if line.is_empty() => Ok(BodyState::Size),
            BodyState::Size => match size(line)? {
                0 => Ok(BodyState::Trailer),
                size => Ok(BodyState::Chunk(size)),
            },
            BodyState::Trailer if line.is_empty() => Ok(BodyState::End),
            BodyState::Trailer => {
                let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
                let is_field = name.len() < line.len() && !name.is_empty() && name.iter().all(is_token);
                if is_field { Ok(BodyState::Trailer) } else { Err(BadChunk) }
            }
            _ => Err(BadChunk),
        }
    }
}

/// Reads the size of a chunk: hexadecimal digits, then nothing or extensions, which mean nothing.
fn size(line: &[u8]) -> Result<u64, BadChunk> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
    let text = std::str::from_utf8(digits).map_err(|_| BadChunk)?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(BadChunk);
    }
    u64::from_str_radix(text, 16).map_err(|_| BadChunk)
}

/// Whether a byte may stand in a field's name (RFC 9110, section 5.6.2).
fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `wire` in pieces; returns the bytes of content, and what is behind the body.
    fn read(wire: &[u8], framing: Framing, piece: usize) -> Result<Option<(u64, Vec<u8>)>, BadChunk> {
        let (mut reader, mut content) = (BodyReader::new(framing), 0);
        let mut used = 0;
        for chunk in wire.chunks(piece) {
            let mut input = chunk;
            loop {
                match reader.next(&mut input)? {
                    Taken::Content(bytes) => content += bytes,
                    Taken::End => {
                        used += chunk.len() - input.len();
                        return Ok(Some((content, wire[used..].to_vec())));
                    }
                    Taken::NeedMore => break,
                }
            }
            used += chunk.len();
        }
        Ok(None)
    }

    #[test]
    fn bodies_end_where_they_say_however_they_are_cut() {
        for (wire, framing, bytes) in [
            (&b"abcREST"[..], Framing::Length(3), 3),
            (b"3\r\nabc\r\n0\r\n\r\nREST", Framing::Chunked, 3),
            (b"0A;x=\"y\"\r\n0123456789\r\n1\r\n\n\r\n000\r\nX: y\r\n\r\nREST", Framing::Chunked, 11),
        ] {
            for piece in 1..=wire.len() {
                assert_eq!(read(wire, framing, piece), Ok(Some((bytes, b"REST".to_vec()))), "{piece}");
            }
        }
        assert_eq!(read(b"ab", Framing::Length(3), 9), Ok(None));
        assert_eq!(read(b"2\r\nab\r\n0\r\n", Framing::Chunked, 9), Ok(None));
    }

    #[test]
    fn other_chunks_are_malformed_however_they_are_cut() {
        for wire in [
            &b"g\r\n"[..],
            b"\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b" 1\r\n",
            b"1 \r\n",
            b"0x1\r\n",
            b"1\n",
            b"10000000000000000\r\n",
            b"1;\x00\r\n",
            b"1;a\rb\r\n",
            b"1\r\nab\r\n",
            b"1\r\na\n",
            b"0\r\n\n",
            b"0\r\nno colon\r\n",
            b"0\r\nx : y\r\n",
            b"0\r\n: y\r\n",
        ] {
            for piece in 1..=wire.len() {
                assert_eq!(read(wire, Framing::Chunked, piece), Err(BadChunk), "{}", wire.escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_beside_the_content_is_bounded_and_sizes_are_not() {
        let trailers = b"0\r\n".iter().chain(b"X: y\r\n".repeat(4000).iter()).copied().collect::<Vec<u8>>();
        assert_eq!(read(&trailers, Framing::Chunked, 1000), Err(BadChunk));
        let extensions = [&b"1;"[..], &b"a".repeat(100), b"\r\na\r\n"].concat().repeat(1000);
        assert_eq!(read(&extensions, Framing::Chunked, 1000), Err(BadChunk));
        let line = b"a".repeat(20_000);
        assert_eq!(read(&line, Framing::Chunked, 1000), Err(BadChunk));
        let mut many = b"001\r\na\r\n".repeat(10_000);
        many.extend_from_slice(b"0\r\n\r\n");
        assert_eq!(read(&many, Framing::Chunked, 1000), Ok(Some((10_000, Vec::new()))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(wire in "[0-9a-f;\r\n: x]{0,60}", piece in 1usize..9) {
            let _ = read(wire.as_bytes(), Framing::Chunked, piece);
        }
    }
}
