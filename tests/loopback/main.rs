//! Tests that need no links: rules in virtual time, the program, and servers and clients on loopback, every port picked
//! by the kernel.

#[path = "../support/mod.rs"]
mod support;

mod channel;
mod channel_truth;
mod client;
mod exec;
mod export;
mod from_video;
mod hostile;
mod link;
mod model;
mod model_trace;
mod output;
mod program;
mod report;
mod segments;
mod server;
mod sweep;
