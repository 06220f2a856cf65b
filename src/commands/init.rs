//! `twinlink init`: an experiment and a profile to start from, with a comment on each key.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::output;
use crate::results;
use crate::text::print;

/// Name and text of what is written.
const FILES: [(&str, &str); 2] = [
    ("experiment.toml", include_str!("init/experiment.toml")),
    ("link.toml", include_str!("init/link.toml")),
];

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// The folder to make for them [default: mine, in the container /results/mine]
    pub dir: Option<PathBuf>,
}

/// Writes the files and says what to do with them.
pub(crate) fn main(args: InitArgs) -> Result<()> {
    let dir = args.dir.unwrap_or_else(default_folder);
    write(&dir)?;
    let experiment = dir.join(FILES[0].0);
    let [seen, link] = [&experiment, &dir.join(FILES[1].0)].map(|path| results::for_people(path));
    let program = if output::in_compose() { "docker compose run --rm client" } else { "twinlink" };
    print(&format!(
        "wrote {} and {}\nnext: {program} sweep {} --dry-run\n",
        seen.display(),
        link.display(),
        experiment.display()
    ))
}

/// A folder of its own: of the container's file system, only the results stay.
fn default_folder() -> PathBuf {
    let results = std::env::var_os("TWINLINK_RESULTS").filter(|_| output::in_compose());
    results.map_or_else(PathBuf::new, PathBuf::from).join("mine")
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
