//! Radios: the parameter sets of 802.11a, b, g, n and ac, and the time that a PPDU takes. Pure.

use std::fmt;

use crate::units::{Nanos, Rate};

/// Nanoseconds in a microsecond.
pub(super) const US: Nanos = 1_000;

/// An ACK with its FCS, bytes (9.3.1.4).
pub(super) const ACK: u64 = 14;

/// An amendment of 802.11, which names its PHY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standard {
    A,
    B,
    G,
    N,
    Ac,
}

/// The part of the spectrum; it decides the interframe space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Band {
    Ghz2,
    Ghz5,
}

/// How a radio modulates what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Modulation {
    /// DSSS and HR/DSSS (clauses 15, 16), with its rate in 100 kbit/s.
    Dsss { hundred_kbit: u32, short_preamble: bool },
    /// OFDM and ERP-OFDM (clauses 17, 18), with its rate in Mbit/s.
    Ofdm { mbit: u32 },
    /// HT and VHT (clauses 19, 21).
    Mimo { mhz: u32, mcs: usize, streams: u32, short_guard: bool },
}

/// A radio at a constant rate, as `802.11n/20MHz/MCS7` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phy {
    standard: Standard,
    band: Band,
    modulation: Modulation,
}

/// Rates of 802.11b in 100 kbit/s (clause 16.2.3.4).
const DSSS_RATES: [u32; 4] = [10, 20, 55, 110];
/// Rates of 802.11a and 802.11g in Mbit/s (table 17-4).
const OFDM_RATES: [u32; 8] = [6, 9, 12, 18, 24, 36, 48, 54];

/// Bits a subcarrier and stream, coding rate, and the non-HT reference rate in Mbit/s of MCS 0 to 9
/// (tables 19-27 and 21-30 onwards, and 10-10).
const MCS: [(u64, u64, u64, u32); 10] = [
    (1, 1, 2, 6),
    (2, 1, 2, 12),
    (2, 3, 4, 18),
    (4, 1, 2, 24),
    (4, 3, 4, 36),
    (6, 2, 3, 48),
    (6, 3, 4, 54),
    (6, 5, 6, 54),
    (8, 3, 4, 54),
    (8, 5, 6, 54),
];

/// Data subcarriers of a channel (tables 19-6 and 21-5).
fn subcarriers(mhz: u32) -> u64 {
    match mhz {
        20 => 52,
        40 => 108,
        80 => 234,
        _ => 468,
    }
}

/// SERVICE and tail bits of an OFDM PPDU; each further encoder has a tail of its own (17.3.5.2, 17.3.5.3).
const SERVICE_BITS: u64 = 16;
const TAIL_BITS: u64 = 6;

/// A symbol with the long guard interval and with the short one (tables 19-6, 21-5).
const SYMBOL: Nanos = 4 * US;
const SHORT_SYMBOL: Nanos = 3_600;

/// Preamble and SIGNAL of a non-HT OFDM PPDU (table 17-5).
const OFDM_PREAMBLE: Nanos = 20 * US;
/// The silence after an OFDM PPDU in the 2.4 GHz band, so that decoders finish in time (18.3.2.4).
const SIGNAL_EXTENSION: Nanos = 6 * US;

impl Phy {
    /// Returns every radio that has a name, one of each.
    pub fn all() -> impl Iterator<Item = Phy> {
        let dsss = DSSS_RATES.into_iter().flat_map(|hundred_kbit| {
            [false, true].map(|short_preamble| Phy {
                standard: Standard::B,
                band: Band::Ghz2,
                modulation: Modulation::Dsss { hundred_kbit, short_preamble },
            })
        });
        let ofdm = [(Standard::A, Band::Ghz5), (Standard::G, Band::Ghz2)].into_iter().flat_map(
            |(standard, band)| {
                OFDM_RATES.map(|mbit| Phy { standard, band, modulation: Modulation::Ofdm { mbit } })
            },
        );
        let ht = Phy::mimo(Standard::N, Band::Ghz5, &[20, 40], 8);
        let ht_2 = Phy::mimo(Standard::N, Band::Ghz2, &[20, 40], 8);
        let vht = Phy::mimo(Standard::Ac, Band::Ghz5, &[20, 40, 80, 160], 10);
        dsss.filter(Phy::exists).chain(ofdm).chain(ht).chain(ht_2).chain(vht.filter(Phy::exists))
    }

    fn mimo(standard: Standard, band: Band, mhz: &[u32], count: usize) -> impl Iterator<Item = Phy> {
        mhz.iter().flat_map(move |&mhz| {
            (0..count).flat_map(move |mcs| {
                (1..=4).flat_map(move |streams| {
                    [false, true].map(|short_guard| Phy {
                        standard,
                        band,
                        modulation: Modulation::Mimo { mhz, mcs, streams, short_guard },
                    })
                })
            })
        })
    }

    /// Returns false for what the standard leaves out: 1 Mbit/s has no short preamble (16.2.2.3), and
    /// a VHT-MCS needs whole numbers of bits for each encoder and symbol (21.5).
    fn exists(&self) -> bool {
        match self.modulation {
            Modulation::Dsss { hundred_kbit, short_preamble } => hundred_kbit > 10 || !short_preamble,
            Modulation::Ofdm { .. } => true,
            Modulation::Mimo { mhz, mcs, streams, .. } => {
                let (bits, num, den, _) = MCS[mcs];
                let coded = subcarriers(mhz) * bits * u64::from(streams);
                let encoders = self.encoders();
                coded.is_multiple_of(encoders * den) && (coded / encoders * num).is_multiple_of(den)
            }
        }
    }

    pub fn standard(&self) -> Standard {
        self.standard
    }

    pub fn band(&self) -> Band {
        self.band
    }

    /// Returns true for radios that send A-MPDUs (HT and VHT).
    pub fn aggregates(&self) -> bool {
        matches!(self.modulation, Modulation::Mimo { .. })
    }

    /// The rate of the bits in a PPDU, in whole bits per second.
    pub fn rate(&self) -> Rate {
        Rate::from_bits_per_s(match self.modulation {
            Modulation::Dsss { hundred_kbit, .. } => u64::from(hundred_kbit) * 100_000,
            Modulation::Ofdm { mbit } => u64::from(mbit) * 1_000_000,
            Modulation::Mimo { .. } => self.symbol_bits() * 1_000_000_000 / self.symbol(),
        })
    }

    /// Data bits of an OFDM symbol (N_DBPS); of a DSSS PPDU those of a microsecond, in tenths.
    fn symbol_bits(&self) -> u64 {
        match self.modulation {
            Modulation::Dsss { hundred_kbit, .. } => u64::from(hundred_kbit),
            Modulation::Ofdm { mbit } => u64::from(mbit) * 4,
            Modulation::Mimo { mhz, mcs, streams, .. } => {
                let (bits, num, den, _) = MCS[mcs];
                subcarriers(mhz) * bits * u64::from(streams) * num / den
            }
        }
    }

    fn symbol(&self) -> Nanos {
        match self.modulation {
            Modulation::Mimo { short_guard: true, .. } => SHORT_SYMBOL,
            _ => SYMBOL,
        }
    }

    /// BCC encoders (N_ES): one for each 300 Mbit/s of HT at the long guard interval (19.3.11.4), one for each
    /// 600 Mbit/s of VHT at the short one, but for one MCS whose bits five cannot share (tables of 21.5).
    fn encoders(&self) -> u64 {
        match (self.standard, self.modulation) {
            (Standard::N, _) => (self.symbol_bits() * 1_000 / SYMBOL).div_ceil(300),
            (Standard::Ac, Modulation::Mimo { mhz: 160, mcs: 7, streams: 4, .. }) => 6,
            (Standard::Ac, _) => (self.symbol_bits() * 1_000).div_ceil(600 * SHORT_SYMBOL),
            _ => 1,
        }
    }

    /// Returns the time of a PPDU before its data (table 17-5, 19.3.9, 21.3.8; for DSSS 16.2.2). HT PPDUs are
    /// in mixed format.
    fn preamble(&self) -> Nanos {
        let training = |streams: u32| if streams == 3 { 4 } else { Nanos::from(streams) };
        match self.modulation {
            Modulation::Dsss { short_preamble: false, .. } => 192 * US,
            Modulation::Dsss { short_preamble: true, .. } => 96 * US,
            Modulation::Ofdm { .. } => OFDM_PREAMBLE,
            Modulation::Mimo { streams, .. } if self.standard == Standard::N => {
                OFDM_PREAMBLE + (8 + 4 + 4 * training(streams)) * US
            }
            Modulation::Mimo { streams, .. } => OFDM_PREAMBLE + (8 + 4 + 4 * training(streams) + 4) * US,
        }
    }

    /// The time of a PPDU that carries `bytes` (TXTIME: 16.3.4, 17.4.3, 18.5.3.2, 19.4.3, 21.4.3).
    pub fn ppdu(&self, bytes: u64) -> Nanos {
        if let Modulation::Dsss { hundred_kbit, .. } = self.modulation {
            return self.preamble() + (bytes * 80).div_ceil(u64::from(hundred_kbit)) * US;
        }
        let bits = SERVICE_BITS + bytes * 8 + TAIL_BITS * self.encoders();
        let symbols = bits.div_ceil(self.symbol_bits());
        // With the short guard interval a PPDU ends with a long symbol's boundary.
        let data = (symbols * self.symbol()).div_ceil(SYMBOL) * SYMBOL;
        self.preamble() + data + self.extension()
    }

    fn extension(&self) -> Nanos {
        match (self.band, self.modulation) {
            (Band::Ghz2, Modulation::Ofdm { .. } | Modulation::Mimo { .. }) => SIGNAL_EXTENSION,
            _ => 0,
        }
    }

    /// The time of a PPDU if nothing were rounded up, in seconds.
    pub fn least_ppdu_s(&self, bytes: f64) -> f64 {
        let around = match self.modulation {
            Modulation::Dsss { .. } => 0,
            _ => SERVICE_BITS + TAIL_BITS * self.encoders(),
        };
        let bits = bytes * 8.0 + around as f64;
        let bits_per_s = match self.modulation {
            Modulation::Dsss { hundred_kbit, .. } => f64::from(hundred_kbit) * 1e5,
            _ => self.symbol_bits() as f64 * 1e9 / self.symbol() as f64,
        };
        (self.preamble() + self.extension()) as f64 / 1e9 + bits / bits_per_s
    }

    /// The non-HT rate at which this radio's frames are answered: the highest basic rate that is not above
    /// its own or, for HT and VHT, its reference rate (10.6.6.5). Basic rates are 1 and 2 Mbit/s with
    /// 802.11b, and the mandatory 6, 12 and 24 with all others.
    fn control(&self) -> Phy {
        let reference = match self.modulation {
            Modulation::Dsss { hundred_kbit, short_preamble } => {
                let hundred_kbit = if hundred_kbit >= 20 { 20 } else { 10 };
                return Phy { modulation: Modulation::Dsss { hundred_kbit, short_preamble }, ..*self };
            }
            Modulation::Ofdm { mbit } => mbit,
            Modulation::Mimo { mcs, .. } => MCS[mcs].3,
        };
        let mbit = [24, 12, 6].into_iter().find(|&basic| basic <= reference).unwrap_or(6);
        self.non_ht(mbit)
    }

    fn non_ht(&self, mbit: u32) -> Phy {
        let standard = if self.band == Band::Ghz2 { Standard::G } else { Standard::A };
        Phy { standard, band: self.band, modulation: Modulation::Ofdm { mbit } }
    }

    /// The lowest mandatory rate, at which all stations can hear a frame.
    fn lowest(&self) -> Phy {
        match self.modulation {
            Modulation::Dsss { .. } => {
                Phy { modulation: Modulation::Dsss { hundred_kbit: 10, short_preamble: false }, ..*self }
            }
            _ => self.non_ht(6),
        }
    }

    /// The time of a control frame of `bytes`, sent at the control rate.
    pub fn control_frame(&self, bytes: u64) -> Nanos {
        self.control().ppdu(bytes)
    }

    /// The time of a control frame that every station has to hear.
    pub fn lowest_control_frame(&self, bytes: u64) -> Nanos {
        self.lowest().ppdu(bytes)
    }

    /// The times that all stations of a channel with this radio keep.
    pub fn timing(&self) -> Timing {
        let dsss = matches!(self.modulation, Modulation::Dsss { .. });
        let sifs = if self.band == Band::Ghz2 { 10 * US } else { 16 * US };
        // Tables 16-4, 17-21 and 18-5, with the short slot of 802.11g. The clear channel assessment of DSSS
        // may take 15 µs, that of OFDM 4.
        Timing {
            slot: if dsss { 20 * US } else { 9 * US },
            sifs,
            assessment: if dsss { 15 * US } else { 4 * US },
            reply_start: self.control().preamble(),
            after_error: sifs + self.lowest_control_frame(ACK),
            cw_min: if dsss { 31 } else { 15 },
        }
    }
}

/// The times that all stations of one channel keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A slot of the backoff.
    pub slot: Nanos,
    /// The short interframe space.
    pub sifs: Nanos,
    /// The time in which a station notices that another one sends.
    pub assessment: Nanos,
    /// The time until a reply is seen to begin (aRxPHYStartDelay).
    pub reply_start: Nanos,
    /// The addition to the interframe space after a frame that nobody could read: EIFS − DIFS, which is SIFS
    /// and an ACK at the lowest rate (10.3.2.3.7).
    pub after_error: Nanos,
    /// The PHY's least contention window (aCWmin).
    pub cw_min: u32,
}

impl Timing {
    /// The time that a sender waits for a reply before it takes its frame for lost (10.3.2.11).
    pub fn reply_timeout(&self) -> Nanos {
        self.sifs + self.slot + self.reply_start
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Standard::A => "802.11a",
            Standard::B => "802.11b",
            Standard::G => "802.11g",
            Standard::N => "802.11n",
            Standard::Ac => "802.11ac",
        })
    }
}

impl fmt::Display for Phy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/", self.standard)?;
        match self.modulation {
            Modulation::Dsss { hundred_kbit, short_preamble } => {
                write!(f, "{}", f64::from(hundred_kbit) / 10.0)?;
                f.write_str(if short_preamble { "/short" } else { "" })
            }
            Modulation::Ofdm { mbit } => write!(f, "{mbit}"),
            Modulation::Mimo { mhz, mcs, streams, short_guard } => {
                write!(f, "{mhz}MHz/MCS{mcs}")?;
                if streams > 1 {
                    write!(f, "/x{streams}")?;
                }
                f.write_str(if short_guard { "/SGI" } else { "" })?;
                f.write_str(if self.band == Band::Ghz2 { "/2.4GHz" } else { "" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phy(name: &str) -> Phy {
        Phy::all().find(|phy| phy.to_string() == name).unwrap_or_else(|| panic!("no {name}"))
    }

    #[test]
    fn rates_are_those_of_the_tables() {
        // Tables 16-3, 17-4, 19-27, 19-29, 19-33, 21-30, 21-38, 21-46 and 21-54.
        for (name, mbit) in [
            ("802.11b/5.5", 5.5),
            ("802.11a/54", 54.0),
            ("802.11n/20MHz/MCS0", 6.5),
            ("802.11n/20MHz/MCS7/SGI", 72.222_222),
            ("802.11n/40MHz/MCS7/x4/SGI", 600.0),
            ("802.11ac/20MHz/MCS8", 78.0),
            ("802.11ac/40MHz/MCS9/x3", 540.0),
            ("802.11ac/80MHz/MCS9/SGI", 433.333_333),
            ("802.11ac/160MHz/MCS9/x4/SGI", 3_466.666_666),
        ] {
            let got = phy(name).rate().mbit();
            assert!((got - mbit).abs() < 1e-5, "{name}: {got}");
        }
    }

    #[test]
    fn names_leave_out_what_the_standard_excludes() {
        let names: Vec<String> = Phy::all().map(|phy| phy.to_string()).collect();
        let excluded = [
            "802.11b/1/short",
            "802.11ac/20MHz/MCS9",
            "802.11ac/20MHz/MCS9/x2",
            "802.11ac/20MHz/MCS9/x4",
            "802.11ac/80MHz/MCS6/x3",
            "802.11ac/160MHz/MCS9/x3",
        ];
        for name in excluded {
            assert!(!names.contains(&name.to_string()), "{name}");
        }
        // Four streams at most: of the 160 combinations of 802.11ac these five stand out.
        assert_eq!(names.iter().filter(|name| name.starts_with("802.11ac")).count(), 2 * (160 - 5));
        assert_eq!(names.iter().filter(|name| name.starts_with("802.11n")).count(), 2 * 2 * 64);
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
    }

    #[test]
    fn a_ppdu_lasts_as_long_as_the_formulas_say() {
        for (name, bytes, us) in [
            // 192 µs and 1536 × 8 / 11 = 1117.1, rounded up.
            ("802.11b/11", 1536, 192 + 1118),
            ("802.11b/11/short", 1536, 96 + 1118),
            // 12 310 bits in 57 symbols of 216.
            ("802.11a/54", 1536, 20 + 57 * 4),
            ("802.11g/54", 1536, 20 + 57 * 4 + 6),
            // 28 subframes of 1544 bytes: 345 878 bits in 1331 symbols of 260.
            ("802.11n/20MHz/MCS7", 28 * 1544, 36 + 1331 * 4),
            ("802.11n/20MHz/MCS7/2.4GHz", 28 * 1544, 36 + 1331 * 4 + 6),
            // 1199 symbols of 3.6 µs are 4316.4 µs; the PPDU ends with a boundary of 4 µs.
            ("802.11n/20MHz/MCS7/SGI", 1199 * 260 / 8 - 3, 36 + 4320),
            ("802.11n/20MHz/MCS7/x2", 1536, 40 + 24 * 4),
            ("802.11ac/80MHz/MCS9", 1542, 40 + 8 * 4),
        ] {
            assert_eq!(phy(name).ppdu(bytes), us * US, "{name}");
        }
    }

    #[test]
    fn control_frames_are_sent_at_a_basic_rate() {
        for (name, bytes, us) in [
            ("802.11b/1", 14, 192 + 112),
            ("802.11b/11", 14, 192 + 56),
            ("802.11a/9", 14, 44),
            ("802.11a/18", 14, 32),
            ("802.11a/54", 14, 28),
            ("802.11n/20MHz/MCS0", 32, 68),
            ("802.11n/20MHz/MCS2", 32, 44),
            ("802.11n/20MHz/MCS3", 32, 32),
            ("802.11ac/80MHz/MCS9", 32, 32),
        ] {
            assert_eq!(phy(name).control_frame(bytes), us * US, "{name}");
        }
        assert_eq!(phy("802.11a/54").timing().after_error, (16 + 44) * US);
    }
}
