//! Holds the rules of the tree: which room may import which, no circles, pure rooms, one name a type.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Each room of `src`, and the rooms that it may import. A room is a folder or a file beside `lib.rs`.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("units", &[]),
    ("text", &[]),
    ("runtime", &[]),
    ("qoe", &[]),
    ("sender_report", &[]),
    ("tcp", &["sender_report"]),
    ("results", &[]),
    ("output", &[]),
    ("wifi", &["units"]),
    ("config", &["units", "wifi"]),
    ("emulate", &["units", "config", "wifi"]),
    // The least delay of a jittering link comes from the quantiles that draw it.
    ("bound", &["units", "config", "emulate", "wifi"]),
    ("schedule", &["units", "qoe"]),
    // The user's own scheduler, as a process.
    ("adviser", &["schedule"]),
    ("log", &["units", "config", "output", "shape", "qoe", "tcp", "sender_report", "text"]),
    ("shape", &["units", "config", "emulate", "text"]),
    ("http", &["sender_report"]),
    ("manifest", &["units", "http"]),
    ("segments", &["units", "results", "text", "manifest"]),
    ("server", &["config", "http", "log", "manifest", "runtime", "segments", "sender_report", "tcp"]),
    // Predicts from the profiles, the scheduler and the sizes of files; knows no client.
    ("simulate", &["units", "config", "emulate", "schedule", "bound", "manifest", "segments"]),
    ("lab", &["units", "config", "http", "manifest", "results", "runtime", "segments", "shape", "text"]),
    ("doctor", &["lab", "shape", "text"]),
    (
        "client",
        &[
            "adviser",
            "bound",
            "config",
            "doctor",
            "http",
            "log",
            "manifest",
            "output",
            "qoe",
            "results",
            "runtime",
            "schedule",
            "sender_report",
            "shape",
            "tcp",
            "text",
            "units",
        ],
    ),
    // Shapes and logs as the client does; a program fetches in its place.
    (
        "program",
        &[
            "bound", "client", "config", "http", "log", "manifest", "output", "qoe", "results", "shape",
            "text", "units",
        ],
    ),
    (
        "sweep",
        &[
            "client", "config", "doctor", "lab", "log", "manifest", "output", "program", "qoe", "results",
            "schedule", "shape", "simulate", "tcp", "text", "units",
        ],
    ),
    // Trials as of `program`, conditions as of `sweep`, pages as of `report`.
    (
        "grade",
        &[
            "client", "config", "lab", "log", "manifest", "program", "qoe", "report", "results", "runtime",
            "schedule", "segments", "shape", "sweep", "text", "units",
        ],
    ),
    ("report", &["log", "qoe", "results", "text", "units"]),
    ("watch", &["log", "results", "text", "units"]),
    // Runs as `report` reads them.
    ("export", &["log", "qoe", "report", "units"]),
];

/// Rooms that read no clock, open no file or socket, and start nothing.
const PURE: &[&str] = &["units", "wifi", "qoe", "emulate", "bound", "schedule", "export"];
const IMPURE: &[&str] =
    &["tokio", "std::fs", "std::net", "std::thread", "Instant::now", "SystemTime::now", "std::process"];

/// Returns the source files, by path below `src`.
fn files() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let root = folders[0].clone();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_string();
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") {
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    assert!(found.len() > 100, "{} files", found.len());
    found
}

/// Returns the source files without comments and without their tests, by path below `src`.
fn sources() -> BTreeMap<String, String> {
    let files = files().into_iter().filter(|(name, _)| !name.ends_with("tests.rs"));
    let bare = |text: &str| {
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.collect::<Vec<_>>().join("\n")
    };
    files.map(|(name, text)| (name, bare(&text))).collect()
}

/// Returns the sentences of a text's comments, each with the line on which its comment begins.
fn comment_sentences(text: &str) -> Vec<(usize, String)> {
    let mut sentences = Vec::new();
    let mut comment = (0, String::new());
    for (number, line) in (1..).zip(text.lines().chain([""])) {
        if let Some(words) = line.trim_start().strip_prefix("//") {
            if comment.1.is_empty() {
                comment.0 = number;
            }
            let words = words.strip_prefix(['/', '!']).unwrap_or(words).trim();
            // A heading and an empty line end a sentence.
            let ends = words.is_empty() || words.starts_with('#');
            comment.1 += words;
            comment.1 += if ends { ". " } else { " " };
            continue;
        }
        let (from, words) = std::mem::take(&mut comment);
        let mut rest = words.trim();
        while !rest.is_empty() {
            // A sentence ends where a mark and a space stand before what can begin the next one.
            let end = rest.match_indices(['.', '!', '?', ':', ';']).map(|(at, _)| at + 1).find(|&end| {
                let next = rest[end..].strip_prefix(' ').and_then(|next| next.chars().next());
                next.is_some_and(|c| c.is_ascii_uppercase() || c == '`' || c == '[')
            });
            let (sentence, others) = rest.split_at(end.unwrap_or(rest.len()));
            sentences.push((from, sentence.to_string()));
            rest = others.trim_start();
        }
    }
    sentences
}

/// The room that a file stands in.
fn room(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The rooms that a text imports by `crate::`, in a `use` or in a path.
fn imports(text: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let word = |text: &str| -> String {
            text.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
        };
        match rest.strip_prefix('{') {
            None => drop(rooms.insert(word(rest))),
            Some(list) => {
                let mut depth = 0;
                let mut item = true;
                for (i, c) in list.char_indices() {
                    if item && !c.is_whitespace() {
                        rooms.insert(word(&list[i..]));
                        item = false;
                    }
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' => item = depth == 0,
                        _ => {}
                    }
                }
            }
        }
    }
    rooms
}

/// Returns the violations of the table, one line each.
fn violations(sources: &BTreeMap<String, String>) -> Vec<String> {
    let table: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let rooms: BTreeSet<&str> = sources.keys().map(|file| room(file)).collect();
    let mut broken = Vec::new();
    for (file, text) in sources {
        let here = room(file);
        if ["cli", "commands", "main", "lib"].contains(&here) {
            continue;
        }
        let Some(allowed) = table.get(here) else {
            broken.push(format!("{file}: the room {here} has no row in MAY_IMPORT"));
            continue;
        };
        for other in imports(text) {
            let known = rooms.contains(other.as_str());
            if known && other != here && !allowed.contains(&other.as_str()) {
                broken.push(format!("{file}: {here} must not import {other}"));
            }
        }
        if PURE.contains(&here) {
            let found = IMPURE.iter().filter(|word| text.contains(**word));
            broken.extend(found.map(|word| format!("{file}: {here} is pure and names {word}")));
        }
    }
    broken
}

#[test]
fn rooms_import_only_what_they_may() {
    let broken = violations(&sources());
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn each_rule_is_seen_when_it_is_broken() {
    for (file, text, told) in [
        ("emulate/link.rs", "use crate::log::schema::Event;", "emulate must not import log"),
        ("server/mod.rs", "use crate::{units::Rate, client::Run};", "server must not import client"),
        ("report/mod.rs", "fn f() { crate::client::run() }", "report must not import client"),
        ("simulate/mod.rs", "use crate::client::ClientArgs;", "simulate must not import client"),
        ("client/mod.rs", "use crate::commands::hold;", "client must not import commands"),
        ("client/finish.rs", "use crate::simulate;", "client must not import simulate"),
        ("schedule/pool.rs", "use std::fs;", "schedule is pure and names std::fs"),
        ("cellar/mod.rs", "", "has no row"),
    ] {
        let mut sources = sources();
        sources.insert(file.into(), text.into());
        let broken = violations(&sources);
        assert!(broken.iter().any(|line| line.contains(told)), "{file}: {broken:?}");
    }
}

#[test]
fn rooms_form_no_circle() {
    // A room whose imports are all placed is placed above them; what is left over stands in a circle.
    let mut left: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    while let Some(room) = left
        .iter()
        .find(|(_, needs)| needs.iter().all(|need| !left.contains_key(need)))
        .map(|(room, _)| *room)
    {
        left.remove(room);
    }
    assert!(left.is_empty(), "these rooms import each other in a circle: {:?}", left.keys());
}

#[test]
fn each_type_has_a_name_of_its_own() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in sources() {
        for line in text.lines() {
            let line = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub(super) ")).unwrap_or(line);
            let line = line.strip_prefix("pub ").unwrap_or(line);
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if ["struct", "enum", "trait", "type", "union"].contains(&words.next().unwrap_or_default())
                && let Some(name) = words.next().filter(|name| !name.is_empty())
            {
                places.entry(name.to_string()).or_default().push(file.clone());
            }
        }
    }
    assert!(places.len() > 300, "{} types", places.len());
    places.retain(|_, files| files.len() > 1);
    assert!(places.is_empty(), "{places:#?}");
}

/// Words that begin a clause, not the subject of a sentence.
const CLAUSES: &[&str] = &["What", "Who", "Whom", "Whose", "Whoever", "Whatever", "Those", "So"];

/// Returns true if a sentence begins with a clause in the place of its subject.
fn begins_with_clause(sentence: &str) -> bool {
    CLAUSES.contains(&sentence.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default())
}

#[test]
fn comment_sentences_begin_with_a_subject() {
    let mut seen = 0;
    let mut broken = Vec::new();
    for (file, text) in files() {
        let sentences = comment_sentences(&text);
        seen += sentences.len();
        let clauses = sentences.into_iter().filter(|(_, sentence)| begins_with_clause(sentence));
        broken.extend(clauses.map(|(line, sentence)| format!("src/{file}:{line}: {sentence}")));
    }
    assert!(seen > 3000, "{seen} sentences");
    assert!(broken.is_empty(), "say these as subject, verb, object:\n{}", broken.join("\n"));
}

#[test]
fn a_clause_in_place_of_a_subject_is_seen() {
    let text = "/// Returns the rate. What\n/// it does not say: `x` stays.\nfn f() {}\n// Those wait.\nlet x = 1; // So\n\
                /// Fails\n///\n/// # Errors\n/// What it meets.";
    let found: Vec<(usize, String)> =
        comment_sentences(text).into_iter().filter(|(_, sentence)| begins_with_clause(sentence)).collect();
    assert_eq!(
        found,
        [
            (1, "What it does not say:".to_string()),
            (4, "Those wait.".to_string()),
            (6, "What it meets.".to_string())
        ]
    );
}
