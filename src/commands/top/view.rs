//! What `unifaas top` shows: rows, their order and selection, and the lines of a frame. Without input or output.

use serde_json::Value;

use super::keys::Key;
use crate::commands::{
    ps::{members, string, style_of},
    terminal::{Cell, Column, Output, Style, Table, cut, number, text, thousands},
};

const COLUMNS: [Column; 11] = [
    text("FUNCTION"),
    text("STATE"),
    text("KIND"),
    number("REQ/S"),
    number("FAIL/S"),
    number("BUSY"),
    number("IDLE"),
    number("PAUSED"),
    number("BOOTING"),
    number("WAITING"),
    text("WHY"),
];
const HELP: &str = "↑↓ select  Enter output  s sort  / filter  q quit";
/// Columns of the bar of memory.
const BAR: usize = 20;

/// By what rows are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Functions with a problem, then busy ones.
    Attention,
    Requests,
    Failures,
    Instances,
    Waiting,
    Name,
}

impl Sort {
    const fn next(self) -> Self {
        match self {
            Self::Attention => Self::Requests,
            Self::Requests => Self::Failures,
            Self::Failures => Self::Instances,
            Self::Instances => Self::Waiting,
            Self::Waiting => Self::Name,
            Self::Name => Self::Attention,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Requests => "req/s",
            Self::Failures => "fail/s",
            Self::Instances => "instances",
            Self::Waiting => "waiting",
            Self::Name => "name",
        }
    }
}

/// One function.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub name: String,
    summary: Value,
    requests_per_s: f64,
    failures_per_s: f64,
}

impl Row {
    fn count(&self, key: &str) -> u64 {
        self.summary[key].as_u64().unwrap_or_default()
    }

    fn has_problem(&self) -> bool {
        style_of(string(&self.summary["state"])) == Some(Style::Bad)
    }
}

/// What was asked for.
#[derive(Debug)]
pub struct View {
    pub sort: Sort,
    filter: String,
    is_typing: bool,
    selected: String,
    /// The function whose output is shown instead of the list.
    pub output_of: Option<String>,
}

impl Default for View {
    fn default() -> Self {
        let (filter, selected) = Default::default();
        Self { sort: Sort::Attention, filter, is_typing: false, selected, output_of: None }
    }
}

/// Returns the functions of a summary. Rates are since an earlier one, `seconds` before.
pub fn rows(summary: &Value, earlier: Option<&Value>, seconds: f64) -> Vec<Row> {
    let row = |(name, function): (&String, &Value)| {
        let rate = |key: &str| {
            let before = earlier.and_then(|earlier| earlier["functions"][name][key].as_u64());
            let now = function[key].as_u64().unwrap_or_default();
            before.map_or(0.0, |before| now.saturating_sub(before) as f64 / seconds.max(1e-3))
        };
        let (requests_per_s, failures_per_s) = (rate("requests"), rate("failed"));
        Row { name: name.clone(), summary: function.clone(), requests_per_s, failures_per_s }
    };
    members(&summary["functions"]).map(row).collect()
}

impl View {
    /// Returns the rows to show, in order.
    pub fn chosen(&self, mut rows: Vec<Row>) -> Vec<Row> {
        rows.retain(|row| row.name.contains(&self.filter));
        let instances =
            |row: &Row| ["busy", "idle", "paused", "booting"].map(|state| row.count(state)).iter().sum::<u64>();
        // They may be in another order, for which they were chosen before.
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        // Descending; among equals, names ascend.
        let by = |key: &dyn Fn(&Row) -> f64, rows: &mut Vec<Row>| rows.sort_by(|a, b| key(b).total_cmp(&key(a)));
        match self.sort {
            Sort::Attention => {
                by(&|row| row.requests_per_s, &mut rows);
                rows.sort_by_key(|row| !row.has_problem());
            }
            Sort::Requests => by(&|row| row.requests_per_s, &mut rows),
            Sort::Failures => by(&|row| row.failures_per_s, &mut rows),
            Sort::Instances => by(&|row| instances(row) as f64, &mut rows),
            Sort::Waiting => by(&|row| row.count("waiting") as f64, &mut rows),
            Sort::Name => {}
        }
        rows
    }

    /// Applies a key. `rows` are those that are shown. Returns `false` if it ends the program.
    pub fn press(&mut self, key: Key, rows: &[Row]) -> bool {
        match key {
            Key::Interrupt => return false,
            Key::Escape | Key::Char('q') if self.output_of.is_some() => self.output_of = None,
            _ if self.output_of.is_some() => {}
            Key::Enter | Key::Escape if self.is_typing => self.is_typing = false,
            Key::Backspace if self.is_typing => drop(self.filter.pop()),
            Key::Char(char) if self.is_typing => self.filter.push(char),
            Key::Char('q') => return false,
            Key::Escape => self.filter.clear(),
            Key::Char('/') => {
                self.is_typing = true;
                self.filter.clear();
            }
            Key::Char('s') => self.sort = self.sort.next(),
            Key::Up | Key::Char('k') => self.select(rows, |at| at.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.select(rows, |at| at + 1),
            Key::Enter => self.output_of = rows.get(self.position(rows)).map(|row| row.name.clone()),
            Key::Backspace | Key::Char(_) => {}
        }
        true
    }

    fn select(&mut self, rows: &[Row], to: impl Fn(usize) -> usize) {
        let at = to(self.position(rows)).min(rows.len().saturating_sub(1));
        self.selected = rows.get(at).map(|row| row.name.clone()).unwrap_or_default();
    }

    /// Returns where the selected function is; it moves with its row.
    fn position(&self, rows: &[Row]) -> usize {
        rows.iter().position(|row| row.name == self.selected).unwrap_or_default()
    }

    /// Returns the lines of the list.
    pub fn list(&self, daemon: &Value, url: &str, rows: &[Row], height: usize, output: &Output) -> Vec<String> {
        let selected = self.position(rows);
        let room = height.saturating_sub(4).max(1);
        let first = (selected + 1).saturating_sub(room);
        let mut table = Table::new(&COLUMNS);
        for row in rows.iter().skip(first).take(room) {
            let state = string(&row.summary["state"]);
            let rate = |rate: f64| if rate == 0.0 { "0".to_owned() } else { format!("{rate:.1}") };
            table.row(vec![
                row.name.as_str().into(),
                Cell::from(state).in_style(style_of(state)),
                string(&row.summary["kind"]).into(),
                rate(row.requests_per_s).into(),
                Cell::from(rate(row.failures_per_s)).in_style((row.failures_per_s > 0.0).then_some(Style::Bad)),
                row.count("busy").into(),
                row.count("idle").into(),
                row.count("paused").into(),
                row.count("booting").into(),
                row.count("waiting").into(),
                string(&row.summary["why"]).into(),
            ]);
        }
        let mut lines = vec![overview(daemon, url, output)];
        let filter = if self.is_typing { format!("{}_", self.filter) } else { self.filter.clone() };
        let filter = if filter.is_empty() { String::new() } else { format!("  filter: {filter}") };
        lines.push(output.styled(Style::Faint, &format!("{HELP}   by {}{filter}", self.sort.name())));
        let mut of_table = table.lines(output).into_iter();
        lines.extend(of_table.next().map(|heading| format!("  {heading}")));
        let mark = |at: usize| if first + at == selected { "> " } else { "  " };
        lines.extend(of_table.enumerate().map(|(at, line)| format!("{}{line}", mark(at))));
        lines
    }
}

/// Returns the line about the daemon.
fn overview(daemon: &Value, url: &str, output: &Output) -> String {
    let draining = daemon["draining"] == true;
    let state =
        if draining { output.styled(Style::Warning, "draining") } else { output.styled(Style::Good, "serving") };
    let (taken, free) =
        (daemon["memory_taken"].as_u64().unwrap_or_default(), daemon["memory_free"].as_u64().unwrap_or_default());
    let all = taken + free;
    let filled = (taken as usize * BAR).checked_div(all as usize).unwrap_or_default().min(BAR);
    let bar = output.styled(Style::Note, &"█".repeat(filled)) + &"░".repeat(BAR - filled);
    let number = |key: &str| daemon[key].as_u64().unwrap_or_default();
    format!(
        "{} {} {state} at {url}  memory {bar} {} of {} MiB  starting {}  functions waiting {}  connections {}",
        output.styled(Style::Heading, "unifaas"),
        string(&daemon["version"]),
        thousands(taken),
        thousands(all),
        number("starting"),
        number("functions_waiting"),
        daemon["connections"]["open"].as_u64().unwrap_or_default(),
    )
}

/// Returns the last lines of a function's output.
pub fn output_lines(name: &str, text: &str, width: usize, height: usize, output: &Output) -> Vec<String> {
    let lines: Vec<_> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(height.saturating_sub(2))..];
    let mut frame = vec![format!("{}  {}", output.styled(Style::Heading, name), output.styled(Style::Faint, "q back"))];
    frame.extend(shown.iter().map(|line| cut(line, width)));
    frame
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn summary(requests: u64) -> Value {
        let function = |state: &str, requests: u64, waiting: u64| {
            json!({ "state": state, "kind": "process", "requests": requests, "failed": 0, "busy": 0, "idle": 1,
                "booting": 0, "waiting": waiting })
        };
        json!({ "functions": {
            "a": function("serving", 10, 3), "b": function("serving", requests, 0), "c": function("failing", 10, 0),
        } })
    }

    fn names(rows: &[Row]) -> Vec<&str> {
        rows.iter().map(|row| row.name.as_str()).collect()
    }

    #[test]
    fn rates_are_differences() {
        let rows = rows(&summary(30), Some(&summary(10)), 2.0);
        assert_eq!(rows.iter().map(|row| row.requests_per_s).collect::<Vec<_>>(), [0.0, 10.0, 0.0]);
    }

    #[test]
    fn keys_sort_filter_and_select() {
        let all = || rows(&summary(30), Some(&summary(10)), 1.0);
        let mut view = View::default();
        let mut shown = view.chosen(all());
        assert_eq!(names(&shown), ["c", "b", "a"]);
        for expected in [["b", "a", "c"], ["a", "b", "c"], ["a", "b", "c"], ["a", "b", "c"], ["a", "b", "c"]] {
            assert!(view.press(Key::Char('s'), &shown));
            shown = view.chosen(shown);
            assert_eq!(names(&shown), expected, "{:?}", view.sort);
        }
        assert!(view.press(Key::Down, &shown) && view.press(Key::Down, &shown) && view.press(Key::Down, &shown));
        assert!(view.press(Key::Enter, &shown));
        assert_eq!(view.output_of.as_deref(), Some("c"));
        assert!(view.press(Key::Char('q'), &shown) && view.output_of.is_none());
        for key in [Key::Char('/'), Key::Char('q'), Key::Backspace, Key::Char('b'), Key::Enter] {
            assert!(view.press(key, &shown));
        }
        assert_eq!(names(&view.chosen(all())), ["b"]);
        assert!(view.press(Key::Escape, &shown));
        assert_eq!(view.chosen(all()).len(), 3);
        assert!(!view.press(Key::Char('q'), &shown));
    }

    #[test]
    fn the_selected_row_is_always_in_the_frame() {
        let mut view = View { sort: Sort::Name, ..View::default() };
        let shown = view.chosen(rows(&summary(1), None, 1.0));
        view.press(Key::Down, &shown);
        view.press(Key::Down, &shown);
        let daemon = json!({ "version": "1", "memory_taken": 50, "memory_free": 50 });
        let frame = view.list(&daemon, "http://h:1", &shown, 6, &Output::plain());
        assert_eq!(frame.len(), 5);
        assert!(frame[0].contains("██████████░░░░░░░░░░ 50 of 100 MiB"), "{}", frame[0]);
        assert!(frame[3].starts_with("  b") && frame[4].starts_with("> c"), "{frame:#?}");
        assert_eq!(output_lines("f", "1\n2\n3\n", 80, 4, &Output::plain()), ["f  q back", "2", "3"]);
    }
}
