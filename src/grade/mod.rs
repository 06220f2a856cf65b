//! `twinlink grade`: programs of a class between the two links, each in a sandbox and a lab of its own.
//!
//! [`assignment`] is what the teacher writes; [`class`] starts one process a trial ([`task`]), several side by side;
//! [`judge`] holds what was seen from outside against what is required (pure); [`page`] and [`records`] say it to
//! people and to programs. Nothing that a submission prints or writes decides but the files that it was to fetch.

pub(crate) mod assignment;
pub(crate) mod class;
pub(crate) mod judge;
pub(crate) mod page;
pub(crate) mod records;
pub(crate) mod task;
