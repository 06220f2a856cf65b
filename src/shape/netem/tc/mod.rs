//! All communication with `tc` and `ip`: the only place that names them.
//!
//! [`render`] turns shapes into command lines and is pure; [`run`] runs them; [`read`] parses the kernel's
//! reports; [`stats`] reads counters without starting either; a [`session`] is a tc that stays for lines that
//! are due later. The callers decide when to do what.

pub(crate) mod read;
pub(crate) mod render;
pub(crate) mod run;
pub(crate) mod session;
pub(crate) mod stats;
