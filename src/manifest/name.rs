//! Names of files that servers offer and clients fetch: one rule for both.

/// The folder inside a client's `--out` where unfinished files stand.
pub(crate) const WORK_FOLDER: &str = ".twinlink";

/// The longest name of a file, bytes: what Linux file systems allow (NAME_MAX).
pub(crate) const LONGEST_NAME_BYTES: usize = 255;

/// Checks that a name can be that of a file in a folder, and leads nowhere else.
///
/// # Errors
/// Says what is wrong with it, as in "it is ...".
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("it is empty".into());
    }
    if name.len() > LONGEST_NAME_BYTES {
        return Err(format!("it has {} bytes, and a file name has {LONGEST_NAME_BYTES} at most", name.len()));
    }
    if name == "." || name == ".." || name.contains('/') {
        return Err("it leads to another folder".into());
    }
    if name.contains(char::is_control) {
        return Err("it has control characters in it".into());
    }
    // File systems that fold case have one name for all spellings.
    if name.eq_ignore_ascii_case(WORK_FOLDER) {
        return Err(format!("unfinished files stand in {WORK_FOLDER}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_refused_that_no_file_here_may_have() {
        let long = "x".repeat(LONGEST_NAME_BYTES);
        for good in ["x", "x.part", "x.part.json", ".x", "...", "a b", "ä", &long] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        let longer = "x".repeat(LONGEST_NAME_BYTES + 1);
        for bad in
            ["", ".", "..", "a/b", "/a", "../a", "a\0b", "a\nb", "\u{85}", ".twinlink", ".TwinLink", &longer]
        {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
