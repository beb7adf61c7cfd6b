//! A table, as Markdown, LaTeX, CSV and HTML.

use maud::{Markup, html};

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its heading.
    pub name: String,
    /// Whether it is aligned to the right.
    pub is_number: bool,
}

/// A table of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name in files.
    pub id: String,
    /// What it shows, and under which conditions.
    pub caption: String,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its rows, each as long as there are columns.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Removes columns without any content.
    pub fn compact(mut self) -> Self {
        let is_used: Vec<bool> = (0..self.columns.len())
            .map(|column| self.rows.iter().any(|row| !row.get(column).is_none_or(String::is_empty)))
            .collect();
        let mut used = is_used.iter();
        self.columns.retain(|_| used.next() == Some(&true));
        for row in &mut self.rows {
            let mut used = is_used.iter();
            row.retain(|_| used.next() == Some(&true));
        }
        self
    }

    /// Returns the table for Markdown, with its caption.
    pub fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut text = line(self.columns.iter().map(|column| plain(&column.name)).collect());
        text +=
            &line(self.columns.iter().map(|column| if column.is_number { "---:" } else { "---" }.to_owned()).collect());
        for row in &self.rows {
            text += &line(row.iter().map(|cell| plain(cell)).collect());
        }
        format!("{text}\n{}\n", self.caption)
    }

    /// Returns the table for LaTeX with booktabs.
    pub fn latex(&self) -> String {
        let form: String = self.columns.iter().map(|column| if column.is_number { 'r' } else { 'l' }).collect();
        let line = |cells: Vec<String>| format!("    {} \\\\\n", cells.join(" & "));
        let head = line(self.columns.iter().map(|column| tex(&column.name)).collect());
        let rows: String = self.rows.iter().map(|row| line(row.iter().map(|cell| tex(cell)).collect())).collect();
        format!(
            "% Needs \\usepackage{{booktabs}}.\n\\begin{{table}}\n  \\centering\n  \\caption{{{}}}\n  \\label{{tab:{}}}\n  \
             \\begin{{tabular}}{{{form}}}\n    \\toprule\n{head}    \\midrule\n{rows}    \\bottomrule\n  \
             \\end{{tabular}}\n\\end{{table}}\n",
            tex(&self.caption),
            self.id
        )
    }

    /// Returns the table as CSV.
    pub fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        // A buffer takes everything.
        let _ = writer.write_record(self.columns.iter().map(|column| &column.name));
        for row in &self.rows {
            let _ = writer.write_record(row);
        }
        writer.into_inner().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Returns the table as HTML, in a frame that scrolls.
    pub fn html(&self) -> Markup {
        html! {
            figure {
                div.scroll tabindex="0" role="region" aria-label=(self.caption) {
                    table {
                        thead { tr { @for column in &self.columns { th scope="col" .number[column.is_number] { (column.name) } } } }
                        tbody {
                            @for row in &self.rows {
                                tr {
                                    @for (place, (cell, column)) in row.iter().zip(&self.columns).enumerate() {
                                        @if place == 0 { th scope="row" { (cell) } } @else { td .number[column.is_number] { (cell) } }
                                    }
                                }
                            }
                        }
                    }
                }
                figcaption { (self.caption) }
            }
        }
    }
}

/// Escapes what would end a cell of Markdown.
fn plain(cell: &str) -> String {
    cell.replace('|', "\\|").replace('\n', " ")
}

/// Escapes what LaTeX gives a meaning to.
fn tex(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', c]),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '\\' => escaped.push_str("\\textbackslash{}"),
            '–' => escaped.push_str("--"),
            'µ' => escaped.push_str("\\textmu{}"),
            '×' => escaped.push_str("$\\times$"),
            '±' => escaped.push_str("$\\pm$"),
            '…' => escaped.push_str("\\dots{}"),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let column = |name: &str, is_number| Column { name: name.to_owned(), is_number };
        Table {
            id: "cold".to_owned(),
            caption: "100 % of_all".to_owned(),
            columns: vec![column("function", false), column("empty", false), column("median, ms", true)],
            rows: vec![vec!["a|b_c".to_owned(), String::new(), "1–2".to_owned()]],
        }
        .compact()
    }

    #[test]
    fn cells_survive_each_format() {
        assert_eq!(
            table().markdown(),
            "| function | median, ms |\n| --- | ---: |\n| a\\|b_c | 1–2 |\n\n100 % of_all\n"
        );
        assert_eq!(table().csv(), "function,\"median, ms\"\na|b_c,1–2\n");
        let latex = table().latex();
        for part in ["\\begin{tabular}{lr}", "a|b\\_c & 1--2 \\\\", "\\caption{100 \\% of\\_all}", "\\toprule"] {
            assert!(latex.contains(part), "{part} is missing: {latex}");
        }
        let html = table().html().into_string();
        assert!(
            html.contains("<th scope=\"row\">a|b_c</th>") && html.contains("<td class=\"number\">1–2</td>"),
            "{html}"
        );
    }
}
