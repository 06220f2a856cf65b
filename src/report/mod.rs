//! `twinlink report`: from logs to a verdict in words, a page, tables and a summary.
//!
//! Its stages are files of their own: [`load`] reads logs into [`run`]s, [`compare`] puts runs into cells of the [`model`] and says
//! which is best ([`stats`], [`split`]), [`words`] says it in sentences and [`worth`] what it is worth; [`table`], [`csv`], [`summary`]
//! and [`html`] (with [`charts`], [`timeline`], [`setting`], [`sheet`] and [`plot`]) render, each one thing. It knows neither the client nor the links: logs are the
//! contract. A report is derived, so making it again replaces it; logs are never touched.

pub(crate) mod charts;
pub(crate) mod compare;
pub(crate) mod csv;
pub(crate) mod html;
pub(crate) mod load;
pub(crate) mod model;
pub(crate) mod numbers;
pub(crate) mod plot;
pub(crate) mod run;
pub(crate) mod setting;
pub(crate) mod sheet;
pub(crate) mod split;
pub(crate) mod stats;
pub(crate) mod summary;
pub(crate) mod table;
pub(crate) mod timeline;
pub(crate) mod words;
pub(crate) mod worth;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::results::Folder;
use crate::results::PAGE;
use crate::text::{print, visible};
use load::Loaded;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ReportArgs {
    /// A run's folder, a folder of results, an experiment's folder, or a log
    #[arg(required = true, value_name = "DIR")]
    pub paths: Vec<PathBuf>,
    /// Where report.html, summary.json and csv/ go [default: the first DIR]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Count runs that met faults like the others; else they are named and left out of every figure
    #[arg(long)]
    pub with_faulty: bool,
    /// Print the tables alone, as Markdown or LaTeX (with booktabs), and write nothing
    #[arg(long, value_enum, value_name = "FORM")]
    pub export: Option<table::TableForm>,
}

/// The command: what could be used is reported, what could not is named, and then the exit code says so.
pub(crate) fn main(args: ReportArgs) -> Result<()> {
    let loaded = load::load(&args.paths)?;
    if loaded.runs().next().is_none() {
        let named: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
        bail!("nothing to report: {}", visible(&named.join("; ")));
    }
    let out = args.out.unwrap_or_else(|| folder_of(&args.paths[0]));
    let studies = compare::studies(&loaded, args.with_faulty);
    if let Some(form) = args.export {
        return print(&table::export(&studies, form));
    }
    print(&table::text(&studies))?;
    write(&loaded, &studies, &out)?;
    print(&format!("{}\n", out.join(PAGE).display()))?;
    for problem in &loaded.problems {
        tracing::warn!("{}", visible(&problem.to_string()));
    }
    match loaded.problems.len() {
        0 => Ok(()),
        1 => bail!("the report is there, without what the warning above names"),
        count => bail!("the report is there, without what the {count} warnings above name"),
    }
}

/// Makes the report of one folder without a word, as after a run; returns its tables as text.
///
/// # Errors
/// When it cannot be read, or its report not be written.
pub(crate) fn leave_in(dir: &Path) -> Result<String> {
    let loaded = load::load(&[dir.to_path_buf()])?;
    let studies = compare::studies(&loaded, false);
    write(&loaded, &studies, dir)?;
    Ok(table::text(&studies))
}

const SUMMARY: &str = "summary.json";
const TABLES: &str = "csv";

fn folder_of(path: &Path) -> PathBuf {
    if path.is_dir() { path.into() } else { path.parent().unwrap_or(Path::new("")).into() }
}

fn write(loaded: &Loaded, studies: &[model::Study], out: &Path) -> Result<()> {
    let folder = Folder::make(out)?;
    let tables = folder.child(TABLES.as_ref())?;
    csv::write(loaded, &tables)?;
    let summary = summary::json(studies, &loaded.problems)?;
    folder.replace(SUMMARY, |out| out.write_all(summary.as_bytes()))?;
    folder.replace(PAGE, |file| file.write_all(html::page(loaded, studies, out).as_bytes()))
}
