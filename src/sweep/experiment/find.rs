//! Experiments by name: those of a folder `experiments` here, then the built-in copies, so that the
//! program works without its repository beside it.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::Experiment;
use crate::config::profile::load::nearest;

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../experiments/", $name, ".toml")))),*]
    };
}

/// Name and text of every experiment in `experiments`.
pub const BUILT_IN: &[(&str, &str)] = built_in![
    "aria2-style",
    "course-quick",
    "course-scenario-1",
    "course-scenario-2",
    "rtt",
    "streaming",
    "traces",
];

impl Experiment {
    /// Loads an experiment by its name or its path.
    ///
    /// # Errors
    /// Nothing of that name, a file that cannot be read, or one whose text is not valid.
    pub fn find(wanted: &Path) -> Result<Experiment> {
        let name = wanted.to_string_lossy();
        if name.contains('/') || name.ends_with(".toml") {
            return Experiment::load(wanted);
        }
        let file = Path::new("experiments").join(format!("{name}.toml"));
        if file.is_file() {
            return Experiment::load(&file);
        }
        let Some((name, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) else {
            let known: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            let guess = nearest(&name, known.iter().copied())
                .map_or(String::new(), |name| format!("did you mean {name}? "));
            bail!(
                "experiment \"{name}\" not found: {guess}name one of {}, or the path of a .toml file",
                known.join(", ")
            );
        };
        Experiment::parse(name, text, Path::new(""))
            .with_context(|| format!("the built-in experiment {name} is invalid"))
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
