//! The sample segments: the same for ever, well-formed, and never written over anything.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use assert_cmd::Command;
use sha2::{Digest, Sha256};

fn segments(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_twinlink"));
    command.arg("segments").arg(dir).args(args);
    command
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every byte of a set is behind one digest: should this test ever fail, the change that made it
/// fail has to go, because results from sets made before could no longer be compared.
#[test]
fn a_seed_gives_the_same_bytes_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    for (args, expected) in [
        (vec!["--mean-size", "2KB"], "9cb081e8de0326e55e11d94fb6980e83498f0a2ac549bf78d10f83f171fd7e0c"),
        (
            vec!["--count", "3", "--mean-size", "200KB", "--seed", "7"],
            "f78a7ca545b5a0a111319f99c4eb8c9372bef9e1bbbbe39caf3c32d2aff89fa3",
        ),
    ] {
        let out = dir.path().join(expected);
        segments(&out, &args).assert().success();
        let sums = fs::read(out.join("SHA256SUMS")).unwrap();
        assert_eq!(hex(&sums), expected, "{args:?}");
    }
}

#[test]
fn a_set_is_complete_readable_and_well_formed() {
    let dir = tempfile::tempdir().unwrap();
    segments(dir.path(), &["--mean-size", "3KB"]).assert().success();
    let sums = fs::read_to_string(dir.path().join("SHA256SUMS")).unwrap();
    let mut sizes = Vec::new();
    for (at, line) in sums.lines().enumerate() {
        let name = format!("s{:03}.m4s", at + 1);
        let bytes = fs::read(dir.path().join(&name)).unwrap();
        assert_eq!(line, format!("{}  {name}", hex(&bytes)));
        assert_eq!(boxes(&bytes), ["styp", "mdat"], "{name}");
        assert_eq!(&bytes[8..12], b"msdh");
        sizes.push(bytes.len());
    }
    assert_eq!(sizes.len(), 160);
    assert_eq!(sizes.iter().sum::<usize>(), 160 * 3000);
    // The folder holds the set and nothing else, each file readable for all.
    let there: Vec<_> = fs::read_dir(dir.path()).unwrap().map(Result::unwrap).collect();
    assert_eq!(there.len(), 161);
    for file in there {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o644, "{file:?}");
    }
}

/// The types of the boxes that a file is made of; they must fill it exactly.
fn boxes(mut bytes: &[u8]) -> Vec<String> {
    let mut types = Vec::new();
    while !bytes.is_empty() {
        let size = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        types.push(String::from_utf8(bytes[4..8].to_vec()).unwrap());
        bytes = &bytes[size..];
    }
    types
}

#[test]
fn sizes_wander_in_scenes() {
    let dir = tempfile::tempdir().unwrap();
    segments(dir.path(), &["--mean-size", "4KB"]).assert().success();
    let sizes: Vec<i64> = (1..=160)
        .map(|n| fs::metadata(dir.path().join(format!("s{n:03}.m4s"))).unwrap().len() as i64)
        .collect();
    let step = sizes.windows(2).map(|pair| (pair[1] - pair[0]).abs()).sum::<i64>() / 159;
    let mut sorted = sizes.clone();
    sorted.sort();
    let spread = sorted[120] - sorted[40];
    // Drawn without scenes, neighbours would differ by about two thirds of the middle half's width.
    assert!(step * 2 < spread, "a mean step of {step}, half of all sizes within {spread}");
}

#[test]
fn nothing_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let set = ["--count", "5", "--mean-size", "1KB"];
    segments(dir.path(), &set).assert().success();

    // The same set again is no loss, and completes one that lacks files.
    fs::remove_file(dir.path().join("s002.m4s")).unwrap();
    segments(dir.path(), &set).assert().success();
    assert!(dir.path().join("s002.m4s").exists());

    for args in
        [&["--count", "5", "--mean-size", "1KB", "--seed", "2"][..], &["--count", "6", "--mean-size", "1KB"]]
    {
        let output = segments(dir.path(), args).assert().failure().code(1).get_output().clone();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("is there with other content"), "{text}");
    }
    assert!(!dir.path().join("s006.m4s").exists());

    fs::write(dir.path().join("s003.m4s"), "a user's own").unwrap();
    segments(dir.path(), &set).assert().failure();
    assert_eq!(fs::read_to_string(dir.path().join("s003.m4s")).unwrap(), "a user's own");
}

#[test]
fn mistakes_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let explained = |dir: &Path, args: &[&str], expected: &str| {
        let output = segments(dir, args).assert().failure().get_output().clone();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(expected), "{text}");
    };
    explained(dir.path(), &["--count", "0"], "ask for 1 to 1000000 with --count");
    explained(dir.path(), &["--count", "-3"], "-3 is not in");
    explained(dir.path(), &["--mean-size", "500"], "has no unit");
    explained(dir.path(), &["--mean-size", "10B"], "ask for 100B to 2GB with --mean-size");
    explained(dir.path(), &["--mean-size", "5GB"], "ask for 100B to 2GB with --mean-size");
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    explained(&file.join("below"), &[], "cannot open the folder");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn pipe_or_device_under_a_name_of_the_set_is_refused() {
    for name in ["s001.m4s", "SHA256SUMS"] {
        for make in [
            |path: &Path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success()),
            |path: &Path| std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        ] {
            let dir = tempfile::tempdir().unwrap();
            make(&dir.path().join(name));
            let failed = segments(dir.path(), &["--count", "3", "--mean-size", "2KB"])
                .timeout(std::time::Duration::from_secs(60))
                .assert()
                .failure();
            let text = String::from_utf8_lossy(&failed.get_output().stderr).into_owned();
            assert!(text.contains("not a regular file"), "{text}");
        }
    }
}
