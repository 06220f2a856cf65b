//! What links do to packets, in virtual time: the userspace backend and the simulation drive it. Pure.

pub mod channel;
pub mod delay_line;
pub mod egress_queue;
pub mod emulator;
pub mod link;
pub mod rng;
pub mod service_rate;
