//! The page's comparisons: bars of a place, matrices of schedules by places, spans of segment times.
//! Pure: what was compared goes in, markup comes out.

use std::fmt::Write;

use super::model::{ConditionResults, EntrantResults, Study};
use super::numbers::{seconds, short};
use super::plot::{escape, stacked};
use super::run::LoggedRun;
use super::sheet::Sheet;
use super::stats;
use super::worth;
use crate::units::LinkId;

/// The time of each schedule as a bar, with its interval, and the bound as a line.
pub(crate) fn bars(place: &ConditionResults) -> String {
    let slowest = |cell: &EntrantResults| cell.runs.iter().map(|run| run.elapsed_ms).fold(0.0, f64::max);
    let top =
        |cell: &EntrantResults| cell.elapsed_ms.map(|time| time.high.max(time.median).max(slowest(cell)));
    let longest = place.cells.iter().filter_map(top).fold(0.0, f64::max);
    let bound = stats::median(place.cells.iter().filter_map(|cell| cell.bound_ms));
    let at = |ms: f64| if longest > 0.0 { ms / longest * 100.0 } else { 0.0 };
    let mut rows = String::new();
    for (index, cell) in place.cells.iter().enumerate() {
        let best = place.best == Some(index);
        let name =
            format!("<span class=\"name{}\">{}</span>", if best { " best" } else { "" }, escape(&cell.label));
        let Some(time) = cell.elapsed_ms else {
            let _ = write!(rows, "{name}<span class=\"note\">no complete run</span><span></span>");
            continue;
        };
        let mut track = format!(
            "<b class=\"{}\" style=\"width:{:.2}%\"></b>",
            if best { "win" } else { "" },
            at(time.median)
        );
        if time.n > 1 {
            let (low, width) = (at(time.low), at(time.high) - at(time.low));
            let _ = write!(track, "<span class=\"ci\" style=\"left:{low:.2}%;width:{width:.2}%\"></span>");
            for run in &cell.runs {
                let (left, name) = (at(run.elapsed_ms), escape(&run.run.name));
                let took = seconds(run.elapsed_ms);
                let _ = write!(
                    track,
                    "<span class=\"dot\" style=\"left:{left:.2}%\" title=\"{name}: {took}\"></span>"
                );
            }
        }
        if let Some(bound) = bound {
            let _ = write!(track, "<span class=\"bound\" style=\"left:{:.2}%\"></span>", at(bound));
        }
        let value = seconds(time.median);
        let _ = write!(
            rows,
            "{name}<span class=\"track\" role=\"img\" aria-label=\"{}: {value}\">{track}</span><span class=\"value\">{value}</span>",
            escape(&cell.label)
        );
    }
    let line =
        bound.map_or(String::new(), |bound| format!("; the dashed line is the bound, {}", seconds(bound)));
    format!(
        "<figure><figcaption>Time of each schedule, from 0 to {}: the bar ends at the median, the thin line is its interval, each dot is a run{line}.</figcaption><div class=\"bars\">{rows}</div></figure>",
        seconds(longest)
    )
}

/// The numbers of a place.
pub(crate) fn table(place: &ConditionResults) -> Option<String> {
    let mut sheet = Sheet::new(&[
        ("schedule", true),
        ("runs", false),
        ("median s", false),
        ("interval", false),
        ("efficiency", false),
        ("longer than best", false),
        ("interval", false),
        ("", true),
    ]);
    for (index, cell) in place.cells.iter().enumerate() {
        let dash = |text: Option<String>| text.unwrap_or_else(|| "–".into());
        let failed = if cell.failures > 0 { format!(" + {} failed", cell.failures) } else { String::new() };
        let (time, by) = (cell.elapsed_ms, cell.against_best);
        let interval = time
            .filter(|time| time.n > 1)
            .map(|time| format!("{:.3}–{:.3}", time.low / 1e3, time.high / 1e3));
        let longer = by.filter(|by| by.pct.n > 1);
        sheet.row(
            &marked(&escape(&cell.label), place.best == Some(index)),
            &[
                format!("{}{failed}", cell.runs.len()),
                dash(time.map(|time| format!("{:.3}", time.median / 1e3))),
                dash(interval),
                dash(cell.efficiency.map(|efficiency| format!("{efficiency:.3}"))),
                dash(by.map(|by| format!("{:+.1} %", by.pct.median))),
                dash(longer.map(|by| format!("{:+.1} to {:+.1}", by.pct.low, by.pct.high))),
                by.as_ref().map_or("", worth::judged).into(),
            ],
        );
    }
    sheet.markup()
}

/// The best has a star.
fn marked(text: &str, is_best: bool) -> String {
    if is_best { format!("<span class=\"best\">{text}</span>") } else { text.into() }
}

/// A matrix's field: its markup, and how warm it is, 0 to 1.
pub(crate) type Field = (String, Option<f64>);

/// Columns that stay readable beside each other.
const COLUMNS: usize = 6;

/// Schedules by places; places where nothing has a value are left out, and so is an empty matrix. Where the window
/// is narrow, the style sheet puts the columns below each other, by the order that each cell carries.
pub(crate) fn matrix(
    study: &Study,
    of: impl Fn(&ConditionResults, &EntrantResults) -> Option<Field>,
) -> Option<String> {
    let field = |place: &ConditionResults, label: &str| place.cell(label).and_then(|cell| of(place, cell));
    let places: Vec<&ConditionResults> = study
        .places
        .iter()
        .filter(|place| study.labels.iter().any(|label| field(place, label).is_some()))
        .collect();
    let tables = places.chunks(COLUMNS).map(|places| {
        let order = |column: usize, row: usize| column * (study.labels.len() + 1) + row;
        let mut text = String::from("<table class=\"matrix\"><thead><tr><th></th>");
        for (column, place) in places.iter().enumerate() {
            let _ = write!(text, "<th style=\"order:{}\">{}</th>", order(column, 0), escape(&place.name()));
        }
        text += "</tr></thead><tbody>";
        for (row, label) in study.labels.iter().enumerate() {
            let label_text = escape(label);
            let _ = write!(text, "<tr><th>{label_text}</th>");
            for (column, place) in places.iter().enumerate() {
                let order = order(column, row + 1);
                let (value, heat) = field(place, label).unwrap_or_else(|| ("–".into(), None));
                let (class, heat) = heat.map_or(("", String::new()), |heat| {
                    (" class=\"heat\"", format!(";--h:{:.2}", heat.clamp(0.0, 1.0) * 0.55))
                });
                let _ = write!(
                    text,
                    "<td{class} style=\"order:{order}{heat}\" data-of=\"{label_text}\"><span>{value}</span></td>"
                );
            }
            text += "</tr>";
        }
        text + "</tbody></table>"
    });
    (!places.is_empty()).then(|| tables.collect())
}

pub(crate) fn times(study: &Study) -> Option<String> {
    matrix(study, |place, cell| {
        let time = cell.elapsed_ms?;
        let text = format!("{:.2}", time.median / 1e3);
        let best = place.best.is_some_and(|best| place.cells[best].label == cell.label);
        Some((marked(&text, best), None))
    })
}

pub(crate) fn efficiency(study: &Study) -> Option<String> {
    matrix(study, |_, cell| cell.efficiency.map(|value| (format!("{value:.3}"), Some(value))))
}

pub(crate) fn shares(study: &Study) -> Option<String> {
    matrix(study, |_, cell| {
        let share = cell.share_a_pct?;
        let alt = format!("{share:.1} % from a, {:.1} % from b", 100.0 - share);
        Some((
            format!("{}<span>{share:.1} %</span>", stacked(&[("a", share), ("b", 100.0 - share)], &alt)),
            None,
        ))
    })
}

/// The prediction's error, warm where it is large.
pub(crate) fn predictions(study: &Study) -> Option<String> {
    matrix(study, |_, cell| {
        let (predicted, measured) = (cell.predicted_ms?, cell.elapsed_ms?.median);
        let error = Some((predicted - measured) / measured * 100.0).filter(|error| error.is_finite())?;
        let text = format!("{:.2} for {:.2} s ({error:+.1} %)", predicted / 1e3, measured / 1e3);
        Some((text, Some(error.abs() / 20.0)))
    })
}

pub(crate) fn viewers(study: &Study) -> Option<String> {
    if !study.group.runs.iter().any(LoggedRun::is_film) {
        return None;
    }
    let some = |cell: &EntrantResults| cell.median(|end| end.qoe.as_ref()?.startup_delay_ms);
    matrix(study, |_, cell| {
        let startup = some(cell)?;
        let of = |field: fn(&crate::log::schema::Qoe) -> Option<f64>| {
            cell.median(|end| field(end.qoe.as_ref()?)).unwrap_or(0.0)
        };
        let count = of(|qoe| Some(qoe.rebuffer_count as f64));
        let text = if count == 0.0 {
            format!("{}, no stall", seconds(startup))
        } else {
            format!(
                "{}, {} stalls, {}; {:.3}, {:.3}",
                seconds(startup),
                short(count),
                seconds(of(|qoe| Some(qoe.rebuffer_ms))),
                of(|qoe| qoe.rebuffer_ratio),
                of(|qoe| qoe.stall_per_media)
            )
        };
        Some((text, None))
    })
}

/// How long segments took from their request to their last byte, on each link: 5 to 95 %, the middle
/// half, the median.
pub(crate) fn segment_times(place: &ConditionResults) -> Option<String> {
    let times = |cell: &EntrantResults, link: LinkId| {
        let segments =
            cell.all_runs().flat_map(|run| &run.segments).filter(|segment| segment.link == Some(link));
        stats::sorted(segments.map(|segment| segment.done_ms - segment.requested_ms))
    };
    let spans: Vec<(&EntrantResults, [Option<[f64; 5]>; 2])> = place
        .cells
        .iter()
        .map(|cell| {
            let span = |link| {
                let times = times(cell, link);
                let at = |p| stats::quantile(&times, p);
                Some([at(0.05)?, at(0.25)?, at(0.5)?, at(0.75)?, at(0.95)?])
            };
            (cell, LinkId::BOTH.map(span))
        })
        .collect();
    let longest =
        spans.iter().flat_map(|(_, two)| two.iter().flatten()).map(|span| span[4]).fold(0.0, f64::max);
    if longest <= 0.0 {
        return None;
    }
    let mut rows = String::new();
    for (cell, two) in &spans {
        let mut tracks = String::new();
        let mut values = Vec::new();
        for (class, span) in ["a", "b"].into_iter().zip(two) {
            let Some(span) = span else { continue };
            let at = span.map(|ms| ms / longest * 100.0);
            let alt = format!(
                "link {class}: half within {}, 95 of 100 within {}",
                seconds(span[2]),
                seconds(span[4])
            );
            let _ = write!(
                tracks,
                "<div class=\"track two {class}\" role=\"img\" aria-label=\"{alt}\"><span class=\"wide\" style=\"left:{:.1}%;width:{:.1}%\"></span>\
                 <span class=\"mid\" style=\"left:{:.1}%;width:{:.1}%\"></span><span class=\"med\" style=\"left:{:.1}%\"></span></div>",
                at[0],
                at[4] - at[0],
                at[1],
                at[3] - at[1],
                at[2]
            );
            values.push(format!("<span class=\"key {class}\">{}</span>", seconds(span[2])));
        }
        let _ = write!(
            rows,
            "<span class=\"name\">{}</span><div>{tracks}</div><span class=\"value\">{}</span>",
            escape(&cell.label),
            values.join("<br>")
        );
    }
    Some(format!(
        "<figure><figcaption>From a segment's request to its last byte: line 5 to 95 %, bar the middle half, tick and number \
         the median; the axis ends at {}.</figcaption><div class=\"bars\">{rows}</div></figure>",
        seconds(longest)
    ))
}
