//! How a run, a cell of an experiment or an experiment ended: the `exit` of its last record.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One word for programs. docs/log-schema.md says what each means to people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything is there.
    #[default]
    Ok,
    /// SIGINT, SIGTERM, SIGHUP or SIGQUIT.
    Interrupted,
    /// A server could not be found, reached or understood before the first request.
    Unreachable,
    /// A kernel does not let the congestion control be used that was asked for.
    Congestion,
    /// No server has a list, and nothing else says what to fetch.
    NoList,
    /// The servers do not hold the same files, or there is nothing to fetch.
    ListsDiffer,
    /// Nothing came from a server for too long, and the run needed it.
    ServerAway,
    /// No server brought a file.
    MissingFile,
    /// A file comes with a Content-Encoding only.
    Encoded,
    /// A server says another size, digest or version of a file than was said before.
    FilesChanged,
    /// A file had the wrong digest.
    Digest,
    /// A file could not be written.
    Store,
    /// A link could not be shaped, read or cleared.
    Link,
    /// A link is not what its profile says, or could not be measured.
    Probe,
    /// The program of `twinlink run` could not be started, or failed.
    Program,
    /// That program ended, and not every file is there with its digest.
    Incomplete,
    /// That program ran for longer than it may.
    TimeLimit,
    /// That program used more memory than it may.
    MemoryLimit,
    /// That program had more processes than it may.
    ProcessLimit,
    /// That program filled its disk.
    DiskLimit,
    /// The scheduler of `--schedule exec` ended, was too slow, or answered with what cannot be done.
    Scheduler,
    /// The log could not be written.
    Log,
    /// A bug.
    Internal,
    /// A cell whose schedule needs a throughput that was not measured.
    Unmeasured,
    /// An experiment with cells that failed.
    Failed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.serialize(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_the_log_is_the_one_that_is_shown() {
        for (outcome, word) in [
            (Outcome::Ok, "ok"),
            (Outcome::ListsDiffer, "lists_differ"),
            (Outcome::ServerAway, "server_away"),
        ] {
            assert_eq!(outcome.to_string(), word);
            assert_eq!(serde_json::to_value(outcome).unwrap(), word);
        }
    }

    #[test]
    fn every_word_is_explained() {
        let text = include_str!("../../docs/log-schema.md");
        let schema = schemars::schema_for!(Outcome);
        let words: Vec<&str> = schema
            .get("oneOf")
            .unwrap()
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|v| v["const"].as_str())
            .collect();
        assert_eq!(words.len(), 25, "{schema:?}");
        for word in words {
            assert!(text.contains(&format!("`{word}`")) || text.contains(&format!("`\"{word}\"`")), "{word}");
        }
    }
}
