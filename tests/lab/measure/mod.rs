//! Tests that measure rates, delays or the time of runs. Each has the machine to itself.

mod acceptance;
mod capture;
mod channel;
mod jitter;
mod link_rate;
mod link_show;
mod live_change;
mod main_job;
mod probe;
mod queues;
mod simulate;
mod sweep;
mod trace;
