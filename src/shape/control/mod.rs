//! The control socket: one process of a lab shapes, and the others ask it.

pub mod client;
pub mod server;
