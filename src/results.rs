//! Folders of results: each is made new, and belongs to whom the folder around it belongs to.
//!
//! Knows nothing of what is written there, apart from the name of a run's log.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::record;

/// The log in a run's folder.
pub const LOG: &str = "log.jsonl";

/// Makes `parent`/`name`, and `parent` too where it is missing.
///
/// # Errors
/// When it exists, for a folder is never used twice, or cannot be made or given to its owner.
pub fn new_folder(parent: &Path, name: &str) -> Result<PathBuf> {
    let dir = parent.join(name);
    fs::create_dir_all(parent)
        .and_then(|()| fs::create_dir(&dir))
        .with_context(|| format!("cannot make the folder {} for the results", dir.display()))?;
    own_like_parent(&dir)?;
    Ok(dir)
}

/// Makes the log of a run in its folder.
pub fn new_log(dir: &Path) -> Result<File> {
    let path = dir.join(LOG);
    let file = record::create_log_file(&path)?;
    own_like_parent(&path)?;
    Ok(file)
}

/// In a container, root writes into a folder of somebody on the host, to whom the results belong.
pub fn own_like_parent(path: &Path) -> Result<()> {
    // SAFETY: this only asks for the process's own user id.
    let is_root = unsafe { libc::geteuid() } == 0;
    let Some(parent) = path.parent().filter(|_| is_root) else { return Ok(()) };
    let owner = fs::metadata(parent).with_context(|| format!("cannot examine {}", parent.display()))?;
    let own = fs::metadata(path).with_context(|| format!("cannot examine {}", path.display()))?;
    if (own.uid(), own.gid()) == (owner.uid(), owner.gid()) {
        return Ok(());
    }
    chown(path, Some(owner.uid()), Some(owner.gid())).with_context(|| {
        format!("cannot give {} to the owner of {}; add CAP_CHOWN", path.display(), parent.display())
    })
}
