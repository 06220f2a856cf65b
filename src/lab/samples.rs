//! Sample segments without a checkout: made once, in the user's cache folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::results::Folder;
use crate::segments::Set;
use crate::units::ByteCount;

/// As `twinlink segments` makes them when nothing else is asked for.
const COUNT: u32 = 160;
const MEAN: ByteCount = ByteCount(500_000);
const SEED: u64 = 1;

/// Returns a folder with the sample segments: that in the cache, else one in `scratch`.
///
/// # Errors
/// Neither can be written.
pub(crate) fn folder(scratch: &Path) -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
        .filter(|cache| cache.is_absolute());
    if let Some(cache) = cache {
        let dir = cache.join("twinlink/samples");
        match fill(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) => tracing::info!(
                "cannot keep the sample segments ({error:#}), so this lab makes its own; set XDG_CACHE_HOME to keep them"
            ),
        }
    }
    let dir = scratch.join("samples");
    fill(&dir)?;
    Ok(dir)
}

/// Makes the segments unless they are there. Labs that want to do it at once take turns.
fn fill(dir: &Path) -> Result<()> {
    let attempt = || format!("cannot make sample segments in {}", dir.display());
    // The list of digests is written last.
    let complete = || dir.join(crate::manifest::SUMS).is_file();
    if complete() {
        return Ok(());
    }
    Folder::make(dir).with_context(attempt)?;
    let folder = File::open(dir).with_context(attempt)?;
    // Ends with the process, however that ends.
    let _turn =
        Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, error)| error).with_context(attempt)?;
    if complete() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).with_context(attempt)?.flatten() {
        // An earlier lab was killed while it made them.
        let _ = fs::remove_file(entry.path());
    }
    tracing::info!("making {COUNT} sample segments in {}", dir.display());
    Set::new(COUNT, MEAN, SEED)?.write(dir).with_context(attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_completed_after_a_killed_lab() {
        let dir = tempfile::tempdir().unwrap();
        let samples = dir.path().join("a/samples");
        fs::create_dir_all(&samples).unwrap();
        fs::write(samples.join("s001.m4s"), "half").unwrap();
        fs::write(samples.join(".s002.m4s.part"), "half").unwrap();
        fill(&samples).unwrap();
        assert_eq!(fs::read_dir(&samples).unwrap().count(), COUNT as usize + 1);
        assert!(fs::metadata(samples.join("s001.m4s")).unwrap().len() > 4);
        // A complete folder is left alone.
        fs::remove_file(samples.join("s001.m4s")).unwrap();
        fill(&samples).unwrap();
        assert!(!samples.join("s001.m4s").exists());
    }
}
