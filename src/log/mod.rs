//! The log: its schema, and its writer.

pub(crate) mod link;
pub(crate) mod outcome;
pub(crate) mod say;
pub mod schema;
pub(crate) mod spool;
pub(crate) mod writer;
