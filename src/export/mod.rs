//! A logged run in the formats of other fields' tools. Pure: each renders text of one [`LoggedRun`].

pub(crate) mod p1203;
pub(crate) mod perfetto;

#[cfg(test)]
mod fixtures;

pub(crate) use crate::report::run::LoggedRun;
