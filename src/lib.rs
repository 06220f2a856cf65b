//! twinlink: a two-server, one-client network lab.
//!
//! The map; `tests/layers.rs` holds which room may import which.
//!
//! - [`cli`] reads the command line and calls one role or one of [`commands`].
//! - Roles: [`server`] answers, [`client`] fetches over two links, [`sweep`] does an experiment's runs,
//!   [`program`] judges a program of the user's in the client's place, `grade` those of a class, [`report`] makes a verdict of logs,
//!   `export` renders them in other tools' formats,
//!   `watch` shows a run while it goes on, [`segments`] makes sample files, [`lab`] starts servers and a client in namespaces of their own, [`doctor`]
//!   says what this host can do.
//! - A module is `pub` where `tests/` drives it; everything else is `pub(crate)`, so that the compiler finds dead code.
//! - Links: [`config`] is what people write of them, [`emulate`] what they do to packets, [`shape`] makes real
//!   packets behave so, and [`simulate`] plays a run over them in virtual time.
//! - `adviser` runs the user's own scheduler for `exec=PROGRAM`.
//! - Pure: [`schedule`] decides which link fetches what, [`bound`] is what physics allows, [`qoe`] what a viewer
//!   would have met.
//! - Shared: `http` speaks HTTP/1.1, [`manifest`] reads lists of files, [`log`] is the log, [`results`] the folders
//!   that it stands in, `output` the form in which a role reports, [`tcp`] what the kernel says of a socket, [`sender_report`] how a server tells it.
//! - [`text`] makes text of others fit to print; [`units`] has quantities that cannot be written without their unit.

pub(crate) mod adviser;
pub(crate) mod bound;
pub mod cli;
pub(crate) mod client;
pub(crate) mod commands;
pub mod config;
pub(crate) mod doctor;
pub mod emulate;
pub(crate) mod export;
pub(crate) mod grade;
pub(crate) mod http;
pub(crate) mod lab;
pub mod log;
pub(crate) mod manifest;
pub(crate) mod output;
pub(crate) mod program;
pub(crate) mod qoe;
pub(crate) mod report;
pub(crate) mod results;
pub(crate) mod runtime;
pub(crate) mod schedule;
pub(crate) mod segments;
pub(crate) mod sender_report;
pub mod server;
pub mod shape;
pub(crate) mod simulate;
pub(crate) mod sweep;
pub(crate) mod tcp;
pub(crate) mod text;
pub mod units;
pub(crate) mod watch;
pub mod wifi;
