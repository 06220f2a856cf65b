//! Finds a profile by name or by path, reads it, and says in one line what is wrong with it.
//!
//! A name is looked up in `$TWINLINK_PROFILES`, then in `./netem/profiles`, then among the copies
//! that are built in, so that the program works without its repository beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;

use super::{Profile, Shape};
use crate::config::file::{FileSource, Library, did_you_mean};
use crate::config::trace::load::TraceTable;

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
fn folders() -> Vec<PathBuf> {
    let named = std::env::var_os("TWINLINK_PROFILES").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    named.into_iter().chain([PathBuf::from("netem/profiles")]).filter(|dir| dir.is_dir()).collect()
}

/// Loads a profile by its name or its path.
///
/// # Errors
/// Nothing of that name, a file that cannot be read, or one whose text makes no valid profile.
pub fn load(wanted: &str) -> Result<Profile> {
    let (text, source) = find(wanted)?;
    parse(wanted, &text, &source)
}

/// Every profile that a name could mean, sorted as the built-in ones are, a user's own after them.
/// A file that is not valid is listed with its error.
pub fn list() -> Vec<(String, FileSource, Result<Profile>)> {
    let mut names: Vec<String> = BUILT_IN.iter().map(|(name, _)| name.to_string()).collect();
    names.extend(
        PROFILES
            .own_names(&folders())
            .into_iter()
            .filter(|name| BUILT_IN.iter().all(|(known, _)| known != name)),
    );
    names
        .into_iter()
        .map(|name| match find(&name) {
            Ok((text, source)) => {
                let profile = parse(&name, &text, &source);
                (name, source, profile)
            }
            Err(error) => (name, FileSource::BuiltIn, Err(error)),
        })
        .collect()
}

fn find(wanted: &str) -> Result<(String, FileSource)> {
    PROFILES.find(Path::new(wanted), &folders())
}

fn parse(name: &str, text: &str, source: &FileSource) -> Result<Profile> {
    let place = match source {
        FileSource::File(path) => format!("profile {}", path.display()),
        FileSource::BuiltIn => format!("built-in profile {name}"),
    };
    let file: ProfileFile =
        toml::from_str(text).map_err(|error| anyhow!("{place}, {}", explain(text, &error)))?;
    let mut profile =
        Profile { name: name.to_string(), description: file.description, down: file.down, up: file.up };
    if let Some(table) = &file.trace {
        let folder = match source {
            FileSource::File(path) => path.parent(),
            FileSource::BuiltIn => None,
        };
        let pair = table.load(folder).with_context(|| place.clone())?;
        profile.down.trace = pair.down.map(Arc::new);
        profile.up.trace = pair.up.map(Arc::new);
    }
    profile.check().map_err(|problem| anyhow!("{place}, {problem}"))?;
    Ok(profile)
}

/// Turns the parser's several lines into one: line, key, problem.
fn explain(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', " ");
    let at = error.span().map_or(text.len(), |span| span.start.min(text.len()));
    let line = text[..at].matches('\n').count() + 1;
    let (table, key) = key_at(text, at);
    let quoted = |prefix: &str| {
        message.strip_prefix(prefix).and_then(|rest| rest.split('`').nth(1)).map(str::to_string)
    };
    if let Some(unknown) = quoted("unknown field") {
        // A direction has a trace, but its file names it in a table of its own.
        let known = message.split('`').skip(3).step_by(2).filter(|key| *key != "trace" || table.is_empty());
        let known: Vec<&str> = known.collect();
        let guess = did_you_mean(&unknown, known.iter().copied(), "\"");
        let place = if key.is_empty() || key == unknown { table } else { format!("{table}.{key}") };
        let place = if place.is_empty() { "the file".into() } else { format!("[{place}]") };
        return format!(
            "line {line}: {place} has the unknown key \"{unknown}\": {guess}the keys are {}",
            known.join(", ")
        );
    }
    if let Some(missing) = quoted("missing field") {
        let what = match missing.as_str() {
            "down" | "up" => format!("table [{missing}] not found: both [down] and [up] are needed"),
            "file" if table == "trace" => {
                "[trace] has no file: write file = \"../traces/mine.csv\"".to_string()
            }
            "description" => "description not found: start the file with description = \"…\"".to_string(),
            _ if key.is_empty() => format!("[{table}] has no {missing}{}", example(&missing)),
            _ => format!("{table}.{key} has no {missing}{}", example(&missing)),
        };
        return what;
    }
    if key == "trace" && !table.is_empty() {
        return format!(
            "line {line}, {table}.trace: a trace has a table of its own: write [trace] with file = \"…\""
        );
    }
    let key_path = match (table.as_str(), key.as_str()) {
        ("", "") => String::new(),
        ("", key) => format!("{key}: "),
        (table, "") => format!("[{table}]: "),
        (table, key) => format!("{table}.{key}: "),
    };
    let hint = if message.starts_with("invalid type") && !message.contains("percentage") {
        example(&key)
    } else {
        String::new()
    };
    format!("line {line}, {key_path}{message}{hint}")
}

/// Returns an example value of the key, for error messages.
fn example(key: &str) -> String {
    let value = match key {
        "rate" => "37mbit",
        "delay" | "jitter" => "30ms",
        "queue" => "100ms",
        "loss" | "reorder" | "duplicate" | "corrupt" | "p" | "r" | "bad" | "good" => "0.1%",
        "distribution" => "normal",
        _ => return String::new(),
    };
    format!(": write {key} = \"{value}\"")
}

/// The table and the key that a place in the text belongs to, as far as the lines above tell.
fn key_at(text: &str, at: usize) -> (String, String) {
    let end = text[at..].find('\n').map_or(text.len(), |offset| at + offset);
    let mut table = String::new();
    let mut key = String::new();
    for line in text[..end].lines() {
        let line = line.trim();
        key.clear();
        if let Some(header) = line.strip_prefix('[') {
            table = header.split(']').next().unwrap_or_default().trim().to_string();
        } else if let Some((name, _)) = line.split_once('=')
            && !line.starts_with('#')
        {
            key = name.trim().to_string();
        }
    }
    (table, key)
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
