//! `report.html`: one file without anything from elsewhere, so that it works offline, from a mail, and on
//! paper. Its script adds values under the pointer, a zoom and exports; the page is complete without it. A single run's page is the same page with one cell.

use std::fmt::Write;
use std::path::Path;

use super::charts;
use super::load::{Loaded, Problem};
use super::model::{ConditionResults, EntrantResults, Study};
use super::numbers::{mbit, seconds, short};
use super::plot::escape;
use super::run::LoggedRun;
use super::setting;
use super::sheet::Sheet;
use super::timeline::{self, Detail};
use super::words;
use crate::log::outcome::Outcome;
use crate::results::PAGE;
use crate::units::LinkId;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Steps of all timelines together. A step takes up to 330 bytes, so that the page stays under 5 MB.
const DETAIL: usize = 12_000;
/// Bars have names where there are no more timelines than this: a name is as long as five bars.
const NAMED: usize = 12;
/// The most timelines on a page.
const TIMELINES: usize = 60;

/// The whole page.
/// `out` is its folder.
pub(crate) fn page(loaded: &Loaded, studies: &[Study], out: &Path) -> String {
    let title = match studies {
        [study] => heading(study),
        studies => format!("{} studies", studies.len()),
    };
    let mut body = String::new();
    for (index, study) in studies.iter().enumerate() {
        let id = if index == 0 { " id=\"verdict\"" } else { "" };
        let _ = write!(body, "<section{id}>{}", section_of(study, studies.len() > 1));
    }
    // Of a single run, what it did comes first; of many, how they compare.
    let all_details: String = studies.iter().map(details).collect();
    let drawn = timelines(studies, out);
    body += &if loaded.runs().count() == 1 { drawn + &all_details } else { all_details + &drawn };
    body += &setting::markup(loaded);
    let body = number_sections(&body);
    let header = format!(
        "<h1>{}</h1>{}<nav>{}</nav>",
        with_units(&escape(&title)),
        subtitle(loaded, studies),
        navigation(&body)
    );
    document(&title, &header, &format!("{}\n{body}", problems(&loaded.problems)))
}

/// A page of its own, with the style and the script of all.
pub(crate) fn document(title: &str, header: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"generator\" content=\"twinlink {}\"><link rel=\"icon\" href=\"data:,\">\
         <title>{} – twinlink</title>\n<style>\n{STYLE}</style></head>\n<body>\n<header>{header}</header>\n\
         <main>{body}</main>\n<script>\n{SCRIPT}</script>\n</body></html>\n",
        env!("CARGO_PKG_VERSION"),
        escape(title),
    )
}

/// The page's first line: of a single run, how it went.
fn heading(study: &Study) -> String {
    match &study.group.runs[..] {
        [run] => words::headline(run),
        _ => study.title.clone(),
    }
}

/// Keeps each number on one line with its unit.
fn with_units(text: &str) -> String {
    text.replace(" s,", "&nbsp;s,").replace(" % ", "&nbsp;% ")
}

/// Gives each section without an id one, for the navigation.
fn number_sections(body: &str) -> String {
    let mut parts = body.split("<section><h2>");
    let first = parts.next().unwrap_or_default().to_string();
    (1..)
        .zip(parts)
        .fold(first, |text, (number, part)| text + &format!("<section id=\"section-{number}\"><h2>{part}"))
}

/// Links to the sections of the page.
fn navigation(body: &str) -> String {
    let sections = body.split("<section id=\"").skip(1).filter_map(|section| {
        let (id, rest) = section.split_once("\"><h2>")?;
        let (title, _) = rest.split_once("</h2>")?;
        Some(format!("<a href=\"#{id}\">{title}</a>"))
    });
    sections.collect()
}

/// Sentences as a list; one alone as a paragraph.
fn bullets(sentences: &[String]) -> String {
    match sentences {
        [one] => format!("<p>{}</p>", escape(one)),
        several => {
            let items: String = several.iter().map(|one| format!("<li>{}</li>", escape(one))).collect();
            format!("<ul>{items}</ul>")
        }
    }
}

/// The links of a run, or of runs that all have the same.
fn links_in_short(runs: &[&LoggedRun]) -> String {
    let of = |run: &LoggedRun| LinkId::BOTH.map(|link| run.shaping(link).map(words::shaping));
    let Some((first, others)) = runs.split_first() else { return String::new() };
    let both = of(first);
    if others.iter().any(|run| of(run) != both) || both.iter().all(Option::is_none) {
        return String::new();
    }
    let items = LinkId::BOTH.into_iter().zip(both).map(|(link, said)| {
        let said = said.unwrap_or_else(|| "not shaped".into());
        format!("<li><span class=\"key {link}\">link {link}</span>: {}</li>", escape(&said))
    });
    format!("<ul class=\"plain\">{}</ul>", items.collect::<String>())
}

/// The words that a reader needs first.
const TERMS: &str = "<p class=\"note\"><b>Bound</b>: the least time in which both links could carry these files at their \
    rates. <b>Efficiency</b>: the bound over the time that was taken; 1 is the fastest possible. <b>Goodput</b>: file \
    bytes that came, over the time.</p>";

fn subtitle(loaded: &Loaded, studies: &[Study]) -> String {
    let runs: Vec<&LoggedRun> = loaded.runs().collect();
    let mut when: Vec<&str> =
        runs.iter().filter_map(|run| Some(run.start.as_ref()?.wall_clock.as_str())).collect();
    when.sort_unstable();
    let is_complete = |run: &&&LoggedRun| run.end.as_ref().is_some_and(|end| end.exit == Outcome::Ok);
    let complete = runs.iter().filter(is_complete).count();
    let counted =
        studies.iter().flat_map(|s| &s.places).flat_map(|p| &p.cells).map(|c| c.runs.len()).sum::<usize>();
    let apart = if counted < complete { format!(", {counted} without a fault") } else { String::new() };
    let span = match when[..] {
        [] => String::new(),
        [one] => format!(", {}", minute(one)),
        [first, .., last] => format!(", {} to {}", minute(first), minute(last)),
    };
    let described =
        studies.iter().find_map(|study| study.group.sweep.as_ref()?.starts.first()?.description.clone());
    let described = described.map_or(String::new(), |text| format!("<p>{}</p>", escape(&text)));
    let counted = match runs.len() {
        1 => "One run".to_string(),
        count => format!("{count} runs, {complete} of them with every file{apart}"),
    };
    format!("{described}<p class=\"sub\">{counted}{}</p>{}", escape(&span), links_in_short(&runs))
}

/// A wall clock to the minute.
fn minute(wall_clock: &str) -> String {
    let date = wall_clock.get(..16).unwrap_or(wall_clock);
    date.replace('T', " ") + " UTC"
}

fn problems(problems: &[Problem]) -> String {
    if problems.is_empty() {
        return String::new();
    }
    let items: String =
        problems.iter().map(|problem| format!("<li>{}</li>", escape(&problem.to_string()))).collect();
    format!("<div class=\"verdict problems\"><h3>Not everything could be used</h3><ul>{items}</ul></div>")
}

/// The verdict and what it rests on; named after its study where there are several.
fn section_of(study: &Study, named: bool) -> String {
    let mut text = String::new();
    let single = match &study.group.runs[..] {
        [run] => Some(run),
        _ => None,
    };
    let head = if single.is_some() { "What happened" } else { "Verdict" };
    let of = if named { format!(" of {}", escape(&study.title)) } else { String::new() };
    let _ = write!(text, "<h2>{head}{of}</h2>");
    if let Some(run) = single {
        text += &one_run(run);
        return text + TERMS + "</section>";
    }
    for place in &study.places {
        let verdict = words::verdict(place);
        let mut said = bullets(&verdict.said);
        if !verdict.worth.is_empty() {
            let _ = write!(
                said,
                "<details><summary>How sure is this?</summary>{}</details>",
                bullets(&verdict.worth)
            );
        }
        let met = place.cells.iter().flat_map(EntrantResults::all_runs).any(|run| run.met().next().is_some());
        let class = match (place.best, met) {
            (None, _) => " problems",
            (Some(_), true) => " faulty",
            (Some(_), false) => "",
        };
        let _ = write!(text, "<div class=\"verdict{class}\"><h3>{}</h3>{said}</div>", escape(&place.name()));
    }
    if !study.faults.is_empty() {
        let items: String = study.faults.iter().map(|fault| format!("<li>{}</li>", escape(fault))).collect();
        let _ = write!(
            text,
            "<div class=\"verdict problems\"><h3>Faults of the experiment, beside its runs</h3><ul>{items}</ul></div>"
        );
    }
    text += TERMS;
    text += "<p class=\"note\">Times are medians; an interval says how often such an interval holds the true median, and \
             needs six runs for 95 %. Differences are compared block by block where the runs have blocks. One is significant \
             where chance makes it in less than 5 % of all cases, and significant alone where Holm&#39;s correction for the \
             number of comparisons takes that back.</p></section>";
    text += &titled("Time of each schedule (s)", charts::times(study), "The least of each column is marked.");
    text += "<section><h2>Each condition</h2>";
    for place in &study.places {
        let _ = write!(
            text,
            "<h3>{}</h3>{}<details><summary>The numbers</summary>{}</details>",
            escape(&place.name()),
            charts::bars(place),
            charts::table(place).unwrap_or_default()
        );
    }
    text + "</section>"
}

/// Returns the results of a single run, in figures and in words.
fn one_run(run: &LoggedRun) -> String {
    let mut text = String::from("<div class=\"facts\">");
    let mut fact = |value: Option<String>, what: &str| {
        if let Some(value) = value {
            let _ = write!(text, "<div><b>{value}</b><span>{what}</span></div>");
        }
    };
    if let Some(end) = &run.end {
        fact(end.elapsed_ms.map(seconds), "first request to last file");
        fact(end.bound_ms.map(seconds), "bound");
        fact(end.efficiency.map(|efficiency| format!("{efficiency:.3}")), "efficiency");
        fact(end.links.a.goodput_kbit.map(|kbit| format!("{} Mbit/s", mbit(kbit))), "link a");
        fact(end.links.b.goodput_kbit.map(|kbit| format!("{} Mbit/s", mbit(kbit))), "link b");
        fact(Some(end.files.to_string()), "files");
    }
    text += "</div>";
    let said = bullets(&words::explain(run));
    let ok = run.end.as_ref().is_some_and(|end| end.exit == Outcome::Ok);
    let class = match (ok, run.met().count()) {
        (false, _) => " problems",
        (true, 0) => "",
        (true, _) => " faulty",
    };
    if class == " faulty" {
        text += "<div class=\"verdict faulty\"><p>Something went wrong during this run, so its figures are not \
                 those of its links alone.</p></div>";
    }
    text + &format!("<div class=\"verdict{class}\">{said}</div>")
}

/// A section, where there is something to show.
fn titled(title: &str, body: Option<String>, note: &str) -> String {
    body.map_or(String::new(), |body| {
        format!("<section><h2>{title}</h2>{body}<p class=\"note\">{note}</p></section>")
    })
}

fn details(study: &Study) -> String {
    let mut text = String::new();
    if study.group.runs.len() > 1 {
        text += &titled(
            "Efficiency",
            charts::efficiency(study),
            "The bound over the time that was taken: 1 is what physics allows, without losses and without TCP's start.",
        );
    }
    text += &titled("Share of the bytes from link a", charts::shares(study), "");
    text += &throughputs(study);
    let times: String = study
        .places
        .iter()
        .filter_map(|place| {
            Some(format!("<h3>{}</h3>{}", escape(&place.name()), charts::segment_times(place)?))
        })
        .collect();
    text +=
        &titled("Segment times", (!times.is_empty()).then_some(times), "All runs of a schedule together.");
    text += &titled(
        "Predicted against measured",
        charts::predictions(study),
        "What the simulation expected, and the median that was measured; darker where they are far apart.",
    );
    text + &titled(
        "What a viewer would have met",
        charts::viewers(study),
        "Startup delay, stalls and their length, then stall over stall and play time (CTA-2066) and stall over media time \
         (as in ITU-T P.1203). Medians. Segments are played in order, none is skipped.",
    )
}

fn throughputs(study: &Study) -> String {
    let mut sheet = Sheet::new(&[
        ("", true),
        ("how", true),
        ("a", false),
        ("b", false),
        ("a to b", false),
        ("a, both busy", false),
        ("b, both busy", false),
    ]);
    for place in &study.places {
        let Some(throughput) = &place.throughput else { continue };
        let (alone, together) = (&throughput.alone_kbit, &throughput.together_kbit);
        let dash = |kbit: Option<f64>| kbit.map_or("–".into(), mbit);
        sheet.row(
            &escape(&place.name()),
            &[
                if throughput.source == "alone" { "measured alone" } else { "probed" }.into(),
                mbit(alone.a),
                mbit(alone.b),
                short(alone.a / alone.b),
                dash(together.as_ref().map(|both| both.a)),
                dash(together.as_ref().map(|both| both.b)),
            ],
        );
    }
    titled("Throughput of each link (Mbit/s of payload)", sheet.markup(), "")
}

/// Links to the log of a run and to its own page, where they lie below the page's folder.
fn sources(run: &LoggedRun, out: &Path) -> String {
    let Ok(log) = run.path.strip_prefix(out) else { return String::new() };
    let page = log.with_file_name(PAGE);
    let own = out.join(&page).is_file() && page != Path::new(PAGE);
    let link = |path: &Path, text| format!("<a href=\"{}\">{text}</a>", escape(&path.to_string_lossy()));
    let page = if own { format!(" · {}", link(&page, "its own page")) } else { String::new() };
    format!(
        "<p class=\"note\">{} · {}{page}</p>",
        link(log, "log"),
        link(Path::new("csv/segments.csv"), "tables")
    )
}

/// A timeline for each cell's median run, as many as the page can bear.
fn timelines(studies: &[Study], out: &Path) -> String {
    let cells: Vec<(&Study, &ConditionResults, usize, &EntrantResults)> = studies
        .iter()
        .flat_map(|study| study.places.iter().map(move |place| (study, place)))
        .flat_map(|(study, place)| {
            place.cells.iter().enumerate().map(move |(at, cell)| (study, place, at, cell))
        })
        .collect();
    // The best of each place come first where not all can be shown.
    let mut shown: Vec<usize> = (0..cells.len()).collect();
    shown.sort_by_key(|&index| (cells[index].1.best != Some(cells[index].2), index));
    shown.truncate(TIMELINES);
    shown.sort_unstable();
    let detail = Detail { most: (DETAIL / shown.len().max(1)).min(600), names: shown.len() <= NAMED };
    let mut text = String::from("<section id=\"timelines\"><h2>Timelines</h2>");
    let runs: usize = studies.iter().map(|study| study.group.runs.len()).sum();
    if runs > shown.len() {
        let _ = write!(
            text,
            "<p class=\"note\">One run a schedule and condition, the one nearest to the median time: {} of {runs} runs{}. \
             The others are in the tables, and <code>twinlink report</code> on a run's own folder draws it in full.</p>",
            shown.len(),
            if shown.len() < cells.len() { ", those of the best schedules first" } else { "" }
        );
    }
    let mut opened = false;
    for &index in &shown {
        let (_, place, at, cell) = cells[index];
        let Some(run) = cell.representative() else { continue };
        let drawn = timeline::markup(run, detail);
        let took = run.end.as_ref().and_then(|end| end.elapsed_ms).map_or("not complete".into(), seconds);
        let wanted = cells[index].1.best == Some(at) || shown.len() == 1;
        let open = if wanted && !std::mem::replace(&mut opened, true) { " open" } else { "" };
        let _ = write!(
            text,
            "<details{open}><summary>{}: <strong>{}</strong>, {took} <span class=\"note\">run {}</span></summary>{}{drawn}</details>",
            escape(&place.name()),
            escape(&cell.label),
            escape(&run.name),
            sources(run, out)
        );
    }
    text + "</section>"
}
