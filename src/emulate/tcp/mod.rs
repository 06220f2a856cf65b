//! TCP by the segment, as Linux has it: a connection has two ends, each with a sender and a receiver. Pure. The
//! simulation's transfers and a link's cross traffic are made of it.

pub(crate) mod connection;
pub(crate) mod receiver;
pub(crate) mod sender;
