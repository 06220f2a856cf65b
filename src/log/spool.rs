//! Lines on their way to a file, a pipe or a terminal that may be slow: a queue and a thread of its own,
//! so that whoever logs never waits for whoever reads.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::text::remedy;

/// Lines that may wait for a reader; beyond them, lines are dropped.
const LONGEST_QUEUE: usize = 16 * 1024;
/// How long the end of a log waits for a slow reader.
const LAST_WAIT: Duration = Duration::from_secs(2);

enum Message {
    Line(Vec<u8>),
    /// Answered when all before it is written.
    Flush(SyncSender<()>),
}

/// A bounded queue of lines to one reader.
#[derive(Clone)]
pub(crate) struct Spool {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    error: Arc<Mutex<Option<String>>>,
}

impl Spool {
    /// Starts the thread that writes to `sink`.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(crate) fn start(name: &str, mut sink: impl Write + Send + 'static) -> io::Result<Spool> {
        let (queue, lines) = mpsc::sync_channel(LONGEST_QUEUE);
        let error = Arc::new(Mutex::new(None));
        let told = Arc::clone(&error);
        thread::Builder::new().name(name.into()).spawn(move || write_all(&lines, &mut sink, &told))?;
        Ok(Spool { queue, dropped: Arc::default(), error })
    }

    /// Queues a line; drops and counts it where the queue is full.
    pub(crate) fn offer(&self, line: Vec<u8>) {
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Queues a line that must not be lost, for as long as a slow reader is waited for.
    pub(crate) fn insist(&self, line: Vec<u8>) {
        if !self.send(Message::Line(line)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all is written, or a slow reader has been waited for long enough.
    pub(crate) fn flush(&self) {
        let (done, answer) = mpsc::sync_channel(1);
        if self.send(Message::Flush(done)) {
            // No answer in time: nobody reads.
            let _ = answer.recv_timeout(LAST_WAIT);
        }
    }

    /// Lines dropped so far, because nobody read them.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Why nothing more can be written, if that is so.
    pub(crate) fn error(&self) -> Option<String> {
        self.error.lock().ok()?.clone()
    }

    fn send(&self, mut message: Message) -> bool {
        let until = Instant::now() + LAST_WAIT;
        loop {
            match self.queue.try_send(message) {
                Ok(()) => return true,
                Err(TrySendError::Full(back)) if Instant::now() < until => message = back,
                Err(_) => return false,
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn write_all(lines: &Receiver<Message>, sink: &mut impl Write, error: &Mutex<Option<String>>) {
    let mut broken = false;
    for message in lines {
        match message {
            Message::Line(line) if !broken => {
                if let Err(cause) = sink.write_all(&line).and_then(|()| sink.flush()) {
                    broken = true;
                    if let Ok(mut error) = error.lock() {
                        let remedy = remedy(&cause).map_or(String::new(), |remedy| format!(": {remedy}"));
                        *error = Some(format!("{cause}{remedy}"));
                    }
                }
            }
            Message::Line(_) => {}
            // Nobody may wait for the answer any more.
            Message::Flush(done) => drop(done.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that takes nothing until it is told to.
    struct Stuck(Arc<Mutex<Vec<u8>>>, Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.1.recv();
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_no_waiting() {
        let (go, gate) = mpsc::channel();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let spool = Spool::start("test", Stuck(Arc::clone(&taken), gate)).unwrap();
        (0..2 * LONGEST_QUEUE).for_each(|_| spool.offer(b"x\n".to_vec()));
        let dropped = spool.dropped();
        assert!(dropped as usize >= LONGEST_QUEUE - 1, "{dropped} dropped");
        drop(go);
        spool.flush();
        let lines = taken.lock().unwrap().iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(lines, 2 * LONGEST_QUEUE - dropped as usize);
    }
}
