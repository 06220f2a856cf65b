//! Digests of files, as lists and headers write them. Pure.

use base64::Engine as _;

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest(pub [u8; 32]);

impl Digest {
    /// From 64 hexadecimal digits.
    pub(crate) fn from_hex(text: &str) -> Option<Digest> {
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(Digest(bytes))
    }

    /// From the value of a `Repr-Digest` (RFC 9530).
    pub(crate) fn from_base64(text: &str) -> Option<Digest> {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
        bytes.try_into().ok().map(Digest)
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{self}")
    }
}
