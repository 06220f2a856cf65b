//! The log: its schema, and its writer.

pub mod say;
pub mod schema;
pub mod spool;
pub mod writer;
