//! `twinlink init`: an experiment and a profile to start from, with a comment on each key.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::results;
use crate::text::print;

/// Name and text of what is written.
const FILES: [(&str, &str); 2] = [
    ("experiment.toml", include_str!("init/experiment.toml")),
    ("link.toml", include_str!("init/link.toml")),
];

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// Where the files are written; the folder is made if missing
    #[arg(default_value = ".")]
    pub dir: PathBuf,
}

/// Writes the files and says what to do with them.
pub(crate) fn main(args: InitArgs) -> Result<()> {
    write(&args.dir)?;
    let experiment = args.dir.join(FILES[0].0);
    let (experiment, link) = (experiment.display(), args.dir.join(FILES[1].0));
    print(&format!(
        "wrote {experiment} and {}\nnext: twinlink sweep {experiment} --dry-run\n",
        link.display()
    ))
}

/// Writes all files or none.
fn write(dir: &Path) -> Result<()> {
    for (name, _) in FILES {
        let path = dir.join(name);
        ensure!(
            !path.exists(),
            "{} is there already and stays as it is; name another folder",
            path.display()
        );
    }
    let folder = results::Folder::make(dir)?;
    let mut made = Vec::new();
    let written = FILES.iter().try_for_each(|(name, text)| {
        let mut file = folder.create_new(name)?;
        made.push(name);
        file.write_all(text.as_bytes())
            .with_context(|| format!("cannot write {}", folder.join(name).display()))
    });
    if written.is_err() {
        // It is the failure to write that is told.
        made.into_iter().for_each(|name| drop(folder.remove(name)));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::experiment::Experiment;
    use std::fs;

    #[test]
    fn what_is_written_is_a_valid_experiment_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("a/b");
        write(&new).unwrap();
        let experiment = Experiment::find(&new.join("experiment.toml")).unwrap();
        assert!(experiment.cells() > 0);
        let profile = experiment.conditions[0].asked.profiles[1].as_ref().unwrap();
        assert_eq!(profile.description, "A link of mine");
        fs::write(new.join("link.toml"), "mine").unwrap();
        fs::remove_file(new.join("experiment.toml")).unwrap();
        let error = write(&new).unwrap_err().to_string();
        assert!(error.contains("link.toml is there already"), "{error}");
        assert!(!new.join("experiment.toml").exists());
        assert_eq!(fs::read_to_string(new.join("link.toml")).unwrap(), "mine");
    }
}
