//! Tests that need links: each makes a lab of its own with `twinlink lab`.

#[path = "../support/mod.rs"]
mod support;

mod command;
mod compose;
mod congestion;
mod docs;
mod failures;
mod fixture;
mod grade;
mod ipv6;
mod link_model;
mod link_rate;
mod live;
mod logs;
mod main_job;
mod measure;
mod owner;
mod packets;
mod peers;
mod players;
mod real_media;
mod report_page;
mod shaper;
mod sweep;
mod userspace_rules;
