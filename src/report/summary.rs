//! `summary.json`: what was compared, for programs. The page says the same to people.

use serde::Serialize;

use super::load::Problem;
use super::model::Study;
use super::words;

#[derive(Serialize)]
struct SummaryFile<'a> {
    /// Name and version of this file's form; a version may gain fields.
    schema: &'static str,
    studies: &'a [Study<'a>],
    verdicts: Vec<SummaryVerdict>,
    /// Input that is unusable.
    problems: &'a [Problem],
}

#[derive(Serialize)]
struct SummaryVerdict {
    study: String,
    condition: String,
    channel: String,
    words: Vec<String>,
}

/// The summary as JSON, with a line end.
pub(crate) fn json(studies: &[Study], problems: &[Problem]) -> serde_json::Result<String> {
    let verdicts = studies
        .iter()
        .flat_map(|study| study.places.iter().map(move |place| (study, place)))
        .map(|(study, place)| SummaryVerdict {
            study: study.title.clone(),
            condition: place.condition.clone(),
            channel: place.channel.clone(),
            words: words::verdict(place).sentences().collect(),
        })
        .collect();
    let summary = SummaryFile { schema: "twinlink-summary/1", studies, verdicts, problems };
    Ok(serde_json::to_string_pretty(&summary)? + "\n")
}
