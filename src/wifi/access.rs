//! Access categories: how long a station waits before it may send, and from which window it draws. Pure.

use serde::{Deserialize, Serialize};

use super::phy::{Phy, Timing};
use crate::units::Nanos;

/// The largest contention window of all PHYs (aCWmax).
const CW_MAX: u32 = 1023;

/// An access category of EDCA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessCategory {
    Background,
    BestEffort,
    Video,
    Voice,
}

/// How a station contends: DCF's parameters, or those of an access category.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Slots that the channel must be idle beyond SIFS.
    pub aifsn: u32,
    /// A backoff is drawn from 0 to the window, which doubles with each failure.
    pub cw_min: u32,
    pub cw_max: u32,
    /// Whether frames carry the QoS control field.
    pub qos: bool,
}

impl Access {
    /// The parameters of a category, or DCF's without one. HT and VHT stations always use EDCA, with best
    /// effort if nothing is said. (Table 9-155; DIFS is SIFS and two slots, 10.3.2.3.5.)
    pub fn new(phy: &Phy, category: Option<AccessCategory>) -> Access {
        let phy_min = phy.timing().cw_min;
        let edca = |aifsn, cw_min, cw_max| Access { aifsn, cw_min, cw_max, qos: true };
        match category {
            None if !phy.aggregates() => Access { aifsn: 2, cw_min: phy_min, cw_max: CW_MAX, qos: false },
            None | Some(AccessCategory::BestEffort) => edca(3, phy_min, CW_MAX),
            Some(AccessCategory::Background) => edca(7, phy_min, CW_MAX),
            Some(AccessCategory::Video) => edca(2, phy_min.div_ceil(2) - 1, phy_min),
            Some(AccessCategory::Voice) => edca(2, phy_min.div_ceil(4) - 1, phy_min.div_ceil(2) - 1),
        }
    }

    /// The interframe space before a backoff counts down: DIFS, or AIFS of the category.
    pub fn interframe_space(&self, timing: &Timing) -> Nanos {
        timing.sifs + Nanos::from(self.aifsn) * timing.slot
    }

    /// The window after so many failures in a row.
    pub fn window(&self, failures: u32) -> u32 {
        let doubled = (u64::from(self.cw_min) + 1) << failures.min(31);
        (doubled - 1).min(u64::from(self.cw_max)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(name: &str, category: Option<AccessCategory>) -> (u32, u32, u32) {
        let phy = Phy::all().find(|phy| phy.to_string() == name).unwrap();
        let access = Access::new(&phy, category);
        (access.aifsn, access.cw_min, access.cw_max)
    }

    #[test]
    fn windows_and_spaces_are_those_of_the_table() {
        use AccessCategory::*;
        assert_eq!(access("802.11a/54", None), (2, 15, 1023));
        assert_eq!(access("802.11b/11", None), (2, 31, 1023));
        assert_eq!(access("802.11n/20MHz/MCS7", None), (3, 15, 1023));
        assert_eq!(access("802.11ac/80MHz/MCS9", Some(Background)), (7, 15, 1023));
        assert_eq!(access("802.11a/54", Some(Video)), (2, 7, 15));
        assert_eq!(access("802.11b/11", Some(Voice)), (2, 7, 15));
        assert_eq!(access("802.11n/20MHz/MCS7", Some(Voice)), (2, 3, 7));
    }

    #[test]
    fn windows_double_up_to_the_largest() {
        let phy = Phy::all().find(|phy| phy.to_string() == "802.11a/6").unwrap();
        let access = Access::new(&phy, None);
        let windows: Vec<u32> = (0..9).map(|failures| access.window(failures)).collect();
        assert_eq!(windows, [15, 31, 63, 127, 255, 511, 1023, 1023, 1023]);
        assert_eq!(access.window(u32::MAX), 1023);
    }
}
