//! A table of the page that needs no scrolling: where the window is narrow, the style sheet turns each row into a
//! list of its cells, each behind the name of its column. Pure: markup in, markup out.

use std::fmt::Write;

/// The rows so far, and their columns: the name of each, and whether it holds text, which stands left.
pub(crate) struct Sheet {
    columns: &'static [(&'static str, bool)],
    rows: String,
}

impl Sheet {
    pub(crate) fn new(columns: &'static [(&'static str, bool)]) -> Sheet {
        Sheet { columns, rows: String::new() }
    }

    /// Adds a name that stands once for all rows after it.
    pub(crate) fn group(&mut self, name: &str) {
        let _ =
            write!(self.rows, "<tr class=\"group\"><th colspan=\"{}\">{name}</th></tr>", self.columns.len());
    }

    /// Adds a row: what it is, then a cell for each further column.
    pub(crate) fn row(&mut self, name: &str, cells: &[String]) {
        let _ = write!(self.rows, "<tr><th>{name}</th>");
        for ((column, is_text), cell) in self.columns[1..].iter().zip(cells) {
            let _ = write!(self.rows, "<td{} data-of=\"{column}\">{cell}</td>", class(*is_text));
        }
        self.rows += "</tr>";
    }

    /// Returns the table, or none without a row.
    pub(crate) fn markup(self) -> Option<String> {
        let head = self.columns.iter().map(|(name, is_text)| format!("<th{}>{name}</th>", class(*is_text)));
        let head: String = head.collect();
        (!self.rows.is_empty()).then(|| {
            format!(
                "<table class=\"sheet\"><thead><tr>{head}</tr></thead><tbody>{}</tbody></table>",
                self.rows
            )
        })
    }
}

fn class(is_text: bool) -> &'static str {
    if is_text { " class=\"t\"" } else { "" }
}
