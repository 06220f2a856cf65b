//! Grades for other programs: Gradescope's results.json, a table of the class, and JUnit's XML. Pure.

use std::fmt::Write;

use anyhow::Result;
use serde_json::json;

use super::assignment::Assignment;
use super::class::{Grade, Trial};
use super::judge::points;
use crate::report::plot::escape;

/// Returns points as a number with at most two decimals.
fn rounded(points: f64) -> f64 {
    // The sum of no points is -0.0.
    (points * 100.0).round() / 100.0 + 0.0
}

/// The form of Gradescope's autograder (its documentation, "Autograder Specifications", "Output Format").
pub(crate) fn gradescope(assignment: &Assignment, grade: &Grade) -> Result<String> {
    let tests: Vec<_> = grade
        .trials
        .iter()
        .enumerate()
        .map(|(at, trial)| {
            let condition = &assignment.conditions[trial.condition];
            let seeds = assignment.seeds().count() as f64;
            let verdict = trial.verdict.as_ref();
            let share = verdict.map_or(0.0, |verdict| verdict.share);
            json!({
                "number": (at + 1).to_string(),
                "name": format!("{}, {}", condition.name, trial.seed_name(assignment)),
                "score": rounded(share * condition.points / seeds),
                "max_score": rounded(condition.points / seeds),
                "status": if share >= 1.0 { "passed" } else { "failed" },
                "output": lines(trial),
                "visibility": if trial.hidden { "after_published" } else { "visible" },
            })
        })
        .collect();
    Ok(serde_json::to_string_pretty(&json!({
        "score": rounded(grade.all_points(assignment)),
        "output": grade.reason(),
        "visibility": "visible",
        "tests": tests,
    }))?)
}

/// Says in lines what was expected and what came.
fn lines(trial: &Trial) -> String {
    let Some(verdict) = &trial.verdict else { return trial.reason() };
    let mut text = String::new();
    for check in &verdict.checks {
        let mark = if check.ok { "ok" } else { "missed" };
        let came = check.shown(trial.hidden);
        let _ = writeln!(text, "{} ({mark}): expected {}; came: {came}", check.name, check.expected);
    }
    text
}

/// A table of the class: a line a submission.
pub(crate) fn csv<'a>(assignment: &Assignment, grades: impl Iterator<Item = &'a Grade>) -> String {
    let mut text = String::from("submission,points,of");
    for condition in &assignment.conditions {
        let _ = write!(text, ",{}", quoted(&condition.name));
    }
    text += ",graded,reason\n";
    for grade in grades {
        let (all, of) = (points(grade.all_points(assignment)), points(assignment.points()));
        let _ = write!(text, "{},{all},{of}", quoted(&grade.name));
        for index in 0..assignment.conditions.len() {
            let _ = write!(text, ",{}", points(grade.points(assignment, index)));
        }
        let graded = if grade.is_incomplete() { "no" } else { "yes" };
        let _ = writeln!(text, ",{graded},{}", quoted(&grade.reason()));
    }
    text
}

/// Quotes a value (RFC 4180). A spreadsheet takes one that begins like a formula for text.
fn quoted(text: &str) -> String {
    let text = text.replace(['\n', '\r'], " ");
    let formula = if text.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
    format!("\"{formula}{}\"", text.replace('"', "\"\""))
}

/// The class as JUnit's XML: a suite a submission, a case a trial.
pub(crate) fn junit<'a>(assignment: &Assignment, grades: impl Iterator<Item = &'a Grade>) -> String {
    let mut suites = String::new();
    let (mut tests, mut failures) = (0, 0);
    for grade in grades {
        let mut cases = String::new();
        let failed = |trial: &&Trial| !trial.verdict.as_ref().is_some_and(|verdict| verdict.share >= 1.0);
        let missed = grade.trials.iter().filter(failed).count() + usize::from(grade.build_problem.is_some());
        let built = grade.build_problem.iter().map(|problem| ("build".to_string(), problem.clone(), 0.0));
        let trials = grade.trials.iter().map(|trial| {
            let condition = &assignment.conditions[trial.condition];
            let name = format!("{}, {}", condition.name, trial.seed_name(assignment));
            let took = trial.verdict.as_ref().and_then(|verdict| verdict.elapsed_ms).unwrap_or_default();
            let why = if failed(&trial) { trial.reason() } else { String::new() };
            (name, why, took / 1e3)
        });
        let all: Vec<(String, String, f64)> = built.chain(trials).collect();
        for (name, why, took_s) in &all {
            let (suite, name) = (plain(&grade.name), plain(name));
            let _ = write!(cases, "    <testcase classname=\"{suite}\" name=\"{name}\" time=\"{took_s:.3}\"");
            if why.is_empty() {
                cases += "/>\n";
            } else {
                let _ = writeln!(cases, "><failure message=\"{}\"/></testcase>", plain(why));
            }
        }
        tests += all.len();
        failures += missed;
        let _ = write!(
            suites,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{missed}\">\n{cases}  </testsuite>\n",
            plain(&grade.name),
            all.len()
        );
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"{}\" tests=\"{tests}\" failures=\"{failures}\">\n{suites}</testsuites>\n",
        plain(&assignment.title)
    )
}

/// Text for an attribute: XML 1.0 has no control characters.
fn plain(text: &str) -> String {
    let visible = |c: char| if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') { ' ' } else { c };
    escape(&text.chars().map(visible).collect::<String>())
}
