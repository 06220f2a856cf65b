//! Small commands that print to standard output.

pub(crate) mod client;
pub(crate) mod export;
pub(crate) mod grade;
pub(crate) mod health;
pub(crate) mod hold;
pub(crate) mod init;
pub(crate) mod link;
pub(crate) mod manifest;
pub(crate) mod options;
pub(crate) mod probe;
pub(crate) mod run;
pub(crate) mod simulate;
pub(crate) mod trace;
pub(crate) mod watch;
