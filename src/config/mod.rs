//! Files that people write: profiles, channels, traces, scripts. Each is read with a size limit and
//! validated.

pub mod channel;
pub(crate) mod file;
pub mod profile;
pub(crate) mod script;
pub mod server_fault;
pub mod trace;
pub mod traffic;
