//! What commands print: data to standard output, words to standard error, tables, colours, durations.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use super::error::CommandError;
pub use crate::thousands::thousands;

/// The meaning of a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Heading,
    Faint,
    Good,
    Warning,
    Bad,
    Note,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Self::Heading => "1",
            Self::Faint => "2",
            Self::Good => "32",
            Self::Warning => "33",
            Self::Bad => "31",
            Self::Note => "36",
        }
    }
}

/// Standard output. Colours, and lines cut to the width, are for terminals only.
#[derive(Debug)]
pub struct Output {
    colours: bool,
    width: Option<usize>,
    height: Option<usize>,
}

impl Output {
    pub fn new() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let is_set = |name, value: &str| env::var_os(name).is_some_and(|found| found == value);
        let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let size = is_terminal.then(|| rustix::termios::tcgetwinsize(io::stdout()).ok()).flatten();
        Self {
            colours: is_terminal && !no_colour && !is_set("TERM", "dumb"),
            width: size.map(|size| usize::from(size.ws_col)).filter(|width| *width > 0),
            height: size.map(|size| usize::from(size.ws_row)).filter(|height| *height > 0),
        }
    }

    /// Returns what is no terminal.
    pub const fn plain() -> Self {
        Self { colours: false, width: None, height: None }
    }

    /// Returns the width of the terminal. `None`: standard output is none.
    pub const fn width(&self) -> Option<usize> {
        self.width
    }

    /// Returns the height of the terminal. `None`: standard output is none.
    pub const fn height(&self) -> Option<usize> {
        self.height
    }

    /// Prints a line.
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub fn line(&self, text: &str) -> Result<(), CommandError> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.write_all(b"\n")?)
    }

    /// Prints bytes at once.
    ///
    /// # Errors
    /// As [`line`](Self::line).
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), CommandError> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        Ok(out.flush()?)
    }

    /// Returns the text in a colour.
    pub fn styled(&self, style: Style, text: &str) -> String {
        if self.colours && !text.is_empty() { format!("\x1b[{}m{text}\x1b[0m", style.code()) } else { text.to_owned() }
    }

    /// Prints a table.
    ///
    /// # Errors
    /// As [`line`](Self::line).
    pub fn table(&self, table: &Table) -> Result<(), CommandError> {
        table.layout(self, true).iter().try_for_each(|line| self.line(line))
    }
}

/// Prints a line to standard error. Its reader may have gone.
pub fn words(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Replaces control characters, which terminals obey, by their pictures.
pub fn printable(text: &str) -> String {
    let picture = |c: char| match c {
        '\t' => ' ',
        '\u{7f}' => '\u{2421}',
        c if c.is_ascii_control() => char::from_u32(0x2400 + u32::from(c)).unwrap_or(' '),
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(picture).collect()
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    name: &'static str,
    is_number: bool,
}

/// Returns a column of text.
pub const fn text(name: &'static str) -> Column {
    Column { name, is_number: false }
}

/// Returns a column of numbers, which are aligned to the right.
pub const fn number(name: &'static str) -> Column {
    Column { name, is_number: true }
}

/// One field of a table.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    style: Option<Style>,
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: printable(&text.to_string()), style: None }
    }
}

impl Cell {
    /// Returns the field in a colour.
    pub fn in_style(self, style: Option<Style>) -> Self {
        Self { style, ..self }
    }
}

/// Room for the last column below which its texts are not cut when they are printed, but have lines of their own.
const MIN_ROOM: usize = 40;

/// Rows under headings. The last column is cut to the width of a terminal.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(columns: &[Column]) -> Self {
        Self { columns: columns.into(), rows: Vec::new() }
    }

    /// Adds a row with a field for each column.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the lines without colours.
    pub fn plain_lines(&self) -> Vec<String> {
        self.lines(&Output::plain())
    }

    /// Returns a line for the headings and for each row.
    pub fn lines(&self, output: &Output) -> Vec<String> {
        self.layout(output, false)
    }

    fn layout(&self, output: &Output, may_continue: bool) -> Vec<String> {
        let width_of = |text: &str| text.chars().count();
        let headings: Vec<_> =
            self.columns.iter().map(|column| Cell::from(column.name).in_style(Some(Style::Heading))).collect();
        let rows = || std::iter::once(&headings).chain(&self.rows);
        let widths: Vec<_> = (0..self.columns.len())
            .map(|at| rows().filter_map(|row| row.get(at)).map(|cell| width_of(&cell.text)).max().unwrap_or_default())
            .collect();
        let lines = |(index, row): (usize, &Vec<Cell>)| {
            let (mut line, mut at, mut continued) = (String::new(), 0, None);
            for (position, (cell, column)) in row.iter().zip(&self.columns).enumerate() {
                let (gap, fill) = (if position > 0 { 2 } else { 0 }, widths[position] - width_of(&cell.text));
                let before = gap + if column.is_number { fill } else { 0 };
                line.extend(std::iter::repeat_n(' ', before));
                let room = output.width.map_or(usize::MAX, |width| width.saturating_sub(at + before));
                let is_cut = position + 1 == self.columns.len() && !column.is_number && width_of(&cell.text) > room;
                let styled = |text: &str| cell.style.map_or(text.to_owned(), |style| output.styled(style, text));
                match is_cut {
                    true if may_continue && index > 0 && room < MIN_ROOM => {
                        continued = Some(format!("  {}", styled(&cell.text)));
                    }
                    true => line.push_str(&styled(&cut(&cell.text, room))),
                    false => line.push_str(&styled(&cell.text)),
                }
                if !column.is_number {
                    line.extend(std::iter::repeat_n(' ', fill));
                }
                at += gap + widths[position];
            }
            std::iter::once(line.trim_end().to_owned()).chain(continued)
        };
        rows().enumerate().flat_map(lines).collect()
    }
}

/// Cuts a text to at most `width` characters.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// Returns a time of at least milliseconds for people: `86 ms`, `12 s`, `3 min`, `2 h`, `5 d`.
pub fn span(seconds: f64) -> String {
    match seconds {
        s if s < 0.9995 => format!("{:.0} ms", s * 1e3),
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 99.5 => format!("{s:.0} s"),
        s if s < 5940.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

/// Returns a short time in milliseconds: `0.42 ms`, `8.1 ms`, `1,204 ms`.
pub fn millis(ms: f64) -> String {
    match ms {
        ms if ms < 0.995 => format!("{ms:.2} ms"),
        ms if ms < 99.95 => format!("{ms:.1} ms"),
        ms => format!("{} ms", thousands(ms.round() as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[text("NAME"), number("COUNT"), text("WHY")]);
        table.row(vec!["f".into(), 7.into(), Cell::from("because").in_style(Some(Style::Bad))]);
        table.row(vec!["longer".into(), 1234.into(), "".into()]);
        table
    }

    #[test]
    fn columns_are_aligned() {
        let lines = table().lines(&Output::plain());
        assert_eq!(lines, ["NAME    COUNT  WHY", "f           7  because", "longer   1234"]);
    }

    #[test]
    fn terminals_get_colours_and_lines_of_their_width() {
        let lines = table().lines(&Output { colours: true, width: Some(19), height: None });
        assert_eq!(lines[1], "f           7  \x1b[31mbec…\x1b[0m");
        assert!(lines[0].starts_with("\x1b[1mNAME\x1b[0m  "), "{lines:?}");
    }

    #[test]
    fn a_printed_text_without_room_continues_below() {
        let narrow = Output { colours: false, width: Some(19), height: None };
        let lines = ["NAME    COUNT  WHY", "f           7", "  because", "longer   1234"];
        assert_eq!(table().layout(&narrow, true), lines);
        let mut table = Table::new(&[text("NAME"), text("WHY")]);
        table.row(vec!["f".into(), "because".repeat(9).into()]);
        let lines = table.layout(&Output { width: Some(50), ..narrow }, true);
        assert!(lines.len() == 2 && lines[1].ends_with('…'), "{lines:?}");
    }

    #[test]
    fn tables_have_no_control_characters() {
        let text = "\x1b]0;title\x07 \u{9b}31m\tö";
        assert_eq!(printable(text), "␛]0;title␇ \u{fffd}31m ö");
    }

    #[test]
    fn times_and_numbers_are_short() {
        for (seconds, shown) in
            [(0.0864, "86 ms"), (1.24, "1.2 s"), (12.3, "12 s"), (125.0, "2 min"), (7200.0, "2 h"), (400_000.0, "5 d")]
        {
            assert_eq!(span(seconds), shown);
        }
        for (ms, shown) in [(0.417, "0.42 ms"), (8.13, "8.1 ms"), (99.97, "100 ms"), (1204.4, "1,204 ms")] {
            assert_eq!(millis(ms), shown);
        }
        assert_eq!((thousands(999), thousands(1_234_567)), ("999".into(), "1,234,567".into()));
    }
}
