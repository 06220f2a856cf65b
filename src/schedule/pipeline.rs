//! The user's choice of a pipeline depth, parsed from text.

use std::fmt;
use std::str::FromStr;

/// How many requests a connection has in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pipeline {
    /// As many as [`ahead`](super::ahead) says: two round trips + 150 ms of bytes, with exceptions.
    Auto,
    Depth(usize),
}

impl FromStr for Pipeline {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s.parse() {
            _ if s == "auto" => Ok(Pipeline::Auto),
            Ok(depth) if (1..=1000).contains(&depth) => Ok(Pipeline::Depth(depth)),
            _ => Err(format!("\"{s}\" is not a pipeline depth: write auto, or a number from 1 to 1000")),
        }
    }
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Pipeline::Auto => f.write_str("auto"),
            Pipeline::Depth(depth) => depth.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipelines_are_auto_or_a_depth() {
        assert_eq!("auto".parse(), Ok(Pipeline::Auto));
        assert_eq!("4".parse(), Ok(Pipeline::Depth(4)));
        for bad in ["0", "-1", "deep", "", "1001"] {
            assert!(bad.parse::<Pipeline>().is_err(), "{bad}");
        }
    }
}
