//! `twinlink watch`: a run or an experiment while it goes on, on a terminal ([`view`]) or on a page ([`serve`]). Both read
//! the log as it grows ([`follow`]), so that a run is watched from anywhere, and after its end too.

pub(crate) mod follow;
pub(crate) mod serve;
pub(crate) mod view;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::text::{print, tell};
use follow::Follower;
use view::View;

/// How often the logs are looked at.
pub(crate) const EVERY: Duration = Duration::from_millis(200);

/// Shows the newest run of a folder until it ends, redrawn in place on a terminal; elsewhere at its end alone.
///
/// # Errors
/// A log cannot be read, or the output not be written.
pub(crate) fn show(root: &Path) -> Result<()> {
    let (mut follower, mut view) = (Follower::new(root, None), View::default());
    let redraws = std::io::stdout().is_terminal();
    let mut drawn = 0;
    let mut waits = false;
    loop {
        let news = follower.poll().with_context(|| format!("cannot read the log of {}", root.display()))?;
        if !std::mem::replace(&mut waits, true) && news.is_empty() {
            tell(&format!(
                "no run is in {} yet: waiting for one to begin (Ctrl-C ends this)",
                root.display()
            ));
        }
        news.iter().for_each(|news| view.take(news));
        if redraws && (drawn == 0 || !news.is_empty()) {
            drawn = redraw(&view.text(), drawn)?;
        }
        if view.has_ended() {
            return if redraws { Ok(()) } else { print(&view.text()) };
        }
        std::thread::sleep(EVERY);
    }
}

/// Draws lines over those drawn before; returns how many they are.
fn redraw(text: &str, before: usize) -> Result<usize> {
    let up = if before > 0 { format!("\x1b[{before}A\x1b[J") } else { String::new() };
    let mut stdout = std::io::stdout();
    write!(stdout, "{up}{text}").and_then(|()| stdout.flush()).context("cannot write to the terminal")?;
    Ok(text.lines().count())
}
