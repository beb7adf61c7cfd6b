//! The results of a run: tables of sections, as Markdown and as JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::{
    figures::{self, Figure, Reached},
    machine::Machine,
};

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Date and machine.
    pub machine: Machine,
    /// In the order of execution.
    pub sections: Vec<Section>,
    /// Every target figure.
    pub figures: Vec<Reached>,
}

/// Results of one section.
#[derive(Debug, Default, Serialize)]
pub struct Section {
    /// Name on the command line.
    pub name: String,
    /// Duration in seconds.
    pub seconds: f64,
    /// Tables.
    pub tables: Vec<Table>,
    /// Contestants that could not be measured, with reasons.
    pub missing: Vec<String>,
    /// Measured target figures.
    pub figures: Vec<(Figure, f64)>,
}

/// Numbers by contestant and quantity.
#[derive(Debug, Default, Serialize)]
pub struct Table {
    title: String,
    /// Kind of the rows.
    of: String,
    columns: Vec<Column>,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Column {
    name: String,
    #[serde(skip)]
    decimals: usize,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    values: Vec<Option<f64>>,
}

impl Table {
    /// Creates an empty table. A column is a name with its unit, and a number of decimals.
    pub fn new(title: impl Into<String>, of: &str, columns: &[(&str, usize)]) -> Self {
        let columns = columns.iter().map(|(name, decimals)| Column { name: (*name).to_owned(), decimals: *decimals });
        Self { title: title.into(), of: of.to_owned(), columns: columns.collect(), rows: Vec::new() }
    }

    /// Adds a row. `None` is a missing quantity.
    pub fn row(&mut self, name: impl Into<String>, values: &[Option<f64>]) {
        debug_assert_eq!(values.len(), self.columns.len());
        self.rows.push(Row { name: name.into(), values: values.to_vec() });
    }

    fn markdown(&self) -> String {
        let head = std::iter::once(self.of.clone()).chain(self.columns.iter().map(|column| column.name.clone()));
        let rows = self.rows.iter().map(|row| {
            let values = self.columns.iter().zip(&row.values).map(|(column, value)| number(*value, column.decimals));
            std::iter::once(row.name.clone()).chain(values).collect()
        });
        let rows: Vec<Vec<String>> = std::iter::once(head.collect()).chain(rows).collect();
        format!("**{}**\n\n{}", self.title, grid(&rows))
    }
}

impl Section {
    /// Creates an empty section.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Adds a contestant that could not be measured.
    pub fn miss(&mut self, what: &str, why: &str) {
        self.missing.push(format!("{what}: {why}"));
    }

    /// Adds a figure, if measured.
    pub fn figure(&mut self, figure: Figure, value: Option<f64>) {
        self.figures.extend(value.map(|value| (figure, value)));
    }

    /// Returns the section as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("## {}\n", self.name);
        for table in &self.tables {
            let _ = write!(text, "\n{}", table.markdown());
        }
        if !self.missing.is_empty() {
            let _ = write!(text, "\nNot compared:\n\n");
            for missing in &self.missing {
                let _ = writeln!(text, "- {missing}");
            }
        }
        text
    }
}

impl Report {
    /// Combines the sections with the target figures.
    pub fn new(machine: Machine, sections: Vec<Section>) -> Self {
        let measured: Vec<_> = sections.iter().flat_map(|section| section.figures.iter().copied()).collect();
        Self { machine, sections, figures: figures::reached(&measured) }
    }

    /// Returns the report as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("# UniFaaS compared\n\n{}\n", self.machine.markdown());
        for section in &self.sections {
            let _ = writeln!(text, "{}", section.markdown());
        }
        text + &self.figures_markdown()
    }

    /// Returns the table of figures as Markdown.
    pub fn figures_markdown(&self) -> String {
        let head = ["what", "at least", "dream", "measured", "reached"].map(str::to_owned).to_vec();
        let rows = self.figures.iter().map(Reached::cells);
        let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
        format!("## Figures to reach\n\n{}", grid(&rows))
    }
}

/// Formats a number with decimals and thousands separators.
pub fn number(value: Option<f64>, decimals: usize) -> String {
    let Some(value) = value else { return String::new() };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let digits = whole.trim_start_matches('-');
    let mut grouped = whole[..whole.len() - digits.len()].to_owned();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + fraction
}

/// Returns an aligned Markdown table: the first column to the left, the others to the right.
fn grid(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (position, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if column == 0 { write!(text, "| {cell:<width$} |") } else { write!(text, " {cell:>width$} |") };
        }
        text.push('\n');
        if position == 0 {
            for (column, width) in widths.iter().enumerate() {
                let dashes = "-".repeat(*width);
                let _ = if column == 0 { write!(text, "| {dashes} |") } else { write!(text, " {}: |", &dashes[1..]) };
            }
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_thousands_and_missing_values() {
        let cases = [
            (Some(59_012.34), 0, "59,012"),
            (Some(1_234_567.891), 2, "1,234,567.89"),
            (Some(999.0), 0, "999"),
            (Some(-1234.5), 1, "-1,234.5"),
            (Some(-0.5), 1, "-0.5"),
            (Some(0.0), 2, "0.00"),
            (None, 2, ""),
        ];
        for (value, decimals, expected) in cases {
            assert_eq!(number(value, decimals), expected);
        }
    }

    #[test]
    fn table_is_aligned_markdown() {
        let mut table = Table::new("Warm", "contestant", &[("requests/s", 0), ("ratio", 2)]);
        table.row("direct", &[Some(59_012.3), None]);
        table.row("unifaas", &[Some(1.0), Some(0.017)]);
        assert_eq!(
            table.markdown(),
            "**Warm**\n\n\
             | contestant | requests/s | ratio |\n\
             | ---------- | ---------: | ----: |\n\
             | direct     |     59,012 |       |\n\
             | unifaas    |          1 |  0.02 |\n"
        );
    }

    #[test]
    fn missing_contestants_are_listed() {
        let mut section = Section::new("warm");
        section.miss("nginx", "not installed");
        assert!(section.markdown().contains("- nginx: not installed"));
    }
}
