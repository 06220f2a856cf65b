//! The report on a terminal: a table for each study, then the verdict of each place in words.

use std::fmt::Write;

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};

use super::model::{ConditionResults, EntrantResults, Study};
use super::words;
use super::worth;
use crate::text::{fit, visible};

const LINE: LineStyle = LineStyle::none().fill('─').junction('─');
/// Lines around the rows, none between them: a place may have a dozen.
const STYLE: TableStyle = TableStyle::new().top_border(LINE).header_separator(LINE).bottom_border(LINE);

const COLUMNS: [&str; 8] =
    ["schedule", "runs", "median s", "interval", "efficiency", "from a", "longer than best", ""];

/// The same where a table must fit a terminal.
const SHORT_COLUMNS: [&str; 8] =
    ["schedule", "runs", "median s", "interval", "effic.", "from a", "longer", ""];

/// A form of tables for papers and notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TableForm {
    Md,
    Latex,
}

/// Returns a table for each condition, without the verdicts.
pub(crate) fn export(studies: &[Study], form: TableForm) -> String {
    let places = studies.iter().flat_map(|study| &study.places);
    places.map(|place| export_one(place, form)).collect::<Vec<_>>().join("\n")
}

fn export_one(place: &ConditionResults, form: TableForm) -> String {
    let rows = place.cells.iter().enumerate().map(|(index, cell)| {
        let [label, runs, median, interval, efficiency, share, longer] = row(cell);
        let remark = remark(cell, place.best == Some(index)).to_string();
        [label, runs, median, interval, efficiency, share, longer, remark]
    });
    let rows = [COLUMNS.map(String::from)].into_iter().chain(rows);
    let (name, columns) = (place.name(), COLUMNS.len() - 2);
    match form {
        TableForm::Md => {
            let cell = |text: String| visible(&text).replace('|', "\\|");
            let mut lines = rows.map(|row| format!("| {} |\n", row.map(cell).join(" | ")));
            let head = lines.next().unwrap_or_default();
            let rule = format!("|---|{}---|\n", "---:|".repeat(columns));
            format!("**{}**\n\n{head}{rule}{}", cell(name), lines.collect::<String>())
        }
        TableForm::Latex => {
            let mut lines = rows.map(|row| format!("{} \\\\\n", row.map(|text| latex(&text)).join(" & ")));
            let head = lines.next().unwrap_or_default();
            format!(
                "\\begin{{table}}\n\\caption{{{}}}\n\\begin{{tabular}}{{l{}l}}\n\\toprule\n{head}\\midrule\n{}\\bottomrule\n\
                 \\end{{tabular}}\n\\end{{table}}\n",
                latex(&name),
                "r".repeat(columns),
                lines.collect::<String>()
            )
        }
    }
}

/// Text in which LaTeX finds no command.
fn latex(text: &str) -> String {
    let escape = |sign| match sign {
        '\\' => "\\textbackslash{}".into(),
        '^' => "\\textasciicircum{}".into(),
        '~' => "\\textasciitilde{}".into(),
        '{' | '}' | '$' | '&' | '#' | '_' | '%' => format!("\\{sign}"),
        other => String::from(other),
    };
    visible(text).chars().map(escape).collect()
}

pub(crate) fn text(studies: &[Study]) -> String {
    let mut text = String::new();
    for study in studies {
        let _ = writeln!(text, "{}\n", study.title);
        for place in &study.places {
            let _ = writeln!(text, "{}\n{}", place.name(), table(place));
            let said = match &study.group.runs[..] {
                [run] => words::explain(run),
                _ => words::verdict(place).sentences().collect(),
            };
            for sentence in said {
                let _ = writeln!(text, "{sentence}");
            }
            text.push('\n');
        }
        for fault in &study.faults {
            let _ = writeln!(text, "Fault of the experiment, beside its runs: {fault}.");
        }
    }
    text
}

fn table(place: &ConditionResults) -> String {
    let mut table = Table::new();
    table.load_style(STYLE);
    fit(&mut table);
    table.set_header(SHORT_COLUMNS);
    for column in 1..7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for (index, cell) in place.cells.iter().enumerate() {
        let best = place.best == Some(index);
        table.add_row(row(cell).into_iter().chain([remark(cell, best).to_string()]));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    table.to_string()
}

fn row(cell: &EntrantResults) -> [String; 7] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let apart = [(cell.failures, "failed"), (cell.left_out, "with faults")];
    let apart = apart.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    let apart = apart.collect::<Vec<_>>().join(", ");
    let failed = if apart.is_empty() { String::new() } else { format!(" ({apart})") };
    let time = cell.elapsed_ms;
    [
        cell.label.clone(),
        format!("{}{failed}", cell.runs.len()),
        or_dash(time.map(|time| format!("{:.3}", time.median / 1e3))),
        or_dash(
            time.filter(|time| time.n > 1)
                .map(|time| format!("{:.3} to {:.3}", time.low / 1e3, time.high / 1e3)),
        ),
        or_dash(cell.efficiency.map(|efficiency| format!("{efficiency:.3}"))),
        or_dash(cell.share_a_pct.map(|share| format!("{share:.1} %"))),
        or_dash(cell.against_best.as_ref().map(|by| format!("{:+.1} %", by.pct.median))),
    ]
}

fn remark(cell: &EntrantResults, best: bool) -> &'static str {
    if best { "best" } else { cell.against_best.as_ref().map_or("", worth::judged) }
}
