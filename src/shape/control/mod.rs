//! The control socket: one process of a lab shapes, and the others ask it.

pub(crate) mod client;
pub(crate) mod server;
