//! `twinlink manifest`: prints the files that servers offer, for other programs.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result, ensure};

use crate::client;
use crate::client::config::{files_pattern, give_up_time, server_name};
use crate::client::origin::Origin;
use crate::manifest::{ManifestEntry, agree, metalink, parse_sums};
use crate::text::print;
use crate::units::{Delay, LinkId};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ManifestArgs {
    /// One server or two that hold the same files: host or host:port
    #[arg(required = true, num_args = 1..=2, value_name = "SERVER", value_parser = server_name)]
    pub servers: Vec<String>,
    /// Print a Metalink (RFC 5854) that names every server of each file, with sizes and digests, instead of SHA256SUMS
    #[arg(long)]
    pub metalink: bool,
    /// The files, as in s{001..160}.m4s; else all in the servers' SHA256SUMS
    #[arg(long, value_name = "PATTERN", value_parser = files_pattern)]
    pub files: Option<String>,
    /// Take names and digests from this SHA256SUMS instead of the servers', as from $MANIFEST under twinlink run
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    pub list: Option<PathBuf>,
    /// How long a server may take to answer
    #[arg(long, default_value = "10s", env = "TWINLINK_GIVE_UP", value_name = "TIME", value_parser = give_up_time)]
    pub give_up: Delay,
}

/// Prints the list.
///
/// # Errors
/// A server does not answer, the servers' lists differ, or a file is not in them.
pub(crate) fn main(args: &ManifestArgs) -> Result<()> {
    let text = client::runtime()?.block_on(text(args))?;
    print(&text)
}

async fn text(args: &ManifestArgs) -> Result<String> {
    let mut origins = Vec::new();
    for (link, name) in LinkId::BOTH.into_iter().zip(&args.servers) {
        origins.push(Origin::resolve(link, name, None).await?);
    }
    let files = files(args, &origins).await?;
    if !args.metalink {
        ensure!(
            files.iter().all(|file| file.digest.is_some()),
            "cannot list digests: no server has a SHA256SUMS; --metalink does without"
        );
        return Ok(metalink::sums(&files));
    }
    let sizes = origins[0].sizes(&files, args.give_up.0, &AtomicU64::new(0)).await;
    let hosts: Vec<String> = origins.into_iter().map(|origin| origin.host).collect();
    Ok(metalink::metalink(&files, &sizes, &hosts))
}

async fn files(args: &ManifestArgs, origins: &[Origin]) -> Result<Vec<ManifestEntry>> {
    if let Some(path) = &args.list {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        return parse_sums(&text).with_context(|| format!("cannot use {}", path.display()));
    }
    let mut lists = Vec::new();
    for origin in origins {
        lists.push(origin.query_capabilities(args.give_up.0).await?.list);
    }
    let mut lists = lists.into_iter();
    agree(args.files.as_deref(), lists.next().flatten(), lists.next().flatten())
}
