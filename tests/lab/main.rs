//! What needs links: each test makes a lab of its own with `twinlink lab`.

mod command;
mod shaper;
