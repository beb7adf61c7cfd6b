//! What a run has found out: tables of sections, told as Markdown to people and as JSON to programs.

use std::fmt::Write;

use serde::Serialize;

use crate::{
    figures::{self, Figure, Reached},
    machine::Machine,
};

/// All of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// When and where.
    pub machine: Machine,
    /// In the order in which they were run.
    pub sections: Vec<Section>,
    /// The figures to reach, every one of them.
    pub figures: Vec<Reached>,
}

/// What one section has found out.
#[derive(Debug, Default, Serialize)]
pub struct Section {
    /// As on the command line.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// The results.
    pub tables: Vec<Table>,
    /// What could not be compared, and why.
    pub missing: Vec<String>,
    /// What it says about the figures to reach.
    pub figures: Vec<(Figure, f64)>,
}

/// Numbers by contestant and quantity.
#[derive(Debug, Default, Serialize)]
pub struct Table {
    title: String,
    /// What a row is.
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
    /// A table without rows. A column is a name, with the unit, and a number of decimals.
    pub fn new(title: impl Into<String>, of: &str, columns: &[(&str, usize)]) -> Self {
        let columns = columns.iter().map(|(name, decimals)| Column { name: (*name).to_owned(), decimals: *decimals });
        Self { title: title.into(), of: of.to_owned(), columns: columns.collect(), rows: Vec::new() }
    }

    /// Adds a row. `None` is a quantity that does not exist for it.
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
    /// An empty one.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Notes something that could not be compared.
    pub fn miss(&mut self, what: &str, why: &str) {
        self.missing.push(format!("{what}: {why}"));
    }

    /// Notes a figure, if it was measured.
    pub fn figure(&mut self, figure: Figure, value: Option<f64>) {
        self.figures.extend(value.map(|value| (figure, value)));
    }

    /// For people.
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
    /// Puts the figures of the sections beside what is to be reached.
    pub fn new(machine: Machine, sections: Vec<Section>) -> Self {
        let measured: Vec<_> = sections.iter().flat_map(|section| section.figures.iter().copied()).collect();
        Self { machine, sections, figures: figures::reached(&measured) }
    }

    /// For people.
    pub fn markdown(&self) -> String {
        let mut text = format!("# UniFaaS compared\n\n{}\n", self.machine.markdown());
        for section in &self.sections {
            let _ = writeln!(text, "{}", section.markdown());
        }
        text + &self.figures_markdown()
    }

    /// The last part of it.
    pub fn figures_markdown(&self) -> String {
        let head = ["what", "at least", "dream", "measured", "reached"].map(str::to_owned).to_vec();
        let rows = self.figures.iter().map(Reached::cells);
        let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
        format!("## Figures to reach\n\n{}", grid(&rows))
    }
}

/// With as many decimals, and the thousands set apart.
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

/// A table of Markdown that is one to the eye as well: the first column to the left, the others to the right.
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
    fn thousands_are_set_apart_and_what_is_not_there_is_empty() {
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
    fn a_table_is_markdown_and_stands_in_columns() {
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
    fn a_gap_is_never_silent() {
        let mut section = Section::new("warm");
        section.miss("nginx", "not installed");
        assert!(section.markdown().contains("- nginx: not installed"));
    }
}
