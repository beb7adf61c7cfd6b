//! Charts as inline SVG, each with its numbers as a table. Shapes have classes, and the stylesheet the colours.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::format::duration;

/// Of a chart, in its own units.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;
/// Rows of the table of a chart.
const ROWS: usize = 12;

/// A line of a chart.
pub struct Line<'a> {
    /// The class of its colour.
    pub class: &'a str,
    pub name: &'a str,
    /// Oldest first. `None`: there is none.
    pub values: Vec<Option<f64>>,
}

/// A part of a bar.
pub struct Part<'a> {
    pub class: &'a str,
    pub name: &'a str,
    pub value: f64,
    /// The value as it is written.
    pub text: String,
}

/// Returns a chart of values over time. `span`: how far it reaches back, in seconds.
pub fn over_time(title: &str, lines: &[Line<'_>], span: f64, write: impl Fn(f64) -> String) -> Markup {
    let all = || lines.iter().flat_map(|line| &line.values).flatten();
    let top = ceiling(all().copied().fold(0.0, f64::max));
    let length = lines.iter().map(|line| line.values.len()).max().unwrap_or_default();
    html! {
        figure.chart {
            figcaption {
                span.title { (title) }
                @for line in lines {
                    span.key.(line.class) {
                        svg viewBox="0 0 16 16" aria-hidden="true" { path d="M1 8h14" {} }
                        (line.name) " "
                        b { (line.values.last().copied().flatten().map_or_else(|| "–".to_owned(), &write)) }
                    }
                }
            }
            @if all().next().is_none() {
                p.none { "Nothing has happened yet." }
            } @else {
                div.plot {
                    span.top aria-hidden="true" { (write(top)) }
                    svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img"
                        aria-label={ (title) ", the last " (duration(span)) ". The numbers are in the table below." } {
                        path.grid d={ "M0 0.5H" (WIDTH) "M0 60H" (WIDTH) "M0 119.5H" (WIDTH) } {}
                        @if let [only] = lines { path.area.(only.class) d=(area(&only.values, length, top)) {} }
                        @for line in lines { path.line.(line.class) d=(path(&line.values, length, top)) {} }
                    }
                    span.since aria-hidden="true" { (duration(span)) " ago" }
                    span.until aria-hidden="true" { "now" }
                }
                details {
                    summary { "Numbers" }
                    (numbers(title, lines, span, write))
                }
            }
        }
    }
}

fn numbers(title: &str, lines: &[Line<'_>], span: f64, write: impl Fn(f64) -> String) -> Markup {
    let length = lines.iter().map(|line| line.values.len()).max().unwrap_or_default();
    let step = length.div_ceil(ROWS).max(1);
    let columns: Vec<&str> = lines.iter().map(|line| line.name).collect();
    let head = html! {
        th scope="col" { "Time" }
        @for name in columns { th.number scope="col" { (name) } }
    };
    let rows = html! {
        @for start in (0..length).step_by(step) {
            tr {
                th scope="row" { (duration(span * (length - start) as f64 / length as f64)) " ago" }
                @for line in lines {
                    td.number {
                        @let values = line.values.get(start..(start + step).min(line.values.len())).unwrap_or_default();
                        (mean(values).map_or_else(|| "–".to_owned(), &write))
                    }
                }
            }
        }
    };
    super::layout::table(&format!("{title}: means"), "numbers", &head, &rows)
}

fn mean(values: &[Option<f64>]) -> Option<f64> {
    let count = values.iter().flatten().count();
    (count > 0).then(|| values.iter().flatten().sum::<f64>() / count as f64)
}

/// Returns a bar of parts, with a list of them.
pub fn bar(label: &str, parts: &[Part<'_>], total: f64) -> Markup {
    let total = total.max(parts.iter().map(|part| part.value).sum()).max(f64::MIN_POSITIVE);
    let mut left = 0.0;
    let placed: Vec<_> = parts
        .iter()
        .map(|part| {
            let (x, width) = (left, part.value / total * WIDTH);
            left += width;
            (part, x, width)
        })
        .collect();
    html! {
        div.stack {
            svg viewBox={ "0 0 " (WIDTH) " 10" } preserveAspectRatio="none" role="img" aria-label=(label) {
                rect.rest width=(WIDTH) height="10" {}
                @for (part, x, width) in &placed {
                    rect.(part.class) x=(figure(*x)) width=(figure(*width)) height="10" {}
                }
            }
            ul.keys {
                @for part in parts {
                    li.key.(part.class) {
                        svg viewBox="0 0 16 16" aria-hidden="true" { rect x="2" y="2" width="12" height="12" rx="2" {} }
                        (part.name) " " b { (part.text) }
                    }
                }
            }
        }
    }
}

/// Returns a bar from one share of the width to another, for a cell of a table that has the number as well.
pub fn span(class: &str, from: f64, to: f64) -> Markup {
    let (from, to) = (from.clamp(0.0, 1.0) * WIDTH, to.clamp(0.0, 1.0) * WIDTH);
    html! {
        svg.span viewBox={ "0 0 " (WIDTH) " 10" } preserveAspectRatio="none" aria-hidden="true" {
            rect.rest width=(WIDTH) height="10" {}
            rect.(class) x=(figure(from.min(WIDTH - 3.0))) width=(figure((to - from).max(3.0))) height="10" {}
        }
    }
}

/// Returns the line through all values that there are.
fn path(values: &[Option<f64>], length: usize, top: f64) -> String {
    let mut out = String::new();
    let mut is_drawing = false;
    for (position, value) in values.iter().enumerate() {
        if let Some(value) = value {
            let command = if is_drawing { 'L' } else { 'M' };
            let _ = write!(out, "{command}{} {}", figure(x(position, length)), figure(y(*value, top)));
            // A single value between two gaps is a point.
            if !is_drawing && values.get(position + 1).is_none_or(Option::is_none) {
                out.push_str("h1");
            }
        }
        is_drawing = value.is_some();
    }
    out
}

/// Returns the area below a line, where values that are missing count as zero.
fn area(values: &[Option<f64>], length: usize, top: f64) -> String {
    let mut out = format!("M{} {HEIGHT}", figure(x(0, length)));
    for (position, value) in values.iter().enumerate() {
        let _ = write!(out, "L{} {}", figure(x(position, length)), figure(y(value.unwrap_or_default(), top)));
    }
    let _ = write!(out, "V{HEIGHT}Z");
    out
}

fn x(position: usize, length: usize) -> f64 {
    position as f64 / (length.max(2) - 1) as f64 * WIDTH
}

fn y(value: f64, top: f64) -> f64 {
    HEIGHT - (value / top).clamp(0.0, 1.0) * (HEIGHT - 2.0) - 1.0
}

/// Returns a coordinate with as few digits as a pixel needs.
fn figure(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Returns the least of 1, 2 and 5 times a power of ten that is not below a value.
fn ceiling(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|factor| factor * power).find(|top| *top >= value).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, top) in [(0.0, 1.0), (0.3, 0.5), (1.0, 1.0), (7.0, 10.0), (180.0, 200.0), (412.0, 500.0)] {
            assert!((ceiling(value) - top).abs() < 1e-9, "{value}: {}", ceiling(value));
        }
    }

    #[test]
    fn lines_have_gaps_where_there_are_no_values() {
        let values = [Some(0.0), Some(10.0), None, Some(5.0), None];
        assert_eq!(path(&values, 5, 10.0), "M0 119L150 1M450 60h1");
        assert_eq!(path(&[], 0, 1.0), "");
    }

    #[test]
    fn a_chart_has_its_numbers_and_the_last_value() {
        let values = (0..24).map(|value| Some(f64::from(value))).collect();
        let line = Line { class: "main", name: "requests/s", values };
        let chart = over_time("Requests", &[line], 3600.0, |value| format!("{value:.1}")).into_string();
        assert!(chart.contains("<b>23.0</b>") && chart.contains("aria-label=\"Requests, the last 1 h."), "{chart}");
        assert_eq!(chart.matches("<tr>").count(), 1 + ROWS, "{chart}");
        assert!(chart.contains("<td class=\"number\">0.5</td>"), "means of two values: {chart}");
    }

    #[test]
    fn parts_of_a_bar_are_side_by_side() {
        let part = |class, value| Part { class, name: "n", value, text: String::new() };
        let bar = bar("memory", &[part("a", 1.0), part("b", 2.0)], 4.0).into_string();
        assert!(bar.contains("<rect class=\"a\" x=\"0\" width=\"150\""), "{bar}");
        assert!(bar.contains("<rect class=\"b\" x=\"150\" width=\"300\""), "{bar}");
    }
}
