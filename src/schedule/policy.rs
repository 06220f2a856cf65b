//! The user's choice of a schedule, parsed from text, and its fixed owners of files.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::deadline::MediaTimeline;
use super::{rates, ratio};
use crate::units::LinkId;

/// The user's choice of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// `a` files from server a, then `b` from server b, and so on through the list.
    Ratio { a: u32, b: u32 },
    /// Files dealt out so that both links end together if they carry these rates.
    Rates { a_kbit: u32, b_kbit: u32 },
    /// The connection with room takes the next segment.
    Greedy,
    /// Each link gets what lets both finish at the same moment, by what they carry now.
    Adaptive,
    /// The same for playback: the segment with the earliest deadline comes first.
    Inorder(MediaTimeline),
    /// Of the links that have room, the one with the least round trip takes the next piece.
    MinRtt,
    /// The far link takes nothing that would come earlier by waiting for the near one.
    Ecf,
    /// Both links fetch each file from its two ends.
    Dems,
    /// A program decides: a line for `sh`.
    Exec(String),
}

/// The schedules, as the command line explains them.
pub(crate) const HELP: &str = "\
adaptive (splits the bytes so that both links finish together), inorder (for playback: segments in the order of their \
deadlines; see --segment-duration and --startup), greedy (the link with room takes the next file), ratio=NA:NB (NA \
files from server a, the next NB from server b, and so on), rates=KBIT_A:KBIT_B (deals the files so that both links \
finish together at these rates), min-rtt, ecf or dems (from the literature), or exec=PROGRAM (a program of yours \
decides, by lines of JSON)";

/// The schedules to choose from by name, with examples of those that take numbers.
pub(crate) const NAMES: [&str; 9] =
    ["adaptive", "inorder", "greedy", "ratio=1:1", "rates=", "min-rtt", "ecf", "dems", "exec="];

impl Schedule {
    /// Returns true if it goes by the links' rates, and moves work from one link to the other.
    pub(crate) fn is_adaptive(&self) -> bool {
        matches!(self, Schedule::Adaptive | Schedule::Inorder(_))
    }

    /// Returns true if it gives each file to one link before the run.
    pub(crate) fn is_fixed(&self) -> bool {
        matches!(self, Schedule::Ratio { .. } | Schedule::Rates { .. })
    }

    /// Returns true if it needs the files' sizes before the run.
    pub(crate) fn needs_sizes(&self) -> bool {
        matches!(self, Schedule::Rates { .. } | Schedule::Exec(_))
    }

    /// Returns true if it may ask for parts of files, and is told the sizes while the transfer begins.
    pub(crate) fn divides_files(&self) -> bool {
        self.is_adaptive() || matches!(self, Schedule::MinRtt | Schedule::Ecf | Schedule::Dems)
    }

    /// The one link that may fetch each segment, where only one may. Sizes are in bytes, as far as known.
    pub(crate) fn owners(&self, sizes: &[Option<u64>]) -> Vec<Option<LinkId>> {
        match *self {
            Schedule::Ratio { a, b } => {
                (0..sizes.len()).map(|segment| Some(ratio::owner(a, b, segment))).collect()
            }
            Schedule::Rates { a_kbit, b_kbit } => {
                rates::owners(a_kbit, b_kbit, sizes).into_iter().map(Some).collect()
            }
            _ => vec![None; sizes.len()],
        }
    }

    /// Returns the same for segments of this duration, a player that waits for `startup` of them, and
    /// `init_segments` init segments.
    pub(crate) fn for_playback(self, segment: Duration, startup: u64, init_segments: usize) -> Schedule {
        match self {
            Schedule::Inorder(_) => {
                let startup = usize::try_from(startup).unwrap_or(usize::MAX / 2);
                Schedule::Inorder(MediaTimeline {
                    segment,
                    startup: startup.min(usize::MAX / 2),
                    init_segments,
                })
            }
            other => other,
        }
    }
}

impl FromStr for Schedule {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "greedy" => return Ok(Schedule::Greedy),
            "adaptive" => return Ok(Schedule::Adaptive),
            "inorder" => return Ok(Schedule::Inorder(MediaTimeline::default())),
            "min-rtt" => return Ok(Schedule::MinRtt),
            "ecf" => return Ok(Schedule::Ecf),
            "dems" => return Ok(Schedule::Dems),
            _ => {}
        }
        let pair = |text: &str, expected: &str| {
            let (a, b) = text.split_once(':').ok_or_else(|| format!("\"{s}\": {expected}"))?;
            let number =
                |text: &str| text.parse::<u32>().map_err(|_| format!("\"{text}\" in \"{s}\": {expected}"));
            match (number(a)?, number(b)?) {
                (0, 0) => {
                    Err(format!("\"{s}\" gives no server anything to do; one of the two must be 1 or more"))
                }
                pair => Ok(pair),
            }
        };
        if let Some(ratio) = s.strip_prefix("ratio=") {
            let (a, b) = pair(ratio, "a ratio is two whole numbers of files, as in ratio=1:4")?;
            return Ok(Schedule::Ratio { a, b });
        }
        if let Some(rates) = s.strip_prefix("rates=") {
            let (a_kbit, b_kbit) =
                pair(rates, "rates are two whole numbers of kbit/s, as in rates=50000:8000")?;
            return Ok(Schedule::Rates { a_kbit, b_kbit });
        }
        if let Some(program) = s.strip_prefix("exec=") {
            if program.trim().is_empty() || program.contains(char::is_control) {
                return Err(format!("\"{}\": name a program, as in exec=./mine.py", s.escape_debug()));
            }
            return Ok(Schedule::Exec(program.into()));
        }
        Err(format!(
            "\"{s}\" is not a schedule: write adaptive, inorder, greedy, ratio=NA:NB (as in ratio=1:4), \
             rates=KBIT_A:KBIT_B, min-rtt, ecf, dems, or exec=PROGRAM"
        ))
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Schedule::Ratio { a, b } => write!(f, "ratio={a}:{b}"),
            Schedule::Rates { a_kbit, b_kbit } => write!(f, "rates={a_kbit}:{b_kbit}"),
            Schedule::Greedy => f.write_str("greedy"),
            Schedule::Adaptive => f.write_str("adaptive"),
            Schedule::Inorder(_) => f.write_str("inorder"),
            Schedule::MinRtt => f.write_str("min-rtt"),
            Schedule::Ecf => f.write_str("ecf"),
            Schedule::Dems => f.write_str("dems"),
            Schedule::Exec(program) => write!(f, "exec={program}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_and_nonsense_is_refused() {
        assert_eq!("ratio=1:4".parse(), Ok(Schedule::Ratio { a: 1, b: 4 }));
        assert_eq!("ratio=1:0".parse(), Ok(Schedule::Ratio { a: 1, b: 0 }));
        assert_eq!("ratio=0:1".parse(), Ok(Schedule::Ratio { a: 0, b: 1 }));
        let names =
            ["greedy", "adaptive", "inorder", "ratio=3:1", "rates=50000:8000", "min-rtt", "ecf", "dems"];
        for name in names.into_iter().chain(["exec=python3 mine.py --x=1"]) {
            assert_eq!(name.parse::<Schedule>().unwrap().to_string(), name);
        }
        for bad in [
            "ratio=0:0",
            "rates=0:0",
            "rates=5",
            "rates=1.5:2",
            "ratio=1:-2",
            "ratio=a:b",
            "ratio=1",
            "ratio=1:2:3",
            "ratio=",
            "fast",
            "exec=",
            "exec=a\nb",
            "",
        ] {
            assert!(bad.parse::<Schedule>().is_err(), "{bad} was taken for a schedule");
        }
    }
}
