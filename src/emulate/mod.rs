//! Links and a shared channel in virtual time; the userspace backend and the simulation drive them. Pure.

pub mod channel;
pub(crate) mod codel;
pub(crate) mod cross_source;
pub(crate) mod delay_line;
pub(crate) mod egress_queue;
pub(crate) mod emulator;
pub mod link;
pub(crate) mod managed_queue;
pub mod rng;
pub(crate) mod service_rate;
pub(crate) mod tcp;
