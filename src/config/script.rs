//! Scripts: changes of links at given times, so that a change in the middle of a run can be repeated.
//!
//! ```toml
//! [[at]]
//! after = "10s"          # from the first request
//! link = "b"
//! profile = "wifi-far"   # or: clear = true
//! ```
//!
//! Parses and checks; knows no clock and changes no link. The caller finds the profiles.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::profile::{Profile, load};
use crate::config::file;
use crate::units::{Delay, LinkId};

/// The longest file that is read, in bytes: some ten thousand changes.
const LONGEST: u64 = 1 << 20;

/// Changes of links, in the order of their times.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Script {
    pub changes: Vec<Change>,
}

/// One change of one link.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// From the first request.
    pub after: Delay,
    pub link: LinkId,
    pub to: To,
}

/// The new state of a link.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum To {
    Profile(Box<Profile>),
    /// Removes the shaping.
    Clear,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptFile {
    #[serde(default)]
    at: Vec<ScriptEntry>,
}

/// Words are parsed by hand, so that a mistake is told in the lab's words and not in serde's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptEntry {
    after: String,
    link: String,
    profile: Option<String>,
    #[serde(default)]
    clear: bool,
}

impl Script {
    /// Reads a file and the profiles that it names.
    ///
    /// # Errors
    /// The file cannot be read, or an entry is invalid; the error says where.
    pub(crate) fn load(path: &Path) -> Result<Script> {
        let text = file::read(path, "script", LONGEST)?;
        Script::parse(&text, load::load).with_context(|| format!("the script {} is invalid", path.display()))
    }

    /// Parses a script. `profile` finds a profile by its name or path.
    ///
    /// # Errors
    /// An entry is invalid; the error gives the number of its `[[at]]`.
    pub(crate) fn parse(text: &str, profile: impl Fn(&str, LinkId) -> Result<Profile>) -> Result<Script> {
        let file: ScriptFile = file::parse(text)?;
        if file.at.is_empty() {
            bail!("it names no change: write [[at]] with after, link, and profile or clear = true");
        }
        let mut changes = Vec::with_capacity(file.at.len());
        for (index, entry) in file.at.into_iter().enumerate() {
            let change = entry.checked(&profile).with_context(|| format!("[[at]] number {}", index + 1))?;
            changes.push(change);
        }
        // Changes at the same time keep the order of the file.
        changes.sort_by_key(|change| change.after);
        Ok(Script { changes })
    }

    /// The links that it changes.
    pub(crate) fn links(&self) -> impl Iterator<Item = LinkId> + '_ {
        LinkId::BOTH.into_iter().filter(|link| self.changes.iter().any(|change| change.link == *link))
    }
}

impl ScriptEntry {
    fn checked(self, profile: impl Fn(&str, LinkId) -> Result<Profile>) -> Result<Change> {
        let after = self.after.parse().map_err(|error: String| anyhow::anyhow!("after: {error}"))?;
        let link = self.link.parse().map_err(|error: String| anyhow::anyhow!("link: {error}"))?;
        let to = match (self.profile, self.clear) {
            (Some(name), false) => To::Profile(Box::new(profile(&name, link).context("profile")?)),
            (None, true) => To::Clear,
            (Some(_), true) => bail!("a link is given a profile or cleared, not both: leave one out"),
            (None, false) => bail!("it says neither profile = \"NAME\" nor clear = true"),
        };
        Ok(Change { after, link, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Script> {
        Script::parse(text, load::load)
    }

    #[test]
    fn changes_come_in_the_order_of_their_times() {
        let script = parse(
            "[[at]]\nafter = \"20s\"\nlink = \"a\"\nclear = true\n\
             [[at]]\nafter = \"1500ms\"\nlink = \"b\"\nprofile = \"wifi-far\"\n",
        )
        .unwrap();
        assert_eq!(script.changes[0].after, Delay::from_millis(1500));
        assert!(matches!(&script.changes[0].to, To::Profile(profile) if profile.name == "wifi-far"));
        assert_eq!(
            script.changes[1],
            Change { after: "20s".parse().unwrap(), link: LinkId::A, to: To::Clear }
        );
        assert_eq!(script.links().collect::<Vec<_>>(), LinkId::BOTH);
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let entry = |after: &str, link: &str, rest: &str| {
            let text = format!(
                "[[at]]\nafter = \"1s\"\nlink = \"a\"\nclear = true\n\
                 [[at]]\nafter = \"{after}\"\nlink = \"{link}\"\n{rest}\n"
            );
            format!("{:#}", parse(&text).unwrap_err())
        };
        let far = "profile = \"wifi-far\"";
        assert!(
            entry("1s", "c", far).contains("number 2: link: link \"c\" not found"),
            "{}",
            entry("1s", "c", far)
        );
        for (after, rest, words) in [
            ("-1s", far, "negative"),
            ("10", far, "no unit"),
            ("soon", far, "not a time"),
            ("1s", "profile = \"wifi-fra\"", "wifi-far"),
            ("1s", "profile = \"dsl\"\nclear = true", "not both"),
            ("1s", "", "neither profile"),
            ("1s", "profil = \"dsl\"", "profil"),
        ] {
            let error = entry(after, "b", rest);
            assert!(error.contains(words), "{error}");
        }
        assert!(format!("{:#}", parse("").unwrap_err()).contains("names no change"));
        assert!(parse("at = 3").is_err() && parse("\u{0}").is_err());
    }

    #[test]
    fn a_file_that_is_far_too_long_is_not_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long.toml");
        std::fs::write(&path, vec![b'#'; 3 << 20]).unwrap();
        assert!(format!("{:#}", Script::load(&path).unwrap_err()).contains("more than it may have"));
        assert!(format!("{:#}", Script::load(&dir.path().join("none")).unwrap_err()).contains("cannot read"));
    }
}
