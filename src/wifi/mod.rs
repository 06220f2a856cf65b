//! 802.11 in numbers: radios by name, the time that frames and exchanges take, access categories, and
//! the throughput of stations that contend. Pure; knows no clock, no packet and no link.
//!
//! Clauses are those of IEEE Std 802.11-2020. Times are in nanoseconds, sizes in bytes.

pub(crate) mod access;
pub(crate) mod evidence;
pub mod exchange;
pub(crate) mod least;
pub(crate) mod phy;
pub mod saturation;
