//! The time in which this process ran: what deadlines are judged by.
//!
//! A process that is stopped (SIGSTOP, a paused container, a machine that stalls) sees nothing of what
//! comes meanwhile, so that time is not a server's silence. A thread looks at the clock every 100 ms; a
//! gap of more than 500 ms between two looks is time in which the process stood still.

use std::future::Future;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(100);
const LEAST_GAP: Duration = Duration::from_millis(500);

struct Clock {
    /// Whether a thread looks at the clock. Without it a gap says nothing, and all time counts.
    watched: bool,
    began: Instant,
    seen: Instant,
    still: Duration,
}

impl Clock {
    fn new(now: Instant, watched: bool) -> Clock {
        Clock { watched, began: now, seen: now, still: Duration::ZERO }
    }

    /// Returns the running time at `now`.
    fn look(&mut self, now: Instant) -> Duration {
        let gap = now.saturating_duration_since(self.seen);
        if self.watched && gap > LEAST_GAP {
            self.still += gap - TICK;
        }
        self.seen = self.seen.max(now);
        self.seen.duration_since(self.began).saturating_sub(self.still)
    }
}

fn clock() -> &'static Mutex<Clock> {
    static CLOCK: OnceLock<Mutex<Clock>> = OnceLock::new();
    CLOCK.get_or_init(|| {
        let watch = || loop {
            std::thread::sleep(TICK);
            now();
        };
        let watched = std::thread::Builder::new().name("clock".into()).spawn(watch).is_ok();
        Mutex::new(Clock::new(Instant::now(), watched))
    })
}

/// Returns how long this process has run since the clock was first asked.
pub(crate) fn now() -> Duration {
    clock().lock().expect("nobody panics while holding the clock").look(Instant::now())
}

/// Returns how long this process has stood still since the clock was first asked.
pub(crate) fn stood_still() -> Duration {
    let mut clock = clock().lock().expect("nobody panics while holding the clock");
    clock.look(Instant::now());
    clock.still
}

/// Sleeps until the process has run until `deadline`.
pub(crate) async fn sleep_until(deadline: Duration) {
    while let Some(left) = deadline.checked_sub(now()).filter(|left| !left.is_zero()) {
        tokio::time::sleep(left).await;
    }
}

/// Waits for `work` for at most `limit` of running time; `None` when that is over.
pub(crate) async fn timeout<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let deadline = now() + limit;
    tokio::select! {
        biased;
        done = work => Some(done),
        () = sleep_until(deadline) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_the_process_stood_still_does_not_count() {
        let start = Instant::now();
        let mut clock = Clock::new(start, true);
        let mut at = start;
        for _ in 0..10 {
            at += TICK;
            clock.look(at);
        }
        assert_eq!(clock.look(at), 10 * TICK);
        // Stopped for 12 s: one tick of it counts, since the next look was due after one.
        at += Duration::from_secs(12);
        assert_eq!(clock.look(at), 11 * TICK);
        assert_eq!(clock.still, Duration::from_secs(12) - TICK);
        at += LEAST_GAP;
        assert_eq!(clock.look(at), 11 * TICK + LEAST_GAP);
    }
}
