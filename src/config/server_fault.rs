//! A fault that a server has on purpose: `dies`, `trickles`, `corrupts` or `busy`, from a number of bytes on, as in
//! `dies@200KB`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::units::ByteCount;

/// A fault and when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerFault {
    pub kind: FaultKind,
    /// Bytes of files that the server sends before it.
    pub after: ByteCount,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// It ends within an answer, as a server does that crashes.
    Dies,
    /// It sends 10 kB/s on each connection.
    Trickles,
    /// The first byte of each answer is another one.
    Corrupts,
    /// It answers 503 where a file is asked for.
    Busy,
}

const KINDS: [(&str, FaultKind); 4] = [
    ("dies", FaultKind::Dies),
    ("trickles", FaultKind::Trickles),
    ("corrupts", FaultKind::Corrupts),
    ("busy", FaultKind::Busy),
];

impl FromStr for ServerFault {
    type Err = String;
    fn from_str(text: &str) -> Result<ServerFault, String> {
        let (word, after) = text.split_once('@').unwrap_or((text, "0B"));
        let kind = KINDS.iter().find(|(name, _)| *name == word).map(|&(_, kind)| kind);
        let kind = kind.ok_or_else(|| {
            format!("\"{word}\" is no fault of a server: write dies, trickles, corrupts or busy, or one of them with the bytes that come before it, as in dies@200KB")
        })?;
        Ok(ServerFault { kind, after: after.parse()? })
    }
}

impl fmt::Display for ServerFault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = KINDS.iter().find(|(_, kind)| *kind == self.kind).map_or("", |(name, _)| name);
        if self.after.0 == 0 { f.write_str(name) } else { write!(f, "{name}@{}", self.after) }
    }
}

impl Serialize for ServerFault {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServerFault {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_reads_back_as_it_was_written() {
        for text in ["dies@200KB", "trickles", "corrupts", "busy@1MB"] {
            assert_eq!(text.parse::<ServerFault>().unwrap().to_string(), text);
        }
        assert!("sleeps".parse::<ServerFault>().unwrap_err().contains("dies, trickles, corrupts or busy"));
        assert!("dies@".parse::<ServerFault>().is_err());
    }
}
