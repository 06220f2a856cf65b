//! What people write for the program to read.

pub mod file;
