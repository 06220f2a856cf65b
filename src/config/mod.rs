//! What people write for the program to read.

pub mod channel;
pub mod file;
pub mod profile;
pub mod script;
pub mod trace;
