//! The log: its schema, and its writer.

pub(crate) mod link;
pub mod outcome;
pub mod say;
pub mod schema;
pub mod spool;
pub mod writer;
