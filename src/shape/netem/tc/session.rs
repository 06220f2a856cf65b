//! A `tc` that stays: it takes lines as they are due, and says when each has taken effect. Starting a
//! process for each step of a trace would cost milliseconds that differ from step to step.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, bail};

use super::run::{self, Tool};

pub(crate) struct Session {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// Holds the table that the lines need for as long as they need it.
    _tables: Option<tempfile::TempDir>,
}

impl Session {
    /// Starts `tc`. `uniform` gives it the table of the uniform distribution, in the place of its own.
    pub(crate) fn start(uniform: bool) -> Result<Session> {
        let tables = uniform.then(run::tables).transpose()?;
        let mut command = run::command_with(Tool::Tc, tables.as_ref());
        command.args(["-j", "-batch", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| run::start(Tool::Tc, error))?;
        let stdin = child.stdin.take().expect("stdin was asked to be a pipe");
        let stdout = BufReader::new(child.stdout.take().expect("stdout was asked to be a pipe"));
        Ok(Session { child, stdin, stdout, _tables: tables })
    }

    /// Runs lines about a device, and returns when the kernel has done them.
    ///
    /// # Errors
    /// With what tc said; it has then ended.
    pub(crate) fn run(&mut self, dev: &str, lines: &[String]) -> Result<()> {
        // A change prints nothing; the question behind it is answered when it is done.
        let text = format!("{}\nqdisc show dev {dev}\n", lines.join("\n"));
        let sent = self.stdin.write_all(text.as_bytes()).and_then(|()| self.stdin.flush());
        let mut answer = String::new();
        let answered = sent.and_then(|()| self.stdout.read_line(&mut answer));
        match answered {
            Ok(bytes) if bytes > 0 => Ok(()),
            _ => {
                let mut said = String::new();
                if let Some(mut stderr) = self.child.stderr.take() {
                    let _ = self.child.wait();
                    stderr.read_to_string(&mut said).context("cannot read what tc said")?;
                }
                bail!("cannot run \"tc {}\": {}", lines.join("; "), said.trim().replace('\n', "; "))
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It waits for its next line, so it would not end by itself while its stdin is open.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
