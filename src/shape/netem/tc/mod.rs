//! Everything that is said to and heard from `tc` and `ip`: the only place that names them.
//!
//! [`render`] turns shapes into command lines and is pure; [`run`] runs them; [`read`] understands
//! what the kernel reports; [`stats`] reads counters without starting either; a [`session`] is a tc
//! that stays for lines that are due later. Decisions about when to do what are the callers'.

pub mod read;
pub mod render;
pub mod run;
pub mod session;
pub mod stats;
