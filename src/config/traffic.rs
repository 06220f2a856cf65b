//! How senders send: the congestion controls that have a model, and the traffic of others on a link.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::units::Rate;

/// The congestion control of a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Control {
    Reno,
    Cubic,
    Bbr,
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Control::Reno => "reno",
            Control::Cubic => "cubic",
            Control::Bbr => "bbr",
        })
    }
}

impl FromStr for Control {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "reno" => Ok(Control::Reno),
            "cubic" => Ok(Control::Cubic),
            "bbr" => Ok(Control::Bbr),
            _ => Err(format!("\"{s}\" has no model: choose reno, cubic or bbr")),
        }
    }
}

/// Traffic of others in one direction of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Cross {
    /// Datagrams at random times, of so many bits of Ethernet frames a second.
    Datagrams(Rate),
    /// TCP connections that always have something to send.
    Connections(u32, Control),
}

/// The most connections.
const MOST: u32 = 64;

impl fmt::Display for Cross {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Cross::Datagrams(rate) => rate.fmt(f),
            Cross::Connections(count, control) => write!(f, "{count} x {control}"),
        }
    }
}

impl FromStr for Cross {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let Some((count, control)) = s.split_once('x') else {
            let expected = "write datagrams as in \"3mbit\", or connections as in \"2 x cubic\"";
            return s.parse().map(Cross::Datagrams).map_err(|problem| format!("{problem}; {expected}"));
        };
        match count.trim().parse() {
            Ok(count @ 1..=MOST) => Ok(Cross::Connections(count, control.trim().parse()?)),
            _ => {
                Err(format!("\"{s}\" is not a number of connections: write 1 to {MOST}, as in \"2 x cubic\""))
            }
        }
    }
}

impl TryFrom<String> for Cross {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Cross> for String {
    fn from(cross: Cross) -> String {
        cross.to_string()
    }
}
