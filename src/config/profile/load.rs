//! Finds a profile by name or by path, reads it, and says in one line what is wrong with it.
//!
//! A name is looked up in `$TWINLINK_PROFILES`, then in `./netem/profiles`, then among the copies
//! that are built in, so that the program works without its repository beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;

use super::{Profile, Shape};
use crate::config::file::{self, FileSource, Library, profiles_folder};
use crate::config::trace::load::TraceTable;
use crate::units::LinkId;

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../netem/profiles/", $name, ".toml")))),*]
    };
}

/// Name and text of every profile in `netem/profiles`, in the order in which `link list` shows them.
pub const BUILT_IN: &[(&str, &str)] = built_in![
    "ethernet",
    "wifi-near",
    "wifi-mid",
    "wifi-far",
    "5g-mid",
    "lte-strong",
    "lte-medium",
    "lte-weak",
    "3g",
    "edge",
    "cable",
    "dsl",
    "starlink",
    "geo",
    "wifi-walk",
    "lte-driving",
    "lte-handover",
    "5g-blockage",
    "starlink-reconfig",
    "rate-80",
    "rate-20",
];

/// A profile is a page long; a file beyond this is something else.
const PROFILES: Library = Library { kind: "profile", largest: 64 * 1024, built_in: BUILT_IN };

/// A profile file: a [`Profile`] without its name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileFile {
    description: String,
    down: Shape,
    up: Shape,
    trace: Option<TraceTable>,
}

/// The folders that names are looked up in, those that exist.
fn folders() -> Result<Vec<PathBuf>> {
    let own = PathBuf::from("netem/profiles");
    Ok(profiles_folder()?.into_iter().chain(own.is_dir().then_some(own)).collect())
}

/// Loads a profile by its name or its path, for a link: a pair of traces has one for each.
///
/// # Errors
/// Nothing of that name, a file that cannot be read, or one whose text makes no valid profile.
pub fn load(wanted: &str, link: LinkId) -> Result<Profile> {
    let (text, source) = find(wanted)?;
    parse(wanted, &text, &source, link)
}

/// Every profile that a name could mean, sorted as the built-in ones are, a user's own after them.
/// A file that is not valid is listed with its error.
///
/// # Errors
/// `$TWINLINK_PROFILES` is no folder.
pub fn list() -> Result<Vec<(String, FileSource, Result<Profile>)>> {
    let mut names: Vec<String> = BUILT_IN.iter().map(|(name, _)| name.to_string()).collect();
    names.extend(
        PROFILES
            .own_names(&folders()?)
            .into_iter()
            .filter(|name| BUILT_IN.iter().all(|(known, _)| known != name)),
    );
    let profiles = names.into_iter().map(|name| match find(&name) {
        Ok((text, source)) => {
            let profile = parse(&name, &text, &source, LinkId::A);
            (name, source, profile)
        }
        Err(error) => (name, FileSource::BuiltIn, Err(error)),
    });
    Ok(profiles.collect())
}

fn find(wanted: &str) -> Result<(String, FileSource)> {
    PROFILES.find(Path::new(wanted), &folders()?)
}

fn parse(name: &str, text: &str, source: &FileSource, link: LinkId) -> Result<Profile> {
    let place = match source {
        FileSource::File(path) => format!("profile {}", path.display()),
        FileSource::BuiltIn => format!("built-in profile {name}"),
    };
    let file: ProfileFile = file::parse(text).map_err(|error| anyhow!("{place}, {error}"))?;
    let mut profile =
        Profile { name: name.to_string(), description: file.description, down: file.down, up: file.up };
    if let Some(table) = &file.trace {
        let folder = match source {
            FileSource::File(path) => path.parent(),
            FileSource::BuiltIn => None,
        };
        let pair = table.load(folder, link).with_context(|| place.clone())?;
        profile.down.trace = pair.down.map(Arc::new);
        profile.up.trace = pair.up.map(Arc::new);
    }
    profile.check().map_err(|problem| anyhow!("{place}, {problem}"))?;
    Ok(profile)
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
