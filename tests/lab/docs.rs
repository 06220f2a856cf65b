//! The commands of the README and the tutorial, typed as they are printed.

use std::process::Command;

use crate::fixture::{program_under_test, users, words};
use crate::support::have;

#[test]
fn every_command_of_readme_and_tutorial_works_as_printed() {
    if users().is_empty() || !have(&["bash", "python3", "jq"]) {
        return;
    }
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/docs.sh");
    let output = Command::new("timeout").arg("600").arg(script).arg(program_under_test()).output().unwrap();
    println!("{}", words(&output));
    assert!(output.status.success(), "{}", words(&output));
}
