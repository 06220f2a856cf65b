//! twinlink: a two-server, one-client network lab.
//!
//! The map. Imports run downward only:
//!
//! - [`cli`]: the command line; hands over to one role.
//! - Roles: [`server`] answers, [`client`] fetches over two links, [`segments`] makes sample files,
//!   [`doctor`] says what this host can do. Client and server know nothing of each other; [`sweep`]
//!   has the client do an experiment's runs ([`init`] writes one to start from); [`simulate`] plays the
//!   client's scheduler over modelled links; [`report`] makes a verdict of logs and knows none of them.
//! - [`lab`] gives them a network: it starts servers and a client as programs, in namespaces of their own.
//! - What the roles share: [`shape`] shapes packets, [`schema`] is the log, [`results`] the folders that
//!   it stands in, [`bound`] is what physics allows, [`qoe`] what a viewer would have met.
//! - [`tcp`] is what the kernel says of a socket, [`sender_report`] how a server tells it to its client.
//! - `http` reads and frames HTTP/1.1 for client and server.
//! - [`text`] makes text of others fit to print, [`units`]: quantities that cannot be written without their unit.

pub mod bound;
pub mod cli;
pub mod client;
pub mod commands;
pub mod config;
pub mod doctor;
pub mod emulate;
pub(crate) mod http;
pub mod lab;
pub mod log;
pub mod manifest;
pub mod qoe;
pub mod report;
pub mod results;
pub mod runtime;
pub mod schedule;
pub mod segments;
pub mod sender_report;
pub mod server;
pub mod shape;
pub mod simulate;
pub mod sweep;
pub mod tcp;
pub mod text;
pub mod units;
