//! Experiments by name: those of a folder `experiments` here, then the built-in copies, so that the
//! program works without its repository beside it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Experiment;
use crate::config::file::{FileSource, Library};

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../experiments/", $name, ".toml")))),*]
    };
}

/// Name and text of every experiment in `experiments`.
pub(crate) const BUILT_IN: &[(&str, &str)] = built_in![
    "aria2-style",
    "course-quick",
    "course-scenario-1",
    "course-scenario-2",
    "losses",
    "peers",
    "rtt",
    "streaming",
    "traces",
];

const EXPERIMENTS: Library =
    Library { kind: "experiment", largest: super::LARGEST_BYTES, built_in: BUILT_IN };

/// The folder whose experiments have names, beside those that are built in.
const FOLDER: &str = "experiments";

/// Returns the names of all experiments, sorted.
pub(crate) fn names() -> Vec<String> {
    let mut names = EXPERIMENTS.own_names(&[PathBuf::from(FOLDER)]);
    names.extend(BUILT_IN.iter().map(|(name, _)| name.to_string()));
    names.sort();
    names.dedup();
    names
}

impl Experiment {
    /// Loads an experiment by its name or its path.
    ///
    /// # Errors
    /// Nothing of that name, a file that cannot be read, or one whose text is not valid.
    pub(crate) fn find(wanted: &Path) -> Result<Experiment> {
        let (text, source) = EXPERIMENTS.find(wanted, &[PathBuf::from(FOLDER)])?;
        let path = match &source {
            FileSource::BuiltIn => wanted,
            FileSource::File(path) => path,
        };
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let folder = path.parent().unwrap_or(Path::new(""));
        Experiment::parse(&name, &text, folder).with_context(|| match &source {
            FileSource::BuiltIn => format!("the built-in experiment {name} is invalid"),
            FileSource::File(path) => format!("the experiment {} is invalid", path.display()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_experiment_of_the_folder_is_built_in_and_valid() {
        let mut files: Vec<String> = std::fs::read_dir("experiments")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let built_in: Vec<String> = BUILT_IN.iter().map(|(name, _)| format!("{name}.toml")).collect();
        assert_eq!(files, built_in);
        for (name, text) in BUILT_IN {
            let found = Experiment::parse(name, text, Path::new("")).unwrap();
            assert_eq!(found.text, Experiment::find(Path::new(name)).unwrap().text);
        }
    }

    #[test]
    fn unknown_experiment_gets_a_suggestion() {
        let error = Experiment::find(Path::new("course-quik")).unwrap_err().to_string();
        assert!(error.contains("did you mean course-quick?"), "{error}");
    }
}
