//! Names of radios as people write them: `802.11n/20MHz/MCS7`, with options behind in any order.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

use crate::config::file::did_you_mean;
use crate::wifi::phy::Phy;

/// A radio by its name.
pub(super) struct PhyName(pub Phy);

/// The names in short.
const EXISTING: &str = "802.11a/RATE and 802.11g/RATE with 6, 9, 12, 18, 24, 36, 48 or 54; 802.11b/RATE with 1, 2, \
     5.5 or 11; 802.11n/WIDTH/MCS with 20MHz or 40MHz and MCS0 to MCS7; 802.11ac/WIDTH/MCS with 20MHz, 40MHz, \
     80MHz or 160MHz and MCS0 to MCS9; behind it, where they exist, /x2, /x3 or /x4 (streams) and /SGI (short \
     guard interval), /2.4GHz for 802.11n (else 5 GHz), /short for 802.11b (short preamble)";

impl FromStr for PhyName {
    type Err = String;

    fn from_str(text: &str) -> Result<PhyName, String> {
        let wanted = parts(text);
        let found = Phy::all().find(|phy| parts(&phy.to_string()) == wanted);
        found.map(PhyName).ok_or_else(|| {
            let names: Vec<String> = Phy::all().map(|phy| phy.to_string()).collect();
            let guess = did_you_mean(text, names.iter().map(String::as_str), "");
            format!("radio \"{text}\" not found: {guess}name one of {EXISTING}")
        })
    }
}

/// The parts of a name without their case, the first before all others and these sorted.
fn parts(name: &str) -> Vec<String> {
    let mut parts: Vec<String> = name.split('/').map(|part| part.trim().to_lowercase()).collect();
    parts[1..].sort();
    parts
}

impl<'de> Deserialize<'de> for PhyName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PhyName, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_any_case_and_order() {
        for (text, name) in [
            ("802.11n/20MHz/MCS7", "802.11n/20MHz/MCS7"),
            ("802.11AC/mcs9/80mhz", "802.11ac/80MHz/MCS9"),
            ("802.11n/20MHz/MCS7/2.4GHz/SGI/x2", "802.11n/20MHz/MCS7/x2/SGI/2.4GHz"),
            ("802.11b/11/short", "802.11b/11/short"),
        ] {
            assert_eq!(text.parse::<PhyName>().map(|phy| phy.0.to_string()), Ok(name.to_string()));
        }
        for phy in Phy::all() {
            assert_eq!(phy.to_string().parse::<PhyName>().map(|found| found.0), Ok(phy));
        }
    }

    #[test]
    fn unknown_names_get_the_nearest_and_the_list() {
        for (text, guess) in [
            ("802.11n/20MHz/MCS8", "did you mean 802.11n/20MHz/MCS"),
            ("80211a/54", "did you mean 802.11a/54?"),
            ("802.11ac/80/MCS9", "did you mean 802.11ac/80MHz/MCS9?"),
            ("54mbit", "802.11b/RATE with 1, 2, 5.5 or 11"),
            ("", "802.11n/WIDTH/MCS"),
        ] {
            let refusal = text.parse::<PhyName>().err().unwrap();
            assert!(refusal.contains(guess), "expected {guess} in: {refusal}");
        }
    }
}
