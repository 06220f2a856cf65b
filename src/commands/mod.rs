//! Small commands that print to standard output.

pub mod client;
pub mod health;
pub mod hold;
pub mod init;
pub mod link;
pub mod manifest;
pub mod probe;
pub mod run;
pub mod simulate;
pub mod trace;
