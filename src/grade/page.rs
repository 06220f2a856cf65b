//! The page of one submission: what was tried, what was expected, what came.

use std::fmt::Write;

use super::assignment::Assignment;
use super::class::{Grade, Trial};
use super::judge::points;
use crate::config::server_fault::{FaultKind, ServerFault};
use crate::report::html::document;
use crate::report::load;
use crate::report::numbers::seconds;
use crate::report::plot::escape;
use crate::report::sheet::Sheet;
use crate::report::timeline::{self, Detail};

/// Steps of a timeline.
const DETAIL: Detail = Detail { most: 200, names: true };

/// The whole page. Of hidden seeds it shows what was missed, and nothing from which the seed could be told.
pub(crate) fn page(assignment: &Assignment, grade: &Grade) -> String {
    let got = points(grade.all_points(assignment));
    let of = points(assignment.points());
    let header = format!(
        "<h1>{}: {}</h1><p class=\"sub\">{got} of {of} points</p>",
        escape(&assignment.title),
        escape(&grade.name)
    );
    let mut body = String::new();
    if let Some(problem) = &grade.build_problem {
        let _ = write!(body, "<div class=\"verdict problems\"><p>{}</p></div>", escape(problem));
    }
    let mut sheet = Sheet::new(&[("", true), ("points", false), ("of", false), ("", true)]);
    for (index, condition) in assignment.conditions.iter().enumerate() {
        let trials = grade.trials.iter().filter(|trial| trial.condition == index);
        let reason = trials.map(Trial::reason).find(|reason| !reason.is_empty()).unwrap_or_default();
        let got = points(grade.points(assignment, index));
        sheet.row(&escape(&condition.name), &[got, points(condition.points), escape(&reason)]);
    }
    body += &format!("<section id=\"verdict\"><h2>Points</h2>{}", sheet.markup().unwrap_or_default());
    body += "<p class=\"note\">Everything here was seen from outside the program: by the servers, by the links and in its \
             folder. Efficiency is the time that the two links need at least, over the time that was taken. Points of \
             several seeds are their mean.</p></section>";
    for (index, condition) in assignment.conditions.iter().enumerate() {
        let _ = write!(body, "<section><h2>{}</h2>{}", escape(&condition.name), tried(assignment, index));
        let mut drawn = false;
        for trial in grade.trials.iter().filter(|trial| trial.condition == index) {
            body += &one(assignment, trial);
            if !trial.hidden && !std::mem::replace(&mut drawn, true) {
                body += &drawing(trial);
            }
        }
        body += "</section>";
    }
    document(&format!("{}: {}", assignment.title, grade.name), &header, &body)
}

/// Says what was tried.
fn tried(assignment: &Assignment, index: usize) -> String {
    let condition = &assignment.conditions[index];
    let links = condition.links.names();
    let [a, b] = links.map(|name| name.unwrap_or_else(|| "not shaped".into()));
    let faults: String = ["a", "b"]
        .iter()
        .zip(condition.faults)
        .filter_map(|(server, fault)| Some(format!(" Server {server} {}.", fault_words(fault?))))
        .collect();
    let filled_in =
        |line: String, (name, value): (&str, String)| line.replace(&format!("{{{name}}}"), &value);
    let line = condition.placeholders().into_iter().fold(assignment.command.clone(), filled_in);
    format!(
        "<p>Link a: {}. Link b: {}.{faults} Started as <code>{}</code>.</p>",
        escape(&a),
        escape(&b),
        escape(&line)
    )
}

/// Says what a server does on purpose.
fn fault_words(fault: ServerFault) -> String {
    let does = match fault.kind {
        FaultKind::Dies => "dies",
        FaultKind::Trickles => "sends 10 kB/s on each connection",
        FaultKind::Corrupts => "sends a wrong byte in each answer",
        FaultKind::Busy => "answers 503",
    };
    if fault.after.0 == 0 { does.into() } else { format!("{does} after {}", fault.after) }
}

/// One trial: its checks.
fn one(assignment: &Assignment, trial: &Trial) -> String {
    let seed = trial.seed_name(assignment);
    let Some(verdict) = &trial.verdict else {
        return format!("<h3>{seed}</h3><p>{}</p>", escape(&trial.reason()));
    };
    let took = verdict.elapsed_ms.filter(|_| !trial.hidden).map_or(String::new(), |ms| {
        let bound =
            verdict.bound_ms.map_or(String::new(), |ms| format!(", at least {} on these links", seconds(ms)));
        format!(": {}{bound}", seconds(ms))
    });
    let got = points(verdict.share * assignment.conditions[trial.condition].points);
    let mut sheet = Sheet::new(&[("", true), ("expected", true), ("came", true), ("", true)]);
    for check in &verdict.checks {
        let mark = if check.ok { "✓" } else { "✗" };
        let cells = [escape(&check.expected), escape(check.shown(trial.hidden)), mark.into()];
        sheet.row(&check.name, &cells);
    }
    let mut text = format!("<h3>{seed}{took}: {got} points</h3>{}", sheet.markup().unwrap_or_default());
    if !trial.hidden && !verdict.printed.is_empty() {
        let _ = write!(
            text,
            "<p class=\"note\">The last line of its standard error: {}</p>",
            escape(&verdict.printed)
        );
    }
    text
}

/// The timeline of a trial, from its log.
fn drawing(trial: &Trial) -> String {
    let Ok(loaded) = load::load(std::slice::from_ref(&trial.folder)) else { return String::new() };
    let drawn: String = loaded.runs().map(|run| timeline::markup(run, DETAIL)).collect();
    format!("<details><summary>Timeline</summary>{drawn}</details>")
}
