//! Links and a shared channel in virtual time; the userspace backend and the simulation drive them. Pure.

pub mod channel;
pub mod codel;
pub mod delay_line;
pub mod egress_queue;
pub mod emulator;
pub mod link;
pub mod rng;
pub mod service_rate;
