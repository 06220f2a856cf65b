//! Runs `tc` and `ip`, and puts what they say on stderr into the error.

use std::io::{ErrorKind, Write};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// A program that talks to the kernel's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    Tc,
    Ip,
}

impl Tool {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Tool::Tc => "tc",
            Tool::Ip => "ip",
        }
    }

    fn command(self) -> Command {
        let mut command = Command::new(self.name());
        command.env("PATH", path()).env("LC_ALL", "C");
        command
    }
}

/// Where the programs are looked for: a user's PATH often lacks the folders that they live in.
pub(crate) fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")
}

/// Runs one command and returns its stdout.
pub(crate) fn output(tool: Tool, args: &[&str]) -> Result<String> {
    let what = format!("{} {}", tool.name(), args.join(" "));
    let output = tool.command().args(args).stdin(Stdio::null()).output().map_err(|e| start(tool, e))?;
    if !output.status.success() {
        bail!("cannot run \"{what}\": {}", complaint(&output));
    }
    String::from_utf8(output.stdout).with_context(|| format!("\"{what}\" printed text that is not UTF-8"))
}

/// Runs one command and parses what it prints as JSON. Nothing at all is an empty list.
pub(crate) fn json(tool: Tool, args: &[&str]) -> Result<serde_json::Value> {
    let text = output(tool, args)?;
    if text.trim().is_empty() {
        return Ok(serde_json::Value::Array(Vec::new()));
    }
    serde_json::from_str(&text)
        .with_context(|| format!("cannot understand what \"{} {}\" printed", tool.name(), args.join(" ")))
}

/// Runs lines in order and stops at the first that fails, which the error names.
pub(crate) fn batch(tool: Tool, lines: &[String]) -> Result<()> {
    // netem's uniform distribution is a table that iproute2 does not ship, so lines that name it
    // run with a folder of ours in the place of its own.
    for lines in lines.chunk_by(|one, other| needs_table(one) == needs_table(other)) {
        let tables = needs_table(&lines[0]).then(tables).transpose()?;
        let mut command = command_with(tool, tables.as_ref());
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| start(tool, e))?;
        let text = lines.join("\n") + "\n";
        let mut stdin = child.stdin.take().expect("stdin was asked to be a pipe");
        // A program that stops early closes its stdin; its exit code says why.
        let _ = stdin.write_all(text.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().with_context(|| format!("cannot wait for {}", tool.name()))?;
        if !output.status.success() {
            let line = failed_line(&output, lines);
            bail!("cannot run \"{} {line}\": {}", tool.name(), complaint(&output));
        }
    }
    Ok(())
}

/// A program that finds its distributions in a folder of ours, where there is one.
pub(crate) fn command_with(tool: Tool, tables: Option<&tempfile::TempDir>) -> Command {
    let mut command = tool.command();
    if let Some(tables) = tables {
        command.env("TC_LIB_DIR", tables.path());
    }
    command
}

/// Whether a line names the uniform distribution, and so a table that iproute2 does not ship.
pub(crate) fn needs_table(line: &str) -> bool {
    line.contains(" distribution uniform")
}

/// A folder with `uniform.dist`: 4096 values from -1 to 1, as netem scales them (8192 is 1).
pub(crate) fn tables() -> Result<tempfile::TempDir> {
    let dir =
        tempfile::tempdir().context("cannot make a temporary folder for netem's uniform distribution")?;
    let values: Vec<String> = (-8192..8192).step_by(4).map(|value| value.to_string()).collect();
    let path = dir.path().join("uniform.dist");
    std::fs::write(&path, values.join("\n") + "\n")
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(dir)
}

/// Returns whether a program that was not started is in no folder of the `:`-separated `path`. A folder there that this
/// user may not enter makes the system say "permission denied" of a program that is nowhere.
pub(crate) fn is_missing(program: &str, path: &str, error: &std::io::Error) -> bool {
    let is_there = || std::env::split_paths(path).any(|folder| folder.join(program).is_file());
    match error.kind() {
        ErrorKind::NotFound => true,
        ErrorKind::PermissionDenied => !program.contains('/') && !is_there(),
        _ => false,
    }
}

pub(crate) fn start(tool: Tool, error: std::io::Error) -> anyhow::Error {
    let name = tool.name();
    if is_missing(name, &path(), &error) {
        return anyhow::anyhow!("{name} not found: install the package iproute2 (the lab's image has it)");
    }
    anyhow::Error::from(error).context(format!("cannot start {name}"))
}

/// Returns the error output of a failed command, on one line.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("Command failed"))
        .take(3)
        .collect();
    if lines.is_empty() { format!("it ended with {}", output.status) } else { lines.join("; ") }
}

/// The line that "Command failed -:N" points at.
fn failed_line<'a>(output: &Output, lines: &'a [String]) -> &'a str {
    let text = String::from_utf8_lossy(&output.stderr);
    let number = text.lines().find_map(|line| {
        line.strip_prefix("Command failed")?.rsplit(':').next()?.trim().parse::<usize>().ok()
    });
    number.and_then(|number| lines.get(number.wrapping_sub(1))).unwrap_or(&lines[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn failed(stderr: &str) -> Output {
        Output {
            status: std::process::ExitStatus::from_raw(256),
            stdout: Vec::new(),
            stderr: stderr.as_bytes().to_vec(),
        }
    }

    #[test]
    fn a_folder_of_the_path_that_cannot_be_entered_hides_no_missing_program() {
        let dir = tempfile::tempdir().unwrap();
        let path = format!("/no/such/folder:{}", dir.path().display());
        let denied = || std::io::Error::from(ErrorKind::PermissionDenied);
        assert!(is_missing("tc", &path, &denied()));
        assert!(is_missing("tc", &path, &ErrorKind::NotFound.into()));
        assert!(!is_missing("/sbin/tc", &path, &denied()), "a path names one file");
        assert!(!is_missing("tc", &path, &ErrorKind::OutOfMemory.into()));
        std::fs::write(dir.path().join("tc"), "").unwrap();
        assert!(!is_missing("tc", &path, &denied()), "it is there and may not be run");
        let text = |error| format!("{:#}", start(Tool::Tc, error));
        assert_eq!(
            text(ErrorKind::NotFound.into()),
            "tc not found: install the package iproute2 (the lab's image has it)"
        );
    }

    #[test]
    fn the_line_that_failed_is_named_with_what_the_program_said() {
        let lines = ["one".to_string(), "two".to_string()];
        let output = failed("Error: Specified qdisc kind is unknown.\nCommand failed -:2\n");
        assert_eq!(failed_line(&output, &lines), "two");
        assert_eq!(complaint(&output), "Error: Specified qdisc kind is unknown.");
        assert_eq!(failed_line(&failed("odd"), &lines), "one");
        assert!(complaint(&failed("")).contains("exit status: 1"));
    }
}
