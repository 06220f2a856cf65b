//! Tells the program which commit it is built from: `$TWINLINK_COMMIT`, else what git says, else what
//! stands in `.git`, where there is no git (in the image's build), else nothing.

use std::fs;
use std::process::Command;

fn main() {
    for path in ["src", "Cargo.toml", "Cargo.lock", ".git/HEAD", ".git/refs/heads", ".git/packed-refs"] {
        // A path that does not exist would have this run at every build.
        if fs::exists(path).unwrap_or(false) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    println!("cargo::rerun-if-env-changed=TWINLINK_COMMIT");
    let told = std::env::var("TWINLINK_COMMIT").ok().filter(|told| !told.is_empty());
    if let Some(commit) = told.or_else(of_git).or_else(of_files) {
        println!("cargo::rustc-env=TWINLINK_COMMIT={commit}");
    }
}

/// The commit, and whether what is built differs from it.
fn of_git() -> Option<String> {
    let git = |arguments: &[&str]| {
        let done = Command::new("git").args(arguments).output().ok().filter(|done| done.status.success())?;
        Some(String::from_utf8(done.stdout).ok()?.trim().to_string())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--", "src", "Cargo.toml", "Cargo.lock"])?;
    Some(if changed.is_empty() { commit } else { commit + "-dirty" })
}

/// The commit by git's own files.
fn of_files() -> Option<String> {
    let head = fs::read_to_string(".git/HEAD").ok()?;
    let commit = match head.trim().strip_prefix("ref: ") {
        None => head.trim().to_string(),
        Some(name) => fs::read_to_string(format!(".git/{name}")).ok().or_else(|| packed(name))?,
    };
    commit.get(..12).map(str::to_string)
}

fn packed(name: &str) -> Option<String> {
    let refs = fs::read_to_string(".git/packed-refs").ok()?;
    let line = refs.lines().find(|line| line.ends_with(&format!(" {name}")))?;
    Some(line.to_string())
}
