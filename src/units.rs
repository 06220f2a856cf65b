//! Quantities with their units: rates, byte counts, delays, percentages, and the names of the lab's
//! two links and two directions.
//!
//! Every quantity that a person types is one of these types, so that a number without a unit is an
//! error at the door and never a guess inside. Nothing here does I/O.

use std::fmt;
use std::ops::{Index, IndexMut};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Nanoseconds since an origin that the caller picks, and that never moves.
pub type Nanos = u64;

/// The path between the client and one of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum LinkId {
    A,
    B,
}

impl LinkId {
    pub const BOTH: [LinkId; 2] = [LinkId::A, LinkId::B];

    /// The link that is named, or both where none is.
    pub fn named(link: Option<LinkId>) -> impl Iterator<Item = LinkId> {
        LinkId::BOTH.into_iter().filter(move |each| link.is_none_or(|link| link == *each))
    }

    /// 0 for link a, 1 for link b: the index into per-link arrays.
    pub fn index(self) -> usize {
        self as usize
    }

    pub fn other(self) -> LinkId {
        match self {
            LinkId::A => LinkId::B,
            LinkId::B => LinkId::A,
        }
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            LinkId::A => "a",
            LinkId::B => "b",
        })
    }
}

impl FromStr for LinkId {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "a" | "A" => Ok(LinkId::A),
            "b" | "B" => Ok(LinkId::B),
            _ => Err(format!("link \"{s}\" not found: the links are a and b")),
        }
    }
}

/// A direction of a link, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Direction {
    /// From the server to the client.
    Down,
    /// From the client to the server.
    Up,
}

impl Direction {
    pub const BOTH: [Direction; 2] = [Direction::Down, Direction::Up];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Direction::Down => "down",
            Direction::Up => "up",
        })
    }
}

/// Splits "37.5mbit" into 37.5 and "mbit". The number must be finite and not negative.
fn number_and_unit(text: &str, what: &str, example: &str) -> Result<(f64, String), String> {
    let text = text.trim();
    let split =
        text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-' || c == '+')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let value: f64 = number
        .parse()
        .map_err(|_| format!("\"{text}\" is not a {what}: write a number and a unit, as in \"{example}\""))?;
    if value < 0.0 {
        return Err(format!("\"{text}\" is negative: a {what} is 0 or more"));
    }
    let unit = unit.trim().to_ascii_lowercase();
    if unit.is_empty() {
        return Err(format!("\"{text}\" has no unit: write a {what} as in \"{example}\""));
    }
    Ok((value, unit))
}

/// Writes a value with the largest unit that keeps it exact.
fn write_exact(f: &mut fmt::Formatter, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    for (name, factor) in units {
        if value >= *factor && value.is_multiple_of(*factor) {
            return write!(f, "{}{name}", value / factor);
        }
    }
    // A value that no unit divides is shown in the largest unit it fills, with decimals.
    for (name, factor) in units {
        if value >= *factor {
            let text = format!("{:.6}", value as f64 / *factor as f64);
            return write!(f, "{}{name}", text.trim_end_matches('0').trim_end_matches('.'));
        }
    }
    write!(f, "0{}", units.last().map_or("", |unit| unit.0))
}

/// Serde by way of FromStr and Display, so that files and logs hold what a person would type.
macro_rules! text_serde {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A rate in bits per second, decimal: 1 mbit is 1 000 000 bit/s, as in tc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u64);

impl Rate {
    pub const fn from_bits_per_s(bits: u64) -> Rate {
        Rate(bits)
    }

    pub fn bits_per_s(self) -> u64 {
        self.0
    }

    pub fn bytes_per_s(self) -> f64 {
        self.0 as f64 / 8.0
    }

    pub fn kbit(self) -> f64 {
        self.0 as f64 / 1e3
    }

    pub fn mbit(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// The time that `bytes` take at this rate. The rate must not be 0.
    pub fn time_for(self, bytes: u64) -> Duration {
        Duration::from_nanos((u128::from(bytes) * 8 * 1_000_000_000 / u128::from(self.0)) as u64)
    }
}

impl FromStr for Rate {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let (value, unit) = number_and_unit(s, "rate", "37mbit")?;
        let factor = match unit.as_str() {
            "bit" => 1.0,
            "kbit" => 1e3,
            "mbit" => 1e6,
            "gbit" => 1e9,
            _ => {
                return Err(format!(
                    "\"{s}\" has the unknown unit \"{unit}\": a rate is in bit, kbit, mbit or gbit (per second)"
                ));
            }
        };
        let bits = (value * factor).round();
        if bits < 1.0 {
            return Err(format!(
                "\"{s}\" is a rate of 0: nothing would ever pass; a link has 8kbit to 10gbit"
            ));
        }
        if bits > 1e12 {
            return Err(format!("\"{s}\" is more than any link has: 8kbit to 10gbit"));
        }
        Ok(Rate(bits as u64))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        // 7.6mbit reads better than 7600kbit, so the units go by size, not by exactness.
        let (name, factor) = match self.0 {
            1_000_000_000.. => ("gbit", 1e9),
            1_000_000.. => ("mbit", 1e6),
            1_000.. => ("kbit", 1e3),
            _ => ("bit", 1.0),
        };
        let text = format!("{:.9}", self.0 as f64 / factor);
        write!(f, "{}{name}", text.trim_end_matches('0').trim_end_matches('.'))
    }
}
text_serde!(Rate);

/// A number of bytes: "500KB" is 500 000, "512KiB" is 524 288.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteCount(pub u64);

impl FromStr for ByteCount {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let (value, unit) = number_and_unit(s, "size", "500KB")?;
        let factor: f64 = match unit.as_str() {
            "b" => 1.0,
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            "kib" => 1024.0,
            "mib" => 1024.0 * 1024.0,
            "gib" => 1024.0 * 1024.0 * 1024.0,
            _ => {
                return Err(format!(
                    "\"{s}\" has the unknown unit \"{unit}\": a size is in B, KB, MB, GB, KiB, MiB or GiB"
                ));
            }
        };
        Ok(ByteCount((value * factor).round() as u64))
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write_exact(f, self.0, &[("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000), ("B", 1)])
    }
}
text_serde!(ByteCount);

/// A span of time as people write one for a link: "30ms", "1.5ms", "250us", "10s".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Delay(pub Duration);

impl Delay {
    pub const ZERO: Delay = Delay(Duration::ZERO);

    pub const fn from_millis(ms: u64) -> Delay {
        Delay(Duration::from_millis(ms))
    }

    pub fn ms(self) -> f64 {
        self.0.as_secs_f64() * 1e3
    }

    pub fn micros(self) -> u64 {
        self.0.as_micros() as u64
    }

    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl FromStr for Delay {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let (value, unit) = number_and_unit(s, "time", "30ms")?;
        let factor = match unit.as_str() {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            _ => {
                return Err(format!(
                    "\"{s}\" has the unknown unit \"{unit}\": a time is in us, ms, s or min"
                ));
            }
        };
        let seconds = value * factor;
        if seconds > 86_400.0 {
            return Err(format!("\"{s}\" is longer than a day"));
        }
        Ok(Delay(Duration::from_nanos((seconds * 1e9).round() as u64)))
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let ns = self.0.as_nanos() as u64;
        if ns == 0 {
            return f.write_str("0ms");
        }
        write_exact(f, ns, &[("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000), ("ns", 1)])
    }
}
text_serde!(Delay);

/// A share in percent, 0 to 100: "0.1%".
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    pub const ZERO: Percent = Percent(0.0);

    /// A share given in percent. Values outside 0 to 100 are clamped.
    pub const fn new(percent: f64) -> Percent {
        Percent(percent.clamp(0.0, 100.0))
    }

    /// The share as it was written, in percent.
    pub fn percent(self) -> f64 {
        self.0
    }

    /// The share as a probability, 0 to 1.
    pub fn probability(self) -> f64 {
        self.0 / 100.0
    }

    pub fn is_zero(self) -> bool {
        self.0 == 0.0
    }
}

impl FromStr for Percent {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let (value, unit) = number_and_unit(s, "percentage", "0.1%")?;
        if unit != "%" {
            return Err(format!(
                "\"{s}\" has the unknown unit \"{unit}\": write a percentage as in \"0.1%\""
            ));
        }
        if value > 100.0 {
            return Err(format!("\"{s}\" is more than 100%"));
        }
        Ok(Percent(value))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}
text_serde!(Percent);

/// Reads a seed. Programs that hold numbers as doubles, such as jq, change those above 2^53.
///
/// # Errors
/// The text is no whole number from 0 to 2^53.
pub fn seed(text: &str) -> Result<u64, String> {
    let seed =
        text.parse().map_err(|_| format!("invalid seed \"{text}\": write a whole number from 0 to 2^53"))?;
    check_seed(seed)
}

/// Returns the seed if it is at most 2^53.
///
/// # Errors
/// It is larger.
pub fn check_seed(seed: u64) -> Result<u64, String> {
    const LARGEST: u64 = 1 << 53;
    if seed > LARGEST {
        return Err(format!(
            "seed {seed} is too large: jq and JavaScript change numbers above {LARGEST}; use a smaller one"
        ));
    }
    Ok(seed)
}

/// One value for each of the two links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PerLink<T> {
    pub a: T,
    pub b: T,
}

impl<T> PerLink<T> {
    /// Makes the value of each link, a's first.
    pub fn of(mut make: impl FnMut(LinkId) -> T) -> PerLink<T> {
        PerLink { a: make(LinkId::A), b: make(LinkId::B) }
    }

    /// Returns the value of a's link, then that of b's.
    pub fn iter(&self) -> std::array::IntoIter<&T, 2> {
        [&self.a, &self.b].into_iter()
    }

    pub fn iter_mut(&mut self) -> std::array::IntoIter<&mut T, 2> {
        [&mut self.a, &mut self.b].into_iter()
    }

    pub fn map<U>(self, mut change: impl FnMut(T) -> U) -> PerLink<U> {
        PerLink { a: change(self.a), b: change(self.b) }
    }
}

impl<T> Index<LinkId> for PerLink<T> {
    type Output = T;

    fn index(&self, link: LinkId) -> &T {
        match link {
            LinkId::A => &self.a,
            LinkId::B => &self.b,
        }
    }
}

impl<T> IndexMut<LinkId> for PerLink<T> {
    fn index_mut(&mut self, link: LinkId) -> &mut T {
        match link {
            LinkId::A => &mut self.a,
            LinkId::B => &mut self.b,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_need_a_unit_and_a_value_above_0() {
        assert_eq!("7.6mbit".parse(), Ok(Rate(7_600_000)));
        assert_eq!("240kbit".parse(), Ok(Rate(240_000)));
        assert_eq!("1gbit".parse(), Ok(Rate(1_000_000_000)));
        for bad in ["20", "-3mbit", "0mbit", "fast", "20mb", "", "1e3mbit", "nanmbit", "1..2mbit"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad} was taken for a rate");
        }
    }

    #[test]
    fn what_is_displayed_is_what_one_would_type() {
        assert_eq!(Rate(7_600_000).to_string(), "7.6mbit");
        assert_eq!(Rate(20_000_000).to_string(), "20mbit");
        assert_eq!(Delay::from_millis(30).to_string(), "30ms");
        assert_eq!(Delay(Duration::from_micros(1500)).to_string(), "1500us");
        assert_eq!(ByteCount(3_200_000).to_string(), "3200KB");
    }

    #[test]
    fn a_packet_takes_its_bits_over_the_rate() {
        assert_eq!(Rate(12_112_000).time_for(1514), Duration::from_millis(1));
    }

    proptest! {
        #[test]
        fn rates_survive_being_written_and_read(bits in 1u64..=1_000_000_000_000) {
            prop_assert_eq!(Rate(bits).to_string().parse(), Ok(Rate(bits)));
        }

        #[test]
        fn delays_survive_being_written_and_read(ns in 0u64..=10_000_000_000) {
            let delay = Delay(Duration::from_nanos(ns));
            let back: Delay = delay.to_string().parse().unwrap();
            prop_assert!(back.0.abs_diff(delay.0) <= Duration::from_nanos(1_000));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,20}") {
            let _ = text.parse::<Rate>();
            let _ = text.parse::<Delay>();
            let _ = text.parse::<Percent>();
            let _ = text.parse::<ByteCount>();
        }
    }
}
