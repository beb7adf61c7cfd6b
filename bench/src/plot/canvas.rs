//! The frame of every plot: title, axes, grid, description, and the root element.

use plotters::{
    chart::{ChartBuilder, ChartContext},
    coord::{Shift, cartesian::Cartesian2d},
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea as _},
    element::{Circle, Cross, PathElement, Rectangle, TriangleMarker},
    prelude::SVGBackend,
    series::LineSeries,
    style::{Color as _, IntoFont as _, RGBColor, ShapeStyle, WHITE, text_anchor},
};

use super::{
    axis::Axis,
    style::{GRID, INK, Look, Marker},
};

/// Sizes of text. The back end writes them divided by 1.24.
pub const TITLE: i32 = 21;
pub const LABEL: i32 = 17;
const WIDTH: u32 = 960;

/// What a plot says besides its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    /// The title.
    pub title: String,
    /// What there is to see, for readers that do not see it.
    pub description: String,
    /// The axes.
    pub x: String,
    /// See `x`.
    pub y: String,
}

/// Writing to a string fails only when a value is out of range, which the axes exclude.
pub type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;
pub type Area<'s> = DrawingArea<SVGBackend<'s>, Shift>;
pub type Chart<'a, 's> = ChartContext<'a, SVGBackend<'s>, Cartesian2d<Axis, Axis>>;

/// Draws a plot of some height, and returns the SVG document.
pub fn document(texts: &Texts, height: u32, draw: impl FnOnce(&Area<'_>) -> Drawn) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let drawn = area.fill(&WHITE).and_then(|()| draw(&area)).and_then(|()| area.present());
        if let Err(error) = drawn {
            // The plot is missing then, and says why; the rest of the report is not lost.
            drop(area);
            return failed(texts, &error.to_string());
        }
    }
    describe(&svg, texts)
}

/// Adds title and description to the root element, and lets it shrink with the page.
fn describe(svg: &str, texts: &Texts) -> String {
    let head = format!("<title>{}</title>\n<desc>{}</desc>\n", escaped(&texts.title), escaped(&texts.description));
    let Some((root, rest)) = svg.split_once('>') else { return svg.to_owned() };
    format!("{root} role=\"img\">\n{head}{}", rest.trim_start())
}

fn failed(texts: &Texts, error: &str) -> String {
    let text = format!("<text x=\"20\" y=\"40\">{}</text>", escaped(&format!("This plot could not be drawn: {error}")));
    let svg = format!(
        "<svg width=\"960\" height=\"80\" viewBox=\"0 0 960 80\" xmlns=\"http://www.w3.org/2000/svg\">{text}</svg>\n"
    );
    describe(&svg, texts)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Draws title, axes and grid. `left` is the room for the labels of the vertical axis.
pub fn frame<'a, 's>(
    area: &'a Area<'s>,
    texts: &Texts,
    left: u32,
    (x, y): (Axis, Axis),
) -> Result<Chart<'a, 's>, DrawingAreaErrorKind<std::io::Error>> {
    let is_categorical = matches!(y, Axis::Categories(_));
    let mut chart = ChartBuilder::on(area)
        .caption(&texts.title, ("sans-serif", TITLE).into_font().color(&INK))
        .margin(14)
        .x_label_area_size(48)
        .y_label_area_size(left)
        .build_cartesian_2d(x, y)?;
    let mut mesh = chart.configure_mesh();
    mesh.axis_style(INK).bold_line_style(GRID).light_line_style(GRID).max_light_lines(1).x_labels(10).y_labels(8);
    mesh.label_style(("sans-serif", LABEL).into_font().color(&INK)).set_all_tick_mark_size(4);
    if !texts.x.is_empty() {
        mesh.x_desc(&texts.x);
    }
    if !texts.y.is_empty() {
        mesh.y_desc(&texts.y);
    }
    if is_categorical {
        mesh.disable_y_mesh();
    }
    mesh.draw()?;
    Ok(chart)
}

/// Draws a line, dashed as the look says.
pub fn stroke(chart: &mut Chart<'_, '_>, points: &[(f64, f64)], look: &Look, width: u32) -> Drawn {
    let style = ShapeStyle::from(look.colour).stroke_width(width);
    let (dash, gap) = look.dash;
    if gap == 0 {
        return chart.draw_series(LineSeries::new(points.iter().copied(), style)).map(drop);
    }
    // Not plotters' dashes: their `hypotf` needs a newer C library than everything else here.
    let area = chart.plotting_area();
    let (left, top) = area.get_base_pixel();
    let pixels = points.iter().map(|point| area.map_coordinate(point)).map(|(x, y)| (x - left, y - top));
    let area = area.strip_coord_spec();
    dashes(pixels, f64::from(dash), f64::from(gap))
        .into_iter()
        .try_for_each(|dash| area.draw(&PathElement::new(dash, style)))
}

/// Splits a line into dashes of a length, with gaps between them.
pub fn dashes(points: impl IntoIterator<Item = (i32, i32)>, dash: f64, gap: f64) -> Vec<Vec<(i32, i32)>> {
    let mut points = points.into_iter();
    let Some(mut from) = points.next() else { return Vec::new() };
    let (mut lines, mut line, mut is_dash, mut left) = (Vec::new(), vec![from], true, dash);
    for to in points {
        let (x, y) = (f64::from(to.0 - from.0), f64::from(to.1 - from.1));
        let length = (x * x + y * y).sqrt();
        let mut at = 0.0;
        while length - at > left {
            at += left;
            let point = (from.0 + (x * at / length) as i32, from.1 + (y * at / length) as i32);
            if is_dash {
                line.push(point);
                lines.push(std::mem::take(&mut line));
            } else {
                line = vec![point];
            }
            is_dash = !is_dash;
            left = if is_dash { dash } else { gap };
        }
        left -= length - at;
        if is_dash {
            line.push(to);
        }
        from = to;
    }
    if is_dash && line.len() > 1 {
        lines.push(line);
    }
    lines
}

/// Draws a marker at a point of the chart.
pub fn mark(chart: &Chart<'_, '_>, at: (f64, f64), marker: Marker, size: i32, style: ShapeStyle) -> Drawn {
    let area = chart.plotting_area();
    match marker {
        Marker::Circle => area.draw(&Circle::new(at, size, style)),
        Marker::Triangle => area.draw(&TriangleMarker::new(at, size + 1, style)),
        Marker::Cross => area.draw(&Cross::new(at, size, style.stroke_width(2))),
        Marker::Square => {
            let square =
                plotters::element::EmptyElement::at(at) + Rectangle::new([(-size, -size), (size, size)], style);
            area.draw(&square)
        }
    }
}

/// Draws the legend: a column of names with their looks, from a point in pixels.
pub fn legend(area: &Area<'_>, from: (i32, i32), entries: &[(String, Look)]) -> Drawn {
    const LINE: i32 = 21;
    const KEY: i32 = 34;
    let style = ("sans-serif", LABEL)
        .into_font()
        .color(&INK)
        .pos(text_anchor::Pos::new(text_anchor::HPos::Left, text_anchor::VPos::Center));
    for (row, (name, look)) in (0..).zip(entries) {
        let y = from.1 + row * LINE;
        let (mut x, (dash, gap)) = (from.0, look.dash);
        let end = from.0 + KEY;
        let width = ShapeStyle::from(look.colour).stroke_width(2);
        while x < end {
            let to = if gap == 0 { end } else { (x + dash).min(end) };
            area.draw(&plotters::element::PathElement::new([(x, y), (to, y)], width))?;
            x = to + gap.max(1);
        }
        key(area, (from.0 + KEY / 2, y), look)?;
        area.draw(&plotters::element::Text::new(name.as_str(), (end + 8, y), style.clone()))?;
    }
    Ok(())
}

fn key(area: &Area<'_>, at: (i32, i32), look: &Look) -> Drawn {
    let style = look.colour.filled();
    match look.marker {
        Marker::Circle => area.draw(&Circle::new(at, 4, style)),
        Marker::Triangle => area.draw(&TriangleMarker::new(at, 5, style)),
        Marker::Cross => area.draw(&Cross::new(at, 4, style.stroke_width(2))),
        Marker::Square => area.draw(&Rectangle::new([(at.0 - 4, at.1 - 4), (at.0 + 4, at.1 + 4)], style)),
    }
}

/// Returns a translucent filling.
pub fn tint(colour: RGBColor, strength: f64) -> ShapeStyle {
    colour.mix(strength).filled()
}

/// Returns names, and the pixels for the longest of them with `around` more, but at least `least`. Names that would take too
/// much of the plot are cut.
pub fn fitted<'n>(names: impl Iterator<Item = &'n str>, around: u32, least: u32) -> (Vec<String>, u32) {
    const MAX_CHARACTERS: usize = 44;
    /// Width of a character in tenths of a pixel.
    const CHARACTER: u32 = 77;
    let names: Vec<_> = names.map(|name| clipped(name, MAX_CHARACTERS)).collect();
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0) as u32;
    (names, least.max(longest * CHARACTER / 10 + around))
}

/// Cuts a name that has no room.
fn clipped(name: &str, most: usize) -> String {
    if name.chars().count() <= most {
        return name.to_owned();
    }
    name.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}
