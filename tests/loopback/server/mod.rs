//! The server, through real sockets on free ports: what it answers, what it puts up with, and the
//! program as a user runs it. Nothing here measures speed; time limits are tested with short ones.

mod answers;
mod congestion;
mod faults;
mod lab;
mod limits;
mod program;
mod wire;
