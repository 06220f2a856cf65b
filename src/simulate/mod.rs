//! Predicts how long a run would take, in virtual time.
//!
//! It uses the client's own scheduler, the shaper's own model of the links and the shared channel
//! (`crate::emulate::emulator`), and the model of TCP by the segment
//! (`crate::emulate::tcp`). Everything below this module is pure: no clock, no file, no socket.
//! `docs/simulation.md` lists the limits of the model.

pub(crate) mod client;
pub(crate) mod lookup;
pub(crate) mod predict;
pub(crate) mod run;

use std::path::Path;

use anyhow::{Context, Result, ensure};

pub(crate) use crate::config::traffic::Control;
use crate::manifest;
use crate::manifest::folder;
use crate::segments::Set;
use crate::units::ByteCount;
pub(crate) use predict::{Prediction, Setup, predict};

/// Returns the congestion control of this machine's kernel; CUBIC, most kernels' default, where it is unknown
/// or has no model.
pub(crate) fn kernels_choice() -> Control {
    let name = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
    name.trim().parse().unwrap_or(Control::Cubic)
}

/// The sizes of the files of a folder, or of the built-in sample, in the order of the list.
pub(crate) fn sizes(data: Option<&Path>, pattern: Option<&str>) -> Result<Vec<u64>> {
    let all: Vec<(String, u64)> = match data {
        Some(data) => {
            let mut found = folder::list(data)?;
            found.retain(|file| !folder::is_playlist(&file.name));
            ensure!(!found.is_empty(), "{} holds no file that a server would serve", data.display());
            folder::sort(&mut found, &folder::read_list(data));
            let size = |file: folder::FolderFile| {
                let metadata = std::fs::metadata(&file.path)
                    .with_context(|| format!("cannot examine {}", file.path.display()))?;
                Ok((file.name, metadata.len()))
            };
            found.into_iter().map(size).collect::<Result<_>>()?
        }
        None => {
            let set = Set::new(160, ByteCount(500_000), 1)?;
            (0..set.sizes().len()).map(|index| (set.name(index), set.sizes()[index])).collect()
        }
    };
    let Some(pattern) = pattern else { return Ok(all.into_iter().map(|file| file.1).collect()) };
    let sizes: std::collections::HashMap<String, u64> = all.into_iter().collect();
    let whence = data.map_or("the built-in sample".into(), |data| data.display().to_string());
    let size = |wanted: manifest::ManifestEntry| {
        sizes.get(&wanted.name).copied().with_context(|| {
            format!("--files asks for {}, which is not in {whence}: name the folder with --data", wanted.name)
        })
    };
    manifest::expand(pattern)?.into_iter().map(size).collect()
}
