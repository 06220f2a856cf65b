//! HTTP/1.1 (RFC 9110, RFC 9112), as server and client share it.
//!
//! [`head`] reads the heads of requests and answers and decides how each is framed, [`body`] takes the bodies
//! of requests apart, [`range`] and [`target`] read what their names say. All of these are pure: no socket, no
//! clock, and however the bytes are cut, they mean the same. Nothing here knows of a file.

pub mod body;
pub mod head;
pub mod range;
pub mod target;
