//! The scheduler of the user's as a process of its own: lines of JSON on its standard input and output.
//!
//! A thread carries the lines, so that a program that neither reads nor writes holds nobody up beyond a limit. The
//! process is ended with its owner.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::schedule::exec::{AdvisedFile, Adviser, Question};

/// How long a program may take for an answer, and for its first one, before which it starts.
const ANSWER_TIME: Duration = Duration::from_secs(1);
const START_TIME: Duration = Duration::from_secs(10);
/// The longest answer that is read (bytes).
const LONGEST_ANSWER: u64 = 4096;

/// A running program that decides which part each link fetches.
#[derive(Debug)]
pub(crate) struct AdviserProcess {
    child: Child,
    questions: Sender<String>,
    answers: Receiver<std::io::Result<String>>,
    stderr: File,
}

impl AdviserProcess {
    /// Starts a line for `sh` in the current folder, and tells it the files.
    ///
    /// # Errors
    /// The program ends, or does not answer within 10 s.
    pub(crate) fn start(line: &str, files: Vec<AdvisedFile>) -> Result<AdviserProcess> {
        let stderr = tempfile::tempfile().context("cannot make a temporary file; set TMPDIR")?;
        let copy = stderr.try_clone().context("cannot share a file")?;
        let mut child = Command::new("sh")
            .args(["-c", line])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(copy)
            .process_group(0)
            .spawn()
            .context("cannot run sh, which starts the scheduler")?;
        let (questions, asked) = channel::<String>();
        let (tell, answers) = channel();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        std::thread::Builder::new()
            .name("scheduler".into())
            .spawn(move || {
                let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else { return };
                let mut stdout = BufReader::new(stdout);
                while let Ok(question) = asked.recv() {
                    let mut answer = String::new();
                    // A program that has ended says so by an empty answer.
                    let _ = stdin.write_all(format!("{question}\n").as_bytes()).and_then(|()| stdin.flush());
                    let read = (&mut stdout).take(LONGEST_ANSWER).read_line(&mut answer);
                    if tell.send(read.map(|_| answer)).is_err() {
                        return;
                    }
                }
            })
            .context("cannot start a thread")?;
        let mut started = AdviserProcess { child, questions, answers, stderr };
        let first = serde_json::to_string(&Question::Start { files })?;
        let answered = started.answer(&first, START_TIME);
        answered.map_err(|problem| anyhow!("cannot use the scheduler \"{line}\": {problem}"))?;
        Ok(started)
    }

    fn answer(&mut self, line: &str, time: Duration) -> Result<String, String> {
        // Without its thread there is no answer either.
        let _ = self.questions.send(line.to_string());
        match self.answers.recv_timeout(time) {
            Ok(Ok(answer)) if answer.ends_with('\n') => Ok(answer),
            Ok(Ok(answer)) if answer.len() as u64 >= LONGEST_ANSWER => {
                Err(format!("its answer is longer than {LONGEST_ANSWER} bytes"))
            }
            Err(RecvTimeoutError::Timeout) => Err(format!(
                "it did not answer within {} s; does it write a line for each line, and flush it?{}",
                time.as_secs(),
                self.printed()
            )),
            Ok(_) | Err(RecvTimeoutError::Disconnected) => Err(format!("it has ended{}", self.printed())),
        }
    }

    /// Returns the last line that it printed as an error.
    fn printed(&self) -> String {
        let length = self.stderr.metadata().map_or(0, |metadata| metadata.len());
        let mut last = vec![0; 4096];
        let read = self.stderr.read_at(&mut last, length.saturating_sub(4096)).unwrap_or(0);
        let text = String::from_utf8_lossy(&last[..read]);
        text.trim_end().lines().last().map_or(String::new(), |line| format!("; it printed: {line}"))
    }
}

impl Adviser for AdviserProcess {
    fn ask(&mut self, line: &str) -> Result<String, String> {
        self.answer(line, ANSWER_TIME)
    }
}

impl Drop for AdviserProcess {
    fn drop(&mut self) {
        // Its whole group: the shell, and what that started.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(-pid), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(line: &str) -> Result<AdviserProcess> {
        AdviserProcess::start(line, vec![AdvisedFile { name: "x", bytes: Some(7) }])
    }

    #[test]
    fn lines_go_there_and_back() {
        let mut adviser = start("read line; echo \"$line\" | cut -c1-30; exec cat").unwrap();
        assert_eq!(adviser.ask("{\"a\":1}"), Ok("{\"a\":1}\n".into()));
        assert_eq!(adviser.ask("second"), Ok("second\n".into()));
    }

    #[test]
    fn programs_that_end_or_keep_silent_are_named() {
        let ended = format!("{:#}", start("echo no idea >&2; exit 3").unwrap_err());
        assert!(
            ended.contains("\"echo no idea") && ended.contains("it has ended; it printed: no idea"),
            "{ended}"
        );
        let mut silent = start("read line; echo ready; sleep 100").unwrap();
        let problem = silent.ask("x").unwrap_err();
        assert!(problem.contains("did not answer within 1 s"), "{problem}");
        let mut long =
            start("read line; echo ready; head -c 9999 /dev/zero | tr '\\0' x; sleep 100").unwrap();
        assert!(long.ask("x").unwrap_err().contains("longer than 4096 bytes"));
    }
}
