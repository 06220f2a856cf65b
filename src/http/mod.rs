//! HTTP/1.1 (RFC 9110, RFC 9112), as server and client share it.
//!
//! For the server, [`head`] reads the heads of requests and decides how each is framed, and [`body`] takes their
//! bodies apart. For the client, [`request`] renders heads, [`answer`] reads those of answers, [`reader`] tells
//! answers apart in a stream of bytes, and [`pipeline`] is a connection. Both use [`range`] and [`target`]. All but
//! the pipeline are pure: no socket, no clock, and however the bytes are cut, they mean the same. Nothing here
//! knows of a file.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod head;
pub(crate) mod health;
pub(crate) mod pipeline;
pub(crate) mod range;
pub(crate) mod reader;
pub(crate) mod request;
pub(crate) mod target;
